"""Is this gradient right? Finite differences, for the table of cases in `ops/cases.py` and for whole models.

A backward pass claims: if the output's gradient is dy, then the input's gradient is dx. The check
takes a random dy and the loss  L = sum(dy * forward(x)),  and compares dx with

    (L(x + h) - L(x - h)) / (2 h)          for every single element of every array, in float64.

dy must be random. With a dy of ones, sums over time hide a reversed kernel. In a norm with gamma = 1, mean(g * xhat) is
then zero, so nothing shows that a backward has forgotten that term.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tasnet_np.ops.cases import Case

TOLERANCE = 1e-6  # largest error of a right backward in float64, relative to the largest gradient


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference of two arrays, relative to the largest expected value.

    Parameters
    ----------
    actual, expected : ndarray, of one shape

    Returns
    -------
    float
        inf if any value is not finite. The absolute difference if all expected values are 0.

    Raises
    ------
    ValueError
        Two different shapes.
    """
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    if actual.shape != expected.shape:
        raise ValueError(f"shapes {actual.shape} and {expected.shape} differ")
    if not (np.isfinite(actual).all() and np.isfinite(expected).all()):
        return np.inf
    largest = np.abs(expected).max()
    difference = np.abs(actual - expected).max()
    return difference / largest if largest > 0 else difference


def numerical_gradient(loss: Callable[[], float], array: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """Central differences of a loss with respect to each element of an array.

    Parameters
    ----------
    loss : function without arguments
        Reads `array` and returns a number.
    array : ndarray, float64
        It is changed in place during the call, and is as before at the end.
    step : float
        h in (L(x + h) - L(x - h)) / (2 h).

    Returns
    -------
    ndarray, of the shape of `array`
    """
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        value = array[index]
        array[index] = value + step
        above = loss()
        array[index] = value - step
        below = loss()
        array[index] = value
        gradient[index] = (above - below) / (2 * step)
    return gradient


def check_gradients(
    forward: Callable, backward: Callable, arrays: Sequence[np.ndarray], settings: dict, seed: int = 0
) -> float:
    """The largest error of a backward pass, over all its arrays and all their elements.

    Parameters
    ----------
    forward, backward : function
        A pair as in `tasnet_np.ops`: `y, cache = forward(*arrays, **settings)` and `gradients = backward(dy, cache)`.
    arrays : sequence of ndarray
        They are copied, as float64.
    settings : dict
    seed : int
        Of the random dy.

    Returns
    -------
    float
        As in `relative_error`. `TOLERANCE` is the limit for a right backward.
    """
    arrays = [np.array(array, np.float64) for array in arrays]
    y, cache = forward(*arrays, **settings)
    dy = upstream(y, seed)
    gradients = backward(dy, cache)

    def loss():
        return inner_product(dy, forward(*arrays, **settings)[0])

    return max(
        relative_error(gradient, numerical_gradient(loss, array))
        for gradient, array in zip(gradients, arrays, strict=True)
    )


def upstream(y: np.ndarray | tuple[np.ndarray, ...], seed: int = 0) -> np.ndarray | tuple[np.ndarray, ...]:
    """A random gradient dy for an output, of its shape and dtype; a tuple of them for a tuple of outputs."""
    rng = np.random.default_rng(seed)
    if isinstance(y, tuple):
        return tuple(rng.standard_normal(output.shape).astype(output.dtype) for output in y)
    return rng.standard_normal(y.shape).astype(y.dtype)


def inner_product(dy: np.ndarray | tuple[np.ndarray, ...], y: np.ndarray | tuple[np.ndarray, ...]) -> float:
    """sum(dy * y), over all outputs if there are several."""
    if isinstance(y, tuple):
        return sum(inner_product(*pair) for pair in zip(dy, y, strict=True))
    return float((dy * y).sum())


def directional_error(
    loss: Callable[[], float],
    arrays: Sequence[np.ndarray],
    gradients: Sequence[np.ndarray],
    seed: int = 0,
    step: float = 1e-7,
) -> float:
    """The error of all gradients at once: the median over five random directions.

    This is for arrays with too many elements to change them one by one. With v a random direction in the space of
    all elements, (L(a + h v) - L(a - h v)) / (2 h) must be sum(gradient * v). The error is relative to the norm of the
    gradient, which is the typical size of that sum. A wrong gradient is wrong in every direction. But a step sometimes
    crosses the kink of a ReLU, which spoils a direction even if the gradient is right. So the median is taken.

    Parameters
    ----------
    loss : function without arguments
        Reads the arrays and returns a number.
    arrays : sequence of ndarray, float64
        They are changed in place during the call, and are as before at the end, up to rounding.
    gradients : sequence of ndarray
        One for each array.
    seed : int
        Of the directions.
    step : float
        h above.
    """
    rng = np.random.default_rng(seed)
    return np.median([_error_along(loss, arrays, gradients, rng, step) for _ in range(5)])


def _error_along(loss, arrays, gradients, rng, step):
    directions = [rng.standard_normal(array.shape) for array in arrays]
    expected = sum(float((g * v).sum()) for g, v in zip(gradients, directions, strict=True))

    def moved(by):
        for array, v in zip(arrays, directions):
            array += by * v
        value = loss()
        for array, v in zip(arrays, directions):
            array -= by * v
        return value

    norm = np.sqrt(sum(float((g * g).sum()) for g in gradients))
    return abs((moved(step) - moved(-step)) / (2 * step) - expected) / norm


def check_op(case: Case, path: str = "ops", seed: int = 0) -> float:
    """The largest error of one case's backward pass, as in `check_gradients`.

    Parameters
    ----------
    case : tasnet_np.ops.cases.Case
    path : str
        "ops" (compiled) or "reference" (NumPy).
    seed : int
        Of the case's random arrays, and of dy.
    """
    return check_gradients(*case.op.pair(path), *case.inputs(seed), seed=seed)
