# %% [markdown]
# # 2. Checking a gradient: solutions
#
# Minutes: 15. Before: [2. Checking a gradient](../02_checking_gradients.py).
#
# A new op with its check, the best step in single precision, why softmax hides from a loss that is a sum, and a
# difference that subtracts nothing.

# %%
import sys
from pathlib import Path

# companion.py lies in the folder above, both for a script and for a notebook.
sys.path.insert(0, str(Path(globals().get("__file__", "notebook")).resolve().parents[1]))
import companion

import numpy as np

from tasnet_np.ops import gradcheck
from tasnet_np.ops import OPS

rng = np.random.default_rng(2)

# %% [markdown]
# ## 1. tanh as an op
#
# By the quotient rule, with $\sinh' = \cosh$, $\cosh' = \sinh$ and $\cosh^2 x - \sinh^2 x = 1$:
#
# $$ \begin{aligned}
# f'(x) = \left( \frac{\sinh x}{\cosh x} \right)' &= \frac{\cosh^2 x - \sinh^2 x}{\cosh^2 x} \\
# &= 1 - \left( \frac{\sinh x}{\cosh x} \right)^2 = 1 - y^2
# \end{aligned} $$
#
# The backward needs only $y$, so that is what the cache holds. A backward returns a tuple, one gradient per array.


# %%
def tanh_forward(x):
    y = np.tanh(x)
    return y, (y,)


def tanh_backward(dy, cache):
    (y,) = cache
    return (dy * (1 - y * y),)


x = rng.standard_normal((2, 3, 5))
assert gradcheck.check_gradients(tanh_forward, tanh_backward, [x], {}) < gradcheck.TOLERANCE

# %%
with companion.fails("1 - y in place of 1 - y^2"):
    error = gradcheck.check_gradients(tanh_forward, lambda dy, cache: (dy * (1 - cache[0]),), [x], {})
    assert error < gradcheck.TOLERANCE, "wrong gradient"

# %% [markdown]
# ## 2. The best step in float32
#
# $h = \sqrt[3]{3 \varepsilon |L| / |L'''|}$, with $L = y$ for the sigmoid. We take typical values at random places.
# The formula says $h \approx 0.01$, and the lowest error of all steps is found within a factor of three of it.
# (Rounding is random, so the lowest point moves a little from one try to the next.)


# %%
def sigmoid(x):
    return 1 / (1 + np.exp(-x))


places = rng.standard_normal(2000)
y = sigmoid(places)
third = np.abs(y * (1 - y) * (1 - 6 * y + 6 * y * y))
best_by_formula = np.cbrt(3 * 6e-8 * np.median(y) / np.median(third))


def typical_error(h):
    at, step = places.astype(np.float32), np.float32(h)
    slope = (sigmoid(at + step) - sigmoid(at - step)) / (2 * step)
    return np.median(np.abs(slope - y * (1 - y)))


steps = np.logspace(-5, 0, 61)
best_measured = steps[np.argmin([typical_error(h) for h in steps])]
print(f"by the formula {best_by_formula:.4f}, measured {best_measured:.4f}")
assert 0.005 < best_by_formula < 0.02
assert 1 / 3 < best_measured / best_by_formula < 3

# %% [markdown]
# ## 3. Softmax and a loss that is a sum
#
# The masks sum to one at each place, so $L = \sum y$ is the number of places, for every $x$. The gradient is zero.
# The backward pass is $\text{dx}_s = y_s \, (\text{dy}_s - \sum_j \text{dy}_j y_j)$; with ones upstream, the
# bracket is $1 - 1 = 0$. A bug that multiplies this bracket with something wrong still returns zero. For example:
# forget the $y_s$ in front of it.

# %%
softmax = OPS["softmax"]
x = rng.standard_normal((1, 2, 3, 4))
y = softmax.forward_ref(x)
assert np.isclose(y.sum(), 3 * 4)  # the number of places


def without_the_factor(dy, x):
    y = softmax.forward_ref(x)
    return dy - (dy * y).sum(axis=1, keepdims=True)


def numerical(dy):
    return gradcheck.numerical_gradient(lambda: (dy * softmax.forward_ref(x)).sum(), x)


ones, random = np.ones_like(x), rng.standard_normal(x.shape)
assert np.abs(numerical(ones)).max() < 1e-9
assert np.abs(without_the_factor(ones, x)).max() < 1e-9  # accepted!
with companion.fails("softmax's factor y is missing, and a random dy shows it"):
    assert gradcheck.relative_error(without_the_factor(random, x), numerical(random)) < 1e-6, "wrong gradient"
assert gradcheck.relative_error(softmax.backward_ref(random, x)[0], numerical(random)) < 1e-6

# %% [markdown]
# ## 4. The complex step
#
# Taylor's formula holds for a complex step, too. With $i^2 = -1$ and $i^3 = -i$:
#
# $$ L(x + ih) = L + i h L' - \tfrac{h^2}{2} L'' - i \tfrac{h^3}{6} L''' + \dots $$
#
# $L$ and its derivatives are real. So the imaginary part is $h L' - \tfrac{h^3}{6} L''' + \dots$. Divided by $h$:
#
# $$ \frac{\text{Im} \, L(x + ih)}{h} = L' - \tfrac{h^2}{6} L''' + \dots $$
#
# Nothing is subtracted, so $h$ may be as small as we like, and Taylor's error is gone. All digits are right. (The
# price: all code between $x$ and $L$ must accept complex numbers. Comparisons such as that of ReLU, and absolute
# values, do not.)

# %%
h = 1e-30
slope = sigmoid(places + 1j * h).imag / h
exact = sigmoid(places) * (1 - sigmoid(places))
assert np.abs(slope - exact).max() < 1e-15
central = (sigmoid(places + 1e-5) - sigmoid(places - 1e-5)) / 2e-5
assert np.abs(central - exact).max() > 1e-12
