"""Kernels and threads on the CPU.

A CPU kernel is a plain Numba function that works on ONE sample of the batch. It releases Python's lock, so that
several of Python's own threads can each run one sample. Meanwhile BLAS is held to one thread, because two thread pools
on the same cores wait for each other. Two rules follow:

* a kernel has no loop over the batch, and no races: nothing else writes what a call writes;
* each sample writes its own gradients of the parameters, and they are summed in the order of the samples. So the bits
  of a result do not depend on the number of threads.
"""

import ctypes
import os
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache

import numba
from numba.core.compiler_lock import global_compiler_lock

from tasnet_np.blas import one_blas_thread
from tasnet_np.compute.versions import version_of
from tasnet_np.kernel_cache import announce_compiling, keep_on_disk  # noqa: F401  the first is for others


def cpu_kernel(function, inline="never"):
    """A function that Numba compiles for the CPU when it is first called, and keeps on disk."""
    function.__qualname__ += f"_{version_of(function.__module__)}"
    # 'reassoc' and 'contract' let sums use vector instructions. Unlike fastmath=True they keep NaN and Inf.
    options = {"nogil": True, "fastmath": {"reassoc", "contract"}, "error_model": "numpy"}
    return keep_on_disk(numba.njit(inline=inline, **options)(function))


def cpu_function(function):
    """A function that CPU kernels call. It is compiled as a part of each of them, and not also by itself."""
    return cpu_kernel(function, inline="always")


def keep_freed_memory():
    """Let this process keep the memory of freed arrays for the next arrays, instead of returning it to the system.

    A training step needs the same large arrays every time. If their memory went back to the system, the next step
    would get it page by page, and would wait while the system fills each page with zeros. The commands call this
    function. A library should not decide it for its user. It has an effect with glibc (Linux) only.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    largest = 2**31 - 1
    mallopt(-1, largest)  # M_TRIM_THRESHOLD: so much free memory is kept at the top of the heap
    mallopt(-3, largest)  # M_MMAP_THRESHOLD: an allocation from this size on gets pages of its own
    mallopt(-8, 1)  # M_ARENA_MAX: one heap for all threads, as heaps of single threads return their memory


_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
_this_thread = threading.local()  # .busy: the thread works on a task, and runs everything within it


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


def _after_fork_in_child():
    """None of the parent's threads is there: begin with a new pool, and without a lock that they held."""
    _thread_pool.cache_clear()
    _this_thread.busy = one_blas_thread.has_this_thread()  # not so in a thread of the old pool
    global_compiler_lock.release()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    lock = global_compiler_lock  # a fork waits for what another thread compiles
    os.register_at_fork(
        before=lock.acquire, after_in_parent=lock.release, after_in_child=_after_fork_in_child
    )


def over_samples(kernel, per_sample, shared=()):
    """Call `kernel(*(a[i] for a in per_sample), *shared)` for every sample i, in parallel.

    Parameters
    ----------
    kernel : function of one sample
        Writes only into its own slices.
    per_sample : sequence of arrays, or of NamedTuples of arrays
        Their first axis is the batch. Outputs come first.
    shared : sequence
        What all samples use (parameters, sizes). It is only read.
    """
    first = per_sample[0]
    samples = len(first[0] if isinstance(first, tuple) else first)
    each(lambda i: kernel(*(_of_sample(group, i) for group in per_sample), *shared), range(samples))


def _of_sample(group, i):
    """One sample of an array, or of every array of a NamedTuple."""
    return type(group)(*(array[i] for array in group)) if isinstance(group, tuple) else group[i]


def over_tiles(function, frames, tile, *shared):
    """[function(start, stop, *shared), ...] for consecutive tiles of at most `tile` frames, in parallel.

    This is for a batch of one. The tiles do not depend on the number of threads. So the bits do not depend on it.
    """
    return each(lambda start: function(start, min(start + tile, frames), *shared), range(0, frames, tile))


def each(task, items):
    """[task(item) for item in items], in parallel. A call within a task runs on the thread of that task.

    The calling thread does a share of the tasks, so that only the others have to be woken. A thread that has finished
    an item takes the next one, so that a thread on a busy core does fewer. Long tasks are better than short ones: the
    threads wait for each other less often.
    """
    if getattr(_this_thread, "busy", False):
        return [task(item) for item in items]
    workers = min(len(items), _threads)
    results = [None] * len(items)
    left = iter(range(len(items)))  # shared by the threads: Python's lock gives each index to one of them

    def share():
        for i in left:
            results[i] = task(items[i])

    with one_blas_thread:
        others = [_thread_pool(workers - 1).submit(share) for _ in range(1, workers)]
        _this_thread.busy = True
        try:
            share()
        finally:
            _this_thread.busy = False
            begun = [other for other in others if not other.cancel()]  # the pool may be at other work still
            wait(begun)
        for other in begun:
            other.result()  # raises what a task raised
    return results


def each_in_order(task, items, add):
    """Call `add(task(item))` for every item: the tasks in parallel, the `add`s one by one in the order of the items.

    So a sum has the same bits on any number of threads. A result is added as soon as those before it have been added.
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
