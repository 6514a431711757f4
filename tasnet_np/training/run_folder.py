"""The folder of a training run: where its files are, and what its config.json says.

RUN/config.json      architecture, recipe, when to stop, where the recordings are
RUN/manifest.json    every recording and its part (training, validation), and the validation mixtures
RUN/validation.npz   those mixtures themselves, made once
RUN/log.jsonl        one line per step, and one per validation
RUN/last.npz         everything needed to continue: model, optimiser, averages, schedule, step
RUN/best.npz         the model with the highest validation SI-SNRi so far
"""

import contextlib
import dataclasses
import json
import os
import types
import typing
from dataclasses import dataclass
from pathlib import Path

from tasnet_np.corpus import manifest
from tasnet_np.errors import UserError
from tasnet_np.network.config import Config
from tasnet_np.safe_files import atomic_path, check_is_file, in_one_line, lock, remove_temporaries
from tasnet_np.sound.augmentation import Augmentation
from tasnet_np.training.clock import Goal
from tasnet_np.training.recipe import Recipe


@dataclass(frozen=True)
class RunData:
    """Where a run's recordings and its first weights come from: absolute paths."""

    speech: str | None = None  # folders of recordings
    noise: str | None = None
    rooms: str | None = None
    manifest: str | None = None  # the file that `tasnet-np prepare` wrote, instead of folders
    start: str | None = None  # the checkpoint that the run began with, instead of random weights

    @classmethod
    def at(cls, **paths):
        """The same from paths of any kind; what is None or empty stays as it is."""
        return cls(**{name: path and os.path.realpath(path) for name, path in paths.items()})


@dataclass(frozen=True)
class RunSettings:
    """What config.json says, in its order."""

    config: Config
    recipe: Recipe
    goal: Goal
    data: RunData


class RunFolder:
    """The folder of a training run.

    Parameters
    ----------
    path : str or Path
        It need not exist.

    Attributes
    ----------
    config_file, manifest_file, validation_file, log_file, last_checkpoint, best_checkpoint : Path
        The files, whether they are there yet or not.
    """

    def __init__(self, path):
        self.path = Path(path)
        self.config_file = self.path / "config.json"
        self.manifest_file = self.path / "manifest.json"
        self.validation_file = self.path / "validation.npz"
        self.log_file = self.path / "log.jsonl"
        self.last_checkpoint = self.path / "last.npz"
        self.best_checkpoint = self.path / "best.npz"

    def __str__(self):
        return str(self.path)

    def read(self):
        """What config.json says, each value of the type that it must have.

        Returns
        -------
        RunSettings

        Raises
        ------
        UserError
            There is no run, or its config.json is damaged.
        """
        check_is_file(self.config_file)
        try:
            stored = json.loads(self.config_file.read_text())
            later = dataclasses.asdict(
                Augmentation()
            )  # kinds that an older run does not name did not exist: off
            stored["recipe"] = later | stored["recipe"]
            kinds = {"config": Config, "recipe": Recipe, "goal": Goal, "data": RunData}
            return RunSettings(**{name: _build(kind, stored[name]) for name, kind in kinds.items()})
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(
                f"{self}: is not the folder of a training run (no config.json); check --out"
            ) from None
        except OSError as error:
            raise UserError(in_one_line(error)) from error
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{self.config_file}: is damaged ({error}); restore it, or train a new run"
            ) from None

    def write(self, settings):
        """Write config.json. Raises UserError where it cannot be written."""
        with atomic_path(self.config_file) as temporary:
            temporary.write_text(json.dumps(dataclasses.asdict(settings), indent=1))

    def read_manifest(self):
        """The Manifest of the run. Raises UserError where it is missing or damaged."""
        return manifest.load(self.manifest_file)

    def check_unused(self):
        """Raise UserError where the folder has something in it already, or is no folder."""
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise UserError(f"{self}: exists already; choose another --out, or --resume that run")

    @contextlib.contextmanager
    def create(self):
        """Make the folder of a new run, and have it to oneself.

        Raises
        ------
        UserError
            It cannot be made, is used already, or another program has it.

        What goes wrong before there is a config.json leaves nothing behind, so that the same call can be made again.
        """
        with writing_to(self.path):
            new = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
        with lock(self.path):
            self.check_unused()
            try:
                yield
            except BaseException:
                if not self.config_file.exists():  # nothing that could be resumed
                    self._remove(new)
                raise

    def _remove(self, folders):
        """Remove what there is of a run without config.json, and these folders if they are empty then."""
        with contextlib.suppress(OSError):
            self.manifest_file.unlink()
        for folder in folders:
            with contextlib.suppress(OSError):
                folder.rmdir()

    @contextlib.contextmanager
    def take_over(self):
        """Have the folder of an earlier run to oneself, without the temporary files that a killed run left.

        Raises
        ------
        UserError
            Another program has it, or there is no such folder.
        """
        with lock(self.path):
            remove_temporaries(self.path)
            yield


@contextlib.contextmanager
def writing_to(path):
    """Turn an error of the operating system into a UserError that names the path."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); free some space or choose another --out"
        ) from None


def _build(kind, values):
    """An object of a dataclass, from JSON."""
    for name, declared in typing.get_type_hints(kind).items():
        if name in values and not _fits(values[name], declared):
            raise TypeError(f"{name} is {values[name]!r}")
    return kind(**values)


def _fits(value, declared):
    """Whether a value from JSON is of a declared type. A tuple is a list there, and a float may have no decimals."""
    inner = typing.get_args(declared)
    if isinstance(declared, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if typing.get_origin(declared) is tuple:
        if not isinstance(value, list):
            return False
        inner = inner[:1] * len(value) if inner[-1] is ... else inner
        return len(value) == len(inner) and all(map(_fits, value, inner))
    if declared in (int, float):
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and (declared is float or not value % 1 > 0)  # infinity counts as whole
    return isinstance(value, declared)
