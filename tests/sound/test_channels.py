"""One channel of several: nothing is lost where a side is inverted; arrays the wrong way round are refused."""

import numpy as np
import pytest
from made_up_audio import voice

from tasnet_np.errors import UserError
from tasnet_np.sound.channels import check_channels_first, mono, signs


def noise(channels, n=4000, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal((channels, n))).astype(np.float32)


def test_the_mean_of_channels_that_agree_has_the_same_bits_as_ever():
    for samples in (
        noise(1),
        noise(2),
        noise(6),
        np.repeat(noise(1), 2, axis=0),
        np.zeros((2, 100), np.float32),
    ):
        assert np.array_equal(signs(samples), np.ones((len(samples), 1)))
        assert mono(samples).tobytes() == samples.mean(axis=0).tobytes()


@pytest.mark.parametrize("turned", [[1, -1], [-1, 1], [1, -1, -1, 1], [1, 1, -1, 1, -1, -1]])
def test_inverted_channels_are_turned(turned):
    speech, turned = voice().T, np.float32(turned)[:, None]
    samples = turned * speech + 0.01 * noise(len(turned), speech.shape[1])
    found = signs(samples)
    assert np.array_equal(np.abs(found * turned @ np.ones((1, 1))), np.ones_like(turned))
    assert abs(np.sum(found * turned)) == len(turned)  # all of them, or all others
    sign = np.sign(np.sum(found * turned))
    assert np.abs(mono(samples) - sign * speech[0]).max() < 0.05
    assert np.array_equal(mono(samples, found), mono(samples))


def test_a_channel_of_silence_and_one_that_differs_stay_as_they_are():
    speech = voice().T
    for samples in (np.concatenate([speech, 0 * speech]), np.concatenate([speech, *(0 * speech,) * 5])):
        assert np.all(signs(samples) == 1)
    half = np.concatenate([speech, -0.2 * speech])  # the mean keeps 40 % of it
    assert np.all(signs(half) == 1)


def test_signs_of_another_recording():
    samples = noise(2)
    assert np.array_equal(mono(samples, np.float32([[1], [-1]])), (samples[0] - samples[1]) / 2)


@pytest.mark.parametrize("shape", [(4000, 2), (9, 1), (100, 99), (8000, 6)])
def test_samples_before_channels_are_refused(shape):
    words = f"{shape[0]} channels of {shape[1]} samples, shape .*; channels come first: give samples.T"
    with pytest.raises(UserError, match=words):
        check_channels_first("a.wav", np.zeros(shape))


@pytest.mark.parametrize("shape", [(2, 4000), (8, 1), (2, 1), (64, 64), (1000, 1001), (4000,)])
def test_channels_before_samples_pass(shape):
    check_channels_first("a.wav", np.zeros(shape))
