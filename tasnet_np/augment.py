"""Making recordings more varied than they are: speed, colour, polarity, rooms, bandwidth, overloaded microphones.

Each function takes and returns one signal (n,) of float32 and draws nothing at random itself, but for
`synthetic_room`. Which of them an example goes through is decided in `tasnet_np.mixing.Mixer`.
"""

from dataclasses import dataclass, fields

import numpy as np

from tasnet_np.errors import UserError
from tasnet_np.resampling import resample

SPEED_STEPS = 40  # speeds are multiples of 1 / SPEED_STEPS, which keeps the resampling exact and cheap
DECAY_SECONDS = (0.15, 0.6)  # shortest and longest time in which a synthetic room's sound falls by 60 dB
DIRECT_DB = (0.0, 12.0)  # the direct sound of a synthetic room against all that follows
LOWEST_CUTOFF = 0.3  # of half the sample rate: the narrowest band of `low_pass`
HIGHEST = {"speed": 0.5, "colour": 0.45}  # where it is not 1; a filter with larger coefficients could be unstable


@dataclass(frozen=True)
class Augmentation:
    """How much variety to add. All off by default; probabilities are per example."""

    noises: int = 1  # at most so many noise recordings at once
    gain_db: float = 0.0  # the mixture's level varies by up to this, up and down
    speed: float = 0.0  # speech and noise are played faster or slower by up to this share
    colour: float = 0.0  # speech and noise each go through a random filter, its coefficients up to this: see `coloured`
    polarity: float = 0.0  # probability that the whole example is turned upside down, as by a microphone wired the other way
    band_limit: float = 0.0  # probability of a low-pass filter over everything
    room: float = 0.0  # probability that the speech is heard in a room
    clipping: float = 0.0  # probability that the mixture is overloaded
    noise_free: float = 0.0  # probability of an example without noise
    speech_free: float = 0.0  # probability of an example without speech
    pairs: float = 0.5  # probability of a pair as it was recorded, where the corpus has pairs

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "noises":
                if not isinstance(value, int) or value < 1:
                    raise UserError(f"noises must be a whole number of at least 1, not {value}")
            elif field.name == "gain_db":
                if not 0 <= value < np.inf:
                    raise UserError(f"gain_db must be 0 or above, not {value}")
            elif not 0 <= value <= HIGHEST.get(field.name, 1):
                raise UserError(f"{field.name} must be between 0 and {HIGHEST.get(field.name, 1)}, not {value}")
        if self.noise_free + self.speech_free > 1:
            raise UserError(f"noise_free {self.noise_free}, speech_free {self.speech_free}: together at most 1")


def change_speed(signal, steps):
    """Play a signal at `steps` / SPEED_STEPS of its speed; pitch and length change alike."""
    return resample(signal, steps, SPEED_STEPS)


def coloured(signal, r):
    """A signal as another microphone and another room might have coloured it; same length and dtype.

    H(z) = (1 + r1 z^-1 + r2 z^-2) / (1 + r3 z^-1 + r4 z^-2)      (Valin 2018, Eq. 7, who draws r up to 3/8)

    Parameters
    ----------
    signal : ndarray, shape (n,)
    r : (r1, r2, r3, r4), each below 1/2 in absolute value: then both poles lie within the unit circle
    """
    from scipy.signal import lfilter  # takes half a second, which nothing but training need wait for

    return lfilter([1, r[0], r[1]], [1, r[2], r[3]], signal).astype(signal.dtype)


def reverberate(signal, response):
    """A signal as heard in a room, the direct sound at its old place; same length and dtype.

    Parameters
    ----------
    signal : ndarray, shape (n,)
    response : ndarray, shape (m,)
        Impulse response of the room. What comes before its largest value, the direct sound, is left out.
    """
    direct = int(np.argmax(np.abs(response)))
    taps = np.asarray(response[direct:], np.float64)
    taps = taps[: len(signal)] / taps[0]
    size = 1 << (len(signal) + len(taps) - 2).bit_length()
    heard = np.fft.irfft(np.fft.rfft(signal, size) * np.fft.rfft(taps, size), size)
    return heard[: len(signal)].astype(signal.dtype)


def synthetic_room(rng, rate):
    """A random room response: the direct sound, then noise that decays exponentially. Shape (m,)."""
    decay = rng.uniform(*DECAY_SECONDS)
    direct_db = rng.uniform(*DIRECT_DB)
    time = np.arange(1, max(2, round(decay * rate))) / rate
    tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / decay)  # -60 dB after `decay`
    tail *= 10 ** (-direct_db / 20) / np.sqrt(np.sum(tail**2))
    return np.concatenate([[1.0], np.clip(tail, -1, 1)])


def low_pass(signal, cutoff):
    """Remove what lies above a share `cutoff` of half the sample rate; linear phase, same length and dtype."""
    taps = 129
    time = np.arange(taps) - taps // 2
    window = np.sinc(cutoff * time) * np.hamming(taps)
    filtered = np.convolve(signal, window / window.sum(), "same") if len(signal) >= taps else signal
    return filtered.astype(signal.dtype)


def overload(mixture, share):
    """Cut a mixture off at a level that the loudest `share` of its samples exceed."""
    limit = np.quantile(np.abs(mixture), 1 - share)
    return np.clip(mixture, -limit, limit).astype(mixture.dtype) if limit > 0 else mixture
