"""`novelty inspect`: the page, the odd photos, and the rates on photos that are known."""

import re
import shutil

import pytest
import torch
from typer.testing import CliRunner

from tests.support.tin_photos import save_photos
from vae_ldm.cli import app
from vae_ldm.desk.command import DeskCommand
from vae_ldm.desk.novelty.detector_folder import open_detector, reference_names
from vae_ldm.desk.novelty.inspection import NUM_ODD, inspect_detector
from vae_ldm.errors import ManyUnreadableError, VaeLdmError


@pytest.fixture(scope="module")
def inspected(detector, photos, tmp_path_factory):
    """The detector inspected with good and with scratched photos, and the page."""
    out = tmp_path_factory.mktemp("inspected") / "inspection.html"
    known = photos / "validation"
    return inspect_detector(detector, out=out, good=known / "good", bad=known / "scratched"), out.read_text()


def test_the_odd_photos_are_those_of_the_lowest_held_out_p_values(inspected, detector):
    page, html = inspected
    held, names = open_detector(detector).scores, reference_names(detector).ids
    lowest = held.held_out.topk(NUM_ODD).indices.tolist()
    assert [photo.id for photo in page.odd] == [names[row] for row in lowest]
    for photo, row in zip(page.odd, lowest, strict=True):
        assert (photo.score, photo.p_value) == (held.held_out[row].item(), held.held_out_p_values()[row].item())
        assert photo.picture.shape == (64, 64, 3)
        assert photo.heat_map.shape == (192, 192, 3)
        assert html.count(photo.id) >= 2  # below its pictures, and in the list to copy


def test_the_rates_count_false_alarms_and_what_is_found(inspected, detector, photos):
    page, html = inspected
    opened = open_detector(detector)
    for folder, scored in (
        (photos / "validation" / "good", page.good),
        (photos / "validation" / "scratched", page.bad),
    ):
        verdicts = opened.judge(folder, heat_maps=False, false_alarm_rate=0.1)
        hits = sum(verdict.novel for verdict in verdicts)
        assert scored.share(0.1).startswith(f"{hits} of {len(verdicts)}: ")
        assert scored.share(0.1) in html
    assert [row.threshold is None for row in page.rates] == [True, True, False, False, False]  # of 24 photos
    assert "It takes 99 different usual photos; there are 24." in html
    pairs = torch.tensor(page.bad.scores)[:, None] > torch.tensor(page.good.scores)
    assert page.auroc == pytest.approx(pairs.double().mean().item())


def test_each_histogram_has_the_area_of_all_its_photos(inspected):
    page, _ = inspected
    assert [bars.name for bars in page.histograms] == ["usual photos", "good photos", "bad photos"]
    areas = []
    for bars in page.histograms:
        tops = [float(number) for number in re.findall(r"V(-?[\d.]+)", bars.path)][:-1]
        areas.append(sum(190 - top for top in tops))
    assert areas == pytest.approx([areas[0]] * 3, rel=0.01)


def test_a_page_of_the_detector_alone_prints_the_list(fitted, tmp_path, monkeypatch):
    listed = tmp_path / "odd.txt"
    listed.write_text("good/004.png\n")
    detector = fitted(leave_out=listed)
    monkeypatch.chdir(tmp_path)
    ended = CliRunner().invoke(app, ["novelty", "inspect", str(detector)])
    assert ended.exit_code == 0, ended.output
    lines = ended.output.splitlines()
    assert lines[-1] == "inspection.html"
    assert sum(bool(re.fullmatch(r"0\.\d{3}  good/\d{3}\.png", line)) for line in lines) == NUM_ODD
    assert not any(line.endswith("good/004.png") for line in lines)
    page = (tmp_path / "inspection.html").read_text()
    assert "Left out already" in page
    assert "Brackets hold" not in page
    assert "<script" not in page
    assert all(source.startswith("data:image/png;base64,") for source in page.split('src="')[1:])


def test_the_page_is_there_before_the_list_for_a_reader_that_stops_early(detector, tmp_path, monkeypatch):
    def closed(command, line):
        raise BrokenPipeError

    monkeypatch.setattr(DeskCommand, "hand_over", closed)
    with pytest.raises(BrokenPipeError):
        inspect_detector(detector, out=tmp_path / "page.html")
    assert (tmp_path / "page.html").exists()


def test_photos_whose_files_are_gone_are_still_named(fitted, few, photos, tmp_path):
    folder = shutil.copytree(photos / "train" / "good", tmp_path / "photos")
    detector = few(folder)
    shutil.rmtree(folder)
    page = inspect_detector(detector, out=tmp_path / "page.html")
    assert all(photo.picture is None and photo.heat_map is None for photo in page.odd)
    assert (tmp_path / "page.html").read_text().count("The file is gone.") == NUM_ODD


def test_what_is_wrong_is_told(detector, photos, tmp_path):
    with pytest.raises(VaeLdmError, match=r"the name of a page ends in \.html"):
        inspect_detector(detector, out=tmp_path / "page.txt")
    mixed = save_photos(tmp_path / "mixed", 3, seed=5)
    (mixed / "cut.png").write_bytes(b"no picture")
    with pytest.raises(ManyUnreadableError, match=r"^1 of 4 photos cannot be read; the others are in .*page\.html$"):
        inspect_detector(detector, out=tmp_path / "page.html", bad=mixed)
    assert (tmp_path / "page.html").exists()
