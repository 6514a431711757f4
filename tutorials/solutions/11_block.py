# %% [markdown]
# # 11. A block: solutions
#
# Minutes: 10. Before: [11. A block](../11_block.py).
#
# Parameters counted by hand, a residual that nobody hears, rows of the right length, and the reach of a norm.

# %%
import sys
from pathlib import Path

# companion.py lies in the folder above, both for a script and for a notebook.
sys.path.insert(0, str(Path(globals().get("__file__", "notebook")).resolve().parents[1]))
import companion

import numpy as np

from tasnet_np.network.config import Config
from tasnet_np.network.execution import ConvTasNet

rng = np.random.default_rng(11)

# %% [markdown]
# ## 1. Parameters of one block
#
# With $B = Sc = 128$ channels outside, $H = 512$ inside and $P = 3$ taps:
#
# | op | parameters | |
# |---|---|---|
# | expand | $H B + H$ | 66 048 |
# | PReLU, twice | $1 + 1$ | 2 |
# | norm, twice | $2 H + 2 H$ | 2048 |
# | depthwise | $H P + H$ | 2048 |
# | residual | $B H + B$ | 65 664 |
# | skip | $Sc\, H + Sc$ | 65 664 |
#
# Together 201 474. Looking along time, what the block is there for, takes 1 % of them. (The model here has fewer
# blocks than the preset. One block is the same in both.)

# %%
B = Sc = 128
H, P = 512, 3
by_hand = {
    "expand": H * B + H, "prelu1": 1, "norm1": 2 * H, "depthwise": H * P + H, "prelu2": 1, "norm2": 2 * H,
    "skip": Sc * H + Sc, "residual": B * H + B,
}  # fmt: skip
paper = Config(
    filters=512, bottleneck=128, hidden=512, skip=128, blocks=2, repeats=1, norm="gLN", causal=False
)
block = ConvTasNet(paper, seed=0).blocks[0]
counted = {name: sum(array.size for array in part.params.values()) for name, part in block.parts.items()}
assert counted == by_hand
assert (by_hand["expand"], by_hand["norm1"] * 2, by_hand["depthwise"], by_hand["skip"]) == (
    66_048,
    2048,
    2048,
    65_664,
)
assert sum(by_hand.values()) == 201_474
assert round(by_hand["depthwise"] / 201_474, 2) == 0.01

# %% [markdown]
# ## 2. A residual that nobody hears
#
# The masks are made of the skips. So the last `x` has no use, and its gradient is zero: in the model, `dx` starts as
# zeros at the top of the row. The weights of the residual get $dw_r = dx' h^T = 0$. A check for finite numbers
# passes. So does a check against finite differences, for zero is the right gradient. Only a test that asks for *some*
# gradient in every parameter finds it.

# %%
config = Config(filters=16, bottleneck=8, hidden=12, skip=8, blocks=3, repeats=1)
block = ConvTasNet(config, seed=0, dtype=np.float64, path="ops").blocks[0]  # the first one has a residual
x, skips = rng.standard_normal((1, 8, 40)), np.zeros((1, 8, 40))
block.forward(x, skips)
block.backward(np.zeros((1, 8, 40)), rng.standard_normal((1, 8, 40)))  # as if it were the last one
grads = block.grads
assert (grads["residual.w"] == 0).all() and (grads["residual.b"] == 0).all()
assert all(np.isfinite(gradient).all() for gradient in grads.values())
with companion.fails("parameters that no output depends on"):
    unused = [name for name, gradient in grads.items() if not gradient.any()]
    assert not unused, f"no gradient at all: {', '.join(unused)}"

# %% [markdown]
# ## 3. Two seconds
#
# Two seconds are 2000 frames of 8 samples. So $1 + 2 \cdot 2 \cdot (2^X - 1) \ge 2000$, that is $2^X \ge 500.75$: nine
# blocks per row. Eight reach only 1021 frames.

# %%
reach = {X: Config(blocks=X).receptive_field_frames for X in (8, 9)}
assert reach == {8: 1021, 9: 2045}
assert Config(blocks=8).receptive_field_seconds < 2 < Config(blocks=9).receptive_field_seconds

# %% [markdown]
# ## 4. The reach of a norm
#
# With the cumulative norm every earlier frame has some influence. But it comes through two numbers only, the mean and
# the variance. A word cannot pass through them, only the level can. The convolutions hear details, and their reach is
# what `receptive_field_frames` counts. In the gradient, what lies outside of it is a hundred times weaker than the
# frames nearby.

# %%
model = ConvTasNet(Config(), seed=0, dtype=np.float64)
x, skips = rng.standard_normal((1, 64, 601)), np.zeros((1, 64, 601))
for block in model.blocks:
    x, skips = block.forward(x, skips)
dx, dskips = np.zeros_like(x), np.zeros_like(skips)
dskips[:, :, 600] = rng.standard_normal(64)
for block in reversed(model.blocks):
    dx, dskips = block.backward(dx, dskips)
heard = np.linalg.norm(dx[0], axis=0)
assert (heard > 0).all()  # all 601 frames of the past
outside = heard[: 601 - 253]
assert outside.mean() < heard[-50:].mean() / 100
