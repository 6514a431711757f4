"""From folders of recordings to training batches: speech and noise mixed at a known SNR."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tasnet_np.audio import find_audio, read, resample, rms_db, seconds
from tasnet_np.files import UserError

MAX_BYTES = 8 * 2**30  # the most that load_clips keeps in memory
SILENCE_DB = -90.0  # below this (dBFS), less than the last of 16 bits, a recording is silent
PAUSE_DB = 30.0  # a crop this far below its recording is a pause, not a source
GAP_SECONDS = (0.1, 0.3)  # shortest and longest gap between the clips of an utterance
ROOT_SPEAKER = "."  # speaker of the files that lie directly in the speech folder


@dataclass(eq=False)
class Clip:
    """One mono recording in memory."""

    name: str  # its path below the folder it was loaded from, with forward slashes
    samples: np.ndarray  # (n,) float32

    def __post_init__(self):
        self.level_db = rms_db(self.samples)


@dataclass(frozen=True)
class Corpus:
    """Speech clips by speaker, and noise clips."""

    speakers: dict[str, list[Clip]]
    noises: list[Clip]


def load_clips(folder, rate, *, progress=False):
    """Read every audio file below a folder as a mono clip at one sample rate.

    Channels are averaged. Everything is kept in memory, 4 bytes per sample: an hour at 8 kHz takes
    115 MB. More than ``MAX_BYTES``, by the lengths in the headers, is refused before reading.

    Parameters
    ----------
    folder : str or Path
    rate : int
        Sample rate of the clips in Hz.
    progress : bool
        Show a progress bar.

    Returns
    -------
    clips : list of Clip
        Sorted by path.
    problems : list of str
        One line for each broken or silent file, and one for all that are not audio; all skipped.

    Raises
    ------
    UserError
        The folder is missing, has no usable audio file, or holds more than fits.
    """
    folder = Path(folder)
    paths, others = find_audio(folder)
    _check_memory(folder, paths, rate)
    clips, problems = [], []
    if others:
        problems.append(f"skipped {len(others)} non-audio files in {folder}, like {others[0].name}")
    for path in tqdm(paths, desc=f"reading {folder}", unit="file", disable=not progress):
        try:
            clips.append(_load_clip(path, folder, rate))
        except UserError as error:
            problems.append(f"skipped {error}")
    if not clips:
        raise UserError(f"{folder}: none of its {len(paths)} audio files is usable; {problems[-1]}")
    return clips, problems


def _check_memory(folder, paths, rate):
    needed = 4 * rate * sum(seconds(path) for path in paths)
    if needed > MAX_BYTES:
        found = f"{needed / 2**30:.3g} GiB of samples at {rate} Hz"
        raise UserError(f"{folder}: {found}, more than {MAX_BYTES / 2**30:.3g}; use fewer files")


def _load_clip(path, folder, rate):
    recording = read(path)
    mono = recording.samples.mean(axis=0)  # (n,)
    clip = Clip(path.relative_to(folder).as_posix(), resample(mono, recording.rate, rate))
    if clip.level_db < SILENCE_DB:
        raise UserError(f"{path}: is silent ({clip.level_db:.0f} dBFS); remove or replace it")
    return clip


def load_corpus(speech_dir, noise_dir, rate, *, progress=False):
    """Load speech, sorted into speakers, and noise.

    A speaker is a folder directly in ``speech_dir``, whatever lies below it. Files directly in
    ``speech_dir`` make one speaker called ``ROOT_SPEAKER``.

    Parameters
    ----------
    speech_dir, noise_dir : str or Path
        Neither may lie inside the other.
    rate, progress
        As in `load_clips`, whose limit holds for each of the two folders.

    Returns
    -------
    corpus : Corpus
    problems : list of str
        Files that were skipped, one line each.

    Raises
    ------
    UserError
        As `load_clips`, or one folder lies inside the other.
    """
    speech, noise = Path(speech_dir).resolve(), Path(noise_dir).resolve()
    if speech.is_relative_to(noise) or noise.is_relative_to(speech):
        raise UserError(f"{noise_dir}: overlaps the speech folder {speech_dir}; keep them apart")
    clips, speech_problems = load_clips(speech_dir, rate, progress=progress)
    noises, noise_problems = load_clips(noise_dir, rate, progress=progress)
    speakers = {}
    for clip in clips:
        speaker, slash, _ = clip.name.partition("/")
        speakers.setdefault(speaker if slash else ROOT_SPEAKER, []).append(clip)
    return Corpus(speakers, noises), speech_problems + noise_problems


def split(corpus, *, seed, hold_out=(), share=0.2):
    """Part a corpus into training and validation without sharing a speaker or a noise recording.

    A single speaker cannot be parted from itself: then its clips are.

    Parameters
    ----------
    corpus : Corpus
    seed : int
        The same seed gives the same split.
    hold_out : sequence of str
        The speakers to validate on. By default a random ``share`` of them.
    share : float
        Share of the speakers and of the noises held out, between 0 and 1; at least one of each.

    Returns
    -------
    train, validation : Corpus

    Raises
    ------
    UserError
        An unknown speaker in ``hold_out``, a share or seed out of range, or too few speakers,
        clips or noises for two sides.
    """
    if not 0 < share < 1 or seed < 0:
        raise UserError(f"share {share}, seed {seed}: give between 0 and 1, and at least 0")
    rng = np.random.default_rng(seed)
    train_noises, held_noises = _part("noise recordings", corpus.noises, share, rng)
    names = sorted(corpus.speakers)
    if hold_out:
        train_names = [name for name in names if name not in hold_out]
        held_names = [name for name in names if name in hold_out]
        if not train_names or len(held_names) < len(set(hold_out)):
            asked, known = ", ".join(hold_out), ", ".join(names)
            raise UserError(f"hold_out {asked}: name some, but not all, of the speakers {known}")
    elif len(names) == 1:
        clips, held_clips = _part("speech clips", corpus.speakers[names[0]], share, rng)
        return Corpus({names[0]: clips}, train_noises), Corpus({names[0]: held_clips}, held_noises)
    else:
        train_names, held_names = _part("speakers", names, share, rng)
    train = {name: corpus.speakers[name] for name in train_names}
    held = {name: corpus.speakers[name] for name in held_names}
    return Corpus(train, train_noises), Corpus(held, held_noises)


def _part(what, items, share, rng):
    """Hold out a random share of the items; both sides keep the order and get at least one."""
    if len(items) < 2:
        raise UserError(f"{what}: {len(items)} found; at least 2 are needed, one for validation")
    count = min(max(1, round(share * len(items))), len(items) - 1)
    held = set(rng.permutation(len(items))[:count].tolist())
    kept = [item for i, item in enumerate(items) if i not in held]
    return kept, [items[i] for i in sorted(held)]


def utterance(clips, samples, rng, rate):
    """Random clips of one speaker, joined by gaps of silence and cropped.

    Parameters
    ----------
    clips : list of Clip
        All of one speaker.
    samples : int
        Length of the utterance.
    rng : numpy.random.Generator
    rate : int
        Hz; the gaps are between 0.1 and 0.3 s.

    Returns
    -------
    ndarray, shape (samples,), float32
        Never a pause only.
    """
    shortest, longest = (round(gap * rate) for gap in GAP_SECONDS)
    clip = clips[rng.integers(len(clips))]
    pieces, total, level_db = [clip.samples], len(clip.samples), clip.level_db
    while total < samples:
        gap = np.zeros(rng.integers(shortest, longest + 1), np.float32)
        clip = clips[rng.integers(len(clips))]
        pieces += [gap, clip.samples]
        total += len(gap) + len(clip.samples)
        level_db = max(level_db, clip.level_db)
    return _crop(np.concatenate(pieces), level_db, samples, rng)


def noise_crop(clip, samples, rng):
    """Random crop of a noise clip, never a pause only. A shorter clip goes round and round.

    Parameters
    ----------
    clip : Clip
    samples : int
    rng : numpy.random.Generator

    Returns
    -------
    ndarray, shape (samples,), float32
    """
    length = len(clip.samples)
    if length < samples:
        start = rng.integers(length)
        return np.take(clip.samples, np.arange(start, start + samples), mode="wrap")
    return _crop(clip.samples, clip.level_db, samples, rng)


def _crop(signal, level_db, samples, rng):
    """Random crop, drawn again while it is a pause; in the end the one around the peak."""
    last = len(signal) - samples  # the last possible start
    for _ in range(20):
        start = rng.integers(last + 1)
        crop = signal[start : start + samples]
        if rms_db(crop) > level_db - PAUSE_DB:
            return crop
    start = min(max(0, np.argmax(np.abs(signal)) - samples // 2), last)
    return signal[start : start + samples]


def mix(speech, noise, snr_db, level_db=-25.0):
    """Add noise to speech at a signal-to-noise ratio that holds for exactly these samples.

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
    snr_db: np.ndarray  # (B,) float64
    names: list[str]  # what each was mixed from


class Mixer:
    """Endless random mixtures of a corpus. Each is a function of the seed and its number alone.

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

    Raises
    ------
    UserError
        The SNR range, the length or the seed makes no sense.
    """

    def __init__(self, corpus, *, samples, rate, snr_db=(-5.0, 15.0), seed=0):
        low, high = snr_db
        if not -np.inf < low <= high < np.inf:
            raise UserError(f"snr_db {low} to {high}: give the lower number first, both finite")
        if samples < 1 or seed < 0:
            raise UserError(f"samples {samples}, seed {seed}: give at least 1 and at least 0")
        self.corpus, self.speakers = corpus, sorted(corpus.speakers)
        self.samples, self.rate, self.snr_db, self.seed = samples, rate, (low, high), seed

    def batch(self, step, size):
        """Batch number ``step``, of ``size`` examples: the same bits whenever it is asked for.

        Returns
        -------
        Batch
        """
        mixtures, sources, snrs_db, names = zip(*(self._example(step, i) for i in range(size)))
        return Batch(np.stack(mixtures), np.stack(sources), np.array(snrs_db), list(names))

    def _example(self, step, i):
        rng = np.random.default_rng([self.seed, step, i])
        speaker = self.speakers[rng.integers(len(self.speakers))]
        noise = self.corpus.noises[rng.integers(len(self.corpus.noises))]
        snr_db = rng.uniform(*self.snr_db)
        speech = utterance(self.corpus.speakers[speaker], self.samples, rng, self.rate)
        mixture, sources = mix(speech, noise_crop(noise, self.samples, rng), snr_db)
        return mixture, sources, snr_db, f"{speaker} + {noise.name} at {snr_db:+.1f} dB"


def fixed_batches(corpus, *, samples, rate, snrs_db=(-5, 0, 5, 10), per_snr=8, seed=0):
    """One batch for each SNR, the same for the same arguments: for validation and `evaluate`.

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
    return [
        Mixer(corpus, samples=samples, rate=rate, snr_db=(snr, snr), seed=seed).batch(step, per_snr)
        for step, snr in enumerate(snrs_db)
    ]
