"""What the commands share: options that several of them have, and how they print."""

import argparse
import json
import sys

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
        "--path", default="fused", help="reference (NumPy formulas), ops (one compiled op at a time) or fused"
    )
    group.add_argument("--threads", type=int, help="all cores by default")
    if devices:
        group.add_argument("--device", default="cpu", help="cpu, cuda, or auto: a GPU if there is one")
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


def announce_compiling():
    """Say on standard error which kernels are compiled."""
    from tasnet_np.compute.cpu import announce_compiling

    announce_compiling(lambda line: print(line, file=sys.stderr))


def as_json(rows):
    """Rows of numbers as JSON. It has no NaN: null stands for a value that does not exist."""
    return json.dumps([{k: None if v != v else v for k, v in row.items()} for row in rows], indent=1)
