"""The tables and sentences that rate-distortion measurements come to."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from vae_ldm.evaluation.rate_distortion import LATENTS, TARGETS, RateDistortion


class Lowest(NamedTuple):
    """Photos of which a codec at its lowest quality keeps more than is asked: it has nothing smaller."""

    num_photos: int
    psnr: float
    """Mean PSNR at that quality, in dB."""


class StepRow(NamedTuple):
    """One step of the table: means over the photos that every codec gets to this PSNR as well."""

    setting: str
    num_photos: int
    psnr: float
    num_bytes: dict[str, float]
    """Mean bytes of each method at equal PSNR."""
    lowest: dict[str, Lowest]
    """The lowest quality of each codec that has such photos."""
    best: str
    """The way of fewest bytes."""


def step_rows(result: RateDistortion) -> list[StepRow]:
    """The table of bytes at equal PSNR, one row a step from coarse to fine, less those that codecs do not reach."""
    rows = []
    for number, setting in enumerate(result.latents.settings):
        reached = np.all([np.isfinite(sizes[number]) for sizes in result.equal.values()], axis=0)
        if not reached.any():
            continue
        num_bytes = {LATENTS: float(result.latents.num_bytes[number, reached].mean())}
        num_bytes |= {codec: float(sizes[number, reached].mean()) for codec, sizes in result.equal.items()}
        psnr = result.latents.psnr[number]
        lowest = {}
        for codec in result.codecs:
            keeps_more = reached & (codec.psnr[0] > psnr)
            if keeps_more.any():
                lowest[codec.name] = Lowest(int(keeps_more.sum()), float(codec.psnr[0, keeps_more].mean()))
        best = min(num_bytes.items(), key=lambda item: item[1])[0]
        rows.append(StepRow(setting, int(reached.sum()), float(psnr[reached].mean()), num_bytes, lowest, best))
    return rows


class TargetRow(NamedTuple):
    """What an archive of these photos would be at one target."""

    target: int
    share_reached: float
    """The share of photos whose latents reach it at some step."""
    share_won: float
    """The share of photos whose latents reach it and are smaller than any codec's file that reaches it."""
    mixed_bytes: float
    """A photo, where each is kept in the smallest way."""
    codec_bytes: float
    """A photo, where each is kept in the smallest codec."""


def target_rows(result: RateDistortion, kept_codecs: Sequence[str]) -> list[TargetRow]:
    """One row a target, over the photos that one of `kept_codecs` gets there."""
    rows = []
    for number, target in enumerate(TARGETS):
        latents = result.at_target[LATENTS][number]
        files = np.stack([result.at_target[codec][number] for codec in kept_codecs])
        files = np.where(np.isfinite(files), files, np.inf).min(axis=0)
        possible = np.isfinite(files)
        if not possible.any():
            continue
        own = np.where(np.isfinite(latents), latents, np.inf)[possible]
        files = files[possible]
        rows.append(
            TargetRow(
                target,
                float(np.isfinite(own).mean()),
                float((own < files).mean()),
                float(np.minimum(own, files).mean()),
                float(files.mean()),
            )
        )
    return rows


def in_words(result: RateDistortion, kept_codecs: Sequence[str], target_psnr: float) -> list[str]:
    """What the numbers say, plainly: where latents are smaller, where codecs are, and what an archive makes of it."""
    rows = step_rows(result)
    won = [row for row in rows if row.best == LATENTS]
    said = []
    if not rows:
        return ["No codec reaches what these latents keep."]
    if won:
        best = max(won, key=_saving)
        rival = min(result.equal, key=best.num_bytes.__getitem__)
        ends = list(dict.fromkeys(f"{row.psnr:.1f}" for row in (won[0], won[-1])))
        span = f"from {ends[0]} to {ends[1]} dB" if len(ends) > 1 else f"at {ends[0]} dB"
        said.append(
            f"Latents take fewer bytes than JPEG, WebP and AVIF at equal PSNR {span}; they save most at "
            f"{best.psnr:.1f} dB: {best.num_bytes[LATENTS]:,.0f} bytes a photo against "
            f"{best.num_bytes[rival]:,.0f} of {rival}"
            f"{_at_lowest(best, rival)}."
        )
    lost = [row for row in rows if row.best != LATENTS]
    if lost:
        nearest = max(lost, key=_saving)
        where = "everywhere" if not won else f"at {_decibels(row.psnr for row in lost)}"
        said.append(
            f"Codecs win {where}; latents come nearest at {nearest.psnr:.1f} dB, where {nearest.best} takes "
            f"{nearest.num_bytes[nearest.best]:,.0f} bytes a photo{_at_lowest(nearest, nearest.best)} and they take "
            f"{nearest.num_bytes[LATENTS]:,.0f}."
        )
    finest = result.latents.psnr[-1]
    said.append(
        f"However fine the step, the autoencoder reaches {finest.mean():.1f} dB on average; only codecs go beyond that."
    )
    targets = target_rows(result, kept_codecs)
    if targets:
        row = min(targets, key=lambda row: abs(row.target - target_psnr))
        saving = 100 * (1 - row.mixed_bytes / row.codec_bytes)
        said.append(
            f"An archive at {row.target} dB would keep {100 * row.share_won:.0f} % of these photos as latents "
            f"({100 * row.share_reached:.0f} % reach it) and be {saving:.1f} % smaller than with "
            f"{' and '.join(kept_codecs)} alone."
        )
    return said


def _decibels(values: Iterable[float]) -> str:
    """The values as a list in words, each once: `25.1, 26.3 and 28.0 dB`."""
    *others, last = dict.fromkeys(f"{value:.1f}" for value in values)
    return f"{', '.join(others)} and {last} dB" if others else f"{last} dB"


def _at_lowest(row: StepRow, codec: str) -> str:
    if codec not in row.lowest:
        return ""
    lowest = row.lowest[codec]
    some = "" if lowest.num_photos == row.num_photos else f" on {lowest.num_photos} of {row.num_photos} photos"
    return f" (at its lowest quality{some}, {lowest.psnr:.1f} dB)"


def _saving(row: StepRow) -> float:
    """How many times the latents' bytes the best codec takes."""
    return min(size for way, size in row.num_bytes.items() if way != LATENTS) / row.num_bytes[LATENTS]
