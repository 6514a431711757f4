"""Other sample rates: of a whole signal (`resample`), and of sound as it arrives (`Resampler`)."""

import math
import numbers

import numpy as np

from tasnet_np.errors import UserError

LOWEST_RATE, HIGHEST_RATE = 1000, 1_000_000  # Hz, of a recording
LARGEST_RATIO = 200_000  # of rates in lowest terms: the filter has 20 times as many taps


def resample(samples, rate_in, rate_out):
    """Change the sample rate along the last axis.

    A polyphase low-pass filter (scipy.signal.resample_poly) removes what lies above the lower of
    the two Nyquist frequencies.

    Parameters
    ----------
    samples : ndarray, shape (..., n)
    rate_in, rate_out : int
        Hz.

    Returns
    -------
    ndarray, shape (..., ceil(n * rate_out / rate_in)), of the same dtype
        The input itself where the rates are equal.

    Raises
    ------
    UserError
        A rate is not a whole number above 0, or the filter would have more than `20 * LARGEST_RATIO` taps.
    """
    check_rate("rate_in", rate_in)
    check_rate("rate_out", rate_out)
    if rate_in == rate_out:
        return samples
    up, down = _reduced(rate_in, rate_out)
    from scipy.signal import resample_poly  # takes half a second to import, and most files need no resampling

    return resample_poly(samples, up, down, axis=-1)


def check_rate(name, rate):
    """Refuse a sample rate that is not a whole number above 0."""
    if not isinstance(rate, numbers.Integral) or rate < 1:
        raise UserError(f"{name}: sample rate {rate}; give a whole number of hertz above 0")


def check_sound_rate(name, rate):
    """Refuse a sample rate that no recording of speech has: resampling from it would take endless memory."""
    if not isinstance(rate, numbers.Integral) or not LOWEST_RATE <= rate <= HIGHEST_RATE:
        wanted = f"give one between {LOWEST_RATE} and {HIGHEST_RATE} Hz"
        raise UserError(f"{name}: has a sample rate of {rate}; {wanted}, or export it again")


def _reduced(rate_in, rate_out):
    """The ratio rate_out / rate_in as (up, down), in lowest terms. Refuse one that takes an endless filter."""
    common = math.gcd(rate_in, rate_out)
    up, down = rate_out // common, rate_in // common
    if max(up, down) > LARGEST_RATIO:
        found = f"sample rates {rate_in} and {rate_out} have no common divisor above {common}"
        raise UserError(f"{found}; resample to 48000 Hz or another usual rate first")
    return up, down


class Resampler:
    """Changes the sample rate of sound as it arrives. Its outputs come later by the reach of its filter.

    With up / down the ratio of the rates, output j depends on the inputs k with |j * down - k * up| <= half, where
    `half` is half the length of the filter. All outputs put together are `resample` of all inputs put together,
    but for rounding errors. Inputs that no later output needs are dropped.

    Parameters
    ----------
    rate_in, rate_out : int
        Hz.
    channels : int

    Attributes
    ----------
    delay_seconds : float
        How much later an output comes than the input of the same time.
    """

    def __init__(self, rate_in, rate_out, channels=1):
        self.channels = channels
        self._up, self._down = _reduced(rate_in, rate_out)
        self._half = 10 * max(self._up, self._down) if rate_in != rate_out else 0
        self._filter = _low_pass(self._half) if self._half else None
        self.delay_seconds = self._half / (self._up * rate_in)
        self.reset()

    def reset(self):
        """Forget everything: the next sample is the first of a new sound."""
        self._received = self._given = 0  # samples in, samples out
        self._first = 0  # place of the first input kept: a multiple of `down`, so that outputs align
        self._kept = np.zeros((self.channels, 0), np.float32)

    def process(self, samples):
        """Take in the next samples (channels, n) float32; return the outputs that are complete."""
        if self._filter is None:
            return samples
        self._kept = np.concatenate([self._kept, samples], axis=1)
        self._received += samples.shape[1]
        return self._until(-(-(self._received * self._up - self._half) // self._down))

    def flush(self):
        """End the sound: return the outputs still missing, and reset."""
        outputs = self._until(-(-self._received * self._up // self._down))
        self.reset()
        return outputs

    def _until(self, stop):
        """The outputs from the end of the last call to output number `stop`."""
        if stop <= self._given:
            return np.zeros((self.channels, 0), np.float32)
        from scipy.signal import resample_poly  # see `resample`

        outputs = resample_poly(self._kept, self._up, self._down, axis=1, window=self._filter)
        offset = self._first * self._up // self._down  # number of the first of these outputs
        outputs = outputs[:, self._given - offset : stop - offset]
        self._given = stop
        needed = (stop * self._down - self._half) // self._up  # the first input that the next output needs
        first = max(0, needed // self._down * self._down)
        self._kept = self._kept[:, first - self._first :]
        self._first = first
        return outputs


def _low_pass(half):
    """The filter that scipy.signal.resample_poly designs, designed once."""
    from scipy.signal import firwin

    return firwin(2 * half + 1, 10 / half, window=("kaiser", 5.0)).astype(np.float32)
