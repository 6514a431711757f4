"""When a run is over, by a clock that the test moves."""

from types import SimpleNamespace

import pytest

from tasnet_np import UserError
from tasnet_np.training import clock
from tasnet_np.training.clock import DEFAULT_MINUTES, Clock, Goal
from tasnet_np.training.recipe import Recipe

RECIPE = Recipe(batch=4, validation_mixtures=3)  # 12 mixtures in a validation


@pytest.fixture
def time(monkeypatch):
    """`time.now` is what the clock sees."""
    moved = SimpleNamespace(now=100.0)
    monkeypatch.setattr(clock.time, "monotonic", lambda: moved.now)
    return moved


def trainer(steps=0):
    return SimpleNamespace(steps=steps, seconds=0.0, fraction=0.0, recipe=RECIPE)


def step(running, trained, time, seconds):
    """A step of so many seconds; returns the fraction at which it began."""
    trained.fraction = running.begin_step(trained)
    time.now += seconds
    trained.steps += 1
    running.end_step(trained)
    return trained.fraction


def test_goals():
    assert Goal.or_default(None, None) == Goal(minutes=DEFAULT_MINUTES)
    assert Goal.or_default(None, 5) == Goal(steps=5)
    for wrong in ({"minutes": 0}, {"steps": -1}, {"minutes": float("nan")}, {"minutes": float("inf")}):
        with pytest.raises(UserError, match="give a number above 0"):
            Goal(**wrong)


def test_by_steps(time):
    running, trained = Clock(Goal(steps=4), time.now), trainer()
    assert [step(running, trained, time, 1.0) for _ in range(5)] == [0, 0.25, 0.5, 0.75, 1.0]
    assert step(running, trained, time, 1.0) == 1.0  # not above it


def test_of_the_minutes_the_end_is_left_out(time):
    """First as it is estimated from the longest of the last steps, then as it was measured."""
    running, trained = Clock(Goal(minutes=1), time.now), trainer()
    assert step(running, trained, time, 7.0) == 0
    assert step(running, trained, time, 2.0) == pytest.approx(
        7 / 60
    )  # the first step, which compiles, does not count
    assert step(running, trained, time, 1.0) == pytest.approx(9 / (60 - 2 - 2 * 12 / 4 / 3))
    began = running.now()
    time.now += 5.0
    running.end_validation(began)
    assert trained.seconds == 9
    assert step(running, trained, time, 1.0) == pytest.approx(15 / (60 - 1.8 - 5))


def test_the_fraction_never_falls(time):
    running, trained = Clock(Goal(minutes=1), time.now), trainer()
    step(running, trained, time, 1.0)
    step(running, trained, time, 20.0)  # a machine that was busy: the end seems far
    before = step(running, trained, time, 0.1)
    running.end_validation(running.now())  # takes no time at all
    assert 21.1 / (60 - 20) < before
    assert step(running, trained, time, 0.1) == before


def test_whichever_comes_first(time):
    running, trained = Clock(Goal(minutes=1, steps=100), time.now), trainer()
    time.now += 30
    assert step(running, trained, time, 0.0) == 0.5
    trained.steps = 80
    assert step(running, trained, time, 0.0) == 0.8


def test_steps_in_the_log_begin_as_they_did(time):
    """Steps 3 and 4 again, at the seconds and fractions of the log; from there on the clock goes on."""
    running = Clock(Goal(minutes=1), time.now - 40.0, {2: (10.0, 0.2), 3: (11.0, 0.3)})
    trained = trainer(steps=2)
    assert step(running, trained, time, 5.0) == 0.2 and trained.seconds == 10
    assert step(running, trained, time, 5.0) == 0.3 and trained.seconds == 11
    assert step(running, trained, time, 1.0) >= 0.3 and trained.seconds == 16
