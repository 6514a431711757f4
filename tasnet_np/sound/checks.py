"""What a function of samples refuses before it computes."""

import numpy as np


def check_floats(name, samples, axes=None):
    """Refuse what is no array of floats: integers have another full scale, and lists have no type.

    Parameters
    ----------
    name : str
        Of the argument, for the message.
    samples : object
    axes : int, optional
        How many axes it must have.

    Raises
    ------
    TypeError
        No array, or an array of another type.
    ValueError
        Another number of axes.
    """
    dtype = getattr(samples, "dtype", None)
    if not isinstance(samples, np.ndarray) or dtype.kind != "f":
        found = type(samples).__name__ if dtype is None else f"an array of {dtype}"
        raise TypeError(f"{name} is {found}; give an array of floats, full scale 1")
    if axes is not None and samples.ndim != axes:
        raise ValueError(f"{name} has shape {samples.shape}; give an array with {axes} axes")
