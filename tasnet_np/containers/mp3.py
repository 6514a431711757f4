"""MP3: where its runs of frames begin and end, and how many frames a tag promises.

A frame is found by its head, and the head gives its size. Nothing is decoded.
"""

import functools
import re
from dataclasses import dataclass, replace

from tasnet_np.containers.parts import ENDLESS, Part
from tasnet_np.containers.streams import before_tags
from tasnet_np.errors import UserError

FRAME = re.compile(rb"(?=\xff[\xe2-\xff][\x10-\xef])")  # also where one begins within another
KBPS = {  # by the first version or a later one, and by the layer
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
RATES = {
    3: (44100, 48000, 32000),
    2: (22050, 24000, 16000),
    0: (11025, 12000, 8000),
}  # Hz, by the version's bits
TAG = re.compile(rb"Xing|Info|VBRI")
HEAD = 64  # bytes of a frame that show whether it is a tag with the number of frames
MOST_JUNK = 1 << 24  # bytes between frames, such as pictures in tags
AT_ONCE = 1 << 18  # bytes that are read to count frames


def mp3_parts(stretch):
    """The parts of an MP3 file: its runs of frames without anything between them.

    A tag in the first frame gives the number of frames, and how many samples the encoder added. Without one libsndfile
    guesses the length by the size of the first frame and of the file. So it is given a larger file, and is stopped
    after the frames that were counted here.

    Parameters
    ----------
    stretch : Stretch
        From the place on from which frames are looked for.

    Returns
    -------
    parts : list of Part
    following : int
        The stretch's end.

    Raises
    ------
    UserError
        There are no frames, or fewer than a tag promises.
    """
    frames = replace(stretch, end=before_tags(stretch))
    tag = _tag(frames.at(frames.start, HEAD))
    if tag and tag.is_known and tag.bytes == frames.end - frames.start:
        return [Part(((frames.start, frames.end),))], stretch.end  # what it says is right
    parts, group = [], []
    for run in _runs(frames, frames.start):
        if run.tag and group:
            parts += _parts_of_runs(stretch.path, group)
            group = []
        group.append(run)
    if not group:
        raise UserError(f"{stretch.path}: not readable as audio (no MP3 frames are found); convert it to WAV")
    return parts + _parts_of_runs(stretch.path, group), stretch.end


def mp3_length(stretch):
    """The length of an MP3 stream within another kind of file.

    Parameters
    ----------
    stretch : Stretch

    Returns
    -------
    frames : int or None
        Samples of each channel; None where a tag gives them.
    tail : int
        Zeros that must follow, so that libsndfile does not guess a smaller number.
    """
    runs = list(_runs(stretch, stretch.start))
    if not runs or runs[0].tag:
        return None, 0
    parts = [run.part() for run in runs]
    return sum(part.frames for part in parts), sum(part.tail for part in parts)


@dataclass(frozen=True)
class _Tag:
    """What the first frame says of all frames, if it is a tag."""

    frames: int  # 0 where it does not say
    bytes: int  # the same
    is_known: bool  # to libsndfile


@dataclass(frozen=True)
class _Run:
    """Frames one after the other."""

    start: int
    sound: int  # place of the first frame that is no tag
    stop: int
    count: int  # frames of sound
    frame_bytes: int  # of the first of them
    samples: int  # of each channel, in a frame
    tag: _Tag | None

    def part(self):
        """The frames of sound as a Part."""
        guessed_from = (self.count + 2) * (
            self.frame_bytes + 1
        )  # bytes: libsndfile's guess is not lower then
        tail = max(0, guessed_from - (self.stop - self.sound))
        return Part(((self.sound, self.stop),), tail=tail, frames=self.count * self.samples, surplus=ENDLESS)


def _parts_of_runs(path, runs):
    """The parts of a run with a tag and of those after it without."""
    tag, samples = runs[0].tag, runs[0].samples
    promised, found = tag.frames if tag else 0, sum(run.count for run in runs)
    if found < promised:
        raise UserError(
            f"{path}: is truncated ({found * samples} of {promised * samples} samples); copy it again"
        )
    parts = [run.part() for run in runs if run.count]
    if promised and promised == runs[0].count and tag.is_known:
        parts[0] = Part(
            ((runs[0].start, runs[0].stop),)
        )  # libsndfile leaves out the samples that the encoder added
    return parts


def _runs(stretch, place):
    """The `_Run`s from a place on."""
    while (start := _sync(stretch, place)) is not None:
        head = stretch.at(start, HEAD)
        tag = _tag(head)
        sound = start + _frame_bytes(head[1], head[2]) if tag else start
        count, place, frame_bytes = _count(stretch, sound, _kind(head))
        yield _Run(start, sound, place, count, frame_bytes, _samples(head[1]), tag)


def _count(stretch, place, kind):
    """The number of frames of a kind from a place on, where they end, and the bytes of the first one.

    They end before a tag, too: another file begins there.
    """
    count, frame_bytes, block, offset = 0, 0, b"", 0
    while True:
        if len(block) - offset < HEAD:
            block, offset = stretch.at(place, AT_ONCE), 0
        head = block[offset : offset + HEAD]
        size = _frame_bytes(head[1], head[2]) if _kind(head) == kind else 0
        if not size or place + size > stretch.end or _tag(head):
            return count, place, frame_bytes
        count, place, offset, frame_bytes = count + 1, place + size, offset + size, frame_bytes or size


def _sync(stretch, begin):
    """The first place from `begin` on where a frame begins that another one or the end follows; None if none does."""
    for place in stretch.find(FRAME, begin):
        if place - begin > MOST_JUNK:
            found = f"has more than {MOST_JUNK} bytes from byte {begin} on that are no MP3 frames"
            raise UserError(f"{stretch.path}: not readable as audio ({found}); convert it to WAV")
        head = stretch.at(place, HEAD)
        size = _frame_bytes(head[1], head[2]) if _kind(head) else 0
        if size and (place + size == stretch.end or _kind(stretch.at(place + size, 4)) == _kind(head)):
            return place
    return None


def _kind(head):
    """What all frames of a file have in common: version, layer, rate, and whether they are mono. None for no head."""
    if len(head) < 4 or head[0] != 0xFF or not _frame_bytes(head[1], head[2]):
        return None
    return head[1] & 0xFE, head[2] & 12, head[3] >> 6 == 3


@functools.cache
def _frame_bytes(second, third):
    """Size of a frame by the second and the third byte of its head; 0 if they are not of a head."""
    version, layer, kbps, rate = second >> 3 & 3, 4 - (second >> 1 & 3), third >> 4, third >> 2 & 3
    if second < 0xE0 or version == 1 or layer == 4 or kbps in (0, 15) or rate == 3:
        return 0
    hertz, kbps = RATES[version][rate], KBPS[version == 3, layer][kbps - 1]
    slot = 4 if layer == 1 else 1  # bytes that are added at once
    return (_samples(second) // 8 // slot * 1000 * kbps // hertz + (third >> 1 & 1)) * slot


def _samples(second):
    """Samples of each channel in a frame, by the second byte of its head."""
    version, layer = second >> 3 & 3, 4 - (second >> 1 & 3)
    return 384 if layer == 1 else 576 if layer == 3 and version != 3 else 1152


def _tag(head):
    """What a frame says of all frames, if it is a tag."""
    if not TAG.search(head):
        return None
    if head[36:40] == b"VBRI":
        return _Tag(int.from_bytes(head[50:54], "big"), int.from_bytes(head[46:50], "big"), False)
    is_mono, is_version_1 = head[3] >> 6 == 3, head[1] >> 3 & 3 == 3
    side = (17 if is_mono else 32) if is_version_1 else (9 if is_mono else 17)
    for place in (4 + side, 6 + side):  # a checksum may come before
        if head[place : place + 4] in (b"Xing", b"Info"):
            flags, frames, size = (int.from_bytes(head[place + k : place + k + 4], "big") for k in (4, 8, 12))
            return _Tag(frames if flags & 1 else 0, size if flags & 3 == 3 else 0, True)
    return None
