"""Makes the model that comes with the package, and the scores of its card.

    python tests/benchmarks/pretrained.py OUT/held-out --hold-out george     # how good the recipe is on unheard voices
    python tests/benchmarks/pretrained.py OUT/free --hold-out george --free-noises
    python tests/benchmarks/pretrained.py OUT/shipped                        # the model itself

Real recordings (../shared/data/real) together with the voices and noises of data/. A speaker held out is heard nowhere
in training, nor are a fifth of the real noises; the model that is shipped hears all but one of the made-up voices
and four real noises, by which its best weights are chosen. A run that was stopped goes on.
"""

import tasnet_np  # isort: skip  # noqa: F401  before NumPy, whose matrix products it chooses

import argparse
import dataclasses
import re
from pathlib import Path

import numpy as np
from baselines import improvements
from recipe import REAL, by_snr, judge, train_or_resume

from tasnet_np.corpus import layouts, manifest
from tasnet_np.network.config import Config
from tasnet_np.training.recipe import Recipe

DATA = Path(__file__).parents[2] / "data"
CHOSEN_BY = "dutch"  # a voice of data/
STEPS = 10000
CONFIG = Config.preset("small")
RECIPE = Recipe()
KINDS = {  # the last number of each kind of noise in G. Hu's collection
    "crowd": 17, "machine": 29, "alarm": 43, "traffic": 46, "animal": 55, "water": 69, "wind": 78, "bell": 82,
    "cough, steps, keys, others": 100,
}  # fmt: skip


def recordings(hold_out, free_noises):
    """The manifest: what is held out is always real, so that the scores of different runs can be compared."""
    share = 0.2 if hold_out else 0.05
    found, problems = layouts.folders(REAL / "speech", REAL / "noise")
    real = manifest.make_manifest(
        found, problems, share=share, hold_out=hold_out or sorted_speakers(found)[:1]
    )
    found, _ = layouts.folders(DATA / "speech", DATA / "noise")
    folders, entries, _ = manifest.inspect(found)
    made_up = [dataclasses.replace(e, folder=e.folder + len(real.folders), part="training") for e in entries]
    if not hold_out:
        real.entries = [
            dataclasses.replace(e, part="training") if e.kind == "speech" else e for e in real.entries
        ]
        made_up = [
            dataclasses.replace(e, part="validation") if e.speaker == CHOSEN_BY else e for e in made_up
        ]
    if free_noises:
        real.entries = [e for e in real.entries if e.kind != "noise" or e.part == "validation"]
    return dataclasses.replace(real, folders=real.folders + folders, entries=real.entries + made_up)


def sorted_speakers(found):
    return sorted({one.speaker for one in found if one.kind == "speech"})


def kind_of(name):
    """Crowd, machine, ... for a mixture with a noise of G. Hu's collection."""
    number = int(re.search(r"n(\d+)", name.split(" + ")[1]).group(1))
    return next(kind for kind, last in KINDS.items() if number <= last)


def scores(run, per_snr):
    """Lines of the card's tables."""
    batches, snrs_db, gains = judge(run, per_snr)
    columns = {"this model": gains, **improvements(batches, CONFIG.sample_rate)}
    means = [by_snr(values, snrs_db) for values in columns.values()]
    kinds = np.array([kind_of(name) for batch in batches for name in batch.names])
    yield "| input SNR | " + " | ".join(columns) + " |"
    yield "|---" * (1 + len(columns)) + "|"
    for snr in means[0]:
        yield f"| {snr} | " + " | ".join(f"{mean[snr]:.1f}" for mean in means) + " |"
    for kind in [kind for kind in KINDS if kind in kinds]:
        chosen = kinds == kind
        yield (
            f"| {kind} ({chosen.sum()}) | "
            + " | ".join(f"{values[chosen].mean():.1f}" for values in columns.values())
            + " |"
        )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--hold-out", nargs="+", default=[], help="real speakers")
    parser.add_argument("--free-noises", action="store_true", help="train with the noises of data/ alone")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--mixtures", type=int, default=50, help="for each SNR")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    prepared = options.out.with_suffix(".manifest.json")
    if not prepared.exists():
        manifest.save(recordings(options.hold_out, options.free_noises), prepared)
    train_or_resume(None, None, options.out, CONFIG, RECIPE, steps=options.steps, prepared=prepared)
    if options.hold_out:
        print("\n".join(scores(options.out, options.mixtures)))
    else:
        print(options.out / "best.npz")


if __name__ == "__main__":
    main()
