"""The table of diffusers_way.py in Markdown."""

import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

_COLUMNS = (
    "side", "seed", "learning_rate", "guidance_scale", "inference_steps", "steps", "cpu_seconds", "num_compared",
    "fd", "kid", "precision", "recall", "agreement",
)  # fmt: skip
_AVERAGED = ("steps", "cpu_seconds", "fd", "kid", "precision", "recall", "agreement")
_SAME = ("pack", "autoencoder", "num_samples", "seconds")
_CHOSEN_FOR = ("pack", "autoencoder", "seconds", "side", "learning_rate")


def read_table(path: Path) -> list[dict[str, Any]]:
    """The rows of all finished cells."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def in_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Results with their means and the ratio of FD, a table a pack, and the FD that settings were chosen by."""
    lines = []
    for same, group in _grouped([row for row in rows if row.get("purpose") == "result"], _SAME):
        pack, autoencoder, num_samples, seconds = same
        members = sorted(group, key=lambda row: (row["seed"], row["side"]))
        sides = [[row for row in members if row["side"] == side] for side in ("diffusers", "ours")]
        floor = [row for row in rows if row["side"] == "reconstructions" and _values(row, _SAME[:3]) == same[:3]]
        shown = [*members, *(_mean(side) for side in sides if len(side) > 1), *floor]
        columns = [name for name in _COLUMNS if any(name in row for row in shown)]
        lines += [f"### {pack}, {seconds:g} CPU s, {num_samples:,} samples (autoencoder {autoencoder})", ""]
        lines += _table(columns, [[row.get(name) for name in columns] for row in shown])
        lines += ["", *_ratio(members), ""]
    choices = [row for row in rows if row.get("purpose") == "choice"]
    if choices:
        scales = sorted({row["guidance_scale"] for row in choices})
        lines += ["### FD by guidance and learning rate, which the lowest decides", ""]
        found = []
        for key, group in _grouped(choices, _CHOSEN_FOR):
            by_scale = {row["guidance_scale"]: row["fd"] for row in group}
            found.append([*key, *(by_scale.get(scale) for scale in scales)])
        lines += _table([*_CHOSEN_FOR, *(f"guidance {scale:g}" for scale in scales)], found)
    return "\n".join(lines)


def _ratio(members: Sequence[dict[str, Any]]) -> list[str]:
    """FD of ours over FD of diffusers, of the seeds that both have."""
    fd = {(row["side"], row["seed"]): row["fd"] for row in members}
    seeds = [seed for side, seed in fd if side == "ours" and ("diffusers", seed) in fd]
    if not seeds:
        return []
    ratios = [fd["ours", seed] / fd["diffusers", seed] for seed in seeds]
    of_means = sum(fd["ours", seed] for seed in seeds) / sum(fd["diffusers", seed] for seed in seeds)
    spread = f" ({min(ratios):.3f} to {max(ratios):.3f} over seeds {', '.join(map(str, seeds))})"
    return [f"Mean FD of ours over mean FD of diffusers: {of_means:.3f}{spread if len(seeds) > 1 else ''}."]


def _mean(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    means = {name: float(np.mean([row[name] for row in rows])) for name in _AVERAGED if name in rows[0]}
    return {"side": rows[0]["side"], "seed": "mean"} | means


def _values(row: dict[str, Any], names: Sequence[str]) -> tuple[Any, ...]:
    return tuple(row[name] for name in names)


def _grouped(
    rows: Sequence[dict[str, Any]], names: Sequence[str]
) -> list[tuple[tuple[Any, ...], list[dict[str, Any]]]]:
    ordered = sorted(rows, key=lambda row: _values(row, names))
    return [(key, list(group)) for key, group in groupby(ordered, lambda row: _values(row, names))]


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    head = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    return [*head, *(f"| {' | '.join(map(_shown, row))} |" for row in rows)]


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)
