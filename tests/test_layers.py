"""Layers: an op and its arrays; the loss."""

import numpy as np
import pytest

from tasnet_np.gradcheck import numerical_gradient, relative_error
from tasnet_np.layers import PATHS, NegativeSISNR, OpLayer


def _pointwise(path="ops"):
    rng = np.random.default_rng(0)
    params = {"w": rng.standard_normal((4, 3)), "b": rng.standard_normal(4)}
    return OpLayer("pointwise", params, path), rng.standard_normal((2, 3, 5))


@pytest.mark.parametrize("path", PATHS)
def test_gradients_are_set_not_accumulated(path):
    layer, x = _pointwise(path)
    dy = np.random.default_rng(1).standard_normal((2, 4, 5))
    layer.forward(x)
    dx = layer.backward(dy)
    once = {name: grad.copy() for name, grad in layer.grads.items()}
    layer.forward(x)
    np.testing.assert_array_equal(layer.backward(dy), dx)
    for name, param in layer.params.items():
        assert layer.grads[name].shape == param.shape
        np.testing.assert_array_equal(layer.grads[name], once[name])


def test_backward_needs_its_own_forward():
    layer, x = _pointwise()
    with pytest.raises(RuntimeError, match="needs a forward"):
        layer.backward(np.zeros((2, 4, 5)))
    layer.forward(x)
    layer.backward(np.zeros((2, 4, 5)))
    with pytest.raises(RuntimeError, match="needs a forward"):
        layer.backward(np.zeros((2, 4, 5)))
    layer.forward(x, keep=False)
    with pytest.raises(RuntimeError, match="needs a forward"):
        layer.backward(np.zeros((2, 4, 5)))


def test_a_join_returns_one_gradient_per_input():
    add = OpLayer("add")
    a, b = np.random.default_rng(0).standard_normal((2, 2, 3, 4))
    np.testing.assert_array_equal(add.forward(a, b), a + b)
    da, db = add.backward(a)
    np.testing.assert_array_equal(da, a)
    np.testing.assert_array_equal(db, a)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("weights", [(1, 1), (3, 1), (1, 0)])
def test_the_loss_and_its_gradient(path, weights):
    rng = np.random.default_rng(0)
    x, target = rng.standard_normal((2, 3, 2, 30))
    loss = NegativeSISNR(weights, path)

    def by_hand():
        total = 0
        for b in range(3):
            for s in range(2):
                e, t = x[b, s] - x[b, s].mean(), target[b, s] - target[b, s].mean()
                p = e @ t / (t @ t) * t
                snr = 10 * np.log10((p @ p) / ((e - p) @ (e - p)))
                total -= weights[s] / sum(weights) * snr / 3
        return total

    assert loss.forward(x, target) == pytest.approx(by_hand(), abs=1e-4)
    gradient = loss.backward()
    numerical = numerical_gradient(lambda: loss.forward(x, target), x)
    assert relative_error(gradient, numerical) < 1e-6


def test_loss_weights_that_make_no_sense():
    for weights in [(0, 0), (-1, 2), ()]:
        with pytest.raises(ValueError, match="weights"):
            NegativeSISNR(weights)
    with pytest.raises(ValueError, match="2 sources but 3 weights"):
        NegativeSISNR((1, 1, 1)).forward(np.zeros((1, 2, 9)), np.zeros((1, 2, 9)))
