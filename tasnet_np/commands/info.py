"""tasnet-np info: describe a model."""

from tasnet_np.commands.arguments import nonempty, number, preset
from tasnet_np.commands.shared import add_command, announce_compiling
from tasnet_np.errors import UserError
from tasnet_np.ranges import Range


def add(commands):
    added = add_command(commands, "info", _info, "Describe a model.")
    added.add_argument("--model", type=nonempty, metavar="RUN", help="a run's folder, or an .npz file")
    added.add_argument(
        "--preset", type=preset, help="an untrained model instead: small, wide, paper or origin"
    )
    seconds = number("seconds", float, Range(0, 1_000_000, above=True))
    added.add_argument("--seconds", type=seconds, default=10.0, help="length that the memory is for")


def _info(options):
    from tasnet_np.network.checkpoint import load
    from tasnet_np.network.config import Config

    if bool(options.model) == bool(options.preset):
        raise UserError("--model, --preset: give one of them")
    config = load(options.model).config if options.model else Config.preset(options.preset)
    print(describe(config, options.seconds))
    if config.norm != "gLN":
        print(f"{'computing':<18} {_computing_time(config)}")
    return 0


def _computing_time(config):
    """What the latency has to be added to: how long a hop takes on this machine."""
    from tasnet_np.listening.stream_timing import time_streaming
    from tasnet_np.network.execution import ConvTasNet

    announce_compiling()
    timing = time_streaming(ConvTasNet(config))
    return (
        f"{1e3 * timing.quantile(0.5):.3f} ms per hop of {1e3 * timing.hop_seconds:g} ms in a stream, "
        f"measured here (99 %: {1e3 * timing.quantile(0.99):.3f} ms)"
    )


def describe(config, seconds):
    """Architecture, sizes and memory of a model, as text."""
    c, samples = config, max(1, round(seconds * config.sample_rate))
    sees = {"gLN": "the whole recording", "cLN": "all frames so far", "channel": "one frame"}[c.norm]
    latency = (
        "the whole recording (not causal)"
        if c.norm == "gLN"
        else f"{c.latency_ms:g} ms ({c.latency_samples} samples: "
        f"window {c.filter_length} + look-ahead {c.lookahead_frames} frames x {c.hop})"
    )
    lines = {
        "sample rate": f"{c.sample_rate} Hz",
        "encoder": f"{c.filters} filters of {c.filter_length} samples "
        f"({1000 * c.filter_length / c.sample_rate:g} ms), hop {c.hop}, {c.encoder_activation}",
        "separator": f"{c.repeats} x {c.blocks} blocks, dilations 1 to {2 ** (c.blocks - 1)}, {c.kernel} taps",
        "channels": f"{c.bottleneck} between the blocks, {c.hidden} inside, {c.skip} skip",
        "norm": f"{c.norm} (statistics over {sees})",
        "causal": "no" if not c.causal else f"yes, but for the first {c.lookahead_blocks} blocks"
        if c.lookahead_blocks else "yes",
        "masks": f"{c.mask_activation}; {c.decoders} decoder{'s' if c.decoders == 'separate' else ''}",
        "parameters": f"{c.parameter_count:,} ({4 * c.parameter_count / 1e6:.1f} MB)",
        "receptive field": f"{c.receptive_field_frames} frames ({c.receptive_field_seconds:.3f} s)",
        "latency": latency,
        f"memory for {seconds:g} s": f"{c.inference_bytes(samples) / 1e6:.0f} MB to denoise, "
        f"{c.training_bytes(samples) / 1e6:.0f} MB per example to train",
    }  # fmt: skip
    return "\n".join(f"{name:<18} {text}" for name, text in lines.items())
