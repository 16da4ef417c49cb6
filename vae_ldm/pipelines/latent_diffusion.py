"""A StableDiffusionPipeline that can also vary, morph and reconstruct photos, and saves as a plain one."""

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput
from torch import Tensor

from vae_ldm.errors import VaeLdmError
from vae_ldm.models.image_input import Images, as_image_batch
from vae_ldm.pipelines.image_autoencoder import ImageAutoencoder
from vae_ldm.pipelines.plain_folder import save_plain_pipeline
from vae_ldm.pipelines.prompt_length import telling_what_is_cut_off
from vae_ldm.pipelines.schedulers import DrawingDefaults
from vae_ldm.pipelines.varied_latents import Generators, check_guidance, defaults_of, varied_latents, warn_of_ignored


class LatentDiffusionPipeline(StableDiffusionPipeline):
    """A StableDiffusionPipeline, called as that is, with methods that begin from photos, or from latents.

    >>> import numpy as np, torch, vae_ldm
    >>> pipeline = vae_ldm.pipeline("runs/claims-32")
    >>> pipeline.set_progress_bar_config(disable=True)
    >>> photos = np.zeros((2, 30, 45, 3), np.uint8)
    >>> pipeline.reconstruct(photos).images[0].size
    (45, 30)
    >>> varied = pipeline.vary(photos, strength=0.5, n=3, generator=torch.Generator().manual_seed(0))
    >>> len(varied.images)  # three of the first photo, then three of the second
    6
    >>> len(pipeline.morph(photos[0], photos[1], steps=5).images)
    5

    These three take what `ImageAutoencoder.encode` takes, of any size, and return StableDiffusionPipelineOutput:
    `.images` is a list of Pillow images, or with `output_type` "np" or "pt" floats in [0, 1], [B, H, W, C] or
    [B, C, H, W]. No safety checker looks at them. Where `num_inference_steps` and `guidance_scale` are None, a student
    of few steps draws as it was made to, and any other pipeline in 20 steps with a guidance of 2.
    """

    @functools.wraps(StableDiffusionPipeline.__call__)
    def __call__(self, *args: Any, **options: Any) -> Any:
        check_guidance(options.get("guidance_scale", 0.0))
        warn_of_ignored(self, options.get("negative_prompt"))
        with telling_what_is_cut_off(self, args[0] if args else options.get("prompt"), options.get("negative_prompt")):
            return super().__call__(*args, **options)

    @property
    def defaults(self) -> DrawingDefaults:
        """Steps and guidance of `vary`, `morph` and `redraw` where they are told none."""
        return defaults_of(self)

    @property
    def autoencoder(self) -> ImageAutoencoder:
        """The pipeline's autoencoder in plain calls."""
        return ImageAutoencoder(self.vae)

    def reconstruct(self, images: Images, *, output_type: str = "pil") -> StableDiffusionPipelineOutput:
        """The images through the autoencoder and back, B images of their own size: what the pipeline can show at best.

        Raises DataError for what is no image.
        """
        return _output(self.autoencoder.reconstruct(images, output_type=output_type))

    @torch.no_grad()
    def vary(
        self,
        images: Images,
        strength: float = 0.5,
        n: int = 4,
        *,
        prompt: str | Sequence[str] = "",
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: Generators | None = None,
        output_type: str = "pil",
        callback_on_step_end: Callable[..., Any] | None = None,
        **options: Any,
    ) -> StableDiffusionPipelineOutput:
        """B * n images like these, the n of the first image first.

        `strength` in [0, 1] is the share of the way to noise that each goes and comes back (SDEdit, Meng 2021): 0 is
        the reconstruction, 1 keeps nothing. `prompt` is one for all or one an image; `guidance_scale` acts only with
        one. `generator` is one, or B * n; steps and callbacks are those of diffusers, as are further `options`
        (negative_prompt, callback_on_step_end_tensor_inputs, ...).

        Raises VaeLdmError for a strength outside [0, 1], an n below 1 or a wrong number of prompts, DataError for what
        is no image.
        """
        if n < 1:
            raise VaeLdmError(f"n is {n}; at least 1 variation is asked for")
        size, latents = self._encoded(images)
        return self.vary_latents(
            latents,
            strength,
            n,
            prompt=prompt,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            generator=generator,
            size=size,
            output_type=output_type,
            callback_on_step_end=callback_on_step_end,
            **options,
        )

    @torch.no_grad()
    def vary_latents(
        self,
        latents: Tensor,
        strength: float = 0.5,
        n: int = 4,
        *,
        size: tuple[int, int] | None = None,
        output_type: str = "pil",
        prompt: str | Sequence[str] = "",
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        **options: Any,
    ) -> StableDiffusionPipelineOutput:
        """`vary` of images whose latents [B, c, h, w], those of `autoencoder.encode`, are known already.

        Arguments and errors are those of `vary` and of `autoencoder.decode`.
        """
        varied = varied_latents(
            self,
            latents.to(self.vae.device, self.vae.dtype),
            strength,
            n,
            prompt=prompt,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            **options,
        )
        return _output(self.autoencoder.decode(varied, size=size, output_type=output_type))

    @torch.no_grad()
    def morph(
        self,
        a: Images,
        b: Images,
        steps: int = 8,
        *,
        strength: float = 0.0,
        prompt: str = "",
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
        callback_on_step_end: Callable[..., Any] | None = None,
    ) -> StableDiffusionPipelineOutput:
        """`steps` images from the reconstruction of `a` to that of `b`, both included.

        Latents in between lie on the great circle through both (Shoemake 1985). With a `strength` the images in between
        are varied by that much, all with the same noise, so that they become pictures of their own instead of double
        exposures; the ends stay what they are.

        Raises VaeLdmError where `steps` is below 2, `a` or `b` are several images, or they differ in size.
        """
        if steps < 2:
            raise VaeLdmError(f"steps is {steps}; the two ends are 2 already")
        (size, start), (other_size, end) = self._encoded(a), self._encoded(b)
        if len(start) != 1 or len(end) != 1:
            raise VaeLdmError(f"a morph is between two images, not {len(start)} and {len(end)}")
        if size != other_size:
            shown = " and ".join("x".join(map(str, one)) for one in (size, other_size))
            raise VaeLdmError(f"a morph is between images of one size, not {shown}; resize one of them")
        latents = torch.cat([slerp(start, end, step / (steps - 1)) for step in range(steps)])
        if strength and steps > 2:
            latents[1:-1] = varied_latents(
                self,
                latents[1:-1],
                strength,
                1,
                prompt=prompt,
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                generator=_same_noise(generator, steps - 2),
                callback_on_step_end=callback_on_step_end,
            )
        return _output(self.autoencoder.decode(latents, size=size, output_type=output_type))

    @torch.no_grad()
    def redraw(
        self,
        latents: Tensor,
        strength: float = 0.5,
        *,
        prompt: str | Sequence[str] = "",
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | None = None,
        size: tuple[int, int] | None = None,
        output_type: str = "pil",
    ) -> StableDiffusionPipelineOutput:
        """B images of latents [B, c, h, w], each drawn anew by `strength`, all with the same noise: frames of one walk.

        Latents are those of `autoencoder.encode`; arguments are those of `vary` and of `autoencoder.decode`, and so are
        the errors.
        """
        latents = varied_latents(
            self,
            latents.to(self.vae.device, self.vae.dtype),
            strength,
            1,
            prompt=prompt,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            generator=_same_noise(generator, len(latents)),
        )
        return _output(self.autoencoder.decode(latents, size=size, output_type=output_type))

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """Write a plain StableDiffusionPipeline, which needs nothing of ours to be opened.

        `options` are those of diffusers, less push_to_hub, for which there is `vae_ldm.push`: VaeLdmError.
        """
        if options.get("push_to_hub"):
            raise VaeLdmError("save_pretrained pushes nothing; use vae_ldm.push, which writes the model card as well")
        save_plain_pipeline(self, Path(save_directory), **options)

    def _encoded(self, images: Images) -> tuple[tuple[int, int], Tensor]:
        """Height and width of the images, and their latents [B, c, h, w]."""
        batch = as_image_batch(images, channels=self.vae.config.in_channels)
        return (batch.shape[2], batch.shape[3]), self.autoencoder.encode_batch(batch)


def _same_noise(generator: torch.Generator | None, count: int) -> list[torch.Generator]:
    """`count` generators in the state of this one, or of a random one: frames of one walk would flicker otherwise."""
    device = "cpu" if generator is None else generator.device
    state = (generator or torch.Generator().manual_seed(torch.seed())).get_state()
    generators = [torch.Generator(device) for _ in range(count)]
    for one in generators:
        one.set_state(state)
    return generators


def slerp(start: Tensor, end: Tensor, share: float) -> Tensor:
    """The point at `share` in [0, 1] of the great circle from `start` to `end`, both exactly reproduced.

    Each is one vector, whatever its shape. Where they are nearly parallel the circle is a straight line.
    """
    if share in (0, 1):
        return end if share else start
    cosine = torch.nn.functional.cosine_similarity(start.double().flatten(), end.double().flatten(), dim=0)
    angle = cosine.clamp(-1, 1).acos()
    if angle < 1e-4 or math.pi - angle < 1e-4:  # opposite ends have no one circle between them
        return torch.lerp(start, end, share)
    near, far = ((1 - share) * angle).sin() / angle.sin(), (share * angle).sin() / angle.sin()
    return start * near.to(start) + end * far.to(end)


def _output(images: Any) -> StableDiffusionPipelineOutput:
    return StableDiffusionPipelineOutput(images=images, nsfw_content_detected=None)
