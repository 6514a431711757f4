# %% [markdown]
# # 9. Cumulative layer norm: solutions
#
# Minutes: 15. Before: [9. Cumulative layer norm](../09_cumulative_norm.py).
#
# Frames of zeros that change the level, a past that fades, silence first, and the last frame's gradient.

# %%
import sys
from pathlib import Path

# companion.py lies in the folder above, both for a script and for a notebook.
sys.path.insert(0, str(Path(globals().get("__file__", "notebook")).resolve().parents[1]))
import companion

import numpy as np

from tasnet_np.ops.gradcheck import check_gradients, relative_error
from tasnet_np.ops.norms import cumulative_layer_norm_backward, cumulative_layer_norm_forward

rng = np.random.default_rng(9)

# %% [markdown]
# ## 1. Frames of zeros
#
# Zeros add nothing to $S$ and $Q$, but they count in $n$. At the real frame number $k$ (the first is $k = 1$) the
# variance is $v\,k / (k + 31)$ in place of $v$. So $\hat{x}$ is larger by $\sqrt{(k + 31) / k}$ with the padding: 5.7
# times at the first frame, 2.0 times at the 10th, 1.14 times at the 100th. The demo's model was trained on one and
# hears the other. Measured with entries of $\pm 1$, half of each, so that mean 0 and variance 1 are exact:

# %%
x = np.tile(np.array([1.0, -1.0])[:, None], (1, 4, 200)).reshape(1, 8, 200)
padded = np.concatenate([np.zeros((1, 8, 31)), x], axis=2)
ones, zeros = np.ones(8), np.zeros(8)
y, _ = cumulative_layer_norm_forward(x, ones, zeros)
y_padded, _ = cumulative_layer_norm_forward(padded, ones, zeros)
factor = y_padded[0, 0, 31:] / y[0, 0]
for k, expected in ((1, 5.7), (10, 2.0), (100, 1.14)):
    assert np.isclose(factor[k - 1], np.sqrt((k + 31) / k), rtol=1e-6)
    assert round(factor[k - 1], len(str(expected)) - 2) == expected

# %% [markdown]
# ## 2. A past that fades
#
# $S[t]$ is used in $S[t + 1]$, with the factor $a$, and wherever it goes itself. So with $dS$ the gradient that comes
# from outside, the full gradient is
#
# $$ A[t] = dS[t] + a\, A[t + 1] $$
#
# which runs from the end to the beginning. $s[t]$ is used once, in $S[t]$: $ds[t] = A[t]$. As a matrix, $M$ has
# $a^{t-k}$ at row $t$, column $k \le t$, and the backward is $M^T$.


# %%
def fading_forward(s, *, a):
    S, total = np.empty_like(s), 0.0
    for t in range(len(s)):
        total = a * total + s[t]
        S[t] = total
    return S, a


def fading_backward(dS, a):
    ds, total = np.empty_like(dS), 0.0
    for t in reversed(range(len(dS))):
        total = dS[t] + a * total
        ds[t] = total
    return (ds,)


s, dS, a = rng.standard_normal(9), rng.standard_normal(9), 0.7
t, k = np.indices((9, 9))
M = np.tril(a ** np.maximum(t - k, 0))
assert np.allclose(fading_forward(s, a=a)[0], M @ s)
assert np.allclose(fading_backward(dS, a)[0], M.T @ dS)
assert check_gradients(fading_forward, fading_backward, [s], {"a": a}) < 1e-6
with companion.fails("the backward recursion runs forwards"):
    wrong, _ = fading_forward(dS, a=a)
    assert np.allclose(wrong, M.T @ dS), "the past and the future are exchanged"

# %% [markdown]
# ## 3. Silence first
#
# During the silence $v = 0$, so $r = 1 / \sqrt{\epsilon} = 10^4$, and the output is $0$. The first frame of noise is
# one of 1001, so $v$ is about $1 / 1001$, and the frame comes out $\sqrt{1001} = 32$ times as large as it is. With
# many channels that is nearly exact.

# %%
x = np.zeros((1, 4000, 1001))
x[0, :, -1] = rng.standard_normal(4000)
y, (_, (_, r), _) = cumulative_layer_norm_forward(x, np.ones(4000), np.zeros(4000))
assert np.isclose(r[0, 0], 1e4) and (y[:, :, :-1] == 0).all()
assert abs(y[0, :, -1].std() / np.sqrt(1001) - 1) < 0.01
assert round(np.sqrt(1001)) == 32

# %% [markdown]
# ## 4. The last frame
#
# At $t = T - 1$ the sums over the future have one term only: $A = dm / n$ and $D = dv / n$. Put $dm$ and $dv$ in:
#
# $$ \begin{aligned}
# dx &= g\, r + \frac{dm}{n} + \frac{2 x\, dv}{n} \\
#    &= g\, r - \frac{r}{n} \sum_c g - \frac{2 m\, dv}{n} + \frac{2 x\, dv}{n} \\
#    &= g\, r - \frac{r}{n} \sum_c g + \frac{2 (x - m)\, dv}{n} \\
#    &= r \left( g - \frac1n \sum_c g - \hat{x} \cdot \frac1n \sum_c g\, \hat{x} \right)
# \end{aligned} $$
#
# The last step uses $x - m = \hat{x} / r$ and $dv = -\frac12 r^2 \sum_c g \hat{x}$. It is the formula of the global
# norm, with one difference: the sums run over the last frame only, but $n$ counts all frames.

# %%
x, dy = rng.standard_normal((2, 1, 5, 9))
gamma = rng.standard_normal(5)
_, cache = cumulative_layer_norm_forward(x, gamma, np.zeros(5))
dx, _, _ = cumulative_layer_norm_backward(dy, cache)

m, r, n = x.mean(), 1 / np.sqrt(x.var() + 1e-8), x.size
g, xhat = gamma * dy[0, :, -1], (x[0, :, -1] - m) * r
by_hand = r * (g - g.sum() / n - xhat * (g * xhat).sum() / n)
assert relative_error(by_hand, dx[0, :, -1]) < 1e-10
