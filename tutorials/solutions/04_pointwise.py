# %% [markdown]
# # 4. Pointwise convolution: solutions
#
# Minutes: 10. Before: [4. Pointwise convolution](../04_pointwise.py).
#
# Middle and side, a bug that hides in batches of one, diagonal matrices, and the slope of a learning curve.

# %%
import sys
from pathlib import Path

# companion.py lies in the folder above, both for a script and for a notebook.
sys.path.insert(0, str(Path(globals().get("__file__", "notebook")).resolve().parents[1]))
import companion

import numpy as np

from tasnet_np.ops import gradcheck
from tasnet_np.ops.depthwise import depthwise_forward
from tasnet_np.ops.pointwise import pointwise_backward, pointwise_forward

rate = 8000  # Hz
rng = np.random.default_rng(4)

# %% [markdown]
# ## 1. Middle and side
#
# Each row of the matrix makes one output: the middle is $\tfrac12 l + \tfrac12 r$, the side is
# $\tfrac12 l - \tfrac12 r$. Back again: $l$ is their sum, $r$ their difference.

# %%
to_middle_and_side = np.array([[0.5, 0.5], [0.5, -0.5]])
back = np.array([[1.0, 1.0], [1.0, -1.0]])
assert np.allclose(back @ to_middle_and_side, np.eye(2))

stereo = rng.standard_normal((1, 2, 100))
y, _ = pointwise_forward(stereo, to_middle_and_side, np.zeros(2))
assert np.allclose(y[0, 0], stereo[0].mean(axis=0))
assert np.allclose(pointwise_forward(y, back, np.zeros(2))[0], stereo)

# %% [markdown]
# ## 2. The mean over the batch
#
# The loss of the check is a sum over everything, the batch included. So `dw` must be a sum. In a batch of one, sum
# and mean are the same, and no check can tell them apart. (This is why the library's cases have batches of 2 or 3.
# And it is not a matter of taste: a loss that *is* a mean divides `dy`, not `dw`.)


# %%
def averaging_backward(dy, cache):
    dx, dw, db = pointwise_backward(dy, cache)
    return dx, dw / len(dx), db


def error(batch):
    arrays = [rng.standard_normal(shape) for shape in ((batch, 5, 7), (4, 5), (4,))]
    return gradcheck.check_gradients(pointwise_forward, averaging_backward, arrays, {})


assert error(batch=1) < gradcheck.TOLERANCE
with companion.fails("dw is averaged over a batch of two"):
    assert error(batch=2) < gradcheck.TOLERANCE, "wrong dw"

# %% [markdown]
# ## 3. A diagonal matrix
#
# Then $y_{c,t} = b_c + w_{c,c} \, x_{c,t}$: each channel gets a gain of its own, and channels do not mix. It is a
# depthwise convolution (tutorial 5) with a single tap.

# %%
gains, b, x = rng.standard_normal(5), rng.standard_normal(5), rng.standard_normal((3, 5, 7))
y, _ = pointwise_forward(x, np.diag(gains), b)
assert np.allclose(y, gains[:, None] * x + b[:, None])
assert np.allclose(y, depthwise_forward(x, gains[:, None], b)[0])

# %% [markdown]
# ## 4. The slope of the learning curve
#
# Let $s = w^* x$ with the right matrix $w^*$, $E = w - w^*$ the error, and $\Sigma = x x^T / n$. One step is
#
# $$ \begin{aligned}
# \text{dw} &= (w x - w^* x) \, x^T / n = E \, \Sigma \\
# E' &= w - \eta \, \text{dw} - w^* = E - \eta \, E \, \Sigma = E \, (I - \eta \, \Sigma)
# \end{aligned} $$
#
# Along an eigenvector of $\Sigma$ with eigenvalue $\lambda$, the error is multiplied by $1 - \eta \lambda$ in every
# step. After a while only the slowest direction is left, that of the smallest $\lambda$. The loss is quadratic in
# $E$, so it falls by
#
# $$ (1 - \eta \, \lambda_{\min})^2 $$
#
# The closer the two microphones hear the same, the smaller $\lambda_{\min}$, and the slower the learning.

# %%
sources = np.stack(
    [
        companion.speech(2.0, rate, speaker="english-british"),
        companion.noise(2.0, rate, name="music"),
    ]
)
s = sources.astype(np.float64) / np.sqrt(np.mean(sources.astype(np.float64) ** 2))
x = np.array([[0.8, 0.5], [0.5, 0.9]]) @ s
n = x.shape[1]

w, losses = rng.standard_normal((2, 2)), []
for step in range(200):
    difference = w @ x - s
    losses.append(0.5 * np.sum(difference**2) / n)
    w -= 0.5 * difference @ x.T / n

measured = losses[150] / losses[149]
smallest = np.linalg.eigvalsh(x @ x.T / n).min()
predicted = (1 - 0.5 * smallest) ** 2
print(f"each step multiplies the loss by {measured:.4f}; predicted {predicted:.4f}")
assert abs(measured - predicted) < 1e-4
