"""tasnet-np denoise: take the noise out of recordings."""

import json
import os
import sys
from collections import Counter
from pathlib import Path

from tasnet_np.commands.shared import MODEL_HELP, add_command, add_computing, compute_as


def add(commands):
    added = add_command(commands, "denoise", _denoise, "Take the noise out of recordings.")
    added.add_argument("inputs", nargs="+", metavar="IN", help="audio files and folders")
    added.add_argument("--model", default="pretrained", metavar="RUN", help=MODEL_HELP)
    added.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="a file for one input, else a folder"
    )
    added.add_argument("--noise-out", metavar="OUT", help="the same for the background that was removed")
    added.add_argument(
        "--segment-seconds",
        type=float,
        metavar="S",
        help="for models that are not causal, if memory is short: overlapping segments of S seconds; "
        "at 30 s, what they change is below -30 dB of the output",
    )
    added.add_argument(
        "--plot",
        metavar="PICTURE",
        help="spectrograms before and after: a .png, .pdf or .svg for one input, else a folder",
    )
    added.add_argument("--json", action="store_true", help="print the files written as JSON")
    added.add_argument("--quiet", action="store_true", help="no progress bar, no list of files")
    add_computing(added)


def _denoise(options):
    from tasnet_np.listening.denoise import denoise_files
    from tasnet_np.network.checkpoint import load

    pictures = _pictures(options) if options.plot else []
    device = compute_as(options)
    written = denoise_files(
        options.inputs,
        load(options.model, options.path).to(device),
        options.output,
        noise_out=options.noise_out,
        segment_seconds=options.segment_seconds,
        progress=sys.stderr.isatty() and not options.quiet,
    )
    for source, place, picture in pictures:
        folders = filter(None, (options.output, options.noise_out))
        outputs = written if _is_one_file(options) else [Path(folder, place) for folder in folders]
        _plot_before_and_after(picture, source, outputs)
    written += [picture for _, _, picture in pictures]
    if options.json:
        print(json.dumps([str(path) for path in written], indent=1))
    elif not options.quiet:
        for path in written:
            print(path)
    return 0


def _is_one_file(options):
    """Whether the input is one file, so that an output is a file, too, and not a folder."""
    return len(options.inputs) == 1 and not os.path.isdir(options.inputs[0])


def _pictures(options):
    """For every recording: it, its place below a folder, and its picture. What cannot be written is refused.

    A picture has its recording's name and its place below the folder. Where another recording there differs in the
    suffix only, the suffix is a part of the name.
    """
    from tasnet_np.listening.denoise import find_inputs
    from tasnet_np.reports.plots import check_suffix
    from tasnet_np.safe_files import check_folder, check_target

    found, _ = find_inputs(options.inputs)
    if _is_one_file(options):
        pictures = [Path(options.plot)]
    else:
        short = [place.with_suffix(".png") for _, place in found]
        long = [place.with_name(f"{place.name}.png") for _, place in found]
        taken = Counter(short + long)
        pictures = [Path(options.plot, s if taken[s] == 1 else l) for s, l in zip(short, long)]
    for picture in pictures:
        check_suffix(picture)
        check_folder(picture.parent)  # it is made if needed
        if picture.parent.is_dir():
            check_target(picture)
    return [(*one, picture) for one, picture in zip(found, pictures)]


def _plot_before_and_after(picture, source, outputs):
    """Draw the first channel of a recording before and after."""
    from tasnet_np.reports.plots import spectrograms
    from tasnet_np.sound.audio_files import read

    recordings = {"before": read(source)} | dict(zip(("after", "removed"), map(read, outputs)))
    first_channels = {title: recording.samples[0] for title, recording in recordings.items()}
    picture.parent.mkdir(parents=True, exist_ok=True)
    spectrograms(picture, first_channels, recordings["before"].rate)
