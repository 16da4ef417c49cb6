"""Grids: every pixel of every picture lies exactly where the layout says, enlarged to squares."""

import numpy as np
import pytest
from PIL import ImageFont

from vae_ldm.pages.image_grid import (
    FONT_SIZE,
    GAP,
    INK,
    LINE,
    MARGIN,
    PAIR_GAP,
    PAPER,
    PAPER_INK,
    image_grid,
    pair_grid,
    shorten,
)


def pictures(num_images: int, height: int = 4, width: int = 6, channels: int = 3) -> np.ndarray:
    shape = (num_images, height, width, channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("num_images", [6, 5])
def test_pictures_lie_where_they_should(channels: int, num_images: int) -> None:
    images, scale = pictures(num_images, channels=channels), 3
    page = np.asarray(image_grid(images, num_columns=3, scale=scale))
    assert page.shape == (2 * MARGIN + 2 * 12 + GAP, 2 * MARGIN + 3 * 18 + 2 * GAP, 4)
    for index, image in enumerate(images):
        row, column = divmod(index, 3)
        top, left = MARGIN + row * (12 + GAP), MARGIN + column * (18 + GAP)
        shown = page[top : top + 12, left : left + 18]
        expected = image.repeat(scale, axis=0).repeat(scale, axis=1)
        if channels < 4:
            opaque = np.full((12, 18, 1), 255, dtype=np.uint8)
            expected = np.concatenate([np.broadcast_to(expected, (12, 18, 3)), opaque], axis=-1)
        np.testing.assert_array_equal(shown, expected)
        page = page.copy()
        page[top : top + 12, left : left + 18] = (*INK, 0)
    assert (page == (*INK, 0)).all(), "nothing but the pictures is on a page without words"


def test_on_paper_it_is_a_file_for_any_viewer() -> None:
    clear = np.zeros((1, 8, 8, 4), np.uint8)
    page = image_grid(np.concatenate([pictures(1, 8, 8, 4) | 255, clear]), num_columns=2, scale=1, on_paper=True)
    assert page.mode == "RGB"
    assert page.getcolors() == [(page.width * page.height, PAPER)]
    with_words = image_grid(pictures(1, 40, 40), num_columns=1, captions=["known"], on_paper=True)
    assert min(with_words.crop((0, MARGIN + 120, with_words.width, with_words.height)).tobytes()) == PAPER_INK[0]


def test_words_take_room_and_touch_no_picture() -> None:
    images = pictures(4, 40, 40)
    plain = image_grid(images, num_columns=2, scale=2)
    page = image_grid(
        images,
        num_columns=2,
        scale=2,
        captions=["one", "two", "three", "four"],
        row_labels=["a cracked bezel", "a good bezel"],
        column_titles=["first", "second"],
    )
    label = max(ImageFont.load_default(FONT_SIZE).getlength(text) for text in ("a cracked bezel", "a good bezel"))
    left = MARGIN + int(np.ceil(label)) + MARGIN
    assert page.height == plain.height + 3 * LINE
    assert page.width == plain.width + left - MARGIN
    pixels = np.asarray(page)
    for index, image in enumerate(images):
        row, column = divmod(index, 2)
        top, at = MARGIN + LINE + row * (80 + LINE + GAP), left + column * (80 + GAP)
        np.testing.assert_array_equal(pixels[top : top + 80 : 2, at : at + 80 : 2, :3], image)
        assert pixels[top + 80 : top + 80 + LINE, at : at + 80, 3].any(), "a caption stands below its picture"
        assert pixels[top : top + 80, : left - MARGIN, 3].any(), "a label stands at the left of its row"
        assert pixels[: MARGIN + LINE, at : at + 80, 3].any(), "a title stands above its column"
    assert (pixels[:, : left - MARGIN, :3] == INK).all(), "soft edges of letters keep the ink's colour"


def test_pairs_stand_together() -> None:
    left, right = pictures(3), pictures(3)[::-1]
    page = np.asarray(pair_grid(left, right, pairs_per_row=2, captions=["1 dB", "2 dB", "3 dB"], scale=1))
    pair = 2 * 6 + PAIR_GAP
    assert page.shape[1] == 2 * MARGIN + 2 * pair + 2 * GAP
    for index in range(3):
        row, place = divmod(index, 2)
        top, at = MARGIN + LINE + row * (4 + LINE + GAP), MARGIN + place * (pair + 2 * GAP)
        np.testing.assert_array_equal(page[top : top + 4, at : at + 6, :3], left[index])
        np.testing.assert_array_equal(page[top : top + 4, at + 6 + PAIR_GAP : at + pair, :3], right[index])


@pytest.mark.parametrize(("side", "scale"), [(28, 4), (32, 3), (64, 2), (96, 1), (256, 1)])
def test_small_pictures_are_enlarged_until_legible(side: int, scale: int) -> None:
    assert image_grid(pictures(1, side, side), num_columns=1).width == 2 * MARGIN + side * scale


def test_a_long_caption_is_cut_on_one_line() -> None:
    font = ImageFont.load_default(FONT_SIZE)
    cut = shorten("a photo of a laptop bezel\nwith a very long scratch", font, 100)
    assert cut.startswith("a photo of")
    assert cut.endswith("…")
    assert font.getlength(cut) <= 100
    assert shorten("two\nlines", font, 100) == "two lines"


def test_wrong_use_is_our_own_bug() -> None:
    with pytest.raises(AssertionError, match="uint8"):
        image_grid(pictures(2).astype(np.float32), num_columns=2)
    with pytest.raises(AssertionError, match="2 channels"):
        image_grid(pictures(2, channels=2), num_columns=2)
    with pytest.raises(AssertionError, match="one caption a group"):
        image_grid(pictures(2), num_columns=2, captions=["alone"])
