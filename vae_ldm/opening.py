"""The door between training a run and using it: what a run folder holds, for those who do not train.

The desk opens runs through here alone, and meets neither Lightning nor a stage of training on the way.
"""

import filecmp
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL
from rich.console import Console

from vae_ldm import loading, starter
from vae_ldm.choices import Conditioning, Distilled, Resize
from vae_ldm.data.mixture import open_mixture
from vae_ldm.data.picture_cache import class_caption
from vae_ldm.data.pictures import Pictures, PictureSplits
from vae_ldm.errors import HubError, WeightsError
from vae_ldm.files import finish_swap
from vae_ldm.hub import cached
from vae_ldm.models.stored_config import checked_config
from vae_ldm.models.unet import sample_size
from vae_ldm.paths import check_run, expanded, is_of_the_hub
from vae_ldm.pipelines.latent_diffusion import LatentDiffusionPipeline
from vae_ldm.pipelines.schedulers import DrawingDefaults, drawing_defaults
from vae_ldm.recipe import Recipe, parts, read_recipe
from vae_ldm.stored_json import StoredKind
from vae_ldm.terminal import StepReport, new_console
from vae_ldm.weights import autoencoder_folder, local_folder, lora_file, pipeline_folder

_METRICS = StoredKind(newest=1, digest_from=2, unnumbered=1, cure="measure the run again with vae-ldm evaluate")
"""metrics.json: it travels with a push for others to read, so it holds numbers alone, and no digest of ours."""


class RunPaths:
    """Where everything of the run folder at `path` lies; `~` is the home folder."""

    def __init__(self, path: Path) -> None:
        with suppress(RuntimeError):  # ~somebody who has no home: there is no such folder
            path = path.expanduser()
        self.path = path
        self.recipe = path / "recipe.yaml"
        self.pictures = path / "pictures"
        self.autoencoder = path / "autoencoder"
        self.latents = path / "latents"
        self.diffusion = path / "diffusion"
        self.pipeline = path / "pipeline"
        self.lora = path / "lora"
        self.teacher = path / "teacher"
        self.student = path / "student"
        self.samples = path / "samples"
        self.metrics = path / "metrics.json"
        self.report = path / "report.html"
        self.reference = path / "diffusion" / "reference.png"
        self.student_reference = path / "distillation" / "reference.png"
        self.state = path / "state.json"

    def exported(self) -> Distilled:
        """Whose weights `pipeline/` holds: those of the UNet that was trained, or of its student."""
        return "teacher" if recorded_defaults(self.pipeline) is None else "student"


@dataclass
class OpenedRun:
    """A run that somebody has trained, with its recipe. Pictures are read when first asked for."""

    paths: RunPaths
    recipe: Recipe
    console: Console

    @cached_property
    def pictures(self) -> PictureSplits:
        """Both splits of the run's own pictures. Raises DataError."""
        return read_pictures(self.recipe, self.paths, self.console)

    @property
    def learned(self) -> Pictures:
        """The training pictures as the run has learned from them, also where their source is gone. Raises DataError."""
        cached = open_mixture(self.paths.pictures)
        return (cached or self.pictures).train


def open_run(run_dir: Path, console: Console | None = None) -> OpenedRun:
    """The run in this folder. Raises VaeLdmError where there is none."""
    paths = RunPaths(run_dir)
    return OpenedRun(paths, read_run_recipe(paths), console or new_console())


def read_run_recipe(paths: RunPaths) -> Recipe:
    """The recipe that a run keeps. Raises VaeLdmError where the folder is no run."""
    check_run(paths.path)
    return read_recipe(paths.recipe, as_trained=True)


def read_pictures(recipe: Recipe, paths: RunPaths, console: Console) -> PictureSplits:
    """Both splits of what the recipe names, decoded into the run folder, or as they lie there. Raises DataError."""
    from vae_ldm.assembly import data  # with it comes Lightning, which most who open a run do without

    with StepReport("reading pictures", console) as report:
        return data.decode_pictures(
            recipe, paths.pictures, say=lambda line: console.print(line, markup=False), progress=report
        )


def recorded_defaults(folder: Path) -> DrawingDefaults | None:
    """How the pipeline in the folder is meant to draw, where it is a student's and says so.

    Raises WeightsError where its scheduler's configuration is damaged.
    """
    file = folder / "scheduler" / "scheduler_config.json"
    return drawing_defaults(checked_config(file, "scheduler")) if file.is_file() else None


def _recorded_defaults_of(source: str | Path) -> DrawingDefaults | None:
    """Those of a run, of a pipeline folder or of a repository of the Hub that was downloaded before.

    What is wrong with one is for whoever opens it to say: its autoencoder alone may be in order.
    """
    with suppress(HubError, WeightsError):
        folder = cached(str(source)) if is_of_the_hub(source) else expanded(source)
        for place in (folder / "pipeline", folder):
            if (place / "model_index.json").is_file():
                return recorded_defaults(place)
    return None


def run_of(source: Path) -> RunPaths | None:
    """The run that `source` is, or whose pipeline folder it is; None elsewhere."""
    named = RunPaths(source)
    finish_swap(named.path)
    for run in (named, RunPaths(named.path.resolve().parent)):
        if run.recipe.is_file() and run.autoencoder.is_dir():
            return run
    return None


@dataclass(frozen=True)
class ModelSettings:
    """How the photos of a model were prepared, and how it draws.

    That is as its run's recipe says, elsewhere as the defaults are; a student of few steps says itself how it draws.
    """

    run: RunPaths | None
    """None for a model that is no run."""
    image_size: tuple[int, int] | None
    """[height, width]; None where no recipe says so."""
    resize: Resize
    horizontal_flip: bool
    """Whether a mirrored photo is one of the same class."""
    validation_fraction: float
    caption_template: str
    conditioning: Conditioning | None
    """None for a model that is no run, and for a run without a diffusion stage."""
    photos: Path | None
    """The folder that the run has learned from, where it was one."""
    num_inference_steps: int
    guidance_scale: float

    def class_prompts(self, class_names: Sequence[str]) -> list[str]:
        """What the model is asked for each class: the caption template, or nothing where it knows no prompts."""
        if self.conditioning == "none":
            return ["" for _ in class_names]
        return [class_caption(self.caption_template, name) for name in class_names]


def settings_of(source: str | Path) -> ModelSettings:
    """The settings of the run that `source` names, by its folder or its pipeline's, or of a model from elsewhere.

    Raises WeightsError where `source` is the starter and its files are damaged.
    """
    of_starter = starter.starter_settings() if starter.is_starter(source) else None
    run = None if of_starter is not None else run_of(Path(source))
    recipe = None if run is None else read_recipe(run.recipe, as_trained=True)
    data = parts.RenderedClaims() if recipe is None else recipe.data
    evaluation = parts.Evaluation() if recipe is None else recipe.evaluation
    recorded = _recorded_defaults_of(source)
    return ModelSettings(
        run=run,
        image_size=of_starter.image_size if of_starter else None if recipe is None else recipe.image_size,
        resize=of_starter.resize if of_starter else data.resize,
        horizontal_flip=data.horizontal_flip,
        validation_fraction=data.validation_fraction,
        caption_template=data.caption_template,
        conditioning=None if recipe is None or recipe.diffusion is None else recipe.diffusion.conditioning,
        photos=None if data.photo_folder is None else Path(data.photo_folder).expanduser().resolve(),
        num_inference_steps=evaluation.num_inference_steps if recorded is None else recorded.num_inference_steps,
        # A run may be measured with another guidance than when its student was trained.
        guidance_scale=recorded.guidance_scale if recorded and recipe is None else evaluation.guidance_scale,
    )


def open_pipeline(source: Path | str, *, autoencoder: AutoencoderKL | None = None) -> LatentDiffusionPipeline:
    """The pipeline of a run folder, a pipeline folder or a Hub name, on the GPU where there is one; it shows no bar.

    `autoencoder` is the one that `loading.load_autoencoder` gives for the same source: where the pipeline's is the same
    file for file, it is not loaded again.
    """
    shared = autoencoder is not None and _is_of_the_pipeline(source)
    pipeline = loading.pipeline(source, vae=autoencoder if shared else None)
    pipeline.set_progress_bar_config(disable=True)
    image_size = settings_of(source).image_size
    if image_size is not None:  # the base of a LoRA may draw another size than the run has trained
        height, width = (side // pipeline.vae_scale_factor for side in image_size)
        pipeline.unet.register_to_config(sample_size=sample_size((height, width)))
    return pipeline


def _is_of_the_pipeline(source: Path | str) -> bool:
    """Whether the autoencoder of `source` and that of its pipeline have the same config and the same weights."""
    folder = local_folder(source)
    if lora_file(folder) is not None:
        return False
    own, other = autoencoder_folder(source), pipeline_folder(folder) / "vae"
    weights = {file.name for place in (own, other) for file in place.glob("*.safetensors")}
    same, _, _ = filecmp.cmpfiles(own, other, weights, shallow=False)
    return set(same) == weights and _config(own) == _config(other)


def _config(folder: Path) -> dict[str, Any]:
    """The configuration of a model, without diffusers' note of where it came from."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return {key: value for key, value in config.items() if not key.startswith("_")}


def read_metrics(run_dir: Path) -> dict[str, Any]:
    """The contents of metrics.json over empty ones: a run that was not evaluated yet has no numbers, but has a page.

    `force_upcast`, which is not in the file, says whether the autoencoder was found unfit for float16.
    Raises DataError where the file is damaged.
    """
    empty: dict[str, Any] = {"name": run_dir.resolve().name, "created": "", "device": ""}
    empty |= {"measurements": [], "timings": [], "versions": {}, "data": {}, "parameters": {}, "chosen": {}}
    empty |= {"drawn_with": {}, "distillation": {}}
    run = RunPaths(run_dir)
    stored = _METRICS.read(run.metrics) if run.metrics.is_file() else {}
    return empty | stored | {"force_upcast": _force_upcast(run.autoencoder / "config.json")}


def _force_upcast(config: Path) -> bool:
    """What the autoencoder's stage has decided; False where the stage is not finished."""
    return config.is_file() and bool(json.loads(config.read_text(encoding="utf-8")).get("force_upcast"))


def usual_psnr(source: str | Path) -> float | None:
    """The mean PSNR in dB of a model's reconstructions of its validation photos; None where it is not known."""
    if starter.is_starter(source):
        return starter.starter_settings().psnr
    measured = read_metrics(Path(source))["measurements"]
    return next((one["value"] for one in measured if one["name"] == "psnr"), None)
