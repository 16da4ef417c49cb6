"""The weights of least regret, number by number."""

import itertools
import math

import torch

from vae_ldm.latent_space.novelty_scores.combination import (
    OTHER_WEIGHTS,
    WEIGHTS,
    FamilyCombination,
    SoftMaximum,
    auroc,
)
from vae_ldm.latent_space.novelty_scores.families import RawScores


def share_of_pairs(usual, novel):
    pairs = [(1.0 if high > low else 0.5 if high == low else 0.0) for low in usual for high in novel]
    return sum(pairs) / len(pairs)


def test_auroc_counts_pairs():
    generator = torch.Generator().manual_seed(0)
    usual = torch.randint(6, (20, 3), generator=generator).double()  # with ties
    novel = torch.randint(3, 9, (11, 3), generator=generator).double()
    expected = [share_of_pairs(usual[:, column].tolist(), novel[:, column].tolist()) for column in range(3)]
    torch.testing.assert_close(auroc(usual, novel), torch.tensor(expected, dtype=torch.float64))


def test_the_weights_have_the_least_regret():
    """Of the main families first, then of the others beside them."""
    generator = torch.Generator().manual_seed(0)
    pairs = []
    for kind in range(3):
        shift = torch.zeros(6, dtype=torch.float64)
        shift[(0, 1, 4)[kind]] = 1.5
        draw = [torch.randn(size, 6, generator=generator, dtype=torch.float64) for size in (25, 12)]
        pairs.append((draw[0], draw[1] + shift))
    spread = [sum(usual[:, family].std(correction=0).item() for usual, _ in pairs) / 3 for family in range(6)]

    def combined(row, weights):
        # Fewer weights than families: the first families are all there are.
        terms = zip(weights, row, spread, strict=False)
        return math.log(sum(math.exp(1.5 * w * z / d) for w, z, d in terms if w))

    def regret(weights):
        found = []
        for usual, novel in pairs:
            best = max(share_of_pairs(usual[:, each].tolist(), novel[:, each].tolist()) for each in range(len(weights)))
            ours = [[combined(row, weights) for row in some.tolist()] for some in (usual, novel)]
            found.append(max(0.0, best - share_of_pairs(*ours)))
        return max(found) + sum(found) / 3 + 0.01 * sum(weights[4:])

    fitted = SoftMaximum.fit(pairs)
    main = fitted.weights.tolist()[:4]
    # A fifth of the candidates is enough to tell, and a formula in plain numbers is slow.
    candidates = [(1.0, *others) for others in itertools.product(WEIGHTS, repeat=3)][::5]
    assert regret(main) <= min(map(regret, candidates)) + 1e-9
    assert (
        regret(fitted.weights.tolist())
        <= min(regret((*main, *other)) for other in itertools.product(*OTHER_WEIGHTS)) + 1e-9
    )
    assert fitted.weights[4] > 0
    torch.testing.assert_close(fitted.deviations, torch.tensor(spread, dtype=torch.float64))
    row = pairs[0][1][:1]
    assert math.isclose(fitted(row).item(), combined(row[0].tolist(), fitted.weights.tolist()), rel_tol=1e-9)


def raw_scores(count, generator, shift=0.0, family=None):
    scores = [torch.rand(count, columns, generator=generator) + 0.1 for columns in (2, 3, 2, 4, 1, 9)]
    scores.append(torch.rand(count, 9, 4, generator=generator))
    if family is not None:
        scores[family] = scores[family] + shift
    return RawScores(*scores)


def test_a_family_that_sees_the_damage_is_followed_and_good_photos_lie_at_0():
    generator = torch.Generator().manual_seed(0)
    good = raw_scores(60, generator)
    made, kinds = raw_scores(40, generator, 0.5, family=1), torch.arange(40) % 4
    fitted = FamilyCombination.fit(good, made, kinds, torch.ones(4, dtype=torch.bool))
    assert fitted.soft_maximum.weights[1] > fitted.soft_maximum.weights[[2, 3]].max()
    assert abs(fitted(good).mean()) < 1e-9
    assert abs(fitted(good).std(correction=0) - 1) < 1e-9
    assert fitted(made).mean() > 1


def test_directions_of_a_kind_are_not_trusted_by_what_they_were_fitted_on():
    """The direction of each kind sees this kind alone: for a kind left out, directions are of no use."""
    generator = torch.Generator().manual_seed(0)
    good, made, kinds = raw_scores(80, generator), raw_scores(120, generator), torch.arange(120) % 4
    made.directions[torch.arange(120), kinds] += 2
    fitted = FamilyCombination.fit(good, made, kinds, torch.ones(4, dtype=torch.bool))
    assert auroc(good.directions.sum(dim=1, keepdim=True), made.directions.sum(dim=1, keepdim=True)).item() > 0.95
    made.directions[torch.arange(120), kinds] = 0.1 + torch.rand(120, generator=generator)
    without = FamilyCombination.fit(good, made, kinds, torch.ones(4, dtype=torch.bool))
    assert torch.equal(fitted.soft_maximum.weights, without.soft_maximum.weights)


def test_a_kind_that_does_not_count_changes_nothing():
    generator = torch.Generator().manual_seed(0)
    good, made, kinds = raw_scores(30, generator), raw_scores(40, generator, 0.3, family=0), torch.arange(40) % 4
    counted = torch.tensor([True, True, False, True])
    first = FamilyCombination.fit(good, made, kinds, counted)
    made.moments[kinds == 2] += 5
    made.directions[:, 2] += 5
    second = FamilyCombination.fit(good, made, kinds, counted)
    assert all(torch.equal(first.tensors()[name], tensor) for name, tensor in second.tensors().items())


def test_without_made_damage_all_families_weigh_the_same():
    generator = torch.Generator().manual_seed(0)
    none = raw_scores(0, generator)
    fitted = FamilyCombination.fit(
        raw_scores(30, generator), none, torch.zeros(0, dtype=torch.int64), torch.ones(4, dtype=torch.bool)
    )
    assert fitted.soft_maximum.weights.tolist() == [1, 1, 1, 1, 1, 0]


def test_a_photo_that_is_too_smooth_is_told_by_its_closeness():
    """Its places and the nearest photos are nearer than those of any good photo, and no other score sees it."""
    generator = torch.Generator().manual_seed(0)
    good, made, kinds = raw_scores(80, generator), raw_scores(80, generator), torch.arange(80) % 4
    for scores in (made.placed, made.patches):
        scores[kinds < 2] *= 0.3
    everything = torch.ones(4, dtype=torch.bool)
    fitted = FamilyCombination.fit(good, made, kinds, everything)
    assert fitted.soft_maximum.weights[-1] == 0.5
    smooth, fresh = raw_scores(60, generator), raw_scores(60, generator)
    for scores in (smooth.placed, smooth.patches):
        scores *= 0.3
    assert auroc(fitted.families(fresh)[:, 1:3], fitted.families(smooth)[:, 1:3]).max() < 0.1
    assert auroc(fitted(fresh)[:, None], fitted(smooth)[:, None]).item() > 0.6
