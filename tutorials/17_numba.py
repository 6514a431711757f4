# %% [markdown]
# # 17. From formula to loop
#
# Minutes: 30. Before: [5. Depthwise convolution](05_depthwise.py), [11. A block](11_block.py).
#
# How a formula becomes a compiled loop with Numba, then vector instructions, then threads. What can go
# wrong on the way: races, hidden NaN, stale caches; and what makes the fused block fast.

# %%
import os

os.environ["NUMBA_NUM_THREADS"] = "4"  # more threads than some laptops have cores: races need company

import companion

import itertools
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numba
import numpy as np

from tasnet_np.compute.cpu import each, get_threads, set_threads
from tasnet_np.ops.gradcheck import relative_error
from tasnet_np.network.config import Config
from tasnet_np.network.execution import ConvTasNet
from tasnet_np.ops import depthwise

companion.where("depthwise", "block")

rate = 8000
rng = np.random.default_rng(17)

# %% [markdown]
# ## Hear it
#
# Our example is the depthwise convolution of tutorial 5. With three taps and a very large dilation it is an
# echo: the sound itself, and two softer copies, 0.2 and 0.4 seconds late.

# %%
speech = companion.speech(2.0, rate, seed=3)
echo_taps = np.array([[0.25, 0.5, 1.0]], np.float32)  # (C, K): the last tap is "now"
no_bias = np.zeros(1, np.float32)
echo, _ = depthwise.depthwise_forward(speech[None, None], echo_taps, no_bias, dilation=1600)

companion.play(speech, rate, "speech")
companion.play(echo[0, 0], rate, "with an echo: three taps, 1600 samples apart")
assert 1600 / rate == 0.2  # seconds
assert np.allclose(echo[0, 0, :1600], speech[:1600])  # nothing has come back yet

# %% [markdown]
# ## The formula
#
# With $x$ of shape (C, T), taps $w$ (C, K), bias $b$ (C,):
#
# $$ y[c, t] = b[c] + \sum_{k=0}^{K-1} w[c, k] \; x[c,\; t + \text{offset}(k)], \qquad
# \text{offset}(k) = \text{lookahead} - (K - 1 - k) \cdot \text{dilation} $$
#
# and $x$ is 0 outside of $0 \le t < T$. Written down word by word, this is three loops and a condition.


# %%
def convolve(y, x, w, b, dilation, lookahead):
    C, T = x.shape
    K = w.shape[1]
    for c in range(C):
        for t in range(T):
            total = b[c]
            for k in range(K):
                s = t + lookahead - (K - 1 - k) * dilation
                if 0 <= s < T:
                    total += w[c, k] * x[c, s]
            y[c, t] = total


C, T, K, dilation = 128, 2001, 3, 8  # one example of two seconds in the model `small`
x = rng.standard_normal((C, T)).astype(np.float32)
w, b = rng.standard_normal((C, K)).astype(np.float32), rng.standard_normal(C).astype(np.float32)
expected = depthwise.depthwise_forward_ref(x[None], w, b, dilation=dilation)[0]

y = np.empty((4, T), np.float32)
convolve(y, x[:4], w[:4], b[:4], dilation, 0)  # four channels only: Python takes its time
assert relative_error(y, expected[:4]) < 1e-6

small = Config.preset("small")
assert (C, T, K) == (small.hidden, small.frames(2 * rate), small.kernel)

# %% [markdown]
# The loop is right, and it reads like the formula. It is also slow. For each number, Python looks up what
# `total` and `w` are, what `+` means for them, and makes a new object for the result.
#
# ## From Python to machine code
#
# Numba reads the same function and the types of its arguments. It works out the type of every variable and
# makes machine code for exactly these types. This happens in the first call, and once for each new
# combination of types.

# %%
compiled = numba.njit(convolve)
assert len(compiled.signatures) == 0  # nothing yet

y = np.empty_like(x)
started = time.perf_counter()
compiled(y, x, w, b, dilation, 0)
print(f"first call, compiles: {time.perf_counter() - started:.3f} s")
started = time.perf_counter()
compiled(y, x, w, b, dilation, 0)
print(f"second call: {time.perf_counter() - started:.6f} s")

assert relative_error(y, expected) < 1e-6
assert len(compiled.signatures) == 1
compiled(*(array.astype(np.float64) for array in (y, x, w, b)), dilation, 0)
assert len(compiled.signatures) == 2  # float64 is another function

# %% [markdown]
# The original function is still there, as `py_func`. With the environment variable `NUMBA_DISABLE_JIT=1` it
# is the one that runs. Our tests do this once, because compiled code checks very little, as the next cell
# shows.
#
# ## What compiled code does not check
#
# Here is a mistake: a loop that reads one number too many. Python says so. Compiled code would not: it
# takes whatever lies in memory behind the array. (We do not run that here. Nobody can say what it does.)


# %%
def sum_of_neighbours(x):
    total = 0.0
    for t in range(len(x)):
        total += x[t] + x[t + 1]  # at the last t there is no neighbour
    return total


try:
    numba.njit(sum_of_neighbours).py_func(np.ones(3))
    caught = False
except IndexError as error:
    caught = True
    print("Python:", error)
assert caught

# %% [markdown]
# Numba can check the bounds if it is asked to. That costs time in every access, so the project asks its
# questions before the loop: `device.sizes` compares all shapes once, in Python.

# %%
try:
    numba.njit(boundscheck=True)(sum_of_neighbours)(np.ones(3))
    caught = False
except IndexError:
    caught = True
assert caught

try:
    depthwise.depthwise_forward(x[None], w[:5], b)
    caught = False
except ValueError as error:
    caught = True
    print("sizes:", error)
assert caught

# %% [markdown]
# A second thing that goes unchecked, on purpose: division by zero. Python raises an error. So does Numba,
# unless told otherwise. Our kernels are compiled with `error_model="numpy"`. Then 1 / 0 is infinity, as in
# NumPy, and the test for zero is gone from the loop.


# %%
def inverse(v):
    return 1.0 / v


assert numba.njit(error_model="numpy")(inverse)(0.0) == np.inf
try:
    numba.njit(inverse)(0.0)
    caught = False
except ZeroDivisionError:
    caught = True
assert caught

# %% [markdown]
# ## Vector instructions
#
# A processor can add 4, 8 or 16 floats of 32 bits with one instruction (its registers have 128, 256 or 512
# bits) if they lie side by side in memory. The compiler uses such *packed* instructions only where it can
# prove that nothing changes. So the question is how to write a loop that it can see through.
#
# Two ways to write the inner loop. Both go tap by tap, and the range of t is chosen so that the condition
# is gone. The first one computes the index. The second one cuts a slice from each row and counts from 0.


# %%
def add_tap_by_index(y, x, w, offset, first, last):
    for c in range(len(x)):
        for t in range(first, last):
            y[c, t] += w[c] * x[c, t + offset]


def add_tap_by_row(y, x, w, offset, first, last):
    for c in range(len(x)):
        tap, written, read = w[c], y[c, first:last], x[c, first + offset : last + offset]
        for t in range(len(written)):
            written[t] += tap * read[t]


assert [bits // 32 for bits in (128, 256, 512)] == [4, 8, 16]

OPTIONS = {"fastmath": {"reassoc", "contract"}, "nogil": True, "error_model": "numpy"}
by_index, by_row = numba.njit(**OPTIONS)(add_tap_by_index), numba.njit(**OPTIONS)(add_tap_by_row)


def all_taps(add_tap, y, x, w, b, dilation):
    y[:] = b[:, None]
    for k in range(K):
        offset = -(K - 1 - k) * dilation
        add_tap(y, x, w[:, k], offset, max(0, -offset), T)


for add_tap in (by_index, by_row):
    y = np.empty_like(x)
    all_taps(add_tap, y, x, w, b, dilation)
    assert relative_error(y, expected) < 1e-6

# %% [markdown]
# The same numbers. Now look at what came out of the compiler. On x86 processors, the names of arithmetic
# instructions end in `ss` (*scalar single*: one float) or in `ps` (*packed single*: a register full of
# floats); `sd` and `pd` are the same for float64. We count them. (The check holds for the Numba we tried,
# on x86. A later compiler may be cleverer: then this cell fails, and that would be good news.)


# %%
def arithmetic(kernel):
    """Packed and scalar arithmetic instructions in a compiled kernel, on x86."""
    assembly = "\n".join(kernel.inspect_asm().values())
    names = re.findall(r"\bv?(?:add|sub|mul|fn?m(?:add|sub)\d*)([ps])[sd]\b", assembly)
    return names.count("p"), names.count("s")


X86 = platform.machine().lower() in ("x86_64", "amd64")
if X86:
    print("packed, scalar, by index:", arithmetic(by_index))
    print("packed, scalar, by row:  ", arithmetic(by_row))
    assert arithmetic(by_row)[0] > 0
    with companion.fails("an index that may be negative keeps the loop scalar"):
        assert arithmetic(by_index)[0] > 0, "no packed instruction"
else:
    print("not an x86 processor: its instructions have other names, nothing is counted here")

# %% [markdown]
# Why? In Python, `x[-1]` is the last element, and Numba keeps that promise. For `x[c, t + offset]` it
# cannot know whether `t + offset` is negative. So each read becomes a choice: if the index is negative, add
# the length. Sixteen numbers that may each come from somewhere else are not side by side.
#
# In the second form the choice is made once, by the slice. Inside, t counts up from 0 and is never
# negative. All wide loops of the library have this form. Here is the library's kernel, compiled afresh so
# that we can look inside.

# %%
library = numba.njit(**OPTIONS)(depthwise._depthwise_forward_cpu.py_func)
y = np.empty_like(x)
library(y, x, w, b, dilation, 0)
assert relative_error(y, expected) < 1e-6
if X86:
    assert arithmetic(library)[0] > 0

# %% [markdown]
# Now the times. They are printed and drawn, and nothing is asserted about them: a time depends on the
# machine and on who else is using it.


# %%
def median_seconds(function, runs=15):
    times = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return float(np.median(times[1:]))


y, few = np.empty_like(x), slice(0, 4)
batch = x[None]
taken = {
    "Python, the formula": median_seconds(
        lambda: convolve(y[few], x[few], w[few], b[few], dilation, 0), runs=1
    ) / (4 * T),
    "NumPy, the reference": median_seconds(
        lambda: depthwise.depthwise_forward_ref(batch, w, b, dilation=dilation)
    ) / (C * T),
    "compiled, the formula": median_seconds(lambda: compiled(y, x, w, b, dilation, 0)) / (C * T),
    "compiled, by index": median_seconds(lambda: all_taps(by_index, y, x, w, b, dilation)) / (C * T),
    "compiled, by row": median_seconds(lambda: all_taps(by_row, y, x, w, b, dilation)) / (C * T),
    "the library's kernel": median_seconds(lambda: library(y, x, w, b, dilation, 0)) / (C * T),
}  # fmt: skip

fig, ax = plt.subplots(figsize=(7.5, 3))
names, nanoseconds = list(taken), [1e9 * seconds for seconds in taken.values()]
ax.plot(nanoseconds, names, "o", color=companion.COLOURS["blue"], markersize=8)
for row, value in enumerate(nanoseconds):
    ax.text(value * 1.3, row, f"{value:,.2f}", va="center")
ax.invert_yaxis()
ax.set_xscale("log")
ax.set_xlim(right=max(nanoseconds) * 6)
ax.xaxis.set_major_formatter("{x:,g}")
ax.set(
    xlabel="nanoseconds per output number, three taps each (logarithmic)", title="one convolution, six ways"
)
companion.show("six_ways")

# %% [markdown]
# ## Sums, and what fastmath allows
#
# Adding up is harder than it looks. `total += v` must wait for the sum before it. The processor could keep
# eight partial sums side by side and add them at the end. But floats round, so $(a + b) + c$ is not
# $a + (b + c)$, and by default the compiler may not change the order.


# %%
def dot(x, y):
    total = np.float32(0)
    for t in range(len(x)):
        total += x[t] * y[t]
    return total


left, right = rng.standard_normal((2, 16_000)).astype(np.float32)
assert (np.float32(1) + np.float32(1e8)) - np.float32(1e8) == 0
assert np.float32(1) + (np.float32(1e8) - np.float32(1e8)) == 1

in_order = numba.njit(dot)
reordered = numba.njit(fastmath={"reassoc", "contract"})(dot)
assert in_order(left, right) == dot(left, right)  # the same bits as the loop in Python

exact = np.dot(left.astype(np.float64), right.astype(np.float64))
size = np.sqrt(len(left))  # how large such a sum typically is
assert abs(in_order(left, right) - exact) < 1e-5 * size
assert abs(reordered(left, right) - exact) < 1e-5 * size

# %% [markdown]
# `fastmath` is a set of permissions. Two of them are all that sums need: `reassoc`, changing the order of
# additions, and `contract`, making one instruction of a product and a sum. Look what they do:

# %%
if X86:
    assert arithmetic(in_order)[0] == 0  # no packed arithmetic at all
    assert arithmetic(reordered)[0] > 0
for name, kernel in (("in order", in_order), ("reordered", reordered)):
    print(f"{name}: {1e6 * median_seconds(lambda: kernel(left, right), 101):.1f} microseconds")

# %% [markdown]
# ## Break it: `fastmath=True`
#
# `fastmath=True` grants every permission. One of them, `nnan`, says: "there is never a NaN here, I
# promise". The compiler takes it at its word. `v != v` is true for NaN only, so by that promise it is
# always false, and the test is removed.


# %%
def has_nan(x):
    for v in x:
        if v != v:
            return True
    return False


broken = left.copy()
broken[100] = np.nan

assert numba.njit(has_nan)(broken)
assert numba.njit(fastmath={"reassoc", "contract"})(has_nan)(broken)
with companion.fails("fastmath=True promises that there is no NaN, so the test for it is gone"):
    assert numba.njit(fastmath=True)(has_nan)(broken), "NaN not seen"

# %% [markdown]
# A training loop that cannot see NaN trains on, and saves it. This is why the library says
# `{"reassoc", "contract"}`: all that sums need, and the test stays. It says so in one place, `device.cpu_kernel`.

# %%
options = depthwise._depthwise_forward_cpu.targetoptions
assert options["fastmath"] == {"reassoc", "contract"}
assert options["nogil"] and options["error_model"] == "numpy"

# %% [markdown]
# ## The cache, and its trap
#
# Compiling takes longer than running. With `cache=True` Numba keeps the machine code on disk, beside the
# source file. The next process takes it from there, as long as *that file* has not been edited. What the
# function calls is part of the machine code, but it is not watched. We write two little files, and run
# them.

# %%
with tempfile.TemporaryDirectory() as folder:
    helper, main = Path(folder, "helper.py"), Path(folder, "main.py")
    helper.write_text("from numba import njit\n\n@njit\ndef level():\n    return 1\n")
    code = """
from numba import njit
from helper import level

@njit(cache=True)
def answer():
    return level()

print(answer())
"""
    main.write_text(code)

    def run():
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
        command = [sys.executable, str(main)]
        return int(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)

    first = run()
    helper.write_text(helper.read_text().replace("return 1", "return 2"))
    after_editing_the_helper = run()
    main.write_text(code + "# edited\n")
    after_editing_the_caller = run()

assert first == 1
with companion.fails("the caller was cached with the old helper inside"):
    assert after_editing_the_helper == 2, "stale machine code"
assert after_editing_the_caller == 2

# %% [markdown]
# The remedy: `cpu_kernel` puts a checksum into the name under which a kernel is kept, that of all files of the package
# which the kernel's own file imports ([versions.py](../tasnet_np/compute/versions.py)). An edit in any of them makes the
# kernel anew. A function that is made by `cpu_function` instead of `cpu_kernel`, such as the matrix products of
# [cpu_product.py](../tasnet_np/compute/cpu_product.py), becomes a part of the kernel that calls it.

# %%
name, version = depthwise._depthwise_forward_cpu.__qualname__.rsplit("_", 1)
assert name == "_depthwise_forward_cpu"
assert len(version) == 8 and int(version, 16)  # CRC-32, in hexadecimal digits

# %% [markdown]
# ## Many threads: `prange`
#
# `prange` cuts the range of a loop into one piece for each thread. All pieces run at the same time. This is
# right when each iteration writes only what no other iteration reads or writes. A channel of a depthwise
# convolution is such a thing: row c of y is written by iteration c alone.


# %%
bounds = numba.njit(depthwise._tap)  # the library's: where tap k writes, and how far away it reads


@numba.njit(parallel=True, **OPTIONS)
def convolve_in_parallel(y, x, w, b, dilation, lookahead):
    T, K = x.shape[1], w.shape[1]
    for c in numba.prange(len(x)):
        y[c] = b[c]
        for k in range(K):
            first, last, offset = bounds(T, K, k, dilation, lookahead)
            tap, written, read = w[c, k], y[c, first:last], x[c, first + offset : last + offset]
            for t in range(len(written)):
                written[t] += tap * read[t]


results = []
for threads in (1, 2, 4):
    numba.set_num_threads(threads)
    y = np.empty_like(x)
    convolve_in_parallel(y, x, w, b, dilation, 0)
    assert relative_error(y, expected) < 1e-6
    results.append(y.tobytes())
assert len(set(results)) == 1  # the same bits on any number of threads

# %% [markdown]
# ## Break it: a race
#
# Now all iterations add to one number. `total[0] += v` looks like one step. It is three: read the total,
# add, write it back. Between the read and the write of one thread, another may do the same. Then one of the
# two additions is lost. We add ten million ones.


# %%
@numba.njit(parallel=True)
def racy_sum(total, x):
    for t in numba.prange(len(x)):
        total[0] += x[t]


ones = np.ones(round(10_000_000 * companion.SCALE))
shares = {}
for threads in (1, 2, 4):
    numba.set_num_threads(threads)
    shares[threads] = []
    for _ in range(8):
        total = np.zeros(1)
        racy_sum(total, ones)
        shares[threads].append(total[0] / len(ones))
    print(f"{threads} threads:", *(f"{share:.4f}" for share in shares[threads]))

fig, ax = plt.subplots(figsize=(7.5, 2.8))
for place, (threads, values) in enumerate(shares.items()):
    ax.plot(place + np.linspace(-0.2, 0.2, len(values)), values, "o", color=companion.COLOURS["blue"])
ax.axhline(1, color="black", linewidth=1)
ax.set_xticks(range(3), [f"{threads} thread{'s'[: threads > 1]}" for threads in shares])
ax.set(ylim=(0, 1.1), ylabel="share that was counted", title="eight runs each: the line is the right answer")
companion.show("race")

# %% [markdown]
# With one thread the answer is right, always. With more of them it may be wrong, in another way each time.
# It may also be right, by luck: with fewer numbers, or on one core, the threads may simply not meet. So we
# can assert little about a race. This is the worst of it: a test can pass today.

# %%
assert shares[1] == [1.0] * 8
assert all(0 < share <= 1 for values in shares.values() for share in values)  # it can only lose

# %% [markdown]
# ### Every way in which it can happen
#
# Instead of trying our luck, we go through all cases. Two threads each do three steps, in this order: read,
# add, write. How can the six steps be woven into each other? We choose which three of six places belong to
# the first thread: 20 ways. We play each of them.


# %%
def play(order):
    """Run the steps of some threads in the given order of turns; each adds 1 to a total."""
    total, seen, done = 0, {}, dict.fromkeys(order, 0)
    for thread in order:
        if done[thread] == 0:
            seen[thread] = total  # read
        elif done[thread] == 1:
            seen[thread] += 1  # add
        else:
            total = seen[thread]  # write
        done[thread] += 1
    return total


orders = set(itertools.permutations("AAABBB"))
right = ["".join(order) for order in orders if play(order) == 2]
assert len(orders) == 20
assert {play(order) for order in orders} == {1, 2}
assert sorted(right) == ["AAABBB", "BBBAAA"]

# %% [markdown]
# Of 20 ways, 2 give the right answer: one thread must finish before the other begins. In the other 18 an
# addition is lost.
#
# In the figure above, far more is lost than single additions: with two threads, often just one half is
# left. The compiler may keep the total in a register while a thread goes through its piece, because it does
# not know of the others. Then each piece is one long read, add, write, and the last thread to write wins.
#
# We can also force the worst case in real threads. A barrier holds each thread after its read, until both
# have read. Here `each` is the library's own way to run tasks in parallel.

# %%
default_threads = get_threads()
set_threads(2)
barrier, total = threading.Barrier(2), np.zeros(1)


def add_one(task):
    seen = total[0]  # read
    barrier.wait()  # both have read
    total[0] = seen + 1  # write


each(add_one, range(2))
set_threads(default_threads)

assert total[0] == 1  # every time
with companion.fails("two threads read the same total, and one addition is lost"):
    assert total[0] == 2, "lost update"

# %% [markdown]
# ## Own what you write
#
# The remedy: each iteration adds into a number of its own, and one thread adds these up in a fixed order.
# Numba can do something like it by itself, for a plain `total += x[t]` in a `prange`. But it makes one part
# for each *thread*. Then the order of additions depends on the number of threads, and so do the last bits.


# %%
@numba.njit(parallel=True)
def sum_by_threads(x):
    total = np.float32(0)
    for t in numba.prange(len(x)):
        total += x[t]
    return total


@numba.njit(parallel=True)
def sum_by_pieces(parts, x):
    size = -(-len(x) // len(parts))  # the pieces do not depend on the threads
    for p in numba.prange(len(parts)):
        total = np.float32(0)
        for v in x[p * size : (p + 1) * size]:
            total += v
        parts[p] = total


numbers = rng.standard_normal(1_000_003).astype(np.float32)
by_threads, by_pieces = set(), set()
for threads in (1, 2, 3, 4):
    numba.set_num_threads(threads)
    by_threads.add(float(sum_by_threads(numbers)))
    parts = np.empty(16, np.float32)
    sum_by_pieces(parts, numbers)
    by_pieces.add(float(parts.sum()))

assert max(abs(value - numbers.sum(dtype=np.float64)) for value in by_threads | by_pieces) < 0.1
assert len(by_pieces) == 1
with companion.fails("one part per thread: another number of threads, another rounding"):
    assert len(by_threads) == 1, f"{len(by_threads)} different sums"

# %% [markdown]
# Bits that stay the same are not vanity. A run that is stopped and resumed on another machine should give
# the same losses, and a bug hunt should not chase rounding.
#
# ## Why this library has no `prange`
#
# It began with `prange`, and went another way. A kernel works on *one example* of the batch and is a plain
# loop. It releases Python's lock (`nogil=True`). Python's own threads then run one example each, and BLAS
# is told to use one thread meanwhile. The reasons:
#
# - A kernel owns its example, so there are no races to think about.
# - Whole networks run side by side without waiting for each other after every loop. In training, a thread takes one
#   example from the mixture to its gradients (`ConvTasNet.gradients`, tutorial 15).
# - Two pools of threads on the same cores, BLAS and `prange`, get in each other's way.
# - A parallel loop takes longer to compile. Compare the two, compiled from the same loop:

# %%
plain = numba.njit(**OPTIONS)(convolve_in_parallel.py_func)
plain(y, x, w, b, dilation, 0)
for name, kernel in (("plain", plain), ("parallel", convolve_in_parallel)):
    (metadata,) = kernel.get_metadata().values()
    print(f"{name}: compiled in {sum(metadata['timers'].values()):.2f} s")
assert relative_error(y, expected) < 1e-6

# %% [markdown]
# The gradient of a parameter is a sum over examples, the same trap as above. The library writes one part
# per example, and sums them in their order. So the bits do not depend on the threads here, either.

# %%
xs = rng.standard_normal((3, C, T)).astype(np.float32)
dy = rng.standard_normal((3, C, T)).astype(np.float32)
gradients = []
for threads in (1, 2, 3):
    set_threads(threads)
    _, cache = depthwise.depthwise_forward(xs, w, b, dilation=dilation)
    gradients.append([gradient.tobytes() for gradient in depthwise.depthwise_backward(dy, cache)])
set_threads(default_threads)
assert gradients[0] == gradients[1] == gradients[2]

one_by_one = [
    depthwise.depthwise_backward_ref(dy[i : i + 1], xs[i : i + 1], w, b, dilation=dilation)[1]
    for i in range(3)
]
_, cache = depthwise.depthwise_forward(xs, w, b, dilation=dilation)
assert relative_error(depthwise.depthwise_backward(dy, cache)[1], sum(one_by_one)) < 1e-5

# %% [markdown]
# ## What makes the fused block fast
#
# Arithmetic is not the only cost. Numbers must come from memory and go back. Inside a block, arrays have
# the shape (H, T). Here is how often one of them is read or written in the forward pass, op by op, and in
# `ops/tcn_block.py`. The counts are from reading the code.

# %%
op_by_op = {
    "expand": 1, "its bias": 2, "prelu": 2, "norm": 3, "depthwise": 2, "prelu ": 2, "norm ": 3,
    "skip": 1, "residual": 1,
}  # fmt: skip
fused = {"expand, bias, prelu, sums": 1, "norm": 1}  # the rest takes place in the cache
assert sum(op_by_op.values()) == 17
assert sum(fused.values()) == 2

# %% [markdown]
# 17 trips against 2. The trick is always the same: while some frames are in the processor's cache, do all that can
# be done with them. A norm needs its sums before it can begin, so the sums are made by whoever writes the
# frames: that is where `a`, the output of "expand", has to be written and read. All else follows it for 128 frames at a time,
# down to the matrix product with the weights of skip and residual. For that the block stores its arrays frames first, (T, H),
# and has a matrix product of its own, which a kernel can call: see below. The second norm is never carried out at all;
# the docstring of `tcn_block.py` derives it.
#
# The backward saves trips, too. It keeps only `x` and `a`, and for each frame the mean and
# the factor of both norms. The arrays in between are never stored: it computes them again from `a`, while
# the frames are in the cache.
#
# Is it still the same block? We run one block of the model on all three paths (NumPy formulas, op by
# op, fused), forward and backward, in float64.


# %%
def run_block(path, dtype):
    model = ConvTasNet(small, seed=0, dtype=dtype, path=path)
    block = model.blocks[3]
    draw = np.random.default_rng(1)
    x = draw.standard_normal((1, small.bottleneck, T)).astype(dtype)
    skips, dx, dskips = (draw.standard_normal(x.shape).astype(dtype) for _ in range(3))
    assert small.skip == small.bottleneck  # one shape will do

    def forward_and_backward():
        return *block.forward(x, skips), *block.backward(dx, dskips), *block.grads.values()

    return forward_and_backward


reference = run_block("reference", np.float64)()
for path in ("ops", "fused"):
    for actual, wanted in zip(run_block(path, np.float64)(), reference, strict=True):
        assert relative_error(actual, wanted) < 1e-10

fig, ax = plt.subplots(figsize=(7.5, 2.2))
paths = {"reference": "NumPy formulas", "ops": "op by op, compiled", "fused": "fused"}
milliseconds = [1000 * median_seconds(run_block(path, np.float32), 7) for path in paths]
ax.barh(list(paths.values()), milliseconds, color=companion.COLOURS["blue"], height=0.6)
for row, value in enumerate(milliseconds):
    ax.text(value + max(milliseconds) / 100, row, f"{value:.1f}", va="center")
ax.invert_yaxis()
ax.grid(axis="y", visible=False)
ax.set(xlabel="milliseconds", title="one block, two seconds of sound, forward and backward")
companion.show("three_paths")

# %% [markdown]
# ## The roofline
#
# How fast could it be? Speed is in GFLOP/s, $10^9$ operations on floats per second. Two ceilings
# hold for any loop. One is arithmetic: no loop computes faster than the best matrix product.
# The other one is memory: with $I$ operations for each byte that is moved, and $W$ bytes per second,
#
# $$ \text{speed} \le \min(\text{peak},\; I \cdot W) $$
#
# $I$ is the *arithmetic intensity*. Adding a bias to a float32 in memory is one operation for eight bytes
# (four in, four out): $I = 1/8$. A product of two $n \times n$ matrices is $2n^3$ operations on $3 n^2$
# numbers: $I = n/6$, and it grows with n.
#
# The benchmark `tests/benchmarks/roofline.py` knows the operations and bytes of each stage of the fused
# block. We measure them here, on one thread.

# %%
sys.path.append(str(companion.ROOT / "tests" / "benchmarks"))
import roofline
from threadpoolctl import threadpool_limits

with threadpool_limits(1, "blas"):
    peak, bandwidth = roofline.ceilings()
    stages = roofline.measure(small)
print(f"ceilings on one thread: {peak:.0f} GFLOP/s, {bandwidth:.1f} GB/s")

n = 1024
assert 2 * n**3 / (4 * 3 * n**2) == n / 6  # 4 bytes a number

PRODUCTS = {"We x", "W2 z", "W2^T dy", "dy z^T", "da x^T", "We^T da"}
intensity = {name: per_byte for name, _, _, _, per_byte in stages}
assert PRODUCTS < set(intensity)
assert all(intensity[name] > 20 for name in PRODUCTS)
assert all(intensity[name] < 5 for name in set(intensity) - PRODUCTS)

# %% [markdown]
# Two kinds of stages, far apart. Matrix products do more than 20 operations per byte: they are bound by
# arithmetic. All other stages do fewer than 5: they are
# bound by memory, on all processors of today. Fusing is for these. It does not make them compute faster; it
# makes fewer trips.
#
# The ceiling is that of the product in NumPy's BLAS. The block's own products, in `cpu_product.py`, come close to it or
# pass it: they are small, and BLAS, which cannot know that the same weights come again for the next frames, arranges them
# anew in each call.

# %%
fig, ax = plt.subplots(figsize=(7.5, 4))
line = np.geomspace(0.3, 60, 100)
ceiling = np.minimum(peak, line * bandwidth)
ax.loglog(line, ceiling, "-", color="black", label="ceilings: memory copy, matrix product")
for kind, marker, colour in (("matrix product", "s", "vermilion"), ("fused pass", "o", "blue")):
    chosen = [stage for stage in stages if (stage[0] in PRODUCTS) == (kind == "matrix product")]
    ax.loglog(
        [stage[4] for stage in chosen],
        [stage[2] for stage in chosen],
        marker,
        color=companion.COLOURS[colour],
        label=kind,
    )
for number, (name, _, speed, _, per_byte) in enumerate(stages, 1):
    if name not in PRODUCTS:
        ax.annotate(str(number), (per_byte, speed), textcoords="offset points", xytext=(5, 4), fontsize=8)
for per_byte in {intensity[name] for name in PRODUCTS}:  # two columns of squares: one label below each
    column = [(number, stage[2]) for number, stage in enumerate(stages, 1) if stage[4] == per_byte]
    lowest = min(speed for _, speed in column)
    label = "\n".join(str(number) for number, _ in column)
    style = {"fontsize": 8, "ha": "center", "va": "top"}
    ax.annotate(label, (per_byte, lowest), textcoords="offset points", xytext=(0, -8), **style)
ax.text(
    1.02,
    0.5,
    "\n".join(f"{number:2d}  {name}" for number, (name, *_) in enumerate(stages, 1)),
    transform=ax.transAxes,
    fontsize=8,
    va="center",
)
ax.grid(True, which="major", axis="both")
ax.set(xlabel="operations per byte moved", ylabel="GFLOP/s, one thread", title="stages of one fused block")
ax.legend(loc="lower right", fontsize=8)
companion.show("roofline")

# %% [markdown]
# The lower a point lies below the line, the more there is to gain. (Point 6 makes the running statistics:
# each number waits for the one before. It is far below, but it has T numbers to go through, where the
# others have H T.) A point can lie *above* the sloped part: two seconds of the model `small` make arrays of
# 1 MB, which the processor's cache may hold. The line is for memory.

# %%
assert round(small.hidden * T * 4 / 1e6) == 1  # MB in float32
assert stages[5][0] == "statistics"  # point 6, counted from 1

# %% [markdown]
# ## Where this sits in the model
#
# The files in [ops/](../tasnet_np/ops) have the same layers: the formula in NumPy (`_ref`), the loop (`_cpu`),
# the kernel for a GPU (`_cuda`, tutorial 18), and the public function that checks shapes and calls the loop for
# each example, or the kernel where the arrays are on a GPU.
# [cpu.py](../tasnet_np/compute/cpu.py) holds what this tutorial was about: `cpu_kernel` with its options,
# `each` and `over_samples` for the threads. `ConvTasNet(config, path=...)` chooses `reference`, `ops` or
# `fused`.
#
# ## Exercises
#
# 1. Write the gradient $dx$ of the depthwise convolution as a compiled loop over rows. Check it against the
#    library. Does it use packed instructions?
# 2. `fastmath` has the flags `nnan`, `ninf`, `nsz`, `arcp`, `contract`, `afn`, `reassoc`. Give each of them
#    alone to `has_nan`. Which one hides NaN?
# 3. Count with `prange` how many of a million numbers fall into each of ten bins. Every iteration adds 1 to
#    one of the same ten counters: a race. Make it right, with the same answer on any number of threads.
# 4. Three threads add 1 to a total, three steps each. In how many ways can they be woven together? Which
#    totals come out, and how often is it the right one?
#
# Solutions: [solutions/17_numba.py](solutions/17_numba.py).
