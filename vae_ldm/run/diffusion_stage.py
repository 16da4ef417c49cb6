"""Stages two and three: cached posteriors, and a UNet on them that leaves as a pipeline folder."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from pytorch_lightning import Callback
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vae_ldm.assembly import (
    DiffusionParts,
    build_diffusion,
    build_lit_latent_diffusion,
    class_prompts,
    compile_if_asked,
    of_each_picture,
    picture_prompts,
    prompt_ids,
    shares_of,
)
from vae_ldm.data.posterior_cache import PosteriorDataModule, PosteriorDataset, cache_posteriors, has_posteriors
from vae_ldm.data.sources import SPLITS, Split
from vae_ldm.files import whole_folder
from vae_ldm.models.lora import save_lora
from vae_ldm.pipelines.plain_folder import save_plain_pipeline
from vae_ldm.run.choosing import drop_snapshots
from vae_ldm.run.fingerprint import pipeline_fingerprint
from vae_ldm.run.fitting import fit_stage
from vae_ldm.run.session import Session
from vae_ldm.text import counted
from vae_ldm.training.callbacks import EachNSteps
from vae_ldm.training.lit_latent_diffusion import LitLatentDiffusion

MakePusher = Callable[[Session, DiffusionParts, AutoencoderKL], Callable[[LitLatentDiffusion, int], None]]


def run_diffusion_stage(session: Session, autoencoder: AutoencoderKL, make_pusher: MakePusher) -> None:
    """Leaves `pipeline/` in the run folder, trained now unless it already was.

    `make_pusher` gives what is called on the way, where the recipe asks for that.
    """
    run, recipe = session.run, session.recipe
    if recipe.diffusion is None:
        return
    if session.processes.first(lambda: run.finished("diffusion") is not None):
        session.processes.first(lambda: drop_snapshots(session, "diffusion"))
        return
    prompts = _prompts(session)
    folders = {split: cached_posteriors(session, autoencoder, split) for split in SPLITS}

    torch.manual_seed(recipe.seed)
    diffusion = build_diffusion(recipe, autoencoder, vocabulary(session, prompts["train"]))
    if recipe.diffusion.from_pretrained is not None and (dropout := diffusion.unet.config.dropout):
        session.say(f"diffusion: the dropout of {dropout:g} that the UNet comes with acts in training")
    if said := cut_captions(diffusion.tokenizer, prompts["train"]):
        session.say(f"diffusion: {said}")
    datasets = {
        split: PosteriorDataset(
            folder,
            prompt_ids(diffusion, prompts[split]),
            seed=recipe.seed,
            augment=split == "train" and of_each_picture(recipe, session.pictures.train, "horizontal_flip"),
        )
        for split, folder in folders.items()
    }
    part = recipe.diffusion.trainer
    data = PosteriorDataModule(
        datasets["train"],
        datasets["validation"],
        batch_size=part.batch_size,
        seed=recipe.seed,
        num_val_images=part.num_val_images,
        shares=shares_of(recipe, session.pictures.train),
    )
    module = build_lit_latent_diffusion(recipe, diffusion)
    compile_if_asked(part, [diffusion.unet], say=session.say)
    callbacks: list[Callback] = []
    if recipe.hub is not None and recipe.hub.push_every_n_steps is not None:
        pusher = make_pusher(session, diffusion, autoencoder)
        callbacks.append(EachNSteps(recipe.hub.push_every_n_steps, pusher, wait=session.processes.wait))
    facts = fit_stage(session, "diffusion", module, data, part, ema=recipe.diffusion.ema, callbacks=callbacks)
    trained = recipe.diffusion

    def leave() -> None:
        if trained.train == "lora":
            with whole_folder(run.lora) as folder:
                save_lora(diffusion.unet, folder)
        if trained.train != "lora" or trained.lora.merge:
            facts.update(pipeline_fingerprint(diffusion.pipeline(autoencoder).to(session.device), run.reference))
            save_pipeline(diffusion, autoencoder, run.pipeline)
        run.finish("diffusion", **facts)
        drop_snapshots(session, "diffusion")

    session.processes.first(leave)


def cut_captions(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> str | None:
    """How many prompts are longer than the tokenizer's length, and what is done about it; None where none is."""
    limit, counts = tokenizer.model_max_length, Counter(prompts)
    lengths = [len(ids) for ids in tokenizer(list(counts), truncation=False, verbose=False).input_ids]
    cut = sum(count for count, length in zip(counts.values(), lengths, strict=True) if length > limit)
    if not cut:
        return None
    found = f"{cut:,} of {counted(len(prompts), 'caption')} {'is' if cut == 1 else 'are'} cut off"
    return f"{found} at {limit} tokens; the longest has {max(lengths)}"


def check_prompts(session: Session) -> None:
    """Raise DataError where the pictures cannot give the prompts to come: to be asked before the first stage trains."""
    if session.recipe.diffusion is not None and session.run.finished("diffusion") is None:
        _prompts(session)


def _prompts(session: Session) -> dict[Split, list[str]]:
    return {split: picture_prompts(session.recipe, getattr(session.pictures, split)) for split in SPLITS}


def vocabulary(session: Session, train_prompts: list[str]) -> list[str]:
    """What the tokenizer must know: the prompts trained on, the classes' prompts and every caption."""
    train = session.pictures.train
    return [*train_prompts, *class_prompts(session.recipe, train.class_names), *train.captions]


def save_pipeline(diffusion: DiffusionParts, autoencoder: AutoencoderKL, folder: Path) -> None:
    """Write the pipeline as a folder that plain diffusers opens, as a whole or not at all."""
    with whole_folder(folder) as part:
        save_plain_pipeline(diffusion.pipeline(autoencoder), part)


def cached_posteriors(session: Session, autoencoder: AutoencoderKL, split: str) -> Path:
    """The folder with the split's posteriors, computed now unless the cache is complete and of these weights."""
    run, recipe = session.run, session.recipe
    folder, pictures = run.latents / split, getattr(session.pictures, split)
    flips = split == "train" and any(one.part.horizontal_flip for one in recipe.data.all_sources)
    key = _key(run.autoencoder, session.pictures.key, split, flips=flips)
    processes = session.processes
    if not processes.first(lambda: has_posteriors(folder, key=key)):
        with session.progress(f"encoding the {split} pictures") as report:
            cache_posteriors(
                partial(_scaled_posterior, autoencoder),
                pictures,
                folder,
                key=key,
                flips=flips,
                progress=report,
                rank=processes.rank,
                num_replicas=processes.count,
                wait=processes.wait,
            )
    return folder


def _scaled_posterior(autoencoder: AutoencoderKL, images: Tensor) -> DiagonalGaussianDistribution:
    """The posterior of the latents that the UNet sees, which StableDiffusionPipeline divides by `scaling_factor`."""
    parameters = autoencoder.encode(images.to(autoencoder.device)).latent_dist.parameters
    mean, logvar = parameters.chunk(2, dim=1)
    factor = torch.tensor(autoencoder.config.scaling_factor, device=parameters.device)
    return DiagonalGaussianDistribution(torch.cat([mean * factor, logvar + 2 * factor.log()], dim=1))


def _key(weights: Path, pictures_key: str, split: str, *, flips: bool) -> str:
    digest = hashlib.sha256()
    for file in sorted(weights.glob("*.safetensors")):
        digest.update(file.read_bytes())
    digest.update((weights / "config.json").read_bytes())
    digest.update(f"{pictures_key} {split} flips={flips}".encode())
    return digest.hexdigest()
