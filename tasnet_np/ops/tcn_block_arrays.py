"""The arrays of a fused block that belong together, as its kernels take them. tcn_block.py explains the letters.

The shapes are those of one sample. The same NamedTuples also hold arrays with the batch as a first axis.
"""

from typing import NamedTuple

import numpy as np


class Weights(NamedTuple):
    """A block's parameters as the kernels read them."""

    we: np.ndarray  # (H, C); on a CPU the `panels` of We, and in the backward those of We^T
    be: np.ndarray  # (H,)
    alpha1: np.ndarray  # (1,)
    gamma1: np.ndarray  # (H,)
    beta1: np.ndarray  # (H,)
    wd: np.ndarray  # (H, K); on a CPU (K, H)
    bd: np.ndarray  # (H,)
    alpha2: np.ndarray  # (1,)
    w2: np.ndarray  # (O, H), the rows of the residual before those of the skip; on a CPU panels, as for we
    u: np.ndarray  # (O,)
    v: np.ndarray  # (O,)


class Reach(NamedTuple):
    """What the taps of the depthwise convolution see."""

    taps: tuple  # frames from the first tap to each tap; the compiler unrolls loops over a tuple
    before: int  # how many frames before the present one the first tap sees
    after: int  # how many frames after it the last tap sees


class Streams(NamedTuple):
    """The two arrays that go from block to block, or their gradients. On a GPU they are channels first."""

    x: np.ndarray  # (T, C)
    skips: np.ndarray  # (T, Sc)


class Kept(NamedTuple):
    """What the forward keeps for the backward (on a GPU it keeps d, too)."""

    x: np.ndarray  # (T, C)
    a: np.ndarray  # (T, H)
    m1: np.ndarray  # (T,), like the three below: the statistics of both norms
    r1: np.ndarray
    m2: np.ndarray
    r2: np.ndarray


class Gradients(NamedTuple):
    """The gradients of a block's parameters from one sample."""

    we: np.ndarray  # (H, C)
    be: np.ndarray
    alpha1: np.ndarray
    gamma1: np.ndarray
    beta1: np.ndarray
    wd: np.ndarray  # (H, K)
    bd: np.ndarray
    alpha2: np.ndarray
    M: np.ndarray  # (O, H)
    e1: np.ndarray  # (O,)


class Room(NamedTuple):
    """Arrays for the chunk of frames that is being computed."""

    n: np.ndarray  # (frames, H): the normalised frames of a window, and those beside it that the taps see
    d: np.ndarray  # (frames of the chunk, H)
    z: np.ndarray  # (frames of the chunk, H)


class Ends(NamedTuple):
    """The parameters of the second norm and of the products after it, or their gradients."""

    gamma2: np.ndarray  # (H,)
    beta2: np.ndarray  # (H,)
    ws: np.ndarray  # (Sc, H)
    bs: np.ndarray  # (Sc,)
    wr: np.ndarray | None = None  # (C, H); None in the last block
    br: np.ndarray | None = None  # (C,)


class Folded(NamedTuple):
    """A block as inference needs it."""

    weights: Weights
    norm: int
    eps: float
    reach: Reach
