# %% [markdown]
# # 12. Conv-TasNet, whole: solutions
#
# Minutes: 15. Before: [12. Conv-TasNet, whole](../12_conv_tasnet.py).
#
# Five million parameters from eight letters, masks of one, a block left out, and how long the network must wait.

# %%
import sys
from pathlib import Path

# companion.py lies in the folder above, both for a script and for a notebook.
sys.path.insert(0, str(Path(globals().get("__file__", "notebook")).resolve().parents[1]))
import companion

import matplotlib.pyplot as plt
import numpy as np

from tasnet_np.network.layers import NegativeSISNR
from tasnet_np.sound.metrics import si_snr
from tasnet_np.corpus.mixing import mix
from tasnet_np.network.config import Config
from tasnet_np.network.execution import ConvTasNet
from tasnet_np.optimisation.optimisers import Adam, clip_gradients

rate = 8000  # Hz
rng = np.random.default_rng(12)

# %% [markdown]
# ## 1. Parameters from the letters
#
# A block (tutorial 11, exercise 1) has $HB + H$ for expand, $HP + H$ for depthwise, $2 + 4H$ for two PReLUs and two
# norms, $BH + B$ for the residual and $Sc\,H + Sc$ for the skip. There are $X R$ of them, and the last has no
# residual. Around them: encoder and decoder with $N L$ each, the first norm with $2N$, the bottleneck with $B N + B$,
# one PReLU, and the masks with $2 N\, Sc + 2 N$.

# %%
N, L, B, H, Sc, P, X, R = 512, 16, 128, 512, 128, 3, 8, 3
residual = B * H + B
block = (H * B + H) + (H * P + H) + (2 + 4 * H) + residual + (Sc * H + Sc)
around = 2 * N * L + 2 * N + (B * N + B) + 1 + (2 * N * Sc + 2 * N)
assert X * R * block - residual + around == 4_984_881 == Config.preset("paper").parameter_count

# %% [markdown]
# ## 2. Masks of one
#
# With masks of 1 the frames go straight to the decoder. Both sources are the same waveform, $D(E(\text{mixture}))$.
# It is not the mixture, as encoder and decoder are not inverses (tutorial 10): before training it has hardly anything
# to do with it.

# %%
model = ConvTasNet(Config(), seed=0)
c = model.config
voice, rain = (
    companion.speech(3.0, rate, speaker="english-british"),
    companion.noise(3.0, rate, seed=5, name="rain"),
)
mixture, sources = mix(voice, rain, snr_db=0.0)
w = model.frames(mixture[None])
masked = model.multiply.forward(np.ones((1, 2, *w.shape[1:]), np.float32), w)
both = model.decoders["decoder"].forward(masked[0])[:, c.hop : c.hop + len(mixture)]
assert both.shape == (2, len(mixture)) and (both[0] == both[1]).all()
assert si_snr(both[0], mixture) < 0  # dB

# %% [markdown]
# ## 3. A block left out
#
# First a trained model: the same recipe as in the tutorial, with fewer steps.

# %%
config = Config(filters=64, bottleneck=32, hidden=64, skip=32, blocks=5, repeats=2)
model = ConvTasNet(config, seed=0)
speakers = ("english-american", "french", "german", "hindi", "polish", "spanish")
voices = [companion.speech(8.0, rate, speaker=name) for name in speakers]
noises = [companion.noise(8.0, rate, name=name) for name in ("rain", "fan", "wind", "crackle")]
loss, optimizer = NegativeSISNR(), Adam(model.params, learning_rate=3e-3)
for step in range(int(150 * companion.SCALE)):
    pairs = []
    for _ in range(4):
        v, n = voices[rng.integers(len(voices))], noises[rng.integers(len(noises))]
        i, j = rng.integers(len(v) - rate, size=2)
        pairs.append(mix(v[i : i + rate], n[j : j + rate], rng.uniform(-3, 6)))
    batch, targets = (np.stack(arrays) for arrays in zip(*pairs))
    loss.forward(model.forward(batch), targets)
    model.backward(loss.backward())
    grads = model.grads
    clip_gradients(grads, 5.0)
    optimizer.step(grads)

# %% [markdown]
# A block is silenced by setting the weights of its skip convolution to zero. Its residual goes on, so the later blocks
# notice nothing.
#
# The answer is a surprise: hardly any. Every block alone can be spared for less than 2 dB, though all ten together
# bring more than 5. After so short a training the blocks say much the same, and a sum of ten similar things loses little
# when one is missing. Without any of them, the network is lost.

# %%
everything = si_snr(model.forward(mixture[None], keep=False)[0, 0], sources[0])
without = []
for block in model.blocks:
    kept = [array.copy() for array in block.skip.params.values()]
    for array in block.skip.params.values():
        array[...] = 0
    without.append(si_snr(model.forward(mixture[None], keep=False)[0, 0], sources[0]))
    for array, old in zip(block.skip.params.values(), kept):
        array[...] = old
complete = si_snr(model.forward(mixture[None], keep=False)[0, 0], sources[0])  # all are back
for block in model.blocks:
    for array in block.skip.params.values():
        array[...] = 0
without_any = si_snr(model.forward(mixture[None], keep=False)[0, 0], sources[0])

fig, ax = plt.subplots()
ax.bar(range(10), everything - np.array(without), color=companion.COLOURS["blue"])
ax.set(
    xlabel="silent block", ylabel="SI-SNR lost (dB)", xticks=range(10), title="speech, with one block silent"
)
companion.show("one_block_silent")
print(
    f"all blocks: {everything:.1f} dB; most missed: block {int(np.argmin(without))} ({min(without):.1f} dB without it)"
)
assert complete == everything
if companion.SCALE >= 1:
    assert everything > 5
    assert min(without) > everything - 2
    assert without_any < everything - 5

# %% [markdown]
# ## 4. Latency
#
# The `small` model is causal. It waits for one full window of 16 samples: 2 ms. The `origin` preset looks 31 frames
# of 16 samples ahead on top of a window of 32: 528 samples at 16 kHz, 33 ms. To check the first, change the last of
# 1000 samples. Output samples up to that one less 16 must not move, and some of the last 16 do.

# %%
small, origin = Config.preset("small"), Config.preset("origin")
assert (small.latency_samples, small.latency_ms) == (16, 2.0)
assert (origin.latency_samples, origin.latency_ms) == (528, 33.0) and 31 * 16 + 32 == 528

model = ConvTasNet(small, seed=0)
sound = rng.standard_normal((1, 1000)).astype(np.float32)
changed = sound.copy()
changed[0, -1] += 1
difference = np.abs(model.forward(changed, keep=False) - model.forward(sound, keep=False)).max(axis=(0, 1))
assert (difference[: 1000 - 16] == 0).all()
assert difference[1000 - 16 :].max() > 0
