"""A file in parts: the stretches of bytes that libsndfile reads as files of their own.

libsndfile believes a header's lengths. Where they are wrong, it is given a `PartFile` instead of the file itself: the
stretch of the file that is sound, below a header that tells the truth. `chunk_files` and `coded_files` find the parts.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

ENDLESS = math.inf
BLOCK_BYTES, LONGEST_MATCH = 1 << 16, 64  # of what `Stretch.find` reads at once and looks for

_KINDS = (  # kind, and how the first 12 bytes of such a file begin and end
    ("WAV", b"RIFF", b"WAVE"),
    ("RF64", b"RF64", b"WAVE"),
    ("RIFX", b"RIFX", b"WAVE"),
    ("AIFF", b"FORM", b"AIFF"),
    ("AIFF", b"FORM", b"AIFC"),
    ("W64", b"riff", b"\xa5\xd6\x28\xdb"),
    ("CAF", b"caff\x00\x01", b""),
    ("AU", b".snd\x00\x00", b""),
    ("AU", b"dns.", b""),
    ("FLAC", b"fLaC\x00\x00\x00\x22", b""),
    ("FLAC", b"fLaC\x80\x00\x00\x22", b""),
    ("OGG", b"OggS\x00\x02", b""),
)


@dataclass(frozen=True)
class Part:
    """A stretch of a file that can be read as a file of its own."""

    ranges: tuple  # (start, stop) places in the file, put one after the other
    patches: tuple = ()  # (place in the part, the bytes that stand there instead)
    tail: int = 0  # zeros after that, for a decoder that guesses the number of samples from the size
    frames: int | None = None  # samples of each channel; 0 where nothing says, None where libsndfile knows
    surplus: float = 0  # so many samples after them are no sound, but padding of the coding
    last_seek: int | None = None  # samples beyond this one are not found by a seek, but by reading on from it
    is_flac: bool = False
    note: str = ""  # what is strange about the header

    def is_whole(self, size):
        """Whether this is a whole file of that many bytes, as it is."""
        return self.ranges == ((0, size),) and not self.patches and not self.tail


@dataclass(frozen=True)
class Stretch:
    """A file from one place to another, in which parts are looked for."""

    file: BinaryIO
    path: Path  # for errors
    start: int
    end: int

    def at(self, place, count):
        """Up to `count` bytes from a place on."""
        if not 0 <= place < self.end:
            return b""
        self.file.seek(place)
        return self.file.read(min(count, self.end - place))

    def find(self, pattern, place):
        """Yield the places at which a compiled pattern matches, from a place on."""
        while data := self.at(place, BLOCK_BYTES):
            is_last = len(data) < BLOCK_BYTES
            stop = len(data) if is_last else len(data) - LONGEST_MATCH
            yield from (place + found.start() for found in pattern.finditer(data) if found.start() < stop)
            place += len(data) if is_last else stop

    def kind(self, place):
        """The kind of audio file that begins at a place: "WAV", "AIFF", ...; None if it is none of those known."""
        head = self.at(place, 12)
        for kind, first, last in _KINDS:
            if head.startswith(first) and head.endswith(last):
                return kind
        return None


class PartFile:
    """A part as a file to read, for libsndfile.

    C code calls its methods, which no exception can cross: an OSError is kept in `error`.
    """

    def __init__(self, file, part):
        self.error = None
        self._file, self._part, self._place = file, part, 0
        self._content = sum(stop - start for start, stop in part.ranges)
        self._size = self._content + part.tail

    def seek(self, offset, whence=0):
        self._place = max(0, offset + (0, self._place, self._size)[whence])
        return self._place

    def tell(self):
        return self._place

    def read(self, count):
        count = max(0, min(count, self._size - self._place))
        try:
            data = bytearray(self._from_file(self._place, count))
        except OSError as error:
            self.error = error
            return b""
        if self._place + len(data) >= self._content:
            data += bytes(count - len(data))
        self._patch(data)
        self._place += len(data)
        return bytes(data)

    def _from_file(self, place, count):
        """Up to `count` bytes of the ranges, from a place in the part."""
        data = b""
        for start, stop in self._part.ranges:
            if place < stop - start and len(data) < count:
                self._file.seek(start + place)
                data += self._file.read(min(count - len(data), stop - start - place))
            place = max(0, place - (stop - start))
        return data

    def _patch(self, data):
        """Put the patches over what was read at the present place."""
        for place, patch in self._part.patches:
            first, last = max(place, self._place), min(place + len(patch), self._place + len(data))
            if first < last:
                data[first - self._place : last - self._place] = patch[first - place : last - place]
