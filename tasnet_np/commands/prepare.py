"""tasnet-np prepare: look through recordings, and write a manifest that parts them for training."""

import json
import sys

from tasnet_np.commands.shared import add_command
from tasnet_np.errors import UserError


def add(commands):
    added = add_command(commands, "prepare", _prepare, "Look through recordings and part them for training.")
    added.add_argument(
        "corpus",
        nargs="*",
        metavar="DIR",
        help="corpora of a known layout: LibriSpeech, LibriMix, "
        "VoiceBank-DEMAND and other clean/noisy pairs, MS-SNSD, DNS",
    )
    added.add_argument("--speech", metavar="DIR", help="clean speech, a folder per speaker")
    added.add_argument("--noise", metavar="DIR", help="noise recordings")
    added.add_argument("--rooms", metavar="DIR", help="room impulse responses")
    added.add_argument("--out", metavar="FILE", default="manifest.json", help="the manifest to write")
    added.add_argument("--plot", metavar="PICTURE", help="draw lengths, levels and rates (.png, .pdf, .svg)")
    added.add_argument("--seed", type=int, default=0, help="of the parts")
    added.add_argument("--share", type=float, default=0.2, help="of the speakers and noises, for validation")
    added.add_argument("--hold-out", nargs="+", metavar="SPEAKER", default=[], help="speakers to validate on")
    added.add_argument(
        "--headers-only",
        action="store_true",
        help="do not read the samples: quick, but misses silent, clipped, damaged and doubled recordings",
    )
    added.add_argument("--json", action="store_true", help="print the table as JSON")
    added.add_argument("--quiet", action="store_true", help="no progress bar, no list of problems")


def _prepare(options):
    from tasnet_np.corpus import manifest
    from tasnet_np.safe_files import check_target

    if not (options.corpus or options.speech or options.noise):
        raise UserError("prepare: give the folder of a corpus, or --speech DIR and --noise DIR")
    check_target(options.out)
    if options.plot:
        from tasnet_np.reports.plots import check_picture, recordings

        check_picture(options.plot)
    found, problems = _find(options)
    made = manifest.make_manifest(
        found,
        problems,
        seed=options.seed,
        share=options.share,
        hold_out=options.hold_out,
        contents=not options.headers_only,
        progress=not options.quiet,
    )
    manifest.save(made, options.out)
    if options.plot:
        recordings(options.plot, made)
    if not options.quiet:
        for problem in made.problems:
            print(f"warning: {problem}", file=sys.stderr)
    rows = {"parts": manifest.summary(made), "problems": made.problems}
    print(json.dumps(rows, indent=1) if options.json else manifest.table(made))
    return 0


def _find(options):
    """The recordings below all folders given, and a line about each problem with them."""
    from tasnet_np.corpus import layouts

    found, problems = [], []
    for root in options.corpus:
        name, below, lines = layouts.recognise(root)
        found, problems = found + below, problems + lines
        if not options.quiet:
            print(f"{root}: {name}, {len(below)} recordings", file=sys.stderr)
    below, lines = layouts.folders(options.speech, options.noise, options.rooms)
    return found + below, problems + lines
