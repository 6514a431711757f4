"""Optimisers by hand; test_torch_parity.py compares them with PyTorch's, step by step."""

import functools

import numpy as np
import pytest

from tasnet_np.optimisation.optimisers import (
    SGD,
    Adam,
    HalveOnPlateau,
    WeightAverage,
    clip_gradients,
    warm_up_and_cosine,
)


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


@pytest.mark.parametrize(
    "make", [lambda p: SGD(p, 0.1, momentum=0.9), lambda p: Adam(p, 0.1, weight_decay=0.01)]
)
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


def test_warm_up_and_cosine():
    rate = functools.partial(warm_up_and_cosine, 0.5, floor=0.02)
    assert rate(0, 0.0) == 0.5
    assert rate(7, 0.5) == pytest.approx(0.5 * 0.51)
    assert rate(7, 1.0) == rate(7, 1.3) == pytest.approx(0.01)
    assert [rate(step, 0.0, warmup=4) for step in range(5)] == [0.125, 0.25, 0.375, 0.5, 0.5]
    falling = [rate(9, fraction) for fraction in np.linspace(0, 1, 50)]
    assert np.all(np.diff(falling) < 0)


def test_the_average_of_weights_is_the_sum_it_stands_for():
    theta = {"w": np.zeros(3, np.float32)}
    average = WeightAverage(theta, 0.5)
    values = [np.float32([1, 2, 3]) * k for k in range(1, 9)]
    expected = np.zeros(3)
    for t, value in enumerate(values, start=1):
        theta["w"][...] = value
        average.update()
        d = min(0.5, (1 + t) / (10 + t))
        expected = d * expected + (1 - d) * value
    assert average.average["w"] == pytest.approx(expected, rel=1e-6)
    before = theta["w"].copy()
    with average.applied():
        assert np.array_equal(theta["w"], average.average["w"])
    assert np.array_equal(theta["w"], before)
    updates, arrays = average.state()
    other = WeightAverage({"w": before.copy()}, 0.5)
    other.restore(updates, arrays)
    assert other.updates == 8 and np.array_equal(other.average["w"], average.average["w"])


def test_without_a_decay_there_is_no_average():
    theta = {"w": np.ones(2)}
    average = WeightAverage(theta, 0.0)
    average.update()
    with average.applied():
        assert np.array_equal(theta["w"], np.ones(2))
    assert average.state() == (1, {})
