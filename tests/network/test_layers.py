"""Layers: an op and its arrays; the loss."""

import numpy as np
import pytest

from tasnet_np import UserError
from tasnet_np.compute.cpu import get_threads, set_threads
from tasnet_np.network.config import PRESETS
from tasnet_np.network.execution import ConvTasNet
from tasnet_np.network.gradcheck import reduced
from tasnet_np.network.layers import PATHS, NegativeSISNR, OpLayer, SpeechLoss
from tasnet_np.ops.gradcheck import numerical_gradient, relative_error
from tasnet_np.ops.stft_magnitude import stft_magnitude_forward
from tasnet_np.sound import metrics


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


@pytest.mark.parametrize("path", PATHS)
def test_the_loss_with_mixture_consistency_and_its_gradient(path):
    rng = np.random.default_rng(0)
    x, target = rng.standard_normal((2, 3, 2, 30))
    loss = NegativeSISNR((2, 1), path, mixture_weight=1)
    si_snr = [metrics.si_snr(x, target), metrics.si_snr(x.sum(1), target.sum(1))[:, None]]
    expected = -np.concatenate(si_snr, 1) @ [0.5, 0.25, 0.25]
    assert loss.forward(x, target) == pytest.approx(expected.mean(), rel=1e-6)
    gradient = loss.backward()
    numerical = numerical_gradient(lambda: loss.forward(x, target, keep=False), x)
    assert gradient.shape == x.shape and relative_error(gradient, numerical) < 1e-6


def test_mixture_consistency_asks_for_one_level():
    """Alone, each estimate may have any level; with the term, only levels that add up to the mixture are best."""
    target = np.random.default_rng(0).standard_normal((1, 2, 500))
    uneven = target * np.array([3.0, 1.0])[:, None]
    plain, consistent = NegativeSISNR(), NegativeSISNR(mixture_weight=1)
    assert plain.forward(uneven, target) == pytest.approx(plain.forward(target, target))
    assert consistent.forward(uneven, target) > consistent.forward(target, target) + 10
    assert consistent.forward(5 * target, target) == pytest.approx(consistent.forward(target, target))


# SI-SNR and the likeness of spectra.

RATE = 1000  # Hz: windows of 16, 32 and 64 samples


@pytest.mark.parametrize("path", ["reference", "ops"])
def test_the_speech_loss_is_the_sum_of_its_parts_and_so_is_its_gradient(path):
    x, target = np.random.default_rng(0).standard_normal((2, 2, 2, 90))
    si_snr = NegativeSISNR((3, 1), path, mixture_weight=0.5, eps=1e-3)
    loss = SpeechLoss(si_snr, RATE, (3, 1), stft_weight=2, path=path)
    likeness, _ = stft_magnitude_forward(x, target=target, windows=(16, 32, 64))
    expected = si_snr.forward(x, target) - 2 * (likeness @ [0.75, 0.25]).mean()
    assert loss.forward(x, target) == pytest.approx(expected)
    gradient = loss.backward()
    numerical = numerical_gradient(lambda: loss.forward(x, target, keep=False), x)
    assert relative_error(gradient, numerical) < 1e-5
    with pytest.raises(RuntimeError, match="needs a forward"):
        loss.backward()


def test_with_the_speech_loss_the_level_is_no_longer_open():
    target = np.random.default_rng(0).standard_normal((2, 2, 300))
    si_snr = NegativeSISNR()
    loss = SpeechLoss(si_snr, RATE)
    assert si_snr.forward(3 * target, target) == pytest.approx(si_snr.forward(target, target))
    assert loss.forward(3 * target, target) > loss.forward(target, target) + 5
    assert loss.forward(target / 3, target) > loss.forward(target, target) + 5


def test_a_gpu_is_refused_and_low_sample_rates_have_windows():
    loss = SpeechLoss(NegativeSISNR(), 100)
    with pytest.raises(UserError, match="on the CPU only: train with --device cpu, or with --stft-weight 0"):
        loss.to("cuda")
    assert loss.to("cpu") is loss
    x, target = np.random.default_rng(0).standard_normal((2, 1, 2, 50))
    assert np.isfinite(loss.forward(x, target))


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-9), (np.float32, 1e-4)])
def test_threads_with_losses_of_their_own_give_the_gradients_of_the_whole_batch(dtype, tolerance):
    model = ConvTasNet(reduced(PRESETS["small"]), dtype=dtype)
    loss = SpeechLoss(NegativeSISNR(mixture_weight=0.5), RATE)
    sources = np.random.default_rng(0).standard_normal((5, 2, 200)).astype(dtype)
    mixture, threads, runs = sources.sum(1), get_threads(), []
    try:
        for count in (1, 3):
            set_threads(count)
            value = model.gradients(loss, mixture, sources)
            runs.append((value, {name: gradient.copy() for name, gradient in model.grads.items()}))
    finally:
        set_threads(threads)
    assert runs[0][0] == runs[1][0]
    assert loss.forward(model.forward(mixture), sources) == pytest.approx(value, rel=tolerance)
    model.backward(loss.backward())
    for name, gradient in model.grads.items():
        assert gradient.dtype == dtype
        assert runs[0][1][name].tobytes() == runs[1][1][name].tobytes()
        assert relative_error(runs[0][1][name], gradient) < tolerance
