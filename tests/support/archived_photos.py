"""Photos that an archive of a tiny model keeps, and what its commands say."""

import numpy as np
from PIL import Image

EASY = 14.0
"""dB that even a network of a few weights reaches on a picture of one colour."""


def photo(seed=0, size=(24, 20), mode="RGB"):
    """Soft blobs of colour, as a small photo would have."""
    rng = np.random.default_rng(seed)
    channels = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    small = Image.fromarray(rng.integers(60, 200, (4, 4, channels), np.uint8).squeeze())
    return small.resize(size, Image.Resampling.BICUBIC)


def one_line_error(result, code, *words):
    """Asserts that the command ended with `code` and one line of error, which holds the words."""
    assert result.exit_code == code, result.output
    lines = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.output
    assert "Traceback" not in result.output
    for word in words:
        assert word in lines[0], lines[0]
