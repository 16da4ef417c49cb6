"""The one place where a checked recipe becomes objects."""

from vae_ldm.assembly.autoencoder import (
    build_autoencoder,
    build_features,
    build_image_loss,
    build_lit_autoencoder,
    check_pretrained_fits,
    starts_from_flux2,
)
from vae_ldm.assembly.data import (
    ReadySource,
    build_sources,
    class_prompts,
    decode_pictures,
    of_each_picture,
    picture_prompts,
    picture_settings,
    shares_of,
)
from vae_ldm.assembly.diffusion import (
    DiffusionParts,
    build_diffusion,
    build_lit_latent_diffusion,
    build_objective,
    build_text_encoder,
    build_unet,
    prompt_ids,
)
from vae_ldm.assembly.distillation import build_few_steps, build_lit_distillation, build_student
from vae_ldm.assembly.trainer import (
    build_optimizer,
    build_trainer,
    check_precision,
    compile_if_asked,
    expected_precision,
    place_channels_last,
)

__all__ = [
    "DiffusionParts",
    "ReadySource",
    "build_autoencoder",
    "build_diffusion",
    "build_features",
    "build_few_steps",
    "build_image_loss",
    "build_lit_autoencoder",
    "build_lit_distillation",
    "build_lit_latent_diffusion",
    "build_objective",
    "build_optimizer",
    "build_sources",
    "build_student",
    "build_text_encoder",
    "build_trainer",
    "build_unet",
    "check_precision",
    "check_pretrained_fits",
    "class_prompts",
    "compile_if_asked",
    "decode_pictures",
    "expected_precision",
    "of_each_picture",
    "picture_prompts",
    "picture_settings",
    "place_channels_last",
    "prompt_ids",
    "shares_of",
    "starts_from_flux2",
]
