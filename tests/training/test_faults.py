"""Kills at random moments, broken corpora, full disks, vanished folders, two runs in one folder."""

import dataclasses
import errno
import os
import random
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from killing import records, run_with_kills, start
from small_disk import empty, room_for, small_disk

from tasnet_np import UserError
from tasnet_np.commands.main import main
from tasnet_np.network import checkpoint
from tasnet_np.network.config import Config
from tasnet_np.safe_files import lock, remove_temporaries
from tasnet_np.training.recipe import Recipe
from tasnet_np.training.train import resume, train
from tasnet_np.training.trainer import Trainer

CONFIG = Config(filters=16, filter_length=8, bottleneck=8, hidden=12, skip=8, blocks=2, repeats=1)
RECIPE = Recipe(batch=2, seconds=0.2, validate_every=4, validation_mixtures=2, learning_rate=0.02, warmup=3)
KILLS = int(os.environ.get("TASNET_KILLS", 5))  # benchmarks/kills.py does 50
KILLS_SEED = int(os.environ.get("TASNET_KILLS_SEED", random.randrange(1 << 30)))  # of the moments


def arguments(recordings, steps=120):
    folders = ["--speech", recordings / "speech", "--noise", recordings / "noise"]
    size = ["--seconds", "0.1", "--batch", "1", "--validate-every", "3", "--validation-mixtures", "1"]
    return [*folders, *size, "--speed", "0.1", "--room", "0.3", "--steps", steps]


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is of POSIX systems")
def test_killed_again_and_again_a_run_is_the_same(recordings, tmp_path):
    print(
        f"to draw the same moments again: TASNET_KILLS_SEED={KILLS_SEED}"
    )  # pytest shows it where the test fails
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start([*arguments(recordings), "--out", whole]).wait(120) == 0
    hits = run_with_kills(arguments(recordings), killed, KILLS, seed=KILLS_SEED)
    assert hits >= KILLS // 2
    assert records(killed) == records(whole)
    for name in ("last.npz", "best.npz"):
        one, other = checkpoint.read(whole / name), checkpoint.read(killed / name)
        assert one.model.params and bool(one.arrays) == (name == "last.npz")
        for left, right in ((one.model.params, other.model.params), (one.arrays, other.arrays)):
            assert left.keys() == right.keys()
            assert all(left[key].tobytes() == right[key].tobytes() for key in left)
    assert sorted(path.name for path in killed.iterdir()) == sorted(path.name for path in whole.iterdir())


def test_temporary_files_of_a_killed_run_are_removed_and_no_others(recordings, tmp_path):
    out = tmp_path / "run"
    train(recordings / "speech", recordings / "noise", out, CONFIG, RECIPE, steps=4)
    for name in (".0123456789abcdef.npz", ".fedcba9876543210.json"):
        (out / name).write_bytes(b"cut short")
    (out / ".gitignore").touch()
    resume(out, steps=6)
    assert {path.name for path in out.glob(".*")} == {".gitignore"}
    remove_temporaries(out)
    assert {path.name for path in out.glob(".*")} == {".gitignore"}


def test_every_tenth_file_is_broken(recordings, tmp_path, capsys):
    """All of them are named, each with its reason, and the rest trains."""
    folder, rng = tmp_path / "broken", np.random.default_rng(0)
    broken = set()
    for i in range(60):
        path = folder / ("speech" if i % 2 else "noise") / f"s{i % 6}" / f"{i:02}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * rng.standard_normal(3000), 8000)
        if i % 10 in (0, 5) and i % 20 in (0, 15):
            contents = {0: b"", 1: path.read_bytes()[:999], 2: b"not audio" * 99, 3: bytes(20)}[i // 15]
            path.write_bytes(contents)
            broken.add(path)
    assert len(broken) == 6
    status = main([
        "train", "--speech", str(folder / "speech"), "--noise", str(folder / "noise"), "--out", str(tmp_path / "run"),
        "--steps", "3", "--seconds", "0.2", "--batch", "2", "--validation-mixtures", "1", "--quiet",
    ])  # fmt: skip
    assert status == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: skipped")]
    assert len(lines) == 6
    assert {path for path in broken for line in lines if f"skipped {path}: " in line} == broken


def test_two_runs_in_one_folder(recordings, tmp_path, capsys):
    out = tmp_path / "run"
    train(recordings / "speech", recordings / "noise", out, CONFIG, RECIPE, steps=4)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with lock(out):
        assert main(["train", "--out", str(out), "--resume", "--steps", "8"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert f"{out}: another run is writing there; wait for it" in line
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert resume(out, steps=8) is True  # the lock is gone with its holder


def test_the_lock_of_a_killed_program_goes_with_it(tmp_path):
    code = (
        "import os, signal; from tasnet_np.safe_files import lock\n"
        f"with lock({str(tmp_path)!r}): os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    with lock(tmp_path), pytest.raises(UserError, match="another run is writing"):
        with lock(tmp_path):
            pytest.fail("two have it")
    with pytest.raises(UserError, match="missing: cannot be used"), lock(tmp_path / "missing"):
        pytest.fail("nothing to have")


@pytest.mark.parametrize("full_at", [1, 2, 3, 4])
def test_a_full_disk_ends_in_one_line_and_resumes_to_the_same_run(recordings, tmp_path, monkeypatch, full_at):
    """The disk fills up in the middle of a checkpoint: of best.npz or last.npz, the first or a later one."""
    whole, full = tmp_path / "whole", tmp_path / "full"
    common = (recordings / "speech", recordings / "noise")
    train(*common, whole, CONFIG, RECIPE, steps=12)
    right, calls = np.savez, []

    def filling(file, **arrays):
        calls.append(file)
        if len(calls) == full_at:
            file.write(b"as much as fits")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        right(file, **arrays)

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", filling)
        with pytest.raises(
            UserError, match=r"\.npz: cannot be written \(No space left on device\); free some disk space"
        ):
            train(*common, full, CONFIG, RECIPE, steps=12)
    assert not list(full.glob(".*"))
    assert resume(full) is True
    assert records(full) == records(whole)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full is a full disk on Linux")
def test_a_log_that_cannot_grow(recordings, tmp_path, monkeypatch):
    from tasnet_np.training import train as module

    class Full(module.RunLog):
        def __enter__(self):
            self.file = open("/dev/full", "ab", buffering=0)
            return self

    monkeypatch.setattr(module, "RunLog", Full)
    with pytest.raises(
        UserError, match="log.jsonl: cannot be written .No space left on device.; free some space"
    ):
        train(recordings / "speech", recordings / "noise", tmp_path / "run", CONFIG, RECIPE, steps=4)


@pytest.mark.parametrize("validate_every", [1000, 20])
def test_a_disk_that_fills_up_at_any_place_of_a_run(recordings, tmp_path, validate_every):
    """One line; and once there is room, the run comes to the same end as one that was not disturbed."""
    recipe = dataclasses.replace(
        RECIPE, batch=1, seconds=0.1, validate_every=validate_every, validation_mixtures=1
    )
    common = {"config": CONFIG, "recipe": recipe, "steps": 50, "quiet": True}
    folders = recordings / "speech", recordings / "noise"
    whole, failed_at = tmp_path / "whole", set()
    train(*folders, whole, **common)
    with small_disk(tmp_path / "disk") as disk:
        out = disk / "run"
        for free in range(0, 300_000, 3 * 4096):
            empty(disk)
            with room_for(free, disk):
                try:
                    train(*folders, out, **common)
                    break
                except UserError as error:
                    failed_at.add(
                        re.fullmatch(rf"{disk}/run/([a-z.]+): cannot be written \(No space .*", str(error))[1]
                    )
                assert not list(out.glob(".*"))
            if (out / "config.json").exists():
                assert resume(out, quiet=True) is True
            else:
                assert train(*folders, out, **common) is True
            assert records(out) == records(whole)
            for name in ("best.npz", "last.npz"):
                one, other = (checkpoint.read(folder / name).model.params for folder in (out, whole))
                assert all(one[key].tobytes() == other[key].tobytes() for key in one)
        else:
            pytest.fail("the disk was always full")
    assert {"manifest.json", "validation.npz", "log.jsonl", "best.npz", "last.npz"} <= failed_at


def test_the_recordings_vanish_during_a_run(recordings, tmp_path, monkeypatch):
    """Nothing is cached, so the run notices; what was learned is kept, and it goes on when they are back."""
    copied, out = tmp_path / "copied", tmp_path / "run"
    shutil.copytree(recordings, copied)
    right = Trainer.step

    def moving(self, batch):
        if self.steps == 6:
            (copied / "speech").rename(tmp_path / "elsewhere")
        return right(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", moving)
        with pytest.raises(UserError, match="20 recordings in a row cannot be used, .*cannot be read"):
            train(copied / "speech", copied / "noise", out, CONFIG, RECIPE, steps=40, cache_bytes=1)
    with pytest.raises(UserError, match="is gone, but .* was trained on it"):
        resume(out)
    (tmp_path / "elsewhere").rename(copied / "speech")
    assert resume(out) is True
    whole = tmp_path / "whole"
    train(copied / "speech", copied / "noise", whole, CONFIG, RECIPE, steps=40)
    assert records(out) == records(whole)


def test_the_run_folder_vanishes(recordings, tmp_path, monkeypatch):
    out, right = tmp_path / "run", Trainer.step

    def removing(self, batch):
        if self.steps == 2:
            shutil.rmtree(out)
        return right(self, batch)

    monkeypatch.setattr(Trainer, "step", removing)
    with pytest.raises(UserError, match="npz: cannot be written .*; create the folder first"):
        train(recordings / "speech", recordings / "noise", out, CONFIG, dataclasses.replace(RECIPE), steps=8)


def test_damaged_files_of_a_run_are_named(recordings, tmp_path):
    out = tmp_path / "run"
    train(recordings / "speech", recordings / "noise", out, CONFIG, RECIPE, steps=4)
    for name, words in {
        "validation.npz": "validation.npz: is damaged",
        "manifest.json": "manifest.json: is damaged",
        "last.npz": "last.npz: is damaged",
        "config.json": "config.json: is damaged",
    }.items():
        whole = (out / name).read_bytes()
        (out / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UserError, match=words):
            resume(out, steps=6)
        (out / name).write_bytes(whole)
    assert resume(out, steps=6) is True
