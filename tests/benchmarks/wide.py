"""Trains the wideband model, with its whole recipe in one command. A run that was stopped goes on.

    python tests/benchmarks/wide.py OUT [--steps 15000] [--minutes 120] [--threads 1] [--all-licences]

OUT/manifest.json names the recordings (free_data.py), OUT/start.npz is the model that training begins with, and OUT/run
is the run.

Training begins with filters that take a recording apart and put it together again. With random filters, the first
thousand steps went into finding such filters. The encoder's N = 2 L filters are cosines and sines of L / 2 frequencies
under a sine window, and the same with the other sign. The encoder ends with a ReLU, so that of two opposite filters one
gives 0. The four outputs of a frequency say how loud it is, whatever its phase. The decoder has the same filters.
Together they give the recording back, because

    relu(a) - relu(-a) = a
    2/L * sum over the frequencies of  cos cos + sin sin  is 1 for a sample with itself, and 0 for two of a window
    sin^2 + cos^2 = 1 for the windows, which overlap by half
"""

import tasnet_np  # isort: skip  # noqa: F401  before NumPy, whose matrix products it chooses

import argparse
from pathlib import Path

import numpy as np
from free_data import FREE, recordings

from tasnet_np.compute.cpu import set_threads
from tasnet_np.corpus import manifest
from tasnet_np.network import checkpoint
from tasnet_np.network.config import Config
from tasnet_np.network.execution import ConvTasNet
from tasnet_np.training.recipe import Recipe
from tasnet_np.training.train import resume, train

RECIPE = Recipe(
    batch=4, seconds=2.0, snr_db=(-5.0, 25.0), learning_rate=1.5e-3, warmup=200, average=0.999,
    noise_weight=0.25, ceiling_db=20.0, stft_weight=0.5, noises=3, babble=0.1, synthetic=0.25, gain_db=12.0,
    speed=0.3, colour=0.4, equaliser=0.5, band_limit=0.1, room=0.2, clipping=0.02, noise_free=0.06,
    speech_free=0.03, validate_every=250, validation_mixtures=12,
)  # fmt: skip


def filters(length):
    """(2 L, L): cosines and sines of L / 2 frequencies under a sine window, then the same with the other sign."""
    time = np.arange(length) + 0.5
    phases = 2 * np.pi / length * np.outer(np.arange(length // 2) + 0.5, time)
    waves = np.sin(np.pi / length * time) * np.concatenate([np.cos(phases), np.sin(phases)])
    return np.sqrt(2 / length) * np.concatenate([waves, -waves])


def first_model(config, seed=0):
    """A model whose encoder and decoder have these filters. Its other weights are random."""
    model = ConvTasNet(config, seed=seed)
    for part in ("encoder", "decoder"):
        model.params[f"{part}.w"][...] = filters(config.filter_length)
    return model


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--free", type=Path, default=FREE, help="folder with speech, noise and SOURCES.tsv")
    parser.add_argument("--all-licences", action="store_true")
    parser.add_argument("--steps", type=int, default=15000)
    parser.add_argument("--minutes", type=float, help="stop by then, whatever the steps")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    set_threads(options.threads)
    run = options.out / "run"
    goal = {"steps": options.steps, "minutes": options.minutes}
    if (run / "config.json").exists():
        resume(run, **goal)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    manifest.save(recordings(options.free, options.all_licences), options.out / "manifest.json")
    checkpoint.save(first_model(Config.preset("wide")), options.out / "start.npz")
    train(
        None,
        None,
        run,
        None,
        RECIPE,
        prepared=options.out / "manifest.json",
        start=options.out / "start.npz",
        **goal,
    )


if __name__ == "__main__":
    main()
