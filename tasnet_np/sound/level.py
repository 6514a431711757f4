"""Levels: of a signal, of separated sources in their mixture, and of sources as they come.

SI-SNR leaves the level and the polarity of a model's outputs free: they may be a thousand times too
loud, or inverted. `fit_level` finds the two gains with which they add up to the mixture again.
`RunningLevel` does the same for a stream, from the samples that have come in so far.
"""

import numpy as np

from tasnet_np.sound.bad_samples import bad_samples
from tasnet_np.sound.metrics import without_mean

LEVEL_DB = -25.0  # dBFS: the RMS level of the mixtures that a model is trained on, and hears later
COLLINEAR = 0.98  # cos^2 between the two estimates above which they count as one signal
LOUDEST_DB = 3.0  # how far the RMS of a restored source may exceed the mixture's

STEPS_PER_SECOND = 100  # how often a stream's gains are fitted anew
SLOPE_DB = 10.0  # how fast the gains move to the new ones, per second: 1 dB in 100 ms
FADE_STEPS = 10  # fits during which the first sound of a stream fades in, while its gains settle
OFFSET_DB = -30.0  # of a mean against the level about it, up to which a signal is taken to have no offset
DIP_DB = 30.0  # how far a gain falls before its polarity changes
CONSTANT = 1e-10  # share of the energy about the mean below which a signal counts as constant


def rms_db(samples):
    """Level of a signal: the root mean square of all its samples.

    Parameters
    ----------
    samples : ndarray, any shape
        Full scale is 1.

    Returns
    -------
    float
        In dB relative to full scale (dBFS); -inf for silence.
    """
    power = np.mean(np.square(samples, dtype=np.float64))
    return float(10 * np.log10(power)) if power > 0 else -np.inf


def without_offset(samples):
    """Remove a signal's offset, the direct current that cheap inputs add. It is no sound, but would count as level.

    Parameters
    ----------
    samples : ndarray, shape (n,)

    Returns
    -------
    ndarray, shape (n,), of the same dtype
        Without its mean; zeros for a constant signal. The input itself where the mean is so small (`OFFSET_DB`) that
        it changes the level by less than 0.005 dB: a signal of finite length has some mean without an offset, too.
    """
    centred = without_mean(samples)
    mean = np.mean(samples, dtype=np.float64)
    if mean**2 <= 10 ** (OFFSET_DB / 10) * np.mean(np.square(centred)):
        return samples
    return centred.astype(samples.dtype)


def at_level(samples, level_db):
    """Scale a signal to a level.

    Parameters
    ----------
    samples : ndarray, any shape
    level_db : float
        What `rms_db` gives for the result, in dBFS.

    Returns
    -------
    ndarray, of the same shape and dtype
        The input itself if it is silent.
    """
    if not np.any(samples):
        return samples
    gain = 10 ** ((level_db - rms_db(samples)) / 20)  # beyond float32 for very quiet samples
    return np.multiply(samples, gain, dtype=np.float64).astype(samples.dtype)


def fit_level(mixture, sources):
    """Find the gains a and b with which a * speech + b * noise is closest to the mixture, in the least squares.

    The gains are for the estimates without their means. With both estimates at unit norm and
    c = <speech, noise>, the weights a', b' solve the normal equations

        [1  c] [a']   [<speech, mixture>]
        [c  1] [b'] = [<noise, mixture> ]

    The eigenvalues are 1 + |c| and 1 - |c|. Where c^2 exceeds `COLLINEAR`, the difference of the
    estimates is too small to be fitted, and the pseudo-inverse leaves it out. The two weights are
    then equal, except for their sign where the estimates have opposite polarity. Each source is then
    about 6 dB below their sum. By the same rule a silent estimate gets the gain 0, and the other one
    is fitted alone.

    Two estimates that nearly cancel can still be loud. If one exceeds the mixture's RMS by more than
    `LOUDEST_DB`, a common factor lowers both gains.

    Parameters
    ----------
    mixture : ndarray, shape (n,)
    sources : ndarray, shape (2, n)
        Estimates of speech and noise, at any level and polarity.

    Returns
    -------
    gains : ndarray, shape (2,), float64
        Zeros for a silent mixture.
    """
    signals = without_mean(np.concatenate([np.asarray(mixture)[None], sources]))  # (3, n)
    return gains_of(signals @ signals.T)


def gains_of(products):
    """The gains (2,) of `fit_level`, from the inner products (3, 3) of mixture, speech and noise without means."""
    energy = np.diag(products)  # (3,)
    norms = np.sqrt(np.where(energy > 0, energy, 1.0))[1:]  # (2,)
    gram = products[1:, 1:] / np.outer(norms, norms)
    # pinv leaves out eigenvalues up to limit * the largest: here 1 - |c| <= limit * (1 + |c|).
    limit = (1 - np.sqrt(COLLINEAR)) / (1 + np.sqrt(COLLINEAR))
    weights = np.linalg.pinv(gram, rcond=limit, hermitian=True) @ (products[1:, 0] / norms)  # (2,)
    # The norm of a restored source is the size of its weight.
    loudest = np.max(np.abs(weights))
    allowed = 10 ** (LOUDEST_DB / 20) * np.sqrt(energy[0])
    if loudest > allowed:
        weights *= allowed / loudest
    return weights / norms


class RunningLevel:
    """Brings the sources of a stream to their level in the mixture, without jumps and without delay.

    Every 10 ms the gains are fitted to all samples so far, as in `fit_level`. The gains in use then move
    towards them in a straight line, by no more than 1 dB in 100 ms. The first 100 ms of sound fade in:
    meanwhile the gains follow the fit freely. If the fit changes a source's polarity, its gain falls by
    30 dB at that pace, and rises again with the other sign. Unlike `fit_level`, it leaves the outputs their
    means: the mean of a stream is not known before its end.

    Parameters
    ----------
    rate : int
        Samples per second of the stream.
    channels : int
        Each channel has gains of its own.
    """

    def __init__(self, rate, channels=1):
        self.gains = np.zeros((2, channels))
        self._step = max(1, round(rate / STEPS_PER_SECOND))  # samples between two fits
        self._ratio = 10 ** (SLOPE_DB * self._step / rate / 20)  # the most a gain changes in between
        self._next_gains = np.zeros((2, channels))
        self._done = 0  # samples of this step that have been levelled
        self._heard = np.zeros(channels, int)  # steps since the first sound
        self._products = np.zeros((channels, 4, 4))  # inner products of mixture, speech, noise and 1 so far
        self._waiting = np.zeros((channels, 0))  # samples of the mixture whose sources are still to come

    def process(self, mixture, sources):
        """Give the next sources their level.

        Parameters
        ----------
        mixture : ndarray, shape (channels, n)
            The samples that have come in since the last call. Bad ones (`bad_samples`) count as 0.
        sources : ndarray, shape (2, channels, m)
            The sources that follow those of the last call.

        Returns
        -------
        ndarray, shape (2, channels, m)
        """
        mixture = np.where(bad_samples(mixture), 0.0, mixture)
        m = sources.shape[-1]
        waiting = np.concatenate([self._waiting, mixture], axis=1)
        mixture, self._waiting = waiting[:, :m], waiting[:, m:]
        levelled = np.empty_like(sources)
        start = 0
        while start < m:
            end = min(m, start + self._step - self._done)
            levelled[..., start:end] = self._ramp(end - start) * sources[..., start:end]
            self._products += products_of(mixture[:, start:end], sources[..., start:end])
            self._done += end - start
            start = end
            if self._done == self._step:
                self._fit()
        return levelled

    def _ramp(self, count):
        """The gains (2, channels, count) of the next samples: on a straight line to those of the next step."""
        way = np.arange(self._done + 1, self._done + count + 1) / self._step  # ends at 1
        return self.gains[..., None] + (self._next_gains - self.gains)[..., None] * way

    def _fit(self):
        """End a step: fit the gains anew, and set those for the end of the next step."""
        self.gains, self._done = self._next_gains, 0
        self._next_gains = np.empty_like(self.gains)
        for channel, products in enumerate(self._products):
            wanted = gains_of(about_the_means(products))
            self._heard[channel] += self._heard[channel] > 0 or wanted.any()
            if self._heard[channel] <= FADE_STEPS:
                self._next_gains[:, channel] = wanted * self._heard[channel] / FADE_STEPS
                continue
            for source in range(2):
                self._next_gains[source, channel] = self._towards(self.gains[source, channel], wanted[source])

    def _towards(self, gain, wanted):
        """The gain one step later, on its way to the wanted one: changed by no more than `SLOPE_DB` allows."""
        if gain * wanted > 0:
            return gain * np.clip(wanted / gain, 1 / self._ratio, self._ratio)
        lowest = 10 ** (-DIP_DB / 20) * wanted
        return gain / self._ratio if abs(gain) > abs(lowest) else lowest


def products_of(mixture, sources):
    """Inner products (channels, 4, 4) of mixture (channels, n), sources (2, channels, n) and 1."""
    ones = np.ones_like(mixture)
    signals = np.stack([mixture, *sources, ones], axis=1).astype(np.float64)  # (channels, 4, n)
    return signals @ signals.swapaxes(1, 2)


def about_the_means(products):
    """Inner products (3, 3) of signals without their means, from those of signals and 1 (4, 4)."""
    sums, count = products[:3, 3], products[3, 3]
    centred = products[:3, :3] - np.outer(sums, sums) / count
    constant = np.diag(centred) <= CONSTANT * np.diag(products)[:3]
    centred[constant] = centred[:, constant] = 0
    return centred
