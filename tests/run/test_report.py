"""The report: one page that holds every number, asks nothing of the network, and shows only what the run has."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vae_ldm.errors import DataError
from vae_ldm.evaluation.measurement import Measurement
from vae_ldm.evaluation.verdict import verdict
from vae_ldm.pages.curves import charts, read_log, short_number
from vae_ldm.pages.environment import number
from vae_ldm.pages.image_grid import image_grid
from vae_ldm.run.report import KINDS, write_report
from vae_ldm.text import duration

HOSTILE = "<script>alert('x')</script>\"&"
VOID = {"meta", "link", "img", "br", "hr", "input"}


def measurement(**fields: Any) -> Measurement:
    known = {"name": "PSNR", "value": 25.7734, "unit": "dB", "split": "validation", "num_images": 341}
    return Measurement(**{**known, "stage": "autoencoder", "better": "higher", **fields})


MEASUREMENTS = [
    measurement(reference=23.9, reference_name="PCA floor", low=25.41, high=26.13),
    measurement(name="FD", value=41.2, unit="", num_images=2000, split="generated", stage="diffusion", better="lower",
                features="efficientnet-lite0"),
    measurement(name="memorised share", value=0.00425, unit="", num_images=1999, stage="diffusion", better="lower"),
]  # fmt: skip


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A whole run folder in miniature, with names as hostile as users' may be."""
    (tmp_path / "samples").mkdir()
    for stage in ("autoencoder", "diffusion"):
        (tmp_path / stage).mkdir()
        rows = [f"{step},0,{1 / (step + 1)}," for step in range(0, 300, 3)] + [f"{step},0,,0.5" for step in (100, 200)]
        (tmp_path / stage / "log.csv").write_text("\n".join(["step,epoch,train/loss,val/loss", *rows]))
    for kind in KINDS:
        image_grid(np.zeros((2, 4, 4, 3), np.uint8), num_columns=2).save(tmp_path / "samples" / kind.file)
    (tmp_path / "recipe.yaml").write_text(f"name: {HOSTILE}\n")
    metrics = {
        "name": HOSTILE,
        "created": "2025-06-03T14:22:05+00:00",
        "device": "2 CPU cores",
        "measurements": [item.as_dict() for item in MEASUREMENTS],
        "timings": [{"stage": "autoencoder", "seconds": 300.1, "num_images": 64000, "images_per_second": 213.3}],
        "versions": {"torch": "2.13.0"},
        "data": {
            "train": 3068, "validation": 342, "image_size": [24, 40], "channels": 3,
            "class_names": ["hat", HOSTILE], "unreadable": 7,
        },
        "parameters": {"autoencoder": 951247, "unet": 5651204},
    }  # fmt: skip
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    return tmp_path


class Balanced(HTMLParser):
    """Follows a page's tags; collects text and the attributes through which a page can fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> says {names}"
        self.sources += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "data", "action"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: Path) -> Balanced:
    parser = Balanced()
    parser.feed(page.read_text(encoding="utf-8"))
    parser.close()
    assert parser.open == []
    return parser


def test_page_is_valid_and_fetches_nothing(run_dir: Path) -> None:
    target = write_report(run_dir)
    assert target == run_dir / "report.html"
    page = read(target)
    assert len([source for source in page.sources if source.startswith("data:image/png;base64,")]) == len(KINDS)
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in page.sources)
    text = target.read_text(encoding="utf-8")
    assert not re.search(r"https?://|url\(|@import", text)
    anchors = {source[1:] for source in page.sources if source.startswith("#")}
    assert anchors == set(re.findall(r'<section id="([\w-]+)"', text))
    assert [path.name for path in run_dir.iterdir() if "report" in path.name] == ["report.html"]


def test_every_number_is_shown_with_what_it_was_measured_on(run_dir: Path) -> None:
    text = read(write_report(run_dir)).text.replace("\N{NO-BREAK SPACE}", " ")
    for shown in ("25.77 dB", "25.41 to 26.13", "1.87 dB above PCA floor, 23.90 dB", "341 validation pictures",
                  "24 high \N{MULTIPLICATION SIGN} 40 wide", "41.20", "2,000 generated pictures", "efficientnet-lite0",
                  "0.0043", "1,999", "5 min 0 s", "64,000", "213.3", "3,068", "342", "2.13.0", "951,247", "5,651,204",
                  "2 classes", "7 unreadable", "2 CPU cores", "2025-06-03 14:22 UTC"):  # fmt: skip
        assert shown in text, shown


def test_tiles_of_one_measure_say_which_stage_they_judge(run_dir: Path) -> None:
    metrics = json.loads((run_dir / "metrics.json").read_text())
    metrics["measurements"] = [measurement(name="fd", stage=stage).as_dict() for stage in ("autoencoder", "diffusion")]
    (run_dir / "metrics.json").write_text(json.dumps(metrics))
    tiles = re.findall(r'<article class="tile.*?</article>', write_report(run_dir).read_text(encoding="utf-8"), re.S)
    assert ["autoencoder" in tiles[0], "diffusion" in tiles[1]] == [True, True]


def test_what_users_wrote_is_text_and_never_markup(run_dir: Path) -> None:
    page = read(write_report(run_dir))
    assert "script" not in page.tags
    assert page.text.count(HOSTILE) == 4  # title, heading, class name, recipe


def test_missing_pieces_are_left_out(run_dir: Path) -> None:
    (run_dir / "diffusion" / "log.csv").unlink()
    (run_dir / "samples" / "samples.png").unlink()
    (run_dir / "samples" / "neighbours.png").unlink()
    (run_dir / "recipe.yaml").unlink()
    metrics = json.loads((run_dir / "metrics.json").read_text())
    metrics["measurements"] = metrics["measurements"][:1]
    del metrics["timings"]
    (run_dir / "metrics.json").write_text(json.dumps(metrics))
    page = write_report(run_dir).read_text(encoding="utf-8")
    assert re.findall(r'<section id="([\w-]+)"', page) == ["autoencoder", "made-with"]
    assert "Worst reconstructions" in page
    assert "<details>" not in page
    read(run_dir / "report.html")


def test_an_autoencoder_unfit_for_float16_is_told(run_dir: Path) -> None:
    """Pipelines of diffusers do not read `force_upcast`, so that whoever loads it in float16 sees black pictures."""
    config = run_dir / "autoencoder" / "config.json"
    for unfit in (True, False):
        config.write_text(json.dumps({"force_upcast": unfit}))
        assert ("unfit for float16" in read(write_report(run_dir)).text) == unfit


def test_classes_that_were_never_trained_are_named(run_dir: Path) -> None:
    metrics = json.loads((run_dir / "metrics.json").read_text())
    metrics["data"]["untrained_classes"] = ["horse", HOSTILE]
    (run_dir / "metrics.json").write_text(json.dumps(metrics))
    assert f"neither drawn nor scored: horse, {HOSTILE}" in read(write_report(run_dir)).text


def test_an_empty_run_folder_still_has_a_page(tmp_path: Path) -> None:
    run_dir = tmp_path / "just-begun"
    run_dir.mkdir()
    page = read(write_report(run_dir))
    assert "just-begun" in page.text
    assert "section" not in page.tags


@pytest.mark.parametrize("content", ["", "[]", "\xff"])
def test_damaged_numbers_are_one_line(run_dir: Path, content: str) -> None:
    (run_dir / "metrics.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(
        DataError, match=r"metrics\.json: is damaged \(.*\); measure the run again with vae-ldm evaluate$"
    ):
        write_report(run_dir)


def test_a_failed_write_keeps_the_old_page(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = write_report(run_dir).read_text(encoding="utf-8")

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    (run_dir / "recipe.yaml").write_text("name: changed\n")
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_report(run_dir)
    assert (run_dir / "report.html").read_text(encoding="utf-8") == before
    assert [path.name for path in run_dir.iterdir() if "report" in path.name] == ["report.html"]


@pytest.mark.parametrize(
    ("better", "value", "reference_name", "grade", "word"),
    [
        ("higher", 25.0, "PCA floor", "good", "clears the floor"),
        ("higher", 23.0, "PCA floor", "bad", "misses the floor"),
        ("higher", 22.0, "ceiling on the originals", "good", "close"),
        ("higher", 12.0, "ceiling on the originals", "fair", "falls short"),
        ("lower", 25.0, "floor: FD of reconstructions", "good", "close"),
        ("lower", 99.0, "floor: FD of reconstructions", "fair", "falls short"),
        ("lower", 99.0, "ceiling: noise", "bad", "misses the floor"),
        ("higher", 30.0, "last year's run", "good", "reached"),
    ],
)
def test_verdicts_of_0_1_0_without_an_interval(
    better: str, value: float, reference_name: str, grade: str, word: str
) -> None:
    found = verdict(measurement(value=value, better=better, reference=24.0, reference_name=reference_name))
    assert found is not None
    assert (found.grade, found.word) == (grade, word)


@pytest.mark.parametrize(
    ("fields", "grade", "word"),
    [
        # claims-32: the value's own interval holds the floor, the paired one does not hold 0
        ({"value": 24.94, "low": 24.69, "high": 25.19, "difference_low": 0.01, "difference_high": 0.28},
         "good", "clears the floor"),
        ({"value": 24.94, "difference_low": -0.01, "difference_high": 0.28}, "fair",
         "no clear difference from the floor"),
        ({"value": 24.80, "low": 24.2, "high": 25.4, "reference_kind": None}, "fair",
         "no clear difference from the floor"),
        ({"value": 24.5, "difference_low": -0.5, "difference_high": -0.1}, "bad", "misses the floor"),
        # nothing proves that two shares of few pictures differ
        ({"value": 20.0, "low": 10.0, "high": 33.0, "reference_kind": "limit"}, "open", "no clear difference"),
        ({"value": 20.0, "low": 19.0, "high": 21.0, "reference_kind": "limit"}, "fair", "falls short"),
        ({"value": 24.5, "low": 24.4, "high": 24.6, "reference_kind": "limit"}, "good", "close"),
        ({"value": 30.0, "low": 29.0, "high": 31.0, "reference_kind": "limit"}, "good", "reached"),
        # a mean over one picture; 0.1.0 wrote an interval of no width
        ({"value": 29.0, "num_images": 1}, "open", "one picture cannot tell"),
        ({"value": 29.0, "low": 29.0, "high": 29.0, "num_images": 1}, "open", "one picture cannot tell"),
        ({"value": 100.0, "low": 30.0, "high": 100.0, "num_images": 1}, "good", "clears the floor"),
    ],
)  # fmt: skip
def test_a_verdict_respects_the_interval_beside_it(fields: dict[str, Any], grade: str, word: str) -> None:
    known = {"reference": 24.79, "reference_name": "PCA floor (f4c8)", "reference_kind": "floor"}
    found = verdict(measurement(**(known | fields)))
    assert found is not None
    assert (found.grade, found.word) == (grade, word)


def test_of_two_numbers_measured_apart_both_intervals_count() -> None:
    """KID .0016 [0, .0032] beside .0003: a tenth of the reference says nothing where the truth is 0."""
    kid = {"name": "kid", "value": 0.0016, "unit": "", "better": "lower", "low": 0.0, "high": 0.0032}
    beside = {"reference": 0.0003, "reference_name": "validation pictures", "reference_kind": "limit"}
    near = verdict(measurement(**kid, **beside, reference_low=-0.0010, reference_high=0.0016))
    assert near is not None
    assert near.word == "no clear difference"
    far = verdict(measurement(**(kid | {"value": 0.01, "low": 0.008, "high": 0.012}), **beside))
    assert far is not None
    assert far.word == "falls short"


def test_the_page_shows_what_the_verdict_follows_from(run_dir: Path) -> None:
    metrics = json.loads((run_dir / "metrics.json").read_text())
    psnr = measurement(name="psnr", value=24.94, low=24.69, high=25.19, reference=24.79,
                       reference_name="PCA floor (f4c8)", reference_kind="floor",
                       difference_low=0.01, difference_high=0.28)  # fmt: skip
    kid = measurement(name="kid", value=0.02, unit="", low=0.01, high=0.03, better="lower", stage="diffusion",
                      reference=0.011, reference_name="validation pictures", reference_kind="limit",
                      reference_low=0.005, reference_high=0.017)  # fmt: skip
    agreement = measurement(name="prompt_agreement", value=54.7, unit="%", stage="diffusion", reference=63.2,
                            reference_name="the probe on held-out pictures", reference_kind="comparison")  # fmt: skip
    metrics["measurements"] = [item.as_dict() for item in (psnr, kid, agreement)]
    (run_dir / "metrics.json").write_text(json.dumps(metrics))
    page = read(write_report(run_dir)).text.replace("\N{NO-BREAK SPACE}", " ")
    for shown in ("clears the floor 0.150 dB [0.0100, 0.280] above PCA floor (f4c8), 24.79 dB",
                  "no clear difference 0.0090 above validation pictures, 0.0110 [0.0050, 0.0170]",
                  "for comparison: 8.50 points below the probe on held-out pictures, 63.20 %"):  # fmt: skip
        assert page.count(shown) == 2, shown  # tile and table
    for told in ("Peak signal-to-noise ratio", "Kernel distance: how far", "How often the probe finds"):
        assert page.count(told) == 2, told
    assert "ceiling" not in page


def test_nothing_is_judged_without_a_reference() -> None:
    assert verdict(measurement()) is None
    assert verdict(measurement(better=None, reference=1.0, reference_name="floor")) is None


def test_a_log_of_a_killed_run_is_read(tmp_path: Path) -> None:
    """Steps that were logged twice count once, with the later value; half a last line and NaN do not stop it."""
    log = tmp_path / "log.csv"
    log.write_text(
        "step,epoch,train/loss,val/psnr\n0,0,1.0,\n10,0,9.0,\n10,0,,20.5\n10,0,0.5,\n20,0,nan,\n30,0,0.25,\n40"
    )
    columns = read_log(log)
    np.testing.assert_array_equal(columns["train/loss"].steps, [0, 10, 30])
    np.testing.assert_array_equal(columns["train/loss"].values, [1.0, 0.5, 0.25])
    assert columns["train/loss"].num_not_finite == 1
    np.testing.assert_array_equal(columns["val/psnr"].values, [20.5])
    (loss,) = charts(log)  # a single point is no curve
    assert loss.term == "loss"
    assert loss.num_not_finite == 1


def test_points_of_a_chart_lie_on_its_axes(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("step,train/kl\n" + "".join(f"{step},{10.0 ** (-step / 100)}\n" for step in (0, 100, 200, 300)))
    (chart,) = charts(log)
    assert chart.logarithmic
    marks = {label: y for y, label in chart.y_ticks}
    assert list(marks) == ["0.001", "0.01", "0.1", "1"]
    places = dict(chart.lines[0].dots)
    across = {label: x for x, label in chart.x_ticks}
    for step, value in (("0", "1"), ("100", "0.1"), ("200", "0.01"), ("300", "0.001")):
        assert places[across[step]] == marks[value]
    assert sorted(marks.values(), reverse=True) == list(marks.values()), "up the page is more"
    assert [text for _, _, text in chart.hovers][1] == "step 100\ntrain 0.1"


def test_a_value_measured_elsewhere_is_told_with_its_step(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    validated = {0: 1.0, 200: 0.3}
    log.write_text(
        "step,train/loss,val/loss\n" + "".join(f"{step},0.5,{validated.get(step, '')}\n" for step in range(0, 301, 50))
    )
    (chart,) = charts(log)
    told = [text.splitlines()[2] for _, _, text in chart.hovers]
    assert told == [
        "val 1",
        "val 1 at step 0",
        "val 1 at step 0",
        "val 0.3 at step 200",
        "val 0.3",
        "val 0.3 at step 200",
        "val 0.3 at step 200",
    ]


def test_smoothing_follows_without_lag_and_keeps_constants(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    log = tmp_path / "log.csv"
    rows = [f"{step},{step / 1000 + rng.normal(0, 0.05)},0.7\n" for step in range(2000)]
    log.write_text("step,train/a,train/b\n" + "".join(rows))
    rising, constant = charts(log)
    assert rising.lines[0].last == pytest.approx(2.0, abs=0.08)
    assert constant.lines[0].last == pytest.approx(0.7, abs=1e-12)
    assert len(rising.lines[0].path) < 4000
    assert rising.lines[0].faint


@pytest.mark.parametrize("cell", ["0", "1e-12", "-5", "1e30"])
def test_flat_and_odd_curves_have_axes(tmp_path: Path, cell: str) -> None:
    log = tmp_path / "log.csv"
    log.write_text(f"step,train/loss\n5,{cell}\n6,{cell}\n7,{cell}\n")
    (chart,) = charts(log)
    assert np.isfinite([place for place, _ in chart.x_ticks + chart.y_ticks]).all()
    assert np.isfinite(chart.lines[0].dots).all()


def test_numbers_and_times_read_well() -> None:
    numbers = (25.7734, 0.8421, 0.0143, 213.34, 64000, 951247, 0.0, 0.00012, 7, -1.5)
    assert [number(value) for value in numbers] == [
        "25.77", "0.842", "0.0143", "213.3", "64,000", "951,247", "0", "1.20e-04", "7", "-1.50",
    ]  # fmt: skip
    assert [duration(seconds) for seconds in (22.13, 300.1, 7620)] == ["22.1 s", "5 min 0 s", "2 h 7 min"]
    values = (0.0, 0.0012, 1.5, 2500, 25_000, 3e6, 2.5e-4, 1e-6)
    assert [short_number(value) for value in values] == ["0", "0.0012", "1.5", "2.5k", "25k", "3M", "2.5e-4", "1e-6"]


def test_pictures_survive_the_page(run_dir: Path) -> None:
    page = read(write_report(run_dir))
    inline = next(source for source in page.sources if source.startswith("data:"))
    assert base64.b64decode(inline.partition(",")[2]) == (run_dir / "samples" / KINDS[0].file).read_bytes()
