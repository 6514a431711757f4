"""Overlap-add: the decoder of Conv-TasNet, the transpose of the encoder's convolution.

Every frame of C numbers is a recipe for K samples: the sum of C learned waveforms. The pieces are laid
down every `stride` samples and added where they overlap. There is no bias.

Shapes:   x (B, C, T) frames,  w (C, K) waveforms  ->  y (B, n) samples,  n = (T - 1)*stride + K

Forward:  y[t*stride + k] += x[c, t] * w[c, k]      for every c, t, k

Backward: dy[t*stride + k] goes back to both factors of each product that was added there:

    dx[c, t] = sum_k  dy[t*stride + k] * w[c, k]
    dw[c, k] = sum_t  dy[t*stride + k] * x[c, t]

The first line is a strided convolution: the backward of the decoder has the form of the encoder. As there, the
sums are matrix products (frames = w^T x), for BLAS; the kernels lay the pieces down and pick them up again.
"""

import numpy as np

from tasnet_np.device import cpu_kernel, over_samples, sizes


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


def conv_transpose1d_forward(x, w, *, stride):
    """Decode frames (B, C, T) with waveforms (C, K) into samples (B, (T - 1)*stride + K)."""
    B, C, T, K = sizes("B C T K", x=(x, "B C T"), w=(w, "C K"))
    y = np.empty((B, (T - 1) * stride + K), x.dtype)
    over_samples(_conv_transpose1d_forward_cpu, (y, x), (w, stride))
    return y, (x, w, stride)


def conv_transpose1d_backward(dy, cache):
    """Return dx (B, C, T) and dw (C, K)."""
    x, w, stride = cache
    dx = np.empty(x.shape, x.dtype)
    dw = np.empty((len(x), *w.shape), x.dtype)  # one part per sample
    over_samples(_conv_transpose1d_backward_cpu, (dx, dw, dy, x), (w, stride))
    return dx, dw.sum(axis=0)
