"""Recordings by speaker, read from disk when they are needed.

A corpus may be of any size: what was decoded is kept in a `Store`, which holds no more than it is told to. A long
recording is read in pieces of at most `PIECE_SECONDS`, always cut at the same places, so that what is drawn from
it does not depend on what the store happens to hold.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tasnet_np.audio_files import AudioFile
from tasnet_np.errors import UserError
from tasnet_np.layouts import folders
from tasnet_np.level import rms_db
from tasnet_np.manifest import inspect, part_items, part_names
from tasnet_np.resampling import resample

PIECE_SECONDS = 30.0  # a longer recording is cut into equal pieces of at most this
ASSUMED_LEVEL_DB = -30.0  # of a recording whose samples were not inspected
CACHE_BYTES = 1 << 30  # what a Store holds unless told otherwise


@dataclass(eq=False)
class Clip:
    """One mono recording in memory."""

    name: str  # its path below the folder it was loaded from, with forward slashes
    samples: np.ndarray  # (n,) float32

    def __post_init__(self):
        self.level_db = rms_db(self.samples)

    def part(self, rng):
        """What an example is cut from: here, all of it. Shape (n,)."""
        return self.samples


@dataclass(frozen=True)
class Corpus:
    """Speech clips by speaker, noise clips, room responses, and pairs (clean clip, clip of its noise)."""

    speakers: dict[str, list]
    noises: list
    rooms: list = field(default_factory=list)
    pairs: list = field(default_factory=list)


class Store:
    """Decoded recordings in memory, at most `limit` bytes of them. Those not used for longest go first.

    Safe to use from several threads.

    Parameters
    ----------
    limit : int
        Bytes.
    warn : function of a str, optional
        Told once about every recording that could not be read.
    """

    def __init__(self, limit=CACHE_BYTES, warn=None):
        self.limit, self.warn = limit, warn or (lambda line: None)
        self.bytes, self._kept, self._broken = 0, OrderedDict(), {}
        self._lock = threading.Lock()

    def get(self, key, make):
        """The array for a key: the one kept, or what `make` returns.

        Raises
        ------
        UserError
            What `make` raised, now or before.
        """
        with self._lock:
            if key in self._broken:
                raise UserError(self._broken[key])
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        try:
            array = make()
        except UserError as error:
            self._remember_broken(key, str(error))
            raise
        with self._lock:
            if key not in self._kept and array.nbytes <= self.limit:
                self._kept[key] = array
                self.bytes += array.nbytes
            while self.bytes > self.limit:
                self.bytes -= self._kept.popitem(last=False)[1].nbytes
        return array

    def _remember_broken(self, key, problem):
        with self._lock:
            new = key not in self._broken
            self._broken[key] = problem
        if new:
            self.warn(f"skipped {problem}")


class StoredClip:
    """One recording on disk, as mono at the sample rate of the model.

    Parameters
    ----------
    manifest : Manifest
    entry : Entry
        Of the manifest.
    rate : int
        Hz, of what `part` returns.
    store : Store
    noise_of_pair : bool
        For a pair: the noisy recording less the clean one, instead of the clean one.
    """

    __slots__ = ("name", "level_db", "manifest", "entry", "rate", "store", "noise_of_pair")

    def __init__(self, manifest, entry, rate, store, noise_of_pair=False):
        self.manifest, self.entry, self.rate, self.store = manifest, entry, rate, store
        self.noise_of_pair = noise_of_pair
        self.name = entry.noisy if noise_of_pair else entry.path
        known = entry.level_db is not None and not noise_of_pair
        self.level_db = entry.level_db if known else ASSUMED_LEVEL_DB

    @property
    def pieces(self):
        return max(1, int(np.ceil(self.entry.seconds / PIECE_SECONDS)))

    def part(self, rng):
        """A random piece of a long recording, or all of a short one. Shape (n,), float32."""
        return self.piece(rng.integers(self.pieces) if self.pieces > 1 else 0)

    def piece(self, index):
        """One of the `pieces`, decoded, made mono and resampled, from the store where it is kept there."""
        entry = self.entry
        start, stop = (entry.frames * i // self.pieces for i in (index, index + 1))

        def make():
            samples = self._mono(False, start, stop)
            if self.noise_of_pair:
                samples = self._mono(True, start, stop) - samples
            return resample(samples, entry.rate, self.rate)

        return self.store.get((entry.folder, entry.path, self.noise_of_pair, int(index)), make)

    def _mono(self, noisy, start, stop):
        file = AudioFile(self.manifest.path(self.entry, noisy))
        if file.rate != self.entry.rate:
            raise UserError(f"{file.path}: is at {file.rate} Hz, was at {self.entry.rate}; prepare the recordings anew")
        return file.part(start, stop).mean(axis=0)  # (n,)


def open_corpus(manifest, part, rate, store):
    """The recordings of one part of a manifest. None is read yet.

    The noise of a pair counts as a noise recording of its own, and its clean side as speech.

    Parameters
    ----------
    manifest : Manifest
    part : str
        "training", "validation" or "test"; None for all recordings.
    rate : int
        Hz, of the clips.
    store : Store

    Returns
    -------
    Corpus

    Raises
    ------
    UserError
        The part has no speech or no noise.
    """
    speakers, noises, rooms, pairs = {}, [], [], []
    for entry in manifest.entries if part is None else manifest.part(part):
        clip = StoredClip(manifest, entry, rate, store)
        if entry.kind in ("speech", "pair"):
            speakers.setdefault(entry.speaker, []).append(clip)
        if entry.kind == "noise":
            noises.append(clip)
        if entry.kind == "room":
            rooms.append(clip)
        if entry.kind == "pair":
            noises.append(StoredClip(manifest, entry, rate, store, noise_of_pair=True))
            pairs.append((clip, noises[-1]))
    if not speakers or not noises:
        missing = "noise" if speakers else "speech"
        raise UserError(f"{part or 'corpus'} part: has no {missing}; prepare a manifest with both")
    return Corpus(speakers, noises, rooms, pairs)


def load_corpus(speech_dir, noise_dir, rate, *, progress=False, cache_bytes=CACHE_BYTES):
    """All speech of one folder, sorted into speakers, and all noise of another.

    A speaker is a folder directly in ``speech_dir``, whatever lies below it. Files directly in ``speech_dir``
    make one speaker called ``layouts.ROOT_SPEAKER``. Every file is read once, to find those that are broken.

    Parameters
    ----------
    speech_dir, noise_dir : str or Path
        Neither may lie inside the other.
    rate : int
        Hz, of the clips.
    progress : bool
        Show a progress bar.
    cache_bytes : int
        The most memory to use for samples.

    Returns
    -------
    corpus : Corpus
    problems : list of str
        Files that were skipped, one line each.

    Raises
    ------
    UserError
        A folder is missing or has no usable audio file, or one lies inside the other.
    """
    from tasnet_np.manifest import Manifest

    found, problems = folders(speech_dir, noise_dir)
    places, entries, more = inspect(found, progress=progress)
    for kind, folder in (("speech", speech_dir), ("noise", noise_dir)):
        if not any(entry.kind == kind for entry in entries):
            files = [one for one in found if one.kind == kind]
            why = next(line for line in more if str(Path(folder)) in line)
            raise UserError(f"{folder}: none of its {len(files)} audio files is usable; {why}")
    return open_corpus(Manifest(places, entries), None, rate, Store(cache_bytes)), [*problems, *more]


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
    train_noises, held_noises = part_items("noise recordings", corpus.noises, share, rng)
    names = sorted(corpus.speakers)
    held_names = part_names(names, share, rng, hold_out)
    if held_names is None:
        clips, held_clips = part_items("speech clips", corpus.speakers[names[0]], share, rng)
        return Corpus({names[0]: clips}, train_noises), Corpus({names[0]: held_clips}, held_noises)
    train = {name: corpus.speakers[name] for name in names if name not in held_names}
    held = {name: corpus.speakers[name] for name in names if name in held_names}
    return Corpus(train, train_noises), Corpus(held, held_noises)
