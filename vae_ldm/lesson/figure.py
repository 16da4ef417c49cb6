"""Three pictures of the lesson, drawn with Pillow: codes of patches, what random draws decode to, what beta does."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from PIL import Image

from vae_ldm.lesson.autoencoder import PlainAutoencoder
from vae_ldm.lesson.canvas import CHOSEN, FAINT, HEADING, INK, PAPER, SMALL, SOFT, TITLE, FigureCanvas, Point, Scale
from vae_ldm.lesson.holes import HoleMeter
from vae_ldm.lesson.judgement import Judgement, Model, fitted_gaussian, posterior
from vae_ldm.lesson.patches import KINDS, Array, Patches

# Okabe & Ito 2008: distinct for colour-blind readers too.
KIND_COLOURS = {"paper": "#56b4e9", "print": "#0072b2", "edge": "#009e73", "crack": "#d55e00", "dent": "#cc79a7"}
HOLE = "#e5484d"
ERROR, NATS, REAL, COVERAGE = "#0072b2", "#cc79a7", "#009e73", "#e69f00"

RADIUS_95 = math.sqrt(-2 * math.log(0.05))  # of a 2-dimensional N(0, 1), 95 % lie within this

_GRID = 15  # latents a side of the decoded grid


def latent_space_picture(
    plain: Judgement, chosen: Judgement, patches: Patches, four: Patches, train: Array
) -> Image.Image:
    """Patches at their codes, autoencoder beside VAE, and the four patches beside their reconstructions."""
    canvas = FigureCanvas(1560, 868)
    canvas.text((40, 40), "Where patches lie: two numbers stand for the 25 of a patch", size=TITLE, bold=True)
    side, top = 560, 118
    for judgement, left in ((plain, 80), (chosen, 716)):
        _draw_codes(canvas, judgement, patches, four, train, (left, top), side)
    _draw_in_and_out(canvas, plain, chosen, four, left=1326, top=top)

    x = 80.0
    for kind, colour in KIND_COLOURS.items():
        canvas.rectangle((x, 752), (x + 18, 770), fill=colour)
        canvas.text((x + 26, 761), kind, colour=SOFT)
        x += 100
    canvas.badge((x + 9, 761), "n")
    canvas.text((x + 26, 761), "the four patches of the text", colour=SOFT)
    canvas.paragraph(
        (80, 796),
        "A thumbnail is a patch that the model has never seen in training, and lies at its code. A dot is such a "
        "patch too. The frame's colour is the kind, which nobody has told the model. Similar patches get similar "
        "codes, because the decoder has only two numbers to tell them apart by. 95 % of random draws fall inside the "
        "dashed ring, also where no code lies, and picture 2 shows what they decode to. The solid rings are the "
        "clouds of the four patches, two spreads s wide. A VAE gives each patch a neighbourhood instead of a point, "
        "and all clouds together resemble the prior.",
        1440,
    )
    return canvas.picture()


def _draw_codes(
    canvas: FigureCanvas, judgement: Judgement, patches: Patches, four: Patches, train: Array, corner: Point, side: int
) -> None:
    """One panel: axes, thumbnails that do not overlap, the ring of random draws, the four patches."""
    left, top = corner
    model = judgement.model
    codes = posterior(model, patches.pixels)[0]
    centre, spread = _drawn_from(model, train)
    reach = 1.1 * np.maximum(np.abs(codes - centre).max(axis=0), RADIUS_95 * spread)
    x = Scale(centre[0] - reach[0], centre[0] + reach[0], left, left + side)
    y = Scale(centre[1] - reach[1], centre[1] + reach[1], top + side, top)
    pixels_per_unit = side / (2 * reach)
    canvas.rectangle((left, top), (left + side, top + side), fill="#fbfcfd", outline=FAINT)
    title = "Autoencoder" if judgement.beta is None else f"VAE, beta {judgement.beta:g}"
    canvas.text((left, top - 20), title, size=HEADING, bold=True)
    drawn = "mean and spread of its codes" if judgement.beta is None else "the prior, N(0, 1)"
    canvas.text((left + side, top - 20), f"dashed ring: {drawn}", size=SMALL, colour=SOFT, anchor="rm")
    for value in x.ticks():
        canvas.line([(x(value), top + side), (x(value), top + side + 5)], colour=SOFT)
        canvas.text((x(value), top + side + 17), f"{value:g}", size=SMALL, colour=SOFT, anchor="mm")
    for value in y.ticks():
        canvas.line([(left - 5, y(value)), (left, y(value))], colour=SOFT)
        canvas.text((left - 10, y(value)), f"{value:g}", size=SMALL, colour=SOFT, anchor="rm")
    canvas.text((left + side / 2, top + side + 38), "first latent, z1", size=SMALL, colour=SOFT, anchor="mm")
    canvas.text((left - 14, top - 20), "z2", size=SMALL, colour=SOFT, anchor="rm")

    radii = RADIUS_95 * spread * pixels_per_unit
    canvas.ring((x(centre[0]), y(centre[1])), (radii[0], radii[1]), colour=SOFT, dashed=True)
    for kind, (a, b) in zip(patches.kinds, codes, strict=True):
        canvas.dot((x(a), y(b)), 2, colour=KIND_COLOURS[KINDS[kind]])
    mean, std = posterior(model, four.pixels)
    own = [(x(a), y(b)) for a, b in mean]
    taken = list(own)
    for pixels, kind, (a, b) in zip(patches.pixels, patches.kinds, codes, strict=True):
        at = (x(a), y(b))
        if _clear(at, own, 25) and _clear(at, taken, 20):
            taken.append(at)
            canvas.patch(at, pixels, 3, frame=KIND_COLOURS[KINDS[kind]], frame_width=1.5)
    for number, at in enumerate(own):
        if judgement.beta is not None:
            radii = 2 * std[number] * pixels_per_unit
            canvas.ring(at, (radii[0], radii[1]), colour=INK, width=2)
        canvas.patch(at, four.pixels[number], 5, frame=KIND_COLOURS[KINDS[four.kinds[number]]], frame_width=3)
        canvas.badge((at[0] + 15, at[1] - 15), str(number + 1))


def _clear(at: Point, others: Sequence[Point], room: float) -> bool:
    """No square thumbnail of side `room` at `others` overlaps one at `at`."""
    return all(max(abs(at[0] - x), abs(at[1] - y)) >= room for x, y in others)


def _draw_in_and_out(
    canvas: FigureCanvas, plain: Judgement, chosen: Judgement, four: Patches, *, left: float, top: float
) -> None:
    canvas.text((left, top - 20), "In and out", size=HEADING, bold=True)
    columns = [
        ("in", four.pixels),
        ("AE", plain.model.reconstruct(four.pixels)),
        ("VAE", chosen.model.reconstruct(four.pixels)),
    ]
    for column, (title, pixels) in enumerate(columns):
        x = left + 40 + column * 76
        canvas.text((x, top + 10), title, size=SMALL, colour=SOFT, anchor="mm")
        for number in range(len(four)):
            canvas.patch((x, top + 62 + number * 124), pixels[number], 13)
    for number in range(len(four)):
        y = top + 62 + number * 124
        canvas.badge((left - 12, y), str(number + 1))
        codes = [posterior(judgement.model, four.pixels[number : number + 1])[0][0] for judgement in (plain, chosen)]
        for column, (a, b) in enumerate(codes, start=1):
            canvas.text(
                (left + 40 + column * 76, y + 46), f"{_short(a)}, {_short(b)}", size=13, colour=SOFT, anchor="mm"
            )
        canvas.text((left + 40, y + 46), KINDS[four.kinds[number]], size=13, colour=SOFT, anchor="mm")


def decoded_prior_picture(plain: Judgement, chosen: Judgement, meter: HoleMeter) -> Image.Image:
    """Decodings of a grid of equally likely latents, those that look like no real patch framed."""
    canvas = FigureCanvas(1260, 812)
    canvas.text((40, 40), "What random draws decode to, with holes in red", size=TITLE, bold=True)
    cell, top = 34, 118
    side = _GRID * cell
    normal = NormalDist()
    quantiles = np.array([normal.inv_cdf((i + 0.5) / _GRID) for i in range(_GRID)])
    for judgement, left in ((plain, 90), (chosen, 700)):
        centre, spread = _drawn_from(judgement.model, meter.train)
        across, up = centre[0] + spread[0] * quantiles, centre[1] + spread[1] * quantiles[::-1]
        latents = np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2)
        decoded = judgement.model.decode(latents)
        real = meter.looks_real(decoded)
        # Holes last, so that no neighbour covers a red frame.
        for index in sorted(range(len(decoded)), key=lambda index: bool(not real[index])):
            row, column = divmod(index, _GRID)
            at = (left + (column + 0.5) * cell, top + (row + 0.5) * cell)
            canvas.patch(at, decoded[index], 5.6, frame=PAPER if real[index] else HOLE, frame_width=2.5)
        title = "Autoencoder" if judgement.beta is None else f"VAE, beta {judgement.beta:g}"
        canvas.text((left, top - 20), title, size=HEADING, bold=True)
        holes = int((~real).sum())
        count = f"{holes} of {len(real)} are holes ({100 * holes / len(real):.0f} %)"
        canvas.text((left + side, top - 20), count, colour=HOLE, anchor="rm")
        for index in range(0, _GRID, 2):
            place = (index + 0.5) * cell
            canvas.text((left + place, top + side + 16), _short(across[index]), size=SMALL, colour=SOFT, anchor="mm")
            canvas.text((left - 10, top + place), _short(up[index]), size=SMALL, colour=SOFT, anchor="rm")
        canvas.text((left + side / 2, top + side + 38), "first latent, z1", size=SMALL, colour=SOFT, anchor="mm")
        canvas.text((left - 14, top - 20), "z2", size=SMALL, colour=SOFT, anchor="rm")
    near = f"{100 * meter.threshold:.1f} %"
    canvas.paragraph(
        (90, 714),
        "Every cell is equally likely to be drawn, because the axes step through quantiles of the Gaussian that "
        "latents are drawn from (Kingma & Welling 2013, figure 4). For the VAE that is the prior N(0, 1), and for the "
        "autoencoder it is the Gaussian with the mean and spread of its codes. The share of red is therefore the "
        f"chance to draw a hole, which is more than {near} (root mean square) away from every real patch. 95 % of new "
        "real patches are nearer than that. Between two kinds a smooth decoder passes through mixtures that are "
        "neither. The noise in training narrows these passages, but only where there are codes.",
        1120,
    )
    return canvas.picture()


def _drawn_from(model: Model, train: Array) -> tuple[Array, Array]:
    """Mean and spread of the Gaussian that latents are drawn from: N(0, 1), for an autoencoder the fitted one."""
    return fitted_gaussian(model, train) if isinstance(model, PlainAutoencoder) else (np.zeros(2), np.ones(2))


def _short(value: float) -> str:
    """One decimal, and no -0.0."""
    return f"{round(value, 1) + 0.0:.1f}"


def trade_off_picture(
    judgements: Sequence[Judgement], chosen: Judgement, four: Patches, meter: HoleMeter
) -> Image.Image:
    """One column a model, autoencoder first: three curves, and below them what the numbers look like."""
    left, column_width, top, chart_height = 190, 176, 140, 132
    canvas = FigureCanvas(left + column_width * len(judgements) + 30, 960)
    canvas.text((40, 40), "Beta weighs faithful patches against useful random draws", size=TITLE, bold=True)
    middles = [left + (column + 0.5) * column_width for column in range(len(judgements))]
    for judgement, x in zip(judgements, middles, strict=True):
        if judgement is chosen:
            canvas.rectangle((x - column_width / 2, 76), (x + column_width / 2, 868), fill=CHOSEN)
        title = "autoencoder" if judgement.beta is None else f"beta {judgement.beta:g}"
        canvas.text((x, 96), title, size=HEADING, anchor="mm", bold=True)
        units = "" if judgement.beta is None else f"{judgement.num_active} of 2 units active"
        canvas.text((x, 119), units, size=SMALL, colour=SOFT, anchor="mm")

    draws = [judgement.fitted if judgement.beta is None else judgement.prior for judgement in judgements]
    errors = [judgement.reconstruction for judgement in judgements]
    nats = [None if judgement.beta is None else judgement.kl for judgement in judgements]
    real, covered = [100 * score.real for score in draws], [100 * score.coverage for score in draws]
    charts = [
        (["squared error", "a patch", "(lower is better)"], [PlottedCurve("", ERROR, errors, "{:.3f}")]),
        (["KL in nats", "a patch (how much", "the code can tell)"], [PlottedCurve("", NATS, nats, "{:.1f}")]),
        (
            ["random draws", "(higher is better)"],
            [
                PlottedCurve("look real", REAL, real, "{:.0f} %"),
                PlottedCurve("cover the real", COVERAGE, covered, "{:.0f} %"),
            ],
        ),
    ]
    for number, (label, curves) in enumerate(charts):
        _draw_chart(canvas, label, curves, middles, top + number * (chart_height + 18), chart_height)

    y = top + 3 * (chart_height + 18) + 22
    canvas.lines((40, y), ["our four", "patches, out", "of two latents"], size=SMALL, colour=SOFT)
    canvas.lines((40, y + 142), ["twelve random", "draws, decoded"], size=SMALL, colour=SOFT)
    random = np.random.default_rng(5).standard_normal((12, 2))
    for judgement, x in zip(judgements, middles, strict=True):
        for index, pixels in enumerate(judgement.model.reconstruct(four.pixels)):
            canvas.patch((x - 30 + 60 * (index % 2), y + 14 + 60 * (index // 2)), pixels, 10)
        centre, spread = _drawn_from(judgement.model, meter.train)
        for index, pixels in enumerate(judgement.model.decode(centre + spread * random)):
            canvas.patch((x - 57 + 38 * (index % 4), y + 146 + 38 * (index // 4)), pixels, 6.4)
    canvas.paragraph(
        (40, 894),
        "At beta 0 only the squared error counts, and a VAE is an autoencoder again. With more beta the code tells "
        "less, patches blur, and more of the random draws look real. With still more beta one latent after the other "
        "is given up, until all patches come out alike. This is posterior collapse. Draws come from N(0, 1). The "
        "autoencoder has no prior, so its draws come from the Gaussian with the mean and spread of its codes.",
        canvas.width - 80,
    )
    return canvas.picture()


@dataclass(frozen=True)
class PlottedCurve:
    """One measure of every model, None where it has none; `form` writes a value beside its point."""

    name: str
    colour: str
    values: Sequence[float | None]
    form: str


def _draw_chart(
    canvas: FigureCanvas, label: list[str], curves: list[PlottedCurve], middles: list[float], top: float, height: float
) -> None:
    """Curves over the columns of models. The autoencoder's point stands by itself: it has no place on beta's axis."""
    left, right = (1.5 * middles[0] - 0.5 * middles[1], 1.5 * middles[-1] - 0.5 * middles[-2])
    highest = max(value for curve in curves for value in curve.values if value is not None) or 1.0
    # Two curves have their numbers above the upper and below the lower one, which takes room below zero.
    y = Scale(0 if len(curves) == 1 else -0.25 * highest, 1.3 * highest, top + height, top)
    canvas.lines((40, top + 26), label, colour=SOFT, size=SMALL)
    for value in y.ticks(3):
        if value >= 0:
            canvas.line([(left, y(value)), (right, y(value))], colour=FAINT)
            canvas.text((left - 8, y(value)), f"{value:g}", size=13, colour=SOFT, anchor="rm")
    for number, curve in enumerate(curves):
        points = [None if value is None else (x, y(value)) for x, value in zip(middles, curve.values, strict=True)]
        canvas.line([point for point in points[1:] if point], colour=curve.colour, width=2.5)
        for column, point in enumerate(points):
            here = curve.values[column]
            if point is None or here is None:
                continue
            others = [other.values[column] or 0 for other in curves if other is not curve]
            is_lower = any(other > here or (other == here and number > 0) for other in others)
            canvas.dot(point, 5, colour=curve.colour, outline=PAPER)
            place = (point[0], point[1] + (16 if is_lower else -16))
            canvas.text(place, curve.form.format(here), size=SMALL, colour=curve.colour, anchor="mm", bold=True)
        if curve.name:
            canvas.dot((46, top + 76 + 20 * number), 5, colour=curve.colour)
            canvas.text((58, top + 76 + 20 * number), curve.name, size=SMALL, colour=curve.colour)
