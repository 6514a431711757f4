"""Which part of a recipe brings how much: named recipes, each trained for some minutes with some seeds.

    python tests/benchmarks/recipe.py --out DIR [--minutes 10] [--seeds 0 1 2] [--only NAME ...] [--base NAME]

Every run holds out the same speakers, and noises by its seed; it is scored on 3 s mixtures of those at -5, 0, 5 and
10 dB, beside the classical methods of baselines.py on the very same mixtures. Results are kept in
DIR/results.json after every run, so that a stopped series goes on where it was. Prints the table in Markdown.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path

import numpy as np
from baselines import METHODS, improvements
from side_by_side import machine

import tasnet_np
from tasnet_np.evaluate import score
from tasnet_np.model import Config
from tasnet_np.report import held_out_mixtures, read_log
from tasnet_np.train import Recipe, resume, train

REAL = Path(__file__).parents[3] / "shared" / "data" / "real"
SNRS_DB = (-5, 0, 5, 10)

# The recipe that PyTorch was measured with, and changes of one thing in the default recipe. `model` changes the config.
PLAIN = {"schedule": "constant", "warmup": 0, "average": 0.0, "snr_db": (-5.0, 10.0)}
RECIPES = {
    "default": {},
    "plain": PLAIN,
    "constant rate": {"schedule": "constant"},
    "plateau": {"schedule": "plateau"},
    "no warm-up": {"warmup": 0},
    "warm-up 200": {"warmup": 200},
    "no average": {"average": 0.0},
    "average 0.999": {"average": 0.999},
    "rate 5e-4": {"learning_rate": 5e-4},
    "rate 2e-3": {"learning_rate": 2e-3},
    "rate 4e-3": {"learning_rate": 4e-3},
    "clip 1": {"clip": 1.0},
    "clip 20": {"clip": 20.0},
    "batch 2": {"batch": 2},
    "batch 8": {"batch": 8},
    "batch 8 x 1 s": {"batch": 8, "seconds": 1.0},
    "batch 4 x 1 s": {"seconds": 1.0},
    "batch 2 x 4 s": {"batch": 2, "seconds": 4.0},
    "SNR -5 to 10": {"snr_db": (-5.0, 10.0)},
    "SNR -10 to 15": {"snr_db": (-10.0, 15.0)},
    "noise weight 0": {"noise_weight": 0.0},
    "noise weight 0.3": {"noise_weight": 0.3},
    "mixture weight 0.3": {"mixture_weight": 0.3},
    "two noises": {"noises": 2},
    "gain 6 dB": {"gain_db": 6.0},
    "speed 10 %": {"speed": 0.1},
    "speed 20 %": {"speed": 0.2},
    "rooms": {"room": 0.3},
    "band limit": {"band_limit": 0.2},
    "weight decay": {"weight_decay": 1e-4},
    "channel norm": {"model": {"norm": "channel"}},
    "gLN, not causal": {"model": {"norm": "gLN", "causal": False}},
    "cLN, not causal": {"model": {"causal": False}},
    "filters of 32": {"model": {"filter_length": 32}},
    "filters of 40": {"model": {"filter_length": 40}},
    "filters of 20": {"model": {"filter_length": 20}},
    "256 filters": {"model": {"filters": 256}},
    "dilations to 64": {"model": {"blocks": 7}},
    "dilations to 128": {"model": {"blocks": 8}},
    "3 repeats": {"model": {"repeats": 3}},
    "ReLU masks": {"model": {"mask_activation": "relu"}},
    "ReLU encoder": {"model": {"encoder_activation": "relu"}},
    "two decoders": {"model": {"decoders": "separate"}},
    "hidden 192": {"model": {"hidden": 192}},
}


def settings(name, base, seed, hold_out):
    """The Config and Recipe of a name: its changes on top of those of `base`."""
    changes = {**RECIPES[base], **RECIPES[name]}
    model = {**RECIPES[base].get("model", {}), **RECIPES[name].get("model", {})}
    changes.pop("model", None)
    recipe = Recipe(**changes, seed=seed, hold_out=hold_out)
    return dataclasses.replace(Config.preset("small"), **model), recipe


def by_snr(values, snrs_db):
    """Means at every SNR, and over all."""
    return {**{str(snr): float(values[snrs_db == snr].mean()) for snr in SNRS_DB}, "all": float(values.mean())}


def run(name, seed, options):
    """Train one recipe with one seed; scores, steps and seconds."""
    out = options.out / f"{name.replace(' ', '_').replace(',', '')}-{seed}"
    config, recipe = settings(name, options.base, seed, options.hold_out)
    started = time.monotonic()
    if (out / "config.json").exists():  # the series was stopped in this run
        resume(out, quiet=True)
    else:
        train(options.speech, options.noise, out, config, recipe, minutes=options.minutes, quiet=True)
    seconds = time.monotonic() - started
    batches = held_out_mixtures(out, per_snr=options.mixtures)
    model = tasnet_np.load(out)
    gains = np.concatenate([score(model, batch)["si_snri"][:, 0] for batch in batches])
    snrs_db = np.concatenate([batch.snr_db for batch in batches])
    log = read_log(out)
    return {
        "recipe": name, "seed": seed, "seconds": seconds, "parameters": config.parameter_count,
        "steps": max(record["step"] for record in log), "scores": by_snr(gains, snrs_db),
        "best_validation_db": max(r["validation"]["speech_si_snri_db"] for r in log if "validation" in r),
    }, batches  # fmt: skip


def classical(batches, rate):
    """Scores of the classical methods on the same mixtures."""
    snrs_db = np.concatenate([batch.snr_db for batch in batches])
    return {name: by_snr(values, snrs_db) for name, values in improvements(batches, rate, METHODS).items()}


def markdown(results, base):
    """The table: mean over seeds, spread, gain on the base recipe, by input SNR."""
    head = ["recipe", "seeds", *(f"{snr} dB" for snr in SNRS_DB), "mean", "± (seeds)", f"against {base}", "steps"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    groups = {}
    for row in results["runs"]:
        groups.setdefault(row["recipe"], []).append(row)
    means = {name: np.mean([row["scores"]["all"] for row in rows]) for name, rows in groups.items()}
    for name, rows in sorted(groups.items(), key=lambda item: -means[item[0]]):
        scores = [np.mean([row["scores"][str(snr)] for row in rows]) for snr in SNRS_DB]
        spread = np.std([row["scores"]["all"] for row in rows], ddof=1) if len(rows) > 1 else np.nan
        paired = [  # the same seed holds out the same noises
            row["scores"]["all"] - other["scores"]["all"]
            for row in rows for other in groups.get(base, []) if row["seed"] == other["seed"]
        ]  # fmt: skip
        cells = [*(f"{value:.2f}" for value in scores), f"**{means[name]:.2f}**"]
        cells += ["-" if np.isnan(spread) else f"{spread:.2f}", f"{np.mean(paired):+.2f}" if paired else "-"]
        lines.append(f"| {name} | {len(rows)} | " + " | ".join(cells) + f" | {np.mean([r['steps'] for r in rows]):.0f} |")
    for name in next(iter(results["classical"].values()), {}):
        scored = [scores[name] for scores in results["classical"].values()]
        values = [np.mean([scores[str(snr)] for scores in scored]) for snr in SNRS_DB]
        mean = np.mean([scores["all"] for scores in scored])
        lines.append(f"| {name} | {len(scored)} | " + " | ".join(f"{v:.2f}" for v in values) + f" | **{mean:.2f}** | - | - | - |")
    return "\n".join(lines)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", type=Path, default=REAL / "speech")
    parser.add_argument("--noise", type=Path, default=REAL / "noise")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10.0, help="for each run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", default=list(RECIPES), help=", ".join(RECIPES))
    parser.add_argument("--base", default="default", help="the recipe that the others change")
    parser.add_argument("--hold-out", nargs="+", default=["nicolas"], help="speakers to judge on")
    parser.add_argument("--mixtures", type=int, default=25, help="for each SNR")
    options = parser.parse_args(arguments)
    unknown = {*options.only, options.base} - RECIPES.keys()
    if unknown:
        parser.error(f"no recipe {', '.join(sorted(unknown))}: choose from {', '.join(RECIPES)}")
    path = options.out / "results.json"
    options.out.mkdir(parents=True, exist_ok=True)
    results = {"machine": machine(), "minutes": options.minutes, "base": options.base, "runs": [], "classical": {}}
    if path.exists():
        results = json.loads(path.read_text())
        if (results["minutes"], results["base"]) != (options.minutes, options.base):
            parser.error(f"{path}: is of {results['minutes']} minutes on {results['base']}; choose another --out")
    done = {(row["recipe"], row["seed"]) for row in results["runs"]}
    for seed in options.seeds:
        for name in options.only:
            if (name, seed) in done:
                continue
            print(f"{name}, seed {seed}", flush=True)
            row, batches = run(name, seed, options)
            results["runs"].append(row)
            if str(seed) not in results["classical"]:
                results["classical"][str(seed)] = classical(batches, Config.preset("small").sample_rate)
            path.write_text(json.dumps(results, indent=1))
            print(f"  {row['scores']['all']:+.2f} dB in {row['steps']} steps, {row['seconds']:.0f} s", flush=True)
    print(markdown(results, options.base))


if __name__ == "__main__":
    main()
