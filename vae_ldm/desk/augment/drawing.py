"""Draws the pictures of `vae-ldm augment` round by round and class by class, and keeps what passes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vae_ldm.data.pictures import Pictures
from vae_ldm.desk.augment.candidate_filter import CandidateFilter
from vae_ldm.desk.augment.folder import AugmentedFolder, Method, Round, picture_name, slugs
from vae_ldm.desk.augment.request import AugmentRequest
from vae_ldm.desk.pipeline import PhotoPipeline
from vae_ldm.models.pixels import as_images
from vae_ldm.pipelines.sampling import sample_images
from vae_ldm.terminal import PlainConsole, StepReport
from vae_ldm.text import counted

_FRUITLESS_ROUNDS, _FRUITLESS_DRAWN = 2, 16
"""A way that has kept nothing of so many rounds and so many pictures is given up for a class."""
_HOPELESS_CLASSES, _HOPELESS_DRAWN, _HOPELESS_COPIES = 3, 64, 0.9
"""One that has kept nothing of so many classes and pictures, this share of them near copies, is given up for all."""


@dataclass(frozen=True)
class PictureDrawer:
    """Draws round by round, class by class, and keeps what passes."""

    request: AugmentRequest
    model: PhotoPipeline
    train: Pictures
    prompts: dict[str, str]
    folder: AugmentedFolder
    console: PlainConsole

    def draw(self, passes: CandidateFilter, seen_ids: Sequence[str]) -> list[Round]:
        """Every round of every class, drawn now or before."""
        rounds: list[Round] = []
        folders = slugs(list(self.prompts))
        wanted_of_class = self.request.per_class
        wanted = wanted_of_class * len(self.prompts)
        methods = self.request.methods
        if idle := self.request.methods_without_share(len(self.prompts)):
            self.console.say(
                f"{counted(wanted, 'picture')} {'is' if wanted == 1 else 'are'} too few to share among all ways; "
                f"{', '.join(idle)} {'draws' if len(idle) == 1 else 'draw'} only what the others miss"
            )
        given_up: set[str] = set()
        with StepReport("drawing pictures", self.console) as report:
            for turn, label in enumerate(self.prompts):
                missing, of_class, kept = 0, 0, 0
                for place, (method, own_share) in enumerate(zip(methods, self.request.shares(turn), strict=True)):
                    share = own_share + math.ceil(missing / (len(methods) - place))
                    missing += own_share
                    if method.name in given_up:
                        continue
                    for number in range(_max_rounds(share, self.request)):
                        done = self.folder.round(folders[label], method, number)
                        if done is None:
                            report(turn * wanted_of_class + kept, wanted)
                            done = self._round(label, folders[label], method, number, share, passes, seen_ids)
                        rounds.append(done)
                        of_class, kept = of_class + done.drawn, kept + len(done.rows)
                        missing, share = missing - len(done.rows), share - len(done.rows)
                        if share == 0 or _is_fruitless(rounds[-number - 1 :]):
                            break
                    if reason := _is_hopeless([done for done in rounds if done.method == method.name]):
                        given_up.add(method.name)
                        self.console.say(f"{method.name}: {reason}; given up for the other classes")
                self.folder.describe(rounds)
                if missing:
                    self.console.say(
                        f"{label}: {wanted_of_class - missing} of {wanted_of_class} after {of_class} drawn; "
                        "the rest were near copies or seen as another class"
                    )
            report(wanted, wanted)
        return rounds

    def _round(
        self,
        label: str,
        folder: str,
        method: Method,
        number: int,
        share: int,
        passes: CandidateFilter,
        seen_ids: Sequence[str],
    ) -> Round:
        size = self.request.round_size
        seeds = [self.request.seed + number * size + place for place in range(size)]
        sources = self._sources(label, method, number * size, size)
        pictures = np.concatenate(
            [
                self._pictures(self.prompts[label], method, None if sources is None else sources[part], seeds[part])
                for part in _parts(size, self.model.batch_size)
            ]
        )
        class_index = self.train.class_names.index(label)
        judged = passes(pictures, torch.full((size,), class_index))
        kept = judged.keep.nonzero().flatten().tolist()[:share]
        rows = []
        for place in kept:
            source = None if sources is None else self.train.ids[sources[place]]
            rows.append(
                {
                    "file_name": picture_name(folder, method, source, seeds[place]),
                    "label": label,
                    "text": self.prompts[label],
                    "synthetic": True,
                    "how": method.how,
                    "strength": method.strength,
                    "source": source,
                    "seed": seeds[place],
                    "model": self.model.source,
                    "model_digest": self.model.digest,
                    "nearest_photo": seen_ids[int(judged.nearest[place])],
                    "feature_distance": round(judged.feature_distance[place].item(), 4),
                    "pixel_distance": round(judged.pixel_distance[place].item(), 4),
                    "confidence": round(judged.confidence[place].item(), 4),
                }
            )
        off_class = int((judged.off_class & ~judged.near_copy).sum())
        done = Round(label, method.name, number, size, int(judged.near_copy.sum()), off_class, rows)
        self.folder.add(done, folder, method, [pictures[place] for place in kept])
        return done

    def _sources(self, label: str, method: Method, first: int, count: int) -> np.ndarray | None:
        """Rows of the training photos that these candidates come from, each photo of the class in turn."""
        if method.how == "sample":
            return None
        rows = np.flatnonzero(self.train.labels == self.train.class_names.index(label))
        shuffled = np.random.default_rng([self.request.seed, *method.name.encode()]).permutation(rows)
        return shuffled[np.arange(first, first + count) % len(shuffled)]

    def _pictures(self, prompt: str, method: Method, sources: np.ndarray | None, seeds: Sequence[int]) -> np.ndarray:
        """uint8 [B, H, W, C], each from its own seed."""
        pipeline = self.model.pipeline
        settings: dict[str, Any] = {
            "num_inference_steps": self.request.num_inference_steps or self.model.settings.num_inference_steps,
            "guidance_scale": (
                self.model.settings.guidance_scale
                if self.request.guidance_scale is None
                else self.request.guidance_scale
            ),
        }
        if sources is None:
            return np.stack(sample_images(pipeline, [prompt] * len(seeds), seeds=seeds, **settings))
        photos = np.asarray(self.train.images[sources])
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        if method.how == "vary":
            assert method.strength is not None
            varied = pipeline.vary(
                photos, method.strength, 1, prompt=prompt, generator=generators, output_type="np", **settings
            ).images
            return _at_rest(varied)
        autoencoder = pipeline.autoencoder
        latents = autoencoder.encode_batch(as_images(photos), generator=generators)
        return _at_rest(autoencoder.decode(latents, size=self.model.image_size, output_type="np"))


def _parts(count: int, size: int) -> list[slice]:
    return [slice(first, first + size) for first in range(0, count, size)]


def _max_rounds(share: int, request: AugmentRequest) -> int:
    return math.ceil(request.max_tries * share / request.round_size)


def _is_fruitless(rounds: Sequence[Round]) -> bool:
    """Whether the first rounds of a method kept nothing, so that the following ones would keep next to nothing."""
    drawn = sum(done.drawn for done in rounds)
    return len(rounds) >= _FRUITLESS_ROUNDS and drawn >= _FRUITLESS_DRAWN and not any(done.rows for done in rounds)


def _is_hopeless(rounds: Sequence[Round]) -> str | None:
    """Why a way gives nothing in any class, judged by its rounds so far; None while it may.

    Whether a picture is a near copy is a matter of the way; whether it shows another class, one of the class as well.
    """
    drawn, near_copies = sum(done.drawn for done in rounds), sum(done.near_copies for done in rounds)
    num_classes = len({done.label for done in rounds})
    if any(done.rows for done in rounds) or num_classes < _HOPELESS_CLASSES or drawn < _HOPELESS_DRAWN:
        return None
    if near_copies < _HOPELESS_COPIES * drawn:
        return None
    return f"nothing kept of {drawn} pictures of {num_classes} classes, {near_copies} of them near copies"


def _at_rest(images: np.ndarray) -> np.ndarray:
    return np.round(images * 255).astype(np.uint8)


def finished_rounds(folder: AugmentedFolder, request: AugmentRequest, labels: Sequence[str]) -> list[Round]:
    """Every round of a folder that is whole."""
    found = []
    for class_folder in slugs(labels).values():
        for method in request.methods:
            number = 0
            while (done := folder.round(class_folder, method, number)) is not None:
                found.append(done)
                number += 1
    return found
