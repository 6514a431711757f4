"""Making recordings more varied: speed, colour, equalisers, rooms, bandwidth, overloaded microphones, made-up noise.

Each function changes or makes one signal (n,) of float32. Those that draw something at random take `rng`.
`tasnet_np.corpus.mixing.Mixer` decides which of them an example goes through. scipy.signal is imported inside the
functions: it takes half a second, and only training needs it.
"""

from dataclasses import dataclass

import numpy as np

from tasnet_np.errors import UserError
from tasnet_np.ranges import Range
from tasnet_np.sound.resampling import resample

SPEED_STEPS = 40  # speeds are multiples of 1 / SPEED_STEPS, which keeps the resampling exact and cheap
DECAY_SECONDS = (0.15, 0.6)  # shortest and longest time in which a synthetic room's sound falls by 60 dB
DIRECT_DB = (
    0.0,
    12.0,
)  # lowest and highest level of a synthetic room's direct sound, relative to all that follows
LOWEST_HZ = 40.0  # below this, the slope and the bumps of a random spectrum are level
BUMPS = 8  # random levels of a spectrum, at random frequencies
SLOPE_DB = (-9.0, 3.0)  # lowest and highest slope per octave, of synthetic noise
BUMP_DB = 6.0  # standard deviation of its bumps
EQUALISER_SLOPE_DB = {"speech": 2.0, "noise": 4.0}  # steepest slope per octave, up or down
EQUALISER_BUMP_DB = {"speech": 3.0, "noise": 6.0}  # standard deviation of the bumps
HUM = 0.3  # probability that synthetic noise has a hum
HUM_HZ = (45.0, 400.0)  # lowest and highest pitch of a hum
HUM_DB = (-10.0, 10.0)  # lowest and highest level of a hum, relative to the other noise
OVERTONES = 30  # at most so many in a hum, its pitch counted
SWELL = 0.5  # probability that the level of synthetic noise changes
SWELL_DB = 8.0  # standard deviation of the changing level
SWELL_SECONDS = (0.1, 1.0)  # shortest and longest time between two of its values
LOWEST_CUTOFF = 0.3  # of half the sample rate: the narrowest band of `low_pass`
LOW_PASS_TAPS = 129  # length of its filter
PROBABILITY = Range(0, 1, words="between 0 and 1")
RANGES = {
    "noises": Range(1, 100, whole=True),
    "babble": PROBABILITY,
    "synthetic": PROBABILITY,
    "gain_db": Range(0, 100, words="0 or above, and at most 100"),
    "speed": Range(0, 0.5, words="between 0 and 0.5"),
    "colour": Range(0, 0.45, words="between 0 and 0.45"),  # with 0.5 a filter can be unstable
    "equaliser": PROBABILITY,
    "polarity": PROBABILITY,
    "band_limit": PROBABILITY,
    "room": PROBABILITY,
    "clipping": PROBABILITY,
    "noise_free": PROBABILITY,
    "speech_free": PROBABILITY,
    "pairs": PROBABILITY,
}


@dataclass(frozen=True)
class Augmentation:
    """How much variety to add. By default none. Each probability is that of one example."""

    noises: int = 1  # at most so many noise recordings at once
    babble: float = 0.0  # probability that the first noise is made of many voices
    synthetic: float = 0.0  # probability that the first noise is no recording (`synthetic_noise`)
    gain_db: float = 0.0  # the mixture's level varies by up to this, up and down
    speed: float = 0.0  # speech and noise are played faster or slower by up to this share
    colour: float = (
        0.0  # speech and noise each go through a random filter (`coloured`) with coefficients up to this
    )
    equaliser: float = (
        0.0  # probability for speech, and for noise, of other levels of its frequencies (`equalised`)
    )
    polarity: float = (
        0.0  # probability that an example changes its sign, as with a microphone wired the other way
    )
    band_limit: float = 0.0  # probability of a low-pass filter over everything
    room: float = 0.0  # probability that the speech is heard in a room
    clipping: float = 0.0  # probability that the mixture is overloaded
    noise_free: float = 0.0  # probability of an example without noise
    speech_free: float = 0.0  # probability of an example without speech
    pairs: float = 0.5  # probability of a pair as it was recorded, where the corpus has pairs

    def __post_init__(self):
        for name, allowed in RANGES.items():
            allowed.check(name, getattr(self, name), "a whole number of" if name == "noises" else "")
        if self.noise_free + self.speech_free > 1:
            raise UserError(
                f"noise_free {self.noise_free}, speech_free {self.speech_free}: together at most 1"
            )


def change_speed(signal, steps):
    """Play a signal at another speed, so that its pitch and its length change.

    Parameters
    ----------
    signal : ndarray, shape (n,)
    steps : int
        The speed is steps / SPEED_STEPS.

    Returns
    -------
    ndarray, shape (ceil(n * SPEED_STEPS / steps),), of the same dtype
    """
    return resample(signal, steps, SPEED_STEPS)


def coloured(signal, r):
    """Filter a signal as another microphone or another room might do it.

    H(z) = (1 + r1 z^-1 + r2 z^-2) / (1 + r3 z^-1 + r4 z^-2)      (Valin 2018, Eq. 7, who draws r up to 3/8)

    Parameters
    ----------
    signal : ndarray, shape (n,)
    r : sequence of 4 floats
        r1 to r4. If each is below 1/2 in absolute value, both poles lie within the unit circle.

    Returns
    -------
    ndarray, shape (n,), of the same dtype
    """
    from scipy.signal import lfilter

    return lfilter([1, r[0], r[1]], [1, r[2], r[3]], signal).astype(signal.dtype)


def reverberate(signal, response):
    """Let a signal sound as in a room. The direct sound keeps its place and its level.

    Parameters
    ----------
    signal : ndarray, shape (n,)
    response : ndarray, shape (m,)
        Impulse response of the room. Its largest value is the direct sound; what comes before that is left out.

    Returns
    -------
    ndarray, shape (n,), of the same dtype
    """
    from scipy.signal import fftconvolve

    direct = int(np.argmax(np.abs(response)))
    taps = np.asarray(response[direct:], np.float64)
    taps = taps[: len(signal)] / taps[0]
    return fftconvolve(signal.astype(np.float64), taps)[: len(signal)].astype(signal.dtype)


def synthetic_room(rng, rate):
    """Make a random room response: the direct sound, then noise that decays exponentially.

    Parameters
    ----------
    rng : numpy.random.Generator
    rate : int
        Hz.

    Returns
    -------
    ndarray, shape (m,), float64
        It lasts between 0.15 and 0.6 s. Its first value is the direct sound, 1.
    """
    decay = rng.uniform(*DECAY_SECONDS)
    direct_db = rng.uniform(*DIRECT_DB)
    time = np.arange(1, max(2, round(decay * rate))) / rate
    tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / decay)  # -60 dB after `decay`
    tail *= 10 ** (-direct_db / 20) / np.sqrt(np.sum(tail**2))
    return np.concatenate([[1.0], np.clip(tail, -1, 1)])


def synthetic_noise(rng, samples, rate):
    """Make noise with a random spectrum, with or without a hum, steady or swelling.

    Recordings of noise are few, and a model may learn them by heart. Noise from here is never the same twice.

    Parameters
    ----------
    rng : numpy.random.Generator
    samples : int
    rate : int
        Hz.

    Returns
    -------
    ndarray, shape (samples,), float32
        Its RMS is 1 before it swells.
    """
    size = _power_of_two(samples)
    gains = _random_gains(rng, size, rate, rng.uniform(*SLOPE_DB), BUMP_DB)
    noise = _unit(np.fft.irfft(np.fft.rfft(rng.standard_normal(size)) * gains, size)[:samples])
    if rng.random() < HUM:
        noise = _unit(noise + 10 ** (rng.uniform(*HUM_DB) / 20) * _hum(rng, samples, rate))
    if rng.random() < SWELL:
        times = np.cumsum(rng.uniform(*SWELL_SECONDS, 2 + int(samples / rate / SWELL_SECONDS[0])))
        level_db = np.interp(np.arange(samples) / rate, times, SWELL_DB * rng.standard_normal(len(times)))
        noise = noise * 10 ** (level_db / 20)
    return noise.astype(np.float32)


def equalised(signal, kind, rng, rate):
    """Change the levels of a signal's frequencies at random, those of speech less than those of noise.

    Parameters
    ----------
    signal : ndarray, shape (n,)
    kind : str
        "speech" or "noise".
    rng : numpy.random.Generator
    rate : int
        Hz.

    Returns
    -------
    ndarray, shape (n,), of the same dtype
    """
    size, steepest = _power_of_two(len(signal)), EQUALISER_SLOPE_DB[kind]
    gains = _random_gains(rng, size, rate, rng.uniform(-steepest, steepest), EQUALISER_BUMP_DB[kind])
    return np.fft.irfft(np.fft.rfft(signal, size) * gains, size)[: len(signal)].astype(signal.dtype)


def _power_of_two(n):
    """The smallest power of two that is at least n: a fast size for an FFT."""
    return 1 << (n - 1).bit_length()


def _random_gains(rng, size, rate, slope_db, bump_db):
    """Gains (size // 2 + 1,) for the spectrum of `size` samples: a slope per octave, and random bumps."""
    octaves = np.log2(np.maximum(np.fft.rfftfreq(size, 1 / rate), LOWEST_HZ) / LOWEST_HZ)
    points = np.sort(rng.uniform(0, octaves[-1], BUMPS))
    gain_db = slope_db * octaves + np.interp(octaves, points, bump_db * rng.standard_normal(BUMPS))
    return 10 ** (gain_db / 20)


def _hum(rng, samples, rate):
    """A tone of a random pitch, and overtones with random levels and phases. Shape (samples,), RMS 1."""
    size = _power_of_two(samples)
    pitch = max(1, round(rng.uniform(*HUM_HZ) * size / rate))  # in bins of the spectrum
    numbers = np.arange(1, min(OVERTONES, size // 2 // pitch) + 1)
    spectrum = np.zeros(size // 2 + 1, complex)
    amplitudes = numbers ** -rng.uniform(0, 2) * rng.exponential(size=len(numbers))
    spectrum[pitch * numbers] = amplitudes * np.exp(2j * np.pi * rng.random(len(numbers)))
    return _unit(np.fft.irfft(spectrum, size)[:samples])


def _unit(signal):
    """The signal with an RMS of 1."""
    return signal / np.sqrt(np.mean(signal**2))


def low_pass(signal, cutoff):
    """Remove high frequencies with a filter of linear phase. A signal that is shorter than the filter stays as it is.

    Parameters
    ----------
    signal : ndarray, shape (n,)
    cutoff : float
        Share of half the sample rate, above 0 and below 1.

    Returns
    -------
    ndarray, shape (n,), of the same dtype
    """
    from scipy.signal import firwin

    if len(signal) < LOW_PASS_TAPS:
        return signal
    return np.convolve(signal, firwin(LOW_PASS_TAPS, cutoff), "same").astype(signal.dtype)


def overload(mixture, share):
    """Cut off the loudest samples, as an overloaded microphone does.

    Parameters
    ----------
    mixture : ndarray, shape (n,)
    share : float
        Share of the samples to cut off, between 0 and 1.

    Returns
    -------
    ndarray, shape (n,), of the same dtype
    """
    limit = np.quantile(np.abs(mixture), 1 - share)
    return np.clip(mixture, -limit, limit).astype(mixture.dtype) if limit > 0 else mixture
