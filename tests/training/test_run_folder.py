"""The folder of a run: what config.json may say, and that the report reads it without the trainer."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from tasnet_np import UserError
from tasnet_np.network.config import Config
from tasnet_np.training.clock import Goal
from tasnet_np.training.recipe import Recipe
from tasnet_np.training.run_folder import RunData, RunFolder, RunSettings

SETTINGS = RunSettings(
    Config(blocks=2, repeats=1),
    Recipe(hold_out=["ann", "bob"], seconds=2, patience=np.inf),
    Goal(minutes=10),
    RunData.at(speech="a", noise="b", start=None),
)


@pytest.fixture
def folder(tmp_path):
    written = RunFolder(tmp_path / "run")
    with written.create():
        written.write(SETTINGS)
    return written


def change(folder, group, name, value):
    stored = json.loads(folder.config_file.read_text())
    stored[group][name] = value
    folder.config_file.write_text(json.dumps(stored))


def test_what_was_written_is_read(folder, tmp_path, monkeypatch):
    assert folder.read() == SETTINGS
    assert list(json.loads(folder.config_file.read_text())) == ["config", "recipe", "goal", "data"]
    monkeypatch.chdir(tmp_path)
    assert RunData.at(speech="a", rooms=None) == RunData(speech=str(tmp_path.resolve() / "a"))


def test_a_run_that_is_older_than_an_augmentation_goes_on_without_it(folder):
    stored = json.loads(folder.config_file.read_text())
    del stored["recipe"]["polarity"]
    folder.config_file.write_text(json.dumps(stored))
    assert folder.read() == dataclasses.replace(
        SETTINGS, recipe=dataclasses.replace(SETTINGS.recipe, polarity=0.0)
    )
    assert SETTINGS.recipe.polarity > 0


def test_a_run_that_is_older_than_the_likeness_of_spectra_goes_on_without_it(folder):
    recipe = dataclasses.replace(SETTINGS.recipe, ceiling_db=30.0, stft_weight=0.5)
    folder.write(dataclasses.replace(SETTINGS, recipe=recipe))
    assert folder.read().recipe == recipe
    stored = json.loads(folder.config_file.read_text())
    del stored["recipe"]["ceiling_db"], stored["recipe"]["stft_weight"]
    folder.config_file.write_text(json.dumps(stored))
    read = folder.read().recipe
    assert (read.ceiling_db, read.stft_weight) == (80.0, 0.0)


@pytest.mark.parametrize(
    "group, name, value, words",
    [
        ("config", "filters", "16", "filters is '16'"),
        ("config", "filters", 16.5, "filters is 16.5"),
        ("config", "causal", "no", "causal is 'no'"),
        ("config", "taps", 3, "unexpected keyword argument 'taps'"),
        ("recipe", "batch", 2.5, "batch is 2.5"),
        ("recipe", "batch", True, "batch is True"),
        ("recipe", "seconds", None, "seconds is None"),
        ("recipe", "seconds", -1.0, "seconds must be above 0, not -1.0"),
        ("recipe", "snr_db", [0, 5, 10], r"snr_db is \[0, 5, 10\]"),
        ("recipe", "snr_db", [0, "5"], r"snr_db is \[0, '5'\]"),
        ("recipe", "hold_out", "ann", "hold_out is 'ann'"),
        ("recipe", "hold_out", [1], r"hold_out is \[1\]"),
        ("goal", "minutes", "10", "minutes is '10'"),
        ("goal", "steps", 0, "--steps 0: give a number above 0"),
        ("data", "speech", 7, "speech is 7"),
        ("data", "noise", "a\0b", "names no file"),
        ("config", "filters", 16.0, "filters is 16.0"),
        ("config", "filters", 10**30, "filters must be a whole number of at most 16384"),
        ("config", "hidden", None, "hidden is None"),
        ("config", "blocks", 20, "values in a stream: more than"),
        ("recipe", "batch", 2.0, "batch is 2.0"),
        ("recipe", "batch", 10**9, "batch must be at most 1000, not 1000000000"),
        ("recipe", "seconds", 10**400, "seconds must be at most 60"),
        ("recipe", "seconds", np.nan, "seconds must be above 0, not nan"),
        ("recipe", "learning_rate", 1e308, "learning_rate must be at most 10"),
        ("recipe", "validation_mixtures", np.inf, "validation_mixtures must be a whole number"),
        ("recipe", "snr_db", [-1e308, 1e308], "snr_db -1e.308 to 1e.308: give the lower number first"),
        ("recipe", "speed", {}, "speed is {}"),
        ("recipe", "hold_out", None, "hold_out is None"),
        ("recipe", "schedule", "x" * 10**5, "schedule must be one of cosine, plateau, constant, not 'xxx"),
        ("goal", "minutes", 1e300, "give a number above 0 and at most 1000000"),
        ("goal", "minutes", np.nan, "give a number above 0"),
        ("goal", "steps", 2.5, "steps is 2.5"),
    ],
)
def test_values_of_another_type_are_named(folder, group, name, value, words):
    change(folder, group, name, value)
    with pytest.raises(
        UserError, match=f"config.json: is damaged .*{words}.*; restore it, or train a new run"
    ):
        folder.read()


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", "{}", '{"config": {}, "recipe": {}, "goal": {}}', '{"config": {}, "recipe": [1]}', "null",
     '{"recipe": [1]}', '{"recipe": {}}', '{"recipe": null}', "[" * 100_000, '{"recipe":' * 100_000, "1" * 5000,
     '{"recipe": {}, "config": [], "goal": 1}', "\xff", " " * (2 << 20)],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_other_json_is_damage(folder, text):
    folder.config_file.write_text(text)
    with pytest.raises(UserError, match="config.json: is damaged"):
        folder.read()


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(UserError, match="is not the folder of a training run .no config.json.; check --out"):
        RunFolder(tmp_path).read()


def test_a_folder_is_made_once_and_held_by_one(folder):
    with pytest.raises(UserError, match="exists already; choose another --out"), folder.create():
        pytest.fail("it is used")
    with folder.take_over(), pytest.raises(UserError, match="another run is writing there"):
        with RunFolder(folder.path).take_over():
            pytest.fail("two have it")


def test_what_reads_a_run_does_not_import_the_trainer():
    code = (
        "import sys, tasnet_np.reports.report, tasnet_np.training.evaluation, tasnet_np.commands.main\n"
        "assert 'tasnet_np.training.run_folder' in sys.modules\n"
        "unwanted = {f'tasnet_np.training.{name}' for name in ('train', 'trainer', 'optimisers')}\n"
        "sys.exit(bool(unwanted & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
