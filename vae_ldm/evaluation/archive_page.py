"""The page of `vae-ldm archive report`: in words, curves of bytes against PSNR, tables, the worst crops, and text."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vae_ldm.evaluation.curves import BOTTOM, LEFT, RIGHT, TOP, Axis, point, svg_path
from vae_ldm.evaluation.image_grid import image_grid
from vae_ldm.evaluation.rate_distortion import Crop, Curve, RateDistortion, step_rows, target_rows
from vae_ldm.evaluation.report import environment
from vae_ldm.whole_file import write_whole

_NUM_CROPS = 8


@dataclass(frozen=True)
class ArchiveSetting:
    """What was measured on what, for the head of the page."""

    title: str
    model: str
    num_in_folder: int
    num_fitted: int
    fitted_on_others: bool
    num_unreadable: int
    num_other_colors: int
    median_size: tuple[int, ...]
    """Height and width."""
    device: str
    created: str
    target_psnr: float
    kept_codecs: Sequence[str]
    advice: str


class _Line(NamedTuple):
    name: str
    path: str
    dots: list[tuple[float, float, str]]


class _Chart(NamedTuple):
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    lines: list[_Line]


class _Figure(NamedTuple):
    source: str
    width: int
    height: int
    num_crops: int


def write_archive_page(target: Path, result: RateDistortion, words: Sequence[str], setting: ArchiveSetting) -> None:
    """Write the page, in one step; it opens offline."""
    page = (
        environment()
        .get_template("archive.html.jinja")
        .render(
            result=result,
            words=words,
            chart=_chart([result.latents, *result.codecs]),
            steps=step_rows(result),
            targets=target_rows(result, setting.kept_codecs),
            figure=_figure(result.crops),
            num_photos=result.num_photos,
            **vars(setting),
        )
    )
    write_whole(target, page)


def _chart(curves: Sequence[Curve]) -> _Chart:
    """Mean PSNR over mean bytes, logarithmic, of each way; codecs only as far as they concern the latents."""
    means = {curve.name: (curve.num_bytes.mean(axis=1), curve.psnr.mean(axis=1), curve.settings) for curve in curves}
    own_bytes, own_psnr, _ = means[curves[0].name]
    least = [sizes.min() for sizes, _, _ in means.values()]  # of each way: all of them begin within the chart
    low, high = own_bytes.min() / 3, max(own_bytes.max() * 3, 2 * max(least))
    bottom, top = own_psnr.min() - 3, own_psnr.max() + 8
    x = Axis(float(low), float(high), LEFT, RIGHT, logarithmic=True)
    y = Axis(float(bottom), float(top), BOTTOM, TOP)
    lines = []
    for name, (sizes, psnr, settings) in means.items():
        across, up = x(sizes), y(psnr)
        dots = [(*point(a, b), setting) for a, b, setting in zip(across, up, settings, strict=False)]
        lines.append(_Line(name, svg_path(across, up), dots))
    return _Chart(x.ticks(), y.ticks(), lines)


def _figure(crops: Sequence[Crop]) -> _Figure:
    """The worst crops of the commonest side, as it was and as each way keeps it in the same bytes."""
    sides = [crop.pictures["original"].shape for crop in crops]
    shape = max(sides, key=sides.count)
    shown = [crop for crop in crops if crop.pictures["original"].shape == shape][:_NUM_CROPS]
    ways = list(shown[0].pictures)
    grid = image_grid(
        np.stack([crop.pictures[way] for crop in shown for way in ways]),
        num_columns=2 * len(ways) if len(shown) > 1 else len(ways),
        group_size=len(ways),
        captions=[f"{crop.id}: {crop.psnr:.1f} dB" for crop in shown],
        column_titles=ways,
    )
    stream = io.BytesIO()
    grid.save(stream, "PNG", optimize=True)
    source = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
    return _Figure(source, grid.width, grid.height, len(shown))
