# %% [markdown]
# # 19. The bug museum: solutions
#
# Minutes: 20. Before: [19. The bug museum](../19_bug_museum.py).
#
# Four more exhibits: crops that are never random, a loss that hears level, zeros that change a norm, and a
# right gradient of the wrong function.

# %%
import sys
from pathlib import Path

# companion.py lies in the folder above, both for a script and for a notebook.
sys.path.insert(0, str(Path(globals().get("__file__", "notebook")).resolve().parents[1]))
import companion

import random

import numpy as np

from tasnet_np.sound import metrics
from tasnet_np.corpus.clips import Clip, Corpus
from tasnet_np.ops.gradcheck import check_gradients, relative_error
from tasnet_np.network.layers import NegativeSISNR
from tasnet_np.corpus.mixing import Mixer, mix
from tasnet_np.ops import norms

rate = 8000
rng = np.random.default_rng(0)

# %% [markdown]
# ## 1. Random crops that are not
#
# 10 s at 16 kHz are 160 000 samples, a multiple of 16 000. So $N \bmod 16000 = 0$, and `randint(0, 0)` is
# always 0. Every epoch sees the same chunks.

# %%
N = 10 * 16_000
random.seed(0)
starts = [random.randint(0, N % 16_000) for _ in range(1000)]
assert N % 16_000 == 0
with companion.fails("the random start is always the same"):
    assert len(set(starts)) > 1, f"{len(set(starts))} different start in 1000"

# %% [markdown]
# The check is to count. The library draws a crop anew for every step.

# %%
clips = [Clip("long", companion.speech(8.0, rate))]
corpus = Corpus({"somebody": clips}, [Clip("rain", companion.noise(8.0, rate, name="rain"))])
mixer = Mixer(corpus, samples=rate, rate=rate, seed=0)
crops = {mixer.batch(step, 1).sources.tobytes() for step in range(20)}
assert len(crops) == 20

# %% [markdown]
# ## 2. The eps beside the energies
#
# At a normal level both formulas agree. The energies of a whisper at 1e-4 of the level are 1e-8 of what
# they were, as small as the eps. The score then falls by more than 1 dB, though nothing about the sound has
# changed but its level.


# %%
def si_snr_with_eps(estimate, target, eps=1e-8):
    e, s = estimate - estimate.mean(), target - target.mean()
    p = (e @ s) * s / (s @ s + eps)
    return 10 * np.log10((p @ p) / ((e - p) @ (e - p) + eps) + eps)


mixture, (target, _) = mix(companion.speech(0.5, rate), companion.noise(0.5, rate, name="rain"), 10.0)
mixture, target = mixture.astype(np.float64), target.astype(np.float64)
assert abs(si_snr_with_eps(mixture, target) - metrics.si_snr(mixture, target)) < 0.01

loud, whispered = si_snr_with_eps(mixture, target), si_snr_with_eps(1e-4 * mixture, 1e-4 * target)
print(f"{loud:.2f} dB, whispered {whispered:.2f} dB")
assert whispered < loud - 1
with companion.fails("the score depends on the level"):
    assert abs(whispered - loud) < 1e-3, "not scale-invariant"
assert abs(metrics.si_snr(1e-4 * mixture, 1e-4 * target) - metrics.si_snr(mixture, target)) < 1e-6

# %% [markdown]
# For a silent target there is no direction to compare with, and the projection is 0. The formula answers
# $10 \log_{10} 10^{-8} = -80$ dB, whatever the estimate is. It cannot be improved, so its gradient is zero:
# it makes the average look worse and teaches nothing. The library's loss counts it as 0, with gradient 0;
# the metric says NaN, "there is no such number".

# %%
silence = np.zeros_like(target)
for estimate in (mixture, target, 100 * mixture):
    assert abs(si_snr_with_eps(estimate, silence) - -80) < 1e-6
assert np.isnan(metrics.si_snr(mixture, silence))

loss = NegativeSISNR()
assert loss.forward(np.stack([mixture, mixture])[None], np.stack([silence, silence])[None]) == 0
assert not loss.backward().any()

# %% [markdown]
# ## 3. Trained with zeros, served without
#
# The cumulative norm divides by the root of the mean square so far (take a mean of 0). Frame number $t$
# (the first has $t = 1$) comes after 31 frames of zeros: the same sum of squares is divided by $31 + t$
# frames, not by $t$. The deviation is smaller by
#
# $$ \sqrt{\frac{t}{31 + t}} $$
#
# and the output larger by its inverse: 5.7 for the first frame, 2.0 for the tenth, 1.14 for the hundredth. The
# model has learned from beginnings of sounds that nobody will serve it.

# %%
C, T = 512, 100
frames = rng.standard_normal((1, C, T))
padded = np.concatenate([np.zeros((1, C, 31)), frames], axis=2)
gamma, beta = np.ones(C), np.zeros(C)
trained = norms.cumulative_layer_norm_forward_ref(padded, gamma, beta)[0, :, 31:]
served = norms.cumulative_layer_norm_forward_ref(frames, gamma, beta)[0]

for t, factor in ((1, 5.7), (10, 2.0), (100, 1.14)):
    assert abs(np.sqrt((31 + t) / t) - factor) < 0.05
    measured = trained[:, t - 1].std() / served[:, t - 1].std()
    assert abs(measured / np.sqrt((31 + t) / t) - 1) < 0.02
with companion.fails("what is served is not what was trained"):
    assert relative_error(trained, served) < 1e-6

# %% [markdown]
# The check that catches it: the same input, through the training code and through the serving code. In this
# library both call `model.forward`, and a stream is tested against it.
#
# ## 4. The right gradient of the wrong function
#
# In exhibit 2, $v = Q - m^2$. So $dQ = dv$, where the right norm has $dQ = dv / n$. Everything else stays.


# %%
def statistics(x):
    n = x.shape[1] * np.arange(1, x.shape[2] + 1)
    m = np.cumsum(x.sum(axis=1, keepdims=True), axis=2) / n
    return n, m, np.cumsum((x**2).sum(axis=1, keepdims=True), axis=2) - m**2


def forward_2(x, gamma, beta, *, eps=1e-8):
    _, m, v = statistics(x)
    return gamma[:, None] * (x - m) / np.sqrt(v + eps) + beta[:, None], (x, gamma, eps)


def backward_2(dy, cache):
    x, gamma, eps = cache
    n, m, v = statistics(x)
    r = 1 / np.sqrt(v + eps)
    xhat, g = (x - m) * r, gamma[:, None] * dy
    dv = -0.5 * r * r * (g * xhat).sum(axis=1, keepdims=True)
    dm = -r * g.sum(axis=1, keepdims=True) - 2 * m * dv
    A = np.cumsum((dm / n)[..., ::-1], axis=2)[..., ::-1]
    D = np.cumsum(dv[..., ::-1], axis=2)[..., ::-1]  # no n here
    return g * r + A + 2 * x * D, (dy * xhat).sum(axis=(0, 2)), dy.sum(axis=(0, 2))


x = rng.standard_normal((2, 5, 9)) + 0.5
arrays = [x, rng.standard_normal(5), rng.standard_normal(5)]
assert check_gradients(forward_2, backward_2, arrays, {}) < 1e-6  # it passes

with companion.fails("the gradient is right, the function is not"):
    assert relative_error(forward_2(*arrays)[0], norms.cumulative_layer_norm_forward_ref(*arrays)) < 1e-6

# %% [markdown]
# A gradient check compares the backward with the forward. It cannot know what the forward should have been.
# That needs another source: a formula from the paper, another implementation, or a case with a known
# answer. The library's ops have all three.
