# %% [markdown]
# # 3. The encoder: solutions
#
# Minutes: 15. Before: [3. The encoder](../03_encoder.py).
#
# Counting multiplications, why a frequency needs more than one filter, correlation and convolution, and the edges.

# %%
import sys
from pathlib import Path

# companion.py lies in the folder above, both for a script and for a notebook.
sys.path.insert(0, str(Path(globals().get("__file__", "notebook")).resolve().parents[1]))
import companion

import matplotlib.pyplot as plt
import numpy as np

from tasnet_np import Config
from tasnet_np.ops.conv1d import conv1d_backward, conv1d_forward

rate = 8000  # Hz
rng = np.random.default_rng(3)

# %% [markdown]
# ## 1. Multiplications per second
#
# Each number of a frame takes $K$ multiplications. There are $C$ numbers in a frame, and 1000 frames in a second:
# 128 · 16 · 1000 = 2 048 000 for `small`, and four times as many, 8 192 000, for `paper` with its 512 filters.


# %%
def multiplications(config):
    frames_per_second = config.sample_rate // config.hop
    return config.filters * config.filter_length * frames_per_second


assert multiplications(Config.preset("small")) == 2_048_000
assert multiplications(Config.preset("paper")) == 8_192_000 == 4 * 2_048_000

# %% [markdown]
# ## 2. One filter is not enough for a frequency
#
# Write $\theta_k = 2\pi \cdot 1000 \, k / \text{rate}$. The filter is $h_k \cos\theta_k$, the input
# $\sin(\theta_k + \varphi)$. With $\cos a \sin b = \tfrac12 \sin(a + b) + \tfrac12 \sin(b - a)$:
#
# $$ \begin{aligned}
# y(\varphi) &= \sum_k h_k \cos\theta_k \, \sin(\theta_k + \varphi) \\
# &= \tfrac12 \sum_k h_k \sin(2\theta_k + \varphi) + \tfrac12 \sin\varphi \sum_k h_k
# \end{aligned} $$
#
# The first sum is zero: 2000 Hz under a Hann window of 16 samples has no constant part. So the answer is
# $\tfrac12 \sin\varphi \sum_k h_k$, anything between a maximum and zero. With $-h_k \sin\theta_k$ as a second
# filter it is $-\tfrac12 \cos\varphi \sum_k h_k$ in the same way. The root of the sum of both squares is the same
# for all $\varphi$.

# %%
K = 16
h = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(K) / K)
theta = 2 * np.pi * 1000 * np.arange(K) / rate
filters = np.stack([h * np.cos(theta), -h * np.sin(theta)])  # (2, K)
phases = np.linspace(0, 2 * np.pi, 200)
waves = np.sin(theta + phases[:, None])  # (200, K): a batch of one window each
y, _ = conv1d_forward(waves, filters, stride=8)
cosine, sine = y[:, :, 0].T
both = np.hypot(cosine, sine)

assert np.allclose(cosine, 0.5 * np.sin(phases) * h.sum())
assert np.allclose(sine, -0.5 * np.cos(phases) * h.sum())
assert np.allclose(both, 0.5 * h.sum())

plt.figure(figsize=(7.5, 2.8))
plt.plot(phases, cosine, label="cosine filter")
plt.plot(phases, sine, label="sine filter")
plt.plot(phases, both, label="root of both squares")
plt.xlabel("phase of the tone (radians)")
plt.ylabel("answer")
plt.title("a tone seen by two filters")
plt.legend(loc="upper left", bbox_to_anchor=(1, 1))
companion.show("two_phases")

# %% [markdown]
# A tone that does not fit the hop has another phase in each frame. Seen by one filter, it flickers. Several filters
# of one frequency and different phases give the network something steady to work with. That is one reason for
# having more filters than taps.
#
# ## 3. Correlation and convolution
#
# $y_t = \sum_k w_k x_{t+k}$ is a correlation. A convolution reads the filter backwards: $\sum_k w_k x_{t-k}$. So
# turn the filter round. What is called a convolution in neural networks is a correlation, everywhere in this
# project, too.

# %%
x, w = rng.standard_normal((1, 50)), rng.standard_normal((1, 5))
y, _ = conv1d_forward(x, w, stride=1)
assert np.allclose(y[0, 0], np.correlate(x[0], w[0], "valid"))
assert np.allclose(y[0, 0], np.convolve(x[0], w[0, ::-1], "valid"))

# %% [markdown]
# ## 4. The edges
#
# Samples inside lie under two windows; the first and the last hop only under one. `dx` adds one contribution per
# window. For a random `dy` the contributions are independent, so their powers add: the gradient at the edges has
# half the power. The model's padding of one hop moves these edges out of the recording. The half-covered samples
# are then zeros that we added.

# %%
x = rng.standard_normal((4000, 48))
w = rng.choice([-1.0, 1.0], (5, 16))  # equal power in all taps
y, cache = conv1d_forward(x, w, stride=8)
dx, _ = conv1d_backward(rng.standard_normal(y.shape), cache)
power = np.mean(dx**2, axis=0)  # (48,)
edges = np.concatenate([power[:8], power[-8:]])
assert abs(edges.mean() / power[8:-8].mean() - 0.5) < 0.02

padded = np.pad(x, ((0, 0), (8, 8)))
y, cache = conv1d_forward(padded, w, stride=8)
dx, _ = conv1d_backward(rng.standard_normal(y.shape), cache)
power = np.mean(dx[:, 8:-8] ** 2, axis=0)
assert np.abs(power / power.mean() - 1).max() < 0.15
