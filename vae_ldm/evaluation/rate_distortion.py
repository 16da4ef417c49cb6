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
    """What latents and codecs take and keep of the photos."""

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

    Where even the lowest quality keeps more, the result is the bytes of that quality.
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
