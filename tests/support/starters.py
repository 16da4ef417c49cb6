"""A starter of a few thousand weights, in the place of the package's own."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from vae_ldm import starter

SIDE = 32


def save_starter(folder: Path, *, seed: int = 0, learned: Sequence[str] = (), psnr: float = 20.0) -> Path:
    """An f8 autoencoder of 16 channels in float16, as benchmarks/pack_starter.py writes it. `learned` are SHA-256."""
    torch.manual_seed(seed)
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 16),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=8,
        sample_size=SIDE,
        scaling_factor=1.0,
        force_upcast=False,
    ).half().save_pretrained(folder)
    photos = starter.photo_list(list(learned))
    settings = starter.StarterSettings(
        recipe="starter-nano",
        image_size=(SIDE, SIDE),
        resize="pad",
        psnr=psnr,
        num_psnr_photos=7,
        num_photos=len(photos) // starter.DIGEST_SIZE,
        photos_digest=hashlib.sha256(photos).hexdigest(),
    )
    starter.write_settings(folder, settings, photos)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n\n# A small one\n")
    return folder
