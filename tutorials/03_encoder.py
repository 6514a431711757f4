# %% [markdown]
# # 3. The encoder
#
# Minutes: 25. Before: [1. Sound as numbers](01_sound.py), [2. Checking a gradient](02_checking_gradients.py).
#
# The encoder turns the waveform into frames: short, overlapping pieces, each compared with a set of filters. You
# derive this strided convolution and its backward pass, see that a Fourier transform is a special case, and train a
# tiny network to see which filters it would rather have.

# %%
import companion

import matplotlib.pyplot as plt
import numpy as np

from tasnet_np import Config, ConvTasNet, NegativeSISNR
from tasnet_np.ops import gradcheck
from tasnet_np.reports import plots
from tasnet_np.corpus.clips import load_corpus
from tasnet_np.corpus.mixing import Mixer
from tasnet_np.ops.conv1d import conv1d_backward, conv1d_forward
from tasnet_np.ops.conv1d import conv_transpose1d_forward
from tasnet_np.optimisation.optimisers import Adam, clip_gradients

companion.where("encoder")

rate = 8000  # Hz
rng = np.random.default_rng(3)

# %% [markdown]
# ## See it: windows on a waveform
#
# The network does not look at single samples. It looks through a *window* of $K$ samples. Then the window moves on
# by `stride` samples, and it looks again. With $K = 16$ and `stride` = 8, a window is 2 ms long, and two neighbours
# overlap by half. What is seen in one window becomes one *frame*.

# %%
K, stride = 16, 8
speech = companion.speech(1.0, rate, speaker="english-british")
loudest = int(np.abs(speech).argmax())
piece = speech[loudest - 16 : loudest + 40]  # 7 ms around the loudest sample

fig, ax = plt.subplots(figsize=(7.5, 3.4))
time_ms = 1000 * np.arange(len(piece)) / rate
ax.plot(time_ms, piece, ".-", color="black", linewidth=1)
colours = [companion.COLOURS[name] for name in ("blue", "vermilion")]
for t in range((len(piece) - K) // stride + 1):
    start, end = 1000 * t * stride / rate, 1000 * (t * stride + K - 1) / rate
    height = piece.min() - 0.12 - 0.11 * (t % 2)
    ax.plot(
        (start, end),
        (height, height),
        "-",
        color=colours[t % 2],
        linewidth=12,
        solid_capstyle="butt",
    )
    ax.text((start + end) / 2, height, f"frame {t}", ha="center", va="center", fontsize=8, color="white")
ax.set(xlabel="time (ms)", ylabel="sample", title="7 ms of speech, and the windows of its frames")
companion.show("windows")

assert 1000 * K / rate == 2 and K - stride == K / 2
assert len(piece) / rate == 0.007

# %% [markdown]
# ## Formula
#
# | letter | meaning | shape |
# |---|---|---|
# | $x$ | the waveforms | `(B, n)`: batch, samples |
# | $w$ | the filters | `(C, K)`: filters, samples (taps) |
# | $y$ | the frames | `(B, C, T)`: batch, filters, frames |
#
# $$ y_{c,t} = \sum_{k=0}^{K-1} w_{c,k} \; x_{t \cdot \text{stride} + k} $$
#
# Number $c$ of frame $t$ says how much the window looks like filter $c$: multiply the two sample by sample, and add
# up. (We leave out the batch index: every waveform of a batch is treated alike.) There is no bias.
#
# How many windows fit? The last one must end within the waveform: $(T - 1) \cdot \text{stride} + K \le n$. So $T$
# is $(n - K) / \text{stride} + 1$, rounded down. One second gives 999 frames.

# %%
n = 8000
T = (n - K) // stride + 1
assert T == 999
assert (T - 1) * stride + K <= n < T * stride + K  # it fits, and one more would not

# %% [markdown]
# ## Derivation of the backward pass
#
# The loss hands us $\text{dy}_{c,t} = \partial L / \partial y_{c,t}$. We need the gradients of the filters and of
# the waveform. Write the forward pass with every product on its own:
#
# $$ \begin{aligned}
# y_{c,t} = \; & w_{c,0} \, x_{t \cdot \text{stride}} + w_{c,1} \, x_{t \cdot \text{stride} + 1} + \dots \\
# & + w_{c,K-1} \, x_{t \cdot \text{stride} + K - 1}
# \end{aligned} $$
#
# **Filters.** $w_{c,k}$ occurs in $y_{c,t}$ for every $t$, each time multiplied by $x_{t \cdot \text{stride} + k}$.
# So $\partial y_{c,t} / \partial w_{c,k} = x_{t \cdot \text{stride} + k}$. The other rows of $y$ do not contain it.
# By the chain rule, sum over all places where it occurs:
#
# $$ \text{dw}_{c,k} = \sum_t \text{dy}_{c,t} \; x_{t \cdot \text{stride} + k} $$
#
# (and over the batch).
#
# **Waveform.** Which frames contain the sample $x_j$? Those with $t \cdot \text{stride} + k = j$ for some tap $k$
# from 0 to $K - 1$. In such a frame its factor is $w_{c,k}$, and this for every filter:
#
# $$ \text{dx}_j = \sum_c \; \sum_{(t, k): \; t \cdot \text{stride} + k = j} \text{dy}_{c,t} \; w_{c,k} $$
#
# The sum over pairs with a condition looks awkward. As a program it is easy: go through all frames and taps, and
# *add* each product where it belongs.
#
# $$ \text{dx}_{t \cdot \text{stride} + k} \mathrel{+}= \sum_c \text{dy}_{c,t} \; w_{c,k} \qquad \text{for all } t, k $$
#
# Adding is needed, as windows overlap: with half overlap, each sample inside lies under two windows and gets two
# contributions.


# %%
def encode(x, w, stride):
    B, n = x.shape
    C, K = w.shape
    T = (n - K) // stride + 1
    y = np.zeros((B, C, T))
    for t in range(T):
        window = x[:, t * stride : t * stride + K]  # (B, K)
        y[:, :, t] = window @ w.T
    return y


def encode_backward(dy, x, w, stride):
    dx, dw = np.zeros_like(x), np.zeros_like(w)
    K = w.shape[1]
    for t in range(dy.shape[2]):
        here = slice(t * stride, t * stride + K)
        dw += dy[:, :, t].T @ x[:, here]  # the product also sums over the batch
        dx[:, here] += dy[:, :, t] @ w
    return dx, dw


# %% [markdown]
# ## The same as the library's
#
# Odd sizes, so that no mix-up of axes fits by chance: 3 waveforms of 26 samples, 5 filters of 6 taps, stride 3. In
# double precision (`float64`) the two agree to the last digits.

# %%
x, w = rng.standard_normal((3, 26)), rng.standard_normal((5, 6))
y, cache = conv1d_forward(x, w, stride=3)
dy = rng.standard_normal(y.shape)
dx, dw = conv1d_backward(dy, cache)

assert y.shape == (3, 5, 7)
assert np.allclose(y, encode(x, w, 3), atol=1e-12)
for ours, library in zip(encode_backward(dy, x, w, 3), (dx, dw)):
    assert np.allclose(ours, library, atol=1e-12)

# %% [markdown]
# Both could be wrong in the same way. Finite differences do not take our word for it.


# %%
def check(backward):
    forward = lambda x, w: (encode(x, w, 3), (x, w))
    return gradcheck.check_gradients(forward, lambda dy, cache: backward(dy, *cache), [x, w], {})


assert check(lambda dy, x, w: encode_backward(dy, x, w, 3)) < gradcheck.TOLERANCE

# %% [markdown]
# ## Break it: forget to add
#
# Write `=` in place of `+=` in the line for `dx`. Each window then overwrites half of what the one before it left
# there.


# %%
def encode_backward_without_adding(dy, x, w, stride):
    dx, dw = np.zeros_like(x), np.zeros_like(w)
    K = w.shape[1]
    for t in range(dy.shape[2]):
        here = slice(t * stride, t * stride + K)
        dw += dy[:, :, t].T @ x[:, here]
        dx[:, here] = dy[:, :, t] @ w  # the bug
    return dx, dw


with companion.fails("overlapping windows overwrite each other"):
    error = check(lambda dy, x, w: encode_backward_without_adding(dy, x, w, 3))
    assert error < gradcheck.TOLERANCE, "wrong dx"

# %% [markdown]
# With a stride of $K$ nothing overlaps, and the same bug does no harm. A test with such sizes would not see it.

# %%
x_apart, dy_apart = x[:, :24], dy[:, :, :4]
for right, wrong in zip(
    encode_backward(dy_apart, x_apart, w, 6),
    encode_backward_without_adding(dy_apart, x_apart, w, 6),
):
    assert np.allclose(right, wrong)

# %% [markdown]
# ## The backward of the encoder is a decoder
#
# Look at the line for `dx` again: take the numbers of a frame, use them as weights for the filters, and add the
# pieces where they overlap. This is *overlap-add*, and just what the decoder does to make a waveform (tutorial 10).
# The library's decoder, called with `dy`, gives `dx`.

# %%
overlap_added, _ = conv_transpose1d_forward(dy, w, stride=3)  # (3, 24)
assert np.allclose(overlap_added, dx[:, :24], atol=1e-12)
assert not dx[:, 24:].any()  # the last two samples lie under no window

# %% [markdown]
# The encoder is linear, and so is its backward. They belong together as a matrix and its transpose do: whatever $x$
# and `dy` are,
#
# $$ \sum_{c,t} \text{dy}_{c,t} \, y_{c,t} = \sum_j \text{dx}_j \, x_j = \sum_{c,k} \text{dw}_{c,k} \, w_{c,k} $$
#
# Each of the three is the sum of all products $\text{dy} \cdot w \cdot x$, merely sorted in another way.

# %%
assert np.isclose((dy * y).sum(), (dx * x).sum())
assert np.isclose((dy * y).sum(), (dw * w).sum())

# %% [markdown]
# ## Fourier's filters
#
# What should the filters be? For two hundred years the answer was: sines and cosines. The spectrogram of tutorial 1
# is nothing but this encoder with given filters. Row $f$ of a Fourier transform compares a window with a cosine and
# a sine of that frequency, the real and the imaginary part of $e^{-2 \pi i f k / K}$; $h$ is the Hann window:
#
# $$ w^{\cos}_{f,k} = h_k \cos \frac{2 \pi f k}{K} \qquad w^{\sin}_{f,k} = - h_k \sin \frac{2 \pi f k}{K} $$
#
# The magnitude is the root of the two squares. Let us see: 256 taps, one frame every 64 samples.


# %%
def fourier_filters(K):
    f, k = np.arange(K // 2 + 1)[:, None], np.arange(K)
    h = 0.5 - 0.5 * np.cos(2 * np.pi * k / K)
    return h * np.cos(2 * np.pi * f * k / K), -h * np.sin(2 * np.pi * f * k / K), h


cosines, sines, h = fourier_filters(256)
padded = np.pad(speech.astype(np.float64), 128)[None]  # (1, n + 256)
real, _ = conv1d_forward(padded, cosines, stride=64)
imaginary, _ = conv1d_forward(padded, sines, stride=64)
levels_db = 10 * np.log10(np.maximum((real**2 + imaginary**2)[0] / (h.sum() / 2) ** 2, 1e-20))

assert np.allclose(levels_db, plots.spectrogram(speech, rate), atol=1e-6)

# %% [markdown]
# The magnitude forgets the *phase*, that is, where in the window the wave begins. The pieces can no longer just be
# added up again. Our encoder's numbers are signed and nothing is squared, so the phase is kept. Here is a set of only
# 16 filters of 16 taps, cosines under a window, from which the waveform comes back in full. Why it does is derived in
# tutorial 10; here it is measured:
#
# $$ w_{c,k} = \sqrt{\frac{2}{K}} \; \cos\left( \frac{\pi c}{K} (k + \tfrac12) \right) \,
# \sin\left( \frac{\pi}{K} (k + \tfrac12) \right) $$
#
# (The row $c = 0$ is divided by $\sqrt2$.)

# %%
c, k = np.arange(K)[:, None], np.arange(K)
cosine_basis = np.sqrt(2 / K) * np.cos(np.pi * (k + 0.5) * c / K)
cosine_basis[0] /= np.sqrt(2)
assert np.allclose(cosine_basis @ cosine_basis.T, np.eye(K))  # perpendicular, each of length 1

h = np.sin(np.pi * (k + 0.5) / K)
assert np.allclose(h[:8] ** 2 + h[8:] ** 2, 1)  # sin^2 + cos^2, where two windows overlap
cosine_filters = cosine_basis * h  # (16, 16)

frames, _ = conv1d_forward(speech[None].astype(np.float64), cosine_filters, stride=stride)
decoded, _ = conv_transpose1d_forward(frames, cosine_filters, stride=stride)
inside = slice(stride, -stride)  # samples under two windows
assert np.allclose(decoded[0, inside], speech[inside], atol=1e-12)

# %% [markdown]
# Filter $c$ swings at $250 c$ Hz: from tap to tap its angle grows by $\pi c / K$, which is $c / (2K)$ of a turn, and
# there are `rate` taps in a second. So a sound can be taken apart by its filters. Hear the speech through the first
# four (below 1000 Hz) and through the others.

# %%
low, high = frames.copy(), frames.copy()
low[:, 4:], high[:, :4] = 0, 0
low, high = (conv_transpose1d_forward(part, cosine_filters, stride=stride)[0][0] for part in (low, high))
companion.play(speech, rate, "speech")
companion.play(low, rate, "through the 4 lowest filters")
companion.play(high, rate, "through the 12 others")

assert rate / 2 / K == 250
assert np.allclose(low + high, decoded[0])

# %% [markdown]
# ## Filters that are learned
#
# Conv-TasNet learns its filters. They begin as random numbers, and `dw` says how to change them so that the whole
# network separates better. Here a tiny network gets a few hundred steps, enough to see the filters take shape. It
# has 32 filters of 16 taps, and hears the speech and the noises of `data/`. (How training works is the matter of
# tutorials 14 and 15; the other settings of `Config` are explained as their parts come up.) The loss is the negative
# of a quality in dB: lower is better.

# %%
config = Config(filters=32, filter_length=K, bottleneck=16, hidden=32, skip=16, blocks=4, repeats=1)
model, criterion = ConvTasNet(config), NegativeSISNR()
random_filters = model.params["encoder.w"].copy()
corpus, _ = load_corpus(companion.DATA / "speech", companion.DATA / "noise", rate)
mixer = Mixer(corpus, samples=rate, rate=rate)
optimizer = Adam(model.params, learning_rate=1e-2)

losses_db = []
for step in range(max(400, round(400 * companion.SCALE))):
    batch = mixer.batch(step, 4)
    losses_db.append(criterion.forward(model.forward(batch.mixture), batch.sources))
    model.backward(criterion.backward())
    clip_gradients(model.grads, 5.0)
    optimizer.step(model.grads)

learned_filters = model.params["encoder.w"]
print(f"loss: {losses_db[0]:.1f} dB at the first step, {np.mean(losses_db[-50:]):.1f} dB in the last 50")
assert np.mean(losses_db[-50:]) < losses_db[0] - 20

# %% [markdown]
# To compare filters, sort them by the frequency where their response is largest. The response of a filter at
# frequency $f$ is the magnitude of its Fourier transform.


# %%
def response(w, points=512):
    """Magnitude at frequencies from 0 to rate/2, and the frequency of each filter's peak."""
    magnitude = np.abs(np.fft.rfft(w, points))  # (C, points//2 + 1)
    frequencies = np.fft.rfftfreq(points, 1 / rate)
    return magnitude, frequencies, frequencies[magnitude.argmax(axis=1)]


fig, axes = plt.subplots(2, 3, figsize=(7.5, 5.6), sharey="col")
sets = {"random": random_filters, "learned": learned_filters, "cosines": cosine_filters}
for (top, bottom), (name, filters) in zip(axes.T, sets.items()):
    magnitude, frequencies, peak = response(filters)
    order = peak.argsort()
    scaled = filters[order] / np.abs(filters[order]).max(axis=1, keepdims=True)
    top.imshow(scaled, vmin=-1, vmax=1, aspect="auto", origin="lower", interpolation="nearest")
    top.set(title=name, xlabel="tap k")
    level = magnitude[order] / magnitude[order].max(axis=1, keepdims=True)
    image = bottom.imshow(
        20 * np.log10(np.maximum(level, 1e-3)),
        vmin=-30,
        vmax=0,
        aspect="auto",
        origin="lower",
        interpolation="nearest",
        extent=(0, rate / 2000, -0.5, len(filters) - 0.5),
    )
    bottom.set(xlabel="frequency (kHz)")
    for ax in (top, bottom):
        ax.set_yticks(range(0, len(filters), len(filters) // 4))
        ax.grid(False)
axes[0, 0].set_ylabel("filter, sorted")
axes[1, 0].set_ylabel("filter, sorted")
fig.colorbar(axes[0, 0].images[0], ax=axes[0], label="tap / largest")
fig.colorbar(image, ax=axes[1], label="dB below peak", extend="min")
companion.show("filters")

# %% [markdown]
# Look at the bottom row. A random filter answers to all frequencies. The cosines each answer to one band. The
# learned filters are on their way from the first to the second: each has picked a band, and the rest has become
# darker. Nobody told them to.
#
# Two numbers say it. First, the share of a filter's energy within 500 Hz of its peak: on average below 0.45 for
# random filters, above 0.6 for the learned ones, above 0.9 for cosines.


# %%
def near_the_peak(w):
    magnitude, frequencies, peak = response(w)
    near = np.abs(frequencies - peak[:, None]) <= 500
    return np.mean((magnitude**2 * near).sum(axis=1) / (magnitude**2).sum(axis=1))


assert near_the_peak(random_filters) < 0.45
assert near_the_peak(learned_filters) > 0.6
assert near_the_peak(cosine_filters) > 0.9

# %% [markdown]
# Second, where the peaks are. Cosines are spread evenly: a quarter of them below 1000 Hz. The paper reports that
# most of the learned filters of its model, after long training, lie below 1 kHz, where speech has most of its
# energy. Ours have only begun to move that way: more than a quarter of them do, but less than half.

# %%
share_of_cosines = np.mean(response(cosine_filters)[2] < 1000)
share_of_learned = np.mean(response(learned_filters)[2] < 1000)
print(
    f"peaks below 1 kHz: {share_of_cosines:.0%} of the cosines, {share_of_learned:.0%} of the learned filters"
)
assert share_of_cosines == 0.25
assert 0.25 < share_of_learned < 0.5

# %% [markdown]
# ## Where this sits in the model
#
# The small model has 128 filters of 16 taps: 2048 parameters, `encoder.w`. Sixteen samples become 128 numbers, so
# the frames are a larger description than the waveform, with room to keep speech and noise apart. Frames follow
# each other every 8 samples: 1000 per second. The model calls this distance, our `stride`, its `hop`. It adds one hop
# of zeros at both ends, so that the first and the last sample lie under two windows, too. One second then has 1001
# frames.

# %%
small = Config.preset("small")
network = ConvTasNet(small)
assert network.params["encoder.w"].shape == (128, 16) and network.params["encoder.w"].size == 2048
assert small.hop == 8 and rate / small.hop == 1000
assert small.frames(8000) == 1001 == (8000 + 2 * 8 - 16) // 8 + 1

# %% [markdown]
# ## Exercises
#
# 1. How many multiplications does the encoder of the small model need per second of sound? And the one of the
#    `paper` preset?
# 2. A filter is a cosine of 1000 Hz under the Hann window. The input is a sine of 1000 Hz that starts somewhere.
#    Show that the filter's answer may be anything between a maximum and zero, depending on where. Which second
#    filter makes the answer independent of it? Is that a reason for 128 filters instead of 16?
# 3. With stride 1 and one filter, the encoder is a correlation. Show that it equals `np.correlate`. What must be
#    done to the filter for `np.convolve`?
# 4. Which samples get a smaller `dx` from a random `dy` than others, on average, and why? What does the model's
#    padding do about it?
