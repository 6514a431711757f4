"""Recordings by speaker, read from disk when they are needed.

A corpus may be of any size. Decoded recordings are kept in a `Store`, which has a limit in bytes. A long recording
is read in pieces of at most `PIECE_SECONDS`. It is always cut at the same places: so the examples drawn from it do
not depend on what the store holds at that moment.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tasnet_np.corpus.layouts import folders
from tasnet_np.corpus.manifest import Manifest, inspect
from tasnet_np.errors import UserError
from tasnet_np.sound.audio_files import AudioFile
from tasnet_np.sound.channels import mono, signs
from tasnet_np.sound.level import rms_db, without_offset
from tasnet_np.sound.resampling import resample

PIECE_SECONDS = 30.0  # a longer recording is cut into equal pieces of at most this
ASSUMED_LEVEL_DB = -30.0  # level of a recording whose samples were not inspected
CACHE_BYTES = 1 << 30  # limit of a Store unless told otherwise


@dataclass(eq=False)
class Clip:
    """One mono recording in memory, taken as it is: an offset would count as level."""

    name: str  # its path below the folder it was loaded from, with forward slashes
    samples: np.ndarray  # (n,) float32

    def __post_init__(self):
        self.level_db = rms_db(self.samples)

    def draw(self, rng):
        """The samples that an example is cut from: here, all of them. Shape (n,)."""
        return self.samples


@dataclass(frozen=True)
class Corpus:
    """Speech clips by speaker, noise clips, room responses, and pairs (clean clip, clip of its noise)."""

    speakers: dict[str, list]
    noises: list
    rooms: list = field(default_factory=list)
    pairs: list = field(default_factory=list)


class Store:
    """Decoded recordings in memory. Where they exceed a limit, those that were not used for longest go first.

    Several threads may use one store.

    Parameters
    ----------
    limit : int
        Bytes of all recordings together.
    warn : function of a str, optional
        Called with one line for each recording that cannot be read, the first time.
    """

    def __init__(self, limit=CACHE_BYTES, warn=None):
        self.limit, self.warn = limit, warn or (lambda line: None)
        self.bytes, self._kept, self._broken = 0, OrderedDict(), {}
        self._lock = threading.Lock()

    def get(self, key, make):
        """The array for a key: the kept one, or a new one.

        Parameters
        ----------
        key : hashable
        make : function without arguments, returns an ndarray
            Called where no array is kept for the key.

        Returns
        -------
        ndarray

        Raises
        ------
        UserError
            `make` raised it, in this call or in an earlier one with this key.
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
    """One recording on disk, as mono at the sample rate of the model, and without an offset (direct current).

    Parameters
    ----------
    manifest : Manifest
    entry : Entry
        Of the manifest.
    rate : int
        Hz, of the samples that `draw` and `piece` return.
    store : Store
    noise_of_pair : bool
        For a pair: take the noisy recording less the clean one. Otherwise the clean one is taken.
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
        """Number of pieces that the recording is read in."""
        return max(1, int(np.ceil(self.entry.seconds / PIECE_SECONDS)))

    def draw(self, rng):
        """A random piece of a long recording, or all of a short one. Shape (n,), float32."""
        return self.piece(rng.integers(self.pieces) if self.pieces > 1 else 0)

    def piece(self, index):
        """Piece number `index` of the recording, mono and resampled, from the store if it is there. Shape (n,)."""
        entry = self.entry
        start, stop = (entry.frames * i // self.pieces for i in (index, index + 1))

        def make():
            samples = self._channels(start, stop)
            turned = signs(samples)
            samples = mono(samples, turned)
            if self.noise_of_pair:
                samples = mono(self._channels(start, stop, noisy=True), turned) - samples
            if entry.kind != "room":  # the mean of a response is a part of how a room sounds
                samples = without_offset(samples)
            return resample(samples, entry.rate, self.rate)

        return self.store.get((entry.folder, entry.path, self.noise_of_pair, int(index)), make)

    def _channels(self, start, stop, noisy=False):
        """Samples (channels, n) of the recording, or of its noisy partner."""
        file = AudioFile(self.manifest.path(self.entry, noisy))
        if file.rate != self.entry.rate:
            raise UserError(
                f"{file.path}: is at {file.rate} Hz, was at {self.entry.rate}; prepare the recordings anew"
            )
        return file.read_part(start, stop)


def open_corpus(manifest, part, rate, store):
    """The recordings of one part of a manifest. No file is opened yet.

    A pair counts three times: its clean recording as speech, the difference of the two as a noise, and both as a pair.

    Parameters
    ----------
    manifest : Manifest
    part : str
        "training", "validation" or "test"; None for all recordings.
    rate : int
        Hz, of the clips.
    store : Store
        Where the clips keep what they read.

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

    Each folder directly in `speech_dir` is a speaker, with all files below it. Files directly in `speech_dir`
    make one speaker called `layouts.ROOT_SPEAKER`. Every file is read once, to find those that are broken.

    Parameters
    ----------
    speech_dir, noise_dir : str or Path
        Neither may lie inside the other.
    rate : int
        Hz, of the clips.
    progress : bool
        Show a progress bar.
    cache_bytes : int
        Limit of the `Store` of the clips.

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
    found, not_audio = folders(speech_dir, noise_dir)
    folder_names, entries, unusable = inspect(found, progress=progress)
    for kind, folder in (("speech", speech_dir), ("noise", noise_dir)):
        if not any(entry.kind == kind for entry in entries):
            count = sum(one.kind == kind for one in found)
            why = next(line for line in unusable if str(Path(folder)) in line)
            raise UserError(f"{folder}: none of its {count} audio files is usable; {why}")
    corpus = open_corpus(Manifest(folder_names, entries), None, rate, Store(cache_bytes))
    return corpus, [*not_audio, *unusable]
