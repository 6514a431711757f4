"""The command `denoise`: audio files and folders in, files of the speech and of the background out.

A recording that fits into memory goes through `separate.separate` as a whole, a longer one through `long_files`.
"""

import contextlib
import itertools
import os
from pathlib import Path

import numpy as np

from tasnet_np.errors import UserError
from tasnet_np.listening.long_files import LongSeparation, Segments
from tasnet_np.listening.separate import separate
from tasnet_np.messages import progress_bar, warn
from tasnet_np.network.streaming import Streamer
from tasnet_np.safe_files import check_folder, check_target, in_one_line
from tasnet_np.sound.audio_files import (
    FORMATS,
    UNLIMITED,
    AudioFile,
    find_audio,
    read,
    seconds_by_header,
    write,
    write_blocks,
)
from tasnet_np.sound.metrics import without_mean

WHOLE_BYTES = (
    1 << 30
)  # of memory: a recording that needs more goes block by block, where the model can do that
PEAK = 32767 / 32768  # the largest sample of a 16-bit file


def denoise_files(inputs, model, output, *, noise_out=None, segment_seconds=None, progress=False):
    """Write the speech, and on request the background, of audio files and of all in folders.

    All paths are checked before the first file is read. An output has the rate, channels, format and
    subtype of its input, and replaces an earlier file of that name. Where a source would clip, all
    outputs of that file are lowered by one common gain, and a line on standard error says by how much.
    Other lines name the files that are skipped, broken or silent.

    If a recording as a whole needs more than `WHOLE_BYTES` of memory, a causal model takes it block by
    block, in constant memory and with the same result. For another model, a line says how much memory it
    needs; `segment_seconds` limits that.

    Parameters
    ----------
    inputs : list of str or Path
        Audio files, and folders, which are searched with all folders below them.
    model
        As for `separate`.
    output : str or Path
        For a single input file, a name with a suffix is the file to write; a suffix other than the
        input's sets the format. Otherwise it is a folder, which is made if needed. There, files keep
        their names and their places below the input folders.
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
        Before the work: there is no input, an input is missing, or a folder has no audio; an output is
        an input or lies inside an input folder, two outputs have the same name, or a format cannot be
        written; an output folder is a file or is not writable.
        After the work: some files could not be denoised. The others have been written.
    """
    jobs, skipped = _jobs(inputs, output, noise_out)
    if skipped:
        warn(f"skipped {len(skipped)} non-audio files, such as {skipped[0]}")
    written, problems, narrowed = [], [], 0
    for path, outputs in progress_bar(jobs, shown=progress, desc="denoising", unit="file"):
        try:
            rate = _denoise_file(path, outputs, model, segment_seconds)
        except (ValueError, OSError, MemoryError) as error:
            problem = in_one_line(error) if isinstance(error, OSError) else str(error)
            problems.append(problem if str(path) in problem else f"{path}: {problem}")
            if len(jobs) > 1:
                warn(problems[-1])
            continue
        written.extend(outputs)
        narrowed += rate > model.config.sample_rate
    if narrowed:
        nyquist = f"{model.config.sample_rate / 2000:g} kHz, half the model's sample rate"
        warn(f"{narrowed} of {len(jobs)} files lost all above {nyquist}")
    if problems:
        summary = f"{len(problems)} of {len(jobs)} files could not be denoised; see the lines above"
        raise UserError(problems[0] if len(jobs) == 1 else summary)
    return written


def _denoise_file(path, outputs, model, segment_seconds):
    """Read one file and write its speech, and its background if there are two outputs. Returns its rate."""
    file = AudioFile(path)
    encodings = [_encoding(file, output) for output in outputs]
    network = _network_for_blocks(file, model, segment_seconds)
    if network:
        _make_folders(outputs)
        separation = LongSeparation(file, network, model.config.sample_rate, len(outputs), outputs[0].parent)
        with contextlib.closing(separation):
            scale = _scale(file, encodings, separation.silent, separation.mixture_peak, separation.peak)
            for index, (output, (format, subtype)) in enumerate(zip(outputs, encodings)):
                blocks = separation.source(index, scale)
                write_blocks(output, blocks, file.rate, file.channels, format=format, subtype=subtype)
        return file.rate
    recording = read(path)
    silent, mixture_peak = not np.any(without_mean(recording.samples)), np.max(np.abs(recording.samples))
    sources = separate(model, recording.samples, recording.rate)[: len(outputs)]
    sources = sources * np.float32(_scale(file, encodings, silent, mixture_peak, np.max(np.abs(sources))))
    _make_folders(outputs)
    for output, samples, (format, subtype) in zip(outputs, sources, encodings):
        write(output, samples, recording.rate, format=format, subtype=subtype)
    return recording.rate


def _make_folders(paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)


def _network_for_blocks(file, model, segment_seconds):
    """A `Streamer` or `Segments` for a recording that is to go block by block; None for one that goes as a whole."""
    c = model.config
    samples = seconds_by_header(file.path) * c.sample_rate  # 0 where the length is not known
    needed = file.channels * c.inference_bytes(max(1, round(samples)))
    if c.norm != "gLN" and (needed > WHOLE_BYTES or not samples):
        return Streamer(model, file.channels)
    if c.norm == "gLN" and segment_seconds:
        return Segments(model, file.channels, segment_seconds)
    if needed > WHOLE_BYTES:
        remedy = "--segment-seconds 30 needs less"
        warn(f"{file.path}: needs {needed / 1e9:.1f} GB of memory, as the model is not causal; {remedy}")
    return None


def _scale(file, encodings, silent, mixture_peak, peak):
    """The common gain that keeps the outputs from clipping. A line tells of it, and of a silent recording."""
    if silent:
        warn(f"{file.path}: is silent; written as silence")
    # If the recording exceeds 1 and the outputs can hold more than 1, the outputs may exceed 1 as well.
    if peak <= PEAK or (mixture_peak > 1 and all(subtype in UNLIMITED for _, subtype in encodings)):
        return 1.0
    warn(f"{file.path}: the output would clip; lowered by {20 * np.log10(peak / PEAK):.2f} dB")
    return PEAK / peak


def _encoding(file, output):
    """Format and subtype of an output: those of the input, or the usual ones where its suffix is another."""
    if output.suffix.lower() == file.path.suffix.lower():
        return file.format, file.subtype
    return FORMATS[output.suffix.lower()]


def _jobs(inputs, output, noise_out):
    """Pairs of an input and its outputs, speech first, all of them checked; and the files that are no audio."""
    found, skipped = find_inputs(inputs)
    one_file = len(inputs) == 1 and not os.path.isdir(inputs[0])
    given = [path for path in (output, noise_out) if path is not None]
    paths = [path for path, _ in found]
    outputs = [_outputs(found, path, one_file) for path in given]  # for speech, for background
    _check_outputs(paths, outputs)
    for path in given:
        _check_outside(path, inputs)
    return list(zip(paths, zip(*outputs))), skipped


def find_inputs(inputs):
    """Pairs of an audio file and its place below an output folder; and the files that are no audio.

    Parameters
    ----------
    inputs
        As for `denoise_files`.

    Returns
    -------
    found : list of (Path, Path)
    skipped : list of Path

    Raises
    ------
    UserError
        There is no input, an input is missing, or a folder has no audio.
    """
    if not inputs:
        raise UserError("inputs: none given; name an audio file or a folder")
    found, skipped = [], []
    for given in map(Path, inputs):
        if os.path.isdir(given):
            audio_paths, other_paths = find_audio(given)
            found += [(path, path.relative_to(given)) for path in audio_paths]
            skipped += other_paths
        elif os.path.exists(given):
            found.append((given, Path(given.name)))
        else:
            raise UserError(f"{given}: does not exist or may not be read; check the name")
    return found, skipped


def _outputs(found, output, one_file):
    """An output for each file: the given one if that names a file, else a place below it."""
    output = Path(output)
    suffix = "" if os.path.isdir(output) else output.suffix.lower()
    if not one_file and suffix in FORMATS:
        raise UserError(f"{output}: names one file, but the input is not one file; name a folder")
    if not one_file or not suffix:
        return [output / place for _, place in found]
    if suffix not in FORMATS and suffix != found[0][0].suffix.lower():
        raise UserError(f"{output}: suffix {output.suffix!r} is not one of {', '.join(FORMATS)}")
    return [output]


def _check_outputs(paths, outputs):
    """Refuse outputs that are inputs, that coincide, or whose folder cannot be written to."""
    input_files = {_identity(path) for path in paths if os.path.exists(path)}
    taken = {}
    for path, output in [pair for of_one_source in outputs for pair in zip(paths, of_one_source)]:
        if os.path.exists(output) and _identity(output) in input_files:
            raise UserError(f"{output}: is an input, too; give another output")
        place = os.path.realpath(output)
        if place in taken:
            both = f"two outputs would go there, from {taken[place]} and {path}"
            raise UserError(f"{output}: {both}; keep them apart")
        taken[place] = path
    for folder in {output.parent for of_one_source in outputs for output in of_one_source}:
        check_folder(folder)
    for output in itertools.chain(*outputs):
        if output.parent.is_dir():
            check_target(output)


def _check_outside(output, inputs):
    """Refuse an output inside an input folder: the next run would denoise it again."""
    place = Path(os.path.realpath(output))
    for folder in filter(os.path.isdir, inputs):
        if place.is_relative_to(os.path.realpath(folder)):
            raise UserError(f"{output}: lies inside the input folder {folder}; give one outside")


def _identity(path):
    """A key of the file at a path: equal for two names (links) of one file."""
    status = os.stat(path)
    return status.st_dev, status.st_ino
