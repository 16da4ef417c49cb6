import numpy as np
import pytest
import torch

from vae_ldm.lesson.layers import Adam, Chain, Dense, Parameter, Relu, Sigmoid, central_differences, relative_error


def _rng(seed=0):
    return np.random.default_rng(seed)


LAYERS = {
    "dense": lambda rng: Dense(4, 3, rng),
    "relu": lambda rng: Relu(),
    "sigmoid": lambda rng: Sigmoid(),
    "chain": lambda rng: Chain(Dense(4, 8, rng), Relu(), Chain(Dense(8, 3, rng), Sigmoid())),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_gradient_agrees_with_central_differences(name):
    rng = _rng()
    layer = LAYERS[name](rng)
    inputs = rng.standard_normal((5, 4))
    for parameter in layer.parameters():
        parameter.value += 0.1 * rng.standard_normal(parameter.value.shape)
    # A loss that weighs every output differently, so that no mix-up of outputs goes unseen.
    weights = rng.standard_normal(layer.forward(inputs).shape)

    def loss():
        return float((weights * layer.forward(inputs)).sum())

    layer.forward(inputs)
    found = layer.backward(weights)
    assert relative_error(found, central_differences(loss, inputs)) < 1e-6
    assert len(layer.parameters()) == {"dense": 2, "chain": 4}.get(name, 0)
    for parameter in layer.parameters():
        layer.forward(inputs)
        layer.backward(weights)
        assert relative_error(parameter.gradient, central_differences(loss, parameter.value)) < 1e-6


def test_central_differences_leave_the_values_as_they_were():
    values = _rng().standard_normal((2, 3))
    before = values.copy()
    gradient = central_differences(lambda: float((values**3).sum()), values)
    np.testing.assert_array_equal(values, before)
    np.testing.assert_allclose(gradient, 3 * before**2, rtol=1e-6)


def test_relative_error_sees_a_wrong_sign_a_wrong_factor_and_nothing_at_all():
    gradient = _rng().standard_normal(10)
    assert relative_error(gradient, gradient) == 0
    assert relative_error(gradient, -gradient) == pytest.approx(1)
    assert relative_error(2 * gradient, gradient) == pytest.approx(1 / 3)
    assert relative_error(0 * gradient, gradient) == pytest.approx(1)
    assert relative_error(0 * gradient, 0 * gradient) == 0


def test_he_initialisation_keeps_the_mean_square_through_relus():
    rng = _rng()
    deep = Chain(*(layer for _ in range(5) for layer in (Dense(300, 300, rng), Relu())))
    inputs = rng.standard_normal((200, 300))
    # Before a ReLU the mean square is 2, after it 1, however deep.
    assert (deep.forward(inputs) ** 2).mean() == pytest.approx(1, rel=0.2)
    assert deep.layers[0].weight.value.std() == pytest.approx(np.sqrt(2 / 300), rel=0.02)


def test_sigmoid_does_not_overflow():
    with np.errstate(all="raise"):
        np.testing.assert_allclose(Sigmoid().forward(np.array([[-1e4, 0.0, 1e4]])), [[0, 0.5, 1]])


def test_adam_takes_the_steps_of_torch():
    rng = _rng()
    ours = [Parameter(rng.standard_normal(shape), np.zeros(shape)) for shape in ((3, 2), (4,))]
    theirs = [torch.tensor(parameter.value).clone().requires_grad_() for parameter in ours]
    adam, reference = Adam(ours), torch.optim.Adam(theirs, lr=0.1)
    for step in range(20):
        learning_rate = 0.1 / (1 + step)
        reference.param_groups[0]["lr"] = learning_rate
        for parameter, tensor in zip(ours, theirs, strict=True):
            parameter.gradient = rng.standard_normal(parameter.value.shape) + parameter.value
            tensor.grad = torch.tensor(parameter.gradient)
        adam.step(learning_rate)
        reference.step()
        for parameter, tensor in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(parameter.value, tensor.detach().numpy(), rtol=1e-9, atol=1e-12)


def test_a_layer_keeps_its_array_while_it_is_trained():
    layer = Dense(2, 2, _rng())
    array = layer.weight.value
    layer.forward(np.ones((1, 2)))
    layer.backward(np.ones((1, 2)))
    Adam(layer.parameters()).step(0.1)
    assert layer.weight.value is array
