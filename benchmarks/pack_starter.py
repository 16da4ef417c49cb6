"""Makes the starter's folder in the package, out of a finished run of its recipe.

    vae-ldm train recipes/starter-f8c16.yaml
    python benchmarks/pack_starter.py runs/starter-f8c16

Written are the weights in float16, their config, a digest of every photo that the run has learned from, and what is
known of the autoencoder: the size and the way in which photos are prepared, and its mean PSNR on validation photos.
NOTICE and README.md stay as they are. The same run gives the same bytes again.

Refused is a run whose weights take more than 4,000,000 bytes, whose reconstructions float16 changes visibly, or that
has learned from a folder that NOTICE does not name, or not from all that it names.
"""

import argparse
import copy
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import save
from torch import Tensor

from vae_ldm import starter
from vae_ldm.data.mixture import open_mixture
from vae_ldm.data.names import as_bytes
from vae_ldm.data.pictures import Pictures
from vae_ldm.data.sources import Record, photo_digest
from vae_ldm.errors import DataError, VaeLdmError
from vae_ldm.evaluation.reconstruction import psnr_per_image
from vae_ldm.files import whole_folder, write_whole
from vae_ldm.models.autoencoder import load_autoencoder_kl
from vae_ldm.models.batches import batch_size_for
from vae_ldm.models.pixels import as_images
from vae_ldm.models.stored_config import without_origin
from vae_ldm.opening import OpenedRun, open_run
from vae_ldm.recipe import parts
from vae_ldm.recipe.parts import both_sides
from vae_ldm.recipe.parts.data import SourceOf
from vae_ldm.run.state import check_trained

MOST_BYTES = 4_000_000
"""Most bytes of the weights in float16."""
LEAST_PSNR = 50.0
"""Each reconstruction by the float16 weights is at least so near, in dB, to that by the weights as they were trained.

It is the PSNR of pictures that differ by .8 of a step of 8 bits (root mean square).
"""
KEPT_FILES = ("NOTICE", "README.md")


def pack(run_dir: Path, folder: Path) -> starter.StarterSettings:
    """Write the starter of the run to `folder`, which holds NOTICE and README.md already; what is known of it.

    Raises VaeLdmError for a run that is not finished, or that is not to be packed.
    """
    run = open_run(run_dir)
    check_trained(run.paths.path, run.recipe)
    pictures = open_mixture(run.paths.pictures)
    if pictures is None:
        raise DataError(f"{run_dir}: its pictures are gone; train the run again to decode them")
    notice = (folder / "NOTICE").read_text(encoding="utf-8")
    photos = starter.photo_list(list(_learned_digests(run, pictures.train, notice)))
    trained = load_autoencoder_kl(str(run.paths.autoencoder)).requires_grad_(False)
    tensors = {name: _as_half(name, tensor) for name, tensor in sorted(trained.state_dict().items())}
    weights = save(tensors, metadata={"format": "pt"})
    if len(weights) > MOST_BYTES:
        raise VaeLdmError(f"{run_dir}: its weights take {len(weights):,} bytes in float16, more than {MOST_BYTES:,}")
    rounded = copy.deepcopy(trained)
    rounded.load_state_dict(tensors)
    psnr = _measured(run, pictures.validation, trained, rounded)
    settings = starter.StarterSettings(
        recipe=run.recipe.name,
        image_size=run.recipe.image_size,
        resize=run.recipe.data.resize,
        psnr=round(psnr.mean().item(), 3),
        num_psnr_photos=len(psnr),
        num_photos=len(photos) // starter.DIGEST_SIZE,
        photos_digest=hashlib.sha256(photos).hexdigest(),
    )
    with whole_folder(folder) as unfinished:
        for name in KEPT_FILES:
            shutil.copyfile(folder / name, unfinished / name)
        config = json.loads(without_origin((run.paths.autoencoder / "config.json").read_text(encoding="utf-8")))
        write_whole(unfinished / starter.CONFIG_FILE, json.dumps(config, indent=2, sort_keys=True) + "\n")
        write_whole(unfinished / starter.WEIGHTS_FILE, weights)
        starter.write_settings(unfinished, settings, photos)
    return settings


def _as_half(name: str, tensor: Tensor) -> Tensor:
    half = tensor.half().contiguous()
    if not half.isfinite().all():
        raise VaeLdmError(f"the weight {name} does not fit into float16")
    return half


def _photo_sources(run: OpenedRun) -> Iterator[tuple[int, SourceOf]]:
    """The sources that are folders of photos, each with its place among all. Raises VaeLdmError for one of the Hub."""
    for place, source in enumerate(run.recipe.data.all_sources):
        if isinstance(source.part, parts.HubDataset):
            raise VaeLdmError(f"{source.key}: rows of a data set are no photo files, so they have no digests")
        if isinstance(source.part, parts.ImageFolder):
            yield place, source


def _rows_of(split: Pictures, place: int) -> range:
    """The rows of one source of a mixture, or all of them."""
    if split.source_counts is None:
        return range(len(split))
    start = sum(split.source_counts[:place])
    return range(start, start + split.source_counts[place])


def _learned_digests(run: OpenedRun, learned: Pictures, notice: str) -> Iterator[str]:
    """SHA-256 of every photo file that the run has learned from. Raises VaeLdmError where `notice` names others."""
    sources = [(place, Path(str(source.part.photo_folder))) for place, source in _photo_sources(run)]
    named, used = set(re.findall(r"^## (.+)$", notice, re.MULTILINE)), {folder.resolve().name for _, folder in sources}
    if missing := sorted(used - named):
        raise VaeLdmError(f"NOTICE has no section ## {missing[0]}, and the run has learned from its photos")
    if others := sorted(named - used):
        raise VaeLdmError(f"NOTICE has a section ## {others[0]}, and the run has learned nothing from it; take it out")
    for place, folder in sources:
        for row in _rows_of(learned, place):
            name = learned.ids[row]
            if learned.source_counts is not None:
                name = name.removeprefix(f"sources[{place}]/")
            file = folder / os.fsdecode(as_bytes(name))
            digest = photo_digest(Record(name, file))
            if digest is None:
                raise DataError(f"{file}: is gone, and the run has learned from it; bring it back")
            yield digest


def _measured(run: OpenedRun, validation: Pictures, trained: AutoencoderKL, rounded: AutoencoderKL) -> Tensor:
    """PSNR in dB [N] of the rounded weights on the validation photos of the run's own size.

    Raises VaeLdmError where there are none, or where rounding has changed a reconstruction too much.
    """
    size = run.recipe.image_size
    rows = [
        row
        for place, source in _photo_sources(run)
        if both_sides(source.part.image_size) == size
        for row in _rows_of(validation, place)
    ]
    if not rows:
        raise VaeLdmError(f"{run.paths.path}: has no validation photos of {size[0]}x{size[1]} px to be measured on")
    found = []
    step = batch_size_for(size, most=16)
    for first in range(0, len(rows), step):
        some = rows[first : first + step]
        images = as_images(np.stack([np.asarray(validation.images[row]) for row in some]))
        before, after = _reconstructed(trained, images), _reconstructed(rounded, images)
        for row, psnr in zip(some, psnr_per_image(after, before).tolist(), strict=True):
            if psnr < LEAST_PSNR:
                raise VaeLdmError(
                    f"float16 changes the reconstruction of {validation.ids[row]}: it is {psnr:.1f} dB from that of "
                    f"the weights as they were trained, and {LEAST_PSNR:g} dB is the least"
                )
        found.append(psnr_per_image(after, images))
        print(f"measured {min(first + step, len(rows)):,} of {len(rows):,} photos", file=sys.stderr)
    return torch.cat(found)


@torch.no_grad()
def _reconstructed(autoencoder: AutoencoderKL, images: Tensor) -> Tensor:
    return autoencoder.decode(autoencoder.encode(images).latent_dist.mode()).sample.clamp(-1, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of the run")
    parser.add_argument(
        "--folder", type=Path, default=starter.STARTER_FOLDER, help="where it is written, with NOTICE and README.md"
    )
    options = parser.parse_args()
    try:
        settings = pack(options.run, options.folder)
    except VaeLdmError as error:
        sys.exit(f"error: {error}")
    size = (options.folder / starter.WEIGHTS_FILE).stat().st_size
    print(
        f"{options.folder}: {size:,} bytes of weights, {settings.num_photos:,} photos learned, mean PSNR "
        f"{settings.psnr:.2f} dB on {settings.num_psnr_photos:,} validation photos"
    )


if __name__ == "__main__":
    main()
