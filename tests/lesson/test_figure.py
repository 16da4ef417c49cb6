import numpy as np
import pytest
from PIL import Image, ImageColor

from vae_ldm.lesson.canvas import CHOSEN, FigureCanvas, Scale
from vae_ldm.lesson.disentanglement import explain
from vae_ldm.lesson.figure import HOLE, KIND_COLOURS, decoded_prior_picture, latent_space_picture, trade_off_picture
from vae_ldm.lesson.judgement import judge
from vae_ldm.lesson.patches import draw_factor_grid
from vae_ldm.lesson.traversal import FACTOR_COLOURS, POSITIONS, traversal_picture, traverse


def _num_pixels_of(picture: Image.Image, colour: str) -> int:
    """Pixels of about this colour: shrinking the page softens it at edges."""
    difference = np.abs(np.asarray(picture, dtype=int) - ImageColor.getrgb(colour))
    return int((difference.max(axis=-1) < 32).sum())


@pytest.fixture(scope="module")
def plain(autoencoder, material):
    return judge(autoencoder, material.meter)


@pytest.fixture(scope="module")
def chosen(vae, material):
    return judge(vae, material.meter)


def test_a_patch_is_painted_grey_value_by_grey_value():
    canvas = FigureCanvas(100, 100)
    pixels = np.linspace(0, 1, 25)
    canvas.patch((50, 50), pixels, 10, frame="#ff0000", frame_width=4)
    page = np.asarray(canvas.picture())
    for index, value in enumerate(pixels):
        row, column = divmod(index, 5)
        assert page[30 + 10 * row, 30 + 10 * column].tolist() == [round(255 * value)] * 3
    assert page[50, 23].tolist() == [255, 0, 0]
    assert page[50, 15].tolist() == [255, 255, 255]


def test_a_paragraph_stays_within_its_width():
    canvas = FigureCanvas(400, 200)
    canvas.paragraph((20, 20), "patches of twenty-five numbers " * 12, 200, colour="#000000")
    rows, columns = np.nonzero(np.asarray(canvas.picture().convert("L")) < 128)
    assert columns.min() >= 19
    assert 200 <= columns.max() <= 221
    assert rows.max() > 60


@pytest.mark.parametrize(
    ("low", "high", "ticks"), [(0, 1.9, [0, 0.5, 1, 1.5]), (-2.4, 2.6, [-2, -1, 0, 1, 2]), (-25, 130, [0, 100])]
)
def test_ticks_are_round_numbers_within_the_range(low, high, ticks):
    scale = Scale(low, high, 100, 0)
    assert scale.ticks(5 if high < 100 else 3) == pytest.approx(ticks)
    assert (scale(low), scale(high)) == (100, 0)


def test_the_latent_space_shows_patches_of_every_kind(plain, chosen, material):
    picture = latent_space_picture(plain, chosen, material.validation, material.four, material.train.pixels)
    for colour in KIND_COLOURS.values():
        assert _num_pixels_of(picture, colour) > 500


def test_the_share_of_cells_framed_as_holes_is_that_of_random_draws(plain, chosen, material):
    none, some, all_holes = (
        _num_pixels_of(decoded_prior_picture(plain, chosen, meter), HOLE) for meter in _meters(material)
    )
    assert none < 0.03 * all_holes
    share = 1 - (plain.fitted.real + chosen.prior.real) / 2
    assert (some - none) / (all_holes - none) == pytest.approx(share, abs=0.05)


def _meters(material):
    """One that takes everything for real, the lesson's own, and one that takes nothing for real."""
    for threshold in (1.0, material.meter.threshold, 0.0):
        meter = type(material.meter)(material.train, material.validation)
        meter.threshold = threshold
        yield meter


def test_the_trade_off_has_a_column_for_each_model_and_marks_the_chosen_one(plain, chosen, material):
    narrow = trade_off_picture([plain, chosen], plain, material.four, material.meter)
    wide = trade_off_picture([plain, chosen, chosen], plain, material.four, material.meter)
    assert wide.width > narrow.width
    tint = np.asarray(wide) == ImageColor.getrgb(CHOSEN)
    columns = np.nonzero(tint.all(axis=-1).any(axis=0))[0]
    assert columns.max() - columns.min() < wide.width - narrow.width + 2


def test_a_latent_is_moved_while_the_other_stands_still(vae):
    for latent in (0, 1):
        patches = traverse(vae, latent)
        assert patches.shape == (7, 25)
        here = np.zeros((1, 2))
        here[0, latent] = POSITIONS[5]
        np.testing.assert_allclose(patches[5], vae.decode(here)[0])
    np.testing.assert_allclose(traverse(vae, 0)[3], traverse(vae, 1)[3])


def test_the_bars_are_as_long_as_what_is_told(vae):
    explained = explain(vae, draw_factor_grid(values_per_level=1))
    picture = traversal_picture([explained], [explained])
    assert picture.width == 494
    shares = {name: shares.sum() for name, shares in explained.told.items()}
    lengths = {name: _num_pixels_of(picture, FACTOR_COLOURS[name]) for name in shares}
    assert lengths["kind"] / lengths["place"] == pytest.approx(shares["kind"] / shares["place"], rel=0.25)
