"""Dilated depthwise convolution: every channel looks along time by itself.

With this op a frame of a Conv-TasNet block sees its neighbours in time. The K taps stand `dilation` frames apart.
The dilation doubles from block to block, so the receptive field grows with powers of two.

Shapes:   x (B, C, T),  w (C, K),  b (C,)  ->  y (B, C, T)

Tap k reads the frame that is `offset(k)` frames later than the one it writes. The last tap reads `lookahead` frames
ahead. The first tap then reads (K - 1)*dilation - lookahead frames back:

    offset(k) = lookahead - (K - 1 - k)*dilation

    lookahead = 0                        causal: nothing from the future
    lookahead = (K - 1)*dilation // 2    centred

Forward:  y[c, t] = b[c] + sum_k  w[c, k] * x[c, t + offset(k)]        x is 0 outside 0 <= t < T

Backward: x[c, s] was read for every y[c, t] with t + offset(k) = s, that is, t = s - offset(k):

    dx[c, s] = sum_k  w[c, k] * dy[c, s - offset(k)]                   dy is 0 outside, too
    dw[c, k] = sum_t  dy[c, t] * x[c, t + offset(k)]
    db[c]    = sum_t  dy[c, t]

On a GPU, a block of threads takes a tile of frames of one channel. Its taps reach the tile and a halo of
(K - 1)*dilation frames beside it. These frames are read once into shared memory, and used K times. The backward sums
dw over the frames s that were read, not over the frames t that were written. So it needs a halo of dy, but none of x:

    dw[c, k] = sum_s  dy[c, s - offset(k)] * x[c, s]
"""

import numpy as np

from tasnet_np.compute.arrays import empty, run, run_backward, sizes
from tasnet_np.compute.cpu import cpu_kernel
from tasnet_np.compute.gpu import THREADS, block_sum, cuda, cuda_kernel, sum_parts, tiles


def _tap(T, K, k, dilation, lookahead):
    """first, last, offset: tap k reads x[first + offset : last + offset] for y[first:last]."""
    offset = lookahead - (K - 1 - k) * dilation
    first = min(T, max(0, -offset))
    last = max(first, min(T, T - offset))
    return first, last, offset


def depthwise_forward_ref(x, w, b, *, dilation=1, lookahead=0):
    T, K = x.shape[-1], w.shape[1]
    y = np.zeros_like(x) + b[:, None]
    for k in range(K):
        first, last, offset = _tap(T, K, k, dilation, lookahead)
        y[:, :, first:last] += w[:, k, None] * x[:, :, first + offset : last + offset]
    return y


def depthwise_backward_ref(dy, x, w, b, *, dilation=1, lookahead=0):
    T, K = x.shape[-1], w.shape[1]
    dx = np.zeros_like(x)
    dw = np.zeros_like(w)
    for k in range(K):
        first, last, offset = _tap(T, K, k, dilation, lookahead)
        read = slice(first + offset, last + offset)
        dx[:, :, read] += w[:, k, None] * dy[:, :, first:last]
        dw[:, k] = (dy[:, :, first:last] * x[:, :, read]).sum(axis=(0, 2))
    return dx, dw, dy.sum(axis=(0, 2))


@cpu_kernel
def _depthwise_forward_cpu(y, x, w, b, dilation, lookahead):
    C, T = x.shape
    K = w.shape[1]
    for c in range(C):
        y[c] = b[c]
        for k in range(K):
            offset = lookahead - (K - 1 - k) * dilation
            first = min(T, max(0, -offset))
            last = max(first, min(T, T - offset))
            tap, written, read = w[c, k], y[c, first:last], x[c, first + offset : last + offset]
            for t in range(len(written)):
                written[t] += tap * read[t]


@cpu_kernel
def _depthwise_backward_cpu(dx, dw, db, dy, x, w, dilation, lookahead):
    C, T = x.shape
    K = w.shape[1]
    for c in range(C):
        dx[c] = 0
        for k in range(K):
            offset = lookahead - (K - 1 - k) * dilation
            first = min(T, max(0, -offset))
            last = max(first, min(T, T - offset))
            tap, total = w[c, k], dw.dtype.type(0)
            upstream, read = dy[c, first:last], x[c, first + offset : last + offset]
            written = dx[c, first + offset : last + offset]
            for t in range(len(upstream)):  # in the forward pass this was y += tap * x
                written[t] += tap * upstream[t]
                total += upstream[t] * read[t]
            dw[c, k] = total
        upstream, total = dy[c], db.dtype.type(0)
        for t in range(T):
            total += upstream[t]
        db[c] = total


@cuda_kernel
def _depthwise_forward_tiles_cuda(y, x, w, b, dilation, lookahead):
    T, K = x.shape[2], w.shape[1]
    i, c, sample = cuda.threadIdx.x, cuda.blockIdx.y, cuda.blockIdx.z
    start, halo = cuda.blockIdx.x * THREADS, (K - 1) * dilation
    row = cuda.shared.array(0, x.dtype)  # frames from start - halo + lookahead on
    for j in range(i, THREADS + halo, THREADS):
        t = start - halo + lookahead + j
        row[j] = 0
        if t >= 0 and t < T:
            row[j] = x[sample, c, t]
    cuda.syncthreads()
    t = start + i
    if t < T:
        total = b[c]
        for k in range(K):
            total += w[c, k] * row[i + k * dilation]
        y[sample, c, t] = total


@cuda_kernel
def _depthwise_backward_tiles_cuda(dx, dw, db, dy, x, w, dilation, lookahead):
    """Makes dx, and for each tile its part of dw (parts, C, K) and of db (parts, C)."""
    T, K = x.shape[2], w.shape[1]
    i, c, sample = cuda.threadIdx.x, cuda.blockIdx.y, cuda.blockIdx.z
    part = sample * cuda.gridDim.x + cuda.blockIdx.x
    start, halo = cuda.blockIdx.x * THREADS, (K - 1) * dilation
    scratch = cuda.shared.array(THREADS, np.float64)
    upstream = cuda.shared.array(0, x.dtype)  # dy of the frames from start - lookahead on
    for j in range(i, THREADS + halo, THREADS):
        t = start - lookahead + j
        upstream[j] = 0
        if t >= 0 and t < T:
            upstream[j] = dy[sample, c, t]
    cuda.syncthreads()
    s = start + i
    inside = s < T
    value, total = x.dtype.type(0), x.dtype.type(0)
    if inside:
        value = x[sample, c, s]
    for k in range(K):  # in the forward pass this was y[t] += w[k] * x[s], t = s - offset(k)
        reached = upstream[i + (K - 1 - k) * dilation]
        total += w[c, k] * reached
        dw_k = block_sum(np.float64(reached * value), scratch)
        if i == 0:
            dw[part, c, k] = dw_k
    if inside:
        dx[sample, c, s] = total
        total = upstream[i + lookahead]
    else:
        total = x.dtype.type(0)
    db_c = block_sum(np.float64(total), scratch)
    if i == 0:
        db[part, c] = db_c


def _depthwise_forward_cuda(y, x, w, b, dilation, lookahead):
    (B, C, T), K = x.shape, w.shape[1]
    shared = THREADS + (K - 1) * dilation
    _depthwise_forward_tiles_cuda[(tiles(T), C, B), THREADS, shared, x.dtype](y, x, w, b, dilation, lookahead)


def _depthwise_backward_cuda(dx, dw, db, dy, x, w, dilation, lookahead):
    (B, C, T), K = x.shape, w.shape[1]
    parts = tiles(T) * B
    dw_parts, db_parts = empty((parts, C, K), like=x), empty((parts, C), like=x)
    shared = THREADS + (K - 1) * dilation
    _depthwise_backward_tiles_cuda[(tiles(T), C, B), THREADS, shared, x.dtype](
        dx, dw_parts, db_parts, dy, x, w, dilation, lookahead
    )
    sum_parts(dw, dw_parts)
    sum_parts(db, db_parts)


def check_reach(K, dilation, lookahead):
    """Raise ValueError unless dilation >= 1 and 0 <= lookahead <= (K - 1)*dilation."""
    if dilation < 1 or not 0 <= lookahead <= (K - 1) * dilation:
        raise ValueError(
            f"{K} taps with dilation {dilation} can look 0 to (K - 1)*dilation frames ahead, not {lookahead}"
        )


def depthwise_forward(
    x: np.ndarray, w: np.ndarray, b: np.ndarray, *, dilation: int = 1, lookahead: int = 0
) -> tuple[np.ndarray, tuple]:
    """Convolve each channel with its own taps.

    Parameters
    ----------
    x : ndarray, shape (B, C, T)
    w : ndarray, shape (C, K)
        Taps; the last one is the latest in time.
    b : ndarray, shape (C,)
    dilation : int
        Frames from one tap to the next.
    lookahead : int
        Frames that the last tap reads ahead, from 0 (causal) to (K - 1)*dilation.

    Returns
    -------
    y : ndarray, shape (B, C, T)
    cache : tuple

    Raises
    ------
    ValueError, TypeError
        Shapes or dtypes that do not fit; a setting out of range.
    """
    (K,) = sizes("K", x=(x, "B C T"), w=(w, "C K"), b=(b, "C"))
    check_reach(K, dilation, lookahead)
    y = empty(x.shape, like=x)
    run(_depthwise_forward_cpu, _depthwise_forward_cuda, (y,), (x,), (w, b, dilation, lookahead))
    return y, (x, w, dilation, lookahead)


def depthwise_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, ...]:
    """Gradients of the depthwise convolution.

    Parameters
    ----------
    dy : ndarray, shape (B, C, T)
    cache : tuple
        From `depthwise_forward`.

    Returns
    -------
    dx : ndarray, shape (B, C, T)
    dw : ndarray, shape (C, K)
    db : ndarray, shape (C,)
    """
    x, *shared = cache
    w = shared[0]
    dx, shapes = empty(x.shape, like=x), [w.shape, (len(w),)]
    return run_backward(_depthwise_backward_cpu, _depthwise_backward_cuda, dx, shapes, (dy, x), shared)
