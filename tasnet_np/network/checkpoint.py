"""Models on disk: one .npz file with the arrays and, as JSON, the config.

    header             JSON: format, version, config, dtype, numbers
    model/<name>       the parameters
    training/<name>    what the training needs to continue (only in a run's own checkpoints)

A file does not know where its model was: on a GPU or not. Files are written beside their target and renamed,
so a crash leaves the previous one. They hold plain arrays only: reading one never runs code
(`allow_pickle=False`).
"""

import dataclasses
import json
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tasnet_np.compute.arrays import move
from tasnet_np.errors import UserError
from tasnet_np.network.config import Config
from tasnet_np.network.execution import ConvTasNet
from tasnet_np.safe_files import atomic_path, check_is_file

FORMAT, VERSION = "tasnet_np checkpoint", 1
PRETRAINED = Path(__file__).parents[1] / "pretrained" / "small.npz"


@dataclass
class Checkpoint:
    """The contents of a file."""

    model: ConvTasNet
    numbers: dict = field(default_factory=dict)  # of the training
    arrays: dict = field(default_factory=dict)


def save(model, path, *, numbers=None, arrays=None):
    """Write a model to an .npz file, atomically.

    Parameters
    ----------
    model : ConvTasNet
    path : file to write
    numbers, arrays : what a training run adds in order to continue (JSON values; named arrays)

    Raises
    ------
    UserError : the file cannot be written (folder, disk full); a previous file survives
    """
    header = {
        "format": FORMAT,
        "version": VERSION,
        "config": dataclasses.asdict(model.config),
        "dtype": str(model.dtype),
        "numbers": numbers or {},
    }
    entries = {"header": np.array(json.dumps(header))}
    entries |= {f"model/{name}": move(array, "cpu") for name, array in model.named_parameters().items()}
    entries |= {f"training/{name}": array for name, array in (arrays or {}).items()}
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **entries)


def load(file, path="fused"):
    """Read a model that `save` wrote.

    Parameters
    ----------
    file : as for `find`
    path : which kernels the model runs, as in `ConvTasNet`

    Raises
    ------
    UserError : no such file; a damaged, truncated or foreign one
    """
    return read(file, path).model


def find(file):
    """The .npz file that a name stands for.

    Parameters
    ----------
    file : an .npz file; the folder of a training run: its best.npz, or last.npz before there is one; or
        "pretrained": the model that comes with the package

    Raises
    ------
    UserError : a folder without a model, or a package without one
    """
    if str(file) == "pretrained":
        if not PRETRAINED.exists():
            raise UserError(
                "pretrained: this installation comes without a model; train one and give --model RUN"
            )
        return PRETRAINED
    file = Path(file)
    if file.is_dir():
        names = [name for name in ("best.npz", "last.npz") if (file / name).exists()]
        if not names:
            raise UserError(f"{file}: has no best.npz or last.npz; give the folder of a training run")
        file = file / names[0]
    return file


def read(file, path="fused"):
    """Read a model together with what a training run stored beside it."""
    file = find(file)
    entries = read_arrays(file)
    try:
        header = json.loads(str(entries.pop("header")))
        if header["format"] != FORMAT:
            raise KeyError("format")
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{file}: is not a {FORMAT}; give a file that this program wrote") from None
    if header["version"] != VERSION:
        raise UserError(
            f"{file}: has checkpoint version {header['version']}, this program reads {VERSION}; "
            "use the program that wrote it"
        )
    return _build(file, header, entries, path)


def read_arrays(file):
    """All arrays of an .npz file, by name.

    Raises
    ------
    UserError : no such file; a damaged or foreign one
    """
    check_is_file(file)
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such checkpoint; train one, or correct the path") from None
    except OSError as error:
        if error.strerror:
            raise UserError(f"{file}: cannot be read ({error.strerror}); check the path") from None
        raise _damaged(file) from None
    except (ValueError, KeyError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error):
        raise _damaged(file) from None


def _damaged(file):
    return UserError(f"{file}: is damaged, cut short or not a {FORMAT}; use another copy of it")


def _build(file, header, entries, path):
    try:
        model = ConvTasNet(Config(**header["config"]), dtype=header["dtype"], path=path)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: has a config that cannot be used ({error}); use another copy") from None
    for name, parameter in model.named_parameters().items():
        stored = entries.pop(f"model/{name}", None)
        if stored is None or stored.shape != parameter.shape or not np.isfinite(stored).all():
            raise UserError(f"{file}: parameter {name} is missing, misshapen or not finite; use another copy")
        parameter[...] = stored
    arrays = {
        name.removeprefix("training/"): array
        for name, array in entries.items()
        if name.startswith("training/")
    }
    return Checkpoint(model, header["numbers"], arrays)
