"""Where arrays live and how kernels run on them: the only file that knows.

A CPU kernel here is a plain Numba function that works on ONE sample of the batch. It releases the
GIL, so Python's own threads run one sample each; BLAS is held to one thread meanwhile, because two
thread pools on the same cores wait for each other. Two consequences a reader can rely on:

* a kernel has no batch loop and no races to think about: each call owns what it writes;
* parameter gradients are written per sample and summed in the order of the samples, so the bits of a
  result do not depend on the number of threads.
"""

import ctypes
import os
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache

import numba
import numba.core.event
import numpy as np
from threadpoolctl import ThreadpoolController

# 'reassoc' and 'contract' let sums run in vector registers. Unlike fastmath=True they keep NaN and Inf.
cpu_kernel = numba.njit(
    cache=True, nogil=True, fastmath={"reassoc", "contract"}, error_model="numpy"
)

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


def over_tiles(function, frames, tile):
    """[function(start, stop), ...] for consecutive pieces of at most `tile` frames, in parallel.

    For a batch of one. The pieces do not depend on the number of threads, so neither do the bits.
    """
    return each(lambda start: function(start, min(start + tile, frames)), range(0, frames, tile))


def each(task, items):
    """[task(item) for item in items], in parallel. Inside a task, everything else runs on its thread.

    The calling thread works along, so that only the others have to be woken. The longer the tasks, the
    better: threads that meet often wait for each other.
    """
    if getattr(_worker, "busy", False):
        return [task(item) for item in items]
    workers = min(len(items), _threads)
    results = [None] * len(items)

    def share(first):
        for i in range(first, len(items), workers):
            results[i] = task(items[i])

    with _blas().limit(limits=1):
        others = [_pool(workers - 1).submit(share, first) for first in range(1, workers)]
        _worker.busy = True
        try:
            share(0)
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
        if not isinstance(array, np.ndarray) or array.dtype not in (np.float32, np.float64):
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
