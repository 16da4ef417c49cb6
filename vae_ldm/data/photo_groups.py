"""Which photos belong together: of one series by their names, of equal content, near-duplicates. No torch in here.

What belongs together stays together: in a fold, in a split, in a calibration.
"""

import re
from collections.abc import Sequence

import numpy as np

from vae_ldm.data.near_duplicates import connect_groups, group_near_duplicates, numbered_groups
from vae_ldm.errors import DataError
from vae_ldm.text import counted


def series_of(names: Sequence[str], pattern: str) -> np.ndarray:
    """The series that names belong to: int64 [N], numbered from 0 in order of their first names.

    `pattern` is a regular expression that is searched in each name. What its first group matches names the series, or
    the whole match where the pattern has no group. A name in which nothing is found is a series of its own.

    Raises DataError where the pattern is none, or finds a series in no name.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise DataError(f"the pattern of a series, {pattern!r}, is no regular expression: {error}") from error
    part = min(1, expression.groups)
    found = [match[part] if (match := expression.search(name)) else None for name in names]
    if not any(found):
        example = f", such as {names[0]!r}" if names else ""
        raise DataError(f"the pattern of a series, {pattern!r}, matches none of {counted(len(names), 'name')}{example}")
    # A series and a lone photo may have one name; the flag tells them apart.
    keys = [(True, series) if series else (False, str(row)) for row, series in enumerate(found)]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys], dtype=np.int64)


def join_groups(grouping: np.ndarray, *others: np.ndarray) -> np.ndarray:
    """Groups in which all are together that any of the groupings, each [N], has together: int64 [N], from 0.

    A grouping is anything that can be compared: numbers, names, digests.
    """
    joined = np.arange(len(grouping))
    for each in (grouping, *others):
        _, first, members = np.unique(each, return_index=True, return_inverse=True)
        joined = connect_groups(joined, np.arange(len(joined)), first[members.reshape(-1)])
    return numbered_groups(joined)


def photo_groups(
    names: Sequence[str],
    *,
    hashes: np.ndarray,
    thumbnails: np.ndarray,
    digests: Sequence[bytes | str] = (),
    pattern: str | None = None,
) -> np.ndarray:
    """Which photos belong together, one way or another: int64 [N], numbered from 0 in order of their first photos.

    Near-duplicates (`hashes` [N] and `thumbnails` [N, 32, 32, 3], as `group_near_duplicates` takes them), photos of
    equal content (`digests`, N of them or none), and photos of one series where there is a pattern for their names.

    Raises DataError as `series_of` does.
    """
    groupings = [group_near_duplicates(hashes, thumbnails)]
    if len(digests):
        groupings.append(np.array([digest.hex() if isinstance(digest, bytes) else digest for digest in digests]))
    if pattern is not None:
        groupings.append(series_of(names, pattern))
    return join_groups(*groupings)
