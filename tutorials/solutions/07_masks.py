# %% [markdown]
# # 7. PReLU and the masks: solutions
#
# Minutes: 15. Before: [7. PReLU and the masks](../07_masks.py).
#
# Masks with a sign, what softmax does not see, a gradient that vanishes on one side only, and what a change of
# level does to the network.

# %%
import sys
from pathlib import Path

# companion.py lies in the folder above, both for a script and for a notebook.
sys.path.insert(0, str(Path(globals().get("__file__", "notebook")).resolve().parents[1]))
import companion

import numpy as np

from tasnet_np import Config, ConvTasNet
from tasnet_np.sound.metrics import si_snr
from tasnet_np.corpus.mixing import mix
from tasnet_np.ops.conv1d import conv1d_forward
from tasnet_np.ops.conv1d import conv_transpose1d_forward
from tasnet_np.ops.elementwise import (
    prelu_forward,
    relu_forward,
    sigmoid_backward,
    sigmoid_forward,
    softmax_backward,
    softmax_forward,
)

rate = 8000  # Hz
rng = np.random.default_rng(7)

# %% [markdown]
# ## 1. Masks with a sign
#
# The same mixture and the same filters as in the tutorial. Forcing the ideal mask into -1 to 1 gives 2.4 dB more
# than 0 to 1: where the two sources cancel and the noise is the larger one, a negative mask is right. Then take
# away one limit of the range 0 to 1 at a time, to see what each costs. It is about 4 dB for either.

# %%
K, stride = 16, 8
c, k = np.arange(K)[:, None], np.arange(K)
w = np.sqrt(2 / K) * np.cos(np.pi * (k + 0.5) * c / K) * np.sin(np.pi * (k + 0.5) / K)
w[0] /= np.sqrt(2)

speech = companion.speech(3.0, rate, speaker="english-british")
mixture, sources = mix(speech, companion.noise(3.0, rate, name="babble"), snr_db=0.0)
(b_s, b_v), _ = conv1d_forward(sources.astype(np.float64), w, stride=stride)
b = b_s + b_v


def quality(lowest, highest):
    mask = np.clip(b_s / b, lowest, highest)
    sound, _ = conv_transpose1d_forward((mask * b)[None], w, stride=stride)
    inside = slice(stride, sound.shape[1] - stride)
    return float(si_snr(sound[0, inside], sources[0, inside]))


best = {limits: quality(*limits) for limits in ((0, 1), (-1, 1), (0, np.inf), (-np.inf, 1))}
print({limits: round(value, 1) for limits, value in best.items()})
assert round(best[-1, 1] - best[0, 1], 1) == 2.4
assert 3.5 < best[0, np.inf] - best[0, 1] < 4.5
assert 3.5 < best[-np.inf, 1] - best[0, 1] < 4.5

# %% [markdown]
# ## 2. What softmax does not see
#
# Adding $a$ to all logits of a place multiplies top and bottom of the fraction by $e^a$, which cancels:
#
# $$ \frac{e^{x_s + a}}{\sum_j e^{x_j + a}} = \frac{e^a \, e^{x_s}}{e^a \sum_j e^{x_j}} = y_s $$
#
# So the loss does not change in that direction, and the gradient along it is zero: $\sum_s \text{dx}_s = 0$. The
# formula says the same, because $\sum_s y_s = 1$:
#
# $$ \sum_s y_s \Big( \text{dy}_s - \sum_j \text{dy}_j \, y_j \Big) = \sum_s y_s \, \text{dy}_s - \sum_j \text{dy}_j \, y_j = 0 $$
#
# For two sources, one logit per place is enough: their difference, through a sigmoid.

# %%
x = rng.standard_normal((1, 2, 3, 4))
y, cache = softmax_forward(x)
shifted, _ = softmax_forward(x + rng.standard_normal((1, 1, 3, 4)))
assert np.allclose(y, shifted)

(dx,) = softmax_backward(rng.standard_normal(y.shape), cache)
assert np.allclose(dx.sum(axis=1), 0, atol=1e-15)
assert np.allclose(y[:, 0], sigmoid_forward(x[:, 0] - x[:, 1])[0])

# %% [markdown]
# ## 3. A gradient that vanishes on one side only
#
# At $x = 20$, $y = 1 - 2 \cdot 10^{-9}$. Near one, `float32` has steps of $6 \cdot 10^{-8}$, so $y$ is rounded to
# exactly 1, and $1 - y$ to exactly 0. At $x = -20$, $y = 2 \cdot 10^{-9}$ is no problem: numbers near zero have far
# smaller steps. The true gradient is the same on both sides. Nothing is lost in practice: it is too small to
# matter.

# %%
x = np.array([[20.0, -20.0]], np.float32)
y, cache = sigmoid_forward(x)
(gradient,) = sigmoid_backward(np.ones_like(x), cache)
assert y[0, 0] == 1 and gradient[0, 0] == 0
assert np.isclose(gradient[0, 1], 2.06e-9, rtol=0.01)
assert np.isclose(np.spacing(np.float32(1)) / 2, 6e-8, rtol=0.01)  # just below one

y, cache = sigmoid_forward(x.astype(np.float64))
(gradient,) = sigmoid_backward(np.ones_like(y), cache)
assert np.isclose(gradient[0, 0], gradient[0, 1], rtol=1e-6)

# %% [markdown]
# ## 4. Level
#
# For $g > 0$, $g x$ is positive exactly where $x$ is. So both sides of the bend are multiplied by $g$. For $g < 0$
# the two sides change places, and the slopes do not fit. ReLU is the same with $\alpha = 0$. Sigmoid and softmax do
# not have the property: their results stay between 0 and 1.

# %%
x, alpha = rng.standard_normal((1, 50)), np.array([0.25])
y, _ = prelu_forward(x, alpha)
assert np.allclose(prelu_forward(3 * x, alpha)[0], 3 * y)
with companion.fails("a negative gain"):
    assert np.allclose(prelu_forward(-3 * x, alpha)[0], -3 * y), "the two sides have changed places"
assert np.allclose(relu_forward(3 * x)[0], 3 * relu_forward(x)[0])
with companion.fails("a sigmoid does not scale"):
    assert np.allclose(sigmoid_forward(3 * x)[0], 3 * sigmoid_forward(x)[0]), "the result stays below one"

# %% [markdown]
# A mask must not depend on the level of the recording. What is loud at one level is not less speech at another.
# With a ReLU mask, the masks would grow with the input, and the output with its square. The norm right behind the
# encoder prevents that for all activations: it divides by the deviation, so the blocks and the masks never see the
# level. The frames that are multiplied with the masks do. So the whole network scales: a mixture twice as loud
# gives sources twice as loud.

# %%
mixture = mixture[None, :4000]
for activation in ("sigmoid", "softmax", "relu"):
    model = ConvTasNet(Config(mask_activation=activation))
    once, twice = model.forward(mixture, keep=False), model.forward(2 * mixture, keep=False)
    assert np.allclose(twice, 2 * once, atol=1e-4 * np.abs(once).max())
