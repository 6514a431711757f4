"""The command line: tasnet-np prepare, train, report, denoise, stream, live, evaluate, compare, info, gradcheck.

Exit status: 0 done; 1 a check failed; 2 a mistake in the input, or a file or standard output that cannot be written,
told in one line; 130 stopped by Ctrl-C, and a training, which can be resumed, also by SIGTERM or SIGHUP; 143 and 129
by SIGTERM or SIGHUP; 141 the reader of the output has gone (what a shell reports where SIGPIPE ended a program).
"""

import argparse
import sys

from tasnet_np import __version__
from tasnet_np.commands import denoise, evaluate, gradcheck, info, prepare, report, stream, train


def main(arguments=None):
    """Run one command; return the exit status."""
    from tasnet_np.commands.standard_streams import standard_streams
    from tasnet_np.safe_files import in_one_line
    from tasnet_np.training.interrupts import Terminated, raise_on_termination

    with standard_streams():
        try:
            with raise_on_termination():
                return _run(arguments)
        except BrokenPipeError:  # the reader of our output has gone
            return 141
        except OSError as error:
            return _refuse(in_one_line(error))
        except ValueError as error:  # a UserError, or a mistake that the library found
            return _refuse(" ".join(str(error).splitlines()))
        except MemoryError:
            return _refuse("not enough memory; use shorter files or a smaller batch")
        except Terminated as signal:
            print("stopped", file=sys.stderr)
            return 128 + signal.number
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            return 130


def _run(arguments):
    """Parse the arguments and run their command; return its exit status."""
    try:
        options = _parser().parse_args(arguments)
    except SystemExit:
        sys.stdout.finish()  # --help and --version have written
        raise
    status = options.run(options)
    sys.stdout.finish()
    return status


def _refuse(reason):
    print(f"error: {reason}", file=sys.stderr)
    return 2


def _parser():
    parser = argparse.ArgumentParser(
        prog="tasnet-np",
        description="Speech denoising with a Conv-TasNet written by hand.",
        epilog="Exit status: 0 done; 1 a check failed; 2 a mistake in the input, or a file or standard output that "
        "cannot be written, told in one line; 130 stopped by Ctrl-C; 141 the reader of the output has gone.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    for module in (prepare, train, report, denoise, stream, evaluate, info, gradcheck):
        module.add(commands)
    return parser
