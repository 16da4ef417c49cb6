"""The page of `vae-ldm archive report`: in words, curves of bytes against PSNR, tables, the worst crops, and text."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vae_ldm.evaluation.rate_distortion import ComparedCrop, Curve, RateDistortion
from vae_ldm.evaluation.rate_distortion_summary import step_rows, target_rows
from vae_ldm.files import write_whole
from vae_ldm.pages.curves import BOTTOM, LEFT, RIGHT, TOP, Axis, point, svg_path
from vae_ldm.pages.environment import environment
from vae_ldm.pages.image_grid import to_pillow

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
    learned: str | None = None
    """A line that the starter has learned from some of the photos; None where it is another model, or knows none."""


class _Line(NamedTuple):
    name: str
    path: str
    dots: list[tuple[float, float, str]]


class _Chart(NamedTuple):
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    target: float
    lines: list[_Line]


class _ShownCrop(NamedTuple):
    id: str
    psnr: float
    pictures: dict[str, str]
    """Data URLs by way."""


def write_archive_page(target: Path, result: RateDistortion, words: Sequence[str], setting: ArchiveSetting) -> None:
    """Write the page, in one step; it opens offline."""
    page = (
        environment(__package__)
        .get_template("archive.html.jinja")
        .render(
            result=result,
            words=words,
            chart=_chart(result.latents, result.codecs, setting.target_psnr),
            steps=step_rows(result),
            targets=target_rows(result, setting.kept_codecs),
            crops=[_shown(crop) for crop in result.crops[:_NUM_CROPS]],
            num_photos=result.num_photos,
            **vars(setting),
        )
    )
    write_whole(target, page)


def _chart(latents: Curve, codecs: Sequence[Curve], target_psnr: float) -> _Chart:
    """Mean PSNR over mean bytes, logarithmic, of each way, from its lowest quality to a little above the target."""
    curves = [latents, *codecs]
    means = []
    for curve in curves:
        of_all = np.isfinite(curve.psnr).all(axis=1)
        means.append((curve.num_bytes[of_all].mean(axis=1), curve.psnr[of_all].mean(axis=1)))
    bottom = min(psnr.min() for _, psnr in means) - 2
    top = max(means[0][1].max(), target_psnr, *(psnr.min() for _, psnr in means)) + 4
    within = [sizes[: 1 + np.searchsorted(psnr, top)] for sizes, psnr in means]
    x = Axis(float(min(map(np.min, within)) / 1.5), float(max(map(np.max, within)) * 1.2), LEFT, RIGHT, True)
    y = Axis(float(bottom), float(top), BOTTOM, TOP)
    lines = []
    for curve, (sizes, psnr) in zip(curves, means, strict=True):
        across, up = x(sizes), y(psnr)
        told = [f"step {step}" for step in curve.settings] or [f"{curve.name}'s lowest quality"]
        dots = [(*point(a, b), text) for a, b, text in zip(across, up, told, strict=False)]
        lines.append(_Line(curve.name, svg_path(across, up), dots))
    return _Chart(x.ticks(), y.ticks(), round(float(y(np.array(target_psnr))), 1), lines)


def _shown(crop: ComparedCrop) -> _ShownCrop:
    return _ShownCrop(crop.id, crop.psnr, {way: _data_url(pixels) for way, pixels in crop.pictures.items()})


def _data_url(pixels: np.ndarray) -> str:
    stream = io.BytesIO()
    to_pillow(pixels).save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
