"""Training: a plain loop around the model, and a folder that holds everything about the run.

    RUN/config.json      architecture, recipe, where the recordings are, when to stop
    RUN/manifest.json    every recording and its part (training, validation), and the validation mixtures
    RUN/validation.npz   those mixtures themselves, made once
    RUN/log.jsonl        one line per step, and one per validation
    RUN/last.npz         everything needed to continue: model, optimiser, averages, schedule, step
    RUN/best.npz         the model with the highest validation SI-SNRi so far

What is exact: a batch depends on the seed and the step alone, the learning rate on the step and on the fraction
of the run that is over, and everything else that changes is in last.npz. A run that goes by steps, stopped or killed
and resumed with the same goal, has the same losses, bit for bit, as one that was not, on the same processor with
the same NumPy, Numba and matrix products (`blas.py`): each adds in an order of its own.

A run that goes by minutes has another fraction each time, measured by the clock. So the fraction at which each step
began is in the log. A killed run that is resumed does the steps after its last checkpoint again at the fractions
in the log, so that their losses are the same, bit for bit; from there on the clock decides again.
"""

import contextlib
import dataclasses
import json
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

try:
    import resource
except ImportError:  # Windows has none
    resource = None

from tasnet_np import checkpoint, layouts, manifest
from tasnet_np.augment import Augmentation
from tasnet_np.corpus import CACHE_BYTES, Store, open_corpus
from tasnet_np.data import Batch, Mixer, Prefetcher, fixed_batches
from tasnet_np.compute.arrays import move
from tasnet_np.evaluate import evaluate
from tasnet_np.files import UserError, atomic_path, lock, remove_temporaries
from tasnet_np.layers import NegativeSISNR
from tasnet_np.config import Config
from tasnet_np.execution import ConvTasNet
from tasnet_np.optim import Adam, HalveOnPlateau, WeightAverage, warm_up_and_cosine
from tasnet_np.step import Step

DEFAULT_MINUTES = 10.0
SCHEDULES = ("cosine", "plateau", "constant")
NORMS_EVERY = 20  # steps between two lines of the log with the gradient norm of every block
VALIDATION_SNRS_DB = (-5, 0, 5, 10)
SNR_TOLERANCE_DB = 1e-3  # of a validation mixture's SNR against what it was asked to be


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. Everything here decides the losses."""

    seed: int = 0  # of the weights, the split and every mixture
    batch: int = 4  # mixtures per step
    seconds: float = 1.0  # length of a mixture
    snr_db: tuple[float, float] = (-5.0, 15.0)  # drawn uniformly for each mixture
    learning_rate: float = 2e-3  # of Adam; the highest, where it changes
    schedule: str = "cosine"  # down to the end of the run; or "plateau" (halved), or "constant"
    warmup: int = 50  # steps in which the learning rate rises from 0
    weight_decay: float = 0.0
    clip: float = 5.0  # largest norm of the gradient
    average: float = 0.99  # decay of the moving average of the weights, which is what is kept; 0: none
    noise_weight: float = 1.0  # of the noise's SI-SNR in the loss; the speech's is 1
    mixture_weight: float = 0.0  # of the SI-SNR of the estimates' sum against the mixture
    noises: int = 1  # from here on as in augment.Augmentation
    gain_db: float = 0.0
    speed: float = 0.3
    colour: float = 0.375
    polarity: float = 0.5
    band_limit: float = 0.0
    room: float = 0.0
    clipping: float = 0.0
    noise_free: float = 0.0
    speech_free: float = 0.0
    pairs: float = 0.5
    validate_every: int = 100  # steps
    validation_mixtures: int = 8  # for each of the validation SNRs
    patience: int = 3  # validations without a new best before a "plateau" halves the learning rate
    stop_after: int = 0  # validations without a new best before the run ends early; 0: never
    share: float = 0.2  # of the speakers and noises, held out for validation
    hold_out: tuple[str, ...] = ()  # speakers to hold out instead of random ones

    def __post_init__(self):
        object.__setattr__(self, "snr_db", tuple(self.snr_db))
        object.__setattr__(self, "hold_out", tuple(self.hold_out))
        low, high = self.snr_db
        if not -np.inf < low <= high < np.inf:
            raise UserError(f"snr_db {low} to {high}: give the lower number first, both finite")
        if not 0 < self.share < 1:
            raise UserError(f"share must be between 0 and 1, not {self.share}")
        if self.schedule not in SCHEDULES:
            raise UserError(f"schedule must be one of {', '.join(SCHEDULES)}, not {self.schedule!r}")
        if not 0 <= self.average < 1:
            raise UserError(f"average must be at least 0 and below 1, not {self.average}")
        for name in ("batch", "validate_every", "validation_mixtures"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("seconds", "learning_rate", "clip"):
            if not 0 < getattr(self, name) < np.inf:
                raise UserError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("seed", "weight_decay", "noise_weight", "mixture_weight", "patience", "warmup", "stop_after"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} must not be negative, not {getattr(self, name)}")
        self.augmentation  # raises what makes no sense

    @property
    def augmentation(self):
        """The part of the recipe that `Mixer` acts on."""
        return Augmentation(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Augmentation)})


class Trainer:
    """Model, optimiser, averages and schedule, one step at a time."""

    def __init__(self, model, recipe):
        self.model = model
        self.recipe = recipe
        self.loss = NegativeSISNR(weights=(1.0, recipe.noise_weight), mixture_weight=recipe.mixture_weight)
        self.optimizer = Adam(
            model.params, learning_rate=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.plateau = HalveOnPlateau(self.optimizer, patience=recipe.patience)
        self.average = WeightAverage(model.params, recipe.average)
        self.best_si_snri = -np.inf
        self.without_best = 0  # validations since the best one
        self.seconds = 0.0  # of training so far
        self.fraction = 0.0  # of the run that is over
        self.update = Step(model, self.loss, self.optimizer, recipe.clip)

    @property
    def steps(self):
        return self.optimizer.steps

    def advance(self, batch, fraction):
        """One step of the schedule: learning rate, `step`, average. Returns a record for the log."""
        recipe, step = self.recipe, self.steps
        self.fraction = fraction
        if recipe.schedule == "cosine":
            rate = warm_up_and_cosine(recipe.learning_rate, step, fraction, warmup=recipe.warmup)
            self.optimizer.learning_rate = rate
        elif step < recipe.warmup:
            self.optimizer.learning_rate = recipe.learning_rate * (step + 1) / recipe.warmup
        record = self.step(batch) | {"fraction": fraction}
        self.average.update()
        if step % NORMS_EVERY == 0:
            record["gradient_norms"] = self._norms_by_part(record["gradient_norm"])
        return record

    def _norms_by_part(self, norm):
        """Gradient norm of every block and every other part, before clipping."""
        squares = {}
        for name, gradient in self.model.grads.items():
            words = name.split(".")
            part = ".".join(words[:2]) if words[0] == "blocks" else words[0]
            gradient = move(gradient, "cpu")
            squares[part] = squares.get(part, 0.0) + float(np.vdot(gradient, gradient))
        unclipped = max(1.0, norm / self.recipe.clip)
        return {part: float(np.float32(unclipped * np.sqrt(square))) for part, square in squares.items()}

    def step(self, batch):
        """One update. Returns a record for the log.

        Raises
        ------
        UserError : the loss or the gradient is not finite; the model is left as it was
        """
        step = self.steps + 1
        loss, norm = self.update(batch)
        if not (np.isfinite(loss) and np.isfinite(norm)):
            raise UserError(
                f"step {step}: loss {loss}, gradient norm {norm} on the batch "
                f"[{'; '.join(batch.names)}]; the last good checkpoint is kept: "
                "lower --learning-rate, or look at these recordings"
            )
        rate = self.optimizer.learning_rate
        return {"step": self.steps, "loss": loss, "gradient_norm": norm, "learning_rate": rate}

    def validate(self, batches):
        """SI-SNRi on held-out mixtures; every `validate_every` steps, a plateau lowers the learning rate.

        Returns a record for the log and whether this is the best model so far.
        """
        with self.average.applied():
            overall = evaluate(self.model, batches)[-1]
        si_snri = overall["speech_si_snri_db"]
        is_best = si_snri > self.best_si_snri
        if self.steps % self.recipe.validate_every == 0:  # not at the end: resuming must not notice it
            if self.recipe.schedule == "plateau":
                self.plateau.step(-si_snri)
            self.without_best = 0 if is_best else self.without_best + 1
        if is_best:
            self.best_si_snri = si_snri
        return {"step": self.steps, "validation": overall}, is_best

    def save_model(self, path):
        """Write the averaged model alone."""
        with self.average.applied():
            checkpoint.save(self.model, path)

    def save(self, path):
        """Write everything that `restore` needs."""
        numbers, arrays = self.optimizer.state()
        updates, averages = self.average.state()
        numbers = {
            "optimizer": numbers,
            "plateau": self.plateau.state(),
            "average": updates,
            "best_si_snri": self.best_si_snri,
            "without_best": self.without_best,
            "seconds": self.seconds,
            "fraction": self.fraction,
        }
        checkpoint.save(self.model, path, numbers=numbers, arrays=arrays | averages)

    @classmethod
    def restore(cls, file, recipe, path="fused", device="cpu"):
        """Continue from what `save` wrote, on the given path through the kernels and the given device."""
        stored = checkpoint.read(file, path)
        trainer = cls(stored.model.to(device), recipe)
        try:
            trainer.optimizer.restore(stored.numbers["optimizer"], stored.arrays)
            trainer.plateau.restore(stored.numbers["plateau"])
            trainer.average.restore(stored.numbers["average"], stored.arrays)
            for name in ("best_si_snri", "without_best", "seconds", "fraction"):
                setattr(trainer, name, stored.numbers[name])
        except (KeyError, ValueError):
            raise UserError(f"{file}: holds a model but no training to resume; train anew") from None
        return trainer


def train(
    speech, noise, out, config, recipe, *, minutes=None, steps=None, path="fused", device="cpu", rooms=None, prepared=None,
    start=None, cache_bytes=CACHE_BYTES, workers=1, quiet=False,
):  # fmt: skip
    """Train a model from its beginning.

    Parameters
    ----------
    speech, noise : folders of recordings, as `layouts.folders` takes them; None with `prepared`
    out : folder of the run; must not exist, or be empty
    config : Config; None to take that of `start`
    recipe : Recipe
    minutes, steps : when to stop, whichever comes first; DEFAULT_MINUTES if neither is given. The minutes
        count from this call, and hold the last validation and the writing of the checkpoint
    path : through the kernels, as in `ConvTasNet`
    device : "cpu" or "cuda"
    rooms : folder of room responses
    prepared : file of a manifest (`tasnet-np prepare`) instead of the folders; it decides the parts
    start : checkpoint whose weights to begin with, instead of random ones
    cache_bytes : the most memory for recordings
    workers : threads that mix
    quiet : no progress bars

    Returns
    -------
    bool : True if it ran to its end, False if Ctrl-C stopped it (resume continues)

    Raises
    ------
    UserError : unusable recordings, an unwritable or used folder, a loss that is not finite
    """
    started = time.monotonic()
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists already; choose another --out, or --resume that run")
    goal = _goal(minutes, steps)
    about = {"speech": speech, "noise": noise, "rooms": rooms, "manifest": prepared, "start": start}
    about = {name: value and str(Path(value).resolve()) for name, value in about.items()}
    model = _first_model(about, config, recipe, path).to(device)
    recordings = _recordings(about, recipe, quiet)
    corpora = _open(recordings, model.config, cache_bytes)
    with _writing_to(out):
        out.mkdir(parents=True, exist_ok=True)
    with lock(out):
        if any(out.iterdir()):
            raise UserError(f"{out}: exists already; choose another --out, or --resume that run")
        manifest.save(recordings, out / "manifest.json")
        _write_config(out, model.config, recipe, about, goal)  # from here on it can be resumed
        clock = _Clock(goal, started)
        return _run(out, Trainer(model, recipe), recordings, corpora, clock, workers=workers, quiet=quiet)


def resume(out, *, minutes=None, steps=None, path="fused", device="cpu", cache_bytes=CACHE_BYTES, workers=1, quiet=False):
    """Continue a run where its last checkpoint was written. `minutes` and `steps` count from its start.

    With another goal than before, the learning rate goes on as the schedule of the new goal says.

    Raises
    ------
    UserError : no run there, a damaged checkpoint, another run at work there, or recordings that are gone
    """
    out = Path(out)
    config, recipe, about, goal = read_run(out)
    with lock(out):
        remove_temporaries(out)
        if minutes is not None or steps is not None:
            goal = _goal(minutes, steps)
        same_goal = goal == read_run(out)[3]
        if (out / "last.npz").exists():
            trainer = Trainer.restore(out / "last.npz", recipe, path, device)
        else:  # stopped before its first checkpoint: begin again
            trainer = Trainer(_first_model(about, config, recipe, path).to(device), recipe)
        recordings = manifest.load(out / "manifest.json")
        _check_all_there(recordings, out)
        corpora = _open(recordings, config, cache_bytes)
        _write_config(out, config, recipe, about, goal)
        clock = _Clock(goal, time.monotonic() - trainer.seconds)
        if same_goal:
            clock.recorded = _recorded_times(out / "log.jsonl", trainer.steps)
        else:
            trainer.fraction = 0.0
        return _run(out, trainer, recordings, corpora, clock, workers=workers, quiet=quiet)


def read_run(out):
    """Config, Recipe, what is known about the recordings, and the goal of the run in a folder.

    Raises
    ------
    UserError : no run there, or its config.json is damaged
    """
    path = Path(out) / "config.json"
    try:
        run = json.loads(path.read_text())
        later = dataclasses.asdict(Augmentation())  # kinds that an older run does not name did not exist: off
        config, recipe = Config(**run["config"]), Recipe(**later | run["recipe"])
        return config, recipe, run["data"], run["goal"]
    except OSError:
        raise UserError(f"{out}: is not the folder of a training run (no config.json); check --out") from None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: is damaged ({error}); restore it, or train a new run") from None


def _first_model(about, config, recipe, path):
    """A model with random weights, or with those of the checkpoint to start from."""
    if not about["start"]:
        return ConvTasNet(config, seed=recipe.seed, path=path)
    model = checkpoint.load(about["start"], path)
    if config is not None and model.config != config:
        raise UserError(f"{about['start']}: has another architecture than asked for; leave --preset out")
    return model


def _goal(minutes, steps):
    if minutes is None and steps is None:
        minutes = DEFAULT_MINUTES
    for name, value in (("minutes", minutes), ("steps", steps)):
        if value is not None and not 0 < value < np.inf:
            raise UserError(f"--{name} {value}: give a number above 0")
    return {"minutes": minutes, "steps": steps}


def _recordings(about, recipe, quiet):
    """The manifest to train on, with a warning for each file that was left out."""
    if about["manifest"]:
        return manifest.load(about["manifest"])
    found, problems = layouts.folders(about["speech"], about["noise"], about["rooms"])
    made = manifest.make_manifest(
        found, problems, seed=recipe.seed, share=recipe.share, hold_out=recipe.hold_out, progress=not quiet
    )
    for problem in made.problems:
        _warn(problem)
    return made


def _open(recordings, config, cache_bytes):
    """The training and the validation corpus; both keep what they read in one store."""
    store = Store(cache_bytes, _warn)
    return [open_corpus(recordings, part, config.sample_rate, store) for part in ("training", "validation")]


def _warn(problem):
    tqdm.write(f"warning: {problem}", file=sys.stderr)


def _check_all_there(recordings, out):
    """Refuse to resume on other recordings than before."""
    entries = recordings.part("training") + recordings.part("validation")
    gone = next((path for path in map(recordings.path, entries) if not path.exists()), None)
    if gone:
        raise UserError(f"{gone}: is gone, but {out} was trained on it; restore it, or train a new run")


def _write_config(out, config, recipe, about, goal):
    run = {
        "config": dataclasses.asdict(config),
        "recipe": dataclasses.asdict(recipe),
        "goal": goal,
        "data": about,
    }
    with atomic_path(out / "config.json") as temporary:
        temporary.write_text(json.dumps(run, indent=1))


def validation_set(out, recordings, corpus, samples, recipe, rate):
    """The fixed validation mixtures of a run, a batch for each SNR: made once, then read from its folder.

    Their SNRs are measured on the very samples, and written to the run's manifest.

    Raises
    ------
    UserError : a mixture has not the SNR asked for, or the file is damaged
    """
    path = out / "validation.npz"
    if not path.exists():
        batches = fixed_batches(
            corpus, samples=samples, rate=rate, snrs_db=VALIDATION_SNRS_DB,
            per_snr=recipe.validation_mixtures, seed=recipe.seed,
        )  # fmt: skip
        recordings.mixtures = [mixture for batch in batches for mixture in _measured(batch)]
        names = ("mixture", "sources", "snr_db", "names")
        arrays = {f"{name}_{i}": np.array(getattr(batch, name)) for i, batch in enumerate(batches) for name in names}
        manifest.save(recordings, out / "manifest.json")
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)
    return read_validation_set(path)


def read_validation_set(path):
    """The batches that `validation_set` wrote."""
    arrays = checkpoint.read_arrays(path)
    try:
        return [
            Batch(*(arrays[f"{name}_{i}"] for name in ("mixture", "sources", "snr_db")), arrays[f"names_{i}"].tolist())
            for i in range(len(arrays) // 4)
        ]
    except KeyError:
        raise UserError(f"{path}: is damaged; remove it, and it is made again") from None


def _measured(batch):
    """What the manifest says about the mixtures of a batch, after checking their SNRs."""
    powers = np.mean(np.square(batch.sources, dtype=np.float64), axis=-1)  # (B, 2)
    measured = 10 * np.log10(powers[:, 0] / powers[:, 1])
    for name, asked, is_db in zip(batch.names, batch.snr_db, measured):
        if not abs(asked - is_db) <= SNR_TOLERANCE_DB:
            raise UserError(f"{name}: the mixture is at {is_db:.3f} dB; leave this recording out")
        yield {"name": name, "snr_db": float(asked), "measured_snr_db": float(is_db)}


class _Clock:
    """How much of a run is over when a step begins: of its steps, or of its minutes.

    Of the minutes, what the last step, the last validation and the last checkpoint will take is left out, as far as
    that is known by then: they are to be over when the minutes are.
    """

    def __init__(self, goal, started):
        self.goal = goal
        self.started = started  # where this process would have begun, had it done all steps so far
        self.recorded = {}  # step -> (seconds, fraction), from the log of a run that was killed
        self.step_seconds = 0.0  # longest of the last steps
        self.ending_seconds = 0.0  # the last validation, with its checkpoint
        self.validated = False  # whether that was measured
        self.warm = False  # whether a step was done

    def now(self):
        return time.monotonic() - self.started

    def begin_step(self, trainer):
        """Set the seconds of the trainer; return the fraction, which never falls."""
        if trainer.steps in self.recorded:
            trainer.seconds, fraction = self.recorded[trainer.steps]
            self.started = time.monotonic() - trainer.seconds
            return fraction
        trainer.seconds = self.now()
        fractions = [trainer.fraction]
        if self.goal["steps"] is not None:
            fractions.append(trainer.steps / self.goal["steps"])
        if self.goal["minutes"] is not None:
            available = 60 * self.goal["minutes"] - self.step_seconds - self.ending_seconds
            fractions.append(trainer.seconds / available if available > 0 else 1.0)
        return min(1.0, max(fractions))

    def end_step(self, trainer, recipe):
        took = self.now() - trainer.seconds
        if not self.warm:  # the first step may have waited for the compiler
            self.warm = True
            return
        self.step_seconds = max(took, 0.9 * self.step_seconds)
        if not self.validated:  # forward only, about a third of a step for each example
            examples = len(VALIDATION_SNRS_DB) * recipe.validation_mixtures
            self.ending_seconds = self.step_seconds * examples / recipe.batch / 3

    def end_validation(self, began):
        self.validated = True
        self.ending_seconds = self.now() - began


def _run(out, trainer, recordings, corpora, clock, *, workers, quiet):
    """Steps and validations until the goal is reached or Ctrl-C asks to stop."""
    recipe, config = trainer.recipe, trainer.model.config
    samples = round(recipe.seconds * config.sample_rate)
    common = {"samples": samples, "rate": config.sample_rate, "seed": recipe.seed}
    mixer = Mixer(corpora[0], snr_db=recipe.snr_db, augmentation=recipe.augmentation, **common)
    validation = validation_set(out, recordings, corpora[1], samples, recipe, config.sample_rate)
    _describe(out, recordings, config, quiet)
    log = _Log(out / "log.jsonl", trainer.steps)
    finished = False
    batches = Prefetcher(mixer, recipe.batch, first=trainer.steps, workers=workers)
    progress = _Progress(trainer, clock.goal, quiet)
    with log, batches, _stop_on_interrupt() as interrupted, progress:
        while not interrupted:
            fraction = clock.begin_step(trainer)
            if finished := fraction >= 1 or 0 < recipe.stop_after <= trainer.without_best:
                break
            record = trainer.advance(batches.next(), fraction)
            log.write(record | {"seconds": trainer.seconds})
            clock.end_step(trainer, recipe)
            if trainer.steps % recipe.validate_every == 0:
                _validate_and_save(out, trainer, clock, validation, log, progress)
            progress.show(record)
        if finished and trainer.steps % recipe.validate_every:
            _validate_and_save(out, trainer, clock, validation, log, progress)
    trainer.fraction = 1.0 if finished else trainer.fraction
    trainer.save(out / "last.npz")
    if not finished:
        print(f"stopped after step {trainer.steps}; continue with: tasnet-np train --out {out} --resume")
    return finished


def _validate_and_save(out, trainer, clock, validation, log, progress):
    began = clock.now()
    record, is_best = trainer.validate(validation)
    log.write(record | {"peak_mb": peak_memory_mb()})
    progress.validated(record)
    if is_best:
        trainer.save_model(out / "best.npz")
    trainer.seconds = clock.now()
    trainer.save(out / "last.npz")
    clock.end_validation(began)


def peak_memory_mb():
    """Largest resident memory of this process so far, in MB; None where the system does not say."""
    if resource is None:
        return None
    unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kilobytes elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


def _describe(out, recordings, config, quiet):
    """One line each on the recordings and the model."""
    if quiet:
        return
    for part in ("training", "validation"):
        noises = recordings.part(part, "noise")
        clips = [e for e in recordings.part(part) if e.kind in ("speech", "pair")]
        minutes = [sum(entry.seconds for entry in group) / 60 for group in (clips, noises)]
        speakers = len({entry.speaker for entry in clips})
        print(
            f"{part}: {len(clips)} clips of {speakers} speakers ({minutes[0]:.1f} min), "
            f"{len(noises)} noises ({minutes[1]:.1f} min)"
        )
    print(f"model: {config.parameter_count:,} parameters at {config.sample_rate} Hz -> {out}")


def _recorded_times(path, step):
    """{step: (seconds, fraction)} at which the steps after a given one began, as far as the log has them."""
    times = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
            if "loss" in record and record["step"] > step:
                times[record["step"] - 1] = record["seconds"], record["fraction"]
        except (ValueError, KeyError, TypeError):  # a line cut short when the run was killed
            break
    return times


class _Log:
    """log.jsonl, opened to continue after a given step: what a killed run wrote beyond it goes."""

    def __init__(self, path, step):
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if _step_of(line) <= step]
        with atomic_path(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept))

    def __enter__(self):
        self.file = open(self.path, "a", buffering=1)  # a line at a time
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, record):
        with _writing_to(self.path):
            self.file.write(json.dumps(record) + "\n")


def _step_of(line):
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):  # a line cut short when the run was killed
        return np.inf


@contextlib.contextmanager
def _writing_to(path):
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); free some space or choose another --out"
        ) from None


@contextlib.contextmanager
def _stop_on_interrupt():
    """A list that gets an entry at the first Ctrl-C (or SIGTERM); the second one acts as usual."""
    signals = (signal.SIGINT, signal.SIGTERM)
    interrupted = []
    before = {number: signal.getsignal(number) for number in signals}

    def stop(number, frame):
        interrupted.append(number)
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in signals:
        signal.signal(number, stop)
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Progress:
    """A bar over steps or seconds, with the loss, the validation score and the speed."""

    def __init__(self, trainer, goal, quiet=False):
        self.trainer = trainer
        self.by_steps = goal["steps"] is not None
        total = goal["steps"] if self.by_steps else round(60 * goal["minutes"])
        self.first_step, self.first_second = trainer.steps, trainer.seconds
        self.score = "-"
        self.bar = tqdm(
            total=total,
            initial=min(total, self._position()),
            unit="step" if self.by_steps else "s",
            mininterval=0.5,  # seconds between updates
            disable=quiet,
            bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {unit}, {remaining} left{postfix}",
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.close()

    def _position(self):
        return self.trainer.steps if self.by_steps else int(self.trainer.seconds)

    def show(self, record):
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

    def validated(self, record):
        if self.bar.disable:
            return
        overall = record["validation"]
        self.score = f"{overall['speech_si_snri_db']:.2f}"
        self.bar.write(
            f"step {record['step']}: validation SI-SNRi {self.score} dB speech, "
            f"{overall['noise_si_snri_db']:.2f} dB noise"
        )
