"""The filter filters: copies of training photos, mirrored ones too, and pictures of another class."""

import numpy as np
import pytest
import torch

from vae_ldm.desk.augment.candidate_filter import CandidateFilter, probe_facts, probe_in_words
from vae_ldm.evaluation.embedding import embed_pictures
from vae_ldm.evaluation.probe_classifier import ProbeClassifier


@pytest.fixture(scope="module")
def train(make_pictures):
    return make_pictures(160, seed=0)


@pytest.fixture(scope="module")
def make_filter(train, features, make_pictures):
    images, labels = train
    held_out, _ = make_pictures(60, seed=1)
    probe = ProbeClassifier.fit(images, labels, 4, features=features, seed=0, max_steps=200)
    embeddings = embed_pictures(features, images)

    def make(**settings):
        return CandidateFilter.fit(
            images, held_out, features=features, probe=probe, train_embeddings=embeddings, **settings
        )

    return make


def test_new_pictures_of_their_class_pass(make_filter, make_pictures):
    pictures, labels = make_pictures(60, seed=2)
    judged = make_filter()(pictures, torch.from_numpy(labels))
    assert judged.keep.float().mean() > 0.85
    assert (judged.confidence[judged.keep] > 0.25).all()


def test_copies_of_training_pictures_do_not_and_are_named(make_filter, train):
    images, labels = train
    copied = images[10:20].astype(int) + 3  # as a reconstruction would be
    mirrored = images[20:30, :, ::-1]
    pictures = np.concatenate([copied.clip(0, 255).astype(np.uint8), mirrored])
    judged = make_filter()(pictures, torch.from_numpy(labels[10:30]))
    assert judged.near_copy.all()
    assert not judged.keep.any()
    assert judged.nearest[:10].tolist() == list(range(10, 20))
    assert judged.pixel_distance.max() < 0.05


def test_pictures_of_another_class_do_not(make_filter, make_pictures):
    pictures, labels = make_pictures(40, seed=3)
    judged = make_filter()(pictures, torch.from_numpy((labels + 1) % 4))
    assert judged.off_class.float().mean() > 0.95
    assert judged.confidence.mean() < 0.1


def test_a_confidence_may_be_asked_for(make_filter, make_pictures):
    pictures, labels = make_pictures(40, seed=4)
    easy = make_filter(min_confidence=0.0)(pictures, torch.from_numpy(labels))
    least = easy.confidence.median().item() + 1e-6
    strict = make_filter(min_confidence=least)(pictures, torch.from_numpy(labels))
    assert strict.off_class.sum() > easy.off_class.sum()
    assert (strict.confidence[~strict.off_class] >= least).all()


def test_held_out_photos_that_are_training_photos_set_no_bar_and_are_counted(train, features, make_pictures):
    """As do photos that are there twice, they hid every copy before."""
    images, labels = (np.concatenate([part, part]) for part in train)
    held_out, held_out_labels = make_pictures(60, seed=1)
    held_out[:3] = images[:3]
    probe = ProbeClassifier.fit(images, labels, 4, features=features, seed=0, max_steps=60)
    passes = CandidateFilter.fit(
        images, held_out, features=features, probe=probe, train_embeddings=embed_pictures(features, images)
    )
    assert passes.num_duplicates == 3
    assert passes(images[10:30], torch.from_numpy(labels[10:30])).near_copy.all()
    fresh, fresh_labels = make_pictures(40, seed=2)
    assert passes(fresh, torch.from_numpy(fresh_labels)).near_copy.float().mean() < 0.1
    found = probe_facts(probe, held_out, held_out_labels)
    assert found["num_photos"] == 60
    assert f"is right on {100 * found['accuracy']:.1f} % of 60 real photos" in probe_in_words(found)
    assert probe_facts(probe, held_out[:0], held_out_labels[:0]) is None
    assert probe_in_words(None) == ""
