"""Statistics of every frame: the arrays that the norms' kernels share, on the CPU and on the GPU.

norms.py has the formulas. Each of its three norms gives a frame t a mean m[t] and a factor r[t].
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
    """Two sums over the channels of each frame.

    Forward they are of x and x^2. Backward they are of g and g xhat, where g already has the factor r.
    """

    s: np.ndarray
    q: np.ndarray


class Statistics(NamedTuple):
    """The mean m of every frame, and its factor r = 1 / sqrt(v + eps)."""

    m: np.ndarray
    r: np.ndarray


class Spread(NamedTuple):
    """What a frame's x gets through m and r: they add A + x D to its gradient. D is the 2 D of norms.py."""

    A: np.ndarray
    D: np.ndarray
