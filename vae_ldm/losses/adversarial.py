"""The hinge game between decoder and discriminator (Lim & Ye 2017, eq. 8 and 9), and how loudly it is played."""

from collections.abc import Callable

import torch
from torch import Tensor


def hinge_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Half of max(0, 1 - real) + max(0, 1 + fake), mean over patches, one value per image: [B]; 1 at logits 0."""
    real = (1 - real_logits.float()).relu().flatten(1).mean(1)
    fake = (1 + fake_logits.float()).relu().flatten(1).mean(1)
    return (real + fake) / 2


def hinge_generator_loss(fake_logits: Tensor) -> Tensor:
    """Minus the mean logit over patches, one value per image, unbounded: [B]."""
    return -fake_logits.float().flatten(1).mean(1)


def adaptive_weight(
    reconstruction_loss: Tensor,
    generator_loss: Tensor,
    last_layer: Tensor,
    *,
    max_weight: float = 1e4,
    average: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The weight, a detached scalar in [0, max_weight], at which both losses pull equally hard on the decoder.

    The ratio of their gradients' norms at `last_layer`, the weight of the decoder's last convolution (Esser 2020,
    eq. 7). Both losses are scalars whose graph is kept; no `.grad` is touched. `average` takes a gradient to its mean
    over processes, where there are several: the norm of a mean is not the mean of norms.
    """
    (reconstruction_grad,) = torch.autograd.grad(reconstruction_loss, last_layer, retain_graph=True)
    (generator_grad,) = torch.autograd.grad(generator_loss, last_layer, retain_graph=True)
    if average is not None:
        reconstruction_grad, generator_grad = average(reconstruction_grad), average(generator_grad)
    ratio = reconstruction_grad.float().norm() / (generator_grad.float().norm() + 1e-6)
    return ratio.clamp(max=max_weight).detach()
