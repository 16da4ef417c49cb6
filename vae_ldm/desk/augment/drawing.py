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
from vae_ldm.desk.augment.request import Order
from vae_ldm.desk.pipeline import PhotoPipeline
from vae_ldm.models.pixels import as_images
from vae_ldm.pipelines.sampling import sample_images
from vae_ldm.terminal import PlainConsole, StepReport

_FRUITLESS_ROUNDS, _FRUITLESS_DRAWN = 2, 16
"""A way that has kept nothing of so many rounds and so many pictures is given up for a class."""


@dataclass(frozen=True)
class Draughtsman:
    """Draws round by round, class by class, and keeps what passes."""

    order: Order
    model: PhotoPipeline
    train: Pictures
    prompts: dict[str, str]
    folder: AugmentedFolder
    console: PlainConsole

    def draw(self, passes: CandidateFilter, seen_ids: Sequence[str]) -> list[Round]:
        """Every round of every class, drawn now or before."""
        rounds: list[Round] = []
        folders = slugs(list(self.prompts))
        wanted = self.order.per_class * len(self.prompts)
        methods = self.order.methods
        if undealt := self.order.undealt(len(self.prompts)):
            self.console.say(
                f"{wanted} pictures are too few for all ways: {', '.join(undealt)} only where another one misses"
            )
        with StepReport("drawing", self.console) as report:
            for turn, label in enumerate(self.prompts):
                missing, of_class = 0, 0
                for place, (method, dealt) in enumerate(zip(methods, self.order.deal(turn), strict=True)):
                    share = dealt + math.ceil(missing / (len(methods) - place))
                    missing += dealt
                    for number in range(_max_rounds(share, self.order)):
                        done = self.folder.round(folders[label], method, number)
                        if done is None:
                            report((turn + 1) * self.order.per_class - missing, wanted)
                            done = self._round(label, folders[label], method, number, share, passes, seen_ids)
                        rounds.append(done)
                        of_class += done.drawn
                        missing, share = missing - len(done.rows), share - len(done.rows)
                        if share == 0 or _is_fruitless(rounds[-number - 1 :]):
                            break
                self.folder.describe(rounds)
                if missing:
                    self.console.say(
                        f"{label}: {self.order.per_class - missing} of {self.order.per_class} after {of_class} drawn; "
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
        size = self.order.round_size
        seeds = [self.order.seed + number * size + place for place in range(size)]
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
        order = np.random.default_rng([self.order.seed, *method.name.encode()]).permutation(rows)
        return order[np.arange(first, first + count) % len(order)]

    def _pictures(self, prompt: str, method: Method, sources: np.ndarray | None, seeds: Sequence[int]) -> np.ndarray:
        """uint8 [B, H, W, C], each from its own seed."""
        pipeline = self.model.pipeline
        settings: dict[str, Any] = {
            "num_inference_steps": self.order.num_inference_steps or self.model.settings.num_inference_steps,
            "guidance_scale": (
                self.model.settings.guidance_scale if self.order.guidance_scale is None else self.order.guidance_scale
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


def _max_rounds(share: int, order: Order) -> int:
    return math.ceil(order.max_tries * share / order.round_size)


def _is_fruitless(rounds: Sequence[Round]) -> bool:
    """Of the rounds of one method so far the first ones kept nothing: what follows would keep next to nothing."""
    drawn = sum(done.drawn for done in rounds)
    return len(rounds) >= _FRUITLESS_ROUNDS and drawn >= _FRUITLESS_DRAWN and not any(done.rows for done in rounds)


def _at_rest(images: np.ndarray) -> np.ndarray:
    return np.round(images * 255).astype(np.uint8)


def finished_rounds(folder: AugmentedFolder, order: Order, labels: Sequence[str]) -> list[Round]:
    """Every round of a folder that is whole."""
    found = []
    for class_folder in slugs(labels).values():
        for method in order.methods:
            number = 0
            while (done := folder.round(class_folder, method, number)) is not None:
                found.append(done)
                number += 1
    return found
