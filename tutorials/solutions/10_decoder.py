# %% [markdown]
# # 10. The decoder: solutions
#
# Minutes: 15. Before: [10. The decoder](../10_decoder.py).
#
# Windows that overlap more, an exact pair with half as many filters, masks that jump, and the price of a matrix.

# %%
import sys
from pathlib import Path

# companion.py lies in the folder above, both for a script and for a notebook.
sys.path.insert(0, str(Path(globals().get("__file__", "notebook")).resolve().parents[1]))
import companion

import matplotlib.pyplot as plt
import numpy as np

from tasnet_np.ops.gradcheck import relative_error
from tasnet_np.network.config import Config
from tasnet_np.ops.conv1d import conv1d_forward
from tasnet_np.ops.conv1d import conv_transpose1d_forward

K, rate = 16, 8000
rng = np.random.default_rng(10)
sound = rng.standard_normal((1, 400))


def there_and_back(sound, w, u, stride, mask=1.0):
    frames, _ = conv1d_forward(sound, w, stride=stride)
    return conv_transpose1d_forward(frames * mask, u, stride=stride)[0]


# %% [markdown]
# ## 1. A stride of a quarter window
#
# A sample lies under $K / \text{stride} = 4$ windows, and each piece brings a copy of it. So each piece may bring a
# quarter: $u^T = \frac14 w^{+}$. At the ends, the first three blocks lie under fewer windows.

# %%
w = rng.standard_normal((32, K))
u = 0.25 * np.linalg.pinv(w).T
back = there_and_back(sound, w, u, stride=4)
inside = slice(3 * 4, -3 * 4)
assert back.shape == sound.shape
assert relative_error(back[:, inside], sound[:, inside]) < 1e-10
with companion.fails("the factor of half a window"):
    assert relative_error(2 * back[:, inside], sound[:, inside]) < 1e-10, "twice too loud"

# %% [markdown]
# ## 2. Eight filters are enough
#
# $M = u^T w$ goes through 8 numbers, so its rank is at most 8. But $\frac12 I$ has rank 16. The conditions never
# asked for rank 16, though. They ask that $M_{00} + M_{11}$ be the identity of size 8. In this pair (the MDCT, a
# *modified* cosine transform) $M_{00}$ and $M_{11}$ have a second, crossing diagonal: each block comes with its own
# mirror image, backwards in time. In $M_{00}$ the mirror image has a minus, in $M_{11}$ a plus. They cancel in the
# sum.

# %%
c, k = np.arange(8)[:, None], np.arange(K)
fade = np.sin(np.pi * (k + 0.5) / K)
mdct = np.sqrt(4 / K) * fade * np.cos(2 * np.pi / K * (k + 0.5 + K / 4) * (c + 0.5))
M = mdct.T @ mdct
assert np.linalg.matrix_rank(M) == 8
assert np.abs(M[:8, 8:]).max() < 1e-12 and np.abs(M[8:, :8]).max() < 1e-12
assert np.abs(M[:8, :8] + M[8:, 8:] - np.eye(8)).max() < 1e-12
crossing = np.fliplr(M[:8, :8]).diagonal()
assert (crossing < 0).all() and np.allclose(np.fliplr(M[8:, 8:]).diagonal(), -crossing)

inside = slice(8, -8)
assert relative_error(there_and_back(sound, mdct, mdct, stride=8)[:, inside], sound[:, inside]) < 1e-10

fig, ax = plt.subplots(figsize=(4.5, 3.6))
image = ax.imshow(M, cmap="PuOr", vmin=-1, vmax=1)
ax.axhline(7.5, color="black", linewidth=1)
ax.axvline(7.5, color="black", linewidth=1)
ax.set(title="M of the MDCT", xlabel="sample of the window", ylabel="sample of the piece")
ax.grid(False)
fig.colorbar(image, label="entry of M")
companion.show("mdct")

# %% [markdown]
# ## 3. A mask that jumps
#
# An even piece alone is the window times $M$. For the pseudo-inverse that is half the window, everywhere: every
# sample comes out at half its size, for every block lies under exactly one even window. But nothing is smooth: where
# the mask changes for good, the output jumps. For the faded cosines the output is the sound times $h^2$, which swells
# and fades. Take a constant sound, to see it. Then let the mask be 1 in the first half of the frames and 0 in the
# second: the pseudo-inverse steps down by half at once, twice. The fade goes down gently, so no step is larger than
# 0.2.

# %%
constant = np.ones((1, 400))
q_c = np.arange(K)[:, None]
cosines = np.where(q_c == 0, np.sqrt(1 / K), np.sqrt(2 / K)) * np.cos(np.pi * q_c * (np.arange(K) + 0.5) / K)
faded = fade * cosines
T = (400 - K) // 8 + 1
even = (np.arange(T) % 2 == 0).astype(float)
u = 0.5 * np.linalg.pinv(w).T
hard = there_and_back(constant, w, u, 8, even)[0]
soft = there_and_back(constant, faded, faded, 8, even)[0]
assert np.allclose(hard[: 2 * 8 * (T // 2)], 0.5)
assert np.allclose(soft[:16], fade**2)

first_half = (np.arange(T) < T // 2).astype(float)
hard = there_and_back(constant, w, u, 8, first_half)[0]
soft = there_and_back(constant, faded, faded, 8, first_half)[0]
middle = slice(100, -8)
assert np.isclose(np.abs(np.diff(hard[middle])).max(), 0.5)
assert np.abs(np.diff(soft[middle])).max() < 0.2

fig, ax = plt.subplots()
shown = np.arange(170, 230)
ax.plot(shown, hard[shown], label="pseudo-inverse")
ax.plot(shown, soft[shown], label="faded cosines")
ax.set(xlabel="sample", ylabel="output for a sound of 1", title="the mask goes from 1 to 0")
ax.legend()
companion.show("jumping_mask")

# %% [markdown]
# ## 4. The price
#
# A second is 1000 frames. A piece takes $C K = 128 \cdot 16 = 2048$ multiplications: about 2 million per second. The
# full matrix has 8000 rows and 128 000 columns: more than a thousand million. The factor between them is $n / K =
# 500$, as each row of the matrix is zero outside its windows.

# %%
c = Config()
frames = c.sample_rate // c.hop
overlap_add = frames * c.filters * c.filter_length
full_matrix = c.sample_rate * c.filters * frames
assert frames == 1000 and overlap_add == 2_048_000
assert full_matrix == 1_024_000_000
assert full_matrix / overlap_add == 500
