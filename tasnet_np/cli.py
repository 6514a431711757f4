"""The command line: tasnet-np train, denoise, stream, live, evaluate, compare, info, gradcheck.

Exit status: 0 done; 1 a check failed; 2 a mistake in the input, told in one line; 130 stopped by Ctrl-C;
141 the reader of the output has gone (what a shell reports for a program that SIGPIPE ended).
Each command imports what it needs when it runs, so that none waits for what it does not use.
"""

import argparse
import json
import os
import sys

from tasnet_np.files import UserError


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
        prog="tasnet-np", description="Speech denoising with a Conv-TasNet written by hand."
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    for add in (_add_train, _add_denoise, _add_stream, _add_live, _add_evaluate, _add_compare, _add_info, _add_gradcheck):
        add(commands)
    return parser


def _command(commands, name, run, summary):
    command = commands.add_parser(
        name, help=summary, description=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    command.set_defaults(run=run)
    return command


def _add_computing(command):
    """Options of the commands that run a network."""
    group = command.add_argument_group("computing")
    group.add_argument(
        "--path", default="fused", help="reference (NumPy formulas), ops (one compiled op at a time) or fused"
    )
    group.add_argument("--threads", type=int, help="all cores by default")
    group.add_argument("--device", default="cpu", help="cpu, cuda, or auto: a GPU if there is one")


def _compute_as(options):
    """Act on the options of `_add_computing`, say what is about to be compiled; return the device."""
    from tasnet_np.device import choose_device, keep_freed_memory, set_threads

    keep_freed_memory()
    _announce_compiling()
    if options.threads is not None:
        set_threads(options.threads)
    return choose_device(options.device)


def _announce_compiling():
    from tasnet_np.device import announce_compiling

    announce_compiling(lambda line: print(line, file=sys.stderr))


def _add_train(commands):
    command = _command(commands, "train", _train, "Train a denoiser on your own speech and noise.")
    unset = argparse.SUPPRESS  # the default is the recipe's own
    command.add_argument("--speech", metavar="DIR", help="clean speech, a folder per speaker")
    command.add_argument("--noise", metavar="DIR", help="noise recordings")
    command.add_argument("--out", metavar="RUN", required=True, help="folder for the run")
    command.add_argument("--preset", default="small", help="small, paper or origin")
    command.add_argument("--minutes", type=float, help="stop after so many minutes (10, if no --steps)")
    command.add_argument("--steps", type=int, help="stop after so many steps")
    command.add_argument("--resume", action="store_true", help="continue the run in --out")
    _add_computing(command)
    recipe = command.add_argument_group("recipe")
    recipe.add_argument("--seed", type=int, default=unset, help="of weights, split and mixtures (0)")
    recipe.add_argument("--batch", type=int, default=unset, help="mixtures per step (4)")
    recipe.add_argument("--seconds", type=float, default=unset, help="length of a mixture (2)")
    recipe.add_argument(
        "--snr-db", type=float, nargs=2, metavar=("LOW", "HIGH"), default=unset, help="range (-5 15)"
    )
    recipe.add_argument("--learning-rate", type=float, default=unset, help="of Adam (0.001)")
    recipe.add_argument("--weight-decay", type=float, default=unset, help="of Adam (0)")
    recipe.add_argument("--clip", type=float, default=unset, help="largest gradient norm (5)")
    recipe.add_argument("--noise-weight", type=float, default=unset, help="of the noise in the loss (1)")
    recipe.add_argument("--validate-every", type=int, default=unset, help="steps (100)")
    recipe.add_argument("--validation-mixtures", type=int, default=unset, help="per SNR (8)")
    recipe.add_argument("--patience", type=int, default=unset, help="validations before halving (3)")
    recipe.add_argument("--share", type=float, default=unset, help="held out for validation (0.2)")
    recipe.add_argument(
        "--hold-out", nargs="+", metavar="SPEAKER", default=unset, help="speakers to validate on"
    )


def _train(options):
    from tasnet_np.model import Config
    from tasnet_np.train import Recipe, resume, train

    names = Recipe.__dataclass_fields__
    chosen = {name: value for name, value in vars(options).items() if name in names}
    limits = {"minutes": options.minutes, "steps": options.steps, "path": options.path}
    limits["device"] = _compute_as(options)
    if options.resume:
        if chosen or options.speech or options.noise:
            raise UserError("--resume continues a run as it began: give only --out, --minutes, --steps")
        finished = resume(options.out, **limits)
    else:
        if not options.speech or not options.noise:
            raise UserError("--speech and --noise: give both folders (or --resume to continue a run)")
        config, recipe = Config.preset(options.preset), Recipe(**chosen)
        finished = train(options.speech, options.noise, options.out, config, recipe, **limits)
    return 0 if finished else 130


def _add_denoise(commands):
    command = _command(commands, "denoise", _denoise, "Take the noise out of recordings.")
    command.add_argument("inputs", nargs="+", metavar="IN", help="audio files and folders")
    command.add_argument("--model", required=True, metavar="RUN", help="a run's folder, or an .npz file")
    command.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="a file for one input, else a folder"
    )
    command.add_argument("--noise-out", metavar="OUT", help="the same for the background that was removed")
    command.add_argument(
        "--segment-seconds", type=float, metavar="S", help="for models that are not causal, if memory is short"
    )
    _add_computing(command)


def _denoise(options):
    from tasnet_np.checkpoint import load
    from tasnet_np.denoise import denoise_files

    device = _compute_as(options)
    written = denoise_files(
        options.inputs,
        load(options.model, options.path).to(device),
        options.output,
        noise_out=options.noise_out,
        segment_seconds=options.segment_seconds,
        progress=sys.stderr.isatty(),
    )
    for path in written:
        print(path)
    return 0


def _add_stream(commands):
    command = _command(
        commands, "stream", _stream, "Take the noise out of sound in a pipe: standard input to standard output."
    )
    _add_streaming(command)
    command.add_argument("--source", default="speech", help="speech or noise: what to let through")
    command.add_argument("--raw", metavar="ENCODING", help="samples without a WAV header: s16le, f32le, ...")
    command.add_argument("--rate", type=int, help="of raw samples, in Hz; the model's by default")
    command.add_argument("--channels", type=int, help="of raw samples; 1 by default")
    command.add_argument("--block-ms", type=float, default=10.0, help="most sound taken in at once")


def _add_streaming(command):
    """Options of the commands that denoise sound as it arrives."""
    command.add_argument("--model", required=True, metavar="RUN", help="a run's folder, or an .npz file")
    command.add_argument("--no-level", action="store_true", help="leave the level as the network gives it")
    command.add_argument(
        "--memory-seconds", type=float, default=float("inf"), help="time after which old sound is forgotten"
    )


def _stream(options):
    from tasnet_np.checkpoint import load
    from tasnet_np.pipe import run

    _announce_compiling()
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
        rate=options.rate,
        channels=options.channels,
        source=options.source,
        level=not options.no_level,
        memory_seconds=options.memory_seconds,
        block_seconds=options.block_ms / 1000,
    )
    return 0


def _add_live(commands):
    command = _command(
        commands, "live", _live, "Take the noise out of a microphone's sound and play it. Ctrl-C ends it."
    )
    _add_streaming(command)
    command.add_argument("--seconds", type=float, default=float("inf"), help="how long")
    command.add_argument("--rate", type=int, help="of the sound device, in Hz; the model's by default")
    command.add_argument("--block-ms", type=float, default=10.0, help="length of the device's blocks")


def _live(options):
    from tasnet_np.checkpoint import load
    from tasnet_np.live import run

    _announce_compiling()
    run(
        load(options.model),
        sys.stderr,
        rate=options.rate,
        seconds=options.seconds,
        level=not options.no_level,
        memory_seconds=options.memory_seconds,
        block_seconds=options.block_ms / 1000,
    )
    return 0


def _add_evaluate(commands):
    command = _command(commands, "evaluate", _evaluate, "Measure a model on mixtures of known sources.")
    command.add_argument("--model", required=True, metavar="RUN", help="a run's folder, or an .npz file")
    command.add_argument("--speech", required=True, metavar="DIR", help="clean speech, a folder per speaker")
    command.add_argument("--noise", required=True, metavar="DIR", help="noise recordings")
    command.add_argument("--snr-db", type=float, nargs="+", default=[-5, 0, 5, 10, 15], help="input SNRs")
    command.add_argument("--mixtures", type=int, default=25, help="for each SNR")
    command.add_argument("--seconds", type=float, default=3.0, help="length of a mixture")
    command.add_argument("--seed", type=int, default=1, help="of the mixtures")
    command.add_argument("--json", action="store_true", help="print the numbers as JSON")
    _add_computing(command)


def _evaluate(options):
    from tasnet_np.checkpoint import load
    from tasnet_np.data import fixed_batches
    from tasnet_np.evaluate import evaluate, table

    if options.mixtures < 1 or not 0 < options.seconds < 3600:
        raise UserError(f"--mixtures {options.mixtures}, --seconds {options.seconds}: give positive numbers")
    device = _compute_as(options)
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
    rows = evaluate(model, batches)
    print(_as_json(rows) if options.json else table(rows))
    return 0


def _as_json(rows):
    """JSON has no NaN: null stands for a value that does not exist."""
    return json.dumps([{k: None if v != v else v for k, v in row.items()} for row in rows], indent=1)


def _unheard(options, rate):
    """The recordings to evaluate on: all of them, or what a run held out if it trained on these folders."""
    from pathlib import Path

    from tasnet_np.data import load_corpus, split
    from tasnet_np.train import read_run

    corpus, problems = load_corpus(options.speech, options.noise, rate)
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)
    run = Path(options.model) if Path(options.model).is_dir() else Path(options.model).parent
    if not (run / "config.json").exists():
        return corpus
    _, recipe, about, _ = read_run(run)
    folders = {"speech": options.speech, "noise": options.noise}
    if any(about[name] != str(Path(folder).resolve()) for name, folder in folders.items()):
        return corpus
    print("these folders were trained on: using only the speakers and noises held out", file=sys.stderr)
    return split(corpus, seed=recipe.seed, hold_out=recipe.hold_out, share=recipe.share)[1]


def _add_compare(commands):
    command = _command(commands, "compare", _compare, "Hold recordings against the clean speech in them.")
    command.add_argument("files", nargs="+", metavar="FILE", help="the noisy one first, then denoised ones")
    command.add_argument("--clean", required=True, metavar="FILE", help="the speech alone")
    command.add_argument("--plot", metavar="PICTURE", help="draw their spectrograms (.png, .pdf, .svg)")
    command.add_argument("--json", action="store_true", help="print the numbers as JSON")


def _compare(options):
    from tasnet_np.evaluate import compare

    rows, recordings = compare(options.clean, options.files)
    if options.plot:
        from tasnet_np.plots import spectrograms

        first_channels = {str(recording.path): recording.samples[0] for recording in recordings}
        spectrograms(options.plot, first_channels, recordings[0].rate)
    if options.json:
        print(_as_json(rows))
        return 0
    print(f"{'seconds':>8} {'level dBFS':>11} {'SI-SNR dB':>10} {'SI-SNRi dB':>11}  file")
    for row in rows:
        print(
            f"{row['seconds']:8.2f} {row['level_db']:11.1f} {row['si_snr_db']:10.2f} "
            f"{row['si_snri_db']:11.2f}  {row['file']}"
        )
    return 0


def _add_info(commands):
    command = _command(commands, "info", _info, "Describe a model.")
    command.add_argument("--model", metavar="RUN", help="a run's folder, or an .npz file")
    command.add_argument("--preset", help="an untrained model instead: small, paper or origin")
    command.add_argument("--seconds", type=float, default=10.0, help="length that the memory is for")


def _info(options):
    from tasnet_np.checkpoint import load
    from tasnet_np.model import Config

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
    from tasnet_np.model import ConvTasNet
    from tasnet_np.pipe import time_streaming

    _announce_compiling()
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
    command = _command(
        commands, "gradcheck", _gradcheck, "Check every hand-written gradient against finite differences."
    )
    command.add_argument("--seed", type=int, default=0, help="of the random inputs")


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
