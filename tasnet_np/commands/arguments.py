"""What an option of the command line may be, and a parser that tells a mistake in one line.

Each function returns a `type` for argparse. What it refuses becomes "--option value: what is wrong".
"""

import argparse
import os
import re

from tasnet_np.errors import UserError
from tasnet_np.ranges import shown

LONGEST_NAME = 255  # bytes of a file's name, on most systems


class Parser(argparse.ArgumentParser):
    """Raises a UserError for a mistake, where argparse prints the usage and exits."""

    def error(self, message):
        raise UserError(re.sub(r"^argument (\S+): ", r"\1 ", message))


def number(name, kind, allowed):
    """Numbers in a range.

    Parameters
    ----------
    name : str
        Of the setting, for the message.
    kind : int or float
    allowed : Range, or a function without arguments that returns it
        A function may import what a command has not loaded yet.
    """

    def read(text):
        try:
            value = kind(text)
        except ValueError:
            raise _refused(text, f"give a {'whole ' if kind is int else ''}number") from None
        try:
            (allowed() if callable(allowed) else allowed).check(name, value)
        except UserError as error:
            raise _refused(text, error) from None
        return value

    return read


def choice(words):
    """One of some words; `words` may be a function without arguments that returns them."""

    def read(text):
        known = words() if callable(words) else words
        if text not in known:
            raise _refused(text, f"give one of {', '.join(known)}")
        return text

    return read


def nonempty(text):
    """A name: of a file, of a folder, of a speaker."""
    if not text or "\0" in text:
        raise _refused(text, "give a name")
    if max(len(part.encode(errors="replace")) for part in text.split(os.sep)) > LONGEST_NAME:
        raise _refused(text, f"give a name of at most {LONGEST_NAME} bytes")
    return text


def preset(text):
    """The name of an architecture."""
    from tasnet_np.network.config import Config

    try:
        Config.preset(text)
    except ValueError as error:
        raise _refused(text, error) from None
    return text


def _refused(text, why):
    given = text if text.isprintable() and 0 < len(text) <= 40 else shown(text)
    return argparse.ArgumentTypeError(f"{given}: {why}")
