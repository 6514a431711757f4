"""Statistics of every frame: the arrays that the norms' kernels share, on the CPU and on the GPU.

norms.py has the formulas. Each of its three norms gives a frame t a mean m[t] and a factor r[t].
"""

import math
from typing import NamedTuple

import numpy as np

from tasnet_np.compute.cpu import cpu_kernel

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


# From the sums to the statistics and back: the fused block's kernels for all three norms on the CPU.


@cpu_kernel
def statistics_forward_cpu(statistics, sums, H, norm, eps):
    """Mean m and factor r = 1 / sqrt(v + eps) of every frame, over the frames that its norm sees."""
    (m, r), (s, q) = statistics, sums
    T = len(m)
    total = 0.0
    total_squares = 0.0
    if norm == GLOBAL:  # all frames
        for t in range(T):
            total += s[t]
            total_squares += q[t]
    for t in range(T):
        n = H * T
        if norm == CUMULATIVE:  # frames 0..t
            total += s[t]
            total_squares += q[t]
            n = H * (t + 1)
        elif norm == CHANNEL:  # this frame alone
            total = s[t]
            total_squares = q[t]
            n = H
        mean = total / n
        m[t] = mean
        r[t] = 1 / math.sqrt(max(total_squares / n - mean * mean, 0.0) + eps)


@cpu_kernel
def statistics_backward_cpu(spread, sums, statistics, H, norm):
    """A and D of every frame: a norm's statistics add A + z D to the gradient of its input z.

    The mean and variance of n values give each of these values dm / n + 2 z dv / n.
    """
    (A, D), (sg, sgx), (m, r) = spread, sums, statistics
    T = len(A)
    total = 0.0
    total_z = 0.0
    for t in range(T - 1, -1, -1):  # the cumulative norm: frame t reaches frames t..T-1
        n = H * (t + 1 if norm == CUMULATIVE else T if norm == GLOBAL else 1)
        dv = -0.5 * r[t] * sgx[t]
        dm = -sg[t] - 2 * m[t] * dv
        if norm == CHANNEL:
            total = 0.0
            total_z = 0.0
        total += dm / n
        total_z += 2 * dv / n
        A[t] = total
        D[t] = total_z
    if norm == GLOBAL:  # every frame reaches every other
        A[:] = total
        D[:] = total_z
