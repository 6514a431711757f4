# %% [markdown]
# # 14. SGD and Adam: solutions
#
# Minutes: 10. Before: [14. SGD and Adam](../14_optimizers.py).
#
# Noise and signal in Adam, the best rate for a valley, weight decay, and how long an outlier is remembered.

# %%
import sys
from pathlib import Path

# companion.py lies in the folder above, both for a script and for a notebook.
sys.path.insert(0, str(Path(globals().get("__file__", "notebook")).resolve().parents[1]))
import companion

import numpy as np

from tasnet_np.optimisation.optimisers import Adam, SGD

# %% [markdown]
# ## 1. Noise and signal
#
# In both cases $g^2 = 1$, so $\hat{v} = 1$. With gradients that are always 1, $\hat{m} = 1$ as well: a step is
# $\alpha$. With alternating ones, $m$ ends up changing between two values $\pm z$. From $-z = 0.9 z - 0.1$ follows $z
# = 0.1 / 1.9 = 0.053$. So a parameter whose gradient is mere noise moves 19 times more slowly than one whose gradient
# knows where to go.


# %%
def last_step(gradients):
    params = {"theta": np.zeros(1)}
    optimizer = Adam(params, learning_rate=1.0)
    for g in gradients:
        before = params["theta"].copy()
        optimizer.step({"theta": np.array([float(g)])})
    return abs(params["theta"] - before).item()


same, alternating = last_step([1] * 1000), last_step([1, -1] * 500)
assert np.isclose(same, 1)
assert np.isclose(alternating, 0.1 / 1.9, rtol=1e-3) and round(0.1 / 1.9, 3) == 0.053
assert round(same / alternating) == 19

# %% [markdown]
# ## 2. The best rate for the valley
#
# $|1 - \eta|$ falls with $\eta$ (as long as $\eta < 1$) and $|1 - 50 \eta| = 50 \eta - 1$ rises (from $\eta = 1/50$
# on). The larger of the two is smallest where they are equal: $1 - \eta = 50 \eta - 1$, so $\eta = 2 / 51 = 0.0392$.
# Each step then leaves $49 / 51 = 96$ % of the way, in both directions.

# %%
rates = np.linspace(0.001, 0.0399, 2000)
worst = np.maximum(np.abs(1 - rates), np.abs(1 - 50 * rates))
best = rates[worst.argmin()]
assert np.isclose(best, 2 / 51, atol=1e-4) and round(2 / 51, 4) == 0.0392
assert np.isclose(worst.min(), 49 / 51, atol=1e-4) and round(49 / 51, 2) == 0.96

params = {"theta": np.array([-2.0, 0.5])}
optimizer = SGD(params, learning_rate=2 / 51)
optimizer.step({"theta": np.array([1.0, 50.0]) * params["theta"]})
assert np.allclose(np.abs(params["theta"]), 49 / 51 * np.array([2.0, 0.5]))

# %% [markdown]
# ## 3. Weight decay inside Adam
#
# With $g = 0$ the gradient that Adam sees is $\lambda \theta$. Its first step has the size $\alpha$ for any gradient,
# so also for this one: $\lambda$ cancels. A decay should shrink a parameter in proportion to its size and to
# $\lambda$, as it does in SGD. In Adam it does not. (This is why there is a variant, AdamW, that shrinks the
# parameters beside Adam's formulas.)

# %%
for weight_decay in (1e-5, 0.1):
    params = {"theta": np.array([4.0, -0.5])}
    Adam(params, learning_rate=0.01, weight_decay=weight_decay).step({"theta": np.zeros(2)})
    assert np.allclose(params["theta"], [3.99, -0.49], atol=1e-4)
with companion.fails("expecting a decay in proportion to the parameter"):
    moved = np.abs(params["theta"] - [4.0, -0.5])
    assert np.isclose(moved[0] / moved[1], 4.0 / 0.5), (
        f"the steps have the ratio {moved[0] / moved[1]:.2f}, not 8"
    )

# %% [markdown]
# ## 4. How long an outlier is remembered
#
# Right after it, the outlier's share in $v$ is $0.001 \cdot 1000^2 = 1000$, while gradients of 1 make up about 1. It
# fades as $0.999^k$. $1000 \cdot 0.999^k = 1$ gives $k = \ln 1000 / (-\ln 0.999) = 6904$ steps.

# %%
k = np.log(1000) / -np.log(0.999)
assert round(k) == 6904
params = {"theta": np.zeros(1)}
optimizer = Adam(params)
v_alone = []
for step in range(8000):
    optimizer.step({"theta": np.array([1000.0 if step == 0 else 0.0])})
    v_alone.append(optimizer.v["theta"].item())
assert np.isclose(v_alone[0], 1000)
assert v_alone[6900] > 1 > v_alone[6910]
