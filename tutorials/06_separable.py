# %% [markdown]
# # 6. Why separable
#
# Minutes: 20. Before: [4. Pointwise convolution](04_pointwise.py), [5. Depthwise convolution](05_depthwise.py).
#
# A depthwise convolution followed by a pointwise one does the work of a full convolution with fewer numbers. You
# count what it saves, in parameters and in operations, see what it gives up, derive its gradient from that of the
# full one, and time both.

# %%
import time

import companion

import matplotlib.pyplot as plt
import numpy as np
from threadpoolctl import threadpool_limits

from tasnet_np import Config, ConvTasNet
from tasnet_np.ops import gradcheck
from tasnet_np.ops.depthwise import depthwise_backward, depthwise_forward
from tasnet_np.ops.pointwise import pointwise_backward, pointwise_forward

companion.where("expand", "depthwise", "residual", "skip")

rng = np.random.default_rng(6)

# %% [markdown]
# ## See it: who is connected to whom
#
# A *full* convolution connects every output channel with every tap of every input channel. Here are 4 input
# channels with 3 taps each, and 4 output channels: 48 connections. The *separable* way takes two steps. First, each
# channel combines its own taps: 12 connections. Then a matrix mixes the channels: 16 connections.

# %%
C = O = 4
K = 3
taps_at = [(0, 4 * c + k) for c in range(C) for k in range(K)]
between = [(1, 4 * c + 1) for c in range(C)]
outputs = [(2, 4 * o + 1) for o in range(O)]
full_lines = [(start, end) for start in taps_at for end in outputs]
depthwise_lines = [(start, between[i // K]) for i, start in enumerate(taps_at)]
pointwise_lines = [(start, end) for start in between for end in outputs]

fig, axes = plt.subplots(1, 2, figsize=(7.5, 4), sharey=True)
pictures = (
    (axes[0], full_lines, taps_at + outputs, "full"),
    (axes[1], depthwise_lines + pointwise_lines, taps_at + between + outputs, "separable"),
)
for ax, lines, dots, name in pictures:
    for start, end in lines:
        ax.plot(*zip(start, end), "-", color=companion.COLOURS["sky"], linewidth=0.9)
    ax.plot(*zip(*dots), "o", color="black", markersize=5)
    ax.set(title=f"{name}: {len(lines)} connections", xlim=(-0.2, 2.2))
    ax.set_yticks([4 * c + 1 for c in range(C)], [f"channel {c}" for c in range(C)])
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.grid(False)
axes[0].set_xticks((0, 2), ("3 taps of each", "outputs"))
axes[1].set_xticks((0, 1, 2), ("3 taps of each", "each for itself", "outputs"))
companion.show("connections")

assert len(full_lines) == 48
assert len(depthwise_lines) == 12 and len(pointwise_lines) == 16

# %% [markdown]
# ## Formula
#
# $x$ is `(B, C, T)`, the output $y$ is `(B, O, T)`. The full convolution has one number for each connection, $w$ of
# shape `(O, C, K)`:
#
# $$ y_{o,t} = \sum_{c} \sum_{k} w_{o,c,k} \; x_{c, \, t + \text{offset}(k)} $$
#
# The separable one has taps $d$ of shape `(C, K)` and a matrix $p$ of shape `(O, C)`:
#
# $$ h_{c,t} = \sum_k d_{c,k} \; x_{c, \, t + \text{offset}(k)} \qquad y_{o,t} = \sum_c p_{o,c} \; h_{c,t} $$
#
# (Biases are left out here: they cost next to nothing, and change nothing in what follows.) Put $h$ into $y$:
#
# $$ y_{o,t} = \sum_c \sum_k p_{o,c} \, d_{c,k} \; x_{c, \, t + \text{offset}(k)} $$
#
# So the separable convolution *is* a full one, whose kernel is a product:
#
# $$ w_{o,c,k} = p_{o,c} \, d_{c,k} $$


# %%
def tap_views(x, K, dilation):
    """What each of K causal taps reads: K arrays like x (B, C, T)."""
    T, reach = x.shape[2], (K - 1) * dilation
    padded = np.pad(x, ((0, 0), (0, 0), (reach, 0)))
    return [padded[:, :, k * dilation : k * dilation + T] for k in range(K)]


def full(x, w, dilation=1):
    views = tap_views(x, w.shape[2], dilation)
    return sum(w[:, :, k] @ view for k, view in enumerate(views))


def separable(x, d, p, dilation=1):
    views = tap_views(x, d.shape[1], dilation)
    h = sum(d[:, k, None] * view for k, view in enumerate(views))
    return p @ h


x, d, p = rng.standard_normal((2, 5, 11)), rng.standard_normal((5, 3)), rng.standard_normal((4, 5))
y = separable(x, d, p, dilation=2)
h, depthwise_cache = depthwise_forward(x, d, np.zeros(5), dilation=2)
library, pointwise_cache = pointwise_forward(h, p, np.zeros(4))
assert np.allclose(y, library, atol=1e-12)

w = p[:, :, None] * d[None, :, :]  # (O, C, K)
assert np.allclose(y, full(x, w, dilation=2), atol=1e-12)

# %% [markdown]
# ## Counting
#
# **Parameters.** They are the connections: $O C K$ for the full convolution, $C K + O C$ for the separable one.
#
# **Multiplications.** Each connection is used once per frame: the same numbers, times $T$. The share that is left
# is
#
# $$ \frac{C K + O C}{O C K} = \frac{C K}{O C K} + \frac{O C}{O C K} = \frac{1}{O} + \frac{1}{K} $$
#
# We can check the formula without trusting ourselves: compute with numbers that count. Whenever two of these are
# multiplied, a counter goes up. NumPy does not care what it computes with.


# %%
class Counted:
    multiplications = 0

    def __init__(self, value):
        self.value = value

    def __mul__(self, other):
        Counted.multiplications += 1
        return Counted(self.value * getattr(other, "value", other))

    def __add__(self, other):
        return Counted(self.value + getattr(other, "value", other))

    __rmul__, __radd__ = __mul__, __add__


def multiplications(function, *arrays):
    counting = [np.vectorize(Counted, otypes=[object])(array) for array in arrays]
    Counted.multiplications = 0
    result = function(*counting)
    assert np.allclose(np.vectorize(lambda number: number.value)(result), function(*arrays))
    return Counted.multiplications


(B, C, T), O, K = x.shape, len(p), d.shape[1]
assert multiplications(full, x, w) == B * O * C * K * T
assert multiplications(separable, x, d, p) == B * (C * K + O * C) * T
assert w.size == O * C * K and d.size + p.size == C * K + O * C

# %% [markdown]
# Now with the sizes of the small model, 128 channels and 3 taps. The full convolution has 49 152 numbers, the
# separable one 16 768. That is 34 %, about a third. And it cannot get much better: $1/O$ is small already, and
# $1/K$ remains. With 3 taps, separating saves at most a factor of 3. With more taps it would save more.

# %%
C = O = 128
K = 3
assert O * C * K == 49_152 and C * K + O * C == 16_768
share = 1 / O + 1 / K
assert np.isclose(share, 16_768 / 49_152) and round(100 * share) == 34

fig, ax = plt.subplots(figsize=(7.5, 3.2))
sizes = np.arange(1, 17)
for channels in (16, 128, 512):
    ax.plot(sizes, 1 / (1 / channels + 1 / sizes), marker="o", markersize=3, label=f"{channels} outputs")
ax.plot(sizes, sizes, color="gray", linestyle=":", label="K")
ax.axvline(3, color="black", linewidth=0.8)
ax.text(3.1, 14, "this network", va="top")
ax.set(xlabel="taps K", ylabel="times fewer", title="what separating saves")
ax.legend()
companion.show("savings")

# %% [markdown]
# With a single tap there is nothing to separate, and the depthwise step is only extra work: all curves begin below
# one.

# %%
assert 1 / (1 / 128 + 1 / 1) < 1

# %% [markdown]
# ## A whole block
#
# In the network, the block widens the channels first (expand), looks along time (depthwise), and narrows twice
# (residual and skip). What would it cost if the convolution in the middle were a full one, from all hidden channels
# to all? Here are the multiplications per frame, for the presets `small` and `paper`. (In this one function, `B`, `H`
# and `Sc` are the paper's letters for the numbers of channels: between the blocks, hidden inside a block, and of the
# skip exit.)


# %%
def block_parts(config, separate):
    B, H, Sc, K = config.bottleneck, config.hidden, config.skip, config.kernel
    return {
        "expand": H * B,
        "along time": H * K if separate else H * H * K,
        "residual": B * H,
        "skip": Sc * H,
    }


looks = {
    "expand": ("sky", ""),
    "along time": ("orange", "///"),
    "residual": ("blue", ""),
    "skip": ("green", "..."),
}
fig, axes = plt.subplots(2, figsize=(7.5, 3.8))
for ax, name in zip(axes, ("small", "paper")):
    for row, separate in enumerate((False, True)):
        left = 0
        for part, count in block_parts(Config.preset(name), separate).items():
            colour, hatch = looks[part]
            style = {"color": companion.COLOURS[colour], "hatch": hatch, "edgecolor": "white"}
            ax.barh(row, count / 1000, left=left, label=None if separate else part, **style)
            left += count / 1000
    ax.set_yticks((0, 1), ("full", "depthwise"))
    ax.set(title=name, xlabel="multiplications of one block per frame (thousands)")
    ax.grid(False)
axes[0].legend(loc="upper right", ncols=2)
companion.show("block_costs")

# %% [markdown]
# A block of `small` takes 24 960 multiplications per frame; with a full convolution it would take 73 728, three
# times as many. In `paper`, with 512 hidden channels, it is five times as many. The depthwise step itself is hardly
# visible: less than 2 % of the block.

# %%
for name, separate_total, full_total in (("small", 24_960, 73_728), ("paper", 198_144, 983_040)):
    config = Config.preset(name)
    assert sum(block_parts(config, True).values()) == separate_total
    assert sum(block_parts(config, False).values()) == full_total
    assert block_parts(config, True)["along time"] / separate_total < 0.02
assert round(73_728 / 24_960) == 3 and round(983_040 / 198_144) == 5

# The counts are those of the model's own arrays.
params = ConvTasNet(Config.preset("small")).params
for part, key in zip(looks, ("expand", "depthwise", "residual", "skip")):
    assert params[f"blocks.0.{key}.w"].size == block_parts(Config.preset("small"), True)[part]

# %% [markdown]
# The `paper` model has 5.0 million parameters. With full convolutions it would have 23.8 million.

# %%
paper = Config.preset("paper")
more_in_a_block = paper.hidden * paper.hidden * paper.kernel - paper.hidden * paper.kernel
with_full = paper.parameter_count + paper.blocks * paper.repeats * more_in_a_block
assert round(paper.parameter_count / 1e6, 1) == 5.0
assert round(with_full / 1e6, 1) == 23.8

# %% [markdown]
# ## What it gives up
#
# Not every kernel is a product. Fix an input channel $c$: the numbers $w_{o,c,k} = p_{o,c} \, d_{c,k}$ form a
# matrix of $O$ rows and $K$ columns, a column times a row. Such a matrix has *rank one*: all its rows look the
# same, up to a factor. So every output hears the channel through the same taps, only louder or softer.
#
# How near can a product come to any given kernel? The singular value decomposition gives the best matrix of rank
# one; the squares of the singular values say how much of the energy each part holds. For a random kernel of 128 x 3
# numbers, the best product keeps less than half.

# %%
kernel = rng.standard_normal((128, 3))  # of one input channel
columns, singular, rows = np.linalg.svd(kernel, full_matrices=False)
best = singular[0] * np.outer(columns[:, 0], rows[0])
kept = singular[0] ** 2 / np.sum(singular**2)
print(f"the best product keeps {kept:.0%} of a random kernel")

assert np.linalg.matrix_rank(best) == 1 and np.linalg.matrix_rank(kernel) == 3
assert np.isclose(np.sum((kernel - best) ** 2), (1 - kept) * np.sum(kernel**2))
assert 1 / 3 < kept < 0.5
assert np.linalg.matrix_rank(w[:, 0, :]) == 1  # the separable one from above

# %% [markdown]
# The network makes up for it by its expand step: it makes more channels than it had, so that the same signal can go
# through several different rows of taps. Exercise 2 shows how many are enough to make any kernel.
#
# ## Break it: the order of the two steps
#
# Pointwise first and depthwise second is separable, too, with the same counts, but not the same. Its kernel is
# $d_{o,k} \, p_{o,c}$: the taps belong to the outputs. With as many inputs as outputs nothing complains about a
# swap.

# %%
x5, d5, p5 = (rng.standard_normal(shape) for shape in ((2, 5, 11), (5, 3), (5, 5)))
ours = separable(x5, d5, p5)
mixed, _ = pointwise_forward(x5, p5, np.zeros(5))
swapped, _ = depthwise_forward(mixed, d5, np.zeros(5))

assert np.allclose(swapped, full(x5, d5[:, None, :] * p5[:, :, None]))  # (O, 1, K) * (O, C, 1)
with companion.fails("pointwise and depthwise change places"):
    assert np.allclose(ours, swapped), "another result"

# %% [markdown]
# ## The backward pass, from the full one
#
# We know both steps' gradients from the last two tutorials. There is another way to them, which says what
# separating means for learning. Let $\text{dw}_{o,c,k}$ be the gradient of a full kernel. Each $w_{o,c,k}$ occurs
# once for every frame:
#
# $$ \text{dw}_{o,c,k} = \sum_t \text{dy}_{o,t} \; x_{c, \, t + \text{offset}(k)} $$
#
# Now $w_{o,c,k} = p_{o,c} \, d_{c,k}$. The number $p_{o,c}$ occurs in $w_{o,c,k}$ for each tap $k$, with the factor
# $d_{c,k}$. The number $d_{c,k}$ occurs for each output $o$, with the factor $p_{o,c}$. The chain rule sums over
# the places:
#
# $$ \begin{aligned}
# \text{dp}_{o,c} &= \sum_k \text{dw}_{o,c,k} \; d_{c,k} \\
# \text{dd}_{c,k} &= \sum_o \text{dw}_{o,c,k} \; p_{o,c}
# \end{aligned} $$
#
# For the input, each product $w_{o,c,k} \, x_{c, t + \text{offset}(k)}$ goes back to where it was read:
#
# $$ \text{dx}_{c, \, t + \text{offset}(k)} \mathrel{+}= \sum_o \text{dy}_{o,t} \; w_{o,c,k} \qquad \text{for all } t, k $$


# %%
def full_gradients(dy, x, w, dilation):
    (O, C, K), T = w.shape, x.shape[2]
    dw = np.zeros_like(w)
    dpadded = np.zeros((len(x), C, T + (K - 1) * dilation))
    for k, view in enumerate(tap_views(x, K, dilation)):
        dw[:, :, k] = np.einsum("bot,bct->oc", dy, view)
        dpadded[:, :, k * dilation : k * dilation + T] += w[:, :, k].T @ dy
    return dpadded[:, :, (K - 1) * dilation :], dw


def separable_gradients(dy, x, d, p, dilation):
    dx, dw = full_gradients(dy, x, p[:, :, None] * d, dilation)
    dd = np.einsum("ock,oc->ck", dw, p)
    dp = np.einsum("ock,ck->oc", dw, d)
    return dx, dd, dp


# %% [markdown]
# The same as the library's two steps, one after the other, backwards; and finite differences agree.

# %%
dy = rng.standard_normal(y.shape)
dx, dd, dp = separable_gradients(dy, x, d, p, dilation=2)
dh, library_dp, _ = pointwise_backward(dy, pointwise_cache)
library_dx, library_dd, _ = depthwise_backward(dh, depthwise_cache)
assert np.allclose(dx, library_dx, atol=1e-12)
assert np.allclose(dd, library_dd, atol=1e-12)
assert np.allclose(dp, library_dp, atol=1e-12)


def error_of(gradients):
    return gradcheck.check_gradients(
        lambda *arrays: (separable(*arrays, dilation=2), arrays),
        lambda dy, arrays: gradients(dy, *arrays, dilation=2),
        [x, d, p],
        {},
    )


assert error_of(separable_gradients) < gradcheck.TOLERANCE

# %% [markdown]
# Break this one, too. The taps of a channel serve all outputs. A backward pass that sees only the first output gets
# `dd` wrong.


# %%
def shared_taps_forgotten(dy, x, d, p, dilation):
    dx, dd, dp = separable_gradients(dy, x, d, p, dilation)
    _, dw = full_gradients(dy, x, p[:, :, None] * d, dilation)
    return dx, dw[0] * p[0][:, None], dp  # the bug: only the first output counts in dd


with companion.fails("the taps serve all outputs, so dd must sum over them"):
    assert error_of(shared_taps_forgotten) < gradcheck.TOLERANCE, "wrong dd"

# %% [markdown]
# ## Timing it
#
# Fewer multiplications should mean less time. How much less? Times depend on the machine and on what else it does,
# so nothing here is asserted; look at what your machine prints. The sizes are those of the small model for four
# seconds of sound: 128 channels, 4000 frames, `float32`. All run on one thread, and the best of several runs
# counts.

# %%
C = O = 128
T = 4000
x, d, p = (rng.standard_normal(shape).astype(np.float32) for shape in ((1, C, T), (C, K), (O, C)))
w, zero = p[:, :, None] * d, np.zeros(C, np.float32)


def best_milliseconds(function, runs=7):
    function()  # once before: compiles, fills the caches
    times = []
    with threadpool_limits(1):
        for _ in range(runs):
            start = time.perf_counter()
            function()
            times.append(1000 * (time.perf_counter() - start))
    return min(times)


h, _ = depthwise_forward(x, d, zero)
measured = {
    "full: 3 matrix products": (best_milliseconds(lambda: full(x, w)), O * C * K * T),
    "depthwise": (best_milliseconds(lambda: depthwise_forward(x, d, zero)), C * K * T),
    "pointwise": (best_milliseconds(lambda: pointwise_forward(h, p, zero)), O * C * T),
}
for name, (milliseconds, count) in measured.items():
    print(
        f"{name:24} {milliseconds:7.2f} ms   {count / milliseconds / 1e6:6.1f} multiplications per nanosecond"
    )
times = [milliseconds for milliseconds, _ in measured.values()]
print(
    f"separable: {(times[1] + times[2]) / times[0]:.0%} of the time, {1 / O + 1 / K:.0%} of the multiplications"
)

assert np.allclose(full(x, w), pointwise_forward(h, p, zero)[0], atol=1e-3)  # the same result

# %% [markdown]
# On most machines, the depthwise step does far fewer multiplications per nanosecond than the pointwise one. Why?
# Count what each has to move. For every number that it reads or writes, the depthwise step does 1.5
# multiplications: it has 3 per frame and channel, and reads one number and writes one. The pointwise step does 64:
# its $O C$ multiplications per frame come with $C$ numbers read and $O$ written. A processor multiplies faster than
# it fetches numbers from memory. So the depthwise step waits for memory. Counting multiplications alone would not
# tell. Tutorial 17 is about that.

# %%
assert C * K / (C + C) == 1.5
assert O * C / (C + O) == 64

# %% [markdown]
# ## Where this sits in the model
#
# A block is expand, depthwise, and then residual and skip. The last three are the separable convolution of this
# tutorial, with a PReLU and a norm between its two steps: both residual and skip are pointwise convolutions of the
# same $h$.
#
# ## Exercises
#
# 1. For which $O$ does separating a convolution of 3 taps save nothing? For which number of taps does it save a
#    factor of ten, with 512 outputs?
# 2. Show that every full convolution with $K$ taps is the sum of $K$ separable ones. What does that say about
#    expanding the channels first?
# 3. How many multiplications per second does the small model need? How many would it be with full convolutions in
#    the blocks? (Count the encoder, the bottleneck, the blocks, the mask layer, the masks that are put on, and the
#    decoder twice. The last block has no residual.)
# 4. A full convolution with random numbers, and the separable one that is nearest to it: find $d$ and $p$ by the
#    singular value decomposition, channel by channel, and then by gradient descent with `separable_gradients`. Do
#    they agree?
