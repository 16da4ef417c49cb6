"""CPU time of cutting a batch of training crops, plain and of a random scale, beside a step of the tiny autoencoder.

    python benchmarks/random_crops.py [--image-size 256] [--crop-size 64] [--batch-size 16]

One thread. Each row is the median of 40 batches; the step is the fastest of three, without cutting.
"""

import argparse
import time

import numpy as np
import torch

from vae_ldm.assembly import build_autoencoder, build_lit_autoencoder
from vae_ldm.data.random_views import random_crops
from vae_ldm.recipe import Recipe
from vae_ldm.run.step_time import Update, seconds_a_step

_NUM_PICTURES = 200
_NUM_BATCHES = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--crop-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=16)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for precision in ("32-true", "bf16-mixed"):
        step = _step(asked.image_size, asked.crop_size, asked.batch_size, precision)
        print(f"a step in {precision}: {1e3 * step:.0f} ms")
        for resized in (False, True):
            seconds = _cutting(asked.image_size, asked.crop_size, asked.batch_size, resized=resized)
            name = "random_resized_crop" if resized else "plain crops"
            print(f"  {name}: {1e3 * seconds:.1f} ms a batch, {100 * seconds / step:.1f} % of the step")


def _step(image_size: int, crop_size: int, batch_size: int, precision: str) -> float:
    data = {"type": "rendered_claims", "image_size": image_size}
    recipe = Recipe.model_validate({"name": "crops", "data": data, "autoencoder": {"crop_size": crop_size}})
    torch.manual_seed(0)
    module = build_lit_autoencoder(recipe, build_autoencoder(recipe, image_channels=3))
    batch = torch.rand(batch_size, 3, crop_size, crop_size) * 2 - 1
    update = Update(module.autoencoder, clip_norm=1.0)
    losses = [(lambda: module.generator_loss(batch)[1], update)]
    return seconds_a_step(losses, device=torch.device("cpu"), precision=precision)


def _cutting(image_size: int, crop_size: int, batch_size: int, *, resized: bool) -> float:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (_NUM_PICTURES, image_size, image_size, 3), dtype=np.uint8)
    seconds = []
    for _ in range(_NUM_BATCHES):
        rows = rng.integers(_NUM_PICTURES, size=batch_size)
        start = time.process_time()
        random_crops(images, rows, (crop_size, crop_size), rng, resized=resized)
        seconds.append(time.process_time() - start)
    return float(np.median(seconds))


if __name__ == "__main__":
    main()
