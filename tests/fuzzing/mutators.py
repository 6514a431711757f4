"""Faults that files get: bits that flip, ends that are missing, chunks that are doubled, sizes that are a lie.

A mutator is a function of (rng, data, pieces): a random generator, the bytes, and a function that splits bytes into
pieces whose join is the bytes. It returns the new bytes. KEEPS has those that leave all sound where it is, in whatever
header: then all of it must come out, or an error. TAKES has those that remove or damage some.
"""

import struct

ODD_SIZES = (
    0,
    1,
    2,
    7,
    255,
    0x7FFF,
    0xFFFF,
    0x7FFFEFFF,
    0x7FFFF000,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFE,
    0xFFFFFFFF,
)


def _place(rng, data, width=0):
    """A place in the bytes: half of the time in the first 128, where headers are."""
    end = len(data) - width
    return int(rng.integers(0, max(1, min(end, 128) if rng.random() < 0.5 else end)))


def _range(rng, data):
    start, end = sorted(rng.integers(0, len(data) + 1, 2).tolist())
    return start, end if rng.random() < 0.5 else min(end, start + int(rng.integers(1, 64)))


def flip_bits(rng, data, pieces):
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        changed[_place(rng, data)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def random_bytes_in_the_header(rng, data, pieces):
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        changed[int(rng.integers(0, min(64, len(data))))] = int(rng.integers(256))
    return bytes(changed)


def odd_number(rng, data, pieces):
    """Four bytes that become an odd size, in either order."""
    at = _place(rng, data, 4)
    at -= at % 2 if rng.random() < 0.7 else 0
    return data[:at] + struct.pack(rng.choice(["<I", ">I"]), _odd(rng)) + data[at + 4 :]


def odd_size_of_a_piece(rng, data, pieces):
    """The same at the places where chunks, blocks and pages have their sizes."""
    parts = pieces(data)
    i = int(rng.integers(len(parts)))
    at = int(rng.choice([3, 4, 6, 18, 22]))
    size = struct.pack(rng.choice(["<I", ">I"]), _odd(rng))
    parts[i] = parts[i][:at] + size + parts[i][at + 4 :] if len(parts[i]) >= at + 4 else parts[i]
    return b"".join(parts)


def _odd(rng):
    return int(rng.choice(ODD_SIZES)) if rng.random() < 0.8 else int(rng.integers(1 << 32))


def append_bytes(rng, data, pieces):
    tags = (b"TAG" + bytes(125), b"LIST\4\0\0\0INFO", bytes(int(rng.integers(1, 3000))), rng.bytes(100))
    return data + tags[int(rng.integers(len(tags)))]


def cut(rng, data, pieces):
    return data[: int(rng.integers(1, len(data)))]


def remove_range(rng, data, pieces):
    start, end = _range(rng, data)
    return data[:start] + data[end:]


def zero_range(rng, data, pieces):
    start, end = _range(rng, data)
    return data[:start] + bytes(end - start) + data[end:]


def repeat_range(rng, data, pieces):
    start, end = _range(rng, data)
    return data[:end] + data[start:end] + data[end:]


def insert_bytes(rng, data, pieces):
    at = _place(rng, data)
    return data[:at] + rng.bytes(int(rng.integers(1, 200))) + data[at:]


def remove_piece(rng, data, pieces):
    parts = pieces(data)
    del parts[int(rng.integers(len(parts)))]
    return b"".join(parts)


def repeat_piece(rng, data, pieces):
    parts = pieces(data)
    i = int(rng.integers(len(parts)))
    return b"".join([*parts[: i + 1], *parts[i:]])


def exchange_pieces(rng, data, pieces):
    parts = pieces(data)
    i, j = rng.integers(0, len(parts), 2).tolist()
    parts[i], parts[j] = parts[j], parts[i]
    return b"".join(parts)


KEEPS = (flip_bits, random_bytes_in_the_header, odd_number, odd_size_of_a_piece, append_bytes)
TAKES = (
    cut, remove_range, zero_range, repeat_range, insert_bytes, remove_piece, repeat_piece, exchange_pieces,
)  # fmt: skip


# How files are split into pieces.


def chunks(order):
    """Of RIFF and FORM files: the head of 12 bytes, then the chunks."""

    def split(data):
        parts, at = [data[:12]], 12
        while at < len(data):
            size = int.from_bytes(data[at + 4 : at + 8], order)
            parts.append(data[at : at + 8 + size + size % 2])
            at += len(parts[-1])
        return parts

    return split


def at_each(mark):
    """Before every occurrence of some bytes: Ogg pages, entries of a zip file, frames."""

    def split(data):
        first, *others = data.split(mark)
        return [part for part in (first, *(mark + other for other in others)) if part] or [b""]

    return split


def lines(data):
    """Of texts."""
    return data.splitlines(keepends=True) or [b""]


def flac_blocks(data):
    """The mark, each metadata block, and the first bytes of the sound apart from the rest."""
    parts, at, last = [data[:4]], 4, False
    while not last and at < len(data):
        last, size = data[at] >> 7, int.from_bytes(data[at + 1 : at + 4], "big")
        parts.append(data[at : at + 4 + size])
        at += 4 + size
    return [*parts, *at_each(b"\xff\xf8")(data[at:])]


# Values of JSON.

ODD_VALUES = (
    None, True, False, 0, -1, 1, 2, 3.5, -0.0, 1e9, 1e39, 1e308, float("nan"), float("inf"), -float("inf"),
    1 << 31, 1 << 63, 1 << 80, 10**400, "", "x", "../../x", "\0", "\ud800", "a\nb", "1", "nan", "long" * 20000,
    [], {}, [1], [[]], {"a": 1},
)  # fmt: skip


def odd_value(rng, root):
    """Replace, remove, rename or add a value somewhere in a JSON value; returns the new one."""
    places = list(_places(root))
    if not places:
        return ODD_VALUES[int(rng.integers(len(ODD_VALUES)))]
    holder, key = places[int(rng.integers(len(places)))]
    odd = ODD_VALUES[int(rng.integers(len(ODD_VALUES)))]
    way = rng.random()
    if way < 0.7:
        holder[key] = odd
    elif way < 0.85:
        del holder[key]
    elif isinstance(holder, dict):
        holder["odd"] = odd
    else:
        holder.insert(key, odd)
    return root


def _places(value):
    """All (container, key) below a JSON value."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys):
        yield value, key
        yield from _places(value[key])
