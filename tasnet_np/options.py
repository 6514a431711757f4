"""What the commands of the command line share."""

import argparse
import json
import sys


def command(commands, name, run, summary):
    """Add a subcommand; `run(options)` returns its exit status."""
    added = commands.add_parser(
        name, help=summary, description=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    added.set_defaults(run=run)
    return added


def add_computing(command):
    """Options of the commands that run a network."""
    group = command.add_argument_group("computing")
    group.add_argument(
        "--path", default="fused", help="reference (NumPy formulas), ops (one compiled op at a time) or fused"
    )
    group.add_argument("--threads", type=int, help="all cores by default")


def compute_as(options):
    """Act on the options of `add_computing`, and say what is about to be compiled."""
    from tasnet_np.device import keep_freed_memory, set_threads

    keep_freed_memory()
    announce_compiling()
    if options.threads is not None:
        set_threads(options.threads)


def announce_compiling():
    """Say on standard error which kernels are compiled."""
    from tasnet_np.device import announce_compiling

    announce_compiling(lambda line: print(line, file=sys.stderr))


def as_json(rows):
    """JSON has no NaN: null stands for a value that does not exist."""
    return json.dumps([{k: None if v != v else v for k, v in row.items()} for row in rows], indent=1)
