"""1x1 convolution: mixes channels, frame by frame. Nearly all of Conv-TasNet's arithmetic is here.

The C channels of every frame are multiplied by the same matrix. The bottleneck, both ends of every
block (expand, residual and skip) and the layer that makes the masks are this op.

Shapes:   x (B, C, T),  w (O, C),  b (O,)  ->  y (B, O, T)

Forward:  y[o, t] = b[o] + sum_c  w[o, c] * x[c, t]           that is,  y = w x + b

Backward: dy goes back to the two factors of each product:

    dx[c, t] = sum_o  w[o, c] * dy[o, t]                       dx = w^T dy
    dw[o, c] = sum_t  dy[o, t] * x[c, t]                       dw = dy x^T, summed over the batch
    db[o]    = sum_t  dy[o, t]

On a CPU nothing is faster for a matrix product than BLAS, which NumPy calls. So there are no Numba kernels here: the
functions in their place call BLAS for one sample. On a GPU all three products are the tiled one of gpu_product.py. The
code below says only where their entries come from and where the results go. db is summed while dw is made, as that
product reads every entry of dy.
"""

import numpy as np

from tasnet_np.compute.arrays import empty, run, run_backward, sizes
from tasnet_np.compute.gpu import cuda_function, sum_parts
from tasnet_np.compute.gpu_product import (
    TiledProduct,
    frames,
    frames_transposed,
    pieces_of,
    store,
    store_part,
    weight,
    weight_transposed,
)


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


@cuda_function
def _pointwise_y_cuda(outputs, others, z, b, o, t, value):
    outputs[0][b, o, t] = value + others[0][o]
    return value, value


_y = TiledProduct(f"{__name__}._y", weight, frames, _pointwise_y_cuda)
_dx = TiledProduct(f"{__name__}._dx", weight_transposed, frames, store, left_along_k=False)
_dw = TiledProduct(
    f"{__name__}._dw", frames, frames_transposed, store_part, columns=64, right_along_k=True, row_sums=True
)


def _pointwise_forward_cuda(y, x, w, b):
    B, O, T = y.shape
    _y.launch((y,), (w,), (x,), (B, O, T, w.shape[1]), others=(b,))


def _pointwise_backward_cuda(dx, dw, db, dy, x, w):
    B, C, T = x.shape
    _dx.launch((dx,), (w,), (dy,), (B, C, T, len(w)))
    weight_gradient_cuda(dw, db, dy, x)


def weight_gradient_cuda(dw, db, dy, x):
    """dw = dy x^T and db = sum dy, over all examples and frames. Parts are made first, then added up."""
    (B, C, T), O = x.shape, dy.shape[1]
    pieces = pieces_of(T)
    dw_parts, db_parts = empty((B * pieces, O, C), like=x), empty((B * pieces, O), like=x)
    _dw.launch((dw_parts,), (dy,), (x,), (B, O, C, T), parts=(db_parts,), pieces=pieces)
    sum_parts(dw, dw_parts)
    sum_parts(db, db_parts)


def pointwise_forward(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, tuple]:
    """Multiply every frame by a matrix, and add a bias.

    Parameters
    ----------
    x : ndarray, shape (B, C, T)
    w : ndarray, shape (O, C)
    b : ndarray, shape (O,)

    Returns
    -------
    y : ndarray, shape (B, O, T)
    cache : tuple

    Raises
    ------
    ValueError, TypeError
        Shapes or dtypes that do not fit.
    """
    B, O, T = sizes("B O T", x=(x, "B C T"), w=(w, "O C"), b=(b, "O"))
    y = empty((B, O, T), like=x)
    run(_pointwise_forward_cpu, _pointwise_forward_cuda, (y,), (x,), (w, b))
    return y, (x, w)


def pointwise_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, ...]:
    """Gradients of the 1x1 convolution.

    Parameters
    ----------
    dy : ndarray, shape (B, O, T)
    cache : tuple
        From `pointwise_forward`.

    Returns
    -------
    dx : ndarray, shape (B, C, T)
    dw : ndarray, shape (O, C)
    db : ndarray, shape (O,)
    """
    x, w = cache
    dx, shapes = empty(x.shape, like=x), [w.shape, (len(w),)]
    return run_backward(_pointwise_backward_cpu, _pointwise_backward_cuda, dx, shapes, (dy, x), (w,))
