# %% [markdown]
# # 8. Global layer norm: solutions
#
# Minutes: 10. Before: [8. Global layer norm](../08_global_norm.py).
#
# Negative scales, a norm over a single entry, the norm without a mean, and two ways to count entries.

# %%
import sys
from pathlib import Path

# companion.py lies in the folder above, both for a script and for a notebook.
sys.path.insert(0, str(Path(globals().get("__file__", "notebook")).resolve().parents[1]))
import companion

import numpy as np

from tasnet_np.ops.gradcheck import check_gradients, relative_error
from tasnet_np.network.config import Config
from tasnet_np.network.execution import ConvTasNet
from tasnet_np.ops.norms import global_layer_norm_backward, global_layer_norm_forward

rng = np.random.default_rng(8)
x = rng.standard_normal((2, 5, 9))
ones, zeros = np.ones(5), np.zeros(5)

# %% [markdown]
# ## 1. A negative scale
#
# The mean of $a x + b$ is $a m + b$. So $a x + b$ less its mean is $a (x - m)$. Its variance is $a^2 v$, and the
# root of that is $|a| \sqrt{v}$. What is left is $a / |a| = -1$: the sign of $\hat{x}$ flips, and nothing else.

# %%
y, _ = global_layer_norm_forward(x, ones, zeros)
flipped, _ = global_layer_norm_forward(-3 * x + 7, ones, zeros)
assert relative_error(flipped, -y) < 1e-7

# %% [markdown]
# ## 2. A single entry
#
# The mean of a single entry is the entry itself. So $\hat{x} = 0$ and $y = \beta$, whatever $x$ is. The output
# never moves, so $dx = 0$. In the formula: $g - \text{mean}(g) = 0$ and $\hat{x} = 0$.

# %%
single = np.array([[[4.2]]])
y, cache = global_layer_norm_forward(single, np.array([3.0]), np.array([0.7]))
dx, dgamma, dbeta = global_layer_norm_backward(np.array([[[5.0]]]), cache)
assert y.item() == 0.7
assert dx.item() == 0
assert dgamma.item() == 0 and dbeta.item() == 5

# %% [markdown]
# ## 3. RMS norm
#
# Let $q = \text{mean}(x^2)$ and $r = 1 / \sqrt{q + \epsilon}$, so that $\hat{x} = x r$. There are two paths now:
# directly, and through $q$. As before, $\partial r / \partial q = -\frac12 r^3$, so
#
# $$ dq = \sum_j g_j x_j \cdot \left( -\frac12 r^3 \right) = -\frac12 r^2 \sum_j g_j \hat{x}_j
# \qquad \frac{\partial q}{\partial x_i} = \frac{2 x_i}{n} = \frac{2 \hat{x}_i}{r n} $$
#
# $$ dx_i = g_i r + dq \cdot \frac{2 \hat{x}_i}{r n} = r \left( g_i - \hat{x}_i \cdot \text{mean}(g \hat{x}) \right) $$
#
# The term mean(g) is gone: RMS norm notices a shift. It still does not notice a scale, so the gradient still has
# no part along $\hat{x}$.


# %%
def rms_norm_forward(x, gamma, *, eps=1e-8):
    r = 1 / np.sqrt((x**2).mean(axis=(1, 2), keepdims=True) + eps)
    return gamma[:, None] * x * r, (x * r, r, gamma)


def rms_norm_backward(dy, cache):
    xhat, r, gamma = cache
    g = gamma[:, None] * dy
    return r * (g - xhat * (g * xhat).mean(axis=(1, 2), keepdims=True)), (dy * xhat).sum(axis=(0, 2))


gamma, dy = rng.standard_normal(5), rng.standard_normal(x.shape)
assert check_gradients(rms_norm_forward, rms_norm_backward, [x, gamma], {}) < 1e-6

dx, _ = rms_norm_backward(dy, rms_norm_forward(x, gamma)[1])
assert np.abs((dx * x).sum(axis=(1, 2))).max() < 1e-6  # nothing along x
assert np.abs(dx.sum(axis=(1, 2))).min() > 0.01  # but a part along the ones
with companion.fails("RMS norm with the backward of the layer norm's mean"):

    def backward(dy, cache):
        dx, dgamma = rms_norm_backward(dy, cache)
        return dx - dx.mean(axis=(1, 2), keepdims=True), dgamma

    error = check_gradients(rms_norm_forward, backward, [x, gamma], {})
    assert error < 1e-6, f"relative error {error:.2g}"

# %% [markdown]
# ## 4. Dividing by n - 1
#
# The variance becomes larger by $n / (n - 1)$, so $\hat{x}$ becomes smaller by $\sqrt{(n - 1) / n}$. The near
# voice has 128 channels and 1499 frames. There it is less than three parts in a million. For $n = 12$ it is over
# four percent, so a gradient check on small arrays sees at once which of the two was meant.

# %%
near = companion.speech(1.5)[None]
frames = ConvTasNet(Config(), seed=0).encoder.forward(near)
assert frames.shape == (1, 128, 1499)
n = frames.size
assert 1 - np.sqrt((n - 1) / n) < 3e-6
assert 1 - np.sqrt((12 - 1) / 12) > 0.04
small = rng.standard_normal(12)
assert np.isclose(small.std() / small.std(ddof=1), np.sqrt(11 / 12))
