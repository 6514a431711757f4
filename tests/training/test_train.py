"""Training: resumed runs are the same runs, and whatever goes wrong leaves a usable folder."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import tasnet_np
from tasnet_np import UserError
from tasnet_np.corpus import layouts, manifest
from tasnet_np.corpus.mixing import Batch
from tasnet_np.network import checkpoint
from tasnet_np.network.config import Config
from tasnet_np.network.execution import ConvTasNet
from tasnet_np.optimisation.optimisers import warm_up_and_cosine
from tasnet_np.training.clock import Goal
from tasnet_np.training.evaluation import evaluate
from tasnet_np.training.recipe import Recipe
from tasnet_np.training.run_folder import RunFolder
from tasnet_np.training.train import resume, train
from tasnet_np.training.trainer import Trainer
from tasnet_np.training.validation_set import read_validation_set

CONFIG = Config(filters=16, filter_length=8, bottleneck=8, hidden=12, skip=8, blocks=2, repeats=1)
RECIPE = Recipe(
    batch=2,
    seconds=0.2,
    validate_every=4,
    validation_mixtures=2,
    patience=0,
    learning_rate=0.02,
    schedule="plateau",
    warmup=3,
)


def run(recordings, out, recipe=RECIPE, **limits):
    return train(recordings / "speech", recordings / "noise", out, CONFIG, recipe, **limits)


def records(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def history(out):
    """Everything that the log says but the time it took."""
    times = ("seconds", "fraction", "peak_mb")
    return [{k: v for k, v in record.items() if k not in times} for record in records(out)]


def assert_same_run(one, other):
    assert history(one) == history(other)
    for name in ("last.npz", "best.npz"):
        a, b = checkpoint.read(one / name), checkpoint.read(other / name)
        assert a.model.params and bool(a.arrays) == (name == "last.npz")
        assert {k: v for k, v in a.numbers.items() if k != "seconds"} == {
            k: v for k, v in b.numbers.items() if k != "seconds"
        }
        for left, right in ((a.model.params, b.model.params), (a.arrays, b.arrays)):
            assert left.keys() == right.keys()
            assert all(left[key].tobytes() == right[key].tobytes() for key in left)


def test_a_run_learns_and_writes_what_it_promises(recordings, tmp_path, capsys):
    out = tmp_path / "run"
    assert run(recordings, out, steps=60) is True
    assert sorted(path.name for path in out.iterdir()) == [
        "best.npz", "config.json", "last.npz", "log.jsonl", "manifest.json", "validation.npz",
    ]  # fmt: skip
    losses = [record["loss"] for record in records(out) if "loss" in record]
    assert len(losses) == 60
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 3
    scores = [r["validation"]["speech_si_snri_db"] for r in records(out) if "validation" in r]
    assert len(scores) == 15
    settings = RunFolder(out).read()
    assert (settings.config, settings.recipe, settings.goal) == (CONFIG, RECIPE, Goal(minutes=None, steps=60))
    recordings = manifest.load(out / "manifest.json")
    training, validation = recordings.part("training"), recordings.part("validation")
    assert not {e.path for e in training} & {e.path for e in validation}
    assert len({e.speaker for e in training if e.kind == "speech"}) == 2
    assert [e.kind for e in validation].count("noise") == 1
    printed = capsys.readouterr()
    assert "training: 6 clips of 2 speakers" in printed.out
    assert f"{CONFIG.parameter_count:,} parameters" in printed.out
    assert "60/60 step" in printed.err


def test_best_is_the_best_of_the_validations(recordings, tmp_path, monkeypatch):
    recipe, right = dataclasses.replace(RECIPE, schedule="constant", average=0.0), Trainer.step

    def forgetting(self, batch):
        if self.steps == 12:  # back to the first weights, and to stay there
            self.optimizer.learning_rate = 1e-9
            for name, theta in ConvTasNet(CONFIG, seed=recipe.seed).params.items():
                self.model.params[name][...] = theta
        return right(self, batch)

    monkeypatch.setattr(Trainer, "step", forgetting)
    out = tmp_path / "run"
    run(recordings, out, recipe, steps=24)
    scores = {r["step"]: r["validation"]["speech_si_snri_db"] for r in records(out) if "validation" in r}
    assert checkpoint.read(out / "last.npz").numbers["best_si_snri"] == max(scores.values())
    best = max(scores, key=scores.get)
    assert best <= 12  # the last model is not the best one
    shorter = tmp_path / "shorter"
    run(recordings, shorter, recipe, steps=best)
    at_best, stored = checkpoint.load(shorter), checkpoint.load(out)
    assert all(at_best.params[k].tobytes() == stored.params[k].tobytes() for k in stored.params)


@pytest.mark.parametrize("stops", [[4], [5], [3, 9], [1, 2, 11]])
def test_a_resumed_run_is_the_same_run(recordings, tmp_path, stops):
    """Also when it stops in the warm-up or between two validations."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(recordings, whole, steps=12)
    rates = [r["learning_rate"] for r in records(whole) if "loss" in r]
    run(recordings, parts, steps=stops[0])
    for steps in [*stops[1:], 12]:
        resume(parts, steps=steps)
    # A stop between two validations adds one there; the steps are the same.
    assert [r for r in history(parts) if "loss" in r] == [r for r in history(whole) if "loss" in r]
    assert history(parts)[-1] == history(whole)[-1]
    assert rates[0] == RECIPE.learning_rate / 3 and rates[2] == RECIPE.learning_rate  # warm-up
    a, b = (checkpoint.read(out / "last.npz") for out in (whole, parts))
    assert all(a.arrays[key].tobytes() == b.arrays[key].tobytes() for key in a.arrays)
    assert any(key.startswith("average.") for key in a.arrays)


def test_the_learning_rate_falls_on_a_plateau_and_stays_low_after_resuming(recordings, tmp_path):
    recipe = dataclasses.replace(RECIPE, learning_rate=4e-8, validate_every=1)  # too low to improve
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(recordings, whole, recipe, steps=12)
    run(recordings, parts, recipe, steps=7)
    resume(parts, steps=12)
    rates = [r["learning_rate"] for r in records(whole) if "loss" in r]
    assert min(rates[recipe.warmup :]) < rates[recipe.warmup - 1] == pytest.approx(4e-8)
    assert_same_run(whole, parts)


def test_what_was_logged_after_the_last_checkpoint_is_done_again(recordings, tmp_path):
    """As if killed between two checkpoints, in the middle of a line."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(recordings, whole, steps=12)
    run(recordings, killed, steps=8)
    with open(killed / "log.jsonl", "a") as log:
        log.write('{"step": 9, "loss": 1.0}\n{"step": 10, "lo')
    resume(killed, steps=12)
    assert_same_run(whole, killed)


def test_a_run_killed_before_its_first_checkpoint_begins_again(recordings, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(recordings, whole, steps=4)
    shutil.copytree(whole, killed)
    for name in ("last.npz", "best.npz", "log.jsonl"):
        (killed / name).unlink()
    resume(killed)
    assert_same_run(whole, killed)


def test_minutes_stop_a_run(recordings, tmp_path):
    out = tmp_path / "run"
    started = time.monotonic()
    assert run(recordings, out, minutes=0.02) is True
    assert time.monotonic() - started < 1.2 + 1.0  # in time, but for what a busy machine adds
    seconds = [record["seconds"] for record in records(out) if "loss" in record]
    assert seconds and all(second < 1.2 for second in seconds)  # no step begins after the end


def _started(recordings, out, *more):
    command = [sys.executable, "-m", "tasnet_np", "train", "--speech", recordings / "speech"]
    command += ["--noise", recordings / "noise", "--out", out, "--seconds", "0.1", "--batch", "1", *more]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not ((out / "log.jsonl").exists() and len((out / "log.jsonl").read_bytes()) > 300):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    return process


def test_ctrl_c_stops_cleanly_and_loses_nothing(recordings, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    process = _started(recordings, stopped, "--steps", "100000", "--schedule", "plateau")
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    done = records(stopped)[-1]["step"]
    assert (
        f"stopped after step {done}; continue with: tasnet-np train --out {stopped} --resume"
        in printed.decode()
    )
    assert checkpoint.read(stopped / "last.npz").numbers["optimizer"]["steps"] == done
    assert not list(stopped.glob(".*"))

    assert resume(stopped, steps=done + 3) is True
    settings = RunFolder(stopped).read()
    train(settings.data.speech, settings.data.noise, whole, Config(), settings.recipe, steps=done + 3)
    assert_same_run(whole, stopped)


def test_a_killed_run_resumes(recordings, tmp_path):
    out = tmp_path / "run"
    process = _started(
        recordings, out, "--steps", "100000", "--validate-every", "2", "--validation-mixtures", "1"
    )
    while not (out / "last.npz").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    step = checkpoint.read(out / "last.npz").numbers["optimizer"]["steps"]
    assert resume(out, steps=step + 1) is True
    steps = [record["step"] for record in records(out) if "loss" in record]
    assert steps == list(range(1, step + 2))


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_checkpoint(
    recordings, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    run(recordings, out, steps=8)
    before = (out / "last.npz").read_bytes()
    right = Trainer.step

    def poisoned(self, batch):
        if self.steps == 9:
            batch = Batch(np.full_like(batch.mixture, np.nan), batch.sources, batch.snr_db, batch.names)
        return right(self, batch)

    monkeypatch.setattr(Trainer, "step", poisoned)
    with pytest.raises(UserError) as caught:
        resume(out, steps=12)
    message = str(caught.value)
    assert message.startswith("step 10: loss nan") and "--learning-rate" in message
    assert " dB" in message and ".wav" in message  # which batch
    assert (out / "last.npz").read_bytes() == before
    assert all(np.isfinite(array).all() for array in tasnet_np.load(out).params.values())


def test_folders_that_cannot_be_used(recordings, tmp_path):
    used = tmp_path / "used"
    used.mkdir()
    (used / "file").touch()
    with pytest.raises(UserError, match="used: exists already; choose another --out"):
        run(recordings, used, steps=1)
    with pytest.raises(UserError, match="file/run: cannot be written"):
        run(recordings, used / "file" / "run", steps=1)
    with pytest.raises(UserError, match="not the folder of a training run"):
        resume(used)
    assert os.listdir(used) == ["file"]
    with pytest.raises(UserError, match="missing"):
        train(tmp_path / "missing", recordings / "noise", tmp_path / "new", CONFIG, RECIPE, steps=1)
    assert not (tmp_path / "new").exists()


def test_resuming_needs_the_same_recordings(recordings, tmp_path):
    copied, out = tmp_path / "copied", tmp_path / "run"
    shutil.copytree(recordings, copied)
    run(copied, out, steps=1)
    (copied / "noise" / "4.wav").unlink()
    with pytest.raises(UserError, match="4.wav: is gone, but .* was trained on it"):
        resume(out, steps=2)


def test_a_damaged_config_or_checkpoint_is_named(recordings, tmp_path):
    out = tmp_path / "run"
    run(recordings, out, steps=1)
    tasnet_np.save(ConvTasNet(CONFIG), out / "last.npz")
    with pytest.raises(UserError, match="last.npz: holds a model but no training to resume"):
        resume(out, steps=2)
    (out / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json: is damaged"):
        resume(out, steps=2)


def test_broken_recordings_are_skipped_with_a_warning(recordings, tmp_path, capsys):
    copied = tmp_path / "copied"
    shutil.copytree(recordings, copied)
    (copied / "noise" / "broken.wav").write_bytes(b"RIFF")
    (copied / "noise" / "notes.txt").write_text("not audio")
    run(copied, tmp_path / "run", steps=1)
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning:" in line]
    assert any("broken.wav" in line for line in warnings)
    assert any("skipped 1 non-audio file" in line and "notes.txt" in line for line in warnings)


COSINE = dataclasses.replace(RECIPE, schedule="cosine", warmup=3, average=0.9)


def test_the_cosine_ends_with_the_steps(recordings, tmp_path):
    out = tmp_path / "run"
    run(recordings, out, COSINE, steps=20)
    steps = [r for r in records(out) if "loss" in r]
    assert [r["fraction"] for r in steps] == [k / 20 for k in range(20)]
    expected = [warm_up_and_cosine(COSINE.learning_rate, k, k / 20, warmup=3) for k in range(20)]
    assert [r["learning_rate"] for r in steps] == expected


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it, nothing is saved."""


def killed_at_checkpoint(monkeypatch, number):
    """Let the run die before it writes this checkpoint."""
    save, calls = Trainer.save, []

    def dying(self, path):
        calls.append(path)
        if len(calls) == number:
            raise Killed
        save(self, path)

    monkeypatch.setattr(Trainer, "save", dying)


@pytest.mark.parametrize(
    "recipe", [COSINE, RECIPE, dataclasses.replace(COSINE, schedule="constant", speed=0.1, room=0.5)]
)
def test_a_killed_run_ends_as_an_undisturbed_one(recordings, tmp_path, monkeypatch, recipe):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(recordings, whole, recipe, steps=20)
    with monkeypatch.context() as patch:
        killed_at_checkpoint(patch, 4)
        with pytest.raises(Killed):
            run(recordings, killed, recipe, steps=20)
    assert checkpoint.read(killed / "last.npz").numbers["optimizer"]["steps"] == 12
    assert records(killed)[-1]["step"] == 16
    assert resume(killed) is True
    assert_same_run(whole, killed)


def test_a_killed_run_by_minutes_does_the_same_steps_again(recordings, tmp_path, monkeypatch):
    """What the clock said is in the log: learning rates and losses after the checkpoint are the same, to the bit."""
    out, recipe = tmp_path / "run", dataclasses.replace(COSINE, validate_every=10)
    with monkeypatch.context() as patch:
        killed_at_checkpoint(patch, 3)
        with pytest.raises(Killed):
            run(recordings, out, recipe, minutes=0.05)
    before = [r for r in records(out) if "loss" in r]
    assert len(before) == 30 and checkpoint.read(out / "last.npz").numbers["optimizer"]["steps"] == 20
    assert resume(out) is True
    after = [r for r in records(out) if "loss" in r]
    assert after[:30] == before  # seconds and fractions, too
    assert len(after) > 30
    fractions = [r["fraction"] for r in after]
    assert fractions == sorted(fractions) and fractions[-1] > 0.9
    assert after[-1]["learning_rate"] < 0.05 * COSINE.learning_rate  # the schedule was completed
    assert resume(out) is True  # it has ended: nothing is added
    assert [r for r in records(out) if "loss" in r] == after


def test_early_stopping(recordings, tmp_path):
    recipe = dataclasses.replace(
        RECIPE, learning_rate=1e-30, schedule="constant", validate_every=1, stop_after=3, average=0
    )
    out = tmp_path / "run"
    assert run(recordings, out, recipe, steps=1000) is True
    scores = [r["validation"]["speech_si_snri_db"] for r in records(out) if "validation" in r]
    assert len(scores) == 4 and len(set(scores)) == 1  # nothing changes: the first is the best


def test_what_is_kept_and_judged_is_the_average(recordings, tmp_path):
    out = tmp_path / "run"
    run(recordings, out, COSINE, steps=8)
    last, best = checkpoint.read(out / "last.npz"), checkpoint.load(out / "best.npz")
    for name, theta in best.params.items():
        assert np.array_equal(theta, last.arrays[f"average.{name}"])
    assert any(not np.array_equal(theta, best.params[name]) for name, theta in last.model.params.items())
    batches = read_validation_set(out / "validation.npz")
    score = evaluate(best, batches)[-1]["speech_si_snri_db"]
    assert score == records(out)[-1]["validation"]["speech_si_snri_db"] == last.numbers["best_si_snri"]


def test_gradient_norms_of_the_parts_make_up_the_whole(recordings, tmp_path):
    out = tmp_path / "run"
    run(recordings, out, steps=21)
    logged = [r for r in records(out) if "gradient_norms" in r]
    assert [r["step"] for r in logged] == [1, 21]
    for record in logged:
        norms = record["gradient_norms"]
        assert {"encoder", "blocks.0", "blocks.1", "mask", "decoder"} <= norms.keys()
        assert np.linalg.norm(list(norms.values())) == pytest.approx(record["gradient_norm"], rel=1e-3)


def test_fine_tuning_begins_with_the_weights_given(recordings, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    run(recordings, first, steps=4)
    recipe = dataclasses.replace(RECIPE, learning_rate=1e-12, average=0)
    train(
        recordings / "speech", recordings / "noise", second, None, recipe, steps=1, start=first / "best.npz"
    )
    a, b = tasnet_np.load(first), checkpoint.load(second / "last.npz")
    assert a.config == b.config == CONFIG
    assert all(np.allclose(a.params[name], b.params[name], atol=1e-9) for name in a.params)
    other = dataclasses.replace(CONFIG, filters=8)
    with pytest.raises(UserError, match="best.npz: has another architecture than asked for"):
        train(
            recordings / "speech",
            recordings / "noise",
            tmp_path / "third",
            other,
            recipe,
            steps=1,
            start=first / "best.npz",
        )


def test_training_on_a_manifest(recordings, tmp_path):
    found, problems = layouts.folders(recordings / "speech", recordings / "noise")
    manifest.save(manifest.make_manifest(found, problems, hold_out=["alto"]), tmp_path / "m.json")
    out = tmp_path / "run"
    train(None, None, out, CONFIG, RECIPE, steps=4, prepared=tmp_path / "m.json")
    kept = manifest.load(out / "manifest.json")
    assert {e.speaker for e in kept.part("validation", "speech")} == {"alto"}
    assert all(m["name"].startswith("alto + ") for m in kept.mixtures)
    assert resume(out, steps=5) is True


def test_the_number_of_mixing_threads_and_the_cache_do_not_matter(recordings, tmp_path):
    recipe = dataclasses.replace(COSINE, speed=0.1, noises=2, room=0.3)
    for name, how in {"a": {}, "b": {"workers": 3}, "c": {"cache_bytes": 1000}}.items():
        run(recordings, tmp_path / name, recipe, steps=6, **how)
        assert_same_run(tmp_path / "a", tmp_path / name)
