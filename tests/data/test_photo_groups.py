"""Series by a pattern on the name, and groups that unite several relations."""

import numpy as np
import pytest

from vae_ldm.data.near_duplicates import difference_hash, duplicate_thumbnail
from vae_ldm.data.photo_groups import join_groups, photo_groups, series_of
from vae_ldm.errors import DataError

NAMES = ["train/a/tin-1_01.jpg", "train/a/tin-2_01.jpg", "validation/a/tin-1_02.jpg", "train/a/other.jpg", "last.jpg"]


@pytest.mark.parametrize(
    ("pattern", "series"),
    [
        (r"(tin-\d)_", [0, 1, 0, 2, 3]),
        (r"tin-\d", [0, 1, 0, 2, 3]),
        (r"^(?:train|validation)/(?P<folder>\w+)", [0, 0, 0, 0, 1]),
        (r"(?i)TIN-(\d)", [0, 1, 0, 2, 3]),
        (r"tin-(1)?", [0, 1, 0, 2, 3]),  # a group that takes no part names nothing
    ],
)
def test_the_first_group_or_the_whole_match_names_the_series(pattern, series):
    found = series_of(NAMES, pattern)
    assert found.dtype == np.int64
    assert found.tolist() == series


def test_a_lone_name_is_not_of_the_series_that_has_its_number():
    assert series_of(["no", "x1", "x0", "x1"], r"x(\d)").tolist() == [0, 1, 2, 1]


@pytest.mark.parametrize("pattern", ["([a-z", "*", "(?P<1>a)"])
def test_a_wrong_pattern_is_told_in_one_line(pattern):
    with pytest.raises(DataError, match="is no regular expression: ") as caught:
        series_of(NAMES, pattern)
    assert "\n" not in str(caught.value)
    assert repr(pattern) in str(caught.value)


@pytest.mark.parametrize("pattern", ["can-", "x*", "tin-[12](x)?"])
def test_a_pattern_that_finds_no_series_is_told(pattern):
    with pytest.raises(DataError, match=r"matches none of 5 names, such as 'train/a/tin-1_01.jpg'"):
        series_of(NAMES, pattern)


def test_relations_are_united():
    series, content = np.array([0, 0, 1, 2, 3, 3]), np.array(["a", "b", "b", "c", "d", "e"])
    assert join_groups(series, content).tolist() == [0, 0, 0, 1, 2, 2]
    assert join_groups(content).tolist() == [0, 1, 1, 2, 3, 4]


def test_groups_by_name_content_and_look():
    generator = np.random.default_rng(0)
    looks = [generator.integers(0, 256, (8, 8, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1) for _ in "abc"]
    flat = np.zeros((64, 64, 3), dtype=np.uint8)
    pictures = [looks[0], looks[1], looks[2], looks[1], flat, flat, flat]
    names = ["s1_a", "s1_b", "c", "d", "e", "f", "g"]
    seen = {
        "hashes": np.array([difference_hash(picture) for picture in pictures]),
        "thumbnails": np.stack([duplicate_thumbnail(picture) for picture in pictures]),
    }
    assert photo_groups(names, **seen).tolist() == [0, 1, 2, 1, 3, 4, 5]
    assert photo_groups(names, **seen, pattern=r"(s\d)_").tolist() == [0, 0, 1, 0, 2, 3, 4]
    digests = [b"a", b"b", b"c", b"d", b"e", b"f", b"e"]
    assert photo_groups(names, **seen, digests=digests).tolist() == [0, 1, 2, 1, 3, 4, 3]
