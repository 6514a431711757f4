# %% [markdown]
# # 6. Why separable: solutions
#
# Minutes: 15. Before: [6. Why separable](../06_separable.py).
#
# When separating pays, how to make any full convolution from separable ones, the cost of the model per second, and
# the nearest separable kernel.

# %%
import sys
from pathlib import Path

# companion.py lies in the folder above, both for a script and for a notebook.
sys.path.insert(0, str(Path(globals().get("__file__", "notebook")).resolve().parents[1]))
import companion

import matplotlib.pyplot as plt
import numpy as np

from tasnet_np import Config
from tasnet_np.ops.depthwise import depthwise_backward, depthwise_forward
from tasnet_np.ops.pointwise import pointwise_backward, pointwise_forward

rng = np.random.default_rng(6)

# %% [markdown]
# ## 1. When it pays
#
# The share that is left is $1/O + 1/K$. It is 1 or more if $1/O \ge 1 - 1/3$, that is, $O \le 1.5$: only for a
# single output. There the depthwise step does it all, and the pointwise one is extra.
#
# A tenth is left when $1/512 + 1/K \le 1/10$. $K = 10$ is not quite enough, $K = 11$ is.


# %%
def share(O, K):
    return 1 / O + 1 / K


assert share(O=1, K=3) > 1 > share(O=2, K=3)
assert share(O=512, K=10) > 0.1 > share(O=512, K=11)

# %% [markdown]
# ## 2. Any full convolution
#
# Let separable convolution number $j$ pass on tap $j$ only: $d^{(j)}_{c,k} = 1$ for $k = j$, else 0. Its matrix is
# that slice of the full kernel: $p^{(j)}_{o,c} = w_{o,c,j}$. The sum of these products over $j$ is
#
# $$ \sum_{j=0}^{K-1} p^{(j)}_{o,c} \, d^{(j)}_{c,k} = w_{o,c,k} $$
#
# The sum can be had in one go: first copy every channel $K$ times (a pointwise convolution that expands), give each
# copy another tap, then mix everything with one matrix. So a block that expands its channels $K$ times can do
# whatever a full convolution does.

# %%
B, C, O, K, T = 2, 4, 5, 3, 11
x, w = rng.standard_normal((B, C, T)), rng.standard_normal((O, C, K))

views = [
    np.pad(x, ((0, 0), (0, 0), (K - 1 - k, 0)))[:, :, :T] for k in range(K)
]  # causal: tap k reads t - (K-1-k)
full = sum(w[:, :, k] @ view for k, view in enumerate(views))

copy = np.repeat(np.eye(C), K, axis=0)  # (C*K, C): every channel K times
taps = np.tile(np.eye(K), (C, 1))  # (C*K, K): copy k passes on tap k
matrix = w.reshape(O, C * K)
expanded, _ = pointwise_forward(x, copy, np.zeros(C * K))
h, _ = depthwise_forward(expanded, taps, np.zeros(C * K))
y, _ = pointwise_forward(h, matrix, np.zeros(O))
assert np.allclose(y, full)

# %% [markdown]
# ## 3. The small model, per second
#
# We count what stands in sums, and the masks. There are 1000 frames in a second. The result is 322 million
# multiplications per second; with full convolutions it would be 908 million.


# %%
def multiplications_per_frame(c, separate=True):
    along_time = c.hidden * c.kernel * (1 if separate else c.hidden)
    blocks = c.blocks * c.repeats
    in_blocks = (
        blocks * (c.hidden * (c.bottleneck + c.skip) + along_time) + (blocks - 1) * c.bottleneck * c.hidden
    )
    ends = c.filters * c.filter_length * 3  # the encoder; the decoder for two sources
    return ends + c.filters * c.bottleneck + in_blocks + 2 * c.filters * c.skip + 2 * c.filters


small = Config.preset("small")
frames_per_second = small.sample_rate // small.hop
assert frames_per_second == 1000
assert round(multiplications_per_frame(small) * frames_per_second / 1e6) == 322
assert round(multiplications_per_frame(small, separate=False) * frames_per_second / 1e6) == 908

# %% [markdown]
# ## 4. The nearest separable kernel
#
# By the singular value decomposition: for each input channel $c$, the matrix $w_{:,c,:}$ of shape `(O, K)` is
# $\sum_i \sigma_i u_i v_i^T$, and the best product is the first term. So $p_{:,c} = \sigma_1 u_1$ and
# $d_{c,:} = v_1$. What is lost is the sum of the other $\sigma_i^2$, over all channels.

# %%
lost = 0
for c in range(C):
    singular = np.linalg.svd(w[:, c, :], compute_uv=False)
    lost += np.sum(singular[1:] ** 2)

# %% [markdown]
# By gradient descent: take impulses as input, one for each channel. The answers of a convolution to impulses are
# its kernel. The loss is half the squared difference between the two answers. At the end it is half of what the
# decomposition loses: both have found the same.

# %%
impulses = np.zeros((C, C, K))  # example c: an impulse in channel c, at frame 0
impulses[np.arange(C), np.arange(C), 0] = 1
target = w.transpose(1, 0, 2)[:, :, ::-1]  # (C, O, K): taps appear in reverse order

d, p = rng.standard_normal((C, K)), rng.standard_normal((O, C))
losses = []
for step in range(2000):
    h, depthwise_cache = depthwise_forward(impulses, d, np.zeros(C))
    y, pointwise_cache = pointwise_forward(h, p, np.zeros(O))
    losses.append(0.5 * np.sum((y - target) ** 2))
    dh, dp, _ = pointwise_backward(y - target, pointwise_cache)
    _, dd, _ = depthwise_backward(dh, depthwise_cache)
    d -= 0.05 * dd
    p -= 0.05 * dp

plt.figure(figsize=(7.5, 2.6))
plt.semilogx(range(1, len(losses) + 1), losses, label="gradient descent")
plt.axhline(lost / 2, color="black", linestyle="--", label="singular value decomposition")
plt.xlabel("step")
plt.ylabel("loss")
plt.title("towards the nearest separable kernel")
plt.legend()
companion.show("nearest")

assert np.isclose(losses[-1], lost / 2, rtol=1e-6)
assert losses[0] > lost  # it had some way to go
