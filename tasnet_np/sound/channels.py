"""The channels of a recording: how many there may be, and one channel made of several."""

import numpy as np

from tasnet_np.errors import UserError

MOST_CHANNELS = 64  # of a stream, which keeps the network's state for each
FEWEST_IN_DOUBT = 8  # arrays with more channels than this, and than samples, are taken for (n, channels)
CANCELLED = (
    0.5  # of the power that the mean of independent channels has: where it has less, some are inverted
)


def check_channels_first(name, samples):
    """Refuse an array (n, channels), as soundfile and scipy give it, where (channels, n) is meant.

    Parameters
    ----------
    name : str
        What the error begins with.
    samples : ndarray, shape (channels, n)

    Raises
    ------
    UserError
        There are more than `FEWEST_IN_DOUBT` channels, and more than samples of each.
    """
    if samples.ndim == 2 and len(samples) > max(FEWEST_IN_DOUBT, samples.shape[1]):
        found = f"{len(samples)} channels of {samples.shape[1]} samples, shape {samples.shape}"
        raise UserError(f"{name}: {found}; channels come first: give samples.T")


def signs(samples):
    """What to multiply each channel with before they are averaged: -1 where it is the loudest one, inverted, else 1.

    A channel is turned only if the mean would lose most of the sound, as where one side of a stereo recording was wired
    the wrong way round.

    Parameters
    ----------
    samples : ndarray, shape (channels, n)

    Returns
    -------
    ndarray, shape (channels, 1), float32
    """
    same = np.ones((len(samples), 1), np.float32)
    if len(samples) == 1:
        return same
    samples = samples - samples.mean(axis=1, keepdims=True)  # offsets, which are no sound, do not count
    powers = np.mean(np.square(samples, dtype=np.float64), axis=1)  # (channels,)
    power_of_mean = np.mean(np.square(samples.mean(axis=0), dtype=np.float64))
    if power_of_mean >= CANCELLED * powers.mean() / len(samples):
        return same
    products = samples @ samples[np.argmax(powers)]  # (channels,)
    return np.where(products[:, None] < 0, -same, same)


def mono(samples, turned=None):
    """The mean of the channels.

    Parameters
    ----------
    samples : ndarray, shape (channels, n), float32
    turned : ndarray, shape (channels, 1), optional
        As from `signs`, by default of these samples.

    Returns
    -------
    ndarray, shape (n,), float32
    """
    turned = signs(samples) if turned is None else turned
    return samples.mean(axis=0) if np.all(turned > 0) else (turned * samples).mean(axis=0)
