"""The chart of a few measured points."""

from vae_ldm.pages.curves import BOTTOM, LEFT, RIGHT, TOP
from vae_ldm.pages.point_chart import Point, point_chart


def test_lines_lie_within_the_chart_over_places_that_double_evenly():
    student = [Point(1, 0.9, 0.8, 1.0), Point(2, 0.5), Point(4, 0.25)]
    chart = point_chart("KID", "", {"student": student, "teacher": [Point(4, 0.3)]}, over="passes", last_at="{} passes")
    assert [label for _, label in chart.x_ticks] == ["1", "2", "4"]
    ticks = [place for place, _ in chart.x_ticks]
    assert abs((ticks[1] - ticks[0]) - (ticks[2] - ticks[1])) < 0.2
    dots = [dot for line in chart.lines for dot in line.dots]
    assert len(dots) == 4
    assert all(LEFT < x < RIGHT and TOP < y < BOTTOM for x, y in dots)
    heights = [y for _, y in chart.lines[0].dots]
    assert heights == sorted(heights), "less is lower on the page"
    assert [(line.split, line.last, line.last_step) for line in chart.lines] == [
        ("student", 0.25, 4),
        ("teacher", 0.3, 4),
    ]
    assert [text for _, _, text in chart.hovers] == [
        "1 passes\nstudent 0.9 [0.8, 1]", "2 passes\nstudent 0.5", "4 passes\nstudent 0.25\nteacher 0.3",
    ]  # fmt: skip


def test_a_single_point_has_a_chart():
    chart = point_chart("FD", "", {"student": [Point(4, 0.0)]}, over="passes")
    assert len(chart.lines[0].dots) == 1
    assert chart.hovers[0][2] == "4\nstudent 0"
