# %% [markdown]
# # 8. Global layer norm
#
# Minutes: 25. Before: [2. Checking a gradient](02_checking_gradients.py), [4. Pointwise convolution](04_pointwise.py).
#
# You derive the backward pass of a normalisation term by term, see each term appear in a measured gradient,
# and understand the result as geometry: two directions are taken out of the gradient.

# %%
import companion

import matplotlib.pyplot as plt
import numpy as np

from tasnet_np.ops.gradcheck import check_gradients, numerical_gradient, relative_error
from tasnet_np.sound.level import at_level
from tasnet_np.network.config import Config
from tasnet_np.network.execution import ConvTasNet
from tasnet_np.ops.frame_statistics import EPS
from tasnet_np.ops.norms import (
    global_layer_norm_backward,
    global_layer_norm_forward,
    global_layer_norm_forward_ref,
)

COLOURS = companion.COLOURS
rate = 8000  # Hz
rng = np.random.default_rng(8)

# %% [markdown]
# A block has two norms. One stands after each PReLU. A third kind of place is right behind the encoder.

# %%
companion.where("norm", "norm1", "norm2")

# %% [markdown]
# ## See it: one voice, two levels
#
# Somebody speaks close to the microphone, then far from it. The words are the same. The second recording is
# 20 dB lower, so every sample is ten times smaller.

# %%
near = companion.speech(1.5, rate)
far = at_level(near, -45)
companion.play(near, rate, "near: -25 dBFS")
companion.play(far, rate, "far: -45 dBFS")
assert np.allclose(near, 10 * far, rtol=1e-4)

# %% [markdown]
# The encoder turns each into frames `x` of shape `(B, C, T)`: batch, channels, frames. It is linear, so these
# frames differ by the factor ten, too. A network that should do the same for both would have to learn every
# voice at every level.
#
# A layer norm removes the level. The figure counts the entries of `x` by their value. Before the norm the two
# recordings give two histograms. After it they give one.

# %%
encoder = ConvTasNet(Config(), seed=0).encoder
gamma, beta = np.ones(128, np.float32), np.zeros(128, np.float32)
frames = {name: encoder.forward(sound[None]) for name, sound in (("near", near), ("far", far))}
normed = {name: global_layer_norm_forward(x, gamma, beta)[0] for name, x in frames.items()}

fig, (before, after) = plt.subplots(1, 2, sharey=True)
for name, line, colour in (("near", "-", "blue"), ("far", "--", "vermilion")):
    style = {"histtype": "step", "linestyle": line, "color": COLOURS[colour], "label": name, "linewidth": 1.6}
    before.hist(frames[name].ravel(), bins=np.linspace(-0.3, 0.3, 121), **style)
    after.hist(normed[name].ravel(), bins=np.linspace(-10, 10, 121), **style)
before.set(title="before the norm", xlabel="value of an entry of x", ylabel="entries", yscale="log")
after.set(title="after the norm", xlabel="value of an entry of y")
before.legend()
after.legend()
companion.show("near_and_far")

assert frames["near"].std() > 9 * frames["far"].std()
assert relative_error(normed["far"], normed["near"]) < 1e-3  # eps is all that is left
for y in normed.values():
    assert abs(y.mean()) < 1e-4 and abs(y.std() - 1) < 1e-2

# %% [markdown]
# ## The formula
#
# *Global* means: one mean and one variance for a whole recording, over all its channels and all its frames.
# Let $n = C\,T$ be the number of entries $x[c, t]$ of one recording. Each recording of a batch is treated by
# itself.
#
# $$ m = \frac{1}{n} \sum_{c,t} x[c, t] \qquad v = \frac{1}{n} \sum_{c,t} (x[c, t] - m)^2 \qquad
# r = \frac{1}{\sqrt{v + \epsilon}} $$
#
# $$ \hat{x}[c, t] = (x[c, t] - m)\, r \qquad y[c, t] = \gamma[c]\, \hat{x}[c, t] + \beta[c] $$
#
# $\hat{x}$ has mean 0 and variance 1. Then each channel gets back a scale $\gamma[c]$ and a shift $\beta[c]$,
# which are learned. They start as 1 and 0. The paper (Eq. 9 to 11) calls this gLN.
#
# The small $\epsilon = 10^{-8}$ is there for silence. Then $v = 0$, and $r$ is $10^4$ instead of infinite.

# %%
silence = np.zeros((1, 2, 5))
y, (_, statistics, _) = global_layer_norm_forward(silence, np.ones(2), np.zeros(2))
assert EPS == 1e-8
assert np.isclose(statistics.r, 1e4).all()
assert (y == 0).all()

# %% [markdown]
# ## The backward pass, the easy part
#
# Let $L$ be the loss. We are given $dy[c, t] = \partial L / \partial y[c, t]$, and we want $d\gamma$, $d\beta$
# and $dx$, named in the same way.
#
# $y = \gamma \hat{x} + \beta$ is linear in $\gamma[c]$ and in $\beta[c]$. Each of them is used in all $T$
# frames, so each collects a sum over frames (and over the batch):
#
# $$ d\gamma[c] = \sum_t dy[c, t]\, \hat{x}[c, t] \qquad d\beta[c] = \sum_t dy[c, t] $$
#
# The gradient of $\hat{x}$ gets a name of its own, because it is used often:
#
# $$ g[c, t] = \frac{\partial L}{\partial \hat{x}[c, t]} = \gamma[c]\, dy[c, t] $$

# %% [markdown]
# ## The backward pass, the part with three paths
#
# The channel has no further role in $\hat{x} = (x - m)\,r$. So we number all $n$ entries with one index $i$.
# Entry $x_i$ reaches the loss on three paths:
#
# 1. directly, as the $x_i$ in $\hat{x}_i = (x_i - m)\, r$,
# 2. through the mean $m$, which is used in every $\hat{x}_j$,
# 3. through the variance $v$, which is used in every $\hat{x}_j$, inside $r$.
#
# The chain rule says: add up the paths.
#
# $$ dx_i = g_i \cdot \frac{\partial \hat{x}_i}{\partial x_i} + dm \cdot \frac{\partial m}{\partial x_i}
# + dv \cdot \frac{\partial v}{\partial x_i} $$
#
# Here $dm$ and $dv$ are the gradients of $L$ with respect to $m$ and $v$. Four small derivatives are missing.
#
# **Path 1.** With $m$ and $r$ held fixed, $\hat{x}_i$ is $x_i$ times $r$:
#
# $$ \frac{\partial \hat{x}_i}{\partial x_i} = r $$
#
# **Path 2.** $m$ is a mean, so every entry has the same share in it. And $m$ is used with a minus in every
# $\hat{x}_j$:
#
# $$ \frac{\partial m}{\partial x_i} = \frac1n \qquad
# dm = \sum_j g_j \frac{\partial \hat{x}_j}{\partial m} + dv \frac{\partial v}{\partial m}
# = -r \sum_j g_j + dv \frac{\partial v}{\partial m} $$
#
# $v$ contains $m$ as well. But that derivative is zero, because deviations from the mean sum to zero:
#
# $$ \frac{\partial v}{\partial m} = -\frac2n \sum_j (x_j - m) = 0 $$
#
# **Path 3.** For $r = (v + \epsilon)^{-1/2}$ the power rule gives
#
# $$ \frac{\partial r}{\partial v} = -\frac12 (v + \epsilon)^{-3/2} = -\frac12 r^3 $$
#
# so that, with $x_j - m = \hat{x}_j / r$,
#
# $$ dv = \sum_j g_j\, (x_j - m) \cdot \left( -\frac12 r^3 \right) = -\frac12 r^2 \sum_j g_j \hat{x}_j $$
#
# and, with $m$ held fixed,
#
# $$ \frac{\partial v}{\partial x_i} = \frac2n (x_i - m) = \frac{2 \hat{x}_i}{r\, n} $$
#
# **Together.** Put all of it into the sum of the three paths:
#
# $$ \begin{aligned}
# dx_i &= g_i\, r - r \sum_j g_j \cdot \frac1n
#         - \frac12 r^2 \sum_j g_j \hat{x}_j \cdot \frac{2 \hat{x}_i}{r\, n} \\
#      &= r \left( g_i - \frac1n \sum_j g_j - \hat{x}_i \cdot \frac1n \sum_j g_j \hat{x}_j \right)
# \end{aligned} $$
#
# The sums divided by $n$ are means, and we are done:
#
# $$ dx = r \left( g - \text{mean}(g) - \hat{x} \cdot \text{mean}(g\, \hat{x}) \right) $$

# %% [markdown]
# ## Measure each path
#
# A derivation can be checked term by term. We hold some paths fixed and let others move. Finite differences
# then show what each path adds. First a small example in float64. $\gamma$ is random, not 1, and so is the
# upstream gradient.

# %%
C, T = 3, 4
n = C * T
x = rng.standard_normal((1, C, T)) * 2 + 1
gamma, beta = rng.standard_normal(C), rng.standard_normal(C)
dy = rng.standard_normal((1, C, T))

m, v = x.mean(), x.var()
r = 1 / np.sqrt(v + EPS)
xhat = (x - m) * r
g = gamma[:, None] * dy


def loss(m, v):
    """L = sum(dy * y), with a mean and a variance of our choice. It reads the array x from outside."""
    return (dy * (gamma[:, None] * (x - m) / np.sqrt(v + EPS) + beta[:, None])).sum()


# %% [markdown]
# Path 1 alone: `m` and `v` are numbers that stay as they are while `x` moves. The gradient is $r g$.

# %%
path_1 = numerical_gradient(lambda: loss(m, v), x)
assert relative_error(r * g, path_1) < 1e-8

# %% [markdown]
# Let the mean move as well (inside $\hat{x}$; `v` is still fixed). Now mean(g) is gone.

# %%
paths_1_and_2 = numerical_gradient(lambda: loss(x.mean(), v), x)
assert relative_error(r * (g - g.mean()), paths_1_and_2) < 1e-8

# %% [markdown]
# Let the variance move, too. The third term appears.

# %%
all_paths = numerical_gradient(lambda: loss(x.mean(), x.var()), x)
assert relative_error(r * (g - g.mean() - xhat * (g * xhat).mean()), all_paths) < 1e-8

# %% [markdown]
# We also said that the mean inside the variance does not matter. Indeed, moving `m` a little away from the
# mean leaves `v` as it is, up to the square of that little.

# %%
little = 1e-3
moved_v = ((x - (m + little)) ** 2).mean()
assert np.isclose(moved_v - v, little**2, rtol=1e-6)

# %% [markdown]
# ## What the formula means
#
# Think of the $n$ entries as one vector. Add the same number to all entries: $\hat{x}$ does not change.
# Multiply all by the same positive number: it does not change either (we leave out $\epsilon$ here). So the loss is
# flat in two directions, $(1, 1, \dots, 1)$ and $x$ itself. As $x = m + \hat{x} / r$, a step along $\hat{x}$ is a
# step along $x$ and one along the ones. So we may say: flat along the ones and along $\hat{x}$, which are
# perpendicular. A gradient has no part in a direction in which the loss is flat.
#
# That is what the two terms do. Subtracting mean(g) takes out the part of $g$ along the ones. The last term
# takes out the part along $\hat{x}$: the length of $\hat{x}$ is $\sqrt{n}$, so
# $\frac{1}{n} \sum g \hat{x}$ is the coefficient of that projection. What is left is perpendicular to both.

# %%
dx = r * (g - g.mean() - xhat * (g * xhat).mean())
assert np.isclose(np.sqrt((xhat**2).sum()), np.sqrt(n))
assert abs(xhat.sum()) < 1e-12  # xhat is perpendicular to the ones
assert abs(dx.sum()) < 1e-12
assert abs((dx * xhat).sum()) < 1e-7  # zero but for eps, which makes a norm not quite blind to scale

# %% [markdown]
# With three entries we can draw it. Every $\hat{x}$ has mean zero, so it lies in a plane. Its length is
# $\sqrt3$, so it lies on a circle in that plane. We look at the plane from above: the direction of the ones
# points at us, and subtracting mean(g) has already pressed $g$ flat onto the plane. Moving $\hat{x}$ outwards
# is impossible. Only the part of $g$ along the circle is left, and times $r$ it is $dx$.

# %%
axis_1, axis_2 = np.array([1, -1, 0]) / np.sqrt(2), np.array([1, 1, -2]) / np.sqrt(6)


def seen_from_above(vector):
    return np.array([vector @ axis_1, vector @ axis_2])


three = np.array([2.0, -0.9, -0.3])
xhat3 = (three - three.mean()) / three.std()
g3 = np.array([1.3, 0.65, -0.75])
flat3 = g3 - g3.mean()
outward3 = xhat3 * (g3 * xhat3).mean()
left3 = flat3 - outward3

fig, ax = plt.subplots(figsize=(5, 4.4))
ax.add_patch(plt.Circle((0, 0), np.sqrt(3), fill=False, color="black", linestyle=":"))
start = seen_from_above(xhat3)
arrows = (
    (np.zeros(2), xhat3, "black", "$\\hat{x}$", (0.7, 0.05)),
    (start, flat3, "blue", "$g$ − mean($g$)", (2.15, 1.95)),
    (start, outward3, "orange", "outwards:\ntaken out", (2.5, 0.5)),
    (start, left3, "vermilion", "along the circle:\n$dx\\,/\\,r$, what is left", (-0.75, 1.95)),
)
for origin, vector, colour, text, place in arrows:
    ax.annotate(
        "",
        xy=origin + seen_from_above(vector),
        xytext=origin,
        arrowprops={
            "arrowstyle": "-|>",
            "color": COLOURS[colour],
            "linewidth": 2,
            "shrinkA": 0,
            "shrinkB": 0,
        },
    )
    ax.text(*place, text)
ax.set(xlim=(-2, 3.8), ylim=(-2, 2.6), aspect="equal", title="three entries: the plane of mean zero")
ax.set(xlabel="$(x_1 - x_2)\\,/\\,\\sqrt{2}$", ylabel="$(x_1 + x_2 - 2 x_3)\\,/\\,\\sqrt{6}$")
companion.show("on_a_circle")

assert np.isclose(np.linalg.norm(start), np.sqrt(3))
assert abs(left3 @ xhat3) < 1e-12 and abs(left3.sum()) < 1e-12

# %% [markdown]
# ## In NumPy
#
# The whole norm, both directions. `axis=(1, 2)` is "all channels and frames, each recording by itself".


# %%
def norm_forward(x, gamma, beta, eps=EPS):
    m = x.mean(axis=(1, 2), keepdims=True)  # (B, 1, 1)
    v = ((x - m) ** 2).mean(axis=(1, 2), keepdims=True)
    r = 1 / np.sqrt(v + eps)
    xhat = (x - m) * r  # (B, C, T)
    return gamma[:, None] * xhat + beta[:, None], (xhat, r, gamma)


def norm_backward(dy, cache):
    xhat, r, gamma = cache
    g = gamma[:, None] * dy
    mean_g = g.mean(axis=(1, 2), keepdims=True)
    mean_gx = (g * xhat).mean(axis=(1, 2), keepdims=True)
    dx = r * (g - mean_g - xhat * mean_gx)
    return dx, (dy * xhat).sum(axis=(0, 2)), dy.sum(axis=(0, 2))


# %% [markdown]
# It equals the library's op, forward and backward, on a batch of three.

# %%
x = rng.standard_normal((3, 5, 9)) * 2 + 1
gamma, beta, dy = rng.standard_normal(5), rng.standard_normal(5), rng.standard_normal((3, 5, 9))

y, cache = norm_forward(x, gamma, beta)
library_y, library_cache = global_layer_norm_forward(x, gamma, beta)
assert relative_error(y, library_y) < 1e-12

gradients = norm_backward(dy, cache)
for mine, library in zip(gradients, global_layer_norm_backward(dy, library_cache), strict=True):
    assert relative_error(mine, library) < 1e-12

# %% [markdown]
# And it passes the check of tutorial 2: every element of every array, against central differences.

# %%
assert check_gradients(norm_forward, norm_backward, [x, gamma, beta], {}) < 1e-6

# %% [markdown]
# ## Break it: a term is missing
#
# Each of the three terms of $dx$ is easily forgotten. So is $\gamma$ inside $g$. We plant each of these bugs,
# and the check catches each.


# %%
def buggy_backward(bug):
    def backward(dy, cache):
        xhat, r, gamma = cache
        g = dy if bug == "gamma" else gamma[:, None] * dy
        mean_g = 0 if bug == "mean(g)" else g.mean(axis=(1, 2), keepdims=True)
        mean_gx = 0 if bug == "mean(g xhat)" else (g * xhat).mean(axis=(1, 2), keepdims=True)
        return r * (g - mean_g - xhat * mean_gx), (dy * xhat).sum(axis=(0, 2)), dy.sum(axis=(0, 2))

    return backward


BUGS = ("gamma", "mean(g)", "mean(g xhat)")
for bug in BUGS:
    with companion.fails(f"dx without {bug}"):
        error = check_gradients(norm_forward, buggy_backward(bug), [x, gamma, beta], {})
        assert error < 1e-6, f"relative error {error:.2g}"

# %% [markdown]
# ## Break the check: a test that sees nothing
#
# A tempting test is the loss "sum of all outputs", at the start of training, where $\gamma = 1$ and
# $\beta = 0$. Then $g = 1$ everywhere. The outputs always sum to zero, so the true gradient is zero. Two of
# the three bugs give zero as well: mean(1) = 1 cancels the 1, and mean of $\hat{x}$ is 0. This test would
# have passed them.

# %%
ones, dy_ones = np.ones(5), np.ones_like(x)
_, cache_ones = norm_forward(x, ones, np.zeros(5))
wrong_by = {bug: np.abs(buggy_backward(bug)(dy_ones, cache_ones)[0]).max() for bug in BUGS}
assert np.abs(norm_backward(dy_ones, cache_ones)[0]).max() < 1e-12  # the true gradient
assert wrong_by["gamma"] < 1e-12  # not seen
assert wrong_by["mean(g xhat)"] < 1e-12  # not seen
assert wrong_by["mean(g)"] > 0.1  # seen

# %% [markdown]
# ## Break it: statistics over the wrong axes
#
# A mean over the batch as well (`axis=None`) gives numbers that look right. The mean of the batch is 0 and its
# variance is 1. But now a recording changes when its neighbour in the batch changes. In the model each is by itself.


# %%
def outputs(neighbour, axes):
    batch = np.stack([x[0], neighbour])
    m, v = batch.mean(axis=axes, keepdims=True), batch.var(axis=axes, keepdims=True)
    return (batch - m) / np.sqrt(v + EPS)


def first_output(neighbour, axes):
    return outputs(neighbour, axes)[0]


assert abs(outputs(x[1], None).mean()) < 1e-12 and abs(outputs(x[1], None).var() - 1) < 1e-6
assert (first_output(x[1], (1, 2)) == first_output(9 * x[1], (1, 2))).all()
with companion.fails("the mean runs over the batch"):
    change = np.abs(first_output(x[1], None) - first_output(9 * x[1], None)).max()
    assert change < 1e-12, f"a neighbour in the batch changes the output by {change:.2g}"

# %% [markdown]
# ## Where it sits in the model
#
# The `paper` preset has 24 blocks with two norms each, and one behind the encoder: 49 norms. Each norm inside
# a block has 512 channels, so it owns 1024 numbers.

# %%
paper = Config.preset("paper")
assert paper.norm == "gLN" and paper.blocks * paper.repeats == 24
params = ConvTasNet(paper).params
assert sum(name.endswith("gamma") for name in params) == 2 * 24 + 1 == 49
assert params["blocks.0.norm1.gamma"].size + params["blocks.0.norm1.beta"].size == 2 * 512 == 1024

# %% [markdown]
# The first norm makes the separator deaf to level, just as we saw above. The masks are the same for the near
# and the far voice. They multiply the encoder's frames, which keep their level. So what goes in ten times
# louder comes out ten times louder. This holds for any model with gLN, before any training.

# %%
model = ConvTasNet(Config(norm="gLN", causal=False, blocks=2), seed=0, dtype=np.float64)
loud, quiet = near[None].astype(np.float64), near[None].astype(np.float64) / 10
out_loud, out_quiet = model.forward(loud, keep=False), model.forward(quiet, keep=False)
assert relative_error(10 * out_quiet, out_loud) < 1e-3  # eps is all that is left

# %% [markdown]
# ## What is wrong with it
#
# The mean and the variance need the whole recording. The first output frame depends on the last input frame.
# So nothing can leave the network before the recording has ended. `Config` refuses gLN in a causal model. The
# next tutorial has the norm for that.

# %%
x = rng.standard_normal((1, 4, 50))
changed = x.copy()
changed[:, :, -1] += 5  # only the last frame
y, other = (global_layer_norm_forward_ref(each, np.ones(4), np.zeros(4)) for each in (x, changed))
assert np.abs(y - other)[:, :, 0].max() > 0.01

with companion.fails("a causal model with gLN"):
    try:
        Config(norm="gLN", causal=True)
    except ValueError as error:
        assert False, error

# %% [markdown]
# ## Exercises
#
# 1. What does the norm do with $a x + b$ in place of $x$, for a negative $a$? Predict it, then check.
# 2. A recording has one channel and one frame, so $n = 1$. What are $y$ and $dx$? Say it without computing.
# 3. *RMS norm* leaves the mean in: $\hat{x} = x / \sqrt{\text{mean}(x^2) + \epsilon}$. Derive its backward pass.
#    Which term is gone, and which direction is it that the gradient now lacks? Check it with
#    `check_gradients`.
# 4. Some libraries divide the variance by $n - 1$. By which factor does $\hat{x}$ change? How large is that for
#    the frames of the near voice above, and how large for $n = 12$?
#
# Solutions: [solutions/08_global_norm.py](solutions/08_global_norm.py).
