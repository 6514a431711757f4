"""Where a training step's time goes, and how close each part of it comes to what the machine can do.

Every stage of the fused block is timed by itself, on one thread, and placed by its arithmetic intensity
(operations per byte that has to move) under two measured ceilings: the largest matrix product, and a copy.
"""

import tasnet_np  # isort: skip  # noqa: F401  before NumPy, whose matrix products it chooses

import argparse
import time
from pathlib import Path

import numpy as np
from cpu_training import example
from side_by_side import cpu_name, median_seconds
from threadpoolctl import threadpool_limits

from tasnet_np import ConvTasNet, NegativeSISNR
from tasnet_np.compute.cpu import keep_freed_memory, set_threads
from tasnet_np.compute.cpu_product import add_product_over_time, panels, product_with_weight
from tasnet_np.network.config import Config
from tasnet_np.ops import tcn_block
from tasnet_np.ops import tcn_block_cpu as ops
from tasnet_np.ops.frame_statistics import CUMULATIVE, Spread, Statistics, Sums, statistics_forward_cpu
from tasnet_np.ops.tcn_block_arrays import Gradients, Kept, Streams, Weights
from tasnet_np.optimisation.optimisers import Adam, clip_gradients
from tasnet_np.safe_files import atomic_path


def stages(config):
    """Name -> (function, floating-point operations, bytes) for one block and one sample of 2 s."""
    rng = np.random.default_rng(0)

    def f(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    B, H, O, K = config.bottleneck, config.hidden, config.bottleneck + config.skip, config.kernel
    T, R, reach = config.frames(2 * config.sample_rate), config.bottleneck, tcn_block._reach(K, 8, 0)
    x, skips, a, d, z, g, y = f(T, B), f(T, O - B), f(T, H), f(T, H), f(T, H), f(T, H), f(T, O)
    n, padded_g, dx = f(reach.before + T + reach.after, H), f(reach.before + T + reach.after, H), f(T, B)
    we, w2, vector, u = f(H, B), f(O, H), f(H), f(O)
    forward = Weights(panels(we), vector * 0, f(1), vector, vector, f(K, H), vector, f(1), panels(w2), u, u)
    backward = forward._replace(we=panels(we.T), w2=panels(w2.T))
    statistics, sums, spread = Statistics(*np.abs(f(2, T))), Sums(*np.empty((2, T))), Spread(*f(2, T))
    kept, streams = Kept(x, a, *statistics, *statistics), Streams(x, skips)
    gradients = Gradients(we, f(H), f(1), f(H), f(H), f(H, K), f(H), f(1), w2, u)
    e1, e2 = f(O), f(O)
    HT, OT, flops = H * T, O * T, 2 * T

    def middle():
        ops._first_norm_forward_cpu(n, a, statistics, forward, -reach.before, T + reach.after, reach.before)
        ops._depthwise_forward_cpu(d, n, forward.wd, vector, reach.taps)
        ops._second_prelu_forward_cpu(z, sums, d, forward.alpha2)

    def scale():
        ops._scale_cpu(y, e1, e2, x, statistics, 0)
        ops._scale_cpu(y, e1, e2, skips, statistics, R)

    def back_through_the_middle():
        ops._middle_backward_cpu(d, gradients, sums, padded_g, spread, kept, backward, reach)

    in_the_middle = (10 + 2 * K) * HT, 8 * HT
    return {
        "We x": (lambda: product_with_weight(a, x, forward.we), flops * H * B, 4 * (HT + B * T)),
        "bias, PReLU, sums": (
            lambda: ops._first_prelu_forward_cpu(sums, a, forward.be, forward.alpha1), 6 * HT, 8 * HT,
        ),
        "norm, depthwise, PReLU, sums": (middle, *in_the_middle),
        "W2 z": (lambda: product_with_weight(y, z, forward.w2), flops * H * O, 4 * (HT + OT)),
        "norm, residual, skip": (
            lambda: ops._join_forward_cpu(streams, y, statistics, forward, 0, T), 5 * OT, 12 * OT,
        ),
        "statistics": (
            lambda: statistics_forward_cpu(statistics, sums, H, CUMULATIVE, 1e-8), 12 * T, 24 * T,
        ),
        "dy r, sums": (scale, 4 * OT, 8 * OT),
        "z once more": (middle, *in_the_middle),
        "dy z^T": (lambda: add_product_over_time(w2, y, z), flops * H * O, 4 * (HT + OT)),
        "W2^T dy": (lambda: product_with_weight(g, y, backward.w2), flops * H * O, 4 * (HT + OT)),
        "sums for the norm": (lambda: ops._sums_backward_cpu(sums, g, z, statistics), 4 * HT, 8 * HT),
        "back through the middle": (back_through_the_middle, (24 + 8 * K) * HT, 12 * HT),
        "back to the expansion": (
            lambda: ops._prelu_backward_cpu(g, gradients.be, a, spread, forward.alpha1), 7 * HT, 12 * HT,
        ),
        "da x^T": (lambda: add_product_over_time(we, z, x), flops * H * B, 4 * (HT + B * T)),
        "We^T da": (lambda: product_with_weight(dx, z, backward.we), flops * H * B, 4 * (HT + B * T)),
    }  # fmt: skip


def ceilings():
    """GFLOP/s of a large matrix product and GB/s of a copy that no cache holds, on one thread."""
    a, b = np.random.default_rng(0).standard_normal((2, 1024, 1024)).astype(np.float32)
    out = np.empty_like(a)
    source, target = np.ones(2**26, np.float32), np.ones(2**26, np.float32)
    flops = 2 * 1024**3 / median_seconds(lambda: np.matmul(a, b, out=out), 9)
    return flops / 1e9, 2 * source.nbytes / median_seconds(lambda: np.copyto(target, source), 5) / 1e9


def measure(config):
    """Rows (name, milliseconds, GFLOP/s, GB/s, operations per byte)."""
    rows = []
    for name, (function, operations, moved) in stages(config).items():
        taken = median_seconds(function, 15)
        rows.append((name, 1000 * taken, operations / taken / 1e9, moved / taken / 1e9, operations / moved))
    return rows


def parts(config, steps=7):
    """Rows (name, milliseconds forward, milliseconds backward) of a training step of one example, on one thread."""
    model, loss = ConvTasNet(config), NegativeSISNR()
    optimizer = Adam(model.params)
    mixture, sources = example(config, 1)
    taken = {}

    def timed(name, direction, function):
        def call(*args, **settings):
            start = time.perf_counter()
            result = function(*args, **settings)
            taken.setdefault(name, ([], []))[direction].append(1000 * (time.perf_counter() - start))
            return result

        return call

    named = {"blocks": model.blocks, "decoder": list(model.decoders.values()), "loss": [loss]}
    names = ("encoder", "norm", "bottleneck", "prelu", "mask", "mask_activation", "multiply")
    for name, layers in {**{name: [getattr(model, name)] for name in names}, **named}.items():
        for layer in layers:
            layer.forward, layer.backward = timed(name, 0, layer.forward), timed(name, 1, layer.backward)
    clip, update = timed("clip", 1, clip_gradients), timed("Adam", 1, optimizer.step)
    for step in range(steps + 3):
        if step == 3:
            taken.clear()
        start = time.perf_counter()
        model.gradients(loss, mixture, sources)
        grads = model.grads
        clip(grads, 5)
        update(grads)
        taken.setdefault("whole step", ([], []))[1].append(1000 * (time.perf_counter() - start))
    return [(name, *(sum(times) / steps for times in both)) for name, both in taken.items()]


def draw(path, tables, peak_flops, bandwidth):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    intensity = np.geomspace(0.2, 200, 100)
    ax.loglog(
        intensity,
        np.minimum(peak_flops, intensity * bandwidth),
        color="black",
        label="ceiling: memory copy, matrix product",
    )
    for (preset, rows), marker, colour in zip(tables.items(), "os", ("#0072B2", "#D55E00")):
        ax.loglog([row[4] for row in rows], [row[2] for row in rows], marker, color=colour, label=preset)
        for i, row in enumerate(rows):
            ax.annotate(
                str(i + 1),
                (row[4], row[2]),
                textcoords="offset points",
                xytext=(5, 3),
                fontsize=8,
                color=colour,
            )
    names = "\n".join(f"{i + 1:2d}  {row[0]}" for i, row in enumerate(next(iter(tables.values()))))
    ax.text(1.02, 0.5, names, transform=ax.transAxes, fontsize=8, va="center")
    ax.set_xlabel("operations per byte moved")
    ax.set_ylabel("GFLOP/s, one thread")
    ax.set_title(f"Stages of one fused block ({cpu_name()})")
    ax.legend(loc="lower right")
    ax.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=130)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", default="roofline.png", type=Path, help="picture to write")
    options = parser.parse_args()
    set_threads(1)
    keep_freed_memory()
    with threadpool_limits(1, "blas"):
        peak_flops, bandwidth = ceilings()
        print(
            f"ceilings on one thread: {peak_flops:.0f} GFLOP/s (matrix product), {bandwidth:.1f} GB/s (copy)"
        )
        tables = {preset: measure(Config.preset(preset)) for preset in ("small", "origin")}
        steps = {preset: parts(Config.preset(preset)) for preset in tables}
    for preset, rows in tables.items():
        total = sum(row[1] for row in rows)
        print(f"\n{preset}: one block, one sample of 2 s, forward and backward: {total:.2f} ms")
        print(f"{'stage':<30}{'ms':>8}{'share':>7}{'GFLOP/s':>9}{'GB/s':>7}{'op/byte':>9}")
        for name, milliseconds, gflops, gbytes, intensity in rows:
            print(
                f"{name:<30}{milliseconds:8.3f}{milliseconds / total:7.1%}{gflops:9.1f}{gbytes:7.1f}{intensity:9.1f}"
            )
    for preset, rows in steps.items():
        total = rows[-1][2]
        print(f"\n{preset}: a training step of one example of 2 s, mean ms")
        print(f"{'part':<30}{'forward':>9}{'backward':>10}{'share':>7}")
        for name, forward, backward in rows:
            print(f"{name:<30}{forward:9.2f}{backward:10.2f}{(forward + backward) / total:7.1%}")
        other = total - sum(forward + backward for _, forward, backward in rows[:-1])
        print(f"{'between the parts':<39}{other:10.2f}{other / total:7.1%}")
    draw(options.plot, tables, peak_flops, bandwidth)


if __name__ == "__main__":
    main()
