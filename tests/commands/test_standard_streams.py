"""Standard streams that are closed, full, of another encoding, or read by nobody any more."""

import io
import json
import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import soundfile

from tasnet_np.commands.main import main
from tasnet_np.listening.denoise import denoise_files
from tasnet_np.network import checkpoint
from tasnet_np.network.config import Config
from tasnet_np.training.recipe import Recipe
from tasnet_np.training.train import resume, train

CONFIG = Config(filters=16, filter_length=8, bottleneck=8, hidden=12, skip=8, blocks=2, repeats=1)
RECIPE = Recipe(batch=1, seconds=0.2, validate_every=2, validation_mixtures=1)
FULL = "error: standard output: No space left on device; free some disk space or write elsewhere"
NAME = "žluť.wav"  # in neither ASCII nor cp1252

pytestmark = pytest.mark.skipif(os.name != "posix", reason="redirections of a POSIX shell, and /dev/full")


@pytest.fixture(scope="module")
def trained(recordings, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "run"
    train(recordings / "speech", recordings / "noise", out, CONFIG, RECIPE, steps=4, quiet=True)
    return out


@pytest.fixture
def noisy(tmp_path):
    path = tmp_path / NAME
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(4000), 8000)
    return path


@pytest.fixture
def calls(recordings, trained, noisy, tmp_path):
    """The arguments of a call of every command that prints, and the file that it writes."""
    folders = ["--speech", recordings / "speech", "--noise", recordings / "noise"]
    size = ["--seconds", "0.2", "--batch", "1", "--validation-mixtures", "1", "--steps", "2"]
    few = ["--mixtures", "1", "--seconds", "0.3"]
    out = tmp_path / "ž"
    listed = {
        "info": (["info", "--preset", "paper"], None),
        "denoise": (["denoise", noisy, "--model", trained, "-o", f"{out}.wav"], f"{out}.wav"),
        "train": (
            ["train", *folders, *size, "--from", trained, "--out", f"{out}-run"],
            f"{out}-run/last.npz",
        ),
        "prepare": (["prepare", *folders, "--out", f"{out}.json"], f"{out}.json"),
        "evaluate": (["evaluate", "--model", trained, *few], None),
        "report": (["report", trained, "-o", f"{out}.html", *few], f"{out}.html"),
        "compare": (["compare", "--clean", noisy, noisy], None),
        "help": (["train", "--help"], None),
        "version": (["--version"], None),
    }
    return {name: (list(map(str, arguments)), written) for name, (arguments, written) in listed.items()}


SCRIPT = """
import json, sys
from tasnet_np.commands.main import main
from pathlib import Path
statuses = {}
for name, (arguments, _) in json.loads(Path(sys.argv[1]).read_text()).items():
    try:
        statuses[name] = main(arguments)
    except SystemExit as end:
        statuses[name] = end.code
    Path(sys.argv[2]).write_text(json.dumps(statuses))
"""


def call_all(calls, tmp_path, redirection, **environment):
    """Call every command with the same redirection; return their exit statuses, and what was printed."""
    (tmp_path / "calls.json").write_text(json.dumps(calls))
    command = f'"$@" {redirection}'
    done = subprocess.run(
        ["bash", "-c", command, "-", sys.executable, "-c", SCRIPT, tmp_path / "calls.json", tmp_path / "statuses.json"],
        capture_output=True, env=os.environ | environment,
    )  # fmt: skip
    statuses = json.loads((tmp_path / "statuses.json").read_text())
    assert statuses.keys() == calls.keys(), done.stderr.decode()
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr and b"Exception" not in done.stderr
    for _, written in calls.values():
        assert written is None or os.path.getsize(written) > 0
    return statuses, done.stdout, done.stderr.decode()


@pytest.mark.parametrize("redirection", ["2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_without_standard_error_all_is_done(calls, tmp_path, redirection):
    statuses, out, _ = call_all(calls, tmp_path, redirection)
    assert set(statuses.values()) == {0}
    assert bool(out) == (">&- 2" not in redirection)
    assert (
        b"warning" not in out and b"compiling" not in out and b"%|" not in out
    )  # which are for standard error


def test_a_full_standard_output_is_an_error_of_one_line_after_the_work(calls, tmp_path):
    statuses, _, errors = call_all(calls, tmp_path, ">/dev/full")
    assert set(statuses.values()) == {2}
    told = [line for line in errors.splitlines() if line.startswith("error:")]
    assert told == [FULL] * len(calls)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_characters_that_an_encoding_lacks_are_escaped(calls, tmp_path, encoding):
    printing = {name: call for name, call in calls.items() if name in ("denoise", "compare")}
    statuses, out, errors = call_all(printing, tmp_path, "", PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    assert set(statuses.values()) == {0} and "error" not in errors.lower()
    printed = out.decode(encoding)
    z = "\\u017e" if encoding == "ascii" else "ž"
    assert f"{z}.wav\n" in printed and f"{z}lu\\u0165.wav\n" in printed


# stream: what is for standard error may never get into the sound.


@pytest.fixture
def stream(trained, tmp_path):
    """Runs `stream` on one sound with a redirection."""
    path = tmp_path / "sound.wav"
    soundfile.write(path, 0.1 * np.random.default_rng(1).standard_normal(4000), 8000, "PCM_16")

    def run(redirection=""):
        command = f'"$@" <{path} {redirection}'
        arguments = [sys.executable, "-m", "tasnet_np", "stream", "--model", str(trained)]
        return subprocess.run(["bash", "-c", command, "-", *arguments], capture_output=True)

    return run


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "2</dev/null"])
def test_the_sound_is_the_same_without_standard_error(stream, redirection):
    done = stream(redirection)
    assert done.returncode == 0
    assert done.stdout == stream().stdout and len(done.stdout) == 44 + 8000


@pytest.mark.parametrize(
    "redirection, words",
    [
        (">&-", "error: standard output: is closed; put it between other programs"),
        ("<&-", "error: standard input: is closed; put it between other programs"),
        (">/dev/full", FULL),
        ("1</dev/null", "error: standard output: Bad file descriptor"),
        ("0>/dev/null", "error: standard input: Bad file descriptor"),
    ],
)
def test_a_stream_that_cannot_be_used_is_named(stream, redirection, words):
    done = stream(redirection)
    assert done.returncode == 2 and done.stdout == b""
    told = [line for line in done.stderr.decode().splitlines() if "error" in line.lower()]
    assert len(told) == 1 and told[0].startswith(words)


def test_a_pause_of_an_input_that_does_not_wait_is_not_its_end(trained):
    """Node.js and some shells hand over such pipes."""
    ours, theirs = os.pipe()[::-1]
    os.set_blocking(theirs, False)
    command = [sys.executable, "-m", "tasnet_np", "stream", "--model", str(trained), "--raw", "s16le"]
    with subprocess.Popen(command, stdin=theirs, stdout=-1, stderr=-1) as process:
        os.close(theirs)
        os.write(ours, bytes(8000))
        first = process.stdout.read(4000)  # it has read all that there is, and waits for more
        threading.Event().wait(0.3)
        os.write(ours, bytes(8000))
        os.close(ours)
        rest = process.stdout.read()
        assert process.wait() == 0
    assert len(first + rest) == 16000


def test_an_output_that_does_not_wait_gets_all_of_the_sound(trained):
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    command = [sys.executable, "-m", "tasnet_np", "stream", "--model", str(trained), "--raw", "s16le"]
    with subprocess.Popen(command, stdin=-1, stdout=theirs, stderr=-1) as process:
        os.close(theirs)
        feeding = threading.Thread(
            target=lambda: (process.stdin.write(bytes(400_000)), process.stdin.close())
        )
        feeding.start()
        threading.Event().wait(2.0)  # a pipe holds 64 KiB: it is full by now
        size = 0
        while data := os.read(ours, 1 << 16):
            size += len(data)
        feeding.join()
        assert process.wait() == 0
    os.close(ours)
    assert size == 400_000


# A training goes on whoever listens.


def test_a_training_goes_on_when_its_reader_has_left(recordings, trained, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "tasnet_np", "train", "--from", trained, "--out", out, "--steps", "40"]
    command += ["--speech", recordings / "speech", "--noise", recordings / "noise", "--seconds", "0.2"]
    command += ["--validate-every", "2", "--validation-mixtures", "1", "--batch", "1"]
    with subprocess.Popen(list(map(str, command)), stdout=-1, stderr=-1) as process:
        assert process.stdout.readline().startswith(b"training: ")
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait() == 0, errors.decode()
    assert checkpoint.read(out / "last.npz").numbers["optimizer"]["steps"] == 40


def test_a_command_whose_output_is_wanted_ends_with_its_reader(trained):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "tasnet_np", "info", "--preset", "paper"], stdout=write, stderr=-1
    )
    os.close(write)
    assert done.returncode == 141 and done.stderr == b""


# In the process of another program: no console (None), as with pythonw, or what it put in its place.


def no_console():
    return None


def closed():
    file = io.StringIO()
    file.close()
    return file


def full():
    return open("/dev/full", "w")


def narrow():
    return io.TextIOWrapper(io.BytesIO(), "ascii")


@pytest.mark.parametrize("make", [no_console, closed, full, narrow])
def test_messages_in_another_program(recordings, trained, noisy, tmp_path, monkeypatch, make):
    """Commands and functions, with both streams in such a state."""
    arguments = ["denoise", noisy, "--model", trained, "-o", tmp_path / "out.wav"]
    shutil.copy(noisy, tmp_path / "second.wav")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", make())
        patch.setattr(sys, "stderr", make())
        status = main(list(map(str, arguments)))
        finished = train(
            recordings / "speech", recordings / "noise", tmp_path / "run", CONFIG, RECIPE, steps=2
        )
        resumed = resume(tmp_path / "run", steps=4)
        written = denoise_files([tmp_path], checkpoint.load(trained), tmp_path.parent / "outs", progress=True)
        streams = sys.stdout, sys.stderr
    assert status == (2 if make is full else 0)
    assert soundfile.info(tmp_path / "out.wav").frames == 4000
    assert finished is True and resumed is True and len(written) == 3
    for stream in streams:
        if make is full:
            stream.detach()  # which holds what it could not write
    if make is narrow:
        assert b"\\u017elu\\u0165" not in streams[1].detach().getvalue()
        assert f"{tmp_path}/out.wav\n".encode() in streams[0].detach().getvalue()
