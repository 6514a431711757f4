"""Sound as it arrives: the whole recording's result, at any rate, with a stated delay."""

import dataclasses

import numpy as np
import pytest

from tasnet_np.errors import UserError
from tasnet_np.listening.sound_stream import SoundStream
from tasnet_np.network.config import PRESETS
from tasnet_np.network.execution import ConvTasNet
from tasnet_np.network.gradcheck import reduced
from tasnet_np.sound.channels import MOST_CHANNELS
from tasnet_np.sound.level import fit_level
from tasnet_np.sound.resampling import resample
from tasnet_np.streaming.streamer import Streamer


def model_of(preset="small", dtype=np.float32):
    return ConvTasNet(reduced(PRESETS[preset]), dtype=dtype)


def sound(n, channels=1):
    return (0.1 * np.random.default_rng(0).standard_normal((channels, n))).astype(np.float32)


def in_pieces(stream, samples, sizes):
    outputs, start = [], 0
    while start < samples.shape[1]:
        size = sizes[len(outputs) % len(sizes)]
        outputs.append(stream.process(samples[:, start : start + size]))
        start += size
    return np.concatenate([*outputs, stream.flush()], axis=-1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rate", [8000, 16000, 44100, 6000])
@pytest.mark.parametrize("n", [1, 777, 3001])
def test_resampled_there_and_back_in_pieces(rate, n, dtype):
    model, samples = model_of("small", dtype), sound(n, channels=2)
    heard = resample(samples, rate, 8000).astype(dtype)
    expected = resample(model.forward(heard, keep=False).astype(np.float32), 8000, rate)[..., :n]
    outputs = in_pieces(SoundStream(model, rate, 2, level=False), samples, [100, 0, 33])
    assert outputs.shape == (2, 2, n) and outputs.dtype == np.float32
    assert np.abs(outputs - expected.swapaxes(0, 1)).max() <= 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize("preset", ["small", "origin"])
@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
def test_the_latency_is_kept(preset, rate):
    stream = SoundStream(model_of(preset), rate)
    allowed = sum(stream.latency_ms.values()) / 1000
    came_out, late = 0, []
    for i, sample in enumerate(sound(rate // 4).T):
        came_out += stream.process(sample[None]).shape[-1]
        late.append((i + 1 - came_out) / rate)
    assert allowed - 2e-3 < max(late) <= allowed + 1 / rate


def test_the_parts_of_the_latency():
    config = PRESETS["origin"]
    small = dataclasses.replace(
        reduced(config), filter_length=config.filter_length, blocks=5, lookahead_blocks=5
    )
    stream = SoundStream(ConvTasNet(small), 48000)
    expected = {"window": 2.0, "look-ahead": 31.0, "resampling": 2 * 10 / 16}
    assert stream.latency_ms == pytest.approx(expected)
    assert SoundStream(model_of(), 8000).latency_ms == pytest.approx({"window": 6 / 8})


def test_the_level_comes_back():
    model, samples = model_of(), sound(16000)
    for decoder in model.decoders.values():
        decoder.params["w"][...] *= -300
    loud = in_pieces(SoundStream(model, 8000, level=False), samples, [80])
    outputs = in_pieces(SoundStream(model, 8000), samples, [80])
    gains = fit_level(samples[0], loud[:, 0])  # of the whole recording
    assert np.all(np.abs(gains) < 0.1)
    last = slice(12_000, None)
    assert outputs[:, 0, last] == pytest.approx(
        gains[:, None] * loud[:, 0, last], abs=0.02 * float(np.abs(outputs).max())
    )


def test_memory_is_a_forgetting_factor():
    model, samples = model_of(), sound(2000)
    config = model.config
    streamer = Streamer(model, forgetting=np.exp(-config.hop / config.sample_rate / 0.01))
    expected = np.concatenate([streamer.process(samples), streamer.flush()], axis=-1)
    outputs = in_pieces(SoundStream(model, 8000, level=False, memory_seconds=0.01), samples, [2000])
    assert outputs[:, 0] == pytest.approx(expected, abs=1e-6 * float(np.abs(expected).max()))
    for wrong in (0, -1, np.nan):
        with pytest.raises(ValueError, match="memory must be above 0"):
            SoundStream(model, 8000, memory_seconds=wrong)


@pytest.mark.parametrize("rate", [8000, 16000])
def test_bad_samples_are_taken_as_zero_and_counted(rate):
    mixture, places = sound(3000, 2), [0, 5, 199, 2999]
    mixture[0, places] = 0
    expected = in_pieces(SoundStream(model_of(), rate, 2), mixture, [500])
    mixture[0, places] = np.nan, np.inf, -np.inf, np.nan
    stream = SoundStream(model_of(), rate, 2)
    assert in_pieces(stream, mixture, [500]).tobytes() == expected.tobytes()
    assert (stream.replaced, stream.absurd) == (len(places), 0)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("absurd", [1e38, -1e30, 1e5])
def test_absurd_samples_are_bad_ones(rate, absurd):
    mixture, places = sound(3000, 2), [0, 5, 199, 2999]
    mixture[1, places] = 0
    expected = in_pieces(SoundStream(model_of(), rate, 2), mixture, [500])
    mixture[1, places] = absurd, np.nan, absurd, -absurd
    stream = SoundStream(model_of(), rate, 2)
    assert (
        in_pieces(stream, mixture, [7, 500]).tobytes()
        == in_pieces(
            SoundStream(model_of(), rate, 2), np.where(np.abs(mixture) < 10, mixture, 0), [7, 500]
        ).tobytes()
    )
    assert np.isfinite(expected).all() and (stream.replaced, stream.absurd) == (4, 3)


@pytest.mark.parametrize("rate", [0, 1, 999, 1_000_001, 2**31 - 1])
def test_rates_that_no_sound_has(rate):
    with pytest.raises(UserError, match=f"has a sample rate of {rate}; give one between 1000 and 1000000 Hz"):
        SoundStream(model_of(), rate)


@pytest.mark.parametrize("channels", [0, MOST_CHANNELS + 1, 65_535])
def test_numbers_of_channels(channels):
    with pytest.raises(UserError, match=f"{channels} channels; give between 1 and 64"):
        SoundStream(model_of(), 8000, channels)


@pytest.mark.parametrize("shape", [(500, 2), (1, 500), (500,)])
def test_other_shapes_are_refused_with_what_mends_them(shape):
    stream = SoundStream(model_of(), 8000, 2)
    with pytest.raises(UserError, match=r"not \(2, n\); channels come first: give samples.T"):
        stream.process(np.zeros(shape, np.float32))
