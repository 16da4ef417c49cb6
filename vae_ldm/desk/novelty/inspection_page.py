"""The page of `vae-ldm novelty inspect`: a histogram, a table of rates, and the oddest usual photos."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vae_ldm.desk.novelty.detector import DetectorFacts
from vae_ldm.evaluation.interval import share_interval
from vae_ldm.files import write_whole
from vae_ldm.latent_space.novelty_scores.combination import auroc
from vae_ldm.pages.curves import Axis
from vae_ldm.pages.environment import environment
from vae_ldm.pages.image_grid import to_pillow

_NUM_BINS = 36
_WIDTH, _HEIGHT = 720, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 710, 10, 190


@dataclass(frozen=True, eq=False)
class ScoredPhotos:
    """Photos of a folder, as a detector scores them."""

    name: str
    """The folder's name."""
    scores: np.ndarray
    """[N]"""
    p_values: np.ndarray
    """[N]"""
    num_reference: int
    """Photos among them that the detector was fitted on."""

    @property
    def num_photos(self) -> int:
        """How many could be read."""
        return len(self.scores)

    def share(self, rate: float) -> str:
        """How many are novel at a false-alarm rate, with the interval of the share."""
        hits = int((self.p_values <= rate + 1e-12).sum())
        low, high = share_interval(hits, self.num_photos)
        return f"{hits:,} of {self.num_photos:,}: {hits / self.num_photos:.1%} [{low:.1%}, {high:.1%}]"


@dataclass(frozen=True)
class RateRow:
    """One false-alarm rate."""

    rate: float
    photos_needed: int
    threshold: float | None
    """The score above which a photo is about to be novel; None where usual photos are too few for the rate."""
    is_own: bool
    """Whether the detector was fitted with this rate."""


@dataclass(frozen=True, eq=False)
class OddPhoto:
    """A usual photo that departs from the others."""

    id: str
    path: str
    score: float
    p_value: float
    picture: np.ndarray | None
    """uint8 [H, W, 3]; None where the file is gone."""
    heat_map: np.ndarray | None


@dataclass(frozen=True)
class Bars:
    """One histogram, in SVG units."""

    name: str
    color: str
    path: str
    """The outline of its bars."""


@dataclass(frozen=True, eq=False)
class Inspection:
    """All that the page shows of a detector."""

    detector: str
    facts: DetectorFacts
    usual: np.ndarray
    """Scores of the usual photos, each by a fit that has not seen it: [N]."""
    good: ScoredPhotos | None
    bad: ScoredPhotos | None
    rates: Sequence[RateRow]
    promise: float
    """The share of usual photos that are called novel at most, whatever the photos are; see `cross_promise`."""
    odd: Sequence[OddPhoto]
    left_out: Sequence[str]
    device: str
    created: str

    @property
    def auroc(self) -> float | None:
        """How often a photo of `bad` scores higher than one of `good`; None without both."""
        if self.good is None or self.bad is None:
            return None
        usual, novel = (torch.from_numpy(each.scores)[:, None] for each in (self.good, self.bad))
        return auroc(usual, novel).item()

    @property
    def sets(self) -> dict[str, np.ndarray]:
        """The scores of each histogram."""
        found = {"usual photos": self.usual}
        if self.good is not None:
            found["good photos"] = self.good.scores
        if self.bad is not None:
            found["bad photos"] = self.bad.scores
        return found

    @property
    def scale(self) -> Axis:
        """Scores on the histogram's width."""
        scores = np.concatenate(list(self.sets.values()))
        return Axis(math.floor(scores.min()), math.ceil(scores.max() + 1e-9), _LEFT, _RIGHT)

    @property
    def histograms(self) -> list[Bars]:
        """Each set of photos as shares of its own number, on one scale."""
        axis = self.scale
        edges = np.linspace(axis.low, axis.high, _NUM_BINS + 1)
        shares = {name: np.histogram(scores, edges)[0] / len(scores) for name, scores in self.sets.items()}
        highest = max(share.max() for share in shares.values())
        colors = {"usual photos": "var(--soft)", "good photos": "var(--good)", "bad photos": "var(--bad)"}
        across = axis(edges)
        return [Bars(name, colors[name], _outline(across, share / highest)) for name, share in shares.items()]


def write_inspection(target: Path, page: Inspection) -> None:
    """Write the page in one step; it opens offline."""
    jinja = environment(__package__)
    jinja.globals.update(picture=_picture)
    size = {"width": _WIDTH, "height": _HEIGHT, "left": _LEFT, "right": _RIGHT, "top": _TOP, "bottom": _BOTTOM}
    write_whole(target, jinja.get_template("inspection.html.jinja").render(page=page, plot=size))


def _outline(across: np.ndarray, heights: np.ndarray) -> str:
    """The bars between `across` [n + 1] of `heights` [n] in [0, 1], as one SVG path."""
    up = _BOTTOM - heights * (_BOTTOM - _TOP)
    steps = [f"H{right:.1f}V{top:.1f}" for right, top in zip(across[1:], [*up[1:], _BOTTOM], strict=True)]
    return f"M{across[0]:.1f} {_BOTTOM}V{up[0]:.1f}{''.join(steps)}Z"


def _picture(pixels: np.ndarray) -> str:
    """The picture as a data URL."""
    stream = io.BytesIO()
    to_pillow(pixels, 1).save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
