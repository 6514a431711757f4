"""1x1 convolution: mixes channels, frame by frame. Nearly all of Conv-TasNet's arithmetic is here.

At every frame the C channels are multiplied by the same matrix: the bottleneck, both ends of every
block (expand, residual and skip) and the layer that makes the masks are this op.

Shapes:   x (B, C, T),  w (O, C),  b (O,)  ->  y (B, O, T)

Forward:  y[o, t] = b[o] + sum_c  w[o, c] * x[c, t]           that is,  y = w x + b

Backward: each product goes back to its two factors:

    dx[c, t] = sum_o  w[o, c] * dy[o, t]                       dx = w^T dy
    dw[o, c] = sum_t  dy[o, t] * x[c, t]                       dw = dy x^T, summed over the batch
    db[o]    = sum_t  dy[o, t]

A matrix product is what BLAS, which NumPy calls, does best on a CPU: there are no Numba kernels here;
the functions that take their place call BLAS for one sample.
"""

import numpy as np

from tasnet_np.device import over_samples, sizes


def pointwise_forward_ref(x, w, b):
    return np.einsum("oc,bct->bot", w, x) + b[:, None]


def pointwise_backward_ref(dy, x, w, b):
    dx = np.einsum("oc,bot->bct", w, dy)
    dw = np.einsum("bot,bct->oc", dy, x)
    db = dy.sum(axis=(0, 2))
    return dx, dw, db


def _pointwise_forward_cpu(y, x, w, b):
    np.matmul(w, x, out=y)
    y += b[:, None]


def _pointwise_backward_cpu(dx, dw, db, dy, x, w):
    np.matmul(w.T, dy, out=dx)
    np.matmul(dy, x.T, out=dw)
    np.sum(dy, axis=1, out=db)


def pointwise_forward(x, w, b):
    """Multiply every frame of x (B, C, T) by w (O, C) and add b (O,): y (B, O, T)."""
    B, O, T = sizes("B O T", x=(x, "B C T"), w=(w, "O C"), b=(b, "O"))
    y = np.empty((B, O, T), x.dtype)
    over_samples(_pointwise_forward_cpu, (y, x), (w, b))
    return y, (x, w)


def pointwise_backward(dy, cache):
    """Return dx (B, C, T), dw (O, C) and db (O,)."""
    x, w = cache
    B, O, _ = dy.shape
    dx = np.empty(x.shape, x.dtype)
    dw = np.empty((B, *w.shape), x.dtype)  # one part per sample
    db = np.empty((B, O), x.dtype)
    over_samples(_pointwise_backward_cpu, (dx, dw, db, dy, x), (w,))
    return dx, dw.sum(axis=0), db.sum(axis=0)
