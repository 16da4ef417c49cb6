"""Photos of one usual thing, with a blemish where one is asked for."""

import numpy as np
from PIL import Image


def usual_photo(rng, *, blemish=None):
    """A bright tin, wandering a little, on a dark table in a light of its own; the blemish is a dark cross with its
    middle there.

    Each photo has another light, because photos that are alike but for their noise are near-duplicates.
    """
    rows, columns = np.mgrid[0:64, 0:64]
    top, left = rng.integers(14, 18), rng.integers(14, 18)
    spots = Image.fromarray(rng.uniform(10, 90, (6, 6)).astype(np.float32)).resize((64, 64), Image.Resampling.BICUBIC)
    pixels = np.asarray(spots, dtype=float)[..., None].repeat(3, axis=2)
    inside = (rows >= top) & (rows < top + 34) & (columns >= left) & (columns < left + 34)
    pixels[inside] = 170 + 40 * np.cos((columns[inside] - left) / 6)[:, None]
    if blemish is not None:
        y, x = blemish
        down, across = abs(rows - y), abs(columns - x)
        pixels[(down < 5) & (across < 2) | (down < 2) & (across < 5)] = (90, 10, 0)
    return np.clip(pixels + rng.normal(0, 3, pixels.shape), 0, 255).astype(np.uint8)


def save_photos(folder, count, *, seed, blemish=None):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        Image.fromarray(usual_photo(rng, blemish=blemish)).save(folder / f"{number:03d}.png")
    return folder
