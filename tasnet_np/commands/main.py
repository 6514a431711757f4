"""The command line: tasnet-np prepare, train, report, denoise, stream, live, evaluate, compare, info, gradcheck.

Exit status: 0 done; 1 a check failed; 2 a mistake in the input, told in one line; 130 stopped by Ctrl-C;
141 the reader of the output has gone (what a shell reports for a program that SIGPIPE ended).
"""

import os
import sys

from tasnet_np import __version__
from tasnet_np.commands import denoise, evaluate, gradcheck, info, prepare, report, stream, train
from tasnet_np.commands.arguments import Parser
from tasnet_np.errors import UserError


def main(arguments=None):
    """Run one command; return the exit status."""
    try:
        options = _parser().parse_args(arguments)
        return options.run(options)
    except (UserError, ValueError) as error:
        print(f"error: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return 2
    except MemoryError:
        print("error: not enough memory; use shorter files or a smaller batch", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _parser():
    parser = Parser(
        prog="tasnet-np",
        description="Speech denoising with a Conv-TasNet written by hand.",
        epilog="Exit status: 0 done; 1 a check failed; 2 a mistake in the input, told in one line; 130 stopped by "
        "Ctrl-C; 141 the reader of the output has gone.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    for module in (prepare, train, report, denoise, stream, evaluate, info, gradcheck):
        module.add(commands)
    return parser
