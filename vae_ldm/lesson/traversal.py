"""The lesson's fourth picture: what changes in a patch while one latent moves and the other stands still."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from vae_ldm.lesson.autoencoder import NUM_LATENTS
from vae_ldm.lesson.canvas import FAINT, HEADING, SMALL, SOFT, TITLE, FigureCanvas
from vae_ldm.lesson.disentanglement import Explained, changed_by, mutual_information_gap
from vae_ldm.lesson.patches import Array
from vae_ldm.lesson.text import in_words, percent
from vae_ldm.lesson.vae import Vae

FACTOR_COLOURS = {"kind": "#cc79a7", "place": "#0072b2", "strength": "#e69f00"}
POSITIONS = np.linspace(-2, 2, 7)
"""Where a latent is put, in standard deviations of the prior."""

_CELL, _STEP = 7, 40
_PANEL_WIDTH, _ROW_HEIGHT = 446, 94
_FIRST_PATCH, _BARS, _BARS_WIDTH = 46, 318, 94  # from a panel's left


def traverse(model: Vae, latent: int) -> Array:
    """Patches [7, 25] that are decoded while one latent goes from -2 to 2 and the other stays at 0."""
    latents = np.zeros((len(POSITIONS), NUM_LATENTS))
    latents[:, latent] = POSITIONS
    return model.decode(latents)


def traversal_picture(print_only: Sequence[Explained], all_kinds: Sequence[Explained]) -> Image.Image:
    """A column a beta: above VAEs that know patches of print alone, below those that know all five kinds."""
    canvas = FigureCanvas(48 + _PANEL_WIDTH * len(print_only), 748)
    canvas.text((40, 40), "What each latent changes: one thing, several things, or nothing", size=TITLE, bold=True)
    blocks = (
        ("Patches of print alone: a place and a strength for two latents", print_only, 96),
        ("Patches of all five kinds: a kind, a place and a strength for two latents", all_kinds, 384),
    )
    for title, row, top in blocks:
        canvas.text((40, top), title, size=HEADING, colour=SOFT)
        for column, one in enumerate(row):
            _draw_panel(canvas, one, left=40 + column * _PANEL_WIDTH, top=top + 40)
    canvas.paragraph(
        (40, 680),
        "Each strip is decoded while one latent goes from -2 to 2 and the other stays at 0. A bar is the share of a "
        "factor that the latent tells: their mutual information divided by the entropy of the factor. MIG is the "
        "mutual information gap (Chen 2018): what one latent tells of a factor beyond the other, mean over factors. "
        "It is 1 where every factor has a latent of its own that tells all of it.",
        canvas.width - 80,
    )
    return canvas.picture()


def _draw_panel(canvas: FigureCanvas, explained: Explained, *, left: float, top: float) -> None:
    """A strip of patches and the bars of each latent, below beta and the gap."""
    canvas.text((left, top), f"beta {explained.model.beta:g}", size=HEADING, bold=True)
    gap = f"MIG {mutual_information_gap(explained.told):.2f}"
    canvas.text((left + _BARS + _BARS_WIDTH, top), gap, size=HEADING, anchor="rm", bold=True)
    columns = [left + _FIRST_PATCH + column * _STEP for column in range(len(POSITIONS))]
    for column in (0, len(POSITIONS) // 2, -1):
        canvas.text((columns[column], top + 24), f"{POSITIONS[column]:g}", size=SMALL, colour=SOFT, anchor="mm")
    for latent, changed in enumerate(changed_by(explained.told)):
        y = top + 58 + latent * _ROW_HEIGHT
        canvas.text((left, y), f"z{latent + 1}", colour=SOFT)
        for x, pixels in zip(columns, traverse(explained.model, latent), strict=True):
            canvas.patch((x, y), pixels, _CELL)
        canvas.text((left + _FIRST_PATCH - 19, y + 33), f"changes {in_words(changed)}", size=SMALL, colour=SOFT)
        _draw_bars(canvas, {name: shares[latent] for name, shares in explained.told.items()}, left + _BARS, y)


def _draw_bars(canvas: FigureCanvas, shares: dict[str, float], left: float, middle: float) -> None:
    """A bar a factor, below its name and its percentage."""
    first = middle - 12 * len(shares) + 9
    for number, (name, share) in enumerate(shares.items()):
        y = first + number * 24
        canvas.rectangle((left, y + 10), (left + _BARS_WIDTH, y + 13), fill=FAINT)
        if share > 0.005:
            canvas.rectangle((left, y + 10), (left + _BARS_WIDTH * share, y + 13), fill=FACTOR_COLOURS[name])
        canvas.text((left, y), name, size=SMALL, colour=SOFT)
        canvas.text((left + _BARS_WIDTH, y), percent(share), size=SMALL, colour=SOFT, anchor="rm")
