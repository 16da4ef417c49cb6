"""README.md of a pushed repository: what the model is, how to use it, and what was measured, on how many pictures."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from shlex import quote
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from vae_ldm.evaluation.meaning import meaning
from vae_ldm.evaluation.measurement import Measurement
from vae_ldm.evaluation.verdict import comparison, measured_on
from vae_ldm.pages.environment import number, quantity, sizes_in_words
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
    from_starter: bool = False
    """Whether its autoencoder was started from the one that comes with vae_ldm."""
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
    tools = (comparison, counted, duration, meaning, measured_on, number, plain, quantity, sizes_in_words)
    environment.globals.update({tool.__name__: tool for tool in tools})
    text = environment.get_template("model_card.md.jinja").render(
        facts=facts,
        recipe=facts.recipe,
        metrics=facts.metrics,
        drawn_with=facts.metrics.get("drawn_with") or facts.recipe.get("evaluation"),
        distillation={} if facts.step else facts.metrics.get("distillation", {}),
        prompt=facts.prompts[0] if facts.prompts else "",
        listed=facts.prompts[:_MAX_LISTED_CLASSES],
        datasets=_datasets(facts.recipe["data"]),
        drawn=any(one["type"] == "rendered_claims" for one in _sources(facts.recipe["data"]).values()),
        local_paths=_local_paths(facts.recipe["data"]),
        own_photos="".join(f" {quote(f'{key}=PHOTOS')}" for key in _local_paths(facts.recipe["data"])),
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
    datasets, origins = _datasets(facts.recipe["data"]), _origins(facts.recipe["data"])
    only = origins[0] if len(set(origins)) == 1 else None
    return ModelCardData(
        library_name="diffusers",
        license=facts.licence.id,
        base_model=list(facts.base_models) or None,
        datasets=datasets or None,
        pipeline_tag=task,
        tags=["vae_ldm", "autoencoder", *(["latent-diffusion"] if diffusion is not None else [])],
        model_name=facts.recipe["name"],
        eval_results=_results(facts, task, only) or None,
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


def _sources(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The sources of the data, by the key of each in the recipe."""
    if "sources" not in data:
        return {"data": data}
    return {f"data.sources[{number}]": source for number, source in enumerate(data["sources"])}


def _origins(data: dict[str, Any]) -> list[str | None]:
    """Where each source is on the Hub; None for pictures of any other origin."""
    return [_dataset(source) for source in _sources(data).values()]


def _datasets(data: dict[str, Any]) -> list[str]:
    """The data sets on the Hub that the pictures come from, each once."""
    return list(dict.fromkeys(name for name in _origins(data) if name is not None))


def _local_paths(data: dict[str, Any]) -> list[str]:
    """The keys of the recipe that name folders of its maker's machine."""
    return [f"{key}.path" for key, source in _sources(data).items() if "path" in source and _dataset(source) is None]


def _dataset(data: dict[str, Any]) -> str | None:
    """ORG/NAME of a data set on the Hub; None for pictures of any other origin."""
    path = data.get("path", "")
    return path if data["type"] == "hub_dataset" and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", path) else None
