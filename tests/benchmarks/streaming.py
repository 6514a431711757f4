"""A network streamed hop by hop: time per hop, beside PyTorch and ONNX Runtime with carried buffers.

    python tests/benchmarks/streaming.py                  # the tables; one core
    python tests/benchmarks/streaming.py --picture p.png  # every hop of a minute
    python tests/benchmarks/streaming.py --silence        # does silence take longer than speech?
    python tests/benchmarks/streaming.py --hour           # an hour of sound: memory and time
    python tests/benchmarks/streaming.py --drift RUN      # SI-SNRi after 0, 1, 10 and 60 minutes

PyTorch and ONNX Runtime come with `pip install 'tasnet_np[peers]'`.
"""

import dataclasses
import json
import math
import os
import resource
import time
from pathlib import Path

import numpy as np
from side_by_side import in_turns, machine, parser, write_json

from tasnet_np import Config, ConvTasNet
from tasnet_np.safe_files import atomic_path
from tasnet_np.streaming.streamer import Streamer

CASES = {
    "small": Config.preset("small"),
    "origin-causal": dataclasses.replace(Config.preset("origin"), lookahead_blocks=0),
    "origin": Config.preset("origin"),
}
HOPS = (1, 2, 4, 8, 16, 32, 64, 128)  # in one call
SIDES = ("ours", "torch", "onnx")
SECONDS = 60  # of sound, after the warm-up


def noise(samples):
    return (0.1 * np.random.default_rng(0).standard_normal(samples)).astype(np.float32)


# The peers. Causal networks only, one channel; frames are rows, as in `tasnet_np.streaming.streamer`.


class TorchStreamer:
    """The network in PyTorch, with its buffers carried from call to call."""

    def __init__(self, model):
        import torch

        torch.set_num_threads(1)
        self.torch, self.config = torch, model.config
        self.w = {name: torch.tensor(array) for name, array in model.named_parameters().items()}
        self.blocks = range(self.config.blocks * self.config.repeats)
        c = self.config
        self.tail = torch.zeros(c.hop)
        self.history = [torch.zeros((c.kernel - 1) * c.dilation(i), c.hidden) for i in self.blocks]
        self.sums = [torch.zeros(3, dtype=torch.float64) for _ in range(1 + 2 * len(self.blocks))]
        self.overlap = torch.zeros(2, c.hop)

    def norm(self, x, place, name):
        """Cumulative norm of rows x (T, C)."""
        torch, (T, C) = self.torch, x.shape
        exact = x.double()
        new = torch.stack(
            [exact.sum(1), exact.square().sum(1), torch.full((T,), float(C), dtype=exact.dtype)]
        )
        so_far = new.cumsum(1) + self.sums[place][:, None]
        self.sums[place] = so_far[:, -1]
        mean = so_far[0] / so_far[2]
        scale = (so_far[1] / so_far[2] - mean.square()).clamp(min=0).add(1e-8).rsqrt()
        x = (x - mean[:, None].float()) * scale[:, None].float()
        return x * self.w[f"{name}.gamma"] + self.w[f"{name}.beta"]

    def process(self, samples):
        torch, w, c = self.torch, self.w, self.config
        linear, prelu = torch.nn.functional.linear, torch.nn.functional.prelu
        with torch.inference_mode():
            padded = torch.cat([self.tail, torch.from_numpy(samples)])
            self.tail = padded[-c.hop :]
            frames = linear(padded.unfold(0, c.filter_length, c.hop), w["encoder.w"])  # (T, N)
            x = linear(self.norm(frames, 0, "norm"), w["bottleneck.w"], w["bottleneck.b"])
            T, skips = len(x), 0
            for i in self.blocks:
                name = f"blocks.{i}"
                h = prelu(linear(x, w[f"{name}.expand.w"], w[f"{name}.expand.b"]), w[f"{name}.prelu1.alpha"])
                h = torch.cat([self.history[i], self.norm(h, 1 + 2 * i, f"{name}.norm1")])
                self.history[i] = h[T:]
                taps, d = w[f"{name}.depthwise.w"], c.dilation(i)
                h = w[f"{name}.depthwise.b"] + sum(taps[:, k] * h[k * d : k * d + T] for k in range(c.kernel))
                h = self.norm(prelu(h, w[f"{name}.prelu2.alpha"]), 2 + 2 * i, f"{name}.norm2")
                skips = skips + linear(h, w[f"{name}.skip.w"], w[f"{name}.skip.b"])
                if i < self.blocks[-1]:
                    x = x + linear(h, w[f"{name}.residual.w"], w[f"{name}.residual.b"])
            masks = linear(prelu(skips, w["prelu.alpha"]), w["mask.w"], w["mask.b"]).sigmoid()
            masked = masks.view(T, 2, -1) * frames[:, None]  # (T, 2, N)
            decoders = [w.get(f"decoder_{name}.w", w.get("decoder.w")) for name in ("speech", "noise")]
            pieces = torch.stack([masked[:, s] @ decoders[s] for s in range(2)])  # (2, T, L)
            old = torch.cat([self.overlap[:, None], pieces[:, :-1, c.hop :]], dim=1)
            self.overlap = pieces[:, -1, c.hop :]
            return (old + pieces[:, :, : c.hop]).reshape(2, -1).numpy()


class OnnxStreamer:
    """The network as an ONNX graph with its buffers as inputs and outputs, for a fixed number of hops."""

    def __init__(self, model, hops):
        import onnxruntime

        graph, self.state = onnx_graph(model, hops)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        value = onnxruntime.OrtValue.ortvalue_from_numpy
        self.inputs = {name: value(array) for name, array in self.state.items()}
        self.value = value

    def process(self, samples):
        binding = self.session.io_binding()
        binding.bind_ortvalue_input("samples", self.value(samples))
        for name, value in self.inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name in ("sources", *(f"{name}_next" for name in self.inputs)):
            binding.bind_output(name)
        self.session.run_with_iobinding(binding)
        sources, *state = binding.get_outputs()
        self.inputs = dict(zip(self.inputs, state))
        return sources.numpy()


def onnx_graph(model, hops):
    """The model as an ONNX graph, and its buffers at the start of a stream."""
    from onnx import TensorProto, helper, numpy_helper

    c, w, T = model.config, model.named_parameters(), hops
    nodes, constants, count = [], [], iter(range(10**6))
    state = {"tail": np.zeros(c.hop, np.float32), "overlap": np.zeros((2, 1, c.hop), np.float32)}
    following = {}  # name of a buffer -> name of its next value

    def constant(array):
        name = f"c{next(count)}"
        constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def op(kind, *inputs, **settings):
        name = f"v{next(count)}"
        nodes.append(helper.make_node(kind, inputs, [name], **settings))
        return name

    def ints(*values):
        return constant(np.array(values, np.int64))

    def part(x, axis, start, stop):
        return op("Slice", x, ints(start), ints(stop), ints(axis))

    def linear(x, name):
        return op("Gemm", x, constant(w[f"{name}.w"]), constant(w[f"{name}.b"]), transB=1)

    def prelu(x, name):
        return op("PRelu", x, constant(w[f"{name}.alpha"]))

    def norm(x, name, channels):
        buffer = f"{name}_sums"
        state[buffer] = np.zeros((1, 2))
        exact = op("Cast", x, to=TensorProto.DOUBLE)
        both = [op("ReduceSum", value, ints(1), keepdims=1) for value in (exact, op("Mul", exact, exact))]
        so_far = op("Add", op("CumSum", op("Concat", *both, axis=1), constant(np.int64(0))), buffer)  # (T, 2)
        following[buffer] = part(so_far, 0, T - 1, T)
        divided = op("Div", so_far, op("Mul", "frames_so_far", constant(np.float64(channels))))
        mean, square = part(divided, 1, 0, 1), part(divided, 1, 1, 2)
        variance = op("Max", op("Sub", square, op("Mul", mean, mean)), constant(np.float64(0)))
        root = op("Sqrt", op("Add", variance, constant(np.float64(1e-8))))
        mean, root = (op("Cast", value, to=TensorProto.FLOAT) for value in (mean, root))
        x = op("Div", op("Sub", x, mean), root)
        return op("Add", op("Mul", x, constant(w[f"{name}.gamma"])), constant(w[f"{name}.beta"]))

    state["frame"] = np.zeros((1, 1))
    nodes.append(
        helper.make_node("Add", ["frame", constant(np.arange(1.0, T + 1)[:, None])], ["frames_so_far"])
    )
    following["frame"] = op("Add", "frame", constant(np.float64(T)))
    padded = op("Concat", "tail", "samples", axis=0)
    following["tail"] = part(padded, 0, T * c.hop, (T + 1) * c.hop)
    halves = [op("Reshape", part(padded, 0, k * c.hop, (k + T) * c.hop), ints(T, c.hop)) for k in range(2)]
    frames = op("MatMul", op("Concat", *halves, axis=1), constant(w["encoder.w"].T))  # (T, N)
    x = linear(norm(frames, "norm", c.filters), "bottleneck")
    skips, blocks = None, range(c.blocks * c.repeats)
    for i in blocks:
        name, d = f"blocks.{i}", c.dilation(i)
        span = (c.kernel - 1) * d
        h = norm(prelu(linear(x, f"{name}.expand"), f"{name}.prelu1"), f"{name}.norm1", c.hidden)
        state[f"{name}_history"] = np.zeros((span, c.hidden), np.float32)
        h = op("Concat", f"{name}_history", h, axis=0)  # (span + T, H)
        following[f"{name}_history"] = part(h, 0, T, span + T)
        total = constant(w[f"{name}.depthwise.b"])
        for k in range(c.kernel):
            tap = constant(w[f"{name}.depthwise.w"][:, k])
            total = op("Add", total, op("Mul", part(h, 0, k * d, k * d + T), tap))
        h = norm(prelu(total, f"{name}.prelu2"), f"{name}.norm2", c.hidden)
        skip = linear(h, f"{name}.skip")
        skips = op("Add", skips, skip) if skips else skip
        if i < blocks[-1]:
            x = op("Add", x, linear(h, f"{name}.residual"))
    masks = op("Sigmoid", linear(prelu(skips, "prelu"), "mask"))
    pieces = []
    for s, source in enumerate(("speech", "noise")):
        decoder = w.get(f"decoder_{source}.w", w.get("decoder.w"))
        masked = op("Mul", part(masks, 1, s * c.filters, (s + 1) * c.filters), frames)
        pieces.append(op("Unsqueeze", op("MatMul", masked, constant(decoder)), ints(0)))
    pieces = op("Concat", *pieces, axis=0)  # (2, T, L)
    new, old = part(pieces, 2, 0, c.hop), part(pieces, 2, c.hop, 2 * c.hop)
    following["overlap"] = part(old, 1, T - 1, T)
    old = op("Concat", "overlap", part(old, 1, 0, T - 1), axis=1)
    nodes.append(helper.make_node("Reshape", [op("Add", old, new), ints(2, T * c.hop)], ["sources"]))
    for name, value in following.items():
        nodes.append(helper.make_node("Identity", [value], [f"{name}_next"]))

    kinds = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.float64): TensorProto.DOUBLE}

    def info(name, array):
        return helper.make_tensor_value_info(name, kinds[array.dtype], array.shape)

    samples, sources = np.zeros(T * c.hop, np.float32), np.zeros((2, T * c.hop), np.float32)
    inputs = [info("samples", samples)] + [info(name, array) for name, array in state.items()]
    outputs = [info("sources", sources)] + [info(f"{name}_next", array) for name, array in state.items()]
    graph = helper.make_graph(nodes, "streamed", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), state


def streamer_of(side, model, hops):
    if side == "ours":
        return Streamer(model)
    return TorchStreamer(model) if side == "torch" else OnnxStreamer(model, hops)


def check(side, model, hops):
    """A peer must compute what is being compared: the same outputs, one hop later (its padding's)."""
    c = model.config
    samples = noise(64 * hops * c.hop)
    pieces = [samples[i : i + hops * c.hop] for i in range(0, len(samples), hops * c.hop)]
    streamer = streamer_of(side, model, hops)
    theirs = np.concatenate([streamer.process(piece) for piece in pieces], axis=-1)[:, c.hop :]
    streamer = Streamer(model)
    ours = np.concatenate([streamer.process(piece) for piece in pieces], axis=-1)
    error = np.abs(theirs - ours).max() / np.abs(ours).max()
    assert error < 1e-4, f"{side} computes something else: error {error}"


# Timing.


def time_per_call(streamer, samples, size):
    """Seconds of each call over the samples, `size` at a time, after a twentieth to warm up."""
    times = []
    for start in range(0, len(samples) - size + 1, size):
        piece = samples[start : start + size]
        began = time.perf_counter()
        streamer.process(piece)
        times.append(time.perf_counter() - began)
    return np.array(times[len(times) // 20 :])


def run_side(side, case, seconds, curve):
    """Numbers of one side in this process: microseconds per hop for each number of hops per call."""
    config = CASES[case]
    model = ConvTasNet(config)
    samples, results = noise(int(seconds * config.sample_rate)), {}
    for hops in curve:
        if side != "ours":
            check(side, model, hops)
        part = samples if hops == 1 else samples[: len(samples) // 4]
        times = 1e6 * time_per_call(streamer_of(side, model, hops), part, hops * config.hop) / hops
        results[f"{hops} median"] = float(np.median(times))
        results[f"{hops} p99.9"] = float(np.quantile(times, 0.999))
        results[f"{hops} max"] = float(times.max())
    return results


def table(case, results, curve):
    """Microseconds per hop, one row per number of hops in a call."""
    config = CASES[case]
    hop_ms = 1000 * config.hop / config.sample_rate
    print(f"\n{case}: microseconds per hop of {hop_ms:g} ms, {config.parameter_count:,} parameters, one core")
    print(
        f"{'hops per call':>13}"
        + "".join(f"{side + ' median':>14}{'p99.9':>9}{'max':>9}" for side in results)
    )
    for hops in curve:
        cells = [[side[f"{hops} {what}"] for what in ("median", "p99.9", "max")] for side in results.values()]
        print(f"{hops:>13}" + "".join(f"{a:>14.1f}{b:>9.1f}{c:>9.1f}" for a, b, c in cells))
    for side in list(results)[1:]:
        ratios = [results[side][f"{hops} median"] / results["ours"][f"{hops} median"] for hops in curve]
        print(
            f"{side} takes {min(ratios):.1f} to {max(ratios):.1f} times as long; {ratios[0]:.1f} at one hop per call"
        )


def picture(path, case, seconds):
    """Every hop of a minute: time to compute, median, p99.9 and deadline."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    config = CASES[case]
    streamer, samples = Streamer(ConvTasNet(config)), noise(int(seconds * config.sample_rate))
    times = 1e6 * time_per_call(streamer, samples, config.hop)
    at = np.linspace(seconds / 20, seconds, len(times))
    deadline = 1e6 * config.hop / config.sample_rate
    figure, axes = plt.subplots(figsize=(9, 4), layout="constrained")
    axes.semilogy(at, times, ",", color="tab:blue", rasterized=True)
    for value, label, style in (
        (np.median(times), "median", "-"), (np.quantile(times, 0.999), "p99.9", "--"), (deadline, "deadline", ":")
    ):  # fmt: skip
        axes.axhline(value, color="black", linestyle=style, label=f"{label} {value:.0f} us")
    axes.set(xlabel="seconds of sound", ylabel="microseconds per hop", title=f"{case}, one hop per call")
    axes.legend(loc="upper right")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
    print(
        f"{case}: median {np.median(times):.1f}, p99.9 {np.quantile(times, 0.999):.1f}, max {times.max():.1f} us, "
        f"{np.count_nonzero(times > deadline)} of {len(times)} hops late: {path}"
    )


def silence(case, model=None):
    """Speech-like noise, then long silence, then a decay through all sizes down to denormals."""
    config = model.config if model else CASES[case]
    streamer, second = Streamer(model or ConvTasNet(config)), config.sample_rate
    decay = noise(30 * second) * np.logspace(0, -44, 30 * second).astype(np.float32)
    parts = {
        "noise": noise(20 * second),
        "silence": np.zeros(60 * second, np.float32),
        "decay to 1e-45": decay,
    }
    for name, samples in parts.items():
        times = 1e6 * time_per_call(streamer, samples, config.hop)
        tail = times[-len(times) // 4 :]
        print(
            f"{case} {name:<15} median {np.median(times):7.1f} us per hop, last quarter {np.median(tail):7.1f}, "
            f"p99.9 {np.quantile(times, 0.999):7.1f}"
        )


def hour(case):
    """An hour of sound, 10 ms at a time: memory and speed at its end as at its beginning."""
    config = CASES[case]
    streamer, minute = Streamer(ConvTasNet(config)), noise(60 * config.sample_rate)
    size = config.sample_rate // 100
    state = streamer.state_bytes
    for i in range(60):
        times = time_per_call(streamer, minute, size)
        if i in (0, 1, 9, 59):
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(
                f"{case} minute {i + 1:2}: median {1e6 * np.median(times):7.1f} us per 10 ms, "
                f"state {streamer.state_bytes} bytes, peak memory {memory:.1f} MB",
                flush=True,
            )
    assert streamer.state_bytes == state


# Drift: what an hour of running sums does to the result.

MEMORIES = (math.inf, 60.0, 10.0, 3.0)  # seconds
MINUTES = (0, 1, 10, 60)


def drift(run, tests=24, seconds=4):
    """SI-SNRi of the speech over the same mixtures, each heard from the state after so many minutes.

    What was heard before comes from the same recordings at random SNRs; in the second column it was one
    noise alone, another one than the mixture's, and for a minute.
    """
    from tasnet_np.corpus import manifest
    from tasnet_np.corpus.clips import Store, open_corpus
    from tasnet_np.corpus.mixing import Mixer
    from tasnet_np.network.checkpoint import load
    from tasnet_np.sound.metrics import si_snr_improvement

    model = load(run)
    rate = model.config.sample_rate
    corpus = open_corpus(manifest.load(Path(run) / "manifest.json"), "validation", rate, Store())
    before = Mixer(corpus, samples=rate * 10, rate=rate, seed=1)
    batch = Mixer(corpus, samples=rate * seconds, rate=rate, snr_db=(0.0, 5.0), seed=2).batch(0, tests)
    rng = np.random.default_rng(3)
    hiss = np.convolve(rng.standard_normal(60 * rate), rng.standard_normal(32), "same")
    hiss = (0.056 * hiss / hiss.std()).astype(np.float32)

    def improvement(streamer):
        state, received = [array.copy() for array in streamer._state], streamer._received
        gains = []
        for mixture, sources in zip(batch.mixture, batch.sources):
            for array, saved in zip(streamer._state, state):
                array[...] = saved
            streamer._received = received
            late = received - streamer._final(received)  # outputs of what came before
            out = streamer.process(np.concatenate([mixture, np.zeros(late + rate, np.float32)]))
            speech = out[0, late : late + len(mixture)]
            gains.append(float(si_snr_improvement(speech, sources[0], mixture)))
        for array, saved in zip(streamer._state, state):
            array[...] = saved
        streamer._received = received
        return np.mean(gains)

    hop_seconds = model.config.hop / rate
    print(f"SI-SNRi in dB of {tests} mixtures of {seconds} s, heard after so many minutes")
    print(f"{'memory':>8}" + "".join(f"{minutes:>8} min" for minutes in MINUTES) + f"{'other noise':>14}")
    for memory in MEMORIES:
        streamer, row, heard = Streamer(model, forgetting=math.exp(-hop_seconds / memory)), [], 0
        for minutes in MINUTES:
            while heard < 6 * minutes:
                streamer.process(before.batch(heard, 1).mixture[0])
                heard += 1
            row.append(improvement(streamer))
        streamer.reset()
        streamer.process(hiss)
        row.append(improvement(streamer))
        print(
            f"{memory:>6g} s" + "".join(f"{value:>12.2f}" for value in row[:-1]) + f"{row[-1]:>14.2f}",
            flush=True,
        )


def main():
    options = parser(__doc__.splitlines()[0], CASES, SIDES)
    options.set_defaults(threads=1)
    options.add_argument("--seconds", type=float, default=SECONDS, help="of sound")
    options.add_argument("--curve", type=int, nargs="+", default=HOPS, help="hops per call")
    options.add_argument("--picture", metavar="FILE")
    options.add_argument("--silence", action="store_true")
    options.add_argument("--hour", action="store_true")
    options.add_argument("--drift", metavar="RUN")
    options = options.parse_args()
    cases = [options.case] if options.case else list(CASES)
    if options.side:
        seconds = float(os.environ.get("STREAMING_SECONDS", options.seconds))
        curve = json.loads(os.environ.get("STREAMING_CURVE", json.dumps(list(options.curve))))
        print(json.dumps(run_side(options.side, cases[0], seconds, curve)))
    elif options.picture:
        picture(options.picture, cases[0], options.seconds)
    elif options.silence:
        for case in cases:
            silence(case)
    elif options.hour:
        hour(cases[0])
    elif options.drift:
        drift(options.drift)
    else:
        os.environ["STREAMING_SECONDS"] = str(options.seconds)  # for the processes of the sides
        os.environ["STREAMING_CURVE"] = json.dumps(list(options.curve))
        results = {}
        print(machine())
        for case in cases:
            lookahead = CASES[case].lookahead_frames > 0  # which the peers here do not have
            sides = [
                side for side in SIDES if side not in options.without and (side == "ours" or not lookahead)
            ]
            results[case] = in_turns(__file__, sides, case, 1, options.rounds)
            table(case, results[case], options.curve)
        write_json(options.json, results)


if __name__ == "__main__":
    main()
