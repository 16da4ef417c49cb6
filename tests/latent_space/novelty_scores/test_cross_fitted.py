"""What a fold's model has seen, what the p-values hold, and what becomes of photos that are left out."""

import pytest
import torch
from safetensors.torch import load, save

from tests.support.noise_photos import NUM_KINDS, features_of, made_copies, noise_maps
from vae_ldm.latent_space.conformal import cross_p_values
from vae_ldm.latent_space.novelty_scores.cross_fitted import CrossFittedDetector, outer_folds
from vae_ldm.latent_space.novelty_scores.folds import assign_folds
from vae_ldm.latent_space.novelty_scores.photo_features import MadeCopies, PhotoFeatures

COUNT = 40
MAPS = noise_maps(COUNT, seed=0)
ROWS = torch.arange(0, COUNT, 2)
GROUPS = torch.arange(COUNT) // 2 * 2  # pairs


def fitted(maps=MAPS, groups=GROUPS, **options):
    rows = ROWS[len(maps[0]) > ROWS]
    return CrossFittedDetector.fit(features_of(maps), made_copies(maps, rows), groups, num_kinds=NUM_KINDS, **options)


DETECTOR = fitted()
FRESH = features_of(noise_maps(7, seed=9))


def same(first, second):
    assert first.keys() == second.keys()
    return [name for name, tensor in first.items() if not torch.equal(tensor, second[name])] == []


def test_the_same_fit_twice_is_the_same_and_another_seed_is_not():
    assert same(DETECTOR.tensors(), fitted().tensors())
    assert not torch.equal(DETECTOR.folds, fitted(seed=1).folds)


def test_a_detector_is_the_same_bit_for_bit_after_a_visit_to_disk():
    again = CrossFittedDetector.from_tensors(load(save(DETECTOR.tensors())))
    assert same(DETECTOR.tensors(), again.tensors())
    first, second = DETECTOR(FRESH), again(FRESH)
    for name in ("scores", "families", "p_values", "maps", "place_p_values"):
        assert torch.equal(getattr(first, name), getattr(second, name))


def test_a_detector_with_a_fold_missing_is_refused():
    tensors = DETECTOR.tensors()
    with pytest.raises(ValueError, match="without a gap"):
        CrossFittedDetector.from_tensors({**tensors, "folds": tensors["folds"] + 1})
    with pytest.raises(KeyError):
        CrossFittedDetector.from_tensors({name: each for name, each in tensors.items() if "model.3." not in name})
    with pytest.raises(ValueError, match="held_out_maxima"):
        CrossFittedDetector.from_tensors({**tensors, "held_out_maxima": tensors["held_out_maxima"][1:]})


def test_a_fold_s_model_has_seen_none_of_the_photos_of_its_fold():
    """Neither as they are nor damaged, nor as the lender of a piece of damage."""
    fold = 2
    others = [stage.clone() for stage in MAPS]
    for stage in others:
        stage[DETECTOR.folds == fold] *= 5
    changed = fitted(others)
    assert torch.equal(changed.folds, DETECTOR.folds)
    assert same(changed.models[fold].tensors(), DETECTOR.models[fold].tensors())
    for other in range(len(DETECTOR.models)):
        if other != fold:
            assert not same(changed.models[other].tensors(), DETECTOR.models[other].tensors())


def test_held_out_scores_are_those_of_the_model_that_has_not_seen_the_photo():
    good = features_of(MAPS)
    for fold, model in enumerate(DETECTOR.models):
        rows = (DETECTOR.folds == fold).nonzero().flatten()
        raw = model.scores(good[rows])
        assert torch.equal(DETECTOR.held_out[rows], model.combination(raw))
        assert torch.equal(DETECTOR.held_out_families[rows], model.combination.families(raw))
        assert torch.equal(DETECTOR.held_out_maxima[rows], model.maps(raw).amax(dim=1))
        assert torch.equal(DETECTOR.held_out_means[rows], model.maps(raw).mean(dim=1))


def test_p_values_by_hand():
    judged = DETECTOR(FRESH)
    scores = [model.combination(model.scores(FRESH)).tolist() for model in DETECTOR.models]
    for row in range(len(FRESH)):
        as_high = 0.0
        for pair in range(0, COUNT, 2):
            for photo in (pair, pair + 1):
                fold = int(DETECTOR.folds[photo])
                as_high += 0.5 * (DETECTOR.held_out[photo].item() >= scores[fold][row])
        assert judged.p_values[row].item() == pytest.approx((1 + as_high) / (COUNT / 2 + 1))
        assert judged.scores[row].item() == pytest.approx(sum(each[row] for each in scores) / len(scores))


def test_photos_one_by_one_are_judged_as_together():
    together = DETECTOR(FRESH)
    alone = [DETECTOR(FRESH[row : row + 1]) for row in range(len(FRESH))]
    torch.testing.assert_close(torch.cat([each.scores for each in alone]), together.scores, rtol=1e-3, atol=1e-3)
    assert torch.cat([each.p_values for each in alone]).tolist() == together.p_values.tolist()


@pytest.mark.parametrize("count", [40, 160, 400])
def test_scales_are_learned_as_photos_are_judged(count):
    """Else the scores of good photos would not lie about 0: so they did not where memories were of two sizes."""
    maps = noise_maps(count, seed=6, places=9)
    made = made_copies(maps, torch.arange(0, count, 4))
    detector = CrossFittedDetector.fit(features_of(maps), made, torch.arange(count), num_kinds=NUM_KINDS)
    assert detector.held_out_families.mean(dim=0).abs().max() < 0.5
    assert detector.held_out_families.std(dim=0) == pytest.approx([1] * 6, abs=0.35)
    assert abs(detector.held_out.mean()) < 0.5
    # The soft maximum of two standard normal numbers lies at .46 where they are equal, at .8 where independent.
    assert 0.4 < detector.held_out_means.mean() < 0.95


def test_a_photo_too_smooth_and_one_too_rough_are_both_novel():
    for scale in (0.3, 3.0):
        judged = DETECTOR(features_of(noise_maps(5, seed=4, scale=scale)))
        assert (judged.p_values == 1 / (DETECTOR.num_groups + 1)).all()
        assert (judged.scores > 2).all()


def test_a_strange_place_is_found_and_usual_photos_have_few():
    maps = noise_maps(20, seed=5)
    for stage in maps:
        stage[0, :, 6] += 8
    judged = DETECTOR(features_of(maps))
    assert judged.maps[0].argmax() == 6
    assert judged.place_p_values[0, 6] == 1 / (DETECTOR.num_groups + 1)
    assert (judged.place_p_values[1:].amin(dim=1) <= 0.1).sum() <= 6  # about 2 of 19 are expected


@pytest.mark.slow
def test_noise_holds_every_rate():
    """Photos of pure noise, fitted and judged at random: false alarms are as many as asked for, within chance."""
    count, asked, rounds = 160, 120, 8
    found = []
    for seed in range(rounds):
        maps = noise_maps(count + asked, seed=100 + seed, places=4)
        known, fresh = [stage[:count] for stage in maps], [stage[count:] for stage in maps]
        detector = CrossFittedDetector.fit(
            features_of(known),
            made_copies(known, torch.arange(0, count, 4)),
            torch.arange(count),
            num_kinds=NUM_KINDS,
            seed=seed,
        )
        found.append(detector(features_of(fresh)).p_values)
    for rate in (0.01, 0.05, 0.1):
        share = (torch.cat(found) <= rate + 1e-12).double().mean().item()
        # Given its photos a detector's rate is about Beta distributed, and the photos judged are drawn on top.
        deviation = (rate * (1 - rate) * (1 / asked + 1 / (count + 1)) / rounds) ** 0.5
        assert rate - 4 * deviation - 1 / (count + 1) <= share <= rate + 4 * deviation, (rate, share)


def test_a_group_is_never_split_and_folds_are_of_about_one_size():
    generator = torch.Generator().manual_seed(0)
    for seed in range(20):
        groups = torch.randint(12, (60,), generator=generator)
        folds = assign_folds(groups, 5, seed)
        assert all(len(folds[groups == group].unique()) == 1 for group in groups.unique())
        assert folds.bincount(minlength=5).min() >= 6
    assert assign_folds(torch.arange(13), 5, 0).bincount().tolist() == [3, 3, 3, 2, 2]
    assert not torch.equal(assign_folds(torch.arange(13), 5, 0), assign_folds(torch.arange(13), 5, 1))


def test_there_are_ten_folds_and_of_fewer_groups_a_fold_each():
    assert outer_folds(torch.arange(149)).bincount(minlength=10).tolist() == [15] * 9 + [14]
    assert outer_folds(torch.arange(40) // 5).max() == 7


def test_a_photo_left_out_leaves_every_memory_and_stays_among_those_that_calibrate():
    left_out = torch.zeros(COUNT, dtype=torch.bool)
    left_out[[4, 5, 11]] = True
    detector = fitted(left_out=left_out)
    assert torch.equal(detector.folds, DETECTOR.folds)
    assert len(detector.held_out) == COUNT
    # Whatever these photos show, no model knows it; their scores do.
    others = [stage.clone() for stage in MAPS]
    for stage in others:
        stage[left_out] *= 5
    changed = fitted(others, left_out=left_out)
    for first, second in zip(detector.models, changed.models, strict=True):
        assert same(first.tensors(), second.tensors())
    assert torch.equal(changed.held_out[~left_out], detector.held_out[~left_out])
    assert (changed.held_out[left_out] > detector.held_out[left_out]).all()
    assert changed.held_out_p_values()[left_out].max() < 0.15


def test_the_strangest_of_the_good_photos_has_the_lowest_p_value():
    maps = [stage.clone() for stage in MAPS]
    for stage in maps:
        stage[17] *= 4
    detector = fitted(maps, groups=torch.arange(COUNT))
    p_values = detector.held_out_p_values()
    assert p_values.argmin() == 17
    assert p_values[17] == 1 / COUNT  # beside the 39 others
    assert p_values.max() == 1


def test_good_photos_are_judged_by_the_model_that_has_not_seen_them():
    good, rows = features_of(MAPS), torch.tensor([11, 3, 30])
    judged = DETECTOR.judge_held_out(good[rows], rows)
    assert torch.equal(judged.scores, DETECTOR.held_out[rows])
    assert torch.equal(judged.families, DETECTOR.held_out_families[rows])
    assert torch.equal(judged.p_values, DETECTOR.held_out_p_values()[rows])
    torch.testing.assert_close(judged.maps.amax(dim=1), DETECTOR.held_out_maxima[rows], rtol=1e-3, atol=1e-3)
    assert judged.place_p_values.shape == judged.maps.shape
    num_groups = DETECTOR.num_groups
    for index, row in enumerate(rows.tolist()):
        others = [other for other in range(COUNT) if GROUPS[other] != GROUPS[row]]
        for family in range(judged.families.shape[1]):
            column = DETECTOR.held_out_families[:, family]
            as_high = sum(0.5 * (column[other] >= column[row]).item() for other in others)
            assert judged.family_p_values[index, family].item() == pytest.approx((1 + as_high) / num_groups)


def test_family_p_values_are_those_of_each_family_alone():
    judged = DETECTOR(FRESH)
    families = torch.stack([model.combination.families(model.scores(FRESH)) for model in DETECTOR.models])
    for family in range(families.shape[2]):
        held = DETECTOR.held_out_families[:, family]
        alone = cross_p_values(families[..., family], held, DETECTOR.folds, DETECTOR.groups)
        assert torch.equal(judged.family_p_values[:, family], alone)


def test_copies_know_what_the_damage_has_changed_and_which_show_only_usable_photos():
    good, made = features_of(MAPS), made_copies(MAPS, ROWS)
    stepped = made.with_steps(good)
    spotted = (made.kinds == 2).nonzero().flatten()
    change = made.features.patches[spotted] - good.patches[made.sources[spotted, 0]]
    torch.testing.assert_close(stepped.steps[spotted], change[:, 2], rtol=1e-4, atol=1e-4)  # the one place
    whole = (made.kinds == 0).nonzero().flatten()
    change = made.features.patches[whole] - good.patches[made.sources[whole, 0]]
    torch.testing.assert_close(stepped.steps[whole], change.mean(dim=1), rtol=1e-4, atol=1e-4)
    assert torch.equal(stepped[spotted].steps, stepped.steps[spotted])
    usable = torch.ones(COUNT, dtype=torch.bool)
    usable[4] = False
    rows = made.rows_of(usable)
    assert not (made.sources[rows] == 4).any()
    assert len(rows) == len(made) - (made.sources == 4).any(dim=1).sum()


def test_too_few_photos_are_refused_and_the_fewest_are_judged():
    few = [stage[:8] for stage in MAPS]
    detector = fitted(few, groups=torch.arange(8))
    assert detector(FRESH).scores.isfinite().all()
    assert detector.num_groups == 8
    with pytest.raises(ValueError, match="novelty takes at least 8 different photos, not 4"):
        fitted(few, groups=torch.arange(8) // 2)
    with pytest.raises(ValueError, match="not 7"):
        fitted(few, groups=torch.arange(8), left_out=torch.arange(8) == 3)


def test_a_refit_from_what_is_stored_is_the_fit_itself():
    good, made = features_of(MAPS).half(), made_copies(MAPS, ROWS)
    made = MadeCopies(made.features.half(), made.kinds, made.sources, made.masks)
    first = CrossFittedDetector.fit(good, made, GROUPS, num_kinds=NUM_KINDS)
    stored = load(save(good.tensors())), load(save(made.tensors()))
    again = PhotoFeatures.from_tensors(stored[0]), MadeCopies.from_tensors(stored[1])
    assert same(CrossFittedDetector.fit(*again, GROUPS, num_kinds=NUM_KINDS).tensors(), first.tensors())


def test_features_in_half_precision_are_judged_as_well():
    judged, exact = DETECTOR(FRESH.half()), DETECTOR(FRESH)
    torch.testing.assert_close(judged.scores, exact.scores, rtol=0.05, atol=0.05)
    assert isinstance(FRESH.half(), PhotoFeatures)
