# %% [markdown]
# # 18. CUDA without a GPU: solutions
#
# Minutes: 20. Before: [18. CUDA without a GPU](../18_cuda.py).
#
# A transpose through a tile, the backward of the cumulative norm with a reverse scan, a sum by a tree, and
# a missing barrier.

# %%
import os
import subprocess
import sys
from pathlib import Path

QUESTION = "import sys; from numba import cuda; sys.exit(0 if cuda.is_available() else 1)"
if "NUMBA_ENABLE_CUDASIM" not in os.environ:
    answer = subprocess.run([sys.executable, "-c", QUESTION], capture_output=True)
    os.environ["NUMBA_ENABLE_CUDASIM"] = "0" if answer.returncode == 0 else "1"

# companion.py lies in the folder above, both for a script and for a notebook.
sys.path.insert(0, str(Path(globals().get("__file__", "notebook")).resolve().parents[1]))
import companion

import numpy as np
from numba import cuda, float32, float64

from tasnet_np.ops.gradcheck import relative_error
from tasnet_np.ops import norms

rng = np.random.default_rng(0)
S = 8  # threads along each side of a block
THREADS = 16  # threads of a block in a row


def launch(kernel, grid, block, like, *inputs):
    out = cuda.to_device(np.full_like(like, np.nan))
    kernel[grid, block](out, *map(cuda.to_device, inputs))
    return out.copy_to_host()


# %% [markdown]
# ## 1. A transpose
#
# A thread reads along a row and writes into the tile. After the barrier it takes *another* number out of
# the tile, so that it also writes along a row: its block stands at the mirrored place of the grid, but
# `threadIdx.x` is the column in both.


# %%
@cuda.jit
def transpose(y, x):
    tile = cuda.shared.array((S, S), float32)
    column, row = cuda.threadIdx.x, cuda.threadIdx.y
    c, t = cuda.blockIdx.y * S + row, cuda.blockIdx.x * S + column
    if c < x.shape[0] and t < x.shape[1]:
        tile[row, column] = x[c, t]
    cuda.syncthreads()
    t, c = cuda.blockIdx.x * S + row, cuda.blockIdx.y * S + column
    if t < y.shape[0] and c < y.shape[1]:
        y[t, c] = tile[column, row]


x = rng.standard_normal((13, 21)).astype(np.float32)
assert (launch(transpose, (3, 2), (S, S), x.T.copy(), x) == x.T).all()

# %% [markdown]
# ## 2. A reverse scan, and the gradient of the cumulative norm
#
# The same scan, but each number adds the one *after* it. From [norms.py](../../tasnet_np/ops/norms.py),
# with $g = \gamma\,dy$:
#
# $$ dv = -\tfrac12 r^2 \sum_c g \hat{x}, \quad dm = -r \sum_c g - 2 m\,dv, \quad dS = dm / n, \quad dQ = dv / n $$
#
# $$ dx[c, t] = g\,r[t] + A[t] + 2\,x[c, t]\,D[t], \qquad A[t] = \sum_{k \ge t} dS[k], \quad D[t] = \sum_{k \ge t} dQ[k] $$


# %%
@cuda.jit
def reverse_scan(y, x):
    a = cuda.shared.array(THREADS, float64)
    t, which = cuda.threadIdx.x, cuda.blockIdx.x
    T = x.shape[1]
    a[t] = x[which, t] if t < T else 0.0
    cuda.syncthreads()
    distance = 1
    while distance < THREADS:
        after = a[t + distance] if t + distance < THREADS else 0.0
        cuda.syncthreads()
        a[t] += after
        cuda.syncthreads()
        distance *= 2
    if t < T:
        y[which, t] = a[t]


values = rng.standard_normal((2, 13))
future = launch(reverse_scan, 2, THREADS, values, values)
assert relative_error(future, np.cumsum(values[:, ::-1], axis=1)[:, ::-1]) < 1e-12

C, T = 5, 16
x, dy = rng.standard_normal((2, C, T))
gamma, beta = rng.standard_normal((2, C))
n = C * np.arange(1, T + 1)
m = np.cumsum(x.sum(axis=0)) / n
r = 1 / np.sqrt(np.cumsum((x * x).sum(axis=0)) / n - m * m + norms.EPS)
g, xhat = gamma[:, None] * dy, (x - m) * r
dv = -0.5 * r * r * (g * xhat).sum(axis=0)
dm = -r * g.sum(axis=0) - 2 * m * dv
A, D = launch(reverse_scan, 2, THREADS, np.empty((2, T)), np.stack([dm / n, dv / n]))
dx = g * r + A + 2 * x * D

expected = norms.cumulative_layer_norm_backward_ref(dy[None], x[None], gamma, beta)[0][0]
assert relative_error(dx, expected) < 1e-10

# %% [markdown]
# With the forward's scan instead, every frame would get the gradients of its past.

# %%
wrong_A, wrong_D = np.cumsum(dm / n), np.cumsum(dv / n)
with companion.fails("the gradient was summed over the past"):
    assert relative_error(g * r + wrong_A + 2 * x * wrong_D, expected) < 1e-10

# %% [markdown]
# ## 3. A tree
#
# 16 numbers take 4 steps: 8, 4, 2 and 1 additions, 15 in all. Who adds to whom is fixed, so the bits are
# always the same. Atomic additions happen in the order in which threads arrive, and rounding depends on the
# order.


# %%
@cuda.jit
def tree_sum(y, x):
    a = cuda.shared.array(THREADS, float32)
    me = cuda.threadIdx.x
    a[me] = x[me]
    cuda.syncthreads()
    half = THREADS // 2
    while half > 0:
        if me < half:
            a[me] += a[me + half]
        cuda.syncthreads()
        half //= 2
    if me == 0:
        y[0] = a[0]


x = rng.standard_normal(THREADS).astype(np.float32)
sums = [launch(tree_sum, 1, THREADS, x[:1], x)[0] for _ in range(5)]
assert abs(sums[0] - x.sum(dtype=np.float64)) < 1e-5
assert len({value.tobytes() for value in sums}) == 1
assert 8 + 4 + 2 + 1 == 15 == THREADS - 1

# other orders, other bits
orders = [rng.permutation(THREADS) for _ in range(50)]
assert len({np.cumsum(x[order])[-1].tobytes() for order in orders}) > 1  # cumsum adds one by one

# %% [markdown]
# One barrier for each step is enough here: the upper half is only read, and the lower half only written by
# its owner.
#
# ## 4. A missing barrier
#
# A thread may then read a number that its owner has already moved on. What comes out depends on the order
# in which the threads take their turns. We can play one step for any order. If the threads go from the last
# to the first, each reads before its left neighbour has written: right, by luck. If they go from the first
# to the last, the first step alone adds up everything, and the following steps add it again.


# %%
def scan_in_turns(s, order):
    """A scan in place, without the barrier between reading and writing: the threads go in this order."""
    a, distance = s.copy(), 1
    while distance < len(s):
        for t in order:
            if t >= distance:
                a[t] += a[t - distance]
        distance *= 2
    return a


ones = np.ones(THREADS)
right = np.arange(1, THREADS + 1)
assert (scan_in_turns(ones, range(THREADS)[::-1]) == right).all()
with companion.fails("neighbours were read after they had been written"):
    assert (scan_in_turns(ones, range(THREADS)) == right).all()

# %% [markdown]
# The simulator starts threads from the first to the last, but promises no order. So we print what it says,
# and assert nothing but that every sum has at least its own number.


# %%
@cuda.jit
def scan_without_the_barrier(y, x):
    a = cuda.shared.array(THREADS, float64)
    me = cuda.threadIdx.x
    a[me] = x[me]
    cuda.syncthreads()
    distance = 1
    while distance < THREADS:
        if me >= distance:
            a[me] += a[me - distance]
        cuda.syncthreads()
        distance *= 2
    y[me] = a[me]


found = launch(scan_without_the_barrier, 1, THREADS, ones, ones)
print("right:", right)
print("found:", found.astype(int))
assert (found >= 1).all()
