"""report.html: what a run folder has to show, on one page that opens offline."""

import base64
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from vae_ldm.evaluation.curves import charts
from vae_ldm.evaluation.measurement import Measurement
from vae_ldm.whole_file import write_whole
from vae_ldm.wording import counted

MAX_TILES = 8


@dataclass(frozen=True)
class Kind:
    """A picture of samples/ that the report knows how to explain."""

    file: str
    section: Literal["autoencoder", "diffusion", "memorisation"]
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


@dataclass(frozen=True)
class Verdict:
    """How a measurement stands to its reference; `grade` colours it, `word` says the same without colour."""

    grade: Literal["good", "fair", "bad"]
    word: str


@dataclass(frozen=True)
class Strip:
    """Places in percent of a small axis: the value, its reference, the ends of its 95 % interval."""

    value: float
    reference: float | None
    low: float | None
    high: float | None


def write_report(run_dir: Path) -> Path:
    """The path of the report.html written into `run_dir` from the files there; what is missing is left out.

    Reads recipe.yaml, metrics.json, the stages' log.csv and samples/*.png. The page is replaced in one step.
    """
    metrics = read_metrics(run_dir)
    measurements = [Measurement(**fields) for fields in metrics["measurements"]]
    recipe = run_dir / "recipe.yaml"
    logs = {stage: run_dir / stage / "log.csv" for stage in ("autoencoder", "diffusion")}
    template = environment().get_template("report.html.jinja")
    page = template.render(
        metrics=metrics,
        tiles=headline(measurements),
        measurements={
            section: [item for item in measurements if section_of(item) == section]
            for section in ("autoencoder", "diffusion", "memorisation")
        },
        charts={stage: charts(log) if log.is_file() else [] for stage, log in logs.items()},
        figures=read_figures(run_dir / "samples"),
        recipe=recipe.read_text(encoding="utf-8") if recipe.is_file() else "",
        has_pipeline=(run_dir / "pipeline" / "model_index.json").is_file(),
    )
    target = run_dir / "report.html"
    write_whole(target, page)
    return target


def read_metrics(run_dir: Path) -> dict[str, Any]:
    """The contents of metrics.json over empty ones: a run that was not evaluated yet has no numbers, but has a page."""
    empty: dict[str, Any] = {"name": run_dir.resolve().name, "created": "", "device": ""}
    empty |= {"measurements": [], "timings": [], "versions": {}, "data": {}, "parameters": {}}
    path = run_dir / "metrics.json"
    return empty | (json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {})


def read_figures(samples: Path) -> dict[str, list[Figure]]:
    """The known pictures of `samples`, inline, by section."""
    figures: dict[str, list[Figure]] = {kind.section: [] for kind in KINDS}
    for kind in KINDS:
        path = samples / kind.file
        if not path.is_file():
            continue
        with Image.open(path) as image:
            width, height = image.size
        source = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
        figures[kind.section].append(Figure(kind, source, width, height))
    return figures


def section_of(measurement: Measurement) -> str:
    """The section that shows `measurement`: its stage, or memorisation."""
    name = measurement.name.lower()
    return "memorisation" if any(word in name for word in MEMORISATION_WORDS) else measurement.stage


def headline(measurements: list[Measurement]) -> list[Measurement]:
    """The measurements worth a tile: those that can be judged by a reference, or else the first few."""
    judged = [measurement for measurement in measurements if measurement.reference is not None]
    return (judged or measurements)[:MAX_TILES]


def verdict(measurement: Measurement) -> Verdict | None:
    """Whether `measurement` clears its reference, or None where there is nothing to judge.

    A floor of something that should be high is there to be cleared; so is a ceiling of something that should be
    low. Any other reference is a limit nobody is blamed for not passing: within a tenth of it is close.
    """
    reference, better = measurement.reference, measurement.better
    if reference is None or better is None:
        return None
    bar, limit = ("floor", "ceiling") if better == "higher" else ("ceiling", "floor")
    ahead = measurement.value - reference if better == "higher" else reference - measurement.value
    name = str(measurement.reference_name).lower()
    if bar in name:
        return Verdict("good", f"clears the {bar}") if ahead > 0 else Verdict("bad", f"misses the {bar}")
    mark = limit if limit in name else "reference"
    if ahead >= 0:
        return Verdict("good", f"reaches the {mark}")
    is_close = ahead >= -0.1 * abs(reference)
    return Verdict("good", f"close to the {mark}") if is_close else Verdict("fair", f"far from the {mark}")


def comparison(measurement: Measurement) -> str:
    """`measurement` against its reference in words: "1.87 dB above the PCA floor, 23.90 dB"."""
    assert measurement.reference is not None
    difference = measurement.value - measurement.reference
    gap = quantity(abs(difference), "points" if measurement.unit == "%" else measurement.unit)
    stands = f"{gap} {'above' if difference > 0 else 'below'}" if difference else "equal to"
    return f"{stands} {measurement.reference_name}, {quantity(measurement.reference, measurement.unit)}"


def strip(measurement: Measurement) -> Strip | None:
    """Where value, reference and interval lie on a common axis; None where the value would stand alone."""
    marks = (measurement.value, measurement.reference, measurement.low, measurement.high)
    known = [mark for mark in marks if mark is not None]
    low, high = min(known), max(known)
    if low == high:
        return None
    places = [None if mark is None else round(8 + 84 * (mark - low) / (high - low), 1) for mark in marks]
    assert places[0] is not None
    return Strip(places[0], *places[1:])


def measured_on(measurement: Measurement, data: dict[str, Any]) -> str:
    """What `measurement` was measured on: "341 validation pictures, 64 by 64, features: ..."."""
    pictures = "picture" if measurement.num_images == 1 else "pictures"
    parts = [f"{measurement.num_images:,} {measurement.split} {pictures}"]
    if size := data.get("image_size"):
        parts.append(image_size(size))
    if measurement.features:
        parts.append(f"features: {measurement.features}")
    return ", ".join(parts)


def image_size(size: list[int]) -> str:
    """[height, width] in words."""
    height, width = size
    times = "\N{MULTIPLICATION SIGN}"
    return f"{height} {times} {width}" if height == width else f"{height} high {times} {width} wide"


def number(value: float) -> str:
    """`value` to three or four digits that matter: 0.0312, 25.77, 213.3, 64,000."""
    if isinstance(value, int) or abs(value) >= 10_000:
        return f"{value:,.0f}"
    if value == 0:
        return "0"
    size = abs(value)
    if size < 0.001:
        return f"{value:.2e}"
    return f"{value:,.{4 if size < 0.1 else 3 if size < 1 else 2 if size < 100 else 1}f}"


def quantity(value: float, unit: str) -> str:
    """`value` and its unit, on one line."""
    return f"{number(float(value))}\N{NO-BREAK SPACE}{unit}" if unit else number(float(value))


def duration(seconds: float) -> str:
    """`seconds` as "45 s", "5 min 3 s" or "2 h 7 min"."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def minute(created: str) -> str:
    """The moment of an ISO 8601 text in UTC, as "2026-11-26 12:31 UTC"; "" of "" (a run not evaluated yet)."""
    return datetime.fromisoformat(created).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC") if created else ""


def environment() -> Environment:
    """Jinja, escaping everything: captions and class names come from users."""
    jinja = Environment(
        loader=PackageLoader("vae_ldm.evaluation", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    tools = (comparison, counted, duration, image_size, measured_on, minute, number, quantity, strip, verdict)
    jinja.globals.update({tool.__name__: tool for tool in tools})
    return jinja
