# %% [markdown]
# # 12. Conv-TasNet, whole
#
# Minutes: 30. Before: [7. PReLU and the masks](07_masks.py), [10. The decoder](10_decoder.py),
# [11. A block](11_block.py).
#
# All parts together: the shapes along the way, where the parameters are, the backward of the whole network, and what
# one hears inside it after one block, two blocks, and so on.

# %%
import companion

import dataclasses

import matplotlib.pyplot as plt
import numpy as np

from tasnet_np.ops.gradcheck import directional_error, relative_error
from tasnet_np.network.gradcheck import reduced
from tasnet_np.network.layers import NegativeSISNR
from tasnet_np.sound.level import fit_level
from tasnet_np.sound.metrics import si_snr
from tasnet_np.corpus.mixing import mix
from tasnet_np.network.config import Config
from tasnet_np.network.execution import ConvTasNet
from tasnet_np.optimisation.optimisers import Adam, clip_gradients

COLOURS = companion.COLOURS
rate = 8000  # Hz
rng = np.random.default_rng(12)

# %%
companion.where("encoder", "norm", "bottleneck", "block", "mask", "decoder")

# %% [markdown]
# ## Hear it first
#
# This is a voice in the rain, at an SNR of 0 dB: both are equally loud. At the end of this tutorial a small network
# takes them apart.

# %%
voice = companion.speech(3.0, rate, speaker="english-british")
rain = companion.noise(3.0, rate, seed=5, name="rain")
mixture, sources = mix(voice, rain, snr_db=0.0)
companion.play(mixture, rate, "a voice in the rain")

assert abs(si_snr(mixture, sources[0])) < 0.1  # dB

# %% [markdown]
# ## The idea in one paragraph
#
# The encoder turns the waveform into frames of $N$ numbers. The separator looks at the frames and makes two *masks*
# of the same size, one for the speech and one for the noise, with entries between 0 and 1. Each mask multiplies the
# frames. The decoder turns both products back into waveforms. So the separator makes no sound itself. It only decides
# how much of each number passes.
#
# As a formula, with $E$ the encoder, $D$ the decoder and $\odot$ the product entry by entry:
#
# $$ w = E(\text{mixture}) \qquad a_s = \text{mask}_s(w) \qquad \text{source}_s = D(a_s \odot w) $$
#
# with $s$ for the speech or the noise. (In this tutorial $w$ are the frames, not a weight, and $a_s$ are the masks.)

# %% [markdown]
# ## A network small enough for this tutorial
#
# It is a scaled-down version of the `small` preset: half the filters, five blocks in a row, twice.

# %%
config = Config(filters=64, bottleneck=32, hidden=64, skip=32, blocks=5, repeats=2)
model = ConvTasNet(config, seed=0)
assert config.filters == Config.preset("small").filters // 2
assert len(model.blocks) == 10
assert config.parameter_count == sum(array.size for array in model.params.values()) == 74_261

# %% [markdown]
# ## The forward pass, by hand, with all shapes
#
# The whole network, written with its own layers. We print each shape. Read it once slowly: every line is a tutorial
# that you know.


# %%
def pad(mixture, config):
    """One hop of zeros at each end, and as many more at the right as fill the last window."""
    samples = mixture.shape[1]
    right = (config.frames(samples) + 1) * config.hop - config.hop - samples
    return np.pad(mixture, ((0, 0), (config.hop, right)))


def by_hand(model, mixture, blocks=None, say=lambda name, array: None):
    """Sources and masks of a mixture (B, n). `blocks` lets only the first few blocks speak."""
    c, (B, n) = model.config, mixture.shape
    padded = pad(mixture, c)
    say("mixture, padded", padded)
    w = model.encoder.forward(padded)
    say("encoder", w)
    x = model.bottleneck.forward(model.norm.forward(w))
    say("norm, bottleneck", x)
    skips = np.zeros((B, c.skip, w.shape[2]), w.dtype)
    for block in model.blocks[:blocks]:
        x, skips = block.forward(x, skips)
    say("blocks: skips", skips)
    logits = model.mask.forward(model.prelu.forward(skips))
    say("prelu, mask", logits)
    masks = model.mask_activation.forward(logits.reshape(B, 2, c.filters, -1))  # source by source
    say("sigmoid: masks", masks)
    masked = model.multiply.forward(masks, w)
    say("masks times frames", masked)
    sources = model.decoders["decoder"].forward(masked.reshape(B * 2, c.filters, -1))  # as if a batch
    sources = sources.reshape(B, 2, -1)[:, :, c.hop : c.hop + n]  # without the padding
    say("decoder: sources", sources)
    return sources, masks


shapes = {}
by_hand(model, mixture[None], say=lambda name, array: shapes.update({name: array.shape}))
for name, shape in shapes.items():
    print(f"{name:20} {' x '.join(map(str, shape))}")

# %% [markdown]
# 24 000 samples become 3001 frames, one every 8 samples and one more for the end. The mask layer makes $2 N = 128$
# channels: the first 64 are the speech's mask, the others the noise's. At the end there are again exactly as many
# samples as at the beginning.

# %%
assert mixture.shape == (24_000,)
assert shapes["encoder"] == (1, 64, 3001) and 24_000 // 8 + 1 == 3001
assert shapes["prelu, mask"] == (1, 128, 3001)
assert shapes["sigmoid: masks"] == (1, 2, 64, 3001)
assert shapes["decoder: sources"] == (1, 2, 24_000)

# %% [markdown]
# It is the same as the library's `forward`, which runs the fused blocks and remembers what the backward needs. It
# works for any length, down to a single sample.

# %%
assert relative_error(by_hand(model, mixture[None])[0], model.forward(mixture[None])) < 1e-5
for n in (1, 7, 8, 9, 1000, 1001):
    short = rng.standard_normal((2, n)).astype(np.float32)
    assert model.forward(short, keep=False).shape == (2, 2, n)
    assert relative_error(by_hand(model, short)[0], model.forward(short, keep=False)) < 1e-5

# %% [markdown]
# ## Break it: no padding
#
# Several implementations do not pad. Then the last samples fill no window, and the output is shorter than the input,
# by up to one hop less a sample. Somebody who trains on it meets two arrays of different length.

# %%
with companion.fails("no padding"):
    odd = mixture[None, :1001]
    frames = model.encoder.forward(odd)
    back = model.decoders["decoder"].forward(frames)
    assert back.shape == odd.shape, f"{odd.shape[1]} samples in, {back.shape[1]} out"

# %% [markdown]
# ## Where the parameters are
#
# The `paper` preset has five million parameters. Where do they sit? The bars show the three presets, part by part.
# Nearly everything is in the blocks, and in the blocks nearly everything is in pointwise convolutions. The depthwise
# convolutions, the only ops of a block (but for the norms) that look along time, hardly show. (To count
# them, the parts are summed by their names.)


# %%
def kind_of(name):
    for kind in ("encoder", "decoder", "mask", "bottleneck", "depthwise", "expand", "residual", "skip"):
        if kind in name:
            return kind
    return "norms, PReLUs"


def parameters_by_kind(config):
    counts = {}
    one_row = dataclasses.replace(config, repeats=1, blocks=2, lookahead_blocks=0)  # two blocks say it all
    for name, array in ConvTasNet(one_row).params.items():
        middle = name.startswith("blocks.0")  # block 1 is the last one, and has no residual
        times = config.blocks * config.repeats - 1 if middle else 1
        counts[kind_of(name)] = counts.get(kind_of(name), 0) + times * array.size
    return counts


counts = {name: parameters_by_kind(Config.preset(name)) for name in ("small", "paper", "origin")}
kinds = sorted(counts["paper"], key=counts["paper"].get)
fig, ax = plt.subplots(figsize=(7.5, 3.6))
styles = (("small", "orange", ""), ("paper", "blue", "//"), ("origin", "green", ".."))
for offset, (name, colour, hatch) in enumerate(styles):
    places = np.arange(len(kinds)) - 0.27 * (offset - 1)
    bars = [counts[name][kind] / sum(counts[name].values()) * 100 for kind in kinds]
    ax.barh(places, bars, 0.25, color=COLOURS[colour], hatch=hatch, edgecolor="white", label=name)
ax.set(yticks=range(len(kinds)), yticklabels=kinds, xlabel="share of all parameters (%)")
ax.grid(True, axis="x")
ax.grid(False, axis="y")
ax.legend(loc="lower right")
companion.show("parameters")

for name, kinds_of_it in counts.items():
    assert sum(kinds_of_it.values()) == Config.preset(name).parameter_count
paper = counts["paper"]
assert sum(paper.values()) == 4_984_881
pointwise = sum(paper[kind] for kind in ("expand", "residual", "skip"))
pointwise, depthwise = pointwise / 4_984_881, paper["depthwise"] / 4_984_881
print(f"paper: {pointwise:.0%} in pointwise convolutions of the blocks, {depthwise:.1%} depthwise")
assert pointwise > 0.9 and depthwise < 0.01

# %% [markdown]
# ## The backward of the whole
#
# It is the forward, read upwards. There is one join to watch. The frames $w$ are used twice: they are multiplied by
# the masks, and the separator makes the masks from them. So they collect two gradients (the rule of tutorial 11).
# With $d_s$ for the gradient of the masked frames of source $s$:
#
# $$ da_s = d_s \odot w \qquad dw = \sum_s d_s \odot a_s + dw_{\text{separator}} $$
#
# There are thousands of parameters, too many to move one by one. The directional check of tutorial 2 moves all at
# once. It runs here on a narrow model of the same architecture, in float64, with the loss on top.


# %%
def whole_error(backward):
    """Directional error of a model's backward, for all parameters and the mixture together."""
    model = ConvTasNet(reduced(Config()), seed=1, dtype=np.float64)
    loss, local = NegativeSISNR(), np.random.default_rng(2)
    sound, targets = local.standard_normal((1, 203)), local.standard_normal((1, 2, 203))
    for array in model.params.values():
        array += 0.1 * local.standard_normal(array.shape)

    def value():
        return loss.forward(model.forward(sound), targets)

    value()
    dsound = backward(model, loss.backward())
    arrays, gradients = [sound, *model.params.values()], [dsound, *model.grads.values()]
    return directional_error(value, arrays, gradients)


assert whole_error(lambda model, dsources: model.backward(dsources)) < 1e-5

# %% [markdown]
# Break it: the frames' second use is forgotten. Only the encoder and the mixture get a wrong gradient, all other
# parameters a right one. So the loss of such a model may well fall. The check sees it.


# %%
def deaf_encoder(model, dsources):
    through_the_masks = model._separate_backward
    model._separate_backward = lambda dskips: 0 * through_the_masks(dskips)
    return model.backward(dsources)


with companion.fails("the separator's gradient does not reach the encoder"):
    error = whole_error(deaf_encoder)
    assert error < 1e-5, f"directional error {error:.2g}"

# %% [markdown]
# ## Train it, for some seconds
#
# To hear something inside, the network must have learned something. We train it for some seconds, on short mixtures
# of six speakers with four noises. The speaker of our mixture is not among them. Rain is: so this is an easy test,
# and no statement about noises that were never heard. Tutorial 15 trains properly. The loss is minus the SI-SNR
# (tutorial 13), the optimiser is Adam (tutorial 14).

# %%
speakers = ("english-american", "french", "german", "hindi", "polish", "spanish")
voices = [companion.speech(8.0, rate, speaker=name) for name in speakers]
noises = [companion.noise(8.0, rate, name=name) for name in ("rain", "fan", "wind", "crackle")]


def random_batch(size=4):
    pairs = []
    for _ in range(size):
        v, n = voices[rng.integers(len(voices))], noises[rng.integers(len(noises))]
        i, j = rng.integers(len(v) - rate, size=2)
        pairs.append(mix(v[i : i + rate], n[j : j + rate], rng.uniform(-3, 6)))
    return [np.stack(arrays) for arrays in zip(*pairs)]


loss, optimizer, losses = NegativeSISNR(), Adam(model.params, learning_rate=3e-3), []
for step in range(int(200 * companion.SCALE)):
    batch, targets = random_batch()
    losses.append(loss.forward(model.forward(batch), targets))
    model.backward(loss.backward())
    grads = model.grads
    clip_gradients(grads, 5.0)
    optimizer.step(grads)

# %% [markdown]
# Now the voice and the rain. SI-SNR leaves the level free, so `fit_level` brings both outputs back to what they have
# in the mixture (tutorial 13).

# %%
estimates = model.forward(mixture[None], keep=False)[0]
before, after = si_snr(mixture, sources), si_snr(estimates, sources)
print(f"speech: {before[0]:.1f} dB before, {after[0]:.1f} dB after {len(losses)} steps")
levelled = estimates * fit_level(mixture, estimates)[:, None]
companion.play(mixture, rate, "the mixture")
companion.play(levelled[0], rate, "the network: speech")
companion.play(levelled[1], rate, "the network: noise")

if companion.SCALE >= 1:
    assert after[0] > before[0] + 7 and after[1] > before[1] + 7

# %% [markdown]
# ## The masks
#
# Each row is a filter of the encoder, each column a frame. We sort the rows by the frequency at which a filter is
# strongest. Compare the speech's mask with the spectrogram: it opens where the voice is. The noise's mask tends to be
# open where the other is shut (their correlation is below -0.5), although nobody asked for that. With the sigmoid, the
# two need not add up to 1.

# %%
_, masks = by_hand(model, mixture[None])
filters = model.params["encoder.w"]
peak_hz = np.abs(np.fft.rfft(filters, 256, axis=1)).argmax(axis=1) * rate / 256
order = np.argsort(peak_hz)

fig, axes = plt.subplots(3, sharex=True, figsize=(7.5, 6.6))
companion.spectrogram(axes[0], mixture, rate, "the mixture")
for ax, mask, name in zip(axes[1:], masks[0], ("speech", "noise")):
    image = ax.imshow(mask[order], aspect="auto", origin="lower", extent=(0, 3, 0, 64), vmin=0, vmax=1)
    ax.set(title=f"mask of the {name}", ylabel="filter, low to high")
    ax.grid(False)
    fig.colorbar(image, ax=ax, label="mask", pad=0.01)
axes[0].set_xlabel("")
axes[2].set_xlabel("time (s)")
companion.show("masks")

assert masks.min() >= 0 and masks.max() <= 1
if companion.SCALE >= 1:
    assert np.corrcoef(masks[0, 0].ravel(), masks[0, 1].ravel())[0, 1] < -0.5

# %% [markdown]
# ## Listening inside
#
# The masks are made of the skips, and the skips are a sum over the blocks. So we can stop the sum early. We let only
# the first $k$ blocks speak, make masks of what they have said, and decode. With $k = 0$ the skips are zero, and the
# masks are what the biases alone give: a fixed filter. We hear the voice come out of the rain, block by block.
#
# The blocks were trained to speak together. What a part of the sum gives is not what the network was asked for, so it
# may well go down in between.

# %%
inside = [by_hand(model, mixture[None], blocks=k)[0][0] for k in range(11)]
speech_db = [si_snr(each[0], sources[0]) for each in inside]
noise_db = [si_snr(each[1], sources[1]) for each in inside]

fig, ax = plt.subplots()
ax.plot(range(11), speech_db, "o-", label="speech")
ax.plot(range(11), noise_db, "s--", label="noise")
ax.axhline(before[0], color="black", linewidth=0.8, linestyle=":")
ax.text(4, before[0] + 0.3, "the mixture itself")
ax.set(xlabel="blocks that may speak", ylabel="SI-SNR (dB)", xticks=range(11))
ax.legend()
companion.show("block_by_block")

for k in (0, 1, 3, 5, 10):
    gains = fit_level(mixture, inside[k])
    companion.play(gains[0] * inside[k][0], rate, f"speech after {k} of 10 blocks: {speech_db[k]:.1f} dB")

assert np.isclose(speech_db[10], after[0], atol=0.01)
if companion.SCALE >= 1:
    assert speech_db[10] > max(speech_db[:5]) and speech_db[10] > speech_db[0] + 5

# %% [markdown]
# The speech's mask after 0, 2, 5 and 10 blocks shows the same. At first it is the same in all frames, and near one
# half everywhere: it knows nothing. Then it begins to follow the time. After all ten blocks its rows change more over
# time than after two.

# %%
fig, axes = plt.subplots(4, sharex=True, figsize=(7.5, 6.6))
changes = []
for ax, k in zip(axes, (0, 2, 5, 10)):
    mask = by_hand(model, mixture[None], blocks=k)[1][0, 0]
    changes.append(mask.std(axis=1).mean())  # how much a row changes over time
    assert k > 0 or np.abs(mask - 0.5).max() < 0.2
    image = ax.imshow(mask[order], aspect="auto", origin="lower", extent=(0, 3, 0, 64), vmin=0, vmax=1)
    ax.set(title=f"after {k} blocks", ylabel="filter")
    ax.grid(False)
axes[-1].set_xlabel("time (s)")
fig.colorbar(image, ax=axes, label="mask of the speech", pad=0.01)
companion.show("mask_block_by_block")

assert changes[0] < 1e-6  # without any block, all frames have the same mask
if companion.SCALE >= 1:
    assert changes[3] > changes[1]

# %% [markdown]
# ## Break it: the masks in the wrong order
#
# The mask layer gives $2 N$ channels. They mean: all filters of the speech, then all of the noise. Somebody may read
# them as pairs instead: speech and noise of filter 0, of filter 1, and so on. The shapes are the same. If one trains
# with it, it even works, as the layer learns that order. But weights that were trained with one order and are run
# with the other give nonsense. This happens when weights are taken over from another implementation.


# %%
def masks_in_pairs(model, mixture):
    c = model.config
    w = model.encoder.forward(pad(mixture, c))
    _, masks = by_hand(model, mixture)
    flat = masks.reshape(len(mixture), 2 * c.filters, -1)
    wrong = np.ascontiguousarray(flat.reshape(len(mixture), c.filters, 2, -1).swapaxes(1, 2))
    masked = model.multiply.forward(wrong, w)
    return model.decoders["decoder"].forward(masked[0])[:, c.hop : c.hop + mixture.shape[1]]


if companion.SCALE >= 1:
    with companion.fails("masks read in pairs"):
        wrong_db = si_snr(masks_in_pairs(model, mixture[None]), sources)
        assert np.abs(wrong_db - after).max() < 0.1, (
            f"speech {wrong_db[0]:.1f} dB instead of {after[0]:.1f} dB"
        )

# %% [markdown]
# ## Break it: the softmax over the wrong axis
#
# With `mask_activation="softmax"` the two masks share each number: at every filter and frame they add up to 1. Taken
# over the filters instead of the sources, they do not. All numbers still lie between 0 and 1.


# %%
def softmax(logits, axis):
    e = np.exp(logits - logits.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


logits = rng.standard_normal((1, 2, 64, 50))
assert np.allclose(softmax(logits, axis=1).sum(axis=1), 1)  # over the sources
with companion.fails("softmax over the filters"):
    total = softmax(logits, axis=2).sum(axis=1)
    assert np.allclose(total, 1), f"the masks add up to {total.mean():.2f} on average"

# %% [markdown]
# ## Where this sits
#
# This *is* the model: `tasnet_np/network/model.py`, read from top to bottom, is what you have just built.
# `ConvTasNet._forward` has the lines of `by_hand`, and `_backward` has them in reverse. `forward` and `backward` around
# them share the examples of a batch among threads. A `Config` decides everything else: the sizes, the norm, causal or
# not, the masks, the decoders.
#
# ## Exercises
#
# 1. Count the parameters of the `paper` preset from its letters alone: N, L, B, H, Sc, P, X, R. (The comments of
#    `Config` in `tasnet_np/network/model.py` say what each is. P are the taps, the K of tutorial 11.) The answer is above.
# 2. Let all masks be 1. What does the network do then? Is its output the mixture? Compare the two sources.
# 3. Silence one block at a time: run all ten, but leave out what block $k$ adds to the skips. Which one would you
#    miss most in the trained model of this tutorial?
# 4. How long must the network wait? An output sample needs some samples of the input that come after it: their time is
#    the *latency* (tutorial 16). Take that of the `small` and the `origin` presets from `latency_samples` of `Config`,
#    and check the first by changing one late sample of an input.
#
# Solutions: [solutions/12_conv_tasnet.py](solutions/12_conv_tasnet.py).
