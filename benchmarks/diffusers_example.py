"""A latent UNet trained and sampled as diffusers' example scripts do it: the other side of diffusers_way.py.

The loop is that of examples/text_to_image/train_text_to_image.py with that script's default settings: epsilon, uniform
timesteps, mean squared error without weights, AdamW, a constant learning rate, gradients clipped to 1, EMAModel with
`use_ema`. Four things are not as there, because the script fine-tunes Stable Diffusion and this is a training from
scratch:

- betas are linear from 1e-4 to 0.02, diffusers' default and Ho 2020's, as in examples/unconditional_image_generation;
- the text encoder is trained and averaged with the UNet, because there is no pretrained one;
- a share of the prompts is replaced by the empty one, without which there is no guidance;
- latents come from cached posteriors, drawn anew each time as the script draws them.
"""

from collections.abc import Iterable
from itertools import islice

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, StableDiffusionPipeline
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from quality_per_minute import CpuClock
from torch import Tensor, nn

from vae_ldm.assembly import DiffusionParts
from vae_ldm.models.text_encoder import tokenize

NUM_INFERENCE_STEPS = 50


def training_scheduler() -> DDPMScheduler:
    """The noise of DDPM (Ho 2020, section 4). Latents are not clipped to [-1, 1], as pixels would be."""
    return DDPMScheduler(
        num_train_timesteps=1000, beta_schedule="linear", prediction_type="epsilon", clip_sample=False, steps_offset=1
    )


def sampling_scheduler() -> DDIMScheduler:
    """DDIM (Song 2020) for the same noise. Its last step ends at the first timestep, as Stable Diffusion's does."""
    return DDIMScheduler.from_config(training_scheduler().config, set_alpha_to_one=False)


def noised(scheduler: DDPMScheduler, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy latents [B, c, h, w], their timesteps [B], and the target, which is the noise."""
    noise = torch.randn_like(latents)
    timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (len(latents),))
    return scheduler.add_noise(latents, noise, timesteps), timesteps, noise


def train(
    diffusion: DiffusionParts,
    batches: Iterable[dict[str, Tensor]],
    *,
    learning_rate: float,
    max_steps: int,
    caption_dropout: float,
    clock: CpuClock,
) -> None:
    """Train UNet and text encoder for `max_steps`, and leave the averaged weights in them.

    Batches are those of PosteriorDataset: `mean`, `std` and `prompt_ids`.
    """
    scheduler, unet, text_encoder = training_scheduler(), diffusion.unet.train(), diffusion.text_encoder.train()
    empty_prompt = tokenize(diffusion.tokenizer, [""])
    trained = nn.ModuleList([unet, text_encoder])
    parameters = [parameter for parameter in trained.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
    lr_scheduler = get_scheduler("constant", optimizer)
    average = EMAModel(parameters)
    for index, batch in enumerate(islice(batches, max_steps)):
        clock.begin()
        latents = torch.addcmul(batch["mean"], batch["std"], torch.randn_like(batch["mean"]))
        noisy, timesteps, target = noised(scheduler, latents)
        is_dropped = torch.rand(len(latents), 1) < caption_dropout
        prompts = text_encoder(torch.where(is_dropped, empty_prompt, batch["prompt_ids"]))[0]
        prediction = unet(noisy, timesteps, prompts, return_dict=False)[0]
        F.mse_loss(prediction, target).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        lr_scheduler.step()
        optimizer.zero_grad()
        average.step(parameters)
        clock.end(index)
    average.copy_to(parameters)


def pipeline(diffusion: DiffusionParts, autoencoder: AutoencoderKL) -> StableDiffusionPipeline:
    """What was trained, with DDIM as its scheduler."""
    made = diffusion.pipeline(autoencoder)
    made.register_modules(scheduler=sampling_scheduler())
    return made
