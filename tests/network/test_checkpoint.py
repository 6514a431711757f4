"""Models on disk: the same bits back, and one clear line for any other file."""

import dataclasses
import errno
import json
import random
import tracemalloc

import numpy as np
import pytest

import tasnet_np
from tasnet_np import Config, ConvTasNet, UserError
from tasnet_np.network import checkpoint
from tasnet_np.network.gradcheck import reduced


@pytest.fixture
def model():
    return ConvTasNet(reduced(Config.preset("origin")), seed=5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("preset", ["small", "paper", "origin"])
def test_round_trip(tmp_path, preset, dtype):
    model = ConvTasNet(reduced(Config.preset(preset)), seed=5, dtype=dtype)
    tasnet_np.save(model, tmp_path / "model.npz")
    loaded = tasnet_np.load(tmp_path / "model.npz")
    assert loaded.config == model.config and loaded.dtype == dtype
    mixture = np.random.default_rng(0).standard_normal((2, 99)).astype(dtype)
    assert loaded.forward(mixture).tobytes() == model.forward(mixture).tobytes()
    assert [path.name for path in tmp_path.iterdir()] == ["model.npz"]


def test_what_a_run_adds_comes_back(tmp_path, model):
    arrays = {"m.encoder.w": np.arange(3.0)}
    checkpoint.save(model, tmp_path / "a.npz", numbers={"steps": 7, "best": -np.inf}, arrays=arrays)
    stored = checkpoint.read(tmp_path / "a.npz")
    assert stored.numbers == {"steps": 7, "best": -np.inf}
    np.testing.assert_array_equal(stored.arrays["m.encoder.w"], arrays["m.encoder.w"])


def test_a_folder_gives_its_best_model_or_else_its_last(tmp_path, model):
    with pytest.raises(UserError, match="has no best.npz or last.npz"):
        tasnet_np.load(tmp_path)
    tasnet_np.save(model, tmp_path / "last.npz")
    other = ConvTasNet(dataclasses.replace(model.config, filters=7))
    assert tasnet_np.load(tmp_path).config == model.config
    tasnet_np.save(other, tmp_path / "best.npz")
    assert tasnet_np.load(tmp_path).config == other.config


def test_a_file_cut_short_anywhere_is_refused(tmp_path, model):
    path = tmp_path / "model.npz"
    tasnet_np.save(model, path)
    whole = path.read_bytes()
    for length in [0, 1, 10, 100, len(whole) // 2, len(whole) - 30, len(whole) - 1]:
        path.write_bytes(whole[:length])
        _refused(path, "damaged, cut short")


def test_a_flipped_bit_in_an_array_is_noticed(tmp_path, model):
    path = tmp_path / "model.npz"
    tasnet_np.save(model, path)
    damaged = bytearray(path.read_bytes())
    at = bytes(damaged).index(model.params["blocks.1.expand.w"].tobytes())
    damaged[at + 5] ^= 4
    path.write_bytes(damaged)
    _refused(path, "damaged")


def _with_header(path, model, change):
    header = {
        "format": checkpoint.FORMAT,
        "version": checkpoint.VERSION,
        "config": dataclasses.asdict(model.config),
        "dtype": "float32",
        "numbers": {},
    }
    arrays = {f"model/{name}": array for name, array in model.params.items()}
    change(header, arrays)
    np.savez(path, header=np.array(json.dumps(header)), **arrays)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda header, arrays: header.update(format="something else"), "is not a tasnet_np checkpoint"),
        (lambda header, arrays: header.update(format=["tasnet_np"]), "is not a tasnet_np checkpoint"),
        (lambda header, arrays: header.update(version=99), "version 99"),
        (lambda header, arrays: header.update(version=True), "version True"),
        (lambda header, arrays: header.pop("version"), "version None"),
        (lambda header, arrays: header.update(numbers=[]), r"its numbers are []"),
        (lambda header, arrays: header.update(config=None), "None instead of an object"),
        (lambda header, arrays: header.pop("config"), "config that cannot be used"),
        (lambda header, arrays: header["config"].update(filters="16"), "filters is '16'"),
        (lambda header, arrays: header["config"].update(filters=16.0), "filters is 16.0"),
        (lambda header, arrays: header["config"].update(causal=1), "causal is 1"),
        (lambda header, arrays: header["config"].update(filters=20_000_000), "at most 16384, not 20000000"),
        (
            lambda header, arrays: header["config"].update(blocks=10**30),
            "blocks must be a whole number of at most",
        ),
        (
            lambda header, arrays: header["config"].update(hidden=16384, bottleneck=16384),
            "parameters: more than",
        ),
        (lambda header, arrays: header["config"].update(blocks=20), "values in a stream: more than"),
        (lambda header, arrays: header.update(dtype=["float32"]), "dtype must be float32 or float64"),
        (lambda header, arrays: header.update(dtype=None), "dtype must be float32 or float64, not None"),
        (lambda header, arrays: header.update(dtype="float64"), "encoder.w is float32, not float64"),
        (lambda header, arrays: arrays.update(evil=np.zeros(3, "f")), "'evil' does not belong there"),
        (
            lambda header, arrays: arrays.update({"encoder.w": np.zeros(3, "f")}),
            "'encoder.w' does not belong",
        ),
        (
            lambda header, arrays: arrays.update({"model/x": np.zeros(3, "f")}),
            "'model/x' does not belong there",
        ),
        (lambda header, arrays: arrays.update({"training/m.x": np.zeros(3, "f")}), "'training/m.x' does not"),
        (
            lambda header, arrays: arrays.update({"training/m.mask.b": np.zeros(99, "f")}),
            "does not belong there",
        ),
        (
            lambda header, arrays: arrays.update({"training/m.mask.b": np.array("text")}),
            "does not belong there",
        ),
        (lambda header, arrays: header["config"].update(norm="gLN"), "causal model cannot use gLN"),
        (lambda header, arrays: header["config"].update(colour="red"), "colour"),
        (lambda header, arrays: header.update(dtype="int8"), "int8"),
        (lambda header, arrays: arrays.pop("model/encoder.w"), "encoder.w is missing"),
        (lambda header, arrays: arrays.update({"model/encoder.w": np.zeros((1, 1), "f")}), "misshapen"),
        (
            lambda header, arrays: arrays["model/mask.b"].fill(np.nan),
            "mask.b is missing, misshapen or not finite",
        ),
    ],
)
def test_contents_that_do_not_fit_are_refused(tmp_path, model, change, words):
    path = tmp_path / "model.npz"
    _with_header(path, model, lambda header, arrays: None)
    assert tasnet_np.load(path).config == model.config
    _with_header(path, model, change)
    _refused(path, words)


@pytest.mark.parametrize(
    "dtype",
    ["complex64", "complex128", "bool", "int8", "int64", "uint16", "float16", "float64", "longdouble",
     "datetime64[s]", "timedelta64[s]", "U4", "S4", "V4"],
)  # fmt: skip
def test_parameters_of_another_type_are_refused(tmp_path, model, dtype):
    """Also where each value could be made a float: what a complex or a huge number becomes is not what it was."""
    path = tmp_path / "model.npz"
    shape = model.params["mask.b"].shape
    _with_header(path, model, lambda header, arrays: arrays.update({"model/mask.b": np.zeros(shape, dtype)}))
    _refused(path, "mask.b")
    _with_header(path, model, lambda header, arrays: arrays.update({"model/mask.b": np.full(shape, 1e300)}))
    _refused(path, "mask.b is float64, not float32")


def test_another_order_of_bytes_or_axes_is_the_same_model(tmp_path, model):
    def swap(header, arrays):
        for i, (name, array) in enumerate(arrays.items()):
            arrays[name] = np.array(array, array.dtype.newbyteorder(">") if i % 2 else None, order="F")

    _with_header(tmp_path / "model.npz", model, swap)
    loaded = tasnet_np.load(tmp_path / "model.npz")
    assert all(np.array_equal(loaded.params[name], model.params[name]) for name in model.params)
    assert {array.dtype for array in loaded.params.values()} == {np.dtype("f4")}
    assert all(array.flags.c_contiguous for array in loaded.params.values())


@pytest.mark.parametrize(
    "text",
    ["[" * 30_000, '{"format":' * 20_000, "{", "null", "3", '"tasnet_np checkpoint"', "1" * 5000, "", "{}"],
)
def test_headers_that_are_no_header(tmp_path, model, text):
    arrays = {f"model/{name}": array for name, array in model.params.items()}
    for header in (
        np.array(text),
        np.array([text]),
        np.array(text.encode()),
        np.array(1.5),
        np.array(["a", "b"]),
    ):
        np.savez(tmp_path / "model.npz", header=header, **arrays)
        _refused(tmp_path / "model.npz", "a tasnet_np checkpoint")


def test_what_a_small_file_asks_for_is_not_allocated(tmp_path):
    """Each of them asked for gigabytes: a config alone, zeros that are packed well, and a long header."""
    small = ConvTasNet(
        Config(filters=16, filter_length=8, bottleneck=8, hidden=12, skip=8, blocks=2, repeats=1)
    )
    large = dataclasses.replace(small.config, filters=3000, bottleneck=3000, skip=3000)
    path = tmp_path / "model.npz"

    def packed(config, arrays, **more):
        header = {
            "format": checkpoint.FORMAT,
            "version": 1,
            "config": dataclasses.asdict(config),
            "dtype": "float32",
        }
        entries = {f"model/{name}": array for name, array in arrays.items()}
        np.savez_compressed(path, header=np.array(json.dumps(header | {"numbers": {}} | more)), **entries)

    tracemalloc.start()
    try:
        for write, words in {
            lambda: packed(large, small.params): "encoder.w is missing, misshapen",
            lambda: packed(
                large, {n: np.zeros(s, "f") for n, s in large.parameter_shapes.items()}
            ): "MB in a file of",
            lambda: packed(small.config, small.params, more="x" * 10**7): "a tasnet_np checkpoint",
            lambda: packed(small.config, small.params | {"x": np.zeros(10**7)}): "MB in a file of",
        }.items():
            write()
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            _refused(path, words)
            assert tracemalloc.get_traced_memory()[1] - before < 4e6
    finally:
        tracemalloc.stop()


def test_flipped_bits_give_the_same_model_or_one_line(tmp_path, model):
    path, seed = tmp_path / "model.npz", random.randrange(1 << 30)
    print(f"seed {seed}")
    rng, noticed = random.Random(seed), 0
    arrays = {
        f"{kind}.{name}": array for kind in checkpoint.OF_TRAINING for name, array in model.params.items()
    }
    checkpoint.save(model, path, numbers={"steps": 3}, arrays=arrays)
    whole = path.read_bytes()
    for _ in range(600):
        data, bit = bytearray(whole), rng.randrange(8 * len(whole))
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        try:
            stored = checkpoint.read(path)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            noticed += 1
        else:
            assert stored.model.config == model.config and stored.numbers == {"steps": 3}
            assert all(np.array_equal(stored.model.params[n], model.params[n]) for n in model.params)
            assert stored.arrays.keys() == arrays.keys()
            assert all(np.array_equal(stored.arrays[n], arrays[n]) for n in arrays)
    assert noticed > 300


def test_a_model_is_loaded_without_what_a_training_added(tmp_path):
    """So it takes less time and memory, and damage in there does not matter to it."""
    model, path = ConvTasNet(Config()), tmp_path / "last.npz"
    arrays = {f"m.{name}": np.full_like(array, 7.25) for name, array in model.params.items()}
    checkpoint.save(model, path, arrays=arrays)
    data = bytearray(path.read_bytes())
    data[bytes(data).index(np.full(9000, 7.25, "f").tobytes()) + 30_000] ^= 1
    path.write_bytes(data)
    assert tasnet_np.load(path).config == model.config
    with pytest.raises(UserError, match="is damaged"):
        checkpoint.read(path)


def test_a_wrong_path_through_the_kernels_is_not_blamed_on_the_file(tmp_path, model):
    tasnet_np.save(model, tmp_path / "model.npz")
    with pytest.raises(ValueError, match="^path must be one of reference, ops, fused, not 'fast'$"):
        tasnet_np.load(tmp_path / "model.npz", path="fast")


def test_foreign_files_are_refused(tmp_path):
    path = tmp_path / "file.npz"
    np.savez(path, weights=np.zeros(3))
    _refused(path, "is not a tasnet_np checkpoint")
    np.save(tmp_path / "file.npy", np.zeros(3))
    _refused(tmp_path / "file.npy", "not a tasnet_np checkpoint")
    np.save(tmp_path / "pickle.npy", np.array([{}], object), allow_pickle=True)
    _refused(tmp_path / "pickle.npy", "not a tasnet_np checkpoint")
    np.savez(path, header=np.array([{}], object))
    _refused(path, "not a tasnet_np checkpoint")
    path.write_text("hello")
    _refused(path, "not a tasnet_np checkpoint")
    _refused(tmp_path / "missing.npz", "no such checkpoint")


def _refused(path, words):
    with pytest.raises(UserError) as caught:
        tasnet_np.load(path)
    message = str(caught.value)
    assert str(path) in message and words in message and "\n" not in message


def test_disk_full_while_writing_leaves_the_previous_checkpoint(tmp_path, model, monkeypatch):
    path = tmp_path / "model.npz"
    tasnet_np.save(model, path)
    before = path.read_bytes()

    def full(file, **arrays):
        file.write(b"half a file")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(UserError, match="No space left on device"):
        tasnet_np.save(model, path)
    assert path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model.npz"]
