"""On a GPU: speed beside PyTorch eager on the same card, every kernel beside what the card can do, and parity.

    python tests/benchmarks/gpu.py                the benchmark: build/gpu.json and build/gpu.md
    python tests/benchmarks/gpu.py --parity       losses of 50 training steps on the GPU and on the CPU
    python tests/benchmarks/gpu.py --step         one training step, for compute-sanitizer

`make gpu` runs all of it. With --tiny the last two are small enough for numba's simulated GPU.
"""

import argparse
import dataclasses
import json
import math
import platform
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numba
import numpy as np
from side_by_side import median_seconds  # puts torch_peer on the path

from tasnet_np.compute import arrays, gpu
from tasnet_np.compute.gpu import cuda
from tasnet_np.network.config import Config
from tasnet_np.network.execution import ConvTasNet
from tasnet_np.network.gradcheck import reduced
from tasnet_np.network.layers import NegativeSISNR
from tasnet_np.optimisation.optimisers import Adam
from tasnet_np.optimisation.step import Step
from tasnet_np.training.recipe import Recipe
from tasnet_np.training.trainer import Trainer

SMALL, ORIGIN = Config.preset("small"), Config.preset("origin")
CASES = {  # config, batch; two seconds each
    "small, cLN": (SMALL, 32),
    "small, gLN": (SMALL.non_causal(), 32),
    "origin, cLN": (ORIGIN, 16),
    "origin, gLN": (ORIGIN.non_causal(), 16),
}
INFERENCE_SECONDS = 10
PARITY_DB = 1e-3


def example(config, batch, seconds=2.0, seed=0):
    """A batch of noise: mixture (B, n) and sources (B, 2, n), scaled like recordings."""
    rng = np.random.default_rng(seed)
    sources = 0.1 * rng.standard_normal((batch, 2, round(seconds * config.sample_rate))).astype(np.float32)
    return SimpleNamespace(mixture=sources.sum(axis=1), sources=sources, names=["noise"] * batch)


def our_step(config, batch):
    """A function that takes one training step on the GPU and waits for it; and the graph it is in."""
    model = ConvTasNet(config).to("cuda")
    step = Step(model, NegativeSISNR(), Adam(model.params), clip=5.0)
    data = example(config, batch)
    step(data)
    return lambda: step(data), step.work


def our_inference(config):
    model = ConvTasNet(config).to("cuda")
    mixture = arrays.move(example(config, 1, INFERENCE_SECONDS).mixture, "cuda")

    def separate():
        model.forward(mixture, keep=False)
        gpu.wait_for_gpu()

    return separate


def torch_step(config, batch):
    import torch
    from torch_peer import TorchConvTasNet, si_snr_loss

    model = TorchConvTasNet(config, exact_sums=False).cuda()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    data = example(config, batch)
    mixture, sources = torch.tensor(data.mixture).pin_memory(), torch.tensor(data.sources).pin_memory()

    def step():
        optimizer.zero_grad()
        loss = si_snr_loss(model(mixture.cuda(non_blocking=True)), sources.cuda(non_blocking=True))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5)
        optimizer.step()
        return loss.item()  # as ours does, for the log

    return step


def torch_inference(config):
    import torch
    from torch_peer import TorchConvTasNet

    model = TorchConvTasNet(config, exact_sums=False).cuda().eval()
    mixture = torch.tensor(example(config, 1, INFERENCE_SECONDS).mixture).cuda()

    def separate():
        with torch.no_grad():
            model(mixture)
        torch.cuda.synchronize()

    return separate


def set_tf32(on):
    """PyTorch's default lets cuDNN's convolutions use TF32, and matrix products not."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = on


def compare(rounds, runs):
    """Milliseconds for every case and side, medians over rounds in turns."""
    import torch

    rows = []
    for name, (config, batch) in CASES.items():
        ours, graph = our_step(config, batch)
        for kind, mine, theirs in (
            ("training step", ours, torch_step(config, batch)),
            (f"separate {INFERENCE_SECONDS} s", our_inference(config), torch_inference(config)),
        ):
            times = {"ours": [], "torch": [], "torch TF32": []}
            for _ in range(rounds):
                times["ours"].append(1e3 * median_seconds(mine, runs))
                for side, tf32 in (("torch", False), ("torch TF32", True)):
                    set_tf32(tf32)
                    times[side].append(1e3 * median_seconds(theirs, runs))
            row = {"case": name, "batch": batch, "what": kind}
            row |= {side: float(np.median(values)) for side, values in times.items()}
            row["recorded"] = graph.graph is not None if kind == "training step" else False
            row["not recorded because"] = graph.problem
            rows.append(row)
            print(row, flush=True)
        del ours, mine, graph, theirs
        torch.cuda.empty_cache()
    return rows


# Ceilings, and each kernel beside them.


def copy_bandwidth():
    """GB/s of a copy inside the GPU's memory, read and written bytes together."""
    size = 1 << 28
    a = arrays.zeros((size,), like=arrays.move(np.zeros(1, np.float32), "cuda"))
    b = arrays.empty(a.shape, like=a)
    seconds = _seconds_of(lambda: b.data.copy_to_device(a.data), launches=10)
    return 2 * 4 * size / seconds / 1e9


@gpu.cuda_kernel
def _multiply_add(y, rounds):
    """16 independent chains of multiplications and additions for each thread."""
    i = cuda.grid(1)
    sums = cuda.local.array(16, y.dtype)
    for j in range(16):
        sums[j] = y[i] + j
    for _ in range(rounds):
        for j in range(16):
            sums[j] = sums[j] * sums[j] + y[i]
    for j in range(16):
        y[i] += sums[j]


def float32_peak():
    """GFLOP/s of multiplications and additions in registers."""
    threads, rounds = 1 << 20, 4096
    y = arrays.zeros((threads,), like=arrays.move(np.zeros(1, np.float32), "cuda"))
    seconds = _seconds_of(lambda: _multiply_add[threads // 256, 256](y, rounds), launches=3)
    return 2 * 16 * threads * rounds / seconds / 1e9


def _seconds_of(launch, launches=20):
    """Time of one launch, of many in a row."""

    def many():
        for _ in range(launches):
            launch()
        gpu.wait_for_gpu()

    return median_seconds(many, runs=5) / launches


def of_kernels(config, batch):
    """For every kernel of a training step: time, GB/s and GFLOP/s, with its longest launch."""
    longest = {}
    launch = gpu._launch

    def note(kernel, configuration, arguments):
        launch(kernel, configuration, arguments)
        size = nbytes_of(arguments)
        if size >= longest.get(kernel, (0,))[0]:
            longest[kernel] = size, configuration, arguments

    model = ConvTasNet(config).to("cuda")
    step = Step(model, NegativeSISNR(), Adam(model.params), clip=5.0)
    data = example(config, batch)
    step(data)
    gpu._launch = note
    try:
        step(data)
    finally:
        gpu._launch = launch
    rows = []
    for kernel, (nbytes, configuration, arguments) in longest.items():
        graph = gpu.CudaGraph(lambda: [launch(kernel, configuration, arguments) for _ in range(20)])
        seconds = _seconds_of(graph, launches=1) / 20
        rows.append({
            "kernel": f"{kernel.__module__.split('.')[-1]}.{kernel.__name__}",
            "microseconds": 1e6 * seconds,
            "GB/s": nbytes / seconds / 1e9,
            "GFLOP/s": flops_of(configuration, arguments) / seconds / 1e9,
        })  # fmt: skip
    return sorted(rows, key=lambda row: -row["microseconds"])


def nbytes_of(arguments):
    """Bytes of all arrays of a launch, each counted once: the least that can move."""
    arrays = {}

    def collect(value):
        if isinstance(value, tuple):
            for part in value:
                collect(part)
        elif isinstance(value, gpu.CudaArray):
            arrays[id(value.memory), value.offset] = value.size * value.dtype.itemsize

    collect(arguments)
    return sum(arrays.values())


def flops_of(configuration, arguments):
    """Of a matrix product (see gpu_product.py); 0 for other kernels, which memory bounds."""
    shape = arguments[-1]
    if not (isinstance(shape, tuple) and len(shape) == 4 and all(isinstance(size, int) for size in shape)):
        return 0
    M, N, K, pieces = shape
    return 2 * M * N * K * configuration[0][2] // pieces


# Parity and one step.


def parity(tiny, steps):
    """Losses of a run on the GPU and on the CPU from the same weights; the largest difference, in dB."""
    config, batch, seconds = (reduced(SMALL), 2, 0.006) if tiny else (SMALL, 4, 1.0)
    config = dataclasses.replace(config, blocks=1, repeats=1) if tiny else config
    trainers = [Trainer(ConvTasNet(config, seed=1).to(place), Recipe()) for place in ("cpu", "cuda")]
    differences = []
    for step in range(steps):
        data = example(config, batch, seconds, seed=step)
        losses = [trainer.step(data)["loss"] for trainer in trainers]
        differences.append(abs(losses[0] - losses[1]))
    worst = max(differences)
    graph = trainers[1].update.work
    print(
        "the steps on the GPU are recorded" if graph.graph else f"the steps are not recorded: {graph.problem}"
    )
    print(f"parity over {steps} steps: the losses differ by at most {worst:.2e} dB (allowed: {PARITY_DB})")
    return worst <= PARITY_DB


def one_step(tiny):
    config = dataclasses.replace(reduced(ORIGIN), blocks=2, repeats=1, lookahead_blocks=1) if tiny else SMALL
    model = ConvTasNet(config).to("cuda")
    step = Step(model, NegativeSISNR(), Adam(model.params), clip=5.0)
    loss, norm = step(example(config, 2, 0.006 if tiny else 0.5))
    print(f"one step: loss {loss:.3f} dB, gradient norm {norm:.3f}")
    return math.isfinite(loss) and math.isfinite(norm)


def about():
    """Date, card, driver and versions."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    card = subprocess.run(query, capture_output=True, text=True).stdout.strip().splitlines()
    module = sys.modules[cuda.jit.__module__]
    versions = {"python": platform.python_version(), "numpy": np.__version__, "numba": numba.__version__}
    return {"date": time.strftime("%F"), "card": card[:1], "numba.cuda": module.__file__, **versions}


def markdown(results):
    """The results as Markdown tables."""
    copy, peak = results["copy GB/s"], results["float32 GFLOP/s"]
    lines = [
        f"{results['about']}",
        "",
        f"Ceilings, measured: copy {copy:.0f} GB/s, float32 {peak:.0f} GFLOP/s.",
        "",
    ]
    lines += [
        "| milliseconds | ours | PyTorch, TF32 off | its default | PyTorch / ours |",
        "|---|---|---|---|---|",
    ]
    for row in results["sides"]:
        lines.append(
            f"| {row['case']}, {row['what']} (batch {row['batch'] if 'step' in row['what'] else 1}) | "
            f"{row['ours']:.2f} | {row['torch']:.2f} | {row['torch TF32']:.2f} | {row['torch'] / row['ours']:.2f} |"
        )
    lines += [
        "",
        "| kernel | microseconds | GB/s | of the copy | GFLOP/s | of float32 |",
        "|---|---|---|---|---|---|",
    ]
    for row in results["kernels"]:
        lines.append(
            f"| {row['kernel']} | {row['microseconds']:.1f} | {row['GB/s']:.0f} | {row['GB/s'] / copy:.0%} | "
            f"{row['GFLOP/s']:.0f} | {row['GFLOP/s'] / peak:.0%} |"
        )
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parity", action="store_true")
    parser.add_argument("--step", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--steps", type=int, default=50, help="of the parity run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=20, help="steps in a round")
    parser.add_argument("--out", type=Path, default=Path("build"))
    options = parser.parse_args()
    gpu.choose_device("cuda")
    if options.parity:
        return 0 if parity(options.tiny, options.steps) else 1
    if options.step:
        return 0 if one_step(options.tiny) else 1
    results = {"about": about(), "copy GB/s": copy_bandwidth(), "float32 GFLOP/s": float32_peak()}
    results["sides"] = compare(options.rounds, options.runs)
    results["kernels"] = of_kernels(*CASES["origin, cLN"])
    options.out.mkdir(exist_ok=True)
    (options.out / "gpu.json").write_text(json.dumps(results, indent=1))
    (options.out / "gpu.md").write_text(markdown(results))
    print(markdown(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
