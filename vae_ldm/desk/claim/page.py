"""The page of `vae-ldm claim`: is this damage known, which past claims look like it, and what it could look like."""

import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from vae_ldm.files import write_whole
from vae_ldm.latent_space.false_alarms import photos_needed
from vae_ldm.pages.environment import environment
from vae_ldm.pages.image_grid import to_pillow
from vae_ldm.text import counted

_SHOWN_SIDE = 256
"""Small pictures are enlarged to about this many px, each pixel a square."""

Departs = Literal["nowhere", "in places", "as a whole", "unknown"]
"""What a heat map shows; unknown where usual photos are too few for a scale."""

FAMILIES_IN_WORDS = {
    "combination": "all of the following together",
    "moments": "what is in the photo, wherever it lies",
    "placed": "what lies at which place",
    "patches": "the strangest places",
    "directions": "how far the photo departs the way damage does",
    "activity": "how much detail and contrast it has on the whole",
    "closeness": "whether it is unusually like the known photos, as one too smooth is",
}


@dataclass(frozen=True, eq=False)
class SimilarPhoto:
    """A past photo as an agent should see it."""

    picture: np.ndarray | None
    """uint8 [H, W, C]; None where its file is gone."""
    similarity: float
    label: str | None
    caption: str | None
    id: str
    """Its name within the photos that the desk holds."""
    path: str


@dataclass(frozen=True)
class ScoreLine:
    """One way of being unusual, and how often usual photos are as unusual in that way."""

    name: str
    value: float
    p_value: float | None
    decides: bool

    @property
    def in_words(self) -> str:
        """What the score looks at."""
        return FAMILIES_IN_WORDS[self.name]


@dataclass(frozen=True, eq=False)
class VariationRow:
    """Pictures that the diffusion model makes of the photo at one strength."""

    strength: float
    pictures: Sequence[np.ndarray]


@dataclass(frozen=True, eq=False)
class ClaimPage:
    """All that the page shows of one photo."""

    title: str
    path: str
    """The photo as the user has named it."""
    novel: bool | None
    """None where usual photos are too few to say so."""
    p_value: float | None
    false_alarm_rate: float
    """The rate that the verdict is given at."""
    own_rate: float
    """The rate that the desk was made with."""
    num_reference: int
    num_calibration: int
    only_classes: Sequence[str]
    """The usual classes, which the detector was fitted on; empty: everything that the desk holds."""
    most_like: str | None
    """The known class that the photo is most like; None for a desk that knows none."""
    possible_classes: Sequence[str]
    """Known classes that cannot be ruled out, the likeliest first."""
    too_few_classes: Sequence[str]
    """Known classes of so few photos that nothing can be said of them; they are not among the possible ones."""
    whole: np.ndarray
    """The photo as an agent knows it, the ends that the model does not see made pale."""
    photo: np.ndarray
    """The photo as the model sees it, at its size."""
    heat_map: np.ndarray
    departs: Departs
    """What the heat map shows."""
    reconstruction: np.ndarray
    seen_share: float
    """The share of the photo's area that the model sees, in (0, 1]; exactly 1 where no end is pale."""
    foreign: str | None
    """A clause that the model does not know such photos well; None where it knows them."""
    true_rates: tuple[float, float]
    """The range in which the share of usual photos that this desk calls new lies, with 95 % confidence."""
    scores: Sequence[ScoreLine]
    is_reference: bool
    """Whether the detector was fitted on this photo."""
    held_as: Sequence[str]
    """Paths under which the desk holds this very file, byte for byte."""
    similar: Sequence[SimilarPhoto]
    """Other photos of the desk, the most similar first."""
    num_indexed: int
    variations: Sequence[VariationRow]
    prompt: str
    no_variations: str | None
    """Why there are none."""
    novelty_features: str
    search_features: str
    model: str
    device: str
    created: str

    @property
    def verdict(self) -> str:
        """The verdict in a few words. No test can say that it is the same damage: that is for the agent to see."""
        if self.held_as:
            return "This very photo is here already"
        if self.novel is None:
            return "No verdict: the desk has too few usual photos"
        if self.novel:
            known = self.only_classes and self.possible_classes
            return f"Not usual, and like a known class: {self.most_like}" if known else "Not seen before"
        return "Unusual, but not enough to be called new" if self.borderline else "Looks like what was seen before"

    @property
    def borderline(self) -> bool:
        """Whether a desk of twice the false-alarm rate would have called it new."""
        return not self.novel and self.p_value is not None and self.p_value <= 2 * self.false_alarm_rate

    @property
    def heat_in_words(self) -> str:
        """What stands below the heat map."""
        return {
            "nowhere": "No place is more unusual than in usual photos.",
            "in places": "Yellow to red marks the unusual places.",
            "unknown": "Yellow to red marks the places of this photo that are the most unusual.",
            "as a whole": "These places are the most unusual. None of them is unusual enough by itself; the photo is "
            "as a whole.",
        }[self.departs]

    @property
    def reasons(self) -> list[str]:
        """Why the verdict, a fact a sentence: the p-value and what it was calibrated on, or the photo that this is."""
        told = []
        if self.held_as:
            told.append(f"The index holds it, byte for byte: {', '.join(self.held_as)}.")
            if self.novel is not None:
                told.append(f"The detector calls it {'novel' if self.novel else 'seen'}.")
        told += [*self._p_value_in_words, *self._classes_in_words]
        if self.seen_share < 1:
            told.append(f"The model saw only the middle {100 * self.seen_share:.0f} % of the photo.")
        if self.foreign:
            told.append(f"{self.foreign[0].upper()}{self.foreign[1:]}.")
        return told

    @property
    def _p_value_in_words(self) -> list[str]:
        usual = counted(self.num_calibration, "usual photo")
        if self.p_value is None:
            needed = photos_needed(self.false_alarm_rate)
            return [f"This desk has {usual}. A false-alarm rate of {self.false_alarm_rate:g} takes {needed:,}."]
        # A photo of the desk is compared with the others.
        count = round(self.p_value * (self.num_calibration + (not self.is_reference))) - 1
        low, high = self.true_rates
        return [
            *(["The detector was fitted on this photo; it is judged without it."] if self.is_reference else []),
            f"Its p-value is {self.p_value:.2g}: {f'about {count:,}' if count else 'none'} of the {usual} of the desk, "
            f"each judged without itself, {'looks' if count < 2 else 'look'} at least as unusual as this one.",
            self._rate_in_words,
            f"With {usual} the true number of usual photos that are called new at this rate lies between "
            f"{100 * low:.2g} and {100 * high:.2g} of 100 (95 % confidence).",
        ]

    @property
    def _rate_in_words(self) -> str:
        own = f"{100 * self.own_rate:g} of 100 usual photos"
        if self.false_alarm_rate == self.own_rate:
            return f"This desk is set to call {own} new."
        return (
            f"At the rate that was asked for, {100 * self.false_alarm_rate:g} of 100 usual photos are called new; the "
            f"desk itself is set to {100 * self.own_rate:g} of 100."
        )

    @property
    def _classes_in_words(self) -> list[str]:
        told = [f"Usual photos are those of {', '.join(self.only_classes)}."] if self.only_classes else []
        if self.most_like is None:
            return told
        few = (
            [f"Of {_any_of(self.too_few_classes)} it has too few photos to rule the class out."]
            if self.too_few_classes
            else []
        )
        if self.possible_classes:
            if self.possible_classes == [self.most_like]:
                return [*told, f"Of the known classes only {self.most_like} is possible.", *few]
            may_be = _any_of(self.possible_classes)
            return [*told, f"Of the known classes it is most like {self.most_like}; it may be {may_be}.", *few]
        if self.too_few_classes:
            return [*told, f"Of the known classes it is most like {self.most_like}.", *few]
        return [*told, f"It is like none of the known classes; the nearest is {self.most_like}."]

    @property
    def neighbours_in_words(self) -> str | None:
        """The classes of the similar photos, most frequent first, in a sentence; None where none has a class."""
        labels = [one.label for one in self.similar]
        if not any(label is not None for label in labels):
            return None
        other = "other photo" if self.held_as else "photo"
        if len(labels) == 1:
            return f"The most similar {other} is of the class {labels[0]}."
        counts = Counter(label for label in labels if label is not None)
        ranked = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
        (label, most), *rest = ranked
        parts = [f"{most:,} {'is' if most == 1 else 'are'} of the class {label}"]
        parts += [f"{count:,} of the class {label}" for label, count in rest]
        if missing := labels.count(None):
            parts.append(f"{missing:,} of no class")
        *before, last = parts
        listed = f"{', '.join(before)} and {last}" if before else last
        return f"Of the {counted(len(labels), f'most similar {other}')}, {listed}."


def _any_of(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def write_claim(target: Path, page: ClaimPage) -> None:
    """Write the page in one step; it opens offline."""
    jinja = environment(__package__)
    jinja.globals.update(picture=_picture)
    write_whole(target, jinja.get_template("claim.html.jinja").render(page=page))


def _picture(pixels: np.ndarray) -> str:
    """The picture as a data URL, small ones enlarged."""
    scale = max(1, round(_SHOWN_SIDE / max(pixels.shape[:2])))
    image: Image.Image = to_pillow(pixels, scale)
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
