"""Takes the offset (direct current) out of sound as it arrives.

A recording as a whole loses its mean. The mean of a stream is not known before its end, so it is followed:

    m_n = m_{n-1} + a_n (x_n - m_{n-1})        a_n = max(1 / n, a)
    y_n = x_n - m_n                            a = 1 - exp(-2 pi CUTOFF_HZ / rate)

Counted from the first sample that is not 0, m is the mean of all samples at first. After 1 / a samples (0.3 s) it
forgets the older ones: from then on this is a high-pass filter of first order at `CUTOFF_HZ`.

So an offset that is there from the beginning is gone from the first sample on. It would otherwise begin with a click,
and the network's cumulative norms would keep that. The limit: an offset that sets in or changes later is heard until m
has followed, for about a second. A voice loses nothing, as it has nothing below `CUTOFF_HZ`.
"""

import math

import numpy as np

from tasnet_np.compute.cpu import cpu_kernel

CUTOFF_HZ = 0.5


@cpu_kernel
def _block_offset_cpu(y, x, means, counts, share):
    """y = x without the running mean, all of (channels, n). means and counts (channels,) are carried on."""
    for channel in range(len(x)):
        mean, count = means[channel], counts[channel]
        for i in range(x.shape[1]):
            value = np.float64(x[channel, i])
            if count or value != 0:
                count += 1
                mean += (value - mean) * max(share, 1 / count)
            y[channel, i] = value - mean
        means[channel], counts[channel] = mean, count


class OffsetBlocker:
    """The offset of each channel taken out, with the same bits in pieces of any size.

    Parameters
    ----------
    rate : int
        Samples per second.
    channels : int
    """

    def __init__(self, rate, channels=1):
        self._share = 1 - math.exp(-2 * math.pi * CUTOFF_HZ / rate)
        self._means, self._counts = np.zeros(channels), np.zeros(channels, np.int64)
        self.process(np.zeros((channels, 0), np.float32))  # compiles now, not when the sound has begun

    def process(self, samples):
        """Take in the next samples (channels, n) float32; return as many, without the offset."""
        blocked = np.empty(samples.shape, np.float32)
        heard = np.array(samples, np.float32, order="C")  # of one layout and writable, for Numba
        _block_offset_cpu(blocked, heard, self._means, self._counts, self._share)
        return blocked
