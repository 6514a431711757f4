"""Kill a training run with SIGKILL at random moments, also during checkpoint writes, and resume it each time.

    python tests/benchmarks/kills.py [--kills 50]

Each kill hits a run at work; the runs end with the same losses and weights, bit for bit, as an undisturbed one, and
leave no temporary files. Prints a line for every run, and exits with 1 if one differs.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

sys.path.insert(0, str(Path(__file__).parents[1]))  # killing
from killing import records, run_with_kills, start

from tasnet_np.network import checkpoint

ROUND = 5  # kills of one run


def recordings(folder):
    """A few seconds of made-up speakers and noises."""
    rng = np.random.default_rng(0)
    for i in range(12):
        path = folder / ("speech" if i % 2 else "noise") / f"s{i % 3}" / f"{i}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * rng.standard_normal(8000), 8000)


def arrays(path):
    stored = checkpoint.read(path)
    return {**stored.model.params, **stored.arrays}


def same(one, other):
    """Whether two runs have the same log, weights and files."""
    if records(one) != records(other) or {p.name for p in one.iterdir()} != {p.name for p in other.iterdir()}:
        return False
    pairs = [(arrays(one / name), arrays(other / name)) for name in ("last.npz", "best.npz")]
    return all(
        a.keys() == b.keys() and all(a[key].tobytes() == b[key].tobytes() for key in a) for a, b in pairs
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    options = parser.parse_args()
    print(f"seed {options.seed}")
    hits, differing, number = 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        recordings(folder)
        arguments = [
            "--speech",
            folder / "speech",
            "--noise",
            folder / "noise",
            "--seconds",
            "0.1",
            "--batch",
            "1",
        ]
        arguments += [
            "--validate-every",
            "3",
            "--validation-mixtures",
            "1",
            "--speed",
            "0.1",
            "--steps",
            options.steps,
        ]
        whole = folder / "whole"
        assert start([*arguments, "--out", whole]).wait() == 0
        while hits < options.kills:
            out = folder / f"killed{number}"
            hit = run_with_kills(arguments, out, min(ROUND, options.kills - hits), options.seed + number)
            is_same = same(whole, out)
            hits, differing, number = hits + hit, differing + (not is_same), number + 1
            print(
                f"run {number}: {hit} kills, {'the same' if is_same else 'DIFFERENT'} ({hits} so far)",
                flush=True,
            )
    print(f"{hits} kills in {number} runs, {differing} of them differ")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
