"""The page of `vae-ldm augment prove`, and the same as a Markdown table and as JSON."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vae_ldm.evaluation.augmentation import ARMS, JITTERED, LARGEST, REAL, Proof, Row, in_points
from vae_ldm.evaluation.image_grid import image_grid
from vae_ldm.evaluation.report import environment
from vae_ldm.whole_file import write_whole
from vae_ldm.wording import counted

_COLUMNS = 4  # pictures of each kind a class
_MAX_CLASSES = 16


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
    grid = _grid(examples, setting.class_names)
    stream = io.BytesIO()
    grid.save(stream, "PNG", optimize=True)
    page = (
        environment()
        .get_template("augmentation.html.jinja")
        .render(
            proof=proof,
            arms=ARMS,
            real_arm=REAL,
            sentence=proof.sentence(setting.classifier),
            overall=[(arm, proof.gain(arm, REAL)) for arm in ARMS if arm != REAL],
            against_jittered=proof.gain(LARGEST, JITTERED),
            in_points=in_points,
            gain_of=lambda row, arm: proof.gain(arm, REAL, [row]),
            percent=lambda row, arm: f"{100 * proof.accuracy(row, arm):.1f}",
            figure={
                "source": "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode(),
                "width": grid.width,
                "height": grid.height,
            },
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
        f"Balanced accuracy in % of {setting.classifier} ({proof.num_steps} steps in every cell) on "
        f"{counted(len(proof.labels), 'held-out photo')} of {setting.title} at {width}x{height} px, mean of "
        f"{proof.num_seeds} seeds; behind it the gain in points over real photos alone with its 95 % interval "
        "(bootstrap over seeds and photos, paired)."
    )
    return "\n".join([*lines, "", measured, "", proof.sentence(setting.classifier), "", setting.generator_note, ""])


def as_dict(proof: Proof, setting: ProofSetting) -> dict[str, Any]:
    """All numbers, for a JSON file."""
    return {
        **vars(setting),
        "verdict": proof.verdict,
        "sentence": proof.sentence(setting.classifier),
        "num_held_out": len(proof.labels),
        "num_seeds": proof.num_seeds,
        "num_steps": proof.num_steps,
        "gain_over_real": _gain(proof, LARGEST, REAL, proof.rows),
        "gain_over_jittered": _gain(proof, LARGEST, JITTERED, proof.rows),
        "rows": [
            {
                "shots": row.shots,
                "num_real": row.num_real,
                "arms": {
                    arm: {
                        "num_added": row.num_added[arm],
                        "balanced_accuracy": proof.accuracy(row, arm),
                        **({} if arm == REAL else {"gain_over_real": _gain(proof, arm, REAL, [row])}),
                    }
                    for arm in ARMS
                },
            }
            for row in proof.rows
        ],
    }


def _cell(proof: Proof, row: Row, arm: str) -> str:
    accuracy = f"{100 * proof.accuracy(row, arm):.1f}"
    if arm == REAL:
        return accuracy
    return f"{accuracy} ({in_points(proof.gain(arm, REAL, [row]))}; {row.num_added[arm]} added)"


def _gain(proof: Proof, arm: str, floor: str, rows: list[Row]) -> dict[str, float]:
    gain = proof.gain(arm, floor, rows)
    return {"value": gain.value, "low": gain.interval.low, "high": gain.interval.high}


def _grid(examples: Examples, class_names: list[str]) -> Any:
    """A row a class: real photos, then synthetic ones, evenly spread over each."""
    rows: list[np.ndarray] = []
    names: list[str] = []
    for label, name in enumerate(class_names):
        halves = [
            pictures[_spread(np.flatnonzero(labels == label))]
            for pictures, labels in (
                (examples.real, examples.real_labels),
                (examples.synthetic, examples.synthetic_labels),
            )
        ]
        if min(map(len, halves)) == _COLUMNS and len(names) < _MAX_CLASSES:
            rows += halves
            names.append(name)
    if not rows:  # too few of every class for whole rows
        rows, names = [examples.real[:1], examples.synthetic[:1]], ["one of each"]
    columns = len(rows[0])
    titles = ["real"] * columns + ["synthetic"] * columns
    return image_grid(
        np.concatenate(rows), num_columns=2 * columns, group_size=columns, row_labels=names, column_titles=titles
    )


def _spread(rows: np.ndarray) -> np.ndarray:
    return rows[np.linspace(0, len(rows) - 1, min(_COLUMNS, len(rows))).astype(int)]
