"""When a run is over, and how much of it is over at each step."""

import time
from dataclasses import dataclass

from tasnet_np.errors import UserError
from tasnet_np.ranges import MOST_STEPS, Range

DEFAULT_MINUTES = 10.0
RANGES = {"minutes": Range(0, 1_000_000, above=True), "steps": Range(1, MOST_STEPS, whole=True)}


@dataclass(frozen=True)
class Goal:
    """When a run is over: after so many minutes or so many steps, whichever comes first.

    Raises
    ------
    UserError
        A number that is not above 0.
    """

    minutes: float | None = None
    steps: int | None = None

    def __post_init__(self):
        for name, allowed in RANGES.items():
            value = getattr(self, name)
            if value is not None and allowed.broken(value):
                raise UserError(f"--{name} {value}: give a number above 0 and at most {allowed.high}")

    @classmethod
    def or_default(cls, minutes, steps):
        """The goal of these minutes and steps; of DEFAULT_MINUTES where both are None."""
        return cls(DEFAULT_MINUTES if minutes is None and steps is None else minutes, steps)


class Clock:
    """How much of a run is over when a step begins: of its steps, or of its minutes.

    Of the minutes it takes off what the last step, the last validation and the last checkpoint will need, as far as
    that is known by then. They are to be over when the minutes are.

    Parameters
    ----------
    goal : Goal
    started : float
        Value of ``time.monotonic()`` at which this process would have begun, had it done all steps so far.
    recorded : dict of int to (float, float)
        (seconds, fraction) at which a step began, by the number of steps before it: what the log of a killed run says.
        These steps begin at the same fractions again.
    """

    def __init__(self, goal, started, recorded=()):
        self.goal = goal
        self.started = started
        self.recorded = dict(recorded)
        self.step_seconds = 0.0  # longest of the last steps
        self.ending_seconds = 0.0  # the last validation, with its checkpoint
        self.is_validated = False  # whether `ending_seconds` was measured, not estimated
        self.is_warm = False  # whether a step was done

    def now(self):
        """Seconds of training so far."""
        return time.monotonic() - self.started

    def begin_step(self, trainer):
        """Set the seconds of the trainer; return the fraction of the run that is over, which never falls."""
        if trainer.steps in self.recorded:
            trainer.seconds, fraction = self.recorded[trainer.steps]
            self.started = time.monotonic() - trainer.seconds
            return fraction
        trainer.seconds = self.now()
        return min(1.0, max(self._fractions(trainer)))

    def _fractions(self, trainer):
        yield trainer.fraction
        if self.goal.steps is not None:
            yield trainer.steps / self.goal.steps
        if self.goal.minutes is not None:
            available = 60 * self.goal.minutes - self.step_seconds - self.ending_seconds
            yield trainer.seconds / available if available > 0 else 1.0

    def end_step(self, trainer):
        """Measure the step that `begin_step` began."""
        took = self.now() - trainer.seconds
        if not self.is_warm:  # the first step may have waited for the compiler
            self.is_warm = True
            return
        self.step_seconds = max(took, 0.9 * self.step_seconds)
        if not self.is_validated:  # a validation goes forward only: about a third of a step for each mixture
            recipe = trainer.recipe
            self.ending_seconds = self.step_seconds * recipe.validation_size / recipe.batch / 3

    def end_validation(self, began):
        """Measure a validation and its checkpoint, from when it began, as `now` told."""
        self.is_validated = True
        self.ending_seconds = self.now() - began
