import json

import pytest
import torch

from vae_ldm.evaluation.measurement import Measurement, measured_mean, measured_share


def test_it_survives_json() -> None:
    psnr = measured_mean("psnr", torch.tensor([24.0, 26.0]), unit="dB", reference=23.9, reference_name="PCA floor")
    assert Measurement(**json.loads(json.dumps(psnr.as_dict()))) == psnr
    assert psnr.value == 25.0
    assert (psnr.split, psnr.num_images, psnr.better) == ("validation", 2, "higher")


def test_a_share_is_in_percent_and_keeps_no_name_without_a_reference() -> None:
    hits = torch.tensor([True, True, True, False])
    share = measured_share(
        "copies", hits, split="generated", stage="diffusion", better="lower", reference=None, reference_name="x"
    )
    assert (share.value, share.unit, share.num_images, share.reference_name) == (75.0, "%", 4, None)
    assert share.low is not None
    assert share.high is not None
    assert 0 < share.low < 75 < share.high < 100


def test_what_json_cannot_say_is_our_bug() -> None:
    with pytest.raises(AssertionError, match="psnr is inf"):
        Measurement("psnr", float("inf"), "dB", "validation", 3, "autoencoder")
