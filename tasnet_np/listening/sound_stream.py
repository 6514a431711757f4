"""Any sound through the network as it arrives: any rate, any channels, with its level.

`SoundStream` is the middle one of three layers:

- `streaming.Streamer` runs the network itself, on samples at the network's rate. It knows nothing else of the sound.
- `SoundStream` takes the offset out of a sound, resamples it to that rate, gives it to a `Streamer`, resamples the two
  sources to the sound's own rate, and restores their level.
- `stream` and `live` move the sound: between pipes, and from a microphone to a loudspeaker.
"""

import math

import numpy as np

from tasnet_np.errors import UserError
from tasnet_np.listening.offset_blocker import OffsetBlocker
from tasnet_np.network.config import SOURCES
from tasnet_np.sound.bad_samples import bad_samples
from tasnet_np.sound.channels import MOST_CHANNELS
from tasnet_np.sound.level import RunningLevel
from tasnet_np.sound.resampling import Resampler, check_sound_rate
from tasnet_np.streaming.streamer import Streamer


class SoundStream:
    """Splits a sound into speech and background as it arrives, at its own rate.

    `separate.separate` knows the whole recording. Here only what has come in is known: so the mean that is taken out
    is followed (`OffsetBlocker`), the network's input keeps its level, and the gains of the sources follow what has
    come in so far (`RunningLevel`).

    Parameters
    ----------
    model : ConvTasNet
        Not one with gLN, which needs the whole recording.
    rate : int
        Samples per second of the sound.
    channels : int
    level : bool
        Take the offset out of the sound, and restore the level of the sources. Otherwise the network hears the sound as
        it is, and they have the level that it gives them.
    memory_seconds : float
        Time constant with which the cumulative norms forget. By default they do not, as in the paper.

    Attributes
    ----------
    replaced : int
        Samples that were bad (`sound.bad_samples`) and were taken as 0.
    absurd : int
        Those of them that were finite, but too large.

    Raises
    ------
    UserError
        No sound has such a rate, or there are more than `MOST_CHANNELS` channels.
    ValueError
        The model cannot be streamed, or `memory_seconds` is not above 0.
    """

    def __init__(self, model, rate, channels=1, *, level=True, memory_seconds=math.inf):
        config = model.config
        check_sound_rate("sound", rate)
        if not 1 <= channels <= MOST_CHANNELS:
            raise UserError(f"sound: {channels} channels; give between 1 and {MOST_CHANNELS}")
        if not memory_seconds > 0:
            raise ValueError(f"memory must be above 0 seconds, not {memory_seconds}")
        forgetting = math.exp(-config.hop / config.sample_rate / memory_seconds)
        self.channels = channels
        self.streamer = Streamer(model, channels, forgetting=forgetting)
        self.replaced = self.absurd = 0
        self._level = RunningLevel(config.sample_rate, channels) if level else None
        self._offset = OffsetBlocker(rate, channels) if level else None
        self._to_model_rate = Resampler(rate, config.sample_rate, channels)
        self._to_own_rate = Resampler(config.sample_rate, rate, len(SOURCES) * channels)
        self._owed = 0  # samples that came in and have not come out

    @property
    def latency_ms(self):
        """How much later a sample leaves than it came in, apart from the time to compute: a dict of the parts."""
        c = self.streamer.config
        ms_per_sample = 1000 / c.sample_rate
        parts = {
            "window": c.filter_length * ms_per_sample,
            "look-ahead": c.lookahead_frames * c.hop * ms_per_sample,
            "resampling": 1000 * (self._to_model_rate.delay_seconds + self._to_own_rate.delay_seconds),
        }
        return {name: ms for name, ms in parts.items() if ms}

    def process(self, samples):
        """Take in the next samples.

        Parameters
        ----------
        samples : ndarray, shape (channels, n), float32
            NaN, infinite and absurdly large samples count as 0.

        Returns
        -------
        ndarray, shape (2, channels, m), float32
            Speech and background, as far as later samples cannot change them.

        Raises
        ------
        UserError
            The samples have another number of channels.
        """
        if samples.ndim != 2 or len(samples) != self.channels:
            found = f"samples have shape {samples.shape}, not ({self.channels}, n)"
            raise UserError(f"{found}; channels come first: give samples.T if they are (n, channels)")
        bad = bad_samples(samples)
        if bad.any():
            self.replaced += int(bad.sum())
            self.absurd += int(np.isfinite(samples[bad]).sum())
            samples = np.where(bad, np.float32(0), samples)
        if self._offset is not None:
            samples = self._offset.process(samples)
        self._owed += samples.shape[1]
        return self._give(self._to_own_rate.process(self._separate(self._to_model_rate.process(samples))))

    def flush(self):
        """End the sound: return the sources still missing, shape (2, channels, m)."""
        first = self._separate(self._to_model_rate.flush())
        nothing_new = np.zeros((self.channels, 0), np.float32)
        rest = self._levelled(nothing_new, self.streamer.flush())
        sources = [self._to_own_rate.process(part) for part in (first, rest)]
        return self._give(np.concatenate([*sources, self._to_own_rate.flush()], axis=1)[:, : self._owed])

    def _separate(self, mixture):
        """Sources (2 * channels, m) from the next samples (channels, n), both at the network's rate."""
        sources = self.streamer.process(mixture.astype(self.streamer.dtype, copy=False))
        return self._levelled(mixture, sources)

    def _levelled(self, mixture, sources):
        """Sources (2 * channels, m) at the level that they have in the mixture (channels, n)."""
        sources = sources.reshape(len(SOURCES), self.channels, -1).astype(np.float32, copy=False)
        if self._level is not None:
            sources = self._level.process(mixture, sources)
        return sources.reshape(len(SOURCES) * self.channels, -1)

    def _give(self, sources):
        """The next sources (2 * channels, m) as (2, channels, m); they are owed no longer."""
        self._owed -= sources.shape[1]
        return sources.reshape(len(SOURCES), self.channels, -1)
