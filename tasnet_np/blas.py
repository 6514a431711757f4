"""BLAS, which multiplies NumPy's matrices: those kernels of OpenBLAS that are fastest here, and one thread on demand.

OpenBLAS reads the choice of kernels when NumPy is loaded. So this module runs before that, and imports no NumPy.
"""

import functools
import os
import sys
import threading

CPU_INFO = "/proc/cpuinfo"


def choose_kernels():
    """Set OPENBLAS_CORETYPE where another choice than OpenBLAS's own is faster.

    Nothing is changed once NumPy is loaded, or where the user has set it.
    """
    if "numpy" in sys.modules or "OPENBLAS_CORETYPE" in os.environ:
        return
    try:
        with open(CPU_INFO) as file:
            better = better_kernels(file.read())
    except OSError:  # not Linux
        return
    if better:
        os.environ["OPENBLAS_CORETYPE"] = better


def better_kernels(cpu_info):
    """OPENBLAS_CORETYPE for the processor that the text of /proc/cpuinfo describes; None for OpenBLAS's own choice.

    AMD's Zen 4 (family 25, with AVX-512) executes a 512-bit operation in two halves. OpenBLAS chooses the 512-bit
    kernels of Intel's SkylakeX for it. The 256-bit kernels for older Zens are faster there.
    `OPENBLAS_CORETYPE=SkylakeX python tests/benchmarks/roofline.py` measures OpenBLAS's own choice.
    """
    first = cpu_info.split("\n\n")[0]
    fields = {
        name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())
    }
    is_zen_4 = (
        fields.get("vendor_id") == "AuthenticAMD"
        and fields.get("cpu family") == "25"
        and "avx512f" in fields.get("flags", "").split()
    )
    return "Zen" if is_zen_4 else None


@functools.cache
def _libraries():
    """What sets the number of threads of each BLAS library in this process."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas").lib_controllers


class OneBlasThread:
    """Holds BLAS to one thread for as long as a thread of Python is inside, `with one_blas_thread:`.

    The first to enter sets the limit and the last to leave takes it away: so they may overlap in any order. A library
    that counts for each thread by itself gets both from every thread. A forked process forgets the threads that it does
    not have; a fork waits until no thread is changing the limit.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._inside = []  # the thread of each entry
        self._before = []  # the threads of each library, as they are without the limit
        if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
            os.register_at_fork(
                before=self._lock.acquire,
                after_in_parent=self._lock.release,
                after_in_child=self._after_fork_in_child,
            )

    def __enter__(self):
        with self._lock:
            if not self._inside:
                self._before = [library.num_threads for library in _libraries()]
            self._set([1] * len(self._before))
            self._inside.append(threading.get_ident())

    def __exit__(self, *error):
        with self._lock:
            self._inside.remove(threading.get_ident())
            self._set(self._before)

    def has_this_thread(self):
        """Whether the calling thread is inside."""
        return threading.get_ident() in self._inside

    def _after_fork_in_child(self):
        if self._inside:
            self._inside = [thread for thread in self._inside if thread == threading.get_ident()]
            self._set(self._before)
        self._lock.release()

    def _set(self, counts):
        for library, count in zip(_libraries(), counts):
            if self._inside and not _counts_by_thread(library):
                continue  # a thread that is inside needs what the first one has set
            # threadpoolctl lets one thread alone change OpenBLAS until that thread says that it is done. Here
            # the lock sees to order, and the last to leave need not be the first that came.
            change = getattr(library, "_real_set_num_threads", library.set_num_threads)
            change(count)


def _counts_by_thread(library):
    """Whether a BLAS has a number of threads for each thread that calls it, and not one for the process."""
    return library.internal_api == "mkl" or getattr(library, "threading_layer", None) == "openmp"


one_blas_thread = OneBlasThread()
