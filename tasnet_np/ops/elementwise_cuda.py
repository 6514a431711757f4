"""The elementwise ops' kernels on the GPU. elementwise.py has the formulas; the letters are the same here.

Most kernels have a thread for every element. Softmax and multiply have one for every entry of a source: it takes all
sources.
"""

import math

import numpy as np

from tasnet_np.compute.arrays import empty
from tasnet_np.compute.gpu import THREADS, block_sum, cuda, cuda_kernel, sum_parts, tiles

BLOCKS = 512  # most blocks of threads of a kernel that sums over all elements


@cuda_kernel
def _relu_forward_elements_cuda(y, x):
    i = cuda.grid(1)
    if i < x.size:
        y[i] = max(x[i], x.dtype.type(0))


@cuda_kernel
def _relu_backward_elements_cuda(dx, dy, x):
    i = cuda.grid(1)
    if i < x.size:
        dx[i] = dy[i] if x[i] > 0 else x.dtype.type(0)


@cuda_kernel
def _prelu_forward_elements_cuda(y, x, alpha):
    i = cuda.grid(1)
    if i < x.size:
        y[i] = x[i] if x[i] > 0 else alpha[0] * x[i]


@cuda_kernel
def _prelu_backward_blocks_cuda(dx, dalpha, dy, x, alpha):
    """Makes dx, and each block's part of dalpha (blocks,)."""
    scratch = cuda.shared.array(THREADS, np.float64)
    slope, total = alpha[0], 0.0
    for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        if x[i] > 0:
            dx[i] = dy[i]
        else:
            dx[i] = slope * dy[i]
            total += np.float64(dy[i]) * np.float64(x[i])
    total = block_sum(total, scratch)
    if cuda.threadIdx.x == 0:
        dalpha[cuda.blockIdx.x] = total


@cuda_kernel
def _sigmoid_forward_elements_cuda(y, x):
    i = cuda.grid(1)
    if i < x.size:
        one = x.dtype.type(1)
        small = x.dtype.type(math.exp(-abs(x[i])))  # in (0, 1]: never overflows
        y[i] = (one if x[i] >= 0 else small) / (one + small)


@cuda_kernel
def _sigmoid_backward_elements_cuda(dx, dy, y):
    i = cuda.grid(1)
    if i < y.size:
        dx[i] = dy[i] * y[i] * (y.dtype.type(1) - y[i])


@cuda_kernel
def _softmax_forward_entries_cuda(y, x):
    i, b = cuda.grid(1), cuda.blockIdx.y
    S, n = x.shape[1], x.shape[2]
    if i < n:
        largest = x[b, 0, i]
        for s in range(1, S):
            largest = max(largest, x[b, s, i])
        total = y.dtype.type(0)
        for s in range(S):
            y[b, s, i] = math.exp(x[b, s, i] - largest)
            total += y[b, s, i]
        for s in range(S):
            y[b, s, i] /= total


@cuda_kernel
def _softmax_backward_entries_cuda(dx, dy, y):
    i, b = cuda.grid(1), cuda.blockIdx.y
    S, n = y.shape[1], y.shape[2]
    if i < n:
        total = y.dtype.type(0)
        for s in range(S):
            total += dy[b, s, i] * y[b, s, i]
        for s in range(S):
            dx[b, s, i] = y[b, s, i] * (dy[b, s, i] - total)


@cuda_kernel
def _multiply_forward_entries_cuda(y, a, b):
    i, sample = cuda.grid(1), cuda.blockIdx.y
    if i < b.shape[1]:
        for s in range(a.shape[1]):
            y[sample, s, i] = a[sample, s, i] * b[sample, i]


@cuda_kernel
def _multiply_backward_entries_cuda(da, db, dy, a, b):
    i, sample = cuda.grid(1), cuda.blockIdx.y
    if i < b.shape[1]:
        total = b.dtype.type(0)
        for s in range(a.shape[1]):
            da[sample, s, i] = dy[sample, s, i] * b[sample, i]
            total += dy[sample, s, i] * a[sample, s, i]
        db[sample, i] = total


def _each_element(kernel):
    """A function that launches the kernel with one thread per element. Its arrays have one shape."""

    def launch(*arrays):
        kernel[tiles(arrays[0].size), THREADS](*(array.reshape(-1) for array in arrays))

    return launch


def _each_entry(kernel):
    """A function that launches the kernel on arrays (B, S, size) or (B, size).

    Each of B * size threads takes one entry, for all S sources.
    """

    def launch(*arrays):
        B, _, size = arrays[0].shape
        kernel[(tiles(size), B), THREADS](*arrays)

    return launch


def prelu_forward_cuda(y, x, alpha):
    _prelu_forward_elements_cuda[tiles(x.size), THREADS](y.reshape(-1), x.reshape(-1), alpha)


def prelu_backward_cuda(dx, dalpha, dy, x, alpha):
    blocks = min(BLOCKS, tiles(x.size))
    parts = empty((blocks,), like=x, dtype=np.float64)
    flat = (array.reshape(-1) for array in (dy, x))
    _prelu_backward_blocks_cuda[blocks, THREADS](dx.reshape(-1), parts, *flat, alpha)
    sum_parts(dalpha, parts)


def relu_forward_cuda(x):
    y = empty(x.shape, like=x)
    _each_element(_relu_forward_elements_cuda)(y, x)
    return y


def relu_backward_cuda(dy, x):
    dx = empty(x.shape, like=x)
    _each_element(_relu_backward_elements_cuda)(dx, dy, x)
    return (dx,)


sigmoid_forward_cuda = _each_element(_sigmoid_forward_elements_cuda)
sigmoid_backward_cuda = _each_element(_sigmoid_backward_elements_cuda)
softmax_forward_cuda = _each_entry(_softmax_forward_entries_cuda)
softmax_backward_cuda = _each_entry(_softmax_backward_entries_cuda)
multiply_forward_cuda = _each_entry(_multiply_forward_entries_cuda)
multiply_backward_cuda = _each_entry(_multiply_backward_entries_cuda)
