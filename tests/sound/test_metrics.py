"""The measures, against values worked out by hand."""

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasnet_np.errors import UserError
from tasnet_np.sound import audio_files, metrics, resampling
from tasnet_np.sound.metrics import sdr, si_snr, si_snr_improvement, without_mean

# Three signals without mean, at right angles to each other.
A = np.array([1.0, 1.0, -1.0, -1.0])
B = np.array([1.0, -1.0, 1.0, -1.0])
C = np.array([1.0, -1.0, -1.0, 1.0])


def test_ten_db_by_construction():
    assert si_snr(A + np.sqrt(0.1) * B, A) == pytest.approx(10, abs=1e-6)


def test_equal_parts_of_signal_and_noise_are_0_db():
    assert si_snr(A + B, A) == pytest.approx(0, abs=1e-9)


def test_by_hand_with_a_mean_and_another_level():
    # Centred: estimate [3, -1, -1, -1], target A. cos^2 = 4^2 / (12 * 4) = 1/3, and sin^2 = 2/3.
    value = si_snr(np.array([4.0, 0.0, 0.0, 0.0]) + 7, A - 3)
    assert value == pytest.approx(10 * np.log10(0.5), abs=1e-6)


def test_limits():
    assert si_snr(A, A) == pytest.approx(80, abs=1e-6)
    assert si_snr(B, A) == pytest.approx(-80, abs=1e-6)
    assert si_snr(0 * A, A) == pytest.approx(-80, abs=1e-6)


@pytest.mark.parametrize("silence", [np.zeros(4), np.full(4, 0.3), np.full(4, 0.1, np.float32)])
def test_a_silent_target_has_no_ratio_and_a_silent_estimate_the_lowest(silence):
    assert np.isnan(si_snr(A, silence))
    assert si_snr(silence, A) == pytest.approx(-80, abs=1e-6)


def test_one_sample_is_silence():
    assert np.isnan(si_snr(np.array([0.5]), np.array([0.5])))


def test_a_bad_estimate_is_not_hidden():
    assert np.isnan(si_snr(np.array([1.0, np.nan, 0.0, 0.0]), A))


@given(
    log_estimate=st.floats(-5, 5),
    log_target=st.floats(-5, 5),
    polarity=st.sampled_from([1, -1]),
    snr_db=st.floats(-40, 90),
    seed=st.integers(0, 99),
)
def test_level_and_polarity_do_not_matter(log_estimate, log_target, polarity, snr_db, seed):
    rng = np.random.default_rng(seed)
    target = rng.standard_normal(200)
    estimate = target + 10 ** (-snr_db / 20) * rng.standard_normal(200)
    scaled = si_snr(polarity * 10**log_estimate * estimate, 10**log_target * target)
    assert scaled == pytest.approx(si_snr(estimate, target), abs=1e-9)


def test_good_estimates_keep_their_digits():
    # tan^2 of the angle is 1e-8, as large as eps: half of 80 dB's ratio.
    cos2, sin2 = 1 / (1 + 1e-8), 1e-8 / (1 + 1e-8)
    expected = 10 * np.log10((cos2 + 1e-8) / (sin2 + 1e-8))
    for level in (1, 3e-5, 7e4):
        assert si_snr(level * (A + 1e-4 * B), A / 3) == pytest.approx(expected, abs=1e-10)


def test_leading_axes_broadcast():
    sources = np.stack([[A, B], [B, C], [C, A]])  # (3, 2, 4)
    mixture = np.stack([A + B, B, A])[:, None]  # (3, 1, 4)
    expected = [[0, 0], [80, -80], [-80, 80]]
    assert si_snr(mixture, sources) == pytest.approx(np.array(expected), abs=1e-6)


def test_improvement_is_over_the_mixture():
    estimate = A + np.sqrt(0.1) * B
    assert si_snr_improvement(estimate, A, A + B) == pytest.approx(10, abs=1e-6)
    assert si_snr_improvement(A + B, A, A + B) == 0


def test_sdr_counts_the_level():
    assert sdr(A + 0.1 * B, A) == pytest.approx(20, abs=1e-9)
    assert sdr(0.5 * A, A) == pytest.approx(20 * np.log10(2), abs=1e-9)
    assert sdr(-A, A) == pytest.approx(-20 * np.log10(2), abs=1e-9)
    assert sdr(0 * A, A) == 0
    assert sdr(A, A) == np.inf
    assert np.isnan(sdr(A, 0 * A))


def test_float32_is_measured_in_float64():
    estimate, target = (A + 0.1 * B).astype(np.float32), A.astype(np.float32)
    assert si_snr(estimate, target).dtype == sdr(estimate, target).dtype == np.float64


def test_without_mean():
    assert without_mean([1.0, 2.0, 6.0]) == pytest.approx([-2, -1, 3])
    constant = np.full(1000, 0.1)
    assert np.any(constant - constant.mean())  # rounding, which is not a signal
    assert not np.any(without_mean(constant))


@pytest.mark.parametrize("measure", [si_snr, sdr])
@pytest.mark.parametrize("estimate, target", [(A, A[:1]), (A, A[:3]), (A[:0], A[:0]), (1.0, 1.0)])
def test_lengths_must_agree(measure, estimate, target):
    with pytest.raises(UserError, match="same number of samples"):
        measure(estimate, target)


def needs(package):
    if not importlib.util.find_spec(package):
        if os.environ.get("TASNET_REQUIRE_PEERS"):
            pytest.fail(f"{package} is missing: pip install '.[metrics]'")
        pytest.skip(f"{package} is not installed: pip install '.[metrics]'")


@pytest.mark.parametrize(
    "name, package, best", [("stoi", "pystoi", 1.0), ("estoi", "pystoi", 1.0), ("pesq", "pesq", 4.5)]
)
@pytest.mark.parametrize("rate", [8000, 16000, 20000])
def test_perceptual_measures_rank_noise(name, package, best, rate):
    needs(package)
    measure = metrics.perceptual_measures()[name]
    recording = audio_files.read(Path(__file__).parents[2] / "data" / "noisy" / "clean-mono-8k.wav")
    speech = resampling.resample(recording.samples[0], recording.rate, rate)
    noise = 0.1 * np.random.default_rng(0).standard_normal(len(speech))
    clean, mild, heavy = (measure(speech + gain * noise, speech, rate) for gain in (0, 0.02, 1))
    assert clean == pytest.approx(best, abs=0.2)
    assert clean > mild > heavy


def test_perceptual_measures_of_too_little_speech_are_nan():
    needs("pystoi")
    needs("pesq")
    for name, measure in metrics.perceptual_measures().items():
        assert np.isnan(measure(np.ones(400), np.zeros(400), 8000)), name


def test_without_the_packages_there_are_no_perceptual_measures(monkeypatch):
    monkeypatch.setitem(sys.modules, "pystoi", None)
    monkeypatch.setitem(sys.modules, "pesq", None)
    assert metrics.perceptual_measures() == {}
