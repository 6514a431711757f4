"""Is this gradient right? Finite differences.

A backward pass claims: if the output's gradient is dy, then the input's gradient is dx. The check
takes a random dy, calls  L = sum(dy * forward(x))  the loss, and compares dx with

    (L(x + h) - L(x - h)) / (2 h)          for every single element of every array, in float64.

dy must be random: with a dy of ones, sums over time hide a reversed kernel, and sums over a norm's
set are zero whatever the backward does.
"""

import numpy as np

TOLERANCE = 1e-6  # of the largest gradient, in float64


def relative_error(actual, expected):
    """The largest difference, relative to the largest expected value; inf if anything is not finite."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    if actual.shape != expected.shape:
        raise ValueError(f"shapes {actual.shape} and {expected.shape} differ")
    if not (np.isfinite(actual).all() and np.isfinite(expected).all()):
        return np.inf
    largest = np.abs(expected).max()
    difference = np.abs(actual - expected).max()
    return difference / largest if largest > 0 else difference


def numerical_gradient(loss, array, step=1e-5):
    """Central differences of the scalar function `loss()` with respect to each element of `array`.

    `array` is changed in place while this runs and is left as it was.
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


def check_gradients(forward, backward, arrays, settings, seed=0):
    """Largest relative error of a backward pass, over all its arrays and all their elements.

    Parameters
    ----------
    forward, backward : as in the contract: `y, cache = forward(*arrays, **settings)` and
        `gradients = backward(dy, cache)`
    arrays : list of float64 arrays
    settings : dict
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


def upstream(y, seed=0):
    """A random gradient for an output, or for each of a tuple of outputs."""
    rng = np.random.default_rng(seed)
    if isinstance(y, tuple):
        return tuple(rng.standard_normal(each.shape).astype(each.dtype) for each in y)
    return rng.standard_normal(y.shape).astype(y.dtype)


def inner_product(dy, y):
    """sum(dy * y), over all outputs if there are several."""
    if isinstance(y, tuple):
        return sum(inner_product(*pair) for pair in zip(dy, y, strict=True))
    return float((dy * y).sum())


def directional_error(loss, arrays, gradients, seed=0, step=1e-7):
    """Error of all gradients at once: the median over five random directions.

    For arrays too many to move one by one: with v a random direction in the space of all of them,
    (L(a + h v) - L(a - h v)) / (2 h) must be sum(gradient * v). The error is relative to the norm of
    the gradient, which is what that sum amounts to on average. A wrong gradient is wrong in every
    direction; but now and then a step carries some ReLU across its kink, so one direction is not enough.
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


def check_op(case, path="ops", seed=0):
    """Largest relative error of one case's backward pass: "ops" (compiled) or "reference" (NumPy)."""
    return check_gradients(*case.op.pair(path), *case.inputs(seed), seed=seed)
