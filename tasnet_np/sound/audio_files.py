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

from tasnet_np.containers.opening import open_part, parts_of
from tasnet_np.containers.parts import ENDLESS
from tasnet_np.containers.streams import flac_up_to
from tasnet_np.errors import UserError
from tasnet_np.safe_files import atomic_path
from tasnet_np.sound.bad_samples import check_finite
from tasnet_np.sound.channels import check_channels_first
from tasnet_np.sound.resampling import check_rate, check_sound_rate

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
LARGEST_WAV = (1 << 32) - 1  # bytes
MP3_MEMORY = 32 * 1152  # frames that an MP3 decoder needs before those that it is to decode rightly
UNKNOWN_LENGTH = (1 << 63) - 1  # libsndfile's frame count where the header gives none


@dataclass(frozen=True)
class Recording:
    """The contents of an audio file, and what is needed to write another one like it."""

    samples: np.ndarray  # (channels, n) float32, full scale is 1
    rate: int  # samples per second
    format: str  # in libsndfile's words: "WAV", "FLAC", "OGG", ...
    subtype: str  # "PCM_16", "FLOAT", "VORBIS", ...
    path: Path
    note: str = ""  # what is strange about the file, as of `AudioFile`


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
        The file is missing, not readable, not audio, has no samples, has bad samples (`bad_samples`), has a sample
        rate that no sound has, is shorter than its header says, or ends within a page (Ogg).
    """
    file = AudioFile(path, header=False)
    samples = np.concatenate(list(file), axis=1)  # (channels, n)
    check_finite(file.path, samples)
    return Recording(samples, file.rate, file.format, file.subtype, file.path, file.note)


class AudioFile:
    """An audio file that is read block by block. Each iteration reads it from its beginning.

    An iteration yields arrays (channels, n) of float32 with at most `BLOCK` frames. Their samples may be bad, see
    `bad_samples`. All samples that are there are read, whatever length the header gives, and so are several files or
    Ogg streams that were put one after the other.

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
    note : str
        After an iteration: what is strange about the file, if there is more in it than its header promises.

    Raises
    ------
    UserError
        When the header is read, or at the end of an iteration, for the reasons that `read` names.
    """

    def __init__(self, path, *, header=True):
        self.path, self.note = Path(path), ""
        if header:
            promised, parts = [], self._parts()
            for part in parts:
                with self._opened(part, part is parts[0]) as opened:
                    promised.append(_promised(opened, part))
            self.frames = sum(promised) if all(promised) else UNKNOWN_LENGTH

    def __iter__(self):
        return (block for _, block in self._blocks())

    def read_part(self, start, stop):
        """The samples from frame `start` to frame `stop`, without reading those before where that is possible.

        Parameters
        ----------
        start, stop : int

        Returns
        -------
        ndarray, shape (channels, stop - start), float32

        Raises
        ------
        UserError
            The file ends before `stop`, or some of the samples are bad.
        """
        samples = self._sought(start, stop)
        if samples is None:
            samples = self._passed(start, stop)
        if samples.shape[1] < stop - start:
            found = f"ends at sample {start + samples.shape[1]}, expected at least {stop}"
            raise UserError(f"{self.path}: {found}; it has changed: prepare the recordings anew")
        check_finite(self.path, samples, start)
        return samples

    def _sought(self, start, stop):
        """The samples of a part of the file, after a seek; None where the file cannot be read so."""
        part, *others = self._parts()
        if others:
            return None
        last = part.frames if part and part.surplus == ENDLESS else stop
        part = flac_up_to(part, stop) if part and part.is_flac else part
        with self._opened(part, True) as opened:
            begin = max(0, start - MP3_MEMORY) if opened.format == "MP3" else start
            if part and part.last_seek is not None:
                begin = min(begin, part.last_seek)
            try:
                opened.seek(begin)
                samples = opened.read(max(0, min(stop, last) - begin), "float32", always_2d=True)[
                    start - begin :
                ]
            except sf.SoundFileError:
                return None
        return np.ascontiguousarray(samples.T) if len(samples) == stop - start else None

    def _passed(self, start, stop):
        """The same, after all blocks before; fewer samples where the file ends before."""
        pieces = [np.zeros((self.channels, 0), np.float32)]
        for place, block in self._blocks(start):
            pieces.append(block[:, max(0, start - place) : max(0, stop - place)])
            if place + block.shape[1] >= stop:
                break
        return np.concatenate(pieces, axis=1)

    def _blocks(self, start=0):
        """Yield the place and the samples of each block, but leave out parts that lie before `start`."""
        frames, parts = 0, self._parts(joined=True)
        for part in parts:
            if part and part.surplus == ENDLESS and frames + part.frames <= start:
                frames += part.frames
                continue
            with self._opened(part, part is parts[0]) as opened:
                for block in self._blocks_of(opened, part):
                    yield frames, np.ascontiguousarray(block.T)
                    frames += len(block)
        self.frames = frames
        if frames == 0:
            raise UserError(f"{self.path}: holds 0 samples; record or export it again")

    def _blocks_of(self, opened, part):
        """Yield the blocks (n, channels) of one part, and hold their number against the promised one."""
        promised, surplus, frames = _promised(opened, part), part.surplus if part else 0, 0
        while frames < promised:
            block = self._read(opened, min(BLOCK, promised - frames), frames, promised)
            if not len(block):
                raise self._ends_early(frames, promised, "nothing follows")
            yield block
            frames += len(block)
        if surplus == ENDLESS:
            return
        try:
            block = self._read(opened, int(surplus) + 1 if promised else BLOCK, frames, promised)
        except UserError:
            if not promised:
                raise
            self.note = self.note or "bytes follow its samples that are no sound; they were left out"
            return
        if promised and len(block) <= surplus:
            return
        if promised:
            self.note = (
                self.note or f"has more than the {promised} samples that its header promises; all were taken"
            )
        while len(block):
            yield block
            frames += len(block)
            block = self._read(opened, BLOCK, frames, promised)

    def _read(self, opened, count, frames, promised):
        """The next frames (n, channels) of an opened part, after so many of it."""
        try:
            return opened.read(count, "float32", always_2d=True)
        except sf.SoundFileError as error:
            raise self._ends_early(frames, promised, _reason(error)) from error

    def _ends_early(self, frames, promised, reason):
        """The error of a part that cannot be read after so many of the promised frames."""
        place = f"sample {frames} of {promised}" if promised else f"sample {frames}"
        found = f"is truncated, or not readable as audio somewhere after {place} ({reason})"
        return UserError(f"{self.path}: {found}; copy it again")

    def _parts(self, joined=False):
        """The parts that libsndfile reads one after the other; None for all of a file of another kind."""
        try:
            status = self.path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise UserError(f"{self.path}: is not a file; give the path of an audio file")
            if status.st_size == 0:
                raise UserError(f"{self.path}: is empty (0 bytes); copy or download it again")
            parts = parts_of(self.path, joined=joined) or [None]
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror}); check the path") from error
        self.note = next((part.note for part in parts if part), "")
        return parts

    @contextlib.contextmanager
    def _opened(self, part, is_first):
        """A part opened by libsndfile. The first one sets the attributes that the header gives."""
        path = self.path
        try:
            with open_part(path, part) as opened:
                self._take_header(opened, part, is_first)
                yield opened
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error
        except (sf.SoundFileError, TypeError) as error:  # TypeError: a suffix of headerless files
            raise UserError(f"{path}: not readable as audio ({_reason(error)}); convert it to WAV") from error

    def _take_header(self, opened, part, is_first):
        """Set the attributes, or hold a later part against them. Refuse headers that cannot be true."""
        header = opened.samplerate, opened.channels
        if is_first:
            check_sound_rate(self.path, opened.samplerate)
            (self.rate, self.channels), self.frames = header, _promised(opened, part) or UNKNOWN_LENGTH
            self.format, self.subtype = opened.format, opened.subtype
        elif header != (self.rate, self.channels):
            found = f"{self.rate} Hz with {self.channels} channels, then {header[0]} Hz with {header[1]}"
            raise UserError(f"{self.path}: has parts of different kinds ({found}); split it")


def _promised(opened, part):
    """Samples of each channel that a part has according to its header; 0 where it does not say."""
    if part and part.frames is not None:
        return part.frames
    return 0 if opened.frames == UNKNOWN_LENGTH else opened.frames


def _reason(error):
    """What libsndfile says of an error, but for one that only its programmers understand."""
    reason = str(getattr(error, "error_string", error))
    return "a sample rate of 0, or of more than 2147483647" if "SF_INFO" in reason else reason


def seconds_by_header(path):
    """Length of an audio file in seconds by its header alone; 0 where that cannot be told."""
    try:
        file = AudioFile(path)
    except UserError:
        return 0.0
    return 0.0 if file.frames == UNKNOWN_LENGTH else file.frames / file.rate


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
        The samples have a wrong shape or dtype, more channels than samples, are not finite, absurdly large or would
        clip, the format cannot hold them, the rate is not above 0, or the file cannot be written.
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
    with atomic_path(path) as temporary:
        try:
            with sf.SoundFile(temporary, "w", rate, channels, subtype, format=format) as opened:
                for block in blocks:
                    opened.write(block.T)
        except (sf.SoundFileError, ValueError) as error:
            reason = getattr(error, "error_string", error)
            remedy = "free some disk space, or write a WAV or FLAC file"
            raise UserError(f"{path}: cannot be written ({reason}); {remedy}") from error
        if format == "WAV" and temporary.stat().st_size > LARGEST_WAV:
            raise UserError(f"{path}: would be larger than a WAV file can be; give a name in .flac")


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
    check_channels_first(path, samples)
    check_finite(path, samples)
    peak = np.abs(samples).max()
    if peak > 1 and subtype not in UNLIMITED:
        raise UserError(f"{path}: peak {peak:.4g} clips in {subtype}; scale to 1 or write FLOAT")
    if subtype == "VORBIS" and samples.ndim == 2 and len(samples) > 255:  # libsndfile crashes
        raise UserError(f"{path}: {len(samples)} channels; Vorbis holds 255, write a WAV file")


def check_folder(folder):
    """Raise UserError where there is no such folder."""
    if not os.path.isdir(folder):
        found = "is not a folder" if os.path.exists(folder) else "does not exist"
        raise UserError(f"{folder}: {found}; give a folder of audio files")


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
    check_folder(folder)

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
