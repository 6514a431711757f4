"""Which of OpenBLAS's matrix products suit this processor. It is settled when NumPy is loaded, so this comes before."""

import os
import sys

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

    AMD's Zen 4 (family 25, with AVX-512) does a 512-bit operation in two halves. OpenBLAS gives it the kernels
    of Intel's SkylakeX, made for whole ones; the 256-bit ones that it has for older Zens are faster there.
    `OPENBLAS_CORETYPE=SkylakeX python tests/benchmarks/roofline.py` measures the others.
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
