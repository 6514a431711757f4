"""Level restoration, separation at any rate and length, files; all with stand-in models."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from tasnet_np.errors import UserError
from tasnet_np.listening import denoise
from tasnet_np.listening.denoise import PEAK, denoise_files
from tasnet_np.listening.separate import separate
from tasnet_np.sound.audio_files import read
from tasnet_np.sound.level import LOUDEST_DB

RATE = 8000


def config_of(rate):
    """That of a model that needs the whole recording, and no memory."""
    return SimpleNamespace(sample_rate=rate, norm="gLN", inference_bytes=lambda samples: 0)


class Splitter:
    """Stands in for a model: the low band is speech, the rest is noise, both at a wrong level."""

    def __init__(self, rate=RATE, gains=(1000.0, -0.02), offset=0.0):
        self.config = config_of(rate)
        self.gains, self.offset = gains, offset
        self.heard = []

    def forward(self, mixture, keep=True):
        assert keep is False and mixture.dtype == np.float32
        self.heard.append(mixture)
        spectrum = np.fft.rfft(mixture)
        spectrum[..., spectrum.shape[-1] // 4 :] = 0
        low = np.fft.irfft(spectrum, mixture.shape[-1]) if mixture.shape[-1] > 1 else mixture
        sources = np.stack([self.gains[0] * low, self.gains[1] * (mixture - low)], axis=1)
        return (sources + self.offset).astype(np.float32)


class Fixed:
    """Stands in for a model that gives the same answer for each channel."""

    def __init__(self, sources):
        self.config = config_of(RATE)
        self.sources = np.asarray(sources, np.float32)

    def forward(self, mixture, keep=True):
        return np.broadcast_to(self.sources, (len(mixture), *self.sources.shape))


def signals(seed=0, n=4000, level=0.05):
    """Speech and noise for a test: independent, without mean."""
    x = level * np.random.default_rng(seed).standard_normal((2, n))
    return x - x.mean(-1, keepdims=True)


def rms(x):
    return np.sqrt(np.mean(np.square(x, dtype=np.float64), axis=-1))


def tones(n, rate, level=0.1, channels=1):
    """A low and a high tone, in the low and in the high band of `Splitter`, and their sum."""
    time = np.arange(n) / rate
    low = level * np.sin(2 * np.pi * 300 * time + np.arange(channels)[:, None])
    high = level / 2 * np.sin(2 * np.pi * 2000 * time + np.arange(channels)[:, None])
    return low.astype(np.float32), high.astype(np.float32), (low + high).astype(np.float32)


def save(path, samples, rate=RATE, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.asarray(samples).T, rate, **how)
    return path


def everything_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 6000])
def test_level_polarity_and_length_come_back_at_any_rate(rate):
    low, high, mixture = tones(rate + 1, rate, channels=2)
    speech, noise = separate(Splitter(), mixture, rate)
    assert speech.dtype == np.float32 and speech.shape == noise.shape == mixture.shape
    middle = slice(rate // 10, -rate // 10)  # the bands of `Splitter` ring at the edges
    assert np.abs(speech - low)[:, middle].max() < 0.003
    assert np.abs(noise - high)[:, middle].max() < 0.003


def test_channels_keep_their_own_levels_and_the_model_hears_one_level():
    low, _, mixture = tones(RATE, RATE, channels=3)
    scale = np.array([[1.0], [1e-4], [0.0]], np.float32)
    model = Splitter()
    speech, _ = separate(model, mixture * scale, RATE)
    assert rms(speech[:2]) == pytest.approx(rms(low * scale)[:2], rel=1e-3)
    assert not np.any(speech[2])
    (heard,) = model.heard
    assert 20 * np.log10(rms(heard[:2])) == pytest.approx([-25, -25], abs=1e-4)


def test_no_mean_is_invented():
    _, _, mixture = tones(RATE, RATE)
    model = Splitter(offset=40.0)
    sources = separate(model, mixture + 0.3, RATE)
    assert np.abs(model.heard[0].mean()) < 1e-6
    assert np.abs(sources.mean(-1)).max() < 1e-6
    assert sources.sum(0) == pytest.approx(mixture, abs=1e-3)


@pytest.mark.parametrize("rate", [8000, 48000, 2000, 11025])
@pytest.mark.parametrize("n", [1, 2, 3, 5, 17])
def test_short_recordings(n, rate):
    samples = signals(n=50)[:, :n].astype(np.float32)
    sources = separate(Splitter(), samples, rate)
    assert sources.shape == (2, 2, n)
    limit = 10 ** (LOUDEST_DB / 20) * rms(samples - samples.mean(-1, keepdims=True))
    assert np.all(rms(sources) <= limit * (1 + 1e-5) + 1e-9)
    if n == 1:
        assert not np.any(sources)


def test_nothing_is_lost_at_the_end():
    rng = np.random.default_rng(0)
    for n in range(2000, 2012):
        samples = rng.standard_normal((1, n)).astype(np.float32)
        sources = separate(Splitter(rate=16000), samples, 11025)
        assert rms(sources.sum(0)[:, -5:]) > 0.3 * rms(samples[:, -5:])


def test_silence_stays_silence():
    assert not np.any(separate(Splitter(offset=1.0), np.zeros((2, 900), np.float32), 44100))
    assert np.abs(separate(Splitter(), np.full((2, 900), 0.1, np.float32), 44100)).max() < 1e-9


def test_very_quiet_recordings_keep_their_level():
    low, _, mixture = tones(RATE, RATE)
    speech, _ = separate(Splitter(), mixture * np.float32(1e-20), RATE)
    assert rms(speech) == pytest.approx(rms(low * 1e-20), rel=1e-3)


@pytest.mark.parametrize(
    "samples",
    [np.zeros(5), np.zeros((0, 5)), np.zeros((1, 0)), np.zeros((1, 2, 5)), np.ones((1, 5), int)],
)
def test_samples_of_another_shape_or_kind(samples):
    with pytest.raises(UserError, match=r"give floats of shape \(channels, n\)"):
        separate(Splitter(), samples, RATE)


def test_samples_that_are_not_finite():
    with pytest.raises(UserError, match="samples have NaN"):
        separate(Splitter(), np.array([[0.1, np.nan]]), RATE)
    with pytest.raises(UserError, match="samples have absurdly large .above 10000"):
        separate(Splitter(), np.array([[0.1, 1e38]]), RATE)


def test_samples_before_channels_are_refused():
    with pytest.raises(UserError, match="channels come first: give samples.T"):
        separate(Splitter(), signals()[:, :, None][0], RATE)
    with pytest.raises(UserError, match="channels come first: give samples.T"):
        separate(Splitter(), signals().T, RATE)


@pytest.mark.parametrize("rate", [1, 2**31 - 1, 8000.0])
def test_rates_that_no_sound_has(rate):
    with pytest.raises(UserError, match=f"samples: has a sample rate of {rate}; give one between"):
        separate(Splitter(), signals(), rate)


@pytest.mark.parametrize("rate", [0, -8000, 44100.5])
def test_rates_that_are_none(rate):
    with pytest.raises(UserError, match="sample rate"):
        separate(Splitter(), np.ones((1, 5)), rate)


def test_a_model_that_answers_with_nan():
    with pytest.raises(UserError, match="earlier checkpoint"):
        separate(Fixed([[0.0, np.nan, 0.1], [0.0, 0.1, 0.2]]), np.array([[0.1, 0.2, 0.1]]), RATE)


@pytest.mark.parametrize(
    "suffix, how",
    [
        (".wav", {"subtype": "PCM_16"}),
        (".wav", {"subtype": "PCM_24"}),
        (".wav", {"subtype": "FLOAT"}),
        (".wav", {"format": "WAVEX", "subtype": "PCM_U8"}),
        (".flac", {"subtype": "PCM_24"}),
        (".ogg", {"subtype": "VORBIS"}),
    ],
)
def test_a_file_keeps_its_rate_channels_format_subtype_and_level(tmp_path, suffix, how):
    low, high, mixture = tones(22050, 22050, channels=2)
    source = save(tmp_path / f"in{suffix}", mixture, 22050, **how)
    speech, noise = tmp_path / f"speech{suffix}", tmp_path / f"noise{suffix}"
    written = denoise_files([source], Splitter(), speech, noise_out=str(noise))
    assert written == [speech, noise]
    before = soundfile.info(source)
    for path, expected in ((speech, low), (noise, high)):
        info = soundfile.info(path)
        for name in ("samplerate", "channels", "frames", "format", "subtype"):
            assert getattr(info, name) == getattr(before, name)
        samples, _ = soundfile.read(path)
        assert rms(samples.T) == pytest.approx(rms(expected), rel=0.02)
    assert everything_below(tmp_path) == sorted([source.name, speech.name, noise.name])


def test_another_suffix_sets_the_format(tmp_path):
    source = save(tmp_path / "in.wav", tones(800, RATE)[2], subtype="FLOAT")
    denoise_files([source], Splitter(), tmp_path / "out.FLAC")
    info = soundfile.info(tmp_path / "out.FLAC")
    assert (info.format, info.subtype) == ("FLAC", "PCM_16")


def test_folders_keep_their_layout(tmp_path, capsys):
    mixture = tones(800, RATE)[2]
    save(tmp_path / "in" / "a.wav", mixture)
    save(tmp_path / "in" / "deep" / "er" / "a.flac", mixture)
    save(tmp_path / "single.ogg", mixture)
    (tmp_path / "in" / "notes.txt").write_text("not audio")
    inputs = [tmp_path / "in", tmp_path / "single.ogg"]
    outputs = {"output": tmp_path / "new" / "out", "noise_out": tmp_path / "noise"}
    written = denoise_files(inputs, Splitter(), **outputs)
    names = ["a.wav", "deep", "deep/er", "deep/er/a.flac", "single.ogg"]
    assert everything_below(tmp_path / "new" / "out") == names
    assert everything_below(tmp_path / "noise") == names
    assert len(written) == 6 and all(path.is_file() for path in written)
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "skipped 1 non-audio" in error and "notes.txt" in error


def test_one_file_into_a_folder(tmp_path):
    source = save(tmp_path / "a.wav", tones(800, RATE)[2])
    (tmp_path / "v1.2").mkdir()
    assert denoise_files([source], Splitter(), tmp_path / "plain") == [tmp_path / "plain" / "a.wav"]
    assert denoise_files([source], Splitter(), tmp_path / "v1.2") == [tmp_path / "v1.2" / "a.wav"]


def test_earlier_outputs_are_replaced(tmp_path):
    source = save(tmp_path / "a.wav", tones(800, RATE)[2])
    (tmp_path / "out.wav").write_text("earlier")
    denoise_files([source], Splitter(), tmp_path / "out.wav")
    assert soundfile.info(tmp_path / "out.wav").frames == 800


def peaked(n=4000):
    """A recording with a peak of 0.9, and a model whose speech estimate gives a peak above 1."""
    speech = np.random.default_rng(0).uniform(-1, 1, n)
    noise = 0.3 * np.random.default_rng(1).uniform(-1, 1, n)
    speech[100], noise[100] = 1.25, -0.35  # the noise takes from the peak
    mixture = np.clip(speech + noise, -0.9, 0.9).astype(np.float32)
    return mixture[None], Fixed([5 * speech, 5 * noise])


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_what_would_clip_is_lowered_by_one_gain(tmp_path, capsys, subtype):
    samples, model = peaked()
    source = save(tmp_path / "in.wav", samples, subtype=subtype)
    speech, noise = separate(model, read(source).samples, RATE)
    assert speech.max() > 1.05  # it would clip
    denoise_files([source], model, tmp_path / "s.wav", noise_out=tmp_path / "n.wav")
    lower = PEAK / speech.max()
    for name, full in (("s.wav", speech), ("n.wav", noise)):
        samples, _ = soundfile.read(tmp_path / name)
        assert samples == pytest.approx(lower * full[0], abs=4e-5)
    line = f"{source}: the output would clip; lowered by {-20 * np.log10(lower):.2f} dB"
    assert line in capsys.readouterr().err


def test_what_is_not_written_cannot_clip(tmp_path, capsys):
    samples, model = peaked()
    model.sources = model.sources[::-1]  # now the background has the peak
    source = save(tmp_path / "in.wav", samples)
    denoise_files([source], model, tmp_path / "s.wav")
    assert capsys.readouterr().err == ""


def test_float_recordings_beyond_1_keep_their_level(tmp_path, capsys):
    low, _, mixture = tones(RATE, RATE, level=3.0)
    source = save(tmp_path / "in.wav", mixture, subtype="FLOAT")
    denoise_files([source], Splitter(), tmp_path / "out.wav")
    samples, _ = soundfile.read(tmp_path / "out.wav")
    assert rms(samples) == pytest.approx(rms(low[0]), rel=1e-3)
    assert capsys.readouterr().err == ""
    denoise_files([source], Splitter(), tmp_path / "out.flac")
    samples, _ = soundfile.read(tmp_path / "out.flac")
    assert np.abs(samples).max() == pytest.approx(PEAK, abs=4e-5)
    assert "would clip; lowered by 9." in capsys.readouterr().err


def test_a_silent_file_is_written_as_silence(tmp_path, capsys):
    source = save(tmp_path / "in.wav", np.zeros((2, 100)))
    denoise_files([source], Splitter(offset=1.0), tmp_path / "out.wav")
    samples, _ = soundfile.read(tmp_path / "out.wav")
    assert samples.shape == (100, 2) and not np.any(samples)
    assert capsys.readouterr().err == f"warning: {source}: is silent; written as silence\n"


def test_a_line_tells_of_lost_high_frequencies(tmp_path, capsys):
    save(tmp_path / "in" / "a.wav", tones(4410, 44100)[2], 44100)
    save(tmp_path / "in" / "b.wav", tones(800, RATE)[2])
    denoise_files([tmp_path / "in"], Splitter(), tmp_path / "out")
    assert "1 of 2 files lost all above 4 kHz" in capsys.readouterr().err


def test_a_broken_file_does_not_stop_the_others(tmp_path, capsys):
    save(tmp_path / "in" / "a.wav", tones(800, RATE)[2])
    (tmp_path / "in" / "b.wav").write_bytes(b"no audio at all")
    save(tmp_path / "in" / "c.wav", [[0.1, np.inf]], subtype="FLOAT")
    save(tmp_path / "in" / "d.wav", tones(800, RATE)[2])
    with pytest.raises(UserError, match="^2 of 4 files could not be denoised"):
        denoise_files([tmp_path / "in"], Splitter(), tmp_path / "out")
    assert everything_below(tmp_path / "out") == ["a.wav", "d.wav"]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and str(tmp_path / "in" / "b.wav") in lines[0] and "c.wav" in lines[1]


def test_a_single_broken_file_is_the_error(tmp_path, capsys):
    source = tmp_path / "b.wav"
    source.write_bytes(b"no audio at all")
    with pytest.raises(UserError, match="b.wav: .*readable as audio"):
        denoise_files([source], Splitter(), tmp_path / "out.wav")
    assert capsys.readouterr().err == "" and everything_below(tmp_path) == ["b.wav"]


@pytest.mark.parametrize("failure", [MemoryError("no 3 GiB left"), UserError("the model says NaN")])
def test_what_goes_wrong_names_the_file(tmp_path, monkeypatch, failure):
    source = save(tmp_path / "a.wav", tones(800, RATE)[2])

    def fail(*_):
        raise failure

    monkeypatch.setattr(denoise, "separate", fail)
    with pytest.raises(UserError, match=f"a.wav: {failure}"):
        denoise_files([source], Splitter(), tmp_path / "out.wav")


def test_a_progress_bar(tmp_path, capsys):
    source = save(tmp_path / "a.wav", tones(800, RATE)[2])
    denoise_files([source], Splitter(), tmp_path / "out.wav", progress=True)
    assert "1/1" in capsys.readouterr().err


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Checks that a call is refused with a line before any work: nothing read, nothing written."""

    def check(match, inputs, output, **options):
        before = everything_below(tmp_path)
        monkeypatch.setattr(denoise, "read", lambda path: pytest.fail("a file was read"))
        with pytest.raises(UserError, match=match):
            denoise_files(inputs, Splitter(), output, **options)
        assert everything_below(tmp_path) == before

    return check


@pytest.fixture
def wav(tmp_path):
    return save(tmp_path / "a.wav", tones(800, RATE)[2])


def test_refuses_no_and_missing_inputs(tmp_path, refused, wav):
    refused("none given", [], tmp_path / "out")
    refused("gone.wav: does not exist", [wav, tmp_path / "gone.wav"], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    refused("empty: no audio", [tmp_path / "empty"], tmp_path / "out")


def test_refuses_an_output_that_is_an_input(tmp_path, refused, wav, monkeypatch):
    os.link(wav, tmp_path / "hard.wav")
    (tmp_path / "soft.wav").symlink_to(wav)
    (tmp_path / "x").mkdir()
    for output in ("a.wav", "x/../a.wav", "hard.wav", "soft.wav"):
        refused("is an input, too", [wav], tmp_path / output)
    refused("is an input, too", [wav], tmp_path)
    refused("is an input, too", [wav], tmp_path / "out.wav", noise_out=wav)
    monkeypatch.chdir(tmp_path)
    refused("is an input, too", ["a.wav"], wav)


def test_refuses_an_output_that_is_another_input(tmp_path, refused, wav):
    other = save(tmp_path / "sub" / "b.wav", tones(800, RATE)[2])
    save(tmp_path / "b.wav", tones(800, RATE)[2])
    refused("is an input, too", [other, tmp_path / "b.wav"], tmp_path)


def test_refuses_an_output_inside_an_input_folder(tmp_path, refused):
    save(tmp_path / "in" / "a.wav", tones(800, RATE)[2])
    refused("lies inside the input folder", [tmp_path / "in"], tmp_path / "in" / "out")
    refused("lies inside", [tmp_path / "in"], tmp_path / "out", noise_out=tmp_path / "in" / "noise")


def test_refuses_two_outputs_of_one_name(tmp_path, refused, wav):
    other = save(tmp_path / "sub" / "a.wav", tones(800, RATE)[2])
    both = "two outputs would go there, from .*a.wav and .*sub/a.wav"
    refused(both, [wav, other], tmp_path / "out")
    refused("two outputs", [wav, wav], tmp_path / "out")
    refused("two outputs", [wav], tmp_path / "out.wav", noise_out=tmp_path / "out.wav")
    refused("two outputs", [wav], tmp_path / "out", noise_out=tmp_path / "out")


def test_refuses_a_file_for_several(tmp_path, refused, wav):
    other = save(tmp_path / "sub" / "b.wav", tones(800, RATE)[2])
    refused("names one file", [wav, other], tmp_path / "out.wav")
    refused("names one file", [tmp_path / "sub"], tmp_path / "out.flac")


def test_refuses_a_format_that_cannot_be_written(tmp_path, refused, wav):
    refused("suffix '.m4a' is not one of .wav", [wav], tmp_path / "out.m4a")


def test_refuses_folders_that_cannot_be(tmp_path, refused, wav, monkeypatch):
    (tmp_path / "file").write_text("")
    refused("file: is a file, not a folder", [wav], tmp_path / "file")
    refused("file: is a file, not a folder", [wav], tmp_path / "file" / "below" / "out.wav")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    refused(f"{tmp_path}: is not writable", [wav], tmp_path / "new" / "out.wav")


def test_a_folder_that_cannot_be_made_after_all(tmp_path, wav, monkeypatch):
    def fail(*_, **__):
        raise PermissionError(13, "Permission denied", "new")

    monkeypatch.setattr(Path, "mkdir", fail)
    with pytest.raises(UserError, match="a.wav: .*Permission denied"):
        denoise_files([wav], Splitter(), tmp_path / "new" / "out.wav")
