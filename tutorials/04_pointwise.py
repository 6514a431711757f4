# %% [markdown]
# # 4. Pointwise convolution
#
# Minutes: 20. Before: [2. Checking a gradient](02_checking_gradients.py), [3. The encoder](03_encoder.py).
#
# A pointwise convolution multiplies every frame by one matrix. You derive its backward pass from the chain rule,
# write it as three matrix products, and use it to learn how two microphones can be unmixed.

# %%
import companion

import matplotlib.pyplot as plt
import numpy as np

from tasnet_np import Config, ConvTasNet
from tasnet_np.ops import gradcheck
from tasnet_np.sound.metrics import si_snr
from tasnet_np.ops.pointwise import pointwise_backward, pointwise_forward

companion.where("bottleneck", "expand", "residual", "skip", "mask")

rate = 8000  # Hz
rng = np.random.default_rng(4)

# %% [markdown]
# ## Hear it: two microphones
#
# A speaker and a radio are in a room with two microphones. Each microphone hears both, with its own gains. (A real
# room would also add delays and echoes.) At every time $t$ there are two numbers, left and right: one *frame* with
# two *channels*.

# %%
speech = companion.speech(2.0, rate, speaker="english-british")
music = companion.noise(2.0, rate, name="music")
sources = np.stack([speech, music]).astype(np.float64)  # (2, n)
gains = np.array([[0.8, 0.5], [0.5, 0.9]])  # row: microphone, column: source
microphones = gains @ sources  # (2, n)
companion.play(microphones[0], rate, "left microphone")
companion.play(microphones[1], rate, "right microphone")

# %% [markdown]
# Can a matrix undo that? The gains are a matrix, and it has an inverse. Multiply every frame by it, and the two
# sources are back. Multiplying every frame by the same matrix is a *pointwise convolution*.
#
# `si_snr` measures how much of a sound is the right one, in dB, whatever its level (tutorial 13). The left
# microphone gets less than 6 dB. What the matrix gives back is right up to rounding.

# %%
unmixing = np.linalg.inv(gains)
y, _ = pointwise_forward(microphones[None], unmixing, np.zeros(2))  # (1, 2, n)
companion.play(y[0, 0], rate, "the speech is back")

assert np.allclose(y[0], sources)
assert si_snr(microphones[0], sources[0]) < 6  # dB
assert si_snr(y[0, 0], sources[0]) > 79  # dB, and the measure ends at 80

# %% [markdown]
# With a single microphone there is one equation for two unknowns, and no matrix helps. A denoiser for one
# microphone has to know more, namely what speech is like: hence the network. Inside that network, channels are
# mixed by matrices all the time.
#
# ## Formula
#
# | letter | meaning | shape |
# |---|---|---|
# | $x$ | input | `(B, C, T)`: batch, channels, frames |
# | $w$ | the matrix | `(O, C)`: output channels, input channels |
# | $b$ | the bias | `(O,)` |
# | $y$ | output | `(B, O, T)` |
#
# $$ y_{o,t} = b_o + \sum_{c=1}^{C} w_{o,c} \; x_{c,t} $$
#
# Each output channel is a weighted sum of all input channels *of the same frame*. The name says so: a convolution
# whose kernel is one point long. In papers it is the "1x1 convolution". With all frames side by side it is one
# matrix product:
#
# $$ y = w \, x + b $$

# %%
w, x = rng.standard_normal((4, 6)), rng.standard_normal((6, 12))
y = w @ x

fig, axes = plt.subplots(2, 2, figsize=(6.2, 4.4), width_ratios=(6, 12), height_ratios=(6, 4))
axes[0, 0].axis("off")
pictures = {
    axes[0, 1]: (x, "x: frames", "frame t", "channel c"),
    axes[1, 0]: (w, "w: the matrix", "channel c", "output o"),
    axes[1, 1]: (y, "y = w x", "frame t", "output o"),
}
for ax, (array, title, xlabel, ylabel) in pictures.items():
    ax.imshow(array, vmin=-3, vmax=3, aspect="equal")
    ax.set(
        title=title,
        xlabel=xlabel,
        ylabel=ylabel,
        xticks=range(array.shape[1]),
        yticks=range(len(array)),
    )
    ax.grid(False)


def frame_around(ax, left, top, width, height):
    ax.add_patch(
        plt.Rectangle((left - 0.5, top - 0.5), width, height, fill=False, edgecolor="black", linewidth=3)
    )


frame_around(axes[0, 1], 7, 0, 1, 6)  # column 7 of x
frame_around(axes[1, 0], 0, 2, 6, 1)  # row 2 of w
frame_around(axes[1, 1], 7, 2, 1, 1)  # make y[2, 7]
companion.show("matrix_product")

assert np.isclose(y[2, 7], sum(w[2, c] * x[c, 7] for c in range(6)))

# %% [markdown]
# The marked row of $w$ and the marked column of $x$ make the marked number of $y$. Each column of $y$ comes from
# the same column of $x$ alone. So frames never mix: put them into another order, and the results follow.

# %%
order = rng.permutation(12)
assert np.allclose(w @ x[:, order], y[:, order])

# %% [markdown]
# ## Derivation of the backward pass
#
# Given $\text{dy}_{o,t} = \partial L / \partial y_{o,t}$, we want the same for $x$, $w$ and $b$.
#
# **Bias.** $b_o$ is added to $y_{o,t}$ for every $t$, so $\partial y_{o,t} / \partial b_o = 1$. The chain rule sums
# over all the places where it occurs:
#
# $$ \text{db}_o = \sum_t \text{dy}_{o,t} $$
#
# **Matrix.** $w_{o,c}$ occurs in $y_{o,t}$ for every $t$, multiplied by $x_{c,t}$. In other rows of $y$ it does not
# occur:
#
# $$ \text{dw}_{o,c} = \sum_t \text{dy}_{o,t} \; x_{c,t} $$
#
# **Input.** $x_{c,t}$ occurs in every output channel $o$ of its own frame, multiplied by $w_{o,c}$:
#
# $$ \text{dx}_{c,t} = \sum_o \text{dy}_{o,t} \; w_{o,c} $$
#
# Each sum runs over an index that both factors share. That is a matrix product; only a transpose may be needed to
# bring the shared index to the inside:
#
# $$ \begin{aligned}
# \text{dw}_{o,c} &= \sum_t \text{dy}_{o,t} \, (x^T)_{t,c} & \text{dw} &= \text{dy} \; x^T \\
# \text{dx}_{c,t} &= \sum_o (w^T)_{c,o} \, \text{dy}_{o,t} & \text{dx} &= w^T \, \text{dy}
# \end{aligned} $$
#
# The shapes can be read off: `dw` must be `(O, C)`, and `dy` is `(O, T)`, so $x$ has to come transposed, `(T, C)`.
# Gradients of parameters are also summed over the batch, because every waveform uses the same $w$ and $b$.


# %%
def pointwise(x, w, b):
    return np.stack([w @ frames + b[:, None] for frames in x])  # one (O, T) per waveform


def pointwise_gradients(dy, x, w, b):
    dx = np.stack([w.T @ upstream for upstream in dy])
    dw = sum(upstream @ frames.T for upstream, frames in zip(dy, x))
    db = dy.sum(axis=(0, 2))  # over batch and frames
    return dx, dw, db


# %% [markdown]
# ## The same as the library's

# %%
x, w, b = rng.standard_normal((3, 5, 7)), rng.standard_normal((4, 5)), rng.standard_normal(4)
y, cache = pointwise_forward(x, w, b)
dy = rng.standard_normal(y.shape)

assert y.shape == (3, 4, 7)
assert np.allclose(y, pointwise(x, w, b), atol=1e-12)
for ours, library in zip(pointwise_gradients(dy, x, w, b), pointwise_backward(dy, cache), strict=True):
    assert np.allclose(ours, library, atol=1e-12)

# %% [markdown]
# And finite differences agree with both.


# %%
def error_of(gradients, x, w, b):
    forward = lambda *arrays: (pointwise(*arrays), arrays)
    return gradcheck.check_gradients(forward, lambda dy, cache: gradients(dy, *cache), [x, w, b], {})


assert error_of(pointwise_gradients, x, w, b) < gradcheck.TOLERANCE

# %% [markdown]
# ## Break it: a transpose too few
#
# Take `w` in place of `w.T` in `dx`. With 5 input and 4 output channels, NumPy complains at once: the shapes do not
# fit. With as many outputs as inputs they do fit, and the code runs. Only the check notices.


# %%
def without_transpose(dy, x, w, b):
    dx = np.stack([w @ upstream for upstream in dy])  # the bug
    return dx, *pointwise_gradients(dy, x, w, b)[1:]


refused = False
try:
    without_transpose(dy, x, w, b)
except ValueError:
    refused = True
assert refused

square_w, square_b = rng.standard_normal((5, 5)), rng.standard_normal(5)
with companion.fails("w is square, so a missing transpose fits"):
    assert error_of(without_transpose, x, square_w, square_b) < gradcheck.TOLERANCE, "wrong dx"

# %% [markdown]
# ## Let it learn the unmixing
#
# Suppose nobody tells us the gains of the microphones. But we have an example: what the microphones heard, and the
# sources. Start with a random matrix, compute $y$, and compare. The loss is half the mean squared difference from
# the target $s$:
#
# $$ L = \frac{1}{2 n} \sum_{o,t} (y_{o,t} - s_{o,t})^2 \qquad \text{dy}_{o,t} = \frac{1}{n} (y_{o,t} - s_{o,t}) $$
#
# Here $n$ is the number of frames. The square gives a factor of 2, and the half takes it away. The backward pass turns
# `dy` into `dw` and `db`. Then take a small step against the gradient, with the step size $\eta = 0.5$:
# $w \leftarrow w - \eta \, \text{dw}$, and $b$ likewise.

# %%
scale = 1 / np.sqrt(np.mean(sources**2))  # to a power of one, so that a step of 0.5 is about right
x, target = microphones[None] * scale, sources[None] * scale
w, b = rng.standard_normal((2, 2)), np.zeros(2)
losses = []
for step in range(400):
    y, cache = pointwise_forward(x, w, b)
    difference = y - target
    losses.append(0.5 * np.sum(difference**2) / x.shape[2])
    _, dw, db = pointwise_backward(difference / x.shape[2], cache)
    w -= 0.5 * dw
    b -= 0.5 * db

fig, ax = plt.subplots(figsize=(7.5, 2.6))
ax.semilogy(losses)
ax.set(xlabel="step", ylabel="loss", title="learning to unmix")
companion.show("learning")

# %% [markdown]
# The learned matrix is the inverse of the gains, to eight decimals. Nobody inverted anything: the backward pass led
# there. The line in the figure is straight after the first steps: every step removes the same share of the error.

# %%
print(f"learned {np.round(w, 3).tolist()}, inverse of the gains {np.round(unmixing, 3).tolist()}")
assert np.abs(w - unmixing).max() < 1e-8 and np.abs(b).max() < 1e-8
assert np.isclose(losses[101] / losses[100], losses[151] / losses[150], rtol=1e-3)  # the same share
companion.play(y[0, 0] / scale, rate, "speech, by the learned matrix")
assert si_snr(y[0, 0], sources[0]) > 50  # dB

# %% [markdown]
# ## Two in a row are one
#
# A pointwise convolution right after another one is a single one with the matrix $w_2 w_1$:
#
# $$ w_2 (w_1 x + b_1) + b_2 = (w_2 w_1) \, x + (w_2 b_1 + b_2) $$
#
# So depth alone gives nothing new. Something that is not linear has to stand between them. In our network that is
# PReLU (tutorial 7). Here we take its simplest relative: *ReLU* makes negative numbers zero, and lets the others pass.

# %%
w1, b1, w2, b2 = (rng.standard_normal(shape) for shape in ((5, 2), 5, (3, 5), 3))
one_by_one = pointwise(pointwise(x, w1, b1), w2, b2)
assert np.allclose(one_by_one, pointwise(x, w2 @ w1, w2 @ b1 + b2))

bent = np.maximum(pointwise(x, w1, b1), 0)  # ReLU in between
with companion.fails("with a ReLU in between, no single matrix does the same"):
    assert np.allclose(pointwise(bent, w2, b2), pointwise(x, w2 @ w1, w2 @ b1 + b2)), "not linear"

# %% [markdown]
# ## Where this sits in the model
#
# Five kinds of layers are pointwise: the bottleneck, the two or three in every block (expand, residual, skip), and
# the one that makes the masks. The *bottleneck* narrows the 128 channels of the encoder to 64. In a block, *expand*
# makes 128 channels of 64. *Residual* and *skip*, its two exits, make 64 of 128 again (tutorial 11). Here are their
# matrices in the small model.

# %%
config = Config.preset("small")
model = ConvTasNet(config)
kinds = ("bottleneck", "expand", "residual", "skip", "mask")
matrices = {
    name: array
    for name, array in model.params.items()
    if name.endswith(".w") and name.split(".")[-2] in kinds
}
for kind in kinds:
    found = [array.shape for name, array in matrices.items() if name.split(".")[-2] == kind]
    print(f"{kind:10} {len(found):2} x {found[0]}")

assert matrices["bottleneck.w"].shape == (64, 128)
assert matrices["blocks.0.expand.w"].shape == (128, 64)
assert matrices["blocks.0.residual.w"].shape == matrices["blocks.0.skip.w"].shape == (64, 128)
assert matrices["mask.w"].shape == (2 * 128, 64)
assert len(matrices) == 1 + 12 + 11 + 12 + 1  # the last block has no residual

# %% [markdown]
# Together they are 94 % of the model's parameters, and they do 97 % of its multiplications. (A matrix of
# $O \times C$ numbers does $O \cdot C$ multiplications per frame. We count what stands in sums, and leave out norms
# and the like.) So whoever makes the matrix product fast makes the model fast. Here it is left to BLAS, the library
# behind NumPy's `@`.

# %%
in_matrices = sum(array.size for array in matrices.values())
encoder_and_decoders = 3 * config.filters * config.filter_length  # the decoder runs once per source
taps = sum(array.size for name, array in model.params.items() if name.endswith("depthwise.w"))
assert round(100 * in_matrices / config.parameter_count) == 94
assert round(100 * in_matrices / (in_matrices + encoder_and_decoders + taps)) == 97

# %% [markdown]
# ## Exercises
#
# 1. Which matrix turns left and right into middle (their mean) and side (half their difference)? Which one turns
#    them back?
# 2. Plant a bug: `dw` is averaged over the batch, not summed. For which batch size can no check find it?
# 3. What does a pointwise convolution with a diagonal matrix do?
# 4. In the figure of the learning curve, the loss soon falls by the same factor in every step. Predict that factor.
#    (The gradient is $\text{dw} = (w x - s) \, x^T / n$. Look at the eigenvalues of $x x^T / n$.)
