"""One training step (forward, loss, backward, clip, Adam), beside PyTorch and beside its matrix products alone."""

import tasnet_np  # isort: skip  # noqa: F401  before NumPy, whose matrix products it chooses

import json

import numpy as np
from side_by_side import in_turns, median_seconds, parser, peak_mb, write_json

from tasnet_np.network.config import Config

SMALL, ORIGIN = Config.preset("small"), Config.preset("origin")
CASES = {  # config, batch; two seconds each
    "small-cLN": (SMALL, 4),
    "small-gLN": (SMALL.non_causal(), 4),
    "origin-cLN": (ORIGIN, 2),
    "origin-gLN": (ORIGIN.non_causal(), 2),
}
SIDES = ("fused", "ops", "torch", "compiled", "floor")


def example(config, batch):
    rng = np.random.default_rng(0)
    sources = 0.1 * rng.standard_normal((batch, 2, 2 * config.sample_rate)).astype(np.float32)
    return sources.sum(axis=1), sources


def our_step(config, batch, threads, path):
    from tasnet_np import ConvTasNet, NegativeSISNR
    from tasnet_np.compute.cpu import keep_freed_memory, set_threads
    from tasnet_np.optimisation.optimisers import Adam, clip_gradients

    keep_freed_memory()
    set_threads(threads)
    model, loss = ConvTasNet(config, path=path), NegativeSISNR()
    optimizer = Adam(model.params)
    mixture, sources = example(config, batch)

    def step():
        model.gradients(loss, mixture, sources)
        grads = model.grads
        clip_gradients(grads, 5)
        optimizer.step(grads)

    return step


def torch_step(config, batch, threads, compiled):
    import torch
    from torch_peer import TorchConvTasNet, si_snr_loss

    torch.set_num_threads(threads)
    model = TorchConvTasNet(config, exact_sums=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    network = torch.compile(model) if compiled else model
    mixture, sources = map(torch.tensor, example(config, batch))

    def step():
        optimizer.zero_grad()
        si_snr_loss(network(mixture), sources).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5)
        optimizer.step()

    return step


def floor_step(config, batch, threads):
    """Only the matrix products of a step, in OpenBLAS, one thread per sample."""
    from tasnet_np.compute.cpu import over_samples, set_threads

    set_threads(threads)
    N, B, H, Sc, L = config.filters, config.bottleneck, config.hidden, config.skip, config.filter_length
    T, count = config.frames(2 * config.sample_rate), config.blocks * config.repeats
    layers = [(N, L), (B, N), (2 * N, Sc), (N, L), (N, L)] + [(H, B), (B + Sc, H)] * count
    rng = np.random.default_rng(0)
    size = max(max(pair) for pair in layers) * T
    x, y = (rng.standard_normal((batch, size)).astype(np.float32) for _ in range(2))
    weights = [rng.standard_normal(pair).astype(np.float32) for pair in layers]

    def sample(x, y):
        for w in weights:
            outputs, inputs = w.shape
            a, b = x[: inputs * T].reshape(inputs, T), y[: outputs * T].reshape(outputs, T)
            np.matmul(w, a, out=b)  # forward
            np.matmul(w.T, b, out=a)  # gradient of the input
            b @ a.T  # gradient of the weights
            a *= 1e-3  # keeps the numbers from overflowing

    return lambda: over_samples(sample, (x, y))


def run_side(side, case, threads):
    config, batch = CASES[case]
    if side in ("torch", "compiled"):
        import torch  # noqa: F401  its import is not what is measured
    before = peak_mb()
    step = (
        floor_step(config, batch, threads)
        if side == "floor"
        else torch_step(config, batch, threads, side == "compiled")
        if side in ("torch", "compiled")
        else our_step(config, batch, threads, side)
    )
    seconds = median_seconds(step, runs=7 if case.startswith("small") else 4)
    print(json.dumps({"seconds": seconds, "peak_mb": peak_mb() - before}))


def main():
    options = parser(__doc__, CASES, SIDES).parse_args()
    if options.side:
        return run_side(options.side, options.case, options.threads)
    sides = [side for side in SIDES if side not in options.without]
    results = {}
    print(
        f"{'case':<12}"
        + "".join(f"{side + ' s':>12}{'MB':>7}" for side in sides)
        + "   torch/fused  fused/floor"
    )
    for case in [options.case] if options.case else CASES:
        results[case] = r = in_turns(__file__, sides, case, options.threads, options.rounds)
        cells = "".join(f"{r[side]['seconds']:12.3f}{r[side]['peak_mb']:7.0f}" for side in sides)
        ratios = [
            r[a]["seconds"] / r[b]["seconds"] if a in r and b in r else np.nan
            for a, b in (("torch", "fused"), ("fused", "floor"))
        ]
        print(f"{case:<12}{cells}{ratios[0]:14.2f}{ratios[1]:13.2f}", flush=True)
    write_json(options.json, results)


if __name__ == "__main__":
    main()
