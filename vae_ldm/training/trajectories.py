"""What the teacher draws for its student before training: samples at the noise levels where the student stands."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vae_ldm.data.posterior_cache import PosteriorDataset
from vae_ldm.data.sampling import Batch, Shares
from vae_ldm.training.few_steps import FewSteps
from vae_ldm.training.teacher import Teacher, draw_guidance

_PHOTOS_WITHOUT_PROMPT = 0.5
"""Half of what begins at a photo goes without a prompt: `vary` has none by default."""


@dataclass
class Trajectories:
    """Makes them, each part of them from the seed and its own number alone."""

    teacher: Teacher
    steps: FewSteps
    photos: PosteriorDataset
    guidance_scale: tuple[float, float]
    caption_dropout: float
    seed: int
    batch_size: int
    """So many are followed at once; a part is as large, or the last one shorter."""
    report: Callable[[int], None]
    """Told of each part how many samples it has."""
    shares: Shares | None = None
    """How often photos, or their prompts, are taken of each source of a mixture; None: all equally often."""

    def from_noise(self, start: int, stop: int) -> dict[str, Tensor]:
        """Those of numbers start to stop, from noise to a picture: `samples` [n, K + 1, c, h, w].

        Beside them `prompt_ids` [n, L] and `guidance` [n].
        """
        generator, rows = self._begin(start, stop, kind=0)
        noise = torch.randn(len(rows), *self.photos.mean.shape[2:], generator=generator)
        asked = self._asked(rows, self.caption_dropout, generator)
        samples = self._follow(noise, 0, self.steps.last, asked)
        self.report(stop - start)
        return {"samples": torch.stack([samples[mark] for mark in self.steps.marks], 1), **asked}

    def from_photos(self, start: int, stop: int) -> dict[str, Tensor]:
        """Those from a photo with noise to the level at which a step of the student ends: `samples` [n, 2, c, h, w].

        Beside them `level` [n], where they begin, `prompt_ids` and `guidance`. All of a part begin at one level; parts
        take turns through all levels of the teacher, since img2img may begin anywhere.
        """
        generator, rows = self._begin(start, stop, kind=1)
        seen = self.photos[Batch(start, rows.numpy())]  # mirrored or not, as in training
        mean, std = seen["mean"], seen["std"]
        latents = torch.addcmul(mean, std, torch.randn(mean.shape, generator=generator))
        noise = torch.randn(mean.shape, generator=generator)
        level = 1 + start // self.batch_size % max(self.steps.last - 1, 1)
        asked = self._asked(rows, _PHOTOS_WITHOUT_PROMPT, generator)
        samples = self._follow(self.steps.noisy(latents, noise, level), level, self.steps.next_mark(level), asked)
        self.report(stop - start)
        ends = torch.stack([samples[0], samples[-1]], 1)
        return {"samples": ends, "level": torch.full((len(rows),), level), **asked}

    def _begin(self, start: int, stop: int, *, kind: int) -> tuple[torch.Generator, Tensor]:
        mixed = (self.seed * 0x9E3779B1 + start * 0x85EBCA77 + kind * 0xC2B2AE3D) % 2**63
        generator = torch.Generator().manual_seed(mixed)
        return generator, self._rows(stop - start, generator)

    def _rows(self, count: int, generator: torch.Generator) -> Tensor:
        """Rows of photos, drawn at random, int64 [count]."""
        if self.shares is None:
            return torch.randint(len(self.photos), (count,), generator=generator)
        sizes = torch.tensor(self.shares.counts)
        weights = torch.tensor(self.shares.weights, dtype=torch.float64)
        source = torch.multinomial(weights, count, replacement=True, generator=generator)
        place = (torch.rand(count, generator=generator, dtype=torch.float64) * sizes[source]).long()
        return (sizes.cumsum(0) - sizes)[source] + place

    def _asked(self, rows: Tensor, dropout: float, generator: torch.Generator) -> dict[str, Tensor]:
        dropped = torch.rand(len(rows), generator=generator) < dropout
        prompt_ids = torch.where(dropped[:, None], self.teacher.empty_prompt_ids.cpu(), self.photos.prompt_ids[rows])
        return {"prompt_ids": prompt_ids, "guidance": draw_guidance(self.guidance_scale, dropped, generator)}

    def _follow(self, sample: Tensor, first: int, last: int, asked: dict[str, Tensor]) -> list[Tensor]:
        there = self.teacher.device
        prompts = self.teacher.prompts(asked["prompt_ids"].to(there))
        guidance = asked["guidance"].to(there)

        def predict(sample: Tensor, timestep: Tensor) -> Tensor:
            return self.teacher.predict(sample, timestep, prompts, guidance)

        return [each.cpu() for each in self.steps.follow(predict, sample.to(there), first, last)]
