"""A training log (log.csv) as the geometry of small line charts, drawn as SVG by the report's template."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# One chart's drawing, in SVG user units: the plot's rectangle leaves room for tick labels at the left and below.
WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 350, 8, 172
NUM_HOVERS = 48  # strips that show the values under the pointer
SMOOTH_FROM = 40  # points; a shorter curve is drawn as it is, with its dots
LOG_FROM = 20  # highest / lowest, above which positive values get a logarithmic axis

UNITS = {"psnr": "dB", "kl": "nats a picture"}


@dataclass(frozen=True)
class Series:
    """One column of a log without its empty cells; `num_not_finite` cells held no finite number and are not drawn."""

    steps: np.ndarray
    values: np.ndarray
    num_not_finite: int


@dataclass(frozen=True)
class Axis:
    """Numbers between `low` and `high` laid on SVG positions from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Positions of `values`, same shape."""
        low, high = np.array(self.low), np.array(self.high)
        if self.logarithmic:
            low, high, values = np.log10(low), np.log10(high), np.log10(values)
        return self.start + (values - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        """Position and label of about five round numbers."""
        if self.logarithmic:
            exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for factors in ((1,), (1, 3), (1, 2, 5)):
                marks = [factor * 10.0**exponent for exponent in exponents for factor in factors]
                marks = [mark for mark in marks if self.low <= mark <= self.high]
                if len(marks) >= 3:
                    break
            marks = marks[:: math.ceil(len(marks) / 6) or 1]
        else:
            raw = (self.high - self.low) / 5
            unit = 10.0 ** math.floor(math.log10(raw))
            step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= raw * 0.999)
            marks = [n * step for n in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        return [(round(float(self(np.array(mark))), 1), short_number(mark)) for mark in marks]


@dataclass(frozen=True)
class Line:
    """One split's curve: `path` to follow by eye, the unsmoothed `faint` behind it, `dots` where points are few."""

    split: str
    path: str
    faint: str
    dots: list[tuple[float, float]]
    last: float
    last_step: int


@dataclass(frozen=True)
class Chart:
    """A loss term or metric over training steps, with one line for each split that logged it."""

    term: str
    unit: str
    logarithmic: bool
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    lines: list[Line]
    hovers: list[tuple[float, float, str]]  # left, width, text
    num_not_finite: int
    over: str = "training steps"
    """What runs from left to right."""
    last_at: str = "step {}"
    """Where a line's last value is, with its place there."""


def read_log(path: Path) -> dict[str, Series]:
    """The columns of a log.csv (`step`, `epoch`, `split/term`, ...; sparse cells empty), by name.

    A run that was killed and went on has logged some steps twice (the later row counts) and may have left half a line.
    """
    columns: dict[str, dict[int, float]] = {}
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        for row in csv.DictReader(file):
            try:
                step = int(float(row["step"]))
            except (KeyError, TypeError, ValueError, OverflowError):
                continue
            for name, cell in row.items():
                if cell and name and name not in {"step", "epoch"}:
                    try:
                        columns.setdefault(name, {})[step] = float(cell)
                    except (TypeError, ValueError):
                        continue
    series = {}
    for name, points in columns.items():
        steps = np.array(sorted(points))
        values = np.array([points[step] for step in sorted(points)])
        finite = np.isfinite(values)
        series[name] = Series(steps[finite], values[finite], int((~finite).sum()))
    return series


def charts(log: Path) -> list[Chart]:
    """One chart for each term of the log at `log`: the loss first, then what was validated, then the rest."""
    terms: dict[str, dict[str, Series]] = {}
    for name, series in read_log(log).items():
        split, _, term = name.rpartition("/")
        if len(series.steps) > 1:
            terms.setdefault(term, {})[split] = series
    ordered = sorted(terms, key=lambda term: (term != "loss", "val" not in terms[term]))
    return [draw(term, terms[term]) for term in ordered]


def draw(term: str, splits: dict[str, Series]) -> Chart:
    """The chart of one term: smooth lines over faint ones, axes that leave single outliers outside."""
    # Only training batches are noisy: validation is deterministic, a learning rate is not measured at all.
    noisy = {
        split
        for split, series in splits.items()
        if split == "train" and not is_rate(term) and len(series.steps) >= SMOOTH_FROM
    }
    smoothed = {split: smooth(series.values) if split in noisy else series.values for split, series in splits.items()}
    inner = [np.percentile(series.values, [1, 99]) for series in splits.values()]
    seen = np.concatenate([*smoothed.values(), *inner])
    low, high = float(seen.min()), float(seen.max())
    positive = min(series.values.min() for series in splits.values()) > 0
    logarithmic = bool(positive and high / low > LOG_FROM and not is_rate(term))
    if logarithmic:
        room = (high / low) ** 0.04
        y = Axis(low / room, high * room, BOTTOM, TOP, logarithmic=True)
    else:
        room = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
        y = Axis(low - room, high + room, BOTTOM, TOP)
    steps = np.concatenate([series.steps for series in splits.values()])
    x = Axis(min(0, int(steps.min())), int(steps.max()), LEFT, RIGHT)

    lines = []
    for split, series in sorted(splits.items(), key=lambda item: item[0] == "val"):
        across, up = x(series.steps), y(smoothed[split])
        few = thin(len(across), 200)
        lines.append(
            Line(
                split=split,
                path=svg_path(across[few], up[few]),
                faint=svg_path(*envelope(across, y(series.values))) if split in noisy else "",
                dots=[] if len(across) >= SMOOTH_FROM else [point(a, b) for a, b in zip(across, up, strict=True)],
                last=float(smoothed[split][-1]),
                last_step=int(series.steps[-1]),
            )
        )
    return Chart(
        term=term,
        unit=UNITS.get(term, ""),
        logarithmic=logarithmic,
        x_ticks=x.ticks(),
        y_ticks=y.ticks(),
        lines=lines,
        hovers=hovers(x, splits, smoothed),
        num_not_finite=sum(series.num_not_finite for series in splits.values()),
    )


def hovers(x: Axis, splits: dict[str, Series], smoothed: dict[str, np.ndarray]) -> list[tuple[float, float, str]]:
    """Left end, width and text of the strips over a chart; each shows the drawn values nearest to its middle.

    A value that was measured outside its strip comes with its own step.
    """
    longest = max((series.steps for series in splits.values()), key=len)
    chosen = longest[thin(len(longest), NUM_HOVERS)]
    centres = x(chosen)
    edges = np.concatenate([[LEFT], (centres[1:] + centres[:-1]) / 2, [RIGHT]])
    strips = []
    for step, start, end in zip(chosen, edges[:-1], edges[1:], strict=True):
        told = [f"step {step:,}"]
        for split, series in splits.items():
            nearest = np.abs(series.steps - step).argmin()
            inside = start <= x(series.steps[nearest]) <= end
            at = "" if inside else f" at step {series.steps[nearest]:,}"
            told.append(f"{split} {short_number(smoothed[split][nearest])}".strip() + at)
        strips.append((round(float(start), 1), round(float(end - start), 1), "\n".join(told)))
    return strips


def is_rate(term: str) -> bool:
    """Whether `term` is a learning rate, as Lightning's monitor and we log them."""
    return term.startswith(("lr", "learning_rate"))


def smooth(values: np.ndarray) -> np.ndarray:
    """`values` under a Gaussian as wide as a fiftieth of the curve; centred, so it does not lag behind."""
    sigma = len(values) / 50
    offsets = np.arange(-math.ceil(3 * sigma), math.ceil(3 * sigma) + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    return convolve(values, kernel) / convolve(np.ones(len(values)), kernel)


def convolve(values: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """`np.convolve` that keeps the length of `values` even where the kernel is longer."""
    reach = len(kernel) // 2
    return np.convolve(values, kernel)[reach : reach + len(values)]


def thin(num_points: int, limit: int) -> np.ndarray:
    """Indices of at most `limit` of `num_points`, evenly spread, both ends among them."""
    return np.unique(np.linspace(0, num_points - 1, min(limit, num_points)).round().astype(int))


def envelope(across: np.ndarray, up: np.ndarray, limit: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """A curve that keeps the lowest and the highest of each of `limit` stretches, so that spikes stay visible."""
    if len(across) <= 2 * limit:
        return across, up
    kept = [
        chunk[place]
        for chunk in np.array_split(np.arange(len(across)), limit)
        for place in sorted({int(up[chunk].argmin()), int(up[chunk].argmax())})
    ]
    return across[kept], up[kept]


def point(across: float, up: float) -> tuple[float, float]:
    """A point, rounded to a tenth of a unit."""
    return round(float(across), 1), round(float(up), 1)


def svg_path(across: np.ndarray, up: np.ndarray) -> str:
    """The `d` of an SVG path through the points, to a tenth of a unit."""
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(across, up, strict=True))


def short_number(value: float) -> str:
    """`value` as a tick or hover shows it: 0.0012, 1.5, 25k, 3M, 2.5e-4."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= 10 * size or (abs(value) >= size and value % (size / 10) == 0):
            return f"{value / size:.4g}{letter}"
    if value == 0 or abs(value) >= 1e-3:
        return f"{value:.4g}"
    digits, _, exponent = f"{value:.2e}".partition("e")
    return f"{float(digits):g}e{int(exponent)}"
