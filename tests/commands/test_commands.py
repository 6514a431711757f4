"""The commands as a user types them: what they print, what they write, and how they refuse."""

import dataclasses
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile

import tasnet_np
from tasnet_np.commands.main import main
from tasnet_np.corpus import manifest
from tasnet_np.listening.live import Processor
from tasnet_np.network.config import Config
from tasnet_np.network.execution import ConvTasNet
from tasnet_np.sound.metrics import si_snr
from tasnet_np.training.recipe import Recipe
from tasnet_np.training.train import train

CONFIG = Config(filters=16, filter_length=8, bottleneck=8, hidden=12, skip=8, blocks=2, repeats=1)


@pytest.fixture(scope="module")
def trained(recordings, tmp_path_factory):
    """The folder of a short run on the recordings."""
    out = tmp_path_factory.mktemp("trained") / "run"
    recipe = Recipe(batch=2, seconds=0.3, learning_rate=0.02, validate_every=10, validation_mixtures=2)
    train(recordings / "speech", recordings / "noise", out, CONFIG, recipe, steps=60)
    return out


@pytest.fixture
def noisy(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "noisy.wav"
    soundfile.write(path, 0.1 * rng.standard_normal(4000), 8000, subtype="PCM_16")
    return path


def refused(capsys, *arguments):
    """Run a command that must fail; return its one line."""
    status = main([str(argument) for argument in arguments])
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert status == 2
    assert len(errors) == 1
    return errors[0]


def everything_below(folder):
    return sorted((str(path), path.stat().st_size) for path in folder.rglob("*"))


def test_python_m_and_the_script_are_the_same():
    for command in (
        [sys.executable, "-m", "tasnet_np"],
        [shutil.which("tasnet-np", path=os.path.dirname(sys.executable))],
    ):
        done = subprocess.run([*command, "info", "--preset", "small"], capture_output=True, text=True)
        assert done.returncode == 0
        assert "331,289 (1.3 MB)" in done.stdout


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"tasnet-np {tasnet_np.__version__}\n"
    assert importlib.metadata.version("tasnet_np") == tasnet_np.__version__  # which setup.cfg reads


def test_no_command_waits_for_what_another_one_imports():
    code = (
        "import sys, tasnet_np; before = set(sys.modules)\n"
        "import tasnet_np.commands.main; print(*(set(sys.modules) - before))"
    )
    added = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "tasnet_np.commands.train" in added
    assert all(name.startswith("tasnet_np.commands") for name in added if name.startswith("tasnet_np"))
    assert not {"scipy.signal", "matplotlib", "soundfile", "tqdm"} & set(added)


def test_gradcheck_prints_a_table_that_passes(capsys):
    assert main(["gradcheck"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "all pass (tolerance 1e-06, float64)"
    rows = {line[:44].strip(): line.split() for line in lines[1:-1]}
    assert {"depthwise even taps", "si_snr", "whole model with loss, origin, fused"} <= rows.keys()
    assert all(row[-1] == "pass" and float(row[-2]) < 1e-6 and float(row[-3]) < 1e-6 for row in rows.values())


def test_gradcheck_fails_on_a_wrong_gradient(capsys, monkeypatch):
    from tasnet_np import ops
    from tasnet_np.network import gradcheck

    wrong = ops.OPS["relu"]._replace(backward=lambda dy, cache: (dy,))
    cases = [case._replace(op=wrong) if case.op.name == "relu" else case for case in gradcheck.CASES]
    monkeypatch.setattr(gradcheck, "CASES", cases)
    assert main(["gradcheck"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.endswith("FAIL")] == ["relu"]
    assert lines[-1] == "1 failed"


@pytest.mark.parametrize(
    "preset, words",
    [
        ("small", ["8000 Hz", "253 frames (0.254 s)", "2 ms (16 samples", "causal             yes"]),
        ("paper", ["4,984,881", "1531 frames", "the whole recording (not causal)"]),
        ("wide", ["16000 Hz", "944,793", "20 ms (320 samples"]),
        (
            "origin",
            ["5,017,649", "33 ms (528 samples", "31 frames x 16", "separate decoders", "first 5 blocks"],
        ),
    ],
)
def test_info_describes_a_preset(capsys, preset, words):
    assert main(["info", "--preset", preset]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in words)
    assert "memory for 10 s" in printed


def test_info_describes_a_run(capsys, trained):
    assert main(["info", "--model", str(trained), "--seconds", "60"]) == 0
    printed = capsys.readouterr().out
    assert f"{CONFIG.parameter_count:,}" in printed
    assert f"{CONFIG.inference_bytes(480_000) / 1e6:.0f} MB to denoise" in printed


def test_train_denoise_evaluate_from_the_shell(recordings, tmp_path, capsys):
    out = tmp_path / "run"
    folders = ["--speech", str(recordings / "speech"), "--noise", str(recordings / "noise")]
    recipe = ["--seconds", "0.2", "--batch", "2", "--validate-every", "5", "--validation-mixtures", "1"]
    assert main(["train", *folders, "--out", str(out), "--steps", "6", *recipe, "--hold-out", "bass"]) == 0
    validation = manifest.load(out / "manifest.json").part("validation", "speech")
    assert {entry.speaker for entry in validation} == {"bass"}
    assert main(["train", "--out", str(out), "--resume", "--steps", "8"]) == 0
    capsys.readouterr()

    assert (
        main(["evaluate", "--model", str(out), *folders, "--mixtures", "2", "--seconds", "0.3", "--json"])
        == 0
    )
    printed = capsys.readouterr()
    rows = json.loads(printed.out)
    assert [row["snr_db"] for row in rows] == [-5, 0, 5, 10, 15, "all"]
    assert rows[-1]["mixtures"] == 10
    assert "using only the speakers and noises held out" in printed.err
    for row in rows[:-1]:
        assert row["speech_unprocessed_db"] == pytest.approx(row["snr_db"], abs=1.5)
        assert row["speech_si_snri_db"] == pytest.approx(
            row["speech_si_snr_db"] - row["speech_unprocessed_db"]
        )


def test_evaluate_on_other_recordings_uses_all_of_them(recordings, trained, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(recordings, other)
    arguments = ["--speech", str(other / "speech"), "--noise", str(other / "noise"), "--mixtures", "3"]
    assert main(["evaluate", "--model", str(trained), *arguments, "--seconds", "0.5"]) == 0
    printed = capsys.readouterr()
    assert "held out" not in printed.err
    assert len(printed.out.splitlines()) == 8


def test_a_non_causal_model_is_for_files(recordings, noisy, tmp_path, capsys):
    run, folders = (
        tmp_path / "run",
        ["--speech", str(recordings / "speech"), "--noise", str(recordings / "noise")],
    )
    recipe = ["--seconds", "0.2", "--batch", "1", "--validation-mixtures", "1", "--steps", "1"]
    assert main(["train", *folders, *recipe, "--out", str(run), "--non-causal"]) == 0
    config = Config(**json.loads((run / "config.json").read_text())["config"])
    assert config == dataclasses.replace(Config(), norm="gLN", causal=False)
    assert main(["denoise", str(noisy), "--model", str(run), "-o", str(tmp_path / "out.wav")]) == 0
    assert soundfile.info(tmp_path / "out.wav").frames == 4000
    assert (
        main(["train", *folders, "--out", str(tmp_path / "tuned"), "--from", "pretrained", "--non-causal"])
        == 2
    )
    assert "--non-causal: --from decides the architecture" in capsys.readouterr().err


def test_denoise_improves_a_held_out_mixture_and_keeps_its_level(recordings, trained, tmp_path, capsys):
    from tasnet_np.corpus.clips import Store, open_corpus
    from tasnet_np.corpus.mixing import fixed_batches

    held_out = open_corpus(manifest.load(trained / "manifest.json"), "validation", 8000, Store())
    (batch,) = fixed_batches(held_out, samples=8000, rate=8000, snrs_db=[0], per_snr=1)
    soundfile.write(tmp_path / "noisy.wav", batch.mixture[0], 8000, subtype="PCM_16")
    out, noise_out = tmp_path / "clean.wav", tmp_path / "noise.wav"
    arguments = [tmp_path / "noisy.wav", "--model", trained, "-o", out, "--noise-out", noise_out]
    assert main(["denoise", *map(str, arguments)]) == 0
    assert capsys.readouterr().out.split() == [str(out), str(noise_out)]
    clean, rate = soundfile.read(out)
    assert (len(clean), rate, soundfile.info(out).subtype) == (8000, 8000, "PCM_16")
    speech = batch.sources[0, 0]
    assert si_snr(clean, speech) > si_snr(batch.mixture[0], speech) + 2
    assert 10 * np.log10(np.mean(clean**2) / np.mean(speech**2)) == pytest.approx(0, abs=2)


def test_compare_prints_what_was_gained(tmp_path, capsys):
    rng = np.random.default_rng(0)
    speech, noise = 0.1 * rng.standard_normal((2, 8000))
    for name, gain in (("clean", 0), ("noisy", 1), ("denoised", 0.1)):
        soundfile.write(tmp_path / f"{name}.wav", speech + gain * noise, 8000, subtype="FLOAT")
    files = [str(tmp_path / name) for name in ("noisy.wav", "denoised.wav")]
    picture = tmp_path / "picture.png"
    arguments = ["compare", "--clean", str(tmp_path / "clean.wav"), *files]
    assert main([*arguments, "--plot", str(picture), "--json"]) == 0
    noisy, denoised = json.loads(capsys.readouterr().out)
    assert noisy["si_snr_db"] == pytest.approx(0, abs=0.3) and noisy["si_snri_db"] == 0
    assert denoised["si_snr_db"] == pytest.approx(20, abs=0.3)
    assert denoised["si_snri_db"] == pytest.approx(20, abs=0.3)
    assert (denoised["seconds"], denoised["level_db"]) == (1, pytest.approx(-20, abs=0.2))
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(arguments) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    soundfile.write(files[0], speech[:-1], 8000)
    assert "noisy.wav" in refused(capsys, *arguments)


# Bad input: one line, exit status 2, nothing written.


def test_missing_and_empty_folders(capsys, recordings, trained, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    before = everything_below(tmp_path)
    good, out = recordings / "speech", tmp_path / "run"
    for bad in (tmp_path / "missing", empty):
        assert str(bad) in refused(
            capsys, "train", "--speech", bad, "--noise", recordings / "noise", "--out", out
        )
        assert str(bad) in refused(capsys, "train", "--speech", good, "--noise", bad, "--out", out)
        assert str(bad) in refused(capsys, "evaluate", "--model", trained, "--speech", bad, "--noise", good)
        assert str(bad) in refused(capsys, "denoise", bad, "--model", trained, "-o", out)
    assert everything_below(tmp_path) == before


def _broken_wavs(folder):
    good = folder / "good.wav"
    soundfile.write(good, 0.1 * np.ones(2000), 8000, subtype="PCM_16")
    whole = good.read_bytes()
    files = {
        "truncated.wav": whole[:1000],
        "zero-length.wav": b"",
        "no-samples.wav": whole[:40] + bytes(4),
        "text.wav": b"this is not audio",
        "rate-0.wav": whole[:24] + bytes(4) + whole[28:],
    }
    for name, contents in files.items():
        (folder / name).write_bytes(contents)
    for name, value in (("nan.wav", np.nan), ("inf.wav", np.inf), ("absurd.wav", 1e38)):
        samples = 0.1 * np.ones(2000)
        samples[1000] = value
        soundfile.write(folder / name, samples, 8000, subtype="FLOAT")
    return [*files, "nan.wav", "inf.wav", "absurd.wav"]


def test_broken_recordings_cannot_be_denoised(capsys, trained, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in _broken_wavs(folder):
        message = refused(capsys, "denoise", folder / name, "--model", trained, "-o", tmp_path / "out.wav")
        assert name in message
        assert not (tmp_path / "out.wav").exists()


def test_broken_recordings_among_good_ones(capsys, recordings, trained, tmp_path):
    """denoise does the good ones and says which it could not do; training skips them."""
    folder = tmp_path / "in"
    folder.mkdir()
    names = _broken_wavs(folder)
    assert main(["denoise", str(folder), "--model", str(trained), "-o", str(tmp_path / "out")]) == 2
    errors = capsys.readouterr().err
    assert all(name in errors for name in names)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.wav"]


def test_output_that_cannot_be_written(capsys, trained, noisy, tmp_path):
    (tmp_path / "file").touch()
    before = everything_below(tmp_path)
    denoise = ["denoise", noisy, "--model", trained, "-o"]
    assert "noisy.wav" in refused(capsys, *denoise, noisy)
    assert "file" in refused(capsys, *denoise, tmp_path / "file" / "out.wav")
    assert everything_below(tmp_path) == before


@pytest.mark.skipif(os.name != "posix", reason="/proc is a folder nobody can write to, on Linux")
def test_a_folder_nobody_can_write_to(capsys, recordings, trained, noisy):
    assert "/proc" in refused(capsys, "denoise", noisy, "--model", trained, "-o", "/proc/out.wav")
    folders = ["--speech", recordings / "speech", "--noise", recordings / "noise"]
    assert "/proc/run" in refused(capsys, "train", *folders, "--out", "/proc/run", "--steps", 1)


def test_models_that_cannot_be_used(capsys, noisy, trained, tmp_path):
    text = tmp_path / "text.npz"
    text.write_text("hello")
    cut = tmp_path / "cut.npz"
    cut.write_bytes((trained / "best.npz").read_bytes()[:3000])
    for bad in (text, cut, tmp_path / "missing.npz", tmp_path):
        assert str(bad) in refused(capsys, "denoise", noisy, "--model", bad, "-o", tmp_path / "out.wav")
        assert str(bad) in refused(capsys, "info", "--model", bad)
    assert not (tmp_path / "out.wav").exists()


def test_a_model_trained_at_another_rate_resamples(trained, tmp_path, capsys):
    path = tmp_path / "hifi.wav"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal((4410, 2)), 44100, subtype="PCM_24")
    assert main(["denoise", str(path), "--model", str(trained), "-o", str(tmp_path / "out.wav")]) == 0
    info = soundfile.info(tmp_path / "out.wav")
    assert (info.samplerate, info.frames, info.channels, info.subtype) == (44100, 4410, 2, "PCM_24")
    assert "lost all above 4 kHz" in capsys.readouterr().err


def test_numbers_that_make_no_sense(capsys, recordings, trained, tmp_path):
    train_here = [
        "train",
        "--speech",
        recordings / "speech",
        "--noise",
        recordings / "noise",
        "--out",
        tmp_path / "r",
    ]
    assert "--minutes -1" in refused(capsys, *train_here, "--minutes", -1)
    assert "--steps 0" in refused(capsys, *train_here, "--steps", 0)
    assert "batch must be at least 1, not 0" in refused(capsys, *train_here, "--batch", 0)
    assert "no preset 'huge'" in refused(capsys, *train_here, "--preset", "huge")
    assert "snr_db 5.0 to 1.0" in refused(capsys, *train_here, "--snr-db", 5, 1, "--steps", 1)
    assert "give only --out" in refused(capsys, *train_here, "--resume")
    assert "give both folders" in refused(capsys, "train", "--out", tmp_path / "r")
    assert "give one of them" in refused(capsys, "info")
    assert "--part training" in refused(capsys, "evaluate", "--model", trained, "--part", "training")
    assert "test part: has no speech" in refused(capsys, "evaluate", "--model", trained, "--part", "test")
    assert "--mixtures 0" in refused(
        capsys, "evaluate", "--model", trained, "--speech", "x", "--noise", "x", "--mixtures", 0
    )
    assert not (tmp_path / "r").exists()


def test_a_run_of_another_model_is_not_overwritten(capsys, recordings, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    tasnet_np.save(ConvTasNet(CONFIG), out / "best.npz")
    before = everything_below(tmp_path)
    folders = ["--speech", recordings / "speech", "--noise", recordings / "noise"]
    assert "exists already" in refused(capsys, "train", *folders, "--out", out)
    assert everything_below(tmp_path) == before


def test_a_reader_that_goes_away_is_no_error():
    command = f"{sys.executable} -m tasnet_np gradcheck | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout.startswith("op ")
    assert done.stderr == ""


def test_a_command_compiles_what_it_needs_once_says_so_and_keeps_it(recordings, tmp_path):
    command = [
        sys.executable,
        "-m",
        "tasnet_np",
        "train",
        "--steps",
        "1",
        "--seconds",
        "0.2",
        "--validation-mixtures",
        "1",
    ]
    command += ["--quiet", "--speech", str(recordings / "speech"), "--noise", str(recordings / "noise")]

    def compiled(out):
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
        done = subprocess.run(
            [*command, "--out", str(tmp_path / out)], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
        lines = done.stderr.splitlines()
        assert all(line.startswith("compiling ") for line in lines), lines
        return [line.split()[1] for line in lines]

    first = compiled("first")
    assert {"expand_forward_cpu", "middle_backward_cpu", "adam_cpu"} < set(first)
    # What larger kernels call is a part of them, and not compiled by itself.
    parts = {"product_with_weight", "add_product_over_time", "first_norm_forward_cpu", "sums_backward_cpu"}
    assert not parts & set(first)
    # One is compiled twice: for weights as they are and for transposed ones.
    assert {name for name in first if first.count(name) > 1} == {"panels"}
    assert compiled("second") == []


def test_prepare_prints_writes_and_draws(recordings, tmp_path, capsys):
    folders = ["--speech", str(recordings / "speech"), "--noise", str(recordings / "noise")]
    out, picture = tmp_path / "manifest.json", tmp_path / "picture.png"
    assert main(["prepare", *folders, "--out", str(out), "--plot", str(picture), "--hold-out", "bass"]) == 0
    printed = capsys.readouterr().out
    assert "training   speech       6" in printed and "validation noise        1" in printed
    assert "left out: 0 copies, 0 silent, 0 unreadable or broken" in printed
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert {e.speaker for e in manifest.load(out).part("validation", "speech")} == {"bass"}
    run = tmp_path / "run"
    recipe = ["--seconds", "0.2", "--batch", "1", "--validation-mixtures", "1", "--steps", "1", "--quiet"]
    assert main(["train", "--manifest", str(out), "--out", str(run), *recipe]) == 0
    printed = capsys.readouterr()
    assert (printed.out, [line for line in printed.err.splitlines() if "compiling" not in line]) == ("", [])
    assert {e.speaker for e in manifest.load(run / "manifest.json").part("validation", "speech")} == {"bass"}
    assert (
        main(["evaluate", "--model", str(run), "--mixtures", "1", "--seconds", "0.3", "--json", "--quiet"])
        == 0
    )
    printed = capsys.readouterr()
    assert printed.err == "" and "speech_sdri_db" in json.loads(printed.out)[0]


def test_prepare_of_a_known_layout_and_as_json(tmp_path, capsys):
    for name in (
        "clean_train/p226_001",
        "clean_train/p227_001",
        "noise_train/a_1",
        "noise_train/b_1",
        "clean_test/p228_001",
    ):
        path = tmp_path / "corpus" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = sum(map(ord, name))
        soundfile.write(path, 0.1 * np.random.default_rng(seed).standard_normal(4000), 8000)
    out = tmp_path / "m.json"
    assert main(["prepare", str(tmp_path / "corpus"), "--out", str(out), "--json", "--headers-only"]) == 0
    printed = capsys.readouterr()
    parts = {(row["part"], row["kind"]): row["files"] for row in json.loads(printed.out)["parts"]}
    assert parts == {
        ("training", "speech"): 1, ("validation", "speech"): 1, ("test", "speech"): 1,
        ("training", "noise"): 1, ("validation", "noise"): 1,
    }  # fmt: skip
    assert "clean-noise, 5 recordings" in printed.err


def test_prepare_and_manifests_that_make_no_sense(capsys, recordings, tmp_path):
    out = tmp_path / "m.json"
    assert "give the folder of a corpus" in refused(capsys, "prepare", "--out", out)
    assert "of no known layout" in refused(capsys, "prepare", recordings, "--out", out)
    assert "no usable noise" in refused(capsys, "prepare", "--speech", recordings / "speech", "--out", out)
    assert "no usable speech" in refused(capsys, "prepare", "--noise", recordings / "noise", "--out", out)
    assert not out.exists()
    train = ["train", "--out", tmp_path / "r"]
    assert "cannot be read" in refused(capsys, *train, "--manifest", out)
    assert "the manifest decides" in refused(capsys, *train, "--manifest", out, "--share", 0.3)
    assert "or --manifest" in refused(capsys, *train, "--manifest", out, "--speech", recordings / "speech")
    assert "--cache-mb 0" in refused(capsys, *train, "--manifest", out, "--cache-mb", 0)
    assert not (tmp_path / "r").exists()


def test_options_of_train_are_those_of_the_recipe():
    """Every field is an option, and the help says the default that the field has."""
    from tasnet_np.commands.train import RECIPE

    defaults = {field.name: field.default for field in dataclasses.fields(Recipe)}
    for name, kind, text in RECIPE:
        default = defaults.pop(name.replace("-", "_"))
        assert type(default) is kind and text.endswith(f"({default})"), name
    assert defaults.keys() == {"snr_db", "hold_out"}


def test_denoise_draws_before_and_after(trained, noisy, tmp_path, capsys):
    out, picture = tmp_path / "out.wav", tmp_path / "picture.png"
    assert (
        main(
            ["denoise", str(noisy), "--model", str(trained), "-o", str(out), "--plot", str(picture), "--json"]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out) == [str(out), str(picture)]
    assert picture.read_bytes().startswith(b"\x89PNG")
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(noisy, folder / "a.wav")
    shutil.copy(noisy, folder / "b.wav")
    many = [
        "denoise",
        str(folder),
        "--model",
        str(trained),
        "-o",
        str(tmp_path / "outs"),
        "--plot",
        str(tmp_path / "pics"),
    ]
    assert main([*many, "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert sorted(path.name for path in (tmp_path / "pics").iterdir()) == ["a.png", "b.png"]
    before = everything_below(tmp_path)
    plot = ["denoise", noisy, "--model", trained, "-o", tmp_path / "new.wav", "--plot", tmp_path / "x.txt"]
    assert "not a kind of picture" in refused(capsys, *plot)
    assert everything_below(tmp_path) == before


def test_without_a_model_the_pretrained_one_is_used(trained, noisy, tmp_path, capsys, monkeypatch):
    from tasnet_np.network import checkpoint

    monkeypatch.setattr(checkpoint, "PRETRAINED", tmp_path / "none.npz")
    line = refused(capsys, "denoise", noisy, "-o", tmp_path / "out.wav")
    assert (
        line == "error: pretrained: this installation comes without a model; train one and give --model RUN"
    )
    monkeypatch.setattr(checkpoint, "PRETRAINED", trained / "best.npz")
    assert main(["denoise", str(noisy), "-o", str(tmp_path / "out.wav")]) == 0
    assert soundfile.info(tmp_path / "out.wav").frames == 4000


def test_train_from_a_model(recordings, trained, tmp_path, capsys):
    folders = ["--speech", str(recordings / "speech"), "--noise", str(recordings / "noise"), "--quiet"]
    recipe = ["--seconds", "0.2", "--batch", "1", "--validation-mixtures", "1", "--steps", "1"]
    out = tmp_path / "run"
    assert main(["train", *folders, "--from", str(trained), "--out", str(out), *recipe]) == 0
    assert tasnet_np.load(out).config == CONFIG
    words = refused(
        capsys, "train", *folders, "--from", trained, "--preset", "small", "--out", tmp_path / "r", *recipe
    )
    assert "has another architecture" in words


@pytest.fixture(scope="module")
def doubles(trained, tmp_path_factory):
    """The trained model in float64, causal; and one with gLN in both: {name: file}."""
    folder, files = tmp_path_factory.mktemp("doubles"), {}
    single = tasnet_np.load(trained)
    for name, config in (("causal", CONFIG), ("gLN", CONFIG.non_causal())):
        for dtype in (np.float32, np.float64):
            model = ConvTasNet(config, dtype=dtype)
            for key, array in model.params.items():
                array[...] = single.params[key]
            files[name, dtype] = folder / f"{name}-{model.dtype}.npz"
            tasnet_np.save(model, files[name, dtype])
    return files


@pytest.mark.parametrize("name", ["causal", "gLN"])
@pytest.mark.parametrize("more", [[], ["--path", "ops"], ["--path", "reference"], ["--segment-seconds", "1"]])
def test_denoise_with_a_float64_model(doubles, noisy, tmp_path, name, more):
    samples = []
    for dtype in (np.float32, np.float64):
        out = tmp_path / f"{np.dtype(dtype)}.wav"
        assert main(["denoise", str(noisy), "--model", str(doubles[name, dtype]), "-o", str(out), *more]) == 0
        samples.append(soundfile.read(out, dtype="int16")[0].astype(int))
    assert np.any(samples[0]) and np.abs(samples[0] - samples[1]).max() <= 1


def test_every_other_command_takes_a_float64_model(doubles, recordings, noisy, tmp_path, capsys):
    single, double = (str(doubles["causal", dtype]) for dtype in (np.float32, np.float64))
    folders = ["--speech", str(recordings / "speech"), "--noise", str(recordings / "noise")]
    size = ["--mixtures", "1", "--seconds", "0.3"]
    assert main(["info", "--model", double]) == 0
    capsys.readouterr()
    rows = []
    for model in (single, double):
        assert main(["evaluate", "--model", model, *folders, *size, "--json", "--quiet"]) == 0
        rows.append(json.loads(capsys.readouterr().out)[-1])
    assert rows[0]["speech_si_snr_db"] == pytest.approx(rows[1]["speech_si_snr_db"], abs=1e-3)
    streamed = []
    for model in (single, double):
        command = [sys.executable, "-m", "tasnet_np", "stream", "--model", model]
        done = subprocess.run(command, input=noisy.read_bytes(), capture_output=True)
        assert done.returncode == 0
        streamed.append(np.frombuffer(done.stdout[44:], "<i2").astype(int))
    assert np.any(streamed[0]) and np.abs(streamed[0] - streamed[1]).max() <= 1
    heard = soundfile.read(noisy, dtype="float32")[0]
    played = [Processor(tasnet_np.load(model), 8000)(heard) for model in (single, double)]
    assert np.any(played[0]) and np.allclose(*played, atol=1e-4)
    run = str(tmp_path / "run")
    recipe = ["--seconds", "0.2", "--batch", "1", "--validation-mixtures", "1", "--quiet"]
    assert main(["train", *folders, "--from", double, "--out", run, "--steps", "1", *recipe]) == 0
    assert main(["train", "--out", run, "--resume", "--steps", "2", "--quiet"]) == 0
    assert tasnet_np.load(run).dtype == np.float64
    assert main(["evaluate", "--model", run, *size, "--quiet"]) == 0
    assert main(["report", run, *size, "--quiet"]) == 0


def test_missing_folders_and_wrong_choices_are_not_blamed_on_others(capsys, recordings, trained, tmp_path):
    inside = recordings / "speech" / "missing"
    words = f"{inside}: does not exist"
    common = ["--speech", recordings / "speech", "--noise", inside]
    assert words in refused(capsys, "train", *common, "--out", tmp_path / "r")
    assert words in refused(capsys, "prepare", *common, "--out", tmp_path / "m.json")
    assert words in refused(capsys, "evaluate", "--model", trained, *common)
    before = everything_below(tmp_path)
    folders = ["--speech", recordings / "speech", "--noise", recordings / "noise"]
    line = refused(capsys, "train", *folders, "--from", trained, "--preset", "small", "--out", tmp_path / "r")
    assert line.startswith("error: --preset: ")
    assert everything_below(tmp_path) == before
