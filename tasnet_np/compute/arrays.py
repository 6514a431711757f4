"""Arrays on the CPU or the GPU: NumPy's, or `CudaArray`. The place of an array chooses the kernel.

This is the only file that asks where an array is. An op gives both of its kernels to `run` or `run_backward`. All other
code calls the functions of this file.
"""

import math

import numpy as np

from tasnet_np.compute.cpu import over_samples
from tasnet_np.compute.gpu import (
    THREADS,
    CudaArray,
    CudaGraph,
    cuda,
    cuda_kernel,
    joined,
    new_array,
    new_arrays_in_a_row,
    pinned_like,
    tiles,
)


def _on_gpu(array):
    return isinstance(array, CudaArray)


def place_of(array):
    """Where an array is: "cpu" or "cuda"."""
    return "cuda" if _on_gpu(array) else "cpu"


def by_place(array, on_cpu, on_gpu):
    """The one of two functions that works where the array is."""
    return on_gpu if _on_gpu(array) else on_cpu


def run(on_cpu, on_gpu, outputs, inputs, shared=()):
    """Fill the outputs of an op, on the device where they are.

    Parameters
    ----------
    on_cpu : function of one sample
        See `cpu.over_samples`.
    on_gpu : function of the whole batch
        It takes the same arguments in the same order.
    outputs, inputs : sequence of arrays
        Their first axis is the batch.
    shared : sequence
        What all samples use (parameters, sizes).
    """
    if _on_gpu(outputs[0]):
        on_gpu(*outputs, *inputs, *shared)
    else:
        over_samples(on_cpu, (*outputs, *inputs), shared)


def run_backward(on_cpu, on_gpu, dx, shapes, inputs, shared=()):
    """Fill dx, and make the gradients of the parameters.

    On the CPU each sample writes its own part of the gradients. The parts are summed in the order of the samples.

    Parameters
    ----------
    on_cpu, on_gpu : function
        As for `run`. The outputs are dx and the gradients.
    dx : array
        Its first axis is the batch.
    shapes : list of tuple
        Of the gradients.
    inputs, shared : sequence
        As for `run`.

    Returns
    -------
    tuple of arrays
        dx and the gradients.
    """
    if _on_gpu(dx):
        gradients = new_arrays_in_a_row(shapes, dx.dtype)
        on_gpu(dx, *gradients, *inputs, *shared)
        return dx, *gradients
    parts = [np.empty((len(dx), *shape), dx.dtype) for shape in shapes]
    over_samples(on_cpu, (dx, *parts, *inputs), shared)
    return dx, *(part.sum(axis=0) for part in parts)


def sizes(letters, **arrays):
    """Check the shapes and dtypes of an op's arrays, and return some of the sizes.

    `B, C, T, K = sizes("B C T K", x=(x, "B C T"), w=(w, "C K"))`: a letter stands for the same size
    everywhere, and "1" for the size one. A compiled kernel does not check its bounds, so the ops call this first.

    Raises
    ------
    ValueError
        A wrong number of axes; sizes that do not agree; an empty axis.
    TypeError
        A dtype other than float32 and float64; two different dtypes.
    """
    found = {"1": 1}
    dtype = None
    for name, (array, shape) in arrays.items():
        if not isinstance(array, (np.ndarray, CudaArray)) or array.dtype not in (np.float32, np.float64):
            kind = getattr(array, "dtype", type(array).__name__)
            raise TypeError(f"{name} must be a float32 or float64 array, not {kind}")
        dtype = dtype or array.dtype
        if array.dtype != dtype:
            raise TypeError(f"{name} is {array.dtype} but the arrays before it are {dtype}")
        axes = shape.split()
        if array.ndim != len(axes):
            raise ValueError(f"{name} must have the axes ({shape}), not the shape {array.shape}")
        for letter, size in zip(axes, array.shape):
            if size < 1 or found.setdefault(letter, size) != size:
                expected = f"{letter} = {found[letter]}" if size else "no empty axis"
                raise ValueError(f"{name} {array.shape} must be ({shape}) with {expected}")
    return [found[letter] for letter in letters.split()]


def empty(shape, like, dtype=None):
    """An array with unknown contents, in the place of `like`. It has the dtype of `like` unless another is given."""
    dtype = np.dtype(dtype or like.dtype)
    return by_place(like, np.empty, new_array)(shape, dtype)


def empty_in_a_row(shapes, like):
    """Arrays with unknown contents. On a GPU they follow each other in memory, so that one launch can treat all."""
    if not _on_gpu(like):
        return [np.empty(shape, like.dtype) for shape in shapes]
    return new_arrays_in_a_row(shapes, like.dtype)


def zeros(shape, like):
    """An array of zeros in the place of `like`, and of its dtype."""
    if not _on_gpu(like):
        return np.zeros(shape, like.dtype)
    array = empty(shape, like)
    _fill_cuda[tiles(array.size), THREADS](array.reshape(-1))
    return array


def contiguous(array):
    """The array itself if it is contiguous (in C order), else a contiguous copy. Most kernels need this."""
    return array if _on_gpu(array) else np.ascontiguousarray(array)


def move(array, device):
    """The array on the device "cpu" or "cuda": the array itself if it is there already, else a copy."""
    if place_of(array) == device:
        return array
    if device == "cpu":
        return array.numpy()
    copy = new_array(array.shape, array.dtype)
    copy.copy_from(array)
    return copy


def move_all(arrays, device):
    """A dict of the arrays on a device. Copies on the GPU follow each other in memory."""
    if device == "cpu" or not arrays:
        return {name: move(array, device) for name, array in arrays.items()}
    shapes = [array.shape for array in arrays.values()]
    copies = new_arrays_in_a_row(shapes, next(iter(arrays.values())).dtype)
    for copy, array in zip(copies, arrays.values()):
        copy.copy_from(move(array, "cpu"))
    return dict(zip(arrays, copies))


def zeros_for_each(arrays):
    """A dict of arrays of zeros with the names, shapes, dtypes and places of `arrays`."""
    places = {place_of(array) for array in arrays.values()} or {"cpu"}
    return move_all({name: np.zeros(array.shape, array.dtype) for name, array in arrays.items()}, *places)


def write(array, values):
    """Overwrite an array, wherever it is, with a NumPy array of the same shape."""
    if array.shape != values.shape:
        raise ValueError(f"an array of shape {array.shape} cannot take one of {values.shape}")
    if _on_gpu(array):
        array.copy_from(values.astype(array.dtype))
    else:
        array[...] = values


def flat_runs(*columns):
    """Rows of flat arrays, one of each column, for kernels that treat every element alike.

    A column is a list of arrays. On a GPU, arrays that follow each other in memory in all columns become one array, so
    that fewer launches are needed.
    """
    if columns[0] and _on_gpu(columns[0][0]):
        return joined(*columns)
    return [tuple(array.reshape(-1) for array in row) for row in zip(*columns, strict=True)]


class Inputs:
    """Brings NumPy arrays to a device. On a GPU, arrays of the same shapes as before go into the same arrays there.

    On the CPU, the arrays are used as they are.
    """

    def __init__(self, device):
        self.device = device
        self.arrays = None

    def bring(self, *arrays):
        """Bring the arrays to the device, as `self.arrays`. Returns whether these are not those of the last call."""
        if self.device == "cpu":
            self.arrays = arrays
            return True
        shapes = [array.shape for array in arrays]
        new = self.arrays is None or shapes != [array.shape for array in self.arrays]
        if new:
            self._pinned = [pinned_like(array) for array in arrays]  # the GPU reads this memory by itself
            self.arrays = [move(array, "cuda") for array in arrays]
        for on_gpu, pinned, array in zip(self.arrays, self._pinned, arrays):
            np.copyto(pinned, array)
            on_gpu.copy_from(pinned)
        return new


def recorded(task, device):
    """A function that runs the task. On a GPU its launches are recorded (see `gpu.CudaGraph`)."""
    return CudaGraph(task) if device == "cuda" else task


def window(x, start, length):
    """Cut or pad the last axis: y[..., i] = x[..., start + i] where x has that entry, else 0; 0 <= i < length."""
    if not _on_gpu(x):
        n = x.shape[-1]
        y = np.zeros((*x.shape[:-1], length), x.dtype)
        first, last = max(0, -start), min(length, n - start)
        y[..., first:last] = x[..., start + first : start + last]
        return y
    y = empty((*x.shape[:-1], length), like=x)
    rows = math.prod(x.shape[:-1])
    flat = y.reshape(rows, length), x.reshape(rows, x.shape[-1])
    _window_cuda[(tiles(length), rows), THREADS](*flat, start)
    return y


def unstack(x):
    """The list of the arrays x[:, 0], x[:, 1], ..."""
    if not _on_gpu(x):
        return list(x.swapaxes(0, 1))
    B, S, *rest = x.shape
    parts = [empty((B, *rest), like=x) for _ in range(S)]
    rows = math.prod(rest)
    for s, part in enumerate(parts):
        _take_cuda[(tiles(rows), B), THREADS](part.reshape(B, rows), x.reshape(B, S, rows), s)
    return parts


def stack(parts):
    """The array y whose y[:, 0], y[:, 1], ... are the parts. The inverse of `unstack`."""
    if not _on_gpu(parts[0]):
        return np.stack(parts, axis=1)
    B, *rest = parts[0].shape
    rows = math.prod(rest)
    y = empty((B, len(parts), *rest), like=parts[0])
    for s, part in enumerate(parts):
        _put_cuda[(tiles(rows), B), THREADS](y.reshape(B, len(parts), rows), part.reshape(B, rows), s)
    return y


@cuda_kernel
def _fill_cuda(y):
    i = cuda.grid(1)
    if i < y.size:
        y[i] = 0


@cuda_kernel
def _window_cuda(y, x, start):
    i, row = cuda.grid(1), cuda.blockIdx.y
    if i < y.shape[1]:
        source = start + i
        y[row, i] = 0
        if source >= 0 and source < x.shape[1]:
            y[row, i] = x[row, source]


@cuda_kernel
def _take_cuda(part, x, s):
    i, b = cuda.grid(1), cuda.blockIdx.y
    if i < part.shape[1]:
        part[b, i] = x[b, s, i]


@cuda_kernel
def _put_cuda(y, part, s):
    i, b = cuda.grid(1), cuda.blockIdx.y
    if i < part.shape[1]:
        y[b, s, i] = part[b, i]
