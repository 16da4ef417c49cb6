"""What a user should know of the pictures of a run, a line each: what is not applied, and what is not learned."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from vae_ldm.data.decoding import Remark
from vae_ldm.data.pictures import PictureSplits
from vae_ldm.text import counted, shown

_FEW_LEVELS = 64


class DecodingRemarks:
    """Remarks of `decode_picture` over many pictures; threads share it."""

    def __init__(self) -> None:
        self._values: dict[Remark, list[int]] = {"profile": [], "levels": []}

    def __call__(self, remark: Remark, value: int) -> None:
        self._values[remark].append(value)

    def lines(self) -> Iterator[str]:
        """Nothing where all colours are sRGB and 16-bit pictures use many of their levels."""
        if num_profiles := len(self._values["profile"]):
            pictures = counted(num_profiles, "picture")
            yield (
                f"{pictures} with a colour profile other than sRGB, which is not applied: colours differ from those in "
                "a colour-managed viewer; convert the pictures to sRGB if that matters"
            )
        levels = self._values["levels"]
        if levels and (typical := int(np.median(levels))) < _FEW_LEVELS:
            yield (
                f"{counted(len(levels), 'picture')} of 16 bits: a typical one uses {typical} of the 256 levels of 8 "
                "bits, since its values fill a small part of 0 to 65535; stretch all pictures by one rule to that range"
            )


def remarks_on_classes(splits: PictureSplits, class_prompts: Sequence[str]) -> Iterator[str]:
    """Classes that share one prompt, and classes without a training picture. `class_prompts` has one for each class."""
    of_prompts = defaultdict(list)
    for name, prompt in zip(splits.train.class_names, class_prompts, strict=True):
        of_prompts[prompt].append(name)
    captions = set(splits.train.captions)
    for prompt, names in of_prompts.items():
        if len(names) > 1 and prompt in captions:
            yield f"the classes {_listed(names)} have the same prompt, {prompt!r}; a model cannot tell them apart"
    trained = set(splits.trained_classes)
    untrained = [name for label, name in enumerate(splits.train.class_names) if label not in trained]
    if untrained:
        classes = "class" if len(untrained) == 1 else "the classes"
        yield (
            f"no training picture is of {classes} {_listed(untrained)}, which a model therefore does not learn; add "
            "training pictures, or remove those of validation"
        )


def _listed(names: Sequence[str]) -> str:
    return shown(", ".join(names[:8]) + (", ..." if len(names) > 8 else ""))
