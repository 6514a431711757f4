"""The arrays of a fused block that belong together, as its kernels take them. tcn_block.py explains the letters.

A shape without a letter for the batch is that of one sample; the same words stand for arrays with the batch in front.
"""

from typing import NamedTuple

import numpy as np


class Weights(NamedTuple):
    """A block's parameters as the kernels read them."""

    we: np.ndarray  # (H, C); on a CPU as panels, in the backward those of We^T
    be: np.ndarray  # (H,)
    alpha1: np.ndarray  # (1,)
    gamma1: np.ndarray  # (H,)
    beta1: np.ndarray  # (H,)
    wd: np.ndarray  # (H, K); on a CPU (K, H)
    bd: np.ndarray  # (H,)
    alpha2: np.ndarray  # (1,)
    w2: np.ndarray  # (O, H), the rows of the residual before those of the skip; on a CPU as we
    u: np.ndarray  # (O,)
    v: np.ndarray  # (O,)


class Reach(NamedTuple):
    """What the taps of the depthwise convolution see."""

    taps: tuple  # how far each tap is from the first one, in frames; a compiled loop knows its length and unrolls it
    before: int  # frames before the present one that the first tap sees
    after: int  # frames after it that the last tap sees


class Streams(NamedTuple):
    """What goes from block to block, or its gradients. On a GPU channels first."""

    x: np.ndarray  # (T, C)
    skips: np.ndarray  # (T, Sc)


class Kept(NamedTuple):
    """What the backward needs of the forward (on a GPU d, too)."""

    x: np.ndarray  # (T, C)
    a: np.ndarray  # (T, H)
    m1: np.ndarray  # (T,), and so are those below: the statistics of both norms
    r1: np.ndarray
    m2: np.ndarray
    r2: np.ndarray


class Gradients(NamedTuple):
    """Of one sample."""

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
    """Room for the frames at hand."""

    n: np.ndarray  # a window of normalised frames, with those that the taps see beside it, (frames, H)
    d: np.ndarray  # (frames at hand, H)
    z: np.ndarray  # the same


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
