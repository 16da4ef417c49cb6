import numpy as np
import pytest
from PIL import Image

from vae_ldm.data.photo_sample import sample_photos
from vae_ldm.errors import DataError


@pytest.fixture
def folder(tmp_path):
    for number in range(10):
        place = tmp_path / "photos" / ("a" if number < 5 else "b")
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 45), (number, 0, 0)).save(place / f"{number}.png")
    return tmp_path / "photos"


def test_photos_are_spread_over_the_folder_and_cropped_to_their_own_size(folder):
    sample = sample_photos(folder, 4, channels=3, multiple_of=8)
    assert sample.ids == ["a/0.png", "a/3.png", "b/6.png", "b/9.png"]
    assert sample.images.shape == (4, 40, 40, 3)
    assert sample.images[:, 0, 0, 0].tolist() == [0, 3, 6, 9]
    assert (sample.num_unreadable, sample.num_in_folder) == (0, 10)
    assert len(sample_photos(folder, 100, channels=1, multiple_of=16, side=32).ids) == 10


def test_large_photos_are_brought_to_512(tmp_path):
    Image.new("L", (700, 900)).save(tmp_path / "large.png")
    assert sample_photos(tmp_path, 1, channels=1, multiple_of=8).images.shape == (1, 512, 512, 1)


def test_unreadable_ones_are_passed_over(folder):
    (folder / "a" / "0.png").write_bytes(b"not a picture")
    sample = sample_photos(folder, 10, channels=3, multiple_of=8)
    assert (len(sample.images), sample.num_unreadable) == (9, 1)
    assert np.unique(sample.images[..., 1]).tolist() == [0]


def test_nothing_to_see_is_one_line(tmp_path, folder):
    with pytest.raises(DataError, match="no such folder"):
        sample_photos(tmp_path / "absent", 1, channels=3, multiple_of=8)
    with pytest.raises(DataError, match="a side of 100 px is not divisible by 8; the nearest that is: 96"):
        sample_photos(folder, 1, channels=3, multiple_of=8, side=100)
    for file in folder.rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(DataError, match=r"none of 2 pictures in .* can be read \(b/9.png: "):
        sample_photos(folder, 2, channels=3, multiple_of=8)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no photos in"):
        sample_photos(tmp_path / "empty", 1, channels=3, multiple_of=8)
