"""The recipe: what it refuses."""

import pytest

from tasnet_np import UserError
from tasnet_np.training.recipe import SCHEDULES, Recipe


@pytest.mark.parametrize(
    "change, words",
    [
        ({"batch": 0}, "batch must be at least 1, not 0"),
        ({"seconds": -1}, "seconds must be above 0, not -1"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0, not nan"),
        ({"seed": -1}, "seed must not be negative"),
        ({"snr_db": (5, 1)}, "snr_db 5 to 1: give the lower number first"),
        ({"schedule": "linear"}, f"schedule must be one of {', '.join(SCHEDULES)}, not 'linear'"),
        ({"average": 1.0}, "average must be at least 0 and below 1, not 1.0"),
        ({"share": 0.0}, "share must be between 0 and 1, not 0.0"),
        ({"speed": 2.0}, "speed must be between 0 and 0.5, not 2.0"),
    ],
)
def test_recipes_that_make_no_sense(change, words):
    with pytest.raises(UserError, match=words):
        Recipe(**change)
