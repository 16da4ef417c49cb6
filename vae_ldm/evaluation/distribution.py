"""How near two sets of pictures are as distributions: Fréchet distance, KID, precision and recall on embeddings.

All take embeddings [N, D], so that pictures are embedded once. None is comparable between different features.
"""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from vae_ldm.evaluation.interval import Interval, Z, share_interval

MIN_IMAGES = 16
"""Below this many pictures a distribution's distance says nothing."""


class Embedded(nn.Identity):
    """The network for torchmetrics when the embeddings exist already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def frechet_dimensions(num_images: int, embedding_dim: int) -> int:
    """Dimensions on which a Fréchet distance of `num_images` may be taken: all, or at most 64.

    A covariance of D dimensions wants more than D pictures; with fewer, the distance is mostly that lack.
    """
    return embedding_dim if num_images >= 2 * embedding_dim else min(64, num_images // 4)


def principal_axes(reference: Tensor, num_dimensions: int) -> Tensor:
    """Orthonormal axes [D, num_dimensions] along which `reference` [N, D] varies most (PCA without scaling).

    Fit them on the training pictures, never on what is judged. Distances keep the unit of the features.
    """
    _, eigenvectors = torch.linalg.eigh(reference.double().T.cov())
    return eigenvectors.flip(1)[:, :num_dimensions].to(reference.dtype)


def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """Squared Fréchet distance of Gaussians fitted to [N, D] and [M, D], 0 and up (Heusel 2017, eq. 6).

    It falls with the number of pictures: compare values at equal N only.
    """
    metric = FrechetInceptionDistance(Embedded(real.shape[1]), sync_on_compute=False)
    metric.update(real, real=True)
    metric.update(generated, real=False)
    # Rounding may leave a hair below zero for equal sets.
    return max(metric.compute().item(), 0.0)


def frechet_interval(
    real: Tensor, generated: Tensor, *, paired: bool = False, num_halves: int = 20, seed: int = 0
) -> Interval:
    """95 % interval of `frechet_distance`, by the spread over random halves of the generated rows [M, D].

    That spread equals the standard error of the whole (delete-half jackknife, Shao & Wu 1989). The bias of few
    pictures is in the distance and not in the interval: it holds for values of the same number of pictures. Real rows
    [N, D] stay as they are; `paired`: row i of both is of one picture, and halves are of both.
    """
    generator = torch.Generator().manual_seed(seed)
    distance_to_whole = _distance_to(real)
    distances = []
    for _ in range(num_halves):
        half = torch.randperm(len(generated), generator=generator)[: len(generated) // 2]
        distance = _distance_to(real[half]) if paired else distance_to_whole
        distances.append(distance(generated[half]))
    value, reach = distance_to_whole(generated), Z * torch.tensor(distances).std().item()
    return Interval(max(value - reach, 0.0), value + reach)


def _distance_to(real: Tensor) -> Callable[[Tensor], float]:
    """`frechet_distance` to the Gaussian of `real` [N, D], the costly part of which is done once."""
    mean, covariance = _moments(real)
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T

    def distance(generated: Tensor) -> float:
        other_mean, other = _moments(generated)
        # The eigenvalues of AB are those of the symmetric sqrt(A) B sqrt(A), which are found more quickly.
        crossed = torch.linalg.eigvalsh(root @ other @ root).clamp(min=0).sqrt().sum()
        return ((mean - other_mean).square().sum() + covariance.trace() + other.trace() - 2 * crossed).item()

    return distance


def _moments(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [D] and covariance [D, D] of embeddings [N, D], in double precision."""
    return embeddings.double().mean(dim=0), embeddings.double().T.cov()


class KernelDistance(NamedTuple):
    value: float
    interval: Interval


def kernel_distance(
    real: Tensor, generated: Tensor, *, num_subsets: int = 50, max_subset: int = 500, seed: int = 0
) -> KernelDistance:
    """KID: unbiased squared MMD with the kernel (x.y / D + 1)^3 (Binkowski 2018), about 0 for equal distributions.

    The interval comes from the spread over random halves, which equals the standard error of the whole
    (delete-half jackknife, Shao & Wu 1989); over smaller subsets of m in n it is scaled by sqrt(m / (n - m)).
    """
    num_images = min(len(real), len(generated))
    subset = min(num_images // 2, max_subset)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", message=".*will save all extracted features")
        torch.manual_seed(seed)
        metric = KernelInceptionDistance(
            Embedded(real.shape[1]), subsets=num_subsets, subset_size=subset, sync_on_compute=False
        )
        metric.update(real, real=True)
        metric.update(generated, real=False)
        mean, spread = (x.item() for x in metric.compute())
    half = Z * spread * (subset / (num_images - subset)) ** 0.5
    return KernelDistance(mean, Interval(mean - half, mean + half))


class PrecisionRecall(NamedTuple):
    """Shares in [0, 1]. The intervals are Wilson's, of the pictures that are judged: the manifolds are held fixed."""

    precision: float
    recall: float
    precision_interval: Interval
    recall_interval: Interval


def precision_recall(real: Tensor, generated: Tensor, num_neighbours: int = 3) -> PrecisionRecall:
    """Shares in [0, 1] of generated pictures among the real, and of real among the generated (Kynkäänniemi 2019).

    A set's manifold is the union of balls around its members, each reaching its k-th neighbour (eq. 1, k = 3 as
    there). Give sets of equal size: balls shrink as a set grows.
    """
    # By direction, unlike the paper: featureless pictures have short embeddings, and those lie inside the ball of
    # every outlier. Pure noise had precision 1.00 against product photos that way, and has 0.00 this way.
    real, generated = F.normalize(real, dim=1), F.normalize(generated, dim=1)
    between = torch.cdist(real, generated)
    # Column 0 is the picture itself.
    real_radii = torch.cdist(real, real).kthvalue(num_neighbours + 1, dim=1).values
    generated_radii = torch.cdist(generated, generated).kthvalue(num_neighbours + 1, dim=1).values
    inside = (between <= real_radii[:, None]).any(dim=0)
    covered = (between <= generated_radii[None, :]).any(dim=1)
    intervals = [share_interval(int(hits.sum()), len(hits)) for hits in (inside, covered)]
    return PrecisionRecall(inside.float().mean().item(), covered.float().mean().item(), *intervals)
