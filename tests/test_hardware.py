"""Which precision a network is trained in where the recipe does not say, and on how many cores."""

import psutil
import pytest
import torch

from vae_ldm import hardware
from vae_ldm.hardware import fastest_precision, num_free_cores


@pytest.fixture
def on_a_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return lambda **found: monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)


@pytest.mark.parametrize(
    ("found", "autoencoder"),
    [
        ({"avx512_bf16": True, "cpu_name": "AMD EPYC"}, "bf16-mixed"),
        ({"avx512_bf16": False, "cpu_name": "AMD EPYC"}, "32-true"),
        # Has the instructions, and is a third slower with them.
        ({"avx512_bf16": True, "cpu_name": "Intel Xeon"}, "32-true"),
        ({}, "32-true"),
    ],
)
def test_bfloat16_only_where_it_was_measured_to_be_faster(on_a_cpu, found, autoencoder):
    on_a_cpu(**found)
    assert fastest_precision("autoencoder") == autoencoder
    assert fastest_precision("unet") == "32-true"


def test_a_torch_that_does_not_know_its_cpu_trains_in_float32(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert fastest_precision("autoencoder") == "32-true"


@pytest.mark.parametrize(
    ("busy", "own", "free"),
    [([3, 0, 2, 1], [0, 1, 2, 3], 4), ([100, 4, 97, 49], [0, 1, 2, 3], 2), ([100, 0], [0], 1), ([99, 99], [0, 1], 1)],
)
def test_cores_that_others_use_are_not_counted_as_free(monkeypatch, busy, own, free):
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval, percpu: busy)
    monkeypatch.setattr(hardware, "_own_cores", lambda: own)
    assert num_free_cores() == free
