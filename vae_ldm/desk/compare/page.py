"""The page of `vae-ldm compare`: a few sentences, one table, and the worst crops of each autoencoder."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from vae_ldm.desk.compare.comparison import AutoencoderResult, in_sentences
from vae_ldm.evaluation.worst_crops import worst_crops
from vae_ldm.files import write_whole
from vae_ldm.models.latent_scaling import MIN_HALF_PSNR
from vae_ldm.pages.environment import environment
from vae_ldm.pages.image_grid import image_grid


class HalfPrecision(NamedTuple):
    """How an autoencoder bears float16."""

    psnr: float
    """dB against float32; NaN where it overflows."""

    @property
    def safe(self) -> bool:
        """Pictures come out as they should."""
        return self.psnr >= MIN_HALF_PSNR


@dataclass(frozen=True)
class Setting:
    """What was compared on what, for the head of the page."""

    title: str
    ids: list[str]
    num_in_folder: int
    num_unreadable: int
    device: str
    created: str
    batch_size: int
    features_name: str
    perceptual_name: str
    fd_name: str | None
    """None where there are too few photos for a Fréchet distance."""
    learned: str | None = None
    """A line that the starter has learned from some of the photos; None where it is not among them, or knows none."""


class _Figure(NamedTuple):
    source: str
    width: int
    height: int
    crop_side: int


def write_comparison(
    target: Path,
    originals: np.ndarray,
    results: Sequence[AutoencoderResult],
    safety: dict[str, HalfPrecision],
    setting: Setting,
) -> None:
    """Write the page about `results` on `originals` uint8 [N, H, W, C], in one step; it opens offline."""
    jinja = environment(__package__)
    jinja.globals.update(mean=_mean, zip=zip)
    page = jinja.get_template("comparison.html.jinja").render(
        results=results,
        safety=safety,
        figures=[_figure(originals, result, results, setting.ids) for result in results],
        sentences=in_sentences(results),
        best=_best(results),
        num_photos=len(originals),
        side=originals.shape[1],
        **vars(setting),
    )
    write_whole(target, page)


def _figure(
    originals: np.ndarray, result: AutoencoderResult, results: Sequence[AutoencoderResult], ids: list[str]
) -> _Figure:
    crops = worst_crops(originals, result.pictures)
    others = [other for other in results if other is not result]
    columns = {"original": originals, result.name: result.pictures}
    columns |= {one.name: one.pictures for one in (*others, *result.codecs)}
    grid = image_grid(
        np.stack([crop.of(pictures) for crop in crops for pictures in columns.values()]),
        num_columns=len(columns),
        group_size=len(columns),
        captions=[f"{ids[crop.row]}: {crop.psnr:.1f} dB" for crop in crops],
        column_titles=[name.rpartition("/")[2] if len(name) > 18 else name for name in columns],
    )
    stream = io.BytesIO()
    grid.save(stream, "PNG", optimize=True)
    source = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
    return _Figure(source, grid.width, grid.height, crops[0].side)


def _best(results: Sequence[AutoencoderResult]) -> dict[str, str]:
    """The name of the autoencoder that leads each column of qualities, where there are several."""
    if len(results) == 1:
        return {}
    best = {
        "psnr": max(results, key=lambda result: result.psnr.mean().item()),
        "ssim": max(results, key=lambda result: result.ssim.mean().item()),
        "perceptual": min(results, key=lambda result: result.perceptual.mean().item()),
    }
    if results[0].fd is not None:
        best["fd"] = min(results, key=lambda result: result.fd or 0.0)
    return {column: result.name for column, result in best.items()}


def _mean(values: Tensor) -> float:
    return values.mean().item()
