"""What the commands share: options that several of them have, and how they print."""

import argparse
import json
import sys

from tasnet_np.commands.arguments import choice, number
from tasnet_np.errors import UserError
from tasnet_np.network.layers import PATHS
from tasnet_np.ranges import Range

MOST_HOURS = 5  # of all mixtures together
MODEL_HELP = "a run's folder, or an .npz file; by default the model that comes with the package"


def add_command(commands, name, run, summary):
    """Add a command; `run(options)` returns its exit status."""
    added = commands.add_parser(
        name, help=summary, description=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    added.set_defaults(run=run)
    return added


def add_computing(added, devices=True):
    """Options of the commands that run a network, on a GPU too where there is a choice of `devices`."""
    group = added.add_argument_group("computing")
    group.add_argument(
        "--path",
        type=choice(PATHS),
        default="fused",
        help="reference (NumPy formulas), ops (one compiled op at a time) or fused",
    )
    threads = number("threads", int, Range(1, 1024, whole=True))
    group.add_argument("--threads", type=threads, help="all cores by default")
    if devices:
        devices = choice(("cpu", "cuda", "auto"))
        group.add_argument(
            "--device", type=devices, default="cpu", help="cpu, cuda, or auto: a GPU if there is one"
        )
    else:
        added.set_defaults(device="cpu")


def compute_as(options):
    """Act on the options of `add_computing`, say what is about to be compiled; return the device."""
    from tasnet_np.compute.cpu import keep_freed_memory, set_threads
    from tasnet_np.compute.gpu import choose_device

    keep_freed_memory()
    announce_compiling()
    if options.threads is not None:
        set_threads(options.threads)
    return choose_device(options.device)


def add_mixtures(added, most_seconds):
    """Options of the commands that mix recordings anew to measure a model."""
    mixtures = number("mixtures", int, Range(1, 10_000, whole=True))
    seconds = number("seconds", float, Range(0, most_seconds, above=True))
    added.add_argument("--mixtures", type=mixtures, default=25, help="for each SNR")
    added.add_argument("--seconds", type=seconds, default=3.0, help="length of a mixture")


def check_mixtures(options, snrs):
    """Refuse more sound than should be in memory at once."""
    hours = snrs * options.mixtures * options.seconds / 3600
    if hours > MOST_HOURS:
        given = f"--mixtures {options.mixtures}, --seconds {options.seconds:g}"
        raise UserError(
            f"{given}: {hours:.0f} hours of sound at {snrs} SNRs; give at most {MOST_HOURS} hours"
        )


def announce_compiling():
    """Say on standard error which kernels are compiled."""
    from tasnet_np.compute.cpu import announce_compiling

    announce_compiling(lambda line: print(line, file=sys.stderr))


def as_json(rows):
    """Rows of numbers as JSON. It has no NaN: null stands for a value that does not exist."""
    return json.dumps([{k: None if v != v else v for k, v in row.items()} for row in rows], indent=1)
