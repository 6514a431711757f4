"""From noisy recordings to speech and background: any rate, any channels, level restored.

SI-SNR leaves the level and the polarity of a model's outputs free: they may be a thousand times too
loud, or inverted. `fit_level` finds the two gains with which they add up to the mixture again.
"""

import contextlib
import os
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tasnet_np.audio_files import (
    FORMATS, UNLIMITED, AudioFile, find_audio, read, seconds_by_header, write, write_blocks,
)  # fmt: skip
from tasnet_np.errors import UserError
from tasnet_np.level import LEVEL_DB, at_level, fit_level
from tasnet_np.long_files import LongSeparation, Segments
from tasnet_np.metrics import without_mean
from tasnet_np.resampling import resample
from tasnet_np.streaming import Streamer

WHOLE_BYTES = 1 << 30  # of memory: what needs more goes block by block where it can
PEAK = 32767 / 32768  # the largest sample of a 16-bit file


def separate(model, samples, rate):
    """Split a recording into speech and background at the recording's own rate, length and level.

    Each channel is one example of the batch: without its mean, resampled to the model's rate and
    brought to `LEVEL_DB`. The estimates are resampled back, and `fit_level` restores the level.

    Where the recording's rate is higher than the model's, what lies above half the model's rate is
    lost. The outputs have no mean (no direct current), whatever the recording has: from a constant
    recording, and from one of a single sample, come zeros.

    Parameters
    ----------
    model
        Has ``config.sample_rate``, and ``forward(mixture, keep=False)`` from (B, n) to (B, 2, n).
    samples : ndarray, shape (channels, n), floats
    rate : int
        Hz.

    Returns
    -------
    sources : ndarray, shape (2, channels, n), float32
        Speech, background.

    Raises
    ------
    UserError
        The samples have another shape or kind or are not finite, the rate is not a whole number
        above 0, or the model answers with NaN or infinity.
    """
    samples = np.asarray(samples)
    if samples.ndim != 2 or samples.size == 0 or samples.dtype.kind != "f":
        found = f"shape {samples.shape} and type {samples.dtype}"
        raise UserError(f"samples have {found}; give floats of shape (channels, n), none of them 0")
    if not np.all(np.isfinite(samples)):
        raise UserError("samples have NaN or infinite values; remake the recording")
    model_rate = model.config.sample_rate
    mixture = without_mean(samples).astype(np.float32)
    heard = resample(mixture, rate, model_rate)  # (channels, m)
    heard = np.stack([at_level(channel, LEVEL_DB) for channel in heard])
    estimates = model.forward(heard, keep=False)  # (channels, 2, m)
    if not np.all(np.isfinite(estimates)):
        raise UserError("the model answers with NaN or infinite values; use an earlier checkpoint")
    # Both resamplings round the length up, so that nothing is missing at the end.
    estimates = resample(estimates, model_rate, rate)[..., : samples.shape[-1]]  # (channels, 2, n)
    restored = [_at_own_level(*channel) for channel in zip(mixture, estimates)]
    return np.stack(restored, axis=1).astype(np.float32)


def _at_own_level(mixture, sources):
    """One channel's estimates (2, n) without mean, at their level in the mixture (n,)."""
    return fit_level(mixture, sources)[:, None] * without_mean(sources)


def denoise_files(inputs, model, output, *, noise_out=None, segment_seconds=None, progress=False):
    """Write the speech, and on request the background, of audio files and of all in folders.

    All paths are checked before the first file is read. What is written keeps the rate, channels,
    format and subtype of its input, and replaces an earlier file of that name. Where a source would
    clip, what is written for that file is lowered by one common gain, and a line on standard error
    says by how much. So it does for files that are skipped, broken or silent.

    A recording that would need more than `WHOLE_BYTES` of memory as a whole goes through a causal model
    block by block, in constant memory and with the same result. For other models a line says how much
    memory it needs; `segment_seconds` bounds it.

    Parameters
    ----------
    inputs : list of str or Path
        Audio files, and folders, which are searched to the bottom.
    model
        As for `separate`.
    output : str or Path
        For a single input file, a name with a suffix is the file to write; a suffix other than the
        input's sets the format. Otherwise this is a folder, made if needed, where files keep their
        names and their places below the input folders.
    noise_out : str or Path, optional
        The same for the background.
    segment_seconds : float, optional
        For models that are not causal: cut recordings into overlapping segments of this length.
    progress : bool
        Show a progress bar.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    UserError
        Before the work: no input, a missing input, a folder without audio; an output that is an
        input or lies inside an input folder, two outputs of the same name, a format that cannot be
        written; an output folder that is a file or is not writable.
        After the work: some files could not be denoised. The others are written by then.
    """
    found, skipped = _find(inputs)
    one_file = len(inputs) == 1 and not os.path.isdir(inputs[0])
    outputs = [path for path in (output, noise_out) if path is not None]
    sources = [source for source, _ in found]
    targets = [_targets(found, path, one_file) for path in outputs]  # for speech, for background
    _check_targets(sources, targets)
    for path in outputs:
        _check_outside(path, inputs)
    if skipped:
        _warn(f"skipped {len(skipped)} non-audio files, such as {skipped[0]}")

    written, problems, cut = [], [], 0
    jobs = list(zip(sources, zip(*targets)))
    for source, paths in tqdm(jobs, desc="denoising", unit="file", disable=not progress):
        try:
            rate = _denoise_file(source, paths, model, segment_seconds)
        except (UserError, OSError, MemoryError) as error:
            problems.append(str(error) if str(source) in str(error) else f"{source}: {error}")
            if len(jobs) > 1:
                _warn(problems[-1])
            continue
        written.extend(paths)
        cut += rate > model.config.sample_rate
    if cut:
        nyquist = f"{model.config.sample_rate / 2000:g} kHz, half the model's sample rate"
        _warn(f"{cut} of {len(jobs)} files lost all above {nyquist}")
    if problems:
        summary = f"{len(problems)} of {len(jobs)} files could not be denoised; see the lines above"
        raise UserError(problems[0] if len(jobs) == 1 else summary)
    return written


def _denoise_file(source, paths, model, segment_seconds):
    """Read one file and write its speech, and its background if there are two paths."""
    file = AudioFile(source)
    encodings = [_encoding(file, path) for path in paths]
    network = _in_pieces(file, model, segment_seconds)
    if network:
        _make_folders(paths)
        separation = LongSeparation(file, network, model.config.sample_rate, len(paths), paths[0].parent)
        with contextlib.closing(separation):
            scale = _scale(file, encodings, separation.silent, separation.mixture_peak, separation.peak)
            for index, (path, (format, subtype)) in enumerate(zip(paths, encodings)):
                blocks = separation.source(index, scale)
                write_blocks(path, blocks, file.rate, file.channels, format=format, subtype=subtype)
        return file.rate
    recording = read(source)
    silent, loudest = not np.any(without_mean(recording.samples)), np.max(np.abs(recording.samples))
    sources = separate(model, recording.samples, recording.rate)[: len(paths)]
    sources = sources * np.float32(_scale(file, encodings, silent, loudest, np.max(np.abs(sources))))
    _make_folders(paths)
    for path, samples, (format, subtype) in zip(paths, sources, encodings):
        write(path, samples, recording.rate, format=format, subtype=subtype)
    return recording.rate


def _make_folders(paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)


def _in_pieces(file, model, segment_seconds):
    """What runs a recording in constant memory, or None where the whole of it is to go at once."""
    c = model.config
    samples = seconds_by_header(file.path) * c.sample_rate  # 0 where the length is not known
    needed = file.channels * c.inference_bytes(max(1, round(samples)))
    if c.norm != "gLN" and (needed > WHOLE_BYTES or not samples):
        return Streamer(model, file.channels)
    if c.norm == "gLN" and segment_seconds:
        return Segments(model, file.channels, segment_seconds)
    if needed > WHOLE_BYTES:
        remedy = "--segment-seconds 30 needs less"
        _warn(f"{file.path}: needs {needed / 1e9:.1f} GB of memory, as the model is not causal; {remedy}")
    return None


def _scale(file, encodings, silent, mixture_peak, peak):
    """The common gain that keeps the outputs from clipping; says so if there is one, or if all is silent."""
    if silent:
        _warn(f"{file.path}: is silent; written as silence")
    # Where the file can hold more than 1, and the recording does, the output may exceed 1 as well.
    if peak <= PEAK or (mixture_peak > 1 and all(subtype in UNLIMITED for _, subtype in encodings)):
        return 1.0
    _warn(f"{file.path}: the output would clip; lowered by {20 * np.log10(peak / PEAK):.2f} dB")
    return PEAK / peak


def _encoding(recording, path):
    """Format and subtype for a path: the recording's, or the usual ones of another suffix."""
    if path.suffix.lower() == recording.path.suffix.lower():
        return recording.format, recording.subtype
    return FORMATS[path.suffix.lower()]


def _find(inputs):
    """Audio files, each with its place below an output folder; and the other files."""
    if not inputs:
        raise UserError("inputs: none given; name an audio file or a folder")
    found, skipped = [], []
    for path in map(Path, inputs):
        if os.path.isdir(path):
            audio, others = find_audio(path)
            found += [(file, file.relative_to(path)) for file in audio]
            skipped += others
        elif os.path.exists(path):
            found.append((path, Path(path.name)))
        else:
            raise UserError(f"{path}: does not exist or may not be read; check the name")
    return found, skipped


def _targets(found, output, one_file):
    """Where each file goes: to the output itself if that names a file, else to a place below it."""
    output = Path(output)
    suffix = "" if os.path.isdir(output) else output.suffix.lower()
    if not one_file and suffix in FORMATS:
        raise UserError(f"{output}: names one file, but the input is not one file; name a folder")
    if not one_file or not suffix:
        return [output / place for _, place in found]
    if suffix not in FORMATS and suffix != found[0][0].suffix.lower():
        raise UserError(f"{output}: suffix {output.suffix!r} is not one of {', '.join(FORMATS)}")
    return [output]


def _check_targets(sources, targets):
    """Refuse targets that are inputs, that coincide, or whose folder cannot be written to."""
    input_files = {_identity(source) for source in sources}
    taken = {}
    for source, path in [pair for paths in targets for pair in zip(sources, paths)]:
        if os.path.exists(path) and _identity(path) in input_files:
            raise UserError(f"{path}: is an input, too; give another output")
        place = os.path.realpath(path)
        if place in taken:
            both = f"two outputs would go there, from {taken[place]} and {source}"
            raise UserError(f"{path}: {both}; keep them apart")
        taken[place] = source
    for folder in {path.parent for paths in targets for path in paths}:
        existing = next(path for path in (folder, *folder.parents) if os.path.exists(path))
        if not os.path.isdir(existing):
            raise UserError(f"{existing}: is a file, not a folder; give another output")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise UserError(f"{existing}: is not writable; choose a folder that you may write to")


def _check_outside(output, inputs):
    """Refuse an output inside an input folder: the next run would denoise it again."""
    place = Path(os.path.realpath(output))
    for folder in filter(os.path.isdir, inputs):
        if place.is_relative_to(os.path.realpath(folder)):
            raise UserError(f"{output}: lies inside the input folder {folder}; give one outside")


def _identity(path):
    """The same for all names of one file."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _warn(line):
    """Print a line on standard error, above the progress bar if there is one."""
    tqdm.write(f"warning: {line}", file=sys.stderr)
