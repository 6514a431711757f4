"""What a user is told during the work: lines and progress bars. Telling never stops the work.

A stream may be missing (a program without a console), closed, full, without some characters, or read by nobody any
more. What it does not take is left out.

tqdm takes a while to import. So only the functions that need it import it.
"""

import sys


class TextStream:
    """A text stream that takes what it can. Its failures do not stop who writes to it.

    Parameters
    ----------
    current : function without arguments
        Returns the text file to write to, or None for nowhere.
    """

    def __init__(self, current):
        self._current = current

    def write(self, text):
        """Write text, with an escape like ``\\u017e`` for each character that the stream does not have."""
        stream = self._current()
        try:
            if stream is not None:
                _write_any(stream, text)
        except (OSError, ValueError) as error:
            self.failed(error)
        return len(text)

    def flush(self):
        """Hand over what was written."""
        stream = self._current()
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError) as error:
            self.failed(error)

    def isatty(self):
        """Whether it is a terminal."""
        stream = self._current()
        return stream is not None and not stream.closed and stream.isatty()

    def failed(self, error):
        """Called with the OSError of a write, or the ValueError of a closed file."""

    def __getattr__(self, name):
        return getattr(self._current(), name)


def _write_any(stream, text):
    try:
        stream.write(text)
    except UnicodeEncodeError:
        stream.write(text.encode(stream.encoding, "backslashreplace").decode(stream.encoding))


OUTPUT = TextStream(lambda: sys.stdout)
ERRORS = TextStream(lambda: sys.stderr)


def say(line):
    """Print a line on standard output, above the progress bars."""
    _tell(line, OUTPUT)


def warn(line):
    """Print a warning on standard error, above the progress bars."""
    _tell(f"warning: {line}", ERRORS)


def _tell(line, stream):
    from tqdm import tqdm

    with tqdm.external_write_mode(file=ERRORS):  # the bars are gone meanwhile
        stream.write(f"{line}\n")
        stream.flush()


def progress_bar(items=None, *, shown=True, **options):
    """A tqdm bar on standard error, with tqdm's own options."""
    from tqdm import tqdm

    return tqdm(items, file=ERRORS, disable=not shown, dynamic_ncols=True, **options)


def printable(name):
    """A name for a picture or a page: an escape stands for each character that cannot be shown.

    Such are control characters, and the bytes of a file's name that are not UTF-8 (surrogates).
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(name))
