"""What a detector says of photos: new ones, those that it was fitted on, and where they are strange."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.tin_photos import save_photos, usual_photo
from tests.support.tiny_backbone import save_backbone
from vae_ldm.data.photo_records import photo_records
from vae_ldm.desk.novelty.detector_folder import open_detector, reference_names
from vae_ldm.desk.novelty.fit import fit
from vae_ldm.errors import DataError
from vae_ldm.latent_space.novelty_scores.families import FAMILIES


@pytest.fixture(scope="module")
def opened(detector):
    return open_detector(detector)


def assert_same_verdicts(some, others):
    for one, other in zip(some, others, strict=True):
        for name, value in vars(one).items():
            if name == "heat_map":
                assert np.array_equal(value, other.heat_map)
            elif name != "record":
                assert value == getattr(other, name), name


def test_scratched_photos_are_novel_and_good_ones_are_not(opened, photos):
    scratched = opened.judge(photos / "validation" / "scratched")
    good = opened.judge(photos / "validation" / "good")
    assert all(verdict.novel for verdict in scratched)
    assert sum(verdict.novel for verdict in good) <= 2
    assert {verdict.p_value for verdict in scratched} == {1 / 25}
    assert min(verdict.score for verdict in scratched) > 2 > np.median([verdict.score for verdict in good])
    for verdict in (*scratched, *good):
        assert verdict.novel == (verdict.p_value <= 0.05)
        assert tuple(verdict.families) == tuple(verdict.family_p_values) == FAMILIES
        assert not verdict.is_reference
        assert verdict.classes is None


def test_whatever_holds_a_photo_is_judged_alike_alone_or_among_others(opened, photos):
    folder = photos / "validation" / "scratched"
    (judged, *_) = opened.judge(folder, heat_maps=False)
    path = folder / "000.png"
    image = Image.open(path)
    for same in (path, str(path), [image], np.array(image), torch.from_numpy(np.array(image)).movedim(-1, 0)):
        (alone,) = opened.judge(same, heat_maps=False)
        assert alone.score == pytest.approx(judged.score, abs=1e-3)
        assert alone.p_value == judged.p_value
        assert alone.heat_map is None
        assert alone.max_heat is None


def test_a_photo_that_cannot_be_read_is_refused(opened, tmp_path):
    (tmp_path / "no.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"no\.png: cannot be read \("):
        opened.judge(tmp_path / "no.png")


def test_another_rate_is_that_of_a_fresh_fit_bit_for_bit(opened, photos, tiny_backbone, tmp_path):
    fit(photos / "train", out=tmp_path / "fresh", backbone=tiny_backbone, false_alarm_rate=0.2)
    fresh = open_detector(tmp_path / "fresh").judge(photos / "validation")
    assert_same_verdicts(opened.judge(photos / "validation", false_alarm_rate=0.2), fresh)
    own = opened.judge(photos / "validation")
    assert [verdict.p_value for verdict in own] == [verdict.p_value for verdict in fresh]
    assert sum(verdict.novel for verdict in own) < sum(verdict.novel for verdict in fresh)
    assert all(one.max_heat < other.max_heat for one, other in zip(own, fresh, strict=True) if one.max_heat > 0)


def test_a_photo_that_the_detector_was_fitted_on_is_judged_without_itself(opened, detector, photos, tmp_path):
    row = 7
    name = reference_names(detector).ids[row]
    moved = shutil.copy(photos / "train" / name, tmp_path / "elsewhere.png")  # known by its content
    new = photos / "validation" / "good" / "000.png"
    for among in ([moved], [new, moved, new]):
        verdicts = opened.judge(among)
        (verdict,) = [each for each in verdicts if each.is_reference]
        assert len(verdicts) == len(among)
        assert verdict.record.place == str(moved)
        assert verdict.score == opened.scores.held_out[row].item()
        assert verdict.p_value == opened.scores.held_out_p_values()[row].item()
        assert list(verdict.families.values()) == opened.scores.held_out_families[row].tolist()
    assert verdicts[0].score == pytest.approx(opened.judge(new)[0].score, abs=1e-3)  # the neighbours are new still
    held_maximum = opened.scores.held_out_maxima[row].item()
    scale = opened.heat_scale(0.05)
    assert verdict.max_heat == pytest.approx((held_maximum - scale.usual) / (scale.strange - scale.usual), abs=1e-3)


def test_about_as_many_of_the_fitted_photos_are_novel_as_the_rate_says(opened, photos):
    verdicts = opened.judge(photos / "train", heat_maps=False, false_alarm_rate=0.2)
    assert all(verdict.is_reference for verdict in verdicts)
    assert 3 <= sum(verdict.novel for verdict in verdicts) <= 4  # of 24
    assert min(verdict.p_value for verdict in verdicts) == 1 / 24


def test_the_heat_map_is_hottest_at_the_blemish(photos, tmp_path):
    """By a network that sees little at once: in the tiny ConvNeXt every place has seen half of the photo."""
    backbone = save_backbone(tmp_path / "resnet", "resnet", side=128)
    fit(photos / "train", out=tmp_path / "detector", backbone=backbone, false_alarm_rate=0.3)
    for verdict in open_detector(tmp_path / "detector").judge(photos / "validation" / "scratched"):
        assert verdict.heat_map.shape == (192, 192, 3)
        assert verdict.max_heat > 0.9
        red = verdict.heat_map[..., 0].astype(int) - verdict.heat_map[..., 2]
        smooth = torch.nn.functional.avg_pool2d(torch.from_numpy(red)[None, None].float(), 15, 1, 7)[0, 0]
        y, x = (smooth > 0.95 * smooth.max()).nonzero().double().mean(dim=0).tolist()
        assert (y / 3, x / 3) == (pytest.approx(26, abs=9), pytest.approx(38, abs=9))


@pytest.mark.parametrize("size", [(64, 200), (300, 210), (1100, 550)])
def test_a_heat_map_has_the_proportions_of_the_photo(opened, size):
    photo = Image.fromarray(usual_photo(np.random.default_rng(3))).resize((size[1], size[0]))
    (verdict,) = opened.judge(photo)
    height, width = verdict.heat_map.shape[:2]
    assert height / width == pytest.approx(size[0] / size[1], rel=0.01)
    assert min(height, width) >= 192
    assert max(height, width) <= 1024


def test_heat_reaches_one_in_about_as_many_usual_photos_as_the_rate_says(opened, tmp_path):
    save_photos(tmp_path / "new", 60, seed=4)
    hottest = [verdict.max_heat for verdict in opened.judge(tmp_path / "new", false_alarm_rate=0.2)]
    # Of 24 photos the true rate of a threshold lies between 6 and 35 %, and what is drawn of it lies farther.
    assert 0.02 <= np.mean(np.array(hottest) >= 1) <= 0.45


def test_a_novel_photo_without_one_hot_place_shows_its_strangest_ones(opened, photos):
    scores = opened.scores
    cold = replace(opened, scores=replace(scores, held_out_maxima=scores.held_out_maxima + 1e6))
    (verdict,) = cold.judge(photos / "validation" / "scratched" / "000.png")
    assert verdict.novel
    assert verdict.max_heat < 0.01
    assert np.ptp(verdict.heat_map.astype(int)[..., 0] - verdict.heat_map[..., 2]) > 40


def test_too_few_photos_for_the_rate_give_a_score_and_no_p_value(opened, photos):
    """The 24 would need to be 99 for a rate of 1 %."""
    (verdict,) = opened.judge(photos / "validation" / "scratched" / "000.png", false_alarm_rate=0.01)
    assert (verdict.novel, verdict.p_value, verdict.max_heat) == (None, None, None)
    assert verdict.score > 2
    assert np.ptp(verdict.heat_map.astype(int)[..., 0] - verdict.heat_map[..., 2]) > 40  # on a scale of its own
    assert not opened.can_judge(0.01)
    assert opened.can_judge(1 / 25)


def test_a_detector_opened_again_judges_as_it_did(opened, detector, photos, tmp_path):
    copied = open_detector(str(shutil.copytree(detector, tmp_path / "copy")))
    records = photo_records(photos / "validation")
    assert_same_verdicts(opened.judge(records), copied.judge(records))


def test_a_detector_and_its_verdicts_print_short(detector, photos):
    """Neither holds its tensors nor the pixels of its heat map, which are thousands of lines."""
    opened = open_detector(detector)
    (verdict,) = opened.judge(photos / "validation" / "good" / "000.png")
    assert len(repr(opened)) < 1_000
    assert len(repr(verdict)) < 1_500
    assert "array(" not in repr(verdict)
