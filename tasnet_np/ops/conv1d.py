"""Strided convolution and its transpose: the encoder and the decoder of Conv-TasNet.

conv1d: waveform -> frames
--------------------------
A window of K samples moves along the waveform in steps of `stride` samples. Each window is compared with C learned
filters (the paper's basis functions). So short, overlapping pieces of sound become frames of C numbers. There is no
bias.

Shapes:   x (B, n) samples,  w (C, K) filters  ->  y (B, C, T) frames,  T = (n - K) // stride + 1

Forward:  y[c, t] = sum_k  w[c, k] * x[t*stride + k]

Backward: each product w[c, k] * x[t*stride + k] was added to one y[c, t]. So dy[c, t] goes back to
both factors of the product. Each factor gets it multiplied by the other factor:

    dw[c, k]          = sum_t  dy[c, t] * x[t*stride + k]
    dx[t*stride + k] += dy[c, t] * w[c, k]          for every c, t, k

The last line is an overlap-add: the backward of the encoder has the form of the decoder.

conv_transpose1d: frames -> waveform
------------------------------------
A frame's C numbers are the weights of C learned waveforms. Their weighted sum is a piece of K samples. The pieces of
two neighbouring frames start `stride` samples apart, and are added where they overlap. There is no bias.

Shapes:   x (B, C, T) frames,  w (C, K) waveforms  ->  y (B, n) samples,  n = (T - 1)*stride + K

Forward:  y[t*stride + k] += x[c, t] * w[c, k]      for every c, t, k

Backward: dy[t*stride + k] goes back to both factors of each product that was added there:

    dx[c, t] = sum_k  dy[t*stride + k] * w[c, k]
    dw[c, k] = sum_t  dy[t*stride + k] * x[c, t]

The first line is a strided convolution: the backward of the decoder has the form of the encoder.

How both are computed
---------------------
The windows of the samples make a matrix, windows[k, t] = samples[t*stride + k]. With it all sums are matrix products:
y = w windows and dw = dy windows^T in the encoder, windows = w^T x in the decoder. On a CPU, BLAS is the fastest for
them. The kernels there only cut out the windows and add them up. On a GPU they are the tiled product of gpu_product.py,
which reads windows[k, t] directly from the samples. In an overlap-add on a GPU, a thread makes one sample. It gathers
what all frames give to that sample, so no two threads add to the same number:

    samples[i] = sum over t, c of  x[c, t] * w[c, i - t*stride]          0 <= i - t*stride < K
"""

import numpy as np

from tasnet_np.compute.arrays import empty, run, run_backward, sizes
from tasnet_np.compute.cpu import cpu_kernel
from tasnet_np.compute.gpu import THREADS, cuda, cuda_function, cuda_kernel, sum_parts, tiles
from tasnet_np.compute.gpu_product import TiledProduct, frames, pieces_of, store, store_part, weight


def _windows_ref(samples, K, stride):
    """(B, T, K): the windows of samples (B, n)."""
    return np.lib.stride_tricks.sliding_window_view(samples, K, axis=-1)[:, ::stride]


def _overlap_add_ref(pieces, stride, n):
    """Samples (B, n) from pieces (B, T, K)."""
    samples = np.zeros((len(pieces), n), pieces.dtype)
    for t in range(pieces.shape[1]):
        samples[:, t * stride : t * stride + pieces.shape[2]] += pieces[:, t]
    return samples


def conv1d_forward_ref(x, w, *, stride):
    return np.einsum("ck,btk->bct", w, _windows_ref(x, w.shape[1], stride))


def conv1d_backward_ref(dy, x, w, *, stride):
    dw = np.einsum("bct,btk->ck", dy, _windows_ref(x, w.shape[1], stride))
    dx = _overlap_add_ref(np.einsum("bct,ck->btk", dy, w), stride, x.shape[1])
    return dx, dw


def conv_transpose1d_forward_ref(x, w, *, stride):
    n = (x.shape[2] - 1) * stride + w.shape[1]
    return _overlap_add_ref(np.einsum("bct,ck->btk", x, w), stride, n)


def conv_transpose1d_backward_ref(dy, x, w, *, stride):
    windows = _windows_ref(dy, w.shape[1], stride)
    dx = np.einsum("btk,ck->bct", windows, w)
    dw = np.einsum("btk,bct->ck", windows, x)
    return dx, dw


@cpu_kernel
def _windows_cpu(windows, samples, stride):
    """windows[k, t] = samples[t*stride + k]: windows (K, T) from samples (n,)."""
    K, T = windows.shape
    for k in range(K):
        row, shifted = windows[k], samples[k:]
        for t in range(T):
            row[t] = shifted[t * stride]


@cpu_kernel
def _overlap_add_cpu(samples, windows, stride):
    """samples[t*stride + k] += windows[k, t], where samples (n,) begin as zeros."""
    K, T = windows.shape
    samples[:] = 0
    for k in range(K):
        row, shifted = windows[k], samples[k:]
        for t in range(T):
            shifted[t * stride] += row[t]


def _conv1d_forward_cpu(y, x, w, stride):
    windows = np.empty((w.shape[1], y.shape[1]), x.dtype)  # (K, T)
    _windows_cpu(windows, x, stride)
    np.matmul(w, windows, out=y)


def _conv1d_backward_cpu(dx, dw, dy, x, w, stride):
    windows = np.empty((w.shape[1], dy.shape[1]), x.dtype)  # (K, T)
    _windows_cpu(windows, x, stride)
    np.matmul(dy, windows.T, out=dw)  # in the forward pass this was y = w windows
    _overlap_add_cpu(dx, w.T @ dy, stride)


def _conv_transpose1d_forward_cpu(y, x, w, stride):
    _overlap_add_cpu(y, w.T @ x, stride)


def _conv_transpose1d_backward_cpu(dx, dw, dy, x, w, stride):
    dwindows = np.empty((w.shape[1], x.shape[1]), x.dtype)  # (K, T)
    _windows_cpu(dwindows, dy, stride)
    np.matmul(w, dwindows, out=dx)  # in the forward pass this was windows = w^T x
    np.matmul(x, dwindows.T, out=dw)


@cuda_function
def _windows_cuda(arrays, b, k, t):
    samples, stride = arrays
    return samples[b, np.uint32(t * stride + k)]


@cuda_function
def _windows_transposed_cuda(arrays, b, t, k):
    samples, stride = arrays
    return samples[b, np.uint32(t * stride + k)]


@cuda_kernel
def _overlap_add_cuda(samples, x, w, stride):
    """Samples (B, n) from frames x (B, C, T). The decoder makes y from x so, the encoder dx from dy."""
    (C, K), T = w.shape, x.shape[2]
    i, b = cuda.grid(1), cuda.blockIdx.y
    if i < samples.shape[1]:
        total = samples.dtype.type(0)
        first = max(0, (i - K + stride) // stride)  # the frames whose windows hold sample i
        for t in range(first, min(T, i // stride + 1)):
            for c in range(C):
                total += x[b, c, t] * w[c, i - t * stride]
        samples[b, i] = total


_frames = TiledProduct(f"{__name__}._frames", weight, _windows_cuda, store)
_dw = TiledProduct(
    f"{__name__}._dw", frames, _windows_transposed_cuda, store_part, columns=64, right_along_k=True
)


def _analyse_cuda(y, samples, w, stride):
    """Frames y (B, C, T) = w windows."""
    B, C, T = y.shape
    _frames.launch((y,), (w,), (samples, stride), (B, C, T, w.shape[1]))


def _synthesise_cuda(samples, x, w, stride):
    _overlap_add_cuda[(tiles(samples.shape[1]), len(samples)), THREADS](samples, x, w, stride)


def _weight_gradient_cuda(dw, x, samples, stride):
    """dw (C, K) = x windows^T, summed over all examples and frames; x (B, C, T)."""
    (B, C, T), (_, K) = x.shape, dw.shape
    pieces = pieces_of(T)
    parts = empty((B * pieces, C, K), like=x)
    _dw.launch((parts,), (x,), (samples, stride), (B, C, K, T), pieces=pieces)
    sum_parts(dw, parts)


def _conv1d_backward_cuda(dx, dw, dy, x, w, stride):
    _weight_gradient_cuda(dw, dy, x, stride)
    _synthesise_cuda(dx, dy, w, stride)


def _conv_transpose1d_backward_cuda(dx, dw, dy, x, w, stride):
    _analyse_cuda(dx, dy, w, stride)
    _weight_gradient_cuda(dw, x, dy, stride)


def conv1d_forward(x: np.ndarray, w: np.ndarray, *, stride: int) -> tuple[np.ndarray, tuple]:
    """Encode samples into frames.

    Parameters
    ----------
    x : ndarray, shape (B, n)
        Samples; n >= K.
    w : ndarray, shape (C, K)
        Filters.
    stride : int
        Samples from one window to the next.

    Returns
    -------
    y : ndarray, shape (B, C, T)
        Frames; T = (n - K) // stride + 1.
    cache : tuple

    Raises
    ------
    ValueError, TypeError
        Shapes or dtypes that do not fit; fewer samples than one window.
    """
    B, n, C, K = sizes("B n C K", x=(x, "B n"), w=(w, "C K"))
    if n < K:
        raise ValueError(f"x has {n} samples, fewer than one window of {K}: pad it")
    y = empty((B, C, (n - K) // stride + 1), like=x)
    run(_conv1d_forward_cpu, _analyse_cuda, (y,), (x,), (w, stride))
    return y, (x, w, stride)


def conv1d_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, ...]:
    """Gradients of the encoder.

    Parameters
    ----------
    dy : ndarray, shape (B, C, T)
    cache : tuple
        From `conv1d_forward`.

    Returns
    -------
    dx : ndarray, shape (B, n)
    dw : ndarray, shape (C, K)
    """
    x, w, stride = cache
    dx = empty(x.shape, like=x)
    return run_backward(_conv1d_backward_cpu, _conv1d_backward_cuda, dx, [w.shape], (dy, x), (w, stride))


def conv_transpose1d_forward(x: np.ndarray, w: np.ndarray, *, stride: int) -> tuple[np.ndarray, tuple]:
    """Decode frames into samples.

    Parameters
    ----------
    x : ndarray, shape (B, C, T)
        Frames.
    w : ndarray, shape (C, K)
        Waveforms.
    stride : int
        Samples from one frame's piece to the next.

    Returns
    -------
    y : ndarray, shape (B, n)
        Samples; n = (T - 1)*stride + K.
    cache : tuple

    Raises
    ------
    ValueError, TypeError
        Shapes or dtypes that do not fit.
    """
    B, C, T, K = sizes("B C T K", x=(x, "B C T"), w=(w, "C K"))
    y = empty((B, (T - 1) * stride + K), like=x)
    run(_conv_transpose1d_forward_cpu, _synthesise_cuda, (y,), (x,), (w, stride))
    return y, (x, w, stride)


def conv_transpose1d_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, ...]:
    """Gradients of the decoder.

    Parameters
    ----------
    dy : ndarray, shape (B, n)
    cache : tuple
        From `conv_transpose1d_forward`.

    Returns
    -------
    dx : ndarray, shape (B, C, T)
    dw : ndarray, shape (C, K)
    """
    x, w, stride = cache
    dx = empty(x.shape, like=x)
    shapes, inputs = [w.shape], (dy, x)
    return run_backward(
        _conv_transpose1d_backward_cpu, _conv_transpose1d_backward_cuda, dx, shapes, inputs, (w, stride)
    )
