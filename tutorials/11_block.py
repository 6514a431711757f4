# %% [markdown]
# # 11. A block
#
# Minutes: 25. Before: [4. Pointwise convolution](04_pointwise.py), [5. Depthwise convolution](05_depthwise.py),
# [8. Global layer norm](08_global_norm.py).
#
# You put the ops together into one block, with its two exits, residual and skip. You learn to read its backward as its
# forward upwards, and see how far a row of blocks looks in time.

# %%
import companion

import matplotlib.pyplot as plt
import numpy as np

from tasnet_np.ops.gradcheck import check_gradients, relative_error
from tasnet_np.network.config import Config
from tasnet_np.network.execution import ConvTasNet
from tasnet_np.ops import OPS

COLOURS = companion.COLOURS
rng = np.random.default_rng(11)

# %%
companion.where("block", "expand", "prelu", "norm1", "depthwise", "norm2", "residual", "skip")

# %% [markdown]
# ## See it: how far a frame can look
#
# A row of blocks follows each other. The depthwise convolution of each has three taps, and their distance, the
# *dilation*, doubles from block to block: 1, 2, 4, 8. The figure shows four such blocks. A dot is a frame, a line is a
# tap. At the top is one frame of the last output. Follow the lines downwards, and you find every frame that it depends
# on.


# %%
def draw_reach(ax, blocks, causal, title):
    """The taps below one frame at the top, block under block; returns the frames reached at the bottom."""
    reached = {0}
    for block in reversed(range(blocks)):
        dilation = 2**block
        offsets = (-2 * dilation, -dilation, 0) if causal else (-dilation, 0, dilation)
        for frame in reached:
            for offset in offsets:
                ax.plot(
                    (frame + offset, frame), (block, block + 1), "-", color=COLOURS["blue"], linewidth=0.7
                )
        reached |= {frame + offset for frame in reached for offset in offsets}
        ax.text(17, block + 0.5, f"dilation {dilation}", va="center")
        ax.plot(sorted(reached), np.full(len(reached), block), "o", color="black", markersize=3)
    ax.plot(0, blocks, "o", color=COLOURS["vermilion"])
    ax.set(title=title, yticks=range(blocks + 1), ylabel="after block", xlim=(-32, 24))
    return reached


fig, axes = plt.subplots(2, sharex=True, figsize=(7.5, 5.4))
causal = draw_reach(axes[0], 4, True, "causal: only the past")
centred = draw_reach(axes[1], 4, False, "centred: past and future")
axes[1].set_xlabel("frame, counted from the one at the top")
companion.show("triangles")

assert causal == set(range(-30, 1))
assert centred == set(range(-15, 16))
assert len(causal) == len(centred) == 31

# %% [markdown]
# Four blocks of three taps see 31 frames, without a gap. With dilation 1 throughout they would see only 9. Each block
# adds $2 \cdot \text{dilation}$ frames. With $K$ taps and $X$ blocks:
#
# $$ 1 + (K - 1)(1 + 2 + 4 + \dots + 2^{X-1}) = 1 + (K - 1)(2^X - 1) $$
#
# The sum in brackets is a binary number of $X$ ones, which is one less than $2^X$. So the reach doubles with each
# block, while the work per block stays the same.

# %%
taps = 3
assert 1 + (taps - 1) * (2**4 - 1) == 31
assert 1 + (taps - 1) * 4 == 9  # dilation 1 in all four
assert all(sum(2**i for i in range(X)) == 2**X - 1 for X in range(1, 12))

# %% [markdown]
# ## The formula
#
# A block takes two arrays. `x`, of shape `(B, C, T)`, goes from block to block. `skips`, of shape `(B, Sc, T)`,
# collects what each block has to say about the masks. Inside, there are $H$ channels, more than $C$.
#
# | | forward | shape |
# |---|---|---|
# | 1 | $a = w_e\, x + b_e$ | $C \to H$, pointwise, "expand" |
# | 2 | $p = \text{prelu}(a)$ | $H$ |
# | 3 | $n = \text{norm}(p)$ | $H$ |
# | 4 | $d = \text{depthwise}(n)$ | $H$, the only line that looks along time (but for the norms) |
# | 5 | $z = \text{prelu}(d)$ | $H$ |
# | 6 | $h = \text{norm}(z)$ | $H$ |
# | 7 | $\text{skips}' = \text{skips} + w_s\, h + b_s$ | $H \to Sc$ |
# | 8 | $x' = x + w_r\, h + b_r$ | $H \to C$ |
#
# Line 8 is the *residual*. The block does not replace `x`. It computes what should be added to it.
#
# ## The backward pass: two rules
#
# We get two gradients, one per output: `dx'` and `dskips'`. All lines but 7 and 8 are ops that we have differentiated
# in earlier tutorials. Only the joins are new. Two rules are enough.
#
# **A sum hands its gradient to both parts.** If $u = a + b$, then $\partial u / \partial a = 1$ and
# $\partial u / \partial b = 1$. So $da = du$ and $db = du$.
#
# **A value that is used twice collects both gradients.** If $h$ goes into $f(h)$ and into $q(h)$, and the loss is
# $L(f, q)$, the chain rule adds the paths:
#
# $$ \frac{\partial L}{\partial h} = \frac{\partial L}{\partial f} \frac{\partial f}{\partial h}
# + \frac{\partial L}{\partial q} \frac{\partial q}{\partial h} $$
#
# In a block, $h$ is used twice: in lines 7 and 8. And $x$ is used twice: in lines 1 and 8.
#
# Now read the table from its last line to its first. Where it says "$y = f(x)$", the backward says "$dx$ from $dy$".
# (Each op also gives the gradients of its own weights, as in its own tutorial. They are not written here.)
#
# | | backward |
# |---|---|
# | 8 | the sum hands $dx'$ to $x$ and to the residual; $dh = w_r^T dx'$ |
# | 7 | the sum hands $d\text{skips}'$ to $\text{skips}$ and to the skip path; $dh = dh + w_s^T d\text{skips}'$ |
# | 6 | $dz$ from $dh$ |
# | 5 | $dd$ from $dz$ |
# | 4 | $dn$ from $dd$ |
# | 3 | $dp$ from $dn$ |
# | 2 | $da$ from $dp$ |
# | 1 | $dx = dx' + w_e^T da$ |

# %% [markdown]
# ## In a few lines
#
# Forward and backward, each line with its number. Every op gives back `y` and a `cache`, and takes its cache back
# later. The backward pops the caches in reverse order. `theta` holds the block's own arrays, in order: `we be`,
# `alpha1`, `gamma1 beta1`, `wd bd`, `alpha2`, `gamma2 beta2`, `ws bs`, `wr br`. A PReLU has one, all others two.


# %%
CHAIN = ("pointwise", "prelu", "cumulative_layer_norm", "depthwise", "prelu", "cumulative_layer_norm")


def block_forward(x, skips, *theta, dilation):
    theta, caches, h = list(theta), [], x

    def apply(name, h, **settings):
        own = [theta.pop(0) for _ in range(1 if name == "prelu" else 2)]
        y, cache = OPS[name].forward(h, *own, **settings)
        caches.append((name, cache))
        return y

    for name in CHAIN:  # lines 1 to 6
        h = apply(name, h, **({"dilation": dilation} if name == "depthwise" else {}))
    skips = skips + apply("pointwise", h)  # line 7
    x = x + apply("pointwise", h)  # line 8
    return (x, skips), caches


def block_backward(dy, caches):
    (dx, dskips), dtheta = dy, []

    def undo(dy):
        name, cache = caches.pop()
        dx, *own = OPS[name].backward(dy, cache)
        dtheta[:0] = own  # in front of those of later lines
        return dx

    dh = undo(dx)  # line 8
    dh = dh + undo(dskips)  # line 7
    for _ in CHAIN:  # lines 6 to 1
        dh = undo(dh)
    return dx + dh, dskips, *dtheta


# %% [markdown]
# ## Check it
#
# First against central differences: 16 arrays, every element of each. Then against the library's fused block, which
# does the same in a few passes over memory. Forward and backward must agree.

# %%
B, C, H, Sc, T = 2, 3, 5, 4, 9
sizes = [(H, C), H, 1, H, H, (H, taps), H, 1, H, H, (Sc, H), Sc, (C, H), C]
arrays = [rng.standard_normal(size) for size in [(B, C, T), (B, Sc, T), *sizes]]
assert len(arrays) == 16
assert check_gradients(block_forward, block_backward, arrays, {"dilation": 2}) < 1e-6

settings = {"dilation": 2, "norm": "cumulative_layer_norm"}
y, caches = block_forward(*arrays, dilation=2)
fused_y, fused_cache = OPS["tcn_block"].forward(*arrays, **settings)
dy = tuple(rng.standard_normal(each.shape) for each in y)
gradients = block_backward(dy, caches)
fused_gradients = OPS["tcn_block"].backward(dy, fused_cache)
for mine, library in zip((*y, *gradients), (*fused_y, *fused_gradients), strict=True):
    assert relative_error(mine, library) < 1e-9

# %% [markdown]
# ## Break it: a path is forgotten
#
# Each join has two sides, and one of them is easily lost. The first bug forgets that $x$ also went straight through.
# The second forgets that $h$ also fed the skip path. The third forgets that the earlier skips went straight through,
# too.


# %%
def buggy_backward(bug):
    def backward(dy, caches):
        dx, dskips, *dtheta = block_backward(dy, list(caches))
        if bug == "x's way straight through":
            dx = dx - dy[0]
        elif bug == "h's way into the skips":
            no_skips = (dy[0], np.zeros_like(dy[1]))
            dx, _, *dtheta = block_backward(no_skips, list(caches))
        elif bug == "the earlier skips":
            dskips = np.zeros_like(dskips)
        return dx, dskips, *dtheta

    return backward


for bug in ("x's way straight through", "h's way into the skips", "the earlier skips"):
    with companion.fails(f"forgotten: {bug}"):
        error = check_gradients(block_forward, buggy_backward(bug), arrays, {"dilation": 2})
        assert error < 1e-6, f"relative error {error:.2g}"

# %% [markdown]
# ## What the residual is good for
#
# Without line 8's "$x +$", each block would hand on its own output alone. The backward shows the difference. With it,
# the gradient is $dx = dx' + (\dots)$: a copy of $dx'$ goes down unchanged, however deep the row. Without it, only
# what came through the weights arrives. At the start the weights are random, so a block turns the message into
# another one.
#
# We stack 23 fresh blocks and send a random gradient in at the top. After each block on the way down we ask how much
# of it is still there: the cosine of the angle between what arrives and what was sent. 1 is all of it, 0 is nothing.
# (`path="ops"` makes a model whose blocks run op by op, as ours does.)


# %%
def still_there(residual):
    config = Config(filters=32, bottleneck=32, hidden=64, skip=32, repeats=4)
    blocks = ConvTasNet(config, seed=1, dtype=np.float64, path="ops").blocks[:-1]  # the last has no residual
    x, skips = rng.standard_normal((1, 32, 300)), np.zeros((1, 32, 300))
    for block in blocks:
        y, skips = block.forward(x, skips)
        x = y if residual else y - x
    sent = dx = rng.standard_normal(x.shape)
    cosines = []
    for block in reversed(blocks):
        below, _ = block.backward(dx, np.zeros_like(skips))
        dx = below if residual else below - dx  # without the copy that went straight through
        cosines.append((dx * sent).sum() / np.linalg.norm(dx) / np.linalg.norm(sent))
    return cosines


with_residual, without = still_there(True), still_there(False)
fig, ax = plt.subplots()
for curve, name in ((with_residual, "with the residual"), (without, "without")):
    ax.plot(range(1, 24), curve, label=name)
ax.set(xlabel="blocks passed on the way down", ylabel="cosine to what was sent", ylim=(-0.1, 1.05))
ax.legend(loc="upper right")
companion.show("gradient_on_the_way_down")

print(f"after 23 blocks: {with_residual[-1]:.2f} with the residual, {without[-1]:.2f} without")
assert with_residual[-1] > 0.25
assert max(np.abs(without)) < 0.1
assert 32 * 300 == 9600 and round(1 / np.sqrt(9600), 2) == 0.01

# %% [markdown]
# With the residual, the lowest block still hears what the top wants: a cosine above 0.25 among 9600 numbers is far
# from chance. (Two random directions among $n$ numbers have a cosine of about $1 / \sqrt{n}$, here 0.01.)
# Without it, what arrives below even one block points in another direction altogether. The low
# blocks would have to wait until the higher ones have learned to pass on what matters. The skips help in the same way.
# Every block has a path to the masks of its own, and $d\text{skips}$ goes down the row unchanged.

# %% [markdown]
# ## The receptive field, measured
#
# A formula about reach should be measured. The gradient does it for us. Put a random gradient on a single frame of
# the last output, run the backward pass, and see which input frames get a gradient that is not zero. Two things must
# be as we want them. The norm must be the per-frame one, as the cumulative norm hears the whole past. And we look at
# a whole row of blocks, with the `small` model's $X = 6$ dilations, $R = 2$ times. The second time the dilations
# start again at 1.


# %%
def frames_heard(config, frames=800, at=600):
    """Size of the gradient of each input frame of the blocks, when one frame of the skips is asked."""
    model = ConvTasNet(config, seed=0, dtype=np.float64)
    x = rng.standard_normal((1, config.bottleneck, frames))
    skips = np.zeros((1, config.skip, frames))
    for block in model.blocks:
        x, skips = block.forward(x, skips)
    dx, dskips = np.zeros_like(x), np.zeros_like(skips)
    dskips[:, :, at] = rng.standard_normal(config.skip)
    for block in reversed(model.blocks):
        dx, dskips = block.backward(dx, dskips)
    return np.linalg.norm(dx[0], axis=0)


causal = Config(norm="channel")
centred = Config(norm="channel", causal=False)
fig, axes = plt.subplots(2, sharex=True, figsize=(7.5, 4.2))
for ax, config, title in zip(axes, (causal, centred), ("causal", "centred")):
    heard = frames_heard(config)
    ax.semilogy(np.arange(800) - 600, np.where(heard > 0, heard, np.nan), "-", linewidth=1)
    ax.set(title=title, ylabel="gradient", xlim=(-300, 150))
    reach = np.flatnonzero(heard)
    assert len(reach) == config.receptive_field_frames == 253
    assert reach.max() - 600 == config.lookahead_frames == (0 if config.causal else 126)
    assert heard[590:601].mean() > 100 * heard[reach.min()]  # nearby, and the first frame that is heard
axes[1].set_xlabel("input frame, counted from the output frame that was asked")
companion.show("receptive_field")

assert 1 + 2 * (3 - 1) * (2**6 - 1) == 253

# %% [markdown]
# 253 frames are a quarter of a second. The curves also show what the triangle cannot: frames nearby count far more
# than those at the edges, which only a single path reaches.
#
# With $R$ rows the formula is
#
# $$ 1 + R\,(K - 1)(2^X - 1) $$
#
# The `paper` preset has $X = 8$ and $R = 3$, and sees 1531 frames, or 1.53 s.

# %%
paper = Config.preset("paper")
assert round(causal.receptive_field_seconds, 2) == 0.25
assert (paper.blocks, paper.repeats) == (8, 3)
assert paper.receptive_field_frames == 1531 == 1 + 3 * 2 * (2**8 - 1)
assert round(paper.receptive_field_seconds, 2) == 1.53

# %% [markdown]
# ## Break it: dilations that never start again
#
# Write $2^i$ where $2^{i \bmod X}$ was meant, with $i$ counted over all blocks. Nothing crashes. Twelve blocks now
# claim to see 8191 frames, over eight seconds, but most of their taps lie outside a short recording and read only
# zeros. The measured reach tells.


# %%
class NeverAgain(Config):
    def dilation(self, block):
        return 2**block


with companion.fails("dilations 1, 2, 4, ..., 2048"):
    wrong = NeverAgain(norm="channel")
    reach = np.count_nonzero(frames_heard(wrong))
    assert reach == wrong.receptive_field_frames, f"{reach} frames heard"
assert 1 + 2 * (2**12 - 1) == 8191
assert 8191 * Config().hop / 8000 > 8  # seconds

# %% [markdown]
# ## Where it sits in the model
#
# The `small` model has 12 blocks, and these are nearly all of it: 91 % of its parameters are theirs. The last block is
# special. Its `x` would go nowhere, since only the skips feed the masks. So it has no residual. Some well-known
# implementations keep it: in a model of the paper's size, 65 664 parameters that are never used.

# %%
small = ConvTasNet(Config(), seed=0)
in_blocks = sum(array.size for name, array in small.params.items() if name.startswith("blocks."))
share = in_blocks / Config().parameter_count
print(f"{share:.1%} of {Config().parameter_count} parameters are in the blocks")
assert round(share, 2) == 0.91
assert len(small.blocks) == 12
assert "blocks.10.residual.w" in small.params and "blocks.11.residual.w" not in small.params
assert paper.hidden * paper.bottleneck + paper.bottleneck == 65_664

# %% [markdown]
# The class `TCNBlock` in `tasnet_np/network/model.py` is our function with its arrays inside. `FusedTCNBlock` is what the
# model runs when speed counts. It keeps less for the backward: $x$, $a$ and the two numbers per frame of each norm.
# What else the backward needs, it computes again from these. Both give the same numbers.

# %%
x, skips = rng.standard_normal((1, 64, 50)).astype(np.float32), np.zeros((1, 64, 50), np.float32)
by_ops = ConvTasNet(Config(), seed=0, path="ops").blocks[0]
outputs = by_ops.forward(x, skips), small.blocks[0].forward(x, skips)
for one, other in zip(*outputs, strict=True):
    assert relative_error(one, other) < 1e-5

# %% [markdown]
# ## Exercises
#
# 1. Count the parameters of one block of the `paper` preset by hand, op by op. Compare with the model.
# 2. Give the last block of a model a residual all the same. Show that its gradient is exactly zero, whatever the masks
#    want. What does that mean for a check that only asks "is the gradient finite?"
# 3. You want to hear 2 seconds back, at 8000 Hz with a hop of 8, three taps, and $R = 2$. How many blocks $X$ per row?
# 4. A block's norms hear the whole past (cumulative) or everything (global). Measure the reach of the `small` model
#    with its own norm. Why is `receptive_field_frames` still a useful number?
#
# Solutions: [solutions/11_block.py](solutions/11_block.py).
