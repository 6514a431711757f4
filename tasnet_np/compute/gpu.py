"""The GPU: its memory, how kernels are compiled and launched, and launches recorded as a graph.

numba.cuda is imported when it is first needed, because its import takes longer than all others together.
"""

import collections
import contextlib
import functools
import inspect
import math
import os
import types
import warnings
from functools import cache

import numpy as np

from tasnet_np.compute.versions import version_of
from tasnet_np.kernel_cache import keep_on_disk

# On the simulator a GPU's threads are threads of Python, which are slow. So blocks are small there.
SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") != "0"
THREADS = 8 if SIMULATED else 256  # threads of a block, a power of 2; a TiledProduct has its own number
SHARED_BYTES = 44 * 1024  # most shared memory that a kernel may ask for; every GPU gives 48 KB to a block


class _LazyCuda:
    """numba.cuda, imported when it is first used."""

    def __getattr__(self, name):
        _use_gpu()
        return getattr(_numba_cuda(), name)


cuda = _LazyCuda()
ALIGNS = False  # a compiled kernel finds here whether cuda.shared.array takes an alignment


@cache
def _numba_cuda():
    from numba import config
    from numba import cuda as module

    configs = [config]
    with contextlib.suppress(ImportError):  # the package numba-cuda has a configuration of its own
        from numba.cuda.core import config as own

        configs.append(own)
    for each_config in configs:
        each_config.CUDA_LOW_OCCUPANCY_WARNINGS = 0  # small models fill only a part of a GPU
    return module


_used = _forked = False  # the GPU by this process; this process by one that had used it
FORKED = "the GPU was used before this process was forked; spawn processes, or fork before its first use"


def _use_gpu():
    """Note the use. Raises RuntimeError in a process forked after it, where calls of CUDA fail or hang."""
    global _used
    if _forked:
        raise RuntimeError(FORKED)
    _used = True


def _after_fork_in_child():
    global _forked
    _forked = _forked or _used


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_after_fork_in_child)


def cuda_problem():
    """Why there is no GPU to compute on, in a few words; None if there is one."""
    return _missing_gpu() or (FORKED if _forked else None)


@cache
def _missing_gpu():
    try:
        if cuda.is_available():
            return None
        return "no NVIDIA GPU with a driver was found"
    except Exception as error:  # an incomplete installation fails in many ways
        return f"numba.cuda does not work here ({' '.join(str(error).split())[:100]})"


def choose_device(name):
    """The device for a name that the user gave.

    Parameters
    ----------
    name : str
        "cpu", "cuda", or "auto": a GPU if there is one.

    Returns
    -------
    str
        "cpu" or "cuda".

    Raises
    ------
    ValueError
        Another name, or "cuda" where there is no GPU.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--device {name}: give auto, cpu or cuda")
    if name == "cpu" or (name == "auto" and cuda_problem()):
        return "cpu"
    if cuda_problem():
        raise ValueError(f"--device cuda: {cuda_problem()}; use --device cpu, or auto")
    return "cuda"


class CudaFunction:
    """A function that kernels on the GPU call."""

    def __init__(self, function):
        self.function = function


cuda_function = CudaFunction


class CudaKernel:
    """A function that every thread on the GPU runs once: `kernel[blocks, threads](*arguments)`.

    Its first launch compiles it. `kernel[blocks, threads, count, dtype](*arguments)` also gives each block an array of
    `count` numbers in shared memory.
    """

    def __init__(self, function):
        self.function = function
        self.__name__ = function.__name__
        self.__module__ = function.__module__

    def __getitem__(self, configuration):
        return lambda *arguments: _launch(self, configuration, arguments)

    @functools.cached_property
    def compiled(self):
        kernel = cuda.jit(self.python_function())
        if SIMULATED:
            return kernel
        from numba.cuda.dispatcher import CUDACache

        return keep_on_disk(kernel, CUDACache)

    def python_function(self):
        """The function as numba.cuda needs it: with numba's own `cuda`, and with device functions that it can call."""
        aligns = not SIMULATED and "alignment" in inspect.signature(cuda.shared.array).parameters
        return _with_real_names(self.function, {"cuda": _numba_cuda(), "ALIGNS": aligns})


cuda_kernel = CudaKernel


def _with_real_names(function, names):
    """A copy of `function` whose globals are in `names`. There, device functions stand for `CudaFunction`s.

    A kernel and all functions that it calls share the dict `names`, because the simulator needs it so.
    """

    def real(value):
        if not isinstance(value, CudaFunction):
            return value
        return cuda.jit(device=True)(_with_real_names(value.function, names))

    for name in function.__code__.co_names:
        if name not in names and name in function.__globals__:
            names[name] = real(function.__globals__[name])
    cells = [types.CellType(real(cell.cell_contents)) for cell in function.__closure__ or ()]
    copy = types.FunctionType(function.__code__, names, function.__name__, None, tuple(cells))
    copy.__qualname__ = f"{function.__qualname__}_{version_of(function.__module__)}"
    copy.__module__ = function.__module__
    names["__name__"] = function.__module__
    return copy


_stream = 0  # where launches go: the default stream, or a graph that is being recorded


def _launch(kernel, configuration, arguments):
    blocks, threads, *shared = configuration
    nbytes = shared[0] * np.dtype(shared[1]).itemsize if shared else 0
    if nbytes > SHARED_BYTES:
        raise ValueError(f"{kernel.__name__} needs {nbytes} bytes of shared memory, a GPU has {SHARED_BYTES}")
    kernel.compiled[blocks, threads, _stream, nbytes](*map(_numba_argument, arguments))


def _numba_argument(value):
    if isinstance(value, CudaArray):
        return value.data
    if not isinstance(value, tuple):
        return value
    values = map(_numba_argument, value)
    return type(value)(*values) if hasattr(value, "_fields") else tuple(values)  # a NamedTuple stays one


def tiles(size, tile=THREADS):
    """The number of tiles that cover `size` elements."""
    return -(-size // tile)


class _MemoryPool:
    """Free memory that was used before, by dtype and size. After the first step, nothing new is allocated.

    The arrays of each step have the same sizes as those of the step before. All work is done in one stream, in order.
    So memory is given out again as soon as Python has no array in it: all that reads the old array runs before what
    writes the new one.
    """

    def __init__(self):
        self.free = collections.defaultdict(list)
        self.allocations = 0

    def take(self, size, dtype):
        if self.free[size, dtype]:
            return self.free[size, dtype].pop()
        self.allocations += 1
        try:
            return cuda.device_array(size, dtype)
        except Exception:  # out of memory (each version of numba has its own error): free what is unused
            if not any(self.free.values()):
                raise
            self.free.clear()
            return cuda.device_array(size, dtype)

    def give_back(self, memory):
        self.free[memory.size, memory.dtype].append(memory)


_memory_in_use = _MemoryPool()


@contextlib.contextmanager
def _own_memory(pool):
    """Within this context, take memory from another pool: that of a graph, whose arrays nothing else may use."""
    global _memory_in_use
    before, _memory_in_use = _memory_in_use, pool
    try:
        yield
    finally:
        _memory_in_use = before


class _Memory:
    """A piece of GPU memory. It goes back to its pool when there is no array in it any more."""

    def __init__(self, size, dtype):
        self.pool = _memory_in_use
        self.flat = self.pool.take(size, np.dtype(dtype))
        self.views = {}  # numba's arrays by offset and shape, kept as making one takes longer than a launch

    def view(self, offset, shape):
        if (offset, shape) not in self.views:
            size = math.prod(shape)
            self.views[offset, shape] = self.flat[offset : offset + size].reshape(shape)
        return self.views[offset, shape]

    def __del__(self):
        if hasattr(self, "flat"):  # else the allocation has failed
            self.pool.give_back(self.flat)


class CudaArray:
    """An array on the GPU: contiguous, of a fixed shape. Kernels read and write it.

    `float(a)` and `a.numpy()` wait for the GPU and bring numbers to the CPU. `a[i]`, `a[i:j]` (a slice of the first
    axis) and `a.reshape(...)` are views of the same memory. `a + b` is a new array.
    """

    def __init__(self, memory, shape, offset=0):
        self.memory = memory
        self.shape = tuple(int(size) for size in shape)
        self.offset = offset
        self.dtype = np.dtype(memory.flat.dtype)
        self.ndim = len(self.shape)
        self.size = math.prod(self.shape)

    @property
    def data(self):
        """numba's own array, for the kernels."""
        _use_gpu()
        return self.memory.view(self.offset, self.shape)

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, index):
        rest = math.prod(self.shape[1:])
        if isinstance(index, slice):
            start, stop, _ = index.indices(len(self))
            return CudaArray(self.memory, (stop - start, *self.shape[1:]), self.offset + start * rest)
        return CudaArray(self.memory, self.shape[1:], self.offset + range(len(self))[index] * rest)

    def reshape(self, *shape):
        if len(shape) == 1 and isinstance(shape[0], tuple):
            shape = shape[0]
        known = math.prod(size for size in shape if size != -1)
        return CudaArray(
            self.memory, [self.size // known if size == -1 else size for size in shape], self.offset
        )

    def __add__(self, other):
        total = new_array(self.shape, self.dtype)
        flat = [array.reshape(-1) for array in (total, self, other)]
        _add_cuda[tiles(self.size), THREADS](*flat)
        return total

    def __float__(self):
        return float(self.numpy().reshape(()))

    def numpy(self):
        """A copy on the CPU."""
        return self.data.copy_to_host().reshape(self.shape)

    def copy_from(self, array):
        """Copy a NumPy array of the same shape and dtype here."""
        self.data.copy_to_device(np.ascontiguousarray(array), stream=_stream)


def new_array(shape, dtype):
    """A CudaArray with unknown contents."""
    return CudaArray(_Memory(math.prod(shape), dtype), shape)


def new_arrays_in_a_row(shapes, dtype):
    """CudaArrays that follow each other in memory, so that one launch can treat all of them."""
    sizes = [math.prod(shape) for shape in shapes]
    memory = _Memory(sum(sizes), dtype)
    return [CudaArray(memory, shape, sum(sizes[:i])) for i, shape in enumerate(shapes)]


def joined(*columns):
    """Join CudaArrays that follow each other in memory.

    Each column is a list of arrays, and a row is one array of each column. Neighbouring rows are joined where their
    arrays follow each other in all columns. Returns the joined rows, as tuples of flat arrays. A kernel that treats
    every element alike then needs one launch for each joined row, instead of one for each array.
    """
    joined = []
    for row in zip(*columns, strict=True):
        row = [array.reshape(-1) for array in row]
        if joined and all(
            before.memory is array.memory and before.offset + before.size == array.offset
            for before, array in zip(joined[-1], row)
        ):
            row = [
                CudaArray(before.memory, [before.size + array.size], before.offset)
                for before, array in zip(joined.pop(), row)
            ]
        joined.append(tuple(row))
    return joined


@cuda_kernel
def _add_cuda(total, a, b):
    i = cuda.grid(1)
    if i < total.size:
        total[i] = a[i] + b[i]


@cuda_function
def block_sum(value, scratch):
    """Every thread gets the sum of all threads' values, made in a fixed order. scratch is shared, (THREADS,)."""
    i = cuda.threadIdx.x
    scratch[i] = value
    cuda.syncthreads()
    half = THREADS // 2
    while half > 0:
        if i < half:
            scratch[i] += scratch[i + half]
        cuda.syncthreads()
        half //= 2
    total = scratch[0]
    cuda.syncthreads()
    return total


def sum_parts(total, parts):
    """total[...] = sum of parts over their first axis, in a fixed order."""
    flat = total.reshape(-1), parts.reshape(len(parts), total.size)
    if len(parts) < THREADS:
        _sum_parts_cuda[tiles(total.size), THREADS](*flat)
    else:
        _sum_many_parts_cuda[total.size, THREADS](*flat)


@cuda_kernel
def _sum_parts_cuda(total, parts):
    i = cuda.grid(1)
    if i < total.size:
        value = 0.0
        for p in range(len(parts)):
            value += parts[p, i]
        total[i] = value


@cuda_kernel
def _sum_many_parts_cuda(total, parts):
    scratch = cuda.shared.array(THREADS, np.float64)
    i = cuda.blockIdx.x
    value = 0.0
    for p in range(cuda.threadIdx.x, len(parts), THREADS):
        value += parts[p, i]
    value = block_sum(value, scratch)
    if cuda.threadIdx.x == 0:
        total[i] = value


class CudaGraph:
    """A task's kernel launches, recorded once and then launched together.

    Calling it runs the task. The first two calls compile the task's kernels and allocate its memory. The third one
    records the task, and from then on only the recording runs. So the task must launch the same kernels on the same
    arrays every time. Whatever else it does happens only until it is recorded.

    Where numba.cuda cannot record (the simulator, the numba.cuda inside numba, an old numba-cuda), the task itself runs
    every time. `problem` says why. A failure that is not one of these cases is a warning, too.
    """

    def __init__(self, task):
        self.task = task
        self.calls = 0
        self.pool = _MemoryPool()
        self.graph = None
        self.problem = "simulated" if SIMULATED else None  # why the task cannot be recorded

    def __call__(self):
        _use_gpu()
        self.calls += 1
        if self.graph is None and self.calls > 2 and self.problem is None:
            self._record()
        if self.graph is not None:
            self.graph.launch(self.stream)
            return
        with _own_memory(self.pool):
            self.task()

    def _record(self):
        global _stream
        builder = None
        try:
            from numba.cuda.cudadrv.driver import GraphBuilder  # noqa: F401, where it exists, a launch can take one

            try:
                from cuda.core import Device, Stream
            except ImportError:  # before cuda.core 1.0
                from cuda.core.experimental import Device, Stream

            device = Device()
            device.set_current()
            self.stream = Stream.from_handle(0)  # the default stream, in which everything else runs
            builder = _stream = device.create_graph_builder()
            with _own_memory(self.pool):
                builder.begin_building()
                self.task()
            self.graph = builder.end_building().complete()
        except Exception as error:  # each version of numba.cuda and of the driver has its own errors
            self.problem = f"{type(error).__name__}: {error}"
            if not isinstance(error, ImportError):
                warnings.warn(
                    f"a step on the GPU could not be recorded, so it is slower: {self.problem}", stacklevel=3
                )
            if builder is not None:
                with contextlib.suppress(Exception):
                    builder.close()  # ends a recording that has begun
        finally:
            _stream = 0


def wait_for_gpu():
    """Wait until the GPU has run all that was launched."""
    cuda.synchronize()


def pinned_like(array):
    """A new NumPy array of the same shape and dtype, in memory that the GPU can read while the CPU goes on."""
    return cuda.pinned_array(array.shape, array.dtype)
