"""The fused block: all that one block of Conv-TasNet does, in few passes over memory.

A block is expand -> PReLU -> norm -> depthwise -> PReLU -> norm -> residual and skip. Each of them is an op
of its own in the files beside this one. Run one by one, they read and write the H x T numbers inside the
block a dozen times. On a CPU that costs more than the arithmetic. Here the same formulas are grouped:

    a  = We x + be                     a product; p = prelu(a) and the sums of p and p^2 over the channels of each frame
    m1, r1 from the sums               T numbers each
    n  = gamma1 (p - m1) r1 + beta1
    d  = depthwise(n)
    z  = prelu(d)                      with the sums of z and z^2
    m2, r2 from the sums
    y  = W2 z                          a product, with the rows of residual and skip
    x' = x + residual, skips' = skips + skip

Each of the three norms gives a frame t a mean m[t] and a factor r[t]. The norms differ only in how m and r follow
from the sums. The second norm is never carried out. With W2 = W diag(gamma2),

    W (gamma2 (z - m2) r2 + beta2) + b  =  r2 (W2 z - m2 u) + v,      u[o] = sum_c W2[o, c],  v = W beta2 + b

because m2 and r2 depend on the frame alone. The right side is a product with z itself, and a correction of rank one.

Backward. dy has the rows of dx' and of dskips', in the order of W. Each line below is the derivative of one line
above. The order is reversed. In effect the forward pass multiplied W2 by  xhat2 = (z - m2) r2:

    M = dy xhat2^T = (dy r2) z^T - e2,          e1[o] = sum_t dy,  e2[o] = sum_t dy r2 m2
    dW = M diag(gamma2) + e1 beta2^T            db = e1
    dgamma2[c] = sum_o W[o, c] M[o, c]          dbeta2[c] = sum_o W[o, c] e1[o]
    g  = W2^T (dy r2)                           the gradient of xhat2, times r2

Let g be the gradient of xhat, times r. A norm's input z then has the gradient  g + A + z D. From norms.py, with sums
over the channels of each frame,

    dv = -1/2 r sum g xhat,     dm = -sum g - 2 m dv

A and D of a frame are sums of dm / n and 2 dv / n, over all frames whose statistics contain that frame. So the backward
has three steps. The first one makes g at the second norm and the two sums. The second one goes back through PReLU, the
depthwise convolution, gamma1 and r1, and makes g and the sums at the first norm. The third one ends at da:

    dWe = da x^T      dbe = sum_t da      dx = dx' + We^T da

Let xhat1 = (p - m1) r1, and let tap k of the depthwise convolution read frame t + o of n for frame t of d. Then

    X[k] = sum_t dd[t] xhat1[t + o],    S[k] = sum_t dd[t]      over the frames t for which there is a frame t + o
    dwd[k] = gamma1 X[k] + beta1 S[k]   dgamma1 = sum_k wd[k] X[k]   dbeta1 = sum_k wd[k] S[k]

The backward keeps x and a, and the m and r of each frame. It computes n, d and z again from a. So it keeps H + B
numbers per frame instead of 6 H + B, and saves writing and reading the others.

tcn_block_cpu.py and tcn_block_cuda.py have the kernels, with these letters and in this order. tcn_block_arrays.py
names the arrays that they pass on together.

(The first design for the CPU had channels first, and BLAS's products between passes over all frames. It was
slower: BLAS read from memory what the passes had written, and the threads waited for each other some twenty times a
block. A single kernel for each direction was 1 or 2 % faster on two threads, but took twice as long to compile.)
"""

import numpy as np

from tasnet_np.compute.arrays import by_place, sizes
from tasnet_np.compute.cpu import over_samples
from tasnet_np.compute.cpu_product import panels
from tasnet_np.ops import depthwise, elementwise, norms, pointwise
from tasnet_np.ops.frame_statistics import CODES, EPS
from tasnet_np.ops.tcn_block_arrays import Ends, Folded, Gradients, Kept, Reach, Streams, Weights
from tasnet_np.ops.tcn_block_cpu import (
    fold_backward_cpu,
    fold_forward_cpu,
    tcn_block_backward_cpu,
    tcn_block_forward_cpu,
    tcn_blocks_inference_cpu,
)
from tasnet_np.ops.tcn_block_cuda import tcn_block_backward_cuda, tcn_block_forward_cuda

# The reference: a composition of the small ops' references.


def _chain_ref(x, we, be, alpha1, gamma1, beta1, wd, bd, alpha2, gamma2, beta2, norm, eps, reach):
    """The inputs of the six ops inside the block, and the output of the last."""
    norm = getattr(norms, f"{norm}_forward_ref")
    a = pointwise.pointwise_forward_ref(x, we, be)
    p = elementwise.prelu_forward_ref(a, alpha1)
    n = norm(p, gamma1, beta1, eps=eps)
    d = depthwise.depthwise_forward_ref(n, wd, bd, **reach)
    z = elementwise.prelu_forward_ref(d, alpha2)
    return a, p, n, d, z, norm(z, gamma2, beta2, eps=eps)


def tcn_block_forward_ref(
    x, skips, we, be, alpha1, gamma1, beta1, wd, bd, alpha2, gamma2, beta2, ws, bs, wr=None, br=None,
    *, norm, dilation=1, lookahead=0, eps=EPS,
):  # fmt: skip
    inner = (we, be, alpha1, gamma1, beta1, wd, bd, alpha2, gamma2, beta2)
    h = _chain_ref(x, *inner, norm, eps, {"dilation": dilation, "lookahead": lookahead})[-1]
    skips = skips + pointwise.pointwise_forward_ref(h, ws, bs)
    return (x if wr is None else x + pointwise.pointwise_forward_ref(h, wr, br)), skips


def tcn_block_backward_ref(
    dy, x, skips, we, be, alpha1, gamma1, beta1, wd, bd, alpha2, gamma2, beta2, ws, bs, wr=None, br=None,
    *, norm, dilation=1, lookahead=0, eps=EPS,
):  # fmt: skip
    dx, dskips = dy
    reach = {"dilation": dilation, "lookahead": lookahead}
    inner = (we, be, alpha1, gamma1, beta1, wd, bd, alpha2, gamma2, beta2)
    a, p, n, d, z, h = _chain_ref(x, *inner, norm, eps, reach)
    norm = getattr(norms, f"{norm}_backward_ref")
    dh, *dskip = pointwise.pointwise_backward_ref(dskips, h, ws, bs)
    dresidual = []
    if wr is not None:
        dh_residual, *dresidual = pointwise.pointwise_backward_ref(dx, h, wr, br)
        dh = dh + dh_residual
    dz, *dnorm2 = norm(dh, z, gamma2, beta2, eps=eps)
    dd, *dprelu2 = elementwise.prelu_backward_ref(dz, d, alpha2)
    dn, *ddepthwise = depthwise.depthwise_backward_ref(dd, n, wd, bd, **reach)
    dp, *dnorm1 = norm(dn, p, gamma1, beta1, eps=eps)
    da, *dprelu1 = elementwise.prelu_backward_ref(dp, a, alpha1)
    dx_expand, *dexpand = pointwise.pointwise_backward_ref(da, x, we, be)
    inner = (*dexpand, *dprelu1, *dnorm1, *ddepthwise, *dprelu2, *dnorm2)
    return dx + dx_expand, dskips, *inner, *dskip, *dresidual


# The public op. On a CPU, the arrays inside are frames first.


def _folded(ends):
    """w2, u and v: the second norm as a part of the product after it. The residual's rows stand above the skip's."""
    gamma2, beta2, ws, bs, wr, br = ends
    R = 0 if wr is None else len(wr)
    w2 = np.empty((R + len(ws), ws.shape[1]), ws.dtype)
    u, v = np.empty((2, len(w2)), ws.dtype)
    if R:
        fold_forward_cpu(w2[:R], u[:R], v[:R], wr, br, gamma2, beta2)
    fold_forward_cpu(w2[R:], u[R:], v[R:], ws, bs, gamma2, beta2)
    return w2, u, v


def _frames_first(x):
    """(B, channels, T) -> (B, T, channels), with the channels of a frame side by side in memory.

    The arrays that a block returns already have this order in memory. They are not copied.
    """
    return np.ascontiguousarray(x.transpose(0, 2, 1))


def _channels_first(x):
    """(B, T, channels) -> (B, channels, T), as a view of the same numbers."""
    return x.transpose(0, 2, 1)


def _reach(K, dilation, lookahead):
    """The taps' reach as the kernels take it."""
    return Reach(tuple(k * dilation for k in range(K)), (K - 1) * dilation - lookahead, lookahead)


def _check(streams, inner, ends, dilation, lookahead):
    """Raise an error for arrays that do not fit, and for taps that cannot look so far ahead."""
    we, be, alpha1, gamma1, beta1, wd, bd, alpha2 = inner
    gamma2, beta2, ws, bs, wr, br = ends
    x, skips = streams
    (K,) = sizes(
        "K", x=(x, "B C T"), skips=(skips, "B Sc T"), we=(we, "H C"), be=(be, "H"), alpha1=(alpha1, "1"),
        gamma1=(gamma1, "H"), beta1=(beta1, "H"), wd=(wd, "H K"), bd=(bd, "H"), alpha2=(alpha2, "1"),
        gamma2=(gamma2, "H"), beta2=(beta2, "H"), ws=(ws, "Sc H"), bs=(bs, "Sc"),
    )  # fmt: skip
    if wr is not None:
        sizes("", x=(x, "B C T"), wr=(wr, "C H"), br=(br, "C"), be=(be, "H"))
    depthwise.check_reach(K, dilation, lookahead)


def _kernel_weights(inner, w2, u, v):
    """The parameters as the forward kernels of the CPU read them."""
    we, be, alpha1, gamma1, beta1, wd, bd, alpha2 = inner
    wd = np.ascontiguousarray(wd.T)
    return Weights(panels(we), be, alpha1, gamma1, beta1, wd, bd, alpha2, panels(w2), u, v)


def _forward_on_cpu(streams, inner, ends, norm, eps, reach):
    w2, u, v = _folded(ends)
    weights = _kernel_weights(inner, w2, u, v)
    reach = _reach(len(weights.wd), *reach)
    x, skips = map(_frames_first, streams)
    (B, T, _), H = x.shape, len(weights.be)
    kept = Kept(x, np.empty((B, T, H), x.dtype), *np.empty((4, B, T), x.dtype))
    out = Streams(x if ends.wr is None else np.empty_like(x), np.empty_like(skips))
    over_samples(tcn_block_forward_cpu, (out, kept, Streams(x, skips)), (weights, norm, eps, reach))
    return map(_channels_first, out), (kept, weights, inner[0], w2, ends, norm, reach)


def _backward_on_cpu(dy, cache):
    kept, weights, we, w2, ends, norm, reach = cache
    B, _, H = kept.a.shape
    dy = Streams(*map(_frames_first, dy))
    dx = np.empty_like(kept.x)
    K = len(weights.wd)
    shapes = (we.shape, (H,), (1,), (H,), (H,), (H, K), (H,), (1,), w2.shape, (len(w2),))
    parts = Gradients(*(np.empty((B, *shape), dx.dtype) for shape in shapes))  # one part per sample
    weights = weights._replace(we=panels(we.T), w2=panels(w2.T))
    over_samples(tcn_block_backward_cpu, (dx, parts, dy, kept), (weights, norm, reach))
    *inner, dw, db = (part[0] if B == 1 else part.sum(axis=0) for part in parts)
    dgamma2, dbeta2 = np.zeros((2, H), dx.dtype)
    R = len(w2) - len(ends.ws)
    if R:
        fold_backward_cpu(dw[:R], dgamma2, dbeta2, db[:R], ends.wr, ends.gamma2, ends.beta2)
    fold_backward_cpu(dw[R:], dgamma2, dbeta2, db[R:], ends.ws, ends.gamma2, ends.beta2)
    residual = (dw[:R], db[:R]) if R else ()
    return _channels_first(dx), _channels_first(dy.skips), *inner, dgamma2, dbeta2, dw[R:], db[R:], *residual


def tcn_block_forward(
    x: np.ndarray, skips: np.ndarray, we: np.ndarray, be: np.ndarray,
    alpha1: np.ndarray, gamma1: np.ndarray, beta1: np.ndarray, wd: np.ndarray, bd: np.ndarray,
    alpha2: np.ndarray, gamma2: np.ndarray, beta2: np.ndarray,
    ws: np.ndarray, bs: np.ndarray, wr: np.ndarray | None = None, br: np.ndarray | None = None,
    *, norm: str, dilation: int = 1, lookahead: int = 0, eps: float = EPS,
) -> tuple[tuple[np.ndarray, np.ndarray], tuple]:  # fmt: skip
    """One block.

    Parameters
    ----------
    x : ndarray, shape (B, C, T)
        Goes from block to block.
    skips : ndarray, shape (B, Sc, T)
        Sum of the skip connections so far.
    we, be : ndarray, shape (H, C) and (H,)
        Expand.
    alpha1, gamma1, beta1 : ndarray, shape (1,), (H,) and (H,)
        PReLU and norm before the depthwise convolution.
    wd, bd : ndarray, shape (H, K) and (H,)
        Depthwise convolution.
    alpha2, gamma2, beta2 : ndarray, shape (1,), (H,) and (H,)
        PReLU and norm after it.
    ws, bs : ndarray, shape (Sc, H) and (Sc,)
        Skip.
    wr, br : ndarray, shape (C, H) and (C,), optional
        Residual. The last block has none.
    norm : str
        "global_layer_norm", "cumulative_layer_norm" or "channel_layer_norm".
    dilation, lookahead : int
        As in `depthwise_forward`.
    eps : float
        Added to the variances.

    Returns
    -------
    y : tuple of ndarray, shapes (B, C, T) and (B, Sc, T)
        x and skips for the next block. In the last block, y[0] holds the values of x.
    cache : tuple

    Raises
    ------
    ValueError, TypeError
        Shapes or dtypes that do not fit; a setting out of range.
    KeyError
        Another norm.
    """
    inner, ends = (we, be, alpha1, gamma1, beta1, wd, bd, alpha2), Ends(gamma2, beta2, ws, bs, wr, br)
    _check((x, skips), inner, ends, dilation, lookahead)
    forward = by_place(x, _forward_on_cpu, tcn_block_forward_cuda)
    streams, cache = forward(Streams(x, skips), inner, ends, CODES[norm], eps, (dilation, lookahead))
    return tuple(streams), cache


def tcn_block_backward(dy: tuple[np.ndarray, np.ndarray], cache: tuple) -> tuple[np.ndarray, ...]:
    """Gradients of a block.

    Parameters
    ----------
    dy : tuple of ndarray, shapes (B, C, T) and (B, Sc, T)
        Gradients of both outputs.
    cache : tuple
        From `tcn_block_forward`.

    Returns
    -------
    dx, dskips, dwe, ... : ndarray
        One for each array that the forward was given, of its shape and in its place.
    """
    dx_next, dskips = dy
    return by_place(dskips, _backward_on_cpu, tcn_block_backward_cuda)(Streams(dx_next, dskips), cache)


def tcn_blocks_inference(x, skips, blocks):
    """Run blocks one after another without caches. This takes less memory, and is parallel even in a batch of one.

    Parameters
    ----------
    x, skips : ndarray, shape (B, C, T) and (B, Sc, T)
        As in `tcn_block_forward`.
    blocks : list of (tuple, dict)
        Each block's arrays, in the order of `tcn_block_forward`, and its settings.

    Returns
    -------
    x, skips : ndarray, of the same shapes
    """
    return by_place(x, _inference_on_cpu, _inference_on_gpu)(x, skips, blocks)


def _inference_on_gpu(x, skips, blocks):
    for arrays, settings in blocks:
        (x, skips), _ = tcn_block_forward(x, skips, *arrays, **settings)
    return x, skips


def _inference_on_cpu(x, skips, blocks):
    folded = [_folded_block(Streams(x, skips), arrays, **settings) for arrays, settings in blocks]
    x, skips = (np.array(array.transpose(0, 2, 1), order="C") for array in (x, skips))
    for i in range(len(x)):
        tcn_blocks_inference_cpu(Streams(x[i], skips[i]), folded)
    return _channels_first(x), _channels_first(skips)


def _folded_block(streams, arrays, *, norm, dilation=1, lookahead=0, eps=EPS):
    inner, ends = arrays[:8], Ends(*arrays[8:])  # up to alpha2, and from gamma2 on
    _check(streams, inner, ends, dilation, lookahead)
    weights = _kernel_weights(inner, *_folded(ends))
    return Folded(weights, CODES[norm], eps, _reach(len(weights.wd), dilation, lookahead))
