"""Which part of a recipe brings how much: named recipes, each trained for some minutes with some seeds.

    python tests/benchmarks/recipe.py --out DIR [--minutes 10] [--seeds 0 1 2] [--only NAME ...] [--base NAME]

A run with seed s holds out the s-th speaker, and noises drawn by s; it is scored on 3 s mixtures of those at -5, 0, 5
and 10 dB, beside the classical methods of baselines.py on the very same mixtures.

The minutes are those of a quiet machine: `--pace` measures, while nothing else runs, how many steps of each recipe
fit into them (DIR/pace.json). The runs then go by steps, so that they may share the machine or be stopped, and every
run's result is kept (DIR/NAME-SEED/result.json). Two series into one DIR may run side by side, one on each core:

    python tests/benchmarks/recipe.py --out DIR --pace
    taskset -c 0 python tests/benchmarks/recipe.py --out DIR --seeds 0 &
    taskset -c 1 python tests/benchmarks/recipe.py --out DIR --seeds 1

Prints the table of all results so far in Markdown.
"""

import tasnet_np  # isort: skip

import argparse
import dataclasses
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np
from baselines import METHODS, improvements
from side_by_side import write_json

from tasnet_np.network.config import Config
from tasnet_np.reports.report import held_out_mixtures
from tasnet_np.training.evaluation import score
from tasnet_np.training.recipe import Recipe
from tasnet_np.training.run_folder import RunFolder
from tasnet_np.training.run_log import read_log
from tasnet_np.training.train import resume, train

REAL = Path(__file__).parents[3] / "shared" / "data" / "real"
SNRS_DB = (-5, 0, 5, 10)
PACE_STEPS = 60
# What a recipe can change at no cost of time.
FREE = {
    "learning_rate",
    "schedule",
    "warmup",
    "clip",
    "weight_decay",
    "average",
    "snr_db",
    "noise_weight",
    "gain_db",
    "colour",
    "polarity",
}

# The recipe that PyTorch was measured with, and changes of one thing in the default recipe. `model` changes the config.
PLAIN = {
    "seconds": 2.0, "schedule": "constant", "learning_rate": 1e-3, "warmup": 0, "average": 0.0, "speed": 0.0,
    "colour": 0.0, "polarity": 0.0, "snr_db": (-5.0, 10.0),
}  # fmt: skip
RECIPES = {
    "default": {},
    "plain": PLAIN,
    "no colour": {"colour": 0.0},
    "no polarity": {"polarity": 0.0},
    "colour 0.2": {"colour": 0.2},
    "colour 0.45": {"colour": 0.45},
    "no speed": {"speed": 0.0},
    "speed 10 %": {"speed": 0.1},
    "speed 20 %": {"speed": 0.2},
    "speed 40 %": {"speed": 0.4},
    "no speed, no colour": {"speed": 0.0, "colour": 0.0},
    "rate 1e-3, no speed, no colour": {"learning_rate": 1e-3, "speed": 0.0, "colour": 0.0},
    "constant rate": {"schedule": "constant"},
    "plateau": {"schedule": "plateau"},
    "no warm-up": {"warmup": 0},
    "warm-up 200": {"warmup": 200},
    "no average": {"average": 0.0},
    "average 0.999": {"average": 0.999},
    "rate 5e-4": {"learning_rate": 5e-4},
    "rate 1e-3": {"learning_rate": 1e-3},
    "rate 4e-3": {"learning_rate": 4e-3},
    "clip 1": {"clip": 1.0},
    "clip 20": {"clip": 20.0},
    "batch 2 x 1 s": {"batch": 2},
    "batch 8 x 1 s": {"batch": 8},
    "batch 8 x 0.5 s": {"batch": 8, "seconds": 0.5},
    "batch 4 x 2 s": {"seconds": 2.0},
    "batch 2 x 2 s": {"batch": 2, "seconds": 2.0},
    "batch 2 x 4 s": {"batch": 2, "seconds": 4.0},
    "SNR -5 to 10": {"snr_db": (-5.0, 10.0)},
    "SNR -10 to 15": {"snr_db": (-10.0, 15.0)},
    "noise weight 0": {"noise_weight": 0.0},
    "noise weight 0.3": {"noise_weight": 0.3},
    "mixture weight 0.3": {"mixture_weight": 0.3},
    "two noises": {"noises": 2},
    "gain 6 dB": {"gain_db": 6.0},
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
    return {
        **{str(snr): float(values[snrs_db == snr].mean()) for snr in SNRS_DB},
        "all": float(values.mean()),
    }


def folder(name, seed, options):
    return options.out / f"{name.replace(' ', '_').replace(',', '')}-{seed}"


def held_out_speaker(seed, options):
    speakers = sorted(path.name for path in options.speech.iterdir() if path.is_dir())
    return speakers[seed % len(speakers)]


def measure_pace(name, options):
    """Seconds of one step of a recipe, with its share of a validation: medians over a short run."""
    config, recipe = settings(name, options.base, 0, [held_out_speaker(0, options)])
    often = dataclasses.replace(recipe, validate_every=PACE_STEPS // 3)
    with tempfile.TemporaryDirectory() as out:
        train(options.speech, options.noise, out, config, often, steps=PACE_STEPS, quiet=True)
        log = [record for record in read_log(RunFolder(out).log_file) if "loss" in record]
    took = {after["step"]: after["seconds"] - before["seconds"] for before, after in zip(log, log[1:])}
    with_validation = [seconds for step, seconds in took.items() if step % often.validate_every == 1]
    step = statistics.median(seconds for step, seconds in took.items() if step % often.validate_every != 1)
    return step + (statistics.median(with_validation) - step) / recipe.validate_every


def steps_for(name, options):
    """Steps that fit into the minutes, by the measured pace; as of the base, where a recipe costs the same."""
    pace = json.loads((options.out / "pace.json").read_text())["results"]
    return int(60 * options.minutes / pace.get(name, pace[options.base]))


def train_or_resume(speech, noise, out, config, recipe, **settings):
    """Train to the end, from where a stopped run was; Ctrl-C ends the program."""
    if (out / "config.json").exists():
        finished = resume(out, quiet=True)
    else:
        finished = train(speech, noise, out, config, recipe, quiet=True, **settings)
    if not finished:
        raise SystemExit(130)


def judge(run, per_snr):
    """The held-out mixtures of a run as batches, and of each mixture the input SNR and the speech's SI-SNRi in dB."""
    batches, model = held_out_mixtures(run, per_snr=per_snr), tasnet_np.load(run)
    gains = [score(model, batch)["si_snri"][:, 0] for batch in batches]
    return batches, np.concatenate([batch.snr_db for batch in batches]), np.concatenate(gains)


def run(name, seed, options):
    """Train one recipe with one seed; scores, steps and seconds."""
    out = folder(name, seed, options)
    config, recipe = settings(name, options.base, seed, [held_out_speaker(seed, options)])
    train_or_resume(options.speech, options.noise, out, config, recipe, steps=steps_for(name, options))
    batches, snrs_db, gains = judge(out, options.mixtures)
    log = read_log(RunFolder(out).log_file)
    return {
        "recipe": name, "seed": seed, "minutes": options.minutes, "base": options.base, "speaker": recipe.hold_out[0],
        "parameters": config.parameter_count, "steps": max(record["step"] for record in log),
        "seconds": max(record.get("seconds", 0) for record in log), "scores": by_snr(gains, snrs_db),
        "best_validation_db": max(r["validation"]["speech_si_snri_db"] for r in log if "validation" in r),
        "classical": classical(batches, config.sample_rate) if name == options.base else None,
    }  # fmt: skip


def classical(batches, rate):
    """Scores of the classical methods on the same mixtures."""
    snrs_db = np.concatenate([batch.snr_db for batch in batches])
    return {name: by_snr(values, snrs_db) for name, values in improvements(batches, rate, METHODS).items()}


def markdown(runs, base):
    """The table: mean over seeds, spread, gain on the base recipe, by input SNR."""
    head = [
        "recipe",
        "seeds",
        *(f"{snr} dB" for snr in SNRS_DB),
        "mean",
        "± (seeds)",
        f"against {base}",
        "steps",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    groups = {}
    for row in runs:
        groups.setdefault(row["recipe"], []).append(row)
    means = {name: np.mean([row["scores"]["all"] for row in rows]) for name, rows in groups.items()}
    paired = {  # the same seed holds out the same speaker and noises
        name: [
            row["scores"]["all"] - other["scores"]["all"]
            for row in rows for other in groups.get(base, []) if row["seed"] == other["seed"]
        ]
        for name, rows in groups.items()
    }  # fmt: skip
    for name, rows in sorted(groups.items(), key=lambda item: -np.mean(paired[item[0]] or means[item[0]])):
        scores = [np.mean([row["scores"][str(snr)] for row in rows]) for snr in SNRS_DB]
        spread = np.std([row["scores"]["all"] for row in rows], ddof=1) if len(rows) > 1 else np.nan
        cells = [*(f"{value:.2f}" for value in scores), f"**{means[name]:.2f}**"]
        cells += [
            "-" if np.isnan(spread) else f"{spread:.2f}",
            f"{np.mean(paired[name]):+.2f}" if paired[name] else "-",
        ]
        lines.append(
            f"| {name} | {len(rows)} | "
            + " | ".join(cells)
            + f" | {np.mean([r['steps'] for r in rows]):.0f} |"
        )
    classical = [row["classical"] for row in runs if row["classical"]]
    for name in classical[0] if classical else ():
        scored = [scores[name] for scores in classical]
        values = [np.mean([scores[str(snr)] for scores in scored]) for snr in SNRS_DB]
        mean = np.mean([scores["all"] for scores in scored])
        lines.append(
            f"| {name} | {len(scored)} | "
            + " | ".join(f"{v:.2f}" for v in values)
            + f" | **{mean:.2f}** | - | - | - |"
        )
    return "\n".join(lines)


def write_pace(options):
    """Measure every recipe that may cost more or less than the base, and write DIR/pace.json."""
    names = [
        options.base,
        *(name for name in options.only if RECIPES[name].keys() - FREE and name != options.base),
    ]
    seconds = {}
    for name in names:
        seconds[name] = measure_pace(name, options)
        print(f"{name}: {seconds[name]:.3f} s a step", flush=True)
    write_json(options.out / "pace.json", seconds)


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--speech", type=Path, default=REAL / "speech", help="a folder for each speaker")
    parser.add_argument("--noise", type=Path, default=REAL / "noise")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pace", action="store_true", help="measure the seconds of a step, and end")
    parser.add_argument("--minutes", type=float, default=10.0, help="for each run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", default=list(RECIPES), help=", ".join(RECIPES).replace("%", "%%")
    )
    parser.add_argument("--base", default="default", help="the recipe that the others change")
    parser.add_argument("--mixtures", type=int, default=25, help="for each SNR")
    options = parser.parse_args(arguments)
    unknown = {*options.only, options.base} - RECIPES.keys()
    if unknown:
        parser.error(f"no recipe {', '.join(sorted(unknown))}: choose from {', '.join(RECIPES)}")
    options.out.mkdir(parents=True, exist_ok=True)
    if options.pace:
        return write_pace(options)
    if not (options.out / "pace.json").exists():
        parser.error(f"{options.out} has no pace.json: run with --pace first, while nothing else runs")
    for seed in options.seeds:
        for name in options.only:
            path = folder(name, seed, options) / "result.json"
            if path.exists():
                continue
            row = run(name, seed, options)
            write_json(path, row)
            print(f"{name}, seed {seed}: {row['scores']['all']:+.2f} dB in {row['steps']} steps", flush=True)
    runs = [json.loads(path.read_text())["results"] for path in sorted(options.out.glob("*/result.json"))]
    print(
        markdown(
            [row for row in runs if (row["minutes"], row["base"]) == (options.minutes, options.base)],
            options.base,
        )
    )


if __name__ == "__main__":
    main()
