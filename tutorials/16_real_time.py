# %% [markdown]
# # 16. Real time
#
# Minutes: 35. Before: [5. Depthwise convolution](05_depthwise.py), [9. Cumulative layer norm](09_cumulative_norm.py),
# [10. The decoder](10_decoder.py), [12. Conv-TasNet, whole](12_conv_tasnet.py).
#
# You run the network on sound as it arrives, frame by frame, and get exactly the output of the whole recording. For
# that you find out, part by part, what has to be remembered, and derive how long a sample has to wait: the latency.

# %%
import companion  # first: it finds the tasnet_np beside this file

import time
from collections import deque

import matplotlib.pyplot as plt
import numpy as np

from tasnet_np.corpus.clips import Store, open_corpus
from tasnet_np.corpus.layouts import folders
from tasnet_np.corpus.manifest import make_manifest
from tasnet_np.sound.metrics import si_snr
from tasnet_np.corpus.mixing import Mixer, mix
from tasnet_np.network.config import Config
from tasnet_np.network.execution import ConvTasNet
from tasnet_np.ops.frame_statistics import EPS
from tasnet_np.ops.norms import cumulative_layer_norm_forward
from tasnet_np.training.recipe import Recipe
from tasnet_np.streaming.streamer import Streamer
from tasnet_np.training.trainer import Trainer

# %% [markdown]
# The network of this tutorial is small and causal, with a little look-ahead: its first three blocks see some later
# frames. We train it for a few seconds (tutorial 15), so that there is something to hear.

# %%
config = Config(
    filters=64, filter_length=32, bottleneck=32, hidden=64, skip=32, blocks=5, repeats=2, lookahead_blocks=3
)
RATE, HOP = config.sample_rate, config.hop
companion.where("streaming", config=config)

found, _ = folders(companion.DATA / "speech", companion.DATA / "noise")
training = open_corpus(make_manifest(found, seed=0), "training", RATE, Store())
mixer = Mixer(training, samples=RATE, rate=RATE)
trainer = Trainer(ConvTasNet(config, seed=0), Recipe(learning_rate=3e-3))
for step in range(round(150 * max(1, companion.SCALE))):
    trainer.step(mixer.batch(step, 4))
model = trainer.model

assert HOP == 16 and config.filter_length == 2 * HOP
assert not config.norm == "gLN"

# %% [markdown]
# ## Hear why it is not enough to cut the sound into pieces
#
# Let speech in rain arrive in pieces of 10 ms. The obvious idea: send each piece through the network by itself. Every piece then
# begins in silence, as far as the network knows: its convolutions see zeros and its norms start to count anew. Listen.

# %%
noisy, (clean, _) = mix(
    companion.speech(4.0, RATE, speaker="english-british"),
    companion.noise(4.0, RATE, name="rain"),
    snr_db=0.0,
)
offline = model.forward(noisy[None], keep=False)[0]  # (2, n)
piece = 80  # samples: 10 ms
cut = np.concatenate(
    [
        model.forward(noisy[None, start : start + piece], keep=False)[0]
        for start in range(0, len(noisy), piece)
    ],
    axis=1,
)


def loud(sound):
    return 0.3 * sound / np.abs(sound).max()


companion.play(noisy, RATE, "noisy")
companion.play(loud(offline[0]), RATE, "speech, the whole recording at once")
companion.play(loud(cut[0]), RATE, "speech, each 10 ms by itself")

shown = slice(round(0.36 * RATE), round(0.42 * RATE))
milliseconds = np.arange(len(noisy))[shown] * 1000 / RATE
plt.plot(milliseconds, offline[0, shown], label="whole recording")
plt.plot(milliseconds, cut[0, shown], label="each 10 ms by itself")
for start in np.arange(0.36, 0.421, 0.01):
    plt.axvline(1000 * start, color="black", linewidth=0.8, linestyle=":")
plt.legend(loc="upper right")
plt.gca().set(title="60 ms of the output; dotted: where pieces meet", xlabel="time (ms)", ylabel="sample")
companion.show("cut")

print(f"SI-SNR of speech: {si_snr(offline[0], clean):.1f} dB at once, {si_snr(cut[0], clean):.1f} dB cut")
assert piece / RATE == 0.01
assert si_snr(cut[0], offline[0]) < 15  # dB: far from the same signal
assert si_snr(cut[0], clean) < si_snr(offline[0], clean) - 1  # a good part of the improvement is lost

# %% [markdown]
# What is missing is memory. The question for every part of the network is: *which numbers of the past does it still
# need?* Those numbers are its *state*. If every part keeps its state, then nothing is lost, and the output is the same
# for all ways of cutting.
#
# ## Latency: how long must a sample wait?
#
# Not everything can be known at once, either. Let $h$ be the hop (16 samples here) and $L = 2h$ the length of a filter.
# The model puts $h$ zeros in front of the recording, so frame $f$ covers the samples
#
# $$(f-1)\,h \;\le\; t \;<\; (f+1)\,h.$$
#
# Which frames cover sample $t$? Solve for $f$:
#
# $$
# \begin{aligned}
# (f-1)\,h \le t &\iff f \le t/h + 1 &&\text{so } f \le \lfloor t/h \rfloor + 1\\
# t < (f+1)\,h &\iff f > t/h - 1 &&\text{so } f \ge \lfloor t/h \rfloor.
# \end{aligned}
# $$
#
# Two frames, $\lfloor t/h \rfloor$ and $\lfloor t/h \rfloor + 1$: the decoder adds up both. The later one has a mask,
# and that mask may depend on frames up to $D$ later, where $D$ is the sum of the look-aheads of all blocks. So output
# $t$ needs frame $f = \lfloor t/h \rfloor + 1 + D$, which covers samples up to, but not including,
#
# $$(f+1)\,h = \left(\lfloor t/h \rfloor + 2 + D\right) h \;\le\; t + 2h + Dh = t + L + D\,h.$$
#
# So output $t$ is final as soon as all samples before $t + L + D h$ are in. With $t$ a multiple of $h$ it is an
# equality: that is the worst case, and the *algorithmic latency* is $L + D\,h$ samples, whatever the computer.
#
# Here the first three blocks have dilations 1, 2 and 4 and are centred: with $K = 3$ taps each sees one dilation ahead.

# %%
lookaheads = [config.lookahead(block) for block in range(config.blocks * config.repeats)]
D = sum(lookaheads)
print(f"look-ahead of the blocks {lookaheads}, D = {D} frames, latency {config.latency_ms} ms")

assert lookaheads == [1, 2, 4, 0, 0, 0, 0, 0, 0, 0] and D == 7
assert config.filter_length + D * HOP == config.latency_samples == 144
assert config.latency_ms == 18.0

# %% [markdown]
# A formula for what depends on what can be *measured* by a gradient (tutorial 5). Send a gradient of 1 into one output
# sample, backwards through the network. Where the input's gradient is not zero, the output depends on the input.

# %%
exact = ConvTasNet(config, seed=0, dtype=np.float64)
for name, array in exact.named_parameters().items():
    array[...] = model.named_parameters()[name]


def last_needed(t, samples=1600):
    """The last input sample on which output sample t of the speech depends."""
    exact.forward(np.random.default_rng(0).standard_normal((1, samples)))
    dsources = np.zeros((1, 2, samples))
    dsources[0, 0, t] = 1
    (dmixture,) = exact.backward(dsources)
    return np.flatnonzero(dmixture).max()


outputs = np.arange(800, 833)
waits = np.array([last_needed(t) + 1 - t for t in outputs])  # samples that must be in, beyond those before t
plt.step(outputs, waits, "o-", where="post", markersize=3)
plt.axhline(config.latency_samples, color="black", linewidth=0.8, linestyle=":")
plt.gca().set(
    title="How long each sample waits, measured; dotted: L + D h",
    xlabel="output sample t",
    ylabel="wait (samples)",
    ylim=(0, 160),
)
companion.show("latency")

assert waits.max() == config.latency_samples == 144
assert [t for t, wait in zip(outputs, waits) if wait == 144] == [800, 816, 832]  # the multiples of the hop
assert (waits == (outputs // HOP + 2 + D) * HOP - outputs).all()  # the formula, sample by sample

# %% [markdown]
# No faster computer makes this number smaller. What can be chosen is the network. The presets
# lie far apart:

# %%
for name in ("small", "origin"):
    preset = Config.preset(name)
    print(
        f"{name}: {preset.latency_samples} samples, {preset.latency_ms:g} ms, D = {preset.lookahead_frames} frames"
    )
assert Config.preset("small").latency_ms == 2.0
assert Config.preset("origin").latency_ms == 33.0 and Config.preset("origin").lookahead_frames == 31
assert Config.preset("paper").latency_samples == np.inf  # gLN wants the whole recording

# %% [markdown]
# ## State by state
#
# Now the memory. We write each part so that it takes one frame at a time, a vector without a time axis, and check it
# against the library's op on the whole signal. All of it is in float64, so that "the same" means the same.
#
# ### The encoder: the last half window
#
# Frame $f$ covers the last $h$ samples and the $h$ before them. So $h$ samples have to be remembered. At the start they
# are the $h$ zeros of the padding.


# %%
class Encoder:
    """Takes h samples, gives a frame (N,)."""

    def __init__(self, w):
        self.w = w  # (N, L)
        self.half = np.zeros(w.shape[1] // 2)

    def step(self, samples):
        window = np.concatenate([self.half, samples])  # (L,)
        self.half = samples
        return self.w @ window


p = exact.named_parameters()
sound = np.random.default_rng(1).standard_normal(100 * HOP)
whole = exact.frames(sound[None])[0]  # (N, T)
encoder = Encoder(p["encoder.w"])
frames = np.stack([encoder.step(samples) for samples in sound.reshape(-1, HOP)], axis=1)  # (N, 100)

assert np.allclose(frames, whole[:, :100], rtol=0, atol=1e-12)
assert whole.shape[1] == config.frames(len(sound)) == 101  # the last frame needs the zeros behind the end

# %% [markdown]
# ### The cumulative norm: three numbers
#
# Its mean and variance at frame $t$ are over all frames so far and all $C$ channels (tutorial 9):
#
# $$
# \mu_t = \frac{1}{n_t} \sum_{s \le t} \sum_c x_{c,s}, \qquad
# \sigma^2_t = \frac{1}{n_t} \sum_{s \le t} \sum_c x_{c,s}^2 - \mu_t^2, \qquad n_t = C\,(t+1).
# $$
#
# All the past enters by two sums (the $S$ and $Q$ of tutorial 9, here $a$ and $q$) and a count. Each is the one before
# plus what the new frame brings:
#
# $$a_t = a_{t-1} + \sum_c x_{c,t}, \qquad q_t = q_{t-1} + \sum_c x_{c,t}^2, \qquad n_t = n_{t-1} + C.$$
#
# Three numbers, however long the stream. (In the code, `max(..., 0.0)` is for rounding, which may bring a variance of
# nearly 0 below 0.)


# %%
class RunningNorm:
    """Cumulative layer norm of one frame (C,) after another."""

    def __init__(self, gamma, beta):
        self.gamma, self.beta = gamma, beta
        self.a = self.q = self.n = 0.0

    def step(self, x):
        self.a += x.sum()
        self.q += (x**2).sum()
        self.n += len(x)
        mean = self.a / self.n
        variance = max(self.q / self.n - mean**2, 0.0)
        return self.gamma * (x - mean) / np.sqrt(variance + EPS) + self.beta


norm = RunningNorm(p["norm.gamma"], p["norm.beta"])
stepped = np.stack([norm.step(frame) for frame in frames.T], axis=1)
expected, _ = cumulative_layer_norm_forward(frames[None], p["norm.gamma"], p["norm.beta"])
assert np.allclose(stepped, expected[0], rtol=0, atol=1e-10)

# %% [markdown]
# Global layer norm has no such state: $\mu$ of the whole recording is not known before its end. A model with gLN cannot
# be streamed, and the library says so.

# %%
centred = ConvTasNet(Config(norm="gLN", causal=False))
try:
    Streamer(centred)
except ValueError as error:
    print(error)
else:
    raise AssertionError("a model with gLN was streamed")

# %% [markdown]
# ### A block: history, and a queue
#
# A depthwise convolution with $K$ taps, dilation $d$ and look-ahead $\ell$ computes (tutorial 5)
#
# $$y_{c,t} = b_c + \sum_{k=0}^{K-1} w_{c,k}\; x_{c,\;t + \ell - (K-1-k)\,d}.$$
#
# The newest frame it touches is $t + \ell$ (for $k = K-1$), the oldest $t + \ell - (K-1)d$. Turn it round: when frame
# $u$ arrives, the output $t = u - \ell$ can be computed, from the frames
#
# $$u,\; u - d,\; \dots,\; u - (K-1)\,d.$$
#
# So the *history* is $(K-1)d + 1$ frames, and the output lags by $\ell$ frames. The residual connection adds the block's
# input to its output *of the same frame*. So the inputs have to wait $\ell$ frames, in a *queue*. The same holds for the
# skips.
#
# There is one catch: the ends. Offline, a convolution sees zeros before the first frame and after the last. They are
# zeros *behind the norm*, not frames of silence: no norm counts them. We write `None` for a frame outside the recording.


# %%
def prelu(x, alpha):
    return np.where(x > 0, x, alpha * x)


class Block:
    """Takes and gives x (B,) and skips (Sc,) of one frame, or None where there is no frame."""

    def __init__(self, p, i):
        self.p = {
            name.removeprefix(f"blocks.{i}."): array
            for name, array in p.items()
            if name.startswith(f"blocks.{i}.")
        }
        self.dilation, self.lookahead = config.dilation(i), config.lookahead(i)
        self.norms = [RunningNorm(self.p[f"norm{j}.gamma"], self.p[f"norm{j}.beta"]) for j in (1, 2)]
        self.history = np.zeros((config.hidden, (config.kernel - 1) * self.dilation + 1))  # newest frame last
        self.queue, self.steps = deque(), 0

    def step(self, x, skips):
        p = self.p
        if x is None and not self.queue:
            return None, None  # before the first frame, or after the last
        h = np.zeros(config.hidden)
        if x is not None:
            self.queue.append((x, skips))
            h = self.norms[0].step(prelu(p["expand.w"] @ x + p["expand.b"], p["prelu1.alpha"]))
        self.history = np.concatenate([self.history[:, 1:], h[:, None]], axis=1)
        self.steps += 1
        if self.steps <= self.lookahead:
            return None, None
        h = (p["depthwise.w"] * self.history[:, :: self.dilation]).sum(axis=1) + p["depthwise.b"]  # (H,)
        h = self.norms[1].step(prelu(h, p["prelu2.alpha"]))
        x, skips = self.queue.popleft()
        if "residual.w" in p:  # not in the last block
            x = x + p["residual.w"] @ h + p["residual.b"]
        return x, skips + p["skip.w"] @ h + p["skip.b"]


# %% [markdown]
# Check block 2, which looks 4 frames ahead, against the library's block on 60 random frames. After the last frame, four
# times `None` brings out what is still inside.

# %%
rng = np.random.default_rng(2)
xs, skips = rng.standard_normal((1, config.bottleneck, 60)), rng.standard_normal((1, config.skip, 60))
expected_x, expected_skips = exact.blocks[2].forward(xs, skips, keep=False)
block, results = Block(p, 2), []
for t in range(60 + block.lookahead):
    results.append(block.step(xs[0, :, t], skips[0, :, t]) if t < 60 else block.step(None, None))

assert block.lookahead == 4 and [x for x, _ in results[:4]] == [None] * 4
assert np.allclose(np.stack([x for x, _ in results[4:]], axis=1), expected_x[0], rtol=0, atol=1e-10)
assert np.allclose(np.stack([s for _, s in results[4:]], axis=1), expected_skips[0], rtol=0, atol=1e-10)

# %% [markdown]
# ### The decoder: the other half window
#
# Each frame becomes $L$ samples, and neighbouring frames overlap by half. Half of what a frame gives is added to the half
# that the frame before left, and is final. The other half is remembered.


# %%
class Decoder:
    """Takes a masked frame (N,), gives h samples."""

    def __init__(self, w):
        self.w = w  # (N, L)
        self.half = np.zeros(w.shape[1] // 2)

    def step(self, frame):
        samples = self.w.T @ frame  # (L,)
        final = self.half + samples[: len(self.half)]
        self.half = samples[len(self.half) :]
        return final


decoder = Decoder(p["decoder.w"])
stepped = np.concatenate([decoder.step(frame) for frame in frames.T])  # 100 hops
expected = exact.decoders["decoder"].forward(frames[None], keep=False)[0]
assert np.allclose(stepped, expected[: 100 * HOP], rtol=0, atol=1e-12)

# %% [markdown]
# ## All of it
#
# Between encoder and decoder the masks come $D$ frames late, so the encoded frames wait in a queue, too. This is the
# whole network, one hop in, at most one hop out:


# %%
class Stream:
    """The network, hop by hop, in NumPy."""

    def __init__(self, p):
        self.p = p
        self.encoder, self.norm = Encoder(p["encoder.w"]), RunningNorm(p["norm.gamma"], p["norm.beta"])
        self.blocks = [Block(p, i) for i in range(config.blocks * config.repeats)]
        self.decoders = [Decoder(p["decoder.w"]) for _ in range(2)]
        self.waiting = deque()  # encoded frames, until their masks are there

    def hop(self, samples):
        """The next h samples, or None after the end. Returns h samples of both sources, or None."""
        x = skips = None
        if samples is not None:
            frame = self.encoder.step(samples)
            self.waiting.append(frame)
            x, skips = (
                self.p["bottleneck.w"] @ self.norm.step(frame) + self.p["bottleneck.b"],
                np.zeros(config.skip),
            )
        for block in self.blocks:
            x, skips = block.step(x, skips)
        if skips is None:
            return None
        logits = self.p["mask.w"] @ prelu(skips, self.p["prelu.alpha"]) + self.p["mask.b"]  # (2 N,)
        masks = 1 / (1 + np.exp(-logits.reshape(2, -1)))
        frame = self.waiting.popleft()
        return np.stack([decoder.step(mask * frame) for decoder, mask in zip(self.decoders, masks)])  # (2, h)


def run_stream(stream, sound):
    """A recording whose length is a multiple of the hop, from its first to its last sample."""
    hops = [*sound.reshape(-1, HOP), np.zeros(HOP)]  # the last window is half zeros
    outputs = [stream.hop(samples) for samples in hops] + [stream.hop(None) for _ in range(D)]
    first = next(i for i, output in enumerate(outputs) if output is not None)
    return np.concatenate(outputs[first:], axis=1)[:, HOP:], first  # the first hop lies before sample 0


sound = noisy[: 250 * HOP].astype(np.float64)
expected = exact.forward(sound[None], keep=False)[0]
by_hand, first = run_stream(Stream(p), sound)
error = np.abs(by_hand - expected).max() / np.abs(expected).max()
print(f"first output after {first} hops without; largest relative error of half a second: {error:.1e}")

assert first == D
assert len(sound) == RATE / 2
assert by_hand.shape == expected.shape == (2, len(sound))
assert error < 1e-10

# %% [markdown]
# The output of the stream is the output of the whole recording, at both ends, too. It is not an approximation.
#
# The library's `Streamer` does the same in compiled loops. It takes any number of samples, also fewer than a hop, and
# returns those that have become final. However the sound is cut, the output is the same.


# %%
def in_pieces(streamer, sound, sizes):
    """Feed a sound in pieces of random sizes; return all that comes out."""
    rng, outputs, start = np.random.default_rng(0), [], 0
    while start < len(sound):
        size = int(rng.integers(1, sizes))
        outputs.append(streamer.process(sound[start : start + size]))
        start += size
    return np.concatenate([*outputs, streamer.flush()], axis=1)


largest = np.abs(offline).max()
for sizes in (2, 50, 5000):
    streamed = in_pieces(Streamer(model), noisy, sizes)
    error = np.abs(streamed - offline).max() / largest
    print(f"pieces of 1 to {sizes - 1} samples: largest relative error {error:.1e} (float32)")
    assert streamed.shape == offline.shape
    assert error < 1e-4

assert np.abs(in_pieces(Streamer(exact), sound, 50) - by_hand).max() < 1e-10 * np.abs(by_hand).max()

# %% [markdown]
# ## Break it on purpose
#
# Take away one piece of the state at a time. Each time the comparison with the whole recording notices, even where the
# ear might not.


# %%
def relative_error(stream):
    return np.abs(run_stream(stream, sound)[0] - expected).max() / np.abs(expected).max()


class Forgets(Encoder):
    """Does not remember the last half window."""

    def step(self, samples):
        self.half = np.zeros_like(self.half)
        return super().step(samples)


class CountsAnew(RunningNorm):
    """Loses its sums once, at frame 100."""

    def step(self, x):
        if self.n == 100 * len(x):
            self.a = self.q = self.n = 0.0
        return super().step(x)


class Impatient(Block):
    """Adds the residual of a later frame: the newest in the queue instead of the oldest."""

    def step(self, x, skips):
        if self.lookahead and len(self.queue) > 1:
            self.queue.rotate(1)
        return super().step(x, skips)


broken = {name: Stream(p) for name in ("window", "sums", "queue", "overlap")}
broken["window"].encoder = Forgets(p["encoder.w"])
broken["sums"].norm = CountsAnew(p["norm.gamma"], p["norm.beta"])
broken["queue"].blocks[1] = Impatient(p, 1)
for decoder in broken["overlap"].decoders:
    decoder.w = np.concatenate([p["decoder.w"][:, :HOP], 0 * p["decoder.w"][:, HOP:]], axis=1)

for name, stream in broken.items():
    error = relative_error(stream)
    with companion.fails(f"{name} forgotten: relative error {error:.2g}"):
        assert error < 1e-10

# %% [markdown]
# And a promise of less latency than there is gets caught by the gradient of before: with two samples less, it
# would have to know the future.

# %%
with companion.fails("a latency of 142 samples"):
    assert waits.max() <= 142

# %% [markdown]
# ## How much memory?
#
# The history of the depthwise convolutions is the largest part. Its size does not depend on how long the stream runs.

# %%
streamer = Streamer(model)
before = streamer.state_bytes
streamer.process(noisy)
history = {
    f"block {i}": (config.kernel - 1) * config.dilation(i) + 1 for i in range(config.blocks * config.repeats)
}
plt.bar(list(history), list(history.values()))
plt.gca().set(title="Frames of history that each block keeps", ylabel="frames")
plt.gca().tick_params(axis="x", rotation=45)
companion.show("history")

frames_kept = sum(history.values())
print(f"{frames_kept} frames of history, {streamer.state_bytes / 1024:.0f} KiB of state in all")
assert frames_kept == config.repeats * ((config.kernel - 1) * (2**config.blocks - 1) + config.blocks) == 134
assert streamer.state_bytes == before  # after 4 s as before the first sample
assert 4 * config.hidden * frames_kept > 0.7 * streamer.state_bytes

# %% [markdown]
# ## Is it fast enough?
#
# Latency is one condition; the other one is that a hop is worked on before the next one comes. The ratio of working time
# to the time that the sound takes is the *real-time factor*: it has to stay below 1. This is a measurement on the
# machine that runs this page, hop by hop, and nothing is claimed for others.

# %%
streamer, times = Streamer(model), []
for samples in noisy[: len(noisy) // HOP * HOP].reshape(-1, HOP):
    started = time.perf_counter()
    streamer.process(samples)
    times.append(time.perf_counter() - started)
times_ms, deadline_ms = 1000 * np.array(times), 1000 * HOP / RATE
plt.hist(np.minimum(times_ms, 1.2 * deadline_ms), bins=60)
plt.axvline(deadline_ms, color="black", linestyle=":", linewidth=1)
plt.gca().set(title="Time for one hop; dotted: the deadline", xlabel="time (ms)", ylabel="hops", yscale="log")
companion.show("speed")
print(
    f"median {np.median(times_ms):.3f} ms of {deadline_ms:g} ms, real-time factor {np.median(times_ms) / deadline_ms:.3f}"
)
assert deadline_ms == 2.0 and len(times) == len(noisy) // HOP

# %% [markdown]
# ## A norm that forgets
#
# A stream may run for hours. After an hour the cumulative norm hardly moves any more: a new frame is one in 1.8
# million.
# If the sound gets 20 dB louder then, the mean and variance will not follow for a long time. Let the three sums decay
# with a factor $\lambda < 1$ per frame:
#
# $$a_t = \lambda\, a_{t-1} + \sum_c x_{c,t}, \qquad q_t = \lambda\, q_{t-1} + \sum_c x_{c,t}^2, \qquad n_t = \lambda\, n_{t-1} + C.$$
#
# A frame that lies $m$ frames back counts $\lambda^m$. It counts $1/e$ when
#
# $$\lambda^m = e^{-1} \iff m \ln \lambda = -1 \iff m = \frac{-1}{\ln \lambda} \approx \frac{1}{1 - \lambda},$$
#
# and $m$ frames last $m h$ samples. To forget with a time constant of $\tau$ seconds, at $r$ samples per second, take
# $\lambda = e^{-h / (r \tau)}$. The price: it is no longer the norm that the network was trained with.


# %%
def running_deviation(x, forgetting):
    """Standard deviation over time of frames x (T, C), by the decaying sums."""
    a = q = n = 0.0
    deviations = []
    for frame in x:
        a, q, n = forgetting * a + frame.sum(), forgetting * q + (frame**2).sum(), forgetting * n + len(frame)
        deviations.append(np.sqrt(q / n - (a / n) ** 2))
    return np.array(deviations)


frames_per_second = RATE // HOP
louder = np.random.default_rng(0).standard_normal((12 * frames_per_second, 4))
louder[8 * frames_per_second :] *= 10  # 20 dB more, after 8 s
one_second = np.exp(-HOP / (RATE * 1.0))
seconds = np.arange(len(louder)) / frames_per_second
for label, forgetting in (("cumulative (λ = 1)", 1.0), ("forgets in 1 s", one_second)):
    plt.semilogy(seconds, running_deviation(louder, forgetting), label=label)
plt.semilogy(seconds, np.where(seconds < 8, 1, 10), color="black", linewidth=0.8, linestyle=":", label="true")
plt.legend()
plt.gca().set(
    title="The sound gets 20 dB louder after 8 s", xlabel="time (s)", ylabel="deviation of the norm"
)
companion.show("forgetting")

m = -1 / np.log(one_second)
assert np.isclose(m, frames_per_second) and frames_per_second == 500
assert 3600 * frames_per_second == 1_800_000
assert np.isclose(one_second**m, np.exp(-1))
assert abs(1 / (1 - one_second) / m - 1) < 0.01
assert running_deviation(louder, one_second)[-1] > 9  # 4 s later it has arrived
assert running_deviation(louder, 1.0)[-1] < 7  # this one has not

# %% [markdown]
# ## Where it sits
#
# [`streaming.py`](../tasnet_np/streaming/streamer.py) holds the same state in fixed arrays: the windows, rings for what waits,
# one row of sums for each norm. Around it, [`sound_stream.py`](../tasnet_np/listening/sound_stream.py) adds other sample rates and the level.
# `tasnet-np stream` is that as a filter, `tasnet-np live` from a microphone.
#
# ## Exercises
#
# 1. **By hand.** A model at 16 kHz has $L = 20$, five blocks in one repeat, $K = 3$, and its first four blocks centred.
#    What is its latency in ms? What is the largest $L$ with which `origin` stays below 20 ms?
# 2. **Late.** Someone joins the stream after two seconds: a fresh `Streamer` gets the sound from there on. Draw the
#    difference to the offline output over time. How long does it last with `norm="channel"`, and why? And with cLN?
# 3. **Forgetting.** Give `RunningNorm` a $\lambda$, write a network of a single block with it, frame by frame, and show
#    that it equals `Streamer(model, forgetting=...)`.
# 4. **Flush.** Leave out the `None`s after the end and send $D$ more hops of zeros instead. Which part of the output is
#    wrong, and why is nothing wrong for a model without look-ahead?
#
# Solutions: [solutions/16_real_time.py](solutions/16_real_time.py).
