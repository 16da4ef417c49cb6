"""Pictures are decoded once, and a cache is whole, current and never half."""

import errno
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vae_ldm.data import decoding_ahead
from vae_ldm.data.image_folder import ImageFolderSource
from vae_ldm.data.picture_cache import Progress, class_caption, inspect_pictures, load_pictures
from vae_ldm.data.picture_settings import PictureSettings
from vae_ldm.data.picture_writer import PicturesWriter
from vae_ldm.data.pictures import PictureSplits
from vae_ldm.data.sources import Record, RenderedClaimsSource
from vae_ldm.errors import DataError

SIZE = (8, 12)


class _Listed:
    """A source of given records, which counts how often it is read."""

    name = "a list"
    class_names = None

    def __init__(self, train: list[Record], validation: list[Record] | None = None, *, counted: bool = True) -> None:
        self._records = {"train": train, "validation": validation or []}
        self._counted = counted
        self.times_read = 0

    def description(self) -> dict[str, object]:
        return {"ids": {split: [record.id for record in records] for split, records in self._records.items()}}

    def num_records(self, split: str) -> int | None:
        return len(self._records[split]) if self._counted or not self._records[split] else None

    def records(self, split: str) -> Iterator[Record]:
        self.times_read += 1
        yield from self._records[split]

    def remarks(self) -> list[str]:
        return []


def _grey(name: str, value: int = 7, **about: str) -> Record:
    return Record(name, Image.new("L", (12, 8), value), **about)


def _color(name: str, **about: str) -> Record:
    return Record(name, Image.new("RGB", (12, 8), (1, 2, 3)), **about)


def _load(source: object, folder: Path, progress: Progress | None = None, **options: object) -> PictureSplits:
    settings = PictureSettings(**{"image_size": SIZE, **options})
    return load_pictures(source, folder / "pictures", settings, progress=progress)


def test_arrays_labels_captions_and_ids(tmp_path: Path) -> None:
    train = [
        _color("b", label="no_dent", caption="hello"),
        _color("a", label="dent"),
        _color("c", caption="no class"),
        _color("d"),
    ]
    splits = _load(_Listed(train, [_grey("e", label="no_dent")]), tmp_path, caption_template="a {label} in {braces}")
    pictures = splits.train
    assert pictures.images.shape == (4, *SIZE, 3)
    assert pictures.images.dtype == np.uint8
    assert not pictures.images.flags.writeable
    assert (pictures.images == (1, 2, 3)).all()
    assert (splits.validation.images == 7).all()
    assert pictures.ids == ["b", "a", "c", "d"]
    assert pictures.class_names == splits.validation.class_names == ["dent", "no_dent"]
    assert pictures.labels.tolist() == [1, 0, -1, -1]
    assert pictures.labels.dtype == np.int64
    assert pictures.captions == ["hello", "a dent in {braces}", "no class", ""]
    assert splits.validation.captions == ["a no dent in {braces}"]
    assert splits.unreadable == []
    assert not (tmp_path / "unreadable.txt").exists()


def test_class_caption_reads_underscores_as_spaces() -> None:
    assert class_caption("a photo of a {label}", "t-shirt_top") == "a photo of a t-shirt top"


@pytest.mark.parametrize(("last", "channels"), [(_grey("z", 9), 1), (_color("z"), 3)])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_one_picture_in_color_makes_all_of_them_rgb(tmp_path: Path, last: Record, channels: int, split: str) -> None:
    train, validation = [_grey(str(n), n) for n in range(300)], [_grey("v", 99)]
    (train if split == "train" else validation).append(last)
    splits = _load(_Listed(train, validation), tmp_path)
    assert splits.train.images.shape[-1] == splits.validation.images.shape[-1] == channels
    assert (splits.train.images[:256].reshape(256, -1) == np.arange(256)[:, None]).all()
    assert (splits.validation.images[0] == 99).all()
    assert (getattr(splits, split).images[-1] == (9 if channels == 1 else (1, 2, 3))).all()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_as_asked(tmp_path: Path, channels: int) -> None:
    splits = _load(_Listed([_grey("a"), _color("b")], [_grey("c")]), tmp_path, channels=channels)
    assert splits.train.images.shape[-1] == splits.validation.images.shape[-1] == channels


@pytest.mark.parametrize("counted", [True, False])
def test_held_out_by_hash(tmp_path: Path, counted: bool) -> None:
    names = [f"{n}.png" for n in range(400)]
    splits = _load(_Listed([_grey(name) for name in names], counted=counted), tmp_path, validation_fraction=0.2)
    assert sorted(splits.train.ids + splits.validation.ids) == sorted(names)
    assert 50 < len(splits.validation) < 110
    more = [_grey(f"more{n}.png") for n in range(50)]
    again = _load(_Listed([*more, *(_grey(name) for name in names)]), tmp_path, validation_fraction=0.2)
    assert set(splits.validation.ids) == set(again.validation.ids) & set(names)


@pytest.mark.parametrize("fraction", [1e-9, 0.1, 0.5, 1 - 1e-9])
def test_three_pictures_in_all(tmp_path: Path, fraction: float) -> None:
    splits = _load(_Listed([_grey(name, n) for n, name in enumerate("abc")]), tmp_path, validation_fraction=fraction)
    assert len(splits.train) >= 1
    assert len(splits.validation) >= 1
    values = dict(zip("abc", range(3), strict=True))
    for split in (splits.train, splits.validation):
        assert [values[name] for name in split.ids] == split.images[:, 0, 0, 0].tolist()
        assert Path(split.images.filename).stat().st_size == split.images.offset + split.images.nbytes
    assert sorted(splits.train.ids + splits.validation.ids) == ["a", "b", "c"]


def test_one_picture_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 of 1 picture in a list can be used; at least 2"):
        _load(_Listed([_grey("a")]), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_read_once(tmp_path: Path) -> None:
    source = _Listed([_grey("a"), _grey("b")], [_grey("c")])
    first = _load(source, tmp_path)
    second = _load(source, tmp_path)
    assert source.times_read == 2  # once a split
    assert second.key == first.key
    assert np.array_equal(second.train.images, first.train.images)
    assert second.train.captions == first.train.captions


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": (8, 8)},
        {"channels": 3},
        {"resize": "pad"},
        {"max_pixels": 1000},
        {"caption_template": "{label}"},
        {"validation_fraction": 0.3},
    ],
)
def test_a_changed_setting_makes_it_anew(tmp_path: Path, change: dict) -> None:
    source = _Listed([_grey("a"), _grey("b")], [_grey("c")])
    first = _load(source, tmp_path)
    changed = _load(source, tmp_path, **change)
    assert source.times_read == 4
    same = np.array_equal(changed.train.images, first.train.images)
    assert (changed.key == first.key) == same  # a key stands for what is in the cache
    if "image_size" in change:
        assert changed.train.images.shape == (2, 8, 8, 1)


def test_changed_data_make_it_anew(tmp_path: Path) -> None:
    for name, count in {"a": 3, "b": 2}.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        for n in range(count):
            Image.new("RGB", (16, 16), (n, 99, 0)).save(tmp_path / "photos" / name / f"{n}.png")
    first = _load(ImageFolderSource(tmp_path / "photos"), tmp_path)
    shutil.rmtree(tmp_path / "photos" / "b")
    second = _load(ImageFolderSource(tmp_path / "photos"), tmp_path)
    assert len(first.train) + len(first.validation) == 5
    assert len(second.train) + len(second.validation) == 3
    assert second.train.class_names == ["a"]


def test_a_broken_cache_is_made_anew(tmp_path: Path) -> None:
    source = _Listed([_grey("a"), _grey("b")], [_grey("c")])
    expected = np.array(_load(source, tmp_path).train.images)
    for spoil in (
        lambda: (tmp_path / "pictures/train.npy").unlink(),
        lambda: (tmp_path / "pictures/train.npy").write_bytes((tmp_path / "pictures/train.npy").read_bytes()[:-1]),
        lambda: shutil.copy(tmp_path / "pictures/validation.npy", tmp_path / "pictures/train.npy"),
        lambda: (tmp_path / "pictures/index.json").write_text("{"),
    ):
        spoil()
        assert np.array_equal(_load(source, tmp_path).train.images, expected)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_an_interrupted_cache_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    source = _Listed([_grey(str(n)) for n in range(20)])

    def stop(done: int, total: int | None) -> None:
        if done == 5:
            raise error

    with pytest.raises(type(error)):
        _load(source, tmp_path, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_killed_half_way_is_not_picked_up(tmp_path: Path) -> None:
    half = tmp_path / "pictures.partial"
    half.mkdir()
    PicturesWriter(half, SIZE, 1).close()
    splits = _load(_Listed([_grey("a"), _grey("b")]), tmp_path)
    assert len(splits.train) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["pictures"]


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare to mount a small disk")
def test_a_full_disk(tmp_path: Path) -> None:
    script = f"""
import errno
from pathlib import Path
from PIL import Image
from vae_ldm.data.picture_cache import load_pictures
from vae_ldm.data.picture_settings import PictureSettings
from vae_ldm.data.sources import RenderedClaimsSource
source = RenderedClaimsSource(num_train=100, num_validation=10, image_size=(64, 64))
try:
    load_pictures(source, Path("{tmp_path}/pictures"), PictureSettings((64, 64)))
except OSError as error:
    assert error.errno == errno.ENOSPC, error
    assert list(Path("{tmp_path}").iterdir()) == []
    print("full")
"""
    mount = ["unshare", "--mount", "--map-root-user", "sh", "-c", 'mount -t tmpfs -o size=512k none "$0" && exec "$@"']
    if subprocess.run([*mount, tmp_path, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("not allowed to mount a small disk here")
    done = subprocess.run([*mount, tmp_path, sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "full\n", done.stderr


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(OSError, match="run"):
        _load(_Listed([_grey("a"), _grey("b")]), tmp_path / "run")


def test_unreadable_pictures_are_listed_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train = [*(_grey(str(n)) for n in range(98)), Record("bad.jpg", b"text"), Record("dot.png", Image.new("L", (1, 1)))]
    splits = _load(_Listed(train), tmp_path, max_unreadable_share=0.02)
    assert len(splits.train) + len(splits.validation) == 98
    listed = ["bad.jpg: not a picture, or of a format that is not supported", "dot.png: too small (1x1 pixels)"]
    assert splits.unreadable == listed
    assert (tmp_path / "unreadable.txt").read_text().splitlines() == listed
    assert "2 of 100 pictures in a list cannot be used" in caplog.text


def test_too_many_unreadable_pictures_stop_the_run(tmp_path: Path) -> None:
    train = [*(_grey(str(n)) for n in range(95)), *(Record(f"bad{n}.jpg", b"text") for n in range(5))]
    source = _Listed(train)
    for _ in range(2):  # the second time from the cache
        with pytest.raises(
            DataError, match=r"5 of 100 .*max_unreadable_share 0.01 allows: bad0.jpg: not a .*; \.\.\.; the"
        ):
            _load(source, tmp_path)
        assert len((tmp_path / "unreadable.txt").read_text().splitlines()) == 5
    assert len(_load(source, tmp_path, max_unreadable_share=0.05).unreadable) == 5
    assert source.times_read == 1
    _load(_Listed(train[:95]), tmp_path)
    assert not (tmp_path / "unreadable.txt").exists()


def test_nothing_readable(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"0 of 3 pictures in a list can be used \(0: not a picture"):
        _load(_Listed([Record(str(n), b"text") for n in range(3)]), tmp_path, max_unreadable_share=1.0)
    assert [entry.name for entry in tmp_path.iterdir()] == ["unreadable.txt"]


@pytest.mark.parametrize(("counted", "total"), [(True, 5), (False, None)])
def test_progress_is_told(tmp_path: Path, counted: bool, total: int | None) -> None:
    calls: list[tuple[int, int | None]] = []
    source = _Listed([_grey(str(n)) for n in range(3)], [_grey("a"), _grey("b")], counted=counted)
    _load(source, tmp_path, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, total) for done in range(1, 6)]


def test_decoding_by_threads_keeps_order_and_little_in_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(decoding_ahead.os, "sched_getaffinity", lambda _: range(3), raising=False)
    alive = 0

    def records() -> Iterator[Record]:
        nonlocal alive
        for n in range(200):
            alive += 1
            yield _grey(str(n), n)

    source = _Listed([])
    monkeypatch.setattr(source, "num_records", lambda split: None if split == "train" else 0)
    monkeypatch.setattr(source, "records", lambda split: records())
    furthest = 0

    def watch(done: int, total: int | None) -> None:
        nonlocal furthest
        furthest = max(furthest, alive - done)

    splits = _load(source, tmp_path, progress=watch)
    assert furthest <= 8
    order = [int(name) for name in splits.train.ids]
    assert order == sorted(order)
    assert splits.train.images[:, 0, 0, 0].tolist() == order


def test_inspect_reads_only_a_few(tmp_path: Path) -> None:
    def records() -> Iterator[Record]:
        yield Record("bad", b"text", label="x")
        yield _grey("1", label="x")
        yield _color("2")
        pytest.fail("read more than 3")

    source = _Listed([_grey(str(n)) for n in range(100)])
    source.records = lambda split: records()  # type: ignore[method-assign]
    preview = inspect_pictures(source, PictureSettings(SIZE), num_pictures=3)
    assert preview.pictures.images.shape == (2, *SIZE, 3)
    assert preview.pictures.captions == ["a photo of x", ""]
    assert preview.pictures.labels.tolist() == [0, -1]
    assert preview.unreadable == ["bad: not a picture, or of a format that is not supported"]
    assert (preview.num_train, preview.num_validation) == (90, 10)
    with pytest.raises(DataError, match="0 of 1 picture in"):
        inspect_pictures(_Listed([Record("bad", b"text")]), PictureSettings(SIZE))


def test_rendered_claims_as_a_source(tmp_path: Path) -> None:
    source = RenderedClaimsSource(num_train=20, num_validation=13, image_size=(16, 16))
    splits = load_pictures(source, tmp_path / "pictures", PictureSettings((16, 16)))
    assert splits.train.images.shape == (20, 16, 16, 3)
    assert splits.validation.labels.tolist() == list(range(13))
    assert splits.train.class_names == list(source.class_names)
    assert all(splits.train.captions)
    images = np.concatenate([splits.train.images, splits.validation.images]).reshape(33, -1)
    assert len(np.unique(images, axis=0)) == 33
    again = load_pictures(source, tmp_path / "again", PictureSettings((16, 16)))
    assert np.array_equal(again.train.images, splits.train.images)


def test_rendered_claims_drawn_by_another_version_keep_their_key(tmp_path: Path, monkeypatch) -> None:
    """A run goes on with its latents where a new version of the code draws the same pictures."""
    source = RenderedClaimsSource(num_train=13, num_validation=13, image_size=(16, 16))
    now = source.description()
    monkeypatch.setattr(source, "description", lambda: {"type": now["type"], "sizes": now["sizes"], "code": "before"})
    before = load_pictures(source, tmp_path / "pictures", PictureSettings((16, 16)))
    monkeypatch.undo()
    assert load_pictures(source, tmp_path / "pictures", PictureSettings((16, 16))).key == before.key
    fine = RenderedClaimsSource(num_train=13, num_validation=13, image_size=(16, 16), detail="fine")
    assert load_pictures(fine, tmp_path / "pictures", PictureSettings((16, 16))).key != before.key
