"""`novelty fit --leave-out`: photos leave every memory, their scores stay, and nothing is looked at again."""

import shutil

import pytest
import torch

from tests.support.tin_photos import save_photos
from vae_ldm.desk.novelty.detector_folder import open_detector, open_photos, reference_names
from vae_ldm.desk.novelty.observer import PhotoObserver
from vae_ldm.errors import DataError

HIDDEN = ("hidden/000.png", "hidden/001.png")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Two scratched photos among good ones."""
    folder = tmp_path_factory.mktemp("mixed")
    save_photos(folder / "good", 18, seed=0)
    save_photos(folder / "hidden", 2, seed=2, blemish=(26, 38))
    return folder


def listed(tmp_path, *lines):
    (tmp_path / "list.txt").write_text("".join(f"{line}\n" for line in lines))
    return tmp_path / "list.txt"


def test_what_is_left_out_is_in_no_memory_and_its_score_stays(
    few, mixed, photos, tmp_path, capfd, monkeypatch, no_looking_after
):
    before = open_detector(few(mixed))
    names = reference_names(tmp_path / "few").ids
    rows = torch.tensor([names.index(name) for name in HIDDEN])
    capfd.readouterr()
    looked = PhotoObserver.__call__
    no_looking_after()
    few(mixed, leave_out=listed(tmp_path, "# odd ones", HIDDEN[0], "", str(mixed / HIDDEN[1])))
    monkeypatch.setattr(PhotoObserver, "__call__", looked)

    said = " ".join(capfd.readouterr().err.split())
    assert "has seen these 20 photos before; they are not looked at again" in said
    assert "20 usual photos, 2 of them left out" in said
    after = open_detector(tmp_path / "few")
    assert (after.facts.num_left_out, after.facts.num_reference, after.facts.num_calibration) == (2, 20, 20)
    stored = open_photos(tmp_path / "few").names
    assert [name for name, out in zip(stored.ids, stored.left_out, strict=True) if out] == sorted(
        HIDDEN, key=names.index
    )
    assert torch.equal(after.scores.folds, before.scores.folds)
    assert len(after.scores.held_out) == 20
    # Nothing like them is known any more, so that they and others of their kind are stranger than they were.
    assert (after.scores.held_out[rows] > before.scores.held_out[rows]).all()
    scratched = photos / "validation" / "scratched"
    for one, other in zip(before.judge(scratched), after.judge(scratched), strict=True):
        assert other.score > one.score
    assert after.facts.known_classes == ["good"]  # the other class has no photo left

    # Fitted without the list they are back.
    again = open_detector(few(mixed))
    assert torch.equal(again.scores.held_out, before.scores.held_out)
    assert again.facts.known_classes == before.facts.known_classes == ["good", "hidden"]


def test_photos_of_which_all_but_too_few_are_left_out(few, mixed, tmp_path):
    names = [f"good/{number:03d}.png" for number in range(13)]
    with pytest.raises(DataError, match=r"there are 20, of which 13 are left out"):
        few(mixed, leave_out=listed(tmp_path, *names))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["good/000.pgn"], r"list\.txt, line 1: good/000\.pgn is no photo of .* that is usual; did you mean good/000"),
        (["# odd", "zzzz"], r"list\.txt, line 2: zzzz is no photo of .*; one line is one photo, by its path within"),
        (["# nothing", " "], r"list\.txt: names no photo; write one a line"),
    ],
)
def test_a_list_that_names_what_is_not_there_is_one_line(few, mixed, tmp_path, lines, message):
    with pytest.raises(DataError, match=message) as caught:
        few(mixed, leave_out=listed(tmp_path, *lines))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "few").exists()


def test_a_photo_of_another_class_is_not_usual_and_cannot_be_left_out(few, mixed, tmp_path):
    with pytest.raises(DataError, match=r"hidden/000\.png is no photo of .* that is usual"):
        few(mixed, only_classes=["good"], leave_out=listed(tmp_path, HIDDEN[0]))


def test_the_same_photos_elsewhere_are_not_looked_at_again(few, mixed, tmp_path, no_looking_after):
    few(mixed)
    moved = shutil.copytree(mixed, tmp_path / "moved")
    no_looking_after()
    few(moved, leave_out=listed(tmp_path, HIDDEN[0]))
    assert open_detector(tmp_path / "few").facts.num_left_out == 1


def test_a_line_of_inspect_may_be_copied_with_its_p_value(few, mixed, tmp_path):
    few(mixed, leave_out=listed(tmp_path, "# The 2 usual photos that are the oddest", f"0.048  {HIDDEN[0]}"))
    assert open_detector(tmp_path / "few").facts.num_left_out == 1
