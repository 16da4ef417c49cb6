"""Bytes against likeness: latents at each step beside picture codecs, photo by photo."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vae_ldm.evaluation.codec import Codec, CodecLadder, Compressed, Ladder
from vae_ldm.evaluation.legibility import Reader, character_error_rate, kept_share
from vae_ldm.evaluation.worst_crops import worst_crops

TARGETS = (20, 22, 24, 26, 28, 30, 32, 34, 36, 38, 40)
"""dB at which the ways to keep a photo are weighed against each other."""
LATENTS = "latents"
ORIGINAL = "original"
_CODEC_PARTS, _READ_PARTS = 3, 2
"""The work of a photo for each codec, and for each method that a reader reads, in steps of the latents."""


@dataclass(frozen=True, eq=False)
class Curve:
    """A way to keep photos, at several settings from few bytes to many: float [settings, N], NaN where it has none."""

    name: str
    settings: list[str]
    num_bytes: np.ndarray
    psnr: np.ndarray


class ComparedCrop(NamedTuple):
    """A place that suffered, as it was and as each way keeps it, uint8 [side, side, C]."""

    id: str
    psnr: float
    pictures: dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Legibility:
    """What a reader still reads at each step, and in the same bytes from a codec."""

    reader: str
    what: str
    num_photos: int
    """The number of photos on which it reads anything."""
    num_read: int
    """Things it reads on the photos themselves."""
    kept: dict[str, np.ndarray]
    """The share of what was read that each method still lets through, in [0, 1], float [steps]."""
    wrong: dict[str, np.ndarray]
    """Wrong characters of each method for each character read before, float [steps]."""


@dataclass(frozen=True, eq=False)
class RateDistortion:
    """The photos in latents and in codecs."""

    latents: Curve
    """The curve of the latents, one point a step."""
    codecs: list[Curve]
    """Curves of the codecs, at the lowest quality and at the lowest that reaches each of TARGETS."""
    equal: dict[str, np.ndarray]
    """Bytes of each codec at the PSNR of each step, float [steps, N]; NaN where it never gets there.

    Between two of its qualities they are interpolated, or a codec would pay for up to a step of quality more.
    """
    at_target: dict[str, np.ndarray]
    """Bytes of each method at each of TARGETS, float [targets, N]; NaN where it never gets there."""
    fits: dict[str, np.ndarray]
    """The share of photos that each codec fits into the bytes of each step, float [steps]."""
    crops: list[ComparedCrop]
    crop_setting: str
    legibility: list[Legibility]

    @property
    def num_photos(self) -> int:
        return self.latents.psnr.shape[1]


class RateDistortionJudge:
    """Takes photos one by one and keeps their numbers, not their pixels."""

    def __init__(
        self, steps: Sequence[tuple[int, float]], codecs: Sequence[Codec], readers: Sequence[Reader], *, crop_step: int
    ) -> None:
        """`steps` are those to be measured: number and size; `crop_step` is the number that worst crops are of."""
        self.steps, self.codecs, self.readers, self.crop_step = list(steps), list(codecs), list(readers), crop_step
        self._points: dict[str, list[list[tuple[float, float]]]] = defaultdict(list)
        self._equal: dict[str, list[list[float]]] = defaultdict(list)
        self._fits: dict[str, list[list[bool]]] = defaultdict(list)
        self._targets: dict[str, list[list[float]]] = defaultdict(list)
        self._crops: list[ComparedCrop] = []
        self._kept: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
        self._wrong: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
        self._num_read: dict[str, int] = defaultdict(int)

    @property
    def parts_a_photo(self) -> int:
        """What `add` counts of each photo, in parts that take about equally long."""
        ways = 1 + len(self.codecs)
        return len(self.steps) + _CODEC_PARTS * len(self.codecs) + _READ_PARTS * ways * len(self.readers)

    def add(self, name: str, latents: Ladder, on_part: Callable[[int], None] | None = None) -> None:
        """Measure one photo, which `latents` is a ladder of; `on_part` hears how many parts of it are done."""
        done = 0

        def tell(parts: int = 1) -> None:
            nonlocal done
            done += parts
            if on_part is not None:
                on_part(done)

        ladders = {codec.name: CodecLadder(latents.pixels, codec) for codec in self.codecs}
        made = {}
        for number, _ in self.steps:
            made[number] = latents[number]
            tell()
        points: list[tuple[float, float]] = [(made[number].num_bytes, latents.psnr(number)) for number, _ in self.steps]
        self._points[LATENTS].append(points)
        self._targets[LATENTS].append([num_bytes for num_bytes, _ in _at_targets(latents)])
        for codec, ladder in ladders.items():
            lowest = (ladder.num_bytes(ladder.min_quality), ladder.psnr(ladder.min_quality))
            at_targets = _at_targets(ladder)
            self._points[codec].append([lowest, *at_targets])
            self._targets[codec].append([num_bytes for num_bytes, _ in at_targets])
            self._equal[codec].append([_bytes_at(ladder, psnr) for _, psnr in points])
            self._fits[codec].append([lowest[0] <= size for size, _ in points])
            tell(_CODEC_PARTS)
        self._crops.append(self._worst_crop(name, latents.pixels, made[self.crop_step], ladders))
        for reader in self.readers:
            self._read(reader, latents.pixels, list(made.values()), ladders, tell)

    def result(self) -> RateDistortion:
        """The measurements of all photos added."""
        settings = [f"{size:.3g}" for _, size in self.steps]
        curves = {name: np.array(points).transpose(2, 1, 0) for name, points in self._points.items()}
        legibility = []
        for reader in self.readers:
            ways = [LATENTS, *(codec.name for codec in self.codecs)]
            if self._num_read[reader.name]:
                kept, wrong = (
                    {way: np.mean(table[reader.name, way], axis=0) for way in ways}
                    for table in (self._kept, self._wrong)
                )
                photos = len(self._kept[reader.name, LATENTS])
                legibility.append(
                    Legibility(reader.name, reader.what, photos, self._num_read[reader.name], kept, wrong)
                )
        return RateDistortion(
            latents=Curve(LATENTS, settings, *curves[LATENTS]),
            codecs=[Curve(codec.name, [], *curves[codec.name]) for codec in self.codecs],
            equal={name: np.array(rows).T for name, rows in self._equal.items()},
            at_target={name: np.array(rows).T for name, rows in self._targets.items()},
            fits={name: np.mean(rows, axis=0) for name, rows in self._fits.items()},
            crops=sorted(self._crops, key=lambda crop: crop.psnr),
            crop_setting=f"{dict(self.steps)[self.crop_step]:.3g}",
            legibility=legibility,
        )

    def _worst_crop(
        self, name: str, original: np.ndarray, made: Compressed, ladders: Mapping[str, CodecLadder]
    ) -> ComparedCrop:
        (crop,) = worst_crops(original[None], made.pixels[None], 1)
        pictures = {ORIGINAL: original, LATENTS: made.pixels}
        pictures |= {codec: ladder[ladder.within(made.num_bytes)].pixels for codec, ladder in ladders.items()}
        return ComparedCrop(name, crop.psnr, {way: crop.of(pixels[None]) for way, pixels in pictures.items()})

    def _read(
        self,
        reader: Reader,
        original: np.ndarray,
        made: Sequence[Compressed],
        ladders: Mapping[str, CodecLadder],
        tell: Callable[[int], None],
    ) -> None:
        before = reader.read(original)
        if not before:
            return
        self._num_read[reader.name] += len(before)

        def keep(way: str, after: Sequence[list[str]]) -> None:
            self._kept[reader.name, way].append([kept_share(before, one) for one in after])
            self._wrong[reader.name, way].append([character_error_rate(before, one) for one in after])
            tell(_READ_PARTS)

        keep(LATENTS, [reader.read(one.pixels) for one in made])
        for codec, ladder in ladders.items():
            qualities = [ladder.within(one.num_bytes) for one in made]
            after = {quality: reader.read(ladder[quality].pixels) for quality in dict.fromkeys(qualities)}
            keep(codec, [after[quality] for quality in qualities])


def _reaching(ladder: Ladder, psnr: float) -> tuple[float, float]:
    """Bytes and dB at the lowest quality that keeps `psnr` dB; NaN where none does."""
    quality = ladder.reaching(psnr)
    return (np.nan, np.nan) if quality is None else (ladder.num_bytes(quality), ladder.psnr(quality))


def _bytes_at(ladder: Ladder, psnr: float) -> float:
    """Bytes at `psnr` dB, log bytes interpolated between the two qualities around it; NaN where none reaches it.

    The lowest quality's own bytes where even that keeps more.
    """
    quality = ladder.reaching(psnr)
    if quality is None:
        return np.nan
    above = ladder.num_bytes(quality)
    if quality == ladder.min_quality:
        return above
    places = (ladder.psnr(quality - 1), ladder.psnr(quality))
    return float(np.exp(np.interp(psnr, places, np.log([ladder.num_bytes(quality - 1), above]))))


def _at_targets(ladder: Ladder) -> list[tuple[float, float]]:
    return [_reaching(ladder, target) for target in TARGETS]


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
        span = f"from {won[0].psnr:.1f} to {won[-1].psnr:.1f} dB" if len(won) > 1 else f"at {won[0].psnr:.1f} dB"
        said.append(
            f"Latents take fewer bytes than JPEG, WebP and AVIF at equal PSNR {span}; most at {best.psnr:.1f} dB: "
            f"{best.num_bytes[LATENTS]:,.0f} bytes a photo against {best.num_bytes[rival]:,.0f} of {rival}"
            f"{_at_lowest(best, rival)}."
        )
    lost = [row for row in rows if row.best != LATENTS]
    if lost:
        nearest = max(lost, key=_saving)
        where = "everywhere" if not won else f"at {', '.join(f'{row.psnr:.1f}' for row in lost)} dB"
        said.append(
            f"Codecs win {where}; latents come nearest at {nearest.psnr:.1f} dB, where {nearest.best} takes "
            f"{nearest.num_bytes[nearest.best]:,.0f} bytes a photo{_at_lowest(nearest, nearest.best)} and they take "
            f"{nearest.num_bytes[LATENTS]:,.0f}."
        )
    finest = result.latents.psnr[-1]
    said.append(
        f"However fine the step, the autoencoder keeps {finest.mean():.1f} dB in the mean; beyond that codecs go on."
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


def _at_lowest(row: StepRow, codec: str) -> str:
    if codec not in row.lowest:
        return ""
    lowest = row.lowest[codec]
    some = "" if lowest.num_photos == row.num_photos else f" on {lowest.num_photos} of {row.num_photos} photos"
    return f" (at its lowest quality{some}, {lowest.psnr:.1f} dB)"


def _saving(row: StepRow) -> float:
    """How many times the latents' bytes the best codec takes."""
    return min(size for way, size in row.num_bytes.items() if way != LATENTS) / row.num_bytes[LATENTS]
