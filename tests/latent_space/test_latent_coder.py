import json

import pytest
import torch

from vae_ldm.latent_space.entropy_coding import DamagedMessageError
from vae_ldm.latent_space.latent_coder import LatentCoder
from vae_ldm.latent_space.quantization import STEPS, UnquantizableError, dequantize, quantize


def latents(seed=0, shape=(4, 8, 6)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def coder():
    return LatentCoder.fit([latents(seed) for seed in range(8)], STEPS[::8])


@pytest.mark.parametrize("step", STEPS)
def test_quantised_latents_are_within_half_a_step(step):
    found = dequantize(quantize(latents(), step), step)
    assert (found - latents()).abs().max() <= step / 2 * (1 + 1e-5)


def test_steps_go_from_coarse_to_fine():
    assert list(STEPS) == sorted(STEPS, reverse=True)
    assert (STEPS[0], STEPS[-1]) == (2.0, 1 / 32)


@pytest.mark.parametrize("number", range(4))
def test_a_message_gives_back_what_was_quantised(coder, number):
    message = coder.encode(latents(50), number)
    assert coder.step_number(message) == number
    assert coder.shape(message) == (4, 8, 6)
    assert torch.equal(coder.decode(message), coder.quantized(latents(50), number))


def test_finer_steps_take_more_bytes(coder):
    sizes = [len(coder.encode(latents(50), number)) for number in range(4)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def test_the_coder_survives_json(coder):
    again = LatentCoder.from_json(json.loads(json.dumps(coder.as_json())))
    assert again.steps == coder.steps
    assert again.encode(latents(50), 2) == coder.encode(latents(50), 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e9])
def test_latents_that_no_symbol_stands_for_are_refused(coder, value):
    wild = latents()
    wild[1, 2, 3] = value
    with pytest.raises(UnquantizableError):
        coder.encode(wild, 0)


def test_a_step_that_the_coder_has_not_is_damage(coder):
    with pytest.raises(DamagedMessageError, match="step"):
        coder.decode(b"\x09" + coder.encode(latents(), 0)[1:])
