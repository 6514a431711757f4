"""`denoise.separate` as sound arrives: any rate, any channels, the level restored as it goes."""

import math

import numpy as np

from tasnet_np.level import RunningLevel
from tasnet_np.resampling import Resampler
from tasnet_np.streaming import Streamer


class OnlineSeparator:
    """Splits a running sound into speech and background at its own rate.

    Unlike `denoise.separate`, which knows the whole recording, it neither takes the mean away nor brings
    the model's input to one level, and the gains of its outputs follow what it has heard so far.

    Parameters
    ----------
    model : ConvTasNet
        Not one with gLN, which needs the whole recording.
    rate : int
        Samples per second of the sound.
    channels : int
    level : bool
        Restore the level (`RunningLevel`). Otherwise the sources have the level the model gives them.
    memory_seconds : float
        Time constant with which the cumulative norms forget. By default they do not, as in the paper.
    """

    def __init__(self, model, rate, channels=1, *, level=True, memory_seconds=math.inf):
        config = model.config
        if not memory_seconds > 0:
            raise ValueError(f"memory must be above 0 seconds, not {memory_seconds}")
        forgetting = math.exp(-config.hop / config.sample_rate / memory_seconds)
        self.channels = channels
        self.streamer = Streamer(model, channels, forgetting=forgetting)
        self.replaced = 0  # samples that were NaN or infinite and were taken as 0
        self._level = RunningLevel(config.sample_rate, channels) if level else None
        self._there = Resampler(rate, config.sample_rate, channels)
        self._back = Resampler(config.sample_rate, rate, 2 * channels)
        self._missing = 0  # samples that came in and have not come out

    @property
    def latency_ms(self):
        """How long after a sample came in it has left, apart from the time to compute: the parts by name."""
        c = self.streamer.config
        ms_per_sample = 1000 / c.sample_rate
        parts = {
            "window": c.filter_length * ms_per_sample,
            "look-ahead": c.lookahead_frames * c.hop * ms_per_sample,
            "resampling": 1000 * (self._there.delay_seconds + self._back.delay_seconds),
        }
        return {name: ms for name, ms in parts.items() if ms}

    def process(self, samples):
        """Take in the next samples (channels, n) float32; return the sources (2, channels, m) now final."""
        bad = ~np.isfinite(samples)
        if bad.any():
            self.replaced += int(bad.sum())
            samples = np.where(bad, np.float32(0), samples)
        self._missing += samples.shape[1]
        return self._give(self._back.process(self._separate(self._there.process(samples))))

    def flush(self):
        """End the sound: return the sources still missing."""
        heard = self._there.flush()
        first = self._separate(heard)
        rest = self._levelled(np.zeros((self.channels, 0), np.float32), self.streamer.flush())
        sources = [self._back.process(part) for part in (first, rest)]
        return self._give(np.concatenate([*sources, self._back.flush()], axis=1)[:, : self._missing])

    def _separate(self, heard):
        sources = self.streamer.process(heard.astype(self.streamer.dtype, copy=False))
        return self._levelled(heard, sources)

    def _levelled(self, heard, sources):
        """Sources (2 * channels, m) at their level in what was heard (channels, n)."""
        sources = sources.reshape(2, self.channels, -1).astype(np.float32, copy=False)
        if self._level is not None:
            sources = self._level.process(heard, sources)
        return sources.reshape(2 * self.channels, -1)

    def _give(self, sources):
        self._missing -= sources.shape[1]
        return sources.reshape(2, self.channels, -1)
