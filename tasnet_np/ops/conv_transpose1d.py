"""Overlap-add: the decoder of Conv-TasNet, the transpose of the encoder's convolution.

Every frame of C numbers is a recipe for K samples: the sum of C learned waveforms. The pieces are laid
down every `stride` samples and added where they overlap. There is no bias.

Shapes:   x (B, C, T) frames,  w (C, K) waveforms  ->  y (B, n) samples,  n = (T - 1)*stride + K

Forward:  y[t*stride + k] += x[c, t] * w[c, k]      for every c, t, k

Backward: dy[t*stride + k] goes back to both factors of each product that was added there:

    dx[c, t] = sum_k  dy[t*stride + k] * w[c, k]
    dw[c, k] = sum_t  dy[t*stride + k] * x[c, t]

The first line is a strided convolution: the backward of the decoder has the form of the encoder. As there, the
sums are matrix products (frames = w^T x), for BLAS; the kernels lay the pieces down and pick them up again. On a GPU
the products of the backward are the tiled one of product.py, and in the forward each thread makes a sample and gathers
the pieces that cover it:

    y[i] = sum over t, c of  x[c, t] * w[c, i - t*stride]          0 <= i - t*stride < K
"""

import numpy as np

from tasnet_np.device import (
    THREADS, cpu_kernel, cuda, cuda_function, cuda_kernel, empty, on_gpu, over_samples, sizes, sum_parts, tiles,
)  # fmt: skip
from tasnet_np.product import Product, frames, pieces_of, weight


def conv_transpose1d_forward_ref(x, w, *, stride):
    B, _, T = x.shape
    K = w.shape[1]
    pieces = np.einsum("bct,ck->btk", x, w)
    y = np.zeros((B, (T - 1) * stride + K), x.dtype)
    for t in range(T):
        y[:, t * stride : t * stride + K] += pieces[:, t]
    return y


def conv_transpose1d_backward_ref(dy, x, w, *, stride):
    frames = np.lib.stride_tricks.sliding_window_view(dy, w.shape[1], axis=-1)[:, ::stride]  # (B, T, K)
    dx = np.einsum("btk,ck->bct", frames, w)
    dw = np.einsum("btk,bct->ck", frames, x)
    return dx, dw


@cpu_kernel
def _overlap_add_cpu(y, frames, stride):
    K, T = frames.shape
    y[:] = 0
    for k in range(K):
        row, shifted = frames[k], y[k:]
        for t in range(T):
            shifted[t * stride] += row[t]


@cpu_kernel
def _frames_cpu(dframes, dy, stride):
    K, T = dframes.shape
    for k in range(K):
        row, shifted = dframes[k], dy[k:]
        for t in range(T):
            row[t] = shifted[t * stride]


def _conv_transpose1d_forward_cpu(y, x, w, stride):
    _overlap_add_cpu(y, w.T @ x, stride)


def _conv_transpose1d_backward_cpu(dx, dw, dy, x, w, stride):
    dframes = np.empty((w.shape[1], x.shape[1]), x.dtype)  # (K, T)
    _frames_cpu(dframes, dy, stride)
    np.matmul(w, dframes, out=dx)  # in the forward pass this was frames = w^T x
    np.matmul(x, dframes.T, out=dw)


@cuda_kernel
def _conv_transpose1d_forward_cuda(y, x, w, stride):
    (C, K), T = w.shape, x.shape[2]
    i, b = cuda.grid(1), cuda.blockIdx.y
    if i < y.shape[1]:
        total = y.dtype.type(0)
        first = max(0, (i - K + stride) // stride)  # the frames that cover sample i
        for t in range(first, min(T, i // stride + 1)):
            for c in range(C):
                total += x[b, c, t] * w[c, i - t * stride]
        y[b, i] = total


@cuda_function
def _dframes_cuda(arrays, b, k, t):
    dy, stride = arrays
    return dy[b, np.uint32(t * stride + k)]


@cuda_function
def _dframes_transposed_cuda(arrays, b, t, k):
    dy, stride = arrays
    return dy[b, np.uint32(t * stride + k)]


@cuda_function
def _conv_transpose1d_dx_cuda(outputs, others, z, b, c, t, value):
    outputs[0][b, c, t] = value
    return value, value


@cuda_function
def _conv_transpose1d_dw_cuda(outputs, others, z, b, c, k, value):
    outputs[0][z, c, k] = value
    return value, value


_dx = Product(weight, _dframes_cuda, _conv_transpose1d_dx_cuda)
_dw = Product(frames, _dframes_transposed_cuda, _conv_transpose1d_dw_cuda, columns=64, right_along_k=True)


def _conv_transpose1d_backward_cuda(dx, dw, dy, x, w, stride):
    (B, C, T), (_, K) = x.shape, w.shape
    _dx.launch((dx,), (), (w,), (dy, stride), (), B, C, T, K)
    pieces = pieces_of(T)
    parts = empty((B * pieces, C, K), like=x)
    _dw.launch((parts,), (), (x,), (dy, stride), (), B, C, K, T, pieces)
    sum_parts(dw, parts)


def conv_transpose1d_forward(x, w, *, stride):
    """Decode frames (B, C, T) with waveforms (C, K) into samples (B, (T - 1)*stride + K)."""
    B, C, T, K = sizes("B C T K", x=(x, "B C T"), w=(w, "C K"))
    y = empty((B, (T - 1) * stride + K), like=x)
    if on_gpu(x):
        _conv_transpose1d_forward_cuda[(tiles(y.shape[1]), B), THREADS](y, x, w, stride)
    else:
        over_samples(_conv_transpose1d_forward_cpu, (y, x), (w, stride))
    return y, (x, w, stride)


def conv_transpose1d_backward(dy, cache):
    """Return dx (B, C, T) and dw (C, K)."""
    x, w, stride = cache
    dx = empty(x.shape, like=x)
    if on_gpu(x):
        dw = empty(w.shape, like=x)
        _conv_transpose1d_backward_cuda(dx, dw, dy, x, w, stride)
        return dx, dw
    dw = np.empty((len(x), *w.shape), x.dtype)  # one part per sample
    over_samples(_conv_transpose1d_backward_cpu, (dx, dw, dy, x), (w, stride))
    return dx, dw.sum(axis=0)
