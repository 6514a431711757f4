"""Levels, the gains of the fit, and those of a stream, which move towards them without jumps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasnet_np.sound.level import (
    COLLINEAR,
    DIP_DB,
    FADE_STEPS,
    LOUDEST_DB,
    SLOPE_DB,
    RunningLevel,
    at_level,
    fit_level,
    rms_db,
)

RATE = 8000
STEP = RATE // 100  # samples between two fits


def signals(seed=0, n=4000, level=0.05):
    """Speech and noise for a test: independent, without mean."""
    x = level * np.random.default_rng(seed).standard_normal((2, n))
    return x - x.mean(-1, keepdims=True)


def rms(x):
    return np.sqrt(np.mean(np.square(x, dtype=np.float64), axis=-1))


def test_levels():
    assert rms_db(np.ones(10)) == 0
    assert rms_db(np.full((2, 5), 0.1, np.float32)) == pytest.approx(-20, abs=1e-6)
    assert rms_db(np.sin(2 * np.pi * 100 * np.arange(8000) / 8000).astype(np.float32)) == pytest.approx(
        -3.0103, abs=1e-4
    )
    assert rms_db(np.full(10, 1e-30, np.float32)) == pytest.approx(-600, abs=1e-4)
    assert rms_db(np.zeros(10)) == -np.inf


def test_at_level():
    samples = np.random.default_rng(0).uniform(-0.9, 0.9, (2, 4000)).astype(np.float32)
    scaled = at_level(samples, -25.0)
    assert scaled.dtype == np.float32
    assert rms_db(scaled) == pytest.approx(-25, abs=1e-5)
    assert np.allclose(scaled / samples, scaled[0, 0] / samples[0, 0], rtol=1e-5)
    faintest = np.full(10, 1e-44, np.float32)
    assert rms_db(at_level(faintest, -25.0)) == pytest.approx(-25, abs=1e-5)
    assert np.array_equal(at_level(np.zeros(5, np.float32), -25.0), np.zeros(5))


@pytest.mark.parametrize("gains", [(1000.0, 1000.0), (-1e4, 3e-3), (0.2, -5.0), (-1.0, -1.0)])
def test_fit_undoes_any_gain_and_polarity(gains):
    sources = signals()
    raw = sources * np.array(gains)[:, None]
    assert fit_level(sources.sum(0), raw) == pytest.approx(1 / np.array(gains), rel=1e-9)


def test_fit_does_not_see_the_means():
    sources = signals()
    raw = 7 * sources + np.array([[0.4], [-30.0]])
    assert fit_level(sources.sum(0) + 0.2, raw) == pytest.approx([1 / 7, 1 / 7], rel=1e-9)


def test_fit_is_the_least_squares_solution():
    mixture = np.random.default_rng(1).standard_normal(500)
    raw = signals(2, 500) + 0.4 * mixture * [[0.03], [0.02]]
    centred = raw - raw.mean(-1, keepdims=True)
    expected, *_ = np.linalg.lstsq(centred.T, mixture - mixture.mean(), rcond=None)
    assert fit_level(mixture, raw) == pytest.approx(expected, rel=1e-9)


def at_cos2(cos2, n=4000):
    """Speech and noise at right angles, and two estimates at the given cos^2, speech the first."""
    speech, noise = signals(3, n)
    noise -= speech * (speech @ noise) / (speech @ speech)
    noise *= rms(speech) / rms(noise)
    return speech, noise, np.stack([speech, np.sqrt(cos2) * speech + np.sqrt(1 - cos2) * noise])


def test_just_below_the_limit_both_gains_are_fitted():
    speech, noise, raw = at_cos2(COLLINEAR - 1e-3)
    mixture = 1.3 * raw[0] - 0.3 * raw[1]  # fits only with unequal gains
    assert fit_level(mixture, raw * [[10], [-10]]) == pytest.approx([0.13, 0.03], rel=1e-6)


@pytest.mark.parametrize("polarity", [(1, 1), (1, -1), (-1, 1), (-1, -1)])
def test_just_above_the_limit_the_estimates_share_one_gain(polarity):
    _, _, raw = at_cos2(COLLINEAR + 1e-3)
    mixture = 1.3 * raw[0] - 0.3 * raw[1]
    raw = raw * np.array(polarity)[:, None] * [[10.0], [0.1]]  # unequal levels
    restored = fit_level(mixture, raw)[:, None] * raw
    assert rms(restored[0]) == pytest.approx(rms(restored[1]), rel=1e-9)
    assert rms(restored[0]) == pytest.approx(rms(mixture) / 2, rel=0.02)
    # The polarity is the mixture's, and the error of the fit is at right angles to the sum.
    assert np.all(restored @ mixture > 0)
    total = restored.sum(0)
    assert (mixture - total) @ total == pytest.approx(0, abs=1e-9 * (mixture @ mixture))


def test_equal_estimates_give_half_the_mixture_each():
    mixture = signals()[0]
    gains = fit_level(mixture, np.stack([50 * mixture, -3 * mixture]))
    assert gains == pytest.approx([0.5 / 50, 0.5 / -3], rel=1e-9)


def test_a_silent_estimate_leaves_the_fit_to_the_other():
    speech, noise = signals()
    mixture = speech + 0.3 * noise
    for silence in (np.zeros(4000), np.full(4000, 0.3)):
        expected = (speech @ mixture) / (speech @ speech) / -20
        assert fit_level(mixture, np.stack([-20 * speech, silence])) == pytest.approx([expected, 0])
        assert fit_level(mixture, np.stack([silence, -20 * speech])) == pytest.approx([0, expected])
    assert np.array_equal(fit_level(mixture, np.zeros((2, 4000))), [0, 0])


def test_a_silent_mixture_has_gains_of_0():
    assert np.array_equal(fit_level(np.zeros(4000), signals()), [0, 0])
    assert np.array_equal(fit_level(np.full(4000, 0.1, np.float32), signals()), [0, 0])


def test_estimates_that_nearly_cancel_stop_at_the_bound():
    speech, noise, raw = at_cos2(0.97)
    restored = fit_level(noise, raw)[:, None] * raw  # unbounded, the speech would gain 15 dB
    assert 20 * np.log10(rms(restored).max() / rms(noise)) == pytest.approx(LOUDEST_DB, abs=1e-6)


@given(
    cos2=st.floats(0, 1),
    angle=st.floats(0, 2 * np.pi),
    level_a=st.floats(-6, 6),
    level_b=st.floats(-6, 6),
    inverted=st.booleans(),
)
def test_no_restored_source_is_louder_than_the_bound(cos2, angle, level_a, level_b, inverted):
    speech, noise, raw = at_cos2(cos2, n=50)
    mixture = np.cos(angle) * speech + np.sin(angle) * noise + 0.02 * signals(9, 50)[0]
    raw = raw * np.array([[10**level_a], [-(10**level_b) if inverted else 10**level_b]])
    restored = fit_level(mixture, raw)[:, None] * raw
    assert np.all(rms(restored) <= 10 ** (LOUDEST_DB / 20) * rms(mixture) * (1 + 1e-6))
    if cos2 > COLLINEAR + 1e-6:
        assert np.all(rms(restored) <= rms(mixture))


def levelled(mixture, sources, sizes=(STEP,), delay=0):
    """A stream of mixture (channels, n) and sources (2, channels, n), whose sources come `delay` later."""
    channels, n = mixture.shape
    level, outputs, given, taken = RunningLevel(RATE, channels), [], 0, 0
    while given < n or taken < n:
        size = sizes[len(outputs) % len(sizes)]
        final = n if given >= n else max(taken, min(given + size, n) - delay)
        outputs.append(level.process(mixture[:, given : given + size], sources[..., taken:final]))
        given, taken = given + size, final
    return np.concatenate(outputs, axis=-1), level


def test_a_stream_gets_the_gains_of_the_whole():
    speech, noise = signals(n=10 * RATE)
    mixture = (speech + noise)[None]
    raw = np.stack([1000 * speech, -0.02 * noise])[:, None]
    output, level = levelled(mixture, raw)
    assert level.gains[:, 0] == pytest.approx(fit_level(mixture[0], raw[:, 0]), rel=1e-3)
    last = slice(-RATE, None)
    assert output[0, 0, last] == pytest.approx(speech[last], abs=1e-3 * rms(speech))
    assert output[1, 0, last] == pytest.approx(noise[last], abs=1e-3 * rms(noise))


def test_the_fit_of_a_stream_does_not_see_the_means():
    speech, noise = signals(n=RATE)
    raw = np.stack([20 * speech + 3, 30 * noise - 5])[:, None]
    _, level = levelled((speech + noise)[None] + 0.5, raw)
    assert level.gains[:, 0] == pytest.approx([1 / 20, 1 / 30], rel=1e-3)


def test_gains_do_not_jump():
    """A source that gets 20 dB louder than its mixture says: the gain follows at 1 dB in 100 ms."""
    speech, noise = signals(n=8 * RATE)
    change = RATE
    factors = np.where(np.arange(8 * RATE) < change, 0.1, 10.0)
    output, _ = levelled((speech + noise)[None], np.stack([factors * speech, noise])[:, None])
    later = slice((FADE_STEPS + 1) * STEP, None, STEP)  # one sample of every step
    gain_db = 20 * np.log10(np.abs(output[0, 0, later] / (factors * speech)[later]))
    moves = np.abs(gain_db[10:] - gain_db[:-10])  # within 100 ms
    assert moves.max() == pytest.approx(SLOPE_DB / 10, abs=0.01)
    assert gain_db[-1] < 0 < gain_db[0]


def test_sound_fades_in_and_stays_bounded():
    speech, noise = signals(n=RATE)
    silence = np.zeros((2, RATE))
    speech, noise = np.concatenate([silence, [speech, noise]], axis=1)
    output, _ = levelled((speech + noise)[None], 500 * np.stack([speech, noise])[:, None])
    assert not np.any(output[..., : RATE + STEP])  # no gain before the first fit
    loud = rms(output[:, 0].reshape(2, -1, STEP))  # (2, steps)
    start = RATE // STEP
    assert np.all(loud[:, start + 1 : start + 5] < 0.5 * rms(speech[RATE:]))
    assert loud[:, start + FADE_STEPS + 2 :].mean(axis=1) == pytest.approx(
        rms([speech[RATE:], noise[RATE:]]), rel=0.05
    )
    limit = 10 ** (LOUDEST_DB / 20) * rms((speech + noise)[RATE:])
    assert np.all(rms(output[:, 0, RATE:]) <= limit)


@pytest.mark.parametrize("sizes", [(1,), (7, 0, 300), (RATE,)], ids=str)
@pytest.mark.parametrize("delay", [0, 16, 528])
def test_the_size_of_the_pieces_does_not_matter(sizes, delay):
    sources = np.stack([signals(seed, n=RATE // 2) for seed in (0, 1)], axis=1)  # (2, 2 channels, n)
    raw = (sources * np.array([[[50.0], [3.0]], [[-2.0], [0.1]]])).astype(np.float32)
    expected, _ = levelled(sources.sum(0), raw)
    output, level = levelled(sources.sum(0), raw, sizes, delay)
    assert output.dtype == np.float32 and output.shape == raw.shape
    assert output == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_a_polarity_that_turns_dips_first():
    speech, noise = signals(n=30 * RATE)
    sign = np.where(np.arange(30 * RATE) < RATE, -1, 1)
    output, level = levelled((speech + noise)[None], np.stack([sign * speech, noise])[:, None])
    gains = output[0, 0, STEP - 1 :: STEP] / (sign * speech)[STEP - 1 :: STEP]
    assert gains[90] == pytest.approx(-1, rel=0.05) and gains[-1] > 0.5
    turn = np.flatnonzero(gains > 0)[0]
    assert np.all(gains[FADE_STEPS:turn] < 0) and np.all(gains[turn:] > 0)
    assert abs(gains[turn]) < 2 * 10 ** (-DIP_DB / 20) and abs(gains[turn - 1]) < 2 * 10 ** (-DIP_DB / 20)


def test_bad_samples_and_silence_do_no_harm():
    speech, noise = signals(n=RATE)
    mixture = (speech + noise)[None]
    mixture[0, [0, 500, 4000]] = np.nan, np.inf, -np.inf
    output, level = levelled(mixture, np.stack([speech, noise])[:, None])
    assert np.isfinite(output).all() and level.gains[:, 0] == pytest.approx([1, 1], rel=0.02)
    for quiet in (np.zeros((1, RATE)), np.full((1, RATE), 0.3)):
        output, _ = levelled(quiet, np.stack([quiet, 7 * quiet]))
        assert not np.any(output)
