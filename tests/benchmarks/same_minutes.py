"""The same model, recipe and minutes in tasnet_np and in PyTorch, one after the other, on held-out recordings.

Both see the same mixtures in the same order, start from the same weights, validate at the same steps and keep
the best; they differ in how many steps fit into the minutes. Then both are judged like `tasnet-np evaluate`.
"""

import tasnet_np  # isort: skip

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from recipe import PLAIN
from side_by_side import machine
from torch_peer import TorchConvTasNet, si_snr_loss

from tasnet_np.corpus import manifest
from tasnet_np.corpus.clips import Store, open_corpus
from tasnet_np.corpus.mixing import Mixer, fixed_batches
from tasnet_np.network.config import Config
from tasnet_np.network.execution import ConvTasNet
from tasnet_np.training.evaluation import evaluate, table
from tasnet_np.training.recipe import Recipe
from tasnet_np.training.train import train


class AsModel:
    """A PyTorch network with the forward that `evaluate` expects."""

    def __init__(self, network):
        self.network = network

    def forward(self, mixture, keep=False):
        with torch.no_grad():
            return self.network(torch.tensor(mixture)).numpy()


def train_torch(corpora, config, recipe, minutes):
    """The loop of tasnet_np.training.train in PyTorch. Returns the best network and the number of steps."""
    network = TorchConvTasNet(config, exact_sums=False)
    network.copy_parameters(ConvTasNet(config, seed=recipe.seed).named_parameters())
    optimizer = torch.optim.Adam(network.parameters(), lr=recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=recipe.patience, threshold=1e-4, threshold_mode="abs", min_lr=1e-8
    )
    common = {
        "samples": round(recipe.seconds * config.sample_rate),
        "rate": config.sample_rate,
        "seed": recipe.seed,
    }
    mixer = Mixer(corpora[0], snr_db=recipe.snr_db, **common)
    validation = fixed_batches(corpora[1], per_snr=recipe.validation_mixtures, **common)
    best, best_state, steps, started = -np.inf, None, 0, time.monotonic()
    while time.monotonic() - started < 60 * minutes:
        batch = mixer.batch(steps, recipe.batch)
        optimizer.zero_grad()
        si_snr_loss(network(torch.tensor(batch.mixture)), torch.tensor(batch.sources)).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
        optimizer.step()
        steps += 1
        if steps % recipe.validate_every == 0:
            score = evaluate(AsModel(network), validation)[-1]["speech_si_snri_db"]
            print(f"PyTorch step {steps}: validation SI-SNRi {score:.2f} dB", flush=True)
            schedule.step(-score)
            if score > best:
                best, best_state = score, {k: v.clone() for k, v in network.state_dict().items()}
    if best_state:
        network.load_state_dict(best_state)
    return network, steps


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--speech", required=True)
    parser.add_argument("--noise", required=True)
    parser.add_argument("--out", required=True, type=Path, help="folder for our run and for results.json")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--hold-out", nargs="+", default=[])
    parser.add_argument("--preset", default="small")
    options = parser.parse_args()
    plain = PLAIN | {"schedule": "plateau", "snr_db": Recipe.snr_db}  # as train_torch
    config, recipe = Config.preset(options.preset), Recipe(hold_out=options.hold_out, **plain)
    run = options.out / "run"
    train(options.speech, options.noise, run, config, recipe, minutes=options.minutes)
    recordings, store = manifest.load(run / "manifest.json"), Store()
    corpora = [
        open_corpus(recordings, part, config.sample_rate, store) for part in ("training", "validation")
    ]
    network, torch_steps = train_torch(corpora, config, recipe, options.minutes)
    our_steps = sum('"loss"' in line for line in (run / "log.jsonl").read_text().splitlines())
    rate = config.sample_rate
    batches = fixed_batches(
        corpora[1], samples=3 * rate, rate=rate, snrs_db=(-5, 0, 5, 10, 15), per_snr=25, seed=1
    )
    results = {"machine": machine(), "minutes": options.minutes}
    for name, model, steps in (
        ("tasnet_np", tasnet_np.load(run), our_steps), ("PyTorch", AsModel(network), torch_steps)
    ):  # fmt: skip
        rows = evaluate(model, batches)
        results[name] = {"steps": steps, "rows": rows}
        print(f"\n{name}, {steps} steps in {options.minutes:g} minutes\n{table(rows)}")
    (options.out / "results.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
