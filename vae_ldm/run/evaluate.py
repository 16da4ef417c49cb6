"""The last stage: every number of the run beside its reference, the grids, and one page with all of it."""

import importlib.metadata
import platform
import time
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from torch import Tensor

from vae_ldm.assembly import build_features
from vae_ldm.choices import Stage
from vae_ldm.errors import DataError, VaeLdmError
from vae_ldm.evaluation.evaluator import (
    AutoencoderEvaluation,
    RealPictures,
    evaluate_autoencoder,
    trained_classes,
)
from vae_ldm.evaluation.measurement import Measurement, measured_share
from vae_ldm.evaluation.probe_classifier import ProbeClassifier
from vae_ldm.evaluation.verdict import comparison, verdict
from vae_ldm.files import write_json
from vae_ldm.hardware import device_name
from vae_ldm.models.autoencoder import downsample_factor, load_autoencoder_kl
from vae_ldm.models.joined_pictures import image_sizes, num_channels
from vae_ldm.opening import open_pipeline, read_metrics
from vae_ldm.pages.environment import number, quantity
from vae_ldm.pipelines.sampling import unknown_words
from vae_ldm.recipe import parts
from vae_ldm.recipe.stages import TRAINED
from vae_ldm.run.choosing import choice_in, of_choice
from vae_ldm.run.distillation_stage import export_as_pipeline
from vae_ldm.run.drawn_samples import DrawnSamples, SamplerSettings, draw_and_measure
from vae_ldm.run.judge_student import judge_student
from vae_ldm.run.report import write_report
from vae_ldm.run.sample_grids import draw_reconstructions, draw_samples, row_names
from vae_ldm.run.sample_prompts import left_out_classes, sample_prompts
from vae_ldm.run.session import Session
from vae_ldm.text import counted

_PACKAGES = ("vae_ldm", "torch", "pytorch-lightning", "diffusers", "transformers", "accelerate", "datasets")
_MAX_NAMED_WORDS = 5
_SAMPLING = "sampling"
"""The entry of the timings that says how many samples were drawn."""


def evaluate_run(run_dir: Path, *, num_samples: int | None = None, replace: bool = False) -> None:
    """Measure a trained run (again) and write metrics.json, the grids and report.html.

    Raises VaeLdmError where the folder is no run, or its training is not finished, and without `replace` where it has
    measurements of more samples already.
    """
    session = Session.opened(run_dir)
    recipe = session.recipe
    session.require_trained()
    settings = recipe.evaluation
    if num_samples is not None:
        settings = settings.model_copy(update={"num_samples": num_samples})
    if recipe.diffusion is not None and not replace:
        _keep_better(session, settings.num_samples)
    with session.run.locked():
        autoencoder = load_autoencoder_kl(str(session.run.autoencoder)).to(session.device)
        _evaluate(session, autoencoder, settings)
    session.say_where()


def _keep_better(session: Session, num_samples: int) -> None:
    """Raise VaeLdmError where the run's measurements are of more than `num_samples` samples."""
    with suppress(DataError):  # damaged, and about to be written anew
        timings = read_metrics(session.run.path)["timings"]
        drawn = max((timing["num_images"] for timing in timings if timing["stage"] == _SAMPLING), default=0)
        if drawn > num_samples:
            raise VaeLdmError(
                f"{session.run.path}: its measurements and grids are of {counted(drawn, 'sample')}, and those of "
                f"{num_samples:,} would replace them; measure as many with --num-samples {drawn}, or allow that with "
                "--replace"
            )


def check_features(session: Session) -> None:
    """Raise WeightsError before anything is trained where the network that measures cannot be opened."""
    if session.run.finished("evaluation") is None:
        build_features(session.recipe.evaluation.features)


def run_evaluation_stage(session: Session, autoencoder: AutoencoderKL) -> None:
    """The run's metrics, grids and report, made now unless they already were."""
    if session.run.finished("evaluation") is None:
        _evaluate(session, autoencoder, session.recipe.evaluation)
        session.run.finish("evaluation")


def _evaluate(session: Session, autoencoder: AutoencoderKL, settings: parts.Evaluation) -> None:
    run, recipe = session.run, session.recipe
    run.samples.mkdir(exist_ok=True)
    start = time.perf_counter()
    real = real_pictures(session, settings)
    first = _measure_autoencoder(session, autoencoder, real)
    draw_reconstructions(session, first)
    measurements, num_images = first.measurements, len(session.pictures.validation)
    choices = {stage.name: choice_in(run.finished(stage.name) or {}) for stage in TRAINED}
    timings = [_timing(session, stage.name) for stage in TRAINED if getattr(recipe, stage.name) is not None]
    parameters = {"autoencoder": _count(autoencoder)}
    judged, drawn = None, None
    if recipe.diffusion is not None:
        agreements = [m.value for m in first.measurements if m.name == "reconstruction_agreement"]
        agreement = agreements[0] if agreements else None
        if recipe.distillation is not None:
            judged = judge_student(session, settings, real, agreement)
            export_as_pipeline(session, judged.exported)
            session.say(f"distillation: {judged.in_words()}")
        pipeline = open_pipeline(run.path)
        ready = None if judged is None else judged.drawn[judged.exported]
        second, drawn = _measure_samples(session, pipeline, settings, real, ready, agreement)
        measurements = [*measurements, *second, *([] if judged is None else judged.measurements)]
        num_images += len(drawn.samples)
        timings.append({"stage": _SAMPLING, "seconds": drawn.seconds, "num_images": len(drawn.samples)})
        parameters |= {"unet": _count(pipeline.unet), "text_encoder": _count(pipeline.text_encoder)}
    seconds = round(time.perf_counter() - start, 1)
    timings.append({"stage": "evaluation", "seconds": seconds, "num_images": num_images})
    measurements = [*measurements, *(of_choice(name, choice) for name, choice in choices.items() if choice is not None)]
    metrics = _metrics(session, measurements, timings, parameters)
    metrics["chosen"] = {name: choice.in_words() for name, choice in choices.items() if choice is not None}
    metrics["data"] |= _of_mixture(session, first)
    if drawn is not None:
        metrics["drawn_with"] = asdict(drawn.drawing)
    if judged is not None:
        metrics["distillation"] = judged.as_dict() | {"in_words": judged.in_words()}
    write_json(run.metrics, metrics)
    write_report(run.path)
    for measurement in measurements:
        session.say(f"  {_in_words(measurement)}")


def real_pictures(session: Session, settings: parts.Evaluation) -> RealPictures:
    """The run's pictures, with a probe where the training pictures are of two classes or more."""
    recipe, train = session.recipe, session.pictures.train
    session.say(f"evaluation: features of {counted(len(train), 'training picture')}, and a probe classifier on them")
    features = build_features(settings.features).to(session.device)
    if untrained := left_out_classes(train.class_names, train):
        session.say(
            f"evaluation: no training pictures of {', '.join(untrained)}: they are neither asked for nor scored"
        )
    probe = None
    if len(trained_classes(train.labels)) > 1:
        with session.progress("fitting the probe classifier") as report:
            probe = ProbeClassifier.fit(
                train.images,
                train.labels,
                len(train.class_names),
                features=features,
                seed=recipe.seed,
                flips=all(one.part.horizontal_flip for one in recipe.data.all_sources),
                progress=report,
            )
    with session.progress("features of the training pictures") as report:
        real = RealPictures(train, session.pictures.validation, features, probe, settings.batch_size, report)
        assert len(real.seen) == len(train)  # embedded now, while the bar shows it
    return real


def _measure_autoencoder(session: Session, autoencoder: AutoencoderKL, real: RealPictures) -> AutoencoderEvaluation:
    validation = session.pictures.validation
    session.say(f"evaluation: reconstructions of {counted(len(validation), 'validation picture')}")
    with session.progress("reconstructing") as report:
        done = 0

        def encode_decode(images: Tensor) -> Tensor:
            nonlocal done
            posterior = autoencoder.encode(images.to(session.device)).latent_dist
            reconstructions = autoencoder.decode(posterior.mode()).sample
            done += len(images)
            report(done, len(validation))
            return reconstructions

        return evaluate_autoencoder(
            encode_decode,
            real,
            downsample_factor=downsample_factor(autoencoder),
            latent_channels=autoencoder.config.latent_channels,
        )


def _measure_samples(
    session: Session,
    pipeline: StableDiffusionPipeline,
    settings: parts.Evaluation,
    real: RealPictures,
    drawn: DrawnSamples | None,
    reconstruction_agreement: float | None,
) -> tuple[list[Measurement], DrawnSamples]:
    """Draw the samples, unless they were, and their grid; the measurements of them, and the samples."""
    recipe, train, validation = session.recipe, session.pictures.train, session.pictures.validation
    assert recipe.diffusion is not None
    measurements: list[Measurement] = []
    asked = sample_prompts(recipe, train, validation, settings.num_samples)
    if recipe.diffusion.conditioning == "caption":
        measurements.append(_unknown_words(session, pipeline, asked.prompts))
    if drawn is None:
        session.say(f"evaluation: {counted(len(asked.prompts), 'generated picture')}")
        drawn = draw_and_measure(
            session,
            pipeline,
            SamplerSettings(settings.num_inference_steps, settings.guidance_scale),
            asked,
            real,
            settings,
            reconstruction_agreement=reconstruction_agreement,
        )
    draw_samples(session, drawn.samples, row_names(session, asked), drawn.found)
    return [*measurements, *drawn.found.measurements], drawn


def _unknown_words(session: Session, pipeline: StableDiffusionPipeline, prompts: list[str]) -> Measurement:
    """The share of prompts with a word that the model does not know, said aloud."""
    unknown = [unknown_words(pipeline, prompt) for prompt in prompts]
    words = list(dict.fromkeys(word for of_prompt in unknown for word in of_prompt))
    if words:
        examples = ", ".join(f'"{word}"' for word in words[:_MAX_NAMED_WORDS])
        more = ", ..." if len(words) > _MAX_NAMED_WORDS else ""
        session.say(
            f"evaluation: {sum(map(bool, unknown))} of {counted(len(prompts), 'prompt')} have words that the model "
            f"does not know ({examples}{more}); samples and agreement suffer"
        )
    return measured_share(
        "prompts_with_unknown_words",
        torch.tensor([bool(of_prompt) for of_prompt in unknown]),
        split="generated",
        stage="diffusion",
        better="lower",
        features="the words of their prompts",
        reference=None,
    )


def _metrics(
    session: Session, measurements: list[Measurement], timings: list[dict[str, Any]], parameters: dict[str, int]
) -> dict[str, Any]:
    pictures = session.pictures
    sizes = image_sizes(pictures.train.images)
    return {
        "name": session.recipe.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "measurements": [measurement.as_dict() for measurement in measurements],
        "timings": [_with_speed(timing) for timing in timings if timing.get("seconds") is not None],
        "parameters": parameters,
        "data": {
            "train": len(pictures.train),
            "validation": len(pictures.validation),
            "image_size": list(sizes[0] if len(sizes) == 1 else session.recipe.image_size),
            "channels": num_channels(pictures.train.images),
            "class_names": pictures.train.class_names,
            "untrained_classes": left_out_classes(pictures.train.class_names, pictures.train),
            "unreadable": len(pictures.unreadable),
        },
        "device": device_name(session.device),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
    }


def _of_mixture(session: Session, evaluation: AutoencoderEvaluation) -> dict[str, Any]:
    """What metrics.json says of each source of a mixture; nothing for a recipe of one source, and no path."""
    pictures, sources = session.pictures, session.recipe.data.all_sources
    if pictures.train.source_counts is None or pictures.validation.source_counts is None:
        return {}
    total = sum(one.weight for one in sources)
    rows, first = [], 0
    for one, train, validation in zip(
        sources, pictures.train.source_counts, pictures.validation.source_counts, strict=True
    ):
        own = slice(first, first + validation)
        first += validation
        rows.append(
            {
                "name": one.key.removeprefix("data."),
                "type": one.part.type,
                "share": one.weight / total,
                "image_size": list(parts.both_sides(one.part.image_size)),
                "train": train,
                "validation": validation,
                "psnr": float(evaluation.psnr[own].mean()),
                "psnr_floor": float(evaluation.psnr_floors[own].mean()),
            }
        )
    sizes = [list(size) for size in image_sizes(pictures.train.images)]
    return {"sources": rows} | ({"image_sizes": sizes} if len(sizes) > 1 else {})


def _timing(session: Session, stage: Stage) -> dict[str, Any]:
    facts = session.run.finished(stage) or {}
    return {"stage": stage, "seconds": facts.get("seconds"), "num_images": facts.get("num_images")}


def _with_speed(timing: dict[str, Any]) -> dict[str, Any]:
    """The timing with pictures a second; None where it is too short to tell."""
    seconds = timing["seconds"]
    return timing | {"images_per_second": round(timing["num_images"] / seconds, 1) if seconds else None}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _in_words(measurement: Measurement) -> str:
    features = f" by {measurement.features}" if measurement.features else ""
    interval = ""
    if measurement.low is not None and measurement.high is not None:
        interval = f" [{number(measurement.low)}, {number(measurement.high)}]"
    beside = ""
    if measurement.reference is not None:
        judged = verdict(measurement)
        beside = f"; {f'{judged.word}: ' if judged else ''}{comparison(measurement)}"
    return (
        f"{measurement.name} {quantity(measurement.value, measurement.unit)}{interval} "
        f"({counted(measurement.num_images, f'{measurement.split} picture')}{features}{beside})"
    ).replace("\N{NO-BREAK SPACE}", " ")
