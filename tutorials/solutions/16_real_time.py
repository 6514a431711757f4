# %% [markdown]
# # 16. Real time: solutions
#
# Minutes: 15. Before: [16. Real time](../16_real_time.py).
#
# Latencies by hand, joining a stream late, a norm that forgets, and the end of a stream.

# %%
import sys
from pathlib import Path

# companion.py lies in the folder above, both for a script and for a notebook.
sys.path.insert(0, str(Path(globals().get("__file__", "notebook")).resolve().parents[1]))
import companion

import dataclasses

import matplotlib.pyplot as plt
import numpy as np

from tasnet_np.network.config import Config
from tasnet_np.network.execution import ConvTasNet
from tasnet_np.ops.frame_statistics import EPS
from tasnet_np.ops.norms import cumulative_layer_norm_forward
from tasnet_np.streaming.streamer import Streamer

config = Config(
    filters=64, filter_length=32, bottleneck=32, hidden=64, skip=32, blocks=5, repeats=2, lookahead_blocks=3
)
RATE, HOP, D = config.sample_rate, config.hop, config.lookahead_frames
model = ConvTasNet(config, seed=0, dtype=np.float64)
sound = (companion.speech(5.0, RATE) + companion.noise(5.0, RATE)).astype(np.float64)

# %% [markdown]
# ## 1. By hand
#
# The first four blocks have dilations 1, 2, 4 and 8; with $K = 3$ taps each sees one dilation ahead: $D = 15$ frames.
# $L + D\,h = 20 + 15 \cdot 10 = 170$ samples, and 16 samples last 1 ms.
#
# For `origin`, $L + 31\,L/2 = 16.5\,L$ has to stay below $20 \cdot 16 = 320$ samples, so $L < 19.4$. It must be even: 18.

# %%
by_hand = Config(sample_rate=16000, filter_length=20, blocks=5, repeats=1, lookahead_blocks=4)
assert by_hand.lookahead_frames == 15 and by_hand.latency_samples == 170 and by_hand.latency_ms == 10.625

origin = Config.preset("origin")
latencies = {L: dataclasses.replace(origin, filter_length=L).latency_ms for L in (18, 20)}
assert latencies[18] < 20 < latencies[20]

# %% [markdown]
# ## 2. Late
#
# Only one thing in the network reaches back without end: the sums of cLN. Everything else has a finite memory, the
# receptive field. So with a norm that looks at one frame only, the late output becomes equal as soon as the receptive
# field lies behind the place where the listener came in. With cLN the sums over different beginnings approach each
# other, and are never equal.


# %%
def lateness(norm):
    """Difference between a stream joined after two seconds and the offline output, per hop, from there on."""
    network = ConvTasNet(dataclasses.replace(config, norm=norm), seed=0, dtype=np.float64)
    start = 2 * RATE
    offline = network.forward(sound[None], keep=False)[0][:, start:]
    streamer = Streamer(network)
    late = np.concatenate([streamer.process(sound[start:]), streamer.flush()], axis=1)
    difference = np.abs(late - offline).max(axis=0) / np.abs(offline).max()
    return difference.reshape(-1, HOP).max(axis=1)


seconds = np.arange(3 * RATE // HOP) * HOP / RATE
differences = {norm: lateness(norm) for norm in ("cLN", "channel")}
for norm, difference in differences.items():
    plt.semilogy(seconds, difference + 1e-17, label=norm)
plt.axvline(config.receptive_field_seconds, color="black", linewidth=0.8, linestyle=":")
plt.legend()
plt.gca().set(
    title="Joined late: difference to the offline output; dotted: receptive field",
    xlabel="time after joining (s)",
    ylabel="relative difference",
)
companion.show("late")

reach = config.receptive_field_frames
assert differences["channel"][reach + 1 :].max() < 1e-12  # exact from there on
assert differences["channel"][:20].max() > 1e-3
assert differences["cLN"].min() > 1e-9  # never exact
assert differences["cLN"][-200:].mean() < 0.2 * differences["cLN"][:200].mean()  # but it fades

# %% [markdown]
# ## 3. Forgetting
#
# Each sum is multiplied by $\lambda$ before the new frame is added. At $\lambda = 1$ it is the norm of before: this is the
# first check.


# %%
class ForgettingNorm:
    def __init__(self, gamma, beta, forgetting):
        self.gamma, self.beta, self.forgetting = gamma, beta, forgetting
        self.a = self.q = self.n = 0.0

    def step(self, x):
        self.a = self.forgetting * self.a + x.sum()
        self.q = self.forgetting * self.q + (x**2).sum()
        self.n = self.forgetting * self.n + len(x)
        mean = self.a / self.n
        variance = max(self.q / self.n - mean**2, 0.0)
        return self.gamma * (x - mean) / np.sqrt(variance + EPS) + self.beta


x = np.random.default_rng(0).standard_normal((1, 6, 40))
gamma, beta = np.random.default_rng(1).standard_normal((2, 6))
norm = ForgettingNorm(gamma, beta, forgetting=1.0)
stepped = np.stack([norm.step(frame) for frame in x[0].T], axis=1)
assert np.allclose(stepped, cumulative_layer_norm_forward(x, gamma, beta)[0][0], rtol=0, atol=1e-10)

# %% [markdown]
# Now the smallest network there is: one block of one repeat, frame by frame with forgetting norms.

# %%
one_block = Config(filters=8, filter_length=8, bottleneck=4, hidden=6, skip=5, blocks=1, repeats=1)
tiny = ConvTasNet(one_block, seed=0, dtype=np.float64)
p = tiny.named_parameters()
forgetting = 0.98


def prelu(x, alpha):
    return np.where(x > 0, x, alpha * x)


def forgetful(sound):
    """The whole network by hand: with one block there is no residual and no look-ahead."""
    hop = one_block.hop
    norms = [
        ForgettingNorm(p[f"{name}.gamma"], p[f"{name}.beta"], forgetting)
        for name in ("norm", "blocks.0.norm1", "blocks.0.norm2")
    ]
    history, half, halves, outputs = np.zeros((6, 3)), np.zeros(hop), np.zeros((2, hop)), []
    for samples in sound.reshape(-1, hop):
        frame, half = p["encoder.w"] @ np.concatenate([half, samples]), samples
        h = p["bottleneck.w"] @ norms[0].step(frame) + p["bottleneck.b"]
        h = prelu(p["blocks.0.expand.w"] @ h + p["blocks.0.expand.b"], p["blocks.0.prelu1.alpha"])
        history = np.concatenate([history[:, 1:], norms[1].step(h)[:, None]], axis=1)
        h = (p["blocks.0.depthwise.w"] * history).sum(axis=1) + p["blocks.0.depthwise.b"]
        h = norms[2].step(prelu(h, p["blocks.0.prelu2.alpha"]))
        skips = p["blocks.0.skip.w"] @ h + p["blocks.0.skip.b"]
        logits = p["mask.w"] @ prelu(skips, p["prelu.alpha"]) + p["mask.b"]
        pieces = (frame / (1 + np.exp(-logits.reshape(2, -1)))) @ p["decoder.w"]  # (2, L)
        outputs.append(halves + pieces[:, :hop])
        halves = pieces[:, hop:]
    return np.concatenate(outputs[1:], axis=1)


streamed = Streamer(tiny, forgetting=forgetting).process(sound[:4000])
by_hand = forgetful(sound[:4000])
assert np.abs(streamed - by_hand).max() < 1e-10 * np.abs(by_hand).max()
with companion.fails("the Streamer does not forget"):
    assert np.abs(Streamer(tiny).process(sound[:4000]) - by_hand).max() < 1e-10 * np.abs(by_hand).max()

# %% [markdown]
# ## 4. Flush
#
# Zeros as *samples* become frames: the encoder has no bias, so they are zero frames, and a norm that counts them moves its
# mean and variance and gives $-\gamma\mu/\sigma + \beta$ instead of 0 to the convolution behind it. What is wrong
# is what depends on frames behind the end: the last $D$ frames of output, through the look-ahead. (A causal model,
# with $D = 0$, has nothing wrong.)

# %%
length = 200 * HOP
offline = model.forward(sound[None, :length], keep=False)[0]
streamer = Streamer(model)
zeros = np.concatenate([sound[:length], np.zeros((D + 1) * HOP)])
flushed = streamer.process(zeros)[:, :length]
wrong = np.abs(flushed - offline).max(axis=0) / np.abs(offline).max()
first_wrong = np.flatnonzero(wrong > 1e-10)[0]
print(f"the last {length - first_wrong} samples are wrong, {D} frames are {D * HOP}")

assert flushed.shape == offline.shape
assert 0 < length - first_wrong <= (D + 1) * HOP
assert np.allclose(
    flushed[:, : length - (D + 1) * HOP], offline[:, : length - (D + 1) * HOP], rtol=0, atol=1e-12
)

causal = ConvTasNet(dataclasses.replace(config, lookahead_blocks=0), seed=0, dtype=np.float64)
flushed = Streamer(causal).process(np.concatenate([sound[:length], np.zeros(HOP)]))
assert np.allclose(flushed, causal.forward(sound[None, :length], keep=False)[0], rtol=0, atol=1e-12)
