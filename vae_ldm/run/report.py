"""report.html: what a run folder has to show, on one page that opens offline."""

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from vae_ldm.choices import Stage
from vae_ldm.evaluation.meaning import meaning
from vae_ldm.evaluation.measurement import Measurement
from vae_ldm.evaluation.verdict import comparison, measured_on, strip, verdict
from vae_ldm.files import write_whole
from vae_ldm.opening import read_metrics
from vae_ldm.pages.curves import Chart, charts
from vae_ldm.pages.environment import environment
from vae_ldm.pages.point_chart import Point, point_chart
from vae_ldm.recipe.stages import TRAINED

MAX_TILES = 8


@dataclass(frozen=True)
class Section:
    """A part of the page with measurements, pictures and curves."""

    name: str
    title: str
    lead: str


SECTIONS = (
    *(Section(stage.name, stage.title, stage.summary) for stage in TRAINED),
    Section(
        "memorisation", "Memorisation", "Whether the samples are new pictures or the training pictures over again."
    ),
)


@dataclass(frozen=True)
class Kind:
    """A picture of samples/ that the report knows how to explain."""

    file: str
    section: Stage | Literal["memorisation"]
    title: str
    caption: str


KINDS = (
    Kind(
        "reconstructions.png",
        "autoencoder",
        "Reconstructions",
        "Each pair: a validation picture on the left, what the autoencoder makes of it on the right, and the PSNR of "
        "that one picture below. Look for lost thin lines, small print and shifted colours.",
    ),
    Kind(
        "worst_reconstructions.png",
        "autoencoder",
        "Worst reconstructions",
        "The validation pictures with the lowest PSNR, the worst first. What is lost here the diffusion model can "
        "never draw.",
    ),
    Kind(
        "samples.png",
        "diffusion",
        "Samples",
        "New pictures, one row a prompt, drawn at random and not picked. Along a row look for variety, "
        "down the page for prompts that can be told apart.",
    ),
    Kind(
        "neighbours.png",
        "memorisation",
        "Nearest training pictures",
        "Each pair: a sample on the left, the training picture most like it on the right. A pair that agrees "
        "in every detail is a picture learned by heart; one that shares only its subject is a new picture.",
    ),
)

# A measurement belongs to the section on memorisation when its name says so.
MEMORISATION_WORDS = ("memori", "nearest", "copies", "copied")


@dataclass(frozen=True)
class Figure:
    """A picture of samples/ as the page holds it: inline; its size in pixels keeps the page from jumping."""

    kind: Kind
    source: str
    width: int
    height: int


def write_report(run_dir: Path) -> Path:
    """The path of the report.html written into `run_dir` from the files there; what is missing is left out.

    Reads recipe.yaml, metrics.json, the stages' log.csv and samples/*.png. The page is replaced in one step.
    """
    metrics = read_metrics(run_dir)
    measurements = [Measurement(**fields) for fields in metrics["measurements"]]
    recipe = run_dir / "recipe.yaml"
    by_section = {
        section.name: [item for item in measurements if section_of(item) == section.name] for section in SECTIONS
    }
    logs = {section.name: run_dir / section.name / "log.csv" for section in SECTIONS}
    curves = {name: charts(log) if log.is_file() else [] for name, log in logs.items()}
    figures = read_figures(run_dir / "samples")
    jinja = environment(__package__, comparison, meaning, measured_on, strip, verdict)
    template = jinja.get_template("report.html.jinja")
    page = template.render(
        metrics=metrics,
        sections=[s for s in SECTIONS if by_section[s.name] or curves[s.name] or figures[s.name]],
        tiles=headline(measurements),
        measurements=by_section,
        charts=curves,
        by_passes=charts_by_passes(metrics["distillation"].get("points", [])),
        figures=figures,
        recipe=recipe.read_text(encoding="utf-8") if recipe.is_file() else "",
        has_pipeline=(run_dir / "pipeline" / "model_index.json").is_file(),
    )
    target = run_dir / "report.html"
    write_whole(target, page)
    return target


def read_figures(samples: Path) -> dict[str, list[Figure]]:
    """The known pictures of `samples`, inline, by section."""
    figures: dict[str, list[Figure]] = {section.name: [] for section in SECTIONS}
    for kind in KINDS:
        path = samples / kind.file
        if not path.is_file():
            continue
        with Image.open(path) as image:
            width, height = image.size
        source = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
        figures[kind.section].append(Figure(kind, source, width, height))
    return figures


_BY_PASSES = {"prompt_agreement": ("prompt agreement", "%"), "kid": ("KID", ""), "fd": ("Fréchet distance", "")}


def charts_by_passes(points: list[dict[str, Any]]) -> list[Chart]:
    """A chart of each measure over passes, with a line for the student and one for its teacher."""
    found = []
    for key, (term, unit) in _BY_PASSES.items():
        lines: dict[str, list[Point]] = {}
        for point in points:
            if key in point:
                lines.setdefault(point["which"], []).append(Point(point["passes"], *point[key]))
        if lines:
            found.append(point_chart(term, unit, lines, over="passes", last_at="{} passes"))
    return found


def section_of(measurement: Measurement) -> str:
    """The section that shows `measurement`: its stage, or memorisation."""
    name = measurement.name.lower()
    return "memorisation" if any(word in name for word in MEMORISATION_WORDS) else measurement.stage


def headline(measurements: list[Measurement]) -> list[Measurement]:
    """The measurements worth a tile: those that can be judged by a reference, or else the first few."""
    judged = [measurement for measurement in measurements if measurement.reference is not None]
    return (judged or measurements)[:MAX_TILES]
