"""Sound as a stream of bytes: uncompressed samples (PCM), with a WAV header before them or without."""

import struct
from dataclasses import dataclass

import numpy as np

from tasnet_np.containers.chunks import MOST_CHUNKS, TAGS, TRAILERS, is_placeholder
from tasnet_np.errors import UserError
from tasnet_np.sound.channels import MOST_CHANNELS
from tasnet_np.sound.resampling import check_sound_rate

ENCODINGS = ("u8", "s16le", "s24le", "s32le", "f32le", "f64le")  # as ffmpeg calls them
UNKNOWN_SIZE = 0xFFFFFFFF  # what a WAV header gives where the length is not known yet
INTEGER, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE  # how a WAV header tells the kind of samples
FILES = (b"RIFF", b"RF64")  # how a WAV file begins
INPUT = "standard input"
SKIPPED_AT_ONCE = 1 << 16  # bytes of a chunk that is not needed
LARGEST_TRAILER = 1 << 24  # bytes of a chunk after the samples whose name is not known


@dataclass(frozen=True)
class PCM:
    """How samples are written as bytes: frame after frame, one sample of each channel in a frame.

    Parameters
    ----------
    encoding : str
        One of `ENCODINGS`.
    rate : int
        Samples per second.
    channels : int
    """

    encoding: str
    rate: int
    channels: int

    @property
    def sample_bytes(self):
        return int(self.encoding.strip("usfle")) // 8

    @property
    def frame_bytes(self):
        return self.sample_bytes * self.channels

    def decode(self, data):
        """Turn the bytes of whole frames into samples (channels, n) of float32; full scale is 1."""
        if self.encoding.startswith("f"):
            values = np.frombuffer(data, f"<f{self.sample_bytes}")
        else:
            # The bytes of a sample become the upper ones of a 32-bit integer.
            values = np.zeros((len(data) // self.sample_bytes, 4), np.uint8)
            values[:, 4 - self.sample_bytes :] = np.frombuffer(data, np.uint8).reshape(len(values), -1)
            if self.encoding == "u8":  # unsigned: 128 is 0
                values[:, 3] ^= 128
            values = values.view("<i4")[:, 0] / 2.0**31
        with np.errstate(over="ignore"):  # a double beyond float32 becomes infinite, and then 0
            return np.ascontiguousarray(values.reshape(-1, self.channels).T, dtype=np.float32)

    def encode(self, samples):
        """Turn samples (channels, n) into bytes. Also returns how many samples were clipped to fit."""
        frames = np.ascontiguousarray(samples.T).reshape(-1)
        if self.encoding.startswith("f"):
            return frames.astype(f"<f{self.sample_bytes}").tobytes(), 0
        largest = 2.0 ** (8 * self.sample_bytes - 1)
        scaled = np.rint(frames.astype(np.float64) * largest)
        values = np.clip(scaled, -largest, largest - 1)
        octets = (values * (2.0**31 / largest)).astype("<i4").view(np.uint8).reshape(-1, 4)
        octets = octets[:, 4 - self.sample_bytes :]
        if self.encoding == "u8":
            octets = octets ^ 128
        return octets.tobytes(), int(np.count_nonzero(scaled != values))


def read_wav_header(file):
    """Read the WAV header at the beginning of a stream.

    Parameters
    ----------
    file : binary file with `read1`

    Returns
    -------
    pcm : PCM
    size : int or None
        Bytes of samples that follow, whole frames; None if the header does not say.

    Raises
    ------
    UserError
        The stream is no WAV, ends within the header, has too many chunks or channels, a sample rate that no sound
        has, or samples of another kind than `ENCODINGS`.
    """
    header = _exactly(file, 12)
    if header[:4] not in FILES or header[8:] != b"WAVE":
        found = f"begins with {header!r}, not with a WAV header" if header else "is empty"
        remedy = "give WAV, or --raw with --rate and --channels for samples alone"
        raise UserError(f"{INPUT}: {found}; {remedy}")
    pcm, long_size = None, 0
    for _ in range(MOST_CHUNKS):
        chunk = _exactly(file, 8)  # name, size, contents
        if len(chunk) < 8:
            raise UserError(f"{INPUT}: ends within the WAV header; record or copy it again")
        name, size = chunk[:4], int.from_bytes(chunk[4:], "little")
        if name == b"data" and pcm:
            return pcm, _stated_size(pcm, long_size if size == UNKNOWN_SIZE else size)
        if not all(32 <= byte < 127 for byte in name):
            raise UserError(
                f"{INPUT}: has a WAV header with {name!r} for a chunk's name; record or copy it again"
            )
        contents = _exactly(file, min(size, 64))
        _skip(file, size + size % 2 - len(contents))  # chunks start at even places
        if name == b"fmt ":
            pcm = _wav_format(contents)
        if name == b"ds64":  # of RF64: sizes of 64 bits
            long_size = int.from_bytes(contents[8:16], "little")
    raise UserError(
        f"{INPUT}: has more than {MOST_CHUNKS} chunks before its samples; convert it with another program"
    )


def _stated_size(pcm, size):
    """Bytes of samples that a header gives, up to the end of the last frame; None where it does not say."""
    return None if size == 0 or is_placeholder(size) else -(-size // pcm.frame_bytes) * pcm.frame_bytes


def _wav_format(contents):
    """The PCM that the contents of a `fmt ` chunk describe."""
    if len(contents) < 16:
        raise UserError(f"{INPUT}: has a WAV header that is cut short; record or copy it again")
    kind, channels, rate, _, _, bits = struct.unpack("<HHIIHH", contents[:16])
    if kind == EXTENSIBLE:
        kind = int.from_bytes(contents[24:26], "little")
    encoding = {INTEGER: "u8" if bits == 8 else f"s{bits}le", FLOAT: f"f{bits}le"}.get(kind)
    if encoding not in ENCODINGS:
        found = f"WAV samples of kind {kind} with {bits} bits"
        raise UserError(f"{INPUT}: has {found}; convert to one of {', '.join(ENCODINGS)}")
    if not channels or not rate:
        raise UserError(f"{INPUT}: has {channels} channels at {rate} Hz; record or export it again")
    if channels > MOST_CHANNELS:
        raise UserError(f"{INPUT}: has {channels} channels; give at most {MOST_CHANNELS} at once")
    check_sound_rate(INPUT, rate)
    return PCM(encoding, rate, channels)


def wav_header(pcm, data_bytes):
    """The 44 bytes of a WAV file before its samples.

    Parameters
    ----------
    pcm : PCM
    data_bytes : int or None
        Bytes of samples that follow; None if that is not known yet.

    Returns
    -------
    bytes
    """
    kind = FLOAT if pcm.encoding.startswith("f") else INTEGER
    bits, per_second = 8 * pcm.sample_bytes, pcm.rate * pcm.frame_bytes
    contents = struct.pack("<HHIIHH", kind, pcm.channels, pcm.rate, per_second, pcm.frame_bytes, bits)
    known = data_bytes is not None and 36 + data_bytes + data_bytes % 2 < UNKNOWN_SIZE
    return b"".join(
        [b"RIFF", struct.pack("<I", 36 + data_bytes + data_bytes % 2 if known else UNKNOWN_SIZE), b"WAVE"]
        + [b"fmt ", struct.pack("<I", len(contents)), contents]
        + [b"data", struct.pack("<I", data_bytes if known else UNKNOWN_SIZE)]
    )


def _exactly(file, size):
    """Read `size` bytes; fewer only at the end of the file."""
    data = b""
    while len(data) < size and (more := file.read1(size - len(data))):
        data += more
    return data


def _skip(file, size):
    """Read `size` bytes and forget them; fewer only at the end of the file."""
    while size > 0 and (more := file.read1(min(size, SKIPPED_AT_ONCE))):
        size -= len(more)


def frames_of(file, pcm, size, most):
    """Decode a stream as it arrives. Samples that come after the promised ones are decoded, too.

    Parameters
    ----------
    file : binary file with `read1`
    pcm : PCM
    size : int or None
        Bytes that the header promises; None if it does not say.
    most : int
        Frames to decode at once, at most.

    Yields
    ------
    ndarray, shape (channels, n), float32

    Raises
    ------
    UserError
        The input ends within a frame, has fewer bytes than `size`, or has more samples.
    """
    samples, data = _Samples(file, size), b""
    while more := samples.read(most * pcm.frame_bytes - len(data)):
        data += more
        whole = len(data) - len(data) % pcm.frame_bytes
        if whole:
            yield pcm.decode(data[:whole])
        data = data[whole:]
    if data:
        frame = f"a frame of {pcm.encoding} with {pcm.channels} channels has {pcm.frame_bytes} bytes"
        raise UserError(f"{INPUT}: ends with {len(data)} bytes too many; {frame}: check the format")
    samples.check()


class _Samples:
    """The bytes of samples in a stream: as many as are promised, and what follows them unless it is a chunk."""

    def __init__(self, file, size):
        self._file, self._size, self._count = file, size, 0
        self._ahead = b""  # bytes that were read to see what they are

    def read(self, most):
        """Up to `most` bytes; none at the end."""
        if self._count == self._size:
            self._ahead = _samples_beyond(self._file, self._size)
            if not self._ahead:
                return b""
        if self._ahead:
            piece, self._ahead = self._ahead[:most], self._ahead[most:]
        else:
            left = most if self._size is None or self._count > self._size else self._size - self._count
            piece = self._file.read1(min(most, left))
        self._count += len(piece)
        return piece

    def check(self):
        """Refuse a number of bytes that is not the promised one."""
        size, count = self._size, self._count
        if size is not None and count < size:
            raise UserError(f"{INPUT}: is cut short ({count} of {size} bytes); copy or record it again")
        if size is not None and count > size:
            found = f"its header gives {size} bytes of samples, but {count} came"
            remedy = (
                "all were taken, but the header of the output was written before: mend both, or give --raw"
            )
            raise UserError(f"{INPUT}: {found}; {remedy}")


def _samples_beyond(file, size):
    """What follows the promised samples, if that is samples, too: its first bytes. None if it is a chunk or the end."""
    head = _exactly(file, 8 + size % 2)
    chunks = [head[size % 2 :], head[:8]]  # at an even place, as it should be, or not
    if any(chunk.startswith(FILES) for chunk in chunks):
        raise UserError(
            f"{INPUT}: holds another WAV file after the first, which was left out; give one at a time"
        )
    if len(head) <= size % 2 or any(_is_chunk(chunk) for chunk in chunks):
        return b""
    return head


def _is_chunk(head):
    """Whether these bytes begin a chunk that may stand after the samples."""
    if head.startswith((*TRAILERS, *TAGS)):
        return True
    size = int.from_bytes(head[4:8], "little")
    return len(head) == 8 and all(32 <= byte < 127 for byte in head[:4]) and size < LARGEST_TRAILER
