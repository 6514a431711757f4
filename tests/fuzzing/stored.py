"""Small checkpoints, validation sets, manifests, configs and logs, and what is right when they are read."""

import io
import json
import tempfile
import types
import typing
from functools import cache
from pathlib import Path

import numpy as np
from fuzzing.mutators import odd_value

SMALL = {"filters": 8, "filter_length": 8, "bottleneck": 4, "hidden": 6, "skip": 4, "blocks": 2, "repeats": 1}


@cache
def _model():
    from tasnet_np import Config, ConvTasNet

    return ConvTasNet(Config(**SMALL), path="reference")


@cache
def checkpoints():
    from tasnet_np import save

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.npz")
        save(_model(), path)
        plain = path.read_bytes()
        save(_model(), path, numbers={"steps": 3, "best": -1.5}, arrays={"adam.m": np.ones(5, np.float32)})
        return [(plain, 0), (path.read_bytes(), 0)]


def check_checkpoint(path, least):
    """The model has finite values of its dtype, not more than the file can hold."""
    from tasnet_np.network import checkpoint

    read = checkpoint.read(path, "reference")
    parameters = read.model.named_parameters()
    for name, array in parameters.items():
        assert array.dtype == read.model.dtype and np.isfinite(array).all(), f"{name} is not finite"
    size = sum(array.nbytes for array in parameters.values())
    assert size <= 2 * 1032 * path.stat().st_size, (
        f"{size} bytes of parameters"
    )  # deflate shrinks to 1/1032 at most
    assert isinstance(read.numbers, dict) and all(isinstance(a, np.ndarray) for a in read.arrays.values())
    assert all(array.dtype.kind in "fiub" for array in read.arrays.values()), "arrays of a strange kind"


@cache
def validations():
    rng = np.random.default_rng(0)
    arrays = {}
    for i in range(2):
        sources = rng.standard_normal((2, 2, 50)).astype(np.float32)
        arrays |= {
            f"mixture_{i}": sources.sum(1),
            f"sources_{i}": sources,
            f"snr_db_{i}": np.array([0.0, 5.0]),
        }
        arrays[f"names_{i}"] = np.array(["a.wav + b.wav", "c.wav + d.wav"])
    return [(_npz(arrays), 0)]


def check_validation(path, least):
    """The batches fit together."""
    from tasnet_np.training.validation_set import read_validation_set

    batches = read_validation_set(path)
    assert batches, "no batch"
    for batch in batches:
        count, n = batch.mixture.shape
        assert (
            batch.sources.shape == (count, 2, n) and batch.mixture.dtype == batch.sources.dtype == np.float32
        )
        assert np.shape(batch.snr_db) == (count,) and np.issubdtype(np.asarray(batch.snr_db).dtype, np.number)
        assert len(batch.names) == count and all(isinstance(name, str) for name in batch.names)
        assert np.isfinite(batch.mixture).all() and np.isfinite(batch.sources).all(), "samples are not finite"


def _npz(arrays, how=np.savez):
    file = io.BytesIO()
    how(file, **arrays)
    return file.getvalue()


def other_arrays(rng, data):
    """An .npz file with an array of another dtype, shape or value, one too few or one too many."""
    try:
        with np.load(io.BytesIO(data)) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception:  # an earlier mutator left no .npz file
        return data
    if not arrays:
        return data
    name = list(arrays)[int(rng.integers(len(arrays)))]
    arrays[name] = _other_array(rng, arrays[name])
    if rng.random() < 0.15:
        del arrays[name]
    elif rng.random() < 0.15:
        arrays[str(rng.choice(["odd", "model/odd", "training/odd", "mixture_7", "../odd"]))] = np.zeros(3)
    return _npz(arrays, np.savez_compressed if rng.random() < 0.3 else np.savez)


def _other_array(rng, array):
    if array.dtype.kind == "U" and array.ndim == 0:  # the header
        try:
            return np.array(other_values(rng, str(array).encode()).decode())
        except ValueError:
            return np.array("odd")
    odd = [
        lambda: (
            array.astype(rng.choice(["f8", ">f4", "f2", "i8", "u1", "?", "c8"]))
            if array.dtype.kind in "fiub"
            else array.astype("S")
        ),
        lambda: np.zeros(array.shape, str(rng.choice(["M8[s]", "m8[s]", "S3", "U2", "V4", "c16"]))),
        lambda: array[..., None],
        lambda: array.reshape(-1)[:-1],
        lambda: np.asfortranarray(array),
        lambda: np.full(array.shape, float(rng.choice([np.nan, np.inf, 1e39, 1e308]))),
        lambda: np.zeros(0, np.float32),
        lambda: np.zeros((0, 1 << 40), np.float32),
        lambda: np.zeros(1 << 20, np.float32),
    ]
    return odd[int(rng.integers(len(odd)))]()


@cache
def manifests():
    from tasnet_np.corpus.manifest import Entry, Manifest, save

    entries = [
        Entry("speech", 0, "ann/1.wav", 8000, 1, 9000, "ann", "training", level_db=-20.0, digest="ab"),
        Entry(
            "speech",
            0,
            "bob/1.wav",
            16000,
            2,
            9000,
            "bob",
            "validation",
            level_db=-23.5,
            clipped=3,
            digest="cd",
        ),
        Entry("noise", 1, "fan.wav", 8000, 1, 90000, "", "training", level_db=-30.0, digest="ef"),
        Entry("pair", 1, "clean/1.wav", 8000, 1, 9000, "cy", "validation", "noisy/1.wav"),
    ]
    made = Manifest(["/s", "/n"], entries, ["skipped a: is silent"], 3, 0.25, [{"name": "a", "snr_db": 0.0}])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.json")
        save(made, path)
        return [(path.read_bytes(), 0)]


def check_manifest(path, least):
    """Every value has its type, and the table can be made."""
    from tasnet_np.corpus import manifest

    read = manifest.load(path)
    _check_types(read)
    for entry in read.entries:
        _check_types(entry)
        read.path(entry)
    json.dumps(manifest.summary(read))
    manifest.table(read)


@cache
def configs():
    from tasnet_np import Config
    from tasnet_np.training.clock import Goal
    from tasnet_np.training.recipe import Recipe
    from tasnet_np.training.run_folder import RunData, RunFolder, RunSettings

    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(folder)
        run.write(RunSettings(Config(), Recipe(hold_out=("ann",)), Goal(minutes=3.0), RunData("/s", "/n")))
        return [(run.config_file.read_bytes(), 0)]


def check_config(path, least):
    """Every value has its type. Returns the settings."""
    from tasnet_np.training.run_folder import RunFolder

    folder = path.parent / "case-run"
    folder.mkdir(exist_ok=True)
    run = RunFolder(folder)
    path.replace(run.config_file)
    settings = run.read()
    for part in (settings.config, settings.recipe, settings.goal, settings.data):
        _check_types(part)
    assert settings.config.parameter_count > 0 and settings.recipe.validation_size > 0


def _check_types(thing):
    """Whether every field of a dataclass has the type that it declares."""
    for name, declared in typing.get_type_hints(type(thing)).items():
        value = getattr(thing, name)
        assert _is_a(value, declared), f"{name} is {value!r:.80}, not {declared}"


def _is_a(value, declared):
    inner = typing.get_args(declared)
    if isinstance(declared, types.UnionType):
        return any(_is_a(value, one) for one in inner)
    kind = typing.get_origin(declared) or declared
    if kind in (list, tuple):
        return isinstance(value, kind) and all(_is_a(one, inner[0]) for one in value if inner)
    if kind in (float, int):
        return isinstance(value, (int, float) if kind is float else int) and not isinstance(value, bool)
    return value is None if declared is type(None) else isinstance(value, kind)


@cache
def logs():
    step = {"loss": -3.5, "gradient_norm": 1.25, "learning_rate": 0.002, "fraction": 0.1, "seconds": 2.5}
    scores = {"speech_si_snri_db": 3.0, "noise_si_snri_db": 2.0}
    records = [{"step": i, **step, "gradient_norms": {"encoder": 0.5, "blocks.0": 0.25}} for i in range(1, 5)]
    records.insert(2, {"step": 2, "validation": scores, "peak_mb": 100.5})
    return [("".join(json.dumps(record) + "\n" for record in records).encode(), 0)]


def check_log(path, least):
    """The numbers that the report and a resumed run take from a log are numbers."""
    from tasnet_np.training.run_log import RunLog, read_log, recorded_times

    for before, times in recorded_times(path, 0).items():
        assert _is_a(before, int) and all(_is_a(time, float) for time in times), f"times {before}: {times}"
    for record in read_log(path):
        assert _is_a(record, dict) and _is_a(record.get("step"), int), f"record {record!r:.80}"
        for name in {"loss", "gradient_norm", "learning_rate", "fraction", "seconds"} & record.keys():
            assert _is_a(record[name], float), f"{name} is {record[name]!r:.80}"
        for name in {"validation", "gradient_norms"} & record.keys():
            numbers = record[name]
            assert _is_a(numbers, dict) and all(_is_a(v, float | None) for v in numbers.values()), (
                f"{name} is {numbers!r:.80}"
            )
        assert _is_a(record.get("peak_mb"), float | None), "peak_mb"
    RunLog(path, 2)
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(record["step"] <= 2 for record in kept)


def other_values(rng, data):
    """JSON with an odd value in it, one too few or one too many."""
    try:
        root = odd_value(rng, json.loads(data))
        return json.dumps(root).encode()
    except (ValueError, RecursionError):
        return data


def other_line(rng, data):
    """The same in one line of a log."""
    parts = data.splitlines() or [b"{}"]
    i = int(rng.integers(len(parts)))
    parts[i] = other_values(rng, parts[i])
    return b"\n".join(parts) + b"\n"
