"""Resampling keeps what both rates can hold and no more; piece by piece gives what the whole gives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasnet_np.errors import UserError
from tasnet_np.sound.level import rms_db
from tasnet_np.sound.resampling import LARGEST_RATIO, Resampler, check_sound_rate, resample

RATES = st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000, 7, 5])


def sound(n, channels=1, seed=0):
    return np.random.default_rng(seed).standard_normal((channels, n)).astype(np.float32)


def sine(hertz, rate, seconds=1.0):
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate).astype(np.float32)


# A whole signal.


@pytest.mark.parametrize("rate_in, rate_out", [(8000, 20000), (20000, 8000), (44100, 16000)])
@pytest.mark.parametrize("n", [1, 2, 999, 8000])
def test_resampled_shape_and_dtype(rate_in, rate_out, n):
    out = resample(sound(n, 3), rate_in, rate_out)
    assert out.shape == (3, -(-n * rate_out // rate_in))
    assert out.dtype == np.float32


def test_resample_to_the_same_rate_changes_nothing():
    samples = sound(4000, 2)
    assert np.array_equal(resample(samples, 8000, 8000), samples)


@pytest.mark.parametrize("rate_in, rate_out", [(8000, 20000), (20000, 8000), (44100, 16000)])
@pytest.mark.parametrize("hertz", [100, 1000, 3000])
def test_a_tone_keeps_its_frequency_level_and_phase(rate_in, rate_out, hertz):
    out = resample(sine(hertz, rate_in), rate_in, rate_out)
    middle = slice(rate_out // 10, -rate_out // 10)
    assert np.abs(out - sine(hertz, rate_out))[middle].max() < 5e-3


def test_nothing_above_the_lower_nyquist_frequency_gets_through():
    def middle(hertz, rate_in, rate_out):
        out = resample(sine(hertz, rate_in), rate_in, rate_out)
        return out[rate_out // 10 : -rate_out // 10]

    for hertz in (5000, 7000, 9500):  # would alias to 3000, 1000 and 1500 Hz
        assert rms_db(middle(hertz, 20000, 8000)) < -50
    spectrum = np.abs(np.fft.rfft(middle(3000, 8000, 20000) * np.hanning(16000)))
    hertz = np.fft.rfftfreq(16000, 1 / 20000)
    images = spectrum[hertz > 4000].max() / spectrum.max()  # of 3000 Hz: at 5000 Hz and above
    assert 20 * np.log10(images) < -50


@pytest.mark.parametrize("rates", [(0, 8000), (8000, 0), (-1, 8000), (8000, 44100.5)])
def test_bad_rates_are_refused(rates):
    with pytest.raises(UserError, match="whole number of hertz"):
        resample(sound(4000, 2), *rates)


@pytest.mark.parametrize("rates", [(8000, 2**31 - 1), (2**31 - 1, 8000), (999_983, 8000)])
def test_a_filter_without_end_is_refused(rates):
    """Its taps would be 20 times the larger number of the ratio in lowest terms."""
    for call in (lambda: resample(sound(100), *rates), lambda: Resampler(*rates)):
        with pytest.raises(UserError, match="no common divisor above 1; resample to 48000 Hz"):
            call()


@pytest.mark.parametrize(
    "rate", [11_025, 44_100, 192_000, 250_000, 384_000, 500_000, 1_000_000, 44_101, 199_999]
)
def test_rates_of_recordings_are_none_of_those(rate):
    check_sound_rate("a.wav", rate)
    assert max(rate, 8000) // np.gcd(rate, 8000) <= LARGEST_RATIO
    assert Resampler(rate, 8000).delay_seconds == pytest.approx(10 / 8000)


@pytest.mark.parametrize(
    "rate", [-8000, 0, 1, 999, 1_000_001, 2**31 - 1, 2**32 - 1, 8000.0, None, float("nan")]
)
def test_rates_that_no_sound_has(rate):
    with pytest.raises(
        UserError, match=f"a.wav: has a sample rate of {rate}; give one between 1000 and 1000000 Hz"
    ):
        check_sound_rate("a.wav", rate)


# Sound as it arrives.


def in_pieces(resampler, samples, sizes):
    outputs, start = [], 0
    while start < samples.shape[1]:
        size = sizes[len(outputs) % len(sizes)]
        outputs.append(resampler.process(samples[:, start : start + size]))
        start += size
    return np.concatenate([*outputs, resampler.flush()], axis=1)


@settings(max_examples=60, deadline=None)
@given(
    RATES,
    RATES,
    st.integers(1, 3000),
    st.integers(1, 2),
    st.lists(st.integers(0, 700), min_size=1).filter(any),
)
def test_pieces_give_what_the_whole_gives(rate_in, rate_out, n, channels, sizes):
    samples = sound(n, channels)
    expected = resample(samples, rate_in, rate_out)
    outputs = in_pieces(Resampler(rate_in, rate_out, channels), samples, sizes)
    assert outputs.shape == expected.shape and outputs.dtype == np.float32
    assert np.abs(outputs - expected).max() <= 1e-6 * np.abs(samples).max()


@pytest.mark.parametrize("rate_in, rate_out", [(48000, 8000), (44100, 16000), (8000, 48000), (8000, 44100)])
def test_outputs_come_as_early_as_the_filter_lets_them(rate_in, rate_out):
    resampler, samples = Resampler(rate_in, rate_out), sound(rate_in // 5)
    given, late = 0, []
    for i in range(samples.shape[1]):
        given += resampler.process(samples[:, i : i + 1]).shape[1]
        late.append((i + 1) / rate_in - given / rate_out)
    steady = late[len(late) // 2 :]
    assert max(steady) <= resampler.delay_seconds + 1 / rate_in
    assert resampler.delay_seconds == pytest.approx(10 / min(rate_in, rate_out))


def test_what_is_kept_does_not_grow():
    resampler = Resampler(44100, 8000)
    sizes, outputs = [], 0
    for _ in range(100):
        outputs += resampler.process(sound(441)).shape[1]
        sizes.append(resampler._kept.shape[1])
    assert outputs > 7900
    assert max(sizes[50:]) <= max(sizes[:50]) < 2 * 10 * 44100 / 8000 + 3 * 441


def test_equal_rates_change_nothing():
    samples = sound(100)
    assert in_pieces(Resampler(8000, 8000), samples, [33]).tobytes() == samples.tobytes()


def test_flush_and_reset_leave_nothing_behind():
    resampler, samples = Resampler(48000, 8000, 2), sound(5000, 2)
    first = in_pieces(resampler, samples, [480])
    assert in_pieces(resampler, samples, [480]).tobytes() == first.tobytes()
    resampler.process(samples)
    resampler.reset()
    assert in_pieces(resampler, samples, [480]).tobytes() == first.tobytes()
    assert resampler.flush().shape == (2, 0)
