# %% [markdown]
# # 10. The decoder
#
# Minutes: 25. Before: [3. The encoder](03_encoder.py).
#
# Overlap-add turns frames back into samples. You derive its backward, find that it is the encoder's mirror image, and
# work out when a decoder undoes an encoder exactly.

# %%
import companion

import matplotlib.pyplot as plt
import numpy as np

from tasnet_np.ops.gradcheck import check_gradients, relative_error
from tasnet_np.sound.metrics import si_snr
from tasnet_np.network.config import Config
from tasnet_np.network.execution import ConvTasNet
from tasnet_np.ops.conv1d import conv1d_backward, conv1d_forward
from tasnet_np.ops.conv1d import conv_transpose1d_backward, conv_transpose1d_forward
from tasnet_np.optimisation.optimisers import Adam

COLOURS = companion.COLOURS
rate, K, stride = 8000, 16, 8  # Hz; samples of a window; samples from one window to the next
rng = np.random.default_rng(10)

# %%
companion.where("decoder")

# %% [markdown]
# ## See it: pieces that overlap
#
# The encoder has turned every window of `K` samples into `C` numbers. The decoder owns `C` short waveforms of `K`
# samples, too. The `C` numbers of a frame say how much of each waveform to take. Their sum is a *piece* of `K`
# samples. The pieces are laid down every `stride` samples, and where two overlap, they are added.
#
# Here the waveforms are cosines that fade in and out. The figure shows five frames. Above are the pieces, each at its
# place in time. Below is their sum.


# %%
def cosines(C, K):
    """The C lowest cosines over K samples (a DCT): orthonormal rows (C, K)."""
    c, k = np.arange(C)[:, None], np.arange(K)
    scale = np.where(c == 0, np.sqrt(1 / K), np.sqrt(2 / K))
    return scale * np.cos(np.pi * c * (k + 0.5) / K)


fade = np.sin(np.pi * (np.arange(K) + 0.5) / K)  # in and out
waveforms = fade * cosines(K, K)  # (C, K), with C = K = 16
sound = companion.speech(1.0, rate).astype(np.float64)[2000:][None]  # (1, n)
x, _ = conv1d_forward(sound[:, 480 : 480 + 6 * stride], waveforms, stride=stride)  # (1, C, 5)
y, _ = conv_transpose1d_forward(x, waveforms, stride=stride)

fig, (above, below) = plt.subplots(2, sharex=True, figsize=(7.5, 4.6), height_ratios=(3, 1))
pieces = (waveforms.T @ x[0]).T  # (T, K)
apart = 1.2 * np.abs(pieces).max()
for t, piece in enumerate(pieces):
    times = t * stride + np.arange(K)
    above.plot(times, piece - t * apart, ".-", color=COLOURS["blue"] if t % 2 else COLOURS["orange"])
    above.text(times[0] - 0.6, -t * apart, f"t = {t}", ha="right", va="center")
below.plot(y[0], ".-", color="black")
above.set(title="the pieces of five frames", yticks=[], xlim=(-5, 49))
below.set(title="their sum", xlabel="sample", ylabel="y")
for start in range(0, 49, stride):
    for ax in (above, below):
        ax.axvline(start - 0.5, color="#cccccc", linewidth=0.6, zorder=0)
companion.show("overlap_add")

assert x.shape == (1, 16, 5) and pieces.shape == (5, 16)
assert np.allclose(y[0, 8:16], pieces[0, 8:] + pieces[1, :8])  # two pieces overlap here

# %% [markdown]
# ## The formula
#
# `x` has shape `(B, C, T)`, the waveforms `w` have shape `(C, K)`, and `y` has shape `(B, n)` with
# $n = (T - 1) \cdot \text{stride} + K$. For every $c$, $t$ and $k$, one product is added to one sample:
#
# $$ y[i] \leftarrow y[i] + x[c, t]\, w[c, k] \qquad i = t \cdot \text{stride} + k $$
#
# As a sum: sample $i$ collects all pairs $(t, k)$ that point at it.
#
# $$ y[i] = \sum_{t,\, k \,:\, t \cdot \text{stride} + k \,=\, i} \;\; \sum_c x[c, t]\, w[c, k] $$
#
# ## The backward pass
#
# Each product $x[c, t]\, w[c, k]$ was added to exactly one sample, $i = t \cdot \text{stride} + k$. So its gradient is
# $dy[i]$. A product passes its gradient on to each factor, times the other factor. And each factor sums over all
# products that it is part of. $x[c, t]$ is in $K$ products, one for each $k$:
#
# $$ dx[c, t] = \sum_k dy[t \cdot \text{stride} + k]\, w[c, k] $$
#
# $w[c, k]$ is in $T$ products, one for each $t$ (in every recording of the batch):
#
# $$ dw[c, k] = \sum_t dy[t \cdot \text{stride} + k]\, x[c, t] $$
#
# The first of the two is well known: cut `dy` into windows, compare each with the rows of `w`. That is the encoder's
# forward pass. The backward of the decoder is an encoder.

# %% [markdown]
# ## In NumPy


# %%
def windows(x, K, stride):
    """(B, n) -> (B, T, K): window t starts at sample t*stride."""
    return np.lib.stride_tricks.sliding_window_view(x, K, axis=-1)[:, ::stride]


def decoder_forward(x, w, *, stride):
    B, C, T = x.shape
    pieces = np.einsum("bct,ck->btk", x, w)
    y = np.zeros((B, (T - 1) * stride + w.shape[1]))
    for t in range(T):
        y[:, t * stride : t * stride + w.shape[1]] += pieces[:, t]
    return y, (x, w, stride)


def decoder_backward(dy, cache):
    x, w, stride = cache
    dpieces = windows(dy, w.shape[1], stride)  # (B, T, K)
    return np.einsum("btk,ck->bct", dpieces, w), np.einsum("btk,bct->ck", dpieces, x)


# %% [markdown]
# It equals the library's op in both directions, and every element agrees with central differences.

# %%
x, w = rng.standard_normal((2, 5, 7)), rng.standard_normal((5, 6))
y, cache = decoder_forward(x, w, stride=3)
library_y, library_cache = conv_transpose1d_forward(x, w, stride=3)
assert y.shape == (2, 6 * 3 + 6)
assert relative_error(y, library_y) < 1e-12

dy = rng.standard_normal(y.shape)
for mine, library in zip(
    decoder_backward(dy, cache), conv_transpose1d_backward(dy, library_cache), strict=True
):
    assert relative_error(mine, library) < 1e-12
assert check_gradients(decoder_forward, decoder_backward, [x, w], {"stride": 3}) < 1e-6

# %% [markdown]
# ## The encoder's mirror image
#
# With fixed `w` the encoder is a matrix $E$: it takes $n$ samples to $C\,T$ numbers. The decoder with the same `w`
# takes $C\,T$ numbers to $n$ samples, and it is the *transposed* matrix $E^T$. That is why the op is called
# transposed convolution. It also explains the backward passes at once. The backward of a matrix is its transpose
# (tutorial 4). So the encoder's backward is the decoder, and the decoder's backward is $(E^T)^T = E$, the encoder.
#
# A matrix and its transpose fulfil $\langle E a, b \rangle = \langle a, E^T b \rangle$ for all $a$, $b$. This is a
# quick test, with no matrix written down.

# %%
a, b = rng.standard_normal((1, 24)), rng.standard_normal((1, 5, 7))
encoded, encoder_cache = conv1d_forward(a, w, stride=3)
decoded, decoder_cache = conv_transpose1d_forward(b, w, stride=3)
assert np.isclose((encoded * b).sum(), (a * decoded).sum())

assert relative_error(conv1d_backward(b, encoder_cache)[0], decoded) < 1e-12
assert relative_error(conv_transpose1d_backward(a, decoder_cache)[0], encoded) < 1e-12

# %% [markdown]
# ## Break it: assign instead of add
#
# One character is missing: `=` in place of `+=`. Each piece now wipes out the half that was there before. The shape is
# right, and there is sound. The comparison with the library fails, and so does the mirror test.


# %%
def assigning_forward(x, w, *, stride):
    pieces = np.einsum("bct,ck->btk", x, w)
    y = np.zeros((len(x), (x.shape[2] - 1) * stride + w.shape[1]))
    for t in range(x.shape[2]):
        y[:, t * stride : t * stride + w.shape[1]] = pieces[:, t]
    return y


with companion.fails("pieces are assigned, not added"):
    assert relative_error(assigning_forward(x, w, stride=3), library_y) < 1e-12, "another waveform"
with companion.fails("pieces are assigned: no longer the transpose of the encoder"):
    assert np.isclose((encoded * b).sum(), (a * assigning_forward(b, w, stride=3)).sum()), (
        "the inner products differ"
    )

# %% [markdown]
# ## When does the decoder undo the encoder?
#
# Suppose that the mask is 1 everywhere. Then frames go straight from the encoder to the decoder. We would like to get
# the sound back. Let the encoder have the filters $w$ and the decoder the waveforms $u$, both of shape `(C, K)`, with
# $\text{stride} = K / 2$, as in our model. What must hold?
#
# Cut the sound into blocks $b_0, b_1, \dots$ of $K / 2$ samples. Window $t$ is two blocks, one above the other:
#
# $$ \begin{pmatrix} b_t \\ b_{t+1} \end{pmatrix} $$
#
# The encoder multiplies it by $w$. The decoder multiplies the result by $u^T$. So piece $t$ is the window times the
# matrix $M = u^T w$, of shape `(K, K)`. We cut $M$ into four squares, too:
#
# $$ \text{piece } t = \begin{pmatrix} M_{00} & M_{01} \\ M_{10} & M_{11} \end{pmatrix}
# \begin{pmatrix} b_t \\ b_{t+1} \end{pmatrix}
# = \begin{pmatrix} M_{00}\, b_t + M_{01}\, b_{t+1} \\ M_{10}\, b_t + M_{11}\, b_{t+1} \end{pmatrix} $$
#
# Block $j$ of the output gets the upper half of piece $j$ and the lower half of piece $j - 1$:
#
# $$ \begin{aligned}
# \text{output } j &= (M_{00}\, b_j + M_{01}\, b_{j+1}) + (M_{10}\, b_{j-1} + M_{11}\, b_j) \\
#                  &= M_{10}\, b_{j-1} + (M_{00} + M_{11})\, b_j + M_{01}\, b_{j+1}
# \end{aligned} $$
#
# This must be $b_j$, whatever the sound is. So the encoder and the decoder invert each other if and only if
#
# $$ M_{00} + M_{11} = I \qquad M_{01} = 0 \qquad M_{10} = 0 $$
#
# The next function measures how far a pair is from that.


# %%
def distance_from_inverse(w, u):
    """The largest entry of M00 + M11 - I, M01 and M10."""
    M, S = u.T @ w, w.shape[1] // 2
    return max(
        np.abs(M[:S, :S] + M[S:, S:] - np.eye(S)).max(), np.abs(M[:S, S:]).max(), np.abs(M[S:, :S]).max()
    )


def there_and_back(sound, w, u):
    return conv_transpose1d_forward(conv1d_forward(sound, w, stride=stride)[0], u, stride=stride)[0]


# %% [markdown]
# ## Three pairs
#
# **Any filters, with their pseudo-inverse.** Take random filters, at least $K$ of them. Their pseudo-inverse
# $w^{+}$, of shape `(K, C)`, fulfils $w^{+} w = I$. With $u^T = \frac12 w^{+}$ we have $M = \frac12 I$: both squares
# on the diagonal are $\frac12 I$, and their sum is $I$. The half is there because every sample lies under two
# windows.

# %%
random_w = rng.standard_normal((32, K))
pseudo_inverse = 0.5 * np.linalg.pinv(random_w).T  # (C, K)
inside = slice(stride, -stride)  # the first and the last block lie under one window only

assert distance_from_inverse(random_w, pseudo_inverse) < 1e-12
back = there_and_back(sound, random_w, pseudo_inverse)
assert relative_error(back[:, inside], sound[:, : back.shape[1]][:, inside]) < 1e-10

# %% [markdown]
# **Faded cosines, in both.** Let $q$, `(K, K)`, hold the cosines alone. Its rows are *orthonormal*, that is,
# perpendicular and of length 1, and so $q^T q = I$. Each row is multiplied by the fade $h$, so
# $w = u = q \cdot \text{diag}(h)$. Then $M = \text{diag}(h)\, q^T q\, \text{diag}(h) = \text{diag}(h^2)$. With
# $h[k] = \sin(\pi (k + \frac12) / K)$, half a window later the sine has become a cosine:
#
# $$ h[k]^2 + h[k + K/2]^2 = \sin^2(\cdot) + \cos^2(\cdot) = 1 $$
#
# So the pair is exact. Here both the analysis and the pieces are smooth.

# %%
assert np.allclose(cosines(K, K).T @ cosines(K, K), np.eye(K))
assert np.allclose(fade[:8] ** 2 + fade[8:] ** 2, 1)
assert distance_from_inverse(waveforms, waveforms) < 1e-12

# %% [markdown]
# **A Hann window, in both.** It looks much like the sine. But its squares do not add up to 1: between the centres of
# two windows they add up to only half. The output swells and fades 1000 times a second, once per block. Listen: a
# rough buzz lies over the voice. The SI-SNR of what comes back (how much of it is right, tutorial 13) is below 20 dB.
# An exact pair would be limited only by rounding.

# %%
hann = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(K) + 0.5) / K)
hann_pair = hann * cosines(K, K)
sums = hann[:8] ** 2 + hann[8:] ** 2
assert abs(sums.min() - 0.5) < 0.02 and sums.max() > 0.95
assert rate / stride == 1000
with companion.fails("Hann twice: the squares do not add up to 1"):
    distance = distance_from_inverse(hann_pair, hann_pair)
    assert distance < 1e-12, f"distance from an inverse {distance:.2f}"

companion.play(sound[0], rate, "the voice")
companion.play(
    there_and_back(sound, waveforms, waveforms)[0], rate, "there and back, sine fade twice: the same"
)
companion.play(there_and_back(sound, hann_pair, hann_pair)[0], rate, "there and back, Hann twice: a buzz")
buzz_db = si_snr(there_and_back(sound, hann_pair, hann_pair)[0][inside], sound[0, : back.shape[1]][inside])
assert buzz_db < 20

# %% [markdown]
# Here are the three matrices $M$. The two squares on the diagonal must add up to the identity. The other two must be
# empty. Below: the diagonal of the sum. It must be 1 everywhere.

# %%
pairs = {
    "random, pseudo-inverse": (random_w, pseudo_inverse),
    "sine fade twice": (waveforms, waveforms),
    "Hann twice": (hann_pair, hann_pair),
}
fig, axes = plt.subplots(2, 3, figsize=(8, 4.6), height_ratios=(2.2, 1))
for (title, (w, u)), ax, sum_ax in zip(pairs.items(), *axes):
    M = u.T @ w
    image = ax.imshow(M, cmap="Greys", vmin=0, vmax=1)
    ax.axhline(7.5, color=COLOURS["vermilion"], linewidth=1)
    ax.axvline(7.5, color=COLOURS["vermilion"], linewidth=1)
    ax.set(title=title, xlabel="sample of the window")
    ax.grid(False)
    sum_ax.plot(np.diag(M)[:8] + np.diag(M)[8:], "o-", color=COLOURS["blue"])
    sum_ax.set(ylim=(0, 1.2), xlabel="sample of the block")
axes[0, 0].set_ylabel("sample of the piece")
axes[1, 0].set_ylabel("sum")
fig.colorbar(image, ax=axes[0], label="entry of M")
companion.show("three_matrices")

# %% [markdown]
# ## The ends
#
# The first and the last block lie under a single window. With $M = \frac12 I$ they come out at half their size. The
# model puts one hop of zeros at each end of the recording, and cuts it off again at the end. Then every real sample
# lies under two windows.

# %%
assert np.allclose(back[0, :stride], 0.5 * sound[0, :stride])
with companion.fails("no padding: the first block is too quiet"):
    assert np.allclose(back[0, :stride], sound[0, :stride]), "half of it is missing"

padded = np.pad(sound, ((0, 0), (stride, stride)))
whole = there_and_back(padded, random_w, pseudo_inverse)[:, stride:-stride]
assert relative_error(whole, sound) < 1e-10

# %% [markdown]
# ## Learn it
#
# Nobody gives our network a pseudo-inverse. Encoder and decoder start with random numbers, and gradients do the rest.
# We can watch this for the pair alone. The input is white noise, as it contains all frequencies. The loss is the
# squared error between output and input. Both backward passes are the library's, and the optimiser is Adam (tutorial
# 14).

# %%
params = {"w": rng.uniform(-0.25, 0.25, (32, K)), "u": rng.uniform(-0.25, 0.25, (32, K))}
start = {name: array.copy() for name, array in params.items()}
optimizer = Adam(params, learning_rate=3e-3)
errors_db = []
for step in range(int(800 * companion.SCALE)):
    noise = rng.standard_normal((4, 400))
    frames, encoder_cache = conv1d_forward(noise, params["w"], stride=stride)
    output, decoder_cache = conv_transpose1d_forward(frames, params["u"], stride=stride)
    error = (output - noise)[:, inside]
    errors_db.append(10 * np.log10((error**2).mean() / (noise**2).mean()))
    doutput = np.zeros_like(output)
    doutput[:, inside] = 2 * error / error.size  # the derivative of the mean of the squares
    dframes, du = conv_transpose1d_backward(doutput, decoder_cache)
    _, dw = conv1d_backward(dframes, encoder_cache)
    optimizer.step({"w": dw, "u": du})

# %% [markdown]
# The error falls until only the rounding of float64 is left, more than 250 dB below the input. The three conditions
# have come true, although we never told anybody about them. Look at the learned matrix: the two outer squares are
# empty. The two on the diagonal are neither $\frac12 I$ nor a fade. What one has too much beside its diagonal, the
# other has too little, and their sum is the identity. There are many solutions, and training found one of them.

# %%
fig, (curve, *matrices) = plt.subplots(1, 3, figsize=(9, 3), width_ratios=(1.3, 1, 1))
curve.plot(errors_db, "-", color=COLOURS["blue"])
curve.set(xlabel="step", ylabel="error (dB)", title="squared error")
for ax, pair, title in zip(matrices, (start, params), ("M at the start", "M after training")):
    image = ax.imshow(pair["u"].T @ pair["w"], cmap="PuOr", vmin=-1, vmax=1)
    ax.axhline(7.5, color="black", linewidth=1)
    ax.axvline(7.5, color="black", linewidth=1)
    ax.set(title=title, xlabel="sample of the window")
    ax.grid(False)
matrices[0].set_ylabel("sample of the piece")
fig.colorbar(image, ax=matrices, label="entry of M")
companion.show("learned_inverse")

assert errors_db[-1] < errors_db[0]
if companion.SCALE >= 1:
    assert errors_db[-1] < -250
    assert distance_from_inverse(params["w"], params["u"]) < 1e-10
    assert np.abs(params["u"].T @ params["w"] - 0.5 * np.eye(K)).max() > 0.2  # not the pseudo-inverse's

# %% [markdown]
# ## Where it sits in the model
#
# In the `small` model one decoder of 128 waveforms makes both sources, one after the other, as if they were a batch.
# The `origin` preset has one decoder for each. A Conv-TasNet is not trained to copy its input. So nothing forces its
# encoder and decoder to be inverses, and before training they are far from it: what comes back has an SI-SNR
# (tutorial 13) below 0 dB.

# %%
model = ConvTasNet(Config(), seed=0, dtype=np.float64)
w, u = model.params["encoder.w"], model.params["decoder.w"]
assert w.shape == u.shape == (128, 16)
assert set(model.decoders) == {"decoder"}
assert Config.preset("origin").decoders == "separate"
assert si_snr(there_and_back(sound, w, u)[0], sound[0, : back.shape[1]]) < 0

# %% [markdown]
# ## Exercises
#
# 1. Let the stride be $K / 4$. How many windows cover a sample now? Which factor must stand before the pseudo-inverse?
#    Check it.
# 2. With 8 filters of 16 samples, $M = \frac12 I$ is impossible. Why? And yet there is an exact pair with 8 filters,
#    used in MP3 and AAC: $w[c, k] = \sqrt{4 / K}\; h[k] \cos\left( \frac{2 \pi}{K} (k + \frac12 + \frac{K}{4})(c +
#    \frac12) \right)$ for both, with the sine fade $h$. Check the three conditions, and look at $M$.
# 3. Let a mask be 1 in even frames and 0 in odd ones. What comes out of the pseudo-inverse pair, and what of the faded
#    cosines? Take a constant sound, and look at both. Then let the mask be 1 in the first half of the frames and 0 in
#    the second. Which output is smoother?
# 4. How many multiplications does the decoder of the `small` model need for one second of one source? How many does a
#    matrix $E^T$ that is written out in full need?
#
# Solutions: [solutions/10_decoder.py](solutions/10_decoder.py).
