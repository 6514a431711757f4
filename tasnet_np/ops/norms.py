"""Layer norms: global (gLN), cumulative (the paper's cLN) and per-frame channel layer norm.

All three subtract a mean, divide by a standard deviation, then scale and shift each channel with two
learned numbers. They differ in which entries the mean and the variance are taken over:

    global_layer_norm       all channels, all frames          gLN, Eq. 9-11 of the paper; not causal
    cumulative_layer_norm   all channels, frames 0..t         cLN, Eq. 12-14; causal
    channel_layer_norm      all channels of frame t alone     what many implementations call "cLN"

Shapes:   x (B, C, T),  gamma (C,),  beta (C,)  ->  y (B, C, T)

Forward:  xhat[c, t] = (x[c, t] - m) * r,      r = 1 / sqrt(v + eps)
          y[c, t]    = gamma[c] * xhat[c, t] + beta[c]

where m and v are the mean and variance of the set that frame t belongs to. eps = 1e-8 stands inside
the root, so digital silence (v = 0) gives r = 1e4: finite forward and backward. Sums are in float64,
and v is clamped at 0.

Backward: with g[c, t] = gamma[c] * dy[c, t], the gradient of xhat,

    dgamma[c] = sum_t dy[c, t] * xhat[c, t]        dbeta[c] = sum_t dy[c, t]

Global and per frame.  x reaches y directly, through m and through v. Over a set of n entries, with
dv = -1/2 r^2 * sum(g * xhat)  and  v's own dependence on x,  dv/dx = 2 (x - m) / n = 2 xhat / (r n),

    dx = r * (g - mean(g) - xhat * mean(g * xhat))

Cumulative.  Let S and Q be the running sums of x and x^2 up to frame t, over n = C (t + 1) entries:

    m = S / n,        v = Q / n - m^2

    dv[t] = -1/2 r^2 * sum_c g * xhat                             from r = (v + eps)^(-1/2)
    dm[t] = -r * sum_c g  -  2 m dv                               directly, and through v
    dQ[t] = dv / n
    dS[t] = dm / n

Frame t's entries are part of S and Q of every LATER frame as well, so their gradient needs a sum over
the future: what was a cumulative sum forward is a reverse cumulative sum backward,

    A[t] = sum_{k >= t} dS[k],      D[t] = sum_{k >= t} dQ[k]
    dx[c, t] = g * r[t]  +  A[t]  +  2 x[c, t] D[t]

On a GPU, one set of kernels does all three, as any of them is a mean m[t] and a factor r[t] for each frame. First,
blocks of threads sum over groups of channels. A running sum over T frames is a parallel scan in two steps: each
block scans a tile of frames, in log2(THREADS) rounds, and writes the tile's total; then each block adds the totals
of the tiles before its own. Read backwards in time, the same scan gives A and 2 D. For the other two norms the
totals of all tiles, or no other frame at all, take the place of the tiles before.
"""

import math

import numpy as np

from tasnet_np.device import (
    THREADS, block_sum, cpu_kernel, cuda, cuda_function, cuda_kernel, empty, empty_in_a_row, on_gpu, over_samples,
    sizes, sum_parts, tiles,
)  # fmt: skip

EPS = 1e-8
GLOBAL, CUMULATIVE, CHANNEL = 0, 1, 2  # the norms, for kernels
CHANNELS = 16  # that a block of threads on a GPU sums over


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


# Global layer norm: one mean and one deviation for the whole sample, statistics = (m, r).


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
    statistics[0] = m
    statistics[1] = r


@cpu_kernel
def _global_layer_norm_backward_cpu(dx, dgamma, dbeta, dy, x, statistics, gamma):
    C, T = x.shape
    m, r = statistics
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


# Cumulative and per-frame norm: a mean and a deviation for every frame, m[t] and r[t].


@cpu_kernel
def _cumulative_layer_norm_forward_cpu(y, m, r, x, gamma, beta, eps):
    C, T = x.shape
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
def _cumulative_layer_norm_backward_cpu(dx, dgamma, dbeta, dy, x, m, r, gamma):
    C, T = x.shape
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
        sum_g[t] = A
        sum_gx[t] = 2 * D
    for c in range(C):
        row, upstream, out, scale = x[c], dy[c], dx[c], gamma[c]
        for t in range(T):  # in the forward pass this was xhat = (x - m) * r
            out[t] = scale * upstream[t] * r[t] + sum_g[t] + row[t] * sum_gx[t]


@cpu_kernel
def _channel_layer_norm_forward_cpu(y, m, r, x, gamma, beta, eps):
    C, T = x.shape
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
def _channel_layer_norm_backward_cpu(dx, dgamma, dbeta, dy, x, m, r, gamma):
    C, T = x.shape
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


# All three norms on a GPU. Parts have a group of channels as their first axis.


@cuda_kernel
def _frame_sums_cuda(s, q, x):
    """Sums of x and x^2 over a group of channels, for every frame: s, q (groups, B, T)."""
    t, group, b = cuda.grid(1), cuda.blockIdx.y, cuda.blockIdx.z
    C, T = x.shape[1], x.shape[2]
    if t < T:
        total, total_squares = 0.0, 0.0
        for c in range(group * CHANNELS, min(C, (group + 1) * CHANNELS)):
            value = np.float64(x[b, c, t])
            total += value
            total_squares += value * value
        s[group, b, t] = total
        q[group, b, t] = total_squares


@cuda_function
def _scan(values, i):
    """values[i] <- values[0] + ... + values[i], in shared memory: after each round, of twice as many."""
    reach = 1
    while reach < THREADS:
        before = 0.0
        if i >= reach:
            before = values[i - reach]
        cuda.syncthreads()
        values[i] += before
        cuda.syncthreads()
        reach *= 2


@cuda_kernel
def _scan_forward_cuda(s, q, totals, s_parts, q_parts, norm):
    """Running sums within each tile of frames, s and q (B, T), and the tile's totals (2, B, tiles)."""
    s_tile = cuda.shared.array(THREADS, np.float64)
    q_tile = cuda.shared.array(THREADS, np.float64)
    i, tile, b = cuda.threadIdx.x, cuda.blockIdx.x, cuda.blockIdx.y
    t, T = tile * THREADS + i, s.shape[1]
    total, total_squares = 0.0, 0.0
    if t < T:
        for part in range(len(s_parts)):
            total += s_parts[part, b, t]
            total_squares += q_parts[part, b, t]
    s_tile[i] = total
    q_tile[i] = total_squares
    cuda.syncthreads()
    if norm != CHANNEL:
        _scan(s_tile, i)
        _scan(q_tile, i)
    if t < T:
        s[b, t] = s_tile[i]
        q[b, t] = q_tile[i]
    if i == THREADS - 1:
        totals[0, b, tile] = s_tile[i]
        totals[1, b, tile] = q_tile[i]


@cuda_kernel
def _statistics_forward_cuda(m, r, s, q, totals, C, norm, eps):
    """Mean m and factor r = 1 / sqrt(v + eps) for every frame, over the frames its norm looks at."""
    scratch = cuda.shared.array(THREADS, np.float64)
    i, tile, b = cuda.threadIdx.x, cuda.blockIdx.x, cuda.blockIdx.y
    t, T = tile * THREADS + i, m.shape[1]
    others = tile if norm == CUMULATIVE else totals.shape[2]  # tiles whose totals are added
    before, before_squares = 0.0, 0.0
    for j in range(i, others, THREADS):
        before += totals[0, b, j]
        before_squares += totals[1, b, j]
    before = block_sum(before, scratch)
    before_squares = block_sum(before_squares, scratch)
    if t < T:
        total, total_squares, n = before, before_squares, C * T
        if norm == CUMULATIVE:
            total += s[b, t]
            total_squares += q[b, t]
            n = C * (t + 1)
        elif norm == CHANNEL:
            total, total_squares, n = s[b, t], q[b, t], C
        mean = total / n
        m[b, t] = mean
        r[b, t] = 1 / math.sqrt(max(total_squares / n - mean * mean, 0.0) + eps)


@cuda_kernel
def _normalise_cuda(y, x, m, r, gamma, beta):
    t, c, b = cuda.grid(1), cuda.blockIdx.y, cuda.blockIdx.z
    if t < x.shape[2]:
        y[b, c, t] = gamma[c] * ((x[b, c, t] - m[b, t]) * r[b, t]) + beta[c]


@cuda_kernel
def _norm_backward_sums_cuda(sg, sgx, dgamma, dbeta, dy, x, m, r, gamma):
    """For every frame the sums of g r and g r xhat over a group of channels: sg, sgx (groups, B, T); and for
    every channel its sums over a tile of frames: dgamma, dbeta (B * tiles, C)."""
    scratch = cuda.shared.array(THREADS, np.float64)
    i, group, b = cuda.threadIdx.x, cuda.blockIdx.y, cuda.blockIdx.z
    C, T = x.shape[1], x.shape[2]
    t, part = cuda.grid(1), b * cuda.gridDim.x + cuda.blockIdx.x
    total, total_x = 0.0, 0.0
    for c in range(group * CHANNELS, min(C, (group + 1) * CHANNELS)):
        upstream, xhat = 0.0, 0.0
        if t < T:
            upstream = np.float64(dy[b, c, t])
            xhat = (x[b, c, t] - m[b, t]) * r[b, t]
            total += gamma[c] * upstream * r[b, t]
            total_x += gamma[c] * upstream * r[b, t] * xhat
        sum_dyx = block_sum(upstream * xhat, scratch)
        sum_dy = block_sum(upstream, scratch)
        if i == 0:
            dgamma[part, c] = sum_dyx
            dbeta[part, c] = sum_dy
    if t < T:
        sg[group, b, t] = total
        sgx[group, b, t] = total_x


@cuda_kernel
def _scan_backward_cuda(A, D, totals, sg_parts, sgx_parts, m, r, C, norm):
    """Sums of dm / n and 2 dv / n from each frame to the end of its tile, and the tile's totals (2, B, tiles).

    Frame T - 1 comes first here: a tile's first thread has its last frame.
    """
    a_tile = cuda.shared.array(THREADS, np.float64)
    d_tile = cuda.shared.array(THREADS, np.float64)
    i, tile, b = cuda.threadIdx.x, cuda.blockIdx.x, cuda.blockIdx.y
    T = A.shape[1]
    t = T - 1 - (tile * THREADS + i)
    dm, dv = 0.0, 0.0
    if t >= 0:
        sum_g, sum_gx = 0.0, 0.0
        for part in range(len(sg_parts)):
            sum_g += sg_parts[part, b, t]
            sum_gx += sgx_parts[part, b, t]
        n = C * T if norm == GLOBAL else C * (t + 1) if norm == CUMULATIVE else C
        dv = -0.5 * r[b, t] * sum_gx / n
        dm = -sum_g / n - 2 * m[b, t] * dv
    a_tile[i] = dm
    d_tile[i] = 2 * dv
    cuda.syncthreads()
    if norm != CHANNEL:
        _scan(a_tile, i)
        _scan(d_tile, i)
    if t >= 0:
        A[b, t] = a_tile[i]
        D[b, t] = d_tile[i]
    if i == THREADS - 1:
        totals[0, b, tile] = a_tile[i]
        totals[1, b, tile] = d_tile[i]


@cuda_kernel
def _statistics_backward_cuda(A_all, D_all, A, D, totals, norm):
    """Add to each frame's sums those of the later tiles (cumulative), or of all tiles instead (global)."""
    scratch = cuda.shared.array(THREADS, np.float64)
    i, tile, b = cuda.threadIdx.x, cuda.blockIdx.x, cuda.blockIdx.y
    T = A.shape[1]
    t = T - 1 - (tile * THREADS + i)
    others = tile if norm == CUMULATIVE else totals.shape[2]
    later, later_x = 0.0, 0.0
    for j in range(i, others, THREADS):
        later += totals[0, b, j]
        later_x += totals[1, b, j]
    later = block_sum(later, scratch)
    later_x = block_sum(later_x, scratch)
    if t >= 0:
        if norm == CUMULATIVE:
            later += A[b, t]
            later_x += D[b, t]
        elif norm == CHANNEL:
            later = A[b, t]
            later_x = D[b, t]
        A_all[b, t] = later
        D_all[b, t] = later_x


@cuda_kernel
def _norm_backward_cuda(dx, dy, x, r, A, D, gamma):
    t, c, b = cuda.grid(1), cuda.blockIdx.y, cuda.blockIdx.z
    if t < x.shape[2]:  # in the forward pass this was xhat = (x - m) * r
        dx[b, c, t] = gamma[c] * dy[b, c, t] * r[b, t] + A[b, t] + x[b, c, t] * D[b, t]


def statistics_forward_cuda(m, r, s_parts, q_parts, C, norm, eps):
    """m and r (B, T) of each frame from the sums of x and x^2 over C channels, in parts (parts, B, T)."""
    B, T = m.shape
    s, q, totals = (empty(shape, like=m, dtype=np.float64) for shape in ((B, T), (B, T), (2, B, tiles(T))))
    grid = tiles(T), B
    _scan_forward_cuda[grid, THREADS](s, q, totals, s_parts, q_parts, norm)
    _statistics_forward_cuda[grid, THREADS](m, r, s, q, totals, C, norm, eps)


def statistics_backward_cuda(A, D, sg_parts, sgx_parts, m, r, C, norm):
    """A and D (B, T), the gradient g + A + x D of a norm's input, from the sums of g and g xhat over the channels."""
    B, T = m.shape
    a, d, totals = (empty(shape, like=m, dtype=np.float64) for shape in ((B, T), (B, T), (2, B, tiles(T))))
    grid = tiles(T), B
    _scan_backward_cuda[grid, THREADS](a, d, totals, sg_parts, sgx_parts, m, r, C, norm)
    _statistics_backward_cuda[grid, THREADS](A, D, a, d, totals, norm)


def _layer_norm_forward_cuda(y, m, r, x, gamma, beta, norm, eps):
    B, C, T = x.shape
    s_parts, q_parts = (empty((tiles(C, CHANNELS), B, T), like=x, dtype=np.float64) for _ in range(2))
    _frame_sums_cuda[(tiles(T), tiles(C, CHANNELS), B), THREADS](s_parts, q_parts, x)
    statistics_forward_cuda(m, r, s_parts, q_parts, C, norm, eps)
    _normalise_cuda[(tiles(T), C, B), THREADS](y, x, m, r, gamma, beta)


def _layer_norm_backward_cuda(dx, dgamma, dbeta, dy, x, m, r, gamma, norm):
    B, C, T = x.shape
    sg_parts, sgx_parts = (empty((tiles(C, CHANNELS), B, T), like=x, dtype=np.float64) for _ in range(2))
    dgamma_parts, dbeta_parts = (empty((B * tiles(T), C), like=x, dtype=np.float64) for _ in range(2))
    A, D = empty((B, T), like=m), empty((B, T), like=m)
    _norm_backward_sums_cuda[(tiles(T), tiles(C, CHANNELS), B), THREADS](
        sg_parts, sgx_parts, dgamma_parts, dbeta_parts, dy, x, m, r, gamma
    )
    statistics_backward_cuda(A, D, sg_parts, sgx_parts, m, r, C, norm)
    _norm_backward_cuda[(tiles(T), C, B), THREADS](dx, dy, x, r, A, D, gamma)
    sum_parts(dgamma, dgamma_parts)
    sum_parts(dbeta, dbeta_parts)


def _on_gpu_forward(x, gamma, beta, norm, eps):
    B, T = sizes("B T", x=(x, "B C T"), gamma=(gamma, "C"), beta=(beta, "C"))
    y = empty(x.shape, like=x)
    m, r = (empty((B, T), like=x, dtype=np.float64) for _ in range(2))
    _layer_norm_forward_cuda(y, m, r, x, gamma, beta, norm, eps)
    return y, (x, m, r, gamma)


def _on_gpu_backward(dy, cache, norm):
    x, m, r, gamma = cache
    dx = empty(x.shape, like=x)
    dgamma, dbeta = empty_in_a_row([gamma.shape, gamma.shape], like=x)
    _layer_norm_backward_cuda(dx, dgamma, dbeta, dy, x, m, r, gamma, norm)
    return dx, dgamma, dbeta


# The public pairs.


def _parts(x):
    """Room for dx, and for dgamma and dbeta of each sample."""
    return np.empty(x.shape, x.dtype), np.empty(x.shape[:2], x.dtype), np.empty(x.shape[:2], x.dtype)


def global_layer_norm_forward(x, gamma, beta, *, eps=EPS):
    """Normalise x (B, C, T) over all channels and frames (gLN, Eq. 9-11): y (B, C, T)."""
    if on_gpu(x):
        return _on_gpu_forward(x, gamma, beta, GLOBAL, eps)
    (B,) = sizes("B", x=(x, "B C T"), gamma=(gamma, "C"), beta=(beta, "C"))
    y, statistics = np.empty(x.shape, x.dtype), np.empty((B, 2))
    over_samples(_global_layer_norm_forward_cpu, (y, statistics, x), (gamma, beta, eps))
    return y, (x, statistics, gamma)


def global_layer_norm_backward(dy, cache):
    """Return dx (B, C, T), dgamma (C,) and dbeta (C,)."""
    if on_gpu(dy):
        return _on_gpu_backward(dy, cache, GLOBAL)
    x, statistics, gamma = cache
    dx, dgamma, dbeta = _parts(x)
    arrays = (dx, dgamma, dbeta, dy, x, statistics)
    over_samples(_global_layer_norm_backward_cpu, arrays, (gamma,))
    return dx, dgamma.sum(axis=0), dbeta.sum(axis=0)


def _per_frame_forward(kernel, x, gamma, beta, eps):
    B, T = sizes("B T", x=(x, "B C T"), gamma=(gamma, "C"), beta=(beta, "C"))
    y, m, r = np.empty(x.shape, x.dtype), np.empty((B, T)), np.empty((B, T))
    over_samples(kernel, (y, m, r, x), (gamma, beta, eps))
    return y, (x, m, r, gamma)


def _per_frame_backward(kernel, dy, cache):
    x, m, r, gamma = cache
    dx, dgamma, dbeta = _parts(x)
    over_samples(kernel, (dx, dgamma, dbeta, dy, x, m, r), (gamma,))
    return dx, dgamma.sum(axis=0), dbeta.sum(axis=0)


def cumulative_layer_norm_forward(x, gamma, beta, *, eps=EPS):
    """Normalise frame t of x (B, C, T) over frames 0..t (cLN, Eq. 12-14): y (B, C, T)."""
    if on_gpu(x):
        return _on_gpu_forward(x, gamma, beta, CUMULATIVE, eps)
    return _per_frame_forward(_cumulative_layer_norm_forward_cpu, x, gamma, beta, eps)


def cumulative_layer_norm_backward(dy, cache):
    """Return dx (B, C, T), dgamma (C,) and dbeta (C,)."""
    if on_gpu(dy):
        return _on_gpu_backward(dy, cache, CUMULATIVE)
    return _per_frame_backward(_cumulative_layer_norm_backward_cpu, dy, cache)


def channel_layer_norm_forward(x, gamma, beta, *, eps=EPS):
    """Normalise each frame of x (B, C, T) over its channels alone: y (B, C, T)."""
    if on_gpu(x):
        return _on_gpu_forward(x, gamma, beta, CHANNEL, eps)
    return _per_frame_forward(_channel_layer_norm_forward_cpu, x, gamma, beta, eps)


def channel_layer_norm_backward(dy, cache):
    """Return dx (B, C, T), dgamma (C,) and dbeta (C,)."""
    if on_gpu(dy):
        return _on_gpu_backward(dy, cache, CHANNEL)
    return _per_frame_backward(_channel_layer_norm_backward_cpu, dy, cache)
