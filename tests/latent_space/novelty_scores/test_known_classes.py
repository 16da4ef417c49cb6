"""Sets of known classes: what they hold, when they are empty, and what few photos allow."""

import pytest
import torch
from safetensors.torch import load, save

from tests.support.noise_photos import features_of, noise_maps
from vae_ldm.errors import DataError
from vae_ldm.latent_space.novelty_scores import class_evidence
from vae_ldm.latent_space.novelty_scores.class_evidence import KERNEL_RATE, NOISE, ClassEvidence
from vae_ldm.latent_space.novelty_scores.known_classes import NONE_SHARE, RIVAL_SHARE, KnownClasses
from vae_ldm.latent_space.novelty_scores.photo_features import PhotoFeatures

NUM_CLASSES = 3
LEVEL = 0.1


def photos_of(labels, *, seed, apart=2.0):
    """Photos of noise; every class has a place of its own that is brighter by `apart` in all channels."""
    maps = noise_maps(len(labels), seed=seed)
    for stage in maps:
        stage[torch.arange(len(labels)), :, 3 * labels] += apart * stage.shape[2] ** 0.5
    return features_of(maps)


def labels_of(count, num_classes=NUM_CLASSES):
    return torch.arange(count) % num_classes


def fitted(labels, *, num_classes=NUM_CLASSES, groups=None, **options):
    groups = torch.arange(len(labels)) if groups is None else groups
    return KnownClasses.fit(photos_of(labels, **options), labels, groups, num_classes)


LABELS = labels_of(120)
CLASSES = fitted(LABELS, seed=0)
FRESH_LABELS = labels_of(90)
FRESH = photos_of(FRESH_LABELS, seed=1)
NEW = photos_of(torch.full((40,), 5), seed=2)


def test_classes_that_differ_are_told_apart():
    judgement = CLASSES(FRESH)
    assert (judgement.most_like == FRESH_LABELS).double().mean() > 0.9
    assert judgement.sets(LEVEL).sum(dim=1).double().mean() < 1.2
    assert judgement.p_values.dtype == torch.float64


def test_a_photo_of_a_class_that_is_not_known_has_an_empty_set():
    assert CLASSES(NEW).none_of_them(LEVEL).double().mean() > 0.8
    assert CLASSES(FRESH).none_of_them(LEVEL).double().mean() < LEVEL


@pytest.mark.parametrize("apart", [0.0, 1.0])
def test_of_each_class_the_set_holds_nine_tenths(apart):
    """Of photos that cannot be told apart at all, too, and of those that can be sometimes."""
    found = []
    for seed in range(8):
        asked = labels_of(60)
        judgement = fitted(labels_of(60), seed=2 * seed, apart=apart)(photos_of(asked, seed=2 * seed + 1, apart=apart))
        found.append(judgement.sets(LEVEL)[torch.arange(60), asked])
    held = torch.stack(found).double()
    for label in range(NUM_CLASSES):
        # Bonferroni and cross-conformal p-values are careful, so there is a lower bound only.
        assert held[:, asked == label].mean() > 1 - LEVEL - 0.04
    assert held.mean() < 1


def test_the_same_fit_twice_is_the_same_and_a_visit_to_disk_changes_no_bit():
    again = KnownClasses.from_tensors(load(save(CLASSES.tensors())))
    for other in (again, fitted(LABELS, seed=0)):
        assert all(torch.equal(tensor, other.tensors()[name]) for name, tensor in CLASSES.tensors().items())
        first, second = CLASSES(FRESH), other(FRESH)
        for name in ("p_values", "known_p_values", "evidence", "least_p_values"):
            assert torch.equal(getattr(first, name), getattr(second, name))


def test_half_precision_is_enough():
    photos = PhotoFeatures.from_tensors(FRESH.tensors())
    torch.testing.assert_close(CLASSES(photos).evidence, CLASSES(FRESH).evidence, rtol=0.02, atol=0.02)


def test_a_fold_s_fit_has_seen_none_of_its_photos():
    changed = photos_of(LABELS, seed=0)
    rows = (CLASSES.folds == 1).nonzero().flatten()
    for part in (*changed.moments, *changed.layouts):
        part[rows] *= 3
    other = KnownClasses.fit(changed, LABELS, torch.arange(120), NUM_CLASSES)
    assert torch.equal(other.models[1](FRESH), CLASSES.models[1](FRESH))
    assert not torch.equal(other.models[0](FRESH), CLASSES.models[0](FRESH))


def test_a_class_of_two_photos_is_in_every_set():
    labels = torch.cat([torch.arange(60) % 2, torch.tensor([2, 2])])
    judgement = fitted(labels, seed=3)(FRESH)
    assert judgement.can_be_left_out(LEVEL).tolist() == [True, True, False]
    assert judgement.least_p_values[2].item() == pytest.approx(1 / 3 / (1 - NONE_SHARE))
    assert judgement.sets(LEVEL)[:, 2].all()
    # It has been seen, so that photos of it are not "none of them" for sure, but nothing says that they are.
    new = fitted(labels, seed=3)(NEW)
    assert new.none_of_them(LEVEL).double().mean() > 0.8
    assert new.sets(LEVEL)[:, 2].all()


def test_where_no_class_has_photos_enough_nothing_is_said_of_none():
    judgement = fitted(labels_of(12), seed=3)(NEW)
    assert not judgement.can_be_left_out(LEVEL).any()
    assert not judgement.none_of_them(LEVEL).any()


def test_a_class_can_be_left_out_from_so_many_different_photos_on():
    """(1 - NONE_SHARE) x 10 % take 16 of them, however many copies there are."""
    labels = torch.cat([torch.zeros(30), torch.ones(16), torch.full((30,), 2)]).long()
    assert fitted(labels, seed=4)(FRESH[:1]).can_be_left_out(LEVEL).all()
    pairs = torch.cat([torch.arange(30), 100 + torch.arange(16) // 2, 200 + torch.arange(30)])
    assert fitted(labels, seed=4, groups=pairs)(FRESH[:1]).can_be_left_out(LEVEL).tolist() == [True, False, True]


def test_one_class_alone_says_whether_a_photo_is_of_it():
    labels = torch.zeros(60, dtype=torch.int64)
    classes = fitted(labels, num_classes=1, seed=5)
    assert classes(NEW).none_of_them(LEVEL).double().mean() > 0.5
    same = classes(photos_of(labels, seed=6))
    assert same.none_of_them(LEVEL).double().mean() <= LEVEL + 0.05
    assert (same.most_like == 0).all()


def test_near_duplicates_are_left_out_together():
    groups = torch.arange(120) // 4
    folds = fitted(LABELS, seed=7, groups=groups).folds
    assert all(len(folds[groups == group].unique()) == 1 for group in range(30))
    assert CLASSES.folds.bincount().tolist() == [12] * 10
    assert all(CLASSES.folds[label == LABELS].bincount().tolist() == [4] * 10 for label in range(NUM_CLASSES))


@pytest.mark.parametrize("landmarks", [512, 40])
def test_evidence_is_that_of_the_process_by_its_formulas(landmarks, monkeypatch):
    monkeypatch.setattr(class_evidence, "NUM_LANDMARKS", landmarks)
    generator = torch.Generator().manual_seed(0)
    evidence = ClassEvidence.fit(photos_of(LABELS, seed=0), LABELS, NUM_CLASSES, 20, generator)
    points, asked = evidence.points.double(), evidence.coordinates(FRESH).double()
    kernel = torch.exp(-torch.cdist(points, points).square())
    across = torch.exp(-torch.cdist(asked, points).square())
    # The points are in random order, and their own photos lie on them.
    own = torch.cdist(points, evidence.coordinates(photos_of(LABELS, seed=0)).double()).argmin(dim=1)
    targets = torch.nn.functional.one_hot(LABELS[own], NUM_CLASSES).double()
    noise = NOISE * torch.eye(len(points))
    mean = across @ torch.linalg.inv(kernel + noise) @ targets
    few, of_few = kernel[:, :landmarks], kernel[:landmarks, :landmarks]
    variance = 1 + NOISE - (across[:, :landmarks] @ torch.linalg.pinv(of_few) * across[:, :landmarks]).sum(dim=1)
    spread = torch.linalg.inv(few.T @ few + NOISE * of_few)
    variance += NOISE * (across[:, :landmarks] @ spread * across[:, :landmarks]).sum(dim=1)
    torch.testing.assert_close(evidence(FRESH), mean / variance.sqrt()[:, None], rtol=1e-3, atol=1e-3)
    assert torch.pdist(points).square().median().item() == pytest.approx(KERNEL_RATE, rel=0.05)


def test_coordinates_have_whitened_parts_of_equal_weight():
    generator = torch.Generator().manual_seed(0)
    photos = photos_of(LABELS, seed=0)
    coordinates = ClassEvidence.fit(photos, LABELS, NUM_CLASSES, 4, generator).coordinates
    points = coordinates(photos).double()
    assert points.shape == (120, 8)
    for part in points.split(4, dim=1):
        torch.testing.assert_close(part.square().sum(dim=1).mean(), points.square().sum(dim=1).mean() / 2)
        # Whitened but for the damping: the axes of noise vary almost as much as those that classes differ in.
        variances = part.var(dim=0, correction=0)
        assert variances.min() > 0.5 * variances.max()


def test_p_values_are_the_smaller_of_two_claims():
    judgement = CLASSES(FRESH)
    evidence = torch.stack([model(FRESH) for model in CLASSES.models])
    row, label = 4, 1
    others = [other for other in range(NUM_CLASSES) if other != label]
    as_strange = torch.zeros(2)
    for photo in range(120):
        theirs, ours = CLASSES.held_out[photo], evidence[CLASSES.folds[photo], row]
        as_strange[0] += bool(theirs.max() <= ours.max())
        if LABELS[photo] == label:
            margins = [each[label] - RIVAL_SHARE * each[others].max() for each in (theirs, ours)]
            as_strange[1] += bool(margins[0] <= margins[1])
    known, own = (1 + as_strange[0].item()) / 121, (1 + as_strange[1].item()) / 41
    assert judgement.known_p_values[row].item() == pytest.approx(known)
    expected = min(1, known / NONE_SHARE, own / (1 - NONE_SHARE))
    assert judgement.p_values[row, label].item() == pytest.approx(expected)


def test_classes_without_photos_and_photos_of_one_group_are_refused():
    with pytest.raises(ValueError, match="class 3 has no photo"):
        fitted(LABELS, seed=0, num_classes=4)
    with pytest.raises(ValueError, match="at least 2 different photos"):
        fitted(LABELS, seed=0, groups=torch.zeros(120, dtype=torch.int64))


@pytest.mark.parametrize("name", ["model.0.points", "model.2.weights", "model.1.projection.1", "held_out", "labels"])
def test_tensors_of_another_shape_or_none_are_refused(name):
    tensors = CLASSES.tensors()
    with pytest.raises(ValueError, match=name.split(".")[2 if "model" in name else 0]):
        KnownClasses.from_tensors({**tensors, name: tensors[name][..., None]})
    with pytest.raises((KeyError, ValueError)):
        KnownClasses.from_tensors({other: tensor for other, tensor in tensors.items() if other != name})


def test_labels_and_folds_with_a_gap_are_refused():
    for name in ("labels", "folds"):
        with pytest.raises(ValueError, match=f"the {name} are not numbered from 0 without a gap"):
            KnownClasses.from_tensors({**CLASSES.tensors(), name: CLASSES.tensors()[name] + 1})


def test_features_of_another_network_are_refused():
    longer = tuple(torch.cat([each, each], dim=1) for each in FRESH.moments)
    with pytest.raises(DataError, match="do not belong together"):
        CLASSES(PhotoFeatures(longer, FRESH.layouts, FRESH.patches))
