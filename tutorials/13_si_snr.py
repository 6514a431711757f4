# %% [markdown]
# # 13. SI-SNR, the loss
#
# Minutes: 30. Before: [2. Checking a gradient](02_checking_gradients.py).
#
# The loss that does not hear the level: its geometry, its gradient line by line, how the level comes back afterwards,
# and why a denoiser needs no search over the order of its outputs.

# %%
import companion

import matplotlib.pyplot as plt
import numpy as np

from tasnet_np.ops.gradcheck import check_gradients, numerical_gradient, relative_error
from tasnet_np.network.layers import NegativeSISNR
from tasnet_np.sound.level import fit_level
from tasnet_np.sound.metrics import sdr, si_snr
from tasnet_np.corpus.mixing import mix
from tasnet_np.network.config import Config
from tasnet_np.network.execution import ConvTasNet
from tasnet_np.ops.si_snr import si_snr_backward, si_snr_forward
from tasnet_np.optimisation.optimisers import Adam, clip_gradients

COLOURS = companion.COLOURS
rate = 8000  # Hz
rng = np.random.default_rng(13)

# %%
companion.where("loss")

# %% [markdown]
# ## Hear it first
#
# Which of these estimates is better? The first has a little rain left in it. The second is the clean voice itself,
# only a tenth as loud and with its sign flipped. The plain signal-to-distortion ratio (SDR) takes every difference as
# an error, so it prefers the rainy one. The ear does not: a flipped sign is inaudible, and the volume can be turned
# up.
#
# SI-SNR, the *scale-invariant signal-to-noise ratio*, agrees with the ear. It gives the second the best value that
# there is, 80 dB. (Why there is a best one, we see below.)

# %%
voice = companion.speech(2.0, rate, speaker="english-british").astype(np.float64)
rain = companion.noise(2.0, rate, name="rain").astype(np.float64)
rainy, soft = voice + 0.3 * rain, -0.1 * voice
companion.play(rainy, rate, "with rain")
companion.play(soft, rate, "a tenth, flipped")

assert sdr(rainy, voice) > sdr(soft, voice)
assert si_snr(rainy, voice) < 12 and np.isclose(si_snr(soft, voice), 80)

# %% [markdown]
# ## The geometry
#
# Take the estimate $e$ and the target $s$ as arrows. They have as many dimensions as there are samples, but two arrows
# always lie in one plane, and we can draw it. Split $e$ into a part along $s$ and the rest:
#
# $$ p = \frac{\langle e, s \rangle}{\langle s, s \rangle}\, s \qquad q = e - p $$
#
# $p$ is the *projection*, the shadow of $e$ on the line through $s$. $q$ is perpendicular to it. SI-SNR compares their
# energies:
#
# $$ \text{SI-SNR} = 10 \log_{10} \frac{|p|^2}{|q|^2} $$
#
# Here $\langle a, b \rangle = \sum_i a_i b_i$ and $|a|^2 = \langle a, a \rangle$. This is Equation 15 of the paper.

# %%
estimate, target = np.array([2.4, 1.5]), np.array([1.6, 0.0])
p = (estimate @ target) / (target @ target) * target
q = estimate - p

fig, (ax, curve) = plt.subplots(1, 2, figsize=(8.6, 3.2), width_ratios=(1.2, 1))
arrows = (
    (np.zeros(2), estimate, "blue", "estimate $e$", (0.4, 0.95)),
    (np.zeros(2), p, "orange", "projection $p$", (1.5, 0.1)),
    (p, q, "vermilion", "rest $q$", (2.5, 0.7)),
    (np.array([0, -0.15]), target, "black", "target $s$ (drawn lower)", (0.1, -0.42)),
)
for origin, vector, colour, text, place in arrows:
    arrow = {"arrowstyle": "-|>", "color": COLOURS[colour], "linewidth": 2.2, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", xy=origin + vector, xytext=origin, arrowprops=arrow)
    ax.text(*place, text)
ax.plot((-0.2, 3.2), (0, 0), ":", color="black", linewidth=0.8)
ax.set(xlim=(-0.2, 3.3), ylim=(-0.6, 1.8), aspect="equal", title="the plane of estimate and target")
ax.set(xlabel="along the target", ylabel="across")
ax.grid(False)
degrees = np.linspace(0.5, 179.5, 400)
tangent = np.tan(np.radians(degrees))
curve.plot(degrees, -20 * np.log10(np.abs(tangent)), "-", color=COLOURS["blue"])
curve.plot(45, 0, "o", color=COLOURS["vermilion"])
curve.set(
    xlabel="angle between estimate and target (degrees)", ylabel="SI-SNR (dB)", xticks=range(0, 181, 45)
)
curve.set(title="only the angle counts")
companion.show("projection")

assert abs(q @ target) < 1e-12

# %% [markdown]
# Make $e$ longer, and $p$ and $q$ grow by the same factor: their ratio stays. Make $s$ longer, and nothing at all
# happens. Only the angle $\theta$ counts. With $|p| = |e| \, |\cos \theta|$ and $|q| = |e| \sin \theta$:
#
# $$ \text{SI-SNR} = 10 \log_{10} \frac{\cos^2 \theta}{\sin^2 \theta} $$
#
# At 45 degrees signal and rest are equal: 0 dB. The formula is also symmetric. Exchange estimate and target, and the
# value is the same.

# %%
angle = np.arccos(estimate @ target / np.linalg.norm(estimate) / np.linalg.norm(target))
assert np.isclose((p @ p) / (q @ q), np.cos(angle) ** 2 / np.sin(angle) ** 2)
for gain in (1e-4, -3.0, 500.0):
    assert np.isclose(si_snr(gain * rainy, voice), si_snr(rainy, voice))
    assert np.isclose(si_snr(rainy, gain * voice), si_snr(rainy, voice))
assert np.isclose(si_snr(rainy, voice), si_snr(voice, rainy))

# %% [markdown]
# ## The formula in the code
#
# Two details are added. First, estimate and target lose their mean: a constant is inaudible. With $x$ the network's
# output:
#
# $$ e = x - \text{mean}(x) \qquad s = \text{target} - \text{mean}(\text{target}) $$
#
# Second, a perfect estimate would give infinity. A small $\epsilon = 10^{-8}$ keeps the value within $\pm 80$ dB: with
# $\cos^2 \theta = 1$ and $\sin^2 \theta = 0$ it is $10 \log_{10} \left( (1 + \epsilon) / \epsilon \right) \approx 80$. The
# $\epsilon$ stands beside $\cos^2$ and $\sin^2$, which have no level. With the unit target $u = s / |s|$ and
#
# $$ a = \langle e, u \rangle \qquad E = |e|^2 \qquad R = |e - a u|^2 = |q|^2 $$
#
# we have $\cos^2 \theta = a^2 / E$ and $\sin^2 \theta = R / E$. So
#
# $$ y = 10 \log_{10} \frac{a^2 / E + \epsilon}{R / E + \epsilon} = 10 \log_{10} \frac{a^2 + \epsilon E}{R + \epsilon E} $$
#
# ## The gradient
#
# Write the logarithm as a natural one: $10 \log_{10} z = c \ln z$ with $c = 10 / \ln 10$. Then the fraction is a
# difference:
#
# $$ y = c \left( \ln (a^2 + \epsilon E) - \ln (R + \epsilon E) \right) $$
#
# We need the derivatives of $a$, $E$ and $R$ with respect to $e$. The target is a constant.
#
# $$ \begin{aligned}
# a &= \langle e, u \rangle & \frac{\partial a}{\partial e} &= u \\
# E &= \langle e, e \rangle & \frac{\partial E}{\partial e} &= 2 e \\
# R &= E - a^2 & \frac{\partial R}{\partial e} &= 2 e - 2 a u = 2 q
# \end{aligned} $$
#
# ($R = E - a^2$ is Pythagoras: $|e|^2 = |p|^2 + |q|^2$.) The derivative of $\ln z$ is $1 / z$ times that of $z$. With
# $p = a u$:
#
# $$ \begin{aligned}
# \frac{\partial y}{\partial e} &= c \left( \frac{2 a u + 2 \epsilon e}{a^2 + \epsilon E} - \frac{2 q + 2 \epsilon e}{R + \epsilon E} \right) \\
# &= 2 c \left( \frac{p + \epsilon e}{a^2 + \epsilon E} - \frac{q + \epsilon e}{R + \epsilon E} \right)
# \end{aligned} $$
#
# **From $e$ to $x$.** $e = x - \text{mean}(x)$, so the gradient of $x$ is the gradient of $e$ less its mean (the rule of
# path 2 in tutorial 8). But $e$, $u$, $p$ and $q$ all have mean zero, so there is nothing to subtract. $dx = dy \cdot
# \partial y / \partial e$.
#
# Without $\epsilon$ the result is easy to remember. Towards the projection, away from the rest, each divided by its
# energy:
#
# $$ \frac{\partial y}{\partial e} = 2 c \left( \frac{p}{|p|^2} - \frac{q}{|q|^2} \right) $$

# %% [markdown]
# ## In NumPy
#
# The last axis is time. Sums keep it, with length 1, so that they fit to the waveforms.

# %%
EPS, c = 1e-8, 10 / np.log(10)


def loss_forward(x, *, target):
    e = x - x.mean(axis=-1, keepdims=True)
    s = target - target.mean(axis=-1, keepdims=True)
    u = s / np.sqrt((s**2).sum(axis=-1, keepdims=True))
    a = (e * u).sum(axis=-1, keepdims=True)
    q = e - a * u
    E, R = (e**2).sum(axis=-1, keepdims=True), (q**2).sum(axis=-1, keepdims=True)
    along, across = a**2 + EPS * E, R + EPS * E
    return c * np.log(along / across)[..., 0], (e, a * u, q, along, across)


def loss_backward(dy, cache):
    e, p, q, along, across = cache
    return (dy[..., None] * 2 * c * ((p + EPS * e) / along - (q + EPS * e) / across),)


# %% [markdown]
# It equals the library's op and its metric. Every element of the gradient agrees with central differences.

# %%
x, target = rng.standard_normal((2, 3, 2, 41))
y, cache = loss_forward(x, target=target)
library_y, library_cache = si_snr_forward(x, target=target)
dy = rng.standard_normal(y.shape)
assert y.shape == (3, 2)
assert relative_error(y, library_y) < 1e-10
assert relative_error(y, si_snr(x, target)) < 1e-10
assert relative_error(loss_backward(dy, cache)[0], si_snr_backward(dy, library_cache)[0]) < 1e-10
assert check_gradients(loss_forward, loss_backward, [x], {"target": target}) < 1e-6

# %% [markdown]
# ## What the gradient looks like
#
# SI-SNR does not change when $e$ gets longer. So its gradient has no part along $e$: it is perpendicular to the
# estimate. It can only turn the arrow, never stretch it. The figure shows the gradient at many estimates, around one
# target that points to the right. All arrows go around in circles, and towards the line of the target, on whichever
# side is nearer. The colours are the SI-SNR.

# %%
grid = np.linspace(-2, 2, 14)  # 0 is not among them: there p or q would be 0
points = np.array([(first, second) for first in grid for second in grid])
along, across = points.T  # p and q, as the target points to the right
gradient = np.stack([1 / along, -1 / across], axis=1)  # p / |p|^2 and -q / |q|^2

fine = np.linspace(-2.2, 2.2, 401)
first, second = np.meshgrid(fine, fine)
level = np.clip(20 * np.log10(np.abs(first) + 1e-9) - 20 * np.log10(np.abs(second) + 1e-9), -20, 20)
fig, ax = plt.subplots(figsize=(5.6, 4.4))
image = ax.pcolormesh(fine, fine, level, shading="nearest")
fig.colorbar(image, label="SI-SNR (dB)", extend="both")
unit = gradient / np.linalg.norm(gradient, axis=1, keepdims=True)
ax.quiver(
    *points.T, *unit.T, color="white", edgecolor="black", linewidth=0.4, scale=22, width=0.008, pivot="mid"
)
ax.annotate(
    "", xy=(1.5, 0), xytext=(0, 0), arrowprops={"arrowstyle": "-|>", "color": "black", "linewidth": 2.5}
)
ax.text(0.5, 0.12, "target", bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5})
ax.set(xlabel="along the target", ylabel="across", aspect="equal", title="the direction of the gradient")
ax.grid(False)
companion.show("gradient_field")

assert np.abs((gradient * points).sum(axis=1)).max() < 1e-12  # perpendicular to every estimate
(dx,) = loss_backward(np.ones_like(y), cache)
e = x - x.mean(axis=-1, keepdims=True)
assert np.abs((dx * e).sum(axis=-1)).max() < 1e-10
assert np.abs(dx.sum(axis=-1)).max() < 1e-10  # and no mean

# %% [markdown]
# This has a consequence that puzzles many who train such models. A step perpendicular to an arrow makes it *longer*:
# $|e + \delta|^2 = |e|^2 + |\delta|^2$. An estimate that follows its gradient grows with every step. In a network the
# parameters move and not the outputs, so it is only a tendency there. But users do report outputs of several hundred,
# and files that are written without care are then clipped to noise.
#
# Here an estimate follows its gradient for 28 steps. It becomes better, and longer each time.

# %%
aim = target[:1, :1]
output, lengths = aim + rng.standard_normal(aim.shape), []
for step in range(28):
    _, step_cache = loss_forward(output, target=aim)
    lengths.append(np.linalg.norm(output - output.mean()))
    output = output + 0.1 * loss_backward(np.ones((1, 1)), step_cache)[0]
assert (np.diff(lengths) > 0).all()
assert si_snr(output, aim) > 10  # dB: the estimate has become better, too

# %% [markdown]
# ## Break it: the projection as a constant
#
# $p$ depends on $e$. Somebody may take it for a constant target, and keep only $-2cq / |q|^2$. Then the gradient
# stretches the estimate, too.


# %%
def projection_held_fixed(dy, cache):
    e, p, q, along, across = cache
    return (dy[..., None] * 2 * c * -q / across,)


with companion.fails("the projection is taken for a constant"):
    error = check_gradients(loss_forward, projection_held_fixed, [x], {"target": target})
    assert error < 1e-6, f"relative error {error:.2g}"

# %% [markdown]
# ## Break it: an epsilon with a level
#
# Published versions put the $\epsilon$ beside the energies, $|p|^2 / (|q|^2 + \epsilon)$. Then the measure is no
# longer scale-invariant. The same estimate and the same target, both at a hundred-thousandth of their level, now
# score more than 20 dB lower. A corpus with quiet recordings gets another ranking.


# %%
def with_level_eps(e, s, eps=1e-8):
    p = (e @ s) / (s @ s + eps) * s
    return 10 * np.log10((p @ p) / ((e - p) @ (e - p) + eps) + eps)


estimate_t, target_t = rainy - rainy.mean(), voice - voice.mean()
assert np.isclose(with_level_eps(estimate_t, target_t), si_snr(rainy, voice), atol=1e-3)
assert np.isclose(si_snr(1e-5 * rainy, 1e-5 * voice), si_snr(rainy, voice))
with companion.fails("epsilon beside the energies"):
    quiet = with_level_eps(1e-5 * estimate_t, 1e-5 * target_t)
    assert abs(quiet - si_snr(rainy, voice)) < 0.1, f"{quiet:.1f} dB at 1e-5 of the level"
assert quiet < si_snr(rainy, voice) - 20

# %% [markdown]
# ## Break it: the rest by subtraction
#
# $R = E - a^2$ is right on paper. In float32, two nearly equal numbers are subtracted, and for a good estimate the
# difference is rounding noise (tutorial 9 has the same trap). The library sums the squares of $q$ itself.

# %%
good = (voice + 1e-4 * rain).astype(np.float32)  # a very good estimate
s32 = (voice / np.linalg.norm(voice)).astype(np.float32)
s32, e32 = s32 - s32.mean(), good - good.mean()
s32 /= np.linalg.norm(s32)
a32, E32 = e32 @ s32, e32 @ e32
true_db = si_snr(good, voice)
assert 75 < true_db < 80
with companion.fails("the rest by subtraction, in float32"), np.errstate(divide="ignore", invalid="ignore"):
    by_subtraction = 10 * np.log10(a32**2 / (E32 - a32**2))
    assert abs(by_subtraction - true_db) < 3, f"{by_subtraction:.0f} dB instead of {true_db:.0f} dB"

# %% [markdown]
# ## Silence
#
# A silent target has no direction. There is nothing to learn from it: the library's op gives 0 dB and a gradient of
# zero. A silent estimate of a target that is not silent gets the worst value, -80 dB.

# %%
silent = np.zeros((1, 1, 41))
values, silent_cache = si_snr_forward(x[:1, :1], target=silent)
assert values.item() == 0
assert (si_snr_backward(np.ones((1, 1)), silent_cache)[0] == 0).all()
assert np.isclose(si_snr_forward(silent, target=target[:1, :1])[0].item(), -80)

# %% [markdown]
# ## The level, and how it is restored
#
# The network's outputs $s_1$ (speech) and $s_2$ (noise) have an arbitrary level and sign. But we know one more thing:
# speech plus noise is the mixture, here called $x$. So we look for two gains $a$ and $b$ that make
#
# $$ J = |x - a s_1 - b s_2|^2 $$
#
# as small as possible. At the minimum both derivatives are zero:
#
# $$ \begin{aligned}
# \frac{\partial J}{\partial a} = -2 \langle s_1, x - a s_1 - b s_2 \rangle &= 0 \\
# \frac{\partial J}{\partial b} = -2 \langle s_2, x - a s_1 - b s_2 \rangle &= 0
# \end{aligned} $$
#
# These are two linear equations, the *normal equations*. (In the code, all three first lose their mean, as in the
# loss.)
#
# $$ \begin{pmatrix}
# \langle s_1, s_1 \rangle & \langle s_1, s_2 \rangle \\
# \langle s_1, s_2 \rangle & \langle s_2, s_2 \rangle
# \end{pmatrix} \begin{pmatrix} a \\ b \end{pmatrix}
# = \begin{pmatrix} \langle s_1, x \rangle \\ \langle s_2, x \rangle \end{pmatrix} $$

# %%
mixture, sources = mix(voice.astype(np.float32), rain.astype(np.float32), snr_db=0.0)
wild = np.stack([-700 * sources[0] + 40 * sources[1], 0.002 * sources[1]])  # what a network might give
clean_wild = wild - wild.mean(axis=1, keepdims=True)
gains = np.linalg.solve(clean_wild @ clean_wild.T, clean_wild @ (mixture - mixture.mean()))
assert np.allclose(gains, fit_level(mixture, wild), rtol=1e-4)

restored = gains[:, None] * wild
assert np.abs(wild[0]).max() > 50 and np.abs(restored).max() < 1  # it fits into a file again
assert relative_error(restored.sum(axis=0), mixture) < 0.01
assert sdr(wild[0], sources[0]) < -50 and sdr(restored[0], sources[0]) > 20
companion.play(restored[0], rate, "speech, level restored")
companion.play(restored[1], rate, "noise, level restored")

# %% [markdown]
# The signs are right again as well. A common shortcut is to scale each output to a peak of 1. It loses both the sign
# and the relation of the two: they no longer add up to the mixture.

# %%
with companion.fails("each output scaled to its peak"):
    peaks = wild / np.abs(wild).max(axis=1, keepdims=True)
    assert relative_error(peaks.sum(axis=0), mixture) < 0.01, "speech and noise do not add up to the mixture"

# %% [markdown]
# ## The loss of the model
#
# `NegativeSISNR` is minus the mean SI-SNR over batch and sources: lower is better. (It can also weigh the sources, and
# score the sum of the estimates. We leave both at their defaults.) Its backward starts the whole chain. Each value has
# the gradient $-1 / (2B)$.

# %%
loss = NegativeSISNR()
value = loss.forward(x, target)
assert np.isclose(value, -y.mean())
dx = loss.backward()
assert relative_error(dx, loss_backward(np.full((3, 2), -1 / 6), cache)[0]) < 1e-10
assert relative_error(dx, numerical_gradient(lambda: NegativeSISNR().forward(x, target), x)) < 1e-6

# %% [markdown]
# ## Why no permutation search
#
# Conv-TasNet was made to separate two *speakers*. There, nobody can say who is the first. The training compares the
# outputs with the targets in both orders, and takes the better one (*permutation invariant training*). A denoiser has
# a first and a second: the speech is always target 0, the noise always target 1. We keep that order, and search for
# nothing.
#
# What goes wrong otherwise? We train a tiny network on just two mixtures, in three ways. (Adam, which makes the steps,
# and the clipping of gradients are the subject of tutorial 14.)
#
# - **fixed**: speech first, as this project does,
# - **random**: the order of the targets is drawn anew for each mixture and step, as if they had no meaning,
# - **best**: the better order is searched for each mixture and step.

# %%
pairs = [
    mix(companion.speech(1.0, rate, speaker=who), companion.noise(1.0, rate, name=what), 0.0)
    for who, what in (("english-british", "rain"), ("german", "fan"))
]
mixtures, targets = np.stack([pair[0] for pair in pairs]), np.stack([pair[1] for pair in pairs])
tiny = Config(filters=32, bottleneck=16, hidden=32, skip=16, blocks=4, repeats=1)


def train(order, seed):
    """SI-SNR of output 0 and 1 against speech and noise, step by step: (steps, 2 mixtures, 2 sources)."""
    model, loss = ConvTasNet(tiny, seed=seed), NegativeSISNR()
    optimizer, draw, history = Adam(model.params, learning_rate=1e-2), np.random.default_rng(seed), []
    for step in range(int(100 * companion.SCALE)):
        estimates, wanted = model.forward(mixtures), targets.copy()
        for i in range(2):
            swapped = targets[i, ::-1]
            better = si_snr(estimates[i], swapped).mean() > si_snr(estimates[i], targets[i]).mean()
            if (order == "random" and draw.random() < 0.5) or (order == "best" and better):
                wanted[i] = swapped
        loss.forward(estimates, wanted)
        model.backward(loss.backward())
        grads = model.grads
        clip_gradients(grads, 5.0)
        optimizer.step(grads)
        history.append(si_snr(estimates, targets))
    return np.array(history)


runs = {order: train(order, seed=1) for order in ("fixed", "random", "best")}
fig, axes = plt.subplots(1, 3, sharey=True, figsize=(9, 3.2))
for ax, (order, history) in zip(axes, runs.items()):
    for i, style in enumerate(("-", "--")):
        ax.plot(history[:, i, 0], style, label=f"mixture {i + 1}")
    ax.set(title=f"order: {order}", xlabel="step")
axes[0].set_ylabel("SI-SNR of output 0\nwith the speech (dB)")
axes[0].legend()
companion.show("three_orders")

fixed, random, best = (history[-1] for history in runs.values())
for order, history in runs.items():
    print(f"{order:6} order: output 0 has the speech with {history[-1, :, 0].round(1)} dB")

# %% [markdown]
# With the *fixed* order output 0 becomes the speech in both mixtures. With the *random* order each output is asked
# for the speech and for the noise in turn. The best that it can do is something between the two, which is the
# mixture: 0 dB, and nothing is learned. With the *best* order both mixtures are separated. But which output has the
# speech is up to chance. In one run it may be output 0 for one mixture and output 1 for the other. A user wants the
# speech, not "one of the two".

# %%
if companion.SCALE >= 1:
    assert fixed.min() > 5
    assert np.abs(random).max() < 3
    separated = (
        np.abs(best).min(axis=1) > 5
    )  # far above or far below 0 dB: separated, in one order or the other
    assert separated.all()
    with companion.fails("the better order is searched: which output is the speech?"):
        assert (best > 0).all(), (
            f"output 0 has the speech in {np.count_nonzero(best[:, 0] > 0)} of 2 mixtures"
        )

# %% [markdown]
# ## Where it sits in the model
#
# The loss stands behind the decoder. Its gradient is what `ConvTasNet.backward` takes. `tasnet_np/ops/si_snr.py` is
# the op, `tasnet_np/sound/metrics.py` the same measure for evaluation, and `tasnet_np/sound/level.py` restores the level when
# files are denoised.
#
# ## Exercises
#
# 1. Which SI-SNR does the mixture itself have, as an estimate of the speech, if it was mixed at 5 dB and the two
#    sources are perpendicular? Prove it with the projection, then check it on a mixture.
# 2. How many degrees are 10 dB? And 20 dB?
# 3. Delay the clean voice by a single sample, and measure its SI-SNR with the voice. Do the same with white noise.
#    What does this say about a model whose padding is off by one?
# 4. The plain SNR, $10 \log_{10} |s|^2 / |s - x|^2$, hears the level. Derive its gradient, check it, and show that it
#    is not perpendicular to $x$.
#
# Solutions: [solutions/13_si_snr.py](solutions/13_si_snr.py).
