"""What the norms know about every frame: the words that their kernels share, on the CPU and on the GPU.

norms.py has the formulas. Any of its three norms is, for a frame t, a mean m[t] and a factor r[t].
"""

from typing import NamedTuple

import numpy as np

EPS = 1e-8
GLOBAL, CUMULATIVE, CHANNEL = 0, 1, 2  # the norms, for kernels
CODES = {
    "global_layer_norm": GLOBAL,
    "cumulative_layer_norm": CUMULATIVE,
    "channel_layer_norm": CHANNEL,
}


class Sums(NamedTuple):
    """Over the channels of every frame: forward of x and x^2; backward of g and g xhat, where g has the factor r."""

    s: np.ndarray
    q: np.ndarray


class Statistics(NamedTuple):
    """Of every frame: the mean m, and r = 1 / sqrt(v + eps)."""

    m: np.ndarray
    r: np.ndarray


class Spread(NamedTuple):
    """What the gradients of m and r add to that of every frame's x: A + x D."""

    A: np.ndarray
    D: np.ndarray
