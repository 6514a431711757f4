"""Element by element: ReLU, PReLU, sigmoid, softmax over sources, and the joins add and multiply.

PReLU comes twice in every block and once before the masks. Sigmoid (or softmax, or ReLU) makes the masks.
`add` is the residual and the skip connection. `multiply` applies the masks to the encoded mixture.

Shapes:   any (B, ...); softmax and multiply take (B, S, C, T), one (C, T) per source

    op        forward                                 backward
    relu      y = max(x, 0)                           dx = dy where x > 0, else 0
    prelu     y = x where x > 0, else alpha * x       dx = dy where x > 0, else alpha * dy
                                                      dalpha = sum over x <= 0 of dy * x
    sigmoid   y = 1 / (1 + exp(-x))                   dx = dy * y * (1 - y)
    softmax   y_s = exp(x_s) / sum_j exp(x_j)         dx_s = y_s * (dy_s - sum_j dy_j * y_j)
    add       y = a + b                               da = db = dy
    multiply  y_s = a_s * b                           da_s = dy_s * b,   db = sum_s dy_s * a_s

Sigmoid: y' = exp(-x) / (1 + exp(-x))^2 = y (1 - y). Softmax: y_j changes with x_s by y_j (1[j = s] - y_s). The sum
of that over j, weighted by the upstream gradient dy_j, is the line above.

relu and add are single NumPy expressions, which already run at the speed of memory. So they have no CPU kernels:
their public functions call the references. (a + b works on a GPU, too: see compute/gpu.py.) The sigmoid takes its exp
from NumPy, which computes it in vector instructions. In Numba it would be a call for each number.
"""

import math

import numpy as np

from tasnet_np.compute.arrays import by_place, empty, run, run_backward, sizes
from tasnet_np.compute.cpu import cpu_kernel
from tasnet_np.ops.elementwise_cuda import (
    multiply_backward_cuda,
    multiply_forward_cuda,
    prelu_backward_cuda,
    prelu_forward_cuda,
    relu_backward_cuda,
    relu_forward_cuda,
    sigmoid_backward_cuda,
    sigmoid_forward_cuda,
    softmax_backward_cuda,
    softmax_forward_cuda,
)


def relu_forward_ref(x):
    return np.maximum(x, 0)


def relu_backward_ref(dy, x):
    return (np.where(x > 0, dy, 0),)


def prelu_forward_ref(x, alpha):
    return np.where(x > 0, x, alpha * x)


def prelu_backward_ref(dy, x, alpha):
    dx = np.where(x > 0, dy, alpha * dy)
    dalpha = np.where(x > 0, 0, dy * x).sum()
    return dx, np.full_like(alpha, dalpha)


def sigmoid_forward_ref(x):
    small = np.exp(-np.abs(x))  # in (0, 1]: never overflows
    return np.where(x >= 0, 1, small) / (1 + small)


def sigmoid_backward_ref(dy, x):
    y = sigmoid_forward_ref(x)
    return (dy * y * (1 - y),)


def softmax_forward_ref(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def softmax_backward_ref(dy, x):
    y = softmax_forward_ref(x)
    return (y * (dy - (dy * y).sum(axis=1, keepdims=True)),)


def add_forward_ref(a, b):
    return a + b


def add_backward_ref(dy, a, b):
    return dy, dy


def multiply_forward_ref(a, b):
    return a * b[:, None]


def multiply_backward_ref(dy, a, b):
    return dy * b[:, None], (dy * a).sum(axis=1)


@cpu_kernel
def _prelu_forward_cpu(y, x, alpha):
    slope = alpha[0]
    for i in range(x.size):
        y[i] = x[i] if x[i] > 0 else slope * x[i]


@cpu_kernel
def _prelu_backward_cpu(dx, dalpha, dy, x, alpha):
    slope, total = alpha[0], 0.0
    for i in range(x.size):  # in the forward pass this was y = x if x > 0 else alpha * x
        positive = x[i] > 0
        dx[i] = dy[i] if positive else slope * dy[i]
        total += 0.0 if positive else np.float64(dy[i]) * x[i]
    dalpha[0] = total


def _sigmoid_forward_cpu(y, x):
    with np.errstate(over="ignore"):  # exp(-x) may be infinite: then y = 0
        for start in range(0, y.size, 16384):  # in pieces that stay in a core's cache
            part = y[start : start + 16384]
            np.negative(x[start : start + 16384], out=part)
            np.exp(part, out=part)
            part += 1
            np.reciprocal(part, out=part)


@cpu_kernel
def _sigmoid_backward_cpu(dx, dy, y):
    for i in range(y.size):  # in the forward pass this was y = 1 / (1 + exp(-x))
        dx[i] = dy[i] * y[i] * (1 - y[i])


@cpu_kernel
def _softmax_forward_cpu(y, x):
    S, n = x.shape
    for i in range(n):
        largest = x[0, i]
        for s in range(1, S):
            largest = max(largest, x[s, i])
        total = y.dtype.type(0)
        for s in range(S):
            y[s, i] = math.exp(x[s, i] - largest)
            total += y[s, i]
        for s in range(S):
            y[s, i] /= total


@cpu_kernel
def _softmax_backward_cpu(dx, dy, y):
    S, n = y.shape
    for i in range(n):
        total = y.dtype.type(0)
        for s in range(S):
            total += dy[s, i] * y[s, i]
        for s in range(S):  # in the forward pass this was y_s = exp(x_s) / sum_j exp(x_j)
            dx[s, i] = y[s, i] * (dy[s, i] - total)


@cpu_kernel
def _multiply_forward_cpu(y, a, b):
    for s in range(len(a)):
        out, mask = y[s], a[s]
        for i in range(len(b)):
            out[i] = mask[i] * b[i]


@cpu_kernel
def _multiply_backward_cpu(da, db, dy, a, b):
    db[:] = 0
    for s in range(len(a)):
        out, upstream, mask = da[s], dy[s], a[s]
        for i in range(len(b)):  # in the forward pass this was y_s = a_s * b
            out[i] = upstream[i] * b[i]
            db[i] += upstream[i] * mask[i]


def _flat(x):
    """One row per sample: (B, size)."""
    return x.reshape(len(x), -1)


def _per_source(x):
    """One row per source: (B, S, size)."""
    return x.reshape(*x.shape[:2], -1)


def relu_forward(x: np.ndarray) -> tuple[np.ndarray, tuple]:
    """max(x, 0).

    Parameters
    ----------
    x : ndarray, any shape

    Returns
    -------
    y : ndarray, shape of x
    cache : tuple
    """
    return by_place(x, relu_forward_ref, relu_forward_cuda)(x), (x,)


def relu_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, ...]:
    """Gradient of ReLU.

    Parameters
    ----------
    dy : ndarray, shape of the forward's x
    cache : tuple
        From `relu_forward`.

    Returns
    -------
    dx : ndarray, of the same shape
    """
    (x,) = cache
    return by_place(x, relu_backward_ref, relu_backward_cuda)(dy, x)


def prelu_forward(x: np.ndarray, alpha: np.ndarray) -> tuple[np.ndarray, tuple]:
    """x where x > 0, else alpha * x.

    Parameters
    ----------
    x : ndarray, shape (B, ...)
    alpha : ndarray, shape (1,)
        The learned slope.

    Returns
    -------
    y : ndarray, shape of x
    cache : tuple

    Raises
    ------
    ValueError, TypeError
        Shapes or dtypes that do not fit.
    """
    sizes("", x=(x.reshape(-1), "n"), alpha=(alpha, "1"))
    y = empty(x.shape, like=x)
    run(_prelu_forward_cpu, prelu_forward_cuda, (_flat(y),), (_flat(x),), (alpha,))
    return y, (x, alpha)


def prelu_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, ...]:
    """Gradients of PReLU.

    Parameters
    ----------
    dy : ndarray, shape (B, ...)
    cache : tuple
        From `prelu_forward`.

    Returns
    -------
    dx : ndarray, shape (B, ...)
    dalpha : ndarray, shape (1,)
    """
    x, alpha = cache
    dx = empty(x.shape, like=x)
    inputs = _flat(dy), _flat(x)
    _, dalpha = run_backward(_prelu_backward_cpu, prelu_backward_cuda, _flat(dx), [(1,)], inputs, (alpha,))
    return dx, dalpha


def sigmoid_forward(x: np.ndarray) -> tuple[np.ndarray, tuple]:
    """1 / (1 + exp(-x)).

    Parameters
    ----------
    x : ndarray, shape (B, ...)

    Returns
    -------
    y : ndarray, shape of x
    cache : tuple

    Raises
    ------
    ValueError, TypeError
        An empty array; a dtype other than float32 and float64.
    """
    sizes("", x=(x.reshape(-1), "n"))
    y = empty(x.shape, like=x)
    run(_sigmoid_forward_cpu, sigmoid_forward_cuda, (_flat(y),), (_flat(x),))
    return y, (y,)


def sigmoid_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, ...]:
    """Gradient of the sigmoid.

    Parameters
    ----------
    dy : ndarray, shape (B, ...)
    cache : tuple
        From `sigmoid_forward`.

    Returns
    -------
    dx : ndarray, shape (B, ...)
    """
    (y,) = cache
    dx = empty(y.shape, like=y)
    run(_sigmoid_backward_cpu, sigmoid_backward_cuda, (_flat(dx),), (_flat(dy), _flat(y)))
    return (dx,)


def softmax_forward(x: np.ndarray) -> tuple[np.ndarray, tuple]:
    """Softmax over the sources: at every entry the masks sum to one.

    Parameters
    ----------
    x : ndarray, shape (B, S, C, T)
        S is the number of sources.

    Returns
    -------
    y : ndarray, shape of x
    cache : tuple

    Raises
    ------
    ValueError, TypeError
        Shapes or dtypes that do not fit.
    """
    sizes("", x=(x, "B S C T"))
    y = empty(x.shape, like=x)
    run(_softmax_forward_cpu, softmax_forward_cuda, (_per_source(y),), (_per_source(x),))
    return y, (y,)


def softmax_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, ...]:
    """Gradient of the softmax.

    Parameters
    ----------
    dy : ndarray, shape (B, S, C, T)
    cache : tuple
        From `softmax_forward`.

    Returns
    -------
    dx : ndarray, shape (B, S, C, T)
    """
    (y,) = cache
    dx = empty(y.shape, like=y)
    inputs = _per_source(dy), _per_source(y)
    run(_softmax_backward_cpu, softmax_backward_cuda, (_per_source(dx),), inputs)
    return (dx,)


def add_forward(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, tuple]:
    """a + b.

    Parameters
    ----------
    a, b : ndarray, of one shape

    Returns
    -------
    y : ndarray, of the same shape
    cache : tuple

    Raises
    ------
    ValueError
        Two different shapes.
    """
    if a.shape != b.shape:
        raise ValueError(f"a {a.shape} and b {b.shape} must have one shape")
    return add_forward_ref(a, b), ()


def add_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, ...]:
    """Gradients of the sum.

    Parameters
    ----------
    dy : ndarray, shape of both terms
    cache : tuple
        From `add_forward`.

    Returns
    -------
    da, db : ndarray, of the same shape
        Both are dy itself, not a copy.
    """
    return dy, dy


def multiply_forward(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, tuple]:
    """Apply the mask of each source to the frames.

    Parameters
    ----------
    a : ndarray, shape (B, S, C, T)
        Masks.
    b : ndarray, shape (B, C, T)
        Frames.

    Returns
    -------
    y : ndarray, shape (B, S, C, T)
    cache : tuple

    Raises
    ------
    ValueError, TypeError
        Shapes or dtypes that do not fit.
    """
    sizes("", a=(a, "B S C T"), b=(b, "B C T"))
    y = empty(a.shape, like=a)
    inputs = _per_source(a), _flat(b)
    run(_multiply_forward_cpu, multiply_forward_cuda, (_per_source(y),), inputs)
    return y, (a, b)


def multiply_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, ...]:
    """Gradients of the masked frames.

    Parameters
    ----------
    dy : ndarray, shape (B, S, C, T)
    cache : tuple
        From `multiply_forward`.

    Returns
    -------
    da : ndarray, shape (B, S, C, T)
    db : ndarray, shape (B, C, T)
    """
    a, b = cache
    da, db = empty(a.shape, like=a), empty(b.shape, like=b)
    outputs, inputs = (_per_source(da), _flat(db)), (_per_source(dy), _per_source(a), _flat(b))
    run(_multiply_backward_cpu, multiply_backward_cuda, outputs, inputs)
    return da, db
