# %% [markdown]
# # 19. The bug museum
#
# Minutes: 40. Before: [2. Checking a gradient](02_checking_gradients.py), [9. Cumulative layer norm](09_cumulative_norm.py), [12. Conv-TasNet whole](12_conv_tasnet.py), [13. SI-SNR](13_si_snr.py).
#
# Eight real defects of published implementations, planted again one by one: the symptom that you can see or
# hear, and the one check that catches each. All of them run without an error.

# %% [markdown]
# These defects were found in code that people trained models with, some of them for years. (Exhibit 6 is
# the one that we cannot place exactly.) No names are given: they are easy mistakes, made by people who know
# their field. What is worth learning is how each of them stayed unseen.
#
# Each exhibit has the same form: the claim, the defect in a few lines, the symptom, the check, and what
# this library does instead. Before you read on below a defect, try to find it yourself.

# %%
import companion


import matplotlib.pyplot as plt
import numpy as np

from tasnet_np.sound import metrics
from tasnet_np.ops.cases import CASES
from tasnet_np.ops.gradcheck import check_op, relative_error
from tasnet_np.network.layers import NegativeSISNR
from tasnet_np.sound.level import rms_db
from tasnet_np.corpus.mixing import mix
from tasnet_np.network.config import Config
from tasnet_np.network.execution import ConvTasNet
from tasnet_np.ops import conv1d, depthwise, elementwise, norms
from tasnet_np.optimisation.optimisers import Adam

companion.where("mixture", "norm", "norm2", "depthwise", "mask", "loss", "optimizer")

rate = 8000
rng = np.random.default_rng(19)

# %% [markdown]
# ## The guard who sees nothing
#
# Most projects have this test, if they have any: does it run, is the shape right, is everything finite? We
# call it the *smoke test*. Each exhibit has to pass it, on everyday input.

# %%
passed_smoke_test = []


def smoke_test(exhibit, output, shape):
    assert np.shape(output) == shape and np.isfinite(output).all()
    passed_smoke_test.append(exhibit)


# %% [markdown]
# ## Exhibit 1: the square root too many
#
# **The claim.** "Speech and noise are mixed at 7 dB." The code measures the RMS of both, and scales the
# noise.


# %%
def mix_1(speech, noise, snr_db):
    rms_speech, rms_noise = np.sqrt(np.mean(speech**2)), np.sqrt(np.mean(noise**2))
    scale = np.sqrt(rms_speech / 10 ** (snr_db / 20) / rms_noise)
    return np.stack([speech, scale * noise])


speech = companion.speech(2.0, rate, seed=1)
noise = companion.noise(2.0, rate, name="rain")
wrong = mix_1(speech, noise, 7.0)
smoke_test(1, wrong, (2, len(speech)))

# %% [markdown]
# **The symptom.** Listen: there is more noise than 7 dB should have. But who can tell without the other one
# beside it? As numbers: 7 dB asked is 3.5 dB made, 12 dB is 6 dB. The formula divides by an RMS, which is a
# root already, and takes another root. With $R$ for an RMS and equal levels,
#
# $$ \text{scale} = \sqrt{10^{-\text{SNR}/20}} = 10^{-\text{SNR}/40} \quad\text{where}\quad 10^{-\text{SNR}/20} \quad\text{is right.} $$


# %%
def snr_db(sources):
    return 10 * np.log10(np.mean(sources[0] ** 2) / np.mean(sources[1] ** 2))


mixture, right = mix(speech, noise, 7.0)
companion.play(right.sum(axis=0), rate, "mixed at 7 dB")
companion.play(wrong.sum(axis=0), rate, "mixed at '7 dB' by the exhibit")
for asked, made in ((7.0, 3.5), (12.0, 6.0)):
    assert abs(snr_db(mix_1(speech, noise, asked)) - made) < 1e-3

# %% [markdown]
# **The check.** Measure what was made, on the very samples.

# %%
with companion.fails("1: a square root too many"):
    assert abs(snr_db(wrong) - 7.0) < 1e-3, f"{snr_db(wrong):.2f} dB"

# %% [markdown]
# **Here.** `mixing.mix` works with powers, and its test measures its result. Tutorial 1 derives it.

# %%
assert abs(snr_db(right) - 7.0) < 1e-3

# %% [markdown]
# ## Exhibit 2: the variance that was never divided
#
# **The claim.** "Cumulative layer norm: mean and variance of all frames so far." From the running sums $S$
# and $Q$ of $x$ and $x^2$ over $n = C(t+1)$ numbers.


# %%
def cumulative_norm_2(x, gamma, beta, eps=1e-8):
    C, T = x.shape[1:]
    n = C * np.arange(1, T + 1)
    mean = np.cumsum(x.sum(axis=1, keepdims=True), axis=2) / n
    variance = np.cumsum((x**2).sum(axis=1, keepdims=True), axis=2) - mean**2
    return gamma[:, None] * (x - mean) / np.sqrt(variance + eps) + beta[:, None]


C, T = 16, 400
x = rng.standard_normal((1, C, T)) + 0.5
gamma, beta = np.ones(C), np.zeros(C)
wrong = cumulative_norm_2(x, gamma, beta)
right, _ = norms.cumulative_layer_norm_forward(x, gamma, beta)
smoke_test(2, wrong, x.shape)

# %% [markdown]
# **The symptom.** The variance is $Q/n - m^2$; here $Q$ is not divided by $n$. It grows with every frame,
# so the output fades as $1/\sqrt{n}$. A norm should do the opposite, and keep the deviation of its output
# near one. After 400 frames of 16 channels, $n = 6400$. Here the mean is 0.5 and the variance 1, so
# $Q = n (v + m^2) = 1.25\,n$, and the output is $\sqrt{1.25 \cdot 6400} = 89$ times too small.

# %%
fig, ax = plt.subplots()
for name, y, style in (("the library", right, "-"), ("exhibit 2", wrong, "--")):
    ax.plot(y[0].std(axis=0), style, label=name)
ax.set(yscale="log", xlabel="frame t", ylabel="deviation over the channels", title="a norm that fades")
ax.legend()
companion.show("variance_not_divided")

assert C * T == 6400 and round(np.sqrt(1.25 * 6400)) == 89
assert 0.9 < right[..., -50:].std() < 1.1
assert 85 < right[..., -1].std() / wrong[..., -1].std() < 93

# %% [markdown]
# A gain that falls from frame to frame is a fade. We can hear it: analyse two seconds of speech with a
# cosine filter bank, apply the norm to its frames, and go back to a waveform.


# %%
def cosine_filters(L):
    """L windowed cosines (L, L): analysis and synthesis with hop L/2 give the signal back."""
    k, c = np.arange(L), np.arange(L)[:, None]
    cosines = np.sqrt(2 / L) * np.cos(np.pi / L * (k + 0.5) * c)
    cosines[0] /= np.sqrt(2)
    return (cosines * np.sin(np.pi / L * (k + 0.5))).astype(np.float32)


L = 64
filters = cosine_filters(L)


def analyse(sound):
    return conv1d.conv1d_forward(sound[None], filters, stride=L // 2)[0]


def synthesise(frames):
    return conv1d.conv_transpose1d_forward(frames, filters, stride=L // 2)[0][0]


inside = slice(L, -L)
frames = analyse(speech)
assert np.allclose(synthesise(frames)[inside], speech[: len(synthesise(frames))][inside], atol=1e-6)

ones, zeros = np.ones(L, np.float32), np.zeros(L, np.float32)
heard = {
    "the library's norm": synthesise(norms.cumulative_layer_norm_forward(frames, ones, zeros)[0]),
    "exhibit 2": synthesise(cumulative_norm_2(frames, ones, zeros).astype(np.float32)),
}
for name, sound in heard.items():
    companion.play(sound / np.abs(sound).max(), rate, name)
fade_db = {name: rms_db(sound[-rate // 2 :]) - rms_db(sound[: rate // 2]) for name, sound in heard.items()}
print({name: f"{value:.1f} dB from the first to the last half second" for name, value in fade_db.items()})
assert fade_db["exhibit 2"] < fade_db["the library's norm"] - 6

# %% [markdown]
# The exhibit is more than 6 dB softer at the end, compared with how the right norm treats the same two
# seconds.
#
# **Why nobody saw it.** The test looked for NaN. A gradient check would not have helped: a framework
# derives the backward from the forward. So the gradient is right, of the wrong function. And the model
# still trains, as the next layers learn to live with it. Somebody even compared norms with it, and found
# this one worse.
#
# **The check.** A value that is known by other means. On the last frame, the norm over *all* frames is the
# plain mean and deviation of everything:

# %%
expected = ((x - x.mean()) / x.std())[..., -1]
assert relative_error(right[..., -1], expected) < 1e-6
with companion.fails("2: the sum of squares was not divided by the count"):
    assert relative_error(wrong[..., -1], expected) < 1e-6, "not the norm of the whole at the last frame"

# %% [markdown]
# **Here.** The kernel is checked against a NumPy reference, the reference against PyTorch where it is
# installed, and both against finite differences.
#
# ## Exhibit 3: the causal model that knows the future
#
# **The claim.** "A causal model, for real time." All convolutions are causal. The recipe has two settings,
# though: `causal` and `norm`, and the norm is the default one, global. Our `Config` refuses this, so we
# have to force it.

# %%
try:
    Config(causal=True, norm="gLN")
    refused = False
except ValueError as error:
    refused = True
    print(error)
assert refused

causal_3 = Config()
object.__setattr__(causal_3, "norm", "gLN")  # by force

models = {"causal, cLN": ConvTasNet(Config(), seed=0), "exhibit 3: causal, gLN": ConvTasNet(causal_3, seed=0)}
mixture, _ = mix(speech, noise, 5.0)
smoke_test(3, models["exhibit 3: causal, gLN"].forward(mixture[None], keep=False), (1, 2, len(mixture)))

# %% [markdown]
# **The symptom.** In the lab, everything is fine. On a stream, it cannot run at all, or runs with
# statistics that it has never seen. To make the fault visible, we give the same first second twice, with
# two different second seconds. A causal model must answer the first second in the same way.

# %%
changed = mixture.copy()
changed[rate:] = 10 * companion.noise(1.0, rate, name="siren")[: len(mixture) - rate]

fig, axes = plt.subplots(2, sharex=True, sharey=True, figsize=(7.5, 3.6))
difference = {}
for ax, (name, model) in zip(axes, models.items()):
    before, after = (model.forward(sound[None], keep=False)[0, 0] for sound in (mixture, changed))
    difference[name] = np.abs(after - before) / before.std()
    ax.plot(np.arange(len(before)) / rate, difference[name], "-", color="black", linewidth=0.5)
    ax.axvline(1, color=companion.COLOURS["vermilion"], linestyle="--")
    ax.set(title=f"{name}: how much the answer changed", ylabel="relative", ylim=(0, 2))
axes[-1].set_xlabel("time (s); the inputs differ from the dashed line on")
companion.show("knows_the_future")

# %% [markdown]
# **The check.** Change the future, and look at the past. (The last hop before the change lies under windows
# that reach over it, so we leave out one window.)

# %%
past = slice(0, rate - Config().filter_length)
assert difference["causal, cLN"][past].max() < 1e-5
with companion.fails("3: the answer to the first second depends on the second one"):
    assert difference["exhibit 3: causal, gLN"][past].max() < 1e-5, "the past changed"

# %% [markdown]
# **Here.** `Config` refuses the combination, and `latency_samples` is infinite for a global norm.

# %%
assert Config(causal=False, norm="gLN").latency_samples == np.inf
assert Config().latency_samples == 16

# %% [markdown]
# ## Exhibit 4: the norm that is not used
#
# **The claim.** "Two norms in each block." Both are made, both have parameters, both are counted. Only the
# `forward` calls one of them. Here we take the second norm out of the chain that a block runs, and leave it
# in the list of its parts.

# %%
tiny = Config(filters=32, bottleneck=16, hidden=32, skip=16, blocks=4, repeats=1)
model_4 = ConvTasNet(tiny, seed=0, path="ops")
for block in model_4.blocks:
    block.chain.pop("norm2")

loss = NegativeSISNR()
mixture, sources = mix(speech, noise, 0.0)
estimate = model_4.forward(mixture[None])
smoke_test(4, estimate, (1, 2, len(mixture)))

# %% [markdown]
# **The symptom.** None that you would notice. The parameter count is as announced, and it trains. But some
# parameters never move: in one published model 24,600 of 3,475,121. A relative of this exhibit is the last
# block's residual convolution, whose output goes nowhere. In the 16 kHz model that this project began with,
# that is 65,664 of 5,083,313 parameters.

# %%
assert sum(array.size for array in model_4.params.values()) == tiny.parameter_count
origin = Config.preset("origin")
dead = origin.bottleneck * origin.hidden + origin.bottleneck
assert dead == 65_664
assert origin.parameter_count == 5_083_313 - 65_664  # the library's version of it has none of these

# %% [markdown]
# **The check.** After one backward pass, every parameter must have a gradient.


# %%
def without_gradient(model):
    loss.forward(model.forward(mixture[None]), sources[None])
    model.backward(loss.backward())
    return [name for name, gradient in model.grads.items() if not gradient.any()]


unused = without_gradient(model_4)
print("without a gradient:", unused)
assert len(unused) == 2 * tiny.blocks  # gamma and beta in each block
with companion.fails("4: parameters that nothing depends on"):
    assert unused == []

# %% [markdown]
# **Here.** The same check on the library's own models, on the path op by op and the fused one. And where
# one layer is used twice in place of two, the second backward raises an error, as a layer keeps what one
# forward left.

# %%
for path in ("ops", "fused"):
    assert without_gradient(ConvTasNet(tiny, seed=0, path=path)) == []

block = ConvTasNet(tiny, seed=0, path="ops").blocks[0]
block.chain["norm2"] = block.chain["norm1"]
block.forward(*(rng.standard_normal((1, 16, 20)).astype(np.float32) for _ in range(2)))
try:
    block.backward(*(rng.standard_normal((1, 16, 20)).astype(np.float32) for _ in range(2)))
    raised = False
except RuntimeError as error:
    raised = True
    print(error)
assert raised

# %% [markdown]
# ## Exhibit 5: the chop that takes everything
#
# **The claim.** "A causal convolution: pad both sides, convolve, chop off what looks ahead."


# %%
def causal_5(x, w, b, dilation):
    C, T = x.shape
    K = w.shape[1]
    padding = (K - 1) * dilation
    padded = np.pad(x, ((0, 0), (padding, padding)))
    taps = [w[:, k, None] * padded[:, k * dilation : k * dilation + T + padding] for k in range(K)]
    return (b[:, None] + sum(taps))[:, :-padding]


x, b = rng.standard_normal((4, 30)), rng.standard_normal(4)
w = rng.standard_normal((4, 3))
smoke_test(5, causal_5(x, w, b, 2), x.shape)
right, _ = depthwise.depthwise_forward(x[None], w, b, dilation=2)
assert relative_error(causal_5(x, w, b, 2), right[0]) < 1e-12

# %% [markdown]
# **The symptom.** With three taps it is right, and it has always been called with three. Someone tries a
# kernel of one tap, to see how much the look along time is worth. Then `padding` is 0, and `y[:, :-0]` is
# `y[:, :0]`: nothing. Thirty frames go in, none comes out. The mean of a loss over nothing is NaN.

# %%
one_tap = causal_5(x, w[:, :1], b, 2)
print(x.shape, "->", one_tap.shape)
assert one_tap.shape == (4, 0)

# %% [markdown]
# **The check.** The smallest size of everything: one tap, one frame, one channel.

# %%
with companion.fails("5: minus zero is zero"):
    assert one_tap.shape == x.shape, f"{one_tap.shape}"

# %% [markdown]
# **Here.** No padding and no chopping: the loop runs over those frames that have an input. The table of
# tests has mean shapes, this one among them.

# %%
names = [case.name for case in CASES]
assert "depthwise one tap" in names and "depthwise one frame" in names
one_tap, _ = depthwise.depthwise_forward(x[None], w[:, :1], b, dilation=2)
assert relative_error(one_tap[0], w[:, :1] * x + b[:, None]) < 1e-12

# %% [markdown]
# ## Exhibit 6: softmax over the wrong axis
#
# **The claim.** "A softmax makes the masks: at each place, the sources share what is there." The masks have
# the axes (batch, source, filter, frame).


# %%
def softmax_6(logits):
    e = np.exp(logits - logits.max(axis=2, keepdims=True))
    return e / e.sum(axis=2, keepdims=True)


# %% [markdown]
# To hear what it does we need good logits. So we give it ideal ones: the logarithm of each source's energy
# in the cosine filter bank. A softmax over the sources then makes $E_s / (E_1 + E_2)$, the ideal ratio
# mask.

# %%
mixture, sources = mix(speech, noise, 0.0)
energy = np.stack([analyse(source)[0] ** 2 for source in sources])[None]  # (1, 2, C, T)
logits = np.log(energy + 1e-8).astype(np.float32)
masks = {"over the sources": elementwise.softmax_forward(logits)[0], "exhibit 6": softmax_6(logits)}
smoke_test(6, masks["exhibit 6"], logits.shape)

fig, axes = plt.subplots(1, 2, sharey=True, figsize=(7.5, 3))
for ax, (name, mask) in zip(axes, masks.items()):
    image = ax.imshow(
        mask[0, 0],
        origin="lower",
        aspect="auto",
        vmin=0,
        vmax=1,
        interpolation="nearest",
        extent=(0, 2, 0, rate / 2000),
    )
    ax.set(title=f"mask of the speech: {name}", xlabel="time (s)")
    ax.grid(False)
axes[0].set_ylabel("frequency of the filter (kHz)")
fig.colorbar(image, ax=axes, label="mask")
companion.show("softmax_axis")

# %% [markdown]
# **The symptom.** The filters compete with each other, instead of the sources. In each frame a few filters
# win, and all others are shut, so the speech comes back thin. The right mask gains more than 15 dB, the
# wrong one less than 5.

# %%
gain_db = {}
for name, mask in masks.items():
    estimate = synthesise(mask[:, 0] * analyse(mixture))
    n = len(estimate)
    piece = slice(L, n - L)
    gain_db[name] = metrics.si_snr_improvement(estimate[piece], sources[0, :n][piece], mixture[:n][piece])
    companion.play(estimate * (mixture.std() / estimate.std()), rate, f"speech by the mask {name}")
    print(f"{name}: {gain_db[name]:+.1f} dB")
assert gain_db["over the sources"] > 15
assert gain_db["exhibit 6"] < 5

# %% [markdown]
# It is an improvement, all the same! Whoever sees only that number believes that softmax is a poor mask.
#
# **Where it comes from.** This is the one exhibit that we cannot place exactly. Some frameworks guess the
# axis of a softmax when none is given, and published code for images has fallen into that trap. Several
# people report that their Conv-TasNet learns badly with a softmax, while the paper finds softmax (12.9 dB)
# and sigmoid (13.1 dB) nearly alike. In the two sources that we have looked at, the axis is right: their
# reason is another one.
#
# **The check.** Add up the masks of the sources. They must make 1 everywhere.

# %%
assert np.allclose(masks["over the sources"].sum(axis=1), 1, atol=1e-6)
with companion.fails("6: the masks of the sources do not share what is there"):
    assert np.allclose(masks["exhibit 6"].sum(axis=1), 1, atol=1e-6), "sums are not 1"

# %% [markdown]
# **Here.** The op is written for the four axes by name, its docstring says which one, and its gradient
# check has different sizes on all axes.
#
# ## Exhibit 7: the gradient of silence
#
# **The claim.** "A small number keeps us from dividing by zero": $r = 1 / (\sqrt{v} + \varepsilon)$. The
# forward is safe, indeed. For the backward we need
#
# $$ \frac{dr}{dv} = -\frac{1}{(\sqrt{v} + \varepsilon)^2} \cdot \frac{1}{2 \sqrt{v}} $$
#
# A framework computes it just so, for every frame of the cumulative norm.


# %%
def cumulative_norm_7(x, dy, gamma, eps=1e-8):
    C, T = x.shape
    n = C * np.arange(1, T + 1)
    m = np.cumsum(x.sum(axis=0)) / n
    v = np.maximum(np.cumsum((x * x).sum(axis=0)) / n - m * m, 0)
    r = 1 / (np.sqrt(v) + eps)
    y = gamma[:, None] * (x - m) * r
    g = gamma[:, None] * dy
    dv = -(r**2) / (2 * np.sqrt(v)) * (g * (x - m)).sum(axis=0)
    dm = -r * g.sum(axis=0) - 2 * m * dv
    A = np.cumsum((dm / n)[::-1])[::-1]
    D = np.cumsum((dv / n)[::-1])[::-1]
    return y, g * r + A + 2 * x * D


x, dy = rng.standard_normal((2, 8, 50))
gamma, beta = rng.standard_normal((2, 8))
y, dx = cumulative_norm_7(x, dy, gamma)
smoke_test(7, dx, x.shape)
assert (
    relative_error(dx, norms.cumulative_layer_norm_backward_ref(dy[None], x[None], gamma, beta)[0][0]) < 1e-6
)

# %% [markdown]
# On noise all is well: its gradient agrees with the library's. Now a recording that begins with ten frames
# of digital silence, as a file does that was cut or faded in.
#
# **The symptom.** $v = 0$ and $\sqrt{v} = 0$: the gradient is $0 / 0$, NaN. The forward shows nothing. In
# the encoder, each filter's gradient is a sum over all frames, so one NaN is enough. After one step of
# Adam, all weights of the encoder are NaN, and the model is lost: on the first file of that kind, which may
# come after days of training.

# %%
x[:, :10] = 0
with np.errstate(all="ignore"):
    y, dx = cumulative_norm_7(x, dy, gamma)
assert np.isfinite(y).all()
assert np.isnan(dx[:, :10]).all() and np.isfinite(dx[:, 10:]).all()

samples = rng.standard_normal((1, (50 - 1) * 8 + 16))
_, cache = conv1d.conv1d_forward(samples, rng.standard_normal((8, 16)), stride=8)
_, dw = conv1d.conv1d_backward(dx[None], cache)
weights = {"encoder.w": rng.standard_normal((8, 16))}
Adam(weights).step({"encoder.w": dw})
assert np.isnan(weights["encoder.w"]).all()

# %% [markdown]
# **The check.** Silence, in front and everywhere, in the table of gradients. Ask for finite first: a
# comparison such as `error > limit` is false for NaN, and lets it pass.

# %%
assert not (np.nan > 1e-6)
with companion.fails("7: zero divided by zero in the backward pass"):
    assert np.isfinite(dx).all(), f"{np.isnan(dx).mean():.0%} of dx are NaN"

# %% [markdown]
# **Here.** $r = 1/\sqrt{v + \varepsilon}$, with $dr/dv = -\tfrac12 r^3$, finite even for $v = 0$. Silence
# is a row in the table of cases. Besides, `Trainer.step` looks at loss and gradient *before* it changes the
# model, and stops with a message.

# %%
right = norms.cumulative_layer_norm_backward_ref(dy[None], x[None], gamma, beta)[0]
assert np.isfinite(right).all()
(silent_case,) = [case for case in CASES if case.name == "cumulative_layer_norm silence first"]
assert check_op(silent_case) < 1e-6
assert relative_error(dx, right[0]) == np.inf  # its comparison fails on NaN

# %% [markdown]
# ## Exhibit 8: the gradient that remembers
#
# **The claim.** "Adam, learning rate 0.003." The training loop: forward, loss, backward, step. In
# frameworks whose `backward` *adds* to the gradients, one line is missing: the one that sets them to zero.


# %%
def train(steps, clears):
    model = ConvTasNet(tiny, seed=0)
    optimizer = Adam(model.params, learning_rate=0.003)
    gradients = {name: np.zeros_like(array) for name, array in model.params.items()}
    losses = []
    for _ in range(steps):
        losses.append(loss.forward(model.forward(mixture[None]), sources[None]))
        model.backward(loss.backward())
        for name, gradient in model.grads.items():
            gradients[name] = gradient if clears else gradients[name] + gradient
        optimizer.step(gradients)
    return np.array(losses)


mixture, sources = mix(speech[:rate], noise[:rate], 0.0)
steps = max(100, round(150 * companion.SCALE))
curves = {"gradients set anew": train(steps, True), "exhibit 8: gradients added up": train(steps, False)}
smoke_test(8, curves["exhibit 8: gradients added up"], (steps,))

fig, ax = plt.subplots()
for name, curve in curves.items():
    ax.plot(curve, label=name)
ax.set(xlabel="step", ylabel="loss (dB)", title="learning one second by heart")
ax.legend()
companion.show("missing_zero_grad")

# %% [markdown]
# **The symptom.** The loss goes down! Nobody would suspect anything, without the other curve. It goes down
# less: more than 5 dB are missing at the end.

# %%
final = {name: curve[-10:].mean() for name, curve in curves.items()}
wrong, right = final["exhibit 8: gradients added up"], final["gradients set anew"]
print(f"after {steps} steps: {wrong:.1f} dB instead of {right:.1f} dB")
assert wrong < curves["exhibit 8: gradients added up"][0] - 20  # it learns
assert wrong > right + 5

# %% [markdown]
# **Why it is so.** Take the simplest loss, $\frac12 \theta^2$, with the gradient $\theta$. Plain gradient
# descent with the rate $\eta$ goes $\theta_{t+1} = \theta_t - \eta\, \theta_t$, and dies out. With a
# sum $G$ that is never cleared,
#
# $$ \begin{aligned}
# G_t &= G_{t-1} + \theta_t \\
# \theta_{t+1} &= \theta_t - \eta\, G_t
# \end{aligned} $$
#
# Subtract $\theta_t = \theta_{t-1} - \eta\, G_{t-1}$ from the second line, and use $G_t - G_{t-1} = \theta_t$:
#
# $$ \theta_{t+1} - \theta_t = \theta_t - \theta_{t-1} - \eta\, \theta_t $$
#
# The speed changes by $-\eta\, \theta$: a weight on a spring, without friction. It swings for ever, and
# never comes to rest. Put in $\theta_t = \cos \omega t$: because
# $\cos \omega(t+1) + \cos \omega(t-1) = 2 \cos\omega \cos\omega t$,
#
# $$ 2 \cos \omega = 2 - \eta $$
#
# For $\eta = 0.01$ one swing takes $2\pi / \omega = 62.8$ steps.


# %%
def descend(steps, rate, clears):
    theta, G, path = 1.0, 0.0, []
    for _ in range(steps):
        path.append(theta)
        G = theta if clears else G + theta
        theta -= rate * G
    return np.array(path)


forgetting, remembering = descend(400, 0.01, True), descend(400, 0.01, False)
omega = np.arccos(1 - 0.01 / 2)
assert round(2 * np.pi / omega, 1) == 62.8
assert forgetting[-1] < 0.02
assert np.abs(remembering[-63:]).max() > 0.99  # still swinging as far as at the start

fig, ax = plt.subplots(figsize=(7.5, 2.6))
ax.plot(forgetting, label="gradients set anew")
ax.plot(remembering, label="gradients added up")
ax.set(xlabel="step", ylabel="θ", title="the same on θ²/2: a spring without friction")
ax.legend(ncol=2, loc="lower right", bbox_to_anchor=(1, 1), fontsize=8)
companion.show("spring")

# %% [markdown]
# **The check.** Two passes over the same data must give the same gradient.


# %%
def gradients_of_two_passes(adds_up):
    model = ConvTasNet(tiny, seed=0)
    stored = {name: np.zeros_like(array) for name, array in model.params.items()}
    passes = []
    for _ in range(2):
        loss.forward(model.forward(mixture[None]), sources[None])
        model.backward(loss.backward())
        stored = {name: gradient + stored[name] * adds_up for name, gradient in model.grads.items()}
        passes.append(stored["encoder.w"])
    return passes


first, second = gradients_of_two_passes(adds_up=False)
assert (first == second).all()
with companion.fails("8: the second pass remembers the first one"):
    first, second = gradients_of_two_passes(adds_up=True)
    assert relative_error(second, first) < 1e-6, "twice as large"

# %% [markdown]
# **Here.** A backward *sets* gradients. There is no line to forget.
#
# ## What the museum teaches
#
# All eight exhibits have passed the smoke test.

# %%
assert sorted(passed_smoke_test) == [1, 2, 3, 4, 5, 6, 7, 8]

# %% [markdown]
# | exhibit | passed | caught by |
# |---|---|---|
# | 1 square root too many | runs, sounds fine | measuring what was made |
# | 2 variance not divided | no NaN, right gradient | a value known by other means |
# | 3 global norm, "causal" | all tests of one file | changing the future |
# | 4 unused norm | trains, parameters counted | each parameter has a gradient |
# | 5 chop with zero padding | every kernel ever used | the smallest size |
# | 6 softmax over filters | trains, sums to 1 somewhere | adding up over the sources |
# | 7 gradient of silence | every recording but one | silence; finite first |
# | 8 missing zero_grad | the loss goes down | two passes, one gradient |
#
# None of these checks is deep. Each one states what the thing is *for*, as a number, and looks. "It runs"
# and "the loss goes down" are not such statements: networks learn around almost everything.
#
# ## Where this sits in the model
#
# From the first part to the last: the mixture (1), the norms (2, 3, 4, 7), the depthwise convolution (5),
# the masks (6), the optimizer (8). The checks are in the project's [tests](../tests), as *negative
# controls*: the tests plant bugs like these, and demand that they be caught.
#
# ## Exercises
#
# Four more exhibits from the store. For each: find the defect, make the symptom visible, write the check.
#
# 1. *Random crops.* `start = randint(0, N % 16000)` chooses where a training chunk begins (both ends
#    included). All files are 10 s long, at 16 kHz.
# 2. *The eps beside the energies.* `si_snr = 10 * log10(|p|^2 / (|e - p|^2 + eps) + eps)`, eps = 1e-8, with
#    p the projection on the target. Whisper the same sound: scale estimate and target by 1e-4. What do both
#    together score when the target is silent?
# 3. *Trained with, served without.* In training, 31 frames of zeros are put before the encoder's output.
#    The served model has none. By what factor does the first frame after the cumulative norm differ? And
#    frame 10, and frame 100?
# 4. *The right gradient of the wrong function.* Write a backward for exhibit 2 that passes the gradient
#    check. What does that say about gradient checks?
#
# Solutions: [solutions/19_bug_museum.py](solutions/19_bug_museum.py).
