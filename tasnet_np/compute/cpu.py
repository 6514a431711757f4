"""Kernels and threads on the CPU.

A CPU kernel is a plain Numba function that works on ONE sample of the batch. It releases Python's lock, so that
Python's own threads run one sample each. BLAS is held to one thread meanwhile, because two thread pools on the same
cores wait for each other. Two consequences a reader can rely on:

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
from threadpoolctl import ThreadpoolController

from tasnet_np.compute.versions import version_of


def cpu_kernel(function, inline="never"):
    """A function compiled by Numba for the CPU, by its first call, and kept on disk."""
    function.__qualname__ += f"_{version_of(function.__module__)}"
    # 'reassoc' and 'contract' let sums run in vector registers. Unlike fastmath=True they keep NaN and Inf.
    options = {"cache": True, "nogil": True, "fastmath": {"reassoc", "contract"}, "error_model": "numpy"}
    return numba.njit(inline=inline, **options)(function)


def cpu_function(function):
    """A function that CPU kernels call: compiled as a part of each, not by itself and in each once more."""
    return cpu_kernel(function, inline="always")


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
    should not decide it for its user. It has an effect with glibc (Linux) only.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    largest = 2**31 - 1
    mallopt(-1, largest)  # M_TRIM_THRESHOLD: free memory at the top of the heap that is kept
    mallopt(-3, largest)  # M_MMAP_THRESHOLD: sizes from which an allocation gets pages of its own
    mallopt(-8, 1)  # M_ARENA_MAX: one heap for all threads; those of single threads are returned


_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
_this_thread = threading.local()  # .busy: it works on a task, so that all within the task runs on it


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
def _thread_pool(count):
    return ThreadPoolExecutor(count, thread_name_prefix="tasnet_np", initializer=_start_worker)


def _start_worker():
    _this_thread.busy = True


@cache
def _blas():
    return ThreadpoolController().select(user_api="blas")


def over_samples(kernel, per_sample, shared=()):
    """Call `kernel(*(a[i] for a in per_sample), *shared)` for every sample i, in parallel.

    Parameters
    ----------
    kernel : function of one sample; writes only into its own slices
    per_sample : arrays whose first axis is the batch, outputs first; or NamedTuples of such arrays
    shared : what every sample gets alike (parameters, sizes); only read
    """
    first = per_sample[0]
    samples = len(first[0] if isinstance(first, tuple) else first)
    each(lambda i: kernel(*(_of_sample(group, i) for group in per_sample), *shared), range(samples))


def _of_sample(group, i):
    """One sample of an array, or of every array of a NamedTuple."""
    return type(group)(*(array[i] for array in group)) if isinstance(group, tuple) else group[i]


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
    if getattr(_this_thread, "busy", False):
        return [task(item) for item in items]
    workers = min(len(items), _threads)
    results = [None] * len(items)
    left = iter(range(len(items)))  # shared: the lock of Python gives each index to one thread

    def share():
        for i in left:
            results[i] = task(items[i])

    with _blas().limit(limits=1):
        others = [_thread_pool(workers - 1).submit(share) for _ in range(1, workers)]
        _this_thread.busy = True
        try:
            share()
        finally:
            _this_thread.busy = False
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
