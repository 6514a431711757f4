"""Samples that are no sound: NaN, infinity, and values so large that they can only be damage.

Full scale is 1. A sample of 1e38, as a flipped bit leaves it, is a number like any other, but its square is not one in
float32: it would turn all that follows in a stream into NaN. In a file a bad sample is an error that names it, as
it can be mended there. In a stream it is taken as 0 and counted.
"""

import numpy as np

from tasnet_np.errors import UserError

LARGEST = 1e4  # 80 dB above full scale


def bad_samples(samples):
    """Where samples are NaN, infinite or beyond `LARGEST`: an array of bool, of their shape."""
    with np.errstate(invalid="ignore"):
        return ~(np.abs(samples) <= LARGEST)


def check_finite(name, samples, first=0):
    """Refuse samples of which some are bad.

    Parameters
    ----------
    name : str or Path
        Of the recording, for the error.
    samples : ndarray, shape (channels, n) or (n,), floats
    first : int
        Number of the first of these samples in the recording.

    Raises
    ------
    UserError
        It says how many samples are bad, and which is the first.
    """
    with np.errstate(invalid="ignore"):
        if samples.size == 0 or -LARGEST <= samples.min() <= samples.max() <= LARGEST:  # not so with NaN
            return
    bad = bad_samples(samples)
    place = int(np.argmax(np.atleast_2d(bad).any(axis=0)))
    values = np.atleast_2d(samples)[:, place]
    value = values[bad_samples(values)][0]
    found = f"{np.count_nonzero(bad)} of {samples.size} samples are {what_is_bad(samples[bad])}"
    raise UserError(f"{name}: {found}, the first is sample {first + place} ({value:g}); mend them")


def what_is_bad(values):
    """Bad samples in words."""
    finite = np.isfinite(values)
    if not finite.any():
        return "NaN or infinite"
    too_large = f"absurdly large (above {LARGEST:g}; full scale is 1)"
    return too_large if finite.all() else f"NaN, infinite or {too_large}"
