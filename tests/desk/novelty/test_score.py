"""`novelty score`: the table, the pictures, and what is said of all photos together."""

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.processes import two_processes
from tests.support.odd_photos import png_header
from tests.support.tin_photos import save_photos
from vae_ldm.cli import app
from vae_ldm.data.photo_records import photo_records
from vae_ldm.desk.novelty.fit import fit
from vae_ldm.desk.novelty.score import score
from vae_ldm.errors import ManyUnreadableError, VaeLdmError
from vae_ldm.latent_space.novelty_scores.families import FAMILIES


def test_the_table_holds_what_was_found_and_a_picture_is_written_for_each_photo(
    detector, photos, tmp_path, capfd, read_table
):
    verdicts = score(photos / "validation", detector, out=tmp_path / "scores.csv", heat_maps=tmp_path / "heat")
    table = read_table(tmp_path / "scores.csv")
    assert [row["id"] for row in table] == [record.id for record in photo_records(photos / "validation")]
    assert list(table[0]) == ["id", "verdict", "p_value", "score", *FAMILIES, "features"]
    for row, verdict in zip(table, verdicts, strict=True):
        assert verdict.heat_map is None
        assert row["verdict"] == ("novel" if verdict.novel else "seen")
        assert float(row["p_value"]) == pytest.approx(verdict.p_value, rel=1e-5)
        assert float(row["score"]) == pytest.approx(verdict.score, rel=1e-5)
        assert [float(row[name]) for name in FAMILIES] == pytest.approx(list(verdict.families.values()), rel=1e-5)
        assert row["features"] == "tiny"
    heat_maps = sorted(path.relative_to(tmp_path / "heat") for path in (tmp_path / "heat").rglob("*.*"))
    assert [str(path) for path in heat_maps] == [f"{row['id']}.png" for row in table]
    printed = capfd.readouterr()
    assert printed.out.splitlines() == [str(tmp_path / "scores.csv"), str(tmp_path / "heat")]
    num_novel = sum(verdict.novel for verdict in verdicts)
    said = " ".join(printed.err.split())
    assert (
        f"{num_novel} of 18 photos are novel by tiny, at a false-alarm rate of 0.05 with 24 different usual photos"
        in said
    )


def test_photos_that_were_fitted_on_are_told(detector, photos, tmp_path, capfd):
    shutil.copytree(photos / "validation" / "good", tmp_path / "new")
    shutil.copy(photos / "train" / "good" / "003.png", tmp_path / "new" / "known.png")
    verdicts = score(tmp_path / "new", detector, out=tmp_path / "one.csv")
    assert [verdict.record.id for verdict in verdicts if verdict.is_reference] == ["known.png"]
    told = "was among those that the detector was fitted on; it is judged without itself"
    assert f"1 of 13 photos {told}" in " ".join(capfd.readouterr().err.split())
    score(photos / "train", detector, out=tmp_path / "all.csv")
    told = "were among those that the detector was fitted on; each of them is judged without itself"
    assert f"24 of 24 photos {told}" in " ".join(capfd.readouterr().err.split())


def test_photos_that_cannot_be_read_have_a_line(detector, photos, tmp_path, capfd, read_table):
    mixed = shutil.copytree(photos / "validation", tmp_path / "mixed")
    whole = (mixed / "good" / "000.png").read_bytes()
    (mixed / "good" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (mixed / "good" / "bomb.png").write_bytes(png_header(20_000, 20_000))
    with pytest.raises(ManyUnreadableError, match=r"^2 of 20 photos cannot be read; the others are judged in .*csv$"):
        score(mixed, detector, out=tmp_path / "scores.csv")
    rows = {row["id"]: row["verdict"] for row in read_table(tmp_path / "scores.csv")}
    assert len(rows) == 20
    assert (rows["good/cut.png"], rows["good/bomb.png"]) == ("unreadable", "unreadable")
    said = capfd.readouterr().err
    assert said.count("left out ") == 2
    assert "more than max_pixels" in said


def test_where_nearly_all_photos_are_novel_nothing_is_said_of_the_others(detector, tmp_path, capfd):
    save_photos(tmp_path / "scratched", 24, seed=5, blemish=(26, 38))
    verdicts = score(tmp_path / "scratched", detector, out=tmp_path / "scores.csv")
    assert all(verdict.novel for verdict in verdicts)
    said = " ".join(capfd.readouterr().err.split())
    assert "all or nearly all of the photos are unlike the usual ones (Kolmogorov-Smirnov test" in said
    assert "the others" not in said


def test_where_no_photo_can_be_read_nothing_is_said_of_the_others(detector, tmp_path, capfd, read_table):
    (tmp_path / "note.jpg").write_text("hello")
    with pytest.raises(ManyUnreadableError, match=r"^1 of 1 photo cannot be read; nothing is judged$"):
        score(tmp_path / "note.jpg", detector, out=tmp_path / "scores.csv")
    assert [row["verdict"] for row in read_table(tmp_path / "scores.csv")] == ["unreadable"]
    assert "novel" not in capfd.readouterr().err


def test_a_folder_of_heat_maps_that_is_full_is_refused_with_its_own_option(detector, photos):
    options = ["--heat-maps", str(photos), "--out", "scores.csv"]
    result = CliRunner().invoke(app, ["novelty", "score", str(photos), str(detector), *options])
    assert result.exit_code == 2
    assert "exists already; name another folder with --heat-maps" in " ".join(result.output.split())


def test_a_rate_that_is_none_is_refused_before_the_detector_is_opened(photos, tmp_path):
    with pytest.raises(VaeLdmError, match="a false-alarm rate is between 0 and 1, not 2"):
        score(photos, tmp_path / "absent", out=tmp_path / "scores.csv", false_alarm_rate=2)


def test_a_full_disk_is_one_line_and_nothing_is_lost(detector, photos, small_disk):
    disk = small_disk(4)
    result = CliRunner().invoke(
        app, ["novelty", "score", str(photos), str(detector), "--out", str(disk / "scores.csv")]
    )
    assert result.exit_code == 1, result.output
    assert "No space left" in result.output.splitlines()[-1]
    assert list(disk.iterdir()) == []


def fit_in(folder, photos, backbone):
    fit(photos, out=folder / "detector", backbone=backbone, only_classes=["good"])


def score_in(folder, photos):
    score(photos, folder / "detector", out=folder / "scores.csv", heat_maps=folder / "heat")


@pytest.mark.slow
def test_two_processes_find_what_one_finds(photos, tiny_backbone, tmp_path):
    past = tmp_path / "past"
    save_photos(past / "good", 40, seed=0)
    save_photos(past / "scratched", 17, seed=2, blemish=(26, 38))
    save_photos(past / "bent", 17, seed=3, blemish=(20, 20))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    fit_in(tmp_path / "one", past, tiny_backbone)
    score_in(tmp_path / "one", photos / "validation")
    with two_processes() as processes:
        processes(fit_in, folder=tmp_path / "two", photos=past, backbone=tiny_backbone)
        processes(score_in, folder=tmp_path / "two", photos=photos / "validation")
    for file in ("detector.json", "detector.safetensors", "photos.json", "photos.safetensors", "../scores.csv"):
        one, two = (tmp_path / name / "detector" / file for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes(), file
    one, two = (sorted(path.name for path in (tmp_path / name / "heat").rglob("*.png")) for name in ("one", "two"))
    assert len(one) == 18
    assert one == two


def test_the_command_line(photos, tiny_backbone, tmp_path, read_table):
    runner = CliRunner()
    detector = tmp_path / "detector"
    arguments = ["novelty", "fit", str(photos), "--out", str(detector), "--backbone", tiny_backbone]
    result = runner.invoke(app, [*arguments, "--only-class", "good", "--false-alarm-rate", "0.1", "--series", "(.*)"])
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1] == str(detector)
    assert "with 36 different usual photos the true rate lies between " in " ".join(result.output.split())
    table = tmp_path / "scores.csv"
    result = runner.invoke(app, ["novelty", "score", str(photos), str(detector), "--out", str(table)])
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "photos are novel by tiny, at a false-alarm rate of 0.1 with 36 different usual photos" in said
    assert "usual photos are those of good" in said
    assert len(read_table(table)) == 42
    other = ["--out", str(tmp_path / "other.csv"), "--false-alarm-rate", "0.3"]
    result = runner.invoke(app, ["novelty", "score", str(photos), str(detector), *other])
    assert "at a false-alarm rate of 0.3 with 36 different usual photos" in " ".join(result.output.split())

    for wrong, message in (
        (["fit", str(photos), "--backbone", "x/y/z", "--out", str(detector)], "no such folder"),
        (["fit", str(photos), "--out", "d", "--leave-out", "nowhere"], "nowhere: no such file"),
        (["score", str(photos / "trian"), str(detector)], "did you mean"),
        (["score", str(photos), str(photos)], "is no detector"),
        (["score", str(photos), str(detector), "--out", "no/such/table.csv"], "no/such: no such folder"),
    ):
        result = runner.invoke(app, ["novelty", *wrong])
        assert result.exit_code == 2, result.output
        errors = [line for line in result.output.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert message in errors[0]
    assert not Path("d").exists()
