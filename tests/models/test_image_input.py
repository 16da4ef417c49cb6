from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vae_ldm.errors import DataError
from vae_ldm.models.image_input import as_image_batch

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
EXPECTED = torch.from_numpy(PIXELS).permute(2, 0, 1)[None] / 127.5 - 1


@pytest.mark.parametrize(
    "images",
    [
        Image.fromarray(PIXELS),
        [Image.fromarray(PIXELS)],
        PIXELS,
        PIXELS[None],
        PIXELS[..., ::-1][..., ::-1],  # an array with negative strides
        PIXELS.astype(np.float64) / 255,
        PIXELS.astype(np.uint16) * 257,
        (PIXELS.astype(np.float32) / 255).astype(">f4"),
        torch.from_numpy(PIXELS).permute(2, 0, 1),
        [torch.from_numpy(PIXELS).permute(2, 0, 1) / 255],
    ],
    ids=["pillow", "list", "array", "batch", "strides", "float", "16 bit", "big endian", "tensor", "list of tensors"],
)
def test_every_way_to_write_an_image_is_the_same_image(images):
    torch.testing.assert_close(as_image_batch(images, channels=3), EXPECTED)


@pytest.mark.parametrize("kind", [str, Path, lambda path: [path, path]])
def test_a_path_is_the_photo_that_lies_there_upright(tmp_path, kind):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(PIXELS).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    batch = as_image_batch(kind(tmp_path / "turned.png"), channels=3)
    torch.testing.assert_close(batch, EXPECTED.expand(len(batch), -1, -1, -1))


def test_several_become_one_batch_and_nothing_given_is_changed():
    given = [PIXELS / 255, PIXELS[None].repeat(2, axis=0) / 255]
    kept = [image.copy() for image in given]
    assert as_image_batch(given, channels=3).shape == (3, 3, 6, 9)
    assert all(np.array_equal(*pair) for pair in zip(given, kept, strict=True))


@pytest.mark.parametrize(("mode", "value"), [("L", 51), ("1", 1), ("I;16", 51 * 257), ("LA", (51, 255))])
def test_grey_of_any_depth_is_repeated_for_a_colour_network(mode, value):
    batch = as_image_batch(Image.new(mode, (9, 6), value), channels=3)
    assert batch.shape == (1, 3, 6, 9)
    assert batch.unique().tolist() == pytest.approx([1.0 if mode == "1" else -0.6])


def test_booleans_are_black_and_white():
    assert as_image_batch(np.array([[True, False]]), channels=1).flatten().tolist() == [1, -1]


def test_colour_becomes_grey_by_its_luma():
    red = as_image_batch(Image.new("RGB", (2, 2), "red"), channels=1)
    assert red.shape == (1, 1, 2, 2)
    assert red.unique().item() == pytest.approx(2 * 0.299 - 1)


@pytest.mark.parametrize("kind", [Image.fromarray, np.asarray, lambda x: torch.from_numpy(x).movedim(-1, 0)])
def test_alpha_is_laid_over_white_unless_it_is_wanted(kind):
    clear = kind(np.zeros((2, 2, 4), np.uint8))
    assert as_image_batch(clear, channels=3).unique().tolist() == [1]
    assert as_image_batch(clear, channels=1).unique().tolist() == pytest.approx([1])
    assert as_image_batch(clear, channels=4).unique().tolist() == [-1]
    assert as_image_batch(PIXELS, channels=4)[:, 3].unique().tolist() == [1]


def test_a_photo_that_says_it_lies_on_its_side_is_turned():
    photo = Image.fromarray(PIXELS)
    photo.getexif()[274] = 6
    assert as_image_batch(photo, channels=3).shape == (1, 3, 9, 6)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "no images given"),
        ("photo.jpg", "^photo.jpg: no such photo$"),
        (Path(__file__).parent, "is a folder; give one photo"),
        (__file__, r"cannot be read \(not a picture, or of a format that is not supported\)"),
        (b"photo.jpg", "paths, Pillow images, arrays or tensors, not bytes"),
        (np.zeros((2, 2, 2)), r"images of shape \[2, 2, 2\] cannot be used"),
        (np.zeros((0, 4, 3)), r"images of shape \[0, 4, 3\]"),
        (torch.zeros(5, 4, 3), r"images of shape \[5, 4, 3\].*tensors \[C, H, W\]"),
        (torch.full((3, 2, 2), -0.5), "in \\[0, 1\\], these reach from -0.5 to -0.5"),
        (np.full((2, 2), 255.0), "these reach from 255 to 255"),
        (np.full((2, 2), np.nan), "these reach from nan to nan"),
        (torch.zeros(3, 2, 2, dtype=torch.int64), "torch.int64 have no known range"),
        (np.zeros((2, 2), complex), "complex128"),
        (Image.new("F", (2, 2)), "no known range"),
        ([PIXELS, PIXELS[1:]], "of one size, these are of 6x9, 5x9"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(images, message):
    with pytest.raises(DataError, match=message) as caught:
        as_image_batch(images, channels=3)
    assert "\n" not in str(caught.value)


def test_a_photo_beyond_pillows_limit_is_called_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (5, 5)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError, match=r"large\.png: cannot be read \(too large \(more than 20 pixels\)\)$"):
        as_image_batch(tmp_path / "large.png", channels=1)
