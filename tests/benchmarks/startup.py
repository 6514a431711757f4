"""From the shell to the result: imports, first calls ever, and warm ones, beside PyTorch doing the same."""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
from side_by_side import parser, write_json

import tasnet_np
from tasnet_np.network.config import Config
from tasnet_np.network.execution import ConvTasNet

TORCH = """
import sys, soundfile, torch
sys.path.insert(0, {tests!r})
from torch_peer import TorchConvTasNet
from tasnet_np import Config
samples, rate = soundfile.read({noisy!r}, dtype="float32")
with torch.no_grad():
    speech = TorchConvTasNet(Config.preset("small"))(torch.tensor(samples)[None])[0, 0]
soundfile.write({out!r}, speech.numpy() / speech.abs().max().item(), rate)
"""


def seconds(command, **environment):
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=os.environ | environment)
    return time.perf_counter() - started


def main():
    options = parser(__doc__, (), ()).parse_args()
    python = sys.executable
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        noisy, model, out = (str(folder / name) for name in ("noisy.wav", "model.npz", "out.wav"))
        soundfile.write(noisy, 0.1 * np.random.default_rng(0).standard_normal(80000), 8000)
        tasnet_np.save(ConvTasNet(Config.preset("small")), model)
        denoise = [python, "-m", "tasnet_np", "denoise", noisy, "--model", model, "-o", out]
        script = TORCH.format(tests=str(Path(__file__).parents[1]), noisy=noisy, out=out)
        data = Path(tasnet_np.__file__).parents[1] / "data"
        train = [python, "-m", "tasnet_np", "train", "--quiet", "--steps", "1", "--out", str(folder / "run")]
        train += ["--speech", str(data / "speech"), "--noise", str(data / "noise")]

        def timed(command, **environment):
            shutil.rmtree(folder / "run", ignore_errors=True)
            return seconds(command, **environment)

        cold = {}
        for name, command in {"denoise 10 s": denoise, "train for one step": train}.items():
            caches = [str(folder / f"{command[3]}{i}") for i in range(options.rounds)]
            cold[f"{name}, first call ever"] = [timed(command, NUMBA_CACHE_DIR=cache) for cache in caches]
            timed(command)
        commands = {
            "import numba": [python, "-c", "import numba"],
            "import tasnet_np": [python, "-c", "import tasnet_np"],
            "denoise 10 s, warm": denoise,
            "train for one step, warm": train,
            "the same network in PyTorch": [python, "-c", script],
        }
        runs = {name: [] for name in commands}
        for _ in range(2 * options.rounds + 1):
            for name, command in commands.items():
                runs[name].append(timed(command))
    results = {name: statistics.median(times) for name, times in (cold | runs).items()}
    for name, value in results.items():
        print(f"{name:<32}{value:7.2f} s")
    write_json(options.json, results)


if __name__ == "__main__":
    main()
