"""What training takes of a GPU's memory, by arithmetic: weights, gradients, optimizer, average, activations.

    python benchmarks/memory.py
    python benchmarks/memory.py --measure       # the same table from real steps on this GPU

For the arithmetic nothing is computed: the networks run forward on tensors without content, under bfloat16 autocast,
and what autograd would keep for the backward pass is added up. With gradient checkpointing that is what goes into each
block, and all that the largest block keeps when it runs again. Weights, gradients and both of AdamW's moments are
float32, 16 bytes a trained parameter; the average (ema) is 4 more, a frozen part 4. Left out: cuDNN's workspaces, the
allocator's fragments, one layer's temporary tensors; take a tenth off the card for them. The largest batch is what
then fits.
"""

import argparse
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import CLIPTextConfig, CLIPTextModel

from vae_ldm.models.autoencoder import new_autoencoder
from vae_ldm.models.discriminator import PatchDiscriminator
from vae_ldm.models.unet import new_unet

GIB = 2**30
CARDS = (24, 80)
MEASURED_BATCHES = {"compact": (32, 96), "autoencoder": (4, 12), "UNet": (16, 48)}
"""At 256 px; at 512 px a quarter."""


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@dataclass
class Stage:
    """Networks, those of which an average is kept, and a forward pass of so many pictures that ends in a scalar."""

    what: str
    trained: list[nn.Module]
    averaged: list[Any]
    """The autoencoder or the UNet; it is what gradient checkpointing is for."""
    frozen: list[nn.Module]
    forward: Callable[[int, torch.device], Tensor]
    checkpointed: bool = False

    @property
    def fixed(self) -> int:
        """Bytes that do not depend on the batch."""
        sizes = (16, self.trained), (4, self.averaged), (4, self.frozen)
        return sum(each * parameters(module) for each, modules in sizes for module in modules)


def autoencoder_stage(size: int) -> Stage:
    autoencoder = new_autoencoder(
        "sd", downsample_factor=8, latent_channels=4, image_channels=3, image_size=(size, size)
    )
    critic = PatchDiscriminator(in_channels=3, base_channels=64, num_layers=3)

    def forward(batch: int, device: torch.device) -> Tensor:
        images = torch.empty(batch, 3, size, size, device=device).fill_(0.5)
        return critic(autoencoder.decode(autoencoder.encode(images).latent_dist.sample()).sample).float().mean()

    what = f"sd autoencoder {parameters(autoencoder) / 1e6:.1f} M with ema"
    what = f"{what}, discriminator {parameters(critic) / 1e6:.1f} M"
    return Stage(what, [autoencoder, critic], [autoencoder], [], forward)


def starter_stage(size: int) -> Stage:
    """The starter of the package: recipes/starter-f8c16.yaml, and the decoder of recipes/product-photos-256.yaml."""
    autoencoder = new_autoencoder(
        "compact", downsample_factor=8, latent_channels=16, image_channels=3, image_size=(size, size)
    )

    def forward(batch: int, device: torch.device) -> Tensor:
        images = torch.empty(batch, 3, size, size, device=device).fill_(0.5)
        return autoencoder.decode(autoencoder.encode(images).latent_dist.sample()).sample.float().mean()

    what = f"compact autoencoder f8c16 {parameters(autoencoder) / 1e6:.2f} M with ema"
    return Stage(what, [autoencoder], [autoencoder], [], forward)


def product_photos_stage(size: int, unet_size: str) -> Stage:
    """The UNet of recipes/product-photos-256.yaml, whose text encoder is trained with it."""
    latent, width, tokens = size // 8, 64, 16
    config = CLIPTextConfig(vocab_size=32, hidden_size=width, num_hidden_layers=2, bos_token_id=0, eos_token_id=1)
    config.intermediate_size = 4 * width
    text = CLIPTextModel(config)
    unet = new_unet(unet_size, latent_channels=16, latent_size=(latent, latent), cross_attention_dim=width)

    def forward(batch: int, device: torch.device) -> Tensor:
        noisy = torch.empty(batch, 16, latent, latent, device=device).fill_(0.5)
        prompts = torch.empty(batch, tokens, width, device=device).fill_(0.5)
        return unet(noisy, torch.zeros(batch, device=device), prompts, return_dict=False)[0].float().mean()

    what = f"{unet_size} UNet {parameters(unet) / 1e6:.1f} M with ema on {latent}x{latent}x16"
    return Stage(what, [unet, text], [unet], [], forward)


def diffusion_stage(size: int, unet_size: str) -> Stage:
    text = CLIPTextModel(CLIPTextConfig()).requires_grad_(False)
    latent = size // 8
    unet = new_unet(unet_size, latent_channels=4, latent_size=(latent, latent), cross_attention_dim=512)

    def forward(batch: int, device: torch.device) -> Tensor:
        noisy = torch.empty(batch, 4, latent, latent, device=device).fill_(0.5)
        prompts = torch.empty(batch, 77, 512, device=device).fill_(0.5)
        return unet(noisy, torch.zeros(batch, device=device), prompts, return_dict=False)[0].float().mean()

    what = f"{unet_size} UNet {parameters(unet) / 1e6:.1f} M with ema"
    what = f"{what}, CLIP-B text encoder frozen {parameters(text) / 1e6:.0f} M"
    return Stage(what, [unet], [unet], [text], forward)


def stages() -> Iterator[tuple[int, Callable[[], Stage]]]:
    for size in (256, 512):
        makers: list[Callable[[], Stage]] = [partial(autoencoder_stage, size)]
        makers += [partial(diffusion_stage, size, name) for name in ("small", "base")]
        if size == 256:
            makers.append(partial(starter_stage, size))
            makers += [partial(product_photos_stage, size, name) for name in ("nano", "small")]
        for make in makers:
            yield size, make
            yield size, partial(checkpointed, make)


def checkpointed(make: Callable[[], Stage]) -> Stage:
    """The stage with `trainer.gradient_checkpointing`."""
    stage = make()
    return replace(stage, what=f"{stage.what}, gradient checkpointing", checkpointed=True)


class Kept:
    """Bytes that autograd keeps, each storage once, parameters left out."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self.own = {p.untyped_storage()._cdata for module in modules for p in module.parameters()}
        self.bytes: dict[int, int] = {}
        self.alive: list[Tensor] = []  # or the next tensor may take the place of one that was counted

    def __call__(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.own:
            self.alive.append(tensor)
            self.bytes[storage._cdata] = storage.nbytes()
        return tensor

    @property
    def total(self) -> int:
        return sum(self.bytes.values())


class Blocks:
    """Runs each block as gradient checkpointing does; `kept` gets what goes in, `largest` what the largest keeps."""

    def __init__(self, kept: Kept, trained: list[nn.Module]) -> None:
        self.kept, self.trained, self.largest = kept, trained, 0

    def __call__(self, block: nn.Module, *inputs: Any) -> Any:
        for each in inputs:
            if isinstance(each, Tensor):
                self.kept(each)
        within = Kept(self.trained)
        with torch.autograd.graph.saved_tensors_hooks(within, lambda t: t):
            outputs = block(*inputs)
        new = sum(count for storage, count in within.bytes.items() if storage not in self.kept.bytes)
        self.largest = max(self.largest, new)
        self.kept.alive += within.alive
        return outputs


def bytes_a_picture(stage: Stage) -> int:
    """What autograd keeps, at most; under FakeTensorMode."""
    kept = Kept(stage.trained)
    blocks = Blocks(kept, stage.trained)
    if stage.checkpointed:
        for network in stage.averaged:
            network.enable_gradient_checkpointing(blocks)
    with torch.autocast("cpu", torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(kept, lambda t: t):
        stage.forward(1, torch.device("cpu"))
    return kept.total + blocks.largest


def measured(stage: Stage, batch: int) -> int:
    """The most bytes that tensors take on this GPU in two steps."""
    device = torch.device("cuda")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    for module in (*stage.trained, *stage.frozen):
        module.to(device)
    if stage.checkpointed:
        for network in stage.averaged:
            network.enable_gradient_checkpointing()
    averages = [copy.deepcopy(module).requires_grad_(False) for module in stage.averaged]
    weights = [parameter for module in stage.trained for parameter in module.parameters()]
    optimizer = torch.optim.AdamW(weights, fused=True)
    for _ in range(2):
        with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
            loss = stage.forward(batch, device)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    del averages
    return torch.cuda.max_memory_allocated()


def measure() -> None:
    print(f"{torch.cuda.get_device_name()}; most that tensors take in two steps, as a line through two batches")
    header(("measured at",))
    for size, make in stages():
        stage = make()
        batches = next(batches for word, batches in MEASURED_BATCHES.items() if word in stage.what)
        few, many = (batch * 256**2 // size**2 for batch in batches)
        less, more = measured(stage, few), measured(stage, many)
        each = (more - less) / (many - few)
        row(size, stage.what, less - few * each, each, f"{few}, {many}")


def header(more: tuple[str, ...] = ()) -> None:
    columns = ["px", "stage", "fixed, GiB", "a picture, GiB", *(f"batch on {card} GB" for card in CARDS), *more]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")


def row(size: int, what: str, fixed: float, each: float, *more: str) -> None:
    fits = (str(max(0, int((0.9 * card * 1e9 - fixed) // each))) for card in CARDS)
    print(f"| {' | '.join([str(size), what, f'{fixed / GIB:.2f}', f'{each / GIB:.3f}', *fits, *more])} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="on a GPU: what real steps take")
    if parser.parse_args().measure:
        measure()
        return
    header()
    with FakeTensorMode():
        for size, make in stages():
            stage = make()
            row(size, stage.what, stage.fixed, bytes_a_picture(stage))


if __name__ == "__main__":
    main()
