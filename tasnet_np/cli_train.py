"""The commands around a training run: prepare, train, report."""

import argparse
import json
import sys

from tasnet_np.files import UserError
from tasnet_np.options import add_computing, command, compute_as


def add_prepare(commands):
    added = command(commands, "prepare", _prepare, "Look through recordings and part them for training.")
    added.add_argument("corpus", nargs="*", metavar="DIR", help="corpora of a known layout: LibriSpeech, LibriMix, "
                       "VoiceBank-DEMAND and other clean/noisy pairs, MS-SNSD, DNS")  # fmt: skip
    added.add_argument("--speech", metavar="DIR", help="clean speech, a folder per speaker")
    added.add_argument("--noise", metavar="DIR", help="noise recordings")
    added.add_argument("--rooms", metavar="DIR", help="room impulse responses")
    added.add_argument("--out", metavar="FILE", default="manifest.json", help="the manifest to write")
    added.add_argument("--plot", metavar="PICTURE", help="draw lengths, levels and rates (.png, .pdf, .svg)")
    added.add_argument("--seed", type=int, default=0, help="of the parts")
    added.add_argument("--share", type=float, default=0.2, help="of the speakers and noises, for validation")
    added.add_argument("--hold-out", nargs="+", metavar="SPEAKER", default=[], help="speakers to validate on")
    added.add_argument("--headers-only", action="store_true", help="do not read the samples: quick, but misses "
                       "silent, clipped, damaged and doubled recordings")  # fmt: skip
    added.add_argument("--json", action="store_true", help="print the table as JSON")
    added.add_argument("--quiet", action="store_true", help="no progress bar, no list of problems")


def _prepare(options):
    from tasnet_np import layouts, manifest

    if not (options.corpus or options.speech or options.noise):
        raise UserError("prepare: give the folder of a corpus, or --speech DIR and --noise DIR")
    found, problems = [], []
    for root in options.corpus:
        name, more, lines = layouts.recognise(root)
        found, problems = found + more, problems + lines
        if not options.quiet:
            print(f"{root}: {name}, {len(more)} recordings", file=sys.stderr)
    more, lines = layouts.folders(options.speech, options.noise, options.rooms)
    made = manifest.make_manifest(
        found + more, problems + lines, seed=options.seed, share=options.share, hold_out=options.hold_out,
        contents=not options.headers_only, progress=not options.quiet,
    )  # fmt: skip
    manifest.save(made, options.out)
    if options.plot:
        from tasnet_np.plots import recordings

        recordings(options.plot, made)
    if not options.quiet:
        for problem in made.problems:
            print(f"warning: {problem}", file=sys.stderr)
    rows = {"parts": manifest.summary(made), "problems": made.problems}
    print(json.dumps(rows, indent=1) if options.json else manifest.table(made))
    return 0


def add_train(commands):
    added = command(commands, "train", _train, "Train a denoiser on your own speech and noise.")
    unset = argparse.SUPPRESS  # the default is the recipe's own
    added.add_argument("--speech", metavar="DIR", help="clean speech, a folder per speaker")
    added.add_argument("--noise", metavar="DIR", help="noise recordings")
    added.add_argument("--rooms", metavar="DIR", help="room impulse responses, for --room")
    added.add_argument("--manifest", metavar="FILE", help="what tasnet-np prepare wrote, instead of folders")
    added.add_argument("--out", metavar="RUN", required=True, help="folder for the run")
    added.add_argument("--preset", help="small, paper or origin (small)")
    added.add_argument("--non-causal", action="store_true", help="the preset for files only: it hears the whole "
                       "recording at once (gLN), which is better, but cannot stream")  # fmt: skip
    added.add_argument("--from", dest="start", metavar="MODEL", help="fine-tune this run or .npz file, or `pretrained`")
    added.add_argument("--minutes", type=float, help="stop after so many minutes (10, if no --steps)")
    added.add_argument("--steps", type=int, help="stop after so many steps")
    added.add_argument("--resume", action="store_true", help="continue the run in --out")
    added.add_argument("--cache-mb", type=float, default=1024, help="most memory for recordings")
    added.add_argument("--workers", type=int, default=1, help="threads that mix")
    added.add_argument("--quiet", action="store_true", help="no progress bar")
    add_computing(added)
    recipe = added.add_argument_group("recipe")
    for name, kind, text in RECIPE:
        recipe.add_argument(f"--{name}", type=kind, default=unset, help=text)
    recipe.add_argument(
        "--snr-db", type=float, nargs=2, metavar=("LOW", "HIGH"), default=unset, help="range (-5 15)"
    )
    recipe.add_argument(
        "--hold-out", nargs="+", metavar="SPEAKER", default=unset, help="speakers to validate on"
    )


RECIPE = [  # the defaults in brackets are those of train.Recipe; a test holds them together
    ("seed", int, "of weights, split and mixtures (0)"),
    ("batch", int, "mixtures per step (4)"),
    ("seconds", float, "length of a mixture (1.0)"),
    ("learning-rate", float, "of Adam, at its highest (0.002)"),
    ("schedule", str, "cosine down to the end, plateau or constant (cosine)"),
    ("warmup", int, "steps in which the learning rate rises (50)"),
    ("weight-decay", float, "of Adam (0.0)"),
    ("clip", float, "largest gradient norm (5.0)"),
    ("average", float, "decay of the moving average of the weights; 0 for none (0.99)"),
    ("noise-weight", float, "of the noise in the loss; the speech's is 1 (1.0)"),
    ("mixture-weight", float, "of the estimates' sum against the mixture, in the loss (0.0)"),
    ("noises", int, "most noises at once (1)"),
    ("gain-db", float, "range of levels, up and down (0.0)"),
    ("speed", float, "largest change of speed, as a share (0.3)"),
    ("colour", float, "of speech and of noise, by random filters: their largest coefficient (0.375)"),
    ("polarity", float, "probability of a mixture turned upside down (0.5)"),
    ("band-limit", float, "probability of a narrower band (0.0)"),
    ("room", float, "probability of speech in a room (0.0)"),
    ("clipping", float, "probability of an overloaded mixture (0.0)"),
    ("noise-free", float, "probability of a mixture without noise (0.0)"),
    ("speech-free", float, "probability of a mixture without speech (0.0)"),
    ("pairs", float, "probability of a clean/noisy pair as recorded (0.5)"),
    ("validate-every", int, "steps (100)"),
    ("validation-mixtures", int, "per SNR (8)"),
    ("patience", int, "validations without a best before a plateau halves the rate (3)"),
    ("stop-after", int, "validations without a best before the run ends; 0 for never (0)"),
    ("share", float, "held out for validation (0.2)"),
]


def _train(options):
    from tasnet_np.checkpoint import find
    from tasnet_np.config import Config
    from tasnet_np.train import Recipe, resume, train

    names = Recipe.__dataclass_fields__
    chosen = {name: value for name, value in vars(options).items() if name in names}
    if not options.cache_mb > 0 or options.workers < 1:
        raise UserError(f"--cache-mb {options.cache_mb:g}, --workers {options.workers}: give more than 0, and at least 1")
    how = {"minutes": options.minutes, "steps": options.steps, "path": options.path, "quiet": options.quiet}
    how |= {"cache_bytes": round(options.cache_mb * 1e6), "workers": options.workers}
    how["device"] = compute_as(options)
    sources = (options.speech, options.noise, options.rooms, options.manifest, options.start, options.preset, options.non_causal)
    if options.resume:
        if chosen or any(sources):
            raise UserError("--resume continues a run as it began: give only --out, --minutes, --steps")
        finished = resume(options.out, **how)
    else:
        if bool(options.manifest) == bool(options.speech or options.noise):
            raise UserError("--speech and --noise: give both folders, or --manifest (or --resume to continue a run)")
        if not options.manifest and not (options.speech and options.noise):
            raise UserError("--speech and --noise: give both folders, or --manifest (or --resume to continue a run)")
        if options.manifest and (options.rooms or {"share", "hold_out"} & chosen.keys()):
            raise UserError("--rooms, --share, --hold-out: the manifest decides; give them to tasnet-np prepare")
        start = options.start and find(options.start)
        config = None if start and not options.preset else Config.preset(options.preset or "small")
        if options.non_causal:
            if start:
                raise UserError("--non-causal: --from decides the architecture; leave one of them out")
            config = config.non_causal()
        finished = train(
            options.speech, options.noise, options.out, config, Recipe(**chosen), **how,
            rooms=options.rooms, prepared=options.manifest, start=start,
        )  # fmt: skip
    return 0 if finished else 130


def add_report(commands):
    added = command(commands, "report", _report, "Write one page about a run, to read and to listen to.")
    added.add_argument("folder", metavar="RUN", help="folder of a training run")
    added.add_argument("-o", "--output", metavar="FILE", help="the page; report.html in the run's folder by default")
    added.add_argument("--baselines", metavar="FILE", help="scores of other methods (tests/benchmarks/baselines.py)")
    added.add_argument("--mixtures", type=int, default=25, help="for each input SNR")
    added.add_argument("--seconds", type=float, default=3.0, help="length of a mixture")
    added.add_argument("--quiet", action="store_true", help="no progress bar")
    add_computing(added, devices=False)


def _report(options):
    from tasnet_np.report import report

    if options.mixtures < 1 or not 0 < options.seconds < 60:
        raise UserError(f"--mixtures {options.mixtures}, --seconds {options.seconds}: give at least 1, and below 60")
    compute_as(options)
    how = {"baselines": options.baselines, "per_snr": options.mixtures, "seconds": options.seconds}
    how["progress"] = not options.quiet
    print(report(options.folder, options.output, **how))
    return 0
