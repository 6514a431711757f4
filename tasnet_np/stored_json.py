"""JSON files, read with suspicion: of a limited size, and of the types that the program goes on with.

Types are checked here, once, where a file is read. What comes out has them, all the way down.
"""

import dataclasses
import functools
import json
import math
import types
import typing

from tasnet_np.ranges import shown

MOST_BYTES = 1 << 20


def read_json(path, most_bytes=MOST_BYTES):
    """What is in a JSON file.

    Raises
    ------
    OSError
        It cannot be read.
    ValueError
        It is no JSON, nested too deeply, or larger than `most_bytes`.
    """
    with open(path, "rb") as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise ValueError(f"it is larger than {most_bytes / 1e6:.0f} MB")
    return parse_json(data)


def parse_json(text):
    """The same for a text or for bytes of UTF-8. Raises ValueError."""
    try:
        return json.loads(text.decode() if isinstance(text, bytes) else text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def build(kind, values):
    """An object of a dataclass, from a JSON object with its fields.

    Parameters
    ----------
    kind : type
        Its fields may be numbers, strings, lists, tuples, dicts, unions of these, and dataclasses.
    values : object
        As JSON gives it.

    Raises
    ------
    TypeError
        A field has another type than declared, is missing, or is unknown; the message names it.
    ValueError
        The dataclass refuses a value.
    """
    if not isinstance(values, dict):
        raise TypeError(f"{shown(values)} instead of an object")
    fields, made = _fields(kind), {}
    for name, value in values.items():
        fits, make = fields.get(name, (None, None))
        if fits and not fits(value):
            raise TypeError(f"{name} is {shown(value)}")
        made[name] = make(value) if make else value
    return kind(**made)


@functools.cache
def _fields(kind):
    """Of every field of a dataclass: the check of its type, and what makes the objects in it, if there are some."""
    return {name: (_check_of(one), _maker_of(one)) for name, one in typing.get_type_hints(kind).items()}


def _maker_of(declared):
    """What makes a field of dataclasses, or of a list of them, from JSON; None for other fields."""
    if dataclasses.is_dataclass(declared):
        return functools.partial(build, declared)
    if typing.get_origin(declared) is list and dataclasses.is_dataclass(typing.get_args(declared)[0]):
        return functools.partial(_build_each, typing.get_args(declared)[0])
    return None


def _build_each(kind, rows):
    objects = []
    try:
        for row in rows:
            objects.append(build(kind, row))
    except (TypeError, ValueError) as error:
        raise TypeError(f"number {len(objects) + 1} of {len(rows)}: {error}") from None
    return objects


def _check_of(declared):
    """A function that says whether a value from JSON is of a declared type.

    In JSON a tuple is a list, and a float may have no decimals. Infinity counts as a whole number: some limits may
    be infinite.
    """
    inner = [_check_of(one) for one in typing.get_args(declared) if one is not ...]
    origin = typing.get_origin(declared)
    if isinstance(declared, types.UnionType):
        return lambda value: any(fits(value) for fits in inner)
    if origin is list or origin is tuple and typing.get_args(declared)[-1] is ...:
        return lambda value: isinstance(value, list) and all(map(inner[0], value))
    if origin is tuple:
        return lambda value: (
            isinstance(value, list) and len(value) == len(inner) and all(f(v) for f, v in zip(inner, value))
        )
    if origin is dict:
        return lambda value: isinstance(value, dict) and all(map(inner[1], value.values()))
    if declared is int:
        return lambda value: type(value) is int or isinstance(value, float) and math.isinf(value)
    if declared is float:
        return lambda value: type(value) in (int, float)
    if dataclasses.is_dataclass(declared):
        return lambda value: isinstance(value, dict)
    return lambda value: isinstance(value, declared)
