"""How well an autoencoder keeps several kinds of pictures at several sizes, beside a linear code and picture codecs.

    OMP_NUM_THREADS=1 python benchmarks/starter_figures.py starter > figures.md
    OMP_NUM_THREADS=1 python benchmarks/starter_figures.py RUN --only product_clothing256 --sides 128

The packs are folders below --photos (../shared/data). At most 128 validation photos of each, evenly spread, are cut to
squares of each side. PSNR in dB and SSIM are means over photos. The linear code is a PCA of patches with as many
numbers as the latents, fitted to 600 training photos of the pack itself at that size; the difference to it is paired,
with a bootstrap interval of 95 %.

Bytes are those of the entropy-coded latents, as an archive keeps them: at the coarsest step that costs at most 0.1 dB,
with a coder fitted to 64 training photos. WebP and AVIF are given as many bytes, photo by photo. Where their smallest
file is larger, that one is taken, and its share of photos stands in brackets.

`--codes PACK` reads barcodes on whole photos before and after; it needs the extra `reading`.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vae_ldm import load_autoencoder
from vae_ldm.assembly import decode_pictures
from vae_ldm.data.decoding import decode_whole
from vae_ldm.data.photo_records import photo_records
from vae_ldm.data.pictures import Pictures
from vae_ldm.desk.archive.add import fitted_coder
from vae_ldm.desk.archive.photo_coder import latent_ladder
from vae_ldm.evaluation.codec import codecs, compress_to, picture_psnr
from vae_ldm.evaluation.interval import bootstrap_interval, share_interval
from vae_ldm.evaluation.legibility import barcode_reader
from vae_ldm.evaluation.linear_floor import LinearCode
from vae_ldm.evaluation.reconstruction import psnr_per_image, reconstruction_metrics
from vae_ldm.latent_space.latent_coder import LatentCoder
from vae_ldm.models.pixels import as_images, image_batches
from vae_ldm.pipelines.image_autoencoder import ImageAutoencoder
from vae_ldm.recipe import Recipe

KINDS = {
    "product_clothing256": "garments",
    "doc_labels": "labels and barcodes",
    "doc_receipts_de": "scanned receipts",
    "damage_cans": "tins",
    "parcels_porch": "parcels at doors",
    "damage_solar": "thermal pictures",
    "rendered_claims": "rendered claims, detail: fine",
}
"""Packs, and what they show."""
SIDES = (64, 128, 256)
NUM_JUDGED, NUM_FITTED, NUM_CODER = 128, 600, 64
LOST_DB = 0.1
"""What entropy coding may cost."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("autoencoder", help="starter, a run, a folder or ORG/NAME")
    parser.add_argument("--photos", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--sides", nargs="*", type=int, default=list(SIDES))
    parser.add_argument("--codes", metavar="PACK", help="read barcodes on this pack, and nothing else")
    asked = parser.parse_args()
    autoencoder = load_autoencoder(asked.autoencoder, device="cpu")
    with torch.inference_mode():
        if asked.codes:
            print(*codes_read(autoencoder, asked.photos / asked.codes), sep="\n")
            return
        with tempfile.TemporaryDirectory() as folder:
            names = ["WebP", "AVIF"]
            print(f"| pictures | px | photos | PSNR | SSIM | linear | difference | bytes | {' | '.join(names)} |")
            print(f"|---|---|---|---|---|---|---|---|{'---|' * len(names)}")
            for pack in asked.only:
                for side in asked.sides:
                    print(row(autoencoder, pack, side, asked.photos, Path(folder)), flush=True)


def row(autoencoder: ImageAutoencoder, pack: str, side: int, photos: Path, folder: Path) -> str:
    """The figures of a pack at one size, as a row of a Markdown table."""
    train, validation = _pictures(pack, side, photos, folder)
    originals = as_images(validation)
    latents = encoded(autoencoder, validation)
    made = decoded(autoencoder, latents, side)
    found = reconstruction_metrics(originals, made)
    code = LinearCode.fit(
        as_images(train), downsample_factor=autoencoder.downsample_factor, latent_channels=latents.shape[1]
    )
    linear = reconstruction_metrics(originals, code.reconstruct(originals))
    over = found.psnr - linear.psnr
    coder = LatentCoder.fit(list(encoded(autoencoder, _spread(train, NUM_CODER))))
    number = _coarsest(coder, lambda kept: psnr_per_image(decoded(autoencoder, kept, side), originals), latents)
    num_bytes = [len(coder.encode(one, number)) for one in latents]
    beside = [_at_bytes(validation, name, num_bytes) for name in ("WebP", "AVIF")]
    interval = bootstrap_interval(over)
    spread = "" if interval is None else f" [{interval.low:+.2f}, {interval.high:+.2f}]"
    cells = [
        KINDS[pack],
        f"{side}",
        f"{len(validation)}",
        f"{found.psnr.mean():.2f}",
        f"{found.ssim.mean():.3f}",
        f"{linear.psnr.mean():.2f}, {linear.ssim.mean():.3f}",
        f"{over.mean():+.2f}{spread}",
        f"{np.mean(num_bytes):,.0f}",
        *beside,
    ]
    return f"| {' | '.join(cells)} |"


def codes_read(autoencoder: ImageAutoencoder, pack: Path) -> list[str]:
    """The share of barcodes read on validation photos that is still read on reconstructions, and from codecs."""
    reader = barcode_reader()
    if reader is None:
        raise SystemExit("--codes needs zxing-cpp")
    coder, _ = fitted_coder(autoencoder, photo_records(pack / "train"), lambda *_: None)
    kept = dict.fromkeys(("reconstruction", "latents", "WebP", "AVIF"), 0)
    total = num_photos = sum_bytes = 0
    for record in photo_records(pack / "validation"):
        pixels = decode_whole(record.picture)
        ladder, before = latent_ladder(autoencoder, coder, pixels), reader.read(pixels)
        if ladder is None or not before:
            continue
        finest = ladder.max_quality
        number = next(step for step in range(finest + 1) if ladder.psnr(step) >= ladder.psnr(finest) - LOST_DB)
        num_bytes = ladder.num_bytes(number)
        after = {"reconstruction": ladder[finest].pixels, "latents": ladder[number].pixels}
        after |= {codec.name: compress_to(pixels, codec, num_bytes).pixels for codec in codecs() if codec.name in kept}
        for name, picture in after.items():
            texts = reader.read(picture)
            kept[name] += sum(text in texts for text in before)
        total, num_photos, sum_bytes = total + len(before), num_photos + 1, sum_bytes + num_bytes
    lines = [f"{total} codes on {num_photos} photos, {sum_bytes / num_photos:,.0f} bytes a photo"]
    for name, hits in kept.items():
        low, high = share_interval(hits, total)
        lines.append(f"{name}: {hits / total:.1%} [{low:.1%}, {high:.1%}]")
    return lines


def encoded(autoencoder: ImageAutoencoder, pictures: np.ndarray) -> Tensor:
    """Latents [N, c, h, w] of pictures [N, H, W, C]."""
    return torch.cat([autoencoder.encode_batch(batch).float() for batch in image_batches(pictures, 16)])


def decoded(autoencoder: ImageAutoencoder, latents: Tensor, side: int) -> Tensor:
    """Images [N, C, side, side] in [-1, 1] of latents."""
    parts = [autoencoder.decode(some, size=(side, side), output_type="pt") for some in latents.split(16)]
    return torch.cat(parts) * 2 - 1


def _coarsest(coder: LatentCoder, measure: Callable[[Tensor], Tensor], latents: Tensor) -> int:
    """The number of the coarsest step that costs at most LOST_DB on average."""
    usual = measure(latents).mean()
    for number in range(len(coder.steps)):
        if measure(coder.quantized(latents, number)).mean() >= usual - LOST_DB:
            return number
    return len(coder.steps) - 1


def _at_bytes(pictures: np.ndarray, name: str, num_bytes: Sequence[int]) -> str:
    """dB of a codec in so many bytes a picture, and how many pictures it cannot make so small."""
    codec = next((codec for codec in codecs() if codec.name == name), None)
    if codec is None:
        return "not in this Pillow"
    made = [compress_to(picture, codec, size) for picture, size in zip(pictures, num_bytes, strict=True)]
    psnr = np.mean([picture_psnr(one.pixels, picture) for one, picture in zip(made, pictures, strict=True)])
    above = np.mean([one.num_bytes > size for one, size in zip(made, num_bytes, strict=True)])
    return f"{psnr:.2f}" + (f" ({above:.0%} larger)" if above else "")


def _pictures(pack: str, side: int, photos: Path, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Training and validation pictures uint8 [N, side, side, 3]."""
    drawn = {"type": "rendered_claims", "detail": "fine", "num_train": NUM_FITTED, "num_validation": NUM_JUDGED}
    source = drawn if pack == "rendered_claims" else {"type": "image_folder", "path": str(photos / pack)}
    data = {**source, "image_size": side, "channels": 3}
    recipe = Recipe.model_validate({"name": pack, "data": data, "autoencoder": {}})
    splits = decode_pictures(recipe, folder / f"{pack}-{side}", say=lambda _: None)
    return _spread(splits.train, NUM_FITTED), _spread(splits.validation, NUM_JUDGED)


def _spread(pictures: Pictures | np.ndarray, count: int) -> np.ndarray:
    images = pictures if isinstance(pictures, np.ndarray) else np.asarray(pictures.images)
    return images[np.unique(np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int))]


if __name__ == "__main__":
    main()
