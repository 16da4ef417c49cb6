"""What is asked of `vae-ldm augment`. Read without diffusers, so that a wrong call is told at once."""

from dataclasses import dataclass
from typing import Any

from vae_ldm.choices import MIN_STRENGTH, How
from vae_ldm.desk.augment.folder import Method
from vae_ldm.errors import VaeLdmError

_LARGEST_ROUND = 16


@dataclass(frozen=True)
class AugmentRequest:
    """What is asked of `augment`."""

    per_class: int = 50
    how: tuple[How, ...] = ("posterior", "vary", "sample")
    strengths: tuple[float, ...] = (0.3, 0.5, 0.7)
    seed: int = 0
    min_confidence: float = 0.0
    """The probe's probability of the class, at least."""
    max_tries: int = 8
    """Candidates drawn for each picture wanted, at most."""
    num_inference_steps: int | None = None
    """None: those of the run's recipe."""
    guidance_scale: float | None = None
    caption_template: str | None = None
    """The prompt of a class, with {label} for its name; None: that of the run's recipe."""

    def __post_init__(self) -> None:
        if self.per_class < 1:
            raise VaeLdmError(f"per_class is {self.per_class}; at least 1 picture a class is asked for")
        if not self.methods:
            raise VaeLdmError("no way to make pictures is named; name sample, vary or posterior")
        if self.caption_template is not None and "{label}" not in self.caption_template:
            raise VaeLdmError(f"caption template {self.caption_template!r} has no {{label}} in it")
        for strength in self.strengths:
            if not MIN_STRENGTH <= strength <= 1:
                raise VaeLdmError(f"strength is {strength:g}; it is at least {MIN_STRENGTH:g} and at most 1")

    @property
    def methods(self) -> list[Method]:
        """The ways in turn, from what stays nearest to a photo to what begins at noise.

        What one of them misses those after it make.
        """
        ways: list[Method] = [Method("posterior")] if "posterior" in self.how else []
        if "vary" in self.how:
            ways += [Method("vary", strength) for strength in sorted(set(self.strengths))]
        return [*ways, Method("sample")] if "sample" in self.how else ways

    @property
    def settings(self) -> dict[str, Any]:
        """What the pictures follow from, less what is left to the run's recipe."""
        left_to_recipe = {"num_inference_steps": self.num_inference_steps, "guidance_scale": self.guidance_scale}
        return {
            "per_class": self.per_class,
            "methods": [method.name for method in self.methods],
            "seed": self.seed,
            "min_confidence": self.min_confidence,
            "max_tries": self.max_tries,
            **{key: value for key, value in left_to_recipe.items() if value is not None},
        }

    def shares(self, turn: int) -> list[int]:
        """How many pictures each method is to make of the class with this number, from 0.

        Pictures are assigned to the methods in turn, and a class begins where the one before it stopped, so that fewer
        pictures a class than there are methods still come from all of them.
        """
        whole, rest = divmod(self.per_class, len(self.methods))
        extra = {(turn * self.per_class + number) % len(self.methods) for number in range(rest)}
        return [whole + (place in extra) for place in range(len(self.methods))]

    def methods_without_share(self, num_classes: int) -> list[str]:
        """Methods that have no share in any of so many classes: they make only what others miss."""
        shares = [self.shares(turn) for turn in range(num_classes)]
        return [method.name for place, method in enumerate(self.methods) if not any(share[place] for share in shares)]

    @property
    def round_size(self) -> int:
        """Candidates drawn at once. A round is drawn whole or not at all, so that a picture never depends on a kill."""
        return min(_LARGEST_ROUND, self.per_class)
