"""The progress bar of a run."""

from tasnet_np.messages import progress_bar, say

BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {unit}, {remaining} left{postfix}"


class Progress:
    """A bar over steps or seconds, with the speed, the loss and the last validation; as a context manager.

    Parameters
    ----------
    trainer : Trainer
        Its `steps` and `seconds` say how far the run is.
    goal : Goal
        The bar counts its steps, or, where it has none, the seconds of its minutes.
    quiet : bool
        Show nothing.
    """

    def __init__(self, trainer, goal, quiet=False):
        self.trainer = trainer
        self.by_steps = goal.steps is not None
        total = goal.steps if self.by_steps else round(60 * goal.minutes)
        self.first_step, self.first_second = trainer.steps, trainer.seconds
        self.score = "-"
        self.bar = progress_bar(
            shown=not quiet,
            total=total,
            initial=min(total, self._position()),
            unit="step" if self.by_steps else "s",
            mininterval=0.5,  # seconds between updates
            bar_format=BAR,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.close()

    def _position(self):
        return self.trainer.steps if self.by_steps else int(self.trainer.seconds)

    def show_step(self, record):
        """Show a step, by its record for the log."""
        if self.bar.disable:
            return
        elapsed = max(1e-9, self.trainer.seconds - self.first_second)
        speed = (self.trainer.steps - self.first_step) / elapsed
        self.bar.set_postfix_str(
            f"step {record['step']}, {speed:.2f} steps/s, loss {record['loss']:.2f} dB, "
            f"validation SI-SNRi {self.score} dB",
            refresh=False,
        )
        self.bar.update(min(self.bar.total, self._position()) - self.bar.n)

    def show_validation(self, record):
        """Show a validation, by its record for the log, in a line of its own."""
        if self.bar.disable:
            return
        overall = record["validation"]
        self.score = f"{overall['speech_si_snri_db']:.2f}"
        say(
            f"step {record['step']}: validation SI-SNRi {self.score} dB speech, "
            f"{overall['noise_si_snri_db']:.2f} dB noise"
        )
