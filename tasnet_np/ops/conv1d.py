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
dw = dy frames^T, which BLAS does best: the kernels only cut the windows out and add them up.
"""

import numpy as np

from tasnet_np.device import cpu_kernel, over_samples, sizes


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


def conv1d_forward(x, w, *, stride):
    """Encode samples (B, n) with filters (C, K) into frames (B, C, T)."""
    B, n, C, K = sizes("B n C K", x=(x, "B n"), w=(w, "C K"))
    if n < K:
        raise ValueError(f"x has {n} samples, fewer than one window of {K}: pad it")
    y = np.empty((B, C, (n - K) // stride + 1), x.dtype)
    over_samples(_conv1d_forward_cpu, (y, x), (w, stride))
    return y, (x, w, stride)


def conv1d_backward(dy, cache):
    """Return dx (B, n) and dw (C, K)."""
    x, w, stride = cache
    dx = np.empty(x.shape, x.dtype)
    dw = np.empty((len(x), *w.shape), x.dtype)  # one part per sample
    over_samples(_conv1d_backward_cpu, (dx, dw, dy, x), (w, stride))
    return dx, dw.sum(axis=0)
