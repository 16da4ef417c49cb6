"""Progress where there is no terminal: a line now and then."""

import io

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vae_ldm.terminal import PlainConsole, StepReport


def told(total: int | None) -> str:
    stream = io.StringIO()
    with StepReport("counting", Console(file=stream, force_terminal=False)) as report:
        report(10, total)
    return stream.getvalue()


@pytest.mark.parametrize(("total", "line"), [(4000, "counting: 10 of 4,000\n"), (None, "counting: 10\n")])
def test_a_line_where_the_last_one_is_long_ago(monkeypatch, total, line):
    monkeypatch.setattr(StepReport, "seconds_to_first_line", 0.0)
    assert told(total) == line


def test_lines_say_what_time_is_left_at_the_speed_of_late(monkeypatch):
    stream = io.StringIO()
    clock = iter([0.0, 1.0, 4.0, 6.0, 20.0, 40.0, 80.0])  # made, then told
    monkeypatch.setattr("vae_ldm.terminal.time.monotonic", lambda: next(clock))
    with StepReport("counting", Console(file=stream, force_terminal=False)) as report:
        for done in (0, 30, 50, 190, 390, 400):
            report(done, 400)
    assert stream.getvalue().splitlines() == [
        "counting: 50 of 400, about 35 s left",
        "counting: 390 of 400, about 1 s left",
        "counting: 400 of 400",
    ]


def test_what_is_soon_done_says_nothing():
    assert told(4000) == ""


def test_control_characters_of_names_are_shown_and_never_steer_the_terminal():
    stream = io.StringIO()
    console = PlainConsole(file=stream, force_terminal=True, highlight=False, soft_wrap=True, color_system="standard")
    console.say("a\x1b[31mred\x07.png\nand more [bold]")
    assert stream.getvalue() == "a\\x1b[31mred\\x07.png\\nand more [bold]\n"
    stream.truncate(stream.seek(0))
    table = Table("photo")
    table.add_row("\x1b]0;title\x07\u202e\udce9.png")
    console.print(table, Text("blue\x1b[0m", style="blue"))
    shown = stream.getvalue()
    assert "\\x1b]0;title" in shown
    assert "\\u202e\\xe9.png" in shown
    assert "\x1b[34mblue\\x1b[0m\x1b[0m" in shown  # our own colour stays
    assert "\x1b]" not in shown
