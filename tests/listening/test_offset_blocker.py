"""The offset of a stream: gone from the first sample on, in pieces of any size, and at no cost where there is none."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tasnet_np
from tasnet_np.listening.live import Processor
from tasnet_np.listening.offset_blocker import CUTOFF_HZ, OffsetBlocker
from tasnet_np.listening.pcm_stream import PCM
from tasnet_np.listening.sound_stream import SoundStream
from tasnet_np.listening.stream import run
from tasnet_np.sound.audio_files import read
from tasnet_np.sound.metrics import si_snr

RATE = 8000
NOISY = Path(__file__).parents[2] / "data" / "noisy"


def sound(n, channels=1, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal((channels, n))).astype(np.float32)


def by_hand(samples, rate):
    """The formula of the module, sample by sample."""
    a = 1 - math.exp(-2 * math.pi * CUTOFF_HZ / rate)
    outputs = np.zeros(len(samples))
    mean = n = 0
    for i, x in enumerate(samples.astype(np.float64)):
        if n or x:
            n += 1
            mean += max(1 / n, a) * (x - mean)
        outputs[i] = x - mean
    return outputs


@pytest.mark.parametrize("rate", [RATE, 48000])
@pytest.mark.parametrize("offset", [0, 0.3, -20])
def test_the_formula(rate, offset):
    samples = sound(9000) + np.float32(offset)
    samples[:, :100] = 0
    outputs = OffsetBlocker(rate).process(samples)
    assert outputs.dtype == np.float32
    np.testing.assert_allclose(outputs[0], by_hand(samples[0], rate), atol=1e-6 * (0.1 + abs(offset)))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 700), min_size=1, max_size=6).filter(any), st.integers(0, 100))
def test_the_same_bits_in_pieces_of_any_size(sizes, seed):
    samples = sound(5000, 2, seed) + np.float32([[0.2], [-0.5]])
    samples.flags.writeable = False
    whole, blocker = OffsetBlocker(RATE, 2).process(samples), OffsetBlocker(RATE, 2)
    pieces, start = [], 0
    while start < samples.shape[1]:
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(blocker.process(samples[:, start : start + size]))
        start += size
    assert np.concatenate(pieces, axis=1).tobytes() == whole.tobytes()


def test_a_constant_is_silence_and_silence_stays():
    samples = np.float32([[0.3] * 3000, [0] * 3000, [0] * 1000 + [-7] * 2000])
    assert not OffsetBlocker(RATE, 3).process(samples).any()


def test_what_is_lost_is_below_the_cutoff():
    time = np.arange(20 * RATE) / RATE
    for hertz, least_db, most_db in ((80, -0.005, 0), (20, -0.01, 0), (0.05, -30, -15)):
        tone = np.sin(2 * np.pi * hertz * time).astype(np.float32)
        left = OffsetBlocker(RATE).process(tone[None])[0, 5 * RATE :]
        gain_db = 20 * np.log10(np.std(left) / np.std(tone[5 * RATE :]))
        assert least_db < gain_db < most_db


def streamed(model, samples, blocks=True):
    stream = SoundStream(model, RATE, len(samples))
    if not blocks:
        stream._offset = None
    return np.concatenate([stream.process(samples), stream.flush()], axis=-1)[0, 0]


@pytest.fixture(scope="module")
def model():
    return tasnet_np.load("pretrained")


@pytest.fixture(scope="module")
def noisy_and_clean():
    return [read(NOISY / f"{name}-mono-8k.wav").samples for name in ("noisy", "clean")]


def test_an_offset_costs_nothing_and_neither_does_its_absence(model, noisy_and_clean):
    noisy, clean = noisy_and_clean
    without = si_snr(streamed(model, noisy, blocks=False), clean[0])
    assert si_snr(streamed(model, noisy), clean[0]) == pytest.approx(without, abs=0.01)  # dB
    for offset in (0.01, 0.05, 0.2, -0.5):
        assert si_snr(streamed(model, noisy + np.float32(offset)), clean[0]) == pytest.approx(
            without, abs=0.01
        )
    spoilt = si_snr(streamed(model, noisy + np.float32(0.5), blocks=False), clean[0])
    assert spoilt < without - 5  # what it is for


def test_an_offset_that_sets_in_later_is_gone_after_a_second(model, noisy_and_clean):
    noisy, _ = noisy_and_clean
    blocked = OffsetBlocker(RATE).process(noisy)
    late = noisy + np.float32(0.2) * (np.arange(noisy.shape[1]) >= RATE)
    rest = (OffsetBlocker(RATE).process(late) - blocked)[0]
    assert rest[RATE] == pytest.approx(0.2, abs=1e-3)
    assert np.abs(rest[2 * RATE :]).max() < 0.05 * 0.2


def test_in_a_pipe_and_on_a_microphone(model):
    samples, offset = sound(RATE), np.float32(0.4)

    def piped(samples):
        output = io.BytesIO()
        data, _ = PCM("f32le", RATE, 1).encode(samples)
        run(model, io.BufferedReader(io.BytesIO(data)), output, lambda line: None, raw="f32le")
        return np.frombuffer(output.getvalue(), "<f4")

    def heard(samples):
        processor = Processor(model, RATE)
        return np.concatenate([processor(block) for block in samples[0].reshape(-1, 80)])

    for way in (piped, heard):
        expected, outputs = way(samples), way(samples + offset)
        assert np.abs(outputs - expected).max() < 1e-3 * np.abs(expected).max()


def test_without_the_level_the_network_hears_the_sound_as_it_is(model):
    samples = sound(4000) + np.float32(0.3)
    stream = SoundStream(model, RATE, level=False)
    outputs = np.concatenate([stream.process(samples), stream.flush()], axis=-1)
    expected = model.forward(samples, keep=False)[0]
    assert np.abs(outputs[:, 0] - expected).max() < 1e-4 * np.abs(expected).max()
