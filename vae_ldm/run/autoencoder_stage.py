"""Stage one: an autoencoder whose latents have zero mean and unit variance."""

import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image

from vae_ldm.assembly import (
    build_autoencoder,
    build_lit_autoencoder,
    compile_if_asked,
    of_each_picture,
    shares_of,
    starts_from_flux2,
)
from vae_ldm.data.datamodule import ImageDataModule
from vae_ldm.data.pictures import Pictures
from vae_ldm.files import let_others_read
from vae_ldm.models.autoencoder import load_autoencoder_kl
from vae_ldm.models.batches import batch_size_for, in_batches
from vae_ldm.models.half_precision import make_fit_for_half
from vae_ldm.models.joined_pictures import JoinedPictures, PictureArray, each_size, num_channels
from vae_ldm.models.latent_scaling import (
    LatentStatistics,
    check_fold,
    decide_force_upcast,
    fold_latent_scaling,
    silence_posterior,
    stored_statistics,
    weighted_latent_statistics,
)
from vae_ldm.models.pixels import as_images, as_pictures
from vae_ldm.models.single_file import measured_scaling
from vae_ldm.models.stored_config import checked_config, forget_origin
from vae_ldm.pages.image_grid import image_grid, in_cells
from vae_ldm.recipe import Recipe, parts
from vae_ldm.run.choosing import drop_snapshots
from vae_ldm.run.fingerprint import autoencoder_fingerprint
from vae_ldm.run.fitting import fit_stage
from vae_ldm.run.session import Session
from vae_ldm.text import counted
from vae_ldm.training.callbacks import PictureEachValidation
from vae_ldm.training.lit_autoencoder import LitAutoencoder
from vae_ldm.weights import local_folder, pipeline_folder

_BATCH_SIZE = 64
"""Pictures encoded at once up to 256 px."""
_NUM_CHECK_IMAGES = 16
_NUM_GRID_IMAGES = 8


def run_autoencoder_stage(session: Session) -> AutoencoderKL:
    """The finished autoencoder of the run, trained now unless it already was, in eval mode on the session's device."""
    run, recipe = session.run, session.recipe
    processes = session.processes
    if processes.first(lambda: run.finished("autoencoder") is None):
        channels = num_channels(session.pictures.train.images)
        torch.manual_seed(recipe.seed)
        autoencoder = build_autoencoder(recipe, image_channels=channels)
        facts = {} if recipe.autoencoder.train == "nothing" else _train(session, autoencoder)
        facts |= finish_autoencoder(session, autoencoder)
        facts |= autoencoder_fingerprint(autoencoder)
        processes.first(lambda: _save(session, autoencoder, facts))
    processes.first(lambda: drop_snapshots(session, "autoencoder"))
    return load_autoencoder_kl(str(run.autoencoder)).to(session.device).requires_grad_(False)


def _save(session: Session, autoencoder: AutoencoderKL, facts: dict[str, object]) -> None:
    autoencoder.save_pretrained(session.run.autoencoder)
    forget_origin(session.run.autoencoder)
    let_others_read(session.run.autoencoder)
    session.run.finish("autoencoder", **facts)


def _train(session: Session, autoencoder: AutoencoderKL) -> dict[str, object]:
    recipe, pictures = session.recipe, session.pictures
    stage = recipe.autoencoder
    module = build_lit_autoencoder(recipe, autoencoder)
    compile_if_asked(stage.trainer, [autoencoder.encoder, autoencoder.decoder], say=session.say)
    data = ImageDataModule(
        pictures.train,
        pictures.validation,
        batch_size=stage.trainer.batch_size,
        seed=recipe.seed,
        horizontal_flip=of_each_picture(recipe, pictures.train, "horizontal_flip"),
        color_jitter=of_each_picture(recipe, pictures.train, "color_jitter"),
        random_resized_crop=of_each_picture(recipe, pictures.train, "random_resized_crop"),
        crop_size=None if stage.crop_size is None else parts.both_sides(stage.crop_size),
        shares=shares_of(recipe, pictures.train),
        num_val_images=stage.trainer.num_val_images,
    )
    fixed = evenly_spaced(pictures.validation, _NUM_GRID_IMAGES)
    folder = session.run.path / "autoencoder"
    facts = fit_stage(
        session,
        "autoencoder",
        module,
        data,
        stage.trainer,
        ema=stage.ema,
        callbacks=[PictureEachValidation(folder / "reconstructions", lambda module: _before_and_after(module, fixed))],
    )
    del module
    return facts


def _before_and_after(module: torch.nn.Module, images: PictureArray) -> Image.Image:
    assert isinstance(module, LitAutoencoder)
    autoencoder, device = module.autoencoder, module.device

    def reconstruct(pictures: np.ndarray) -> np.ndarray:
        posterior = autoencoder.encode(as_images(pictures).to(device)).latent_dist
        return as_pictures(autoencoder.decode(posterior.mode()).sample)

    shown = np.concatenate([in_cells(images), in_cells(each_size(reconstruct, images))])
    return image_grid(shown, num_columns=len(images), scale=2)


@torch.no_grad()
def finish_autoencoder(session: Session, autoencoder: AutoencoderKL) -> dict[str, object]:
    """Fold the latents' scale into the weights where it changed, check the fold, and decide on `force_upcast`.

    A pretrained autoencoder whose encoder did not change keeps its weights and factor, and so every old latent and
    UNet. Its own numbers that StableDiffusionPipeline would ignore (FLUX's shift, SDXL's per-channel statistics) are
    folded if a UNet is trained on its latents. FLUX.2 normalises patches of latents; what one channel has is measured.
    """
    recipe, train = session.recipe, session.pictures.train
    stage = recipe.autoencoder
    autoencoder.to(session.device).eval()
    if not stage.variational:
        silence_posterior(autoencoder)
    facts: dict[str, object] = {}
    statistics: LatentStatistics | None = None
    if stage.train == "all":
        statistics = weighted_latent_statistics(_posteriors(session, autoencoder), total=session.processes.total)
    elif recipe.diffusion is not None and recipe.diffusion.from_pretrained is None:
        statistics = stored_statistics(autoencoder)
    is_flux2 = stage.train != "all" and starts_from_flux2(recipe)
    if is_flux2 and statistics is not None:
        statistics = weighted_latent_statistics(_posteriors(session, autoencoder), total=session.processes.total)
        session.say(
            "autoencoder: FLUX.2 normalises patches of 2x2 latents, which is left out; mean and deviation of each "
            f"channel were measured on {counted(len(train), 'training photo')} instead"
        )
    elif not is_flux2 and stage.train != "all" and Path(stage.from_pretrained or "").expanduser().is_file():
        facts |= _settle_scaling(session, autoencoder)
        if statistics is not None:
            statistics = stored_statistics(autoencoder)
    images = as_images(of_common_size(recipe, evenly_spaced(train, _NUM_CHECK_IMAGES)))
    if statistics is not None:
        before = copy.deepcopy(autoencoder)
        fold_latent_scaling(autoencoder, statistics)
        difference = check_fold(before, autoencoder, images)
        session.say(f"autoencoder: latents folded to zero mean and unit variance; decodes differ by {difference:.1e}")
        if stage.from_pretrained is not None and stage.train == "all":
            session.say(
                f"autoencoder: its latents are no longer those of {stage.from_pretrained}: latents and UNets made with "
                "that do not fit it; autoencoder.train=decoder keeps them"
            )
        facts["fold_difference"] = difference
        facts["latent_mean"], facts["latent_std"] = statistics.mean.tolist(), statistics.std.tolist()
    upcast = decide_force_upcast(autoencoder, images)
    if upcast and stage.train != "nothing":  # of weights that stay as they came, nothing is changed
        scaled = ("decoder", "encoder") if stage.train == "all" else ("decoder",)
        halvings = make_fit_for_half(autoencoder, images, parts=scaled)
        if halvings is not None:
            upcast = False
            facts["residuals_halved"] = halvings
            session.say(f"autoencoder: a residual stream of it is scaled by 2^-{halvings}, so that it survives float16")
    if upcast:
        session.say("autoencoder: unfit for float16 (pictures may come out black); use bfloat16 or float32")
    autoencoder.register_to_config(force_upcast=upcast)
    facts["force_upcast"] = upcast
    return facts


def _settle_scaling(session: Session, autoencoder: AutoencoderKL) -> dict[str, object]:
    """Give an autoencoder of a single file, which says nothing of it, its scaling factor, and say which and why.

    It is the factor of the pipeline whose UNet is trained, or else the published one that fits the photos.
    """
    recipe = session.recipe
    if recipe.diffusion is not None and recipe.diffusion.from_pretrained is not None:
        unet = recipe.diffusion
        folder = pipeline_folder(local_folder(str(unet.from_pretrained), revision=unet.revision))
        config = checked_config(folder / "vae" / "config.json", "autoencoder")
        name, factor, shift = str(unet.from_pretrained), config.get("scaling_factor"), config.get("shift_factor")
        autoencoder.register_to_config(scaling_factor=factor or autoencoder.config.scaling_factor, shift_factor=shift)
        session.say(f"autoencoder: the file does not say its scaling factor; {factor:g} is that of {name}")
        return {"scaling_factor": factor}
    statistics = weighted_latent_statistics(_posteriors(session, autoencoder), total=session.processes.total)
    mean = statistics.mean.mean().item()
    std = (statistics.std.square() + (statistics.mean - mean).square()).mean().sqrt().item()
    found = measured_scaling(autoencoder, mean, std)
    autoencoder.register_to_config(scaling_factor=found.scaling_factor, shift_factor=found.shift_factor)
    session.say(
        "autoencoder: the file does not say its scaling factor; on these photos its latents have a standard deviation "
        f"of {std:.3g}, so {found.scaling_factor:.5g} is taken, that of {found.name}; a folder with a config.json "
        "would say it"
    )
    return {"scaling_factor": found.scaling_factor, "measured_latent_std": std}


def _posteriors(
    session: Session, autoencoder: AutoencoderKL
) -> Iterator[tuple[DiagonalGaussianDistribution, float | None]]:
    """This process's share of the training pictures, encoded, and how much a picture of a mixture counts.

    Latents are to have unit variance as they are drawn in training, where a source has the share of its weight.
    """
    rank, count = session.processes.rank, session.processes.count
    train = session.pictures.train
    start, stop = (len(train) * place // count for place in (rank, rank + 1))
    shares, first = shares_of(session.recipe, train), 0
    counts = (len(train),) if shares is None else shares.counts
    for number, size in enumerate(counts):  # pictures of one source are of one size
        weight = None if shares is None else shares.weights[number] / size
        images = train.images[slice(max(start, first), max(start, min(stop, first + size)))]
        first += size
        posteriors = in_batches(
            lambda pictures: autoencoder.encode(as_images(pictures).to(autoencoder.device)).latent_dist,
            images,
            batch_size_for(images.shape[1:3], most=_BATCH_SIZE),
        )
        yield from ((posterior, weight) for posterior in posteriors)


def of_common_size(recipe: Recipe, pictures: PictureArray) -> np.ndarray:
    """The pictures, or of several sizes the middle of each: as large as a training crop, or else as the smallest."""
    if not isinstance(pictures, JoinedPictures):
        return pictures
    crop = recipe.autoencoder.crop_size
    height, width = parts.both_sides(crop) if crop is not None else map(min, zip(*pictures.sizes, strict=True))
    middles = []
    for picture in pictures:
        top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
        middles.append(picture[top : top + height, left : left + width])
    return np.stack(middles)


def evenly_spaced(pictures: Pictures, count: int) -> PictureArray:
    """At most `count` pictures of a split, uint8 [n, H, W, C] or of several sizes, evenly spread over it and so over
    its classes.
    """
    total = len(pictures.ids)
    return pictures.images[np.linspace(0, total - 1, min(count, total)).astype(int)]
