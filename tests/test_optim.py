"""Optimisers by hand; test_torch_parity.py compares them with PyTorch's, step by step."""

import numpy as np
import pytest

from tasnet_np.optim import SGD, Adam, HalveOnPlateau, clip_gradients


def test_sgd_with_momentum_by_hand():
    theta = {"w": np.array([1.0])}
    optimizer = SGD(theta, learning_rate=0.1, momentum=0.5)
    optimizer.step({"w": np.array([2.0])})  # v = 2
    np.testing.assert_allclose(theta["w"], 0.8)
    optimizer.step({"w": np.array([4.0])})  # v = 1 + 4
    np.testing.assert_allclose(theta["w"], 0.3)


def test_first_step_of_adam_is_the_learning_rate_whatever_the_gradient():
    """mhat = g and vhat = g^2 after the bias correction, so the step is learning_rate * sign(g)."""
    theta = {"w": np.zeros(3)}
    Adam(theta, learning_rate=0.01).step({"w": np.array([1e-3, -1.0, 1e3])})
    np.testing.assert_allclose(theta["w"], [-0.01, 0.01, -0.01], rtol=1e-4)


def test_clipping_scales_to_the_norm_and_leaves_small_gradients_alone():
    grads = {"a": np.array([3.0, 0.0]), "b": np.array([[4.0]])}
    assert clip_gradients(grads, 10) == 5
    np.testing.assert_array_equal(grads["a"], [3, 0])
    assert clip_gradients(grads, 1) == 5
    np.testing.assert_allclose(grads["a"], [0.6, 0])
    np.testing.assert_allclose(grads["b"], [[0.8]])


def test_halving_on_a_plateau():
    optimizer = SGD({}, learning_rate=1.0)
    schedule = HalveOnPlateau(optimizer, patience=1, minimum=0.3)
    rates = []
    for loss in [5, 4, 4, 4, 4, 4, 3, 3, 3]:
        schedule.step(loss)
        rates.append(optimizer.learning_rate)
    assert rates == [1, 1, 1, 0.5, 0.5, 0.3, 0.3, 0.3, 0.3]


@pytest.mark.parametrize("make", [lambda p: SGD(p, 0.1, momentum=0.9), lambda p: Adam(p, 0.1, weight_decay=0.01)])
def test_state_continues_with_the_same_bits(make):
    rng = np.random.default_rng(0)
    gradients = [{"w": rng.standard_normal(5)} for _ in range(6)]
    whole = {"w": np.ones(5)}
    optimizer = make(whole)
    for g in gradients:
        optimizer.step(g)

    first = {"w": np.ones(5)}
    optimizer = make(first)
    for g in gradients[:3]:
        optimizer.step(g)
    numbers, arrays = optimizer.state()
    second = {"w": first["w"].copy()}
    continued = make(second)
    continued.restore(numbers, {name: array.copy() for name, array in arrays.items()})
    for g in gradients[3:]:
        continued.step(g)
    np.testing.assert_array_equal(second["w"], whole["w"])
    assert continued.steps == 6
