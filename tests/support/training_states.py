"""How far two trainings are apart."""

import pytest

from tests.training.strategy_scenarios import State


def difference(one: State, other: State) -> float:
    """Largest difference of a weight, beside the largest weight."""
    left, right = one["weights"], other["weights"]
    assert left.keys() == right.keys()
    largest = max(float(value.abs().max()) for value in left.values())
    return max(float((left[name].float() - right[name].float()).abs().max()) for name in left) / largest


def assert_same(one: State, other: State, tolerance: float, *, ignore: str = "", only: str = "") -> None:
    one, other = (
        {**state, "weights": {k: v for k, v in state["weights"].items() if k != ignore}} for state in (one, other)
    )
    assert difference(one, other) <= tolerance
    assert one["step"] == other["step"]
    assert one["metrics"].keys() == other["metrics"].keys()
    for name, value in one["metrics"].items():
        if only not in name:
            continue
        assert value == pytest.approx(other["metrics"][name], rel=max(tolerance, 1e-12) * 10), name
