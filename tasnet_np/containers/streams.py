"""FLAC and Ogg: where their streams begin and end, and how much sound the header of each promises.

Nothing is decoded here: only the heads of files and pages are read.
"""

import re
from dataclasses import dataclass, replace

from tasnet_np.containers.parts import Part
from tasnet_np.errors import UserError

MOST_TAGS = 100  # before a file
FLAC_COUNT, FLAC_MOST = 21, (1 << 36) - 1  # place of the number of samples, and the largest one
FLAC_FIRST = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
OGG_PAGE = re.compile(rb"OggS\x00")
OGG_FIRST, OGG_HEAD = 2, 27  # the flag of a stream's first page; bytes of a page before its table of sizes


def after_id3(stretch):
    """Place after the ID3 tags with which a file begins."""
    place = stretch.start
    for _ in range(MOST_TAGS):
        head = stretch.at(place, 10)
        if len(head) < 10 or not head.startswith(b"ID3"):
            break
        size = sum((byte & 127) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0)))
        place += 10 + size + (10 if head[5] & 16 else 0)
    return place


def before_tags(stretch):
    """Place of the tags at the end of a file."""
    end = stretch.end
    if stretch.at(end - 128, 3) == b"TAG":
        end -= 128
    footer = stretch.at(end - 32, 32)
    if footer[:8] == b"APETAGEX":
        end -= int.from_bytes(footer[12:16], "little") + (32 if footer[23] & 128 else 0)
    return max(end, stretch.start)


def flac_parts(stretch, joined=False):
    """The part that a FLAC file is.

    libsndfile stops at the number of samples in the header, and cannot seek if that is 0. So it is told the largest
    number; the header's own is the promise that the samples are held against.

    Parameters
    ----------
    stretch : Stretch
        From the file's first byte on.
    joined : bool
        Look through all of it for another FLAC file, which takes time.

    Returns
    -------
    parts : list of Part
    following : int
        Place where another file begins that was joined to this one; the stretch's end if there is none.
    """
    head = stretch.at(stretch.start, 26)
    if len(head) < 26:
        return [], stretch.end
    following = next(stretch.find(FLAC_FIRST, stretch.start + 8), stretch.end) if joined else stretch.end
    stop = following if following < stretch.end else before_tags(stretch)
    promised = (head[21] & 15) << 32 | int.from_bytes(head[22:26], "big")
    patches = (_flac_count(head[21], FLAC_MOST),)
    return [Part(((stretch.start, stop),), patches, frames=promised, is_flac=True)], following


def flac_up_to(part, stop):
    """A FLAC part that ends after `stop` samples: a seek is slow where the header gives many more than are there."""
    (_, patch), *_ = part.patches
    return replace(part, patches=(_flac_count(patch[0], stop),))


def _flac_count(byte, count):
    """The patch that makes a FLAC header give a number of samples, which has 36 bits, 4 of them in this byte."""
    return FLAC_COUNT, bytes([byte & 0xF0 | count >> 32]) + (count & 0xFFFFFFFF).to_bytes(4, "big")


def ogg_parts(stretch):
    """The parts of an Ogg file: the streams that follow each other, of which libsndfile reads the first only.

    Parameters
    ----------
    stretch : Stretch
        From the file's first byte on.

    Returns
    -------
    parts : list of Part
    following : int
        The stretch's end.

    Raises
    ------
    UserError
        The file ends within a page, or the last page of a stream counts fewer samples than an earlier one.
    """
    parts, stream, place = [], _OggStream(stretch.start), stretch.start
    while place < stretch.end:
        page = _ogg_page(stretch, place)
        if page is None:
            place = next(stretch.find(OGG_PAGE, place + 1), stretch.end)
            continue
        if page.first and stream.has_samples:
            parts.append(stream.part(stretch.path))
            stream = _OggStream(place)
        place += page.size
        stream.add(page, place)
    return [*parts, stream.part(stretch.path)], stretch.end


@dataclass(frozen=True)
class _OggPage:
    size: int  # bytes
    first: bool  # it begins a stream
    serial: int  # number of its stream
    samples: int  # of the stream up to its end; -1 where no packet ends


class _OggStream:
    """One stream of an Ogg file, or several that run side by side."""

    def __init__(self, begin):
        self.begin = self.stop = begin
        self.has_samples = False  # a page came that is not the first of a stream
        self._counts = {}  # by stream: samples up to the end of the first page, of the last but one, and of the last
        self._most = {}  # by stream: the largest number on any page

    def add(self, page, stop):
        """Take in the page that ends at a place."""
        self.stop = stop
        self.has_samples |= not page.first
        if page.samples > 0:
            first, _, last = self._counts.get(page.serial, (page.samples, page.samples, page.samples))
            self._counts[page.serial] = first, last, page.samples
            self._most[page.serial] = max(page.samples, self._most.get(page.serial, 0))

    def part(self, path):
        """All of it as a Part. libsndfile stops at the number of samples on the last page, and counts back from it."""
        for serial, (_, _, last) in self._counts.items():
            if last < self._most[serial]:
                found = f"its last page counts {last} samples, an earlier one {self._most[serial]}"
                raise UserError(f"{path}: is damaged ({found}); convert it to WAV")
        last_seek = min((before - first for first, before, _ in self._counts.values()), default=0)
        return Part(((self.begin, self.stop),), last_seek=last_seek)


def _ogg_page(stretch, place):
    """The page at a place; None where none is."""
    head = stretch.at(place, OGG_HEAD + 255)
    if not head.startswith(b"OggS\x00"):
        return None
    sizes = head[OGG_HEAD : OGG_HEAD + head[OGG_HEAD - 1]] if len(head) >= OGG_HEAD else b""
    size = OGG_HEAD + sum(sizes) + len(sizes)
    if len(head) < OGG_HEAD + len(sizes) or place + size > stretch.end:
        if next(stretch.find(OGG_PAGE, place + 1), None) is not None:
            return None  # what looks like a page is none, or is damaged
        found = f"{stretch.end - place} of {size} bytes of its last page"
        raise UserError(f"{stretch.path}: is truncated ({found}); copy it again")
    samples = int.from_bytes(head[6:14], "little", signed=True)
    return _OggPage(size, bool(head[5] & OGG_FIRST), int.from_bytes(head[14:18], "little"), samples)
