"""tasnet-np stream and live: take the noise out of sound as it arrives, from a pipe or from a microphone."""

import sys

from tasnet_np.commands.shared import MODEL_HELP, add_command, announce_compiling


def add(commands):
    stream = add_command(
        commands,
        "stream",
        _stream,
        "Take the noise out of sound in a pipe: standard input to standard output.",
    )
    _add_streaming(stream)
    stream.add_argument("--source", default="speech", help="speech or noise: what to let through")
    stream.add_argument("--raw", metavar="ENCODING", help="samples without a WAV header: s16le, f32le, ...")
    stream.add_argument("--channels", type=int, help="of raw samples; 1 by default")

    live = add_command(
        commands, "live", _live, "Take the noise out of a microphone's sound and play it. Ctrl-C ends it."
    )
    _add_streaming(live)
    live.add_argument("--seconds", type=float, default=float("inf"), help="how long")


def _add_streaming(added):
    """Options of both commands."""
    added.add_argument("--model", default="pretrained", metavar="RUN", help=MODEL_HELP)
    added.add_argument("--no-level", action="store_true", help="leave the level as the network gives it")
    added.add_argument(
        "--memory-seconds", type=float, default=float("inf"), help="time after which old sound is forgotten"
    )
    added.add_argument(
        "--rate", type=int, help="of raw samples or the sound device, in Hz; the model's by default"
    )
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
    from tasnet_np.commands.standard_streams import INPUT, OUTPUT, Bytes
    from tasnet_np.listening.stream import run
    from tasnet_np.network.checkpoint import load

    announce_compiling()
    sound_in, sound_out = Bytes(INPUT, sys.stdin), Bytes(OUTPUT, sys.stdout)
    run(
        load(options.model),
        sound_in,
        sound_out,
        lambda line: print(line, file=sys.stderr),
        raw=options.raw,
        channels=options.channels,
        source=options.source,
        **_streaming(options),
    )
    return 0


def _live(options):
    from tasnet_np.listening.live import run
    from tasnet_np.network.checkpoint import load

    announce_compiling()
    run(load(options.model), sys.stderr, seconds=options.seconds, **_streaming(options))
    return 0
