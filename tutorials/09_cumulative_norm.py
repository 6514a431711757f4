# %% [markdown]
# # 9. Cumulative layer norm
#
# Minutes: 30. Before: [8. Global layer norm](08_global_norm.py).
#
# A norm that cannot see the future: what that costs, why its backward is a sum over the future, why its sums
# need float64, and which other norms go by its name.

# %%
import companion

import matplotlib.pyplot as plt
import numpy as np

from tasnet_np.ops.gradcheck import check_gradients, relative_error
from tasnet_np.network.config import Config
from tasnet_np.network.execution import ConvTasNet
from tasnet_np.ops.frame_statistics import EPS
from tasnet_np.ops.norms import (
    channel_layer_norm_forward,
    cumulative_layer_norm_backward,
    cumulative_layer_norm_forward,
    global_layer_norm_forward,
)

COLOURS = companion.COLOURS
rate = 8000  # Hz
rng = np.random.default_rng(9)

# %%
companion.where("norm", "norm1", "norm2")

# %% [markdown]
# ## See it: statistics that settle
#
# A model that answers while somebody speaks cannot know the mean of the whole recording. It knows what it
# has heard so far. So let frame $t$ use the mean and the variance of frames $0, \dots, t$.
#
# We look at a real place in the network: behind the first PReLU of a block. (The weights are random, as
# before training.) The input is speech that sets in after a little noise. The mean $m_t$ and the variance $v_t$ come
# from running sums; the formula for $v_t$ is derived below.

# %%
rain = companion.noise(3.0, rate, name="rain")
voice = companion.speech(2.5, rate, speaker="english-british")
sound = 0.1 * rain
sound[rate // 2 :] += voice  # the voice sets in after half a second
companion.play(sound, rate, "half a second of soft rain, then a voice")

model = ConvTasNet(Config(), seed=0, path="ops")
h = model.bottleneck.forward(model.norm.forward(model.encoder.forward(sound[None])))
for name in ("expand", "prelu1"):
    h = model.blocks[0].chain[name].forward(h)
x = h.astype(np.float64)  # (1, 128, T)

C, T = x.shape[1:]
n = C * np.arange(1, T + 1)  # entries up to each frame
m_t = np.cumsum(x.sum(axis=1), axis=1)[0] / n
v_t = np.cumsum((x**2).sum(axis=1), axis=1)[0] / n - m_t**2

# %%
frames_per_second = rate / Config().hop
seconds = np.arange(T) / frames_per_second
fig, (wave, means, deviations) = plt.subplots(3, sharex=True, figsize=(7.5, 5.6))
wave.plot(np.arange(len(sound)) / rate, sound, "-", color="black", linewidth=0.4)
wave.set(ylabel="sample", title="the sound")
for ax, running, whole, of_frame, name in (
    (means, m_t, x.mean(), x.mean(axis=1)[0], "mean"),
    (deviations, np.sqrt(v_t), x.std(), x.std(axis=1)[0], "standard deviation"),
):
    ax.plot(seconds, of_frame, "-", color="#bbbbbb", linewidth=0.6, label="of one frame")
    ax.plot(seconds, running, "-", color=COLOURS["blue"], label="cumulative: of all frames so far")
    ax.axhline(whole, color=COLOURS["vermilion"], linestyle="--", label="global: of the whole recording")
    ax.set(ylabel=name, ylim=(0, 1.5 * running.max()))  # single frames go higher
deviations.set(xlabel="time (s)")
deviations.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.35))
companion.show("statistics_settle")

assert np.isclose(m_t[-1], x.mean()) and np.isclose(v_t[-1], x.var())
assert frames_per_second == 1000

# %% [markdown]
# The blue lines jump about in the first frames, and then they move more and more slowly. At the last frame
# they have reached the dashed ones: everything has been heard. A frame that comes at position $t$ counts
# $1 / (t + 1)$. So the thousandth frame, one second in, moves the mean by a thousandth of its difference.

# %%
t = 999
step = m_t[t] - m_t[t - 1]
assert np.isclose(step, (x[0, :, t].mean() - m_t[t - 1]) / 1000)

# %% [markdown]
# ## The formula
#
# `x` has shape `(B, C, T)`. Up to frame $t$ there are $n[t] = C\,(t + 1)$ entries. Two running sums hold all
# that we need:
#
# $$ S[t] = \sum_{k \le t} \sum_c x[c, k] \qquad Q[t] = \sum_{k \le t} \sum_c x[c, k]^2 $$
#
# The mean is $S / n$. For the variance, multiply out the square:
#
# $$ v = \frac1n \sum (x - m)^2 = \frac1n \sum x^2 - 2 m \cdot \frac1n \sum x + m^2
# = \frac{Q}{n} - 2 m \cdot m + m^2 = \frac{Q}{n} - m^2 $$
#
# From here on it looks like the global norm, but $m$, $v$ and $r$ have a time $t$:
#
# $$ m[t] = \frac{S[t]}{n[t]} \qquad v[t] = \frac{Q[t]}{n[t]} - m[t]^2 \qquad r[t] = \frac{1}{\sqrt{v[t] + \epsilon}} $$
#
# $$ \hat{x}[c, t] = (x[c, t] - m[t])\, r[t] \qquad y[c, t] = \gamma[c]\, \hat{x}[c, t] + \beta[c] $$
#
# These are Equations 12 to 14 of the Conv-TasNet paper, which calls the norm cLN.

# %% [markdown]
# ## Who hears whom
#
# Which input frames does an output frame depend on? We measure it. We move all entries of frame $s$ a
# little, and see how far the outputs of frame $t$ move. The darker the square at row $t$, column $s$, the more
# $t$ hears of $s$. White is nothing at all.

# %%
small = rng.standard_normal((1, 4, 24))
one, zero = np.ones(4), np.zeros(4)


def influence(norm):
    """How far frame t of the output moves when frame s of the input moves: (T, T)."""
    T = small.shape[2]
    moved_by = np.zeros((T, T))
    direction = 1e-4 * rng.standard_normal(4)
    for s in range(T):
        moved = small.copy()
        moved[0, :, s] += direction
        change = norm(moved, one, zero)[0] - norm(small, one, zero)[0]
        moved_by[:, s] = np.linalg.norm(change[0], axis=0) / np.linalg.norm(direction)
    return moved_by


hears = {
    "global (gLN)": influence(global_layer_norm_forward),
    "cumulative (the paper's cLN)": influence(cumulative_layer_norm_forward),
    "per frame": influence(channel_layer_norm_forward),
}
fig, axes = plt.subplots(1, 3, figsize=(8.5, 3.2), sharey=True)
for ax, (title, moved_by) in zip(axes, hears.items()):
    image = ax.imshow(np.log10(moved_by + 1e-12), cmap="Greys", vmin=-4, vmax=0)
    ax.set(title=title, xlabel="input frame s")
    ax.grid(False)
axes[0].set_ylabel("output frame t")
fig.colorbar(image, ax=axes, label="movement, log10")
companion.show("who_hears_whom")

gln, cln, channel = hears.values()
assert (gln > 0).all()
assert (np.triu(cln, 1) == 0).all() and (cln[np.tril_indices(24)] > 0).all()  # nothing from the future
assert (channel[~np.eye(24, dtype=bool)] == 0).all()

# %% [markdown]
# ## What it costs
#
# The first frames are normalised by very little. The first frame of all only knows itself. Take the first norm of
# the network, right behind the encoder. While there is only soft rain, the rain is all there is: the cumulative norm
# brings it to full size. The global norm knows that a voice will come, and keeps the rain small. At the end of
# the recording the two agree.

# %%
encoded = model.encoder.forward(sound[None]).astype(np.float64)
gamma, beta = np.ones(C), np.zeros(C)
y_global, _ = global_layer_norm_forward(encoded, gamma, beta)
y_cumulative, _ = cumulative_layer_norm_forward(encoded, gamma, beta)
before_the_voice, at_the_end = slice(0, 490), slice(-490, None)
ratio = [
    y_cumulative[:, :, part].std() / y_global[:, :, part].std() for part in (before_the_voice, at_the_end)
]
print(f"cumulative against global: {ratio[0]:.1f} times as large in the rain, {ratio[1]:.2f} at the end")
assert ratio[0] > 5
assert abs(ratio[1] - 1) < 0.05

# %% [markdown]
# It also has a long memory. A loud click stays in $Q$ for good. Its weight falls only as $1 / t$. In this
# experiment the entries have variance 1, and those of a single frame are $\pm 10$, which adds 100 to the sum of the
# variances of all frames. One second (1000 frames) later, 1101 frames have been heard. Their variance is
# $(1100 + 100) / 1101 = 1.09$. So the outputs are still 4 % too small, as $1 / \sqrt{1.09} = 0.96$.

# %%
even = rng.standard_normal((1, 8, 2200))
clicked = even.copy()
clicked[:, :, 100] = 10 * np.sign(even[:, :, 100])
ones, zeros = np.ones(8), np.zeros(8)
y_even, _ = cumulative_layer_norm_forward(even, ones, zeros)
y_clicked, _ = cumulative_layer_norm_forward(clicked, ones, zeros)
shrunk = np.abs(y_clicked).mean(axis=(0, 1)) / np.abs(y_even).mean(axis=(0, 1))
assert (shrunk[:100] == 1).all()
assert shrunk[110] < 0.8  # ten frames later
assert round(shrunk[1100], 2) == 0.96
assert round((1100 + 100) / 1101, 2) == 1.09 and round(1 / np.sqrt(1.09), 2) == 0.96

# %% [markdown]
# That is the price. What it buys: every output frame is final as soon as its input frame is there.
#
# ## The backward pass, line by line
#
# As before, $g[c, t] = \gamma[c]\, dy[c, t]$ is the gradient of $\hat{x}$. For $d\gamma$ and $d\beta$ nothing
# changes. For $dx$ we walk through the forward pass from its end to its beginning.
#
# **From $\hat{x}$ to $r$, then $v$.** All $C$ entries of frame $t$ use $r[t]$, and no other frame does. With
# $\partial r / \partial v = -\frac12 r^3$ and $x - m = \hat{x} / r$, as in tutorial 8:
#
# $$ dv[t] = -\frac12 r[t]^2 \sum_c g[c, t]\, \hat{x}[c, t] $$
#
# **To $m$.** It is used twice: in $\hat{x} = (x - m) r$, and in $v = Q/n - m^2$. This time the second use
# does not vanish: we hold $Q$ fixed, and $\partial v / \partial m = -2m$.
#
# $$ dm[t] = -r[t] \sum_c g[c, t] - 2\, m[t]\, dv[t] $$
#
# **To the sums.** $Q$ is used in $v = Q / n - m^2$, and $S$ in $m = S / n$:
#
# $$ dQ[t] = \frac{dv[t]}{n[t]} \qquad dS[t] = \frac{dm[t]}{n[t]} $$
#
# **To $x$.** Here is the new thing. $x[c, t]$ is part of $S[t]$. It is also part of $S[t + 1]$, $S[t + 2]$, and
# so on to the end. The chain rule adds over all uses:
#
# $$ A[t] = \sum_{k \ge t} dS[k] \qquad D[t] = \sum_{k \ge t} dQ[k] $$
#
# With $\partial (x^2) / \partial x = 2x$, and the direct path $g\,r$, that is all:
#
# $$ dx[c, t] = g[c, t]\, r[t] + A[t] + 2\, x[c, t]\, D[t] $$
#
# Forward, frame $t$ hears the past. Backward, frame $t$ is told by the future. A cumulative sum has become a
# *reverse* cumulative sum.

# %% [markdown]
# ## The same in matrices
#
# A cumulative sum is a matrix product: $S = M s$ with ones on and below the diagonal. The backward of
# $S = M s$ is $ds = M^T dS$ (tutorial 4). $M^T$ has its ones on and *above* the diagonal: it sums from $t$ to
# the end. Flipping, summing and flipping back does the same, quickly.

# %%
M = np.tril(np.ones((6, 6)))
s, dS = rng.standard_normal(6), rng.standard_normal(6)
assert np.allclose(M @ s, np.cumsum(s))
assert np.allclose(M.T @ dS, np.cumsum(dS[::-1])[::-1])

# %% [markdown]
# ## In NumPy


# %%
def norm_forward(x, gamma, beta, eps=EPS):
    n = x.shape[1] * np.arange(1, x.shape[2] + 1)  # (T,)
    m = np.cumsum(x.sum(axis=1, keepdims=True), axis=2) / n  # (B, 1, T)
    v = np.cumsum((x**2).sum(axis=1, keepdims=True), axis=2) / n - m**2
    r = 1 / np.sqrt(np.maximum(v, 0) + eps)
    return gamma[:, None] * (x - m) * r + beta[:, None], (x, m, r, n, gamma)


def reverse_cumsum(a):
    return np.cumsum(a[..., ::-1], axis=-1)[..., ::-1]


def norm_backward(dy, cache):
    x, m, r, n, gamma = cache
    g, xhat = gamma[:, None] * dy, (x - m) * r
    dv = -0.5 * r**2 * (g * xhat).sum(axis=1, keepdims=True)  # (B, 1, T)
    dm = -r * g.sum(axis=1, keepdims=True) - 2 * m * dv
    A, D = reverse_cumsum(dm / n), reverse_cumsum(dv / n)
    return g * r + A + 2 * x * D, (dy * xhat).sum(axis=(0, 2)), dy.sum(axis=(0, 2))


# %% [markdown]
# The same as the library's, in both directions. And every element agrees with central differences.

# %%
x = rng.standard_normal((3, 5, 9)) + 1
gamma, beta, dy = rng.standard_normal(5), rng.standard_normal(5), rng.standard_normal((3, 5, 9))

y, cache = norm_forward(x, gamma, beta)
library_y, library_cache = cumulative_layer_norm_forward(x, gamma, beta)
assert relative_error(y, library_y) < 1e-10
gradients = norm_backward(dy, cache)
for mine, library in zip(gradients, cumulative_layer_norm_backward(dy, library_cache), strict=True):
    assert relative_error(mine, library) < 1e-10

assert check_gradients(norm_forward, norm_backward, [x, gamma, beta], {}) < 1e-6

# %% [markdown]
# ## Break it: sums in the wrong direction, and others
#
# Four bugs that one can easily write. The first sums over the past, as the forward does. The second divides by
# $n$ after summing, with the $n$ of the wrong frame. The third forgets that $m$ is inside $v$. The fourth
# forgets that $(x^2)' = 2x$.


# %%
def buggy_backward(bug):
    def backward(dy, cache):
        x, m, r, n, gamma = cache
        g, xhat = gamma[:, None] * dy, (x - m) * r
        dv = -0.5 * r**2 * (g * xhat).sum(axis=1, keepdims=True)
        dm = -r * g.sum(axis=1, keepdims=True) - (0 if bug == "m inside v" else 2 * m * dv)
        if bug == "sums over the past":
            A, D = np.cumsum(dm / n, axis=2), np.cumsum(dv / n, axis=2)
        elif bug == "n of the wrong frame":
            A, D = reverse_cumsum(dm) / n, reverse_cumsum(dv) / n
        else:
            A, D = reverse_cumsum(dm / n), reverse_cumsum(dv / n)
        dx = g * r + A + (1 if bug == "factor 2" else 2) * x * D
        return dx, (dy * xhat).sum(axis=(0, 2)), dy.sum(axis=(0, 2))

    return backward


for bug in ("sums over the past", "n of the wrong frame", "m inside v", "factor 2"):
    with companion.fails(bug):
        error = check_gradients(norm_forward, buggy_backward(bug), [x, gamma, beta], {})
        assert error < 1e-6, f"relative error {error:.2g}"

# %% [markdown]
# ## Float32 against float64
#
# $Q / n - m^2$ is a difference. If the mean is large beside the deviation, two almost equal numbers are
# subtracted, and their leading digits cancel. Float32 has about 7 decimal digits, float64 about 16. And a cumulative
# sum adds one number after the other, so the rounding errors add up, too.
#
# We measure it: the relative error of $v$ at the last frame, with the sums in float32 and in float64. The true
# value is computed in float64 from the deviations themselves, without any cancellation.


# %%
def running_variance(x, dtype):
    x = x.astype(dtype)
    n = (x.shape[0] * np.arange(1, x.shape[1] + 1)).astype(dtype)
    m = np.cumsum(x.sum(axis=0), dtype=dtype) / n
    return np.cumsum((x * x).sum(axis=0), dtype=dtype) / n - m * m  # (T,)


def errors(mean, deviation):
    """Relative error of the last variance, with float32 and with float64 sums."""
    x32 = (mean + deviation * rng.standard_normal((128, 8000))).astype(np.float32)  # 8 s of frames
    true = x32.astype(np.float64).var()
    return [abs(running_variance(x32, dtype)[-1] / true - 1) for dtype in (np.float32, np.float64)]


cases = [(0, 1), (3, 1), (3, 0.1), (10, 0.01)]
measured = np.array([errors(*case) for case in cases])
fig, ax = plt.subplots(figsize=(7, 3))
names = [f"mean {mean},\ndeviation {deviation}" for mean, deviation in cases]
for column, (name, colour, marker) in enumerate((("float32", "vermilion", "o"), ("float64", "blue", "s"))):
    ax.plot(
        names,
        measured[:, column] + 1e-17,
        marker,
        color=COLOURS[colour],
        label=f"sums in {name}",
        markersize=8,
    )
ax.axhline(1, color="black", linewidth=0.8, linestyle=":")
ax.text(0.1, 1.6, "as large as the variance itself")
ax.set(yscale="log", ylabel="relative error of v", ylim=(1e-17, 1e3), xlim=(-0.4, 3.4))
ax.legend(loc="lower right")
companion.show("float32_and_float64")

assert [round(-np.log10(np.finfo(dtype).eps)) for dtype in (np.float32, np.float64)] == [7, 16]
assert measured[0, 0] < 1e-4  # mean 0: float32 will do
assert measured[3, 0] > 0.3  # mean 10, deviation 0.01: the variance is lost
assert (measured[:, 1] < 1e-6).all()  # float64: fine everywhere

# %% [markdown]
# It gets worse than inaccurate. In float32 the variance can come out negative, and its root is NaN. One NaN in
# a frame, and the running sums of the next norm are NaN from there on. A clamp at 0 removes the NaN, but not the
# error: $r$ is then $10^4$, and the output is a hundred times too large.

# %%
x32 = (10 + 0.01 * rng.standard_normal((128, 8000))).astype(np.float32)
v32 = running_variance(x32, np.float32)
assert (v32 < -EPS).any()
with companion.fails("float32 sums, no clamp"), np.errstate(invalid="ignore"):
    assert np.isfinite(np.sqrt(v32 + np.float32(EPS))).all(), "the root of a negative variance"

clamped_r = 1 / np.sqrt(np.maximum(v32, 0) + EPS)
assert np.isclose(clamped_r.max(), 1e4) and np.isclose(1 / x32.astype(np.float64).std(), 100, rtol=0.01)

# %% [markdown]
# So the library adds up in float64 even when `x` is float32. That costs little: there are only two sums per
# frame. It also clamps $v$ at 0, as silence may give $-10^{-20}$. Its output in float32 is good to six digits, even
# here.

# %%
y32, _ = cumulative_layer_norm_forward(x32[None], np.ones(128, np.float32), np.zeros(128, np.float32))
y64, _ = norm_forward(x32[None].astype(np.float64), np.ones(128), np.zeros(128))
assert y32.dtype == np.float32
assert relative_error(y32, y64) < 1e-6

# %% [markdown]
# ## Norms that go by the same name
#
# Several well-known implementations have a "cLN" or a "cumulative" norm that is not the paper's. They run, they
# train, and they give other numbers. So weights of one do not work in another. Each of these was published:
#
# | variant | what is different |
# |---|---|
# | per frame, called cLN | mean and variance of frame $t$ alone: no past at all |
# | $v = Q - m^2$ | $Q$ is not divided by $n$ (found after three years; its test only looked for NaN) |
# | $\hat{x} = (x - m) / (\sqrt{v} + \epsilon)$ | $\epsilon$ outside the root |
#
# The paper's formula in a double loop, as slow and as plain as can be, tells them apart.


# %%
def by_definition(x, eps=EPS):
    """Eq. 12 to 14, frame by frame; gamma = 1, beta = 0."""
    y = np.empty_like(x)
    for t in range(x.shape[2]):
        heard = x[:, :, : t + 1]
        m, v = heard.mean(axis=(1, 2), keepdims=True), heard.var(axis=(1, 2), keepdims=True)
        y[:, :, t] = ((x[:, :, t : t + 1] - m) / np.sqrt(v + eps))[..., 0]
    return y


def running(x):
    n = x.shape[1] * np.arange(1, x.shape[2] + 1)
    return (
        n,
        np.cumsum(x.sum(axis=1, keepdims=True), axis=2) / n,
        np.cumsum((x**2).sum(axis=1, keepdims=True), axis=2),
    )


def not_divided(x):
    _, m, Q = running(x)
    return (x - m) / np.sqrt(Q - m**2 + EPS)


ones, zeros = np.ones(5), np.zeros(5)
assert relative_error(cumulative_layer_norm_forward(x, ones, zeros)[0], by_definition(x)) < 1e-10
for name, y in (
    ("per frame, called cLN", channel_layer_norm_forward(x, ones, zeros)[0]),
    ("v = Q - m^2", not_divided(x)),
):
    assert np.isfinite(y).all()  # the only test that the second one had
    with companion.fails(name):
        error = relative_error(y, by_definition(x))
        assert error < 1e-6, f"relative error {error:.2g}"

# %% [markdown]
# With $v = Q - m^2$ the "variance" grows with time, so the output fades away, as $1 / \sqrt{n}$. After 2000
# frames of 8 channels it has sunk to below 1 % of what it should be.

# %%
faded = np.abs(not_divided(even)[:, :, -100:]).mean() / np.abs(y_even[:, :, -100:]).mean()
assert 1 / np.sqrt(8 * 2200) < faded * 1.1 < 0.01

# %% [markdown]
# The third variant differs by less than $10^{-6}$ in the forward pass: no one would notice. Its trouble is the gradient
# of $\sqrt{v}$, which is $1 / (2 \sqrt{v})$. Digital silence at the beginning has $v = 0$. Then this is
# infinite, and infinity times the zero of $x - m$ is NaN. With $\epsilon$ inside, the root is never zero.

# %%
n, m, Q = running(x)
third = (x - m) / (np.sqrt(np.maximum(Q / n - m**2, 0)) + EPS)
assert relative_error(third, by_definition(x)) < 1e-6

silence_first = rng.standard_normal((1, 5, 9))
silence_first[:, :, :3] = 0
n, m, Q = running(silence_first)
v = np.maximum(Q / n - m**2, 0)
with np.errstate(divide="ignore", invalid="ignore"):
    eps_outside = 1 / (2 * np.sqrt(v)) * (silence_first - m)
with companion.fails("eps outside the root: the gradient of silence"):
    assert np.isfinite(eps_outside).all(), "NaN in the gradient"

_, cache = cumulative_layer_norm_forward(silence_first, ones, zeros)
dx, _, _ = cumulative_layer_norm_backward(rng.standard_normal(silence_first.shape), cache)
assert np.isfinite(dx).all()

# %% [markdown]
# ## Where it sits in the model: three numbers of memory
#
# The `small` and the `origin` presets use this norm, as both are causal. When they run in real time, a norm
# has to remember only $S$, $Q$ and $n$ from one frame to the next. Here it is, frame by frame. It gives the
# same output as the whole recording at once.


# %%
class RunningNorm:
    def __init__(self):
        self.S, self.Q, self.n = 0.0, 0.0, 0

    def process(self, frame):
        """frame (C,) -> normalised frame (C,)."""
        self.S += frame.sum()
        self.Q += (frame**2).sum()
        self.n += len(frame)
        m = self.S / self.n
        return (frame - m) / np.sqrt(max(self.Q / self.n - m**2, 0) + EPS)


live = RunningNorm()
frame_by_frame = np.stack([live.process(frame) for frame in even[0].T], axis=1)
assert relative_error(frame_by_frame, y_even[0]) < 1e-9
assert Config.preset("small").norm == Config.preset("origin").norm == "cLN"
assert Config.preset("small").causal and Config.preset("origin").causal

# %% [markdown]
# ## Exercises
#
# 1. A published model pads 31 frames of zeros before its input, in training. Its demo forgets them. All real
#    frames have mean 0 and equal variance. By which factor is the first real frame scaled differently in the
#    demo? The 10th? The 100th?
# 2. Let the past fade: $S[t] = a\, S[t - 1] + s[t]$ with $0 < a < 1$, where $s[t]$ is the sum of frame $t$. The
#    backward is a recursion, too. In which direction does it run? Write both, and check them against a matrix and
#    against finite differences.
# 3. Give the norm 1000 frames of digital silence, then noise of variance 1. What is $r$ during the silence? How
#    large is the first frame of noise after the norm?
# 4. The last frame's entries are part of one sum only, the first frame's of all $T$. Show from the formula for
#    $dx$ what the gradient of the *last* frame is, and compare it with the library's.
#
# Solutions: [solutions/09_cumulative_norm.py](solutions/09_cumulative_norm.py).
