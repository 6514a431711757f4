"""Choose the OpenBLAS kernels that are fastest on this processor.

OpenBLAS reads the choice when NumPy is loaded. So this module runs before that, and imports no NumPy.
"""

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
