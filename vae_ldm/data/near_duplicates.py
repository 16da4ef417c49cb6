"""Which photos are nearly the same picture: saved again, resized, cropped a little, brightened. No torch in here.

Two steps. A difference hash finds pairs that could be near-duplicates; it compares 72 means of a picture, so different
photos of one scene often have nearly the same one. What decides is a comparison of small copies, which allows for the
shift and the scale of a slight crop.
"""

import math

import numpy as np
from PIL import Image

# ImageHash has this hash too, and needs scipy and PyWavelets, on which nothing here depends.

MAX_DISTANCE = 10
"""Bits of 64. Of 2 % crops of photos that are 128 px and larger, 1 % differ by more."""
MIN_CORRELATION = 0.985
"""On the packs of docs/log.md (2026-11-29) all but 1 to 3 % of 2 % crops are above it, and nearly all different photos
below; .98 joins 43 photos of solar modules in one group, .975 224 of them."""
THUMBNAIL_SIDE = 32

_BLOCK = 256
_PAIRS_AT_ONCE = 1024
_MIN_ROUGH_CORRELATION = 0.9
"""Of 8 x 8 means. All but a hundredth of 2 % crops of photos are above .95, of modules of 24 x 40 px above .89."""
_COARSE_MARGIN = 0.015
"""Grey copies of 16 x 16 px are compared first, because that takes a tenth of the time."""
_MIN_CONTRAST = 2.0
"""Standard deviation of a thumbnail's pixels, of 255. Below, rounding and noise are much of what is left of it."""
_RIDGE = 1e-3
"""As a share of the mean diagonal, so that a picture of one stripe has a solution."""


def difference_hash(picture: np.ndarray) -> np.uint64:
    """64 bits for a picture, uint8 [H, W, C]: whether each of 8 x 8 places is darker than the one on its right.

    The grey picture is shrunk to 9 x 8 pixels first (Krawetz 2013, "Kind of Like That"). A picture without features
    has only zeros.
    """
    grey = np.asarray(_image(picture).convert("L").resize((9, 8), Image.Resampling.LANCZOS))
    return np.packbits(grey[:, 1:] > grey[:, :-1]).view(np.uint64)[0]


def duplicate_thumbnail(picture: np.ndarray) -> np.ndarray:
    """The small copy that near-duplicates are compared by: uint8 [32, 32, 3], for a picture, uint8 [H, W, C]."""
    size = THUMBNAIL_SIDE, THUMBNAIL_SIDE
    return np.asarray(_image(picture).convert("RGB").resize(size, Image.Resampling.BOX))


def group_near_duplicates(
    hashes: np.ndarray,
    thumbnails: np.ndarray,
    *,
    max_distance: int = MAX_DISTANCE,
    min_correlation: float = MIN_CORRELATION,
) -> np.ndarray:
    """Groups of near-duplicates: int64 [N], numbered from 0 in order of their first photos.

    Takes what `difference_hash` [N] and `duplicate_thumbnail` [N, 32, 32, 3] say of N photos. Two photos are
    near-duplicates where their hashes differ in at most `max_distance` bits and `aligned_correlation` of their
    thumbnails is at least `min_correlation`; groups are their connected components (single linkage). A photo without
    features, such as an empty page, is a group of its own: equal files are a question of their content.

    Compares all pairs of hashes, in blocks: about 20 CPU seconds for 100,000 photos, and memory for 256 rows of pairs.
    Where all photos are alike, as thermal photos of one module are, the comparisons take ten times as long.
    """
    if not len(hashes):
        return np.zeros(0, dtype=np.int64)
    parts = np.array_split(thumbnails, math.ceil(len(thumbnails) / _PAIRS_AT_ONCE))
    coarse = np.concatenate([_means(part.mean(axis=-1, dtype=np.float32), 2) for part in parts])
    rough = _rough_copies(coarse)
    compared = np.flatnonzero(coarse.std(axis=(1, 2)) >= _MIN_CONTRAST)
    bits = np.unpackbits(hashes[compared, None].view(np.uint8), axis=1).astype(np.float32) * 2 - 1
    # Of vectors of -1 and 1, the inner product is 64 minus twice the number of bits that differ.
    least_product = 64 - 2 * max_distance
    groups = np.arange(len(hashes))
    for start in range(0, len(compared), _BLOCK):
        near = bits[start : start + _BLOCK] @ bits[start:].T >= least_product
        rows, columns = np.divmod(np.flatnonzero(near), near.shape[1])  # faster than np.nonzero of two axes
        first, second = (compared[start:][end[columns > rows]] for end in (rows, columns))
        for one, other in _in_parts(first, second, 64 * _PAIRS_AT_ONCE):
            alike = np.einsum("pi,pi->p", rough[one], rough[other]) >= _MIN_ROUGH_CORRELATION
            for few in _in_parts(one[alike], other[alike], _PAIRS_AT_ONCE):
                groups = _with_duplicates(groups, *few, coarse, thumbnails, min_correlation)
    return numbered_groups(groups)


def aligned_correlation(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How well thumbnails [M, S, S, C] predict others of that shape, moved and scaled a little: [M], in [0, 1].

    The multiple correlation of one with the other and with its changes by a shift and a scale along each axis, which is
    one step of Lucas & Kanade (1981) with gain and brightness, on blurred copies; 0 where light and dark are swapped.
    The lower of both directions. Channels share one gain and one brightness, so that a red shirt is no blue one.
    """
    some, others = _blurred(some), _blurred(others)
    return np.minimum(_explained(some, others), _explained(others, some))


def connect_groups(groups: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Groups [N] after those of photos `first` [M] and `second` [M] are united, pair by pair.

    A group is named by a number below N, and united groups by their lowest one.
    """
    if not len(first):
        return groups
    ends = np.concatenate([groups[first], groups[second]])
    names, roots = np.arange(len(groups)), None
    while roots is None or (roots != names).any():
        roots = names
        lowest = np.minimum(*np.split(roots[ends], 2))
        names = roots.copy()
        # Both the end itself and the group that it already belongs to come down, so that chains are followed fast.
        for reached in (ends, roots[ends]):
            np.minimum.at(names, reached, np.concatenate([lowest, lowest]))
        names = names[names]
    return names[groups]


def numbered_groups(names: np.ndarray) -> np.ndarray:
    """The groups that any names [N] stand for: int64 [N], numbered from 0 in order of their first photos."""
    _, first, members = np.unique(names, return_index=True, return_inverse=True)
    numbers = np.empty(len(first), dtype=np.int64)
    numbers[np.argsort(first)] = np.arange(len(first))
    return numbers[members.reshape(-1)]


def _with_duplicates(
    groups: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    coarse: np.ndarray,
    thumbnails: np.ndarray,
    min_correlation: float,
) -> np.ndarray:
    """Groups [N] after those of photos `first` [M] and `second` [M] are united where two are near-duplicates."""
    apart = groups[first] != groups[second]  # the others are in one group already
    first, second = first[apart], second[apart]
    limit = min_correlation - _COARSE_MARGIN
    for copies, least in ((coarse[..., None], limit), (thumbnails, min_correlation)):
        if not len(first):
            return groups
        same = aligned_correlation(copies[first], copies[second]) >= least
        first, second = first[same], second[same]
    return connect_groups(groups, first, second)


def _image(picture: np.ndarray) -> Image.Image:
    """A Pillow image without transparency; what is behind it is white."""
    if picture.shape[-1] == 4:
        image = Image.fromarray(picture)
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)


def _means(grey: np.ndarray, step: int) -> np.ndarray:
    """Means of step x step pixels of grey pictures [N, S, S]."""
    cells = grey.shape[-1] // step
    return grey.reshape(len(grey), cells, step, cells, step).mean(axis=(2, 4))


def _rough_copies(coarse: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels with mean 0 and length 1: [N, 64]. Their inner product is a correlation."""
    rough = _means(coarse, 2).reshape(len(coarse), -1)
    rough -= rough.mean(axis=1, keepdims=True)
    return rough / np.maximum(np.linalg.norm(rough, axis=1, keepdims=True), 1e-6)


def _in_parts(first: np.ndarray, second: np.ndarray, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(first[start : start + size], second[start : start + size]) for start in range(0, len(first), size)]


def _blurred(thumbnails: np.ndarray) -> np.ndarray:
    """[M, C, S, S]: means of 3 x 3 pixels with the weights 1, 2, 1 along each axis."""
    padded = np.pad(thumbnails.astype(np.float32).transpose(0, 3, 1, 2), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    rows = (padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]) / 4
    return (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 4


def _explained(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The multiple correlation [M] of `others` with `some` [M, C, S, S] and its small moves; borders do not count."""
    position = np.linspace(-1, 1, some.shape[-1], dtype=np.float32)[1:-1]
    inner = some[..., 1:-1, 1:-1]
    across = (some[..., 1:-1, 2:] - some[..., 1:-1, :-2]) / 2
    down = (some[..., 2:, 1:-1] - some[..., :-2, 1:-1]) / 2
    moves = [inner, across, down, across * position, down * position[:, None]]
    known = np.stack([move.reshape(len(some), -1) for move in moves], axis=1)  # [M, 5, pixels]
    asked = others[..., 1:-1, 1:-1].reshape(len(others), -1, 1)
    known -= known.mean(axis=2, keepdims=True)
    asked = asked - asked.mean(axis=1, keepdims=True)
    products = (known @ known.transpose(0, 2, 1)).astype(np.float64)
    scale = np.trace(products, axis1=1, axis2=2)[:, None, None] / len(moves) + 1e-6
    weights = np.linalg.solve(products + _RIDGE * scale * np.eye(len(moves)), known @ asked)
    rest = asked - known.transpose(0, 2, 1) @ weights.astype(np.float32)
    share = 1 - np.square(rest).sum(axis=(1, 2)) / np.maximum(np.square(asked).sum(axis=(1, 2)), 1e-6)
    return np.where(weights[:, 0, 0] > 0, np.sqrt(share.clip(0, 1)), 0)
