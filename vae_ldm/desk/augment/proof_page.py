"""The page of `vae-ldm augment prove`, and the same as a Markdown table and as JSON."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vae_ldm.desk.augment.mixtures import ARMS, JITTERED, LARGEST, REAL, Proof, Row, in_points
from vae_ldm.files import write_whole
from vae_ldm.pages.environment import environment
from vae_ldm.pages.image_grid import image_grid
from vae_ldm.text import counted

_COLUMNS = 4  # pictures of each kind a class
_MAX_CLASSES = 16
_NONE_ADDED = "none added"
FEW_SHOTS = (
    "Lines of fewer real photos are no part of the verdict: the generator, and the filter that chose its photos, have "
    "learned from all real ones, including those that the classifier is not shown."
)


@dataclass(frozen=True)
class ProofSetting:
    """What was proved on what, for the head of the page."""

    title: str
    synthetic: str
    classifier: str
    num_train: int
    num_synthetic: int
    image_size: tuple[int, int]
    class_names: list[str]
    generator_note: str
    """What the model that drew them has seen."""
    probe_note: str
    """How good the probe is that chose them."""
    left_out_note: str
    """Classes that cannot be judged; "" where there are none."""
    device: str
    created: str


@dataclass(frozen=True, eq=False)
class Examples:
    """Real and synthetic photos for the eye: uint8 [N, H, W, C] and classes [N] of each."""

    real: np.ndarray
    real_labels: np.ndarray
    synthetic: np.ndarray
    synthetic_labels: np.ndarray


def write_proof(target: Path, proof: Proof, setting: ProofSetting, examples: Examples) -> None:
    """Write the page, in one step; it opens offline."""
    page = (
        environment(__package__)
        .get_template("proof.html.jinja")
        .render(
            proof=proof,
            arms=ARMS,
            real_arm=REAL,
            sentence=proof.sentence(setting.classifier),
            against_jittered=proof.gain(LARGEST, JITTERED),
            largest_arm=LARGEST,
            none_added=_NONE_ADDED,
            in_points=in_points,
            gain_of=lambda row, arm: proof.gain(arm, REAL, row),
            percent=lambda row, arm: f"{100 * proof.accuracy(row, arm):.1f}",
            notes=_notes(proof, setting),
            figure=_figure(examples, setting.class_names),
            num_held_out=len(proof.labels),
            **vars(setting),
        )
    )
    write_whole(target, page)


def as_markdown(proof: Proof, setting: ProofSetting) -> str:
    """The table and the sentence."""
    lines = [f"| real photos | {' | '.join(ARMS)} |", "|---" * (len(ARMS) + 1) + "|"]
    for row in proof.rows:
        cells = [_cell(proof, row, arm) for arm in ARMS]
        lines.append(f"| {row.name} ({row.num_real}) | {' | '.join(cells)} |")
    height, width = setting.image_size
    measured = (
        f"The table shows the balanced accuracy in % of {setting.classifier} ({counted(proof.num_steps, 'step')} in "
        f"every cell) on {counted(len(proof.labels), 'held-out photo')} of {setting.title} at {width}x{height} px, as "
        f"the mean of {proof.num_seeds} seeds. Brackets hold the gain in points over real photos alone, with its 95 % "
        "interval (over seeds and photos, paired), and the number of photos added."
    )
    said = [proof.sentence(setting.classifier), *_notes(proof, setting)]
    return "\n".join([*lines, "", measured, "", *(part for line in said for part in (line, ""))])


def as_dict(proof: Proof, setting: ProofSetting) -> dict[str, Any]:
    """All numbers, for a JSON file."""
    return {
        **vars(setting),
        "verdict": proof.verdict,
        "sentence": proof.sentence(setting.classifier),
        "num_held_out": len(proof.labels),
        "num_seeds": proof.num_seeds,
        "num_steps": proof.num_steps,
        "judged_by": proof.judged.name,
        "gain_over_real": _gain(proof, LARGEST, REAL),
        "gain_over_jittered": _gain(proof, LARGEST, JITTERED),
        "rows": [
            {
                "shots": row.shots,
                "num_real": row.num_real,
                "arms": {arm: _arm(proof, row, arm) for arm in ARMS},
            }
            for row in proof.rows
        ],
    }


def _notes(proof: Proof, setting: ProofSetting) -> list[str]:
    """What is to be known beside the sentence."""
    notes = [setting.probe_note, *([FEW_SHOTS] if len(proof.rows) > 1 else []), setting.generator_note]
    return [note for note in [*notes, setting.left_out_note] if note]


def _cell(proof: Proof, row: Row, arm: str) -> str:
    if arm != REAL and not row.has_added(arm):
        return _NONE_ADDED
    accuracy = f"{100 * proof.accuracy(row, arm):.1f}"
    if arm == REAL:
        return accuracy
    return f"{accuracy} ({in_points(proof.gain(arm, REAL, row))}; {row.num_added[arm]} added)"


def _arm(proof: Proof, row: Row, arm: str) -> dict[str, Any] | str:
    numbers = {"num_added": row.num_added[arm], "balanced_accuracy": proof.accuracy(row, arm)}
    if arm == REAL:
        return numbers
    return {**numbers, "gain_over_real": _gain(proof, arm, REAL, row)} if row.has_added(arm) else _NONE_ADDED


def _gain(proof: Proof, arm: str, floor: str, row: Row | None = None) -> dict[str, float | None]:
    value, interval = proof.gain(arm, floor, row)
    low, high = (None, None) if interval is None else interval
    return {"value": value, "low": low, "high": high}


def example_rows(examples: Examples, class_names: list[str]) -> tuple[np.ndarray, list[str]]:
    """Pictures uint8 [R, 2, P, H, W, 4], real ones then synthetic ones of one class a row, and the R classes' names.

    Evenly spread over each. P is what the best filled class has of both kinds, 4 at most; where there are fewer the
    last are transparent. A class that has not at least one of each kind is left out, so R may be 0.
    """
    kinds = [(examples.real, examples.real_labels), (examples.synthetic, examples.synthetic_labels)]
    counts = {label: min(int(np.sum(labels == label)) for _, labels in kinds) for label, _ in enumerate(class_names)}
    shown = [label for label, count in counts.items() if count][:_MAX_CLASSES]
    num_columns = min(_COLUMNS, max((counts[label] for label in shown), default=0))
    padded = np.zeros((len(shown), 2, num_columns, *examples.real.shape[1:3], 4), np.uint8)
    for row, label in zip(padded, shown, strict=True):
        for cells, (pictures, labels) in zip(row, kinds, strict=True):
            chosen = pictures[_spread(np.flatnonzero(labels == label), num_columns)]
            cells[: len(chosen), ..., 3] = 255
            cells[: len(chosen), ..., : max(chosen.shape[-1], 3)] = chosen
    return padded, [class_names[label] for label in shown]


def _figure(examples: Examples, class_names: list[str]) -> dict[str, Any] | None:
    """The grid of `example_rows` for the page; None where no class has both kinds."""
    rows, names = example_rows(examples, class_names)
    if not names:
        return None
    num_columns = rows.shape[2]
    grid = image_grid(
        rows.reshape(-1, *rows.shape[3:]),
        num_columns=2 * num_columns,
        group_size=num_columns,
        row_labels=names,
        column_titles=["real"] * num_columns + ["synthetic"] * num_columns,
    )
    stream = io.BytesIO()
    grid.save(stream, "PNG", optimize=True)
    source = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
    return {"source": source, "width": grid.width, "height": grid.height}


def _spread(rows: np.ndarray, count: int) -> np.ndarray:
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]
