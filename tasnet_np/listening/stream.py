"""The command `stream`, a filter for pipes: sound on standard input, speech on standard output.

    arecord -f S16_LE -r 8000 | tasnet-np stream --model RUN | aplay
    ffmpeg -i in.mp4 -f wav - | tasnet-np stream --model RUN | ffmpeg -i - out.flac
    sox in.wav -t raw -e signed -b 16 - | tasnet-np stream --model RUN --raw s16le --rate 44100 > out.raw

The output has the encoding, rate, channels and length of the input.

It is the outermost of three layers:

- `streaming.Streamer` runs the network itself, on samples at the network's rate.
- `sound_stream.SoundStream` puts any sound through it: other rates, several channels, the level.
- This module moves the sound: bytes to samples, and back (`pcm_stream`). It also measures the time (`stream_timing`).
  `live` is a layer of the same kind, for a microphone and a loudspeaker.
"""

import math
import time

from tasnet_np.errors import UserError
from tasnet_np.listening.pcm_stream import ENCODINGS, PCM, frames_of, read_wav_header, wav_header
from tasnet_np.listening.sound_stream import SoundStream
from tasnet_np.listening.stream_timing import Timing
from tasnet_np.network.config import SOURCES
from tasnet_np.sound.bad_samples import LARGEST
from tasnet_np.sound.channels import MOST_CHANNELS
from tasnet_np.sound.resampling import check_sound_rate


def run(
    model, file, output, say, *, raw=None, rate=None, channels=None, source="speech", level=True,
    memory_seconds=math.inf, block_seconds=0.01,
):  # fmt: skip
    """Denoise one stream into another until it ends.

    Parameters
    ----------
    model : ConvTasNet
    file, output : binary files
        The first has `read1`.
    say : function of a str
        Called with each line for the user: the latency at the start, statistics at the end.
    raw, rate, channels : str, int, int, optional
        The format of samples without a header. By default a WAV header gives it.
    source : {"speech", "noise"}
    level, memory_seconds
        As for `SoundStream`.
    block_seconds : float
        Most sound that is taken in at once.

    Raises
    ------
    UserError
        The input is no sound or breaks off; what came before that is written. Or a setting is out of range.
    ValueError
        The model cannot be streamed, or `memory_seconds` is out of range.
    """
    if source not in SOURCES:
        raise UserError(f"--source {source}: give one of {', '.join(SOURCES)}")
    if not 0 < block_seconds <= 10:
        raise UserError(f"--block-ms {1000 * block_seconds:g}: give more than 0 and at most 10000")
    pcm, size = (_raw_format(raw, rate, channels, model), None) if raw else _wav_input(file, rate, channels)
    sound = SoundStream(model, pcm.rate, pcm.channels, level=level, memory_seconds=memory_seconds)
    timing = Timing(pcm.rate, model.config.hop / model.config.sample_rate)
    parts = sound.latency_ms
    budget = " + ".join(f"{name} {ms:g}" for name, ms in parts.items())
    say(
        f"{pcm.encoding}, {pcm.rate} Hz, {pcm.channels} channels; latency {sum(parts.values()):g} ms ({budget})"
    )
    if not raw:
        output.write(wav_header(pcm, size))
    clipped = 0

    def put(sources):
        nonlocal clipped
        data, too_loud = pcm.encode(sources[SOURCES.index(source)])
        output.write(data)
        output.flush()
        clipped += too_loud

    try:
        for samples in frames_of(file, pcm, size, max(1, round(block_seconds * pcm.rate))):
            start = time.perf_counter()
            sources = sound.process(samples)
            timing.add(time.perf_counter() - start, samples.shape[1])
            put(sources)
    except (UserError, KeyboardInterrupt):
        put(sound.flush())
        raise
    else:
        put(sound.flush())
        output.write(bytes(0 if raw or size is None else size % 2))  # chunks end at even places
        output.flush()
    finally:
        say(timing.report())
        if sound.replaced:
            what = f"NaN, infinite or above {LARGEST:g}" if sound.absurd else "NaN or infinite"
            say(f"warning: {sound.replaced} samples were {what} and were taken as 0")
        if clipped:
            say(f"warning: {clipped} samples were too loud for {pcm.encoding} and were clipped")


def _raw_format(raw, rate, channels, model):
    """The PCM of an input without a header."""
    if raw not in ENCODINGS:
        raise UserError(f"--raw {raw}: give one of {', '.join(ENCODINGS)}")
    pcm = PCM(raw, model.config.sample_rate if rate is None else rate, 1 if channels is None else channels)
    if pcm.rate < 1 or pcm.channels < 1:
        raise UserError(f"--rate {pcm.rate}, --channels {pcm.channels}: give whole numbers above 0")
    check_sound_rate("--rate", pcm.rate)
    if pcm.channels > MOST_CHANNELS:
        raise UserError(f"--channels {pcm.channels}: give at most {MOST_CHANNELS}")
    return pcm


def _wav_input(file, rate, channels):
    """The PCM of an input with a WAV header, and the bytes that follow."""
    if rate is not None or channels is not None:
        raise UserError("--rate, --channels: are for --raw; a WAV header has its own")
    return read_wav_header(file)
