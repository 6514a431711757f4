"""OpenBLAS's products for Zen 4, and nothing changed on other processors or against the user's wish."""

import os
import subprocess
import sys

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


ZEN_4 = cpu_info("AuthenticAMD", 25, "avx2 avx512f")
OTHER = cpu_info("GenuineIntel", 6, "avx2 avx512f")
SCRIPT = """
import builtins, os, sys

def open_made_up(path, *more, real=builtins.open, **settings):
    return real(os.environ["MADE_UP"] if path == {path!r} else path, *more, **settings)

class Watch:  # tells the choice at the moment in which NumPy is loaded, and ends
    def find_spec(self, name, path=None, target=None):
        if name == "numpy":
            sys.exit(print(os.environ.get("OPENBLAS_CORETYPE")))

builtins.open = open_made_up
{first}
sys.meta_path.insert(0, Watch())
import tasnet_np
print("NumPy was not loaded again:", os.environ.get("OPENBLAS_CORETYPE"))
"""


def chosen(tmp_path, cpu_info, first="", **environment):
    """OPENBLAS_CORETYPE when a fresh Python, on a processor like this, did `first` and then imports tasnet_np."""
    made_up = tmp_path / "cpuinfo"
    if cpu_info is not None:
        made_up.write_text(cpu_info)
    clean = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    command = [sys.executable, "-c", SCRIPT.format(path=CPU_INFO, first=first)]
    environment = clean | {"MADE_UP": str(made_up)} | environment
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout.strip()


@pytest.mark.parametrize(
    ("cpu_info", "expected"),
    [(ZEN_4, "Zen"), (OTHER, "None"), (None, "None")],
    ids=["Zen 4", "other", "no file"],
)
def test_it_is_set_before_numpy_is_loaded(tmp_path, cpu_info, expected):
    assert chosen(tmp_path, cpu_info) == expected


def test_the_user_decides(tmp_path):
    assert chosen(tmp_path, ZEN_4, OPENBLAS_CORETYPE="Haswell") == "Haswell"


def test_nothing_is_set_once_numpy_is_loaded(tmp_path):
    assert chosen(tmp_path, ZEN_4, "import numpy") == "NumPy was not loaded again: None"
