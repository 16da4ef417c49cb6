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


def test_what_is_soon_done_says_nothing():
    assert told(4000) == ""
