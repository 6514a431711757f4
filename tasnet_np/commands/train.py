"""tasnet-np train: train a denoiser, or continue a run."""

import argparse
import dataclasses
import sys

from tasnet_np.commands.shared import add_command, add_computing, compute_as
from tasnet_np.errors import UserError

RECIPE = [  # the defaults in brackets are those of recipe.Recipe; a test compares them
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


def add(commands):
    added = add_command(commands, "train", _train, "Train a denoiser on your own speech and noise.")
    added.add_argument("--speech", metavar="DIR", help="clean speech, a folder per speaker")
    added.add_argument("--noise", metavar="DIR", help="noise recordings")
    added.add_argument("--rooms", metavar="DIR", help="room impulse responses, for --room")
    added.add_argument("--manifest", metavar="FILE", help="what tasnet-np prepare wrote, instead of folders")
    added.add_argument("--out", metavar="RUN", required=True, help="folder for the run")
    added.add_argument("--preset", help="small, paper or origin (small)")
    added.add_argument(
        "--non-causal",
        action="store_true",
        help="the preset for files only: it hears the whole "
        "recording at once (gLN), which is better, but cannot stream",
    )
    added.add_argument(
        "--from", dest="start", metavar="MODEL", help="fine-tune this run or .npz file, or `pretrained`"
    )
    added.add_argument("--minutes", type=float, help="stop after so many minutes (10, if no --steps)")
    added.add_argument("--steps", type=int, help="stop after so many steps")
    added.add_argument("--resume", action="store_true", help="continue the run in --out")
    added.add_argument("--cache-mb", type=float, default=1024, help="most memory for recordings")
    added.add_argument("--workers", type=int, default=1, help="threads that mix")
    added.add_argument("--quiet", action="store_true", help="no progress bar")
    add_computing(added)
    _add_recipe(added.add_argument_group("recipe"))


def _add_recipe(group):
    unset = argparse.SUPPRESS  # the default is the recipe's own
    for name, kind, text in RECIPE:
        group.add_argument(f"--{name}", type=kind, default=unset, help=text)
    group.add_argument(
        "--snr-db", type=float, nargs=2, metavar=("LOW", "HIGH"), default=unset, help="range (-5 15)"
    )
    group.add_argument(
        "--hold-out", nargs="+", metavar="SPEAKER", default=unset, help="speakers to validate on"
    )


def _train(options):
    from tasnet_np.training.recipe import Recipe

    sys.stdout.is_needed = False  # who reads the messages may leave; the training goes on
    given = vars(options)  # of the recipe only what was on the command line
    chosen = {field.name: given[field.name] for field in dataclasses.fields(Recipe) if field.name in given}
    how = _how(options)
    finished = _resume(options, chosen, how) if options.resume else _begin(options, chosen, how)
    return 0 if finished else 130


def _how(options):
    """What `train` and `resume` are told alike: when to stop, and how to compute."""
    if not options.cache_mb > 0 or options.workers < 1:
        given = f"--cache-mb {options.cache_mb:g}, --workers {options.workers}"
        raise UserError(f"{given}: give more than 0, and at least 1")
    return {
        "minutes": options.minutes, "steps": options.steps, "path": options.path, "quiet": options.quiet,
        "cache_bytes": round(options.cache_mb * 1e6), "workers": options.workers, "device": compute_as(options),
    }  # fmt: skip


def _resume(options, chosen, how):
    """Continue a run; return whether it came to its end."""
    from tasnet_np.training.train import resume

    recordings = (options.speech, options.noise, options.rooms, options.manifest)
    if chosen or any(recordings) or options.start or options.preset or options.non_causal:
        raise UserError("--resume continues a run as it began: give only --out, --minutes, --steps")
    return resume(options.out, **how)


def _begin(options, chosen, how):
    """Begin a run; return whether it came to its end."""
    from tasnet_np.network.checkpoint import find
    from tasnet_np.training.recipe import Recipe
    from tasnet_np.training.train import train

    folders = (options.speech, options.noise)
    if any(folders) if options.manifest else not all(folders):
        raise UserError(
            "--speech and --noise: give both folders, or --manifest (or --resume to continue a run)"
        )
    if options.manifest and (options.rooms or {"share", "hold_out"} & chosen.keys()):
        raise UserError("--rooms, --share, --hold-out: the manifest decides; give them to tasnet-np prepare")
    start = options.start and find(options.start)
    return train(
        *folders,
        options.out,
        _config(options, start),
        Recipe(**chosen),
        **how,
        rooms=options.rooms,
        prepared=options.manifest,
        start=start,
    )


def _config(options, start):
    """The architecture asked for; None for that of the model to start from."""
    from tasnet_np.network.config import Config

    config = None if start and not options.preset else Config.preset(options.preset or "small")
    if options.non_causal and start:
        raise UserError("--non-causal: --from decides the architecture; leave one of them out")
    return config.non_causal() if options.non_causal else config
