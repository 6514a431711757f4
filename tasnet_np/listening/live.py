"""The command `live`: from a microphone to a loudspeaker, or better to headphones, which do not feed back.

Every few milliseconds the sound device hands over a block of the microphone's samples and asks for a block to play.
The network gives its sources later, by its latency. So a queue lies in between. It begins with as much silence.
`sound_stream` says how this fits to the network.
"""

import contextlib
import math
import time

import numpy as np

from tasnet_np.errors import UserError
from tasnet_np.listening.sound_stream import SoundStream
from tasnet_np.listening.stream_timing import Timing
from tasnet_np.sound.level import rms_db
from tasnet_np.sound.metrics import without_mean

METER_DB = 60  # the lowest level that the level meter shows, below full scale
METERS_PER_SECOND = 10


class Processor:
    """Turns each block of the microphone (n,) into a block for the loudspeaker (n,).

    Parameters
    ----------
    model : ConvTasNet
    rate : int
        Samples per second of the sound device.
    level, memory_seconds
        As for `SoundStream`.

    Attributes
    ----------
    timing : Timing
    heard_db, played_db : float
        Levels of the last block of the microphone and of the loudspeaker, in dBFS.
    latency_samples : int
        How much later a sample is played than it was heard.
    """

    def __init__(self, model, rate, *, level=True, memory_seconds=math.inf):
        config = model.config
        self.sound = SoundStream(model, rate, level=level, memory_seconds=memory_seconds)
        self.timing = Timing(rate, config.hop / config.sample_rate)
        self.heard_db = self.played_db = -math.inf
        self.latency_samples = math.ceil(sum(self.sound.latency_ms.values()) / 1000 * rate) + 1
        self._queue = np.zeros(self.latency_samples, np.float32)

    def __call__(self, heard):
        start = time.perf_counter()
        speech = self.sound.process(heard[None])[0, 0]
        self.timing.add(time.perf_counter() - start, len(heard))
        queue = np.concatenate([self._queue, speech])
        played, self._queue = queue[: len(heard)], queue[len(heard) :]
        self.heard_db, self.played_db = (rms_db(without_mean(x)) for x in (heard, played))
        return played


def run(
    model, screen, *, rate=None, seconds=math.inf, level=True, memory_seconds=math.inf, block_seconds=0.01
):
    """Denoise the microphone until Ctrl-C.

    Parameters
    ----------
    model : ConvTasNet
    screen : text file
        For the level meter and the statistics.
    rate : int, optional
        Samples per second of the sound device; by default the model's.
    seconds : float
        How long; by default until Ctrl-C.
    level, memory_seconds
        As for `SoundStream`.
    block_seconds : float
        Length of the device's blocks.

    Raises
    ------
    UserError
        The package sounddevice or a sound device is missing, or a setting is out of range.
    ValueError
        The model cannot be streamed, or `memory_seconds` is out of range.
    """
    rate = model.config.sample_rate if rate is None else rate
    block = round(block_seconds * rate)
    if rate < 1 or block < 1 or not seconds > 0:
        raise UserError(f"--rate {rate}, --block-ms {1000 * block_seconds:g}, --seconds {seconds}: too small")
    sounddevice = _sounddevice()
    processor = Processor(model, rate, level=level, memory_seconds=memory_seconds)

    def callback(heard, played, frames, times, status):
        played[:, 0] = processor(heard[:, 0])

    try:
        with sounddevice.Stream(
            samplerate=rate, blocksize=block, channels=1, dtype="float32", latency="low", callback=callback
        ):
            with contextlib.suppress(KeyboardInterrupt):
                _show(processor, screen, seconds)
            print(f"\n{processor.timing.report()}", file=screen)
    except sounddevice.PortAudioError as error:
        found = f"no microphone and loudspeaker can be opened at {rate} Hz ({error})"
        remedy = "connect them, try --rate 48000, or use tasnet-np stream, which needs neither"
        raise UserError(f"live: {found}; {remedy}") from error


def _sounddevice():
    """The package sounddevice, which is not always installed."""
    try:
        import sounddevice
    except ImportError:
        remedy = "pip install 'tasnet_np[live]'"
        raise UserError(f"live: needs the package sounddevice; install it with {remedy}") from None
    except OSError as error:  # the package without its library
        raise UserError(f"live: {error}; install PortAudio (Debian: apt install libportaudio2)") from None
    return sounddevice


def _show(processor, screen, seconds):
    """Draw the levels of what goes in and out until the time is up."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        bars = _bar(processor.heard_db), _bar(processor.played_db)
        print(f"\rmicrophone {bars[0]}  speech {bars[1]}", end="", file=screen, flush=True)
        time.sleep(min(1 / METERS_PER_SECOND, max(0.0, end - time.monotonic())))


def _bar(level_db, width=30):
    """A level as a bar of # signs and a number."""
    share = min(1.0, max(0.0, 1 + level_db / METER_DB))
    shown = f"{max(level_db, -METER_DB):4.0f} dB"
    return f"[{'#' * round(share * width):<{width}}] {shown}"
