import numpy as np
import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from vae_ldm.losses.reconstruction import huber_error, l1_error, l2_error, ssim_error


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 2, 16, 20, generator=generator) * 2 - 1
    strength = torch.tensor([0.0, 0.05, 0.5]).view(-1, 1, 1, 1)
    return images + strength * torch.randn(images.shape, generator=generator), images


def ssim_by_hand(x, y):
    """Wang 2004 in NumPy, window by window: x and y [H, W] in [0, 1], borders reflected."""
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    x, y = np.pad(x, 5, mode="reflect"), np.pad(y, 5, mode="reflect")
    values = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            covariance = (window * (a - mean_a) * (b - mean_b)).sum()
            luminance = (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
            values.append(luminance * (2 * covariance + 0.03**2) / (var_a + var_b + 0.03**2))
    return np.mean(values)


def test_l1_is_the_mean_absolute_difference_of_each_picture(pair):
    reconstruction, images = (tensor.numpy() for tensor in pair)
    np.testing.assert_allclose(l1_error(*pair), np.abs(reconstruction - images).reshape(3, -1).mean(1), rtol=1e-5)


def test_l2_is_the_mean_squared_difference_of_each_picture(pair):
    reconstruction, images = (tensor.numpy() for tensor in pair)
    np.testing.assert_allclose(l2_error(*pair), ((reconstruction - images) ** 2).reshape(3, -1).mean(1), rtol=1e-5)


def test_huber_is_square_near_zero_and_straight_beyond_delta(pair):
    error = np.abs((pair[0] - pair[1]).numpy())
    expected = np.where(error < 0.1, error**2 / 2, 0.1 * (error - 0.05))
    assert (error < 0.1).any()
    assert (error > 0.1).any()
    np.testing.assert_allclose(huber_error(*pair, delta=0.1), expected.reshape(3, -1).mean(1), rtol=1e-5)


def test_ssim_error_is_one_minus_the_papers_ssim_of_each_picture(pair):
    reconstruction, images = (((tensor + 1) / 2).double().numpy() for tensor in pair)
    expected = [
        1 - np.mean([ssim_by_hand(a, b) for a, b in zip(x, y, strict=True)])
        for x, y in zip(reconstruction, images, strict=True)
    ]
    np.testing.assert_allclose(ssim_error(*pair), expected, atol=1e-4)
    assert expected[0] < 1e-9 < expected[1] < 0.1 < expected[2]


def test_ssim_error_and_its_gradient_are_those_of_torchmetrics():
    x, y = torch.rand(2, 3, 3, 24, 40, generator=torch.Generator().manual_seed(0))
    reference, own = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected = 1 - structural_similarity_index_measure(reference, y, data_range=1.0, reduction="none")
    found = ssim_error(2 * own - 1, 2 * y - 1)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    expected.sum().backward()
    found.sum().backward()
    torch.testing.assert_close(own.grad, reference.grad, atol=1e-7, rtol=1e-4)


def test_ssim_error_can_be_trained_with_after_a_validation():
    images = torch.rand(1, 1, 13, 17)
    with torch.inference_mode():
        ssim_error(images, images)
    ssim_error(images.requires_grad_(), torch.zeros_like(images)).sum().backward()


def test_ssim_error_does_not_lose_its_digits_under_autocast(pair):
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = ssim_error(*pair)
    torch.testing.assert_close(under_autocast, ssim_error(*pair))


@pytest.mark.parametrize("size", [(6, 6), (8, 8), (24, 40)])
def test_ssim_error_takes_small_and_oblong_pictures(size):
    images = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.testing.assert_close(ssim_error(images, images), torch.zeros(2), atol=1e-5, rtol=0)


@pytest.mark.parametrize("error", [l1_error, l2_error, lambda a, b: huber_error(a, b, delta=0.1), ssim_error])
def test_each_pictures_error_and_gradient_are_its_own(error, pair):
    reconstruction, images = pair
    reconstruction.requires_grad_()
    together = error(reconstruction, images)
    assert together.shape == (3,)
    torch.testing.assert_close(error(reconstruction[2:], images[2:]), together[2:])
    together[2].backward()
    assert reconstruction.grad[:2].abs().max() == 0
    assert reconstruction.grad[2].abs().max() > 0
    assert reconstruction.grad.isfinite().all()


@pytest.mark.parametrize("error", [l1_error, l2_error, lambda a, b: huber_error(a, b, delta=0.1), ssim_error])
def test_the_error_of_a_bfloat16_reconstruction_is_float32(error, pair):
    reconstruction, images = pair
    assert error(reconstruction.bfloat16(), images).dtype == torch.float32


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_ssim_is_exact_where_the_process_allows_less_for_products(monkeypatch, precision):
    """On a GPU that is TF32; here the products themselves are watched, and what they give is compared."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 24, 32, generator=generator) * 2 - 1
    noise = 0.1 * torch.randn(images.shape, generator=generator)

    def value_and_gradient() -> tuple[torch.Tensor, torch.Tensor]:
        reconstruction = (images + noise).requires_grad_()
        error = ssim_error(reconstruction, images)
        error.sum().backward()
        assert reconstruction.grad is not None
        return error.detach(), reconstruction.grad

    exact = value_and_gradient()
    during: list[str] = []
    product = torch.Tensor.__matmul__

    def watched(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        during.append(torch.get_float32_matmul_precision())
        return product(left, right)

    monkeypatch.setattr(torch.Tensor, "__matmul__", watched)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        found = value_and_gradient()
        assert ssim_error(images, images).abs().max() < 1e-6
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)
    assert set(during) == {"highest"}
    assert len(during) >= 4
    torch.testing.assert_close(found, exact)
