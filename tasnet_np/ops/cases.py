"""The table of cases: every op with the shapes and settings on which all tests and `gradcheck` run it.

The shapes are hard ones: odd sizes, a different size on every axis, a receptive field longer than the signal, a
single frame. gamma is random, never 1, and beta never 0: those values would hide mistakes.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tasnet_np.ops import OPS, Op


class Case(NamedTuple):
    """One op with one choice of shapes and settings."""

    name: str
    op: Op
    make: Callable  # rng -> list of arrays in float64
    settings: Callable  # rng -> dict

    def inputs(self, seed=0, dtype=np.float64):
        """Random arrays and settings. One seed gives the same numbers in every dtype."""
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
    """Random values at a distance from 0, where ReLU and PReLU have no derivative."""

    def make(rng):
        arrays = [rng.standard_normal(shape) for shape in shapes]
        return [array + 0.01 * np.sign(array) for array in arrays]

    return make


def _case(name, op, make, settings=None, **fixed):
    return Case(name, OPS[op], make, settings or (lambda rng: fixed))


def _target(shape, silent=None, **others):
    """The settings of a loss: a random target with silence in a place, and others."""

    def settings(rng):
        target = rng.standard_normal(shape)
        if silent is not None:
            target[silent] = 0
        return {"target": target, **others}

    return settings


def _silence_first(shape, frames):
    """A norm's arrays, with digital silence in the first frames."""

    def make(rng):
        x, gamma, beta = _normal(shape, shape[1], shape[1])(rng)
        x[:, :, :frames] = 0
        return [x, gamma, beta]

    return make


def _offset(shape, mean, deviation):
    """A norm's arrays. The mean is far larger than the deviation, so that rounding shows in the variance."""

    def make(rng):
        x, gamma, beta = _normal(shape, shape[1], shape[1])(rng)
        return [mean + deviation * x, gamma, beta]

    return make


def _conv(name, shapes, **settings):
    return _case(f"depthwise {name}", "depthwise", _normal(*shapes), **settings)


def _block(name, H=5, C=3, Sc=4, K=3, T=9, residual=True, **settings):
    """A fused block. Its arrays are random; with the seeds in use, no value is at the kink of a PReLU."""
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
    # eps = 1e-2 keeps the norm smooth enough for finite differences where the variance is exactly 0.
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
    _case("si_snr ceiling", "si_snr", _normal((3, 2, 41)), _target((3, 2, 41), eps=0.03)),
    # eps = 0.01 keeps the loss smooth enough for finite differences where a magnitude is nearly 0.
    _case(
        "stft_magnitude",
        "stft_magnitude",
        _normal((3, 2, 41)),
        _target((3, 2, 41), windows=(8, 12, 20), eps=0.01),
    ),
    _case(
        "stft_magnitude one sample",
        "stft_magnitude",
        _normal((2, 2, 1)),
        _target((2, 2, 1), windows=(4,), power=0.7),
    ),
    _case(
        "stft_magnitude silent target",
        "stft_magnitude",
        _normal((2, 2, 19)),
        _target((2, 2, 19), silent=(0, 1), windows=(24,), eps=0.01),
    ),
    _case(
        "stft_magnitude silent recording",
        "stft_magnitude",
        _normal((2, 2, 19)),
        _target((2, 2, 19), silent=0, windows=(8,), eps=0.01),
    ),
]
