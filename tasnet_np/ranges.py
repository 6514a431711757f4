"""What a number may be: said once for a setting, and used by Python, by the command line and for files."""

import math
import reprlib
from dataclasses import dataclass

from tasnet_np.errors import UserError

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 2, 60, 60, 40


def shown(value):
    """A value as a message shows it, cut short where it is long."""
    return _SHORT.repr(value)


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`. NaN is in no range, and infinity only where it is a bound.

    Parameters
    ----------
    low, high : float
    whole : bool
        Whole numbers only.
    above, below : bool
        Without `low` itself; without `high` itself.
    words : str
        How to tell the range, instead of the one bound that a value breaks.
    """

    low: float = 0
    high: float = math.inf
    whole: bool = False
    above: bool = False
    below: bool = False
    words: str = ""

    def broken(self, value):
        """The bound that a value breaks, in words such as "at least 1"; "" where it is in the range."""
        fits = self._is_of_its_kind(value)
        if not fits or not (value > self.low if self.above else value >= self.low):
            return self.words or f"{'above' if self.above else 'at least'} {self.low}"
        if not (value < self.high if self.below else value <= self.high):
            return self.words or f"{'below' if self.below else 'at most'} {self.high}"
        return ""

    def check(self, name, value, kind=""):
        """Raise a UserError where a value is not in the range.

        Parameters
        ----------
        name : str
            What the message begins with.
        value : object
        kind : str
            What the message calls the number, as in "a whole number of". By default it says so only where the value
            is no such number.
        """
        bound = self.broken(value)
        if not bound:
            return
        if not kind and not self._is_of_its_kind(value):
            kind = "a whole number of" if self.whole else "a number"
        demand = "not be negative" if (kind, bound) == ("", "at least 0") else f"be {kind} {bound}"
        raise UserError(f"{name} must {' '.join(demand.split())}, not {shown(value)}")

    def _is_of_its_kind(self, value):
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            return False
        return not self.whole or isinstance(value, int) or value == self.high == math.inf


def check_all(ranges, settings):
    """Check the attributes of an object that `ranges` has a Range for, in that order."""
    for name, allowed in ranges.items():
        allowed.check(name, getattr(settings, name))


def check_stored(ranges, values):
    """Check what a file holds, a dict of numbers and of further dicts, against one of Ranges with the same keys.

    Raises
    ------
    KeyError
        A number is missing.
    UserError
        A value is not in its range, or of another type.
    """
    for name, allowed in ranges.items():
        if not isinstance(allowed, dict):
            allowed.check(name, values[name])
        elif isinstance(values[name], dict):
            check_stored(allowed, values[name])
        else:
            raise UserError(f"{name} is {shown(values[name])}")


# What several settings have in common. A bound is far beyond what makes sense; it keeps a slip from taking all memory.
MOST_STEPS = 100_000_000
COUNT = Range(0, MOST_STEPS, whole=True)
DURATION = Range(0, 1e12)  # seconds
SEED = Range(0, (1 << 63) - 1, whole=True)  # of random numbers
SHARE = Range(0, 1, above=True, below=True, words="between 0 and 1")  # of recordings, held out
SNR = Range(-200, 200)  # dB
