"""OpenBLAS's products for Zen 4, and nothing changed on other processors or against the user's wish."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasnet_np.blas import CPU_INFO, better_kernels


def cpu_info(vendor, family, flags):
    one = f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel name\t: any\nflags\t\t: fpu {flags}\n"
    return f"{one}\n{one}"


@pytest.mark.parametrize(
    ("vendor", "family", "flags", "expected"),
    [
        ("AuthenticAMD", 25, "avx2 avx512f avx512_bf16", "Zen"),  # Zen 4
        ("AuthenticAMD", 25, "avx2", None),  # Zen 3
        ("AuthenticAMD", 26, "avx2 avx512f", None),  # Zen 5: whole 512-bit operations
        ("GenuineIntel", 6, "avx2 avx512f", None),
        ("GenuineIntel", 25, "avx2 avx512f", None),
    ],
)
def test_only_zen_4_gets_other_kernels(vendor, family, flags, expected):
    assert better_kernels(cpu_info(vendor, family, flags)) == expected


@pytest.mark.parametrize("text", ["", "processor : 0", "Hardware\t: BCM2835\n\nno colons here\n"])
def test_what_is_not_understood_changes_nothing(text):
    assert better_kernels(text) is None


def chosen(first, **environment):
    """OPENBLAS_CORETYPE after a fresh Python did `first` and then imported tasnet_np."""
    clean = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    script = f"import os\n{first}\nimport tasnet_np\nprint(os.environ.get('OPENBLAS_CORETYPE'))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=clean | environment, check=True)
    return done.stdout.strip()


@pytest.mark.skipif(not Path(CPU_INFO).exists(), reason="only Linux describes its processor in a file")
def test_it_is_set_before_numpy_is_loaded():
    assert chosen("") == str(better_kernels(Path(CPU_INFO).read_text()))


def test_the_user_and_an_earlier_numpy_decide():
    assert chosen("", OPENBLAS_CORETYPE="Haswell") == "Haswell"
    assert chosen("import numpy") == "None"
