"""`vae-ldm morph`, `walk` and `grid`: ways between and around photos, through latents and through the model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vae_ldm.choices import MIN_STRENGTH
from vae_ldm.desk.command import DeskCommand
from vae_ldm.desk.foreign_photos import foreign_words
from vae_ldm.desk.pipeline import PhotoPipeline
from vae_ldm.errors import DataError, VaeLdmError
from vae_ldm.evaluation.reconstruction import psnr_per_image
from vae_ldm.files import whole_folder
from vae_ldm.latent_space.walk import Variation, axes_grid, corners_grid, loop_around, rim
from vae_ldm.models.pixels import image_batches
from vae_ldm.opening import open_run, usual_psnr
from vae_ldm.pages.image_grid import image_grid
from vae_ldm.paths import check_new_folder
from vae_ldm.pipelines.latent_diffusion import slerp
from vae_ldm.text import counted

FRAME_MILLISECONDS = 90
_MAX_LIKE = 256  # photos that directions are learned from


@dataclass(frozen=True)
class Drawing:
    """How the model draws the frames of a walk anew."""

    strength: float = 0.5
    prompt: str = ""
    seed: int = 0
    num_inference_steps: int | None = None
    """None: those of the run's recipe."""
    guidance_scale: float | None = None

    def __post_init__(self) -> None:
        if not MIN_STRENGTH <= self.strength <= 1:
            raise VaeLdmError(f"strength is {self.strength:g}; it is at least {MIN_STRENGTH:g} and at most 1")


def morph(
    a: Path, b: Path, source: str, *, out: Path, steps: int = 8, smooth: int = 3, drawing: Drawing | None = None
) -> list[Path]:
    """Write a morph from one photo to another: `strip.png` of `steps` pictures, and the endless film `morph.webp`,
    there and back.

    The film has `smooth` frames for each step of the strip. Upper row: along the great circle through both photos'
    latents. Lower row: each of those drawn anew by the model, all from the same noise. Raises VaeLdmError where `out`
    holds something already, DataError and WeightsError for what cannot be opened.
    """
    drawing = drawing or Drawing()
    command = DeskCommand()
    model = _open(source, out)
    start, end = _encode_photos(command, model, [a, b]).split(1)
    num_frames = (steps - 1) * smooth + 1
    latents = torch.cat([slerp(start, end, frame / (num_frames - 1)) for frame in range(num_frames)])
    latent, drawn = _frames(model, latents, drawing)
    drawn[[0, -1]] = latent[[0, -1]]  # the ends stay what they are
    shown = range(0, num_frames, smooth)
    titles = [f"{frame / (num_frames - 1):.0%}" for frame in shown]
    there_and_back = [*range(num_frames), *range(num_frames - 2, 0, -1)]
    with whole_folder(out) as folder:
        _strip(latent[shown], drawn[shown], titles, drawing).save(folder / "strip.png")
        _save_film(folder / "morph.webp", latent[there_and_back], drawn[there_and_back], drawing)
    return [out / "strip.png", out / "morph.webp"]


def walk(
    photo: Path,
    source: str,
    *,
    out: Path,
    radius: float = 0.6,
    steps: int = 8,
    smooth: int = 3,
    like: Path | None = None,
    drawing: Drawing | None = None,
) -> list[Path]:
    """Once around a photo at a distance of `radius` standard deviations: `strip.png`, and `walk.webp`, which closes.

    The plane of the circle is drawn at random from the ways in which photos differ: those below `like`, else the run's
    training pictures. Errors are those of `morph`.
    """
    drawing = drawing or Drawing()
    command = DeskCommand()
    model = _open(source, out)
    center = _encode_photos(command, model, [photo])
    generator = torch.Generator().manual_seed(drawing.seed)
    directions = _variation(command, model, like).draw(2, generator)
    latents = loop_around(center[0], directions, radius=radius, steps=steps * smooth)
    latent, drawn = _frames(model, latents, drawing)
    middle_latent, middle_drawn = _frames(model, center, drawing)
    shown = range(0, len(latents), smooth)
    titles = ["the photo", *(f"{360 * frame / len(latents):.0f}°" for frame in shown)]
    with whole_folder(out) as folder:
        strip = np.concatenate([middle_latent, latent[shown]]), np.concatenate([middle_drawn, drawn[shown]])
        _strip(*strip, titles, drawing).save(folder / "strip.png")
        _save_film(folder / "walk.webp", latent, drawn, drawing)
    _check_like(command, like, out)
    return [out / "strip.png", out / "walk.webp"]


def grid(
    photo: Path,
    source: str,
    *,
    out: Path,
    toward: Sequence[Path] = (),
    reach: float = 2.0,
    side: int = 5,
    like: Path | None = None,
    drawing: Drawing | None = None,
) -> list[Path]:
    """A photo in two directions at once: `grid.png`, through latents and through the model, and `grid.webp`.

    The directions are the two along which photos differ most (those below `like`, else the run's training pictures),
    `reach` of their standard deviations to either side, the photo in the middle; or the way `toward` two further
    photos, which then stand at the right and at the bottom. The film goes once around the border. Errors are those of
    `morph`.
    """
    drawing = drawing or Drawing()
    if len(toward) not in (0, 2):
        raise VaeLdmError(f"a grid has two directions: name two photos to go toward, not {len(toward)}")
    command = DeskCommand()
    model = _open(source, out)
    center, *corners = _encode_photos(command, model, [photo, *toward])
    if toward:
        places = torch.linspace(0, 1, side).tolist()
        right, bottom = corners
        latents = corners_grid(center, right, bottom, places)
        across, down = ([f"{place:.0%} {file.stem}" for place in places] for file in toward)
    else:
        places = torch.linspace(-reach, reach, side).tolist()
        variation = _variation(command, model, like)
        first, second = variation.axes[:2] * variation.stds[:2, None, None, None]
        latents = axes_grid(center, first, second, places)
        across, down = ([_deviations(place, *ways) for place in places] for ways in (("left", "right"), ("up", "down")))
    latent, drawn = _frames(model, latents, drawing)
    # Side by side: a row of the page is a row of the one, then the same row of the other.
    halves = np.stack([latent, drawn]).reshape(2, side, side, *latent.shape[1:])
    rows = halves.swapaxes(0, 1).reshape(-1, *latent.shape[1:])
    page = image_grid(
        rows,
        num_columns=2 * side,
        group_size=side,
        column_titles=across + across,
        captions=[f"{how}, {name}" for name in down for how in _titles(drawing)],
        on_paper=True,
    )
    border = rim(side, side)
    with whole_folder(out) as folder:
        page.save(folder / "grid.png")
        _save_film(folder / "grid.webp", latent[border], drawn[border], drawing)
    _check_like(command, like, out)
    return [out / "grid.png", out / "grid.webp"]


def _open(source: str, out: Path) -> PhotoPipeline:
    """The model, after a look at where pictures are to go: nobody should wait for what cannot be written."""
    check_new_folder(out)
    return PhotoPipeline(source)


def _encode(model: PhotoPipeline, photos: np.ndarray) -> Tensor:
    """Latents [N, c, h, w] on the CPU."""
    batches = image_batches(photos, model.batch_size)
    return torch.cat([model.pipeline.autoencoder.encode_batch(batch).float().cpu() for batch in batches])


def _encode_photos(command: DeskCommand, model: PhotoPipeline, files: Sequence[Path]) -> Tensor:
    """Latents [N, c, h, w] of photos, each of which is told where the autoencoder does not know its kind well."""
    photos = np.concatenate([model.photo(file) for file in files])
    latents = _encode(model, photos)
    usual = usual_psnr(model.source)
    if usual is not None:
        decoded = model.pipeline.autoencoder.decode(latents, size=model.image_size, output_type="pt").cpu() * 2 - 1
        found = psnr_per_image(decoded, torch.cat(list(image_batches(photos, len(photos)))))
        for file, psnr in zip(files, found.tolist(), strict=True):
            if words := foreign_words(psnr, usual):
                command.say(f"{file}: {words}")
    return latents


def _variation(command: DeskCommand, model: PhotoPipeline, like: Path | None) -> Variation:
    """How photos differ: those below `like`, else the run's own. Raises VaeLdmError where there are neither."""
    if like is not None:
        records = command.photo_records(like)
        chosen = [records[row] for row in _spread(len(records))]
        photos = model.photos(chosen, on_unreadable=command.leave_out)
        if not len(photos):
            command.refuse_all_left_out(f"{counted(len(chosen), 'photo')} of {like}")
        command.tell_left_out()
        return Variation.fit(_encode(model, photos))
    if model.run is None:
        raise VaeLdmError(f"{model.source} is no run folder; name photos whose differences are directions with --like")
    try:
        pictures = open_run(model.run.path).learned.images
    except DataError as error:
        raise DataError(f"{error}; name photos whose differences are directions with --like") from error
    return Variation.fit(_encode(model, pictures[_spread(len(pictures))]))


def _check_like(command: DeskCommand, like: Path | None, out: Path) -> None:
    """Raise ManyUnreadableError where more than 1 % of the photos that directions come from were left out."""
    if like is not None:
        command.check_left_out(min(_MAX_LIKE, len(command.photo_records(like))), f"{out} is drawn by the others")


def _spread(count: int) -> np.ndarray:
    return np.linspace(0, count - 1, min(count, _MAX_LIKE)).astype(int)


def _frames(model: PhotoPipeline, latents: Tensor, drawing: Drawing) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of latents [N, c, h, w], and the same drawn anew from one noise: uint8 [N, H, W, C] each."""
    latent, drawn = [], []
    for batch in latents.split(model.batch_size):
        latent.append(model.pipeline.autoencoder.decode(batch, size=model.image_size, output_type="np"))
        drawn.append(
            model.pipeline.redraw(
                batch,
                drawing.strength,
                prompt=drawing.prompt,
                generator=torch.Generator().manual_seed(drawing.seed),
                size=model.image_size,
                output_type="np",
                **_settings(model, drawing),
            ).images
        )
    return _as_pictures(np.concatenate(latent)), _as_pictures(np.concatenate(drawn))


def _settings(model: PhotoPipeline, drawing: Drawing) -> dict[str, Any]:
    guidance_scale = model.settings.guidance_scale if drawing.guidance_scale is None else drawing.guidance_scale
    return {
        "num_inference_steps": drawing.num_inference_steps or model.settings.num_inference_steps,
        "guidance_scale": guidance_scale,
    }


def _as_pictures(images: np.ndarray) -> np.ndarray:
    return np.round(images * 255).astype(np.uint8)


def _deviations(place: float, less: str, more: str) -> str:
    """Standard deviations from the photo, and which way."""
    return f"{abs(place):.2g} sd {more if place > 0 else less}" if place else "0 sd"


def _titles(drawing: Drawing) -> tuple[str, str]:
    return "latents", f"redrawn at {drawing.strength:g}"


def _strip(latent: np.ndarray, drawn: np.ndarray, titles: list[str], drawing: Drawing) -> Image.Image:
    return image_grid(
        np.concatenate([latent, drawn]),
        num_columns=len(titles),
        column_titles=titles,
        row_labels=_titles(drawing),
        on_paper=True,
    )


def _save_film(file: Path, latent: np.ndarray, drawn: np.ndarray, drawing: Drawing) -> None:
    """An animated WebP that runs for ever, the two ways side by side."""
    pages = [
        image_grid(np.stack(pair), num_columns=2, column_titles=_titles(drawing), on_paper=True)
        for pair in zip(latent, drawn, strict=True)
    ]
    pages[0].save(
        file, save_all=True, append_images=pages[1:], duration=FRAME_MILLISECONDS, loop=0, lossless=True, method=4
    )
