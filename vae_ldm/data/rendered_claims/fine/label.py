"""A shipping label as carriers print it."""

import numpy as np

from vae_ldm.data.rendered_claims.canvas import Canvas, Color, rounded_rectangle
from vae_ldm.data.rendered_claims.fine.lettering import bar_code, boxes, small_print, square_code, word
from vae_ldm.data.rendered_claims.objects import choose

PAPER: Color = (241, 241, 237)
INK: Color = (32, 32, 37)
SERVICES = "ABEPSX"
BRANDS: dict[str, Color] = {
    "red": (188, 52, 48),
    "blue": (46, 84, 160),
    "yellow": (226, 178, 44),
    "black": (46, 46, 52),
}


def paint_fine_label(canvas: Canvas, rng: np.random.Generator) -> tuple[str, str]:
    """Paper with a thin frame: service letter, sender, address, square code, and a bar code with its digits below."""
    upright = rng.random() < 0.5
    half_width, half_height = (0.66, 0.90) if upright else (0.90, 0.66)
    canvas.silhouette(rounded_rectangle(-half_width, -half_height, half_width, half_height, 0.035), PAPER)
    left, top, right, bottom = -half_width + 0.06, -half_height + 0.06, half_width - 0.06, half_height - 0.06
    head = top + 0.27
    code_top = bottom - (0.56 if upright else 0.48)
    line = 0.014
    rules = boxes(
        np.array([left, left, left, right - line, left, left]),
        np.array([top, bottom - line, top, top, head, code_top]),
        np.array([right, right, left + line, right, right, right]),
        np.array([top + line, bottom, bottom, bottom, head + line, code_top + line]),
    )
    canvas.rectangle(left, top, left + 0.27, head, INK)
    letter = SERVICES[int(rng.integers(len(SERVICES)))]
    canvas.marks(word(letter, left + 0.08, top + 0.05, 0.17, weight=0.2), PAPER)
    canvas.rectangle(right - 0.33, top + 0.07, right - 0.05, top + 0.2, choose(rng, BRANDS)[1])
    print_left = left + 0.06
    middle = code_top - head
    side = min(0.46, middle - 0.08)
    code_left, rows = right - side - 0.05, 6 if upright else 4
    step = (middle - 0.06) / rows
    ends = print_left + rng.uniform(0.55, 1.0, rows) * (code_left - 0.05 - print_left)
    sizes = np.minimum(np.where(np.arange(rows) < 2, 0.085, 0.06), 0.75 * step)  # name and street in large letters
    legible = canvas.shows_letters
    marks = [
        rules,
        small_print(rng, print_left, head + 0.05 + step * np.arange(rows), ends, sizes, legible=legible),
        small_print(rng, left + 0.32, top + np.array([0.06, 0.15]), right - 0.38, 0.045, legible=legible),
        square_code(rng, code_left, head + (middle - side) / 2 + line / 2, side),
        bar_code(rng, left + 0.09, code_top + 0.06, right - 0.09, bottom - 0.12, 34 if upright else 44),
        small_print(rng, left + 0.3, np.array([bottom - 0.095]), right - 0.3, 0.06, legible=legible),
    ]
    canvas.marks(np.concatenate(marks), INK)
    return "", ""
