"""Scores: by hand, beside each other, and the same after a visit to disk."""

from dataclasses import replace

import pytest
import torch

from vae_ldm.latent_space.novelty import (
    SINGLE_SCORES,
    Combination,
    Mahalanobis,
    Observations,
    Scorers,
    held_out_scores,
)


def vectors(count, dim, generator, shift):
    """Near a plane through the origin, the same for every call of one dim; `shift` leads away from it."""
    plane = torch.randn(2, dim, generator=torch.Generator().manual_seed(dim))
    noise = 0.3 * torch.randn(count, dim, generator=generator)
    return torch.randn(count, 2, generator=generator) @ plane + noise + shift


def observe(count, *, shift=0.0, error=0.01, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Observations(
        {
            "latents": vectors(count, 6, generator, shift),
            "backbone": 50 * vectors(count, 10, generator, shift),
        },
        torch.randn(count, 9, 4, generator=generator) + shift,
        vectors(count, 12, generator, shift),
        error * (1 + 0.1 * torch.rand(count, generator=generator)),
        20 + torch.randn(count, generator=generator),
    )


def fit(seen):
    return Scorers.fit(seen, num_pixels=100)


def test_mahalanobis_by_hand():
    # Two axes of variance 4 and 1, measured exactly; with this many vectors nothing is shrunk.
    corners = torch.tensor([[2.0, 1.0], [2.0, -1.0], [-2.0, 1.0], [-2.0, -1.0]]).repeat(100_000, 1) + 5
    distances = Mahalanobis.fit(corners)(torch.tensor([[5.0, 5.0], [9.0, 5.0], [5.0, 9.0], [7.0, 6.0]]))
    torch.testing.assert_close(distances, torch.tensor([0.0, 2.0, 4.0, 2**0.5]) / 2**0.5, atol=1e-3, rtol=0)


def test_mahalanobis_of_fewer_vectors_than_axes_is_shrunk_and_finite():
    generator = torch.Generator().manual_seed(0)
    known, fresh = torch.randn(30, 200, generator=generator), torch.randn(30, 200, generator=generator)
    fitted = Mahalanobis.fit(known)
    # Of pure noise the identity is the best estimate, and held-out vectors lie nearly as near as those fitted on.
    assert 1 < fitted(fresh).mean() / fitted(known).mean() < 1.5
    known[:, 7] = 3.0
    assert Mahalanobis.fit(known)(fresh).isfinite().all()


def test_the_shrinkage_is_ledoit_and_wolfs():
    # Their estimator written out vector by vector.
    vectors = torch.tensor([[0.0, 1.0], [1.0, 3.0], [2.0, 2.0], [4.0, 9.0], [5.0, 5.0]]).double()
    fitted = Mahalanobis.fit(vectors)
    covariance = torch.linalg.inv(fitted.whitener.T @ fitted.whitener)
    centered = vectors - vectors.mean(dim=0)
    sample = centered.T @ centered / 5
    scale = sample.trace() / 2
    target = scale * torch.eye(2, dtype=torch.float64)
    noise = sum((torch.outer(row, row) - sample).square().sum() for row in centered) / 25
    shrinkage = noise / (sample - target).square().sum()
    assert 0 < shrinkage < 1
    torch.testing.assert_close(covariance, (1 - shrinkage) * sample + shrinkage * target, rtol=1e-4, atol=1e-4)


def test_the_elbo_by_hand():
    seen = observe(40)
    scorers = fit(seen)
    variance = seen.squared_error.double().mean()
    torch.testing.assert_close(scorers.noise_variance, variance)
    expected = (seen.squared_error / variance + (2 * torch.pi * variance).log()) / 2 + seen.kl / 100
    torch.testing.assert_close(scorers(seen)[:, SINGLE_SCORES.index("elbo")], expected.double())
    reconstruction = scorers(seen)[:, SINGLE_SCORES.index("reconstruction")]
    torch.testing.assert_close(reconstruction, seen.squared_error.double().sqrt())


@pytest.mark.parametrize("name", SINGLE_SCORES)
def test_every_score_is_higher_for_photos_of_another_kind(name):
    known = observe(60)
    column = SINGLE_SCORES.index(name)
    scorers = fit(known)
    usual, strange = scorers(observe(40, seed=1)), scorers(observe(40, shift=6.0, error=0.05, seed=2))
    assert strange[:, column].median() > usual[:, column].quantile(0.9)


def test_each_part_counts_whatever_its_unit():
    known = observe(60)
    grown = replace(known, vectors={**known.vectors, "latents": 1e4 * known.vectors["latents"]})
    torch.testing.assert_close(fit(grown)(grown), fit(known)(known), rtol=1e-3, atol=1e-3)


def test_held_out_scores_are_as_those_of_fresh_photos_and_not_of_known_ones():
    known, fresh = observe(100), observe(100, seed=1)
    held_out = held_out_scores(known, num_pixels=100).mean(dim=0)
    scorers = fit(known)
    knn = SINGLE_SCORES.index("knn")
    assert held_out[knn] == pytest.approx(scorers(fresh)[:, knn].mean().item(), rel=0.15)
    assert scorers(known)[:, knn].mean() < 0.95 * held_out[knn]


def test_pixels_are_compared_along_the_axes_on_which_usual_photos_vary():
    # Usual photos vary much in brightness and little in one pixel: as far off in the second is stranger.
    generator = torch.Generator().manual_seed(0)
    brightness = torch.randn(200, 1, generator=generator) @ torch.ones(1, 6)
    known = replace(observe(200), thumbnails=brightness + 0.2 * torch.randn(200, 6, generator=generator))
    brighter, spotted = known.thumbnails.mean(dim=0) + 0.5, known.thumbnails.mean(dim=0).clone()
    spotted[2] += 0.5 * 6**0.5
    asked = replace(observe(2), thumbnails=torch.stack([brighter, spotted]))
    found = fit(known)(asked)[:, SINGLE_SCORES.index("pixels")]
    assert found[1] > 2 * found[0]


def test_the_combination_is_the_strangest_of_four_and_leaves_reconstruction_out():
    held_out = torch.tensor([[1.0, 10.0, 0.1, 5.0, 1.0, 1.0], [3.0, 30.0, 0.3, 7.0, 2.0, 2.0]]).double()
    usual = torch.tensor([2.0, 20.0, 0.2, 6.0, 1.5, 1.5]).double()
    asked = usual.repeat(4, 1)
    asked[1, 0] += 4  # four of its deviations
    asked[2, 3] += 2
    asked[3, 4] += 9  # reconstruction
    combined = Combination.fit(held_out)(asked)
    torch.testing.assert_close(combined, torch.tensor([0.0, 4.0, 2.0, 0.0]).double())


def test_scorers_survive_the_disk():
    known = observe(30)
    scorers = fit(known)
    again = Scorers.from_tensors("both", scorers.tensors(), num_pixels=100)
    assert torch.equal(again(known), scorers(known))


def test_photos_one_by_one_score_as_together():
    known, fresh = observe(30), observe(5, seed=1)
    scorers = fit(known)
    alone = torch.cat([scorers(fresh[torch.tensor([row])]) for row in range(5)])
    torch.testing.assert_close(alone, scorers(fresh), rtol=1e-4, atol=1e-4)
