"""Pictures a second of our two training stages beside a bare torch loop on the same model and batch, as ratios.

    python benchmarks/train_speed.py [--steps 20] [--rounds 5] [--image-size 32]
    python benchmarks/train_speed.py --image-size 256 --downsample-factor 8 --size sd base --batch-size 16 64  # a GPU
    python benchmarks/train_speed.py --stage unet --float32 --compiled ...     # the UNet against eager float32

Each round runs every contestant once, in an order that alternates (A B B A), and a row shows the median of the
rounds' ratios to the bare loop with the smallest and the largest. "diffusers' way" is the structure of its training
examples: for the autoencoder the loop of research_projects/autoencoderkl (perceptual distance computed without a
gradient, discriminator run from the first step), for the UNet the autoencoder encoding inside the loop. "float32" is
the bare loop of the UNet and diffusers' way without autocast, with torch's defaults (convolutions take TF32 on a GPU).
MFU is the share of the GPU's bfloat16 peak that the UNet's own operations come to. "other layout" is ours with
channels_last where it is not the default, and without it where it is.
Wall-clock time with the threads that torch was given: run it on a quiet machine.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from flops import peak_flops, step_flops

from vae_ldm.assembly import (
    build_autoencoder,
    build_diffusion,
    build_lit_autoencoder,
    build_lit_latent_diffusion,
    build_optimizer,
    build_trainer,
    compile_if_asked,
    place_channels_last,
    prompt_ids,
)
from vae_ldm.data.datamodule import ImageDataModule
from vae_ldm.data.pictures import Pictures
from vae_ldm.data.posterior_cache import PosteriorDataModule, PosteriorDataset, cache_posteriors, has_posteriors
from vae_ldm.hardware import Network, fastest_precision, prepare_cpu
from vae_ldm.losses.reconstruction import l1_error, ssim_error
from vae_ldm.models.discriminator import PatchDiscriminator
from vae_ldm.models.pixels import to_unit_range
from vae_ldm.models.vision_features import load_efficientnet_lite
from vae_ldm.recipe import Recipe, parts
from vae_ldm.run.session import quieten_training
from vae_ldm.training.csv_log import CsvLog
from vae_ldm.training.optimizers import new_optimizer
from vae_ldm.training.weight_average import WarmedEma

NUM_PICTURES = 512


class Clock(Callback):
    """Seconds from the end of step `first` to that of step `last`; a GPU is waited for at both only."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last
        self.start = self.stop = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx + 1 in (self.first, self.last):
            _wait()
            self.start, self.stop = self.stop, time.perf_counter()


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed_loop(step: Callable[[], None], batch_size: int, steps: int, warmup: int) -> float:
    """Pictures a second of a bare loop."""
    for _ in range(warmup):
        step()
    _wait()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    _wait()
    return batch_size * steps / (time.perf_counter() - start)


class Bench:
    """One recipe, one set of random pictures, and the ways to train on them."""

    def __init__(
        self, image_size: int, steps: int, batch_sizes: tuple[int, int], sizes: tuple[str, str], downsample_factor: int
    ) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.steps, self.warmup = steps, 5
        self.in_float32 = False
        """Whether the bare loops leave autocast out."""
        self.unet_flops = 0
        """Of a picture, in a forward and a backward pass; known once a bare loop has run."""
        self.recipe = Recipe.model_validate(
            {
                "name": "benchmark",
                "data": {"type": "rendered_claims", "image_size": image_size},
                "autoencoder": {
                    "size": sizes[0],
                    "downsample_factor": downsample_factor,
                    "trainer": {"max_steps": steps + self.warmup, "batch_size": batch_sizes[0]},
                },
                "diffusion": {
                    "size": sizes[1],
                    "trainer": {"max_steps": steps + self.warmup, "batch_size": batch_sizes[1]},
                },
            }
        )
        images = np.random.default_rng(0).integers(0, 256, (NUM_PICTURES, image_size, image_size, 3), np.uint8)
        labels = np.zeros(NUM_PICTURES, np.int64)
        self.prompts = ["a photo of a tin"] * NUM_PICTURES
        self.pictures = Pictures(images, labels, self.prompts, self.prompts, ["tin"])
        self.folder = Path(tempfile.mkdtemp(prefix="train-speed-"))

    def _autocast(self, network: str) -> torch.autocast:
        enabled = fastest_precision(network) == "bf16-mixed" and not self.in_float32  # type: ignore[arg-type]
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def _batches(self, batch_size: int) -> Callable[[], torch.Tensor]:
        data = torch.from_numpy(np.asarray(self.pictures.images).transpose(0, 3, 1, 2).copy())
        return lambda: to_unit_range(data[torch.randint(NUM_PICTURES, (batch_size,))].to(self.device))

    def _lightning(self, module: LightningModule, data: Any, stage: str) -> float:
        part = getattr(self.recipe, stage).trainer
        network: Network = "autoencoder" if stage == "autoencoder" else "unet"
        place_channels_last(part, module, network)
        clock = Clock(self.warmup, self.warmup + self.steps)
        trainer = build_trainer(
            part,
            network=network,
            best=("val/loss", "min"),
            seed=0,
            average=None if (ema := getattr(self.recipe, stage).ema) is None else WarmedEma(ema.decay),
            checkpoint_dir=self.folder / "checkpoints",
            loggers=[CsvLog(self.folder / "log.csv")],
            callbacks=[clock],
            manual_optimization=not module.automatic_optimization,
        )
        trainer.fit(module, data)
        return part.batch_size * self.steps / (clock.stop - clock.start)

    @contextmanager
    def setting(self, **changes: bool) -> Iterator[None]:
        """Ours with other `channels_last` or `compile` than by default."""
        usual = self.recipe
        trainers = {
            stage: getattr(usual, stage).model_copy(
                update={"trainer": getattr(usual, stage).trainer.model_copy(update=changes)}
            )
            for stage in ("autoencoder", "diffusion")
        }
        self.recipe = usual.model_copy(update=trainers)
        try:
            yield
        finally:
            self.recipe = usual

    def run(self, stage: str, name: str) -> float:
        """Pictures a second of a contestant; each has a method of its own, or is ours under another setting."""
        settings = {
            "other_layout": {"channels_last": not (torch.cuda.is_available() and stage == "unet")},
            "not_deterministic": {"deterministic": False},
            "compiled": {"compile": True},
        }
        with self.setting(**settings.get(name, {})):
            return getattr(self, f"{stage}_{'ours' if name in settings else name}")()

    # --- autoencoder ---------------------------------------------------------------------------------------------

    def autoencoder_ours(self) -> float:
        autoencoder = build_autoencoder(self.recipe, image_channels=3)
        part = self.recipe.autoencoder.trainer
        compile_if_asked(part, [autoencoder.encoder, autoencoder.decoder], say=print)
        data = ImageDataModule(self.pictures, self.pictures, batch_size=part.batch_size, num_val_images=8)
        return self._lightning(build_lit_autoencoder(self.recipe, autoencoder), data, "autoencoder")

    def autoencoder_bare(self) -> float:
        autoencoder = build_autoencoder(self.recipe, image_channels=3).to(self.device).train()
        loss_part = self.recipe.autoencoder.loss
        optimizer, lr_scheduler = new_optimizer(autoencoder, build_optimizer(parts.AdamW()), max_steps=1000)
        next_batch = self._batches(self.recipe.autoencoder.trainer.batch_size)

        def step() -> None:
            images = next_batch()
            with self._autocast("autoencoder"):
                posterior = autoencoder.encode(images).latent_dist
                reconstructions = autoencoder.decode(posterior.sample()).sample.float()
            kl = posterior.kl().mean() / posterior.mean[0].numel()
            loss = l1_error(reconstructions, images).mean() + loss_part.kl_weight_per_latent * kl
            loss = loss + loss_part.ssim_weight * ssim_error(reconstructions, images).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(autoencoder.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            lr_scheduler.step()

        return timed_loop(step, self.recipe.autoencoder.trainer.batch_size, self.steps, self.warmup)

    def autoencoder_diffusers_way(self) -> float:
        """As train_autoencoderkl.py steps before its discriminator starts: float32, every term computed from step 0."""
        autoencoder = build_autoencoder(self.recipe, image_channels=3).to(self.device).train()
        discriminator = PatchDiscriminator(in_channels=3, base_channels=64, num_layers=3).to(self.device)
        features = load_efficientnet_lite().to(self.device)
        optimizer = torch.optim.AdamW(autoencoder.parameters(), lr=1e-4)
        critic = torch.optim.AdamW(discriminator.parameters(), lr=1e-4)
        next_batch = self._batches(self.recipe.autoencoder.trainer.batch_size)

        def step() -> None:
            images = next_batch()
            posterior = autoencoder.encode(images).latent_dist
            reconstructions = autoencoder.decode(posterior.sample()).sample
            with torch.no_grad():
                pairs = zip(features.stages(reconstructions), features.stages(images), strict=True)
                perceptual = sum(F.mse_loss(a, b) for a, b in pairs)
            loss = F.mse_loss(reconstructions, images) + perceptual + 1e-6 * posterior.kl().mean()
            last = autoencoder.decoder.conv_out.weight
            generator_loss = -discriminator(reconstructions).mean()
            torch.autograd.grad(loss, last, retain_graph=True)
            torch.autograd.grad(generator_loss, last, retain_graph=True)
            (loss + 0.0 * generator_loss).backward()
            optimizer.step()
            optimizer.zero_grad()
            logits = discriminator(images), discriminator(reconstructions.detach())
            (0.0 * (F.relu(1 - logits[0]).mean() + F.relu(1 + logits[1]).mean())).backward()
            critic.step()
            critic.zero_grad()

        return timed_loop(step, self.recipe.autoencoder.trainer.batch_size, self.steps, self.warmup)

    # --- UNet ----------------------------------------------------------------------------------------------------

    def unet_ours(self) -> float:
        autoencoder = build_autoencoder(self.recipe, image_channels=3).eval()
        diffusion = build_diffusion(self.recipe, autoencoder, self.prompts)
        cache, network = self.folder / "latents", autoencoder.to(self.device)
        if not has_posteriors(cache, key="benchmark"):
            cache_posteriors(
                lambda images: network.encode(images.to(self.device)).latent_dist, self.pictures, cache, key="benchmark"
            )
        dataset = PosteriorDataset(cache, prompt_ids(diffusion, self.prompts), seed=0, augment=True)
        part = self.recipe.diffusion.trainer  # type: ignore[union-attr]
        compile_if_asked(part, [diffusion.unet], say=print)
        data = PosteriorDataModule(dataset, dataset, batch_size=part.batch_size, seed=0, num_val_images=8)
        return self._lightning(build_lit_latent_diffusion(self.recipe, diffusion), data, "diffusion")

    def unet_bare(self) -> float:
        return self._bare_unet(encode_in_loop=False)

    def unet_diffusers_way(self) -> float:
        return self._bare_unet(encode_in_loop=True)

    def unet_float32(self) -> float:
        return self._bare_unet(encode_in_loop=False, in_float32=True)

    def unet_diffusers_way_float32(self) -> float:
        return self._bare_unet(encode_in_loop=True, in_float32=True)

    def _bare_unet(self, *, encode_in_loop: bool, in_float32: bool = False) -> float:
        self.in_float32 = in_float32
        autoencoder = build_autoencoder(self.recipe, image_channels=3).to(self.device).eval()
        diffusion = build_diffusion(self.recipe, autoencoder, self.prompts)
        unet, text_encoder = diffusion.unet.to(self.device).train(), diffusion.text_encoder.to(self.device).train()
        ids = prompt_ids(diffusion, self.prompts[:1]).to(self.device)
        parameters = [*unet.parameters(), *text_encoder.parameters()]
        optimizer, lr_scheduler = new_optimizer(
            nn.ModuleList([unet, text_encoder]), build_optimizer(parts.AdamW()), max_steps=1000
        )
        batch_size = self.recipe.diffusion.trainer.batch_size  # type: ignore[union-attr]
        next_batch = self._batches(batch_size)
        averaged = [parameter.detach().clone() for parameter in parameters]
        with torch.no_grad():
            stored = autoencoder.encode(self._batches(batch_size)()).latent_dist

        def one_loss() -> torch.Tensor:
            noisy, prompts = stored.mode()[:1], text_encoder(ids)[0]
            return unet(noisy, torch.zeros(1, device=self.device), prompts, return_dict=False)[0].square().mean()

        if not self.unet_flops:
            self.unet_flops = step_flops(one_loss)
            optimizer.zero_grad(set_to_none=True)

        def step() -> None:
            if encode_in_loop:
                with torch.no_grad():
                    latents = autoencoder.encode(next_batch()).latent_dist.sample()
            else:
                latents = stored.sample()
            noise = torch.randn_like(latents)
            sigmas = torch.randn(batch_size, device=self.device).sigmoid()
            mixed = sigmas.view(-1, 1, 1, 1)
            with self._autocast("unet"):
                prompts = text_encoder(ids.expand(batch_size, -1))[0]
                prediction = unet(latents + mixed * (noise - latents), 1000 * sigmas, prompts, return_dict=False)[0]
            F.mse_loss(prediction.float(), noise - latents).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            lr_scheduler.step()
            torch._foreach_lerp_(averaged, [parameter.detach() for parameter in parameters], 1e-3)

        return timed_loop(step, batch_size, self.steps, self.warmup)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, nargs=2, default=(32, 64), metavar=("AUTOENCODER", "UNET"))
    parser.add_argument("--stage", nargs="+", choices=("autoencoder", "unet"), default=("autoencoder", "unet"))
    parser.add_argument(
        "--float32", action="store_true", help="the UNet's bare loop and diffusers' way without autocast"
    )
    parser.add_argument("--compiled", action="store_true", help="ours with trainer.compile as well: minutes to compile")
    parser.add_argument("--size", nargs=2, default=("tiny", "tiny"), metavar=("AUTOENCODER", "UNET"))
    parser.add_argument("--downsample-factor", type=int, default=4)
    arguments = parser.parse_args()
    prepare_cpu()
    quieten_training()
    bench = Bench(
        arguments.image_size,
        arguments.steps,
        tuple(arguments.batch_size),
        tuple(arguments.size),
        arguments.downsample_factor,
    )
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"{where}; torch {torch.__version__}; pictures of {arguments.image_size} px; {arguments.rounds} rounds")
    for stage, batch_size in zip(("autoencoder", "unet"), arguments.batch_size, strict=True):
        if stage not in arguments.stage:
            continue
        names = ["bare", "ours", "diffusers_way", "other_layout"]
        names += ["not_deterministic"] * torch.cuda.is_available() + ["compiled"] * arguments.compiled
        if arguments.float32 and stage == "unet":
            names += ["float32", "diffusers_way_float32"]
        results: dict[str, list[float]] = {name: [] for name in names}
        for number in range(arguments.rounds):
            for name in names if number % 2 == 0 else reversed(names):
                results[name].append(bench.run(stage, name))
                print(f"  {stage} {name.replace('_', ' ')}: {results[name][-1]:.1f} pictures a second", flush=True)
        print(f"\n{stage}, batch {batch_size}: pictures a second (median), ratio to the bare loop [smallest, largest]")
        for name in names:
            ratios = [ours / bare for ours, bare in zip(results[name], results["bare"], strict=True)]
            speed, peak = statistics.median(results[name]), peak_flops()
            is_bf16 = stage == "unet" and peak is not None and not name.endswith("float32")
            share = f"   MFU {100 * speed * bench.unet_flops / (peak or 1):.1f} %" if is_bf16 else ""
            print(
                f"  {name.replace('_', ' '):21} {speed:8.1f}   "
                f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]{share}"
            )


if __name__ == "__main__":
    main()
