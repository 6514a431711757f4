"""Models on disk: one .npz file with the arrays and, as JSON, the config.

    header             JSON: format, version, config, dtype, numbers
    model/<name>       the parameters
    training/<name>    what a training needs in order to continue (only in a run's own checkpoints)

A file does not say whether its model was on a GPU. A file is written beside its target, then renamed, so a crash leaves
the previous file. It holds plain arrays only. So reading a file never runs code, and takes no more memory than the
arrays that are in it (`stored_arrays`).
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tasnet_np.compute.arrays import move
from tasnet_np.errors import UserError
from tasnet_np.network.config import Config
from tasnet_np.network.execution import ConvTasNet
from tasnet_np.ranges import shown
from tasnet_np.safe_files import atomic_path
from tasnet_np.stored_arrays import ArrayFile
from tasnet_np.stored_json import build, parse_json

FORMAT, VERSION = "tasnet_np checkpoint", 1
MOST_TEXT = 1 << 18  # bytes of the header
OF_TRAINING = ("m", "v", "average")  # what a training keeps of each parameter: its moments, its average
PRETRAINED = Path(__file__).parents[1] / "pretrained" / "small.npz"


@dataclass
class Checkpoint:
    """The contents of a file."""

    model: ConvTasNet
    numbers: dict = field(default_factory=dict)  # of the training
    arrays: dict = field(default_factory=dict)  # of the training, by name


def save(
    model: ConvTasNet, path: str | Path, *, numbers: dict | None = None, arrays: dict | None = None
) -> None:
    """Write a model to an .npz file, atomically.

    Parameters
    ----------
    model : ConvTasNet
        On the CPU or a GPU.
    path : str or Path
        The file to write.
    numbers, arrays : dict, optional
        What a training run needs in order to continue: JSON values and NumPy arrays, by name.

    Raises
    ------
    UserError
        The file cannot be written (no such folder, a full disk). A previous file stays as it was.
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


def load(file: str | Path, path: str = "fused") -> ConvTasNet:
    """Read a model that `save` wrote.

    Parameters
    ----------
    file : str or Path
        An .npz file; the folder of a training run: its best.npz, or last.npz before there is one; or "pretrained",
        the model that comes with the package.
    path : str
        Which kernels the model runs, as in `ConvTasNet`.

    Returns
    -------
    ConvTasNet
        On the CPU.

    Raises
    ------
    UserError
        There is no such file, or no model in the folder. The file is damaged, cut short, of another program or of
        another version.
    """
    return _read(find(file), path, with_training=False).model


def find(file):
    """The .npz file that a name stands for.

    Parameters
    ----------
    file : str or Path
        As for `load`.

    Returns
    -------
    Path

    Raises
    ------
    UserError
        A folder without a model; a package without one.
    """
    if str(file) == "pretrained":
        if not PRETRAINED.exists():
            raise UserError(
                "pretrained: this installation comes without a model; train one and give --model RUN"
            )
        return PRETRAINED
    file = Path(file)
    if os.path.isdir(file):
        names = [name for name in ("best.npz", "last.npz") if os.path.exists(file / name)]
        if not names:
            raise UserError(f"{file}: has no best.npz or last.npz; give the folder of a training run")
        file = file / names[0]
    return file


def read(file, path="fused"):
    """Read a `Checkpoint`: a model, and what a training run stored with it. Arguments and errors as for `load`."""
    return _read(find(file), path, with_training=True)


def _read(file, path, with_training):
    """A Checkpoint. Memory is made only after all that the file says of its arrays was held against the config."""
    with ArrayFile(file, FORMAT) as arrays:
        header = _header(arrays)
        config = _config(file, header)
        _check_parameters(arrays, config, np.dtype(header["dtype"]))
        names = _names_of_training(arrays, config)
        model = ConvTasNet(config, dtype=header["dtype"], path=path)
        for name, parameter in model.named_parameters().items():
            stored = arrays.read(f"model/{name}")
            if not np.isfinite(stored).all():
                raise _unusable(file, name)
            parameter[...] = stored
        kept = {name: arrays.read(f"training/{name}") for name in names} if with_training else {}
    return Checkpoint(model, header["numbers"], kept)


def _header(arrays):
    """The JSON of a file, with the types that it must have but for those of config and numbers."""
    file = arrays.path
    foreign = UserError(f"{file}: is not a {FORMAT}; give a file that this program wrote")
    array = arrays.headers.get("header")
    if array is None or array.dtype.kind != "U" or array.shape or array.nbytes > MOST_TEXT:
        raise foreign
    with arrays.noticing_damage():
        text = str(arrays.read("header"))
    try:
        header = parse_json(text)
        if header["format"] != FORMAT:
            raise KeyError("format")
    except (KeyError, TypeError, ValueError):
        raise foreign from None
    version = header.get("version")
    if version != VERSION or type(version) is not int:
        raise UserError(
            f"{file}: has checkpoint version {shown(version)}, this program reads {VERSION}; "
            "use the program that wrote it"
        )
    if not isinstance(header.get("numbers"), dict):
        raise arrays.damaged(f"its numbers are {shown(header.get('numbers'))}")
    return header


def _config(file, header):
    """The architecture that a file is of."""
    try:
        if header["dtype"] not in ("float32", "float64"):
            raise ValueError(f"dtype must be float32 or float64, not {shown(header['dtype'])}")
        return build(Config, header["config"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: has a config that cannot be used ({error}); use another copy") from None


def _check_parameters(arrays, config, dtype):
    """Refuse a file that has not all parameters of an architecture, each of its shape and type."""
    for name, shape in config.parameter_shapes.items():
        stored = arrays.headers.get(f"model/{name}")
        if stored is None or stored.shape != shape:
            raise _unusable(arrays.path, name)
        if stored.dtype != dtype:
            found = f"parameter {name} is {stored.dtype}, not {dtype}"
            raise UserError(f"{arrays.path}: {found}; use another copy")


def _names_of_training(arrays, config):
    """The names of all arrays that a training added. Refuses what is neither that nor a parameter."""
    shapes, names = config.parameter_shapes, []
    of_the_model = {"header", *(f"model/{name}" for name in shapes)}
    for entry, header in arrays.headers.items():
        if entry in of_the_model:
            continue
        kind, _, parameter = entry.removeprefix("training/").partition(".")
        fits = header.dtype.kind == "f" and math.prod(header.shape) <= math.prod(shapes.get(parameter, (0,)))
        if not entry.startswith("training/") or kind not in OF_TRAINING or not fits:
            raise arrays.damaged(f"{shown(entry)} does not belong there")
        names.append(f"{kind}.{parameter}")
    return names


def _unusable(file, name):
    return UserError(f"{file}: parameter {name} is missing, misshapen or not finite; use another copy")
