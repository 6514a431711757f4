"""Layer norms: global (gLN), cumulative (the paper's cLN) and per-frame channel layer norm.

All three subtract a mean and divide by a standard deviation. Then they scale and shift each channel with two
learned numbers. They differ in the set of entries over which the mean and the variance are taken:

    global_layer_norm       all channels, all frames          gLN, Eq. 9-11 of the paper; not causal
    cumulative_layer_norm   all channels, frames 0..t         cLN, Eq. 12-14; causal
    channel_layer_norm      all channels of frame t alone     what many implementations call "cLN"

Shapes:   x (B, C, T),  gamma (C,),  beta (C,)  ->  y (B, C, T)

Forward:  xhat[c, t] = (x[c, t] - m) * r,      r = 1 / sqrt(v + eps)
          y[c, t]    = gamma[c] * xhat[c, t] + beta[c]

where m and v are the mean and the variance of the set that frame t belongs to. eps = 1e-8 is inside
the root. So digital silence (v = 0) gives r = 1e4, and all values stay finite, forward and backward. Sums are in
float64, and v is clamped at 0.

Backward: with g[c, t] = gamma[c] * dy[c, t], the gradient of xhat,

    dgamma[c] = sum_t dy[c, t] * xhat[c, t]        dbeta[c] = sum_t dy[c, t]

Global and per frame. An entry x changes y in three ways: directly, through m and through v. For a set of n entries
the gradient of v is  dv = -1/2 r^2 * sum(g * xhat),  and v changes with x by  2 (x - m) / n = 2 xhat / (r n). Together:

    dx = r * (g - mean(g) - xhat * mean(g * xhat))

Cumulative.  Let S and Q be the running sums of x and x^2 up to frame t, over n = C (t + 1) entries:

    m = S / n,        v = Q / n - m^2

    dv[t] = -1/2 r^2 * sum_c g * xhat                             from r = (v + eps)^(-1/2)
    dm[t] = -r * sum_c g  -  2 m dv                               directly, and through v
    dQ[t] = dv / n
    dS[t] = dm / n

The entries of frame t are in S and Q of every LATER frame, too. So their gradient needs a sum over the future.
The cumulative sum of the forward pass becomes a reverse cumulative sum in the backward pass:

    A[t] = sum_{k >= t} dS[k],      D[t] = sum_{k >= t} dQ[k]
    dx[c, t] = g * r[t]  +  A[t]  +  2 x[c, t] D[t]

The GPU's kernels are in norms_cuda.py. One set of them makes all three norms.
"""

import math
from functools import partial

import numpy as np

from tasnet_np.compute.arrays import empty, run, run_backward, sizes
from tasnet_np.compute.cpu import cpu_kernel
from tasnet_np.ops.frame_statistics import CHANNEL, CUMULATIVE, EPS, GLOBAL, Statistics
from tasnet_np.ops.norms_cuda import layer_norm_backward_cuda, layer_norm_forward_cuda

# References. Each norm says over which axes, or up to which frame, its statistics run.


def _normalise_ref(x, m, v, gamma, beta, eps):
    return gamma[:, None] * (x - m) / np.sqrt(v + eps) + beta[:, None]


def _over_a_set_backward_ref(dy, x, gamma, axes, eps):
    m = x.mean(axis=axes, keepdims=True)
    r = 1 / np.sqrt(x.var(axis=axes, keepdims=True) + eps)
    xhat = (x - m) * r
    g = gamma[:, None] * dy
    mean_g = g.mean(axis=axes, keepdims=True)
    mean_gx = (g * xhat).mean(axis=axes, keepdims=True)
    dx = r * (g - mean_g - xhat * mean_gx)
    return dx, (dy * xhat).sum(axis=(0, 2)), dy.sum(axis=(0, 2))


def global_layer_norm_forward_ref(x, gamma, beta, *, eps=EPS):
    m, v = x.mean(axis=(1, 2), keepdims=True), x.var(axis=(1, 2), keepdims=True)
    return _normalise_ref(x, m, v, gamma, beta, eps)


def global_layer_norm_backward_ref(dy, x, gamma, beta, *, eps=EPS):
    return _over_a_set_backward_ref(dy, x, gamma, (1, 2), eps)


def channel_layer_norm_forward_ref(x, gamma, beta, *, eps=EPS):
    m, v = x.mean(axis=1, keepdims=True), x.var(axis=1, keepdims=True)
    return _normalise_ref(x, m, v, gamma, beta, eps)


def channel_layer_norm_backward_ref(dy, x, gamma, beta, *, eps=EPS):
    return _over_a_set_backward_ref(dy, x, gamma, 1, eps)


def _running_statistics_ref(x):
    C, T = x.shape[1:]
    n = C * np.arange(1, T + 1)  # (T,) entries up to each frame
    x = x.astype(np.float64)
    m = np.cumsum(x.sum(axis=1, keepdims=True), axis=2) / n  # (B, 1, T)
    q = np.cumsum((x * x).sum(axis=1, keepdims=True), axis=2) / n
    return n, m, np.maximum(q - m * m, 0)


def cumulative_layer_norm_forward_ref(x, gamma, beta, *, eps=EPS):
    _, m, v = _running_statistics_ref(x)
    return _normalise_ref(x, m, v, gamma, beta, eps).astype(x.dtype)


def cumulative_layer_norm_backward_ref(dy, x, gamma, beta, *, eps=EPS):
    n, m, v = _running_statistics_ref(x)
    r = 1 / np.sqrt(v + eps)
    xhat = (x - m) * r
    g = gamma[:, None] * dy
    dv = -0.5 * r * r * (g * xhat).sum(axis=1, keepdims=True)  # (B, 1, T)
    dm = -r * g.sum(axis=1, keepdims=True) - 2 * m * dv
    A = np.cumsum((dm / n)[..., ::-1], axis=2)[..., ::-1]  # over the future
    D = np.cumsum((dv / n)[..., ::-1], axis=2)[..., ::-1]
    dx = g * r + A + 2 * x * D
    dgamma, dbeta = (dy * xhat).sum(axis=(0, 2)), dy.sum(axis=(0, 2))
    return dx.astype(x.dtype), dgamma.astype(x.dtype), dbeta


# Global layer norm: one mean and one deviation for the whole sample. They stand in all entries of m and r.


@cpu_kernel
def _global_layer_norm_forward_cpu(y, statistics, x, gamma, beta, eps):
    C, T = x.shape
    total = 0.0
    for c in range(C):
        row = x[c]
        for t in range(T):
            total += np.float64(row[t])
    m = total / (C * T)
    total = 0.0
    for c in range(C):
        row = x[c]
        for t in range(T):
            total += (row[t] - m) ** 2
    r = 1 / math.sqrt(total / (C * T) + eps)
    for c in range(C):
        row, out, scale, shift = x[c], y[c], gamma[c], beta[c]
        for t in range(T):
            out[t] = scale * ((row[t] - m) * r) + shift
    statistics.m[:] = m
    statistics.r[:] = r


@cpu_kernel
def _global_layer_norm_backward_cpu(dx, dgamma, dbeta, dy, x, statistics, gamma):
    C, T = x.shape
    m, r = statistics.m[0], statistics.r[0]
    sum_g = 0.0
    sum_gx = 0.0
    for c in range(C):
        row, upstream = x[c], dy[c]
        sum_dy = 0.0
        sum_dyx = 0.0
        for t in range(T):
            sum_dy += np.float64(upstream[t])
            sum_dyx += upstream[t] * ((row[t] - m) * r)
        dgamma[c] = sum_dyx  # in the forward pass this was y = gamma * xhat + beta
        dbeta[c] = sum_dy
        sum_g += gamma[c] * sum_dy
        sum_gx += gamma[c] * sum_dyx
    mean_g = sum_g / (C * T)
    mean_gx = sum_gx / (C * T)
    for c in range(C):
        row, upstream, out, scale = x[c], dy[c], dx[c], gamma[c]
        for t in range(T):  # in the forward pass this was xhat = (x - m) * r
            out[t] = r * (scale * upstream[t] - mean_g - (row[t] - m) * r * mean_gx)


# Cumulative and per-frame norm: every frame has a mean and a deviation of its own, m[t] and r[t].


@cpu_kernel
def _cumulative_layer_norm_forward_cpu(y, statistics, x, gamma, beta, eps):
    (C, T), (m, r) = x.shape, statistics
    s = np.zeros(T)
    q = np.zeros(T)
    for c in range(C):
        row = x[c]
        for t in range(T):
            value = np.float64(row[t])
            s[t] += value
            q[t] += value * value
    total = 0.0
    total_squares = 0.0
    for t in range(T):  # running sums: frame t sees frames 0..t
        total += s[t]
        total_squares += q[t]
        n = C * (t + 1)
        m[t] = total / n
        r[t] = 1 / math.sqrt(max(total_squares / n - m[t] * m[t], 0.0) + eps)
    for c in range(C):
        row, out, scale, shift = x[c], y[c], gamma[c], beta[c]
        for t in range(T):
            out[t] = scale * ((row[t] - m[t]) * r[t]) + shift


@cpu_kernel
def _cumulative_layer_norm_backward_cpu(dx, dgamma, dbeta, dy, x, statistics, gamma):
    (C, T), (m, r) = x.shape, statistics
    sum_g = np.zeros(T)
    sum_gx = np.zeros(T)
    for c in range(C):
        row, upstream, scale = x[c], dy[c], gamma[c]
        sum_dy = 0.0
        sum_dyx = 0.0
        for t in range(T):
            g = np.float64(upstream[t])
            xhat = (row[t] - m[t]) * r[t]
            sum_dy += g
            sum_dyx += g * xhat
            sum_g[t] += scale * g
            sum_gx[t] += scale * g * xhat
        dgamma[c] = sum_dyx
        dbeta[c] = sum_dy
    A = 0.0
    D = 0.0
    for t in range(T - 1, -1, -1):  # reverse running sums: frame t reaches frames t..T-1
        n = C * (t + 1)
        dv = -0.5 * r[t] * r[t] * sum_gx[t]
        dm = -r[t] * sum_g[t] - 2 * m[t] * dv
        A += dm / n
        D += dv / n
        sum_g[t] = A  # the two arrays are free now: they take A and 2 D
        sum_gx[t] = 2 * D
    for c in range(C):
        row, upstream, out, scale = x[c], dy[c], dx[c], gamma[c]
        for t in range(T):  # in the forward pass this was xhat = (x - m) * r
            out[t] = scale * upstream[t] * r[t] + sum_g[t] + row[t] * sum_gx[t]


@cpu_kernel
def _channel_layer_norm_forward_cpu(y, statistics, x, gamma, beta, eps):
    (C, T), (m, r) = x.shape, statistics
    m[:] = 0
    r[:] = 0
    for c in range(C):
        row = x[c]
        for t in range(T):
            m[t] += np.float64(row[t])
    m /= C
    for c in range(C):
        row = x[c]
        for t in range(T):
            r[t] += (row[t] - m[t]) ** 2
    for t in range(T):
        r[t] = 1 / math.sqrt(r[t] / C + eps)
    for c in range(C):
        row, out, scale, shift = x[c], y[c], gamma[c], beta[c]
        for t in range(T):
            out[t] = scale * ((row[t] - m[t]) * r[t]) + shift


@cpu_kernel
def _channel_layer_norm_backward_cpu(dx, dgamma, dbeta, dy, x, statistics, gamma):
    (C, T), (m, r) = x.shape, statistics
    mean_g = np.zeros(T)
    mean_gx = np.zeros(T)
    for c in range(C):
        row, upstream, scale = x[c], dy[c], gamma[c] / C
        sum_dy = 0.0
        sum_dyx = 0.0
        for t in range(T):
            g = np.float64(upstream[t])
            xhat = (row[t] - m[t]) * r[t]
            sum_dy += g
            sum_dyx += g * xhat
            mean_g[t] += scale * g
            mean_gx[t] += scale * g * xhat
        dgamma[c] = sum_dyx
        dbeta[c] = sum_dy
    for c in range(C):
        row, upstream, out, scale = x[c], dy[c], dx[c], gamma[c]
        for t in range(T):  # in the forward pass this was xhat = (x - m) * r
            xhat = (row[t] - m[t]) * r[t]
            out[t] = r[t] * (scale * upstream[t] - mean_g[t] - xhat * mean_gx[t])


# The public pairs. The norms differ in the kernel on the CPU, and in the norm's number (GLOBAL, ...) on the GPU.


def _forward(x, gamma, beta, eps, kernel, norm):
    B, T = sizes("B T", x=(x, "B C T"), gamma=(gamma, "C"), beta=(beta, "C"))
    y = empty(x.shape, like=x)
    statistics = Statistics(*(empty((B, T), like=x, dtype=np.float64) for _ in range(2)))
    run(kernel, partial(layer_norm_forward_cuda, norm), (y, statistics), (x,), (gamma, beta, eps))
    return y, (x, statistics, gamma)


def _backward(dy, cache, kernel, norm):
    x, statistics, gamma = cache
    dx, shapes, inputs = empty(x.shape, like=x), 2 * [gamma.shape], (dy, x, statistics)
    return run_backward(kernel, partial(layer_norm_backward_cuda, norm), dx, shapes, inputs, (gamma,))


def global_layer_norm_forward(
    x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, *, eps: float = EPS
) -> tuple[np.ndarray, tuple]:
    """Normalise each example over all its channels and frames (gLN, Eq. 9-11 of arXiv 1809.07454).

    Parameters
    ----------
    x : ndarray, shape (B, C, T)
    gamma, beta : ndarray, shape (C,)
        Scale and shift.
    eps : float
        Added to the variance.

    Returns
    -------
    y : ndarray, shape (B, C, T)
    cache : tuple

    Raises
    ------
    ValueError, TypeError
        Shapes or dtypes that do not fit.
    """
    return _forward(x, gamma, beta, eps, _global_layer_norm_forward_cpu, GLOBAL)


def global_layer_norm_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, ...]:
    """Gradients of the global layer norm.

    Parameters
    ----------
    dy : ndarray, shape (B, C, T)
    cache : tuple
        From `global_layer_norm_forward`.

    Returns
    -------
    dx : ndarray, shape (B, C, T)
    dgamma, dbeta : ndarray, shape (C,)
    """
    return _backward(dy, cache, _global_layer_norm_backward_cpu, GLOBAL)


def cumulative_layer_norm_forward(
    x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, *, eps: float = EPS
) -> tuple[np.ndarray, tuple]:
    """Normalise each frame t over all channels of frames 0..t (cLN, Eq. 12-14 of arXiv 1809.07454).

    Parameters
    ----------
    x : ndarray, shape (B, C, T)
    gamma, beta : ndarray, shape (C,)
        Scale and shift.
    eps : float
        Added to the variance.

    Returns
    -------
    y : ndarray, shape (B, C, T)
    cache : tuple

    Raises
    ------
    ValueError, TypeError
        Shapes or dtypes that do not fit.
    """
    return _forward(x, gamma, beta, eps, _cumulative_layer_norm_forward_cpu, CUMULATIVE)


def cumulative_layer_norm_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, ...]:
    """Gradients of the cumulative layer norm.

    Parameters
    ----------
    dy : ndarray, shape (B, C, T)
    cache : tuple
        From `cumulative_layer_norm_forward`.

    Returns
    -------
    dx : ndarray, shape (B, C, T)
    dgamma, dbeta : ndarray, shape (C,)
    """
    return _backward(dy, cache, _cumulative_layer_norm_backward_cpu, CUMULATIVE)


def channel_layer_norm_forward(
    x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, *, eps: float = EPS
) -> tuple[np.ndarray, tuple]:
    """Normalise each frame over its own channels alone.

    Parameters
    ----------
    x : ndarray, shape (B, C, T)
    gamma, beta : ndarray, shape (C,)
        Scale and shift.
    eps : float
        Added to the variance.

    Returns
    -------
    y : ndarray, shape (B, C, T)
    cache : tuple

    Raises
    ------
    ValueError, TypeError
        Shapes or dtypes that do not fit.
    """
    return _forward(x, gamma, beta, eps, _channel_layer_norm_forward_cpu, CHANNEL)


def channel_layer_norm_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, ...]:
    """Gradients of the per-frame layer norm.

    Parameters
    ----------
    dy : ndarray, shape (B, C, T)
    cache : tuple
        From `channel_layer_norm_forward`.

    Returns
    -------
    dx : ndarray, shape (B, C, T)
    dgamma, dbeta : ndarray, shape (C,)
    """
    return _backward(dy, cache, _channel_layer_norm_backward_cpu, CHANNEL)
