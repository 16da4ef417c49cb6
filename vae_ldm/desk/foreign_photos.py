"""Whether a model knows photos: how well it reconstructs them, and whether the starter was trained on them."""

from collections.abc import Sequence

import numpy as np
import torch

from vae_ldm.data.photo_stream import decoded_batches
from vae_ldm.data.sources import Record, photo_digest
from vae_ldm.evaluation.reconstruction import psnr_per_image
from vae_ldm.models.batches import batch_size_for
from vae_ldm.models.pixels import as_images
from vae_ldm.opening import settings_of, usual_psnr
from vae_ldm.pipelines.image_autoencoder import ImageAutoencoder
from vae_ldm.starter import STARTER, has_learned
from vae_ldm.text import counted

_FOREIGN_DB = 6.0
"""A photo is foreign where its PSNR is this many dB below the mean of the validation photos: four times their error.

Validation photos themselves differ by about 3 dB (standard deviation; claims-32).
"""
_FOREIGN_FOLDER_DB = 3.0
"""A folder is foreign where the median of its photos is this many dB below that mean.

The median differs by about 1 dB from one sample to another.
"""
_NUM_PHOTOS = 16


def foreign_words(psnr: float, usual: float | None) -> str | None:
    """A clause that the model does not know a photo that it reconstructs at `psnr` dB; None where it knows it.

    `usual` is the mean PSNR in dB of its validation photos; where it is None nothing is known, and so nothing is said.
    """
    return None if usual is None or psnr >= usual - _FOREIGN_DB else _words("this photo", psnr, usual)


def _words(what: str, psnr: float, usual: float) -> str:
    return (
        f"the model reconstructs {what} at {psnr:.1f} dB and its own validation photos at {usual:.1f} dB; it does not "
        "know such photos well, so expect poor results"
    )


def foreign_advice(source: str, autoencoder: ImageAutoencoder, records: Sequence[Record]) -> str | None:
    """`foreign_words` of a folder, by the median of 16 of its photos, evenly spread, at the size of the run `source`.

    None where the run's own PSNR or its size is not known, or none of the 16 photos can be read.
    """
    usual, settings = usual_psnr(source), settings_of(source)
    if usual is None or settings.image_size is None:
        return None
    chosen = np.unique(np.linspace(0, len(records) - 1, min(_NUM_PHOTOS, len(records))).round().astype(int))
    found = []
    for batch in decoded_batches(
        [records[row] for row in chosen],
        [settings.image_size],
        channels=autoencoder.channels,
        resize=settings.resize,
        batch_size=batch_size_for(settings.image_size, most=_NUM_PHOTOS),
    ):
        images = as_images(batch.images[0])
        latents = autoencoder.encode_batch(images)
        decoded = autoencoder.decode(latents, size=settings.image_size, output_type="pt")
        found.append(psnr_per_image(decoded.cpu() * 2 - 1, images))
    psnr = torch.cat(found).median().item() if found else usual
    return None if psnr >= usual - _FOREIGN_FOLDER_DB else _words("these photos", psnr, usual)


def learned_advice(records: Sequence[Record]) -> str | None:
    """A line for who measures the starter on photos of which it has learned some, file for file; None elsewhere."""
    count = sum(has_learned(photo_digest(record)) for record in records)
    if not count:
        return None
    were = "is one" if count == 1 else "are among those"
    return (
        f"{count:,} of {counted(len(records), 'photo')} {were} that the {STARTER} has learned from, so its figures are "
        "better here than on other photos"
    )
