# %% [markdown]
# # 18. CUDA without a GPU
#
# Minutes: 35. Before: [4. Pointwise convolution](04_pointwise.py), [9. Cumulative layer norm](09_cumulative_norm.py), [17. From formula to loop](17_numba.py).
#
# How a GPU is programmed: threads and blocks, shared memory, barriers, and the parallel scan. It runs on a
# simulator, so no GPU is needed; where there is one, it is used and timed.

# %% [markdown]
# Numba compiles Python functions for NVIDIA's GPUs. It also has a *simulator*, which runs the same
# functions as Python threads on the CPU: slow, but every index is checked and a debugger works. The choice
# has to be made before Numba is imported. So we ask another process whether there is a GPU that can be
# used.

# %%
import os
import subprocess
import sys

QUESTION = "import sys; from numba import cuda; sys.exit(0 if cuda.is_available() else 1)"
if "NUMBA_ENABLE_CUDASIM" not in os.environ:
    answer = subprocess.run([sys.executable, "-c", QUESTION], capture_output=True)
    os.environ["NUMBA_ENABLE_CUDASIM"] = "0" if answer.returncode == 0 else "1"
GPU = os.environ["NUMBA_ENABLE_CUDASIM"] != "1"
print("a GPU is used" if GPU else "no GPU: this runs on the simulator, nothing is timed")

import companion

import math
import time

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle
from numba import cuda, float32, float64

from tasnet_np.ops.gradcheck import relative_error
from tasnet_np.network.config import Config
from tasnet_np.ops import elementwise, norms, pointwise

companion.where("expand", "norm1", "norm2", "residual", "skip")

rng = np.random.default_rng(18)
small = Config.preset("small")

# %% [markdown]
# ## Hear it: one thread for each sample
#
# On a CPU, a loop goes through the samples. On a GPU there is no loop. We write what happens to *one*
# sample, and start one thread for each. A thread finds out which one it is with `cuda.grid(1)`. Here each
# thread applies PReLU to its sample. As a sound, this is a distorted voice.


# %%
@cuda.jit
def prelu_kernel(y, x, alpha):
    t = cuda.grid(1)  # my number among all threads
    if t < x.size:
        y[t] = x[t] if x[t] > 0 else alpha * x[t]


rate = 8000
speech = companion.speech(0.25, rate, seed=3)
companion.play(np.tile(speech, 4), rate, "a bit of speech, four times")

# %% [markdown]
# A GPU has memory of its own. Three steps are needed: copy the inputs there, start the kernel, copy the
# result back. Threads are started in *blocks* of equal size, and the blocks form the *grid*:
# `kernel[blocks, threads](...)`. With 2000 samples and 128 threads in a block, 16 blocks are needed. That
# makes 2048 threads, 48 too many. This is what the `if` is for.


# %%
def blocks_for(count, threads):
    """How many blocks hold `count` threads: rounded up."""
    return -(-count // threads)


def launch(kernel, grid, block, like, *inputs):
    """Run a kernel that writes one array, of the shape and type of `like`, and return it."""
    out = cuda.to_device(np.full_like(like, np.nan))  # what no thread writes stays NaN
    kernel[grid, block](out, *(cuda.to_device(a) if isinstance(a, np.ndarray) else a for a in inputs))
    return out.copy_to_host()


assert len(speech) == 2000
assert blocks_for(2000, 128) == 16 and 16 * 128 == 2048 == 2000 + 48

slope = np.float32(0.25)
distorted = launch(prelu_kernel, 16, 128, speech, speech, slope)
assert (distorted == elementwise.prelu_forward_ref(speech, slope)).all()
companion.play(np.tile(distorted, 4), rate, "through PReLU")

# %% [markdown]
# One block too few, and the last samples are never written. The NaN shows it: 80 of the 2000 are missing.

# %%
one_block_short = launch(prelu_kernel, 15, 128, speech, speech, slope)
assert np.isnan(one_block_short).sum() == 80 == 2000 - 15 * 128
with companion.fails("one block too few: some samples have no thread"):
    assert np.isfinite(one_block_short).all(), "samples that nobody wrote"

# %% [markdown]
# ## Break it: threads that have nothing to do
#
# Leave out the `if`, and 48 threads write beyond the end. The simulator raises an `IndexError`. A real GPU
# would overwrite whatever lies there, and say nothing. So this cell runs on the simulator only.


# %%
@cuda.jit
def prelu_without_the_if(y, x, alpha):
    t = cuda.grid(1)
    y[t] = x[t] if x[t] > 0 else alpha * x[t]


if not GPU:
    try:
        launch(prelu_without_the_if, 16, 128, speech, speech, slope)
        caught = False
    except IndexError as error:
        caught = True
        print("caught:", str(error).splitlines()[-1])
    assert caught

# %% [markdown]
# ## Blocks in two dimensions
#
# For an array (O, T), blocks of S × S threads are convenient. `cuda.grid(2)` gives two numbers. We let
# every thread write the number of its block, and draw what they wrote.

# %%
S = 8  # threads along each side of a block


@cuda.jit
def which_block(y):
    t, o = cuda.grid(2)  # the first one changes fastest from thread to thread
    if o < y.shape[0] and t < y.shape[1]:
        y[o, t] = cuda.blockIdx.y * cuda.gridDim.x + cuda.blockIdx.x


O, C, T = 20, 24, 28
grid = (blocks_for(T, S), blocks_for(O, S))
numbers = launch(which_block, grid, (S, S), np.empty((O, T), np.float32))
assert grid == (4, 3)
assert set(numbers.ravel()) == set(range(12))  # 12 blocks
assert numbers[0, 0] == 0 and numbers[0, 8] == 1 and numbers[8, 0] == 4

fig, ax = plt.subplots(figsize=(7.5, 3.6))
ax.imshow((numbers % 4 + numbers // 4) % 2, cmap="Greys", vmin=-0.6, vmax=3, extent=(0, T, O, 0))
for number in range(12):
    row, column = number // 4 * S, number % 4 * S
    ax.add_patch(Rectangle((column, row), S, S, fill=False, edgecolor="black", clip_on=False))
    middle = min(column + S / 2, (column + T) / 2), min(row + S / 2, (row + O) / 2)
    ax.text(*middle, number, ha="center", va="center")
ax.set(xlim=(0, 32), ylim=(24, 0), aspect="equal")
ax.set(xlabel="frame t (32 threads)", ylabel="channel o (24 threads)")
ax.set_title("20 × 28 numbers, 12 blocks of 8 × 8 threads; idle threads in white")
ax.grid(False)
companion.show("blocks")

# %% [markdown]
# ## The formula
#
# Nearly all arithmetic of Conv-TasNet is the pointwise convolution of tutorial 4, a matrix product. For one
# example, with $w$ (O, C), $x$ (C, T), $b$ (O,) and $y$ (O, T):
#
# $$ y[o, t] = b[o] + \sum_{c=0}^{C-1} w[o, c] \; x[c, t] $$
#
# ## Step one: the naive kernel
#
# One thread for each $y[o, t]$. It owns this number: no other thread writes it, and there is no race. The
# only loop is the sum.


# %%
@cuda.jit
def product_naive(y, w, x, b):
    t, o = cuda.grid(2)
    if o < y.shape[0] and t < y.shape[1]:
        total = b[o]
        for c in range(x.shape[0]):
            total += w[o, c] * x[c, t]
        y[o, t] = total


w = rng.standard_normal((O, C)).astype(np.float32)
x = rng.standard_normal((C, T)).astype(np.float32)
b = rng.standard_normal(O).astype(np.float32)
expected = pointwise.pointwise_forward(x[None], w, b)[0][0]

y = launch(product_naive, grid, (S, S), expected, w, x, b)
assert relative_error(y, expected) < 1e-6

# %% [markdown]
# ## Neighbours read neighbours
#
# Why is $t$ the number that changes fastest? A GPU runs threads in groups of 32, called *warps*. The 32
# threads of a warp do the same step at the same time. Memory comes in lines of 128 bytes. If the 32 threads
# ask for 32 floats side by side, that is one line. If they ask for 32 floats in 32 different rows, it is 32
# lines, and most of what is moved is not used.
#
# We compute the addresses that one warp asks for when it reads $x[c, t]$, in the model's own shape.


# %%
def lines(addresses, bytes_per_line=128):
    return len({address // bytes_per_line for address in addresses})


frames = small.frames(2 * rate)
row_bytes, column_bytes = np.empty((small.bottleneck, frames), np.float32).strides
side_by_side = [t * column_bytes for t in range(32)]  # x[0, t] for 32 neighbours in t
one_below_the_other = [c * row_bytes for c in range(32)]  # x[c, 0] for 32 neighbours in c

assert lines(side_by_side) == 1
with companion.fails("threads of a warp that walk down a column"):
    assert lines(one_below_the_other) == 1, f"{lines(one_below_the_other)} lines"
assert lines(one_below_the_other) == 32

# %% [markdown]
# ## How much does the naive kernel read?
#
# Each of the $O \cdot T$ threads reads $2C$ numbers: a row of $w$ and a column of $x$. Together that is
# $2\,C\,O\,T$ reads from the GPU's large, slow memory. But there are only $OC + CT$ different numbers. For
# the widening layer ("expand") of `small`, two seconds, each number is read 240 times, on average.

# %%
O_, C_, T_ = small.hidden, small.bottleneck, frames
reads, numbers_there = 2 * C_ * O_ * T_, O_ * C_ + C_ * T_
print(f"{reads:,} reads of {numbers_there:,} numbers")
assert (O_, C_, T_) == (128, 64, 2001)
assert 240 < reads / numbers_there < 241

# %% [markdown]
# ## Step two: tiles in shared memory
#
# Threads of one block can share a small, fast memory. A block of S × S threads makes an S × S tile of $y$.
# For that it needs S rows of $w$ and S columns of $x$. Cut the sum over $c$ into pieces of S:
#
# $$ y[o, t] = b[o] + \sum_{p=0}^{\lceil C/S \rceil - 1} \; \sum_{k=0}^{S-1} w[o,\; pS + k] \; x[pS + k,\; t] $$
#
# For each piece $p$, every thread loads *one* number of $w$ and *one* of $x$ into shared memory. Then each
# of them uses S numbers that others have loaded.

# %%
fig, ax = plt.subplots(figsize=(7.5, 4.4))
origin = {"w": (0, 26), "x": (26, 0), "y": (26, 26)}  # left, top
size = {"w": (C, O), "x": (T, C), "y": (T, O)}  # width, height
for name, (left, top) in origin.items():
    width, height = size[name]
    ax.add_patch(Rectangle((left, top), width, height, facecolor="white", edgecolor="black"))
    place = (left, top - 1) if name == "w" else (left + width + 1, top + height / 2)
    ax.text(*place, {"w": "w (O, C)", "x": "x (C, T)", "y": "y (O, T)"}[name])
for number in range(3):
    style = {
        "edgecolor": "black",
        "facecolor": companion.COLOURS["sky"],
        "alpha": 0.9 if number == 1 else 0.3,
    }
    ax.add_patch(Rectangle((number * S, 34), S, S, **style))
    ax.add_patch(Rectangle((34, number * S), S, S, **style))
    ax.text(number * S + S / 2, 34 + S / 2, f"p = {number}", ha="center", va="center")
    ax.text(34 + S / 2, number * S + S / 2, f"p = {number}", ha="center", va="center")
ax.add_patch(Rectangle((34, 34), S, S, facecolor=companion.COLOURS["orange"], edgecolor="black"))
ax.text(38, 38, "one\nblock", ha="center", va="center")
ax.set(xlim=(-1, 66), ylim=(47, -1), aspect="equal")
ax.set_title("a block makes one tile of y from pairs of tiles, p = 0, 1, 2 in turn")
ax.axis("off")
companion.show("tiles")

# %% [markdown]
# Two barriers are needed in each piece. `cuda.syncthreads()` holds every thread of the block until all have
# come to it. The first barrier: nobody may read a tile before everybody has loaded. The second one: nobody
# may load the next tile before everybody has read. At the rim of the arrays, a thread loads 0, which adds
# nothing. It must not leave early: the others would wait for it.


# %%
@cuda.jit
def product_tiled(y, w, x, b):
    w_tile = cuda.shared.array((S, S), float32)  # one for each block
    x_tile = cuda.shared.array((S, S), float32)
    t, o = cuda.grid(2)
    column, row = cuda.threadIdx.x, cuda.threadIdx.y  # my place in the block
    (O, T), C = y.shape, x.shape[0]
    total = float32(0)
    for first in range(0, C, S):
        w_tile[row, column] = w[o, first + column] if o < O and first + column < C else 0
        x_tile[row, column] = x[first + row, t] if first + row < C and t < T else 0
        cuda.syncthreads()  # all have loaded
        for k in range(S):
            total += w_tile[row, k] * x_tile[k, column]
        cuda.syncthreads()  # all have read
    if o < O and t < T:
        y[o, t] = total + b[o]


y = launch(product_tiled, grid, (S, S), expected, w, x, b)
assert relative_error(y, expected) < 1e-6

# %% [markdown]
# How many reads are left? Each block reads $2 S^2$ numbers for each of $C/S$ pieces, and there are
# $(O/S)(T/S)$ blocks:
#
# $$ 2 S^2 \cdot \frac{C}{S} \cdot \frac{O}{S} \cdot \frac{T}{S} = \frac{2\,C\,O\,T}{S} $$
#
# S times fewer than before: with S = 8 it is one eighth. That holds for large arrays. In our small example
# the tiles at the rim are not full, and it is 6.8 times fewer. We count what the threads load, thread by
# thread.

# %%
loads = 0
for o in range(grid[1] * S):
    for t in range(grid[0] * S):
        for first in range(0, C, S):
            loads += (o < O) + (t < T)  # one of w, one of x; C is a multiple of S here
assert C % S == 0
naive_loads = 2 * C * O * T
print(f"{naive_loads} loads by the naive kernel, {loads} by the tiled one")
assert round(naive_loads / loads, 1) == 6.8

# %% [markdown]
# ## Break it: no barrier
#
# Without the first barrier, a thread may use a tile that is not complete. To see this we first fill the
# tiles with NaN. A thread that runs ahead then picks up NaN. On the simulator there is always one that runs
# ahead. On a GPU it depends on the moment, so there we do not try.


# %%
@cuda.jit
def product_without_a_barrier(y, w, x, b):
    w_tile = cuda.shared.array((S, S), float32)
    x_tile = cuda.shared.array((S, S), float32)
    t, o = cuda.grid(2)
    column, row = cuda.threadIdx.x, cuda.threadIdx.y
    (O, T), C = y.shape, x.shape[0]
    w_tile[row, column] = x_tile[row, column] = np.nan
    cuda.syncthreads()
    total = float32(0)
    for first in range(0, C, S):
        w_tile[row, column] = w[o, first + column] if o < O and first + column < C else 0
        x_tile[row, column] = x[first + row, t] if first + row < C and t < T else 0
        for k in range(S):  # here a barrier is missing
            total += w_tile[row, k] * x_tile[k, column]
        cuda.syncthreads()
    if o < O and t < T:
        y[o, t] = total + b[o]


if not GPU:
    y = launch(product_without_a_barrier, grid, (S, S), expected, w, x, b)
    with companion.fails("the tiles were used before they were complete"):
        assert relative_error(y, expected) < 1e-6, "not finite"

# %% [markdown]
# The library's product, `tasnet_np/compute/gpu_product.py`, goes on from here: each thread makes several numbers of $y$ and
# holds them in registers (the few numbers that a thread has to itself), and the next tiles are loaded while
# these are used.
#
# ## The cumulative norm
#
# The second half of this tutorial is about a sum that is harder to share. The cumulative norm of tutorial 9
# needs, for each frame $t$, the sums over all channels and all frames up to $t$ (from here on $S[t]$ is such a
# sum, no longer the side of a tile):
#
# $$ S[t] = \sum_{k \le t} s[k], \quad s[k] = \sum_c x[c, k], \qquad
# Q[t] = \sum_{k \le t} q[k], \quad q[k] = \sum_c x[c, k]^2 $$
#
# and then, with $n = C (t + 1)$,
#
# $$ m = \frac{S}{n}, \qquad v = \frac{Q}{n} - m^2, \qquad
# y[c, t] = \gamma[c] \, \frac{x[c, t] - m[t]}{\sqrt{v[t] + \varepsilon}} + \beta[c] $$
#
# ## Step one: the naive norm
#
# One thread for each frame. It adds up everything before it, all by itself.


# %%
@cuda.jit
def norm_naive(y, x, gamma, beta, eps):
    t = cuda.grid(1)
    C, T = x.shape
    if t < T:
        total = float64(0)
        squares = float64(0)
        for k in range(t + 1):
            for c in range(C):
                v = float64(x[c, k])
                total += v
                squares += v * v
        n = C * (t + 1)
        m = total / n
        r = 1 / math.sqrt(max(squares / n - m * m, 0.0) + eps)
        for c in range(C):
            y[c, t] = gamma[c] * ((x[c, t] - m) * r) + beta[c]


C, T = 5, 50
x = (rng.standard_normal((C, T)) + 0.5).astype(np.float32)
gamma, beta = rng.standard_normal((2, C)).astype(np.float32)
expected = norms.cumulative_layer_norm_forward_ref(x[None], gamma, beta)[0]

THREADS = 16  # in a block; a power of two, as the scan below needs
y = launch(norm_naive, blocks_for(T, THREADS), THREADS, expected, x, gamma, beta, norms.EPS)
assert relative_error(y, expected) < 1e-6

# %% [markdown]
# It is right, and wasteful. Frame $t$ adds $C(t+1)$ numbers, so all frames together add
#
# $$ \sum_{t=0}^{T-1} C (t + 1) = C \, \frac{T (T + 1)}{2} $$
#
# The loop on the CPU adds $C\,T$ numbers. For two seconds of `small`, T = 2001, the naive norm does 1001
# times that work. And the last thread alone has T columns to add, while the first one has long finished.

# %%
assert sum(t + 1 for t in range(frames)) == frames * (frames + 1) // 2
assert frames * (frames + 1) / 2 / frames == 1001

# %% [markdown]
# ## Step two: the scan
#
# The sums of single frames, $s$ and $q$, are easy: one thread for each frame, as every frame is by itself.
# What remains is a running sum over T numbers. On a CPU each one waits for the one before it: T steps. Can
# it be done by many threads at once?
#
# It can, in $\log_2 T$ steps (Hillis and Steele, 1986). In step $j$ each number adds the one that stands
# $2^j$ places before it. After step 0 each number is a sum of two neighbours. After step 1 it is a sum of
# four, and so on:
#
# $$ a_0 = s, \qquad a_{j+1}[t] = a_j[t] + a_j[t - 2^j] \;\text{ if } t \ge 2^j \text{, else } a_j[t] $$
#
# **Why it is right.** The claim is that $a_j[t]$ is the sum of the last $2^j$ numbers up to $t$, or of all
# of them if there are fewer:
#
# $$ a_j[t] = \sum_{k = \max(0,\; t - 2^j + 1)}^{t} s[k] $$
#
# For $j = 0$ this is $s[t]$. If it holds for $j$, then $a_j[t]$ covers $t - 2^j + 1$ to $t$, and
# $a_j[t - 2^j]$ covers the $2^j$ numbers before these. Together they are $2^{j+1}$ numbers. Once
# $2^j \ge T$, all numbers up to $t$ are covered.


# %%
def scan_steps(s):
    """All a_j of a scan, first to last."""
    steps, distance = [s], 1
    while distance < len(s):
        a = steps[-1].copy()
        a[distance:] += steps[-1][:-distance]
        steps.append(a)
        distance *= 2
    return steps


ones = np.ones(8)
steps = scan_steps(ones)
assert len(steps) - 1 == 3 == math.log2(8)
assert (steps[-1] == np.arange(1, 9)).all()
assert all((a == np.minimum(np.arange(1, 9), 2**j)).all() for j, a in enumerate(steps))

fig, ax = plt.subplots(figsize=(7.5, 3.6))
for j, a in enumerate(steps):
    for t in range(8):
        first = max(0, t - 2**j + 1)
        done = first == 0
        colour = companion.COLOURS["orange"] if done else "white"
        ax.text(
            t,
            -j,
            f"{first}..{t}" if first < t else f"{t}",
            ha="center",
            va="center",
            bbox={"boxstyle": "round", "facecolor": colour, "edgecolor": "black"},
            zorder=3,
        )
        if j and t >= 2 ** (j - 1):
            ax.annotate(
                "",
                (t, -j + 0.18),
                (t - 2 ** (j - 1), -j + 0.82),
                arrowprops={"arrowstyle": "->", "color": companion.COLOURS["blue"], "linewidth": 1.2},
            )
        if j:
            ax.plot((t, t), (-j + 0.2, -j + 0.8), "-", color="#999999", linewidth=1)
ax.set_yticks([0, -1, -2, -3], ["s", "after step 0", "after step 1", "after step 2"])
ax.set(xlim=(-0.6, 7.6), ylim=(-3.4, 0.4), xlabel="frame t")
ax.set_title("a scan of eight numbers: each box says which numbers it has added")
ax.grid(False)
companion.show("scan")

# %% [markdown]
# The arrows are what is added; the filled boxes are finished. Eight numbers take three steps.
#
# In a kernel, a block of threads does this in shared memory. Each step has two barriers, for the same
# reasons as the tiles. A thread first reads both numbers, then waits, then writes: otherwise it might read
# a number that is already one step ahead. T may be larger than a block, so each block scans its own frames
# and also writes down its total.


# %%
@cuda.jit
def column_sums(sums, x):
    t = cuda.grid(1)
    C, T = x.shape
    if t < T:
        total = float64(0)
        squares = float64(0)
        for c in range(C):  # neighbours in t read neighbours
            v = float64(x[c, t])
            total += v
            squares += v * v
        sums[0, t] = total
        sums[1, t] = squares


@cuda.jit
def scan_blocks(scanned, totals, sums):
    a = cuda.shared.array(THREADS, float64)
    t, me, which = cuda.grid(1), cuda.threadIdx.x, cuda.blockIdx.y  # which: 0 for s, 1 for q
    a[me] = sums[which, t] if t < sums.shape[1] else 0.0
    cuda.syncthreads()
    distance = 1
    while distance < THREADS:
        before = a[me - distance] if me >= distance else 0.0
        cuda.syncthreads()  # all have read
        a[me] += before
        cuda.syncthreads()  # all have written
        distance *= 2
    if t < sums.shape[1]:
        scanned[which, t] = a[me]
    if me == THREADS - 1:
        totals[which, cuda.blockIdx.x] = a[me]


def launch_into(kernel, grid, block, outputs, *inputs):
    """Run a kernel that writes several arrays; return them."""
    there = [cuda.to_device(np.full(shape, np.nan)) for shape in outputs]
    kernel[grid, block](*there, *map(cuda.to_device, inputs))
    return [array.copy_to_host() for array in there]


blocks = blocks_for(T, THREADS)
(sums,) = launch_into(column_sums, blocks, THREADS, [(2, T)], x)
x64 = x.astype(np.float64)
assert relative_error(sums, [x64.sum(axis=0), (x64**2).sum(axis=0)]) < 1e-12

scanned, totals = launch_into(scan_blocks, (blocks, 2), THREADS, [(2, T), (2, blocks)], sums)
for block in range(blocks):
    piece = slice(block * THREADS, min(T, (block + 1) * THREADS))
    assert relative_error(scanned[:, piece], np.cumsum(sums[:, piece], axis=1)) < 1e-12
    assert relative_error(totals[:, block], sums[:, piece].sum(axis=1)) < 1e-12

# %% [markdown]
# ### Across the blocks
#
# Each block began at 0. Its frames still lack the sum of all blocks before it. These are running sums
# again, now of the blocks' totals: a scan of 4 numbers instead of 50. Blocks cannot wait for each other, so
# this is a new kernel: when a kernel starts, the one before it has finished. With 4 totals, each thread can
# simply add the totals before its block.
#
# The last kernel has one thread for each number of $y$. It completes the sums and normalises.


# %%
@cuda.jit
def normalise(y, x, gamma, beta, scanned, totals, eps):
    t, c = cuda.grid(2)
    C, T = x.shape
    if c < C and t < T:
        total, squares = scanned[0, t], scanned[1, t]
        for block in range(t // THREADS):  # all blocks before mine
            total += totals[0, block]
            squares += totals[1, block]
        n = C * (t + 1)
        m = total / n
        r = 1 / math.sqrt(max(squares / n - m * m, 0.0) + eps)
        y[c, t] = gamma[c] * ((x[c, t] - m) * r) + beta[c]


assert blocks == 4 and T == 50
wide = (blocks_for(T, THREADS), C)
y = launch(normalise, wide, (THREADS, 1), expected, x, gamma, beta, scanned, totals, norms.EPS)
assert relative_error(y, expected) < 1e-6

# %% [markdown]
# ## Break it: no carry
#
# Forget the totals of the earlier blocks, and each block starts counting anew. The first 16 frames are
# right, the others are not. A test with a signal shorter than one block would not notice.

# %%
no_carry = launch(normalise, wide, (THREADS, 1), expected, x, gamma, beta, scanned, 0 * totals, norms.EPS)
assert relative_error(no_carry[:, :THREADS], expected[:, :THREADS]) < 1e-6
with companion.fails("the sums of the earlier blocks are missing"):
    assert relative_error(no_carry, expected) < 1e-6, "wrong from the second block on"

fig, ax = plt.subplots(figsize=(7.5, 2.6))
ax.plot(expected[0], "-", color="black", label="reference")
ax.plot(y[0], "o", color=companion.COLOURS["blue"], markersize=4, label="scan, with carry")
ax.plot(no_carry[0], "x", color=companion.COLOURS["vermilion"], label="scan, no carry")
for edge in range(THREADS, T, THREADS):
    ax.axvline(edge - 0.5, color="#999999", linewidth=0.8)
ax.set(xlabel="frame t (vertical lines: a new block begins)", ylabel="y[0, t]")
ax.set_title("one channel after the cumulative norm")
ax.legend(ncol=3, loc="lower right", bbox_to_anchor=(1, 1), fontsize=8)
companion.show("carry")

# %% [markdown]
# ## Work and steps
#
# The scan does more additions than a loop, and fewer steps after each other. That is a trade which a GPU
# with thousands of threads is glad to make.
#
# | running sum of T numbers | additions | steps after each other |
# |---|---|---|
# | a loop | $T - 1$ | $T - 1$ |
# | each frame by itself (naive) | $T(T-1)/2$ | $T - 1$ |
# | scan | about $T \log_2 T$ | $\log_2 T$, rounded up |
#
# For T = 2001 the scan takes 11 steps instead of 2000, and about 10 times the additions of a loop.

# %%
distances = [2**j for j in range(math.ceil(math.log2(frames)))]
additions = sum(frames - distance for distance in distances)
assert len(distances) == 11
assert 9 < additions / (frames - 1) < 11
assert len(scan_steps(np.ones(frames))) - 1 == 11

# %% [markdown]
# ## Where there is a GPU: times
#
# This cell measures on a GPU, and does nothing on the simulator, whose times mean nothing. A kernel runs
# beside Python. So we wait for it with `cuda.synchronize()` before we look at the clock.


# %%
def milliseconds(kernel, grid, block, *arguments, runs=20):
    kernel[grid, block](*arguments)  # compiles
    times = []
    for _ in range(runs):
        cuda.synchronize()
        started = time.perf_counter()
        kernel[grid, block](*arguments)
        cuda.synchronize()
        times.append(1000 * (time.perf_counter() - started))
    return np.median(times)


if GPU:
    O, C, T = 512, 128, 16_000
    w, x, b = (cuda.to_device(rng.standard_normal(shape).astype(np.float32)) for shape in ((O, C), (C, T), O))
    y = cuda.device_array((O, T), np.float32)
    for kernel in (product_naive, product_tiled):
        taken = milliseconds(kernel, (blocks_for(T, S), blocks_for(O, S)), (S, S), y, w, x, b)
        print(f"{kernel.__name__}: {taken:.3f} ms, {2 * O * C * T / taken / 1e9:.3f} TFLOP/s")
    gamma, beta = cuda.to_device(np.ones(C, np.float32)), cuda.to_device(np.zeros(C, np.float32))
    y, sums, scanned = cuda.device_array((C, T), np.float32), *(cuda.device_array((2, T)) for _ in range(2))
    blocks = blocks_for(T, THREADS)
    totals = cuda.device_array((2, blocks))
    taken = milliseconds(norm_naive, blocks, THREADS, y, x, gamma, beta, norms.EPS)
    print(f"norm_naive: {taken:.3f} ms")
    parts = (
        milliseconds(column_sums, blocks, THREADS, sums, x),
        milliseconds(scan_blocks, (blocks, 2), THREADS, scanned, totals, sums),
        milliseconds(normalise, (blocks, C), (THREADS, 1), y, x, gamma, beta, scanned, totals, norms.EPS),
    )
    print(f"sums, scan, normalise: {sum(parts):.3f} ms")

# %% [markdown]
# ## Where this sits in the model
#
# The kernels here are the ancestors of those in the library. There they are called `_..._cuda` and stand
# beside their CPU twins: the pointwise convolution in [ops/pointwise.py](../tasnet_np/ops/pointwise.py)
# with the tiled product of [gpu_product.py](../tasnet_np/compute/gpu_product.py), the norms and their scans in
# [ops/norms_cuda.py](../tasnet_np/ops/norms_cuda.py). The naive forms are only here, as steps to understand the
# others by.
#
# The rules are the same as on the CPU. A thread owns what it writes. Sums run in a fixed order, so a result
# has the same bits every time. Sums of the norm are in float64.
#
# ## Exercises
#
# 1. Write a kernel that transposes a matrix through a tile in shared memory, so that reading *and* writing
#    go along rows. Check it with an odd size.
# 2. The backward of the cumulative norm (tutorial 9) needs sums over the *future*: $A[t] = \sum_{k \ge t} dS[k]$. Make a
#    reverse scan for one block of threads. Check it, then use it for the gradient $dx$ of a norm with 16
#    frames.
# 3. Sum the numbers of a block by a tree: in each step, half of the threads add the other half. How many
#    steps for 16 numbers? Why is it always the same bits? (With *atomic* additions it is not. There, all threads
#    add to one number, one at a time, in the order in which they happen to come.)
# 4. In `scan_blocks`, leave out the barrier between reading and writing. What does it compute on the
#    simulator, and why could it be right by luck?
#
# Solutions: [solutions/18_cuda.py](solutions/18_cuda.py).
