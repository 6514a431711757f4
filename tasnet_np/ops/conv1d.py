"""Strided convolution of the waveform: the encoder of Conv-TasNet.

Every `stride` samples, a window of K samples is compared with C learned filters (the paper's basis
functions): short, overlapping pieces of sound become frames of C numbers. There is no bias.

Shapes:   x (B, n) samples,  w (C, K) filters  ->  y (B, C, T) frames,  T = (n - K) // stride + 1

Forward:  y[c, t] = sum_k  w[c, k] * x[t*stride + k]

Backward: each product w[c, k] * x[t*stride + k] was added to one y[c, t]. So dy[c, t] goes back to
both of its factors, each multiplied by the other one:

    dw[c, k]          = sum_t  dy[c, t] * x[t*stride + k]
    dx[t*stride + k] += dy[c, t] * w[c, k]          for every c, t, k

The last line is an overlap-add: the backward of the encoder has the form of the decoder.

With the windows side by side as frames[k, t] = x[t*stride + k], all sums are matrix products, y = w frames and
dw = dy frames^T, which BLAS does best: the kernels only cut the windows out and add them up. On a GPU they are the
tiled product of product.py, which reads frames[k, t] where it stands in x. There, each thread makes a number of dx
and gathers what belongs to it, instead of all frames adding to it:

    dx[i] = sum over t, c of  dy[c, t] * w[c, i - t*stride]          0 <= i - t*stride < K
"""

import numpy as np

from tasnet_np.device import (
    THREADS, cpu_kernel, cuda, cuda_function, cuda_kernel, empty, on_gpu, over_samples, sizes, sum_parts, tiles,
)  # fmt: skip
from tasnet_np.product import Product, frames, pieces_of, weight


def conv1d_forward_ref(x, w, *, stride):
    frames = np.lib.stride_tricks.sliding_window_view(x, w.shape[1], axis=-1)[:, ::stride]  # (B, T, K)
    return np.einsum("ck,btk->bct", w, frames)


def conv1d_backward_ref(dy, x, w, *, stride):
    frames = np.lib.stride_tricks.sliding_window_view(x, w.shape[1], axis=-1)[:, ::stride]  # (B, T, K)
    dw = np.einsum("bct,btk->ck", dy, frames)
    dframes = np.einsum("bct,ck->btk", dy, w)
    dx = np.zeros_like(x)
    for t in range(dframes.shape[1]):
        dx[:, t * stride : t * stride + w.shape[1]] += dframes[:, t]
    return dx, dw


@cpu_kernel
def _frames_cpu(frames, x, stride):
    K, T = frames.shape
    for k in range(K):
        row, shifted = frames[k], x[k:]
        for t in range(T):
            row[t] = shifted[t * stride]


@cpu_kernel
def _overlap_add_cpu(dx, dframes, stride):
    K, T = dframes.shape
    dx[:] = 0
    for k in range(K):
        row, shifted = dframes[k], dx[k:]
        for t in range(T):
            shifted[t * stride] += row[t]


def _conv1d_forward_cpu(y, x, w, stride):
    frames = np.empty((w.shape[1], y.shape[1]), x.dtype)  # (K, T)
    _frames_cpu(frames, x, stride)
    np.matmul(w, frames, out=y)


def _conv1d_backward_cpu(dx, dw, dy, x, w, stride):
    frames = np.empty((w.shape[1], dy.shape[1]), x.dtype)  # (K, T)
    _frames_cpu(frames, x, stride)
    np.matmul(dy, frames.T, out=dw)  # in the forward pass this was y = w frames
    _overlap_add_cpu(dx, w.T @ dy, stride)


@cuda_function
def _frames_cuda(arrays, b, k, t):
    x, stride = arrays
    return x[b, np.uint32(t * stride + k)]


@cuda_function
def _frames_transposed_cuda(arrays, b, t, k):
    x, stride = arrays
    return x[b, np.uint32(t * stride + k)]


@cuda_function
def _conv1d_y_cuda(outputs, others, z, b, c, t, value):
    outputs[0][b, c, t] = value
    return value, value


@cuda_function
def _conv1d_dw_cuda(outputs, others, z, b, c, k, value):
    outputs[0][z, c, k] = value
    return value, value


_y = Product(weight, _frames_cuda, _conv1d_y_cuda)
_dw = Product(frames, _frames_transposed_cuda, _conv1d_dw_cuda, columns=64, right_along_k=True)


@cuda_kernel
def _conv1d_dx_cuda(dx, dy, w, stride):
    (C, K), T = w.shape, dy.shape[2]
    i, b = cuda.grid(1), cuda.blockIdx.y
    if i < dx.shape[1]:
        total = dx.dtype.type(0)
        first = max(0, (i - K + stride) // stride)  # the frames whose windows hold sample i
        for t in range(first, min(T, i // stride + 1)):
            for c in range(C):
                total += dy[b, c, t] * w[c, i - t * stride]
        dx[b, i] = total


def _conv1d_forward_cuda(y, x, w, stride):
    B, C, T = y.shape
    _y.launch((y,), (), (w,), (x, stride), (), B, C, T, w.shape[1])


def _conv1d_backward_cuda(dx, dw, dy, x, w, stride):
    (B, C, T), (_, K) = dy.shape, w.shape
    pieces = pieces_of(T)
    parts = empty((B * pieces, C, K), like=x)
    _dw.launch((parts,), (), (dy,), (x, stride), (), B, C, K, T, pieces)
    sum_parts(dw, parts)
    _conv1d_dx_cuda[(tiles(x.shape[1]), B), THREADS](dx, dy, w, stride)


def conv1d_forward(x, w, *, stride):
    """Encode samples (B, n) with filters (C, K) into frames (B, C, T)."""
    B, n, C, K = sizes("B n C K", x=(x, "B n"), w=(w, "C K"))
    if n < K:
        raise ValueError(f"x has {n} samples, fewer than one window of {K}: pad it")
    y = empty((B, C, (n - K) // stride + 1), like=x)
    if on_gpu(x):
        _conv1d_forward_cuda(y, x, w, stride)
    else:
        over_samples(_conv1d_forward_cpu, (y, x), (w, stride))
    return y, (x, w, stride)


def conv1d_backward(dy, cache):
    """Return dx (B, n) and dw (C, K)."""
    x, w, stride = cache
    dx = empty(x.shape, like=x)
    if on_gpu(x):
        dw = empty(w.shape, like=x)
        _conv1d_backward_cuda(dx, dw, dy, x, w, stride)
        return dx, dw
    dw = np.empty((len(x), *w.shape), x.dtype)  # one part per sample
    over_samples(_conv1d_backward_cpu, (dx, dw, dy, x), (w, stride))
    return dx, dw.sum(axis=0)
