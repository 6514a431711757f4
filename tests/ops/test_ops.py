"""Every op, every case of the table, both implementations, on the CPU."""

import ast
from pathlib import Path

import numpy as np
import pytest

from tasnet_np import ops
from tasnet_np.compute.cpu import get_threads, set_threads
from tasnet_np.ops import OPS, tcn_block_cpu
from tasnet_np.ops.cases import CASES
from tasnet_np.ops.gradcheck import TOLERANCE, check_gradients, check_op, relative_error, upstream
from tasnet_np.ops.norms import cumulative_layer_norm_backward_ref, global_layer_norm_backward_ref

FLOAT32 = 1e-5  # largest error of a float32 kernel, relative to the largest value
FLOAT32_SLOPE = 1e-4  # of PReLU's dalpha: one number, a long sum that may nearly cancel

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def test_every_file_and_every_op_has_a_row():
    in_files = {
        node.name.removesuffix("_forward")
        for path in Path(ops.__file__).parent.glob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.endswith("_forward") and node.name[0] != "_"
    }
    assert in_files == set(OPS) == {case.op.name for case in CASES}


@each_case
@pytest.mark.parametrize("path", ["reference", "ops"])
@pytest.mark.parametrize("seed", [0, 1])
def test_backward_is_the_derivative_of_forward(case, path, seed):
    assert check_op(case, path, seed) <= TOLERANCE


def outputs(y):
    """The outputs of an op as a tuple, be it one or several."""
    return y if isinstance(y, tuple) else (y,)


@each_case
def test_float32_kernels_match_the_float64_reference(case):
    arrays, settings = case.inputs(seed=2)
    arrays32, settings32 = case.inputs(seed=2, dtype=np.float32)
    before = [array.copy() for array in arrays32]

    expected = case.op.forward_ref(*arrays, **settings)
    y, cache = case.op.forward(*arrays32, **settings32)
    for actual, reference in zip(outputs(y), outputs(expected), strict=True):
        assert actual.dtype == np.float32
        assert relative_error(actual, reference) <= FLOAT32  # infinite if it is not finite

    dy = upstream(y, seed=3)
    expected = case.op.backward_ref(dy, *arrays, **settings)
    gradients = case.op.backward(dy, cache)
    assert isinstance(gradients, tuple)
    for gradient, reference, array, original in zip(gradients, expected, arrays32, before, strict=True):
        assert gradient.dtype == np.float32
        assert gradient.shape == array.shape
        assert relative_error(gradient, reference) <= (FLOAT32_SLOPE if array.size == 1 else FLOAT32)
        np.testing.assert_array_equal(array, original)


@each_case
def test_same_bits_on_any_number_of_threads(case):
    def run(threads):
        set_threads(threads)
        arrays, settings = case.inputs(seed=4, dtype=np.float32)
        y, cache = case.op.forward(*arrays, **settings)
        return [*outputs(y), *case.op.backward(upstream(y, seed=5), cache)]

    default = get_threads()
    try:
        results = [run(threads) for threads in (1, 2, 3)]
    finally:
        set_threads(default)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert a.tobytes() == b.tobytes()


@each_case
def test_strided_inputs_give_the_same_numbers(case):
    arrays, settings = case.inputs(seed=6)
    spread = [np.repeat(array, 2, axis=-1)[..., ::2] for array in arrays]
    y, _ = case.op.forward(*arrays, **settings)
    strided, _ = case.op.forward(*spread, **settings)
    for a, b in zip(outputs(strided), outputs(y), strict=True):
        assert relative_error(a, b) < 1e-12


# Planted bugs: each is a backward pass that somebody could have written. The check must catch them all.


def _with_gamma_of_one(dy, x, gamma, beta, *, eps=1e-8):
    dx, *rest = global_layer_norm_backward_ref(dy, x, np.ones_like(gamma), beta, eps=eps)
    return dx, *rest


def _global_norm(terms):
    """gLN's backward with only some of the terms of dx."""

    def backward(dy, x, gamma, beta, *, eps=1e-8):
        m, v = x.mean(axis=(1, 2), keepdims=True), x.var(axis=(1, 2), keepdims=True)
        r = 1 / np.sqrt(v + eps)
        xhat, g = (x - m) * r, gamma[:, None] * dy
        dx = g.copy()
        if "mean" in terms:
            dx -= g.mean(axis=(1, 2), keepdims=True)
        if "xhat" in terms:
            dx -= xhat * (g * xhat).mean(axis=(1, 2), keepdims=True)
        return r * dx, (dy * xhat).sum(axis=(0, 2)), dy.sum(axis=(0, 2))

    return backward


def _cumulative_norm_summing_the_past(dy, x, gamma, beta, *, eps=1e-8):
    flip = np.s_[..., ::-1]
    gradients = cumulative_layer_norm_backward_ref(dy, x, gamma, beta, eps=eps)
    wrong = cumulative_layer_norm_backward_ref(dy[flip], x[flip], gamma, beta, eps=eps)
    return wrong[0][flip], *gradients[1:]


def _depthwise(change):
    """depthwise's backward with something done to what it is given, for dx or for dw."""

    def backward(dy, x, w, b, *, dilation=1, lookahead=0):
        right = dict(dilation=dilation, lookahead=lookahead)
        dx, dw, db = OPS["depthwise"].backward_ref(dy, x, w, b, **right)
        if change == "dy reversed in dw":
            dw = OPS["depthwise"].backward_ref(dy[..., ::-1], x, w, b, **right)[1]
        if change == "kernel flipped in dx":
            dx = OPS["depthwise"].backward_ref(dy, x, w[:, ::-1], b, **right)[0]
        if change == "dx late by one frame":
            dx = np.roll(dx, 1, axis=-1)
        if change == "dilation ignored in dx":
            dx = OPS["depthwise"].backward_ref(dy, x, w, b, dilation=1, lookahead=min(lookahead, 2))[0]
        return dx, dw, db

    return backward


def _softmax_over_features(dy, x):
    y = OPS["softmax"].forward_ref(x)
    return (y * (dy - (dy * y).sum(axis=2, keepdims=True)),)


def _prelu_slope_from_all(dy, x, alpha):
    dx, _ = OPS["prelu"].backward_ref(dy, x, alpha)
    return dx, np.full_like(alpha, (dy * x).sum())


def _si_snr_without_residual_projection(dy, x, *, target):
    (dx,) = OPS["si_snr"].backward_ref(dy, x, target=target)
    return (dx + 1e-3 * np.abs(dx).max() * x,)


def _stft_magnitude(bug):
    """stft_magnitude's backward with one mistake."""

    def backward(dy, x, *, target, **settings):
        if bug == "another power":
            settings = settings | {"power": 0.29}
        (dx,) = OPS["stft_magnitude"].backward_ref(dy, x, target=target, **settings)
        if bug == "adds at 0 Hz":
            dx = dx + 1e-3 * np.abs(dx).max() * np.sign(x.sum(-1, keepdims=True))
        if bug == "forgets the level":
            dx = dx * np.sqrt(np.mean(target.sum(1) ** 2, axis=-1))[:, None, None]
        return (dx,)

    return backward


BUGS = {
    "gLN forgets gamma in dx": ("global_layer_norm", _with_gamma_of_one),
    "gLN drops xhat * mean(g * xhat)": ("global_layer_norm", _global_norm({"mean"})),
    "gLN drops mean(g)": ("global_layer_norm", _global_norm({"xhat"})),
    "cLN sums over the past": ("cumulative_layer_norm", _cumulative_norm_summing_the_past),
    "depthwise: dy reversed in dw": ("depthwise causal", _depthwise("dy reversed in dw")),
    "depthwise: kernel flipped in dx": ("depthwise causal", _depthwise("kernel flipped in dx")),
    "depthwise: dx late by one frame": ("depthwise causal", _depthwise("dx late by one frame")),
    "depthwise: dilation ignored in dx": ("depthwise centred", _depthwise("dilation ignored in dx")),
    "softmax sums over features": ("softmax", _softmax_over_features),
    "prelu: alpha collects positive x too": ("prelu", _prelu_slope_from_all),
    "si_snr: a thousandth along the estimate": ("si_snr", _si_snr_without_residual_projection),
    "stft_magnitude: a thousandth at 0 Hz": ("stft_magnitude", _stft_magnitude("adds at 0 Hz")),
    "stft_magnitude: forgets the level": ("stft_magnitude", _stft_magnitude("forgets the level")),
    "stft_magnitude: another power": ("stft_magnitude", _stft_magnitude("another power")),
}


@pytest.mark.parametrize("name", BUGS)
@pytest.mark.parametrize("seed", range(5))
def test_planted_bugs_are_caught(name, seed):
    case_name, buggy = BUGS[name]
    case = next(case for case in CASES if case.name == case_name)
    forward, _ = case.op.pair("reference")

    def backward(dy, cache):
        arrays, settings = cache
        return buggy(dy, *arrays, **settings)

    assert check_gradients(forward, backward, *case.inputs(seed), seed=seed) > 100 * TOLERANCE


def test_a_backward_that_gives_nan_is_caught():
    case = CASES[0]
    forward, right = case.op.pair()

    def backward(dy, cache):
        dx, dw = right(dy, cache)
        dw[0, 0] = np.nan
        return dx, dw

    assert check_gradients(forward, backward, *case.inputs()) == np.inf


# Silence.

NORMS = ["global_layer_norm", "cumulative_layer_norm", "channel_layer_norm"]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("path", ["reference", "ops"])
@pytest.mark.parametrize("silent_frames", [4, 9])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_norms_of_leading_silence_are_finite_in_both_directions(norm, path, silent_frames, dtype):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 5, 9)).astype(dtype)
    x[:, :, :silent_frames] = 0
    gamma, beta = (rng.standard_normal(5).astype(dtype) for _ in range(2))
    forward, backward = OPS[norm].pair(path)
    y, cache = forward(x, gamma, beta)
    assert np.isfinite(y).all()
    gradients = backward(rng.standard_normal(y.shape).astype(dtype), cache)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    if norm != "global_layer_norm":  # xhat = 0 there
        np.testing.assert_allclose(y[:, :, 0], np.tile(beta, (2, 1)), rtol=1e-6)


def test_cumulative_norm_is_the_papers_not_a_per_frame_one():
    """Eq. 12-14 by hand: frame 1 uses the mean and variance of frames 0 and 1, over all channels."""
    x = np.array([[[1.0, 2.0], [3.0, 6.0]]])  # (1, 2, 2)
    y, _ = ops.norms.cumulative_layer_norm_forward(x, np.ones(2), np.zeros(2))
    first = (x[0, :, 0] - 2) / np.sqrt(1 + 1e-8)
    second = (x[0, :, 1] - 3) / np.sqrt(3.5 + 1e-8)
    np.testing.assert_allclose(y[0], np.stack([first, second], axis=1), rtol=1e-12)


def test_cumulative_norm_keeps_its_variance_far_from_zero_mean():
    """Mean 3, deviation 0.01, 4000 frames: sums in float32 would lose the variance altogether."""
    x = (3 + 0.01 * np.random.default_rng(0).standard_normal((1, 8, 4000))).astype(np.float32)
    y, _ = ops.norms.cumulative_layer_norm_forward(x, np.ones(8, "f"), np.zeros(8, "f"))
    assert y[:, :, 100:].std() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("path", ["reference", "ops"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_si_snr_of_silence(path, dtype):
    rng = np.random.default_rng(0)
    x, target = rng.standard_normal((2, 4, 2, 50)).astype(dtype)
    target[0, 0] = 0  # silent target
    target[1, 1] = 0.1  # a constant is silent, too
    x[2, 0] = 0  # silent estimate
    x[3, 1] = target[3, 1] = 0  # both
    forward, backward = OPS["si_snr"].pair(path)
    y, cache = forward(x, target=target)
    (dx,) = backward(np.ones(y.shape, dtype), cache)
    assert np.isfinite(y).all() and np.isfinite(dx).all()
    assert y[0, 0] == y[1, 1] == y[3, 1] == 0
    assert y[2, 0] == pytest.approx(-80, abs=0.01)
    for silent in [(0, 0), (1, 1), (2, 0), (3, 1)]:
        assert not dx[silent].any()
    assert dx[0, 1].any() and dx[2, 1].any()


@pytest.mark.parametrize("path", ["reference", "ops"])
def test_si_snr_does_not_depend_on_level(path):
    rng = np.random.default_rng(0)
    target = rng.standard_normal((1, 2, 400))
    x = target + 0.3 * rng.standard_normal(target.shape)
    forward, _ = OPS["si_snr"].pair(path)
    expected, _ = forward(x, target=target)
    for quiet in (1e-3, 1e-6, 1e-9):
        for loud in (1, 1e3):
            y, _ = forward(quiet * x, target=loud * quiet * target)
            np.testing.assert_allclose(y, expected, atol=1e-6)
    y32, _ = forward((1e-6 * x).astype(np.float32), target=(1e-6 * target).astype(np.float32))
    np.testing.assert_allclose(y32, expected, atol=1e-4)


def test_si_snr_by_hand():
    """An estimate of s + a perpendicular n of a tenth of its energy: 10 dB; s itself: the bound, 80 dB."""
    s = np.array([1.0, -1.0, 1.0, -1.0])
    n = np.array([1.0, 1.0, -1.0, -1.0]) * np.sqrt(0.1)
    x = np.stack([s + n + 5, -2 * s])[None]
    y, _ = ops.si_snr.si_snr_forward(x, target=np.stack([s, s])[None])
    np.testing.assert_allclose(y, [[10, 80]], atol=1e-3)


# What compiled kernels would not notice themselves.


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda z: ops.depthwise.depthwise_forward(z(2, 3, 5), z(4, 3), z(4)), ValueError, "C = 3"),
        (
            lambda z: ops.depthwise.depthwise_forward(z(2, 3, 5), z(3, 3), z(3), lookahead=3),
            ValueError,
            "not 3",
        ),
        (
            lambda z: ops.depthwise.depthwise_forward(z(2, 3, 5), z(3, 3), z(3), dilation=0),
            ValueError,
            "dilation 0",
        ),
        (lambda z: ops.pointwise.pointwise_forward(z(3, 5), z(4, 3), z(4)), ValueError, "(B C T)"),
        (lambda z: ops.pointwise.pointwise_forward(z(2, 0, 5), z(4, 0), z(4)), ValueError, "no empty axis"),
        (
            lambda z: ops.pointwise.pointwise_forward(z(2, 3, 5), z(4, 3).astype("f"), z(4)),
            TypeError,
            "float32",
        ),
        (
            lambda z: ops.pointwise.pointwise_forward(z(2, 3, 5).astype(int), z(4, 3), z(4)),
            TypeError,
            "int64",
        ),
        (
            lambda z: ops.conv1d.conv1d_forward(z(2, 3), z(4, 5), stride=2),
            ValueError,
            "fewer than one window",
        ),
        (lambda z: ops.elementwise.add_forward(z(2, 3, 5), z(2, 3, 6)), ValueError, "one shape"),
        (lambda z: ops.elementwise.softmax_forward(z(2, 3, 5)), ValueError, "(B S C T)"),
        (lambda z: ops.si_snr.si_snr_forward(z(2, 2, 5), target=z(2, 2, 6)), ValueError, "n = 5"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(call, error, words):
    with pytest.raises(error) as caught:
        call(lambda *shape: np.zeros(shape))
    assert words in str(caught.value)


@pytest.mark.parametrize("dilation, lookahead", [(1, 0), (100, 0), (100, 130), (300, 250), (700, 0)])
@pytest.mark.parametrize("norm", ["global_layer_norm", "cumulative_layer_norm", "channel_layer_norm"])
def test_a_block_is_its_reference_over_pieces_and_tiles_of_the_cpu(norm, dilation, lookahead):
    """Larger sizes than in the table: frames in several windows, products with whole tiles and rests."""
    op, T = OPS["tcn_block"], 2 * tcn_block_cpu.WINDOW + tcn_block_cpu.CHUNK + 7
    H, C, Sc, K = 70, 35, 40, 3
    rng = np.random.default_rng(0)
    shapes = (1, C, T), (1, Sc, T), (H, C), H, 1, H, H, (H, K), H, 1, H, H, (Sc, H), Sc, (C, H), C
    arrays = [0.5 * rng.standard_normal(shape) for shape in shapes]
    settings = {"norm": norm, "dilation": dilation, "lookahead": lookahead}
    expected = op.forward_ref(*arrays, **settings)
    y, cache = op.forward(*arrays, **settings)
    for actual, wanted in zip(y, expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-9, atol=1e-9)
    dy = tuple(rng.standard_normal(part.shape) for part in y)
    expected = op.backward_ref(dy, *arrays, **settings)
    for actual, wanted in zip(op.backward(dy, cache), expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-8, atol=1e-8 * np.abs(wanted).max())


def test_sums_over_very_many_frames_round_little():
    """Ten seconds and more: numbers added to one float32 after the other would lose ten times as much."""
    op, T = OPS["tcn_block"], 16_000
    H, C, Sc, K = 64, 40, 40, 3
    rng = np.random.default_rng(0)
    shapes = (1, C, T), (1, Sc, T), (H, C), H, 1, H, H, (H, K), H, 1, H, H, (Sc, H), Sc, (C, H), C
    arrays = [0.5 * rng.standard_normal(shape) for shape in shapes]
    dy = rng.standard_normal((1, C, T)), rng.standard_normal((1, Sc, T))
    gradients = []
    for dtype in (np.float64, np.float32):
        _, cache = op.forward(
            *(array.astype(dtype) for array in arrays), norm="cumulative_layer_norm", dilation=8
        )
        gradients.append(op.backward(tuple(part.astype(dtype) for part in dy), cache))
    for exact, gradient in zip(*gradients, strict=True):
        assert relative_error(gradient, exact) < 1.5e-6
