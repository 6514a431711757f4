"""Files of chunks (WAV, RF64, W64, AIFF, CAF) and AU: where their samples begin and end.

A size in a header is held against what the file has. It is right if the file ends where the samples do, or if other
chunks, a tag or another file follow there. Otherwise the recorder died before it wrote the size, or the size did not
fit into 32 bits, and the samples go on to the end of the file.
"""

from dataclasses import dataclass, replace

from tasnet_np.containers.mp3 import mp3_length
from tasnet_np.containers.parts import ENDLESS, Part
from tasnet_np.errors import UserError

MOST_CHUNKS = 4096  # before the samples, and after them
ROUND, NEAR = 1 << 28, 1 << 16  # a stand-in for a size differs by at most NEAR from a multiple of ROUND
LARGEST_SIZE = (1 << 32) - (1 << 16)  # bytes of samples that a size of 32 bits can give
PART_BYTES = 1 << 30  # of samples in each part of a file that has more
TRAILERS = (
    b"LIST", b"id3 ", b"ID3 ", b"bext", b"cue ", b"smpl", b"iXML", b"JUNK", b"PEAK", b"DISP", b"NAME", b"ANNO",
    b"COMT", b"MARK",
)  # fmt: skip  # chunks after the samples: what is cut off them is no sound
TAGS = (b"TAG", b"ID3", b"APETAGEX")  # may stand after a file
WAV_PCM = (1, 3, 6, 7, 0xFFFE)  # kinds of samples that all have the same number of bytes
WAV_BLOCKS = (0x02, 0x11, 0x31)  # kinds of samples that are coded in blocks
WAV_MP3 = b"\x55\x00"  # the kind of samples that are an MP3 stream
AIFF_PCM = (b"NONE", b"twos", b"sowt", b"raw ", b"in24", b"in32", b"23ni", b"fl32", b"FL32", b"fl64", b"FL64")
AIFF_LAW = (b"ulaw", b"ULAW", b"alaw", b"ALAW")  # a sample has one byte, whatever the header says
AIFF_CODED = {
    b"DWVW": 16,
    b"GSM ": 159,
}  # codings whose header gives the length, and samples that may pad the end
AU_SAMPLE_BYTES = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}  # by coding


@dataclass(frozen=True)
class Container:
    """How a kind of file writes its chunks: a name, the size of the contents, the contents."""

    order: str  # of the bytes in a number
    first: int  # place of the first chunk
    name_bytes: int
    size_bytes: int
    align: int  # chunks begin at multiples of this
    head_counts: bool  # a size counts name and size, too
    sound: bytes  # name of the chunk of samples
    form: bytes  # name of the chunk that describes them
    lead: int = 0  # bytes of the sound chunk before its samples

    @property
    def head_bytes(self):
        return self.name_bytes + self.size_bytes

    def chunk(self, stretch, place):
        """Name, place of the contents and their size; None where no chunk is."""
        head = stretch.at(place, self.head_bytes)
        if len(head) < self.head_bytes or not all(32 <= byte < 127 for byte in head[:4]):
            return None
        size = int.from_bytes(head[self.name_bytes :], self.order)
        return head[:4], place + self.head_bytes, max(0, size - self.head_bytes * self.head_counts)

    def size(self, size):
        """The bytes that give the size of contents."""
        return (size + self.head_bytes * self.head_counts).to_bytes(self.size_bytes, self.order)

    def after(self, stretch, place):
        """Where the next chunk begins if the contents end at a place: some programs do not align it."""
        aligned = place + (stretch.start - place) % self.align
        return place if self.chunk(stretch, aligned) is None and self.chunk(stretch, place) else aligned


CONTAINERS = {
    "WAV": Container("little", 12, 4, 4, 2, False, b"data", b"fmt "),
    "RF64": Container("little", 12, 4, 4, 2, False, b"data", b"fmt "),
    "RIFX": Container("big", 12, 4, 4, 2, False, b"data", b"fmt "),
    "AIFF": Container("big", 12, 4, 4, 2, False, b"SSND", b"COMM", 8),
    "W64": Container("little", 40, 16, 8, 8, True, b"data", b"fmt "),
    "CAF": Container("big", 8, 4, 8, 1, False, b"data", b"desc", 4),
}


@dataclass(frozen=True)
class _Header:
    """What the chunks up to the samples say."""

    begin: int  # place of the first sample
    stated: int  # bytes of samples
    size_place: int  # of the size of the sound chunk, or of the 64-bit size of RF64
    form: bytes  # contents of the chunk that describes the samples
    form_place: int


def is_placeholder(size):
    """Whether a size is a stand-in for one that was not known: a large round number, or one with all bits set."""
    return size >= ROUND - NEAR and (size + NEAR) % ROUND <= 2 * NEAR


def chunk_parts(stretch, kind):
    """The parts of a file of chunks.

    Parameters
    ----------
    stretch : Stretch
        From the file's first byte on.
    kind : str
        A key of `CONTAINERS`.

    Returns
    -------
    parts : list of Part
        Empty where no chunk of samples is found.
    following : int
        Place where another file begins that was joined to this one; the stretch's end if there is none.

    Raises
    ------
    UserError
        There are fewer bytes of samples than the header says, or too many chunks before them.
    """
    container = CONTAINERS[kind]
    header = _header(stretch, container, kind)
    if header is None:
        return [], stretch.end
    frame = _frame_bytes(kind, header.form)
    count = _sound_bytes(stretch, container, header, frame)
    stop = header.begin + count
    following = _following(stretch, container, stop) or stretch.end
    if container.size_bytes == 4 and kind != "RF64" and count > LARGEST_SIZE:
        return _large_parts(stretch, container, header, frame, count), following
    if (
        count == header.stated and following == stretch.end and kind != "W64"
    ):  # libsndfile takes W64's chunks for sound
        stop = stretch.end
    frames, surplus, tail, patches = None, 0, 0, ()
    if kind == "AIFF" and header.form[18:22] in AIFF_CODED:
        frames, surplus = int.from_bytes(header.form[2:6], "big"), AIFF_CODED[header.form[18:22]]
        frames = 0 if is_placeholder(frames) else frames
        patches = (
            (header.form_place + 2 - stretch.start, b"\x7f\xff\xff\xff"),
        )  # libsndfile would stop there
    if container.form == b"fmt " and header.form[:2] == WAV_MP3:
        frames, tail = mp3_length(replace(stretch, start=header.begin, end=header.begin + count))
        stop, surplus = header.begin + count, 0 if frames is None else ENDLESS
    if count + tail != header.stated:
        patches += _size_patches(stretch, container, header, kind, count + tail)
    note = _note(header.stated, count)
    return [Part(((stretch.start, stop),), patches, tail, frames, surplus, note=note)], following


def au_parts(stretch):
    """The parts of an AU file, as of `chunk_parts`."""
    head = stretch.at(stretch.start, 24)
    order = "big" if head.startswith(b".snd") else "little"
    offset, stated, coding, _, channels = (int.from_bytes(head[k : k + 4], order) for k in range(4, 24, 4))
    begin = stretch.start + offset
    if offset < 24 or begin > stretch.end:
        return [], stretch.end
    header = _Header(begin, stated, stretch.start + 8, b"", 0)
    count = _sound_bytes(stretch, None, header, channels * AU_SAMPLE_BYTES.get(coding, 0))
    following = _following(stretch, None, begin + count) or stretch.end
    patches = () if count == stated else ((8, b"\xff\xff\xff\xff"),)  # to the end
    stop = stretch.end if count == stated and following == stretch.end else begin + count
    return [Part(((stretch.start, stop),), patches, note=_note(stated, count))], following


def _note(stated, count):
    """What to say of a header that gives a wrong number of bytes, and not only a stand-in."""
    if stated in (0, count) or is_placeholder(stated):
        return ""
    return f"its header gives {stated} bytes of samples, but {count} are there; all were taken"


def _header(stretch, container, kind):
    """The `_Header`, or None where no chunk of samples is found."""
    place, form, form_place, long_place = stretch.start + container.first, b"", 0, None
    for _ in range(MOST_CHUNKS):
        chunk = container.chunk(stretch, place)
        if chunk is None:
            return None
        name, contents, size = chunk
        if name == container.sound and kind == "RF64":
            stated = int.from_bytes(stretch.at(long_place, 8), "little") if long_place else 0
            return _Header(contents, stated, long_place, form, form_place) if long_place else None
        if name == container.sound:
            stated = max(0, size - container.lead)
            size_place = contents - container.size_bytes
            return _Header(contents + container.lead, stated, size_place, form, form_place)
        if name == container.form:
            form, form_place = stretch.at(contents, min(size, 64)), contents
        if name == b"ds64":
            long_place = contents + 8
        place = container.after(stretch, contents + size)
    raise UserError(
        f"{stretch.path}: has more than {MOST_CHUNKS} chunks before its samples; convert it to WAV"
    )


def _frame_bytes(kind, form):
    """Bytes of one sample of each channel; 0 where that is not known or not the same for all."""
    order = CONTAINERS[kind].order

    def number(start, stop):
        return int.from_bytes(form[start:stop], order)

    if kind == "CAF":
        return number(16, 20) if form[8:12] in (b"lpcm", b"ulaw", b"alaw") else 0
    if kind == "AIFF":
        channels, bits, coding = number(0, 2), number(6, 8), form[18:22] or b"NONE"
        return channels * (-(-bits // 8) if coding in AIFF_PCM else 1 if coding in AIFF_LAW else 0)
    coding, channels, bits = number(0, 2), number(2, 4), number(14, 16)
    return channels * -(-bits // 8) if coding in WAV_PCM else 0


def _sound_bytes(stretch, container, header, frame):
    """How many bytes of samples there are."""
    available = max(0, stretch.end - header.begin)
    whole = available - available % (frame or _block_bytes(container, header.form))
    if header.stated > available:
        if is_placeholder(header.stated):
            return whole
        found = f"{available} of {header.stated} bytes of samples"
        raise UserError(f"{stretch.path}: is truncated ({found}); copy it again")
    stated = [header.stated]
    if container and container.size_bytes == 4:  # a size beyond 32 bits was written without its upper bits
        stated = list(range(header.stated, available + 1, 1 << 32))
    if container and container.form == b"COMM":
        stated.append(int.from_bytes(header.form[2:6], "big") * frame)
    for size in stated:
        count = -(-size // frame) * frame if frame else size
        if count <= available and _following(stretch, container, header.begin + count) is not None:
            return count
    return whole


def _block_bytes(container, form):
    """Bytes that are decoded together; 1 where that is not known."""
    is_coded = (
        container and container.form == b"fmt " and int.from_bytes(form[:2], container.order) in WAV_BLOCKS
    )
    return max(1, int.from_bytes(form[12:14], container.order)) if is_coded else 1


def _following(stretch, container, place):
    """Where another file begins, if there are only chunks before it; the end if only they follow, or else None."""
    if container:
        place = container.after(stretch, place)
    for _ in range(MOST_CHUNKS):
        if place >= stretch.end or stretch.at(place, 8).startswith(TAGS):
            return stretch.end
        if stretch.kind(place):
            return place
        chunk = container.chunk(stretch, place) if container else None
        if chunk is None:
            return None
        name, contents, size = chunk
        if contents + size > stretch.end:  # it is cut, and no sound, if its name or the size of all says so
            in_all = container.chunk(stretch, stretch.start)
            ends_with_all = in_all and 0 <= in_all[1] + in_all[2] - (contents + size) < container.align
            return stretch.end if name in TRAILERS or ends_with_all else None
        place = container.after(stretch, contents + size)
    return stretch.end


def _size_patches(stretch, container, header, kind, count):
    """What makes the header say that there are so many bytes of samples."""
    size = count.to_bytes(8, "little") if kind == "RF64" else container.size(count + container.lead)
    return ((header.size_place - stretch.start, size),)


def _large_parts(stretch, container, header, frame, count):
    """Parts of samples below one header each: its size has 32 bits."""
    if not frame:
        found = f"has {count} bytes of coded samples, more than its header can give"
        raise UserError(f"{stretch.path}: {found}; convert it to FLAC")
    parts, step = [], PART_BYTES - PART_BYTES % frame
    for begin in range(header.begin, header.begin + count, step):
        stop = min(begin + step, header.begin + count)
        ranges = ((stretch.start, header.begin), (begin, stop))
        patches = _size_patches(stretch, container, header, "", stop - begin)
        note = _note(header.stated, count)
        parts.append(Part(ranges, patches, frames=(stop - begin) // frame, surplus=ENDLESS, note=note))
    return parts
