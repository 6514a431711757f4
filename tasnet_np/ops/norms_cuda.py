"""The norms' kernels on the GPU. norms.py has the formulas; the letters are the same here.

One set of kernels makes all three norms, because each of them gives a frame t a mean m[t] and a factor r[t].
First, blocks of threads sum over groups of channels. These sums are the `parts`: their first axis is the group.

The cumulative norm then needs a running sum over T frames. That is a parallel scan in two steps. First, each block
scans a tile of frames in log2(THREADS) rounds, and writes the tile's total. Then each block adds the totals of the
tiles before its own. The same scan, backwards in time, gives A and 2 D. The global norm adds the totals of all tiles
instead. The per-frame norm adds nothing.
"""

import math

import numpy as np

from tasnet_np.compute.arrays import empty
from tasnet_np.compute.gpu import THREADS, block_sum, cuda, cuda_function, cuda_kernel, sum_parts, tiles
from tasnet_np.ops.frame_statistics import CHANNEL, CUMULATIVE, GLOBAL, Spread, Sums

CHANNELS = 16  # channels that a block of threads sums over


@cuda_kernel
def _frame_sums_cuda(sums, x):
    """Sums of x and x^2 over a group of channels, for every frame: (groups, B, T)."""
    t, group, b = cuda.grid(1), cuda.blockIdx.y, cuda.blockIdx.z
    C, T = x.shape[1], x.shape[2]
    if t < T:
        total, total_squares = 0.0, 0.0
        for c in range(group * CHANNELS, min(C, (group + 1) * CHANNELS)):
            value = np.float64(x[b, c, t])
            total += value
            total_squares += value * value
        sums.s[group, b, t] = total
        sums.q[group, b, t] = total_squares


@cuda_function
def _scan(values, i):
    """values[i] <- values[0] + ... + values[i], in shared memory. Each round doubles the number of terms."""
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
def _scan_forward_cuda(sums, totals, parts, norm):
    """Running sums within each tile of frames, (B, T), and the tile's totals (2, B, tiles), from Sums in parts."""
    s_tile = cuda.shared.array(THREADS, np.float64)
    q_tile = cuda.shared.array(THREADS, np.float64)
    i, tile, b = cuda.threadIdx.x, cuda.blockIdx.x, cuda.blockIdx.y
    t, T = tile * THREADS + i, sums.s.shape[1]
    total, total_squares = 0.0, 0.0
    if t < T:
        for part in range(len(parts.s)):
            total += parts.s[part, b, t]
            total_squares += parts.q[part, b, t]
    s_tile[i] = total
    q_tile[i] = total_squares
    cuda.syncthreads()
    if norm != CHANNEL:
        _scan(s_tile, i)
        _scan(q_tile, i)
    if t < T:
        sums.s[b, t] = s_tile[i]
        sums.q[b, t] = q_tile[i]
    if i == THREADS - 1:
        totals[0, b, tile] = s_tile[i]
        totals[1, b, tile] = q_tile[i]


@cuda_kernel
def _statistics_forward_cuda(statistics, sums, totals, C, norm, eps):
    """Mean m and factor r = 1 / sqrt(v + eps) of every frame, over the frames that its norm sees."""
    scratch = cuda.shared.array(THREADS, np.float64)
    i, tile, b = cuda.threadIdx.x, cuda.blockIdx.x, cuda.blockIdx.y
    t, T = tile * THREADS + i, statistics.m.shape[1]
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
            total += sums.s[b, t]
            total_squares += sums.q[b, t]
            n = C * (t + 1)
        elif norm == CHANNEL:
            total, total_squares, n = sums.s[b, t], sums.q[b, t], C
        mean = total / n
        statistics.m[b, t] = mean
        statistics.r[b, t] = 1 / math.sqrt(max(total_squares / n - mean * mean, 0.0) + eps)


@cuda_kernel
def _normalise_cuda(y, statistics, x, gamma, beta):
    m, r = statistics
    t, c, b = cuda.grid(1), cuda.blockIdx.y, cuda.blockIdx.z
    if t < x.shape[2]:
        y[b, c, t] = gamma[c] * ((x[b, c, t] - m[b, t]) * r[b, t]) + beta[c]


@cuda_kernel
def _norm_backward_sums_cuda(sums, dgamma, dbeta, dy, x, statistics, gamma):
    """The sums of g r and g r xhat over a group of channels, for every frame: (groups, B, T).

    Also the parts of dgamma and dbeta, for every tile of frames: (B * tiles, C).
    """
    m, r = statistics
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
        sums.s[group, b, t] = total
        sums.q[group, b, t] = total_x


@cuda_kernel
def _scan_backward_cuda(spread, totals, parts, statistics, C, norm):
    """Sums of dm / n and 2 dv / n from each frame to the end of its tile, and the tile's totals (2, B, tiles).

    The frames are counted from the last one, T - 1: a tile's first thread has the tile's last frame.
    """
    a_tile = cuda.shared.array(THREADS, np.float64)
    d_tile = cuda.shared.array(THREADS, np.float64)
    i, tile, b = cuda.threadIdx.x, cuda.blockIdx.x, cuda.blockIdx.y
    (m, r), T = statistics, spread.A.shape[1]
    t = T - 1 - (tile * THREADS + i)
    dm, dv = 0.0, 0.0
    if t >= 0:
        sum_g, sum_gx = 0.0, 0.0
        for part in range(len(parts.s)):
            sum_g += parts.s[part, b, t]
            sum_gx += parts.q[part, b, t]
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
        spread.A[b, t] = a_tile[i]
        spread.D[b, t] = d_tile[i]
    if i == THREADS - 1:
        totals[0, b, tile] = a_tile[i]
        totals[1, b, tile] = d_tile[i]


@cuda_kernel
def _statistics_backward_cuda(spread, of_tiles, totals, norm):
    """A and D of every frame.

    The cumulative norm adds the totals of the later tiles to `of_tiles`, the sums within a tile. The global norm takes
    the totals of all tiles instead.
    """
    scratch = cuda.shared.array(THREADS, np.float64)
    i, tile, b = cuda.threadIdx.x, cuda.blockIdx.x, cuda.blockIdx.y
    (A, D), T = of_tiles, spread.A.shape[1]
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
        spread.A[b, t] = later
        spread.D[b, t] = later_x


@cuda_kernel
def _norm_backward_cuda(dx, dy, x, r, spread, gamma):
    A, D = spread
    t, c, b = cuda.grid(1), cuda.blockIdx.y, cuda.blockIdx.z
    if t < x.shape[2]:  # in the forward pass this was xhat = (x - m) * r
        dx[b, c, t] = gamma[c] * dy[b, c, t] * r[b, t] + A[b, t] + x[b, c, t] * D[b, t]


def parts_of_sums(parts, statistics):
    """New Sums of shape (parts, B, T) on the GPU, with unknown contents."""
    shape = (parts, *statistics.m.shape)
    return Sums(*(empty(shape, like=statistics.m, dtype=np.float64) for _ in range(2)))


def statistics_forward_cuda(statistics, parts, C, norm, eps):
    """m and r (B, T) from the sums of x and x^2 over C channels, which come in parts (parts, B, T)."""
    m = statistics.m
    B, T = m.shape
    s, q, totals = (empty(shape, like=m, dtype=np.float64) for shape in ((B, T), (B, T), (2, B, tiles(T))))
    grid = tiles(T), B
    _scan_forward_cuda[grid, THREADS](Sums(s, q), totals, parts, norm)
    _statistics_forward_cuda[grid, THREADS](statistics, Sums(s, q), totals, C, norm, eps)


def statistics_backward_cuda(spread, parts, statistics, C, norm):
    """A and D (B, T) from the sums of g and g xhat over the channels. The norm's input has the gradient g + A + x D."""
    m = statistics.m
    B, T = m.shape
    A, D, totals = (empty(shape, like=m, dtype=np.float64) for shape in ((B, T), (B, T), (2, B, tiles(T))))
    grid = tiles(T), B
    _scan_backward_cuda[grid, THREADS](Spread(A, D), totals, parts, statistics, C, norm)
    _statistics_backward_cuda[grid, THREADS](spread, Spread(A, D), totals, norm)


def layer_norm_forward_cuda(norm, y, statistics, x, gamma, beta, eps):
    B, C, T = x.shape
    parts = parts_of_sums(tiles(C, CHANNELS), statistics)
    _frame_sums_cuda[(tiles(T), tiles(C, CHANNELS), B), THREADS](parts, x)
    statistics_forward_cuda(statistics, parts, C, norm, eps)
    _normalise_cuda[(tiles(T), C, B), THREADS](y, statistics, x, gamma, beta)


def layer_norm_backward_cuda(norm, dx, dgamma, dbeta, dy, x, statistics, gamma):
    B, C, T = x.shape
    parts = parts_of_sums(tiles(C, CHANNELS), statistics)
    dgamma_parts, dbeta_parts = (empty((B * tiles(T), C), like=x, dtype=np.float64) for _ in range(2))
    spread = Spread(*(empty((B, T), like=statistics.m) for _ in range(2)))
    _norm_backward_sums_cuda[(tiles(T), tiles(C, CHANNELS), B), THREADS](
        parts, dgamma_parts, dbeta_parts, dy, x, statistics, gamma
    )
    statistics_backward_cuda(spread, parts, statistics, C, norm)
    _norm_backward_cuda[(tiles(T), C, B), THREADS](dx, dy, x, statistics.r, spread, gamma)
    sum_parts(dgamma, dgamma_parts)
    sum_parts(dbeta, dbeta_parts)
