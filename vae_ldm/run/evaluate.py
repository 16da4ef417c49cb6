"""Stage three: every number of the run beside its floor or ceiling, the grids, and one page with all of it."""

import importlib.metadata
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from torch import Tensor

from vae_ldm.assembly import build_features, class_prompts
from vae_ldm.evaluation.embedding import embed_pictures
from vae_ldm.evaluation.evaluator import evaluate_autoencoder, evaluate_samples
from vae_ldm.evaluation.measurement import Measurement
from vae_ldm.evaluation.probe_classifier import ProbeClassifier
from vae_ldm.files import write_json
from vae_ldm.hardware import device_name
from vae_ldm.models.autoencoder import downsample_factor, load_autoencoder
from vae_ldm.models.batches import batch_size_for, in_batches
from vae_ldm.opening import open_pipeline
from vae_ldm.pipelines.sampling import sample_images, unknown_words
from vae_ldm.recipe import parts
from vae_ldm.run.report import write_report
from vae_ldm.run.sample_grids import draw_reconstructions, draw_samples, row_names
from vae_ldm.run.session import Session
from vae_ldm.text import counted

_PACKAGES = ("vae_ldm", "torch", "pytorch-lightning", "diffusers", "transformers", "accelerate", "datasets")


def evaluate_run(run_dir: Path, *, num_samples: int | None = None) -> None:
    """Measure a trained run (again) and write metrics.json, the grids and report.html.

    Raises VaeLdmError where the folder is no run, or its training is not finished.
    """
    session = Session.opened(run_dir)
    recipe = session.recipe
    session.require_finished("autoencoder")
    if recipe.diffusion is not None:
        session.require_finished("diffusion")
    settings = recipe.evaluation
    if num_samples is not None:
        settings = settings.model_copy(update={"num_samples": num_samples})
    with session.run.locked():
        autoencoder = load_autoencoder(str(session.run.autoencoder)).to(session.device)
        _evaluate(session, autoencoder, settings)
    session.say_where()


def run_evaluation_stage(session: Session, autoencoder: AutoencoderKL) -> None:
    """The run's metrics, grids and report, made now unless they already were."""
    if session.run.finished("evaluation") is None:
        _evaluate(session, autoencoder, session.recipe.evaluation)
        session.run.finish("evaluation")


def _evaluate(session: Session, autoencoder: AutoencoderKL, settings: parts.Evaluation) -> None:
    run, recipe = session.run, session.recipe
    train, validation = session.pictures.train, session.pictures.validation
    run.samples.mkdir(exist_ok=True)
    session.say(f"evaluation: features of {len(train)} training pictures, and a probe classifier of them")
    start = time.perf_counter()
    features = build_features(settings.features).to(session.device)
    probe = None
    if len(train.class_names) > 1:
        with session.progress("fitting the probe classifier") as report:
            probe = ProbeClassifier.fit(
                train.images,
                train.labels,
                len(train.class_names),
                features=features,
                seed=recipe.seed,
                flips=recipe.data.horizontal_flip,
                progress=report,
            )
    with session.progress("features of the training pictures") as report:
        seen = embed_pictures(features, train.images, settings.batch_size, report)
    shared: dict[str, Any] = {
        "features": features,
        "probe": probe,
        "batch_size": settings.batch_size,
        "train_embeddings": seen,
    }

    session.say(f"evaluation: reconstructions of {len(validation)} validation pictures")

    with session.progress("reconstructing") as report:
        done = 0

        def encode_decode(images: Tensor) -> Tensor:
            nonlocal done
            posterior = autoencoder.encode(images.to(session.device)).latent_dist
            reconstructions = autoencoder.decode(posterior.mode()).sample
            done += len(images)
            report(done, len(validation))
            return reconstructions

        first = evaluate_autoencoder(
            encode_decode,
            train,
            validation,
            downsample_factor=downsample_factor(autoencoder),
            latent_channels=autoencoder.config.latent_channels,
            **shared,
        )
    draw_reconstructions(session, first)
    measurements, timings = first.measurements, [_timing(session, "autoencoder")]
    parameters = {"autoencoder": _count(autoencoder)}

    if recipe.diffusion is not None:
        pipeline = open_pipeline(run.path)
        prompts, labels = _prompts(session, settings.num_samples)
        session.say(f"evaluation: {len(prompts)} generated pictures")
        unknown = sorted({word for prompt in set(prompts) for word in unknown_words(pipeline, prompt)})
        if unknown:
            session.say(f"evaluation: {_few(unknown)} in the prompts: no training caption has them")
        sampling_start = time.perf_counter()
        samples = _sample(session, pipeline, prompts, settings)
        sampling = {"stage": "sampling", "seconds": round(time.perf_counter() - sampling_start, 1)}
        ceilings = [m.value for m in measurements if m.name == "reconstruction_agreement"]
        second = evaluate_samples(
            samples,
            labels,
            train,
            validation,
            agreement_ceiling=ceilings[0] if ceilings else None,
            seed=recipe.seed,
            **shared,
        )
        draw_samples(session, samples, row_names(session, prompts, labels), second)
        measurements = [*measurements, *second.measurements]
        timings += [_timing(session, "diffusion"), {**sampling, "num_images": len(samples)}]
        parameters |= {"unet": _count(pipeline.unet), "text_encoder": _count(pipeline.text_encoder)}
    timings.append(
        {
            "stage": "evaluation",
            "seconds": round(time.perf_counter() - start, 1),
            "num_images": len(validation) + (settings.num_samples if recipe.diffusion is not None else 0),
        }
    )
    write_json(run.metrics, _metrics(session, measurements, timings, parameters))
    write_report(run.path)
    for measurement in measurements:
        session.say(f"  {_in_words(measurement)}")


def _prompts(session: Session, count: int) -> tuple[list[str], np.ndarray | None]:
    """`count` prompts, class after class in turn, and the class each asks for; None where there are none.

    A model of captions is asked with those of held-out pictures, and an unconditional one with the empty prompt.
    """
    assert session.recipe.diffusion is not None
    conditioning, pictures = session.recipe.diffusion.conditioning, session.pictures.validation
    if conditioning == "none":
        return [""] * count, None
    if conditioning == "class":
        prompts = class_prompts(session.recipe, pictures.class_names)
        labels = np.arange(count) % len(prompts)
        return [prompts[label] for label in labels], labels
    rows = _class_by_class(pictures.labels, count)
    labels = pictures.labels[rows]
    return [pictures.captions[row] for row in rows], None if (labels < 0).any() else labels


def _class_by_class(labels: np.ndarray, count: int) -> list[int]:
    """`count` rows: one of each class in turn, a class's own rows in turn as well."""
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    turns = (divmod(number, len(classes)) for number in range(count))
    return [int(classes[label][turn % len(classes[label])]) for turn, label in turns]


def _few(words: list[str], count: int = 5) -> str:
    more = f" and {len(words) - count} more" if len(words) > count else ""
    return f"{counted(len(words), 'unknown word')} ({', '.join(words[:count])}{more})"


def _sample(
    session: Session, pipeline: StableDiffusionPipeline, prompts: list[str], settings: parts.Evaluation
) -> np.ndarray:
    images: list[np.ndarray] = []
    with session.progress("drawing samples") as report:

        def draw(seeds: range) -> list[np.ndarray]:
            return sample_images(
                pipeline,
                [prompts[seed] for seed in seeds],
                seeds=seeds,
                num_inference_steps=settings.num_inference_steps,
                guidance_scale=settings.guidance_scale,
            )

        at_once = batch_size_for(session.recipe.image_size, most=settings.batch_size)
        for drawn in in_batches(draw, range(len(prompts)), at_once):
            images += drawn
            report(len(images), len(prompts))
    return np.stack(images)


def _metrics(
    session: Session, measurements: list[Measurement], timings: list[dict[str, Any]], parameters: dict[str, int]
) -> dict[str, Any]:
    pictures = session.pictures
    height, width, channels = pictures.train.images.shape[1:]
    return {
        "name": session.recipe.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "measurements": [measurement.as_dict() for measurement in measurements],
        "timings": [_with_speed(timing) for timing in timings if timing.get("seconds") is not None],
        "parameters": parameters,
        "data": {
            "train": len(pictures.train),
            "validation": len(pictures.validation),
            "image_size": [height, width],
            "channels": channels,
            "class_names": pictures.train.class_names,
            "unreadable": len(pictures.unreadable),
        },
        "device": device_name(session.device),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
    }


def _timing(session: Session, stage: str) -> dict[str, Any]:
    facts = session.run.finished(stage) or {}  # type: ignore[arg-type]
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
    unit = f" {measurement.unit}" if measurement.unit else ""
    features = f" by {measurement.features}" if measurement.features else ""
    beside = ""
    if measurement.reference is not None:
        beside = f"; {measurement.reference_name}: {measurement.reference:.4g}{unit}"
    return (
        f"{measurement.name} {measurement.value:.4g}{unit} "
        f"({measurement.num_images} {measurement.split} pictures{features}{beside})"
    )
