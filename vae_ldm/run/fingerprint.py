"""A finished stage's fingerprint, which is kept in state.json and reference.png, and the check of an export against it.

A push sends what others will open with plain diffusers, so it is opened with plain diffusers first: every weight must
be the one that was trained, bit for bit, and the picture drawn from seed 0 the one that the networks drew when
training ended.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, StableDiffusionPipeline
from PIL import Image

from vae_ldm.errors import WeightsError, first_line
from vae_ldm.files import write_picture
from vae_ldm.models.weights_digest import weights_digest
from vae_ldm.pipelines.sampling import sample_images

_NETWORKS = ("vae", "unet", "text_encoder")
# Bits agree on the machine that trained; others round otherwise, which two steps do not let grow.
_NUM_STEPS = 2
_LARGEST_DIFFERENCE = 3


def pipeline_fingerprint(pipeline: StableDiffusionPipeline, picture: Path) -> dict[str, Any]:
    """Digests of the networks' weights, as facts about the stage; a picture that they draw goes to the file."""
    picture.parent.mkdir(parents=True, exist_ok=True)
    write_picture(picture, Image.fromarray(_draw(pipeline)))
    return {"weights": {name: weights_digest(getattr(pipeline, name)) for name in _NETWORKS}}


def autoencoder_fingerprint(autoencoder: AutoencoderKL) -> dict[str, Any]:
    """The digest of an autoencoder alone, as facts about its stage."""
    return {"weights": {"vae": weights_digest(autoencoder)}}


def check_pipeline(folder: Path, digests: Mapping[str, str], picture: Path) -> None:
    """Raise WeightsError where plain diffusers opens anything else in the folder than what was trained."""
    try:
        pipeline = DiffusionPipeline.from_pretrained(folder, use_safetensors=True, trust_remote_code=False)
    except Exception as error:  # whatever a damaged folder makes diffusers stumble over
        raise WeightsError(f"{folder}: plain diffusers cannot open it ({first_line(error)})") from error
    if type(pipeline) is not StableDiffusionPipeline:
        raise WeightsError(f"{folder}: opens as {type(pipeline).__name__}, not as StableDiffusionPipeline")
    _check_weights(folder, {name: getattr(pipeline, name) for name in _NETWORKS}, digests)
    pipeline.to("cuda" if torch.cuda.is_available() else "cpu")
    with Image.open(picture) as image:
        expected = np.asarray(image).astype(int)
    drawn = _draw(pipeline).astype(int)
    if drawn.shape != expected.shape or np.abs(drawn - expected).max() > _LARGEST_DIFFERENCE:
        raise WeightsError(
            f"{folder}: draws another picture than the run did when it was trained ({picture}), "
            "though its weights are the same; its scheduler, tokenizer or configuration was changed"
        )


def check_autoencoder(folder: Path, digests: Mapping[str, str]) -> None:
    """Raise WeightsError where plain diffusers opens another autoencoder in the folder than what was trained."""
    try:
        autoencoder = AutoencoderKL.from_pretrained(folder, use_safetensors=True)
    except Exception as error:
        raise WeightsError(f"{folder}: plain diffusers cannot open it ({first_line(error)})") from error
    _check_weights(folder, {"vae": autoencoder}, digests)


def _check_weights(folder: Path, networks: Mapping[str, torch.nn.Module], digests: Mapping[str, str]) -> None:
    for name, network in networks.items():
        if weights_digest(network) != digests[name]:
            raise WeightsError(f"{folder}: the weights of its {name} are not those that the run has trained")


def _draw(pipeline: StableDiffusionPipeline) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    (picture,) = sample_images(pipeline, [""], seeds=[0], num_inference_steps=_NUM_STEPS, guidance_scale=1)
    return picture.squeeze()
