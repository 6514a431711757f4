"""The recipe: what it refuses, and the loss that it asks for."""

import numpy as np
import pytest

from tasnet_np import UserError
from tasnet_np.network.layers import NegativeSISNR, SpeechLoss
from tasnet_np.training.recipe import SCHEDULES, Recipe
from tasnet_np.training.trainer import loss_of


@pytest.mark.parametrize(
    "change, words",
    [
        ({"batch": 0}, "batch must be at least 1, not 0"),
        ({"seconds": -1}, "seconds must be above 0, not -1"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0, not nan"),
        ({"seed": -1}, "seed must not be negative"),
        ({"stft_weight": -1.0}, "stft_weight must not be negative, not -1.0"),
        ({"ceiling_db": 0}, "ceiling_db must be above 0, not 0"),
        ({"snr_db": (5, 1)}, "snr_db 5 to 1: give the lower number first"),
        ({"schedule": "linear"}, f"schedule must be one of {', '.join(SCHEDULES)}, not 'linear'"),
        ({"average": 1.0}, "average must be at least 0 and below 1, not 1.0"),
        ({"share": 0.0}, "share must be between 0 and 1, not 0.0"),
        ({"babble": 1.5}, "babble must be between 0 and 1, not 1.5"),
        ({"speed": 2.0}, "speed must be between 0 and 0.5, not 2.0"),
    ],
)
def test_recipes_that_make_no_sense(change, words):
    with pytest.raises(UserError, match=words):
        Recipe(**change)


def test_the_ceiling_of_si_snr():
    target = np.random.default_rng(0).standard_normal((2, 2, 300))
    for ceiling_db in (20, 35):
        loss = loss_of(Recipe(ceiling_db=ceiling_db), rate=1000)
        assert isinstance(loss, NegativeSISNR)
        assert loss.forward(target, target) == pytest.approx(-ceiling_db, abs=0.1)
    plain, default = NegativeSISNR(), loss_of(Recipe(), rate=1000)
    assert default.settings == plain.settings
    assert default.forward(target, target) == plain.forward(target, target)


def test_the_weights_of_the_likeness():
    loss = loss_of(Recipe(noise_weight=0.25, stft_weight=0.5, ceiling_db=20), rate=16000)
    assert isinstance(loss, SpeechLoss)
    np.testing.assert_allclose(loss.weights, [0.4, 0.1])
    np.testing.assert_allclose(loss.si_snr.weights, [0.8, 0.2])
    assert loss.likeness.settings["windows"] == (256, 512, 1024)
    assert loss.si_snr.settings["eps"] == pytest.approx(0.01)
