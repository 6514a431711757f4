"""Separating one recording, beside PyTorch without gradients; and how the time grows with the length."""

import tasnet_np  # isort: skip  # noqa: F401  before NumPy, whose matrix products it chooses

import json

import numpy as np
from side_by_side import in_turns, median_seconds, parser, peak_mb, write_json

from tasnet_np.network.config import Config

SMALL, ORIGIN = Config.preset("small"), Config.preset("origin")
CASES = {  # config, seconds
    "small-cLN": (SMALL, 10),
    "small-gLN": (SMALL.non_causal(), 10),
    "origin-cLN": (ORIGIN, 10),
    "origin-gLN": (ORIGIN.non_causal(), 10),
    "small-1s": (SMALL, 1),
    "small-60s": (SMALL, 60),
    "small-600s": (SMALL, 600),
}
SIDES = ("fused", "torch")


def ours(config, mixture, threads):
    from tasnet_np import ConvTasNet
    from tasnet_np.compute.cpu import keep_freed_memory, set_threads

    keep_freed_memory()
    set_threads(threads)
    model = ConvTasNet(config)
    return lambda: model.forward(mixture, keep=False)


def theirs(config, mixture, threads):
    import torch
    from torch_peer import TorchConvTasNet

    torch.set_num_threads(threads)
    model, tensor = TorchConvTasNet(config, exact_sums=False), torch.tensor(mixture)

    def run():
        with torch.no_grad():
            model(tensor)

    return run


def run_side(side, case, threads):
    config, seconds = CASES[case]
    if side == "torch":
        import torch  # noqa: F401  its import is not what is measured
    mixture = np.random.default_rng(0).standard_normal((1, seconds * config.sample_rate)).astype(np.float32)
    before = peak_mb()
    run = (ours if side == "fused" else theirs)(config, mixture, threads)
    long = seconds > 60
    taken = median_seconds(run, runs=1 if long else 7, warm_up=1 if long else 2)
    print(json.dumps({"seconds": taken, "peak_mb": peak_mb() - before, "per_second": taken / seconds}))


def main():
    options = parser(__doc__, CASES, SIDES).parse_args()
    if options.side:
        return run_side(options.side, options.case, options.threads)
    results = {}
    print(
        f"{'case':<12}{'threads':>8}{'fused s':>10}{'MB':>7}{'torch s':>10}{'MB':>7}{'ratio':>7}  ms per second"
    )
    for case in [options.case] if options.case else CASES:
        for threads in sorted({1, options.threads}):
            results[f"{case}, {threads} threads"] = r = in_turns(
                __file__, SIDES, case, threads, options.rounds
            )
            a, b = r["fused"], r["torch"]
            print(
                f"{case:<12}{threads:8}{a['seconds']:10.3f}{a['peak_mb']:7.0f}{b['seconds']:10.3f}{b['peak_mb']:7.0f}"
                f"{b['seconds'] / a['seconds']:7.2f}  {1000 * a['per_second']:.1f}",
                flush=True,
            )
    write_json(options.json, results)


if __name__ == "__main__":
    main()
