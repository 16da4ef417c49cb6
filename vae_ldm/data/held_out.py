"""Which pictures a run is judged on where its source has no validation split."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from vae_ldm.data.names import as_bytes

_Named = tuple[str, str | None]
"""Name and label of a picture."""


def is_held_out(name: str, validation_fraction: float) -> bool:
    """True for that share of names, whatever others there are: a picture added later moves no other one."""
    return _hash_of(name) < validation_fraction * 2**64


def misplaced(train: Sequence[_Named], validation: Sequence[_Named]) -> tuple[set[int], set[int]]:
    """Rows of `train` and of `validation` to move to the other split, so that each class can be learned and judged.

    A class of two or more pictures has one at least on either side: where the hash has put all of them on one side, the
    picture whose hash lies nearest to the border moves. A class of one picture is trained on. All others stay where
    their hash has put them.
    """
    rows: dict[str, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for side, named in enumerate((train, validation)):
        for row, (_, label) in enumerate(named):
            if label is not None:
                rows[label][side].append(row)
    to_validation, to_train = set(), set()
    for trained, held_out in rows.values():
        if not held_out and len(trained) > 1:
            to_validation.add(min(trained, key=lambda row: _hash_of(train[row][0])))
        elif not trained:
            to_train.add(max(held_out, key=lambda row: _hash_of(validation[row][0])))
    return to_validation, to_train


def _hash_of(name: str) -> int:
    """A whole number in [0, 2**64)."""
    return int.from_bytes(hashlib.sha256(as_bytes(name)).digest()[:8], "big")
