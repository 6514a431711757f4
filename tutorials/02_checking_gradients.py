# %% [markdown]
# # 2. Checking a gradient
#
# Minutes: 25. Before: [1. Sound as numbers](01_sound.py).
#
# Every backward pass in this project is written by hand, so every one of them can be wrong. Here you build the
# check that finds the mistakes: finite differences, with the right step, a random upstream gradient, and all
# elements. Then you plant bugs, and count which checks catch them.

# %%
import companion

import matplotlib.pyplot as plt
import numpy as np

from tasnet_np.ops import gradcheck
from tasnet_np.network.gradcheck import reduced
from tasnet_np.network.layers import NegativeSISNR
from tasnet_np.network.config import Config
from tasnet_np.network.execution import ConvTasNet
from tasnet_np.ops import OPS, conv1d, depthwise, elementwise, norms
from tasnet_np.ops.cases import CASES

# A gradient has to be right in every part that has a backward.
companion.where("encoder", "norm", "bottleneck", "block", "mask", "decoder", "loss")
rng = np.random.default_rng(2)

# %% [markdown]
# ## What a backward pass claims
#
# A network is a row of steps, its *ops*. Each takes an array and gives the next one an array. Some ops own numbers
# that can be changed, the *parameters*. At the end, the *loss* says in one number how far the answer is from the
# right one. Training changes the parameters so that the loss falls. For that it has to know how the loss changes with
# each of them: these derivatives are the *gradient*. The *forward pass* goes through the ops and computes the loss.
# The *backward pass* goes through them from the end to the beginning and computes the gradient.
#
# One op computes $y = f(x)$. Somewhere behind it stands the loss $L$. The op's backward pass gets `dy`, and returns
# `dx`. These are short names for gradients:
#
# $$ \text{dy}_i = \frac{\partial L}{\partial y_i} \qquad \text{dx}_j = \frac{\partial L}{\partial x_j} $$
#
# `dy` has the shape of $y$, and `dx` that of $x$. `dy` is called the *upstream* gradient. The chain rule links the
# two. $x_j$ changes every $y_i$ a little, and each of them changes $L$:
#
# $$ \text{dx}_j = \sum_i \text{dy}_i \, \frac{\partial y_i}{\partial x_j} $$
#
# An op does not know the loss. It only ever sees `dy`. So the check may choose any loss, and the simplest one is
# linear in $y$:
#
# $$ L = \sum_i \text{dy}_i \, y_i $$
#
# Its gradient with respect to $y_i$ is $\text{dy}_i$, a number that we choose.

# %% [markdown]
# ## An example: the sigmoid
#
# $y = 1 / (1 + e^{-x})$ bends every number into the interval from 0 to 1. Our masks are made with it (tutorial 7).
# Its derivative $f'$, by the chain rule, and then written with $y$ itself:
#
# $$ \begin{aligned}
# f'(x) &= \frac{-1}{(1 + e^{-x})^2} \cdot \left( -e^{-x} \right) \\
# &= \frac{1}{1 + e^{-x}} \cdot \frac{e^{-x}}{1 + e^{-x}} \\
# &= y \, (1 - y)
# \end{aligned} $$
#
# The last line holds because $1 - y = e^{-x} / (1 + e^{-x})$. So the backward pass is `dx = dy * y * (1 - y)`.


# %%
def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def sigmoid_backward(dy, x):
    y = sigmoid(x)
    return dy * y * (1 - y)


x = rng.standard_normal((2, 3))
dy = rng.standard_normal((2, 3))
assert np.isclose(sigmoid(0.0), 0.5) and np.isclose(sigmoid_backward(1.0, 0.0), 0.25)

# %% [markdown]
# ## Finite differences
#
# A derivative is the limit of a difference. So change one $x_j$ by a small step $h$, look at the loss, and divide.
# Which difference? Taylor's formula, with the derivatives taken at $x$:
#
# $$ L(x + h) = L + h L' + \tfrac{h^2}{2} L'' + \tfrac{h^3}{6} L''' + \dots $$
# $$ L(x - h) = L - h L' + \tfrac{h^2}{2} L'' - \tfrac{h^3}{6} L''' + \dots $$
#
# The *forward difference* takes the first line alone. Its error is of the order of $h$:
#
# $$ \frac{L(x + h) - L}{h} = L' + \tfrac{h}{2} L'' + \dots $$
#
# The *central difference* subtracts the second line from the first. The terms with $L$ and $L''$ cancel. Its error
# is of the order of $h^2$, far smaller:
#
# $$ \frac{L(x + h) - L(x - h)}{2h} = L' + \tfrac{h^2}{6} L''' + \dots $$
#
# For the sigmoid at $x = 1$ and $h = 0.01$, the forward difference is off by $4.5 \cdot 10^{-4}$, and the central
# one by $5.9 \cdot 10^{-7}$. Both errors are what the first term left out says they are.

# %%
h, at = 0.01, 1.0
exact = sigmoid_backward(1.0, at)
forward_error = abs((sigmoid(at + h) - sigmoid(at)) / h - exact)
central_error = abs((sigmoid(at + h) - sigmoid(at - h)) / (2 * h) - exact)
assert f"{forward_error:.1e}" == "4.5e-04"
assert f"{central_error:.1e}" == "5.9e-07"

y = sigmoid(at)
second = y * (1 - y) * (1 - 2 * y)  # the sigmoid's second derivative
third = y * (1 - y) * (1 - 6 * y + 6 * y * y)  # and its third
assert np.isclose(forward_error, abs(h / 2 * second), rtol=0.01)
assert np.isclose(central_error, abs(h**2 / 6 * third), rtol=0.01)

# %% [markdown]
# ## The step: too large, too small
#
# A smaller step makes Taylor's error smaller. But a computer rounds. In `float64` each number is right to about
# $\varepsilon = 1.1 \cdot 10^{-16}$ of its size. So each of the two losses is wrong by up to about
# $\varepsilon |L|$, their difference by $2 \varepsilon |L|$, and it is divided by $2h$. Together with Taylor's error:
#
# $$ \text{error}(h) \approx \tfrac{h^2}{6} |L'''| + \frac{\varepsilon |L|}{h} $$
#
# The two pull in opposite directions. Set the derivative with respect to $h$ to zero to find the best step:
#
# $$ \begin{aligned}
# \tfrac{h}{3} |L'''| - \frac{\varepsilon |L|}{h^2} &= 0 \\
# h^3 &= \frac{3 \, \varepsilon |L|}{|L'''|}
# \end{aligned} $$
#
# Where $L$ and $L'''$ are of the order of 1, $h$ is near $10^{-5}$. The figure measures it for the sigmoid, at 300
# random places.

# %%
epsilon = np.finfo(np.float64).eps / 2
assert np.isclose(epsilon, 1.1e-16, rtol=0.02)
assert 5e-6 < np.cbrt(3 * epsilon) < 1e-5

places = rng.standard_normal(300)


def typical_error(h, difference, dtype=np.float64):
    at, step = places.astype(dtype), dtype(h)
    if difference == "central":
        slope = (sigmoid(at + step) - sigmoid(at - step)) / (2 * step)
    else:
        slope = (sigmoid(at + step) - sigmoid(at)) / step
    return np.median(np.abs(slope - sigmoid_backward(1.0, places)))


steps = np.logspace(-12, 0, 49)
large = steps[steps > 1e-7]  # below this, float32 cannot move x at all
forward64 = [typical_error(h, "forward") for h in steps]
central64 = [typical_error(h, "central") for h in steps]
central32 = [typical_error(h, "central", np.float32) for h in large]

fig, ax = plt.subplots(figsize=(7.5, 3.6))
ax.loglog(large, central32, marker="s", markersize=3, label="central, float32")
ax.loglog(steps, forward64, marker="^", markersize=3, label="forward, float64")
ax.loglog(steps, central64, marker="o", markersize=3, label="central, float64")
ax.axvline(1e-5, color="gray", linestyle=":", linewidth=1)
ax.text(1.5e-5, 1e-8, "the library's step", color="dimgray")
ax.set(xlabel="step h", ylabel="typical error", title="rounding on the left, Taylor on the right")
ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
companion.show("step_size")

# %% [markdown]
# Read the figure from right to left. First the error falls, by Taylor: for the central difference by a factor of
# 100 when $h$ falls by 10. Then rounding takes over, and it rises again. In `float64` the best central step lies
# between 1e-6 and 1e-4, and the error there is below 1e-10. In `float32` no step gets below 1e-6. So a gradient
# check belongs in `float64`.

# %%
falls = typical_error(1e-2, "central") / typical_error(1e-3, "central")
assert 95 < falls < 105
assert 1e-6 < steps[np.argmin(central64)] < 1e-4
assert min(central64) < 1e-10
assert min(central32) > 1e-6

# %% [markdown]
# ## The check in ten lines
#
# `loss` is a function without arguments that looks at `array`. Each element is moved up and down, and put back.


# %%
def numerical_gradient(loss, array, h=1e-5):
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        value = array[index]
        array[index] = value + h
        above = loss()
        array[index] = value - h
        below = loss()
        array[index] = value
        gradient[index] = (above - below) / (2 * h)
    return gradient


def loss():
    return (dy * sigmoid(x)).sum()


numerical = numerical_gradient(loss, x)
assert np.array_equal(numerical, gradcheck.numerical_gradient(loss, x))  # the library's
assert np.abs(numerical - sigmoid_backward(dy, x)).max() < 1e-9

# %% [markdown]
# The library's op agrees, too. `OPS["sigmoid"]` holds its four functions: forward and backward, compiled and as
# plain NumPy (`_ref`). A forward returns its result and a *cache*, what the backward will need. A backward gets `dy`
# and the cache, and returns a tuple: one gradient for each array that went in. `check_gradients` does for an op what
# we just did by hand. It gets the two functions, the arrays, and the op's settings (here there are none: `{}`). It
# returns the largest error, relative to the largest gradient. `TOLERANCE` is 1e-6, and the section after the next
# one says why the error is a relative one.

# %%
y, cache = elementwise.sigmoid_forward(x)
(dx,) = elementwise.sigmoid_backward(dy, cache)
assert np.allclose(y, sigmoid(x), rtol=1e-12)
assert np.allclose(dx, sigmoid_backward(dy, x), rtol=1e-12)

op = OPS["sigmoid"]
assert gradcheck.check_gradients(op.forward, op.backward, [x], {}) < gradcheck.TOLERANCE

# %% [markdown]
# ## Break it
#
# A sign is wrong: $y (1 + y)$ in place of $y (1 - y)$.

# %%
wrong = dy * sigmoid(x) * (1 + sigmoid(x))
with companion.fails("y (1 + y) is not the derivative of the sigmoid"):
    assert gradcheck.relative_error(wrong, numerical) < gradcheck.TOLERANCE, "wrong gradient"

# %% [markdown]
# ## How large may the difference be?
#
# An *absolute* tolerance means nothing before we know how large gradients are. A loss is often a mean over many
# samples, so `dy` is tiny. Then a backward pass that returns only zeros is within 0.001 of the truth.
#
# So divide the difference by the gradient. But not element by element: some elements are nearly zero, and the
# rounding errors there are not. We divide by the *largest* gradient of the array. This is `relative_error`.

# %%
small_dy = dy / 10_000  # the loss is a mean over 10 000 samples


def mean_loss():
    return (small_dy * sigmoid(x)).sum()


small = numerical_gradient(mean_loss, x)
nothing = np.zeros_like(small)
assert np.abs(nothing - small).max() < 0.001  # accepted!
assert gradcheck.relative_error(nothing, small) == 1  # 100 % wrong
assert gradcheck.relative_error(sigmoid_backward(small_dy, x), small) < 1e-6

# %% [markdown]
# ## Why the upstream gradient must be random
#
# The laziest loss is $L = \sum y$, so that `dy` is all ones. Here are two mistakes that it cannot see.
#
# **Time reversed.** In a convolution (tutorial 5) the parameter $w_k$ is multiplied by the sample that stands
# $\text{offset}(k)$ away. So $\text{dw}_k = \sum_t \text{dy}_t \, x_{t + \text{offset}(k)}$. Suppose the code reads
# `dy` backwards. A row of ones read backwards is a row of ones.

# %%
x = rng.standard_normal((1, 2, 9))
w, b = rng.standard_normal((2, 3)), rng.standard_normal(2)
ones, random = np.ones_like(x), rng.standard_normal(x.shape)


def right_dw(dy):
    return depthwise.depthwise_backward_ref(dy, x, w, b)[1]


def reversed_dw(dy):
    return right_dw(dy[:, :, ::-1])  # the mistake


assert np.allclose(reversed_dw(ones), right_dw(ones))  # accepted!
with companion.fails("dy is read backwards, and a random dy shows it"):
    assert gradcheck.relative_error(reversed_dw(random), right_dw(random)) < 1e-6, "wrong dw"

# %% [markdown]
# **A norm.** Layer norm (tutorial 8) subtracts the mean and divides by the deviation. Then `gamma` scales each
# channel, and `beta` is added to it. As long as `gamma` is one everywhere and `beta` zero, the sum of what comes out
# is zero, whatever goes in. So
# $L = \sum y$ does not depend on $x$ at all, and its gradient is zero. A backward pass that returns only zeros
# passes this check.

# %%
gamma, beta = np.ones(2), np.zeros(2)


def norm_loss(dy):
    return (dy * norms.global_layer_norm_forward_ref(x, gamma, beta)).sum()


with_ones = numerical_gradient(lambda: norm_loss(ones), x)
with_random = numerical_gradient(lambda: norm_loss(random), x)
assert np.abs(with_ones).max() < 1e-8  # zeros would be accepted
assert np.abs(with_random).max() > 0.1  # but not here

# %% [markdown]
# Parameters must be random as well. With `gamma` = 1, a backward pass that forgets to multiply by `gamma` is right
# by accident.
#
# ## Planting bugs
#
# Time to be systematic. Here is the backward pass of global layer norm, with room for three bugs (its derivation is
# tutorial 8). The other bugs spoil what goes into the library's references, or what comes out.


# %%
def norm_dx(dy, x, gamma, beta, bug=None):
    m, v = x.mean(axis=(1, 2), keepdims=True), x.var(axis=(1, 2), keepdims=True)
    r = 1 / np.sqrt(v + norms.EPS)
    xhat = (x - m) * r
    g = dy if bug == "gamma" else gamma[:, None] * dy
    mean_g = 0 if bug == "mean" else g.mean(axis=(1, 2), keepdims=True)
    mean_gx = 0 if bug == "variance" else (g * xhat).mean(axis=(1, 2), keepdims=True)
    return r * (g - mean_g - xhat * mean_gx)


def depthwise_dx(dy, x, w, b, bug=None):
    w = w[:, ::-1] if bug == "flipped" else w
    dilation = 1 if bug == "dilation" else 2
    dx, _, _ = depthwise.depthwise_backward_ref(dy, x, w, b, dilation=dilation)
    return np.roll(dx, 1, axis=-1) if bug == "late" else dx


def depthwise_dw(dy, x, w, b, bug=None):
    dy = dy[:, :, ::-1] if bug == "reversed" else dy
    return depthwise.depthwise_backward_ref(dy, x, w, b, dilation=2)[1]


def encoder_dx(dy, x, w, bug=None):
    if bug is None:
        return conv1d.conv1d_backward_ref(dy, x, w, stride=3)[0]
    dx, dframes = np.zeros_like(x), np.einsum("bct,ck->btk", dy, w)
    for t in range(dframes.shape[1]):
        dx[:, 3 * t : 3 * t + w.shape[1]] = dframes[:, t]  # the bug: = in place of +=
    return dx


# %% [markdown]
# What each of these backward passes is about: its op, the op's settings, the shapes of the arrays, and which of the
# arrays the gradient belongs to. The sizes are odd and different from each other, so that no mix-up fits by chance.

# %%
ABOUT = {
    norm_dx: ("global_layer_norm", {}, [(2, 3, 7), (3,), (3,)], 0),
    depthwise_dx: ("depthwise", {"dilation": 2}, [(2, 3, 11), (3, 3), (3,)], 0),
    depthwise_dw: ("depthwise", {"dilation": 2}, [(2, 3, 11), (3, 3), (3,)], 1),
    encoder_dx: ("conv1d", {"stride": 3}, [(2, 18), (4, 6)], 0),
}
BUGS = {  # name: backward pass, its bug, is gamma 1?
    "norm forgets gamma": (norm_dx, "gamma", False),
    "norm forgets gamma, and it is 1": (norm_dx, "gamma", True),
    "norm drops the variance term": (norm_dx, "variance", False),
    "norm drops it, and gamma is 1": (norm_dx, "variance", True),
    "norm drops the mean term": (norm_dx, "mean", False),
    "depthwise: dy reversed in dw": (depthwise_dw, "reversed", False),
    "depthwise: taps flipped in dx": (depthwise_dx, "flipped", False),
    "depthwise: dx late by one frame": (depthwise_dx, "late", False),
    "depthwise: dilation ignored in dx": (depthwise_dx, "dilation", False),
    "encoder: = in place of += in dx": (encoder_dx, "overwritten", False),
    "no bug: norm": (norm_dx, None, False),
    "no bug: norm, gamma is 1": (norm_dx, None, True),
    "no bug: depthwise": (depthwise_dx, None, False),
}

# %% [markdown]
# Five checks compete:
#
# 1. ones upstream, a single random element, tolerance 1 %;
# 2. ones upstream, all elements, relative to the largest gradient, 1e-4;
# 3. random upstream of a loss that is a mean, all elements, an absolute tolerance of 0.02;
# 4. random upstream, all elements, relative to the largest gradient, 1e-6: the one used in this project;
# 5. random upstream, random directions (explained below), 1e-6.
#
# The first two divide by at least 1e-3. Otherwise rounding would raise false alarms where the true gradient is
# zero.


# %%
def objections(backward, bug, plain_gamma):
    """One random trial: does each of the five checks object?"""
    name, settings, shapes, which = ABOUT[backward]
    arrays = [rng.standard_normal(shape) for shape in shapes]
    if plain_gamma:
        arrays[1][:], arrays[2][:] = 1, 0
    forward = OPS[name].forward_ref
    y = forward(*arrays, **settings)

    def loss():
        return (dy * forward(*arrays, **settings)).sum()

    dy = np.ones_like(y)
    claimed, true = backward(dy, *arrays, bug=bug), numerical_gradient(loss, arrays[which])
    one = tuple(rng.integers(true.shape))
    first = abs(claimed[one] - true[one]) > 1e-2 * max(abs(true[one]), 1e-3)
    second = np.abs(claimed - true).max() > 1e-4 * max(np.abs(true).max(), 1e-3)

    dy = rng.standard_normal(y.shape)
    claimed, true = backward(dy, *arrays, bug=bug), numerical_gradient(loss, arrays[which])
    third = np.abs(claimed - true).max() / y.size > 0.02  # in a mean, all is divided by y.size
    fourth = gradcheck.relative_error(claimed, true) > gradcheck.TOLERANCE
    fifth = gradcheck.directional_error(loss, [arrays[which]], [claimed]) > 1e-6
    return first, second, third, fourth, fifth


trials = max(40, round(40 * companion.SCALE))
table = {
    name: np.mean([objections(*planted) for _ in range(trials)], axis=0) for name, planted in BUGS.items()
}

# %% [markdown]
# Each number is the share of random trials in which the check objected. Above the line that should be 100 %, but
# for the second row. Below the line there is no bug, and it should be 0 %.

# %%
checks = (
    "ones,\none element,\n1 %", "ones,\nall,\n1e-4", "random,\nabsolute\n0.02", "random,\nall,\n1e-6",
    "random,\ndirections,\n1e-6",
)  # fmt: skip
fig, ax = plt.subplots(figsize=(7.5, 5.2))
shares = np.array(list(table.values()))
ax.imshow(shares, vmin=0, vmax=1, aspect="auto")
for (row, column), share in np.ndenumerate(shares):
    colour = "black" if share > 0.5 else "white"
    ax.text(column, row, f"{100 * share:.0f} %", ha="center", va="center", color=colour)
ax.axhline(9.5, color="white", linewidth=4)
ax.set_xticks(range(len(checks)), checks)
ax.set_yticks(range(len(BUGS)), list(BUGS))
ax.set(title=f"how often each check objects ({trials} random trials)")
ax.grid(False)
companion.show("planted_bugs")

# %% [markdown]
# What to read there:
#
# - The fourth check finds every bug in every trial, but for the second row. That bug cannot be seen by any check,
#   as with `gamma` = 1 nothing is wrong. It takes random parameters to see it.
# - It raises no false alarm.
# - The reversed `dy` is never found with ones upstream, however many elements are looked at.
# - Nor is the missing variance term when `gamma` is 1. In both cases what the bug changes is zero when `dy` is ones.
# - One element is a lottery. It misses the flipped taps more often than not.
# - The absolute tolerance accepts the norm without its mean or variance term more often than not: small gradients
#   are always close to each other.

# %%
visible = [
    row for name, row in table.items() if "no bug" not in name and name != "norm forgets gamma, and it is 1"
]
assert all(row[3] == 1 and row[4] == 1 for row in visible)
assert not table["norm forgets gamma, and it is 1"].any()
assert all(row[3] == 0 and row[4] == 0 for name, row in table.items() if "no bug" in name)
assert not table["depthwise: dy reversed in dw"][:2].any()
assert not table["norm drops it, and gamma is 1"][:2].any()
assert table["depthwise: taps flipped in dx"][0] < 0.5
assert table["norm drops the mean term"][2] < 0.5 and table["norm drops the variance term"][2] < 0.5

# %% [markdown]
# ## Many parameters at once: the directional check
#
# Checking each element takes two losses per element. A network has too many elements for that. So move all of them
# at the same time, along one random direction $v$ of the same shape. By the chain rule, with
# $g_j = \partial L / \partial x_j$:
#
# $$ \frac{L(x + h v) - L(x - h v)}{2h} \approx \sum_j g_j v_j $$
#
# That is two losses, however many elements there are. Can a wrong gradient pass? Let it be wrong by $d_j$ in
# element $j$. Then the two sides differ by $\sum_j d_j v_j$. How large is its square, in the mean over all random
# directions? ($\mathbb{E}$ stands for that mean.) With independent $v_j$ of mean 0 and variance 1,
# $\mathbb{E}[v_i v_j]$ is 1 for $i = j$ and 0 otherwise, so the mixed terms vanish:
#
# $$ \mathbb{E} \Big[ \big( \sum_j d_j v_j \big)^2 \Big] = \sum_i \sum_j d_i d_j \, \mathbb{E}[v_i v_j] = \sum_j d_j^2 $$
#
# So the difference is typically as large as the length of the whole mistake, the root of the sum of its squares. We
# divide it by the length of the gradient, taken in the same way.

# %%
mistakes = rng.standard_normal(50)
along = rng.standard_normal((20_000, 50)) @ mistakes  # 20 000 random directions
assert abs(np.mean(along**2) / np.sum(mistakes**2) - 1) < 0.05

# %% [markdown]
# In code, for one direction. The library's `directional_error` takes the median of five. (`loss` is still the
# function from above. It looks at the new `x` and `dy`.)


# %%
def error_along(v, loss, array, gradient, h=1e-6):
    start = array.copy()
    array[:] = start + h * v
    above = loss()
    array[:] = start - h * v
    below = loss()
    array[:] = start
    return abs((above - below) / (2 * h) - (gradient * v).sum()) / np.linalg.norm(gradient)


x, dy = rng.standard_normal((2, 4, 50))
v = rng.standard_normal(x.shape)
right = sigmoid_backward(dy, x)
assert error_along(v, loss, x, right) < 1e-8
assert gradcheck.directional_error(loss, [x], [right]) < 1e-7
with companion.fails("a single one of 200 elements has the wrong sign"):
    wrong = right.copy()
    wrong[0, 0] *= -1
    assert error_along(v, loss, x, wrong) < 1e-6, "wrong gradient"

# %% [markdown]
# ## A whole network
#
# `check_model` builds a small Conv-TasNet with its loss, and checks the gradients of all parameters and of the
# input in five directions. Here we do it step by step, so that a bug can be planted. `reduced` makes the network
# narrow, `path="reference"` runs its NumPy functions, and `NegativeSISNR` is its loss (tutorial 13).

# %%
model = ConvTasNet(reduced(Config.preset("small")), dtype=np.float64, path="reference")
criterion = NegativeSISNR()
mixture, targets = rng.standard_normal((1, 100)), rng.standard_normal((1, 2, 100))
for array in model.params.values():
    array += 0.1 * rng.standard_normal(array.shape)  # away from gamma = 1, beta = 0


def network_loss():
    return criterion.forward(model.forward(mixture), targets)


network_loss()
model.backward(criterion.backward())
arrays, gradients = list(model.params.values()), list(model.grads.values())
assert gradcheck.directional_error(network_loss, arrays, gradients) < 1e-5

# %% [markdown]
# Now one of its arrays gets the wrong sign: the bias of the depthwise convolution in the third block. The check sees
# that something is wrong, but not where. Asking array by array finds the place.

# %%
planted = "blocks.2.depthwise.b"
gradients = {**model.grads, planted: -model.grads[planted]}
with companion.fails("one of many arrays has the wrong sign"):
    error = gradcheck.directional_error(network_loss, arrays, list(gradients.values()))
    assert error < 1e-5, "some gradient is wrong"

suspects = [
    name
    for name, array in model.params.items()
    if gradcheck.directional_error(network_loss, [array], [gradients[name]]) > 1e-3
]
assert suspects == [planted]

# %% [markdown]
# ## Where finite differences fail
#
# PReLU (tutorial 7) is $x$ for positive numbers and $\alpha x$ for the others. At 0 it has a kink, and no
# derivative. A step across the kink mixes the two slopes, 1 and 0.25. At 0 itself the central difference says
# 0.625, which is neither. That is the check's fault, not the backward pass's. So the cases for ReLU and PReLU keep
# away from 0. In a whole network nobody can see to that, and hence the median of five directions: a step across a
# kink spoils only one of them.

# %%
alpha, zero = np.array([0.25]), np.zeros((1, 1))
at_the_kink = numerical_gradient(lambda: elementwise.prelu_forward_ref(zero, alpha).sum(), zero)
assert np.allclose(at_the_kink, 0.625)
assert np.isclose((1 + 0.25) / 2, 0.625)

# %% [markdown]
# ## Where this sits in the project
#
# `tasnet_np/ops/cases.py` has a table, `CASES`: each op with odd shapes and several settings. The tests run all of
# it, for the NumPy references and for the compiled kernels. Here are the references.

# %%
errors = {case.name: gradcheck.check_op(case, "reference") for case in CASES}
assert {case.op.name for case in CASES} == set(OPS)  # no op is left out
assert max(errors.values()) < gradcheck.TOLERANCE == 1e-6

fig, ax = plt.subplots(figsize=(7.5, 7))
names = sorted(errors, key=errors.get)
ax.plot([errors[name] for name in names], range(len(names)), "o", markersize=4)
ax.axvline(gradcheck.TOLERANCE, color=companion.COLOURS["vermilion"], linestyle="--")
ax.text(8e-7, 0, "tolerance", ha="right", color=companion.COLOURS["vermilion"])
ax.set_yticks(range(len(names)), names, fontsize=7.5)
ax.set(xscale="log", xlabel="error relative to the largest gradient", title="every case of the library")
ax.grid(axis="x")
companion.show("all_cases")

# %% [markdown]
# ## Exercises
#
# 1. Write forward and backward of $y = \tanh x$ as an op, and let `check_gradients` check it. (The derivative is
#    $1 - y^2$.)
# 2. What is the best central step in `float32`, by the formula above, with $\varepsilon = 6 \cdot 10^{-8}$? Compare
#    with the figure.
# 3. Softmax makes two masks that sum to one at every place: $y_s = e^{x_s} / \sum_j e^{x_j}$, where $s$ and $j$ number
#    the masks. Its backward is $\text{dx}_s = y_s \, (\text{dy}_s - \sum_j \text{dy}_j y_j)$ (derived in tutorial 7).
#    Which gradient does it get from a loss $L = \sum y$? Plant a bug in its backward that a check with ones upstream
#    accepts. The library's is `OPS["softmax"]`, for $x$ of shape `(B, 2, C, T)`, with the two masks on axis 1.
# 4. Subtracting two almost equal losses is what costs the digits. With a complex step nothing is subtracted:
#    $L'(x) \approx \text{Im} \, L(x + ih) / h$. Derive it from Taylor's formula, and try it on the sigmoid with
#    $h = 10^{-30}$.
