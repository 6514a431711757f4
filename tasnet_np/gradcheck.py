"""Is this gradient right? Finite differences, and the table of cases they are run on.

A backward pass claims: if the output's gradient is dy, then the input's gradient is dx. The check
takes a random dy, calls  L = sum(dy * forward(x))  the loss, and compares dx with

    (L(x + h) - L(x - h)) / (2 h)          for every single element of every array, in float64.

dy must be random: with a dy of ones, sums over time hide a reversed kernel, and sums over a norm's
set are zero whatever the backward does. For the same reason gamma is never 1 and beta never 0 here.
"""

import dataclasses
from typing import Callable, NamedTuple

import numpy as np

from tasnet_np.config import PRESETS
from tasnet_np.execution import ConvTasNet
from tasnet_np.layers import NegativeSISNR
from tasnet_np.ops import OPS, Op

TOLERANCE = 1e-6  # of the largest gradient, in float64


def relative_error(actual, expected):
    """The largest difference, relative to the largest expected value; inf if anything is not finite."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    if actual.shape != expected.shape:
        raise ValueError(f"shapes {actual.shape} and {expected.shape} differ")
    if not (np.isfinite(actual).all() and np.isfinite(expected).all()):
        return np.inf
    largest = np.abs(expected).max()
    difference = np.abs(actual - expected).max()
    return difference / largest if largest > 0 else difference


def numerical_gradient(loss, array, step=1e-5):
    """Central differences of the scalar function `loss()` with respect to each element of `array`.

    `array` is changed in place while this runs and is left as it was.
    """
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        value = array[index]
        array[index] = value + step
        above = loss()
        array[index] = value - step
        below = loss()
        array[index] = value
        gradient[index] = (above - below) / (2 * step)
    return gradient


def check_gradients(forward, backward, arrays, settings, seed=0):
    """Largest relative error of a backward pass, over all its arrays and all their elements.

    Parameters
    ----------
    forward, backward : as in the contract: `y, cache = forward(*arrays, **settings)` and
        `gradients = backward(dy, cache)`
    arrays : list of float64 arrays
    settings : dict
    """
    arrays = [np.array(array, np.float64) for array in arrays]
    y, cache = forward(*arrays, **settings)
    dy = upstream(y, seed)
    gradients = backward(dy, cache)

    def loss():
        return inner_product(dy, forward(*arrays, **settings)[0])

    return max(
        relative_error(gradient, numerical_gradient(loss, array))
        for gradient, array in zip(gradients, arrays, strict=True)
    )


def upstream(y, seed=0):
    """A random gradient for an output, or for each of a tuple of outputs."""
    rng = np.random.default_rng(seed)
    if isinstance(y, tuple):
        return tuple(rng.standard_normal(each.shape).astype(each.dtype) for each in y)
    return rng.standard_normal(y.shape).astype(y.dtype)


def inner_product(dy, y):
    """sum(dy * y), over all outputs if there are several."""
    if isinstance(y, tuple):
        return sum(inner_product(*pair) for pair in zip(dy, y, strict=True))
    return float((dy * y).sum())


def directional_error(loss, arrays, gradients, seed=0, step=1e-7):
    """Error of all gradients at once: the median over five random directions.

    For arrays too many to move one by one: with v a random direction in the space of all of them,
    (L(a + h v) - L(a - h v)) / (2 h) must be sum(gradient * v). The error is relative to the norm of
    the gradient, which is what that sum amounts to on average. A wrong gradient is wrong in every
    direction; but now and then a step carries some ReLU across its kink, so one direction is not enough.
    """
    rng = np.random.default_rng(seed)
    return np.median([_error_along(loss, arrays, gradients, rng, step) for _ in range(5)])


def _error_along(loss, arrays, gradients, rng, step):
    directions = [rng.standard_normal(array.shape) for array in arrays]
    expected = sum(float((g * v).sum()) for g, v in zip(gradients, directions, strict=True))

    def moved(by):
        for array, v in zip(arrays, directions):
            array += by * v
        value = loss()
        for array, v in zip(arrays, directions):
            array -= by * v
        return value

    norm = np.sqrt(sum(float((g * g).sum()) for g in gradients))
    return abs((moved(step) - moved(-step)) / (2 * step) - expected) / norm


class Case(NamedTuple):
    """One op with one choice of shapes and settings."""

    name: str
    op: Op
    make: Callable  # rng -> list of arrays in float64
    settings: Callable  # rng -> dict

    def inputs(self, seed=0, dtype=np.float64):
        """Random arrays and settings; the same for one seed in every dtype."""
        rng = np.random.default_rng(seed)
        arrays = [np.asarray(array, dtype) for array in self.make(rng)]
        settings = {
            key: value.astype(dtype) if isinstance(value, np.ndarray) else value
            for key, value in self.settings(rng).items()
        }
        return arrays, settings


def _normal(*shapes):
    return lambda rng: [rng.standard_normal(shape) for shape in shapes]


def _no_kink(*shapes):
    """Values that keep away from 0, where ReLU and PReLU have no derivative."""

    def make(rng):
        arrays = [rng.standard_normal(shape) for shape in shapes]
        return [array + 0.01 * np.sign(array) for array in arrays]

    return make


def _case(name, op, make, settings=None, **fixed):
    return Case(name, OPS[op], make, settings or (lambda rng: fixed))


def _target(shape, silent=None):
    def settings(rng):
        target = rng.standard_normal(shape)
        if silent is not None:
            target[silent] = 0
        return {"target": target}

    return settings


def _silence_first(shape, frames):
    """A norm's arrays, with digital silence in the first frames."""

    def make(rng):
        x, gamma, beta = _normal(shape, shape[1], shape[1])(rng)
        x[:, :, :frames] = 0
        return [x, gamma, beta]

    return make


def _offset(shape, mean, deviation):
    """A norm's arrays, with a mean far larger than the deviation: hard on the variance."""

    def make(rng):
        x, gamma, beta = _normal(shape, shape[1], shape[1])(rng)
        return [mean + deviation * x, gamma, beta]

    return make


def _conv(name, shapes, **settings):
    return _case(f"depthwise {name}", "depthwise", _normal(*shapes), **settings)


def _block(name, H=5, C=3, Sc=4, K=3, T=9, residual=True, **settings):
    """Shapes of a fused block's arrays, away from the kinks of its two PReLUs by chance of the seed."""
    shapes = [(2, C, T), (2, Sc, T), (H, C), H, 1, H, H, (H, K), H, 1, H, H, (Sc, H), Sc]
    shapes += [(C, H), C] if residual else []
    return _case(f"tcn_block {name}", "tcn_block", _normal(*shapes), **settings)


CASES = [
    _case("conv1d", "conv1d", _normal((3, 26), (5, 6)), stride=3),
    _case("conv1d one frame", "conv1d", _normal((2, 4), (3, 4)), stride=2),
    _case("conv1d leftover samples", "conv1d", _normal((2, 18), (3, 4)), stride=3),
    _case("conv_transpose1d", "conv_transpose1d", _normal((3, 5, 7), (5, 6)), stride=3),
    _case("conv_transpose1d one frame", "conv_transpose1d", _normal((2, 3, 1), (3, 4)), stride=2),
    _case("pointwise", "pointwise", _normal((3, 5, 7), (4, 5), (4,))),
    _case("pointwise one frame", "pointwise", _normal((1, 2, 1), (3, 2), (3,))),
    _conv("causal", [(2, 3, 17), (3, 3), 3], dilation=2),
    _conv("centred", [(2, 3, 17), (3, 3), 3], dilation=4, lookahead=4),
    _conv("looking ahead", [(3, 2, 13), (2, 5), 2], dilation=2, lookahead=8),
    _conv("even taps", [(2, 3, 11), (3, 4), 3], dilation=3, lookahead=4),
    _conv("one tap", [(2, 3, 5), (3, 1), 3], dilation=7),
    _conv("longer than the signal", [(2, 3, 5), (3, 3), 3], dilation=8, lookahead=8),
    _conv("one frame", [(2, 3, 1), (3, 3), 3], dilation=1, lookahead=1),
    *(
        case
        for norm in ("global", "cumulative", "channel")
        for op in [f"{norm}_layer_norm"]
        for case in (
            _case(op, op, _normal((2, 5, 9), 5, 5)),
            _case(f"{op} one frame", op, _normal((3, 5, 1), 5, 5)),
            _case(f"{op} offset", op, _offset((2, 5, 9), mean=3.0, deviation=0.3)),
            _case(f"{op} large eps", op, _normal((2, 5, 9), 5, 5), eps=0.1),
        )
    ),
    # eps = 1e-2 keeps the differences resolvable where the variance is exactly 0.
    _case(
        "cumulative_layer_norm silence first",
        "cumulative_layer_norm",
        _silence_first((2, 5, 9), 3),
        eps=1e-2,
    ),
    _case("relu", "relu", _no_kink((2, 3, 5))),
    _case("prelu", "prelu", _no_kink((3, 4, 5), (1,))),
    _case("sigmoid", "sigmoid", _normal((2, 3, 5))),
    _case("softmax", "softmax", _normal((3, 2, 4, 5))),
    _case("add", "add", _normal((2, 3, 5), (2, 3, 5))),
    _case("multiply", "multiply", _normal((3, 2, 4, 5), (3, 4, 5))),
    _block("global", norm="global_layer_norm", dilation=2, lookahead=2),
    _block("cumulative", norm="cumulative_layer_norm", dilation=2),
    _block("channel", norm="channel_layer_norm", dilation=2, lookahead=1),
    _block("last", norm="cumulative_layer_norm", residual=False),
    _block("one frame", norm="cumulative_layer_norm", T=1, K=2, lookahead=1),
    _block("one tap", norm="global_layer_norm", K=1, T=7),
    _block("longer than the signal", norm="cumulative_layer_norm", dilation=8, lookahead=8),
    _case("si_snr", "si_snr", _normal((3, 2, 41)), _target((3, 2, 41))),
    _case("si_snr silent target", "si_snr", _normal((2, 2, 41)), _target((2, 2, 41), silent=(0, 1))),
]


def check_op(case, path="ops", seed=0):
    """Largest relative error of one case's backward pass: "ops" (compiled) or "reference" (NumPy)."""
    return check_gradients(*case.op.pair(path), *case.inputs(seed), seed=seed)


def check_model(config, path="fused", seed=0, samples=203):
    """Directional error of a whole model and its loss: gradients of all parameters and of the mixture."""
    model = ConvTasNet(config, seed=seed, dtype=np.float64, path=path)
    loss = NegativeSISNR(weights=(2.0, 1.0), path=path)
    rng = np.random.default_rng(seed)
    mixture = rng.standard_normal((2, samples))
    targets = rng.standard_normal((2, 2, samples))
    for array in model.params.values():  # gamma = 1 and beta = 0 would hide mistakes
        array += 0.1 * rng.standard_normal(array.shape)

    def value():
        return loss.forward(model.forward(mixture), targets)

    value()
    dmixture = model.backward(loss.backward())
    gradients = [dmixture, *model.grads.values()]
    return directional_error(value, [mixture, *model.params.values()], gradients, seed=seed)


def reduced(config):
    """The same architecture, narrow enough to check in a moment."""
    sizes = {"filters": 6, "filter_length": 6, "bottleneck": 4, "hidden": 5, "skip": 3, "blocks": 3}
    lookahead = min(config.lookahead_blocks, 2)
    return dataclasses.replace(config, **sizes, repeats=2, lookahead_blocks=lookahead)


def check_everything(seed=0):
    """Yield (name, error of the NumPy references, error of the compiled kernels), row by row."""
    for case in CASES:
        yield case.name, check_op(case, "reference", seed), check_op(case, "ops", seed)
    for name, config in PRESETS.items():
        for path in ("ops", "fused"):
            errors = [check_model(reduced(config), each, seed) for each in ("reference", path)]
            yield f"whole model with loss, {name}, {path}", *errors
