"""Photos into an archive and out of it, by a tiny real model; stopped, damaged, refused."""

import dataclasses
import io
import re
import shutil
import signal
import tracemalloc
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.conftest import nano_networks_in_place
from tests.processes import two_processes
from tests.run.conftest import ForkedCommand, finish, run_main, wait_for
from tests.run.start_points import SD, save_autoencoder
from tests.support.archived_photos import EASY, one_line_error, photo
from vae_ldm import weights
from vae_ldm.cli import app
from vae_ldm.data import unreadable as unreadable_photos
from vae_ldm.data.decoding import decode_whole
from vae_ldm.desk.archive import add as archive_module
from vae_ldm.desk.archive import photo_coder, reading
from vae_ldm.desk.archive.add import add
from vae_ldm.desk.archive.listing import list_entries
from vae_ldm.desk.archive.photo_coder import PhotoCoder
from vae_ldm.desk.archive.reading import extract, verify
from vae_ldm.desk.archive.store import Archive, locked_archive
from vae_ldm.errors import RunError
from vae_ldm.evaluation.codec import CodecLadder, picture_psnr
from vae_ldm.latent_space.entropy_coding import _varint


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for number in range(7):
        target = folder / ("dent" if number % 2 else "rust") / f"{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        photo(number, (20 + number, 24)).save(target)
    return folder


@pytest.fixture
def model(trained_run):
    return str(trained_run.path)


def command(*arguments):
    return CliRunner().invoke(app, ["archive", *map(str, arguments)])


def entries(path):
    damages = []
    found = list(Archive.open(path).entries(damages.append))
    assert not damages
    return found


def files(path):
    return {file.name: file.read_bytes() for file in path.iterdir() if file.suffix in {".parquet", ".json"}}


def pixels(file):
    return decode_whole(file)


@pytest.mark.parametrize("prefer", ["smallest", "latents"])
@pytest.mark.parametrize("target", [EASY, 30.0, 50.0])
def test_every_photo_comes_back_as_near_as_was_promised(photos, tmp_path, model, target, prefer):
    added = add(tmp_path / "archive", photos, model=model, target_psnr=target, prefer=prefer)
    assert added.num_added == 7
    assert extract(tmp_path / "archive", out=tmp_path / "out") == 7
    kept = {entry.id: entry for entry in entries(tmp_path / "archive")}
    for original in photos.rglob("*.png"):
        name = str(original.relative_to(photos))
        (made,) = (tmp_path / "out").glob(f"{name}*")
        psnr = picture_psnr(pixels(made), pixels(original))
        assert psnr >= target
        assert psnr == pytest.approx(kept[name].psnr, abs=0.01)
    if prefer == "smallest":
        assert all(len(entry.payload) <= (photos / entry.id).stat().st_size for entry in kept.values())


def test_what_the_network_cannot_keep_a_codec_or_the_file_itself_keeps(photos, tmp_path, model):
    add(tmp_path / "archive", photos, model=model, target_psnr=45)
    assert "latents" not in {entry.method for entry in entries(tmp_path / "archive")}


def test_latents_are_kept_where_they_are_preferred_and_good_enough(photos, tmp_path, model):
    added = add(tmp_path / "archive", photos, model=model, target_psnr=EASY, prefer="latents")
    assert added.methods["latents"] > 0


def test_of_a_large_photo_that_the_network_cannot_keep_only_places_are_looked_at(tmp_path, model, monkeypatch):
    monkeypatch.setattr(photo_coder, "_LARGE", 400)
    noise = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)
    (tmp_path / "photos").mkdir()
    Image.fromarray(noise).save(tmp_path / "photos" / "noise.png")
    photo().save(tmp_path / "photos" / "plain.png")
    asked = []
    ladder = photo_coder.latent_ladder
    monkeypatch.setattr(photo_coder, "latent_ladder", lambda *args: asked.append(args[2]) or ladder(*args))
    add(tmp_path / "a.archive", tmp_path / "photos", model=model, target_psnr=EASY)
    assert {entry.id: entry.method == "latents" for entry in entries(tmp_path / "a.archive")}["noise.png"] is False
    assert len(asked) == 1
    assert not np.array_equal(asked[0], noise)
    line = Image.fromarray(np.random.default_rng(1).integers(0, 256, (1, 500, 3), np.uint8))
    line.save(tmp_path / "photos" / "thin.png")
    add(tmp_path / "a.archive", tmp_path / "photos", model=model)
    assert len(entries(tmp_path / "a.archive")) == 3


def test_class_caption_source_and_size_are_kept(photos, tmp_path, model):
    (photos / "metadata.jsonl").write_text('{"file_name": "rust/0.png", "text": "a rusty rim", "label": "worn"}\n')
    add(tmp_path / "archive", photos, model=model)
    first = {entry.id: entry for entry in entries(tmp_path / "archive")}
    assert (first["rust/0.png"].label, first["rust/0.png"].caption) == ("worn", "a rusty rim")
    assert (first["dent/1.png"].label, first["dent/1.png"].caption) == ("dent", None)
    assert first["dent/1.png"].source == str(photos / "dent" / "1.png")
    assert (first["dent/1.png"].width, first["dent/1.png"].height) == (21, 24)


def test_repeated_it_adds_nothing_and_new_and_changed_photos_are_added(photos, tmp_path, model):
    add(tmp_path / "archive", photos, model=model)
    before = files(tmp_path / "archive")
    assert add(tmp_path / "archive", photos, model=model).num_present == 7
    assert files(tmp_path / "archive") == before
    photo(50).save(photos / "rust" / "new.png")
    photo(51).save(photos / "rust" / "0.png")
    added = add(tmp_path / "archive", photos, model=model)
    assert (added.num_added, added.num_present) == (2, 6)
    extract(tmp_path / "archive", ["rust/0.png"], out=tmp_path / "out")
    (made,) = (tmp_path / "out" / "rust").iterdir()
    assert picture_psnr(pixels(made), np.asarray(photo(51))) > 30
    assert len(entries(tmp_path / "archive")) == 8


PHOTOS = {
    "grey": (photo(1, mode="L"), {}),
    "alpha": (photo(2, mode="RGBA"), {}),
    "a grey one stored as colour": (photo(3, mode="L").convert("RGB"), {}),
    "16 bits": (Image.fromarray(np.linspace(0, 65535, 24 * 20).reshape(24, 20).astype(np.uint16)), {}),
    "one pixel": (Image.new("RGB", (1, 1), (200, 10, 10)), {}),
    "one row": (photo(4, (33, 1)), {}),
    "turned": (
        photo(5, (40, 16)),
        {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"},
    ),
    "larger than a tile": (photo(6, (600, 8)), {}),
}


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", PHOTOS)
def test_photos_of_every_kind_keep_size_colours_and_orientation(tmp_path, kind, channels):
    image, options = PHOTOS[kind]
    folder = tmp_path / "photos"
    folder.mkdir()
    image.save(folder / "1.png", **options)
    save_autoencoder(tmp_path / "model", in_channels=channels, out_channels=channels)
    expected = decode_whole(folder / "1.png")
    for prefer, target in (("latents", 10.0), ("smallest", 38.0)):
        path = tmp_path / prefer
        add(path, folder, model=str(tmp_path / "model"), target_psnr=target, prefer=prefer)
        extract(path, out=tmp_path / f"out-{prefer}")
        (made,) = (tmp_path / f"out-{prefer}").iterdir()
        found = decode_whole(made)
        if expected.shape[2] == 1:  # WebP has no grey
            found = found[..., :1]
        assert found.shape == expected.shape
        assert picture_psnr(found, expected) >= target


def test_colour_is_never_given_to_a_grey_model(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (16, 16), (128, 126, 127)).save(folder / "faint.png")  # grey would be within 10 dB
    save_autoencoder(tmp_path / "model", in_channels=1, out_channels=1)
    add(tmp_path / "archive", folder, model=str(tmp_path / "model"), target_psnr=10, prefer="latents")
    (entry,) = entries(tmp_path / "archive")
    assert entry.method != "latents"


@pytest.fixture
def unreadable(photos):
    whole = (photos / "rust" / "0.png").read_bytes()
    (photos / "truncated.png").write_bytes(whole[: len(whole) // 2])
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    (photos / "bomb.png").write_bytes(bomb.getvalue())
    (photos / "text.jpg").write_text("no picture")
    return ["bomb.png", "text.jpg", "truncated.png"]


def test_truncated_photos_and_bombs_are_skipped_listed_and_end_in_an_error(photos, tmp_path, model, unreadable):
    result = command("add", tmp_path / "archive", photos, "--model", model)
    one_line_error(result, 2, "3 of 10 photos cannot be read", "unreadable.txt")
    assert all(f"left out {name}: " in result.output for name in unreadable)
    assert len(entries(tmp_path / "archive")) == 7
    listed = (tmp_path / "archive" / "unreadable.txt").read_text().splitlines()
    assert [line.partition(":")[0] for line in listed] == unreadable
    for name in unreadable:
        (photos / name).unlink()
    assert command("add", tmp_path / "archive", photos, "--model", model).exit_code == 0
    assert not (tmp_path / "archive" / "unreadable.txt").exists()


def test_a_few_unreadable_photos_are_no_error(photos, tmp_path, model, unreadable, monkeypatch):
    monkeypatch.setattr(unreadable_photos, "MAX_UNREADABLE_SHARE", 0.5)
    result = command("add", tmp_path / "archive", photos, "--model", model)
    assert result.exit_code == 0, result.output
    assert all(f"left out {name}: " in result.output for name in unreadable)


def test_photos_of_which_none_can_be_read_make_no_archive(tmp_path, model):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").write_text("no picture")
    one_line_error(command("add", tmp_path / "archive", tmp_path / "photos", "--model", model), 2, "1.jpg")
    assert not (tmp_path / "archive" / "archive.json").exists()


def test_another_model_is_refused_everywhere(photos, tmp_path, model):
    save_autoencoder(tmp_path / "other", **SD)
    other = ["--model", str(tmp_path / "other")]
    path = tmp_path / "archive"
    add(path, photos, model=model, target_psnr=EASY, prefer="latents")
    before = files(path)
    for result in (
        command("add", path, photos, *other),
        command("extract", path, "--out", tmp_path / "out", *other),
        command("verify", path, *other),
    ):
        one_line_error(result, 2, "other weights", model)
    assert files(path) == before
    assert not (tmp_path / "out").exists()


def test_an_archive_whose_model_has_moved_says_how_to_name_it(photos, tmp_path, trained_run):
    moved = tmp_path / "moved"
    shutil.copytree(trained_run.autoencoder, tmp_path / "model")
    add(tmp_path / "archive", photos, model=str(tmp_path / "model"), target_psnr=EASY, prefer="latents")
    (tmp_path / "model").rename(moved)
    one_line_error(command("extract", tmp_path / "archive", "--out", tmp_path / "out"), 2, "--model")
    assert extract(tmp_path / "archive", out=tmp_path / "out", model=str(moved)) == 7


def test_other_settings_than_the_archives_are_refused(photos, tmp_path, model):
    add(tmp_path / "archive", photos, model=model, target_psnr=30)
    add(tmp_path / "archive", photos, model=model)
    for options in (["--target-psnr", "40"], ["--prefer", "latents"]):
        result = command("add", tmp_path / "archive", photos, "--model", model, *options)
        one_line_error(result, 2, "was made with")


def test_an_empty_archive_and_none_are_said(photos, tmp_path, model, monkeypatch):
    one_line_error(command("list", tmp_path / "absent"), 2, "no such folder", "archive add")
    one_line_error(command("list", photos), 2, "is no archive")
    one_line_error(command("add", photos, photos, "--model", model), 2, "not empty")
    assert not (photos / "lock").exists()
    monkeypatch.setattr(archive_module, "_archived", lambda record, coder, present: f"{record.id}: gone")
    command("add", tmp_path / "archive", photos, "--model", model)
    assert "0 photos" in command("list", tmp_path / "archive").output
    assert command("verify", tmp_path / "archive").exit_code == 0
    one_line_error(command("extract", tmp_path / "archive", "--out", tmp_path / "out"), 2, "empty")


def test_list_shows_ids_methods_and_a_sum(photos, tmp_path, model):
    add(tmp_path / "archive", photos, model=model)
    lines = list(list_entries(tmp_path / "archive"))
    assert len(lines) == 8
    assert lines[0].startswith("dent/1.png  21x24  ")
    assert lines[-1].startswith("7 photos")
    assert len(list(list_entries(tmp_path / "archive", "rust/*"))) == 5


def test_one_photo_is_no_photos(photos, tmp_path, model, capsys):
    path = tmp_path / "archive"
    add(path, photos / "rust" / "0.png", model=model)
    add(path, photos / "rust" / "0.png", model=model)
    for _ in range(2):
        extract(path, out=tmp_path / "out")
    verify(path)
    said = [*list_entries(path), *capsys.readouterr().err.splitlines()]
    assert any("1 photo," in line for line in said)
    assert any("1 of 1 photo archived" in line for line in said)
    assert any("1 was there already" in line for line in said)
    assert any("1 file from before left as it is; --overwrite" in line for line in said)
    assert not [line for line in said if re.search(r"\b1 (photos|pictures|files)", line)]


def test_files_that_exist_are_left_alone_unless_they_may_be_replaced(photos, tmp_path, model, capsys):
    add(tmp_path / "archive", photos, model=model)
    extract(tmp_path / "archive", out=tmp_path / "out")
    (made,) = (tmp_path / "out" / "rust").glob("0.png*")
    made.write_text("mine")
    assert extract(tmp_path / "archive", out=tmp_path / "out") == 0
    assert made.read_text() == "mine"
    assert "--overwrite" in capsys.readouterr().err
    assert extract(tmp_path / "archive", ["rust/0.png"], out=tmp_path / "out", overwrite=True) == 1
    assert made.read_bytes() != b"mine"


@pytest.mark.parametrize("file_format", ["png", "webp", "jpeg"])
def test_all_as_one_format(photos, tmp_path, model, file_format):
    photo(9, mode="RGBA").save(photos / "alpha.png")
    add(tmp_path / "archive", photos, model=model, target_psnr=35)
    extract(tmp_path / "archive", out=tmp_path / "out", file_format=file_format)
    found = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert len(found) == 8
    for file in found:
        with Image.open(file) as image:
            assert image.format == file_format.upper()


@pytest.mark.parametrize("verb", ["list", "extract"])
def test_a_pattern_that_fits_nothing_names_the_nearest(photos, tmp_path, model, verb):
    add(tmp_path / "archive", photos, model=model)
    result = command(verb, tmp_path / "archive", "rust/00.png")
    one_line_error(result, 2, "holds no photo rust/00.png", "did you mean rust/0.png?")
    one_line_error(command(verb, tmp_path / "archive", "x*"), 2, "holds no photo x*")


@pytest.mark.parametrize(
    "name", ["../outside.png", "/outside.png", "a/../../outside.png", "link/outside.png", "..", ""]
)
def test_a_stored_path_never_leads_outside_the_folder(photos, tmp_path, model, name):
    add(tmp_path / "archive", photos, model=model)
    archive = Archive.open(tmp_path / "archive")
    (first, *_) = entries(tmp_path / "archive")
    archive.append([type(first)(**{**vars(first), "id": name})])
    out = tmp_path / "deep" / "out"
    out.mkdir(parents=True)
    (out / "link").symlink_to(tmp_path)
    before = {file for file in tmp_path.rglob("*") if out not in file.parents}
    one_line_error(command("extract", tmp_path / "archive", "--out", out), 1, "outside the folder")
    assert {file for file in tmp_path.rglob("*") if out not in file.parents} == before
    assert len([file for file in out.rglob("*.*") if file.is_file()]) == 7


def test_a_flipped_byte_is_found_named_and_made_up_for(photos, tmp_path, model):
    path = tmp_path / "archive"
    add(path, photos, model=model)
    assert verify(path) == 7
    victim = entries(path)[2]
    (part,) = path.glob("*.parquet")
    whole = bytearray(part.read_bytes())
    whole[whole.index(victim.payload) + len(victim.payload) // 2] ^= 1
    part.write_bytes(whole)
    result = command("verify", path)
    one_line_error(result, 1, "6 photos are whole")
    assert result.output.count(f"{victim.id}: is damaged") == 1
    result = command("extract", path, "--out", tmp_path / "out")
    one_line_error(result, 1, victim.id)
    assert len([file for file in (tmp_path / "out").rglob("*.*") if file.is_file()]) == 6
    result = command("add", path, photos, "--model", model)
    assert result.exit_code == 0, result.output
    assert "1 of 7 photos archived, 6 were there already" in result.output
    assert {entry.id: entry for entry in Archive.open(path).entries(lambda damage: None)}[victim.id] == victim
    assert verify(path, photos) == 7
    assert not part.exists()


def test_a_corrupted_parquet_file_is_one_line_and_the_rest_comes_out(photos, tmp_path, model):
    path = tmp_path / "archive"
    add(path, photos, model=model, photos_per_part=3)
    (path / "part-000001.parquet").write_bytes(b"PAR1 no more")
    for result in (command("verify", path), command("extract", path, "--out", tmp_path / "out"), command("list", path)):
        one_line_error(result, 1, "wrong")
        assert "part-000001.parquet" in result.output
    assert len([file for file in (tmp_path / "out").rglob("*.*") if file.is_file()]) == 4


def test_verify_beside_the_photos_answers_whether_they_may_go(photos, tmp_path, model):
    path = tmp_path / "archive"
    add(path, photos, model=model, target_psnr=EASY, prefer="latents")
    assert verify(path, photos) == 7
    photo(60).save(photos / "rust" / "new.png")
    photo(61).save(photos / "rust" / "0.png")
    result = command("verify", path, photos)
    one_line_error(result, 1, "6 photos are whole", "2 things are wrong")
    assert "rust/new.png: is not in the archive" in result.output
    assert "rust/0.png: the photo has changed" in result.output


def test_two_writers_at_once_are_refused(photos, tmp_path, model):
    with locked_archive(tmp_path / "archive"):
        one_line_error(command("add", tmp_path / "archive", photos, "--model", model), 1, "another process is writing")
    assert command("add", tmp_path / "archive", photos, "--model", model).exit_code == 0


def test_a_full_disk_loses_nothing_and_room_made_it_goes_on(photos, small_disk, tmp_path, model):
    add(tmp_path / "whole", photos, model=model, photos_per_part=2, target_psnr=45)
    expected = files(tmp_path / "whole")
    sizes = sum(map(len, expected.values())) // 1024
    path = small_disk(sizes * 2 // 3) / "archive"
    from unittest.mock import patch

    with patch.object(
        archive_module.add, "__kwdefaults__", {**archive_module.add.__kwdefaults__, "photos_per_part": 2}
    ):
        arguments = ["add", path, photos, "--model", model, "--target-psnr", "45"]
        one_line_error(command(*arguments), 1, "No space left on device")
        if (path / "archive.json").exists():
            entries(path)
        small_disk(sizes * 10)
        assert command(*arguments).exit_code == 0
    assert set(files(path)) == set(expected)
    assert all(files(path)[name] == expected[name] for name in expected if name.endswith(".parquet"))


def archived_in_two(photos, path, model, per_part):
    with nano_networks_in_place():
        added = add(path, photos, model=model, photos_per_part=per_part)
    return added.num_added


@pytest.mark.parametrize("per_part", [3, 256])
def test_two_processes_make_the_archive_of_one(photos, tmp_path, model, per_part):
    (photos / "text.jpg").write_text("no picture")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unreadable_photos, "MAX_UNREADABLE_SHARE", 0.5)
        add(tmp_path / "one", photos, model=model, photos_per_part=per_part)
    (photos / "text.jpg").unlink()
    with two_processes() as two:
        arguments = {"photos": photos, "path": tmp_path / "two", "model": model, "per_part": per_part}
        assert two(archived_in_two, **arguments) == [7, 7]
    assert entries(tmp_path / "two") == entries(tmp_path / "one")


@contextmanager
def small_parts():
    """Parts of 8 photos, and a coder fitted on 24: 40 photos are to them as 1,280 and 768 are to the defaults."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archive_module.add, "__kwdefaults__", add.__kwdefaults__ | {"photos_per_part": 8})
        patch.setattr(archive_module, "_FIT_PHOTOS", 24)
        yield


def in_small_parts(*arguments):
    with nano_networks_in_place(), small_parts():
        run_main(*arguments)


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_as_if_it_had_not_been(tmp_path, model):
    """Before the archive is there, and while its second and its fourth part are written."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(40):
        photo(number, (16, 16)).save(folder / f"{number:03d}.png")
    with small_parts():
        add(tmp_path / "whole", folder, model=model, target_psnr=40.0)
    assert len(list((tmp_path / "whole").glob("part-*.parquet"))) == 5
    path = tmp_path / "archive"
    arguments = ["archive", "add", path, folder, "--model", model, "--target-psnr", "40"]
    for last in ("lock", "part-000000.parquet", "part-000002.parquet"):
        process = ForkedCommand(*arguments, function=in_small_parts)
        wait_for((path / last).exists, process)
        process.send_signal(signal.SIGKILL)
        assert finish(process)[0] == -signal.SIGKILL
        kept = len(Archive.open(path)) if (path / "archive.json").exists() else 0
        assert kept < 40
    code, said = finish(ForkedCommand(*arguments, function=in_small_parts))
    assert code == 0, said
    assert f"{40 - kept} of 40 photos archived" in said
    assert files(path) == files(tmp_path / "whole")
    assert not list(path.glob("*.part"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_say_how_to_go_on(photos, tmp_path, model, monkeypatch, number, code):
    encode = PhotoCoder.encode
    calls = []

    def interrupted(self, *arguments):
        calls.append(1)
        if len(calls) == 6:
            signal.raise_signal(number)
        return encode(self, *arguments)

    monkeypatch.setattr(PhotoCoder, "encode", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        result = command("add", tmp_path / "archive", photos, "--model", model)
    finally:
        signal.signal(signal.SIGINT, before)
    assert result.exit_code == code
    assert "repeat the command" in result.output
    monkeypatch.undo()
    assert len(entries(tmp_path / "archive")) == 0


def shown_lines(result):
    return [line for line in result.output.splitlines() if line]


@pytest.mark.parametrize(("pixels_high", "pixels_wide"), [(2, 16_384), (32_769, 1)])
def test_a_photo_too_long_for_a_codec_is_kept_another_way(tmp_path, model, pixels_high, pixels_wide):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (pixels_wide, pixels_high), (90, 80, 70)).save(tmp_path / "photos" / "long.png")
    path = tmp_path / "archive"
    assert add(path, tmp_path / "photos", model=model).num_added == 1
    assert verify(path, tmp_path / "photos") == 1


def test_a_photo_that_cannot_be_kept_is_its_own_line_and_the_others_are_archived(photos, tmp_path, model, monkeypatch):
    from tests.support.odd_photos import png_header

    monkeypatch.setattr(unreadable_photos, "MAX_UNREADABLE_SHARE", 0.9)
    (photos / "bomb.png").write_bytes(png_header(70_000_000, 1))
    (photos / "metadata.jsonl").write_text(
        '{"file_name": "rust/0.png", "text": 5}\n{"file_name": "dent/1.png", "text": "a dent"}\n'
        '{"file_name": "rust/2.png", "label": "a\\ud800b"}\n'
    )
    encode = PhotoCoder.encode

    def failing(self, pixels, file):
        if pixels.shape[1] == 23:
            raise SystemError("encoder returned NULL")
        return encode(self, pixels, file)

    monkeypatch.setattr(PhotoCoder, "encode", failing)
    result = command("add", tmp_path / "archive", photos, "--model", model)
    assert result.exit_code == 0, result.output
    listed = (tmp_path / "archive" / "unreadable.txt").read_text().splitlines()
    names = sorted(line.partition(":")[0] for line in listed)
    assert names == ["bomb.png", "dent/3.png", "rust/0.png", "rust/2.png"]
    assert "dent/3.png: cannot be archived (encoder returned NULL)" in listed
    assert {entry.id for entry in entries(tmp_path / "archive")} == {
        "dent/1.png",
        "dent/5.png",
        "rust/4.png",
        "rust/6.png",
    }


LONG = "n" * 246 + ".png"


def test_every_archived_photo_comes_back_whatever_its_name(tmp_path, model):
    folder = tmp_path / "photos"
    folder.mkdir()
    names = [
        "1.jpg",
        "1.jpg.png",
        "1.jpg.webp",
        "1.jpg.png.png",
        LONG,
        "m" * 250 + ".png",
        "m" * 251 + ".png",
        "zz.png",
    ]
    originals = {}
    for number, name in enumerate(names):
        photo(number).save(folder / name, "PNG")
        originals[name] = decode_whole((folder / name).read_bytes())
    for prefer, target in (("latents", 5.0), ("smallest", 30.0)):
        path = tmp_path / prefer
        add(path, folder, model=model, target_psnr=target, prefer=prefer)
        assert verify(path) == len(names)
        for file_format in ("own", "png", "webp"):
            out = tmp_path / f"{prefer}-{file_format}"
            assert extract(path, out=out, file_format=file_format) == len(names)
            assert len(list(out.iterdir())) == len(names)
            if prefer == "smallest":
                for name, pixels in originals.items():
                    assert any(
                        made.shape == pixels.shape and picture_psnr(made, pixels) >= target
                        for made in map(decode_whole, out.iterdir())
                    ), name
            assert extract(path, out=out, file_format=file_format) == 0


def test_a_photo_that_cannot_be_written_is_its_own_line_and_the_others_come_out(photos, tmp_path, model):
    add(tmp_path / "archive", photos, model=model)
    out = tmp_path / "out"
    out.mkdir()
    (out / "rust").write_text("a file in the place of a folder")
    result = command("extract", tmp_path / "archive", "--out", out)
    one_line_error(result, 1, "4 things are wrong; each is named above")
    assert result.output.count("rust/0.png: cannot be written") == 1
    assert "3 of 7 photos written" in result.output
    assert (out / "rust").read_text() == "a file in the place of a folder"


def test_a_disk_that_takes_two_names_for_one_keeps_the_first_and_tells_of_the_second(
    photos, tmp_path, model, monkeypatch
):
    add(tmp_path / "archive", photos, model=model)
    monkeypatch.setattr(reading, "_place", lambda file: (0, hash(file.name.casefold().replace("6", "4"))))
    (tmp_path / "out" / "rust").mkdir(parents=True)
    (tmp_path / "out" / "rust" / "6.png.webp").touch()
    for name in ("6.png", "6.png.avif"):
        (tmp_path / "out" / "rust" / name).touch()
    with pytest.raises(RunError, match=r"rust/6\.png: has the name of another photo on this disk"):
        extract(tmp_path / "archive", out=tmp_path / "out", overwrite=True)


def of_other_size(archive, entry, height, width):
    """A payload of a few bytes that says that it holds latents of this size."""
    channels = archive.settings.coder.models[0].num_channels
    shape = b"".join(map(_varint, (channels, height, width)))
    return dataclasses.replace(entry, payload=bytes([0, 1 << 4 | 1]) + shape + b"\0\0\0\0")


@pytest.mark.parametrize("is_old", [False, True])
def test_latents_of_another_size_than_their_row_says_are_told_before_they_take_memory(photos, tmp_path, model, is_old):
    path = tmp_path / "archive"
    add(path, photos, model=model, target_psnr=5.0, prefer="latents")
    archive = Archive.open(path)
    if is_old:
        archive.settings = dataclasses.replace(archive.settings, downsample_factor=None)
    first = entries(path)[0]
    for number, (height, width) in enumerate(((2**13, 2**11), (first.height + 1, first.width), (0, 0))):
        archive.append([dataclasses.replace(of_other_size(archive, first, height, width), id=f"{number}.png")])
    tracemalloc.start()
    result = command("verify", path)
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()
    one_line_error(result, 1, "7 photos are whole", "3 things are wrong")
    assert "latents are not those of a picture" in result.output
    one_line_error(command("extract", path, "--out", tmp_path / "out"), 1, "3 things are wrong")


def test_latents_of_a_picture_that_is_too_large_for_this_machine_are_told(photos, tmp_path, model, monkeypatch):
    path = tmp_path / "archive"
    add(path, photos, model=model, target_psnr=5.0, prefer="latents")
    archive, side = Archive.open(path), 9_456  # 89 megapixels in a few bytes
    factor = archive.settings.downsample_factor
    vast = of_other_size(archive, entries(path)[0], side // factor, side // factor)
    archive.append([dataclasses.replace(vast, id="vast.png", width=side, height=side)])
    monkeypatch.setattr(photo_coder, "free_memory", lambda: 2**24)
    line = r"vast.png: cannot be decoded (it takes "
    one_line_error(command("verify", path), 1, "7 photos are whole", line, "GB of memory, and 0.017 GB are free")
    one_line_error(command("extract", path, "--out", tmp_path / "out"), 1, line)
    assert len(list((tmp_path / "out").rglob("*.png"))) == 7


def test_a_codecs_file_of_another_size_than_its_row_says_is_told(photos, tmp_path, model):
    path = tmp_path / "archive"
    add(path, photos, model=model)
    stream = io.BytesIO()
    Image.new("RGB", (2000, 2000)).save(stream, "WebP")
    first = entries(path)[0]
    Archive.open(path).append(
        [
            dataclasses.replace(first, id=f"{method}.png", method=method, payload=stream.getvalue())
            for method in ("webp", "file")
        ]
    )
    result = command("verify", path)
    one_line_error(result, 1, "7 photos are whole", "2 things are wrong")
    assert result.output.count("2000x2000 pixels instead of the") == 2


def test_a_stored_name_is_never_looked_for_on_the_hub(photos, tmp_path, model, monkeypatch):
    path = tmp_path / "archive"
    add(path, photos, model=model, target_psnr=5.0, prefer="latents")
    archive = Archive.open(path)
    archive.settings = dataclasses.replace(archive.settings, model="evil/tracker")
    archive.append([dataclasses.replace(entries(path)[0], id="one more.png")])
    asked = []
    monkeypatch.setattr(weights, "download", lambda name, **_: asked.append(name))
    result = command("extract", path, "--out", tmp_path / "out")
    one_line_error(result, 2, "evil/tracker is no folder on this machine", "--model evil/tracker")
    assert not asked
    assert extract(path, out=tmp_path / "out", model=model) == 8


@pytest.mark.parametrize("target", [EASY, 30.0])
def test_what_saves_work_changes_no_byte(tmp_path, model, monkeypatch, target):
    folder = tmp_path / "photos"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (72, 90, 3), np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    Image.new("RGB", (70, 70), (120, 90, 60)).save(folder / "plain.png")
    photo(7, (130, 140)).save(folder / "large.png")
    for number, mode in enumerate(("RGB", "L", "RGBA")):
        photo(number, (96, 80), mode).save(folder / f"{number}.png")
        photo(number, (100, 70)).convert(mode).save(folder / f"{number + 3}.png")
    add(tmp_path / "saving", folder, model=model, target_psnr=target)
    monkeypatch.setattr(PhotoCoder, "_is_hopeless", lambda self, pixels: False)
    monkeypatch.setattr(PhotoCoder, "_likely_avif", lambda self, file, pixels: None)
    monkeypatch.setattr(CodecLadder, "same_as", lambda self, quality: quality)
    monkeypatch.setattr(photo_coder, "_NOISE_DB", np.inf)
    add(tmp_path / "thorough", folder, model=model, target_psnr=target)
    assert files(tmp_path / "saving") == files(tmp_path / "thorough")
