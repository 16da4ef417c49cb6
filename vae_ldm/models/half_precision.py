"""An autoencoder that survives float16: its residual streams scaled down until nothing in them overflows."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor

from vae_ldm.models.latent_scaling import MIN_HALF_PSNR, half_precision_psnr, reconstruct

_HALVINGS = (2, 4, 6, 8, 12, 16, 20)
"""How often a stream is halved, tried in turn: the fewer, the less the norms' epsilon is felt."""
_MIN_SAME_PSNR = 60.0
"""dB between what the network reconstructs in float32 before and after."""


@torch.no_grad()
def scale_residuals(network: Any, factor: float) -> None:
    """Multiply everything between the first and the last convolution of an encoder or decoder by `factor`, in place.

    Both end in a group norm, and so does each way into a residual branch, and a norm takes any scale away again. So
    what writes to the stream is scaled: the first convolution, the last layer of each branch, and the biases of what
    maps the stream linearly. Powers of two are exact in floating point; what is left is the epsilon of the norms.
    """
    written: list[Any] = [network.conv_in]
    mapped: list[Any] = []
    for module in network.modules():
        match module:
            case ResnetBlock2D():  # its inner stream, before its second norm, has its overflows as well
                written += [module.conv1, module.conv2]
                mapped.append(module.conv_shortcut)
            case Attention():
                written.append(module.to_out[0])
            case Downsample2D() | Upsample2D():
                mapped.append(module.conv)
    for module in written:
        module.weight.mul_(factor)
    for module in [*written, *mapped]:
        if module is not None and module.bias is not None:
            module.bias.mul_(factor)


def make_fit_for_half(autoencoder: AutoencoderKL, images: Tensor, *, parts: Sequence[str]) -> int | None:
    """How often a residual stream was halved so that float16 is enough: of one of the `parts`, or of all of them.

    `parts` are "decoder" or "encoder". None, and the autoencoder is as it was, where that does not help: half precision
    still overflows, or stays under 40 dB on these images [B, C, H, W], or float32 itself would come out under 60 dB
    from before.
    """
    exact = reconstruct(autoencoder, images)
    for halvings in _HALVINGS:
        for some in dict.fromkeys([*((part,) for part in parts), tuple(parts)]):
            scaled = copy.deepcopy(autoencoder)
            for part in some:
                scale_residuals(getattr(scaled, part), 2.0**-halvings)
            error = (reconstruct(scaled, images) - exact).square().mean().clamp(min=1e-12)
            same = (10 * torch.log10(4 / error)).item()
            if same >= _MIN_SAME_PSNR and half_precision_psnr(scaled, images) >= MIN_HALF_PSNR:
                autoencoder.load_state_dict(scaled.state_dict())
                return halvings
    return None
