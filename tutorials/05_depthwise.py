# %% [markdown]
# # 5. Depthwise convolution
#
# Minutes: 25. Before: [3. The encoder](03_encoder.py), [4. Pointwise convolution](04_pointwise.py).
#
# A depthwise convolution looks along time, each channel by itself. You derive it with its taps, dilation and
# look-ahead, forwards and backwards, and then measure how far a stack of them sees: the receptive field.

# %%
import companion

import matplotlib.pyplot as plt
import numpy as np

from tasnet_np import Config, ConvTasNet
from tasnet_np.ops import gradcheck
from tasnet_np.ops.depthwise import depthwise_backward, depthwise_forward

companion.where("depthwise")

rate = 8000  # Hz
rng = np.random.default_rng(5)

# %% [markdown]
# ## Hear it: an echo
#
# Take a waveform as a single channel. An echo is the sound itself, plus a softer copy from 0.25 s ago, plus a still
# softer one from 0.5 s ago. That is a convolution with three *taps*, which stand 2000 samples apart. The distance
# between taps is the *dilation*.

# %%
speech = companion.speech(1.5, rate, speaker="english-british").astype(np.float64)
x = np.concatenate([speech, np.zeros(rate // 2)])[None, None]  # (1, 1, n): batch, channel, samples
w = np.array([[0.25, 0.5, 1.0]])  # (1, 3): the last tap is "now"
echo, _ = depthwise_forward(x, w, np.zeros(1), dilation=2000)
companion.play(x[0, 0], rate, "speech")
companion.play(echo[0, 0], rate, "with two echoes")

by_hand = x.copy()
by_hand[:, :, 2000:] += 0.5 * x[:, :, :-2000]
by_hand[:, :, 4000:] += 0.25 * x[:, :, :-4000]
assert np.allclose(echo, by_hand)
assert 2000 / rate == 0.25 and 4000 / rate == 0.5

# %% [markdown]
# ## Formula
#
# | letter | meaning | shape |
# |---|---|---|
# | $x$ | input | `(B, C, T)`: batch, channels, frames |
# | $w$ | taps, a row for each channel | `(C, K)` |
# | $b$ | bias | `(C,)` |
# | $y$ | output | `(B, C, T)`, the same |
#
# $$ y_{c,t} = b_c + \sum_{k=0}^{K-1} w_{c,k} \; x_{c, \, t + \text{offset}(k)} $$
#
# $$ \text{offset}(k) = \text{lookahead} - (K - 1 - k) \cdot \text{dilation} $$
#
# The offsets say where tap $k$ reads, seen from the frame that is written. Outside of the recording, $x$ counts as
# zero. There are two common choices of `lookahead`:
#
# - 0: the last tap reads the present, the others the past. Nothing from the future is used. This is called
#   *causal*.
# - $(K - 1) \cdot \text{dilation} / 2$: *centred*, as far ahead as back.
#
# For 3 taps and dilation 4:


# %%
def offsets(K, dilation, lookahead):
    return [lookahead - (K - 1 - k) * dilation for k in range(K)]


assert offsets(K=3, dilation=4, lookahead=0) == [-8, -4, 0]  # causal
assert offsets(K=3, dilation=4, lookahead=4) == [-4, 0, 4]  # centred

# %% [markdown]
# ## Derivation of the backward pass
#
# Given $\text{dy}_{c,t} = \partial L / \partial y_{c,t}$. A channel only occurs in its own outputs, so the index
# $c$ stays the same all the way.
#
# **Bias.** $b_c$ is added to every $y_{c,t}$:
#
# $$ \text{db}_c = \sum_t \text{dy}_{c,t} $$
#
# **Taps.** $w_{c,k}$ occurs in every $y_{c,t}$, multiplied by $x_{c, t + \text{offset}(k)}$. The chain rule sums
# over all places where it occurs:
#
# $$ \text{dw}_{c,k} = \sum_t \text{dy}_{c,t} \; x_{c, \, t + \text{offset}(k)} $$
#
# **Input.** Where does $x_{c,s}$ occur? In $y_{c,t}$, with tap $k$, if $t + \text{offset}(k) = s$. Solve for $t$:
#
# $$ t = s - \text{offset}(k) $$
#
# So for each tap there is at most one such $t$ (none, if it lies outside). Its factor is $w_{c,k}$:
#
# $$ \text{dx}_{c,s} = \sum_{k=0}^{K-1} w_{c,k} \; \text{dy}_{c, \, s - \text{offset}(k)} $$
#
# It is the same formula as the forward one, with the offsets turned round. What looked into the past now looks into
# the future: the gradient of a sample is made by the outputs that came after it.
#
# ## In a few lines of NumPy
#
# Zeros outside mean padding. Put `past` zeros in front and `lookahead` behind. Then tap $k$ reads the padded row
# from $k \cdot \text{dilation}$ on.


# %%
def depthwise(x, w, b, dilation, lookahead):
    T, K = x.shape[2], w.shape[1]
    past = (K - 1) * dilation - lookahead
    padded = np.pad(x, ((0, 0), (0, 0), (past, lookahead)))
    y = np.zeros_like(x) + b[:, None]
    for k in range(K):
        y += w[:, k, None] * padded[:, :, k * dilation : k * dilation + T]
    return y


def depthwise_gradients(dy, x, w, b, dilation, lookahead):
    T, K = x.shape[2], w.shape[1]
    past = (K - 1) * dilation - lookahead
    padded = np.pad(x, ((0, 0), (0, 0), (past, lookahead)))
    dpadded, dw = np.zeros_like(padded), np.zeros_like(w)
    for k in range(K):
        here = slice(k * dilation, k * dilation + T)
        dpadded[:, :, here] += w[:, k, None] * dy  # forward: y += w * padded[here]
        dw[:, k] = (dy * padded[:, :, here]).sum(axis=(0, 2))
    dx = dpadded[:, :, past : past + T]  # what the zeros got is thrown away
    return dx, dw, dy.sum(axis=(0, 2))


# %% [markdown]
# ## The same as the library's
#
# Causal, centred, looking ahead only, an even number of taps, and a reach longer than the recording.

# %%
settings = [
    {"K": 3, "dilation": 2, "lookahead": 0},
    {"K": 3, "dilation": 4, "lookahead": 4},
    {"K": 3, "dilation": 2, "lookahead": 4},
    {"K": 4, "dilation": 3, "lookahead": 5},
    {"K": 3, "dilation": 16, "lookahead": 16},
    {"K": 1, "dilation": 1, "lookahead": 0},
]
for setting in settings:
    K, where_to = setting["K"], {key: setting[key] for key in ("dilation", "lookahead")}
    x, w, b = rng.standard_normal((2, 3, 17)), rng.standard_normal((3, K)), rng.standard_normal(3)
    y, cache = depthwise_forward(x, w, b, **where_to)
    dy = rng.standard_normal(y.shape)
    assert np.allclose(y, depthwise(x, w, b, **where_to), atol=1e-12)
    gradients = depthwise_gradients(dy, x, w, b, **where_to)
    for ours, library in zip(gradients, depthwise_backward(dy, cache), strict=True):
        assert np.allclose(ours, library, atol=1e-12)

# %% [markdown]
# Finite differences agree.


# %%
def error_of(gradients, dilation=2, lookahead=1):
    where_to = {"dilation": dilation, "lookahead": lookahead}
    arrays = [rng.standard_normal(shape) for shape in ((2, 3, 11), (3, 3), (3,))]
    return gradcheck.check_gradients(
        lambda *arrays: (depthwise(*arrays, **where_to), arrays),
        lambda dy, arrays: gradients(dy, *arrays, **where_to),
        arrays,
        {},
    )


assert error_of(depthwise_gradients) < gradcheck.TOLERANCE

# %% [markdown]
# ## Break it: forget to turn round
#
# A tempting mistake: `dx` is "a convolution with the same taps", so call the forward function with `dy`. Then the
# gradient looks into the past, like the forward pass.


# %%
def not_turned_round(dy, x, w, b, dilation, lookahead):
    dx = depthwise(dy, w, np.zeros_like(b), dilation, lookahead)  # the bug
    return dx, *depthwise_gradients(dy, x, w, b, dilation, lookahead)[1:]


with companion.fails("the offsets are not turned round"):
    assert error_of(not_turned_round) < gradcheck.TOLERANCE, "wrong dx"

# %% [markdown]
# Turn the taps round as well as the look-ahead, and it is right: $-\text{offset}(k)$ is the offset of tap
# $K - 1 - k$ when `lookahead` and `past` change places. For that tap, the offset with the look-ahead `past` is
#
# $$ \begin{aligned}
# \text{past} - k \cdot \text{dilation} &= (K - 1) \cdot \text{dilation} - \text{lookahead} - k \cdot \text{dilation} \\
# &= - \left( \text{lookahead} - (K - 1 - k) \cdot \text{dilation} \right) = - \text{offset}(k)
# \end{aligned} $$


# %%
def turned_round(dy, x, w, b, dilation, lookahead):
    past = (w.shape[1] - 1) * dilation - lookahead
    dx = depthwise(dy, w[:, ::-1], np.zeros_like(b), dilation, lookahead=past)
    return dx, *depthwise_gradients(dy, x, w, b, dilation, lookahead)[1:]


assert error_of(turned_round) < gradcheck.TOLERANCE

# %% [markdown]
# ## Break it: chop off nothing
#
# Many published networks make a convolution causal in another way: pad by `pad` on *both* sides, and chop the
# surplus off the end with `[:, :, :-pad]`. With one tap, `pad` is 0. And `[:-0]` is `[:0]`: everything is chopped
# off.


# %%
def causal_by_chopping(x, w, b, dilation):
    T, K = x.shape[2], w.shape[1]
    pad = (K - 1) * dilation
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad)))
    y = b[:, None] + sum(
        w[:, k, None] * padded[:, :, k * dilation : k * dilation + T + pad] for k in range(K)
    )
    return y[:, :, :-pad]


x, b = rng.standard_normal((2, 3, 17)), rng.standard_normal(3)
w3, w1 = rng.standard_normal((3, 3)), rng.standard_normal((3, 1))
assert np.allclose(causal_by_chopping(x, w3, b, dilation=2), depthwise(x, w3, b, 2, 0))
with companion.fails("one tap, so nothing is left"):
    assert causal_by_chopping(x, w1, b, dilation=2).shape == x.shape, "a wrong shape"

# %% [markdown]
# ## Is it causal? Change the future and look
#
# A test that needs no formula: change the input from frame 10 on. In a causal layer, all results before frame 10
# stay as they were.


# %%
def past_is_unchanged(lookahead):
    changed = x.copy()
    changed[:, :, 10:] = rng.standard_normal(changed[:, :, 10:].shape)
    before, after = (depthwise(each, w3, b, dilation=2, lookahead=lookahead) for each in (x, changed))
    return np.array_equal(before[:, :, :10], after[:, :, :10])


assert past_is_unchanged(lookahead=0)
with companion.fails("one frame of look-ahead"):
    assert past_is_unchanged(lookahead=1), "the past changed with the future"

# %% [markdown]
# ## How far does a stack see?
#
# One causal layer sees $(K - 1) \cdot d$ frames into the past, where $d$ is its dilation. The next layer looks as
# far again, at frames which themselves have seen that much. The reaches add up. With the frame itself, the
# *receptive field* is
#
# $$ 1 + \sum_{i} (K - 1) \, d_i $$
#
# Four layers with 3 taps see 9 frames with dilation 1. With dilations 1, 2, 4, 8 they see 31, for the same number
# of parameters and operations.
#
# We do not have to believe the formula. The gradient of one output frame with respect to the input says which input
# frames matter. With all taps set to one it even counts the *paths* from an input frame to the output.


# %%
def paths(dilations, K=3, T=40):
    """How many paths lead from each of the T input frames to the last output frame."""
    x, ones = rng.standard_normal((1, 1, T)), np.ones((1, K))
    caches = []
    for dilation in dilations:
        x, cache = depthwise_forward(x, ones, np.zeros(1), dilation=dilation)
        caches.append(cache)
    dx = np.zeros_like(x)
    dx[0, 0, -1] = 1  # the upstream gradient: the last frame only
    for cache in reversed(caches):
        dx, _, _ = depthwise_backward(dx, cache)
    return dx[0, 0]


def receptive_field(dilations, K=3):
    return 1 + sum((K - 1) * dilation for dilation in dilations)


for dilations, frames in (((1, 1, 1, 1), 9), ((1, 2, 4, 8), 31)):
    seen = np.flatnonzero(paths(dilations))
    assert receptive_field(dilations) == frames == len(seen)
    assert seen[0] == 40 - frames and seen[-1] == 39  # without a gap, up to the last
    assert paths(dilations).sum() == 3**4  # in each of 4 layers a path chooses one of 3 taps

# %% [markdown]
# The same as a picture. Every dot is a frame, every row a layer; input at the bottom, output on top. Lines are
# taps. Dark dots are those that the last output depends on. The bars below count the paths.


# %%
def draw_triangle(ax, bars, dilations, K=3, T=33):
    sky, blue = companion.COLOURS["sky"], companion.COLOURS["blue"]
    reached = {T - 1}
    for level in range(len(dilations), 0, -1):
        ax.plot(range(T), [level] * T, ".", color="lightgray", markersize=3, zorder=1)
        below = set()
        for t in reached:
            for k in range(K):
                source = t - (K - 1 - k) * dilations[level - 1]
                below.add(source)
                ax.plot((source, t), (level - 1, level), "-", color=sky, linewidth=0.8)
        ax.plot(list(reached), [level] * len(reached), "o", color=blue, markersize=5, zorder=2)
        reached = below
    ax.plot(range(T), [0] * T, ".", color="lightgray", markersize=3, zorder=1)
    ax.plot(list(reached), [0] * len(reached), "o", color="black", markersize=5, zorder=2)
    names = ["input", *(f"dilation {dilation}" for dilation in dilations)]
    ax.set_yticks(range(len(names)), names)
    ax.set(title=f"dilations {', '.join(map(str, dilations))}: {len(reached)} frames", xticks=[])
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.grid(False)
    bars.bar(range(T), paths(dilations, K, T), color="dimgray")
    bars.set(ylabel="paths")
    return len(reached)


fig, axes = plt.subplots(4, figsize=(7.5, 7.5), height_ratios=(4, 1.2, 4, 1.2), sharex=True)
assert draw_triangle(axes[0], axes[1], (1, 1, 1, 1)) == 9
assert draw_triangle(axes[2], axes[3], (1, 2, 4, 8)) == 31
axes[3].set(xlabel="frame", xticks=range(0, 33, 4))
axes[3].tick_params(labelbottom=True)
companion.show("receptive_field")

# %% [markdown]
# ## Doubling
#
# $X$ layers with dilations $1, 2, 4, \dots, 2^{X-1}$: what is the sum of the dilations? Double the sum and subtract
# it:
#
# $$ \begin{aligned}
# S &= 1 + 2 + 4 + \dots + 2^{X-1} \\
# 2S &= 2 + 4 + \dots + 2^{X-1} + 2^X \\
# 2S - S &= 2^X - 1
# \end{aligned} $$
#
# All terms but two cancel. Repeating the row of layers $R$ times gives a receptive field of
#
# $$ 1 + R \, (K - 1) \, (2^X - 1) \quad \text{frames} $$
#
# The small model has $K = 3$, $X = 6$, $R = 2$: 253 frames. The first covers 16 samples, and each further one adds a
# hop of 8: 2032 samples, which is 0.254 s. Without dilation, it would take 126 blocks in place of 12 to see as far.

# %%
small = Config.preset("small")
assert (small.kernel, small.blocks, small.repeats) == (3, 6, 2)
assert 1 + 2 * (3 - 1) * (2**6 - 1) == 253 == small.receptive_field_frames
assert 16 + 252 * 8 == 2032 == small.receptive_field_seconds * rate
assert round(small.receptive_field_seconds, 3) == 0.254
assert receptive_field([1] * 126) == 253

# %% [markdown]
# ## The receptive field of a whole network
#
# The same measurement works on a whole model: put a one on a single output sample, go backward, and see which input
# samples get a gradient. (`path="ops"` runs the ops of this tutorial one by one. The fast path does the work of a whole
# block in one go.) Here is a narrow model with 2 times 4 blocks. By the formula, a frame of its masks sees 61 frames.
# An output sample lies under two neighbouring frames, which together see 62. Counted as above, these cover
# 61 · 8 + 16 = 504 samples.
#
# The kind of norm matters. A norm per frame (`channel`) does not look along time, so only the convolutions count.
# The cumulative norm (`cLN`, tutorial 9) takes its mean over everything heard so far: with it the gradient reaches
# back to the very first sample.


# %%
def input_gradient(norm, samples=1600, output=1003):
    config = Config(filters=12, bottleneck=6, hidden=8, skip=6, blocks=4, repeats=2, norm=norm)
    model = ConvTasNet(config, dtype=np.float64, path="ops")
    sources = model.forward(np.random.default_rng(0).standard_normal((1, samples)))
    dsources = np.zeros_like(sources)
    dsources[0, 0, output] = 1
    return config, model.backward(dsources)[0]


config, per_frame = input_gradient("channel")
_, cumulative = input_gradient("cLN")
seen = np.flatnonzero(per_frame)
assert config.receptive_field_frames == 61
assert len(seen) == seen[-1] - seen[0] + 1 == 61 * 8 + 16 == 504
assert np.flatnonzero(cumulative)[0] == 0 and np.flatnonzero(cumulative)[-1] == seen[-1]

fig, ax = plt.subplots(figsize=(7.5, 3.2))
for label, gradient, marker in (("cLN", cumulative, "."), ("channel", per_frame, "x")):
    here = np.flatnonzero(gradient)
    ax.semilogy(here, np.abs(gradient[here]), marker, markersize=3, label=label)
ax.axvline(1003, color="black", linewidth=0.8)
ax.text(1010, 1e-8, "the output\nsample", va="bottom")
ax.set(xlabel="input sample", ylabel="|gradient|", xlim=(0, 1200))
ax.set_title("which input samples one output sample depends on")
ax.legend(title="norm", loc="upper left")
companion.show("input_gradient")

# %% [markdown]
# Samples up to 12 *later* than the output sample count, too, although every block is causal. The reason is the
# window of 16 samples: a frame needs all of its window. So the later samples of the same windows matter as well.
# This is the delay of encoder and decoder. It stays below the 16 samples that `latency_samples` promises.

# %%
assert seen[-1] - 1003 == 12 < config.latency_samples == 16

# %% [markdown]
# ## Where this sits in the model
#
# Each block has one depthwise convolution: 128 channels with 3 taps each in the small model, `blocks.0.depthwise.w`
# and so on. It is the only part of the separator that looks along time, apart from the norms. It is also the cheapest
# convolution of its block: 384 taps, against 8192 numbers in the matrix of the expand layer right before it
# (tutorial 6 is about that).

# %%
params = ConvTasNet(small).params
taps = params["blocks.0.depthwise.w"]
assert taps.shape == (128, 3) and taps.size == 384
assert params["blocks.0.expand.w"].size == 8192
assert [small.dilation(i) for i in range(12)] == [1, 2, 4, 8, 16, 32] * 2
assert all(small.lookahead(i) == 0 for i in range(12))  # causal

# %% [markdown]
# ## Exercises
#
# 1. The input is an impulse: zero everywhere, and one at frame 5. What comes out? Where are the taps?
# 2. Two depthwise layers in a row (no bias) are one with more taps. Which taps, for dilations 1 and 2?
# 3. The small model should see a whole second. How many blocks $X$ does each of its two rows need?
# 4. Make the first two blocks of the narrow model centred (`lookahead_blocks=2`). By how many samples does the
#    receptive field move into the future? Measure it. Why not by more?
