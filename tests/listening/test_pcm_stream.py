"""Samples as bytes, and the WAV headers before them: what libsndfile reads and writes."""

import io

import numpy as np
import pytest
import soundfile

from tasnet_np.listening.pcm_stream import ENCODINGS, PCM, read_wav_header, wav_header

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
