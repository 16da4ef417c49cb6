"""Strips and films between and around photos."""

import shutil

import numpy as np
import pytest
from PIL import Image

from vae_ldm.desk.walk.walk import FRAME_MILLISECONDS, Drawing, _deviations, grid, morph, walk
from vae_ldm.errors import DataError, VaeLdmError, WeightsError

QUICK = Drawing(num_inference_steps=2)


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    files = []
    for number, size in enumerate([(40, 30), (17, 64), (20, 20)]):  # of different sizes
        files.append(tmp_path / f"photo {number}.jpg")
        Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8)).resize(size).save(files[-1])
    return files


def frames(file):
    """Pixels [N, H, W, 4] of an animation, after a look at how it plays."""
    with Image.open(file) as film:
        assert film.is_animated
        assert film.info["loop"] == 0  # for ever
        found = []
        for number in range(film.n_frames):
            film.seek(number)
            found.append(np.asarray(film.convert("RGBA")).astype(int))
            assert film.info["duration"] == FRAME_MILLISECONDS
    return np.stack(found)


def steps_between(pixels):
    """Mean change from each frame to the next, the last to the first."""
    return np.abs(pixels - np.roll(pixels, -1, axis=0)).mean(axis=(1, 2, 3))


def test_a_morph_is_a_strip_and_a_film_there_and_back(photos, trained_run, tmp_path):
    files = morph(*photos[:2], str(trained_run.path), out=tmp_path / "out", steps=4, smooth=2, drawing=QUICK)
    assert [file.name for file in files] == ["strip.png", "morph.webp"]
    film = frames(files[1])
    assert len(film) == 7 + 5
    for there, back in ((1, 11), (2, 10), (5, 7)):
        assert np.array_equal(film[there], film[back])
    changes = steps_between(film)
    assert changes.min() > 0
    strip = Image.open(files[0])
    assert strip.width > 4 * 96
    assert strip.height > 2 * 96
    assert strip.mode == "RGB"
    assert strip.getpixel((0, 0)) == (255, 255, 255)
    assert not list(tmp_path.glob("*.part"))


def test_photos_that_the_model_hardly_knows_are_spoken_of(photos, trained_run, tmp_path, capfd):
    noise = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    run = shutil.copytree(trained_run.path, tmp_path / "run")
    measured = run / "metrics.json"
    measured.write_text('{"measurements": [{"name": "psnr", "value": 30.0}]}')
    walk(tmp_path / "noise.png", str(run), out=tmp_path / "noisy", steps=2, drawing=QUICK)
    assert "dB and its own validation photos at 30.0 dB; it does not know such photos well" in capfd.readouterr().err
    measured.write_text('{"measurements": [{"name": "psnr", "value": 1.0}]}')
    walk(photos[0], str(run), out=tmp_path / "known", steps=2, drawing=QUICK)
    assert "know such photos" not in capfd.readouterr().err


def test_a_walk_closes(photos, trained_run, tmp_path):
    files = walk(photos[0], str(trained_run.path), out=tmp_path / "out", steps=4, smooth=2, drawing=QUICK)
    assert [file.name for file in files] == ["strip.png", "walk.webp"]
    changes = steps_between(frames(files[1]))
    assert len(changes) == 8
    assert changes.max() < 3 * np.median(changes)  # the step from the last to the first frame is one like the others


def test_a_walk_follows_from_its_seed_and_from_photos_like_which_it_goes(photos, trained_run, tmp_path):
    def strip(name, **settings):
        seed = settings.pop("seed", 0)
        drawing = Drawing(num_inference_steps=2, seed=seed)
        files = walk(photos[0], str(trained_run.path), out=tmp_path / name, steps=2, drawing=drawing, **settings)
        return files[0].read_bytes()

    assert strip("one") == strip("again")
    assert strip("one more", seed=1) != strip("another", seed=2)
    assert strip("like", like=tmp_path) != strip("own")


def test_a_grid_of_axes_has_the_photo_in_its_middle_and_one_of_photos_at_its_corner(photos, trained_run, tmp_path):
    files = grid(photos[0], str(trained_run.path), out=tmp_path / "axes", side=3, drawing=QUICK)
    assert [file.name for file in files] == ["grid.png", "grid.webp"]
    assert len(frames(files[1])) == 8
    page = Image.open(files[0])
    assert page.width > 6 * 96
    toward = grid(photos[0], str(trained_run.path), out=tmp_path / "toward", toward=photos[1:], side=3, drawing=QUICK)
    assert page.size == Image.open(toward[0]).size
    middle = np.asarray(page)[150:246, 110:206].astype(int)
    corner = np.asarray(Image.open(toward[0]))[30:126, 12:108].astype(int)
    assert np.abs(middle - corner).max() <= 1
    assert np.abs(middle - np.asarray(page)[150:246, 12:108]).max() > 1


@pytest.mark.parametrize(
    ("place", "title"), [(-2.0, "2 sd left"), (0.0, "0 sd"), (2.0, "2 sd right"), (2 / 3, "0.67 sd right")]
)
def test_a_place_on_an_axis_is_named_by_its_distance_and_its_side(place, title):
    assert _deviations(place, "left", "right") == title


def test_wrong_calls_are_one_line_and_write_nothing(photos, trained_run, tmp_path):
    run, out = str(trained_run.path), tmp_path / "out"
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("mine")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(photos[0].read_bytes()[:200])
    cases = [
        (lambda: morph(photos[0], tmp_path / "absent.jpg", run, out=out), DataError, "absent.jpg: no such photo"),
        (lambda: morph(photos[0], tmp_path, run, out=out), DataError, "is a folder; give one photo"),
        (lambda: morph(broken, photos[0], run, out=out), DataError, "broken.jpg: "),
        (lambda: morph(*photos[:2], str(tmp_path / "none"), out=out), WeightsError, "no such folder"),
        (lambda: morph(*photos[:2], run, out=taken), VaeLdmError, "exists already; name another folder with --out"),
        (lambda: morph(*photos[:2], run, out=photos[2]), VaeLdmError, "exists already"),
        (lambda: grid(photos[0], run, out=out, toward=photos[1:2]), VaeLdmError, "two photos to go toward, not 1"),
        (lambda: walk(photos[0], run, out=out, radius=0.0), VaeLdmError, "radius is 0"),
        (lambda: Drawing(strength=0), VaeLdmError, "strength is 0"),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert not out.exists()
    assert (taken / "mine.txt").read_text() == "mine"


def test_a_pipeline_without_a_run_needs_photos_to_learn_directions_from(photos, trained_run, tmp_path):
    import shutil

    shutil.copytree(trained_run.pipeline, tmp_path / "exported")
    source = str(tmp_path / "exported")
    with pytest.raises(VaeLdmError, match=r"is no run folder; name photos .* with --like"):
        walk(photos[0], source, out=tmp_path / "out", drawing=QUICK)
    files = walk(photos[0], source, out=tmp_path / "out", like=tmp_path, steps=2, drawing=QUICK)
    assert all(file.exists() for file in files)
