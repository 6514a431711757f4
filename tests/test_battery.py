"""One battery for every entry point: each public function and each command, in every condition that makes sense.

Right, or a clear error; never a traceback of a command, never a hang; inputs stay as they were.
"""

import argparse
import inspect
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from battery import commands, functions, processes
from battery.commands import COMMANDS
from battery.functions import KINDS, LAYOUTS, ODD, ON_ARRAYS, ON_FILES

import tasnet_np
from tasnet_np.commands.main import _parser, main

ROOT = Path(__file__).parents[1]
REFUSALS = (ValueError, TypeError)  # UserError is a ValueError
SECONDS = 300  # of all functions in a process; they need 10 on a quiet machine


def outputs(result):
    return [np.asarray(array) for array in (result if isinstance(result, list | tuple) else [result])]


def copies(arrays):
    return [np.array(array) for array in arrays]


# Functions and the conditions of their arrays.


@pytest.mark.parametrize("name", ON_ARRAYS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_changes_nothing(name, layout):
    call, make = ON_ARRAYS[name]
    expected = outputs(call(*make()))
    given = [LAYOUTS[layout](array) for array in make()]
    found = outputs(call(*given))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    for array, before in zip(given, make()):
        np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize("name", ON_ARRAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_another_kind_of_values_is_right_or_refused(name, kind):
    call, make = ON_ARRAYS[name]
    given = [KINDS[kind](array) for array in make()]
    before = copies(given)
    try:
        found = outputs(call(*given))
    except REFUSALS as error:
        assert str(error).strip()
        return
    same = [np.asarray(array).astype(np.complex64 if kind == "complex" else np.float32) for array in given]
    expected = outputs(call(*same))
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one.astype(other.dtype), other, rtol=2e-3, atol=2e-4)
    for array, unchanged in zip(given, before):
        np.testing.assert_array_equal(array, unchanged)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", ON_ARRAYS)
@pytest.mark.parametrize("odd", ODD)
def test_odd_arrays_give_a_result_or_a_clear_error(name, odd):
    call, make = ON_ARRAYS[name]
    given = [ODD[odd](array) for array in make()]
    before = [np.array(array) for array in given]
    try:
        call(*given)
    except REFUSALS as error:
        assert str(error).strip()
    for array, unchanged in zip(given, before):
        np.testing.assert_array_equal(array, unchanged)


# Functions and the conditions of their process.


@pytest.fixture(scope="module")
def results_of_processes(tmp_path_factory):
    """{condition: {function: digest or error}}, two processes at once."""
    with ThreadPoolExecutor(2) as pool:
        started = {
            condition: pool.submit(_run_process, condition, tmp_path_factory.mktemp("process"))
            for condition in processes.CONDITIONS
        }
        return {condition: future.result() for condition, future in started.items()}


def _run_process(condition, folder):
    flags = processes.FLAGS.get(condition, [])
    command = [sys.executable, *flags, processes.__file__, condition, str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return f"no answer after {SECONDS} s"
    if done.returncode:
        return done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("condition", processes.CONDITIONS)
@pytest.mark.parametrize("name", [*ON_ARRAYS, *ON_FILES])
def test_a_process_changes_nothing(name, condition, results_of_processes):
    plain, found = results_of_processes["plain"], results_of_processes[condition]
    assert isinstance(found, dict), found
    assert "Error" not in plain[name], plain[name]
    assert found[name] == plain[name]


# Commands.


@pytest.fixture(scope="module")
def results_of_commands(tmp_path_factory):
    """{(command, condition): what it did}, two at a time."""
    folder = tmp_path_factory.mktemp("commands")
    world = folder / "made"
    functions.make_world(world)
    line = COMMANDS["train"].arguments.replace("{out}/run", "{world}/run")
    assert main([word.format(world=world) for word in line.split()]) == 0
    return commands.run_all(world, folder)


@pytest.mark.parametrize("name, condition", commands.pairs())
def test_a_command_is_right_or_says_why_not(name, condition, results_of_commands):
    done, plain = results_of_commands[name, condition], results_of_commands[name, "plain"]
    assert not isinstance(done, BaseException), done
    command = COMMANDS[name]
    assert not commands.problems_in(done.stderr), done.stderr
    assert done.status in commands.CONDITIONS[condition].status(command), (done.status, done.stderr)
    if done.status == 2:
        assert sum(line.startswith("error: ") for line in done.stderr.splitlines()) <= 1, done.stderr
    if done.status == 0:
        assert done.files == plain.files
    if done.status == 0 and command.prints and done.stdout:
        assert command.same(done.stdout.decode("latin-1")) == command.same(plain.stdout.decode("latin-1"))


def test_commands_do_what_they_are_for(results_of_commands):
    """What the other conditions are compared with."""
    for name, command in COMMANDS.items():
        done = results_of_commands[name, "plain"]
        assert done.status == command.status, (name, done.stderr)
        assert done.files or done.stdout or command.status, name
        if command.status == 2:
            (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
            assert ";" in line, line


# Nothing is forgotten.


def test_every_command_has_an_entry():
    (subparsers,) = (a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction))
    assert set(subparsers.choices) == {command.arguments.split()[0] for command in COMMANDS.values()}


ROOMS = ("sound", "corpus", "listening")
ELSEWHERE = {
    "Config": "has no arrays; tests/network/test_model.py",
    "UserError": "is an error",
    "sound.augmentation.Augmentation": "has no arrays; Mixer acts on it",
    "sound.augmentation.synthetic_room": "takes no arrays",
    "sound.augmentation.synthetic_noise": "takes no arrays",
    "sound.bad_samples.what_is_bad": "is what check_finite calls",
    "sound.channels.check_channels_first": "is what write and separate call",
    "sound.resampling.check_sound_rate": "is what AudioFile and separate call",
    "sound.checks.check_floats": "is what the others call",
    "sound.level.gains_of": "is what fit_level calls; takes inner products",
    "sound.level.about_the_means": "is what RunningLevel calls; takes inner products",
    "sound.resampling.check_rate": "is called by resample",
    "sound.metrics.perceptual_measures": "needs further packages; tests/sound/test_metrics.py",
    "sound.audio_files.Recording": "is what read gives",
    "corpus.mixing.Batch": "is what fixed_batches gives",
    "corpus.mixing.Mixer": "is what fixed_batches and the command train run",
    "corpus.mixing.Prefetcher": "is what the command train runs",
    "corpus.layouts.Found": "is what folders gives",
    "corpus.layouts.librispeech": "is called by recognise; tests/corpus/test_manifest.py",
    "corpus.layouts.librimix": "is called by recognise; tests/corpus/test_manifest.py",
    "corpus.layouts.clean_and_noise": "is called by recognise; tests/corpus/test_manifest.py",
    "corpus.manifest.Entry": "is what inspect gives",
    "corpus.manifest.Manifest": "is what make_manifest gives",
    "corpus.clips.Corpus": "is what open_corpus gives",
    "corpus.clips.StoredClip": "is what open_corpus gives",
    "listening.live": "needs a microphone; tests/listening/test_live.py, and the command",
    "listening.long_files": "is what denoise_files runs; tests/listening/test_long_files.py",
    "listening.stream_timing": "measures time; the command info",
    "listening.pcm_stream": "is what stream.run runs",
}


def public_names():
    """The functions and classes without an underscore that the rooms define, and those of the package itself."""
    found = list(tasnet_np.__all__)
    for room in ROOMS:
        for path in sorted((ROOT / "tasnet_np" / room).glob("[a-z]*.py")):
            module = import_module(f"tasnet_np.{room}.{path.stem}")
            for name, value in vars(module).items():
                own = inspect.isfunction(value) or inspect.isclass(value)
                if own and value.__module__ == module.__name__ and not name.startswith("_"):
                    found.append(f"{room}.{path.stem}.{name}")
    return found


def names_with_an_entry():
    """The public names in the keys of the battery: `module.name`, or `module: name, name; module: name`."""
    for key in [*ON_ARRAYS, *ON_FILES]:
        for part in key.split("; "):
            module, colon, names = part.partition(": ")
            yield from (f"{module}.{name}" for name in names.split(", ")) if colon else part.split(", ")


def test_every_public_function_has_an_entry():
    has = {
        name.split(".")[0] if name[0].isupper() else name for name in names_with_an_entry()
    } | ELSEWHERE.keys()
    missing = [name for name in public_names() if name not in has and name.rpartition(".")[0] not in has]
    assert not missing


def test_no_entry_is_about_something_that_is_gone():
    modules = {name.rpartition(".")[0] for name in public_names()}
    assert ELSEWHERE.keys() <= {*public_names(), *modules}
