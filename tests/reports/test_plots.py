"""What the pictures show: axes, scales, levels."""

import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest

from tasnet_np.errors import UserError
from tasnet_np.reports.plots import RANGE_DB, spectrogram, spectrograms

RATE = 8000


def tone(hertz, amplitude=1.0, seconds=1.5):
    return amplitude * np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE)


def test_a_full_scale_sine_has_0_db_at_its_frequency():
    level_db = spectrogram(tone(1000), RATE)  # 256 samples per window: 31.25 Hz per row
    assert level_db.shape == (129, 12000 // 64 + 1)
    middle = level_db[:, 10:-10]
    assert np.all(middle.argmax(axis=0) == 32)
    assert middle.max(axis=0) == pytest.approx(0, abs=1e-3)
    assert np.delete(middle, range(30, 35), axis=0).max() < -80


def test_frames_are_centred():
    click = np.zeros(4000)
    click[64 * 20] = 1
    level_db = spectrogram(click, RATE)
    assert np.all(level_db.argmax(axis=1) == 20)
    assert np.array_equal(level_db[:, 20 - 1], level_db[:, 20 + 1])


@pytest.mark.parametrize("signal", [np.zeros(1), np.zeros(500)])
def test_silence_and_a_single_sample_have_a_level(signal):
    assert np.all(spectrogram(signal, RATE) == -200)


def test_spectrograms_share_axes_and_scale(tmp_path):
    signals = {"noisy": tone(1000, 0.5), "denoised": tone(3000, 0.05)}
    figure = spectrograms(tmp_path / "out.png", signals, RATE)
    upper, lower, colours = figure.axes
    assert [ax.get_title(loc="left") for ax in (upper, lower)] == ["noisy", "denoised"]
    assert lower.get_xlabel() == "time (s)" and upper.get_xlabel() == ""
    for ax in (upper, lower):
        assert ax.get_ylabel() == "frequency (kHz)"
        assert (*ax.get_xlim(), *ax.get_ylim()) == (0, 1.5, 0, 4)
        (image,) = ax.images
        low, high = image.get_clim()
        assert high == pytest.approx(20 * np.log10(0.5), abs=1e-2) and high - low == RANGE_DB
    assert "dB" in colours.get_ylabel()
    assert lower.images[0].get_array().max() == pytest.approx(20 * np.log10(0.05), abs=1e-2)


def test_the_picture_shows_the_tone_at_its_place(tmp_path):
    spectrograms(tmp_path / "out.png", {"low": tone(1000)}, RATE)
    pixels = matplotlib.image.imread(tmp_path / "out.png")  # (height, width, RGBA)
    column = pixels[:, pixels.shape[1] // 2, :3]
    coloured = np.flatnonzero(np.ptp(column, axis=-1) > 0.05)
    black = np.flatnonzero(column.sum(-1) < 0.2)
    share = (black[-1] - coloured.mean()) / (black[-1] - black[0])
    assert share == pytest.approx(0.25, abs=0.02)  # a quarter of the way up: 1 of 4 kHz


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_kinds_of_pictures(tmp_path, suffix):
    spectrograms(tmp_path / f"out{suffix}", {"x": tone(500)}, RATE)
    assert [path.name for path in tmp_path.iterdir()] == [f"out{suffix}"]
    start = (tmp_path / f"out{suffix}").read_bytes()[:5]
    assert start.startswith({".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}[suffix])


@pytest.mark.parametrize("name", ["out", "out.wav"])
def test_other_suffixes_are_refused(tmp_path, name):
    with pytest.raises(UserError, match="use .png, .pdf or .svg"):
        spectrograms(tmp_path / name, {"x": tone(500)}, RATE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("signals", [{}, {"x": np.zeros((1, 5))}, {"x": np.zeros(0)}])
def test_signals_that_cannot_be_drawn(tmp_path, signals):
    with pytest.raises(UserError, match="none given|give one channel"):
        spectrograms(tmp_path / "out.png", signals, RATE)


def test_matplotlib_is_imported_only_to_draw():
    code = "import sys, tasnet_np.reports.plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
