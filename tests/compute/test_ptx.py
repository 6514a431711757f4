"""Every CUDA kernel compiles for sm_80 and sm_90, without a GPU, at the types with which the package launches it.

The types are not written down: every op, the model and a training step run once on arrays that are not on a GPU,
with launches that only note what they were given. A kernel that nothing launches fails, too.
"""

import collections
import contextlib
import importlib
import os
import pkgutil
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from types import SimpleNamespace

import numba
import numpy as np
import pytest

import tasnet_np
from tasnet_np.compute import arrays, gpu
from tasnet_np.network.config import PRESETS
from tasnet_np.network.execution import ConvTasNet
from tasnet_np.network.gradcheck import reduced
from tasnet_np.network.layers import NegativeSISNR
from tasnet_np.ops import CPU_ONLY
from tasnet_np.ops.cases import CASES
from tasnet_np.ops.gradcheck import upstream
from tasnet_np.optimisation.optimisers import SGD, Adam, WeightAverage
from tasnet_np.optimisation.step import Step

ARCHITECTURES = [(8, 0), (9, 0)]
DTYPES = [np.float32, np.float64]

pytestmark = pytest.mark.skipif(gpu.SIMULATED, reason="the simulator compiles nothing")


class _Memory:
    """What a pool hands out, on the CPU."""

    def __init__(self):
        self.allocations = 0

    def take(self, size, dtype):
        return np.zeros(size, dtype)

    def give_back(self, memory):
        pass


def all_kernels():
    """Every CudaKernel of the package, by name."""
    kernels = {}
    for module in pkgutil.walk_packages(tasnet_np.__path__, "tasnet_np."):
        if module.name.endswith("__main__"):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            kernel = getattr(value, "kernel", value)  # a Product has one
            if isinstance(kernel, gpu.CudaKernel):
                kernels[f"{kernel.__module__.removeprefix('tasnet_np.')}.{kernel.__name__}"] = kernel
    return kernels


@contextlib.contextmanager
def only_noting():
    """Launches that compute nothing: gives {kernel: types of its arguments}."""
    noted = collections.defaultdict(set)

    def launch(kernel, configuration, arguments):
        noted[kernel].add(tuple(map(numba.typeof, map(gpu._numba_argument, arguments))))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "_launch", launch)
        patch.setattr(gpu, "_memory_in_use", _Memory())
        patch.setattr(gpu, "_MemoryPool", _Memory)
        patch.setattr(arrays, "pinned_like", np.empty_like)
        patch.setattr(gpu.CudaArray, "copy_from", lambda self, array: None)
        patch.setattr(gpu.CudaArray, "numpy", lambda self: np.zeros(self.shape, self.dtype))
        yield noted


def _to_gpu(value):
    if isinstance(value, tuple):
        return tuple(map(_to_gpu, value))
    return arrays.move(value, "cuda") if isinstance(value, np.ndarray) else value


def _run_every_op(dtype):
    for case in [case for case in CASES if case.op.name not in CPU_ONLY]:
        arrays, settings = case.inputs(dtype=dtype)
        y, cache = case.op.forward(
            *map(_to_gpu, arrays), **{name: _to_gpu(value) for name, value in settings.items()}
        )
        on_cpu = tuple(array.numpy() for array in y) if isinstance(y, tuple) else y.numpy()
        case.op.backward(_to_gpu(upstream(on_cpu)), cache)


def _run_every_model(dtype):
    """Training steps, with a batch so large that sums over it take their longer way."""
    for preset in PRESETS.values():
        for path in ("ops", "fused"):
            model = ConvTasNet(reduced(preset), dtype=dtype, path=path).to("cuda")
            for make in (Adam, SGD):
                optimizer = make(model.params)
                mixture = np.zeros((300, 50), dtype)
                batch = SimpleNamespace(mixture=mixture, sources=np.zeros((300, 2, 50), dtype))
                Step(model, NegativeSISNR(), optimizer, clip=5.0)(batch)
            WeightAverage(model.params, 0.9).update()
            model.forward(mixture, keep=False)


@pytest.fixture(scope="module")
def noted():
    """For each dtype of the data: {kernel: types of its arguments}."""
    noted = {}
    for dtype in DTYPES:
        with only_noting() as noted[dtype]:
            _run_every_op(dtype)
            _run_every_model(dtype)
    return noted


def test_every_kernel_is_launched_in_float32_and_float64(noted):
    kernels = all_kernels()
    assert len(kernels) > 50
    for launched in noted.values():
        assert set(launched) <= set(kernels.values())
        assert not [name for name, kernel in kernels.items() if kernel not in launched], "never launched"


def _has_compiler():
    """Whether numba.cuda can make PTX here; where it must, a missing compiler is an error instead."""
    code = (
        "from numba import cuda, void, float32\n"
        "cuda.compile_ptx(lambda x: None, void(float32[::1]), cc=(8, 0))"
    )
    environment = {key: value for key, value in os.environ.items() if key != "NUMBA_ENABLE_CUDASIM"}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    if ran.returncode and "TASNET_REQUIRE_PEERS" in os.environ:
        raise RuntimeError(f"no CUDA compiler: {ran.stderr}")
    return ran.returncode == 0


def _compile(name, types, architecture):
    """PTX of one kernel, and the registers, spilled bytes and shared bytes that ptxas counts."""
    import numba.cuda.dispatcher

    # A device function asks for the GPU's architecture, and there is none.
    numba.cuda.dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=architecture)
    function = all_kernels()[name].python_function()
    ptx, _ = numba.cuda.compile_ptx(function, types, cc=architecture)
    return name, types, architecture, ptx, _resources(ptx, architecture)


def _ptxas():
    """The assembler, where pip or a CUDA toolkit brought one."""
    import shutil
    from pathlib import Path

    from_pip = [str(p) for entry in sys.path for p in Path(entry).glob("nvidia/cu*/bin/ptxas")]
    return next(iter(from_pip), shutil.which("ptxas"))


def _resources(ptx, architecture):
    """Registers, spilled bytes, shared bytes; None without ptxas."""
    if not _ptxas():
        return None
    target = f"-arch=sm_{architecture[0]}{architecture[1]}"
    command = [_ptxas(), "-v", target, "-", "-o", os.devnull]
    ran = subprocess.run(command, input=ptx, capture_output=True, text=True, check=True)

    def number(pattern):
        return int((re.search(pattern, ran.stderr) or [0, 0])[1])

    spilled = number(r"(\d+) bytes spill stores")
    return number(r"Used (\d+) registers"), spilled, number(r"(\d+) bytes smem")


def test_every_kernel_compiles(noted, capsys):
    if not _has_compiler():
        pytest.skip('numba.cuda has no compiler here: pip install "numba-cuda[cu13]"')
    names = {kernel: name for name, kernel in all_kernels().items()}
    precisions = collections.defaultdict(
        list
    )  # the data's dtypes for which a kernel is launched with these types
    for dtype, launched in noted.items():
        for kernel, signatures in launched.items():
            for types in signatures:
                precisions[names[kernel], types].append(dtype.__name__)
    jobs = [(*job, architecture) for job in precisions for architecture in ARCHITECTURES]
    table = []
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for name, types, architecture, ptx, resources in pool.map(_compile, *zip(*jobs), chunksize=8):
            assert f".target sm_{architecture[0]}{architecture[1]}" in ptx
            assert ".entry" in ptx
            table.append((name, architecture, ", ".join(precisions[name, types]), resources))
    with capsys.disabled():
        print(f"\n{len(jobs)} compilations of {len(names)} kernels")
        print(f"{'kernel':52}{'':>8}{'data':>18}{'registers':>10}{'spilled':>8}{'shared':>8}")
        for name, architecture, kind, resources in sorted(table, key=str):
            numbers = resources or ("-", "-", "-")
            cells = "".join(f"{cell:>{width}}" for cell, width in zip(numbers, (10, 8, 8)))
            print(f"{name:52}{f'sm_{architecture[0]}{architecture[1]}':>8}{kind:>18}{cells}")
    assert _ptxas() or "TASNET_REQUIRE_PEERS" not in os.environ, "no ptxas: pip install nvidia-cuda-nvcc"
    if _ptxas():
        spilled = [row for row in table if "float32" in row[2] and row[3][1]]
        assert not spilled, f"kernels that spill registers on float32 data: {spilled}"
