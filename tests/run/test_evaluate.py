import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vae_ldm.data.pictures import Pictures
from vae_ldm.errors import VaeLdmError
from vae_ldm.files import write_json
from vae_ldm.hardware import device_name
from vae_ldm.models.text_encoder import new_tokenizer
from vae_ldm.run import evaluate as evaluating
from vae_ldm.run.evaluate import _unknown_words, _with_speed
from vae_ldm.run.folder import RunFolder
from vae_ldm.run.sample_prompts import SamplePrompts, largest_remainder, left_out_classes, sample_prompts, two_sets


@pytest.fixture
def asked(make_recipe):
    """The prompts of a model of `conditioning`, of pictures with these labels, each with a caption of its own."""

    def make(conditioning: str, train: list[int], held_out: list[int], names: list[str], count: int) -> SamplePrompts:
        recipe = make_recipe(diffusion__conditioning=conditioning)
        return sample_prompts(recipe, pictures(train, names), pictures(held_out, names), count)

    return make


def pictures(labels: list[int], class_names: list[str]) -> Pictures:
    captions = [f"caption {number}" for number in range(len(labels))]
    return Pictures(np.zeros((len(labels), 8, 8, 3), np.uint8), np.array(labels), captions, captions, class_names)


def test_a_model_of_classes_is_asked_for_each_in_turn(asked):
    found = asked("class", [0, 1, 0, 1], [0], ["cat", "dog"], 4)
    assert found.prompts == ["a photo of cat", "a photo of dog"] * 2
    assert found.labels.tolist() == [0, 1, 0, 1]
    assert found.balanced.tolist() == found.as_in_training.tolist() == [0, 1, 2, 3]


def test_a_model_of_captions_is_asked_with_captions_and_not_with_prompts_it_never_met(asked):
    """Three of four training pictures are cats: so are three of the four that are compared with them."""
    found = asked("caption", [0, 0, 0, 1], [0, 0, 0, 1], ["cat", "dog"], 5)
    assert found.prompts == ["caption 0", "caption 3", "caption 1", "caption 3", "caption 2"]
    assert found.labels.tolist() == [0, 1, 0, 1, 0]
    assert found.balanced.tolist() == [0, 1, 2, 3]
    assert found.as_in_training.tolist() == [0, 1, 2, 4]


def test_captions_without_classes_and_no_conditioning(asked):
    found = asked("caption", [-1, -1], [-1, -1], [], 5)
    assert sorted(found.prompts[:2]) == sorted(found.prompts[2:4]) == ["caption 0", "caption 1"]
    assert found.labels is None
    assert asked("none", [0, 1], [0, 1], ["cat", "dog"], 2).prompts == ["", ""]
    for one in (found, asked("none", [0], [0], ["cat"], 5)):
        assert one.balanced.tolist() == one.as_in_training.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("conditioning", ["class", "caption"])
def test_a_class_without_training_pictures_is_not_asked_for(asked, conditioning):
    names = ["cat", "horse", "dog"]
    found = asked(conditioning, [0, 2, 2], [0, 1, 2], names, 9)
    assert set(found.labels.tolist()) == {0, 2}
    assert not any("horse" in prompt or prompt == "caption 1" for prompt in found.prompts)
    assert left_out_classes(names, pictures([0, 2, 2], names)) == ["horse"]


@pytest.mark.parametrize("counts", [[500, 30, 8, 1], [100, 100, 100], [7, 7, 8], [1, 999], [5]])
@pytest.mark.parametrize("num_samples", [1, 3, 64, 256])
def test_two_sets_share_what_is_drawn(counts, num_samples):
    drawn, as_in_training, balanced = two_sets(np.array(counts), num_samples, seed=0)
    assert len(drawn) <= num_samples
    assert len(drawn) >= num_samples - 1, "what may be drawn is drawn"
    assert len(as_in_training) == len(balanced)
    found = np.bincount(drawn[as_in_training], minlength=len(counts))
    quotas = len(as_in_training) * np.array(counts) / sum(counts)
    assert (np.abs(found - quotas) < 1).all(), "by the largest remainder"
    turns = np.bincount(drawn[balanced], minlength=len(counts))
    assert turns.max() - turns.min() <= 1
    if len(set(counts)) == 1:
        assert len(balanced) == num_samples


def test_of_equal_remainders_chance_decides():
    counts = np.full(40, 3)
    one, other = (largest_remainder(counts, 20, seed) for seed in (0, 1))
    assert one.sum() == other.sum() == 20
    assert one.tolist() != other.tolist()
    assert one.tolist() == largest_remainder(counts, 20, 0).tolist()


def test_words_that_the_model_does_not_know_are_counted_and_said():
    tokenizer = new_tokenizer(["a red tin", "a blue can"], max_length=24)
    said = []
    session = SimpleNamespace(say=said.append)
    prompts = ["a red can", "a dented tin", "a rusty dented can", "a blue tin"]
    found = _unknown_words(session, SimpleNamespace(tokenizer=tokenizer), prompts)
    assert (found.value, found.num_images, found.better) == (50.0, 4, "lower")
    assert said == [
        'evaluation: 2 of 4 prompts have words that the model does not know ("dented", "rusty"); samples and agreement '
        "suffer"
    ]
    assert _unknown_words(session, SimpleNamespace(tokenizer=tokenizer), prompts[:1]).value == 0
    assert len(said) == 1


def test_a_stage_too_short_to_time_has_no_speed():
    assert _with_speed({"stage": "autoencoder", "seconds": 0.0, "num_images": 8}).get("images_per_second") is None
    assert _with_speed({"stage": "autoencoder", "seconds": 4.0, "num_images": 8})["images_per_second"] == 2


@pytest.mark.parametrize(("num_threads", "name"), [(1, "CPU, 1 thread"), (2, "CPU, 2 threads")])
def test_the_number_of_threads_agrees_with_its_noun(monkeypatch, num_threads, name):
    monkeypatch.setattr(torch, "get_num_threads", lambda: num_threads)
    assert device_name(torch.device("cpu")) == name


def test_measurements_of_more_samples_are_kept_unless_told(trained_run, tmp_path, monkeypatch):
    shutil.copytree(trained_run.path, tmp_path / "nano")
    run, asked = RunFolder(tmp_path / "nano"), []
    monkeypatch.setattr(evaluating, "_evaluate", lambda session, autoencoder, settings: asked.append(settings))
    evaluating.evaluate_run(run.path)
    write_json(run.metrics, {"timings": [{"stage": "sampling", "num_images": 256}]})
    for num_samples in (None, 4):  # the recipe's is 2
        with pytest.raises(VaeLdmError, match=r"are of 256 samples, and those of \d would replace them; measure as"):
            evaluating.evaluate_run(run.path, num_samples=num_samples)
    evaluating.evaluate_run(run.path, num_samples=256)
    evaluating.evaluate_run(run.path, num_samples=4, replace=True)
    run.metrics.write_text("{")
    evaluating.evaluate_run(run.path, num_samples=3)
    assert [settings.num_samples for settings in asked] == [2, 256, 4, 3]
