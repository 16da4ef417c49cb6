"""Batches for a student of few steps: photos' latents, and steps that its teacher has taken before."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vae_ldm.data.posterior_cache import PosteriorDataset
from vae_ldm.data.sampling import Batch, EndlessBatches
from vae_ldm.data.tensor_shards import read_shards

_SEED_OF_JUMPS = 7


class JumpDataset(Dataset[dict[str, Tensor]]):
    """Batches of photos' posteriors, as of `PosteriorDataset`, and beside them as many jumps of the teacher.

    A jump leads from one noise level at which the student steps to the next: `before` and `after`, float32
    [B, c, h, w], the levels `first` and `last`, int64 [B], `jump_prompt_ids` [B, L] and `guidance` [B].
    """

    def __init__(
        self, photos: PosteriorDataset, from_noise: Path, from_photos: Path | None, marks: Sequence[int], *, seed: int
    ) -> None:
        """Folders are those of `Trajectories`; `marks` are the levels at which the student stands, and the last one."""
        self.photos = photos
        self.seed = seed
        self._marks = torch.tensor(marks)
        self._drawn = read_shards(from_noise)
        self._begun = None if from_photos is None else read_shards(from_photos)
        self._num_drawn = len(self._drawn["samples"]) * (len(marks) - 1)
        self.num_jumps = self._num_drawn + (0 if self._begun is None else len(self._begun["samples"]))

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, batch: Batch) -> dict[str, Tensor]:
        order = EndlessBatches(self.num_jumps, len(batch.indices), seed=self.seed + _SEED_OF_JUMPS)
        rows = torch.from_numpy(order.batch(batch.number).indices)
        is_drawn = rows < self._num_drawn
        parts = [self._from_noise(rows[is_drawn])]
        if self._begun is not None:
            parts.append(self._from_photos(rows[~is_drawn] - self._num_drawn))
        jumps = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return self.photos[batch] | jumps

    def _from_noise(self, rows: Tensor) -> dict[str, Tensor]:
        count = len(self._marks) - 1
        trajectory, step = rows // count, rows % count
        samples = self._drawn["samples"]
        levels = self._marks[step], self._marks[step + 1]
        return self._jumps(self._drawn, trajectory, samples[trajectory, step], samples[trajectory, step + 1], levels)

    def _from_photos(self, rows: Tensor) -> dict[str, Tensor]:
        assert self._begun is not None
        samples, first = self._begun["samples"], self._begun["level"][rows]
        last = self._marks[torch.searchsorted(self._marks, first, right=True)]
        return self._jumps(self._begun, rows, samples[rows, 0], samples[rows, 1], (first, last))

    @staticmethod
    def _jumps(
        shards: dict[str, Tensor], rows: Tensor, before: Tensor, after: Tensor, levels: tuple[Tensor, Tensor]
    ) -> dict[str, Tensor]:
        return {
            "before": before,
            "after": after,
            "first": levels[0],
            "last": levels[1],
            "jump_prompt_ids": shards["prompt_ids"][rows],
            "guidance": shards["guidance"][rows],
        }
