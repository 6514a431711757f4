# %% [markdown]
# # 15. Training: solutions
#
# Minutes: 15. Before: [15. Training](../15_training.py).
#
# Gradients in two halves, a run that was stopped, the order of the sources, and a leak in the validation.

# %%
import sys
from pathlib import Path

# companion.py lies in the folder above, both for a script and for a notebook.
sys.path.insert(0, str(Path(globals().get("__file__", "notebook")).resolve().parents[1]))
import companion

import matplotlib.pyplot as plt
import numpy as np

from tasnet_np.corpus.clips import Corpus, Store, open_corpus
from tasnet_np.training.evaluation import evaluate
from tasnet_np.network.layers import NegativeSISNR
from tasnet_np.corpus.layouts import folders
from tasnet_np.corpus.manifest import make_manifest
from tasnet_np.corpus.mixing import Batch, Mixer, fixed_batches
from tasnet_np.network.config import Config
from tasnet_np.network.execution import ConvTasNet
from tasnet_np.optimisation.optimisers import Adam
from tasnet_np.training.recipe import Recipe
from tasnet_np.training.trainer import Trainer

config = Config(filters=64, filter_length=32, bottleneck=32, hidden=64, skip=32, blocks=5, repeats=2)
RATE = config.sample_rate
found, _ = folders(companion.DATA / "speech", companion.DATA / "noise")
recordings = make_manifest(found, seed=0)
training, held_out = (open_corpus(recordings, part, RATE, Store()) for part in ("training", "validation"))
mixer = Mixer(training, samples=RATE, rate=RATE, seed=0)

# %% [markdown]
# ## 1. Two halves make a whole
#
# The loss of a batch is a mean over its $B$ examples, $L = \frac1B \sum_b L_b$. Differentiation is linear, so with two
# halves of $B/2$ examples each
#
# $$
# \frac{\partial L}{\partial\theta}
# = \frac1B \sum_{b} \frac{\partial L_b}{\partial\theta}
# = \frac12 \left( \frac{2}{B} \sum_{b < B/2} \frac{\partial L_b}{\partial\theta}
#   + \frac{2}{B} \sum_{b \ge B/2} \frac{\partial L_b}{\partial\theta} \right):
# $$
#
# the mean of the gradients of the halves. It holds because no example looks at another. A batch norm would break it.
# The gradients have to be copied between the two passes, as each `backward` sets them anew.


# %%
def gradients(mixtures, sources):
    model, loss = ConvTasNet(config, seed=0, dtype=np.float64), NegativeSISNR()
    loss.forward(model.forward(mixtures), sources)
    model.backward(loss.backward())
    return {name: array.copy() for name, array in model.grads.items()}


batch = mixer.batch(0, 4)
mixtures, sources = batch.mixture.astype(np.float64), batch.sources.astype(np.float64)
whole = gradients(mixtures, sources)
halves = [gradients(mixtures[part], sources[part]) for part in (slice(0, 2), slice(2, 4))]
for name, gradient in whole.items():
    mean = (halves[0][name] + halves[1][name]) / 2
    assert np.abs(mean - gradient).max() <= 1e-10 * max(1, np.abs(gradient).max()), name
with companion.fails("summed instead of averaged"):
    assert np.allclose(halves[0]["mask.w"] + halves[1]["mask.w"], whole["mask.w"])

# %% [markdown]
# ## 2. A run that was stopped
#
# Besides the parameters: both moments of Adam for every array, and the number of steps $t$, which corrects the bias of
# the moments. The mixtures need nothing, as they depend on the number of the step. (With a schedule, its counters and
# the learning rate are stored, too: `Trainer.save` does all of this.)


# %%
def losses(model, optimizer, steps):
    loss = NegativeSISNR()
    values = []
    for step in steps:
        batch = mixer.batch(step, 2)
        values.append(loss.forward(model.forward(batch.mixture), batch.sources))
        model.backward(loss.backward())
        optimizer.step(model.grads)
    return values


def fresh(seed=0):
    model = ConvTasNet(config, seed=seed)
    return model, Adam(model.named_parameters(), learning_rate=3e-3)


through = losses(*fresh(), range(6))

model, optimizer = fresh()
first = losses(model, optimizer, range(3))
stored = {name: array.copy() for name, array in model.named_parameters().items()}
numbers, arrays = optimizer.state()
arrays = {name: array.copy() for name, array in arrays.items()}


def restored(with_moments):
    model, optimizer = fresh(seed=1)  # other weights: all must come from the store
    for name, array in model.named_parameters().items():
        array[...] = stored[name]
    if with_moments:
        optimizer.restore(numbers, arrays)
    return losses(model, optimizer, range(3, 6))


assert first + restored(with_moments=True) == through  # to the last bit
assert len(arrays) == 2 * len(stored) and numbers["steps"] == 3
with companion.fails("the moments are forgotten"):
    assert first + restored(with_moments=False) == through

# %% [markdown]
# ## 3. Noise first
#
# With one fixed order it does not matter which: the two outputs are the same kind of thing until training gives them
# their roles. With a random order each output is asked for speech half of the time and for noise the other half. What
# is best for both at once is an output that has some of each: it cannot be good at either.


# %%
def trained(order, steps):
    """Train with targets in the order that `order(rng)` gives; score with speech first."""
    trainer = Trainer(ConvTasNet(config, seed=0), Recipe(learning_rate=3e-3))
    rng = np.random.default_rng(0)
    for step in range(steps):
        batch = mixer.batch(step, 4)
        sources = np.stack([example[order(rng)] for example in batch.sources])
        trainer.step(Batch(batch.mixture, sources, batch.snr_db, batch.names))
    return trainer.model


class Exchanged:
    """A model whose outputs are called speech and noise the other way round."""

    def __init__(self, model):
        self.model = model

    def forward(self, mixture, keep):
        return self.model.forward(mixture, keep=keep)[:, ::-1]


steps = 100
validation = fixed_batches(held_out, samples=RATE, rate=RATE, per_snr=6)
models = {
    "speech first": trained(lambda rng: [0, 1], steps),
    "noise first": Exchanged(trained(lambda rng: [1, 0], steps)),
    "at random": trained(lambda rng: rng.permutation(2), steps),
}
gains = {name: evaluate(model, validation)[-1]["speech_si_snri_db"] for name, model in models.items()}
for name, gain in gains.items():
    print(f"{name}: SI-SNRi {gain:.1f} dB")
assert gains["speech first"] > 1
assert abs(gains["noise first"] - gains["speech first"]) < 1.5
assert gains["at random"] < gains["speech first"] - 2

# %% [markdown]
# ## 4. A leak
#
# Eight mixtures of one speaker and one noise are learned. Then three sets of eight are scored: those that were
# learned; others of the same speaker and the same noise; and others of held-out speakers and noises.

# %%
speaker, noise_clip = "polish", next(clip for clip in training.noises if clip.name == "train.flac")
one_of_each = Corpus({speaker: training.speakers[speaker]}, [noise_clip])
small = Mixer(one_of_each, samples=RATE, rate=RATE, snr_db=(0, 0), seed=0)
learned, same = small.batch(0, 8), small.batch(1, 8)
other = Mixer(held_out, samples=RATE, rate=RATE, snr_db=(0, 0), seed=0).batch(0, 8)

trainer = Trainer(ConvTasNet(config, seed=0), Recipe(learning_rate=3e-3))
for _ in range(60):
    trainer.step(learned)
scores = {
    title: evaluate(trainer.model, [batch])[-1]["speech_si_snri_db"]
    for title, batch in {"learned": learned, "same speaker and noise": same, "held out": other}.items()
}
plt.figure(figsize=(7.5, 2.2))
plt.barh(list(scores), list(scores.values()))
plt.gca().set(title="SI-SNRi of one model on three sets", xlabel="SI-SNRi (dB)")
plt.gca().invert_yaxis()
companion.show("leak")

print({title: round(score, 1) for title, score in scores.items()})
assert scores["learned"] > scores["same speaker and noise"] > scores["held out"] + 2

# %% [markdown]
# The middle score flatters by the difference to the last one. It is a score for a user who is that speaker in that
# noise, and for nobody else.

# %%
assert speaker not in held_out.speakers and noise_clip.name not in {clip.name for clip in held_out.noises}
