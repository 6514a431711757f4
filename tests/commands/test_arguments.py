"""Every option of every command with values that make no sense: one line that names the option, and nothing done."""

import argparse
import time

import numpy as np
import pytest
import soundfile

from tasnet_np.commands import main as module
from tasnet_np.commands.main import main

HUGE = "9" * 5000
NUMBERS = [
    "inf",
    "-inf",
    "nan",
    "0",
    "-1",
    "1e9",
    "1000000000",
    "1e308",
    str(10**20),
    "1e-300",
    "",
    "abc",
    HUGE,
    "1.5",
]
NAMES = ["", "a\0b", HUGE]
FITS = {  # what of that makes sense
    "--seed": {"0", "1000000000"},
    "--minutes": {"1e-300", "1.5"},
    "--seconds": {"1e-300", "1.5"},
    "--learning-rate": {"1e-300", "1.5"},
    "--warmup": {"0"},
    "--weight-decay": {"0", "1e-300", "1.5"},
    "--clip": {"1e9", "1000000000", "1e-300", "1.5"},
    "--average": {"0", "1e-300"},
    "--noise-weight": {"0", "1e-300", "1.5"},
    "--mixture-weight": {"0", "1e-300", "1.5"},
    "--gain-db": {"0", "1e-300", "1.5"},
    "--patience": {"0", "1000000000", str(10**20)},
    "--stop-after": {"0"},
    "--share": {"1e-300"},
    "--snr-db": {"0", "-1", "1e-300", "1.5"},
    "--cache-mb": {"1e9", "1000000000", "1e-300", "1.5"},
    "--segment-seconds": {"1.5"},
    "--memory-seconds": {"inf", "1e9", "1000000000", "1e308", str(10**20), HUGE, "1.5"},
    "--block-ms": {"1e-300", "1.5"},
    "live --seconds": {"inf", "1e9", "1000000000", "1e308", str(10**20), HUGE, "1e-300", "1.5"},
} | {
    f"--{name}": {"0", "1e-300"}
    for name in ("speed", "colour", "polarity", "band-limit", "room", "clipping", "noise-free", "speech-free", "pairs")
}  # fmt: skip
REQUIRED = {
    "train": ["--out", "x"], "denoise": ["x", "-o", "y"], "evaluate": ["--model", "x"],
    "compare": ["x", "--clean", "y"], "report": ["x"],
}  # fmt: skip


def options():
    """(command, action) of every option and argument that takes a value."""
    (commands,) = (a for a in module._parser()._actions if isinstance(a, argparse._SubParsersAction))
    return [
        (command, action)
        for command, parser in commands.choices.items()
        for action in parser._actions
        if action.nargs != 0
    ]


def cases():
    for command, action in options():
        name = action.option_strings[-1] if action.option_strings else None
        is_number = getattr(action.type, "__qualname__", "").startswith("number.")
        fits = FITS.get(f"{command} {name}", FITS.get(name, set()))
        for value in NUMBERS if is_number else NAMES:
            yield pytest.param(
                command, action, value, value in fits, id=f"{command} {name or action.dest} {value[:9]!r}"
            )


@pytest.mark.parametrize("command, action, value, fits", list(cases()))
def test_an_option_takes_what_makes_sense_and_names_itself_where_that_is_not(
    capsys, command, action, value, fits
):
    given = [*action.option_strings[-1:], *[value] * (action.nargs if isinstance(action.nargs, int) else 1)]
    arguments = [command, *REQUIRED.get(command, []), *given] if action.option_strings else [command, *given]
    if fits:
        parsed = getattr(module._parser().parse_args(arguments), action.dest)
        assert parsed == float(value) or parsed == [float(value)] * len(parsed)
        return
    began = time.perf_counter()
    assert main(arguments) == 2
    assert time.perf_counter() - began < 5
    (line,) = capsys.readouterr().err.splitlines()
    name = "/".join(action.option_strings) or action.metavar
    assert line.startswith(f"error: {name} ") and len(line) < 300


def test_every_option_with_a_value_says_what_it_may_be():
    assert len(options()) > 90
    assert all(action.type is not None for _, action in options())


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["info", "--preset", "huge"], "--preset huge: no preset 'huge': choose one of small, paper, origin"),
        (["train", "--out", "x", "--from", "x", "--preset", "huge"], "--preset huge: no preset 'huge': choose one of "
         "small, paper, origin"),
        (["denoise", "x.wav", "-o", "y.wav", "--path", "fast"], "--path fast: give one of reference, ops, fused"),
        (["train", "--out", "x", "--path", "fast"], "--path fast: give one of reference, ops, fused"),
        (["report", "x", "--path", "fast"], "--path fast: give one of reference, ops, fused"),
        (["evaluate", "--model", "x", "--device", "tpu"], "--device tpu: give one of cpu, cuda, auto"),
        (["stream", "--source", "music"], "--source music: give one of speech, noise"),
        (["stream", "--raw", "mp3"], "--raw mp3: give one of u8, s16le, s24le, s32le, f32le, f64le"),
        (["train", "--out", "x", "--schedule", "linear"], "--schedule linear: give one of cosine, plateau, constant"),
        (["train", "--out", "x", "--steps", "1e3"], "--steps 1e3: give a whole number"),
        (["train", "--out", "x", "--batch", "0"], "--batch 0: batch must be at least 1, not 0"),
        (["train", "--out", "x", "--snr-db", "5"], "--snr-db expected 2 arguments"),
        (["train", "--steps", "3"], "the following arguments are required: --out"),
        (["train", "--out", "x", "--stepz", "3"], "unrecognized arguments: --stepz 3"),
        (["info", "--preset"], "--preset expected one argument"),
        (["evaluate", "--model", "x", "--mixtures", "10000", "--seconds", "60"],
         "--mixtures 10000, --seconds 60: 833 hours of sound at 5 SNRs; give at most 5 hours"),
    ],
)  # fmt: skip
def test_what_a_mistake_is_told_as(capsys, arguments, line):
    assert main(arguments) == 2
    assert capsys.readouterr().err.splitlines() == [f"error: {line}"]


def test_less_than_a_sample(capsys, recordings, tmp_path):
    folders = ["--speech", str(recordings / "speech"), "--noise", str(recordings / "noise")]
    assert main(["train", *folders, "--out", str(tmp_path / "run"), "--seconds", "1e-9", "--quiet"]) == 2
    assert "--seconds 1e-09: is less than a sample at 8000 Hz; give more" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["200", "-200"])
def test_snrs_at_the_end_of_their_range_work(recordings, tmp_path, text):
    folders = ["--speech", str(recordings / "speech"), "--noise", str(recordings / "noise")]
    more = ["--steps", "1", "--seconds", "0.2", "--batch", "1", "--validation-mixtures", "1", "--quiet"]
    assert main(["train", *folders, "--out", str(tmp_path / "run"), "--snr-db", text, text, *more]) == 0


def test_files_named_by_odd_words_are_files(capsys, tmp_path, monkeypatch):
    """What is no number for an option is still the name of a file."""
    monkeypatch.chdir(tmp_path)
    for name in ("inf", "nan", "0", "1e9"):
        soundfile.write(f"{name}.wav", 0.1 * np.random.default_rng(0).standard_normal(800), 8000)
        assert main(["denoise", f"{name}.wav", "-o", name, "--quiet"]) == 0
        assert (tmp_path / name / f"{name}.wav").exists()
