"""Fixtures that several test files use."""

import tasnet_np  # isort: skip  # noqa: F401  before NumPy, as on the command line: so both have the same bits (see tasnet_np/blas.py)

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

RATE = 8000
BOOK = Path(__file__).parents[1] / "tutorials" / "book.py"


def _write(path, samples, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype="FLOAT")


@pytest.fixture(scope="session")
def recordings(tmp_path_factory):
    """Folders `speech` (three speakers, hummed vowels) and `noise` (five noises), one second each."""
    folder = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng(0)
    time = np.arange(RATE) / RATE
    for speaker, pitch in (("alto", 220), ("bass", 90), ("tenor", 140)):
        for clip in range(3):
            glide = pitch * (1 + 0.1 * np.sin(2 * np.pi * (1 + clip) * time))
            phase = 2 * np.pi * np.cumsum(glide) / RATE
            voice = sum(np.sin(k * phase) / k for k in range(1, 9)) * np.hanning(RATE)
            _write(folder / "speech" / speaker / f"{clip}.wav", 0.1 * voice)
    for noise in range(5):
        hiss = rng.standard_normal(RATE)
        _write(folder / "noise" / f"{noise}.wav", 0.1 * np.convolve(hiss, rng.standard_normal(5), "same"))
    return folder


@pytest.fixture(scope="session")
def book(tmp_path_factory):
    """The folder of the book: every tutorial and every solution, run once. TASNET_BOOK names one just made."""
    if made := os.environ.get("TASNET_BOOK"):
        assert (Path(made) / "runs.json").exists(), f"TASNET_BOOK: no book in {made}; run make tutorials"
        return Path(made)
    if os.environ.get("TASNET_REQUIRE_PEERS") != "1":
        for package in ("jupytext", "nbclient", "math_core"):
            pytest.importorskip(package, reason=f"{package} is missing: pip install '.[tutorials]'")
    folder = tmp_path_factory.mktemp("tutorials") / "book"
    arguments = [sys.executable, str(BOOK), "--out", str(folder), "--jobs", "2"]
    result = subprocess.run(arguments, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def pytest_addoption(parser):
    parser.addoption("--fuzz", type=int, metavar="N", default=1000, help="mutated inputs to try (1000)")


@pytest.fixture
def fuzz_cases(request):
    """How many mutated inputs to try."""
    return request.config.getoption("--fuzz")
