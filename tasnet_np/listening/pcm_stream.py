"""Sound as a stream of bytes: uncompressed samples (PCM), with a WAV header before them or without."""

import struct
from dataclasses import dataclass

import numpy as np

from tasnet_np.errors import UserError
from tasnet_np.sound.audio_files import PLACEHOLDER_SIZE
from tasnet_np.sound.checks import check_floats

ENCODINGS = ("u8", "s16le", "s24le", "s32le", "f32le", "f64le")  # as ffmpeg calls them
UNKNOWN_SIZE = 0xFFFFFFFF  # what a WAV header gives where the length is not known yet
INTEGER, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE  # how a WAV header tells the kind of samples
INPUT = "standard input"


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
        check_floats("samples", samples, axes=2)
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
        Bytes of samples that follow; None if the header does not say.

    Raises
    ------
    UserError
        The stream is no WAV, ends within the header, or has samples of another kind than `ENCODINGS`.
    """
    header = _exactly(file, 12)
    if header[:4] != b"RIFF" or header[8:] != b"WAVE":
        found = f"begins with {header!r}, not with a WAV header" if header else "is empty"
        remedy = "give WAV, or --raw with --rate and --channels for samples alone"
        raise UserError(f"{INPUT}: {found}; {remedy}")
    pcm = None
    while len(chunk := _exactly(file, 8)) == 8:  # name, size, contents
        name, size = chunk[:4], int.from_bytes(chunk[4:], "little")
        if name == b"data" and pcm:
            return pcm, None if size >= PLACEHOLDER_SIZE else size
        contents = _exactly(file, size + size % 2)  # chunks start at even places
        if name == b"fmt ":
            pcm = _wav_format(contents)
    raise UserError(f"{INPUT}: ends within the WAV header; record or copy it again")


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
    known = data_bytes is not None
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


def frames_of(file, pcm, size, most):
    """Decode a stream as it arrives.

    Parameters
    ----------
    file : binary file with `read1`
    pcm : PCM
    size : int or None
        Bytes to read; None for all.
    most : int
        Frames to decode at once, at most.

    Yields
    ------
    ndarray, shape (channels, n), float32

    Raises
    ------
    UserError
        The input ends within a frame, or before `size`.
    """
    left, data = size, b""
    while left is None or left > 0:
        room = most * pcm.frame_bytes - len(data)
        more = file.read1(room if left is None else min(room, left))
        if not more:
            break
        left = None if left is None else left - len(more)
        data += more
        whole = len(data) - len(data) % pcm.frame_bytes
        if whole:
            yield pcm.decode(data[:whole])
        data = data[whole:]
    if data:
        frame = f"a frame of {pcm.encoding} with {pcm.channels} channels has {pcm.frame_bytes} bytes"
        raise UserError(f"{INPUT}: ends with {len(data)} bytes too many; {frame}: check the format")
    if left:
        raise UserError(f"{INPUT}: is cut short ({size - left} of {size} bytes); copy or record it again")
