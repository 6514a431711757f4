"""Models on disk: the same bits back, and one clear line for any other file."""

import dataclasses
import errno
import json

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
        (lambda header, arrays: header.update(version=99), "version 99"),
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
