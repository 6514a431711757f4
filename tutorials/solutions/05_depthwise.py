# %% [markdown]
# # 5. Depthwise convolution: solutions
#
# Minutes: 15. Before: [5. Depthwise convolution](../05_depthwise.py).
#
# Impulses, two layers in one, how many blocks see a second, and a look into the future.

# %%
import sys
from pathlib import Path

# companion.py lies in the folder above, both for a script and for a notebook.
sys.path.insert(0, str(Path(globals().get("__file__", "notebook")).resolve().parents[1]))
import companion

import matplotlib.pyplot as plt
import numpy as np

from tasnet_np import Config, ConvTasNet
from tasnet_np.ops.depthwise import depthwise_forward

rng = np.random.default_rng(5)

# %% [markdown]
# ## 1. An impulse
#
# $y_t = \sum_k w_k x_{t + \text{offset}(k)}$, and $x$ is one at frame 5 only. So tap $k$ shows up where
# $t + \text{offset}(k) = 5$, at $t = 5 - \text{offset}(k)$. The offsets of a causal layer with dilation 2 are -4,
# -2, 0. The taps appear at frames 9, 7 and 5: later than the impulse, and in reverse order.

# %%
impulse = np.zeros((1, 1, 12))
impulse[0, 0, 5] = 1
w = np.array([[1.0, 2.0, 3.0]])
y, _ = depthwise_forward(impulse, w, np.zeros(1), dilation=2)
expected = np.zeros(12)
expected[[9, 7, 5]] = 1, 2, 3
assert np.array_equal(y[0, 0], expected)

# %% [markdown]
# ## 2. Two layers in one
#
# Put the first formula into the second. Both layers are causal, without bias:
#
# $$ z_t = \sum_j v_j \, y_{t - (K - 1 - j) d_2} = \sum_j \sum_k v_j \, w_k \; x_{t - (K - 1 - j) d_2 - (K - 1 - k) d_1} $$
#
# All products with the same total offset collect in one tap. That is a convolution of the two rows of taps, each
# spread out: between its taps stand as many zeros as make the distance $d$. Dilations 1 and 2 with 3 taps each make
# a row of 7 taps with dilation 1, out of 6 numbers. So stacking layers without something bent in between cannot
# make any 7 taps, only some.


# %%
def spread(taps, dilation):
    spread_out = np.zeros((len(taps) - 1) * dilation + 1)
    spread_out[::dilation] = taps
    return spread_out


w, v = rng.standard_normal((1, 3)), rng.standard_normal((1, 3))
x, zero = rng.standard_normal((2, 1, 30)), np.zeros(1)
one_by_one, _ = depthwise_forward(depthwise_forward(x, w, zero, dilation=1)[0], v, zero, dilation=2)
together = np.convolve(spread(w[0], 1), spread(v[0], 2))
assert together.shape == (7,)
assert np.allclose(one_by_one, depthwise_forward(x, together[None], zero)[0])

# %% [markdown]
# ## 3. A whole second
#
# The field has $F = 1 + R (K - 1)(2^X - 1) = 1 + 4 (2^X - 1)$ frames and $(F - 1) \cdot 8 + 16$ samples. With
# $X = 7$ these are 509 frames, half a second. With $X = 8$ they are 1021 frames and 8176 samples, a little more
# than a second. Two more blocks per row double it twice. The parameters grow by 31 % only.

# %%
fields = {blocks: Config(blocks=blocks) for blocks in (6, 7, 8)}
assert fields[7].receptive_field_frames == 509 and fields[7].receptive_field_seconds < 1
assert fields[8].receptive_field_frames == 1021 and fields[8].receptive_field_seconds * 8000 == 8176
growth = fields[8].parameter_count / fields[6].parameter_count
assert round(100 * growth) == 131

# %% [markdown]
# ## 4. A look into the future
#
# The first two blocks have the dilations 1 and 2. Centred, they look 1 and 2 frames ahead: 3 frames, or 24 samples.
# The width of the field stays what it was, it only moves. Why not by more? The other six blocks are causal and look
# back only. And the answer has to wait for what it looks at: the latency grows by the same 24 samples.


# %%
def field(lookahead_blocks, samples=1600, output=1003):
    config = Config(
        filters=12,
        bottleneck=6,
        hidden=8,
        skip=6,
        blocks=4,
        repeats=2,
        norm="channel",
        lookahead_blocks=lookahead_blocks,
    )
    model = ConvTasNet(config, dtype=np.float64, path="ops")
    sources = model.forward(np.random.default_rng(0).standard_normal((1, samples)))
    dsources = np.zeros_like(sources)
    dsources[0, 0, output] = 1
    gradient = model.backward(dsources)[0]
    seen = np.flatnonzero(gradient)
    return config, gradient, seen[0] - output, seen[-1] - output


causal, causal_gradient, first, last = field(0)
centred, centred_gradient, first_centred, last_centred = field(2)
assert centred.lookahead_frames == 1 + 2
assert (first_centred - first, last_centred - last) == (24, 24)
assert last_centred - first_centred == last - first
assert centred.latency_samples - causal.latency_samples == 24

plt.figure(figsize=(7.5, 2.8))
around = np.arange(-550, 100)
for label, gradient, marker in (
    ("causal", causal_gradient, "."),
    ("2 blocks centred", centred_gradient, "x"),
):
    plt.semilogy(around, np.abs(gradient[1003 + around]), marker, markersize=3, label=label)
plt.axvline(0, color="black", linewidth=0.8)
plt.xlabel("input sample, seen from the output sample")
plt.ylabel("|gradient|")
plt.title("the field moves by 24 samples")
plt.legend(loc="upper left")
companion.show("lookahead")
