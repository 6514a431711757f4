"""Resampling as sound arrives: the numbers of `audio.resample`, with a filter's reach of delay."""

import math

import numpy as np


class Resampler:
    """Changes the sample rate of a stream by the ratio up / down.

    All outputs put together are `audio.resample` of all inputs put together, to rounding errors.
    Output j hears the inputs k with |j * down - k * up| <= half, half the length of the filter; older
    ones are not kept.

    Parameters
    ----------
    rate_in, rate_out : int
        Hz.
    channels : int
    """

    def __init__(self, rate_in, rate_out, channels=1):
        self.channels = channels
        common = math.gcd(rate_in, rate_out)
        self._up, self._down = rate_out // common, rate_in // common
        self._half = 10 * max(self._up, self._down) if rate_in != rate_out else 0
        self._filter = _low_pass(self._half) if self._half else None
        self.delay_seconds = self._half / (self._up * rate_in)
        self.reset()

    def reset(self):
        """Forget everything: the next sample is the first of a new stream."""
        self._received = self._given = 0  # samples in, samples out
        self._first = 0  # place of the first input kept: a multiple of `down`, so that outputs align
        self._kept = np.zeros((self.channels, 0), np.float32)

    def process(self, samples):
        """Take in the next samples (channels, n) float32; return the outputs that have become final."""
        if self._filter is None:
            return samples
        self._kept = np.concatenate([self._kept, samples], axis=1)
        self._received += samples.shape[1]
        return self._until(-(-(self._received * self._up - self._half) // self._down))

    def flush(self):
        """End the stream: return the outputs still missing, and reset."""
        outputs = self._until(-(-self._received * self._up // self._down))
        self.reset()
        return outputs

    def _until(self, final):
        """The outputs from where the last call stopped to `final`."""
        if final <= self._given:
            return np.zeros((self.channels, 0), np.float32)
        from scipy.signal import resample_poly  # see audio.resample

        outputs = resample_poly(self._kept, self._up, self._down, axis=1, window=self._filter)
        offset = self._first * self._up // self._down  # of the first of them
        outputs = outputs[:, self._given - offset : final - offset]
        self._given = final
        heard = (final * self._down - self._half) // self._up  # the next output's first input
        first = max(0, heard // self._down * self._down)
        self._kept = self._kept[:, first - self._first :]
        self._first = first
        return outputs


def _low_pass(half):
    """The filter that scipy.signal.resample_poly designs, designed once."""
    from scipy.signal import firwin

    return firwin(2 * half + 1, 10 / half, window=("kaiser", 5.0)).astype(np.float32)
