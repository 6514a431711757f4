"""Signals and threads: a stopped run loses nothing, and a run works in any thread."""

import os
import signal
import threading

import pytest
import soundfile

from tasnet_np.commands.main import main
from tasnet_np.network import checkpoint
from tasnet_np.network.config import Config
from tasnet_np.training.interrupts import Terminated, raise_on_termination, stop_on_interrupt
from tasnet_np.training.recipe import Recipe
from tasnet_np.training.run_folder import RunFolder
from tasnet_np.training.train import resume, train
from tasnet_np.training.trainer import Trainer

CONFIG = Config(filters=16, filter_length=8, bottleneck=8, hidden=12, skip=8, blocks=2, repeats=1)
RECIPE = Recipe(batch=1, seconds=0.2, validate_every=100, validation_mixtures=1)

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="SIGHUP is of POSIX systems")


class Reached(BaseException):
    """A signal came to the handlers that were there before."""


@pytest.fixture(autouse=True)
def usual_handlers():
    """Handlers that raise `Reached`; they must be there again after the test."""

    def usual(number, frame):
        raise Reached(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, usual) for number in numbers}
    yield
    left = {signal.getsignal(number) for number in numbers} - {signal.SIG_IGN}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert left <= {usual}


def run(recordings, out, steps=1000):
    return train(recordings / "speech", recordings / "noise", out, CONFIG, RECIPE, steps=steps, quiet=True)


def send_at(monkeypatch, name, moments):
    """Send this process signals: {call of a method of Trainer, from 1: signals in their order}."""
    right, calls = getattr(Trainer, name), []

    def sending(self, *arguments):
        calls.append(name)
        for number in moments.get(len(calls), ()):
            os.kill(os.getpid(), number)
        return right(self, *arguments)

    monkeypatch.setattr(Trainer, name, sending)


def steps_of(out):
    return checkpoint.read(out / "last.npz").numbers["optimizer"]["steps"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_after_the_step_with_a_checkpoint(recordings, tmp_path, monkeypatch, number, capsys):
    send_at(monkeypatch, "step", {3: [number]})
    assert run(recordings, tmp_path / "run") is False
    assert steps_of(tmp_path / "run") == 3
    assert "stopped after step 3; continue with: tasnet-np train --out" in capsys.readouterr().out


def test_further_signals_do_not_prevent_the_checkpoint(recordings, tmp_path, monkeypatch):
    send_at(monkeypatch, "step", {3: [signal.SIGINT, signal.SIGINT, signal.SIGTERM]})
    send_at(monkeypatch, "save", {1: [signal.SIGINT, signal.SIGHUP, signal.SIGINT]})
    assert run(recordings, tmp_path / "run") is False
    assert steps_of(tmp_path / "run") == 3
    assert not list((tmp_path / "run").glob(".*"))


def test_a_signal_while_the_last_checkpoint_is_written(recordings, tmp_path, monkeypatch):
    send_at(monkeypatch, "save", {1: [signal.SIGINT], 2: [signal.SIGTERM]})
    assert run(recordings, tmp_path / "run", steps=2) is True
    assert steps_of(tmp_path / "run") == 2


def test_an_ignored_hangup_stays_ignored(recordings, tmp_path, monkeypatch):
    """As under nohup: the terminal is closed, the training goes on."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    send_at(monkeypatch, "step", {2: [signal.SIGHUP]})
    assert run(recordings, tmp_path / "run", steps=4) is True
    assert steps_of(tmp_path / "run") == 4
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_a_handler_that_is_not_of_python_is_left_alone(monkeypatch):
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    with stop_on_interrupt() as received, pytest.raises(Reached):
        os.kill(os.getpid(), signal.SIGTERM)
    assert received == []


def in_a_thread(work):
    """What `work()` returns, called in another thread."""
    results = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    thread.join()
    return results[0]


def test_train_and_resume_in_another_thread(recordings, tmp_path):
    out = tmp_path / "run"
    assert in_a_thread(lambda: run(recordings, out, steps=2)) is True
    assert in_a_thread(lambda: resume(out, steps=4, quiet=True)) is True
    assert steps_of(out) == 4
    assert in_a_thread(lambda: main(["train", "--out", str(out), "--resume", "--steps", "6", "--quiet"])) == 0
    assert steps_of(out) == 6


def test_what_fails_before_the_run_can_be_resumed_leaves_nothing(recordings, tmp_path, monkeypatch):
    """So the same call can be made again."""
    out = tmp_path / "new" / "run"
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write", lambda *_: (_ for _ in ()).throw(Terminated(15)))
        with pytest.raises(Terminated):
            run(recordings, out, steps=1)
    assert list(tmp_path.iterdir()) == []
    assert run(recordings, out, steps=1) is True
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "manifest.json").write_text("of somebody else")
    with pytest.raises(ValueError, match="exists already"):
        run(recordings, mine, steps=1)
    assert (mine / "manifest.json").read_text() == "of somebody else"


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_other_commands_leave_nothing_half_written(recordings, tmp_path, monkeypatch, number, status, capsys):
    """The signal comes when all is in the temporary file."""
    right = os.fsync

    def sending(descriptor):
        os.kill(os.getpid(), number)
        right(descriptor)

    run(recordings, tmp_path / "run", steps=1)
    sound = recordings / "speech" / "alto" / "0.wav"
    monkeypatch.setattr(os, "fsync", sending)
    out = tmp_path / "outs" / "out.wav"
    assert main(["denoise", str(sound), "--model", str(tmp_path / "run"), "-o", str(out)]) == status
    assert list(out.parent.iterdir()) == []
    assert capsys.readouterr().err.splitlines()[-1] == "stopped"
    monkeypatch.undo()
    assert main(["denoise", str(sound), "--model", str(tmp_path / "run"), "-o", str(out)]) == 0
    assert soundfile.info(out).frames == soundfile.info(sound).frames


def test_a_termination_is_a_keyboard_interrupt_with_its_number():
    with raise_on_termination(), pytest.raises(KeyboardInterrupt) as caught:
        os.kill(os.getpid(), signal.SIGHUP)
    assert caught.value.number == signal.SIGHUP
