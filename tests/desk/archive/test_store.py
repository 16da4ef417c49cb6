"""The file set: appended to, read back, and honest about every byte that has changed."""

import base64
import dataclasses
import hashlib
import json
import tracemalloc
import zlib

import pyarrow.parquet as pq
import pytest
import torch

from vae_ldm import stored_json
from vae_ldm.desk.archive import store as archive_module
from vae_ldm.desk.archive.part import ArchivePart, Entry
from vae_ldm.desk.archive.store import Archive, Settings, locked_archive
from vae_ldm.errors import DataError, RunError
from vae_ldm.latent_space.latent_coder import LatentCoder

CODER = LatentCoder.fit([torch.zeros(2, 4, 4)], (1.0, 0.5))
SETTINGS = Settings(model="runs/nano", digest="ab" * 32, target_psnr=30.0, prefer="smallest", coder=CODER)


def entry(name="a.jpg", payload=b"0123456789" * 10, **changes):
    fields = {
        "id": name, "source": f"/photos/{name}", "content": name.encode().ljust(16, b"."), "width": 40, "height": 30,
        "channels": 3, "label": "cat", "caption": None, "method": "latents", "psnr": 31.25, "payload": payload,
    }  # fmt: skip
    return Entry(**{**fields, **changes})


@pytest.fixture
def archive(tmp_path):
    made = Archive.create(tmp_path, SETTINGS)
    made.append([entry("a.jpg"), entry("b.jpg", b"second" * 9), entry("c/ü.jpg", caption="a dent, „left“")])
    made.append([entry("d.jpg", b"", label=None)])
    return made


def read(path):
    damages = []
    return list(Archive.open(path).entries(damages.append)), damages


def flip(file, needle):
    content = bytearray(file.read_bytes())
    content[content.index(needle)] ^= 0x10
    file.write_bytes(content)


def test_what_was_appended_comes_back_in_order(archive, tmp_path):
    found, damages = read(tmp_path)
    assert not damages
    assert [one.id for one in found] == ["a.jpg", "b.jpg", "c/ü.jpg", "d.jpg"]
    assert found[2] == entry("c/ü.jpg", caption="a dent, „left“")
    again = Archive.open(tmp_path)
    assert len(again) == 4
    assert again.settings.digest == SETTINGS.digest
    assert again.num_bytes == sum(file.stat().st_size for file in tmp_path.iterdir())
    assert not list(again.check_files())


def test_one_binary_column_holds_the_payload(archive, tmp_path):
    schema = pq.read_schema(tmp_path / "part-000000.parquet")
    assert str(schema.field("payload").type) == "binary"
    assert schema.names.count("payload") == 1


def test_equal_pictures_make_equal_files(archive, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    again = Archive.create(other, SETTINGS)
    again.append([entry("a.jpg"), entry("b.jpg", b"second" * 9), entry("c/ü.jpg", caption="a dent, „left“")])
    assert (other / "part-000000.parquet").read_bytes() == (tmp_path / "part-000000.parquet").read_bytes()


def test_a_newer_row_stands_for_an_older(archive, tmp_path):
    archive.append([entry("b.jpg", b"new", content=b"n" * 16)])
    found, damages = read(tmp_path)
    assert not damages
    assert [(one.id, one.payload) for one in found if one.id == "b.jpg"] == [("b.jpg", b"new")]
    assert archive.contents(damages.append)["b.jpg"] == b"n" * 16


def test_a_flipped_byte_names_its_picture_and_the_others_are_read(archive, tmp_path):
    flip(tmp_path / "part-000000.parquet", b"secondsecond")
    found, damages = read(tmp_path)
    assert [one.id for one in found] == ["a.jpg", "c/ü.jpg", "d.jpg"]
    assert [damage.where for damage in damages] == ["b.jpg"]
    assert [damage.where for damage in Archive.open(tmp_path).check_files()] == ["part-000000.parquet"]
    damages.clear()
    assert set(archive.contents(damages.append)) == {"a.jpg", "c/ü.jpg", "d.jpg"}  # so that `add` makes up for it
    assert [damage.where for damage in damages] == ["part-000000.parquet", "b.jpg"]


def test_every_flipped_byte_of_every_file_is_noticed_and_none_is_a_traceback(archive, tmp_path):
    for file in (tmp_path / "part-000000.parquet", tmp_path / "archive.json"):
        whole = file.read_bytes()
        for place in range(0, len(whole), 1 if file.suffix == ".parquet" else 37):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x21]) + whole[place + 1 :])
            try:
                opened = Archive.open(tmp_path)
            except DataError:
                opened = None
            if opened is None:
                assert file.suffix == ".json", place
                continue
            damages = [*opened.check_files()]
            found = list(opened.entries(damages.append))
            if file.suffix == ".parquet":
                assert damages, place
            assert all(one in ORIGINALS for one in found), place
        file.write_bytes(whole)


ORIGINALS = [
    entry("a.jpg"), entry("b.jpg", b"second" * 9), entry("c/ü.jpg", caption="a dent, „left“"),
    entry("d.jpg", b"", label=None),
]  # fmt: skip


@pytest.mark.parametrize("how", ["truncated", "emptied", "replaced", "deleted"])
def test_a_part_that_is_no_parquet_is_one_line_and_the_others_are_read(archive, tmp_path, how):
    file = tmp_path / "part-000000.parquet"
    whole = file.read_bytes()
    if how == "deleted":
        file.unlink()
    else:
        file.write_bytes({"truncated": whole[: len(whole) // 2], "emptied": b"", "replaced": b"PAR1" * 99}[how])
    found, damages = read(tmp_path)
    assert [one.id for one in found] == ["d.jpg"]
    assert [damage.where for damage in damages] == ["part-000000.parquet"]
    assert "3" in damages[0].what
    assert "\n" not in damages[0].what


def test_a_part_that_was_not_finished_is_written_over(archive, tmp_path):
    (tmp_path / "part-000002.parquet").write_bytes(b"half")
    (tmp_path / "archive.json.part").write_bytes(b"half")
    found, damages = read(tmp_path)
    assert (len(found), damages) == (4, [])
    Archive.open(tmp_path).append([entry("e.jpg")])
    assert len(read(tmp_path)[0]) == 5


def test_an_index_that_cannot_be_written_leaves_the_archive_as_it_was(archive, tmp_path, monkeypatch):
    def full(file, content, **options):
        raise OSError(28, "No space left on device", str(file))

    monkeypatch.setattr(stored_json, "write_whole", full)  # archive.json alone is written by it
    with pytest.raises(OSError, match="No space"):
        archive.append([entry("e.jpg")])
    assert len(archive) == 4
    monkeypatch.undo()
    archive.append([entry("e.jpg")])
    assert [one.id for one in read(tmp_path)[0]][-1] == "e.jpg"


def test_an_empty_archive_is_one(tmp_path):
    Archive.create(tmp_path, SETTINGS)
    assert read(tmp_path) == ([], [])


def test_what_is_no_archive_is_said(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        Archive.open(tmp_path / "absent")
    with pytest.raises(DataError, match=r"has no archive\.json"):
        Archive.open(tmp_path)
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(DataError, match=r"not empty .it holds holiday\.jpg"):
        Archive.create(tmp_path, SETTINGS)


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[1]", '{"format": "another"}', '{"format": "vae_ldm archive", "version": 9}', '{"format": 9}'],
)
def test_an_index_that_is_none_is_one_line(archive, tmp_path, content):
    (tmp_path / "archive.json").write_text(content)
    with pytest.raises(DataError, match=r"archive\.json") as caught:
        Archive.open(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_index_that_somebody_has_edited_is_refused(archive, tmp_path):
    stored = json.loads((tmp_path / "archive.json").read_text())
    stored["settings"]["digest"] = "cd" * 32
    (tmp_path / "archive.json").write_text(json.dumps(stored))
    with pytest.raises(DataError, match="digest"):
        Archive.open(tmp_path)


def test_one_writer_at_a_time(tmp_path):
    with (
        locked_archive(tmp_path),
        pytest.raises(RunError, match="another process is writing"),
        locked_archive(tmp_path),
    ):
        pass
    with locked_archive(tmp_path):
        pass


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Entry)])
def test_the_checksum_is_of_every_field(field):
    one = entry()
    value = getattr(one, field)
    other = dataclasses.replace(
        one,
        **{
            field: value + (b"!" if isinstance(value, bytes) else "!" if isinstance(value, str) else 1)
            if value
            else "!"
        },
    )
    assert one.checksum() != other.checksum()


def index_of_0_1_0(archive):
    """What version 0.1.0 would have written in the place of archive.json."""
    settings = {name: value for name, value in archive.settings.as_json().items() if name != "downsample_factor"}
    content = {"settings": settings, "parts": [list(part) for part in archive.parts]}
    checksum = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return {"format": "vae_ldm archive", "version": 1, "checksum": checksum, **content}


def test_an_archive_of_0_1_0_is_read_and_becomes_one_of_the_newest_format_when_it_grows(archive, tmp_path):
    before, _ = read(tmp_path)
    (tmp_path / "archive.json").write_text(json.dumps(index_of_0_1_0(archive), indent=1))
    found, damages = read(tmp_path)
    assert (found, damages) == (before, [])
    old = Archive.open(tmp_path)
    assert old.settings.downsample_factor is None
    old.append([entry("e.jpg")])
    assert json.loads((tmp_path / "archive.json").read_text())["format"] == 2
    assert [one.id for one in read(tmp_path)[0]] == ["a.jpg", "b.jpg", "c/ü.jpg", "d.jpg", "e.jpg"]
    (tmp_path / "archive.json").write_text(json.dumps({**index_of_0_1_0(old), "checksum": "0"}))
    with pytest.raises(DataError, match="checksum"):
        Archive.open(tmp_path)


def stored_index(archive, **changes):
    """archive.json as a stranger would make it: its digest is right."""
    content = {"settings": archive.settings.as_json(), "parts": [list(part) for part in archive.parts], **changes}
    return json.dumps(archive_module._KIND.with_digest(content))


@pytest.mark.parametrize(
    "name", ["../victim.txt", "/elsewhere/victim.txt", "victim.txt", "part-1.parquet", "", 3, "lock"]
)
@pytest.mark.parametrize("of_0_1_0", [False, True])
def test_a_part_is_never_a_file_of_somebody_else(archive, tmp_path, name, of_0_1_0):
    victim = tmp_path / "victim.txt"
    victim.write_text("precious")
    archive.parts.append(ArchivePart(name, 1, 8, "0" * 64))
    (tmp_path / "archive.json").write_text(json.dumps(index_of_0_1_0(archive)) if of_0_1_0 else stored_index(archive))
    with pytest.raises(DataError, match=r"archive\.json") as caught:
        Archive.open(tmp_path)
    assert "\n" not in str(caught.value)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize(
    "changes",
    [
        {"prefer": "fastest"}, {"target_psnr": "32"}, {"model": 3}, {"digest": None}, {"coder": {}}, {"coder": []},
        {"coder": {"steps": [1.0], "shapes": [[2, 10], [2, 10, 8]], "models": "no base85 \u00e9"}},
        {"coder": {**CODER.as_json(), "steps": [0.0, 1.0]}},
        {"coder": {**CODER.as_json(), "shapes": [[2, 9], [2, 9, 8]]}},
        {"coder": {**CODER.as_json(), "steps": [1.0]}}, {"downsample_factor": "8"},
    ],
)  # fmt: skip
def test_settings_that_are_none_are_one_line(archive, tmp_path, changes):
    (tmp_path / "archive.json").write_text(stored_index(archive, settings={**SETTINGS.as_json(), **changes}))
    with pytest.raises(DataError, match=r"archive\.json: is damaged") as caught:
        Archive.open(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_coder_that_unpacks_to_more_than_it_says_takes_no_memory(archive, tmp_path):
    bomb = base64.b85encode(zlib.compress(bytes(2**26), 9)).decode()
    settings = {**SETTINGS.as_json(), "coder": {**CODER.as_json(), "models": bomb}}
    (tmp_path / "archive.json").write_text(stored_index(archive, settings=settings))
    tracemalloc.start()
    with pytest.raises(DataError, match="is damaged"):
        Archive.open(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_a_row_of_more_pixels_than_a_photo_has_is_told(archive, tmp_path):
    archive.append([entry("huge.jpg", width=2**30, height=2**30), entry("none.jpg", width=0)])
    found, damages = read(tmp_path)
    assert [one.id for one in found] == ["a.jpg", "b.jpg", "c/ü.jpg", "d.jpg"]
    assert [damage.where for damage in damages] == ["huge.jpg", "none.jpg"]
