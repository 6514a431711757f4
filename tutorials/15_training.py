# %% [markdown]
# # 15. Training
#
# Minutes: 30. Before: [12. Conv-TasNet, whole](12_conv_tasnet.py), [13. SI-SNR, the loss](13_si_snr.py),
# [14. SGD and Adam](14_optimizers.py).
#
# You write the training loop, predict what one step of it does to the loss, and check the prediction. Then you
# overfit one mixture, train a small denoiser on many, and read the curves: what is noise in them, what is
# progress, and what tells memory from understanding.

# %%
import companion  # first: it finds the tasnet_np beside this file

import matplotlib.pyplot as plt
import numpy as np

from tasnet_np.corpus.clips import Store, open_corpus
from tasnet_np.training.evaluation import evaluate
from tasnet_np.network.layers import NegativeSISNR
from tasnet_np.corpus.layouts import folders
from tasnet_np.corpus.manifest import make_manifest
from tasnet_np.sound.metrics import si_snr
from tasnet_np.corpus.mixing import Mixer, fixed_batches, mix
from tasnet_np.network.config import Config
from tasnet_np.network.execution import ConvTasNet
from tasnet_np.optimisation.optimisers import HalveOnPlateau, clip_gradients
from tasnet_np.training.recipe import Recipe
from tasnet_np.training.trainer import Trainer

# %% [markdown]
# The model of this tutorial is smaller than `small`, so that it learns while you read. Everything else is as in
# `tasnet-np train`. All that it learns is one list of arrays: its *parameters*. We write $\theta$ for all of their
# numbers in one long vector.

# %%
config = Config(filters=64, filter_length=32, bottleneck=32, hidden=64, skip=32, blocks=5, repeats=2)
companion.where("loss", "optimizer", config=config)

model = ConvTasNet(config, seed=0)
theta = model.named_parameters()
print(f"{len(theta)} arrays, {config.parameter_count:,} numbers; the first:", *list(theta)[:3])

assert sum(array.size for array in theta.values()) == config.parameter_count == 76_309

# %% [markdown]
# ## Hear what has to be learned
#
# One second of speech in rain, at an SNR of 0 dB: both are equally strong. The network gets the mixture and is to
# return both parts. Before training, its output has nothing to do with speech.

# %%
RATE = config.sample_rate
mixture, sources = mix(companion.speech(1.0, RATE), companion.noise(1.0, RATE, name="rain"), snr_db=0.0)
one = (mixture[None], sources[None])  # a batch of one: (1, n) and (1, 2, n)
untrained = model.forward(one[0], keep=False)[0]  # (2, n)

companion.play(mixture, RATE, "mixture")
companion.play(sources[0], RATE, "the speech in it")
companion.play(0.3 * untrained[0] / np.abs(untrained[0]).max(), RATE, "output for speech, untrained")

assert abs(si_snr(mixture, sources[0])) < 0.3  # dB
assert si_snr(untrained[0], sources[0]) < -3  # dB

# %% [markdown]
# ## The loop
#
# Training repeats five lines. The first two compute the loss $L(\theta)$, a single number: minus the mean SI-SNR in
# dB. The third computes the *gradient* $g$: one number for each number of $\theta$, with
#
# $$g_i = \frac{\partial L}{\partial \theta_i}.$$
#
# The fourth shortens $g$ if it is longer than 5 (tutorial 14). The fifth moves $\theta$ against it.


# %%
def train_step(model, loss, optimizer, mixtures, sources, longest=5.0):
    """One step of training. Returns the loss and the length of the gradient, both from before the step."""
    estimate = model.forward(mixtures)  # (B, n) -> (B, 2, n)
    value = loss.forward(estimate, sources)  # dB, lower is better
    model.backward(loss.backward())  # sets model.grads
    length = clip_gradients(model.grads, longest)  # in place
    optimizer.step(model.grads)  # changes the parameters in place
    return value, length


# %% [markdown]
# There is no line that sets the gradients to zero: each `backward` *sets* them. In frameworks that add to them
# instead, that line can be forgotten, and it has been. We plant this bug below.
#
# ## What should one step do?
#
# Before running the loop many times, we predict what it does once. Let $\delta$ be the change of the parameters.
# Taylor's theorem says, for a small $\delta$,
#
# $$L(\theta + \delta) = L(\theta) + \sum_i g_i\, \delta_i + O(\lVert\delta\rVert^2).$$
#
# Gradient descent takes $\delta = -\eta\, g$ with a small number $\eta > 0$, the *learning rate*. Put it in:
#
# $$
# \begin{aligned}
# L(\theta) - L(\theta - \eta g) &= -\sum_i g_i\,(-\eta\, g_i) + O(\eta^2) && \text{Taylor, with } \delta = -\eta g\\
# &= \eta \sum_i g_i^2 + O(\eta^2) && \text{take } \eta \text{ out of the sum}\\
# &= \eta\, \lVert g \rVert^2 + O(\eta^2) && \text{definition of the length.}
# \end{aligned}
# $$
#
# The loss falls by $\eta \lVert g \rVert^2$. That is a promise which every part of the program has to keep: if the
# ratio of what happened to what was promised is not 1, then something is wrong with the forward pass, the backward
# pass, the loss or the step.
#
# In float32 the last digits of $L$ would drown such a small change, so this check runs in float64.


# %%
def kept_promise(gradients_of, rate=1e-7):
    """The fall of the loss in one small step of gradient descent, divided by what was promised."""
    model, loss = ConvTasNet(config, seed=0, dtype=np.float64), NegativeSISNR()
    mixtures, sources = (array.astype(np.float64) for array in one)
    before = loss.forward(model.forward(mixtures), sources)
    g = gradients_of(model, loss)
    for name, array in model.named_parameters().items():
        array -= rate * g[name]
    after = loss.forward(model.forward(mixtures, keep=False), sources, keep=False)
    return (before - after) / (rate * sum((gradient**2).sum() for gradient in g.values()))


def honest(model, loss):
    model.backward(loss.backward())
    return model.grads


print(f"happened / promised: {kept_promise(honest):.4f}")
assert abs(kept_promise(honest) - 1) < 0.01

# %% [markdown]
# The $O(\eta^2)$ is there, too: the larger the step, the less of the promise is kept. At $\eta = 0.01$ it is less than a
# tenth. (Here the loss does not even rise: SI-SNR does not see the level, so a step that makes the output a hundred
# times larger costs nothing.)

# %%
rates = 10.0 ** np.arange(-7, -1.5, 0.5)
ratios = np.array([kept_promise(honest, rate) for rate in rates])
plt.axhline(1, color="black", linewidth=0.8, linestyle=":")
plt.axhline(0, color="black", linewidth=0.8, linestyle="-")
plt.semilogx(rates, ratios, "o-")
plt.ylim(-0.1, 1.2)
plt.gca().set(
    title="One step of gradient descent: fall of the loss / promised fall",
    xlabel="learning rate η",
    ylabel="happened / promised",
)
companion.show("promise")

assert abs(ratios[0] - 1) < 0.01
assert rates[-1] == 1e-2 and ratios[-1] < 0.1
assert (np.diff(ratios) < 0).all()  # ever less
assert (ratios > 0).all()  # but the loss never rises

# %% [markdown]
# ## The same for Adam
#
# Adam's first step is easy to predict, too. At step $t = 1$ its moments started at 0, so with
# $\beta_1, \beta_2$ and $\varepsilon$ as in tutorial 14 (the learning rate, there $\alpha$, is $\eta$ here), for every
# element $i$,
#
# $$
# \begin{aligned}
# m_i &= (1 - \beta_1)\, g_i, & \hat m_i &= m_i / (1 - \beta_1) = g_i,\\
# v_i &= (1 - \beta_2)\, g_i^2, & \hat v_i &= v_i / (1 - \beta_2) = g_i^2,\\
# \delta_i &= -\eta\, \frac{\hat m_i}{\sqrt{\hat v_i} + \varepsilon}
#     = -\eta\, \frac{g_i}{|g_i| + \varepsilon} & &\approx -\eta \operatorname{sign}(g_i).
# \end{aligned}
# $$
#
# Every number moves by the same $\eta$, however small its gradient. Taylor then promises a fall of
# $-\sum_i g_i \delta_i = \eta \sum_i |g_i|$.

# %%
adam_model = ConvTasNet(config, seed=0, dtype=np.float64)
trainer = Trainer(adam_model, Recipe(learning_rate=1e-7))  # a tiny step
start = {name: array.copy() for name, array in adam_model.named_parameters().items()}
mixtures, targets = (array.astype(np.float64) for array in one)
before, length = train_step(adam_model, trainer.loss, trainer.optimizer, mixtures, targets, longest=np.inf)
g = {name: array.copy() for name, array in adam_model.grads.items()}
after = trainer.loss.forward(adam_model.forward(mixtures, keep=False), targets, keep=False)

moved = np.concatenate(
    [(array - start[name]).ravel() for name, array in adam_model.named_parameters().items()]
)
felt = np.abs(np.concatenate([gradient.ravel() for gradient in g.values()])) > 1e-5  # far above epsilon
promised = 1e-7 * sum(np.abs(gradient).sum() for gradient in g.values())
print(
    f"{felt.mean():.1%} of the numbers moved by the learning rate; happened / promised {(before - after) / promised:.4f}"
)

assert np.isclose(length, np.sqrt(sum((gradient**2).sum() for gradient in g.values())))  # nothing was clipped
assert np.allclose(np.abs(moved[felt]), 1e-7, rtol=2e-3)
assert felt.mean() > 0.95
assert abs((before - after) / promised - 1) < 0.01

# %% [markdown]
# ## Ten lines against the library
#
# The library's `Trainer.step` is this loop with Adam. It has the first three lines in one call, `model.gradients(loss,
# mixtures, sources)`: a thread takes one example all the way from the mixture to its gradients before it begins the
# next, and the gradients are added up in the order of the examples. So the memory is that of one example for each
# thread, not that of the batch. The numbers are the same but for rounding. To be sure of that, and that nothing else
# happens, here is Adam in NumPy. After three steps on different mixtures, all parameters agree.


# %%
def adam_by_hand(theta, m, v, g, t, rate=1e-3, beta1=0.9, beta2=0.999, eps=1e-8):
    """One step of Adam on dicts of arrays, in place."""
    for name, array in theta.items():
        m[name] = beta1 * m[name] + (1 - beta1) * g[name]
        v[name] = beta2 * v[name] + (1 - beta2) * g[name] ** 2
        mhat, vhat = m[name] / (1 - beta1**t), v[name] / (1 - beta2**t)
        array -= rate * mhat / (np.sqrt(vhat) + eps)


def by_hand(batches, between=lambda g, earlier: g):
    """Train for a few steps; `between` may spoil the gradients on their way to Adam."""
    model, loss = ConvTasNet(config, seed=0, dtype=np.float64), NegativeSISNR()
    theta = model.named_parameters()
    m, v, earlier = dict.fromkeys(theta, 0.0), dict.fromkeys(theta, 0.0), dict.fromkeys(theta, 0.0)
    for t, (mixtures, sources) in enumerate(batches, start=1):
        loss.forward(model.forward(mixtures), sources)
        model.backward(loss.backward())
        clip_gradients(model.grads, 5.0)
        earlier = between(model.grads, earlier)
        adam_by_hand(theta, m, v, earlier, t)
    return np.concatenate([array.ravel() for array in theta.values()])


found, problems = folders(companion.DATA / "speech", companion.DATA / "noise")
recordings = make_manifest(found, problems, seed=0)
training, held_out = (open_corpus(recordings, part, RATE, Store()) for part in ("training", "validation"))
mixer = Mixer(training, samples=RATE, rate=RATE, seed=0)
three = [mixer.batch(step, 2) for step in range(3)]
doubles = [(batch.mixture.astype(np.float64), batch.sources.astype(np.float64)) for batch in three]

library = Trainer(ConvTasNet(config, seed=0, dtype=np.float64), Recipe(learning_rate=1e-3))
for (mixtures, targets), batch in zip(doubles, three):
    library.step(type(batch)(mixtures, targets, batch.snr_db, batch.names))
expected = np.concatenate([array.ravel() for array in library.model.named_parameters().values()])

error = np.abs(by_hand(doubles) - expected).max()
print(f"largest difference after three steps: {error:.1e}")
assert not recordings.problems
assert error < 1e-8

# %% [markdown]
# ## Break it on purpose
#
# A published Conv-TasNet denoiser never calls `zero_grad`: each gradient is added to all those before it. Nothing
# crashes ([19. The bug museum](19_bug_museum.py) shows the symptom). The comparison notices at the second step:


# %%
def accumulate(g, earlier):
    return {name: earlier[name] + g[name] for name in g}


with companion.fails("gradients are accumulated"):
    assert np.abs(by_hand(doubles, accumulate) - expected).max() < 1e-8

# %% [markdown]
# And the promise of a single step catches bugs inside the model and the loss. Here the gradient of the encoder is too
# large by half; then the loss sends its gradients to the wrong sources:


# %%
def half_more(model, loss):
    model.backward(loss.backward())
    return model.grads | {"encoder.w": 1.5 * model.grads["encoder.w"]}


def exchanged(model, loss):
    model.backward(loss.backward()[:, ::-1])
    return model.grads


with companion.fails("the encoder's gradient is too large by half"):
    assert abs(kept_promise(half_more) - 1) < 0.01
with companion.fails("the loss's gradients go to the wrong sources"):
    assert abs(kept_promise(exchanged) - 1) < 0.01

# %% [markdown]
# ## Overfit one mixture
#
# The first thing to ask of a new network: can it learn a single example by heart? It has 76,309 numbers for one second
# of sound. If the loss does not fall far below 0 here, no amount of data will help, and there is a bug to be found.


# %%
def overfit(rate, steps):
    """Train a fresh model on the one mixture. Returns it and the losses."""
    trainer = Trainer(ConvTasNet(config, seed=0), Recipe(learning_rate=rate))
    losses = [train_step(trainer.model, trainer.loss, trainer.optimizer, *one)[0] for _ in range(steps)]
    return trainer.model, np.array(losses)


steps = 150
rates = (1e-4, 3e-3, 0.1)
overfitted = {rate: overfit(rate, steps) for rate in rates}
for rate, (_, losses) in overfitted.items():
    plt.plot(losses, label=f"learning rate {rate:g}")
plt.legend()
plt.gca().set(title="One mixture, learned by heart", xlabel="step", ylabel="loss (dB), lower is better")
companion.show("overfit")

memory, losses = overfitted[3e-3]
print(f"loss {losses[0]:.1f} dB at the start, {losses[-1]:.1f} dB after {steps} steps")
assert losses[0] > 30
assert losses[-1] < -20

# %% [markdown]
# At 0.003 the loss falls from above 30 dB to below -20 dB: the network knows this second by heart. At a thirtieth of
# that rate it goes the same way, only more slowly. At 0.1 it falls fast and then stays where it is for good.
#
# Why? A rate of 0.1 moves *every* number by about 0.1 in each of the first steps (that was Adam's promise), and no
# weight of a layer with 64 inputs is larger than 0.125 at the start. So the logits of the masks grow large, and every
# mask value ends next to 0 or 1. There the sigmoid is flat: its slope $y(1-y)$ is nearly 0, and so is every gradient
# behind it. The network can only switch filters on and off.

# %%
stuck = overfitted[0.1][0]
for name, network in (("0.003", memory), ("0.1", stuck)):
    y = network.masks(one[0])
    print(f"learning rate {name}: mean slope y (1 - y) of the masks {np.mean(y * (1 - y)):.5f}")

wide = [
    array
    for name, array in ConvTasNet(config).named_parameters().items()
    if array.shape[-1:] == (64,) and array.ndim == 2
]
assert max(np.abs(array).max() for array in wide) <= 0.125
y, flat = memory.masks(one[0]), stuck.masks(one[0])
assert np.mean(flat * (1 - flat)) < 0.01 * np.mean(y * (1 - y))
assert overfitted[1e-4][1][-1] > losses[-1] + 10  # too slow
assert overfitted[1e-4][1][-1] < losses[0] - 20  # but on its way
assert overfitted[0.1][1][-50] - overfitted[0.1][1][-1] < 1  # stuck
assert overfitted[0.1][1][-1] > losses[-1] + 10

# %% [markdown]
# Listen to what it has learned by heart. The level of an output is arbitrary (tutorial 13), so it is set for the ear.

# %%
recalled = memory.forward(one[0], keep=False)[0]
companion.play(mixture, RATE, "mixture")
companion.play(0.3 * recalled[0] / np.abs(recalled[0]).max(), RATE, "speech, as learned by heart")
gain_at_home = si_snr(recalled[0], sources[0]) - si_snr(mixture, sources[0])
print(f"SI-SNR improvement on its own mixture: {gain_at_home:.1f} dB")
assert gain_at_home > 20

# %% [markdown]
# ## Learning by heart is not learning
#
# Now give the same network mixtures it has never heard: other speakers, other noises. `make_manifest` has put aside
# two speakers and four noises of `data/`. No speaker and no noise is on both sides.
#
# The measure is the *SI-SNR improvement* (SI-SNRi): the SI-SNR of the output minus that of the untouched mixture.

# %%
validation = fixed_batches(held_out, samples=2 * RATE, rate=RATE, per_snr=4)
abroad = evaluate(memory, validation)[-1]["speech_si_snri_db"]
print(
    f"held-out speakers {', '.join(held_out.speakers)}: SI-SNRi {abroad:.1f} dB, at home {gain_at_home:.1f} dB"
)

assert not set(held_out.speakers) & set(training.speakers)
assert not {clip.name for clip in held_out.noises} & {clip.name for clip in training.noises}
assert len(held_out.speakers) == 2 and len(held_out.noises) == 4
assert abroad < gain_at_home - 5
assert abroad < 1  # what was learned by heart helps nobody else

# %% [markdown]
# ## A small denoiser
#
# What has to change is not the network and not the loop. It is the data: every step gets four new mixtures, of random
# speakers, noises and SNRs between -5 and 15 dB. `Mixer.batch(step, size)` makes them. It depends on the seed and the
# number of the step alone, so that a run can be repeated, or continued, bit for bit.

# %%
again = Mixer(training, samples=RATE, rate=RATE, seed=0).batch(7, 4)
first = mixer.batch(7, 4)
print(*first.names, sep="\n")

assert np.array_equal(first.mixture, again.mixture)
assert not np.array_equal(first.mixture, mixer.batch(8, 4).mixture)
assert first.mixture.shape == (4, 8000) and first.sources.shape == (4, 2, 8000)

# %% [markdown]
# Every 50 steps we look at the held-out mixtures, which are always the same ones. To train ten times as long, set
# `TUTORIAL_SCALE=10`. (`average=0.0` switches off the library's running average of the parameters, so that what we
# score is what the last step left. `schedule="plateau"` is explained below.)

# %%
every, steps = 50, 50 * round(8 * max(1, companion.SCALE))
recipe = Recipe(learning_rate=3e-3, seconds=1.0, validate_every=every, schedule="plateau", average=0.0)
trainer = Trainer(ConvTasNet(config, seed=0), recipe)
log, scores = [], [(0, evaluate(trainer.model, validation)[-1])]
for step in range(steps):
    batch = mixer.batch(step, 4)
    log.append(trainer.step(batch) | {"snr_db": batch.snr_db.mean()})
    if trainer.steps % every == 0:
        record, is_best = trainer.validate(validation)
        scores.append((trainer.steps, record["validation"]))
        if is_best:
            best = {name: array.copy() for name, array in trainer.model.named_parameters().items()}

speech_gain = np.array([row["speech_si_snri_db"] for _, row in scores])
print(
    f"SI-SNRi on held-out mixtures: {speech_gain[0]:.1f} dB untrained, {speech_gain[-1]:.1f} dB after {steps} steps"
)
assert len(log) == steps >= 400
assert speech_gain[0] < 0
assert speech_gain.max() > 3

# %% [markdown]
# ## Read the curves
#
# The loss of a step jumps by several dB from one step to the next. Before you blame the learning rate, ask what the
# loss is made of. A mixture at 15 dB is nearly clean: it is easy. One at -5 dB is hard. The loss of a batch depends
# on the SNRs that were drawn for it.

# %%
loss = np.array([record["loss"] for record in log])
norm = np.array([record["gradient_norm"] for record in log])
smooth = np.convolve(loss, np.ones(25) / 25, mode="valid")  # mean of 25 steps
validated = [step for step, _ in scores]

fig, (top, middle, bottom) = plt.subplots(3, figsize=(7.5, 6.5), sharex=True)
top.plot(np.arange(1, steps + 1), loss, color="0.7", linewidth=0.8, linestyle="-", label="one step")
top.plot(np.arange(25, steps + 1), smooth, label="mean of the last 25")
top.set(title="Loss on new training mixtures", ylabel="loss (dB)", ylim=(-13, 10))
top.legend()
middle.plot(validated, speech_gain, "o-", label="speech")
middle.plot(validated, [row["noise_si_snri_db"] for _, row in scores], "s--", label="noise")
middle.set(title="Improvement on held-out speakers and noises", ylabel="SI-SNRi (dB)", ylim=(-3, None))
middle.legend()
bottom.semilogy(np.arange(1, steps + 1), norm, linewidth=0.8)
bottom.axhline(5, color="black", linewidth=0.8, linestyle=":")
bottom.set(title="Length of the gradient; above the dotted line it is clipped", xlabel="step", ylabel="|g|")
companion.show("curves")

assert smooth[-1] < smooth[0] - 3
assert loss[-100:].std() > 3 * np.abs(np.diff(smooth[-100:])).mean()  # the jumps are not the trend

# %% [markdown]
# To see that the jumps are mostly not noise of the optimiser, take the finished model, change nothing, and measure
# the loss of 60 more batches.

# %%
frozen = [mixer.batch(10_000 + i, 4) for i in range(60)]
outputs = [trainer.model.forward(batch.mixture, keep=False) for batch in frozen]
losses = np.array([trainer.loss.forward(y, batch.sources, keep=False) for y, batch in zip(outputs, frozen)])
print(
    f"spread of the loss: {loss[-100:].std():.1f} dB while training, {losses.std():.1f} dB without any training"
)
assert 0.6 < losses.std() / loss[-100:].std() < 1.7

# %% [markdown]
# So a single loss says little, and the end of a smoothed curve says more. What we want to know is a third thing: the
# improvement on held-out mixtures, always the same ones. It is the curve in the middle, and the one to decide by.
#
# Which SNR is how easy? One dot is one mixture:

# %%
snr = np.concatenate([batch.snr_db for batch in frozen])
after = np.concatenate([si_snr(y[:, 0], batch.sources[:, 0]) for y, batch in zip(outputs, frozen)])
before = np.concatenate([si_snr(batch.mixture, batch.sources[:, 0]) for batch in frozen])

fig, (left, right) = plt.subplots(1, 2, figsize=(7.5, 3.2))
left.plot(snr, after, ".", markersize=4)
left.plot([-5, 15], [-5, 15], ":", color="black", linewidth=1)
left.set(title="Speech: SI-SNR of the output", xlabel="SNR of the mixture (dB)", ylabel="SI-SNR (dB)")
right.plot(snr, after - before, ".", markersize=4, color=companion.COLOURS["vermilion"])
right.axhline(0, color="black", linewidth=1, linestyle=":")
right.set(title="Speech: improvement", xlabel="SNR of the mixture (dB)", ylabel="SI-SNRi (dB)")
companion.show("by_snr")

assert np.corrcoef(snr, after)[0, 1] > 0.7  # the output's SI-SNR rises with the input's
assert np.corrcoef(snr, after - before)[0, 1] < -0.2  # the improvement falls: less is left to remove
assert np.abs(before - snr).max() < 0.6  # dB: the mixture's SI-SNR is nearly its SNR

# %% [markdown]
# ## When to lower the learning rate
#
# The last steps of a run jump around a minimum that they are too large to enter. `HalveOnPlateau` waits until
# several validations in a row brought nothing new, and then halves the rate. Its input is a loss: we hand it minus the
# SI-SNRi.


# %%
class Fixed:
    """Stands in for an optimizer: only its learning rate matters here."""

    learning_rate = 3e-3


rates, schedule = [], HalveOnPlateau(Fixed(), patience=3)
for si_snri in [1.0, 2.0, 3.0, 2.9, 2.8, 3.0, 2.7, 3.5, 3.4]:
    schedule.step(-si_snri)
    rates.append(schedule.optimizer.learning_rate)
print(rates)
assert rates == [3e-3] * 6 + [1.5e-3] * 3  # four in a row without a new best: more than the patience

# %% [markdown]
# Keep the parameters of the best validation, not of the last step. (`tasnet-np train` writes both: `best.npz` and
# `last.npz`.)

# %%
model = ConvTasNet(config)
for name, array in model.named_parameters().items():
    array[...] = best[name]
assert np.isclose(evaluate(model, validation)[-1]["speech_si_snri_db"], speech_gain.max())
assert speech_gain.max() > abroad + 3  # many mixtures taught what one could not

# %% [markdown]
# ## Where it sits
#
# `separate` is the way from a recording to its two parts: it brings the level to what the model knows, and back. Here is
# a recording that no training has touched, `noisy-mono-8k.wav`: another speaker, in the noise of a vacuum cleaner.

# %%
from tasnet_np.listening.separate import separate

noisy, clean = (companion.clip(f"noisy/{kind}-mono-8k.wav") for kind in ("noisy", "clean"))
speech, noise = separate(model, noisy[None], RATE)[:, 0]  # (2, channels, n)
companion.play(noisy, RATE, "noisy")
companion.play(speech, RATE, "denoised")
companion.play(noise, RATE, "what was taken away")
companion.play(clean, RATE, "clean")

fig, axes = plt.subplots(3, figsize=(7.5, 7), sharex=True)
for ax, (title, sound) in zip(axes, {"noisy": noisy, "denoised": speech, "clean": clean}.items()):
    companion.spectrogram(ax, sound, RATE, title)
    ax.label_outer()
companion.show("denoised")

gain = si_snr(speech, clean) - si_snr(noisy, clean)
print(f"SI-SNR {si_snr(noisy, clean):.1f} dB before, {si_snr(speech, clean):.1f} dB after")
assert abs(si_snr(noisy, clean)) < 0.3  # dB: noise as loud as speech
assert gain > 1
assert speech.shape == noisy.shape

# %% [markdown]
# Compare the pictures. In the pauses the noise is weaker than before, and the voice stands out more; but in the middle
# of the noise the harmonics of the clean voice are not there again. A noise that sounds like none of the 16 in
# training is a hard test for a few seconds of learning. `make demo` trains the `small` network for two minutes.
#
# Beyond this tutorial, `tasnet-np train` runs the same `Trainer` and adds what a long run needs: a folder with a log,
# checkpoints to continue from, and a stop when you press Ctrl-C.

# %%
assert len(training.noises) == 16
pause = slice(round(2.95 * RATE), round(3.1 * RATE))  # nobody speaks
assert (clean[pause] ** 2).mean() < 1e-6
quieter_db = 10 * np.log10((noisy[pause] ** 2).mean() / (speech[pause] ** 2).mean())
print(f"in a pause the noise is {quieter_db:.1f} dB weaker")
assert quieter_db > 2

# %% [markdown]
# ## Exercises
#
# 1. **Two halves make a whole.** A batch of four does not fit into your memory. Show that the gradient of its loss is
#    the mean of the gradients of two batches of two, so that you can compute it in two parts.
# 2. **A run that was stopped.** Train for six steps. Train another model for three, store what is needed, restore it
#    into a fresh model and optimizer, and train for three more. Which arrays, besides the parameters, must be stored
#    so that the six losses agree to the last bit?
# 3. **Noise first.** Train with the targets in the order noise, speech for all steps. Does the network learn? What if
#    the order is drawn at random for each mixture?
# 4. **A leak.** Overfit on eight mixtures, and validate on eight others of the *same* speaker and noise, then on
#    held-out ones. By how much would the first score flatter you?
#
# Solutions: [solutions/15_training.py](solutions/15_training.py).
