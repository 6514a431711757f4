"""tasnet-np stream and live: take the noise out of sound as it arrives, from a pipe or from a microphone."""

import sys

from tasnet_np.commands.arguments import choice, nonempty, number
from tasnet_np.commands.shared import MODEL_HELP, add_command, announce_compiling
from tasnet_np.errors import UserError
from tasnet_np.network.config import SOURCES
from tasnet_np.ranges import Range


def add(commands):
    stream = add_command(
        commands,
        "stream",
        _stream,
        "Take the noise out of sound in a pipe: standard input to standard output.",
    )
    _add_streaming(stream)
    stream.add_argument(
        "--source", type=choice(SOURCES), default="speech", help="speech or noise: what to let through"
    )
    stream.add_argument(
        "--raw",
        type=choice(_encodings),
        metavar="ENCODING",
        help="samples without a WAV header: s16le, f32le, ...",
    )
    channels = number("channels", int, Range(1, 256, whole=True))
    stream.add_argument("--channels", type=channels, help="of raw samples; 1 by default")

    live = add_command(
        commands, "live", _live, "Take the noise out of a microphone's sound and play it. Ctrl-C ends it."
    )
    _add_streaming(live)
    seconds = number("seconds", float, Range(0, above=True))
    live.add_argument("--seconds", type=seconds, default=float("inf"), help="how long")


def _rates():
    from tasnet_np.sound.resampling import HIGHEST_RATE, LOWEST_RATE

    return Range(LOWEST_RATE, HIGHEST_RATE, whole=True)


def _encodings():
    from tasnet_np.listening.pcm_stream import ENCODINGS

    return ENCODINGS


def _add_streaming(added):
    """Options of both commands."""
    added.add_argument("--model", type=nonempty, default="pretrained", metavar="RUN", help=MODEL_HELP)
    added.add_argument("--no-level", action="store_true", help="leave the level as the network gives it")
    added.add_argument(
        "--memory-seconds",
        type=number("memory-seconds", float, Range(0.001)),
        default=float("inf"),
        help="time after which old sound is forgotten",
    )
    rate = number("rate", int, _rates)
    added.add_argument(
        "--rate", type=rate, help="of raw samples or the sound device, in Hz; the model's by default"
    )
    block = number("block-ms", float, Range(0, 10_000, above=True))
    added.add_argument("--block-ms", type=block, default=10.0, help="most sound taken in at once")


def _streaming(options):
    """What `_add_streaming` was told, for `pipe.run` and `live.run`."""
    return {
        "rate": options.rate,
        "level": not options.no_level,
        "memory_seconds": options.memory_seconds,
        "block_seconds": options.block_ms / 1000,
    }


def _stream(options):
    from tasnet_np.listening.stream import run
    from tasnet_np.network.checkpoint import load

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


def _live(options):
    from tasnet_np.listening.live import run
    from tasnet_np.network.checkpoint import load

    announce_compiling()
    run(load(options.model), sys.stderr, seconds=options.seconds, **_streaming(options))
    return 0
