import base64
import json
import zlib

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
    for size, factor in (((32, 24), 4), ((29, 21), 4), ((8, 6), 1), ((63, 48), None)):
        assert torch.equal(coder.decode(message, size, factor), coder.quantized(latents(50), number))


@pytest.mark.parametrize(("size", "factor"), [((33, 24), 4), ((28, 24), 4), ((24, 32), 4), ((8, 6), 4), ((8, 7), None)])
def test_a_message_of_another_picture_is_told(coder, size, factor):
    with pytest.raises(DamagedMessageError, match="8 x 6 latents are not those of a picture"):
        coder.decode(coder.encode(latents(50), 0), size, factor)


def test_finer_steps_take_more_bytes(coder):
    sizes = [len(coder.encode(latents(50), number)) for number in range(4)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def test_the_coder_survives_json(coder):
    again = LatentCoder.from_json(json.loads(json.dumps(coder.as_json())))
    assert again.steps == coder.steps
    assert again.encode(latents(50), 2) == coder.encode(latents(50), 2)


@pytest.mark.parametrize(
    "change",
    [{"steps": []}, {"steps": [1.0] * 300}, {"steps": [-1.0] * 4}, {"shapes": [[4, 10]]},
     {"shapes": [[0, 10], [0, 10, 8]]},
     {"shapes": [[2**20, 10], [2**20, 10, 8]]}, {"models": ""}, {"models": base64.b85encode(b"no zlib").decode()},
     {"models": base64.b85encode(zlib.compress(b"\xff" * 1440)).decode()}],
)  # fmt: skip
def test_json_of_no_coder_is_an_error_of_a_kind_that_is_caught(coder, change):
    with pytest.raises((ValueError, KeyError, TypeError, IndexError, zlib.error)):
        LatentCoder.from_json({**coder.as_json(), **change})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e9])
def test_latents_that_no_symbol_stands_for_are_refused(coder, value):
    wild = latents()
    wild[1, 2, 3] = value
    with pytest.raises(UnquantizableError):
        coder.encode(wild, 0)


def test_a_step_that_the_coder_has_not_is_damage(coder):
    with pytest.raises(DamagedMessageError, match="step"):
        coder.decode(b"\x09" + coder.encode(latents(), 0)[1:], (32, 24), 4)
