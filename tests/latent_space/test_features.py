"""Feature spaces: whitened, of unit length, and the same after a visit to disk."""

from typing import get_args

import pytest
import torch

from vae_ldm.choices import FeatureKind
from vae_ldm.latent_space.features import FeatureSpace, Whitening, parts_of, pool_latents


def correlated(count, dim, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=generator)
    return torch.randn(count, dim, generator=generator) @ mixing + 5


def test_whitened_vectors_have_zero_mean_and_unit_covariance():
    vectors = correlated(2000, 6)
    white = Whitening.fit(vectors)(vectors)
    torch.testing.assert_close(white.mean(dim=0), torch.zeros(6), atol=1e-4, rtol=0)
    # The damping of weak directions takes a share of at most a hundredth of the largest variance.
    assert (white.T.cov().diagonal() <= 1.001).all()
    off_diagonal = white.T.cov() - torch.diag(white.T.cov().diagonal())
    assert off_diagonal.abs().max() < 1e-3


def test_a_direction_without_variance_stays_finite():
    vectors = correlated(50, 4)
    vectors[:, 2] = 1.0
    assert Whitening.fit(vectors)(vectors).isfinite().all()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_photos_are_no_error(count):
    space = FeatureSpace.fit("latents", {"latents": correlated(count, 5)})
    assert space({"latents": correlated(4, 5)}).isfinite().all()


def test_a_space_of_one_photo_still_tells_photos_apart():
    space = FeatureSpace.fit("latents", {"latents": correlated(1, 5)})
    vectors = space({"latents": correlated(4, 5)})
    similarity = vectors @ vectors.T
    torch.testing.assert_close(similarity.diagonal(), torch.ones(4))
    assert (similarity.fill_diagonal_(0) < 0.999).all()


@pytest.mark.parametrize("kind", get_args(FeatureKind))
def test_vectors_have_unit_length_and_survive_the_disk(kind):
    raw = {"latents": correlated(40, 12), "backbone": correlated(40, 20, seed=1)}
    space = FeatureSpace.fit(kind, raw)
    vectors = space(raw)
    assert vectors.shape == (40, space.dim)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(40))
    again = FeatureSpace.from_tensors(kind, space.tensors())
    assert torch.equal(again(raw), vectors)


def test_of_both_parts_each_has_its_share():
    raw = {"latents": correlated(40, 12), "backbone": correlated(40, 20, seed=1)}
    both = FeatureSpace.fit("both", raw)(raw)
    latents, backbone = (FeatureSpace.fit(part, raw)(raw) for part in parts_of("both"))
    torch.testing.assert_close(both @ both.T, latents @ latents.T / 4 + 3 * backbone @ backbone.T / 4)


def test_pooled_latents_know_place_and_spread():
    latents = torch.zeros(2, 3, 8, 12)
    latents[0, 1, :4, :6] = 1.0
    pooled = pool_latents(latents, grid=2)
    assert pooled.shape == (2, 3 * 5)
    assert pooled[0, :12].tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]
    assert pooled[0, 13] > 0
    assert not pooled[1].any()


def test_latents_smaller_than_the_grid_are_taken_as_they_are():
    assert pool_latents(torch.randn(2, 3, 2, 5), grid=4).shape == (2, 3 * (2 * 4 + 1))
