"""Standard input, output and error as the commands need them, in whatever state a command gets them.

- Closed, or None: text for them goes nowhere. /dev/null takes their numbers: otherwise the next file that is opened
  would have such a number, and text would go into that file.
- An encoding without some characters: escapes stand for them.
- Standard error that is full or broken: what it does not take is left out.
- Standard output that is full or broken: an error with its name, as files have theirs.
- A stream that does not wait (O_NONBLOCK): it waits from now on. Otherwise a pause would look like the end.
"""

import contextlib
import os
import sys

from tasnet_np.errors import UserError
from tasnet_np.messages import TextStream

INPUT, OUTPUT = "standard input", "standard output"
EXAMPLE = "arecord -f S16_LE -r 8000 | tasnet-np stream --model RUN | aplay"
NUMBERS = range(3)  # file descriptors of standard input, output and error


@contextlib.contextmanager
def standard_streams():
    """Prepare the standard streams for a command, and give them back after it."""
    _prepare_descriptors()
    given = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Output(lambda: given[0]), TextStream(lambda: given[1])
    try:
        yield
    finally:
        sys.stdout, sys.stderr = given
        for stream in given:
            _abandon_unwritten(stream)


def _prepare_descriptors():
    for number in NUMBERS:
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
        with contextlib.suppress(OSError, AttributeError):  # Windows cannot do it with every stream
            os.set_blocking(number, True)


def _abandon_unwritten(stream):
    """Let go of what a stream still holds and cannot write: Python would fail with it when the program ends."""
    try:
        stream.flush()
    except (AttributeError, ValueError):  # None, or closed
        pass
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Output(TextStream):
    """Standard output, for text.

    Attributes
    ----------
    is_needed : bool
        Whether a failure stops the command. Otherwise the command goes on to its end; that a reader has left is no
        failure then, and any other one is raised by `finish`.
    """

    def __init__(self, current):
        super().__init__(current)
        self.is_needed = True
        self._failure = None  # the first one: argparse, for one, overlooks it

    def failed(self, error):
        if isinstance(error, OSError):
            error.filename = OUTPUT
            self._failure = self._failure or error
            if self.is_needed:
                raise error

    def finish(self):
        """Hand over what was written. Raises OSError, with the stream's name, where something could not be."""
        self.flush()
        if self._failure and (self.is_needed or not isinstance(self._failure, BrokenPipeError)):
            raise self._failure


class Bytes:
    """Standard input or output, for bytes. Its errors have its name.

    Parameters
    ----------
    name : str
        INPUT or OUTPUT.
    stream : text file or None

    Raises
    ------
    UserError
        The stream is closed, or a terminal.
    """

    def __init__(self, name, stream):
        self._name = name
        self._file = getattr(stream, "buffer", None)
        if self._file is None:
            raise UserError(f"{name}: is closed; put it between other programs, as in {EXAMPLE}")
        if stream.isatty():
            raise UserError(f"{name}: is a terminal; put it between other programs, as in {EXAMPLE}")

    def read1(self, size):
        with self._named():
            return self._file.read1(size)

    def write(self, data):
        with self._named():
            return self._file.write(data)

    def flush(self):
        with self._named():
            self._file.flush()

    @contextlib.contextmanager
    def _named(self):
        try:
            yield
        except OSError as error:
            error.filename = self._name
            raise
