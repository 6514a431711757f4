# %% [markdown]
# # 17. From formula to loop: solutions
#
# Minutes: 15. Before: [17. From formula to loop](../17_numba.py).
#
# A backward loop over rows, the flag that hides NaN, a histogram without a race, and three threads.

# %%
import os

os.environ["NUMBA_NUM_THREADS"] = "4"

import sys
from pathlib import Path

# companion.py lies in the folder above, both for a script and for a notebook.
sys.path.insert(0, str(Path(globals().get("__file__", "notebook")).resolve().parents[1]))
import companion

import itertools
import platform
import re
from collections import Counter

import numba
import numpy as np

from tasnet_np.ops.gradcheck import relative_error
from tasnet_np.ops import depthwise

rng = np.random.default_rng(0)
OPTIONS = {"fastmath": {"reassoc", "contract"}, "nogil": True, "error_model": "numpy"}

# %% [markdown]
# ## 1. The gradient as a loop over rows
#
# In the forward pass, `written[t] += tap * read[t]`. So `dy` at the written place goes back to the read
# place, times the tap: the two slices change their roles.


# %%
bounds = numba.njit(depthwise._tap)  # the library's: where tap k writes, and how far away it reads


@numba.njit(**OPTIONS)
def depthwise_dx(dx, dy, w, dilation, lookahead):
    T, K = dy.shape[1], w.shape[1]
    for c in range(len(dy)):
        dx[c] = 0
        for k in range(K):
            first, last, offset = bounds(T, K, k, dilation, lookahead)
            tap, upstream, written = w[c, k], dy[c, first:last], dx[c, first + offset : last + offset]
            for t in range(len(upstream)):
                written[t] += tap * upstream[t]


for dilation, lookahead, T in ((1, 0, 50), (4, 4, 50), (8, 16, 5)):  # the last: taps longer than the signal
    x, dy = rng.standard_normal((2, 7, T)).astype(np.float32)
    w, b = rng.standard_normal((7, 3)).astype(np.float32), np.zeros(7, np.float32)
    dx = np.empty_like(dy)
    depthwise_dx(dx, dy, w, dilation, lookahead)
    _, cache = depthwise.depthwise_forward(x[None], w, b, dilation=dilation, lookahead=lookahead)
    assert relative_error(dx, depthwise.depthwise_backward(dy[None], cache)[0][0]) < 1e-6

if platform.machine().lower() in ("x86_64", "amd64"):
    assembly = "\n".join(depthwise_dx.inspect_asm().values())
    assert re.search(r"\bv?(?:add|mul|fn?m(?:add|sub)\d*)ps\b", assembly)

# %% [markdown]
# A slip that is easily made: reading `dy` at the forward's read place.


# %%
@numba.njit(**OPTIONS)
def depthwise_dx_without_the_change(dx, dy, w, dilation, lookahead):
    T, K = dy.shape[1], w.shape[1]
    for c in range(len(dy)):
        dx[c] = 0
        for k in range(K):
            first, last, offset = bounds(T, K, k, dilation, lookahead)
            tap, written, upstream = w[c, k], dx[c, first:last], dy[c, first + offset : last + offset]
            for t in range(len(upstream)):
                written[t] += tap * upstream[t]


x, dy = rng.standard_normal((2, 7, 50)).astype(np.float32)
dx = np.empty_like(dy)
depthwise_dx_without_the_change(dx, dy, w, 2, 0)
_, cache = depthwise.depthwise_forward(x[None], w, b, dilation=2)
with companion.fails("dx reads where the forward read"):
    assert relative_error(dx, depthwise.depthwise_backward(dy[None], cache)[0][0]) < 1e-6

# %% [markdown]
# ## 2. The flag that hides NaN
#
# Only `nnan`, "no NaN", makes the compiler drop the test. All others leave it.


# %%
def has_nan(x):
    for v in x:
        if v != v:
            return True
    return False


broken = np.array([1.0, np.nan, 2.0])
sees = {
    flag: numba.njit(fastmath={flag})(has_nan)(broken)
    for flag in ("nnan", "ninf", "nsz", "arcp", "contract", "afn", "reassoc")
}
assert [flag for flag, seen in sees.items() if not seen] == ["nnan"]

# %% [markdown]
# ## 3. A histogram without a race
#
# Each piece of the numbers gets ten counters of its own: iteration p writes row p, and no other. One thread
# adds the rows.


# %%
@numba.njit(parallel=True)
def count_into(counts, x, low, high):
    pieces, bins = counts.shape
    size = -(-len(x) // pieces)
    for p in numba.prange(pieces):
        counts[p] = 0
        for v in x[p * size : (p + 1) * size]:
            place = int((v - low) / (high - low) * bins)
            counts[p, min(place, bins - 1)] += 1


x = rng.random(1_000_000)
expected, _ = np.histogram(x, bins=10, range=(0, 1))
for threads in (1, 2, 3, 4):
    numba.set_num_threads(threads)
    counts = np.empty((16, 10), np.int64)
    count_into(counts, x, 0.0, 1.0)
    total = counts.sum(axis=0)
    assert total.sum() == len(x)
    assert np.abs(total - expected).max() <= 2  # a number on the edge of two bins may round to either

# %% [markdown]
# ## 4. Three threads
#
# We choose three of nine places for the first thread, then three of six for the second: 84 · 20 = 1680
# ways. The totals 1, 2 and 3 come out. The right one comes out in 6 ways, one for each order of the threads
# when nobody interrupts.


# %%
def play(order):
    total, seen, done = 0, {}, dict.fromkeys(order, 0)
    for thread in order:
        if done[thread] == 0:
            seen[thread] = total
        elif done[thread] == 1:
            seen[thread] += 1
        else:
            total = seen[thread]
        done[thread] += 1
    return total


orders = set(itertools.permutations("AAABBBCCC"))
outcomes = Counter(play(order) for order in orders)
assert len(orders) == 1680 == 84 * 20
assert set(outcomes) == {1, 2, 3}
assert outcomes[3] == 6
print("totals, and in how many ways:", dict(sorted(outcomes.items())))
