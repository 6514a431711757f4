"""Training: a plain loop around the model, and a folder that holds everything about the run.

    RUN/config.json   architecture, recipe, folders, and who was held out
    RUN/log.jsonl     one line per step, and one per validation
    RUN/last.npz      everything needed to continue: model, optimiser, schedule, step
    RUN/best.npz      the model with the highest validation SI-SNRi so far

A batch depends on the seed and the step alone, and everything else that changes is in last.npz. So a run
that was stopped and resumed has the same losses, bit for bit, as one that was not.
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

from tasnet_np import checkpoint, gpu_training
from tasnet_np.data import Mixer, fixed_batches, load_corpus, split
from tasnet_np.evaluate import evaluate
from tasnet_np.files import UserError, atomic_path
from tasnet_np.layers import NegativeSISNR
from tasnet_np.model import Config, ConvTasNet
from tasnet_np.optim import Adam, HalveOnPlateau, clip_gradients

DEFAULT_MINUTES = 10.0


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. Everything here decides the losses."""

    seed: int = 0  # of the weights, the split and every mixture
    batch: int = 4  # mixtures per step
    seconds: float = 2.0  # length of a mixture
    snr_db: tuple[float, float] = (-5.0, 15.0)  # drawn uniformly for each mixture
    learning_rate: float = 1e-3  # of Adam
    weight_decay: float = 0.0
    clip: float = 5.0  # largest norm of the gradient
    noise_weight: float = 1.0  # of the noise's SI-SNR in the loss; the speech's is 1
    validate_every: int = 100  # steps
    validation_mixtures: int = 8  # for each of the validation SNRs
    patience: int = 3  # validations without a new best before the learning rate is halved
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
        for name in ("batch", "validate_every", "validation_mixtures"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("seconds", "learning_rate", "clip"):
            if not 0 < getattr(self, name) < np.inf:
                raise UserError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("seed", "weight_decay", "noise_weight", "patience"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} must not be negative, not {getattr(self, name)}")


class Trainer:
    """Model, optimiser and schedule, one step at a time."""

    def __init__(self, model, recipe):
        self.model = model
        self.recipe = recipe
        self.loss = NegativeSISNR(weights=(1.0, recipe.noise_weight))
        self.optimizer = Adam(
            model.params, learning_rate=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.schedule = HalveOnPlateau(self.optimizer, patience=recipe.patience)
        self.best_si_snri = -np.inf
        self.seconds = 0.0  # of training so far
        self.gpu_step = gpu_training.Step(model, self.loss, self.optimizer, recipe.clip)

    @property
    def steps(self):
        return self.optimizer.steps

    def step(self, batch):
        """One update. Returns a record for the log.

        Raises
        ------
        UserError : the loss or the gradient is not finite; the model is left as it was
        """
        step = self.steps + 1
        if self.model.device == "cuda":
            loss, norm = self.gpu_step(batch)
        else:
            loss, norm = self._forward_and_backward(batch)
        if not (np.isfinite(loss) and np.isfinite(norm)):
            raise UserError(
                f"step {step}: loss {loss}, gradient norm {norm} on the batch "
                f"[{'; '.join(batch.names)}]; the last good checkpoint is kept: "
                "lower --learning-rate, or look at these recordings"
            )
        if self.model.device == "cpu":
            self.optimizer.step(self.model.grads)
        rate = self.optimizer.learning_rate
        return {"step": self.steps, "loss": loss, "gradient_norm": norm, "learning_rate": rate}

    def _forward_and_backward(self, batch):
        estimate = self.model.forward(batch.mixture)
        loss = self.loss.forward(estimate, batch.sources)
        self.model.backward(self.loss.backward())
        return loss, clip_gradients(self.model.grads, self.recipe.clip)

    def validate(self, batches):
        """SI-SNRi on held-out mixtures; every `validate_every` steps, a plateau lowers the learning rate.

        Returns a record for the log and whether this is the best model so far.
        """
        overall = evaluate(self.model, batches)[-1]
        si_snri = overall["speech_si_snri_db"]
        if self.steps % self.recipe.validate_every == 0:  # not at the end: resuming must not notice it
            self.schedule.step(-si_snri)
        is_best = si_snri > self.best_si_snri
        if is_best:
            self.best_si_snri = si_snri
        return {"step": self.steps, "validation": overall}, is_best

    def save(self, path):
        """Write everything that `restore` needs."""
        numbers, arrays = self.optimizer.state()
        numbers = {
            "optimizer": numbers,
            "schedule": self.schedule.state(),
            "best_si_snri": self.best_si_snri,
            "seconds": self.seconds,
        }
        checkpoint.save(self.model, path, numbers=numbers, arrays=arrays)

    @classmethod
    def restore(cls, file, recipe, path="fused", device="cpu"):
        """Continue from what `save` wrote, on the given path through the kernels and the given device."""
        stored = checkpoint.read(file, path)
        trainer = cls(stored.model.to(device), recipe)
        try:
            trainer.optimizer.restore(stored.numbers["optimizer"], stored.arrays)
            trainer.schedule.restore(stored.numbers["schedule"])
            trainer.best_si_snri = stored.numbers["best_si_snri"]
            trainer.seconds = stored.numbers["seconds"]
        except (KeyError, ValueError):
            raise UserError(f"{file}: holds a model but no training to resume; train anew") from None
        return trainer


def train(speech, noise, out, config, recipe, *, minutes=None, steps=None, path="fused", device="cpu"):
    """Train a model from its beginning.

    Parameters
    ----------
    speech, noise : folders of recordings, as `data.load_corpus` takes them
    out : folder of the run; must not exist, or be empty
    config : Config
    recipe : Recipe
    minutes, steps : when to stop, whichever comes first; DEFAULT_MINUTES if neither is given
    path : through the kernels, as in `ConvTasNet`
    device : "cpu" or "cuda"

    Returns
    -------
    bool : True if it ran to its end, False if Ctrl-C stopped it (resume continues)

    Raises
    ------
    UserError : unusable recordings, an unwritable or used folder, a loss that is not finite
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists already; choose another --out, or --resume that run")
    goal = _goal(minutes, steps)
    model = ConvTasNet(config, seed=recipe.seed, path=path).to(device)
    about = {"speech": str(Path(speech).resolve()), "noise": str(Path(noise).resolve())}
    corpora = _load(about, config, recipe)
    about |= {"training": _names(corpora[0]), "validation": _names(corpora[1])}
    with _writing_to(out):
        out.mkdir(parents=True, exist_ok=True)
    _write_config(out, config, recipe, about, goal)
    trainer = Trainer(model, recipe)
    return _run(out, trainer, corpora, goal)


def resume(out, *, minutes=None, steps=None, path="fused", device="cpu"):
    """Continue a run where its last checkpoint was written. `minutes` and `steps` count from its start.

    Raises
    ------
    UserError : no run there, a damaged checkpoint, or recordings that are no longer the same
    """
    out = Path(out)
    config, recipe, about, goal = read_run(out)
    if minutes is not None or steps is not None:
        goal = _goal(minutes, steps)
    trainer = _resumed_trainer(out, config, recipe, path, device)
    corpora = _load(about, config, recipe)
    if [_names(corpus) for corpus in corpora] != [about["training"], about["validation"]]:
        raise UserError(
            f"{about['speech']}, {about['noise']}: the recordings are not those that {out} was trained on; "
            "restore them, or train a new run"
        )
    _write_config(out, config, recipe, about, goal)
    return _run(out, trainer, corpora, goal)


def read_run(out):
    """Config, Recipe, what is known about the recordings, and the goal of the run in a folder.

    Raises
    ------
    UserError : no run there, or its config.json is damaged
    """
    path = Path(out) / "config.json"
    try:
        run = json.loads(path.read_text())
        config, recipe = Config(**run["config"]), Recipe(**run["recipe"])
        return config, recipe, run["data"], run["goal"]
    except OSError:
        raise UserError(f"{out}: is not the folder of a training run (no config.json); check --out") from None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: is damaged ({error}); restore it, or train a new run") from None


def _resumed_trainer(out, config, recipe, path, device):
    if not (out / "last.npz").exists():  # stopped before its first checkpoint: begin again
        return Trainer(ConvTasNet(config, seed=recipe.seed, path=path).to(device), recipe)
    return Trainer.restore(out / "last.npz", recipe, path, device)


def _goal(minutes, steps):
    if minutes is None and steps is None:
        minutes = DEFAULT_MINUTES
    for name, value in (("minutes", minutes), ("steps", steps)):
        if value is not None and not 0 < value < np.inf:
            raise UserError(f"--{name} {value}: give a number above 0")
    return {"minutes": minutes, "steps": steps}


def _load(about, config, recipe):
    """The training and the validation corpus, with a warning for each file that was skipped."""
    corpus, problems = load_corpus(about["speech"], about["noise"], config.sample_rate, progress=True)
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)
    return split(corpus, seed=recipe.seed, hold_out=recipe.hold_out, share=recipe.share)


def _names(corpus):
    """Every recording of a corpus, by name: what a resumed run must find again."""
    return {
        "speakers": {name: [clip.name for clip in clips] for name, clips in corpus.speakers.items()},
        "noises": [clip.name for clip in corpus.noises],
    }


def _write_config(out, config, recipe, about, goal):
    run = {
        "config": dataclasses.asdict(config),
        "recipe": dataclasses.asdict(recipe),
        "goal": goal,
        "data": about,
    }
    with atomic_path(out / "config.json") as temporary:
        temporary.write_text(json.dumps(run, indent=1))


def _run(out, trainer, corpora, goal):
    """Steps and validations until the goal is reached or Ctrl-C asks to stop."""
    recipe, config = trainer.recipe, trainer.model.config
    samples = round(recipe.seconds * config.sample_rate)
    common = {"samples": samples, "rate": config.sample_rate, "seed": recipe.seed}
    mixer = Mixer(corpora[0], snr_db=recipe.snr_db, **common)
    validation = fixed_batches(corpora[1], per_snr=recipe.validation_mixtures, **common)
    _describe(out, corpora, config)
    log = _Log(out / "log.jsonl", trainer.steps)
    mix = mixer.batch if trainer.model.device == "cpu" else gpu_training.MixedAhead(mixer.batch)
    finished = False
    with log, _stop_on_interrupt() as interrupted, _Progress(trainer, goal) as progress:
        started = time.monotonic() - trainer.seconds
        while not (finished := _reached(goal, trainer)) and not interrupted:
            record = trainer.step(mix(trainer.steps, recipe.batch))
            trainer.seconds = time.monotonic() - started
            log.write(record | {"seconds": round(trainer.seconds, 3)})
            if trainer.steps % recipe.validate_every == 0:
                _validate_and_save(out, trainer, validation, log, progress)
                trainer.seconds = time.monotonic() - started
            progress.show(record)
        if finished and trainer.steps % recipe.validate_every:
            _validate_and_save(out, trainer, validation, log, progress)
    trainer.save(out / "last.npz")
    if not finished:
        print(f"stopped after step {trainer.steps}; continue with: tasnet-np train --out {out} --resume")
    return finished


def _reached(goal, trainer):
    steps, minutes = goal["steps"], goal["minutes"]
    return (steps is not None and trainer.steps >= steps) or (
        minutes is not None and trainer.seconds >= 60 * minutes
    )


def _validate_and_save(out, trainer, validation, log, progress):
    record, is_best = trainer.validate(validation)
    log.write(record)
    progress.validated(record)
    if is_best:
        checkpoint.save(trainer.model, out / "best.npz")
    trainer.save(out / "last.npz")


def _describe(out, corpora, config):
    """One line each on the recordings and the model."""
    for part, corpus in zip(("training", "validation"), corpora):
        clips = [clip for speaker in corpus.speakers.values() for clip in speaker]
        minutes = [sum(len(c.samples) for c in group) / config.sample_rate / 60 for group in (clips, corpus.noises)]
        print(
            f"{part}: {len(clips)} clips of {len(corpus.speakers)} speakers ({minutes[0]:.1f} min), "
            f"{len(corpus.noises)} noises ({minutes[1]:.1f} min)"
        )
    print(f"model: {config.parameter_count:,} parameters at {config.sample_rate} Hz -> {out}")


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

    def __init__(self, trainer, goal):
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
            bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {unit}, {remaining} left{postfix}",
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.close()

    def _position(self):
        return self.trainer.steps if self.by_steps else int(self.trainer.seconds)

    def show(self, record):
        elapsed = max(1e-9, self.trainer.seconds - self.first_second)
        speed = (self.trainer.steps - self.first_step) / elapsed
        self.bar.set_postfix_str(
            f"step {record['step']}, {speed:.2f} steps/s, loss {record['loss']:.2f} dB, "
            f"validation SI-SNRi {self.score} dB",
            refresh=False,
        )
        self.bar.update(min(self.bar.total, self._position()) - self.bar.n)

    def validated(self, record):
        overall = record["validation"]
        self.score = f"{overall['speech_si_snri_db']:.2f}"
        self.bar.write(
            f"step {record['step']}: validation SI-SNRi {self.score} dB speech, "
            f"{overall['noise_si_snri_db']:.2f} dB noise"
        )
