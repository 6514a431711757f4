# %% [markdown]
# # 7. PReLU and the masks
#
# Minutes: 25. Before: [3. The encoder](03_encoder.py), [4. Pointwise convolution](04_pointwise.py).
#
# The parts that bend: PReLU inside the network, and the sigmoid, softmax or ReLU that makes the masks. You derive
# their backward passes, hear what a mask does, and measure which masks can do more than others.

# %%
import companion

import matplotlib.pyplot as plt
import numpy as np
from scipy.signal import istft, stft

from tasnet_np import Config, ConvTasNet
from tasnet_np.ops import gradcheck
from tasnet_np.sound.metrics import si_snr
from tasnet_np.corpus.mixing import mix
from tasnet_np.ops.conv1d import conv1d_forward
from tasnet_np.ops.conv1d import conv_transpose1d_forward
from tasnet_np.ops.elementwise import (
    multiply_backward,
    multiply_forward,
    prelu_backward,
    prelu_forward,
    relu_backward,
    relu_forward,
    sigmoid_backward,
    sigmoid_forward,
    softmax_backward,
    softmax_forward,
)

companion.where("prelu", "mask")

rate = 8000  # Hz
rng = np.random.default_rng(7)

# %% [markdown]
# ## Hear it: a mask on a spectrogram
#
# A spectrogram shows where the speech is: at some frequencies, at some times. So take a number between 0 and 1 for
# each place: near 1 where the speech is louder, near 0 where the noise is. Multiply. This is a *mask*. Because we
# mixed the sounds ourselves, we can cheat and compute a good one from the two transforms $S$ and $V$ of speech and
# noise:
#
# $$ m = \frac{|S|}{|S| + |V|} $$

# %%
speech = companion.speech(3.0, rate, speaker="english-british")
noise = companion.noise(3.0, rate, name="babble")  # ten voices in the background
mixture, sources = mix(speech, noise, snr_db=0.0)
settings = {"fs": rate, "nperseg": 256, "noverlap": 192}
(_, _, S), (_, _, V), (_, _, X) = (stft(sound, **settings) for sound in (*sources, mixture))
ratio_mask = np.abs(S) / (np.abs(S) + np.abs(V) + 1e-12)
_, masked = istft(ratio_mask * X, **settings)
masked = masked[: len(mixture)]

companion.play(mixture, rate, "mixture at 0 dB")
companion.play(masked, rate, "masked")

fig, axes = plt.subplots(4, figsize=(7.5, 8.5), sharex=True)
companion.spectrogram(axes[0], sources[0], rate, "speech")
companion.spectrogram(axes[1], mixture, rate, "mixture")
image = axes[2].pcolormesh(
    np.arange(X.shape[1]) * 64 / rate, np.linspace(0, 4, 129), ratio_mask, vmin=0, vmax=1
)
axes[2].set(title="mask", ylabel="frequency (kHz)")
axes[2].grid(False)
fig.colorbar(image, ax=axes[2], label="mask", pad=0.01)
companion.spectrogram(axes[3], masked, rate, "mixture times mask")
for ax in axes[:3]:
    ax.set_xlabel("")
companion.show("mask_on_a_spectrogram")

# %% [markdown]
# How good is it? The measure is SI-SNR (tutorial 13): the ratio of what is right to what is wrong in an estimate,
# in dB, whatever its level. The mixture has about 0 dB. The mask brings it above 9 dB. A denoiser's work is to
# *guess* such a mask from the mixture alone.

# %%
assert abs(si_snr(mixture, sources[0])) < 0.5
assert si_snr(masked, sources[0]) > 9
assert ratio_mask.min() >= 0 and ratio_mask.max() <= 1

# %% [markdown]
# ## PReLU: a line with a bend
#
# Tutorial 4 showed that layers without a bend between them collapse into one. The bend in Conv-TasNet is PReLU
# (parametric ReLU). Positive numbers pass, and others are multiplied by a slope $\alpha$:
#
# $$ y = \begin{cases} x & x > 0 \\ \alpha \, x & \text{otherwise} \end{cases} $$
#
# $\alpha$ is a parameter and is learned: one number, of shape `(1,)`, for a whole layer. It begins at 0.25. With
# $\alpha = 0$ this is ReLU.
#
# **Backward, input.** Each number has its own output, and no other. On the two sides the slopes are 1 and $\alpha$:
#
# $$ \text{dx} = \begin{cases} \text{dy} & x > 0 \\ \alpha \, \text{dy} & \text{otherwise} \end{cases} $$
#
# **Backward, slope.** $\alpha$ occurs in every output with $x \le 0$, multiplied by that $x$. The chain rule sums
# over all places where it occurs: channels, frames, and the batch.
#
# $$ \text{d}\alpha = \sum_{x \le 0} \text{dy} \; x $$


# %%
def prelu(x, alpha):
    return np.where(x > 0, x, alpha * x)


def prelu_gradients(dy, x, alpha):
    dx = np.where(x > 0, dy, alpha * dy)
    dalpha = (dy * x)[x <= 0].sum()
    return dx, np.array([dalpha])


x, alpha = rng.standard_normal((2, 4, 5)), np.array([0.25])
y, cache = prelu_forward(x, alpha)
dy = rng.standard_normal(y.shape)
assert np.allclose(y, prelu(x, alpha), atol=1e-12)
for ours, library in zip(prelu_gradients(dy, x, alpha), prelu_backward(dy, cache), strict=True):
    assert np.allclose(ours, library, atol=1e-12)

y, cache = relu_forward(x)
assert np.array_equal(y, prelu(x, 0))
assert np.array_equal(relu_backward(dy, cache)[0], prelu_gradients(dy, x, 0)[0])

# %% [markdown]
# Finite differences agree, as long as no $x$ is closer to the bend than the step (tutorial 2).


# %%
def error_of(forward, gradients, *arrays):
    """The library's gradient check for a forward and a backward without a cache."""
    return gradcheck.check_gradients(
        lambda *arrays: (forward(*arrays), arrays),
        lambda dy, arrays: gradients(dy, *arrays),
        arrays,
        {},
    )


assert np.abs(x).min() > 1e-4
assert error_of(prelu, prelu_gradients, x, alpha) < gradcheck.TOLERANCE


# %%
def slope_from_everywhere(dy, x, alpha):
    dx, _ = prelu_gradients(dy, x, alpha)
    return dx, np.array([(dy * x).sum()])  # the bug: positive x do not contain alpha


with companion.fails("positive numbers count in dalpha"):
    assert error_of(prelu, slope_from_everywhere, x, alpha) < gradcheck.TOLERANCE, "wrong dalpha"

# %% [markdown]
# ## Three ways to make a mask
#
# The last layer of the separator gives two numbers for each filter and frame: one for the speech's mask, one for
# the noise's. They can be anything between minus and plus infinity (*logits*). An activation turns them into masks.
# $x$ and $y$ are `(B, S, C, T)`: batch, sources, filters, frames. $s$ and $j$ number the sources.
#
# | | formula | range | the masks of a place |
# |---|---|---|---|
# | sigmoid | $1 / (1 + e^{-x})$ | 0 to 1 | independent |
# | softmax | $e^{x_s} / \sum_j e^{x_j}$ over the sources | 0 to 1 | sum to one |
# | ReLU | $\max(x, 0)$ | 0 and up | independent |

# %%
logit = np.linspace(-6, 6, 241)
pair = np.zeros((1, 2, 1, len(logit)))  # the noise's logit is 0
pair[0, 0, 0] = logit
curves = {
    "sigmoid": (sigmoid_forward(logit[None])[0][0], "-"),
    "softmax, other logit 0": (softmax_forward(pair)[0][0, 0, 0], ":"),
    "ReLU": (np.maximum(logit, 0), "--"),
    "PReLU, slope 0.25": (prelu(logit, 0.25), "-."),
}
fig, (left, right) = plt.subplots(1, 2, figsize=(7.5, 3.4))
for (name, (values, style)), width in zip(curves.items(), (1.5, 4, 1.5, 1.5)):
    left.plot(logit, values, style, linewidth=width, label=name)
    right.plot(logit, np.gradient(values, logit), style, linewidth=width, label=name)
left.set(xlabel="x", ylabel="y", ylim=(-1.7, 3.2), title="activation")
right.set(xlabel="x", ylabel="slope", title="its slope")
left.legend(fontsize=8)
companion.show("activations")

# %% [markdown]
# **Sigmoid.** Its derivative is $y (1 - y)$, from tutorial 2. It is largest in the middle, 0.25 at $x = 0$. Far
# from the middle it dies away: at $x = 6$ it is below 0.0025, a hundredth of the largest. There the sigmoid
# *saturates*: a mask that is sure of itself learns slowly, also when it is wrong.


# %%
def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def sigmoid_gradient(dy, x):
    y = sigmoid(x)
    return (dy * y * (1 - y),)


x = rng.standard_normal((2, 2, 3, 4))
dy = rng.standard_normal(x.shape)
y, cache = sigmoid_forward(x)
assert np.allclose(y, sigmoid(x), atol=1e-12)
assert np.allclose(sigmoid_backward(dy, cache)[0], sigmoid_gradient(dy, x)[0], atol=1e-12)
assert sigmoid_gradient(1, 0.0)[0] == 0.25
assert 0.0024 < sigmoid_gradient(1, 6.0)[0] < 0.0025

# %% [markdown]
# **Softmax.** Let $e_s = e^{x_s}$ and $\Sigma = \sum_j e_j$, so $y_s = e_s / \Sigma$. Every output depends on every
# logit of its place. By the quotient rule, with $\partial e_s / \partial x_s = e_s$ and
# $\partial \Sigma / \partial x_s = e_s$:
#
# $$ \begin{aligned}
# \frac{\partial y_s}{\partial x_s} &= \frac{e_s \Sigma - e_s e_s}{\Sigma^2} = y_s - y_s y_s \\
# \frac{\partial y_j}{\partial x_s} &= \frac{0 - e_j e_s}{\Sigma^2} = - y_j y_s \qquad (j \ne s)
# \end{aligned} $$
#
# The chain rule sums over all outputs. The term $y_s$ occurs for $j = s$ only, the other one for every $j$:
#
# $$ \begin{aligned}
# \text{dx}_s &= \sum_j \text{dy}_j \frac{\partial y_j}{\partial x_s} \\
# &= \text{dy}_s \, y_s - \sum_j \text{dy}_j \, y_j \, y_s \\
# &= y_s \Big( \text{dy}_s - \sum_j \text{dy}_j \, y_j \Big)
# \end{aligned} $$
#
# In the code, the largest logit is subtracted first. It cancels in the fraction, and keeps $e^x$ from overflowing.


# %%
def softmax(x, axis=1):
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def softmax_gradient(dy, x):
    y = softmax(x)
    return (y * (dy - (dy * y).sum(axis=1, keepdims=True)),)


y, cache = softmax_forward(x)
assert np.allclose(y, softmax(x), atol=1e-12)
assert np.allclose(y.sum(axis=1), 1)
assert np.allclose(softmax_backward(dy, cache)[0], softmax_gradient(dy, x)[0], atol=1e-12)
assert error_of(softmax, softmax_gradient, x) < gradcheck.TOLERANCE
assert np.isfinite(softmax(1000 * x)).all()

# %% [markdown]
# With two sources, softmax is a sigmoid of the difference of the logits. Divide top and bottom by $e^{x_1}$:
#
# $$ \frac{e^{x_1}}{e^{x_1} + e^{x_2}} = \frac{1}{1 + e^{x_2 - x_1}} = \text{sigmoid}(x_1 - x_2) $$

# %%
assert np.allclose(softmax(x)[:, 0], sigmoid(x[:, 0] - x[:, 1]))
assert np.allclose(softmax(x)[:, 1], 1 - softmax(x)[:, 0])

# %% [markdown]
# ## Break it: softmax over the wrong axis
#
# The array has four axes, and a softmax runs over any of them. Over the filters (axis 2) the *filters* compete with
# each other, and each gets a small share. This has happened in published code. No shape is wrong, and the gradient
# check of the op itself finds nothing: it is a right gradient of a wrong function. What catches it is a property:
# the masks of the sources must sum to one.


# %%
def over_filters(x):
    return softmax(x, axis=2)  # the bug


def over_filters_gradient(dy, x):
    y = over_filters(x)
    return (y * (dy - (dy * y).sum(axis=2, keepdims=True)),)


assert over_filters(x).shape == x.shape
assert error_of(over_filters, over_filters_gradient, x) < gradcheck.TOLERANCE  # nothing is found
with companion.fails("softmax runs over the filters, not over the sources"):
    assert np.allclose(over_filters(x).sum(axis=1), 1), "the sources' masks do not sum to one"

# %% [markdown]
# ## Putting the masks on
#
# The masks $a$ `(B, S, C, T)` meet the frames of the mixture $b$ `(B, C, T)`. Each source gets its own copy of the
# frames, times its mask:
#
# $$ y_s = a_s \, b $$
#
# **Backward.** $a_s$ occurs in $y_s$ alone, with the factor $b$. But $b$ occurs in the outputs of all sources, so
# its gradient is a sum:
#
# $$ \text{da}_s = \text{dy}_s \; b \qquad \text{db} = \sum_s \text{dy}_s \; a_s $$


# %%
def multiply(a, b):
    return a * b[:, None]  # b for every source


def multiply_gradients(dy, a, b):
    return dy * b[:, None], (dy * a).sum(axis=1)


a, b = rng.standard_normal((2, 2, 3, 4)), rng.standard_normal((2, 3, 4))
y, cache = multiply_forward(a, b)
assert np.allclose(y, multiply(a, b), atol=1e-12)
for ours, library in zip(multiply_gradients(dy, a, b), multiply_backward(dy, cache), strict=True):
    assert np.allclose(ours, library, atol=1e-12)
assert error_of(multiply, multiply_gradients, a, b) < gradcheck.TOLERANCE

with companion.fails("only the speech's part of db"):
    gradients = lambda dy, a, b: (dy * b[:, None], dy[:, 0] * a[:, 0])
    assert error_of(multiply, gradients, a, b) < gradcheck.TOLERANCE, "wrong db"

# %% [markdown]
# ## Masks on the encoder's frames
#
# On a spectrogram the magnitudes are positive. The frames of our encoder are signed numbers, and this changes what
# masks can do. The encoder is linear, so the frames of the mixture are the sum of those of the sources:
# $b = b_s + b_v$. The mask that gives back the speech exactly is
#
# $$ a = \frac{b_s}{b} = \frac{b_s}{b_s + b_v} $$
#
# If $b_s$ and $b_v$ have the same sign, it lies between 0 and 1. If they have opposite signs, they cancel partly:
# the mixture is smaller than the larger of the two. Then the mask must be above 1 (when the speech is the larger
# one), or negative (when the noise is).
#
# Let us count. The 16 cosine filters are those of tutorial 3, from which a waveform comes back in full.

# %%
K, stride = 16, 8
c, k = np.arange(K)[:, None], np.arange(K)
w = np.sqrt(2 / K) * np.cos(np.pi * (k + 0.5) * c / K) * np.sin(np.pi * (k + 0.5) / K)
w[0] /= np.sqrt(2)


def encode(sound):
    return conv1d_forward(np.asarray(sound, np.float64)[None], w, stride=stride)[0][0]  # (16, T)


def decode(frames):
    return conv_transpose1d_forward(np.ascontiguousarray(frames)[None], w, stride=stride)[0][0]


b_s, b_v = encode(sources[0]), encode(sources[1])
b = b_s + b_v
ideal = b_s / b

inside = slice(stride, -stride)  # samples under two windows
samples = decode(b).size
target = sources[0][:samples][inside]
assert np.allclose(decode(b)[inside], mixture[:samples][inside], atol=1e-6)
assert si_snr(decode(ideal * b)[inside], target) > 79  # the measure ends at 80

share_inside = np.mean((ideal >= 0) & (ideal <= 1))
print(f"below 0: {np.mean(ideal < 0):.0%}, 0 to 1: {share_inside:.0%}, above 1: {np.mean(ideal > 1):.0%}")

# %% [markdown]
# Only 57 % of the ideal values lie between 0 and 1. How much does it matter? Force the ideal mask into the range of
# each activation, put it on, decode, and measure. This is the best that a mask of this kind can do on this mixture,
# with these filters.

# %%
assert round(100 * share_inside) == 57
ranges = {"ReLU: 0 and up": (0, np.inf), "sigmoid: 0 to 1": (0, 1)}
best = {name: si_snr(decode(np.clip(ideal, *limits) * b)[inside], target) for name, limits in ranges.items()}
best["0 or 1"] = si_snr(decode((ideal > 0.5) * b)[inside], target)
best["no mask"] = si_snr(decode(b)[inside], target)

fig, (left, right) = plt.subplots(1, 2, figsize=(7.5, 3.2))
left.hist(np.clip(ideal.ravel(), -2.99, 3.99), bins=np.arange(-3, 4.01, 0.1), color="dimgray")
left.axvspan(0, 1, color=companion.COLOURS["yellow"], alpha=0.4, zorder=0)
left.set(xlabel="ideal mask (ends collect the rest)", ylabel="how many", title="0 to 1 is marked")
right.barh(list(best)[::-1], list(best.values())[::-1], color=companion.COLOURS["blue"])
for row, value in enumerate(list(best.values())[::-1]):
    right.text(max(value, 0) + 0.3, row, f"{value:.1f}", va="center")
right.set(xlabel="SI-SNR of the speech (dB)", title="the best of each range", xlim=(0, 21))
right.grid(axis="x")
right.grid(False, axis="y")
companion.show("ideal_masks")

# %% [markdown]
# The range 0 to 1 limits the result to about 13 dB, still a gain of 13 dB. Masks above 1 would allow 4 dB more. A
# mask of zeros and ones gets less than 11 dB. But all of these are ideal masks, and a network has to guess its own.
# What it guesses best is found by trying: the paper tried several activations, and chose the sigmoid.

# %%
assert 12.5 < best["sigmoid: 0 to 1"] < 13.5
assert 3.5 < best["ReLU: 0 and up"] - best["sigmoid: 0 to 1"] < 4.5
assert 10 < best["0 or 1"] < 11
assert abs(best["no mask"]) < 0.5

# %% [markdown]
# And softmax? The ideal masks of speech and noise sum to one at every place, since $b_s / b + b_v / b = 1$. They
# still do after both have been forced into 0 to 1. So the sum of one takes away nothing from the *best* mask. It
# takes away freedom: the two cannot be both small where the network is not sure.

# %%
speech_mask, noise_mask = np.clip(b_s / b, 0, 1), np.clip(b_v / b, 0, 1)
assert np.allclose(b_s / b + b_v / b, 1)
assert np.allclose(speech_mask + noise_mask, 1)

# %% [markdown]
# Here is what it looks like: 40 frames, the mask forced into 0 to 1, and their product. We take the 40 ms in which
# the weaker of speech and noise is loudest. To make small numbers visible, the colour shows the root of a number's
# size, with its sign. The filters are sorted by frequency. Compare the top and the bottom picture: most of the
# speech is back. The mask is ragged, not smooth like the one on the spectrogram: signs change from frame to frame.

# %%
loudness = [np.convolve(np.abs(frames).sum(axis=0), np.ones(40), "valid") for frames in (b_s, b_v)]
start = int(np.minimum(*loudness).argmax())
pictures = {
    "frames of the speech": b_s, "frames of the mixture": b, "mask, 0 to 1": speech_mask,
    "mixture times mask": speech_mask * b,
}  # fmt: skip
fig, axes = plt.subplots(4, figsize=(7.5, 8), sharex=True)
for ax, (title, values) in zip(axes, pictures.items()):
    values, limits, label = values[:, start : start + 40], (0, 1), "mask"
    if title != "mask, 0 to 1":
        values = np.sign(values) * np.sqrt(np.abs(values))
        limits, label = (-0.7, 0.7), "signed root"
    place = {"origin": "lower", "extent": (0, 40, -0.5, 15.5), "aspect": "auto"}
    image = ax.imshow(values, interpolation="nearest", vmin=limits[0], vmax=limits[1], **place)
    ax.set(title=title, ylabel="filter")
    ax.grid(False)
    fig.colorbar(image, ax=ax, pad=0.01, label=label)
axes[-1].set_xlabel("time (ms)")
companion.show("mask_on_frames")

assert 40 * stride / rate == 0.04

# %% [markdown]
# ## Where this sits in the model
#
# PReLU stands twice in every block and once before the masks. The mask layer is a pointwise convolution with 2 ·
# 128 outputs in the small model: the first 128 are the speech's logits, the others the noise's. We can see that by
# force. Make its matrix zero, and its bias 50 for the speech and -50 for the noise. Then the masks are one and
# zero, whatever the mixture. The speech output is all that encoder and decoder let through, and the noise output is
# silence.

# %%
config = Config.preset("small")
model = ConvTasNet(config)
params = model.named_parameters()
assert params["mask.w"].shape == (2 * 128, 64)
slopes = [array for name, array in params.items() if name.endswith("alpha")]
assert len(slopes) == 2 * 12 + 1 and all(slope == 0.25 for slope in slopes)

params["mask.w"][:] = 0
params["mask.b"][:128], params["mask.b"][128:] = 50, -50
everything, silence = model.forward(mixture[None], keep=False)[0]
assert np.abs(everything).max() > 0.01
assert np.abs(silence).max() < 1e-12

# %% [markdown]
# ## Exercises
#
# 1. What would masks between -1 and 1 allow (an activation like $\tanh$), on the frames above? Which limit costs
#    more, the upper or the lower one?
# 2. Add the same number to both logits of a place: what happens to the softmax? What does that say about
#    $\sum_s \text{dx}_s$? How many logits per place would be enough for two sources?
# 3. In `float32`, what is the sigmoid's gradient $y (1 - y)$ at $x = 20$, and what at $x = -20$? Why are they not
#    the same, as they should be?
# 4. Show that $\text{PReLU}(g x) = g \, \text{PReLU}(x)$ for gains $g > 0$, but not for $g < 0$. Which of the three
#    mask activations has this property? Suppose that the logits grew with the level of the recording: what would
#    follow for the masks? (A norm right behind the encoder, tutorial 8, takes the level away before.)
