import pytest
import torch
from torch import nn

from vae_ldm.losses.adversarial import adaptive_weight, hinge_discriminator_loss, hinge_generator_loss


def logits(*rows):
    return torch.tensor(rows).view(len(rows), 1, 1, -1)


def test_the_hinge_of_the_discriminator_by_hand():
    real = logits([2.0, 0.5], [0.0, -1.0])
    fake = logits([-3.0, -0.5], [0.0, 1.0])
    # Picture 1: real (0 + .5) / 2, fake (0 + .5) / 2. Picture 2: real (1 + 2) / 2, fake (1 + 2) / 2.
    torch.testing.assert_close(hinge_discriminator_loss(real, fake), torch.tensor([0.25, 1.5]))


def test_a_discriminator_that_is_sure_enough_gets_no_gradient():
    real, fake = logits([1.5, 0.5]).requires_grad_(), logits([-1.5, -0.5]).requires_grad_()
    hinge_discriminator_loss(real, fake).sum().backward()
    assert real.grad.flatten().tolist() == [0.0, -0.25]
    assert fake.grad.flatten().tolist() == [0.0, 0.25]


def test_the_generator_wants_its_logits_high():
    fake = logits([1.0, 3.0], [-2.0, 0.0]).requires_grad_()
    loss = hinge_generator_loss(fake)
    torch.testing.assert_close(loss, torch.tensor([-2.0, 1.0]))
    loss.sum().backward()
    assert (fake.grad == -0.5).all()


def toy():
    """A linear decoder y = W x whose two losses have gradients a x^T and b x^T."""
    layer = nn.Linear(2, 2, bias=False)
    output = layer(torch.tensor([3.0, 4.0]))
    return layer, output @ torch.tensor([6.0, 8.0]), output @ torch.tensor([0.0, 2.0])


def test_the_adaptive_weight_is_the_ratio_of_gradient_norms():
    layer, reconstruction_loss, generator_loss = toy()
    weight = adaptive_weight(reconstruction_loss, generator_loss, layer.weight)
    # |a x^T| = 10 * 5 and |b x^T| = 2 * 5.
    assert weight.item() == pytest.approx(5.0, rel=1e-5)
    assert not weight.requires_grad


def test_the_adaptive_weight_leaves_graph_and_gradients_alone():
    layer, reconstruction_loss, generator_loss = toy()
    weight = adaptive_weight(reconstruction_loss, generator_loss, layer.weight)
    assert layer.weight.grad is None
    (reconstruction_loss + weight * generator_loss).backward()
    expected = torch.tensor([6.0, 8.0 + 5 * 2.0]).outer(torch.tensor([3.0, 4.0]))
    torch.testing.assert_close(layer.weight.grad, expected)


def test_the_adaptive_weight_is_bounded_when_the_generator_has_no_gradient():
    layer, reconstruction_loss, generator_loss = toy()
    assert adaptive_weight(reconstruction_loss, 0 * generator_loss, layer.weight).item() == 1e4
    assert adaptive_weight(reconstruction_loss, generator_loss, layer.weight, max_weight=2.0).item() == 2.0
