"""A small judge of content: which class a picture shows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae_ldm.models.batches import batch_size_for, in_batches
from vae_ldm.models.joined_pictures import PictureArray, of_one_size
from vae_ldm.models.pixels import as_images
from vae_ldm.models.vision_features import VisionFeatures, enlarge

_BATCH_SIZE = 64
"""Pictures looked at at once up to 256 px."""


@dataclass(frozen=True, eq=False)
class ProbeClassifier:
    """A linear classifier on the pooled feature maps of a frozen network.

    Pooling keeps mean, minimum and maximum of every channel of every stage, so that a crack one pixel wide counts as
    well as the shape of a shirt. It is a judge with limits: it learned from real pictures, slightly shifted, softened
    and noisy ones among them, so it forgives softness; a picture that fools it need not look right to a person. Read
    its agreement beside its ceiling, the agreement on held-out pictures.
    """

    features: VisionFeatures
    mean: Tensor
    std: Tensor
    head: nn.Linear

    # Of product photos at 64 px a probe tells 84 % of ten classes when they are enlarged to 96 px, 78 % as they are.
    min_side = 96

    @classmethod
    def fit(
        cls,
        pictures: PictureArray,
        labels: np.ndarray,
        num_classes: int,
        *,
        features: VisionFeatures,
        seed: int,
        max_images: int = 4000,
        max_steps: int = 1000,
        flips: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Self:
        """The classifier of uint8 pictures [N, H, W, C] with labels [N] in [0, num_classes); -1 (no class) is left out.

        Classes weigh the same whatever their counts. `flips`: classes stay the same in a mirror.
        `progress(done, total)` is told of the pictures looked at.
        """
        generator = torch.Generator().manual_seed(seed)
        labelled = np.flatnonzero(labels >= 0)
        assert len(labelled), "a probe needs pictures with classes"
        order = torch.randperm(len(labelled), generator=generator)[:max_images].sort().values.numpy()
        chosen = labelled[order]
        pooled = []
        of_sizes = [(chosen[np.isin(chosen, rows)], some.shape[1:3]) for rows, some in of_one_size(pictures)]
        chosen = np.concatenate([own for own, _ in of_sizes])
        for own, size in of_sizes:
            at_once = batch_size_for(size, most=_BATCH_SIZE)
            for rows in np.array_split(own, -(-len(own) // at_once)) if len(own) else ():
                degraded = degrade(as_images(pictures[rows]), generator, flips)
                pooled += list(in_batches(lambda images: pool_stages(features, images), degraded, at_once))
                if progress is not None:
                    progress(sum(map(len, pooled)), len(chosen))
        inputs, targets = torch.cat(pooled), torch.from_numpy(np.asarray(labels)[chosen]).long()
        mean, std = inputs.mean(dim=0), inputs.std(dim=0, correction=0) + 1e-3
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = nn.Linear(inputs.shape[1], num_classes)
        train_head(head, (inputs - mean) / std, targets, max_steps, generator)
        return cls(features, mean, std, head)

    @torch.no_grad()
    def probabilities(self, pictures: PictureArray) -> Tensor:
        """How sure it is of each class, [N, num_classes] that sum to 1, of uint8 pictures [N, H, W, C].

        64 at once up to 256 px, fewer of larger ones.
        """
        groups = of_one_size(pictures)
        pooled: list[Tensor] = []
        for _, of_size in groups:
            at_once = batch_size_for(of_size.shape[1:3], most=_BATCH_SIZE)
            pooled += in_batches(lambda some: pool_stages(self.features, as_images(some)), of_size, at_once)
        found = self.head((torch.cat(pooled) - self.mean) / self.std).softmax(dim=1)
        return found[torch.from_numpy(np.concatenate([rows for rows, _ in groups]).argsort())]

    def agrees(self, pictures: PictureArray, labels: Tensor) -> Tensor:
        """Whether each of the uint8 pictures [N, H, W, C] shows its class: booleans [N]."""
        return self.probabilities(pictures).argmax(dim=1) == labels


@torch.no_grad()
def pool_stages(features: VisionFeatures, images: Tensor) -> Tensor:
    """Mean, maximum and minimum over positions of every channel of every stage: [B, 3 * channels], on the CPU."""
    device = features.mean.device
    stages = features.stages(enlarge(images.to(device), ProbeClassifier.min_side))
    pooled = [pool for s in stages for pool in (s.mean(dim=(2, 3)), s.amax(dim=(2, 3)), s.amin(dim=(2, 3)))]
    return torch.cat(pooled, dim=1).float().cpu()


def degrade(images: Tensor, generator: torch.Generator, flips: bool) -> Tensor:
    """The images, all a little shifted; a third of them softened and a third noisy, as generated pictures may be."""
    height, width = images.shape[-2:]
    reach = max(min(height, width) // 16, 1)
    top, left = torch.randint(2 * reach + 1, (2,), generator=generator).tolist()
    images = F.pad(images, (reach,) * 4, mode="replicate")[..., top : top + height, left : left + width]
    kind = torch.randint(3, (len(images), 1, 1, 1), generator=generator)
    scale = 0.6 + 0.4 * torch.rand((), generator=generator).item()
    size = (max(round(height * scale), 1), max(round(width * scale), 1))
    soft = F.interpolate(F.interpolate(images, size, mode="bilinear", antialias=True), (height, width), mode="bilinear")
    noisy = images + 0.05 * torch.randn(images.shape, generator=generator)
    images = torch.where(kind == 0, images, torch.where(kind == 1, soft, noisy))
    mirrored = torch.rand((len(images), 1, 1, 1), generator=generator) < 0.5
    return torch.where(mirrored, images.flip(-1), images) if flips else images


def train_head(head: nn.Linear, inputs: Tensor, targets: Tensor, max_steps: int, generator: torch.Generator) -> None:
    """Train `head` in place on inputs [N, D] and targets [N], drawing every class equally often."""
    weights = 1 / targets.bincount(minlength=head.out_features).float()
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=max_steps)
    for _ in range(max_steps):
        rows = torch.multinomial(weights[targets], 128, replacement=True, generator=generator)
        loss = F.cross_entropy(head(inputs[rows]), targets[rows], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
