"""A filter for pipes: sound on standard input, speech on standard output.

    arecord -f S16_LE -r 8000 | tasnet-np stream --model RUN | aplay
    ffmpeg -i in.mp4 -f wav - | tasnet-np stream --model RUN | ffmpeg -i - out.flac
    sox in.wav -t raw -e signed -b 16 - | tasnet-np stream --model RUN --raw s16le --rate 44100 > out.raw

What comes out has the encoding, rate, channels and length of what goes in.
"""

import math
import struct
import time
from dataclasses import dataclass

import numpy as np

from tasnet_np.audio import STREAMED
from tasnet_np.files import UserError
from tasnet_np.config import SOURCES
from tasnet_np.online import OnlineSeparator
from tasnet_np.streaming import Streamer

ENCODINGS = ("u8", "s16le", "s24le", "s32le", "f32le", "f64le")  # as ffmpeg calls them
UNKNOWN = 0xFFFFFFFF  # the size that a WAV header gives where the length is not known yet
INTEGER, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE  # how a WAV header tells the kind of samples
INPUT = "standard input"


@dataclass(frozen=True)
class PCM:
    """Uncompressed samples: frames of one sample per channel, full scale is 1."""

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
        """Whole frames as bytes -> samples (channels, n) float32."""
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
        """Samples (channels, n) -> bytes, and how many samples had to be clipped to fit."""
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
    """The format of a WAV stream and the bytes of samples that follow (None if it does not say).

    Raises
    ------
    UserError : something else than WAV, or samples of another kind than `ENCODINGS`
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
            return pcm, None if size >= STREAMED else size
        contents = _exactly(file, size + size % 2)  # chunks start at even places
        if name == b"fmt ":
            pcm = _wav_format(contents)
    raise UserError(f"{INPUT}: ends within the WAV header; record or copy it again")


def _wav_format(contents):
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
    """The 44 bytes before the samples; data_bytes None for a length that is not known yet."""
    kind = FLOAT if pcm.encoding.startswith("f") else INTEGER
    bits, per_second = 8 * pcm.sample_bytes, pcm.rate * pcm.frame_bytes
    contents = struct.pack("<HHIIHH", kind, pcm.channels, pcm.rate, per_second, pcm.frame_bytes, bits)
    known = data_bytes is not None
    return b"".join(
        [b"RIFF", struct.pack("<I", 36 + data_bytes + data_bytes % 2 if known else UNKNOWN), b"WAVE"]
        + [b"fmt ", struct.pack("<I", len(contents)), contents]
        + [b"data", struct.pack("<I", data_bytes if known else UNKNOWN)]
    )


def _exactly(file, size):
    """So many bytes, fewer only at the end."""
    data = b""
    while len(data) < size and (more := file.read1(size - len(data))):
        data += more
    return data


def frames_of(file, pcm, size, most):
    """Yield samples (channels, n) as they arrive, up to `most` frames at once.

    Of `size` bytes, or of all if it is None.

    Raises
    ------
    UserError : the input ends within a frame, or before `size`
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


class Timing:
    """How long blocks of a stream took to compute: a histogram, so that its size does not grow."""

    FINEST, RATIO, BINS = 1e-7, 1.02, 1024  # seconds per hop: bins 2 % wide, from 0.1 microseconds on

    def __init__(self, rate, hop_seconds):
        self.rate, self.hop_seconds = rate, hop_seconds
        self.seconds, self.samples, self.blocks, self.missed, self.longest = 0.0, 0, 0, 0, 0.0
        self._counts = np.zeros(self.BINS, int)

    def add(self, seconds, samples):
        """A block of so many samples took so many seconds; it is late if it took longer than it lasts."""
        duration = samples / self.rate
        per_hop = seconds * self.hop_seconds / duration
        place = math.log(max(per_hop, self.FINEST) / self.FINEST, self.RATIO)
        self._counts[min(int(place), self.BINS - 1)] += 1
        self.seconds += seconds
        self.samples += samples
        self.blocks += 1
        self.missed += seconds > duration
        self.longest = max(self.longest, per_hop)

    def quantile(self, share):
        """Seconds per hop that this share of the blocks did not exceed, to 2 %."""
        place = np.searchsorted(np.cumsum(self._counts), share * self.blocks)
        return self.FINEST * self.RATIO ** (place + 1)

    def report(self):
        """The statistics as one line."""
        if not self.blocks:
            return "no sound came in"
        sound = self.samples / self.rate
        half, most = self.quantile(0.5), self.quantile(0.99)
        return (
            f"{sound:.1f} s of sound in {self.seconds:.1f} s (real-time factor {self.seconds / sound:.3f}); "
            f"per hop of {1000 * self.hop_seconds:g} ms: median {1e6 * half:.0f} us, p99 {1e6 * most:.0f} us, "
            f"longest {1e6 * self.longest:.0f} us; {self.missed} of {self.blocks} blocks took too long"
        )


def time_streaming(model, seconds=0.5):
    """How long this machine takes for a stream of noise, hop by hop: a `Timing`."""
    config = model.config
    streamer, timing = Streamer(model), Timing(config.sample_rate, config.hop / config.sample_rate)
    count = round(seconds * config.sample_rate / config.hop)
    for hop in 0.1 * np.random.default_rng(0).standard_normal((count, config.hop)).astype(model.dtype):
        start = time.perf_counter()
        streamer.process(hop)
        timing.add(time.perf_counter() - start, config.hop)
    return timing


def run(
    model, file, output, say, *, raw=None, rate=None, channels=None, source="speech", level=True,
    memory_seconds=math.inf, block_seconds=0.01,
):  # fmt: skip
    """Denoise one stream into another until it ends.

    Parameters
    ----------
    model : ConvTasNet
    file, output : binary files; the first has `read1`
    say : function of a line for the user: the latency at the start, statistics at the end
    raw, rate, channels : the format of samples without a header; by default a WAV header says it
    source : "speech" or "noise"
    level, memory_seconds : as for `OnlineSeparator`
    block_seconds : most sound that is taken in at once

    Raises
    ------
    UserError : an input that is no sound or breaks off. What came before it has been written.
    ValueError : a model that cannot be streamed; a setting out of range
    """
    if source not in SOURCES:
        raise UserError(f"--source {source}: give one of {', '.join(SOURCES)}")
    if not 0 < block_seconds <= 10:
        raise UserError(f"--block-ms {1000 * block_seconds:g}: give more than 0 and at most 10000")
    pcm, size = (_raw_format(raw, rate, channels, model), None) if raw else _wav_input(file, rate, channels)
    separator = OnlineSeparator(model, pcm.rate, pcm.channels, level=level, memory_seconds=memory_seconds)
    config = model.config
    timing = Timing(pcm.rate, config.hop / config.sample_rate)
    parts = separator.latency_ms
    budget = " + ".join(f"{name} {ms:g}" for name, ms in parts.items())
    say(f"{pcm.encoding}, {pcm.rate} Hz, {pcm.channels} channels; latency {sum(parts.values()):g} ms ({budget})")
    if not raw:
        output.write(wav_header(pcm, size))
    clipped = 0

    def put(sources):
        nonlocal clipped
        data, too_loud = pcm.encode(sources[SOURCES.index(source)])
        output.write(data)
        output.flush()
        clipped += too_loud

    try:
        for samples in frames_of(file, pcm, size, max(1, round(block_seconds * pcm.rate))):
            start = time.perf_counter()
            sources = separator.process(samples)
            timing.add(time.perf_counter() - start, samples.shape[1])
            put(sources)
    except (UserError, KeyboardInterrupt):
        put(separator.flush())
        raise
    else:
        put(separator.flush())
        output.write(bytes(0 if raw or size is None else size % 2))  # chunks end at even places
        output.flush()
    finally:
        say(timing.report())
        if separator.replaced:
            say(f"warning: {separator.replaced} samples were NaN or infinite and were taken as 0")
        if clipped:
            say(f"warning: {clipped} samples were too loud for {pcm.encoding} and were clipped")


def _raw_format(raw, rate, channels, model):
    if raw not in ENCODINGS:
        raise UserError(f"--raw {raw}: give one of {', '.join(ENCODINGS)}")
    pcm = PCM(raw, model.config.sample_rate if rate is None else rate, 1 if channels is None else channels)
    if pcm.rate < 1 or pcm.channels < 1:
        raise UserError(f"--rate {pcm.rate}, --channels {pcm.channels}: give whole numbers above 0")
    return pcm


def _wav_input(file, rate, channels):
    if rate is not None or channels is not None:
        raise UserError("--rate, --channels: are for --raw; a WAV header has its own")
    return read_wav_header(file)
