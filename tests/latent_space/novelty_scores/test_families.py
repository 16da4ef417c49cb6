"""Every score beside the plain formula, and after a visit to disk."""

import math

import pytest
import torch
from safetensors.torch import load, save

from tests.support.noise_photos import NUM_KINDS, features_of, made_copies, noise_maps
from vae_ldm.errors import DataError
from vae_ldm.latent_space.novelty_scores.activity import ActivityScores
from vae_ldm.latent_space.novelty_scores.directions import DirectionScores
from vae_ldm.latent_space.novelty_scores.families import FamilyScales, RawScores, ScoreFamilies
from vae_ldm.latent_space.novelty_scores.leading_axes import LeadingAxes
from vae_ldm.latent_space.novelty_scores.maps import PlaceMaps
from vae_ldm.latent_space.novelty_scores.moments import MomentScores
from vae_ldm.latent_space.novelty_scores.patches import PatchScores
from vae_ldm.latent_space.novelty_scores.photo_features import MadeCopies, PhotoFeatures
from vae_ldm.latent_space.novelty_scores.place_directions import PlaceDirections
from vae_ldm.latent_space.novelty_scores.placed import PlacedScores

OPTIONS = {"num_kinds": NUM_KINDS, "num_axes": 6, "seed": 0}
KNOWN, FRESH = features_of(noise_maps(30, seed=0)), features_of(noise_maps(5, seed=1))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def shrunk_covariance(vectors):
    """Ledoit and Wolf (2004), lemmas 3.2 to 3.4, number by number."""
    exact = vectors.double()
    count, dim = exact.shape
    centered = exact - exact.mean(dim=0)
    sample = sum(torch.outer(row, row) for row in centered) / count
    target = sample.diagonal().mean() * torch.eye(dim, dtype=torch.float64)
    spread = (sample - target).square().sum()
    noise = sum((torch.outer(row, row) - sample).square().sum() for row in centered) / count**2
    share = min(noise / spread, torch.tensor(1.0))
    return exact.mean(dim=0), share * target + (1 - share) * sample


def distance(vectors, fitted_on):
    mean, covariance = shrunk_covariance(fitted_on)
    offsets = vectors.double() - mean
    return torch.stack([(row @ torch.linalg.inv(covariance) @ row).sqrt() for row in offsets]).float()


def test_moments_are_mahalanobis_distances():
    scores = MomentScores.fit(KNOWN)
    together = distance(torch.cat(FRESH.moments, dim=1), torch.cat(KNOWN.moments, dim=1))
    later_stages = distance(FRESH.moments[1], KNOWN.moments[1])
    torch.testing.assert_close(scores(FRESH), torch.stack([together, later_stages], dim=1), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(scores.whiten(FRESH.moments).norm(dim=1), together, rtol=1e-3, atol=1e-4)


def test_a_single_stage_is_scored_as_well():
    only = PhotoFeatures(KNOWN.moments[:1], KNOWN.layouts, KNOWN.patches)
    found = MomentScores.fit(only)(only)
    torch.testing.assert_close(found[:, 0], found[:, 1])


@pytest.mark.parametrize(("count", "dim"), [(30, 4), (12, 40)])
def test_leading_axes_are_those_of_a_singular_value_decomposition(count, dim):
    vectors = torch.randn(count, dim, generator=seeded()) + 3
    fitted = LeadingAxes.fit(vectors, 3, seeded())
    _, spread, axes = torch.linalg.svd((vectors - vectors.mean(dim=0)).double(), full_matrices=False)
    torch.testing.assert_close(fitted.deviations, (spread[:3] / count**0.5).float())
    torch.testing.assert_close((fitted.axes @ axes[:3].float().T).abs(), torch.eye(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(fitted(vectors).std(dim=0, correction=0), fitted.deviations)


def test_there_are_no_more_axes_than_vectors_or_numbers():
    assert len(LeadingAxes.fit(torch.randn(5, 9), 32, seeded()).axes) == 5
    assert len(LeadingAxes.fit(torch.randn(9, 5), 32, seeded()).axes) == 5
    assert LeadingAxes.fit(torch.ones(9, 5), 32, seeded())(torch.ones(2, 5)).isfinite().all()


def test_placed_scores_are_distances_to_the_nearest_good_photo_on_whitened_axes():
    expected = []
    for known, fresh in zip(KNOWN.layouts, FRESH.layouts, strict=True):
        mean = known.mean(dim=0)
        _, spread, axes = torch.linalg.svd((known - mean).double(), full_matrices=False)
        whiten = (axes[:7] / spread[:7, None] * len(known) ** 0.5).float()
        near = [[(whiten @ (one - other)).norm().item() for other in known] for one in fresh]
        expected.append([min(row) for row in near])
    found = PlacedScores.fit(KNOWN, 7, seeded())(FRESH)
    torch.testing.assert_close(found, torch.tensor(expected).T, rtol=1e-3, atol=1e-3)


def test_patch_scores_are_distances_to_the_nearest_place_of_good_photos():
    scores = PatchScores.fit(KNOWN, seeded())  # which keeps all places of so few photos
    places = KNOWN.patches.flatten(0, 1)
    assert len(scores.memory) == len(places)
    near = torch.tensor(
        [[(places - place).square().sum(dim=1).sqrt().min().item() for place in photo] for photo in FRESH.patches]
    )
    torch.testing.assert_close(scores.maps(FRESH), near, rtol=1e-3, atol=1e-3)
    strangest = near.topk(math.ceil(near.shape[1] / 50), dim=1).values.mean(dim=1)
    torch.testing.assert_close(scores(FRESH), torch.stack([strangest, near.mean(dim=1)], dim=1), rtol=1e-3, atol=1e-3)


def test_activity_is_the_distance_to_good_photos_in_two_numbers_a_stage():
    def numbers(photos):
        columns = []
        for stage in photos.moments:
            means, deviations = stage.double().chunk(2, dim=1)
            columns += [deviations.log().mean(dim=1), means.abs().mean(dim=1).log()]
        return torch.stack(columns, dim=1)

    mean, covariance = shrunk_covariance(numbers(KNOWN))
    whitener = torch.linalg.inv(torch.linalg.cholesky(covariance))
    known, fresh = ((numbers(each) - mean) @ whitener.T for each in (KNOWN, FRESH))
    near = torch.tensor([[sorted((row - other).norm().item() for other in known)[:5]] for row in fresh]).mean(dim=2)
    torch.testing.assert_close(ActivityScores.fit(KNOWN.moments)(FRESH.moments), near, rtol=1e-3, atol=1e-3)


def test_a_stage_that_never_responds_has_an_activity():
    still = [torch.zeros(9, 6)]
    assert ActivityScores.fit(still)(still).isfinite().all()


def test_the_memory_of_many_places_is_bounded():
    many = features_of(noise_maps(400, seed=2))
    assert len(PatchScores.fit(many, seeded()).memory) == 1024


def test_the_memory_is_drawn_from_all_photos():
    """With one place a photo the memory is full only if it has places of 1,024 photos."""
    count = 1100
    places = torch.arange(2.0 * count).view(count, 1, 2) ** 1.5
    photos = PhotoFeatures((torch.zeros(count, 2),), (torch.zeros(count, 2),), places)
    assert len(PatchScores.fit(photos, seeded()).memory) == 1024


def test_directions_go_both_ways_where_a_kind_does():
    offset = 0.05 * torch.randn(60, 5, generator=seeded())
    up, down, aside = torch.eye(5)[0], -torch.eye(5)[0], torch.eye(5)[1]
    steps = torch.cat([offset[:25] + up, offset[25:50] + down, offset[50:] + 2 * aside])
    scores = DirectionScores.fit(steps, torch.tensor([0] * 50 + [1] * 10), 3)
    found = scores(torch.stack([3 * up, 3 * down, 3 * aside, -3 * aside]))
    expected = torch.tensor([[9.0, 0, 0], [9.0, 0, 0], [0, 9.0, 0], [0, 0, 0]])
    torch.testing.assert_close(found, expected, atol=0.6, rtol=0)
    assert (found[:, 2] == 0).all()  # of a kind without copies nothing is known


def test_few_steps_of_a_kind_have_one_direction_and_none_have_none():
    steps = torch.randn(11, 6, generator=seeded())
    found = DirectionScores.fit(steps, torch.ones(11, dtype=torch.int64), 2).directions
    torch.testing.assert_close(found[1, 0], steps.mean(dim=0) / steps.mean(dim=0).norm())
    assert (found[0] == 0).all()
    assert (found[1, 1:] == 0).all()


def test_directions_are_the_largest_squared_positive_projections():
    steps = torch.randn(96, 6, generator=seeded())
    scores = DirectionScores.fit(steps, torch.arange(96) % 2, 2)
    whitened = torch.randn(4, 6, generator=seeded(1))
    expected = [
        [max(max(float(row @ each), 0.0) ** 2 for each in kind) for kind in scores.directions] for row in whitened
    ]
    torch.testing.assert_close(scores(whitened), torch.tensor(expected))
    assert torch.allclose(scores.directions.norm(dim=2), torch.ones(2, 4))


def test_directions_of_places_are_those_of_the_damaged_ones():
    maps = noise_maps(40, seed=3)
    made, good = made_copies(maps, torch.arange(40)), features_of(maps)
    directions = PlaceDirections.fit(good, made.with_steps(good).steps, made.kinds, NUM_KINDS, seeded())
    spotted = made[(made.kinds == 2).nonzero().flatten()]
    found = directions(spotted.features)[..., 2]
    assert (found.argmax(dim=1) == 2).double().mean() > 0.9
    # By the formula: whitened by the covariance of all places, then the largest product with a direction, squared.
    mean, covariance = shrunk_covariance(good.patches.flatten(0, 1))
    steps = (spotted.features.patches - good.patches)[:, 2].double()
    whitener = torch.linalg.inv(torch.linalg.cholesky(covariance))
    centers = DirectionScores.fit((steps @ whitener.T).float(), torch.zeros(40, dtype=torch.int64), 1).directions[0]
    place = spotted.features.patches[5, 2].double()
    expected = max(((whitener @ (place - mean)).float() @ center).item() for center in centers) ** 2
    assert found[5, 2].item() == pytest.approx(expected, rel=0.02)


def test_maps_are_the_soft_maximum_of_memory_and_directions():
    generator = seeded()
    good = RawScores(
        *(torch.rand(6, *size, generator=generator) for size in ((2,), (3,), (2,), (2,), (1,), (9,), (9, 2)))
    )
    maps = PlaceMaps.fit(good, torch.tensor([True, False]))
    distances, towards = good.maps.double(), good.place_directions[..., 0].double().sqrt()
    first, second = ((each - each.mean()) / each.std(correction=0) for each in (distances, towards))
    expected = ((1.5 * first).exp() + (1.5 * second).exp()).log() / 1.5
    torch.testing.assert_close(maps(good), expected)


def test_families_are_means_of_standardised_logarithms():
    generator = seeded()
    raw = RawScores(
        *(1 + torch.rand(20, *size, generator=generator) for size in ((2,), (3,), (2,), (4,), (1,), (9,), (9, 4)))
    )
    kinds = torch.tensor([True, False, True, True])
    found = FamilyScales.fit(raw.logarithms(kinds))(raw.logarithms(kinds))
    towards = raw.directions[:, [0, 2, 3]].double().mean(dim=1, keepdim=True)
    scored = (raw.moments, raw.placed, raw.patches, towards, raw.activity)
    for family, scores in enumerate(each.double() for each in scored):
        logs = scores.log()
        expected = ((logs - logs.mean(dim=0)) / logs.std(dim=0, correction=0)).mean(dim=1)
        torch.testing.assert_close(found[:, family], expected)
    torch.testing.assert_close(found[:, 5], -(found[:, 1] + found[:, 2]) / 2)


def test_scores_are_the_same_bit_for_bit_after_a_visit_to_disk():
    maps = noise_maps(30, seed=3)
    made = made_copies(maps, torch.arange(0, 30, 2))
    scores = ScoreFamilies.fit(features_of(maps), made, torch.ones(30, dtype=torch.bool), **OPTIONS)
    again = ScoreFamilies.from_tensors(load(save(scores.tensors())))
    for name in ("moments", "placed", "patches", "directions", "activity", "maps", "place_directions"):
        assert torch.equal(getattr(scores(FRESH), name), getattr(again(FRESH), name))


@pytest.mark.parametrize(
    "name",
    [
        "moments.whitener",
        "placed.1.references",
        "patches.memory",
        "directions.directions",
        "activity.references",
        "place_directions.offsets",
    ],
)
def test_tensors_of_another_shape_or_none_are_refused(name):
    maps = noise_maps(30, seed=3)
    made = made_copies(maps, torch.arange(0, 30, 2))
    tensors = ScoreFamilies.fit(features_of(maps), made, torch.ones(30, dtype=torch.bool), **OPTIONS).tensors()
    with pytest.raises(ValueError, match=name.rsplit(".")[-1]):
        ScoreFamilies.from_tensors({**tensors, name: tensors[name][..., None]})
    with pytest.raises(KeyError):
        ScoreFamilies.from_tensors({other: tensor for other, tensor in tensors.items() if other != name})


def test_a_whitener_that_is_no_triangle_is_refused():
    tensors = MomentScores.fit(KNOWN).tensors()
    with pytest.raises(ValueError, match=r"stage_whitener\.0 has 35 numbers"):
        MomentScores.from_tensors({**tensors, "stage_whitener.0": tensors["stage_whitener.0"][:-1]})


def test_features_of_another_network_are_refused():
    longer = tuple(torch.cat([each, each], dim=1) for each in FRESH.moments)
    with pytest.raises(DataError, match="do not belong together"):
        MomentScores.fit(KNOWN)(PhotoFeatures(longer, FRESH.layouts, FRESH.patches))
    with pytest.raises(DataError, match="do not belong together"):
        PatchScores.fit(KNOWN, seeded())(PhotoFeatures(FRESH.moments, FRESH.layouts, FRESH.patches[..., :3]))


def test_features_are_cut_joined_and_stored_in_half_precision():
    joined = PhotoFeatures.cat([KNOWN[:10], KNOWN[torch.arange(10, 30)]])
    assert len(joined) == 30
    for name, tensor in KNOWN.tensors().items():
        assert torch.equal(joined.tensors()[name], tensor)
        assert tensor.dtype == torch.float16
    again = PhotoFeatures.from_tensors(load(save(KNOWN.tensors())))
    assert all(torch.equal(again.tensors()[name], tensor) for name, tensor in KNOWN.tensors().items())
    # The scores take both precisions, and differ by no more than half precision does.
    torch.testing.assert_close(MomentScores.fit(KNOWN)(again), MomentScores.fit(KNOWN)(KNOWN), rtol=0.02, atol=0.02)


def test_copies_are_stored_and_chosen_by_all_that_they_show():
    made = made_copies(noise_maps(12, seed=0), torch.tensor([1, 4]))
    again = MadeCopies.from_tensors(load(save(made.tensors())))
    assert torch.equal(again.sources, made.sources)
    assert torch.equal(again.kinds, made.kinds)
    assert torch.equal(again.masks, made.masks)
    usable = torch.ones(12, dtype=torch.bool)
    usable[3] = False  # which lent its first place to the spots on photo 1
    assert made.sources[made.rows_of(usable)].tolist() == [[1, 1], [4, 4], [1, 1], [4, 4], [4, 6]]
