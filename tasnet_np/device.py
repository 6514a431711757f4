"""Where arrays live and how kernels run on them: the only file that knows.

A CPU kernel here is a plain Numba function that works on ONE sample of the batch. It releases the
GIL, so Python's own threads run one sample each; BLAS is held to one thread meanwhile, because two
thread pools on the same cores wait for each other. Two consequences a reader can rely on:

* a kernel has no batch loop and no races to think about: each call owns what it writes;
* parameter gradients are written per sample and summed in the order of the samples, so the bits of a
  result do not depend on the number of threads.
"""

import collections
import contextlib
import ctypes
import functools
import inspect
import math
import os
import threading
import types
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from pathlib import Path

import numba
import numba.core.event
import numpy as np
from threadpoolctl import ThreadpoolController


@cache
def _version_of_helpers():
    here = Path(__file__).parent
    text = b"".join((here / name).read_bytes() for name in ("device.py", "product.py"))
    return f"{zlib.crc32(text):08x}"


def cpu_kernel(function, inline="never"):
    """A function compiled by Numba for the CPU, by its first call, and kept on disk."""
    # A kernel in Numba's cache on disk does not notice an edit in another file: so the name knows this one.
    function.__qualname__ += f"_{_version_of_helpers()}"
    # 'reassoc' and 'contract' let sums run in vector registers. Unlike fastmath=True they keep NaN and Inf.
    options = {"cache": True, "nogil": True, "fastmath": {"reassoc", "contract"}, "error_model": "numpy"}
    return numba.njit(inline=inline, **options)(function)


def cpu_function(function):
    """A function that CPU kernels call: compiled as a part of each, not by itself and in each once more."""
    return cpu_kernel(function, inline="always")


_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def get_threads():
    """The number of samples worked on at the same time."""
    return _threads


def set_threads(count):
    """Work on `count` samples at the same time (at least 1)."""
    global _threads
    if count < 1:
        raise ValueError(f"the number of threads must be at least 1, not {count}")
    _threads = int(count)


@cache
def _pool(count):
    return ThreadPoolExecutor(count, thread_name_prefix="tasnet_np", initializer=_start_worker)


@cache
def _blas():
    return ThreadpoolController().select(user_api="blas")


class _CompileListener(numba.core.event.Listener):
    """Says which kernel Numba is about to compile; what comes from its cache on disk is not compiled."""

    def __init__(self, say):
        self.say = say

    def on_start(self, event):
        function = event.data["dispatcher"].py_func
        if function.__module__.startswith("tasnet_np"):
            self.say(f"compiling {function.__name__.strip('_')} for this machine (once; kept on disk)")

    def on_end(self, event):
        pass


def announce_compiling(say):
    """Call `say` with a line of text whenever a kernel has to be compiled."""
    numba.core.event.register("numba:compile", _CompileListener(say))


def keep_freed_memory():
    """Let this process keep the memory of freed arrays for the next ones, instead of returning it.

    A training step needs the same large arrays every time. Given back to the system, they come again page by
    page, each page zeroed first, and the step waits for that. The commands call this; a library
    should not decide it for its user. It does something with glibc (Linux) only.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    largest = 2**31 - 1
    mallopt(-1, largest)  # M_TRIM_THRESHOLD: free memory at the top of the heap that is kept
    mallopt(-3, largest)  # M_MMAP_THRESHOLD: sizes from which an allocation gets pages of its own
    mallopt(-8, 1)  # M_ARENA_MAX: one heap for all threads; those of single threads are returned


def over_samples(kernel, per_sample, shared=()):
    """Call `kernel(*(a[i] for a in per_sample), *shared)` for every sample i, in parallel.

    Parameters
    ----------
    kernel : function of one sample; writes only into its own slices
    per_sample : arrays whose first axis is the batch, outputs first
    shared : what every sample gets alike (parameters, sizes); only read
    """
    each(lambda i: kernel(*(array[i] for array in per_sample), *shared), range(len(per_sample[0])))


def over_tiles(function, frames, tile, *shared):
    """[function(start, stop, *shared), ...] for consecutive pieces of at most `tile` frames, in parallel.

    For a batch of one. The pieces do not depend on the number of threads, so neither do the bits.
    """
    return each(lambda start: function(start, min(start + tile, frames), *shared), range(0, frames, tile))


def each(task, items):
    """[task(item) for item in items], in parallel. Inside a task, everything else runs on its thread.

    The calling thread works along, so that only the others have to be woken. A thread takes the next item when
    it is done with one, so that one on a busy core does less. The longer the tasks, the better: threads that meet
    often wait for each other.
    """
    if getattr(_worker, "busy", False):
        return [task(item) for item in items]
    workers = min(len(items), _threads)
    results = [None] * len(items)
    left = iter(range(len(items)))  # shared: the lock of Python gives each index to one thread

    def share():
        for i in left:
            results[i] = task(items[i])

    with _blas().limit(limits=1):
        others = [_pool(workers - 1).submit(share) for _ in range(1, workers)]
        _worker.busy = True
        try:
            share()
        finally:
            _worker.busy = False
            wait(others)
        for other in others:
            other.result()  # raises what a task raised
    return results


def each_in_order(task, items, add):
    """Call `add(task(item))` for every item: the tasks in parallel, `add` for one at a time, in their order.

    So a sum has the same bits on any number of threads, and no result waits for longer than for those before it.
    """
    results, lock, added = {}, threading.Lock(), 0

    def run(i):
        nonlocal added
        result = task(items[i])
        with lock:
            results[i] = result
            while added in results:
                add(results.pop(added))
                added += 1

    each(run, range(len(items)))


_worker = threading.local()


def _start_worker():
    _worker.busy = True


def sizes(letters, **arrays):
    """Check the shapes and dtypes of an op's arrays and return the sizes asked for.

    `B, C, T, K = sizes("B C T K", x=(x, "B C T"), w=(w, "C K"))`: the same letter means the same
    size everywhere, "1" means size one. A compiled kernel does not check its bounds, so this does.

    Raises
    ------
    ValueError : wrong number of axes, sizes that do not agree, an empty axis
    TypeError : a dtype that is not float32 or float64, or two different ones
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


# The GPU. numba.cuda is imported by the first thing that needs it: it takes longer than all the rest together.

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") != "0"  # a GPU's threads are Python threads then: slow
THREADS = 8 if SIMULATED else 256  # in a block, except for a Product's; a power of 2
SHARED_BYTES = 44 * 1024  # of shared memory that a kernel may ask for: every GPU gives 48 KB to a block


class _LazyCuda:
    """numba.cuda, imported when it is first used."""

    def __getattr__(self, name):
        return getattr(_numba_cuda(), name)


cuda = _LazyCuda()
ALIGNS = False  # in a kernel: whether cuda.shared.array takes an alignment


@cache
def _numba_cuda():
    from numba import config
    from numba import cuda as module

    configs = [config]
    with contextlib.suppress(ImportError):  # numba-cuda has a configuration of its own
        from numba.cuda.core import config as own

        configs.append(own)
    for each_config in configs:
        each_config.CUDA_LOW_OCCUPANCY_WARNINGS = 0  # small models have small grids
    return module


@cache
def cuda_problem():
    """Why there is no GPU to compute on, in a few words; None if there is one."""
    try:
        if cuda.is_available():
            return None
        return "no NVIDIA GPU with a driver was found"
    except Exception as error:  # an incomplete installation fails in many ways
        return f"numba.cuda does not work here ({' '.join(str(error).split())[:100]})"


def choose_device(name):
    """ "cpu" or "cuda", from what the user asked for; "auto" takes a GPU if there is one.

    Raises
    ------
    ValueError : another name, or "cuda" where there is no GPU
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--device {name}: give auto, cpu or cuda")
    if name == "cpu" or (name == "auto" and cuda_problem()):
        return "cpu"
    if cuda_problem():
        raise ValueError(f"--device cuda: {cuda_problem()}; use --device cpu, or auto")
    return "cuda"


class CudaFunction:
    """A function that kernels call on the GPU."""

    def __init__(self, function):
        self.function = function


cuda_function = CudaFunction


class CudaKernel:
    """A function that runs on the GPU, once for every thread: `kernel[blocks, threads](*arguments)`.

    It is compiled by its first launch. `kernel[blocks, threads, count, dtype]` gives each block an array of `count`
    numbers in shared memory.
    """

    def __init__(self, function):
        self.function = function
        self.__name__ = function.__name__
        self.__module__ = function.__module__

    def __getitem__(self, configuration):
        return lambda *arguments: _launch(self, configuration, arguments)

    @functools.cached_property
    def compiled(self):
        return cuda.jit(cache=not SIMULATED)(self.python_function())

    def python_function(self):
        """The function as numba.cuda needs it: with the real `cuda`, and device functions that it can call."""
        aligns = not SIMULATED and "alignment" in inspect.signature(cuda.shared.array).parameters
        return _with_real_names(self.function, {"cuda": _numba_cuda(), "ALIGNS": aligns})


cuda_kernel = CudaKernel


def _with_real_names(function, names):
    """A copy of `function` that finds its globals in `names`, where lazy ones are replaced.

    The kernel and all that it calls share that one dict, which is what the simulator expects.
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
    copy.__qualname__ = f"{function.__qualname__}_{_version_of_helpers()}"
    copy.__module__ = function.__module__
    names["__name__"] = function.__module__
    return copy


_stream = 0  # where launches go: the default stream, or a graph that is being captured


def _launch(kernel, configuration, arguments):
    blocks, threads, *shared = configuration
    nbytes = shared[0] * np.dtype(shared[1]).itemsize if shared else 0
    if nbytes > SHARED_BYTES:
        raise ValueError(f"{kernel.__name__} needs {nbytes} bytes of shared memory, a GPU has {SHARED_BYTES}")
    kernel.compiled[blocks, threads, _stream, nbytes](*map(_numba_argument, arguments))


def _numba_argument(value):
    if isinstance(value, CudaArray):
        return value.data
    return tuple(map(_numba_argument, value)) if isinstance(value, tuple) else value


def tiles(size, tile=THREADS):
    """How many tiles cover `size` elements."""
    return -(-size // tile)


class _Pool:
    """Memory that was used before, by dtype and size. After the first step, nothing new is allocated.

    A step's arrays have the same sizes as the last one's. All work is in one stream, so memory that
    Python has let go of can be handed out again at once: what reads it comes before what writes it next.
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
        except Exception:  # out of memory (each version of numba has its own error): give back what is unused
            if not any(self.free.values()):
                raise
            self.free.clear()
            return cuda.device_array(size, dtype)

    def give_back(self, memory):
        self.free[memory.size, memory.dtype].append(memory)


_pool_in_use = _Pool()


@contextlib.contextmanager
def _own_pool(pool):
    """Take memory from another pool: that of a graph, whose arrays nobody else may get."""
    global _pool_in_use
    before, _pool_in_use = _pool_in_use, pool
    try:
        yield
    finally:
        _pool_in_use = before


class _Memory:
    """A piece of GPU memory, given back to its pool when the last array in it is gone."""

    def __init__(self, size, dtype):
        self.pool = _pool_in_use
        self.flat = self.pool.take(size, np.dtype(dtype))
        self.views = {}  # numba's arrays by offset and shape: making one takes longer than a launch

    def view(self, offset, shape):
        if (offset, shape) not in self.views:
            size = math.prod(shape)
            self.views[offset, shape] = self.flat[offset : offset + size].reshape(shape)
        return self.views[offset, shape]

    def __del__(self):
        if hasattr(self, "flat"):  # else there was no memory to be had
            self.pool.give_back(self.flat)


class CudaArray:
    """An array on the GPU: contiguous, of a fixed shape. Kernels read and write it; the rest is here.

    `float(a)` and `a.numpy()` wait for the GPU and bring numbers to the CPU. A slice `a[i:j]` of the first axis
    and `a[i]` are views, as is `a.reshape(...)`.
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
        return CudaArray(self.memory, [self.size // known if size == -1 else size for size in shape], self.offset)

    def __add__(self, other):
        total = empty(self.shape, like=self)
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


def on_gpu(array):
    """Whether an array is on the GPU: this is what chooses the kernel."""
    return isinstance(array, CudaArray)


def empty(shape, like, dtype=None):
    """An array with unknown contents, where `like` is, of its dtype unless another is given."""
    dtype = np.dtype(dtype or like.dtype)
    if not on_gpu(like):
        return np.empty(shape, dtype)
    return CudaArray(_Memory(math.prod(shape), dtype), shape)


def empty_in_a_row(shapes, like):
    """Arrays that follow each other in memory where that is of use: on a GPU, so that one kernel can take all."""
    if not on_gpu(like):
        return [np.empty(shape, like.dtype) for shape in shapes]
    sizes = [math.prod(shape) for shape in shapes]
    memory = _Memory(sum(sizes), like.dtype)
    return [CudaArray(memory, shape, sum(sizes[:i])) for i, shape in enumerate(shapes)]


def zeros(shape, like):
    """An array of zeros where `like` is, of its dtype."""
    if not on_gpu(like):
        return np.zeros(shape, like.dtype)
    array = empty(shape, like)
    _fill_cuda[tiles(array.size), THREADS](array.reshape(-1))
    return array


def contiguous(array):
    """The array, or a copy, with its numbers in memory in the order of its shape, as most kernels expect it."""
    return array if on_gpu(array) else np.ascontiguousarray(array)


def move(array, device):
    """The array on the device "cpu" or "cuda": itself if it is there already, else a copy."""
    if on_gpu(array) == (device == "cuda"):
        return array
    if device == "cpu":
        return array.numpy()
    copy = CudaArray(_Memory(array.size, array.dtype), array.shape)
    copy.copy_from(array)
    return copy


def move_all(arrays, device):
    """A dict of arrays on a device; on the GPU they follow each other in memory."""
    if device == "cpu" or not arrays:
        return {name: move(array, device) for name, array in arrays.items()}
    like = move(np.zeros(1, next(iter(arrays.values())).dtype), device)
    copies = empty_in_a_row([array.shape for array in arrays.values()], like)
    for copy, array in zip(copies, arrays.values()):
        copy.copy_from(move(array, "cpu"))
    return dict(zip(arrays, copies))


def zeros_for_each(arrays):
    """A dict of zeros with the names, shapes and places of `arrays`."""
    if not arrays or not on_gpu(next(iter(arrays.values()))):
        return {name: np.zeros_like(array) for name, array in arrays.items()}
    return move_all({name: np.zeros(array.shape, array.dtype) for name, array in arrays.items()}, "cuda")


def runs(*columns):
    """Join arrays on a GPU that follow each other in memory, in all columns alike.

    Each column is a list of arrays; in return come tuples of flat arrays, one of each column. What has to be
    done for every element then takes a launch for each run instead of one for each array.
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


def window(x, start, length):
    """y[..., i] = x[..., start + i] where that exists, else 0: cuts or pads the last axis."""
    if not on_gpu(x):
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
    """The arrays x[:, 0], x[:, 1], ..."""
    if not on_gpu(x):
        return list(x.swapaxes(0, 1))
    B, S, *rest = x.shape
    parts = [empty((B, *rest), like=x) for _ in range(S)]
    rows = math.prod(rest)
    for s, part in enumerate(parts):
        _take_cuda[(tiles(rows), B), THREADS](part.reshape(B, rows), x.reshape(B, S, rows), s)
    return parts


def stack(parts):
    """The array with y[:, 0], y[:, 1], ... = parts."""
    if not on_gpu(parts[0]):
        return np.stack(parts, axis=1)
    B, *rest = parts[0].shape
    rows = math.prod(rest)
    y = empty((B, len(parts), *rest), like=parts[0])
    for s, part in enumerate(parts):
        _put_cuda[(tiles(rows), B), THREADS](y.reshape(B, len(parts), rows), part.reshape(B, rows), s)
    return y


def sum_parts(total, parts):
    """total[...] = sum over the first axis of parts, in its order."""
    flat = total.reshape(-1), parts.reshape(len(parts), total.size)
    if len(parts) < THREADS:
        _sum_parts_cuda[tiles(total.size), THREADS](*flat)
    else:
        _sum_many_parts_cuda[total.size, THREADS](*flat)


@cuda_kernel
def _add_cuda(total, a, b):
    i = cuda.grid(1)
    if i < total.size:
        total[i] = a[i] + b[i]


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


@cuda_function
def block_sum(value, scratch):
    """The sum of all threads' values, in a fixed order, for every thread. scratch is shared, (THREADS,)."""
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


class CudaGraph:
    """A task's kernel launches, recorded once and then launched together.

    Calling it runs the task; the third time, the task is recorded (the first two compile its kernels and
    allocate its memory), and from then on only the recording runs. So the task must launch the same kernels on the
    same arrays every time and do nothing else that matters. Where numba.cuda cannot record (the simulator,
    the built-in numba.cuda, an old numba-cuda), the task runs every time; `problem` says why, and what was not
    expected to fail is a warning, too.
    """

    def __init__(self, task):
        self.task = task
        self.calls = 0
        self.pool = _Pool()
        self.graph = None
        self.problem = "simulated" if SIMULATED else None  # why it is not recorded

    def __call__(self):
        self.calls += 1
        if self.graph is None and self.calls > 2 and self.problem is None:
            self._record()
        if self.graph is not None:
            self.graph.launch(self.stream)
            return
        with _own_pool(self.pool):
            self.task()

    def _record(self):
        global _stream
        builder = None
        try:
            from numba.cuda.cudadrv.driver import GraphBuilder  # noqa: F401, then launches accept one

            try:
                from cuda.core import Device, Stream
            except ImportError:  # before cuda.core 1.0
                from cuda.core.experimental import Device, Stream

            device = Device()
            device.set_current()
            self.stream = Stream.from_handle(0)  # the default stream, where everything else is
            builder = _stream = device.create_graph_builder()
            with _own_pool(self.pool):
                builder.begin_building()
                self.task()
            self.graph = builder.end_building().complete()
        except Exception as error:  # each version of numba.cuda and of the driver has its own
            self.problem = f"{type(error).__name__}: {error}"
            if not isinstance(error, ImportError):
                warnings.warn(f"a step on the GPU could not be recorded, so it is slower: {self.problem}", stacklevel=3)
            if builder is not None:
                with contextlib.suppress(Exception):
                    builder.close()  # ends what is still being recorded
        finally:
            _stream = 0


def wait_for_gpu():
    """Wait until the GPU has done all that was asked of it."""
    cuda.synchronize()


def pinned_like(array):
    """A NumPy array of the same shape that the GPU can read while the CPU goes on."""
    return cuda.pinned_array(array.shape, array.dtype)
