# %% [markdown]
# # 14. SGD and Adam
#
# Minutes: 25. Before: [12. Conv-TasNet, whole](12_conv_tasnet.py), [13. SI-SNR, the loss](13_si_snr.py).
#
# What to do with a gradient once it is there: one step of SGD and one of Adam by hand, in the papers' letters; why
# Adam corrects a bias; and what clipping protects from.

# %%
import companion

import matplotlib.pyplot as plt
import numpy as np

from tasnet_np.ops.gradcheck import relative_error
from tasnet_np.network.layers import NegativeSISNR
from tasnet_np.corpus.mixing import mix
from tasnet_np.network.config import Config
from tasnet_np.network.execution import ConvTasNet
from tasnet_np.optimisation.optimisers import Adam, SGD, clip_gradients

COLOURS = companion.COLOURS
rate = 8000  # Hz
rng = np.random.default_rng(14)

# %%
companion.where("optimizer")

# %% [markdown]
# ## See it: a narrow valley
#
# The loss here has only two parameters, so we can draw it as a landscape. It is a valley: steep across, gentle along.
# Its lowest point is in the middle.
#
# $$ L(\theta) = \frac12 \left( \theta_1^2 + 50\, \theta_2^2 \right) \qquad g = \nabla L = (\theta_1,\ 50\, \theta_2) $$
#
# The gradient $g$ points uphill, as steeply as possible. The simplest idea is to go a little way against it. In a
# narrow valley that direction points mostly at the opposite wall. The figure shows 40 steps of three optimisers from
# one start.

# %%
steepness = np.array([1.0, 50.0])


def valley(theta):
    return 0.5 * (steepness * theta**2).sum()


def walk(make, steps=40):
    """The points that an optimiser visits from (-2, 0.5)."""
    params = {"theta": np.array([-2.0, 0.5])}
    optimizer, points = make(params), [params["theta"].copy()]
    for _ in range(steps):
        optimizer.step({"theta": steepness * params["theta"]})
        points.append(params["theta"].copy())
    return np.array(points)


walks = {
    "SGD": walk(lambda params: SGD(params, learning_rate=0.035)),
    "SGD with momentum 0.8": walk(lambda params: SGD(params, learning_rate=0.02, momentum=0.8)),
    "Adam": walk(lambda params: Adam(params, learning_rate=0.12)),
}
fig, axes = plt.subplots(3, sharex=True, figsize=(7.5, 6))
first, second = np.meshgrid(np.linspace(-2.3, 1, 200), np.linspace(-0.75, 0.75, 100))
levels = 0.5 * (first**2 + 50 * second**2)
for ax, (name, points) in zip(axes, walks.items()):
    ax.contour(first, second, levels, levels=np.geomspace(0.02, 14, 12), colors="#aaaaaa", linewidths=0.7)
    ax.plot(*points.T, ".-", color=COLOURS["blue"], linewidth=1)
    ax.plot(*points[0], "o", color=COLOURS["vermilion"])
    ax.plot(0, 0, "+", color="black", markersize=10)
    ax.set(
        title=f"{name}: loss {valley(points[-1]):.2g} after 40 steps",
        ylabel="$\\theta_2$",
        ylim=(-0.75, 0.75),
    )
    ax.grid(False)
axes[-1].set_xlabel("$\\theta_1$")
companion.show("valley")

ends = {name: valley(points[-1]) for name, points in walks.items()}
assert np.isclose(valley(np.array([-2.0, 0.5])), 8.25)
assert all(end < 0.2 for end in ends.values())

# %% [markdown]
# ## SGD
#
# *Stochastic gradient descent*. The parameters are $\theta$, the gradient at step $t$ is $g_t$, and $\eta$ is the learning
# rate:
#
# $$ \theta_t = \theta_{t-1} - \eta\, g_t $$
#
# Stochastic, as $g_t$ comes from a few examples drawn at random, not from all. One step from $\theta_0 = (-2, 0.5)$
# with $\eta = 0.035$, by hand: $g_1 = (-2,\ 25)$, so
#
# $$ \theta_1 = (-2 + 0.035 \cdot 2,\;\; 0.5 - 0.035 \cdot 25) = (-1.93,\ -0.375) $$

# %%
assert np.allclose(walks["SGD"][1], [-1.93, -0.375])

# %% [markdown]
# In each direction $g_i = k_i \theta_i$, with $k_i$ the steepness: 1 or 50. So the step multiplies $\theta_i$ by
# $1 - \eta\, k_i$. If that
# factor is below $-1$, the parameter swings to the other side and ends up farther away. So $\eta$ must stay below $2
# / 50 = 0.04$, for the sake of the steep direction. The gentle one then moves slowly: with $\eta = 0.035$ each step
# leaves 96.5 % of the way.

# %%
assert np.allclose(walks["SGD"][1:, 0] / walks["SGD"][:-1, 0], 0.965)
assert np.isclose(1 - 0.035 * 50, -0.75)
with companion.fails("a learning rate above 2 / 50"):
    end = valley(walk(lambda params: SGD(params, learning_rate=0.042))[-1])
    assert end < 8.25, f"the loss has grown from 8.25 to {end:.3g}"

# %% [markdown]
# ## Momentum
#
# Do not follow the gradient itself, but a running sum of it, $v$. Old gradients fade with the factor $\mu$:
#
# $$ v_t = \mu\, v_{t-1} + g_t \qquad \theta_t = \theta_{t-1} - \eta\, v_t \qquad v_0 = 0 $$
#
# Across the valley the gradients have changing signs and cancel in the sum. Along it they agree and add up. For a
# gradient that stays the same, $v$ grows to $g\,(1 + \mu + \mu^2 + \dots) = g / (1 - \mu)$: with $\mu = 0.8$, five
# times the step.

# %%
params = {"theta": np.zeros(1)}
optimizer = SGD(params, learning_rate=1.0, momentum=0.8)
for _ in range(100):
    before = params["theta"].copy()
    optimizer.step({"theta": np.ones(1)})
assert np.isclose(before - params["theta"], 1 / (1 - 0.8))
assert np.isclose(1 / (1 - 0.8), 5)

# %% [markdown]
# ## Adam
#
# The two directions of the valley need two learning rates. Adam (Kingma and Ba, 2015) gives every parameter its own.
# It keeps two running means: $m$ of the gradient, and $v$ of its square. All operations are element by element.
#
# $$ \begin{aligned}
# m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t & m_0 &= 0 \\
# v_t &= \beta_2 v_{t-1} + (1 - \beta_2)\, g_t^2 & v_0 &= 0 \\
# \hat{m}_t &= m_t / (1 - \beta_1^t) \\
# \hat{v}_t &= v_t / (1 - \beta_2^t) \\
# \theta_t &= \theta_{t-1} - \alpha\, \hat{m}_t / (\sqrt{\hat{v}_t} + \epsilon)
# \end{aligned} $$
#
# These are the paper's letters: $\alpha$ is the learning rate. Its values are $\alpha = 0.001$, $\beta_1 = 0.9$,
# $\beta_2 = 0.999$ and $\epsilon = 10^{-8}$, and the library has the same.

# %%
defaults = Adam({"theta": np.zeros(1)})
assert (defaults.learning_rate, defaults.betas, defaults.eps) == (0.001, (0.9, 0.999), 1e-8)

# %% [markdown]
# **One step by hand.** Let $\theta_0 = 1$ and $g_1 = 4$. Then
#
# $$ \begin{aligned}
# m_1 &= 0.9 \cdot 0 + 0.1 \cdot 4 = 0.4 & \hat{m}_1 &= 0.4 / (1 - 0.9) = 4 \\
# v_1 &= 0.999 \cdot 0 + 0.001 \cdot 16 = 0.016 & \hat{v}_1 &= 0.016 / (1 - 0.999) = 16 \\
# \theta_1 &= 1 - 0.001 \cdot 4 / \sqrt{16} = 0.999
# \end{aligned} $$

# %%
params = {"theta": np.array([1.0])}
optimizer = Adam(params)
optimizer.step({"theta": np.array([4.0])})
assert np.isclose(optimizer.m["theta"], 0.4) and np.isclose(optimizer.v["theta"], 0.016)
assert np.isclose(params["theta"], 0.999)

# %% [markdown]
# The first step has the size $\alpha$, whatever the gradient is: $\hat{m}_1 / \sqrt{\hat{v}_1} = g / |g| = \pm 1$.
# This is what makes Adam so easy to use. A thousand times the loss, or a thousandth, gives the same steps (but for
# $\epsilon$).

# %%
for scale in (1e-3, 1.0, 1e3):
    params = {"theta": np.array([1.0, 1.0])}
    Adam(params, learning_rate=0.01).step({"theta": scale * np.array([4.0, -0.3])})
    assert np.allclose(params["theta"], [0.99, 1.01], atol=1e-6)

# %% [markdown]
# ## Why the hats: the bias of a running mean
#
# $m$ starts at 0, so at first it is too small. By how much? Unroll the recursion:
#
# $$ \begin{aligned}
# m_1 &= (1 - \beta)\, g_1 \\
# m_2 &= (1 - \beta)\, (\beta g_1 + g_2) \\
# m_t &= (1 - \beta) \sum_{i=1}^{t} \beta^{t-i} g_i
# \end{aligned} $$
#
# The gradients are random draws. Take the expected value $\mathbb{E}$, the mean over all draws, and let all gradients
# have the same one, $\mathbb{E}[g]$. With the geometric sum
# $\sum_{i=1}^{t} \beta^{t-i} = (1 - \beta^t) / (1 - \beta)$:
#
# $$ \mathbb{E}[m_t] = (1 - \beta) \cdot \frac{1 - \beta^t}{1 - \beta} \cdot \mathbb{E}[g] = (1 - \beta^t)\, \mathbb{E}[g] $$
#
# So dividing by $1 - \beta^t$ makes it right. The same holds for $v$ and $g^2$. For a constant gradient, $\hat{m}$ and
# $\hat{v}$ are exact from the first step on. We check the unrolled sum, that its weights add up to $1 - \beta^t$, and
# the constant gradient.

# %%
beta, gradients, m = 0.9, rng.standard_normal(30), 0.0
for g in gradients:
    m = beta * m + (1 - beta) * g
weights = (1 - beta) * beta ** np.arange(29, -1, -1)
assert np.isclose(m, weights @ gradients)
assert np.isclose(weights.sum(), 1 - beta**30)

constant = Adam({"theta": np.zeros(1)})
for t in range(1, 6):
    constant.step({"theta": np.full(1, 3.0)})
    assert np.isclose(constant.m["theta"] / (1 - 0.9**t), 3.0)
    assert np.isclose(constant.v["theta"] / (1 - 0.999**t), 9.0)

# %% [markdown]
# Without the hats, $m$ and $\sqrt{v}$ are both too small. But $\sqrt{v}$ is so by far more, as $\beta_2$ is nearer to
# 1. So the first step is too *large*: $0.1 / \sqrt{0.001} = 3.2$ times. It gets worse, and stays too large for
# hundreds of steps. The figure shows the step for a constant gradient. With the hats it is 1 throughout.

# %%
t = np.arange(1, 2001)
without_hats = (1 - 0.9**t) / np.sqrt(1 - 0.999**t)
fig, ax = plt.subplots()
ax.semilogx(t, without_hats, label="without bias correction")
ax.semilogx(t, np.ones_like(without_hats), label="with")
ax.set(xlabel="step t", ylabel="size of the step\n(learning rates)", ylim=(0, 7))
ax.legend()
companion.show("bias_correction")

assert round(without_hats[0], 1) == 3.2
assert 6 < without_hats.max() < 7 and 5 < t[without_hats.argmax()] < 30
assert without_hats[499] > 1.5

# %% [markdown]
# ## In NumPy


# %%
class MyAdam:
    def __init__(self, params, alpha=0.001, beta1=0.9, beta2=0.999, eps=1e-8):
        self.params, self.settings, self.t = params, (alpha, beta1, beta2, eps), 0
        self.m = {name: np.zeros_like(theta) for name, theta in params.items()}
        self.v = {name: np.zeros_like(theta) for name, theta in params.items()}

    def step(self, grads):
        alpha, beta1, beta2, eps = self.settings
        self.t += 1
        for name, g in grads.items():
            self.m[name] = beta1 * self.m[name] + (1 - beta1) * g
            self.v[name] = beta2 * self.v[name] + (1 - beta2) * g**2
            m_hat = self.m[name] / (1 - beta1**self.t)
            v_hat = self.v[name] / (1 - beta2**self.t)
            self.params[name] -= alpha * m_hat / (np.sqrt(v_hat) + eps)


class MySGD:
    def __init__(self, params, eta=0.01, mu=0.0):
        self.params, self.eta, self.mu = params, eta, mu
        self.v = {name: np.zeros_like(theta) for name, theta in params.items()}

    def step(self, grads):
        for name, g in grads.items():
            self.v[name] = self.mu * self.v[name] + g
            self.params[name] -= self.eta * self.v[name]


# %% [markdown]
# Both follow the library's step by step, for 50 steps with random gradients.


# %%
def after_50_steps(make):
    params = {"w": np.ones((3, 4)), "b": np.zeros(4)}
    optimizer, draw = make(params), np.random.default_rng(1)
    for _ in range(50):
        optimizer.step({name: draw.standard_normal(theta.shape) for name, theta in params.items()})
    return params


def same(mine, library):
    one, other = after_50_steps(mine), after_50_steps(library)
    return max(relative_error(one[name], other[name]) for name in one)


assert same(MyAdam, Adam) < 1e-10
assert same(lambda params: MySGD(params, 0.1, 0.9), lambda params: SGD(params, 0.1, momentum=0.9)) < 1e-10

# %% [markdown]
# ## Break it: three bugs in Adam
#
# The bias is not corrected. The step counter starts at 0, so that $1 - \beta^0 = 0$. And $g$ in place of $g^2$ in
# $v$, whose root is then NaN.


# %%
class NoHats(MyAdam):
    def step(self, grads):
        self.t = 10**6  # beta^t is 0: nothing is corrected
        super().step(grads)


class CountsFromZero(MyAdam):
    def step(self, grads):
        self.t -= 1 if self.t == 0 else 0
        super().step(grads)


class NoSquare(MyAdam):
    def step(self, grads):
        kept = {name: v.copy() for name, v in self.v.items()}
        super().step(grads)
        for name, g in grads.items():
            self.v[name] = self.settings[2] * kept[name] + (1 - self.settings[2]) * g


for broken, why in (
    (NoHats, "no bias correction"),
    (CountsFromZero, "t starts at 0"),
    (NoSquare, "g in place of g^2"),
):
    with companion.fails(why), np.errstate(all="ignore"):
        error = same(broken, Adam)
        assert error < 1e-10, f"relative error {error:.2g}"

# %% [markdown]
# ## Clipping
#
# Now and then a batch has a huge gradient. SI-SNR makes that likely: its gradient is divided by the energy of what is
# left of the error, so a nearly perfect estimate has a steep slope (tutorial 13). One such step could undo the work
# of many. The remedy is to limit the *norm*, taken over all arrays together:
#
# $$ |g| = \sqrt{\sum_{\text{arrays}} \sum_i g_i^2} \qquad g \leftarrow g \cdot \min\left( 1,\ \frac{\text{max norm}}{|g|} \right) $$
#
# The direction stays, and only the length changes.

# %%
grads = {"w": rng.standard_normal((3, 4)), "b": 100 * rng.standard_normal(4)}
before = np.concatenate([g.ravel() for g in grads.values()])
norm = clip_gradients(grads, max_norm=5.0)
after = np.concatenate([g.ravel() for g in grads.values()])
assert np.isclose(norm, np.linalg.norm(before)) and norm > 5
assert np.isclose(np.linalg.norm(after), 5.0)
assert np.isclose((before @ after) / np.linalg.norm(before) / np.linalg.norm(after), 1)  # the same direction

small = {"w": np.array([3.0, 4.0])}
assert clip_gradients(small, max_norm=5.5) == 5 and (small["w"] == [3, 4]).all()  # nothing to do

# %% [markdown]
# Break it: each array by itself. The large one is cut down, the small one stays, and the direction is another one.


# %%
def clip_each(grads, max_norm):
    return {name: g * min(1, max_norm / np.linalg.norm(g)) for name, g in grads.items()}


grads = {"w": rng.standard_normal((3, 4)), "b": 100 * rng.standard_normal(4)}
before = np.concatenate([g.ravel() for g in grads.values()])
after = np.concatenate([g.ravel() for g in clip_each(grads, 5.0).values()])
with companion.fails("each array is clipped by itself"):
    cosine = (before @ after) / np.linalg.norm(before) / np.linalg.norm(after)
    assert np.isclose(cosine, 1), f"cosine {cosine:.3f}"

# %% [markdown]
# With plain SGD, clipping limits the step. With Adam, the size of the gradient cancels anyway, so a clipped step is
# not shorter just because of the clipping. What counts is the memory: unclipped, one huge gradient stays in $v$ for
# thousands of steps and makes all of them tiny (exercise 4). We let a gradient of 1 come for 1100 steps, with a single
# outlier of 1000 at step 500, and ask how far the parameter gets in the last 500 steps.


# %%
def distance_covered(clip):
    """How far Adam gets in the last 500 steps, in learning rates."""
    params = {"theta": np.zeros(1)}
    optimizer = Adam(params, learning_rate=1.0)
    for step in range(1100):
        if step == 600:
            start = params["theta"].copy()
        grads = {"theta": np.array([1000.0 if step == 500 else 1.0])}
        if clip:
            clip_gradients(grads, 5.0)
        optimizer.step(grads)
    return abs(params["theta"] - start).item()


clipped, unclipped = distance_covered(clip=True), distance_covered(clip=False)
print(f"500 steps cover {clipped:.0f} learning rates with clipping, {unclipped:.0f} without")
assert clipped > 400 and unclipped < 50

# %% [markdown]
# ## Where it sits in the model: SGD and Adam on a real one
#
# The parameters of a Conv-TasNet differ as much as the two of our valley. Here are the sizes of the gradients, array
# by array, on the first batch of a small network. In one array the elements have more than twenty times the gradient
# of those in another. A single learning rate cannot suit both.

# %%
config = Config(filters=32, bottleneck=16, hidden=32, skip=16, blocks=4, repeats=1)
pairs = [
    mix(companion.speech(1.0, rate, speaker=who), companion.noise(1.0, rate, name=what), 0.0)
    for who, what in (("english-british", "rain"), ("german", "fan"))
]
mixtures, targets = np.stack([pair[0] for pair in pairs]), np.stack([pair[1] for pair in pairs])


def train(make, clip=5.0):
    """Losses and gradient norms, step by step, on the same two mixtures."""
    model, loss = ConvTasNet(config, seed=0), NegativeSISNR()
    optimizer, losses, norms = make(model.params), [], []
    for step in range(int(60 * companion.SCALE)):
        losses.append(loss.forward(model.forward(mixtures), targets))
        model.backward(loss.backward())
        grads = model.grads
        norms.append(clip_gradients(grads, clip))
        optimizer.step(grads)
    return np.array(losses), np.array(norms)


model, loss = ConvTasNet(config, seed=0), NegativeSISNR()
loss.forward(model.forward(mixtures), targets)
model.backward(loss.backward())
sizes = sorted(np.sqrt((g**2).mean()) for g in model.grads.values())
fig, ax = plt.subplots()
ax.semilogy(sizes, ".", color=COLOURS["blue"])
ax.set(xlabel="arrays of the model, sorted", ylabel="gradient (RMS)", title="one batch, before training")
companion.show("sizes_of_gradients")
print(f"gradients from {sizes[0]:.1g} to {sizes[-1]:.1g}")
assert sizes[-1] > 20 * sizes[0]

# %% [markdown]
# Which optimiser is better? A fair comparison gives each its own best learning rate, so we train with four rates
# each. All runs overfit two mixtures in 60 steps, which says nothing about new recordings. It compares the
# optimisers.

# %%
kinds = {  # optimiser, its settings, learning rates to try
    "SGD": (SGD, {}, (0.03, 0.1, 0.3, 1.0)),
    "SGD with momentum": (SGD, {"momentum": 0.9}, (0.01, 0.03, 0.1, 0.3)),
    "Adam": (Adam, {}, (0.003, 0.01, 0.03, 0.1)),
}
best = {}
fig, (ax, curves) = plt.subplots(1, 2, figsize=(8.6, 3.3))
for (name, (optimizer, settings, rates)), marker in zip(kinds.items(), "os^"):
    runs = [train(lambda params: optimizer(params, learning_rate=eta, **settings)) for eta in rates]
    ends = [losses[-5:].mean() for losses, _ in runs]  # the last five steps
    best[name] = min(ends)
    ax.semilogx(rates, ends, marker=marker, label=name)
    curves.plot(runs[int(np.argmin(ends))][0], label=name)
    print(f"{name:18} best loss {best[name]:6.1f} dB at the rate {rates[int(np.argmin(ends))]}")
ax.set(xlabel="learning rate", ylabel="loss (dB): minus SI-SNR", title="at the end")
curves.set(xlabel="step", title="with the best rate of each")
curves.legend()
companion.show("three_optimisers")

if companion.SCALE >= 1:
    assert best["SGD with momentum"] < best["SGD"] - 1
    assert best["Adam"] < best["SGD with momentum"]

# %% [markdown]
# Momentum is better than plain SGD, and Adam is ahead of both. But how good each of them is depends on its rate, as the
# left figure shows: a comparison at one rate for all would say little. Note the size of Adam's rate, too.
# It is a length, the distance that a parameter moves in a step. For SGD it is a factor of the gradient.
#
# ## Break it: gradients that add up
#
# Some frameworks add each new gradient to the old one, until somebody calls `zero_grad`. Whoever forgets it follows
# the sum of all gradients since the beginning. (One published denoiser was trained that way.) In this project a
# backward pass *sets* the gradients, so there is nothing to forget. With SGD, the sum of all gradients is momentum
# with $\mu = 1$: in the valley it never comes to rest.


# %%
def add_up(steps, learning_rate=0.02):
    theta, total, losses = np.array([-2.0, 0.5]), np.zeros(2), []
    for _ in range(steps):
        total += steepness * theta  # zero_grad is missing
        theta -= learning_rate * total
        losses.append(valley(theta))
    return np.array(losses)


momentum_1 = walk(lambda params: SGD(params, learning_rate=0.02, momentum=1.0), steps=300)
assert np.allclose(add_up(300), [valley(point) for point in momentum_1[1:]])
assert valley(walk(lambda params: SGD(params, learning_rate=0.02), steps=300)[-1]) < 1e-4
with companion.fails("zero_grad is missing"):
    worst = add_up(300)[-100:].max()
    assert worst < 1e-4, f"the loss still reaches {worst:.2g}"

# %% [markdown]
# ## Exercises
#
# 1. Adam gets the gradients 1, -1, 1, -1, ... How large are its steps after many of them? And with 1, 1, 1, ...? What
#    does that mean for a parameter whose gradient is nothing but noise?
# 2. In `valley`, which learning rate is best for plain SGD? Minimise the larger of $|1 - \eta|$ and $|1 - 50 \eta|$
#    by hand, and check it.
# 3. *Weight decay*: the library adds $\lambda \theta$ to $g$ before Adam's formulas. Show that with $g = 0$ the first
#    step has the size $\alpha$, whatever $\lambda$ is. Is that the decay one would expect?
# 4. An outlier of 1000 stays in $v$. After how many steps has its share in $v$ fallen below that of gradients of 1?
#    Compute it from $\beta_2$.
#
# Solutions: [solutions/14_optimizers.py](solutions/14_optimizers.py).
