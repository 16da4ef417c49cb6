import json

import pytest
import torch

from vae_ldm.evaluation.measurement import Measurement, measured_mean, measured_share, share_beside


def test_it_survives_json() -> None:
    psnr = measured_mean(
        "psnr", torch.tensor([24.0, 26.0]), unit="dB", floors=torch.tensor([23.0, 24.8]), floor_name="PCA floor"
    )
    assert Measurement(**json.loads(json.dumps(psnr.as_dict()))) == psnr
    assert psnr.value == 25.0
    assert (psnr.split, psnr.num_images, psnr.better) == ("validation", 2, "higher")
    assert psnr.reference == pytest.approx(23.9)
    assert (psnr.difference_low, psnr.difference_high) == pytest.approx((1.0, 1.2), abs=1e-5)


def test_a_difference_is_paired_by_picture() -> None:
    """Photos differ by 5 dB, and each is .15 dB better than its own floor: apart no difference, paired a sure one."""
    generator = torch.Generator().manual_seed(0)
    floors = 24 + 5 * torch.randn(200, generator=generator)
    values = floors + 0.15 + 0.2 * torch.randn(200, generator=generator)
    psnr = measured_mean("psnr", values, unit="dB", floors=floors, floor_name="PCA floor")
    assert psnr.low < psnr.reference < psnr.high
    assert 0.1 < psnr.difference_low < 0.15 < psnr.difference_high < 0.2
    hits = torch.arange(100) < 60
    share = share_beside(hits, torch.arange(100) < 65, "the originals", "limit")
    assert (share.value, share.difference.high) == (pytest.approx(65), pytest.approx(-1, abs=1.1))
    assert share.difference.low == pytest.approx(-9, abs=2)


def test_one_picture_has_no_interval() -> None:
    one = torch.tensor([25.0])
    psnr = measured_mean("psnr", one, unit="dB", floors=one - 1, floor_name="PCA floor")
    assert [value for name, value in psnr.as_dict().items() if name.endswith(("low", "high"))] == [None] * 6
    hit = torch.tensor([True])
    share = share_beside(hit, hit, "the originals", "limit")
    assert share.difference is None
    assert share.interval == pytest.approx((20.65, 100), abs=0.01)  # Wilson's


def test_a_measurement_of_0_1_0_is_read() -> None:
    fields = {"name": "psnr", "value": 25.0, "unit": "dB", "split": "validation", "num_images": 2,
              "stage": "autoencoder", "better": "higher", "features": None, "reference": 23.9,
              "reference_name": "PCA floor", "low": 24.0, "high": 26.0}  # fmt: skip
    found = Measurement(**fields)
    assert (found.reference_kind, found.difference_low, found.reference_low) == (None, None, None)


def test_a_share_is_in_percent() -> None:
    hits = torch.tensor([True, True, True, False])
    share = measured_share("copies", hits, split="generated", stage="diffusion", better="lower", reference=None)
    assert (share.value, share.unit, share.num_images, share.reference_name) == (75.0, "%", 4, None)
    assert share.low is not None
    assert share.high is not None
    assert 0 < share.low < 75 < share.high < 100


def test_what_json_cannot_say_is_our_bug() -> None:
    with pytest.raises(AssertionError, match="psnr is inf"):
        Measurement("psnr", float("inf"), "dB", "validation", 3, "autoencoder")
