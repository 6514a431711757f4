"""tasnet-np denoise: take the noise out of recordings."""

import json
import os
import sys

from tasnet_np.commands.arguments import nonempty, number
from tasnet_np.commands.shared import MODEL_HELP, add_command, add_computing, compute_as


def add(commands):
    added = add_command(commands, "denoise", _denoise, "Take the noise out of recordings.")
    added.add_argument("inputs", nargs="+", type=nonempty, metavar="IN", help="audio files and folders")
    added.add_argument("--model", type=nonempty, default="pretrained", metavar="RUN", help=MODEL_HELP)
    added.add_argument(
        "-o",
        "--output",
        type=nonempty,
        required=True,
        metavar="OUT",
        help="a file for one input, else a folder",
    )
    added.add_argument(
        "--noise-out", type=nonempty, metavar="OUT", help="the same for the background that was removed"
    )
    added.add_argument(
        "--segment-seconds",
        type=number("segment-seconds", float, _segments),
        metavar="S",
        help="for models that are not causal, if memory is short: overlapping segments of S seconds; "
        "at 30 s, what they change is below -30 dB of the output",
    )
    added.add_argument(
        "--plot",
        type=nonempty,
        metavar="PICTURE",
        help="spectrograms before and after: a .png, .pdf or .svg for one input, else a folder",
    )
    added.add_argument("--json", action="store_true", help="print the files written as JSON")
    added.add_argument("--quiet", action="store_true", help="no progress bar, no list of files")
    add_computing(added)


def _segments():
    from tasnet_np.listening.long_files import SEGMENT_SECONDS

    return SEGMENT_SECONDS


def _denoise(options):
    from tasnet_np.listening.denoise import denoise_files
    from tasnet_np.network.checkpoint import load

    if options.plot:
        from tasnet_np.reports.plots import check_suffix

        check_suffix(options.plot if _is_one_file(options) else "a.png")
    device = compute_as(options)
    written = denoise_files(
        options.inputs,
        load(options.model, options.path).to(device),
        options.output,
        noise_out=options.noise_out,
        segment_seconds=options.segment_seconds,
        progress=sys.stderr.isatty() and not options.quiet,
    )
    if options.plot:
        written += _plot_before_and_after(options, written)
    if options.json:
        print(json.dumps([str(path) for path in written], indent=1))
    elif not options.quiet:
        for path in written:
            print(path)
    return 0


def _is_one_file(options):
    """Whether the input is one file, so that an output is a file, too, and not a folder."""
    return len(options.inputs) == 1 and not os.path.isdir(options.inputs[0])


def _plot_before_and_after(options, written):
    """A picture for every recording denoised: the first channel before and after. Returns the pictures."""
    from pathlib import Path

    from tasnet_np.reports.plots import spectrograms
    from tasnet_np.sound.audio_files import find_audio, read

    sources = []
    for path in map(Path, options.inputs):
        sources += find_audio(path)[0] if path.is_dir() else [path]
    per_source = 2 if options.noise_out else 1
    pictures = []
    for source, first in zip(sources, range(0, len(written), per_source)):
        recordings = {"before": read(source), "after": read(written[first])}
        if per_source == 2:
            recordings["removed"] = read(written[first + 1])
        name = written[first].with_suffix(".png").name
        picture = Path(options.plot) if _is_one_file(options) else Path(options.plot, name)
        picture.parent.mkdir(parents=True, exist_ok=True)
        spectrograms(
            picture, {title: r.samples[0] for title, r in recordings.items()}, recordings["before"].rate
        )
        pictures.append(picture)
    return pictures
