"""The command line: tasnet-np prepare, train, report, denoise, stream, live, evaluate, compare, info, gradcheck.

Exit status: 0 done; 1 a check failed; 2 a mistake in the input, told in one line; 130 stopped by Ctrl-C;
141 the reader of the output has gone (what a shell reports for a program that SIGPIPE ended).
Each command imports what it needs when it runs, so that none waits for what it does not use.
"""

import argparse
import json
import os
import sys

from tasnet_np.cli_train import add_prepare, add_report, add_train
from tasnet_np.files import UserError
from tasnet_np.options import add_computing, announce_compiling, as_json, command, compute_as


def main(arguments=None):
    """Run one command; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (UserError, ValueError) as error:
        print(f"error: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return 2
    except MemoryError:
        print("error: not enough memory; use shorter files or a smaller batch", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _parser():
    parser = argparse.ArgumentParser(
        prog="tasnet-np",
        description="Speech denoising with a Conv-TasNet written by hand.",
        epilog="Exit status: 0 done; 1 a check failed; 2 a mistake in the input, told in one line; 130 stopped by "
        "Ctrl-C; 141 the reader of the output has gone.",
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    for add in (
        add_prepare, add_train, add_report, _add_denoise, _add_stream, _add_live, _add_evaluate, _add_compare, _add_info,
        _add_gradcheck,
    ):  # fmt: skip
        add(commands)
    return parser


MODEL_HELP = "a run's folder, or an .npz file; by default the model that comes with the package"


def _add_denoise(commands):
    added = command(commands, "denoise", _denoise, "Take the noise out of recordings.")
    added.add_argument("inputs", nargs="+", metavar="IN", help="audio files and folders")
    added.add_argument("--model", default="pretrained", metavar="RUN", help=MODEL_HELP)
    added.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="a file for one input, else a folder"
    )
    added.add_argument("--noise-out", metavar="OUT", help="the same for the background that was removed")
    added.add_argument(
        "--segment-seconds",
        type=float,
        metavar="S",
        help="for models that are not causal, if memory is short: overlapping segments of S seconds; "
        "at 30 s, what they change is below -30 dB of the output",
    )
    added.add_argument("--plot", metavar="PICTURE", help="spectrograms before and after: a .png, .pdf or .svg for "
                       "one input, else a folder")  # fmt: skip
    added.add_argument("--json", action="store_true", help="print the files written as JSON")
    added.add_argument("--quiet", action="store_true", help="no progress bar, no list of files")
    add_computing(added)


def _denoise(options):
    from tasnet_np.checkpoint import load
    from tasnet_np.denoise import denoise_files

    if options.plot:
        from tasnet_np.plots import check_suffix

        one = len(options.inputs) == 1 and not os.path.isdir(options.inputs[0])
        check_suffix(options.plot if one else "a.png")
    device = compute_as(options)
    written = denoise_files(
        options.inputs,
        load(options.model, options.path).to(device),
        options.output,
        noise_out=options.noise_out,
        segment_seconds=options.segment_seconds,
        progress=sys.stderr.isatty() and not options.quiet,
    )
    if options.plot:
        written += _plot_before_and_after(options, written)
    if options.json:
        print(json.dumps([str(path) for path in written], indent=1))
    elif not options.quiet:
        for path in written:
            print(path)
    return 0


def _plot_before_and_after(options, written):
    """A picture for every recording denoised: the first channel before and after. Returns the pictures."""
    from pathlib import Path

    from tasnet_np.audio import find_audio, read
    from tasnet_np.plots import spectrograms

    sources = []
    for path in map(Path, options.inputs):
        sources += find_audio(path)[0] if path.is_dir() else [path]
    per_source = 2 if options.noise_out else 1
    one = len(options.inputs) == 1 and not os.path.isdir(options.inputs[0])
    pictures = []
    for source, first in zip(sources, range(0, len(written), per_source)):
        recordings = {"before": read(source), "after": read(written[first])}
        if per_source == 2:
            recordings["removed"] = read(written[first + 1])
        name = written[first].with_suffix(".png").name
        picture = Path(options.plot) if one else Path(options.plot, name)
        picture.parent.mkdir(parents=True, exist_ok=True)
        spectrograms(picture, {title: r.samples[0] for title, r in recordings.items()}, recordings["before"].rate)
        pictures.append(picture)
    return pictures


def _add_stream(commands):
    added = command(
        commands, "stream", _stream, "Take the noise out of sound in a pipe: standard input to standard output."
    )
    _add_streaming(added)
    added.add_argument("--source", default="speech", help="speech or noise: what to let through")
    added.add_argument("--raw", metavar="ENCODING", help="samples without a WAV header: s16le, f32le, ...")
    added.add_argument("--channels", type=int, help="of raw samples; 1 by default")


def _add_streaming(added):
    """Options of the commands that denoise sound as it arrives."""
    added.add_argument("--model", default="pretrained", metavar="RUN", help=MODEL_HELP)
    added.add_argument("--no-level", action="store_true", help="leave the level as the network gives it")
    added.add_argument(
        "--memory-seconds", type=float, default=float("inf"), help="time after which old sound is forgotten"
    )
    added.add_argument("--rate", type=int, help="of raw samples or the sound device, in Hz; the model's by default")
    added.add_argument("--block-ms", type=float, default=10.0, help="most sound taken in at once")


def _streaming(options):
    """What `_add_streaming` was told, for `pipe.run` and `live.run`."""
    return {
        "rate": options.rate,
        "level": not options.no_level,
        "memory_seconds": options.memory_seconds,
        "block_seconds": options.block_ms / 1000,
    }


def _stream(options):
    from tasnet_np.checkpoint import load
    from tasnet_np.pipe import run

    announce_compiling()
    for name, file in ("standard input", sys.stdin), ("standard output", sys.stdout):
        if file.isatty():
            example = "arecord -f S16_LE -r 8000 | tasnet-np stream --model RUN | aplay"
            raise UserError(f"{name}: is a terminal; put it between other programs, as in {example}")
    run(
        load(options.model),
        sys.stdin.buffer,
        sys.stdout.buffer,
        lambda line: print(line, file=sys.stderr),
        raw=options.raw,
        channels=options.channels,
        source=options.source,
        **_streaming(options),
    )
    return 0


def _add_live(commands):
    added = command(
        commands, "live", _live, "Take the noise out of a microphone's sound and play it. Ctrl-C ends it."
    )
    _add_streaming(added)
    added.add_argument("--seconds", type=float, default=float("inf"), help="how long")


def _live(options):
    from tasnet_np.checkpoint import load
    from tasnet_np.live import run

    announce_compiling()
    run(load(options.model), sys.stderr, seconds=options.seconds, **_streaming(options))
    return 0


def _add_evaluate(commands):
    added = command(commands, "evaluate", _evaluate, "Measure a model on mixtures of known sources.")
    added.add_argument("--model", required=True, metavar="RUN", help="a run's folder, or an .npz file")
    added.add_argument("--speech", metavar="DIR", help="clean speech; by default what the run held out")
    added.add_argument("--noise", metavar="DIR", help="noise recordings; likewise")
    added.add_argument("--part", default="validation", help="of the run's recordings: validation or test")
    added.add_argument("--snr-db", type=float, nargs="+", default=[-5, 0, 5, 10, 15], help="input SNRs")
    added.add_argument("--mixtures", type=int, default=25, help="for each SNR")
    added.add_argument("--seconds", type=float, default=3.0, help="length of a mixture")
    added.add_argument("--seed", type=int, default=1, help="of the mixtures")
    added.add_argument("--json", action="store_true", help="print the numbers as JSON")
    added.add_argument("--quiet", action="store_true", help="no progress bar, no remarks")
    add_computing(added)


def _evaluate(options):
    from tasnet_np.checkpoint import load
    from tasnet_np.data import fixed_batches
    from tasnet_np.evaluate import evaluate, table

    if options.mixtures < 1 or not 0 < options.seconds < 3600:
        raise UserError(f"--mixtures {options.mixtures}, --seconds {options.seconds}: give positive numbers")
    if bool(options.speech) != bool(options.noise):
        raise UserError("--speech, --noise: give both folders, or none to use what the run held out")
    device = compute_as(options)
    model = load(options.model, options.path).to(device)
    rate = model.config.sample_rate
    batches = fixed_batches(
        _unheard(options, rate),
        samples=round(options.seconds * rate),
        rate=rate,
        snrs_db=options.snr_db,
        per_snr=options.mixtures,
        seed=options.seed,
    )
    rows = evaluate(model, batches, rate=rate, progress=not options.quiet)
    print(as_json(rows) if options.json else table(rows))
    return 0


def _unheard(options, rate):
    """The recordings to evaluate on: what a run held out, or all of two folders that it did not train on."""
    from pathlib import Path

    from tasnet_np.corpus import Store, load_corpus, open_corpus
    from tasnet_np.manifest import load
    from tasnet_np.train import read_run

    run = Path(options.model) if Path(options.model).is_dir() else Path(options.model).parent
    trained_on = None
    if (run / "manifest.json").exists():
        about = read_run(run)[2]
        trained_on = [about["speech"], about["noise"]]
    if not options.speech and trained_on is None:
        raise UserError(f"{options.model}: is not a run that held recordings out; give --speech and --noise")
    if not options.speech or [str(Path(f).resolve()) for f in (options.speech, options.noise)] == trained_on:
        if options.part not in ("validation", "test"):
            raise UserError(f"--part {options.part}: give validation or test")
        if not options.quiet:
            print("using only the speakers and noises held out from training", file=sys.stderr)
        return open_corpus(load(run / "manifest.json"), options.part, rate, Store())
    corpus, problems = load_corpus(options.speech, options.noise, rate, progress=not options.quiet)
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)
    return corpus


def _add_compare(commands):
    added = command(commands, "compare", _compare, "Hold recordings against the clean speech in them.")
    added.add_argument("files", nargs="+", metavar="FILE", help="the noisy one first, then denoised ones")
    added.add_argument("--clean", required=True, metavar="FILE", help="the speech alone")
    added.add_argument("--plot", metavar="PICTURE", help="draw their spectrograms (.png, .pdf, .svg)")
    added.add_argument("--json", action="store_true", help="print the numbers as JSON")


def _compare(options):
    from tasnet_np.evaluate import compare

    rows, recordings = compare(options.clean, options.files)
    if options.plot:
        from tasnet_np.plots import spectrograms

        first_channels = {str(recording.path): recording.samples[0] for recording in recordings}
        spectrograms(options.plot, first_channels, recordings[0].rate)
    if options.json:
        print(as_json(rows))
        return 0
    print(f"{'seconds':>8} {'level dBFS':>11} {'SI-SNR dB':>10} {'SI-SNRi dB':>11}  file")
    for row in rows:
        print(
            f"{row['seconds']:8.2f} {row['level_db']:11.1f} {row['si_snr_db']:10.2f} "
            f"{row['si_snri_db']:11.2f}  {row['file']}"
        )
    return 0


def _add_info(commands):
    added = command(commands, "info", _info, "Describe a model.")
    added.add_argument("--model", metavar="RUN", help="a run's folder, or an .npz file")
    added.add_argument("--preset", help="an untrained model instead: small, paper or origin")
    added.add_argument("--seconds", type=float, default=10.0, help="length that the memory is for")


def _info(options):
    from tasnet_np.checkpoint import load
    from tasnet_np.config import Config

    if bool(options.model) == bool(options.preset):
        raise UserError("--model, --preset: give one of them")
    if not options.seconds > 0:
        raise UserError(f"--seconds {options.seconds}: give a length above 0")
    config = load(options.model).config if options.model else Config.preset(options.preset)
    print(describe(config, options.seconds))
    if config.norm != "gLN":
        print(f"{'computing':<18} {_computing_time(config)}")
    return 0


def _computing_time(config):
    """What the latency has to be added to: how long a hop takes on this machine."""
    from tasnet_np.execution import ConvTasNet
    from tasnet_np.pipe import time_streaming

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


def _add_gradcheck(commands):
    added = command(
        commands, "gradcheck", _gradcheck, "Check every hand-written gradient against finite differences."
    )
    added.add_argument("--seed", type=int, default=0, help="of the random inputs")


def _gradcheck(options):
    from tasnet_np.gradcheck import TOLERANCE, check_everything

    print(f"{'op':<44} {'NumPy':>9} {'compiled':>9}   largest error relative to the largest gradient")
    failed = 0
    for name, reference, compiled in check_everything(options.seed):
        passed = max(reference, compiled) <= TOLERANCE
        failed += not passed
        print(f"{name:<44} {reference:9.1e} {compiled:9.1e}   {'pass' if passed else 'FAIL'}", flush=True)
    print(f"{failed} failed" if failed else f"all pass (tolerance {TOLERANCE:.0e}, float64)")
    return 1 if failed else 0
