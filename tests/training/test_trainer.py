"""What a checkpoint to resume from must hold, and training in float64."""

import copy
import dataclasses
import json
import math

import numpy as np
import pytest

from tasnet_np import Config, ConvTasNet, UserError
from tasnet_np.corpus.mixing import Batch
from tasnet_np.network import checkpoint
from tasnet_np.training.recipe import RANGES, Recipe
from tasnet_np.training.train import resume, train
from tasnet_np.training.trainer import NUMBERS, Trainer

CONFIG = Config(filters=16, filter_length=8, bottleneck=8, hidden=12, skip=8, blocks=2, repeats=1)
RECIPE = Recipe(batch=2, seconds=0.2, validate_every=2, validation_mixtures=1)


def batch(seed=0):
    sources = 0.1 * np.random.default_rng(seed).standard_normal((2, 2, 400)).astype(np.float32)
    return Batch(sources.sum(1), sources, np.zeros(2), ["a", "b"])


@pytest.fixture(scope="module")
def trained():
    trainer = Trainer(ConvTasNet(CONFIG), RECIPE)
    trainer.advance(batch(), 0.5)
    return trainer


def stored(trainer, path, change):
    """Save a trainer after a change in its numbers and arrays."""
    trainer.save(path)
    was = checkpoint.read(path)
    numbers, arrays = copy.deepcopy(was.numbers), was.arrays
    change(numbers, arrays)
    checkpoint.save(was.model, path, numbers=numbers, arrays=arrays)


def leaves(tree, path=()):
    return [leaf for key, value in tree.items() for leaf in (leaves(value, (*path, key)) if isinstance(value, dict)
            else [(*path, key)])]  # fmt: skip


def at(tree, path):
    for key in path[:-1]:
        tree = tree[key]
    return tree


def test_what_was_saved_goes_on(trained, tmp_path):
    stored(trained, tmp_path / "last.npz", lambda numbers, arrays: None)
    again = Trainer.restore(tmp_path / "last.npz", RECIPE)
    assert (again.steps, again.fraction, again.best_si_snri) == (1, 0.5, -math.inf)
    assert leaves(NUMBERS) and set(leaves(NUMBERS)) == set(
        leaves(checkpoint.read(tmp_path / "last.npz").numbers)
    )
    one, other = copy.deepcopy(trained).step(batch(1)), again.step(batch(1))
    assert one == other


WRONG = [(name, value) for name in leaves(NUMBERS) for value in (None, "1", [1], {}, True, math.nan)]
WRONG += [(name, value) for name in leaves(NUMBERS) if "best" not in name[-1] for value in (-1, 10**400)]


@pytest.mark.parametrize("name, wrong", WRONG, ids=lambda one: repr(one)[:30])
def test_numbers_of_other_types_are_refused(trained, tmp_path, name, wrong):
    path = tmp_path / "last.npz"
    stored(trained, path, lambda numbers, arrays: at(numbers, name).update({name[-1]: wrong}))
    with pytest.raises(
        UserError, match=f"last.npz: is damaged .{name[-1]} must .*; use another copy, or train anew"
    ):
        Trainer.restore(path, RECIPE)


@pytest.mark.parametrize("name", [("optimizer",), ("plateau",), *leaves(NUMBERS)], ids=".".join)
def test_missing_numbers_are_a_model_without_a_training(trained, tmp_path, name):
    stored(trained, tmp_path / "last.npz", lambda numbers, arrays: at(numbers, name).pop(name[-1]))
    with pytest.raises(UserError, match="holds a model but no training to resume; train anew"):
        Trainer.restore(tmp_path / "last.npz", RECIPE)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda a: a.pop("m.mask.b"), "holds a model but no training"),
        (lambda a: a.update({"m.mask.b": a["m.mask.b"][1:]}), "holds a model but no training"),
        (lambda a: a["average.mask.b"].fill(np.inf), "is damaged .average.mask.b is not finite"),
        (lambda a: a["m.mask.b"].fill(np.nan), "is damaged .m.mask.b is not finite"),
        (lambda a: a["v.mask.b"].fill(-1), "is damaged .v.mask.b, a mean of squares, is negative"),
        (
            lambda a: a.update({"m.mask.b": a["m.mask.b"].astype(float)}),
            "is damaged .m.mask.b is not finite, or not",
        ),
    ],
)
def test_arrays_that_no_training_has(trained, tmp_path, change, words):
    stored(trained, tmp_path / "last.npz", lambda numbers, arrays: change(arrays))
    with pytest.raises(UserError, match=f"last.npz: {words}"):
        Trainer.restore(tmp_path / "last.npz", RECIPE)


def test_every_number_of_a_recipe_has_a_range():
    numbers = {f.name for f in dataclasses.fields(Recipe) if f.type in (int, float)}
    assert numbers and numbers == RANGES.keys()


def test_a_checkpoint_of_another_architecture_is_not_resumed(recordings, tmp_path):
    out = tmp_path / "run"
    train(recordings / "speech", recordings / "noise", out, CONFIG, RECIPE, steps=2, quiet=True)
    whole = (out / "config.json").read_text()
    settings = json.loads(whole)
    settings["config"]["sample_rate"] = 8001
    (out / "config.json").write_text(json.dumps(settings))
    with pytest.raises(
        UserError, match="last.npz: has another sample_rate than config.json beside it; restore one"
    ):
        resume(out, steps=4, quiet=True)
    (out / "config.json").write_text(whole)
    assert resume(out, steps=4, quiet=True) is True


def test_float64_trains_and_goes_on_in_float64(recordings, tmp_path):
    """With batches of float32, as recordings give them. Its losses are those of float32, but for rounding."""
    single, double = (Trainer(ConvTasNet(CONFIG, dtype=dtype), RECIPE) for dtype in (np.float32, np.float64))
    losses = [[trainer.step(batch(k))["loss"] for k in range(3)] for trainer in (single, double)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3) and losses[0] != losses[1]
    start, out = tmp_path / "start.npz", tmp_path / "run"
    checkpoint.save(ConvTasNet(CONFIG, dtype=np.float64), start)
    folders = (recordings / "speech", recordings / "noise")
    train(*folders, out, None, RECIPE, steps=2, start=start, quiet=True)
    assert resume(out, steps=4, quiet=True) is True
    last = checkpoint.read(out / "last.npz")
    assert last.model.dtype == np.float64 and {array.dtype for array in last.arrays.values()} == {
        np.dtype("f8")
    }
