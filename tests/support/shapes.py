"""A world small enough to judge in: pictures of four classes."""

import numpy as np


def shapes(count: int, seed: int, size: tuple[int, int] = (32, 32), channels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [N, H, W, C] and labels [N]: a disk, a box, upright or lying stripes, anywhere, of any colour, noisy."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(4, size=count)
    y, x = np.mgrid[: size[0], : size[1]]
    pictures = np.empty((count, *size, channels))
    for picture, label in zip(pictures, labels, strict=True):
        top, left = (rng.uniform(0.35, 0.65) * side for side in size)
        radius = rng.uniform(0.2, 0.35) * min(size)
        phase, wave = rng.uniform(0, 6), rng.uniform(0.6, 0.9)
        mask = (
            (y - top) ** 2 + (x - left) ** 2 < radius**2,
            np.maximum(abs(y - top), abs(x - left)) < radius * 0.9,
            np.sin(wave * x + phase) > 0,
            np.sin(wave * y + phase) > 0,
        )[label]
        dark, bright = rng.uniform(0, 110, channels), rng.uniform(145, 255, channels)
        picture[:] = np.where(mask[..., None], bright, dark) + rng.normal(0, 6, picture.shape)
    return pictures.clip(0, 255).astype(np.uint8), labels
