"""Samples as bytes, and the WAV headers before them: what libsndfile reads and writes."""

import io
import tracemalloc

import numpy as np
import pytest
import soundfile
from made_up_audio import APE, ID3V1, chunk, encoded, over, voice, wav

from tasnet_np.containers.chunks import MOST_CHUNKS
from tasnet_np.errors import UserError
from tasnet_np.listening.pcm_stream import ENCODINGS, PCM, frames_of, read_wav_header, wav_header

RATE = 8000
STEP = {"u8": 2**-7, "s16le": 2**-15, "s24le": 2**-23, "s32le": 2**-24, "f32le": 2**-24, "f64le": 2**-24}
SUBTYPES = dict(zip(ENCODINGS, ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")))


def sound(n, channels=1):
    return (0.1 * np.random.default_rng(0).standard_normal((channels, n))).astype(np.float32)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_decoding_is_what_libsndfile_reads(encoding):
    samples = np.clip(sound(100, 3) * 5, -1, 0.999)
    file = io.BytesIO()
    soundfile.write(file, samples.T, RATE, SUBTYPES[encoding], format="WAV")
    data = file.getvalue()
    pcm, size = read_wav_header(io.BufferedReader(io.BytesIO(data)))
    assert pcm == PCM(encoding, RATE, 3)
    whole, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    assert np.array_equal(pcm.decode(data[-size:]), whole.T)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_encoding_undoes_decoding(encoding):
    pcm = PCM(encoding, RATE, 2)
    samples = sound(500, 2)
    data, clipped = pcm.encode(samples)
    assert clipped == 0 and len(data) == 500 * pcm.frame_bytes
    assert np.abs(pcm.decode(data) - samples).max() <= STEP[encoding] / 2
    assert pcm.encode(pcm.decode(data))[0] == data


def test_what_is_too_loud_is_clipped_and_counted():
    samples = np.array([[1.5, -1.5, 1.0, -1.0, 0.0]], np.float32)
    for encoding in ("u8", "s16le", "s24le", "s32le"):
        data, clipped = PCM(encoding, RATE, 1).encode(samples)
        assert clipped == 3  # 1.0 is one step too loud
        assert PCM(encoding, RATE, 1).decode(data)[0] == pytest.approx([1, -1, 1, -1, 0], abs=STEP[encoding])
    data, clipped = PCM("f32le", RATE, 1).encode(samples)
    assert clipped == 0 and np.array_equal(PCM("f32le", RATE, 1).decode(data), samples)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("channels, frames", [(1, 101), (2, 80)])
def test_the_header_is_read_by_libsndfile(encoding, channels, frames):
    pcm, samples = PCM(encoding, 44100, channels), sound(frames, channels)
    data, _ = pcm.encode(samples)
    for size in (len(data), None):
        file = wav_header(pcm, size) + data + bytes(len(data) % 2)
        info = soundfile.SoundFile(io.BytesIO(file))
        assert (info.samplerate, info.channels, info.subtype) == (44100, channels, SUBTYPES[encoding])
        assert np.abs(info.read(always_2d=True)[:frames].T - samples).max() <= STEP[encoding] / 2
        again, left = read_wav_header(io.BufferedReader(io.BytesIO(file)))
        assert (again, left) == (pcm, size)


SAMPLES = voice(1)
PLAIN = wav(SAMPLES)
BYTES = PLAIN[44:]


def streamed(data, most=300):
    """What a stream with a WAV header holds as samples, and the size that its header gives."""
    file = io.BufferedReader(io.BytesIO(data))
    pcm, size = read_wav_header(file)
    frames = [np.zeros((pcm.channels, 0), np.float32)]
    try:
        for block in frames_of(file, pcm, size, most):
            assert 0 < block.shape[1] <= most
            frames.append(block)
    except UserError as error:
        return pcm.encode(np.concatenate(frames, axis=1))[0], size, str(error)
    return pcm.encode(np.concatenate(frames, axis=1))[0], size, ""


@pytest.mark.parametrize(
    "size",
    [0, 0xFFFFFFFF, 0x7FFFF000, 0x80000000, 0x7FFFFFFF - 44, 0x7FFFEFFF, 0xFFFFFFF0, 0x40000000, 0x80000024],
)
def test_stand_ins_for_a_size(size):
    assert streamed(wav(SAMPLES, size)) == (BYTES, None, "")


@pytest.mark.parametrize("size", [1, 2, 500, 1999, 2000, len(BYTES) - 2])
def test_samples_beyond_the_promised_ones_are_taken_and_named(size):
    data, stated, error = streamed(wav(SAMPLES, size))
    assert data == BYTES and stated == size + size % 2
    assert f"its header gives {stated} bytes of samples, but {len(BYTES)} came" in error


def test_a_size_that_lacks_a_byte_of_the_last_sample():
    assert streamed(wav(SAMPLES, len(BYTES) - 1)) == (BYTES, len(BYTES), "")


@pytest.mark.parametrize("size", [len(BYTES) + 2, 200_000, 3_000_000_000])
def test_fewer_samples_than_promised(size):
    data, _, error = streamed(wav(SAMPLES, size))
    assert data == BYTES and f"is cut short ({len(BYTES)} of {size} bytes)" in error


@pytest.mark.parametrize(
    "after",
    [chunk(b"LIST", b"x" * 100), chunk(b"abcd", b"odd"), ID3V1, APE, chunk(b"LIST", b"x" * 100)[:50], b""],
)
def test_chunks_after_the_samples_are_none(after):
    assert streamed(PLAIN + after) == (BYTES, len(BYTES), "")
    odd = wav(SAMPLES[:-1], subtype="PCM_U8")
    size = len(SAMPLES) - 1
    assert streamed(odd + after) == (odd[44:][:size], size, "")
    assert streamed(odd[:-1] + after) == (odd[44:][:size], size, "")  # without the byte that makes it even


def test_another_file_after_the_first_is_refused():
    data, _, error = streamed(PLAIN + PLAIN)
    assert data == BYTES and "holds another WAV file after the first" in error


def test_rf64():
    data = encoded(SAMPLES, format="RF64")
    place = data.index(b"ds64") + 16
    assert streamed(data) == (BYTES, len(BYTES), "")
    assert streamed(over(data, place, bytes(8))) == (BYTES, None, "")
    assert streamed(over(data, place, b"\xff" * 8)) == (BYTES, None, "")


class Endless(io.RawIOBase):
    """A beginning, and then the same bytes again and again. It counts them."""

    def __init__(self, beginning, again):
        self.beginning, self.again, self.count = beginning, again, 0

    def read1(self, most):
        piece, self.beginning = self.beginning[:most], self.beginning[most:]
        piece = piece or (self.again * (most // len(self.again) + 1))[:most]
        self.count += len(piece)
        return piece


@pytest.mark.parametrize(
    "beginning, again, most, found",
    [
        (PLAIN[:12], bytes(8), 100, r"has a WAV header with b'\\x00\\x00\\x00\\x00' for a chunk's name"),
        (PLAIN[:12], b"JUNK" + bytes(4), 8 * MOST_CHUNKS + 100, "more than 4096 chunks before its samples"),
        (PLAIN[:12] + b"LIST\xf0\xff\xff\xff", bytes(8), 1 << 33, "for a chunk's name"),
        (PLAIN[:12] + b"fmt \xf0\xff\xff\xff" + PLAIN[20:36], bytes(8), 1 << 33, "for a chunk's name"),
        (over(PLAIN[:44], 22, b"\xff\xff"), bytes(8), 100, "has 65535 channels; give at most 64 at once"),
        (over(PLAIN[:44], 24, b"\1\0\0\0"), bytes(8), 100, "has a sample rate of 1; give one between 1000"),
        (
            over(PLAIN[:44], 24, b"\xff\xff\xff\x7f"),
            bytes(8),
            100,
            "has a sample rate of 2147483647; give one",
        ),
    ],
)
def test_headers_without_end(beginning, again, most, found):
    file = Endless(beginning, again)
    tracemalloc.start()
    with pytest.raises(UserError, match=found):
        read_wav_header(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert file.count <= most and peak < 1_000_000


def test_a_header_for_more_than_its_size_can_hold():
    assert wav_header(PCM("s16le", RATE, 1), 1 << 33)[40:] == b"\xff" * 4
