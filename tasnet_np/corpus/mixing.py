"""From recordings to training batches: speech and noise are mixed at a known SNR, and varied.

`mix` adds one noise to one speech. A `Mixer` draws both from a corpus, again and again; a `Prefetcher` lets it work
in the background. `fixed_batches` are always the same: they are for validation and evaluation.
"""

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from tasnet_np.errors import UserError
from tasnet_np.sound.augmentation import (
    LOWEST_CUTOFF,
    SPEED_STEPS,
    Augmentation,
    change_speed,
    coloured,
    equalised,
    low_pass,
    overload,
    reverberate,
    synthetic_noise,
    synthetic_room,
)
from tasnet_np.sound.level import LEVEL_DB, at_level, rms_db

PAUSE_DB = 30.0  # a crop whose level is so far below that of its recording is a pause
GAP_SECONDS = (0.1, 0.3)  # shortest and longest gap between the clips of an utterance
FURTHER_NOISE_DB = (-10.0, 0.0)  # lowest and highest level of each further noise, relative to the first
BABBLE_VOICES = (3, 8)  # fewest and most voices in babble
BABBLE_DB = (-6.0, 0.0)  # lowest and highest level of each of them
CLIPPED_SHARE = (0.001, 0.05)  # smallest and largest share of samples that clipping cuts off
NO_AUGMENTATION = Augmentation()
ATTEMPTS = 20  # draws for one example; where none of them can be used, the run ends


def utterance(clips, samples, rng, rate):
    """Draw clips of one speaker, join them with gaps of silence, and crop the result.

    Parameters
    ----------
    clips : list of Clip or StoredClip
        All of one speaker.
    samples : int
        Length of the utterance.
    rng : numpy.random.Generator
    rate : int
        Hz. Gaps last between 0.1 and 0.3 s.

    Returns
    -------
    ndarray, shape (samples,), float32
        It is never a pause only.
    """
    shortest, longest = (round(gap * rate) for gap in GAP_SECONDS)
    pieces, level_db = [], -np.inf
    while sum(map(len, pieces)) < samples:
        if pieces:
            pieces.append(np.zeros(rng.integers(shortest, longest + 1), np.float32))
        clip = clips[rng.integers(len(clips))]
        pieces.append(clip.draw(rng))
        level_db = max(level_db, clip.level_db)
    return _crop(np.concatenate(pieces), level_db, samples, rng)


def noise_crop(clip, samples, rng):
    """Draw a crop of a noise clip. A clip that is shorter is repeated.

    Parameters
    ----------
    clip : Clip or StoredClip
    samples : int
        Length of the crop.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray, shape (samples,), float32
        It is never a pause only.
    """
    signal = clip.draw(rng)
    if len(signal) < samples:
        start = rng.integers(len(signal))
        return np.take(signal, np.arange(start, start + samples), mode="wrap")
    return _crop(signal, clip.level_db, samples, rng)


def _crop(signal, level_db, samples, rng):
    """A random crop that is no pause; after 20 pauses, the crop around the peak."""
    last = len(signal) - samples  # the last possible start
    for _ in range(20):
        start = rng.integers(last + 1)
        crop = signal[start : start + samples]
        if rms_db(crop) > level_db - PAUSE_DB:
            return crop
    start = min(max(0, np.argmax(np.abs(signal)) - samples // 2), last)
    return signal[start : start + samples]


def mix(speech, noise, snr_db, level_db=LEVEL_DB):
    """Add noise to speech at a signal-to-noise ratio that holds for exactly these samples.

    What a corpus gives has no offset. If these have one, it counts as level.

    The noise gets the gain ``sqrt(mean(speech^2) / mean(noise^2) / 10^(snr_db / 10))``, so that
    ``10 log10(mean(speech^2) / mean(noise^2))`` is ``snr_db``. Then both get the one gain that
    brings the mixture to ``level_db``.

    Parameters
    ----------
    speech, noise : ndarray, shape (n,)
    snr_db : float
    level_db : float
        RMS level of the mixture in dBFS.

    Returns
    -------
    mixture : ndarray, shape (n,), float32
        The sum of the sources, to the bit.
    sources : ndarray, shape (2, n), float32
        Speech, noise.

    Raises
    ------
    UserError
        The shapes differ, or speech, noise or their mixture is silent or not finite.
    """
    if np.ndim(speech) != 1 or np.shape(speech) != np.shape(noise):
        shapes = f"speech {np.shape(speech)} and noise {np.shape(noise)}"
        raise UserError(f"{shapes}: give one channel each, of one length")
    sources = np.stack([speech, noise]).astype(np.float64)  # (2, n)
    speech_power, noise_power = _power("speech", sources[0]), _power("noise", sources[1])
    sources[1] *= np.sqrt(speech_power / noise_power / 10 ** (snr_db / 10))
    sources *= 10 ** (level_db / 20) / np.sqrt(_power("mixture", sources.sum(0)))
    sources = sources.astype(np.float32)
    return sources.sum(0), sources


def _power(name, signal):
    power = np.mean(np.square(signal))
    if not 0 < power < np.inf:  # NaN fails, too
        raise UserError(f"{name}: mean power {power} has no level; leave this recording out")
    return power


@dataclass(frozen=True)
class Batch:
    """Training examples: model input and targets."""

    mixture: np.ndarray  # (B, n) float32
    sources: np.ndarray  # (B, 2, n) float32: speech, noise
    snr_db: np.ndarray  # (B,) float64; +inf without noise, -inf without speech
    names: list[str]  # what each was mixed from


class Mixer:
    """Endless random mixtures of a corpus. Each depends only on the seed and on its number.

    - A mixture is the sum of its sources, unless it is clipped: clipping leaves the sources as they are.
    - For speech in a room, the source is the speech with its reverberation.
    - In an example without noise, the noise is all zeros and the mixture is the speech; without speech it is the
      other way round. The loss leaves a silent target out (`ops.si_snr`). So the network learns from such an example
      to keep the source that is there, and nothing about its other output.
    - If a recording is unreadable or silent, another one is drawn.

    Parameters
    ----------
    corpus : Corpus
    samples : int
        Length of an example.
    rate : int
        Hz.
    snr_db : (float, float)
        Lowest and highest SNR; drawn uniformly.
    seed : int
        0 or above.
    augmentation : Augmentation

    Raises
    ------
    UserError
        The SNR range is empty or not finite, the length is below 1, or the seed is negative.
    """

    def __init__(self, corpus, *, samples, rate, snr_db=(-5.0, 15.0), seed=0, augmentation=NO_AUGMENTATION):
        low, high = snr_db
        if not -np.inf < low <= high < np.inf:
            raise UserError(f"snr_db {low} to {high}: give the lower number first, both finite")
        if samples < 1 or seed < 0:
            raise UserError(f"samples {samples}, seed {seed}: give at least 1 and at least 0")
        self.corpus, self.speakers = corpus, sorted(corpus.speakers)
        self.samples, self.rate, self.snr_db, self.seed = samples, rate, (low, high), seed
        self.augmentation = augmentation

    def batch(self, step, size):
        """Make batch number `step`: every time with the same bits.

        Parameters
        ----------
        step : int
        size : int
            Examples in the batch.

        Returns
        -------
        Batch

        Raises
        ------
        UserError
            `ATTEMPTS` draws for one example gave nothing usable, as the recordings have gone.
        """
        mixtures, sources, snrs_db, names = zip(*(self._example(step, i) for i in range(size)))
        return Batch(np.stack(mixtures), np.stack(sources), np.array(snrs_db), list(names))

    def _example(self, step, i):
        rng = np.random.default_rng([self.seed, step, i])
        for _ in range(ATTEMPTS):
            try:
                as_recorded = self.corpus.pairs and _happens(self.augmentation.pairs, rng)
                mixture, sources, *about = self._recorded_pair(rng) if as_recorded else self._mixed(rng)
                sign = (
                    -1 if _happens(self.augmentation.polarity, rng) else 1
                )  # an ear does not hear it, a network does
                return sign * mixture, sign * sources, *about
            except UserError as error:
                problem = error
        raise UserError(f"{ATTEMPTS} recordings in a row cannot be used, the last one: {problem}")

    def _mixed(self, rng):
        """A mixture of recordings of speech and of noise: mixture, sources, SNR in dB and name."""
        sources, snr_db, name = self._drawn(rng)
        sources = self._varied(sources, rng)
        a = self.augmentation
        level_db = LEVEL_DB + (rng.uniform(-a.gain_db, a.gain_db) if a.gain_db else 0)
        silent = self._silent(rng)
        if silent is None:
            mixture, sources = mix(*sources, snr_db, level_db)
        else:
            mixture, sources, snr_db = _one_source_alone(sources, silent, level_db)
        if _happens(a.clipping, rng):
            mixture = overload(mixture, np.exp(rng.uniform(*np.log(CLIPPED_SHARE))))
        return mixture, sources, snr_db, f"{name} at {snr_db:+.1f} dB"

    def _drawn(self, rng):
        """Speech of one speaker and one or more noises: sources, the SNR in dB to mix them at, and name."""
        speaker = self.speakers[rng.integers(len(self.speakers))]
        noise = self.corpus.noises[rng.integers(len(self.corpus.noises))]
        snr_db = rng.uniform(*self.snr_db)
        clips = self.corpus.speakers[speaker]
        name, draw_noise = self._first_noise(noise, speaker, rng)
        sources = [
            self._at_a_speed(lambda n: utterance(clips, n, rng, self.rate), rng),
            self._at_a_speed(draw_noise, rng),
        ]
        names = [name]
        most = self.augmentation.noises
        for _ in range(rng.integers(most) if most > 1 else 0):
            further = self.corpus.noises[rng.integers(len(self.corpus.noises))]
            names.append(further.name)
            level_db = rms_db(sources[1]) + rng.uniform(*FURTHER_NOISE_DB)
            sources[1] = sources[1] + at_level(
                self._at_a_speed(lambda n: noise_crop(further, n, rng), rng), level_db
            )
        return sources, snr_db, f"{speaker} + {' + '.join(names)}"

    def _first_noise(self, clip, speaker, rng):
        """Synthetic noise, babble or a recording: its name, and a function that draws n samples of it."""
        a = self.augmentation
        if _happens(a.synthetic, rng):
            return "synthetic noise", lambda n: synthetic_noise(rng, n, self.rate)
        if len(self.speakers) > BABBLE_VOICES[0] and _happens(a.babble, rng):
            return "babble", lambda n: self._babble(speaker, n, rng)
        return clip.name, lambda n: noise_crop(clip, n, rng)

    def _babble(self, speaker, samples, rng):
        """Many voices at once, none of them the speaker's. Shape (samples,), float32."""
        fewest, most = BABBLE_VOICES
        others = [name for name in self.speakers if name != speaker]
        count = min(len(others), rng.integers(fewest, most + 1))
        total = np.zeros(samples, np.float32)
        for i in rng.choice(len(others), count, replace=False):
            voice = utterance(self.corpus.speakers[others[i]], samples, rng, self.rate)
            total += at_level(voice, rng.uniform(*BABBLE_DB))
        return total

    def _varied(self, sources, rng):
        """The sources with random colours, other levels of their frequencies, in a random room, in a random band."""
        a = self.augmentation
        if a.colour:
            sources = [coloured(source, rng.uniform(-a.colour, a.colour, 4)) for source in sources]
        for i, kind in enumerate(("speech", "noise")):
            if _happens(a.equaliser, rng):
                sources[i] = equalised(sources[i], kind, rng, self.rate)
        if _happens(a.room, rng):
            sources[0] = reverberate(sources[0], self._room(rng))
        if _happens(a.band_limit, rng):
            cutoff = rng.uniform(LOWEST_CUTOFF, 1)
            sources = [low_pass(source, cutoff) for source in sources]
        return sources

    def _at_a_speed(self, draw, rng):
        """The signal `draw(n)` at a random speed, cut to the mixer's length."""
        most = round(self.augmentation.speed * SPEED_STEPS)
        steps = SPEED_STEPS + (rng.integers(-most, most + 1) if most else 0)
        if steps == SPEED_STEPS:
            return draw(self.samples)
        return change_speed(draw(-(-self.samples * int(steps) // SPEED_STEPS)), int(steps))[: self.samples]

    def _room(self, rng):
        """A recorded room response where the corpus has some, else a synthetic one."""
        rooms = self.corpus.rooms
        return rooms[rng.integers(len(rooms))].draw(rng) if rooms else synthetic_room(rng, self.rate)

    def _silent(self, rng):
        """The source that this example lacks: 0 for speech, 1 for noise, or None."""
        a = self.augmentation
        if not a.noise_free + a.speech_free:
            return None
        draw = rng.random()
        return 1 if draw < a.noise_free else 0 if draw < a.noise_free + a.speech_free else None

    def _recorded_pair(self, rng):
        """Pairs as they were recorded: joined until they are long enough, cropped, and brought to `LEVEL_DB`."""
        pairs = self.corpus.pairs
        chosen, total = [], 0
        while total < self.samples:
            clean, noise = pairs[rng.integers(len(pairs))]
            piece = rng.integers(clean.pieces)
            chosen.append((clean.name, np.stack([clean.piece(piece), noise.piece(piece)])))
            total += chosen[-1][1].shape[1]
        sources = np.concatenate([both for _, both in chosen], axis=1)
        start = rng.integers(total - self.samples + 1)
        sources = sources[:, start : start + self.samples]
        snr_db = rms_db(sources[0]) - rms_db(sources[1])
        if not np.isfinite(snr_db):
            raise UserError(f"{chosen[0][0]}: is silent here, or has no noise")
        mixture, sources = mix(*sources, snr_db)
        return (
            mixture,
            sources,
            snr_db,
            f"{' + '.join(name for name, _ in chosen)} as recorded at {snr_db:+.1f} dB",
        )


def _happens(probability, rng):
    return probability > 0 and rng.random() < probability


def _one_source_alone(sources, silent, level_db):
    """A mixture of one source; the source number `silent` becomes zeros."""
    sources = np.stack(sources).astype(np.float32)
    sources[silent] = 0
    kept = at_level(sources[1 - silent], level_db)
    if not np.any(kept):
        raise UserError("the only source is silent")
    sources[1 - silent] = kept
    return kept.copy(), sources, np.inf if silent == 1 else -np.inf


class Prefetcher:
    """The batches of a mixer, one after another. The next ones are mixed in the background.

    The batches do not depend on `workers` or `ahead`.

    Parameters
    ----------
    mixer : Mixer
    size : int
        Examples in a batch.
    first : int
        Number of the first batch.
    ahead : int
        Batches kept ready.
    workers : int
        Threads that mix.
    """

    def __init__(self, mixer, size, *, first=0, ahead=4, workers=1):
        self.mixer, self.size = mixer, size
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="mixing")
        self._next, self._ready = first, deque()
        for _ in range(ahead):
            self._order()

    def _order(self):
        self._ready.append(self._pool.submit(self.mixer.batch, self._next, self.size))
        self._next += 1

    def next(self):
        """Wait for the next Batch and return it, or raise what `Mixer.batch` raised."""
        self._order()
        return self._ready.popleft().result()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._pool.shutdown(cancel_futures=True)


def fixed_batches(corpus, *, samples, rate, snrs_db=(-5, 0, 5, 10), per_snr=8, seed=0):
    """Make one batch for each SNR: the same batches for the same arguments.

    Parameters
    ----------
    corpus, samples, rate, seed
        As for `Mixer`.
    snrs_db : sequence of float
    per_snr : int
        Examples in each batch.

    Returns
    -------
    list of Batch
    """
    common = {"samples": samples, "rate": rate, "seed": seed, "augmentation": Augmentation(pairs=0.0)}
    mixers = [Mixer(corpus, snr_db=(snr, snr), **common) for snr in snrs_db]
    return [mixer.batch(step, per_snr) for step, mixer in enumerate(mixers)]
