import numpy as np
import pytest
import torch

from vae_ldm.evaluation.small_classifiers import ProbeLearner, SmallCNNLearner


@pytest.fixture(scope="module", params=["small-cnn", "probe"])
def learner(request, make_pictures, features):
    pool, labels = make_pictures(120, seed=0)
    held_out, truth = make_pictures(80, seed=1)
    if request.param == "probe":
        made = ProbeLearner(pool, held_out, features=features, num_steps=80)
    else:
        made = SmallCNNLearner(pool, held_out, num_steps=80)
    return made, torch.from_numpy(labels), torch.from_numpy(truth)


def test_it_learns_what_it_is_shown(learner):
    train, labels, truth = learner
    rows = torch.arange(120)
    assert (train(rows, labels, 4, seed=0) == truth).float().mean() > 0.8
    assert (train(rows, (labels + 1) % 4, 4, seed=0) == truth).float().mean() < 0.2


def test_all_of_its_chance_follows_from_the_seed(learner):
    train, labels, _ = learner
    rows = torch.arange(0, 120, 15)  # few, so that chance shows
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (train(rows, labels[rows], 4, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first, other)


def test_a_rare_class_counts_as_much(learner):
    train, labels, truth = learner
    rare = (labels == 2).nonzero().flatten()[:4]
    rows = torch.cat([(labels != 2).nonzero().flatten(), rare])
    seen = train(rows, labels[rows], 4, seed=0)
    assert (seen[truth == 2] == 2).float().mean() > 0.3


def test_grey_pictures_of_any_proportion(make_pictures):
    pool, labels = make_pictures(40, seed=0, size=(24, 40), channels=1)
    learned = SmallCNNLearner(pool, pool, num_steps=3)(torch.arange(40), torch.from_numpy(labels), 4, seed=0)
    assert learned.shape == (40,)
    assert np.isin(learned.numpy(), range(4)).all()
