"""Progress where there is no terminal: a line now and then."""

import io

import pytest
from rich.console import Console

from vae_ldm.run.session import StepReport


def told(total: int | None) -> str:
    stream = io.StringIO()
    with StepReport("counting", Console(file=stream, force_terminal=False)) as report:
        report(10, total)
    return stream.getvalue()


@pytest.mark.parametrize(("total", "line"), [(4000, "counting: 10 of 4,000\n"), (None, "counting: 10\n")])
def test_a_line_where_the_last_one_is_long_ago(monkeypatch, total, line):
    monkeypatch.setattr(StepReport, "seconds_between_lines", 0.0)
    assert told(total) == line


def test_a_later_line_says_how_long_the_rest_takes_at_the_pace_since_the_first_call(monkeypatch):
    monkeypatch.setattr(StepReport, "seconds_between_lines", 30.0)
    clock = iter([0.0, 10.0, 40.0, 45.0, 110.0])
    monkeypatch.setattr("vae_ldm.run.session.time.monotonic", lambda: next(clock))
    stream = io.StringIO()
    with StepReport("drawing", Console(file=stream, force_terminal=False)) as report:
        for done in (100, 100, 105, 120):  # 100 were there before; then 20 in 100 s
            report(done, 200)
    assert stream.getvalue() == "drawing: 100 of 200\ndrawing: 120 of 200, 6 min 40 s left\n"


def test_what_is_soon_done_says_nothing():
    assert told(4000) == ""
