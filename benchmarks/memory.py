"""What training takes of a GPU's memory, by arithmetic: weights, gradients, optimizer, average, activations.

    python benchmarks/memory.py

Nothing is computed: the networks run forward on tensors without content, under bfloat16 autocast, and what autograd
would keep for the backward pass is added up. Weights, gradients and both of AdamW's moments are float32, 16 bytes a
trained parameter; the average (ema) is 4 more, a frozen part 4. Left out: cuDNN's workspaces, the allocator's
fragments, one layer's temporary tensors; take a tenth off the card for them. The largest batch is what then fits.
"""

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import CLIPTextConfig, CLIPTextModel

from vae_ldm.models.autoencoder import new_autoencoder
from vae_ldm.models.discriminator import PatchDiscriminator
from vae_ldm.models.unet import UNET_SIZES, new_unet

GIB = 2**30
CARDS = (24, 80)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


class Kept:
    """Bytes that autograd keeps, each storage once, parameters left out."""

    def __init__(self, *modules: nn.Module) -> None:
        self.own = {p.untyped_storage()._cdata for module in modules for p in module.parameters()}
        self.bytes: dict[int, int] = {}
        self.alive: list[torch.Tensor] = []  # or the next tensor may take the place of one that was counted

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.own:
            self.alive.append(tensor)
            self.bytes[storage._cdata] = storage.nbytes()
        return tensor

    @property
    def total(self) -> int:
        return sum(self.bytes.values())


def autoencoder_stage(size: int) -> tuple[str, int, int]:
    autoencoder = new_autoencoder(
        "sd", downsample_factor=8, latent_channels=4, image_channels=3, image_size=(size, size)
    )
    critic = PatchDiscriminator(in_channels=3, base_channels=64, num_layers=3)
    kept = Kept(autoencoder, critic)
    images = torch.empty(1, 3, size, size)
    with torch.autocast("cpu", torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(kept, lambda t: t):
        critic(autoencoder.decode(autoencoder.encode(images).latent_dist.sample()).sample)
    fixed = 20 * parameters(autoencoder) + 16 * parameters(critic)
    what = (
        f"sd autoencoder {parameters(autoencoder) / 1e6:.1f} M with ema, discriminator {parameters(critic) / 1e6:.1f} M"
    )
    return what, fixed, kept.total


def diffusion_stage(size: int, unet_size: str) -> tuple[str, int, int]:
    text = CLIPTextModel(CLIPTextConfig())
    latent = size // 8
    unet = new_unet(unet_size, latent_channels=4, latent_size=(latent, latent), cross_attention_dim=512)
    kept = Kept(unet)
    inputs = torch.empty(1, 4, latent, latent), torch.zeros(1), torch.empty(1, 77, 512)
    with torch.autocast("cpu", torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(kept, lambda t: t):
        unet(*inputs)
    fixed = 20 * parameters(unet) + 4 * parameters(text)
    encoder = f"CLIP-B text encoder frozen {parameters(text) / 1e6:.0f} M"
    what = f"{unet_size} UNet {parameters(unet) / 1e6:.1f} M with ema, {encoder}"
    return what, fixed, kept.total


def main() -> None:
    rows = []
    with FakeTensorMode():
        for size in (256, 512):
            rows.append((size, *autoencoder_stage(size)))
            rows += [(size, *diffusion_stage(size, name)) for name in UNET_SIZES if name in ("small", "base")]
    print("| px | stage | fixed, GiB | a picture, GiB | " + " | ".join(f"batch on {card} GB" for card in CARDS) + " |")
    print("|---|---|---|---|" + "---|" * len(CARDS))
    for size, what, fixed, each in rows:
        fits = [max(0, int((0.9 * card * 1e9 - fixed) // each)) for card in CARDS]
        print(f"| {size} | {what} | {fixed / GIB:.2f} | {each / GIB:.3f} | {' | '.join(map(str, fits))} |")


if __name__ == "__main__":
    main()
