"""Kernels on disk: an edit in any file that a kernel takes something from makes it anew, and nothing else does."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tasnet_np
from tasnet_np.compute import versions

PACKAGE = Path(tasnet_np.__file__).parent
FILES = {  # a kernel, what it calls, and a constant of that: each in a file of its own
    "ops/made_up_kernel.py": """
from tasnet_np.compute.cpu import cpu_kernel
from tasnet_np.ops import made_up_helper


@cpu_kernel
def scaled(x):
    return made_up_helper.scale(x)
""",
    "ops/made_up_helper.py": """
from tasnet_np.compute.cpu import cpu_function
from tasnet_np.compute.made_up_constant import (
    FACTOR,
)


@cpu_function
def scale(x):
    return FACTOR * x
""",
    "compute/made_up_constant.py": "FACTOR = 2\n",
    "__init__.py": "",  # instead of the package's own, which import more than is needed here
    "ops/__init__.py": "",
}
SCRIPT = """
from tasnet_np.compute.cpu import announce_compiling
announce_compiling(print)
from tasnet_np.ops.made_up_kernel import scaled
print(scaled(21.0))
"""


@pytest.fixture
def run(tmp_path):
    """Runs SCRIPT with a copy of the package that has FILES as well; kernels are kept in one cache."""
    copied = shutil.copytree(
        PACKAGE, tmp_path / "tasnet_np", ignore=shutil.ignore_patterns("__pycache__", "*.npz")
    )
    for name, text in FILES.items():
        (copied / name).write_text(text)

    def run():
        environment = os.environ | {"PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
        environment.pop("NUMBA_DISABLE_JIT", None)
        command = [sys.executable, "-c", SCRIPT]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=True
        )
        *compiled, result = done.stdout.splitlines()
        return float(result), len(compiled)

    run.edit = lambda name, old, new: (copied / name).write_text(FILES[name].replace(old, new))
    return run


def test_a_kernel_is_kept_until_a_file_that_it_depends_on_is_edited(run):
    assert run() == (42, 1)
    assert run() == (42, 0)
    run.edit("compute/made_up_constant.py", "2", "3")  # two files away from the kernel
    assert run() == (63, 1)
    run.edit("ops/made_up_helper.py", "FACTOR * x", "FACTOR + x")
    assert run() == (24, 1)
    assert run() == (24, 0)


def test_files_are_found_through_all_imports_and_only_those():
    files = {file.name for file in versions._with_imports("tasnet_np.ops.tcn_block_cpu", set())}
    assert {"cpu_product.py", "cpu.py", "versions.py", "frame_statistics.py", "tcn_block_arrays.py"} <= files
    assert not {"manifest.py", "__main__.py", "si_snr.py"} & files
    with_kernels = [file for file in PACKAGE.rglob("*.py") if "@cpu_kernel" in file.read_text()]
    assert len(with_kernels) > 5
    for file in with_kernels:
        name = ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
        assert PACKAGE / "compute" / "cpu.py" in versions._with_imports(name, set())
