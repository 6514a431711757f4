"""The classical methods do what they are named for, and the table of recipes says what was measured."""

import importlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from tasnet_np.corpus.clips import Clip, Corpus
from tasnet_np.corpus.mixing import fixed_batches
from tasnet_np.sound.metrics import si_snr
from tasnet_np.training.recipe import Recipe

BENCHMARKS = Path(__file__).parent / "benchmarks"
RATE = 8000


@pytest.fixture(scope="module")
def baselines():
    sys.path.insert(0, str(BENCHMARKS))
    return importlib.import_module("baselines")


@pytest.fixture(scope="module")
def recipe():
    sys.path.insert(0, str(BENCHMARKS))
    return importlib.import_module("recipe")


def voice_in_hiss(snr_db, level=0.0):
    """A voice that comes and goes (the higher the level, the shorter it stays), and white noise."""
    time = np.arange(3 * RATE) / RATE
    voice = sum(np.sin(2 * np.pi * 150 * k * time) / k for k in range(1, 15)) * (
        np.sin(2 * np.pi * 1.5 * time) > level
    )
    noise = np.random.default_rng(0).standard_normal(len(time))
    noise *= np.linalg.norm(voice) / np.linalg.norm(noise) / 10 ** (snr_db / 20)
    return voice, voice + noise


@pytest.mark.parametrize("n", [1000, 24000])
def test_the_transform_has_an_inverse(baselines, n):
    signal = np.random.default_rng(0).standard_normal(n)
    back = baselines.istft(baselines.stft(signal, 256, 64), n, 256, 64)
    assert back == pytest.approx(signal, abs=1e-9)


def test_the_noise_is_tracked(baselines):
    """White noise of power 1, a burst of speech in between, and then 10 dB more noise."""
    rng = np.random.default_rng(0)
    powers = rng.exponential(size=(600, 40))
    powers[200:220] *= 100
    powers[400:] *= 10
    tracked = baselines.track_noise(powers).mean(axis=1)
    assert tracked[150:200].mean() == pytest.approx(1, rel=0.35)  # known to be a little low
    assert tracked[200:220].max() < 3
    assert tracked[550:].mean() == pytest.approx(10, rel=0.35)


@pytest.mark.parametrize("name", ["Wiener filter", "log-spectral amplitude"])
def test_the_filters_improve_a_voice_in_hiss(baselines, name):
    voice, mixture = voice_in_hiss(0)
    out = baselines.METHODS[name](mixture, RATE)
    assert out.shape == mixture.shape
    assert si_snr(out, voice) - si_snr(mixture, voice) > 4


def test_spectral_gating_lowers_the_noise_in_pauses(baselines):
    if not importlib.util.find_spec("noisereduce") and not os.environ.get("TASNET_REQUIRE_PEERS"):
        pytest.skip("noisereduce is not installed: pip install '.[peers]'")
    voice, mixture = voice_in_hiss(5, level=0.95)
    out = baselines.METHODS["spectral gating"](mixture, RATE)
    pause = voice == 0
    assert out.shape == mixture.shape
    assert np.mean(out[pause] ** 2) < 0.5 * np.mean(mixture[pause] ** 2)
    left = [np.mean(out[where] ** 2) / np.mean(mixture[where] ** 2) for where in (pause, ~pause)]
    assert left[1] > 2 * left[0]


def test_improvements_are_by_mixture(baselines):
    rng = np.random.default_rng(0)
    clips = [Clip(str(i), rng.standard_normal(RATE).astype(np.float32)) for i in range(2)]
    batches = fixed_batches(
        Corpus({"a": clips[:1]}, clips[1:]), samples=4000, rate=RATE, snrs_db=(0, 5), per_snr=2
    )
    inputs = {"half": lambda x, rate: 0.5 * x}
    scores = baselines.improvements(batches, RATE, inputs)
    assert list(scores) == ["half"]
    assert scores["half"] == pytest.approx(np.zeros(4), abs=1e-6)


def test_every_recipe_can_be_built_and_differs_from_the_default(recipe):
    built = {name: recipe.settings(name, "default", 0, ["x"]) for name in recipe.RECIPES}
    assert built["default"][1] == Recipe(hold_out=["x"])
    for name, (config, made) in built.items():
        assert name == "default" or (config, made) != built["default"], name
    on_plain = recipe.settings("speed 20 %", "plain", 3, [])[1]
    assert (on_plain.speed, on_plain.schedule, on_plain.seed) == (0.2, "constant", 3)


def test_the_table_of_recipes(recipe):
    """Sorted by the gain on the base with the same seeds, though a hard seed may lower the mean."""

    def row(name, seed, db, classical=None):
        scores = {**{str(s): db + s for s in (-5, 0, 5, 10)}, "all": db}
        return {"recipe": name, "seed": seed, "steps": 10, "scores": scores, "classical": classical}

    zeros = {"unprocessed": dict.fromkeys(["-5", "0", "5", "10", "all"], 0.0)}
    runs = [
        row("default", 0, 5.0, zeros),
        row("default", 1, 7.0, zeros),
        row("plain", 0, 4.0),
        row("plain", 1, 6.5),
    ]
    lines = recipe.markdown([*runs, row("wide", 0, 5.5)], "default").splitlines()
    assert lines[2] == "| wide | 1 | 0.50 | 5.50 | 10.50 | 15.50 | **5.50** | - | +0.50 | 10 |"
    assert lines[3] == "| default | 2 | 1.00 | 6.00 | 11.00 | 16.00 | **6.00** | 1.41 | +0.00 | 10 |"
    assert lines[4] == "| plain | 2 | 0.25 | 5.25 | 10.25 | 15.25 | **5.25** | 1.77 | -0.75 | 10 |"
    assert lines[5] == "| unprocessed | 2 | 0.00 | 0.00 | 0.00 | 0.00 | **0.00** | - | - | - |"


def test_a_short_series(recipe, recordings, tmp_path, monkeypatch, capsys):
    """Three recipes of a few steps, each with another speaker held out; a second call finds all done."""
    from tasnet_np.network.config import Config

    small = Config(filters=16, filter_length=8, bottleneck=8, hidden=12, skip=8, blocks=2, repeats=1)
    monkeypatch.setattr(Config, "preset", classmethod(lambda cls, name: small))
    monkeypatch.setattr(recipe, "METHODS", {"half": lambda x, rate: 0.5 * x})
    changes = {
        "default": {"seconds": 0.2},
        "wide": {"model": {"filters": 20}},
        "slow": {"learning_rate": 1e-4},
    }
    monkeypatch.setattr(recipe, "RECIPES", changes)
    folders = [
        "--speech",
        str(recordings / "speech"),
        "--noise",
        str(recordings / "noise"),
        "--out",
        str(tmp_path),
    ]
    arguments = [*folders, "--minutes", "0.005", "--mixtures", "2", "--seeds", "0", "1"]
    with pytest.raises(SystemExit):
        recipe.main(arguments)
    assert "run with --pace first" in capsys.readouterr().err
    recipe.main([*folders, "--pace"])
    paces = json.loads((tmp_path / "pace.json").read_text())["results"]
    assert list(paces) == ["default", "wide"] and all(0 < seconds < 1 for seconds in paces.values())
    (tmp_path / "pace.json").write_text(json.dumps({"results": {"default": 0.09, "wide": 0.14}}))
    recipe.main(arguments)
    printed = capsys.readouterr().out
    assert "| default | 2 |" in printed and "| wide | 2 |" in printed and "| half | 2 |" in printed
    results = {path: json.loads(path.read_text())["results"] for path in tmp_path.glob("*/result.json")}
    steps = {(row["recipe"], row["seed"]): row["steps"] for row in results.values()}
    assert steps == {
        ("default", 0): 3,
        ("default", 1): 3,
        ("slow", 0): 3,
        ("slow", 1): 3,
        ("wide", 0): 2,
        ("wide", 1): 2,
    }
    assert {row["speaker"] for row in results.values()} == set(
        sorted(p.name for p in (recordings / "speech").iterdir())[:2]
    )
    before = {path: path.stat().st_mtime_ns for path in results}
    recipe.main(arguments)
    assert {path: path.stat().st_mtime_ns for path in results} == before
