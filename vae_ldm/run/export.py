"""`vae-ldm export`: any checkpoint of a run as a folder that plain diffusers opens."""

from pathlib import Path

from diffusers import AutoencoderKL
from torch import nn

from vae_ldm.assembly import DiffusionParts, build_autoencoder, build_diffusion
from vae_ldm.errors import VaeLdmError, WeightsError
from vae_ldm.files import whole_folder
from vae_ldm.models.autoencoder import load_autoencoder
from vae_ldm.run.autoencoder_stage import finish_autoencoder
from vae_ldm.run.diffusion_stage import picture_prompts, save_pipeline, vocabulary
from vae_ldm.run.fitting import module_weights
from vae_ldm.run.folder import RunFolder, Stage
from vae_ldm.run.session import Session
from vae_ldm.training.callbacks import checkpoint_step, run_checkpoints


def export_checkpoint(run_dir: Path, *, checkpoint: str | None = None, output_dir: Path | None = None) -> Path:
    """The folder written: a StableDiffusionPipeline, or an AutoencoderKL for a checkpoint of the first stage.

    `checkpoint` is a path or a step of the diffusion stage; None takes the newest of the furthest stage. Raises
    VaeLdmError where there is no such checkpoint, or the output folder exists already.
    """
    session = Session.opened(run_dir)
    stage, path = _find_checkpoint(session.run, checkpoint)
    target = output_dir or session.run.path / f"{'pipeline' if stage == 'diffusion' else stage}-{path.stem}"
    if target.exists():
        raise VaeLdmError(f"{target}: exists already; name another folder with --out, or delete it")
    if stage == "autoencoder":
        autoencoder = _autoencoder_at(session, path)
        with whole_folder(target) as part:
            autoencoder.save_pretrained(part)
    else:
        save_pipeline(_diffusion_at(session, path), load_autoencoder(str(session.run.autoencoder)), target)
    session.say(f"{path.stem} of the stage {stage} is exported to {target}")
    return target


def _find_checkpoint(run: RunFolder, wanted: str | None) -> tuple[Stage, Path]:
    stages: tuple[Stage, ...] = ("diffusion", "autoencoder")
    found = {stage: run_checkpoints(run.checkpoints(stage)) for stage in stages}
    if wanted is None:
        for stage, paths in found.items():
            if paths:
                return stage, paths[0]
        raise VaeLdmError(f"{run.path}: has no checkpoint yet")
    for stage, paths in found.items():
        named = Path(wanted).resolve()
        if named.is_file() and named.parent == run.checkpoints(stage).resolve():
            return stage, named
        for path in paths:
            if wanted == str(checkpoint_step(path)):
                return stage, path
    there = ", ".join(f"{stage} {checkpoint_step(path)}" for stage, paths in found.items() for path in paths)
    raise VaeLdmError(f"{run.path}: has no checkpoint {wanted}; there are: {there or 'none'}")


def _diffusion_at(session: Session, checkpoint: Path) -> DiffusionParts:
    session.require_finished("autoencoder")
    autoencoder = load_autoencoder(str(session.run.autoencoder))
    prompts = picture_prompts(session.recipe, session.pictures.train)
    diffusion = build_diffusion(session.recipe, autoencoder, vocabulary(session, prompts))
    _load(diffusion.unet, checkpoint, "unet.")
    _load(diffusion.text_encoder, checkpoint, "text_encoder.")
    return diffusion


def _autoencoder_at(session: Session, checkpoint: Path) -> AutoencoderKL:
    channels = session.pictures.train.images.shape[-1]
    autoencoder = build_autoencoder(session.recipe, image_channels=channels)
    _load(autoencoder, checkpoint, "autoencoder.")
    finish_autoencoder(session, autoencoder)
    return autoencoder


def _load(module: nn.Module, checkpoint: Path, prefix: str) -> None:
    weights = module_weights(checkpoint)
    own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    missing, unexpected = module.load_state_dict(own, strict=False)
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    if unexpected or trained & set(missing):
        raise WeightsError(
            f"{checkpoint}: holds other weights than the recipe's networks have; take another checkpoint"
        )
