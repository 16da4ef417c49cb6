"""Cropping that throws most of a picture away is said."""

import pytest
from PIL import Image

from vae_ldm.data.crop_advice import crop_advice, unseen_advice
from vae_ldm.data.image_folder import ImageFolderSource
from vae_ldm.data.sources import RenderedClaimsSource


@pytest.fixture
def folder(tmp_path):
    """`folder(width, height)`: three pictures of that size."""

    def make(width, height, **options):
        for number in range(3):
            Image.new("L", (width, height), number).save(tmp_path / f"{number}.jpg", **options)
        (tmp_path / "3.jpg").write_text("no picture")
        return ImageFolderSource(tmp_path)

    return make


def test_a_size_the_wrong_way_round_is_said_with_the_right_one(folder):
    line = crop_advice(folder(24, 40), (24, 40), "crop")
    assert line == (
        "data: cropping to 24 high and 40 wide keeps 36 % of a typical picture, which is 40 high and 24 wide; "
        "image_size is [height, width], and [40, 24] keeps 100 %"
    )


def test_a_long_picture_in_a_square_is_better_padded(folder):
    assert "keeps 25 % of a typical picture" in (line := crop_advice(folder(160, 40), (64, 64), "crop") or "")
    assert line.endswith("data.resize=pad keeps all of it")


@pytest.mark.parametrize(("image_size", "resize"), [((40, 24), "crop"), ((32, 32), "crop"), ((24, 40), "pad")])
def test_nothing_is_said_where_most_is_kept(folder, image_size, resize):
    assert crop_advice(folder(24, 40), image_size, resize) is None


def test_a_photo_that_is_turned_by_its_exif_counts_as_it_is_seen(folder):
    exif = Image.Exif()
    exif[274] = 6
    source = folder(24, 40, exif=exif)
    assert crop_advice(source, (24, 40), "crop") is None
    assert crop_advice(source, (40, 24), "crop") is not None


def test_pictures_that_are_drawn_to_size_need_no_advice():
    source = RenderedClaimsSource(num_train=2, num_validation=1, image_size=(16, 48))
    assert crop_advice(source, (16, 48), "crop") is None


def test_what_a_desk_does_not_see_of_its_photos_is_said(folder):
    records = list(folder(96, 128).records("train"))
    assert unseen_advice(records, (64, 64), "crop") == (
        "the model sees the middle 75 % of a typical photo, cropped to 64x64: what lies outside is not compared; a run "
        "with data.resize=pad sees all of it"
    )
    assert unseen_advice(records, (64, 64), "pad") is None
    assert unseen_advice(records, (128, 98), "crop") is None
