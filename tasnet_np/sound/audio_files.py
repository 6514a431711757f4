"""Audio files: reading them whole or in blocks, writing them, finding them in folders.

Samples are float32 with time last, shape (channels, n), and full scale is 1. Every format is read and written by
libsndfile (package soundfile).
"""

import contextlib
import io
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf

from tasnet_np.errors import UserError
from tasnet_np.safe_files import atomic_path
from tasnet_np.sound.resampling import check_rate

FORMATS = {  # suffix: format and subtype that `write` uses; `read` goes by the contents of the file
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".oga": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".aif": ("AIFF", "PCM_16"),
    ".aiff": ("AIFF", "PCM_16"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}
FORMATS = {suffix: how for suffix, how in FORMATS.items() if how[0] in sf.available_formats()}

UNLIMITED = ("FLOAT", "DOUBLE", "VORBIS", "OPUS", "MPEG_LAYER_III")  # subtypes that can exceed 1
BLOCK = 1 << 16  # frames per call: libsndfile crashes on minutes of Vorbis written at once
PLACEHOLDER_SIZE = (
    0x7FFFF000  # bytes: a program that writes into a pipe gives this size or a larger one for a chunk
)
LARGEST_WAV = (1 << 32) - 1  # bytes
UNKNOWN_LENGTH = (1 << 63) - 1  # libsndfile's frame count where the header gives none


@dataclass(frozen=True)
class Recording:
    """The contents of an audio file, and what is needed to write another one like it."""

    samples: np.ndarray  # (channels, n) float32, full scale is 1
    rate: int  # samples per second
    format: str  # in libsndfile's words: "WAV", "FLAC", "OGG", ...
    subtype: str  # "PCM_16", "FLOAT", "VORBIS", ...
    path: Path


def read(path):
    """Read a whole audio file of any format that libsndfile knows.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    Recording

    Raises
    ------
    UserError
        The file is missing, not readable, not audio, has no samples, has NaN or infinite samples,
        has a sample rate of 0, or is shorter than its header says (WAV, AIFF, FLAC and MP3; an Ogg
        header gives no length).
    """
    file = AudioFile(path)
    samples = np.concatenate(list(file), axis=1)  # (channels, n)
    check_finite(file.path, samples)
    return Recording(samples, file.rate, file.format, file.subtype, file.path)


class AudioFile:
    """An audio file that is read block by block. Each iteration reads it from its beginning.

    An iteration yields arrays (channels, n) of float32 with at most `BLOCK` frames. Their samples may be NaN or
    infinite.

    Parameters
    ----------
    path : str or Path
    header : bool
        Read the header at once. Otherwise the file is opened by the first iteration, and the attributes below are
        known from then on.

    Attributes
    ----------
    path : Path
    rate : int
        Samples per second.
    channels : int
    frames : int
        Samples of each channel according to the header; `UNKNOWN_LENGTH` where it does not say.
    format, subtype : str
        In libsndfile's words.

    Raises
    ------
    UserError
        When the header is read, or at the end of an iteration, for the reasons that `read` names.
    """

    def __init__(self, path, *, header=True):
        self.path = Path(path)
        if header:
            with self._opened():
                pass

    def __iter__(self):
        frames = 0
        with self._opened() as opened:
            while len(block := opened.read(BLOCK, "float32", always_2d=True)):  # (n, channels)
                frames += len(block)
                yield np.ascontiguousarray(block.T)
            promised = opened.frames
        if frames == 0:
            raise UserError(f"{self.path}: holds 0 samples; record or export it again")
        if frames < promised:
            raise UserError(f"{self.path}: is truncated ({frames} of {promised} samples); copy it again")

    @contextlib.contextmanager
    def _opened(self):
        """The file opened by libsndfile; sets the attributes that the header gives."""
        path = self.path
        try:
            _check_header(path)
            with sf.SoundFile(_libsndfile_name(path)) as opened:
                self.rate, self.channels, self.frames = opened.samplerate, opened.channels, opened.frames
                self.format, self.subtype = opened.format, opened.subtype
                yield opened
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error
        except (sf.SoundFileError, TypeError) as error:  # TypeError: a suffix of headerless files
            reason = getattr(error, "error_string", error)
            raise UserError(f"{path}: not readable as audio ({reason}); convert it to WAV") from error

    def read_part(self, start, stop):
        """The samples from frame `start` to frame `stop`, without reading those before.

        Parameters
        ----------
        start, stop : int

        Returns
        -------
        ndarray, shape (channels, stop - start), float32

        Raises
        ------
        UserError
            The file ends before `stop`, or the samples are not finite.
        """
        with self._opened() as opened:
            opened.seek(min(start, opened.frames))
            samples = np.ascontiguousarray(opened.read(stop - start, "float32", always_2d=True).T)
        if samples.shape[1] < stop - start:
            found = f"ends at sample {start + samples.shape[1]}, expected at least {stop}"
            raise UserError(f"{self.path}: {found}; it has changed: prepare the recordings anew")
        check_finite(self.path, samples)
        return samples


def _libsndfile_name(path):
    """A path as its bytes: soundfile refuses a name that is not UTF-8. On Windows all names are text."""
    return str(path) if os.name == "nt" else os.fsencode(path)


def _check_header(path):
    """Refuse what libsndfile would mend silently or not explain: a wrong length, a rate of 0."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise UserError(f"{path}: is not a file; give the path of an audio file")
    with open(path, "rb") as opened:
        end = os.fstat(opened.fileno()).st_size
        if end == 0:
            raise UserError(f"{path}: is empty (0 bytes); copy or download it again")
        layouts = {b"RIFF": ("little", b"data"), b"FORM": ("big", b"SSND")}  # WAV, AIFF
        order, audio = layouts.get(opened.read(12)[:4], (None, None))
        while order and len(header := opened.read(8)) == 8:  # one chunk: name, size, contents
            name, size, start = header[:4], int.from_bytes(header[4:], order), opened.tell()
            if name == b"fmt " and opened.read(8)[4:] == bytes(4):
                raise UserError(f"{path}: has a sample rate of 0; export it again")
            if name == audio:
                if end - start < size < PLACEHOLDER_SIZE:
                    found = f"{end - start} of {size} bytes of samples"
                    raise UserError(f"{path}: is truncated ({found}); copy it again")
                return
            opened.seek(start + size + size % 2)  # chunks start at even places


def seconds_by_header(path):
    """Length of an audio file in seconds by its header alone; 0 where that cannot be told."""
    try:
        info = sf.info(_libsndfile_name(path))
    except (sf.SoundFileError, TypeError):
        return 0.0
    return 0.0 if info.frames == UNKNOWN_LENGTH else info.frames / info.samplerate


def write(path, samples, rate, *, format=None, subtype=None):
    """Write an audio file, whole or not at all.

    Parameters
    ----------
    path : str or Path
    samples : ndarray, shape (channels, n) or (n,), float32 or float64
        Full scale is 1. Only the subtypes in `UNLIMITED` can hold more.
    rate : int
        Samples per second.
    format, subtype : str, optional
        In libsndfile's words, as in `Recording`. By default the path's suffix decides.

    Raises
    ------
    UserError
        The samples have a wrong shape or dtype, are not finite or would clip, the format cannot
        hold them, the rate is not above 0, or the file cannot be written.
    """
    path = Path(path)
    format, subtype = _encoding(path, format, subtype)
    samples = np.asarray(samples)
    _check_samples(path, samples, subtype)
    check_rate(path, rate)
    frames = np.atleast_2d(samples).T  # (n, channels)

    encoded = io.BytesIO()  # in memory: a file appears only after everything was encoded
    try:
        with sf.SoundFile(encoded, "w", rate, frames.shape[1], subtype, format=format) as opened:
            for start in range(0, len(frames), BLOCK):
                opened.write(frames[start : start + BLOCK])
    except (sf.SoundFileError, ValueError) as error:
        what = f"{frames.shape[1]} channels at {rate} Hz do not fit {format} {subtype}"
        raise UserError(f"{path}: {what} ({error}); write a WAV file") from error
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded.getbuffer())


def write_blocks(path, blocks, rate, channels, *, format, subtype):
    """Write an audio file block by block, whole or not at all.

    Parameters
    ----------
    path : str or Path
    blocks : iterable of ndarray, shape (channels, n)
        The samples are not checked: they must be finite and fit the subtype.
    rate : int
        Samples per second.
    channels : int
    format, subtype : str
        In libsndfile's words, as in `Recording`.

    Raises
    ------
    UserError
        The file cannot be written, or is larger than its format can be.
    """
    with atomic_path(path) as temporary, open(temporary, "r+b", buffering=0) as opened:
        file = _Noting(opened)
        try:
            with sf.SoundFile(file, "w", rate, channels, subtype, format=format) as sound:
                for block in blocks:
                    sound.write(block.T)
        except (sf.SoundFileError, ValueError, AssertionError) as error:
            file.check()
            reason = getattr(error, "error_string", error)
            raise UserError(f"{path}: cannot be written ({reason}); write a WAV or FLAC file") from error
        file.check()
        if format == "WAV" and temporary.stat().st_size > LARGEST_WAV:
            raise UserError(f"{path}: would be larger than a WAV file can be; give a name in .flac")


class _Noting:
    """A file for libsndfile to write to. libsndfile overlooks some errors, such as a full disk at the very end.

    Parameters
    ----------
    file : binary file without a buffer
    """

    def __init__(self, file):
        self.seek, self.tell = file.seek, file.tell
        self._file, self._error = file, None

    def write(self, data):
        """Write all of the data; return how many bytes that were."""
        done = 0
        try:
            while done < len(data):
                done += self._file.write(data[done:])
        except OSError as error:
            self._error = self._error or error
        return done

    def check(self):
        """Raise the first OSError of a write."""
        if self._error:
            raise self._error


def _encoding(path, format, subtype):
    """Format and subtype to write: those asked for, else those that the suffix stands for."""
    if format is not None:
        if format not in sf.available_formats():
            raise UserError(f"{path}: format {format!r} is not known; try WAV, FLAC or OGG")
        return format, subtype or sf.default_subtype(format)
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"{path}: suffix {path.suffix!r} is not one of {', '.join(FORMATS)}")
    format, default = FORMATS[path.suffix.lower()]
    return format, subtype or default


def _check_samples(path, samples, subtype):
    """Refuse arrays that an audio file of this subtype cannot hold as they are."""
    if samples.dtype not in (np.float32, np.float64):
        raise UserError(f"{path}: samples are {samples.dtype}; convert to float32 between -1 and 1")
    if samples.ndim not in (1, 2) or samples.size == 0:
        raise UserError(f"{path}: samples have shape {samples.shape}; give (channels, n) or (n,)")
    check_finite(path, samples)
    peak = np.abs(samples).max()
    if peak > 1 and subtype not in UNLIMITED:
        raise UserError(f"{path}: peak {peak:.4g} clips in {subtype}; scale to 1 or write FLOAT")
    if subtype == "VORBIS" and samples.ndim == 2 and len(samples) > 255:  # libsndfile crashes
        raise UserError(f"{path}: {len(samples)} channels; Vorbis holds 255, write a WAV file")


def check_finite(path, samples):
    """Refuse NaN and infinity."""
    bad = samples.size - np.count_nonzero(np.isfinite(samples))
    if bad:
        raise UserError(f"{path}: {bad} of {samples.size} samples are NaN or infinite; mend them")


def find_audio(folder):
    """List the files below a folder, by suffix.

    Hidden files and folders are left out; links to folders are not followed.

    Parameters
    ----------
    folder : str or Path

    Returns
    -------
    audio_paths, other_paths : list of Path
        Sorted. Those with a suffix of `FORMATS`, and the rest.

    Raises
    ------
    UserError
        The folder is missing, is not a folder, cannot be listed, or has no audio files.
    """
    folder = Path(folder)
    if not folder.is_dir():
        found = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"{folder}: {found}; give a folder of audio files")

    def refuse(error):
        raise UserError(f"{error.filename}: cannot be listed ({error.strerror}); check permissions")

    paths = []
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths += [Path(parent, name) for name in names if not name.startswith(".")]
    audio_paths = sorted(path for path in paths if path.suffix.lower() in FORMATS)
    other_paths = sorted(path for path in paths if path.suffix.lower() not in FORMATS)
    if not audio_paths:
        raise UserError(f"{folder}: no audio in {len(paths)} files; add {', '.join(FORMATS)}")
    return audio_paths, other_paths
