"""README.md of a pushed repository: what the model is, how to use it, and what was measured, on how many pictures."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from vae_ldm.evaluation.meaning import meaning
from vae_ldm.evaluation.measurement import Measurement
from vae_ldm.evaluation.verdict import comparison, measured_on
from vae_ldm.pages.environment import image_size, number, quantity
from vae_ldm.text import counted, duration

_MAX_LISTED_CLASSES = 40


@dataclass(frozen=True)
class Licence:
    """The licence of the weights: an identifier of the Hub, None where none was named, and who says so."""

    id: str | None = None
    source: str = ""


@dataclass(frozen=True)
class CardFacts:
    """The facts of a card. `recipe` and `metrics` are the contents of recipe.yaml and metrics.json."""

    repository: str
    recipe: dict[str, Any]
    metrics: dict[str, Any]
    licence: Licence = Licence()
    base_models: Sequence[str] = ()
    """Repositories of the Hub that weights were started from."""
    pictures: Sequence[str] = ()
    """Paths in the repository of the grids that travel with it."""
    prompts: Sequence[str] = ()
    """The prompts that it was trained on, as far as they may be told."""
    step: tuple[int, int] | None = None
    """(now, at the end), where training is under way."""
    measurements: list[Measurement] = field(init=False)

    def __post_init__(self) -> None:
        fields = self.metrics.get("measurements", [])
        object.__setattr__(self, "measurements", [Measurement(**entry) for entry in fields])


def model_card(facts: CardFacts) -> str:
    """The card as Markdown, with the Hub's metadata on top; the same facts give the same text."""
    environment = Environment(
        loader=PackageLoader("vae_ldm.hub", ""),
        autoescape=False,  # noqa: S701  # Markdown: `plain` escapes what comes from users
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    tools = (comparison, counted, duration, image_size, meaning, measured_on, number, plain, quantity)
    environment.globals.update({tool.__name__: tool for tool in tools})
    text = environment.get_template("model_card.md.jinja").render(
        facts=facts,
        recipe=facts.recipe,
        metrics=facts.metrics,
        prompt=facts.prompts[0] if facts.prompts else "",
        listed=facts.prompts[:_MAX_LISTED_CLASSES],
        is_local="path" in facts.recipe["data"] and _dataset(facts.recipe["data"]) is None,
        dataset=_dataset(facts.recipe["data"]),
    )
    return str(ModelCard(f"---\n{_metadata(facts).to_yaml()}\n---\n\n{text}", ignore_metadata_errors=False))


def plain(text: str) -> str:
    """The text as Markdown that shows it as it is, in a table too."""
    return re.sub(r"([\\`*_\[\]<>|#!])", r"\\\1", " ".join(str(text).split()))


def _metadata(facts: CardFacts) -> ModelCardData:
    diffusion = facts.recipe.get("diffusion")
    task = None
    if diffusion is not None:
        task = "unconditional-image-generation" if diffusion["conditioning"] == "none" else "text-to-image"
    dataset = _dataset(facts.recipe["data"])
    return ModelCardData(
        library_name="diffusers",
        license=facts.licence.id,
        base_model=list(facts.base_models) or None,
        datasets=[dataset] if dataset else None,
        pipeline_tag=task,
        tags=["vae_ldm", "autoencoder", *(["latent-diffusion"] if diffusion is not None else [])],
        model_name=facts.recipe["name"],
        eval_results=_results(facts, task, dataset) or None,
    )


def _results(facts: CardFacts, task: str | None, dataset: str | None) -> list[EvalResult]:
    return [
        EvalResult(
            task_type=task if measurement.stage == "diffusion" and task else "image-to-image",
            dataset_type=dataset or facts.recipe["data"]["type"],
            dataset_name=dataset or facts.recipe["name"],
            dataset_split=measurement.split,
            metric_type=measurement.name,
            metric_name=f"{measurement.name} ({measurement.unit})" if measurement.unit else measurement.name,
            metric_value=round(measurement.value, 4),
            metric_args={"num_images": measurement.num_images, "features": measurement.features},
        )
        for measurement in facts.measurements
    ]


def _dataset(data: dict[str, Any]) -> str | None:
    """ORG/NAME of a data set on the Hub; None for pictures of any other origin."""
    path = data.get("path", "")
    return path if data["type"] == "hub_dataset" and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", path) else None
