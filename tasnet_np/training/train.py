"""Training: a plain loop around the model, and a folder that holds everything about the run (`run_folder.py`).

What is exact: a batch depends on the seed and the step alone, the learning rate on the step and on the fraction
of the run that is over, and everything else that changes is in last.npz. A run that goes by steps, stopped or killed
and resumed with the same goal, has the same losses, bit for bit, as one that was not, on the same processor with
the same NumPy, Numba and matrix products (`blas.py`): each adds in an order of its own.

A run that goes by minutes has another fraction each time, measured by the clock. So the fraction at which each step
began is in the log. A killed run that is resumed does the steps after its last checkpoint again at the fractions
in the log, so that their losses are the same, bit for bit. From there on the clock decides again.
"""

import time

from tasnet_np.corpus import manifest
from tasnet_np.corpus.clips import CACHE_BYTES
from tasnet_np.corpus.mixing import Mixer, Prefetcher
from tasnet_np.errors import UserError
from tasnet_np.messages import say
from tasnet_np.network import checkpoint
from tasnet_np.network.execution import ConvTasNet
from tasnet_np.training.clock import Clock, Goal
from tasnet_np.training.interrupts import stop_on_interrupt
from tasnet_np.training.progress import Progress
from tasnet_np.training.run_folder import RunData, RunFolder, RunSettings
from tasnet_np.training.run_log import RunLog, peak_memory_mb, recorded_times
from tasnet_np.training.trainer import Trainer
from tasnet_np.training.training_data import check_all_there, describe, find_recordings, open_recordings
from tasnet_np.training.validation_set import validation_set


def train(
    speech, noise, out, config, recipe, *, minutes=None, steps=None, path="fused", device="cpu", rooms=None,
    prepared=None, start=None, cache_bytes=CACHE_BYTES, workers=1, quiet=False,
):  # fmt: skip
    """Train a model from its beginning.

    Parameters
    ----------
    speech, noise : str or Path
        Folders of recordings, as `layouts.folders` takes them; None with `prepared`.
    out : str or Path
        Folder of the run. It must not exist, or be empty.
    config : Config
        None to take that of `start`.
    recipe : Recipe
    minutes, steps : float, int
        When to stop, whichever comes first; after DEFAULT_MINUTES if neither is given. The minutes count from this
        call, and hold the last validation and the writing of the checkpoint.
    path : str
        Through the kernels, as in `ConvTasNet`.
    device : str
        "cpu" or "cuda".
    rooms : str or Path
        Folder of room responses.
    prepared : str or Path
        File of a manifest (`tasnet-np prepare`) instead of the folders. It decides the parts.
    start : str or Path
        Checkpoint whose weights to begin with, instead of random ones.
    cache_bytes : int
        The most memory for recordings.
    workers : int
        Threads that mix.
    quiet : bool
        No progress bars, no description.

    Returns
    -------
    bool
        True if it ran to its end, False if Ctrl-C, SIGTERM or SIGHUP stopped it (`resume` continues). Only in the
        main thread of Python can they do that.

    Raises
    ------
    UserError
        Unusable recordings, an unwritable or used folder, a loss that is not finite.
    """
    started = time.monotonic()
    folder = RunFolder(out)
    folder.check_unused()
    goal = Goal.or_default(minutes, steps)
    origin = RunData.at(speech=speech, noise=noise, rooms=rooms, manifest=prepared, start=start)
    model = _first_model(origin, config, recipe, path).to(device)
    recordings = find_recordings(origin, recipe, quiet)
    data = open_recordings(recordings, model.config.sample_rate, cache_bytes)
    with folder.create():
        manifest.save(recordings, folder.manifest_file)
        folder.write(RunSettings(model.config, recipe, goal, origin))  # from here on it can be resumed
        run = _Run(folder, Trainer(model, recipe), data, Clock(goal, started), workers=workers, quiet=quiet)
        return run.to_its_end()


def resume(
    out,
    *,
    minutes=None,
    steps=None,
    path="fused",
    device="cpu",
    cache_bytes=CACHE_BYTES,
    workers=1,
    quiet=False,
):
    """Continue a run where its last checkpoint was written.

    Parameters
    ----------
    out : str or Path
        Folder of the run.
    minutes, steps : float, int
        When to stop, both counted from the beginning of the run; as before if neither is given. With another goal
        than before, the learning rate goes on as the schedule of the new goal says.
    path, device, cache_bytes, workers, quiet
        As for `train`.

    Returns
    -------
    bool
        As for `train`.

    Raises
    ------
    UserError
        No run there, a damaged checkpoint, another run at work there, or recordings that are gone.
    """
    folder = RunFolder(out)
    folder.read()  # no run there: this error comes before that of the lock
    with folder.take_over():
        before = folder.read()
        goal = before.goal if minutes is None and steps is None else Goal(minutes, steps)
        trainer = _last_trainer(folder, before, path, device)
        recordings = folder.read_manifest()
        check_all_there(recordings, folder)
        data = open_recordings(recordings, before.config.sample_rate, cache_bytes)
        folder.write(RunSettings(before.config, before.recipe, goal, before.data))
        recorded = {}
        if goal == before.goal:
            recorded = recorded_times(folder.log_file, trainer.steps)
        else:
            trainer.fraction = 0.0  # the new goal alone says how much is over
        clock = Clock(goal, time.monotonic() - trainer.seconds, recorded)
        return _Run(folder, trainer, data, clock, workers=workers, quiet=quiet).to_its_end()


def _first_model(origin, config, recipe, path):
    """A model with random weights, or with those of the checkpoint to start from."""
    if not origin.start:
        return ConvTasNet(config, seed=recipe.seed, path=path)
    model = checkpoint.load(origin.start, path)
    if config is not None and model.config != config:
        raise UserError(f"{origin.start}: has another architecture than asked for; leave --preset out")
    return model


def _last_trainer(folder, settings, path, device):
    """The trainer of a run as it was at its last checkpoint; at the beginning where it was stopped before the first."""
    if folder.last_checkpoint.exists():
        return Trainer.restore(folder.last_checkpoint, settings.recipe, path, device)
    model = _first_model(settings.data, settings.config, settings.recipe, path).to(device)
    return Trainer(model, settings.recipe)


class _Run:
    """A run at work: steps and validations, written to its folder."""

    def __init__(self, folder, trainer, data, clock, *, workers, quiet):
        recipe, config = trainer.recipe, trainer.model.config
        mixer = Mixer(
            data.training,
            samples=round(recipe.seconds * config.sample_rate),
            rate=config.sample_rate,
            snr_db=recipe.snr_db,
            seed=recipe.seed,
            augmentation=recipe.augmentation,
        )
        self.folder, self.trainer, self.clock = folder, trainer, clock
        self.validation = validation_set(folder, data, recipe, config.sample_rate)
        if not quiet:
            say(describe(data.manifest))
            say(f"model: {config.parameter_count:,} parameters at {config.sample_rate} Hz -> {folder}")
        self.log = RunLog(folder.log_file, trainer.steps)
        self.batches = Prefetcher(mixer, recipe.batch, first=trainer.steps, workers=workers)
        self.progress = Progress(trainer, clock.goal, quiet)

    def to_its_end(self):
        """Train until the goal is reached or a signal asks to stop; return whether the goal was reached."""
        trainer = self.trainer
        with stop_on_interrupt() as interrupts:
            with self.log, self.batches, self.progress:
                is_over = self._train(interrupts)
            trainer.save(self.folder.last_checkpoint)
        if not is_over:
            say(
                f"stopped after step {trainer.steps}; continue with: tasnet-np train --out {self.folder} --resume"
            )
        return is_over

    def _train(self, interrupts):
        trainer, recipe = self.trainer, self.trainer.recipe
        while not interrupts:
            fraction = self.clock.begin_step(trainer)
            if fraction >= 1 or 0 < recipe.stop_after <= trainer.without_best:
                is_validated = trainer.fraction == 1 or trainer.steps % recipe.validate_every == 0
                trainer.fraction = 1.0  # so that a run that ends while this is written is not validated twice
                if not is_validated:
                    self._validate_and_save()
                return True
            record = trainer.advance(self.batches.next(), fraction)
            self.log.write(record | {"seconds": trainer.seconds})
            self.clock.end_step(trainer)
            if trainer.steps % recipe.validate_every == 0:
                self._validate_and_save()
            self.progress.show_step(record)
        return False

    def _validate_and_save(self):
        """Measure the model; keep it where it is the best so far; write a checkpoint."""
        trainer, began = self.trainer, self.clock.now()
        record, is_best = trainer.validate(self.validation)
        self.log.write(record | {"peak_mb": peak_memory_mb()})
        self.progress.show_validation(record)
        if is_best:
            trainer.save_model(self.folder.best_checkpoint)
        trainer.seconds = self.clock.now()
        trainer.save(self.folder.last_checkpoint)
        self.clock.end_validation(began)
