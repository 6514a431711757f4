"""The optimisers' formulas for arrays, on the CPU and on the GPU. `optimisers.py` calls them with their numbers.

theta is a parameter and g its gradient. All arrays are changed in place. A recorded step on a GPU has the same
arguments every time, so numbers that change from step to step are in arrays, too. On a GPU parameters follow each other
in memory, and so do most gradients (see `arrays.flat_runs`). So one launch treats many of them.

Where the norm of the gradient is not finite, everything stays as it was.
"""

import math

import numpy as np

from tasnet_np.compute.arrays import by_place, contiguous, empty, flat_runs
from tasnet_np.compute.cpu import cpu_kernel
from tasnet_np.compute.gpu import THREADS, block_sum, cuda, cuda_kernel, tiles

BLOCKS = 64  # most blocks of threads that sum over one array on a GPU


@cpu_kernel
def _sum_of_squares_cpu(g):
    total = 0.0
    for i in range(g.size):
        total += np.float64(g[i]) * g[i]
    return total


def _sgd_cpu(theta, v, g, numbers):
    rate, momentum = map(float, numbers)
    v *= momentum
    v += g
    theta -= rate * v


@cpu_kernel
def _adam_cpu(theta, m, v, g, numbers):
    """Adam's formulas in one pass over memory, where NumPy would need ten. numbers: see `adam`."""
    rate, beta1, beta2 = numbers[0], numbers[1], numbers[2]
    bias1, bias2, eps, weight_decay = numbers[5], numbers[6], numbers[7], numbers[8]
    for i in range(theta.size):
        gradient = g[i] + weight_decay * theta[i]
        m[i] = beta1 * m[i] + (1 - beta1) * gradient  # Numba computes 1 - beta1 in float64, where it is exact
        v[i] = beta2 * v[i] + (1 - beta2) * gradient * gradient
        theta[i] -= rate * (m[i] / bias1) / (math.sqrt(v[i] / bias2) + eps)


def _average_cpu(average, theta, numbers):
    average += numbers[0] * (theta - average)


@cuda_kernel
def _sum_of_squares_cuda(parts, g, first):
    """Each block's part of the sum, in parts[first], parts[first + 1], ..."""
    scratch = cuda.shared.array(THREADS, np.float64)
    total = 0.0
    for i in range(cuda.grid(1), g.size, cuda.gridsize(1)):
        total += np.float64(g[i]) * np.float64(g[i])
    total = block_sum(total, scratch)
    if cuda.threadIdx.x == 0:
        parts[first + cuda.blockIdx.x] = total


@cuda_kernel
def _norm_cuda(norm, parts):
    scratch = cuda.shared.array(THREADS, np.float64)
    total = 0.0
    for i in range(cuda.threadIdx.x, parts.size, THREADS):
        total += parts[i]
    total = block_sum(total, scratch)
    if cuda.threadIdx.x == 0:
        norm[0] = math.sqrt(total)


@cuda_kernel
def _clip_cuda(g, norm, max_norm):
    i = cuda.grid(1)
    if i < g.size and norm[0] > max_norm:
        g[i] *= g.dtype.type(max_norm / norm[0])


@cuda_kernel
def _sgd_cuda(theta, v, g, numbers, norm):
    i, dtype = cuda.grid(1), theta.dtype
    if i < theta.size and math.isfinite(norm[0]):
        v[i] = dtype.type(numbers[1]) * v[i] + g[i]
        theta[i] -= dtype.type(numbers[0]) * v[i]


@cuda_kernel
def _adam_cuda(theta, m, v, g, numbers, norm):
    i = cuda.grid(1)
    if i < theta.size and math.isfinite(norm[0]):
        gradient = g[i] + numbers[8] * theta[i]
        m[i] = numbers[1] * m[i] + numbers[3] * gradient
        v[i] = numbers[2] * v[i] + numbers[4] * gradient * gradient
        theta[i] -= numbers[0] * (m[i] / numbers[5]) / (math.sqrt(v[i] / numbers[6]) + numbers[7])


@cuda_kernel
def _average_cuda(average, theta, numbers, norm):
    i = cuda.grid(1)
    if i < theta.size and math.isfinite(norm[0]):
        average[i] += numbers[0] * (theta[i] - average[i])


def _clip_gradients_cpu(grads, max_norm):
    norm = math.sqrt(sum(_sum_of_squares_cpu(g.reshape(-1)) for g in grads.values()))
    if norm > max_norm:
        for g in grads.values():
            g *= g.dtype.type(max_norm / norm)
    return norm


def _clip_gradients_cuda(grads, max_norm):
    arrays = [g for (g,) in flat_runs(list(grads.values()))]
    blocks = [min(BLOCKS, tiles(g.size)) for g in arrays]
    parts, norm = (empty((n,), like=arrays[0], dtype=np.float64) for n in (sum(blocks), 1))
    for i, g in enumerate(arrays):
        _sum_of_squares_cuda[blocks[i], THREADS](parts, g, sum(blocks[:i]))
    _norm_cuda[1, THREADS](norm, parts)
    for g in arrays:
        _clip_cuda[tiles(g.size), THREADS](g, norm, float(max_norm))
    return norm


def _over_elements(on_cpu, on_gpu, columns, numbers, norm):
    """Call a kernel for every array, or launch it for every run of them. The dicts in `columns` have the same keys."""
    arrays = [[column[name] for name in columns[0]] for column in columns]
    _check_contiguous(columns[0])

    def cpu(rows):
        if norm is None or math.isfinite(norm):
            for row in rows:
                on_cpu(*row, numbers)

    def cuda_launches(rows):
        finite = numbers if norm is None else norm  # any array with a finite first number will do
        for row in rows:
            on_gpu[tiles(row[0].size), THREADS](*row, numbers, finite)

    by_place(numbers, cpu, cuda_launches)(flat_runs(*arrays))


def _check_contiguous(arrays):
    """Raise an error for an array whose flat view would be a copy: a change of the copy would be lost."""
    for name, array in arrays.items():
        if contiguous(array) is not array:
            raise ValueError(f"{name} of shape {array.shape} is not contiguous; give a contiguous copy")


def clip_gradients(grads, max_norm):
    """Scale all gradients in place, so that their common norm is at most `max_norm`.

    g <- g * min(1, max_norm / |g|),   |g| over all arrays together (Pascanu et al. 2013)

    Parameters
    ----------
    grads : dict of arrays
    max_norm : float

    Returns
    -------
    float
        The norm before. On a GPU an array (1,) that stays there: `float(norm)` waits for it.
    """
    first = next(iter(grads.values()), None)
    return by_place(first, _clip_gradients_cpu, _clip_gradients_cuda)(grads, max_norm)


def sgd(theta, v, g, numbers, norm=None):
    """SGD's formulas for dicts of arrays. numbers: rate, momentum."""
    _over_elements(_sgd_cpu, _sgd_cuda, (theta, v, g), numbers, norm)


def adam(theta, m, v, g, numbers, norm=None):
    """Adam's formulas for dicts of arrays.

    numbers: rate, beta1, beta2, 1 - beta1, 1 - beta2, bias1, bias2, eps, weight_decay, in the dtype of theta.
    """
    _over_elements(_adam_cpu, _adam_cuda, (theta, m, v, g), numbers, norm)


def move_average(average, theta, numbers):
    """average += numbers[0] * (theta - average), for dicts of arrays."""
    _over_elements(_average_cpu, _average_cuda, (average, theta), numbers, None)
