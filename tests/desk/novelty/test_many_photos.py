"""More usual photos than are kept whole, and photos that as a whole are not like the usual ones."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.tin_photos import save_photos
from vae_ldm.desk.novelty import looking
from vae_ldm.desk.novelty.detector_folder import open_detector, open_photos, reference_names
from vae_ldm.desk.novelty.fit import fit
from vae_ldm.desk.novelty.score import score


@pytest.fixture
def with_more(photos, tiny_backbone, tmp_path, monkeypatch):
    """A detector of the 24 photos of which 16 are kept whole, and one place of each of the others."""
    monkeypatch.setattr(looking, "MAX_KEPT", 16)
    monkeypatch.setattr(looking, "MORE_PLACES", 8)
    facts = fit(photos / "train", out=tmp_path / "many", backbone=tiny_backbone, false_alarm_rate=0.1)
    return tmp_path / "many", facts


def test_further_photos_go_into_the_memory_of_places_and_calibrate_nothing(with_more, photos):
    folder, facts = with_more
    assert (facts.num_reference, facts.num_calibration) == (24, 16)
    stored = open_photos(folder)
    assert len(stored.features) == 16
    assert stored.more.num_photos == len(stored.more.patches) == 8
    assert set(stored.more.groups.tolist()).isdisjoint(stored.groups.tolist())
    verdicts = open_detector(folder).judge(photos / "validation" / "scratched", heat_maps=False)
    assert all(verdict.p_value is not None for verdict in verdicts)


def test_further_photos_are_kept_for_another_fit(with_more, photos, tiny_backbone, tmp_path, no_looking_after):
    folder, _ = with_more
    before = (folder / "detector.safetensors").read_bytes()
    no_looking_after()
    fit(photos / "train", out=folder, backbone=tiny_backbone, false_alarm_rate=0.1)
    assert (folder / "detector.safetensors").read_bytes() == before


def test_places_of_a_group_are_left_out_with_it():
    groups, photos = torch.tensor([5, 5, 7, 9]), torch.tensor([0, 2, 1, 3])
    places = looking.MorePlaces(4, torch.zeros(4, 2, dtype=torch.float16), photos, groups)
    kept = places.without_groups(torch.tensor([7, 5]))
    assert (kept.groups.tolist(), kept.photos.tolist()) == ([9], [3])
    assert places.without_photos(torch.tensor([2, 3])).photos.tolist() == [0, 1]


def test_a_further_photo_is_left_out_and_taken_in_again(with_more, photos, tiny_backbone, tmp_path, no_looking_after):
    folder, _ = with_more
    before = (folder / "detector.safetensors").read_bytes()
    (tmp_path / "odd.txt").write_text(reference_names(folder).more_ids[0])
    no_looking_after()
    settings = {"out": folder, "backbone": tiny_backbone, "false_alarm_rate": 0.1}
    facts = fit(photos / "train", leave_out=tmp_path / "odd.txt", **settings)
    assert facts.num_left_out == 1
    assert (folder / "detector.safetensors").read_bytes() != before
    fit(photos / "train", **settings)
    assert (folder / "detector.safetensors").read_bytes() == before


def darker(source, target):
    target.mkdir(parents=True)
    for file in source.glob("*.png"):
        Image.fromarray((np.asarray(Image.open(file)) * 0.4).astype(np.uint8)).save(target / file.name)
    return target


def test_a_change_of_all_photos_is_told_and_usual_ones_are_not(detector, tmp_path, capfd):
    usual = save_photos(tmp_path / "usual", 40, seed=11)
    score(usual, detector, out=tmp_path / "usual.csv")
    assert "not like the usual ones" not in capfd.readouterr().err
    score(darker(usual, tmp_path / "dark"), detector, out=tmp_path / "dark.csv")
    said = " ".join(capfd.readouterr().err.split())
    assert "of the photos are unlike the usual ones" in said or "as a whole are not like the usual ones" in said
    few = save_photos(tmp_path / "few", 5, seed=12)
    score(darker(few, tmp_path / "dark-few"), detector, out=tmp_path / "few.csv")
    assert "unlike" not in capfd.readouterr().err
