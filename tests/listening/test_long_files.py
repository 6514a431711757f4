"""Recordings in constant memory: the result of the whole, and segments for models that are not causal."""

import dataclasses
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tasnet_np import Config, NegativeSISNR
from tasnet_np.commands.main import main
from tasnet_np.corpus.clips import load_corpus
from tasnet_np.corpus.mixing import Mixer
from tasnet_np.errors import UserError
from tasnet_np.listening import denoise
from tasnet_np.listening.denoise import denoise_files
from tasnet_np.listening.long_files import FADE_SECONDS, SEAM_DB, Segments
from tasnet_np.listening.separate import separate
from tasnet_np.network.config import PRESETS
from tasnet_np.network.execution import ConvTasNet
from tasnet_np.network.gradcheck import reduced
from tasnet_np.optimisation.optimisers import Adam
from tasnet_np.sound import audio_files
from tasnet_np.sound.audio_files import read

RATE = 8000
REPO = Path(__file__).parents[2]


def model_of(preset="small", seed=0, **changes):
    return ConvTasNet(dataclasses.replace(reduced(PRESETS[preset]), **changes), seed=seed)


def sound(seconds, rate=RATE, channels=1, seed=0):
    """Noise whose loudness changes, and an offset."""
    n = int(seconds * rate)
    loudness = 0.02 + 0.1 * np.abs(np.sin(np.arange(n) / rate * 3))
    return 0.01 + loudness * np.random.default_rng(seed).standard_normal((channels, n))


def save(path, samples, rate=RATE, subtype="FLOAT"):
    soundfile.write(path, np.asarray(samples).T, rate, subtype)
    return path


@pytest.fixture
def in_blocks(monkeypatch):
    """Every recording counts as long, and a block is short."""
    monkeypatch.setattr(denoise, "WHOLE_BYTES", 0)
    for module in ("sound.audio_files", "listening.long_files"):
        monkeypatch.setattr(f"tasnet_np.{module}.BLOCK", 1000)


def difference(a, b):
    assert a.shape == b.shape and np.abs(b).max() > 0
    return np.abs(a - b).max() / np.abs(b).max()


@pytest.mark.parametrize("preset", ["small", "origin"])
@pytest.mark.parametrize("rate", [8000, 16000, 44100, 11025])
@pytest.mark.parametrize("channels", [1, 2])
def test_blocks_give_what_the_whole_gives(tmp_path, in_blocks, preset, rate, channels):
    model, path = model_of(preset), save(tmp_path / "in.wav", sound(1.3, rate, channels), rate)
    outputs = [tmp_path / "speech.wav", tmp_path / "noise.wav"]
    assert denoise_files([path], model, outputs[0], noise_out=outputs[1]) == outputs
    expected = separate(model, read(path).samples, rate)
    for output, source in zip(outputs, expected):
        result = read(output)
        assert (result.rate, result.subtype) == (rate, "FLOAT")
        assert difference(result.samples, source) <= 1e-4


def test_only_what_is_asked_for_is_written(tmp_path, in_blocks):
    path = save(tmp_path / "in.wav", sound(0.5))
    assert denoise_files([path], model_of(), tmp_path / "out.wav") == [tmp_path / "out.wav"]
    expected = separate(model_of(), read(path).samples, RATE)[0]
    assert difference(read(tmp_path / "out.wav").samples, expected) <= 1e-4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.wav", "out.wav"]  # no temporary file is left


@pytest.mark.parametrize("n", [1, 2, 7, 999, 1000, 1001])
def test_short_recordings(tmp_path, in_blocks, n):
    path = save(tmp_path / "in.wav", sound(1)[:, :n])
    denoise_files([path], model_of("origin"), tmp_path / "out.wav")
    expected = separate(model_of("origin"), read(path).samples, RATE)[0]
    assert read(tmp_path / "out.wav").samples == pytest.approx(
        expected, abs=1e-4 * float(np.abs(expected).max()) + 1e-12
    )


def test_a_constant_channel_gives_zeros_and_the_other_its_sound(tmp_path, in_blocks, capsys):
    samples = sound(0.7, channels=2)
    samples[1] = 0.3
    path = save(tmp_path / "in.wav", samples)
    denoise_files([path], model_of(), tmp_path / "out.wav")
    speech = read(tmp_path / "out.wav").samples
    assert not np.any(speech[1])
    assert difference(speech[0], separate(model_of(), read(path).samples, RATE)[0, 0]) <= 1e-4
    assert capsys.readouterr().err == ""
    denoise_files([save(path, np.full((1, 3000), 0.3))], model_of(), tmp_path / "out.wav")
    assert not np.any(read(tmp_path / "out.wav").samples)
    assert "is silent; written as silence" in capsys.readouterr().err


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_what_would_clip_is_lowered_by_one_gain(tmp_path, in_blocks, capsys, monkeypatch, subtype):
    path = save(tmp_path / "in.wav", sound(1), subtype=subtype)
    whole = separate(model_of(), read(path).samples, RATE)
    peak = np.abs(whole).max()
    monkeypatch.setattr(denoise, "PEAK", 0.7 * peak)
    denoise_files([path], model_of(), tmp_path / "a.wav", noise_out=tmp_path / "b.wav")
    for name, source in zip("ab", whole):
        result = read(tmp_path / f"{name}.wav").samples
        assert np.abs(result - source * denoise.PEAK / peak).max() <= 2**-15 + 1e-4
    assert (
        f"the output would clip; lowered by {20 * np.log10(peak / denoise.PEAK):.2f} dB"
        in capsys.readouterr().err
    )


def test_memory_does_not_grow_with_the_length(tmp_path, in_blocks):
    peaks = []
    for seconds in (5, 50):
        path = save(tmp_path / "in.wav", np.tile(sound(5), seconds // 5), subtype="PCM_16")
        tracemalloc.start()
        denoise_files([path], model_of("origin"), tmp_path / "out.wav")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0] + 100_000
    assert peaks[1] < 4 * 50 * RATE  # less than the recording itself


def test_short_recordings_go_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(denoise, "LongSeparation", None)
    path = save(tmp_path / "in.wav", sound(2))
    denoise_files([path], model_of(), tmp_path / "out.wav")
    assert np.array_equal(
        read(tmp_path / "out.wav").samples, separate(model_of(), read(path).samples, RATE)[0]
    )


@pytest.mark.parametrize("fault", ["nan", "truncated", "absurd"])
def test_a_fault_leaves_no_file(tmp_path, in_blocks, fault):
    samples = sound(0.5)
    samples[0, 3000] = {"nan": np.nan, "absurd": 1e38}.get(fault, 0)
    path = save(tmp_path / "in.wav", samples)
    if fault == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="in.wav: .*(NaN|truncated|sample 3000 .1e.38.)"):
        denoise_files([path], model_of(), tmp_path / "out.wav")
    assert [p.name for p in tmp_path.iterdir()] == ["in.wav"]


def test_a_model_that_answers_with_nan(tmp_path, in_blocks):
    model = model_of()
    model.params["mask.b"][0] = np.nan
    with pytest.raises(UserError, match="in.wav: the model answers with NaN"):
        denoise_files([save(tmp_path / "in.wav", sound(0.5))], model, tmp_path / "out.wav")


def test_a_wav_file_that_would_be_too_large(tmp_path, in_blocks, monkeypatch):
    monkeypatch.setattr(audio_files, "LARGEST_WAV", 5000)
    path = save(tmp_path / "in.wav", sound(1), subtype="PCM_16")
    with pytest.raises(
        UserError, match=r"out.wav: would be larger than a WAV file can be; give a name in .flac"
    ):
        denoise_files([path], model_of(), tmp_path / "out.wav")
    denoise_files([path], model_of(), tmp_path / "out.flac")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.wav", "out.flac"]


# Segments.


def segmented(model, samples, seconds, sizes=(1000,)):
    segments, outputs, start = Segments(model, len(samples), seconds), [], 0
    while start < samples.shape[1]:
        size = sizes[len(outputs) % len(sizes)]
        outputs.append(segments.process(samples[:, start : start + size]))
        start += size
    return np.concatenate([*outputs, segments.flush()], axis=-1)


@pytest.mark.parametrize("seconds", [1.0, 1.23, 2.0, 60.0])
@pytest.mark.parametrize("sizes", [(1000,), (50_000,), (1, 0, 12_345)], ids=str)
def test_segments_have_all_the_context_there_is(seconds, sizes):
    """With a norm per frame, a network's receptive field is finite, and segments are the whole, exactly."""
    model = model_of(norm="channel", causal=False)
    samples = sound(5.1, channels=2).astype(np.float32)
    expected = model.forward(samples, keep=False).swapaxes(0, 1)
    assert difference(segmented(model, samples, seconds, sizes), expected) <= 1e-5


@pytest.mark.parametrize("n", [1, 4000, 8000, 8001, 12_000, 16_000, 20_000])
def test_any_length_in_segments(n):
    model = model_of(norm="channel", causal=False)
    samples = sound(3)[:, :n].astype(np.float32)
    expected = model.forward(samples, keep=False).swapaxes(0, 1)
    assert difference(segmented(model, samples, 1.0), expected) <= 1e-5


def test_segments_fade_into_each_other():
    """A network that says another number for each segment: straight lines in between, no step."""
    model = model_of("paper")
    calls = []

    def forward(mixture, keep):
        calls.append(mixture.shape)
        return np.full((len(mixture), 2, mixture.shape[1]), float(len(calls)), np.float32)

    model.forward = forward
    outputs = segmented(model, sound(6).astype(np.float32), 2.0)[0, 0]
    fade = round(FADE_SECONDS * RATE)
    assert len(outputs) == 6 * RATE and outputs[0] == 1 and outputs[-1] == len(calls) == 3
    assert np.abs(np.diff(outputs)).max() <= 1.01 / fade
    assert np.count_nonzero(np.diff(outputs)) == pytest.approx(2 * fade, abs=4)


def test_files_in_segments(tmp_path, capsys):
    """gLN: the segments' means and variances are their own. How far that is from the whole, after some training."""
    config = Config(
        filters=64, bottleneck=32, hidden=64, skip=32, blocks=5, repeats=1, norm="gLN", causal=False
    )
    model, loss = ConvTasNet(config), NegativeSISNR()
    corpus, _ = load_corpus(REPO / "data" / "speech", REPO / "data" / "noise", RATE)
    mixer, optimizer = Mixer(corpus, samples=2 * RATE, rate=RATE), Adam(model.params, learning_rate=3e-3)
    for step in range(50):
        batch = mixer.batch(step, 4)
        model.gradients(loss, batch.mixture, batch.sources)
        optimizer.step(model.grads)
    minutes = Mixer(corpus, samples=75 * RATE, rate=RATE, snr_db=(0, 0)).batch(50, 1).mixture
    path = save(tmp_path / "in.wav", minutes)
    for name, seconds in (("whole", None), ("segments", 30)):
        outputs = [tmp_path / f"{name}-{source}.wav" for source in ("speech", "noise")]
        denoise_files([path], model, outputs[0], noise_out=outputs[1], segment_seconds=seconds)
    for source in ("speech", "noise"):
        whole, segments = (read(tmp_path / f"{name}-{source}.wav").samples for name in ("whole", "segments"))
        error_db = 10 * np.log10(np.mean((segments - whole) ** 2) / np.mean(whole**2))
        assert -80 < error_db < SEAM_DB
    with pytest.raises(SystemExit):
        main(["denoise", "--help"])
    assert f"below {SEAM_DB} dB of the output" in " ".join(capsys.readouterr().out.split())


def test_a_line_tells_the_memory_of_models_that_are_not_causal(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(denoise, "WHOLE_BYTES", 1000)
    path = save(tmp_path / "in.wav", sound(1))
    model = model_of("paper")
    denoise_files([path], model, tmp_path / "out.wav")
    needed = model.config.inference_bytes(RATE) / 1e9
    line = f"in.wav: needs {needed:.1f} GB of memory, as the model is not causal; --segment-seconds 30 needs less"
    assert line in capsys.readouterr().err
    denoise_files([path], model, tmp_path / "out.wav", segment_seconds=1)
    assert capsys.readouterr().err == ""


def test_segments_that_are_too_short(tmp_path):
    with pytest.raises(UserError, match="segments of 0.5 s: give at least 1 s"):
        denoise_files(
            [save(tmp_path / "in.wav", sound(1))], model_of("paper"), tmp_path / "o.wav", segment_seconds=0.5
        )
