"""One way to share photos over processes, and one policy for those that cannot be read."""

import numpy as np
import pytest

from tests.processes import two_processes
from vae_ldm.data.sources import Record
from vae_ldm.desk.command import DeskCommand
from vae_ldm.errors import DataError, ManyUnreadableError


def _squares(everywhere: bool) -> tuple[list[int], list[tuple[int, int]], list[int]]:
    command = DeskCommand(launched=True)
    heard, worked = [], []

    def work(number: int) -> int:
        worked.append(number)
        return number * number

    told = command.share(range(7), work, report=lambda *done: heard.append(done), everywhere=everywhere)
    return told, heard, worked


def test_results_come_in_the_order_of_the_items_to_the_first_process_or_to_all() -> None:
    squares = [number * number for number in range(7)]
    assert _squares(everywhere=False) == (squares, [(number, 7) for number in range(1, 8)], list(range(7)))
    with two_processes() as two:
        first, second = two(_squares, everywhere=False)
        assert first == (squares, [(2, 7), (4, 7), (6, 7), (7, 7)], [0, 2, 4, 6])
        assert second == ([], [(3, 7), (5, 7), (7, 7)], [1, 3, 5])
        assert [told for told, *_ in two(_squares, everywhere=True)] == [squares, squares]


def test_one_photo_in_a_hundred_is_told_and_more_are_an_error(capsys: pytest.CaptureFixture) -> None:
    command = DeskCommand()
    command.leave_out(Record("dent/two\nlines\x1b[31m.png", b""), "the file is\nempty")
    command.tell_left_out()
    assert capsys.readouterr().err == "left out dent/two\\nlines\\x1b[31m.png: the file is\\nempty\n"
    command.check_left_out(100, "the others are in the index")
    with pytest.raises(ManyUnreadableError, match=r"^1 of 99 photos cannot be read; the others are in the index$"):
        command.check_left_out(99, "the others are in the index")


def test_where_no_photo_is_left_the_first_reason_is_told() -> None:
    command = DeskCommand()
    for number in range(3):
        command.leave_out(Record(f"{number}.png", np.zeros(0)), "not a picture")
    with pytest.raises(DataError, match=r"^none of 3 photos can be read \(0\.png: not a picture; nor can 2 more"):
        command.refuse_all_left_out("3 photos")
