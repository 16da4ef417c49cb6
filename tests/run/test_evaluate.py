from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vae_ldm.data.pictures import Pictures
from vae_ldm.hardware import device_name
from vae_ldm.run.evaluate import _prompts, _with_speed


@pytest.fixture
def session(make_recipe):
    """A model of `conditioning`, and held-out pictures with these labels, each with a caption of its own."""

    def make(conditioning: str, labels: list[int], class_names: list[str]) -> SimpleNamespace:
        captions = [f"caption {number}" for number in range(len(labels))]
        images = np.zeros((len(labels), 8, 8, 3), np.uint8)
        pictures = Pictures(images, np.array(labels), captions, captions, class_names)
        recipe = make_recipe(diffusion__conditioning=conditioning)
        return SimpleNamespace(recipe=recipe, pictures=SimpleNamespace(validation=pictures))

    return make


def test_a_model_of_classes_is_asked_for_each_in_turn(session):
    prompts, labels = _prompts(session("class", [0, 1], ["cat", "dog"]), 3)
    assert prompts == ["a photo of cat", "a photo of dog", "a photo of cat"]
    assert labels is not None
    assert labels.tolist() == [0, 1, 0]


def test_a_model_of_captions_is_asked_with_captions_and_not_with_prompts_it_never_met(session):
    prompts, labels = _prompts(session("caption", [0, 0, 0, 1], ["cat", "dog"]), 5)
    assert prompts == ["caption 0", "caption 3", "caption 1", "caption 3", "caption 2"]
    assert labels is not None
    assert labels.tolist() == [0, 1, 0, 1, 0]


def test_captions_without_classes_and_no_conditioning(session):
    assert _prompts(session("caption", [-1, -1], []), 3) == (["caption 0", "caption 1", "caption 0"], None)
    assert _prompts(session("none", [0, 1], ["cat", "dog"]), 2) == (["", ""], None)


def test_a_stage_too_short_to_time_has_no_speed():
    assert _with_speed({"stage": "autoencoder", "seconds": 0.0, "num_images": 8}).get("images_per_second") is None
    assert _with_speed({"stage": "autoencoder", "seconds": 4.0, "num_images": 8})["images_per_second"] == 2


@pytest.mark.parametrize(("num_threads", "name"), [(1, "CPU, 1 thread"), (2, "CPU, 2 threads")])
def test_the_number_of_threads_agrees_with_its_noun(monkeypatch, num_threads, name):
    monkeypatch.setattr(torch, "get_num_threads", lambda: num_threads)
    assert device_name(torch.device("cpu")) == name
