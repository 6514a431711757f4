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
from dataclasses import dataclass
from pathlib import Path

from tasnet_np.corpus import manifest
from tasnet_np.errors import UserError
from tasnet_np.network.config import Config
from tasnet_np.ranges import shown
from tasnet_np.safe_files import atomic_path, lock, remove_temporaries
from tasnet_np.sound.augmentation import Augmentation
from tasnet_np.stored_json import build, read_json
from tasnet_np.training.clock import Goal
from tasnet_np.training.recipe import Recipe

# What an older run does not name did not exist, and was off. These values stay, whatever the recipe's own become.
_BEFORE = dataclasses.asdict(Augmentation()) | {"ceiling_db": 80.0, "stft_weight": 0.0}


@dataclass(frozen=True)
class RunData:
    """Where a run's recordings and its first weights come from: absolute paths."""

    speech: str | None = None  # folders of recordings
    noise: str | None = None
    rooms: str | None = None
    manifest: str | None = None  # the file that `tasnet-np prepare` wrote, instead of folders
    start: str | None = None  # the checkpoint that the run began with, instead of random weights

    def __post_init__(self):
        for name, path in vars(self).items():
            if path is not None and "\0" in path:
                raise UserError(f"{name} {shown(path)} names no file")

    @classmethod
    def at(cls, **paths):
        """The same from paths of any kind; what is None or empty stays as it is."""
        return cls(**{name: path and str(Path(path).resolve()) for name, path in paths.items()})


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
        try:
            stored = read_json(self.config_file)
            stored["recipe"] = _BEFORE | stored["recipe"]
            return build(RunSettings, stored)
        except OSError:
            raise UserError(
                f"{self}: is not the folder of a training run (no config.json); check --out"
            ) from None
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
        """
        with writing_to(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        with lock(self.path):
            self.check_unused()
            yield

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


def check_config(file, found, config):
    """Raise UserError where a checkpoint of a run is of another architecture than its config.json says."""
    if found != config:
        name = next(name for name, value in vars(found).items() if value != getattr(config, name))
        raise UserError(f"{file}: has another {name} than config.json beside it; restore one of them")


@contextlib.contextmanager
def writing_to(path):
    """Turn an error of the operating system into a UserError that names the path."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); free some space or choose another --out"
        ) from None
