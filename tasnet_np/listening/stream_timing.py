"""How long the network takes for sound as it arrives, block by block."""

import math
import time

import numpy as np

from tasnet_np.streaming.streamer import Streamer

MOST_HOPS, MOST_SECONDS = 5000, 1.0  # of `time_streaming`: a file may have any rate and any hop


class Timing:
    """Computing times of the blocks of a stream, as a histogram: so its size does not grow.

    Parameters
    ----------
    rate : int
        Samples per second.
    hop_seconds : float
        Duration of a hop. Times are given per hop, as blocks may have any length.

    Attributes
    ----------
    seconds : float
        Computing time of all blocks.
    samples, blocks, missed : int
        All samples, all blocks, and the blocks that took longer than they last.
    longest : float
        Largest computing time, in seconds per hop.
    """

    FINEST, RATIO, BINS = 1e-7, 1.02, 1024  # seconds per hop: bins 2 % wide, from 0.1 microseconds on

    def __init__(self, rate, hop_seconds):
        self.rate, self.hop_seconds = rate, hop_seconds
        self.seconds, self.samples, self.blocks, self.missed, self.longest = 0.0, 0, 0, 0, 0.0
        self._counts = np.zeros(self.BINS, int)

    def add(self, seconds, samples):
        """Count a block of `samples` samples that took `seconds` seconds."""
        duration = samples / self.rate
        per_hop = seconds * self.hop_seconds / duration
        place = math.log(max(per_hop, self.FINEST) / self.FINEST, self.RATIO)
        self._counts[min(int(place), self.BINS - 1)] += 1
        self.seconds += seconds
        self.samples += samples
        self.blocks += 1
        self.missed += seconds > duration
        self.longest = max(self.longest, per_hop)

    def quantile(self, share):
        """Seconds per hop that this share of the blocks did not exceed, with an error of up to 2 %."""
        place = np.searchsorted(np.cumsum(self._counts), share * self.blocks)
        return self.FINEST * self.RATIO ** (place + 1)

    def report(self):
        """The statistics as one line."""
        if not self.blocks:
            return "no sound came in"
        sound = self.samples / self.rate
        half, most = self.quantile(0.5), self.quantile(0.99)
        return (
            f"{sound:.1f} s of sound in {self.seconds:.1f} s (real-time factor {self.seconds / sound:.3f}); "
            f"per hop of {1000 * self.hop_seconds:g} ms: median {1e6 * half:.0f} us, p99 {1e6 * most:.0f} us, "
            f"longest {1e6 * self.longest:.0f} us; {self.missed} of {self.blocks} blocks took too long"
        )


def time_streaming(model, seconds=0.5):
    """Measure how long this machine takes for a stream of noise, hop by hop.

    Parameters
    ----------
    model : ConvTasNet
    seconds : float
        Duration of the noise: at least one hop, and at most so many as take `MOST_SECONDS` to compute.

    Returns
    -------
    Timing
    """
    config = model.config
    streamer, timing = Streamer(model), Timing(config.sample_rate, config.hop / config.sample_rate)
    count = max(1, min(MOST_HOPS, round(seconds * config.sample_rate / config.hop)))
    for hop in 0.1 * np.random.default_rng(0).standard_normal((count, config.hop)).astype(model.dtype):
        start = time.perf_counter()
        streamer.process(hop)
        timing.add(time.perf_counter() - start, config.hop)
        if timing.seconds > MOST_SECONDS:
            break
    return timing
