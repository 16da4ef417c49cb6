"""Folders as people have them: what is found in them, and what is said where nothing is."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from vae_ldm.data.image_folder import ImageFolderSource
from vae_ldm.data.listing import fingerprint, list_folder
from vae_ldm.data.sources import Record, sort_class_names
from vae_ldm.errors import DataError

PACKS = Path(__file__).parents[2].parent / "shared" / "data"


def _paint(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16)).save(folder / name)
    return folder


def _write_metadata(folder: Path, *rows: dict) -> None:
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")


def _found(source: ImageFolderSource, split: str = "train") -> list[tuple[str, str | None, str | None]]:
    return [(record.id, record.label, record.caption) for record in source.records(split)]


def test_class_folders_without_splits(tmp_path: Path) -> None:
    source = ImageFolderSource(_paint(tmp_path, "test-tube/2.JPG", "good/1.png"))
    assert _found(source) == [("good/1.png", "good", None), ("test-tube/2.JPG", "test-tube", None)]
    assert source.class_names == ["good", "test-tube"]
    assert source.num_records("validation") == 0
    assert [record.picture for record in source.records("train")] == [
        tmp_path / "good/1.png",
        tmp_path / "test-tube/2.JPG",
    ]


@pytest.mark.parametrize("name", ["validation", "Val", "valid", "test"])
def test_class_folders_with_splits(tmp_path: Path, name: str) -> None:
    source = ImageFolderSource(_paint(tmp_path, "train/a/1.png", "train/b/1.png", f"{name}/b/2.png", "other/c/1.png"))
    assert _found(source) == [("train/a/1.png", "a", None), ("train/b/1.png", "b", None)]
    assert _found(source, "validation") == [(f"{name}/b/2.png", "b", None)]
    assert source.class_names == ["a", "b"]


def test_validation_comes_before_test(tmp_path: Path) -> None:
    source = ImageFolderSource(_paint(tmp_path, "train/a/1.png", "test/a/2.png", "validation/a/3.png"))
    assert _found(source, "validation") == [("validation/a/3.png", "a", None)]


def test_one_class_only(tmp_path: Path) -> None:
    source = ImageFolderSource(_paint(tmp_path, "parcel/1.png", "parcel/2.png"))
    assert source.class_names == ["parcel"]
    assert [label for _, label, _ in _found(source)] == ["parcel"] * 2


@pytest.mark.parametrize(
    ("names", "remark"),
    [
        (("a/1.png", "b/1.png", "cover.png"), "cover.png lies above the folders of the others; put every picture"),
        (("a/1.png", "b/1.png", "c/d/1.png", "c/d/2.png"), "c/d/1.png and 1 more lie below the folders of the others"),
    ],
)
def test_the_file_that_takes_the_classes_away_is_named(tmp_path: Path, names: tuple[str, ...], remark: str) -> None:
    (line,) = ImageFolderSource(_paint(tmp_path, *names)).remarks()
    assert line.startswith(f"the {len(names)} pictures have no classes: {remark}")


def test_nothing_is_said_of_an_ordinary_folder(tmp_path: Path) -> None:
    assert ImageFolderSource(_paint(tmp_path / "flat", "1.png", "2.png")).remarks() == []
    assert ImageFolderSource(_paint(tmp_path / "deep", "train/a/1.png", "val/b/2.png")).remarks() == []


def test_a_validation_folder_that_is_a_link_to_the_training_folder_is_none(tmp_path: Path) -> None:
    _paint(tmp_path, "train/a/1.png", "train/a/2.png")
    (tmp_path / "validation").symlink_to("train")
    source = ImageFolderSource(tmp_path)
    assert (source.num_records("train"), source.num_records("validation")) == (2, 0)
    assert any(line.startswith("validation is a link to train") for line in source.remarks())


@pytest.mark.parametrize("names", [("1.png", "2.png"), ("a/1.png", "2.png"), ("a/1.png", "b/c/2.png")])
def test_no_classes_where_pictures_do_not_lie_equally_deep_in_folders(tmp_path: Path, names: tuple[str, ...]) -> None:
    source = ImageFolderSource(_paint(tmp_path, *names))
    assert _found(source) == [(name, None, None) for name in sorted(names)]
    assert source.class_names == []


def test_hidden_files_and_links_in_circles_are_passed_over(tmp_path: Path) -> None:
    _paint(tmp_path, "a/1.png", "a/._1.png", ".trash/2.png", "__MACOSX/a/1.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert _found(ImageFolderSource(tmp_path)) == [("a/1.png", "a", None)]


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    _paint(tmp_path / "elsewhere", "1.png")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a").symlink_to(tmp_path / "elsewhere")
    assert _found(ImageFolderSource(tmp_path / "photos")) == [("a/1.png", "a", None)]


def test_metadata_in_each_split(tmp_path: Path) -> None:
    _paint(tmp_path, "train/x/1.png", "train/x/2.png", "val/3.png")
    _write_metadata(tmp_path / "train", {"file_name": "x/2.png", "label": "two", "text": "a two"})
    _write_metadata(tmp_path / "val", {"file_name": "3.png", "label": "three", "text": None})
    source = ImageFolderSource(tmp_path, caption_column="text")
    assert _found(source) == [("train/x/2.png", "two", "a two")]  # a picture that is not listed is not used
    assert _found(source, "validation") == [("val/3.png", "three", None)]
    assert _found(ImageFolderSource(tmp_path)) == [("train/x/2.png", "two", None)]


def test_metadata_above_the_splits(tmp_path: Path) -> None:
    _paint(tmp_path, "train/1.png", "test/2.png")
    (tmp_path / "metadata.csv").write_text("file_name,label\ntrain/1.png,0\ntest/2.png,10\ntrain/./3.png,9\n")
    source = ImageFolderSource(tmp_path)
    assert _found(source) == [("train/1.png", "0", None), ("train/3.png", "9", None)]
    assert _found(source, "validation") == [("test/2.png", "10", None)]
    assert source.class_names == ["0", "9", "10"]


def test_captions_are_found_under_their_usual_names_where_there_are_no_classes(tmp_path: Path) -> None:
    _paint(tmp_path, "1.png", "2.png", "3.png")
    _write_metadata(
        tmp_path,
        {"file_name": "1.png", "text": "one"},
        {"file_name": "2.png", "caption": "two", "text": "not this one"},
        {"file_name": "3.png", "label": "three", "text": "the template is for classes"},
    )
    captions = [record.caption for record in ImageFolderSource(tmp_path).records("train")]
    assert captions == ["one", "two", None]


def test_metadata_as_parquet(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    _paint(tmp_path, "1.png")
    pq.write_table(pa.table({"file_name": ["1.png"], "words": ["one"]}), tmp_path / "metadata.parquet")
    assert _found(ImageFolderSource(tmp_path, caption_column="words")) == [("1.png", None, "one")]


def test_numbers_are_sorted_by_value() -> None:
    assert sort_class_names(["10", "9", None, "9"]) == ["9", "10"]
    assert sort_class_names(["10", "9", "b"]) == ["10", "9", "b"]
    assert sort_class_names(["-1", "10", "-2"]) == ["-2", "-1", "10"]
    assert sort_class_names(["5", "--5", "-"]) == ["-", "--5", "5"]


def test_description_follows_the_files(tmp_path: Path) -> None:
    _paint(tmp_path / "photos", "a/1.png", "b/2.png")
    before = ImageFolderSource(tmp_path / "photos").description()
    assert ImageFolderSource(tmp_path / "photos").description() == before
    (tmp_path / "photos" / "notes.txt").write_text("not a picture")
    assert ImageFolderSource(tmp_path / "photos").description() == before
    shutil.copytree(tmp_path / "photos", tmp_path / "moved")
    assert ImageFolderSource(tmp_path / "moved").description() == before
    _paint(tmp_path / "photos", "a/3.png")
    assert ImageFolderSource(tmp_path / "photos").description() != before


def test_fingerprint_sees_a_changed_file(tmp_path: Path) -> None:
    file = _paint(tmp_path, "1.png") / "1.png"
    before = fingerprint(list_folder(tmp_path).files)
    file.write_bytes(file.read_bytes() + b"x")
    assert fingerprint(list_folder(tmp_path).files) != before


def _no_such_column(folder: Path) -> None:
    _paint(folder, "1.png")
    _write_metadata(folder, {"file_name": "1.png", "text": "one"})


def _no_file_name(folder: Path) -> None:
    _paint(folder, "1.png")
    _write_metadata(folder, {"name": "1.png"})


def _outside(folder: Path) -> None:
    _paint(folder, "1.png")
    _write_metadata(folder, {"file_name": "../../secret.png", "caption": ""})


def _not_json(folder: Path) -> None:
    _paint(folder, "1.png")
    (folder / "metadata.jsonl").write_text('{"file_name": "1.png", "caption": ""}\n{oops\n')


def _only_validation(folder: Path) -> None:
    _paint(folder, "val/1.png")
    (folder / "train").mkdir()
    (folder / "train" / "readme.txt").touch()


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: None, "the folder is empty"),
        (lambda folder: [(folder / f"{n}.txt").touch() for n in range(3)], "it holds 3 .txt files; photos end in"),
        (lambda folder: _paint(folder, "1.png"), "caption_column caption needs a metadata.jsonl"),
        (_no_such_column, "metadata.jsonl, line 1: has no column caption; it has file_name, text"),
        (_no_file_name, "line 1: every row needs a file_name; this one has name"),
        (_outside, r"\.\./\.\./secret.png lies outside"),
        (_not_json, "metadata.jsonl, line 2: not JSON"),
    ],
)
def test_a_folder_that_cannot_serve_says_why(tmp_path: Path, prepare: object, message: str) -> None:
    prepare(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        ImageFolderSource(tmp_path, caption_column="caption")
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_no_training_pictures(tmp_path: Path) -> None:
    _only_validation(tmp_path)
    with pytest.raises(DataError, match=r"no training photos in .*train"):
        ImageFolderSource(tmp_path)


def test_a_missing_folder_names_its_nearest(tmp_path: Path) -> None:
    _paint(tmp_path, "product_clothing/a/1.png")
    with pytest.raises(DataError, match=r": no such folder; did you mean .*/product_clothing\?"):
        ImageFolderSource(tmp_path / "product_clothng" / "train")
    with pytest.raises(DataError, match=r"^/.*/zzz: no such folder$"):
        ImageFolderSource(tmp_path / "zzz")
    with pytest.raises(DataError, match=r"^~no-such-user/x: there is no user no-such-user$"):
        ImageFolderSource("~no-such-user/x")
    with pytest.raises(DataError, match="is a file; give the folder"):
        ImageFolderSource(tmp_path / "product_clothing/a/1.png")


@pytest.mark.pack
@pytest.mark.parametrize("pack", ["damage_cans", "doc_labels"])
def test_the_packs_are_read_as_datasets_reads_them(pack: str) -> None:
    if not (PACKS / pack).is_dir():
        pytest.skip(f"the photo pack {pack} is not beside this checkout")
    import datasets

    source = ImageFolderSource(PACKS / pack, caption_column="text" if pack == "doc_labels" else None)
    for split in ("train", "validation"):
        rows = datasets.load_dataset("imagefolder", data_dir=str(PACKS / pack), split=split, streaming=True)
        rows = rows.cast_column("image", datasets.Image(decode=False))
        names = getattr(rows.features["label"], "names", None)
        theirs = {
            (Path(row["image"]["path"]).resolve(), names[row["label"]] if names else row["label"], row.get("text"))
            for row in rows
        }
        ours: list[Record] = list(source.records(split))
        assert {(Path(str(record.picture)).resolve(), record.label, record.caption) for record in ours} == theirs
        assert len(ours) == len(theirs) > 90
