"""The likeness of spectra: what it hears, by hand, and what it refuses. The table of cases checks its gradient."""

import numpy as np
import pytest

from tasnet_np.ops.stft_magnitude import FLOOR, stft_magnitude_backward, stft_magnitude_forward


def signals(n=300):
    """Estimates and targets (2, 2, n)."""
    return np.random.default_rng(0).standard_normal((2, 2, 2, n))


def test_the_level_of_the_recording_does_not_matter():
    x, target = signals()
    y, _ = stft_magnitude_forward(x, target=target)
    for gain in (1e-4, 1e3):
        np.testing.assert_allclose(stft_magnitude_forward(gain * x, target=gain * target)[0], y, rtol=1e-9)


def test_an_estimate_that_is_right_is_at_the_ceiling_and_is_left_alone():
    target = signals()[0]
    y, cache = stft_magnitude_forward(target, target=target)
    np.testing.assert_allclose(y, -10 * np.log10(FLOOR))
    assert not stft_magnitude_backward(np.ones_like(y), cache)[0].any()


def test_neither_polarity_nor_a_small_delay_is_heard_but_the_level_is():
    target = signals(3000)[0]
    right, _ = stft_magnitude_forward(target, target=target)
    upside_down, _ = stft_magnitude_forward(-target, target=target)
    np.testing.assert_allclose(upside_down, right)
    late, _ = stft_magnitude_forward(np.roll(target, 1, axis=-1), target=target)
    loud, _ = stft_magnitude_forward(3 * target, target=target)
    assert (late > loud + 5).all()


def test_a_silent_source_is_to_be_silent_and_a_silent_recording_teaches_nothing():
    x, target = signals()
    target[0, 0] = target[1] = 0
    y, cache = stft_magnitude_forward(x, target=target)
    (dx,) = stft_magnitude_backward(np.ones_like(y), cache)
    assert (dx[0, 0] * x[0, 0]).sum() < 0  # quieter is better
    assert not y[1].any() and not dx[1].any()


def test_a_signal_by_hand():
    """Silence against a tone at one bin of one window. The Hann window spreads the tone over three bins."""
    n, size, power = 400, 16, 0.5
    tone = np.sin(2 * np.pi * 3 * np.arange(n) / size)[None, None]
    y, _ = stft_magnitude_forward(0 * tone, target=tone, windows=(size,), power=power, eps=0.0)
    h = np.hanning(size + 1)[:-1]
    middle = np.sqrt(2) * h.sum() / 2 / np.sqrt((h * h).sum())  # a sine of the RMS 1 has the peak sqrt(2)
    distance = (middle ** (2 * power) + 2 * (middle / 2) ** (2 * power)) / (size // 2 + 1)
    assert y[0, 0] == pytest.approx(-10 * np.log10(distance + FLOOR), abs=0.1)  # the ends differ


@pytest.mark.parametrize("windows", [(), (16, 18), (2,)])
def test_windows_that_do_not_overlap_evenly_are_refused(windows):
    x, target = signals(20)
    with pytest.raises(ValueError, match="windows must be multiples of 4"):
        stft_magnitude_forward(x, target=target, windows=windows)
