"""Two classifiers small enough to be trained a hundred times: on frozen features, and from scratch."""

from functools import partial
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae_ldm.evaluation.probe_classifier import pool_stages, train_head
from vae_ldm.models.batches import batch_size_for, in_batches
from vae_ldm.models.pixels import as_images, to_unit_range
from vae_ldm.models.vision_features import VisionFeatures


class Learner(Protocol):
    """A classifier to be trained again and again on parts of one pool of pictures, always for as many steps."""

    num_steps: int

    def __call__(self, rows: Tensor, labels: Tensor, num_classes: int, seed: int) -> Tensor:
        """Classes [V] that it sees in the held-out pictures after learning rows [n] of the pool with labels [n].

        Classes are drawn equally often whatever their counts. All of its chance follows from the seed.
        """


class ProbeLearner:
    """A linear classifier on the pooled feature maps of a frozen network, which are computed once."""

    def __init__(
        self, pool: np.ndarray, held_out: np.ndarray, *, features: VisionFeatures, num_steps: int = 300
    ) -> None:
        """Both uint8 [*, H, W, C]."""
        self.num_steps = num_steps
        self._pool, self._held_out = (
            torch.cat(
                list(in_batches(partial(_pooled, features), pictures, batch_size_for(pictures.shape[1:3], most=64)))
            )
            for pictures in (pool, held_out)
        )

    def __call__(self, rows: Tensor, labels: Tensor, num_classes: int, seed: int) -> Tensor:
        inputs = self._pool[rows]
        mean, std = inputs.mean(dim=0), inputs.std(dim=0, correction=0) + 1e-3
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = nn.Linear(inputs.shape[1], num_classes)
        generator = torch.Generator().manual_seed(seed)
        train_head(head, (inputs - mean) / std, labels, self.num_steps, generator)
        with torch.no_grad():
            return head((self._held_out - mean) / std).argmax(dim=1)


def _pooled(features: VisionFeatures, pictures: np.ndarray) -> Tensor:
    return pool_stages(features, as_images(pictures))


class SmallCNNLearner:
    """Four convolutions from scratch: what they know of the world is in the pictures that they are shown."""

    def __init__(
        self,
        pool: np.ndarray,
        held_out: np.ndarray,
        *,
        num_steps: int = 300,
        batch_size: int = 32,
        device: torch.device | None = None,
    ) -> None:
        """Both uint8 [*, H, W, C]."""
        self.num_steps, self.batch_size, self.device = num_steps, batch_size, device or torch.device("cpu")
        self._pool, self._held_out = (
            torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy(order="C")) for pictures in (pool, held_out)
        )

    def __call__(self, rows: Tensor, labels: Tensor, num_classes: int, seed: int) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = _small_cnn(self._pool.shape[1], num_classes).to(self.device)
        generator = torch.Generator().manual_seed(seed)
        weights = 1 / labels.bincount(minlength=num_classes).float()
        optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=self.num_steps)
        for _ in range(self.num_steps):
            drawn = torch.multinomial(weights[labels], self.batch_size, replacement=True, generator=generator)
            images = to_unit_range(self._pool[rows[drawn]].to(self.device))
            loss = F.cross_entropy(network(images), labels[drawn].to(self.device), label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        network.eval()
        with torch.no_grad():
            batches = [to_unit_range(batch.to(self.device)) for batch in self._held_out.split(256)]
            return torch.cat([network(batch).argmax(dim=1).cpu() for batch in batches])


def _small_cnn(channels: int, num_classes: int) -> nn.Sequential:
    widths = (channels, 24, 48, 96, 96)
    blocks: list[nn.Module] = []
    for width, wider in pairwise(widths):
        blocks += [nn.Conv2d(width, wider, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(wider), nn.ReLU()]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], num_classes))
