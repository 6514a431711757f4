"""The model that comes with the package: small, complete, and good on a voice and on noises it never heard."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import tasnet_np
from tasnet_np.commands.main import main
from tasnet_np.network.checkpoint import PRETRAINED
from tasnet_np.network.config import Config
from tasnet_np.sound import audio_files, resampling
from tasnet_np.sound.metrics import si_snr

NOISY = Path(__file__).parents[2] / "data" / "noisy"


def test_it_is_the_small_preset_and_small():
    assert PRETRAINED.stat().st_size < 2_000_000
    model = tasnet_np.load("pretrained")
    assert model.config == Config.preset("small") and model.dtype == np.float32
    assert all(np.isfinite(array).all() for array in model.named_parameters().values())


@pytest.mark.parametrize("clip", ["mono-8k", "stereo-44k"])
def test_denoise_works_right_after_installation(clip, tmp_path, capsys):
    """The clips' voice and noises are in none of the recordings it was trained with."""
    assert (
        main(["denoise", str(NOISY / f"noisy-{clip}.wav"), "-o", str(tmp_path / "out.wav"), "--quiet"]) == 0
    )
    clean, noisy, out = (
        audio_files.read(p)
        for p in (NOISY / f"clean-{clip}.wav", NOISY / f"noisy-{clip}.wav", tmp_path / "out.wav")
    )
    assert out.samples.shape == noisy.samples.shape and out.rate == noisy.rate
    narrow = [
        resampling.resample(r.samples.mean(axis=0), r.rate, 8000) for r in (clean, noisy, out)
    ]  # what an 8 kHz model can do
    gain = si_snr(narrow[2], narrow[0]) - si_snr(narrow[1], narrow[0])
    assert gain > 3


def test_it_does_not_matter_which_way_up_a_recording_is():
    clean, noisy = (audio_files.read(NOISY / f"{kind}-mono-8k.wav").samples for kind in ("clean", "noisy"))
    model = tasnet_np.load("pretrained")
    heard = [sign * model.forward(np.float32(sign) * noisy, keep=False)[0, 0] for sign in (1, -1)]
    scores = [si_snr(one, clean[0]) for one in heard]
    assert scores[0] == pytest.approx(scores[1], abs=0.5)


def test_fine_tuning_begins_with_it(recordings, tmp_path):
    folders = ["--speech", str(recordings / "speech"), "--noise", str(recordings / "noise"), "--quiet"]
    recipe = [
        "--seconds",
        "0.5",
        "--validation-mixtures",
        "2",
        "--steps",
        "1",
        "--learning-rate",
        "1e-9",
        "--average",
        "0",
    ]
    runs = [tmp_path / name for name in ("tuned", "fresh")]
    assert main(["train", *folders, *recipe, "--from", "pretrained", "--out", str(runs[0])]) == 0
    assert main(["train", *folders, *recipe, "--out", str(runs[1])]) == 0
    tuned, fresh = (json.loads((run / "log.jsonl").read_text().splitlines()[0])["loss"] for run in runs)
    assert tuned < fresh - 5
    weights, start = (tasnet_np.load(model).named_parameters() for model in (runs[0], "pretrained"))
    assert all(weights[name] == pytest.approx(start[name], abs=1e-6) for name in start)


def test_the_card_says_what_there_is_to_know():
    card = PRETRAINED.with_name("README.md").read_text()
    for word in ("CC BY-SA 4.0", "research and study", "## Scores", "## What it cannot do", "pretrained.py"):
        assert word in card, word
    stated = int(re.search(r"([\d,]+) bytes", card).group(1).replace(",", ""))
    assert stated == PRETRAINED.stat().st_size
