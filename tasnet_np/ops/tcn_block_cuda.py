"""The fused block's kernels on the GPU. tcn_block.py has the derivation; the letters are the same here.

Here arrays are channels first, (B, channels, T), like everywhere else, and d is kept, too. The steps are grouped
around the products, each of which has a function that reads its entries and one that takes its results:

* the functions for the results add the bias, make the sums for the first norm, and add the residual;
* the functions for the entries make prelu(d) and xhat2 where a product reads them;
* dy r2 is never made, because r2 is a factor of a whole frame: it can scale the frame of the result instead.

Sums over the channels of a frame come in parts, one for each row of tiles. The scan of norms_cuda.py adds up the parts
in their order. R is the number of rows of the residual, which are the first rows of the second product.
"""

from typing import NamedTuple

import numpy as np

from tasnet_np.compute.arrays import empty, empty_in_a_row
from tasnet_np.compute.gpu import THREADS, block_sum, cuda, cuda_function, cuda_kernel, sum_parts, tiles
from tasnet_np.compute.gpu_product import (
    ROWS,
    TiledProduct,
    frames,
    pieces_of,
    store_part,
    weight,
    weight_transposed,
)
from tasnet_np.ops import norms_cuda, pointwise
from tasnet_np.ops.frame_statistics import Spread, Statistics
from tasnet_np.ops.tcn_block_arrays import Ends, Kept, Streams, Weights

CHANNELS = norms_cuda.CHANNELS  # channels that a block of threads goes through
# In _middle_backward_cuda, the partial sums of each value of a channel. In _unfold_cuda, the channels of a block.
LANES = min(32, THREADS // 4)


class Middle(NamedTuple):
    """The parameters between the two products."""

    alpha1: np.ndarray
    gamma1: np.ndarray
    beta1: np.ndarray
    wd: np.ndarray
    bd: np.ndarray
    alpha2: np.ndarray


class MiddleKept(NamedTuple):
    """What the backward of the middle needs of the forward. m and r are the statistics of the first norm."""

    d: np.ndarray
    a: np.ndarray
    m: np.ndarray
    r: np.ndarray


class MiddleParts(NamedTuple):
    """Parts of the gradients of the middle's parameters.

    The 3 + K values of a channel are sums of dd (for dbd), of dn xhat and dn (for dgamma1 and dbeta1), and, for each
    tap, of dd times what the tap read (for dwd).
    """

    channels: np.ndarray  # (B * tiles, H, 3 + K)
    alpha2: np.ndarray  # (groups * B * tiles,)


@cuda_kernel
def _fold_cuda(w2, u, v, ends, R):
    """w2, u and v: the second norm as a part of the second product. A block of threads makes one row."""
    scratch = cuda.shared.array(THREADS, np.float64)
    gamma2, beta2, ws, bs, wr, br = ends
    o, H = cuda.blockIdx.x, w2.shape[1]
    total, shift = 0.0, 0.0
    for c in range(cuda.threadIdx.x, H, THREADS):
        w = wr[o, c] if o < R else ws[o - R, c]
        w2[o, c] = w * gamma2[c]
        total += w2[o, c]
        shift += np.float64(w) * np.float64(beta2[c])
    total = block_sum(total, scratch)
    shift = block_sum(shift, scratch)
    if cuda.threadIdx.x == 0:
        u[o] = total
        v[o] = shift + (br[o] if o < R else bs[o - R])


@cuda_function
def _expand_forward_cuda(outputs, others, z, b, c, t, value):
    """Writes a = We x + be. Returns p = prelu(a) and p^2 for the sums."""
    be, alpha = others
    a = value + be[c]
    outputs[0][b, c, t] = a
    p = np.float64(a if a > 0 else alpha[0] * a)
    return p, p * p


@cuda_kernel
def _middle_forward_cuda(d, sums, a, statistics, middle, dilation, lookahead):
    """d = depthwise(norm(prelu(a))), and the sums of z = prelu(d) and z^2 over groups of channels, (groups, B, T)."""
    (m, r), (alpha1, gamma, beta, w, b, alpha2) = statistics, middle
    H, T, K = a.shape[1], a.shape[2], w.shape[1]
    i, group, sample = cuda.threadIdx.x, cuda.blockIdx.y, cuda.blockIdx.z
    start, halo = cuda.blockIdx.x * THREADS, (K - 1) * dilation
    t = start + i
    row = cuda.shared.array(0, a.dtype)  # the normalised frames from start - halo + lookahead on
    total, total_squares = 0.0, 0.0
    for c in range(group * CHANNELS, min(H, (group + 1) * CHANNELS)):
        for j in range(i, THREADS + halo, THREADS):
            read = start - halo + lookahead + j
            row[j] = 0
            if read >= 0 and read < T:
                value = a[sample, c, read]
                p = value if value > 0 else alpha1[0] * value
                row[j] = gamma[c] * ((p - m[sample, read]) * r[sample, read]) + beta[c]
        cuda.syncthreads()
        if t < T:
            value = b[c]
            for k in range(K):
                value += w[c, k] * row[i + k * dilation]
            d[sample, c, t] = value
            z = np.float64(value if value > 0 else alpha2[0] * value)
            total += z
            total_squares += z * z
        cuda.syncthreads()
    if t < T:
        sums.s[group, sample, t] = total
        sums.q[group, sample, t] = total_squares


@cuda_function
def _z_cuda(arrays, b, c, t):
    d, alpha = arrays
    value = d[b, c, t]
    return value if value > 0 else alpha[0] * value


@cuda_function
def _join_forward_cuda(outputs, others, z, b, o, t, value):
    """y with the second norm's correction, added to the residual path or to the skip sum."""
    x, skips, m, r, u, v, R = others
    y = r[b, t] * (value - m[b, t] * u[o]) + v[o]
    if o < R:
        outputs[0][b, o, t] = x[b, o, t] + y
    else:
        outputs[1][b, o - R, t] = skips[b, o - R, t] + y
    return value, value


@cuda_function
def _dy_cuda(arrays, b, o, t):
    """An entry of dy: the rows of dx' come first, then those of dskips'."""
    dx, dskips, R = arrays
    return dx[b, o, t] if o < R else dskips[b, o - R, t]


@cuda_function
def _second_norm_backward_cuda(outputs, others, z, b, c, t, value):
    """Writes g = W2^T (dy r2). Returns g and g xhat2 for the sums."""
    d, m, r, alpha = others
    g = value * r[b, t]
    outputs[0][b, c, t] = g
    middle = d[b, c, t]
    activated = middle if middle > 0 else alpha[0] * middle
    xhat = (np.float64(activated) - m[b, t]) * r[b, t]
    return np.float64(g), np.float64(g) * xhat


@cuda_function
def _xhat2_transposed_cuda(arrays, b, t, c):
    d, m, r, alpha = arrays
    value = d[b, c, t]
    return ((value if value > 0 else alpha[0] * value) - m[b, t]) * r[b, t]


@cuda_kernel
def _middle_backward_cuda(g1, parts, sums, g, spread, kept, middle, reach):
    """From g at the second norm to g1 at the first one, with parts of all sums that are needed next.

    `sums` (groups, B, T) are those of g1 and g1 xhat over a group's channels.
    """
    (d, a, m, r), (A, D), (dilation, lookahead) = kept, spread, reach
    alpha1, gamma, beta, w, _, alpha2 = middle
    H, T, K = a.shape[1], a.shape[2], w.shape[1]
    i, group, sample = cuda.threadIdx.x, cuda.blockIdx.y, cuda.blockIdx.z
    part = sample * cuda.gridDim.x + cuda.blockIdx.x
    start, halo = cuda.blockIdx.x * THREADS, (K - 1) * dilation
    s, first, values = start + i, group * CHANNELS, 3 + K
    scratch = cuda.shared.array(THREADS, np.float64)
    shared = cuda.shared.array(0, a.dtype)
    dd = shared[: THREADS + halo]  # of the frames from start - lookahead on
    terms = shared[THREADS + halo :]  # each thread's terms of the sums of a channel: values x THREADS
    lanes = shared[THREADS + halo + values * THREADS :]  # partial sums of them: channels x values x LANES
    zero = a.dtype.type(0)
    total_alpha, total, total_x = 0.0, 0.0, 0.0
    for c in range(first, min(H, first + CHANNELS)):
        db_c = zero
        for j in range(i, THREADS + halo, THREADS):
            t = start - lookahead + j
            dd[j] = zero
            if t >= 0 and t < T:  # in the forward pass this was z = prelu(d), and its norm
                middle = d[sample, c, t]
                z = middle if middle > 0 else alpha2[0] * middle
                dz = g[sample, c, t] + A[sample, t] + z * D[sample, t]
                dd[j] = dz if middle > 0 else alpha2[0] * dz
                if j >= lookahead and j < lookahead + THREADS:  # this tile's own frames
                    db_c += dd[j]
                    if middle <= 0:
                        total_alpha += np.float64(dz) * np.float64(middle)
        cuda.syncthreads()
        xhat, dn = zero, zero
        if s < T:
            value = a[sample, c, s]
            xhat = ((value if value > 0 else alpha1[0] * value) - m[sample, s]) * r[sample, s]
        # in the forward pass this was d[t] += w[k] * (gamma * xhat[s] + beta), s = t + offset(k)
        for k in range(K):
            upstream = dd[i + (K - 1 - k) * dilation]
            terms[(3 + k) * THREADS + i] = zero
            if s < T:
                dn += w[c, k] * upstream
                terms[(3 + k) * THREADS + i] = upstream * (gamma[c] * xhat + beta[c])
        terms[i] = db_c
        terms[THREADS + i] = dn * xhat
        terms[2 * THREADS + i] = dn
        if s < T:
            gradient = gamma[c] * dn * r[sample, s]
            g1[sample, c, s] = gradient
            total += np.float64(gradient)
            total_x += np.float64(gradient) * np.float64(xhat)
        cuda.syncthreads()
        for j in range(i, values * LANES, THREADS):
            lane_total = zero
            for thread in range(j % LANES, THREADS, LANES):
                lane_total += terms[j // LANES * THREADS + thread]
            lanes[(c - first) * values * LANES + j] = lane_total
    cuda.syncthreads()
    for j in range(i, (min(H, first + CHANNELS) - first) * values, THREADS):
        value = 0.0
        for lane in range(LANES):
            value += lanes[j * LANES + lane]
        parts.channels[part, first + j // values, j % values] = value
    total_alpha = block_sum(total_alpha, scratch)
    if i == 0:
        parts.alpha2[group * cuda.gridDim.x * cuda.gridDim.z + part] = total_alpha
    if s < T:
        sums.s[group, sample, s] = total
        sums.q[group, sample, s] = total_x


@cuda_kernel
def _middle_sums_cuda(db, dgamma, dbeta, dw, sums):
    """Add up the parts of the channels' sums. A block of threads takes one value of one channel."""
    scratch = cuda.shared.array(THREADS, np.float64)
    value, c = cuda.blockIdx.x, cuda.blockIdx.y
    total = 0.0
    for part in range(cuda.threadIdx.x, len(sums), THREADS):
        total += sums[part, c, value]
    total = block_sum(total, scratch)
    if cuda.threadIdx.x == 0:
        if value == 0:
            db[c] = total
        elif value == 1:
            dgamma[c] = total
        elif value == 2:
            dbeta[c] = total
        else:
            dw[c, value - 3] = total


@cuda_kernel
def _expand_backward_cuda(g, dalpha, a, spread, alpha):
    """g at the first norm becomes da, in place. dalpha (blocks,) is in parts."""
    A, D = spread
    scratch = cuda.shared.array(THREADS, np.float64)
    t, group, sample = cuda.grid(1), cuda.blockIdx.y, cuda.blockIdx.z
    H, T = a.shape[1], a.shape[2]
    total = 0.0
    if t < T:
        for c in range(group * CHANNELS, min(H, (group + 1) * CHANNELS)):
            value = a[sample, c, t]  # in the forward pass this was p = prelu(a), and its norm
            p = value if value > 0 else alpha[0] * value
            dp = g[sample, c, t] + A[sample, t] + p * D[sample, t]
            g[sample, c, t] = dp if value > 0 else alpha[0] * dp
            if value <= 0:
                total += np.float64(dp) * np.float64(value)
    total = block_sum(total, scratch)
    if cuda.threadIdx.x == 0:
        dalpha[(sample * cuda.gridDim.y + group) * cuda.gridDim.x + cuda.blockIdx.x] = total


@cuda_function
def _dx_cuda(outputs, others, z, b, c, t, value):
    outputs[0][b, c, t] = others[0][b, c, t] + value
    return value, value


@cuda_kernel
def _unfold_cuda(gradients, M, e1, ends, R):
    """From M and e1, the gradients of W2 and v, to those of W, b, gamma2 and beta2. A block takes LANES channels."""
    dgamma2, dbeta2, dws, dbs, dwr, dbr = gradients
    gamma2, beta2, ws, _, wr, _ = ends
    from_w = cuda.shared.array(THREADS, np.float64)
    from_e1 = cuda.shared.array(THREADS, np.float64)
    i, (O, H) = cuda.threadIdx.x, M.shape
    c = cuda.blockIdx.x * LANES + i % LANES
    total, total_e1 = 0.0, 0.0
    if c < H:
        for o in range(i // LANES, O, THREADS // LANES):
            dw = M[o, c] * gamma2[c] + e1[o] * beta2[c]
            if o < R:
                w = wr[o, c]
                dwr[o, c] = dw
            else:
                w = ws[o - R, c]
                dws[o - R, c] = dw
            total += np.float64(w) * np.float64(M[o, c])
            total_e1 += np.float64(w) * np.float64(e1[o])
            if c == 0 and o < R:
                dbr[o] = e1[o]
            elif c == 0:
                dbs[o - R] = e1[o]
    from_w[i] = total
    from_e1[i] = total_e1
    cuda.syncthreads()
    if i < LANES and c < H:
        for other in range(i + LANES, THREADS, LANES):
            total += from_w[other]
            total_e1 += from_e1[other]
        dgamma2[c] = total
        dbeta2[c] = total_e1


_expand = TiledProduct(f"{__name__}._expand", weight, frames, _expand_forward_cuda, frame_sums=True)
_join = TiledProduct(f"{__name__}._join", weight, _z_cuda, _join_forward_cuda)
_g = TiledProduct(
    f"{__name__}._g",
    weight_transposed,
    _dy_cuda,
    _second_norm_backward_cuda,
    left_along_k=False,
    frame_sums=True,
)
_M = TiledProduct(
    f"{__name__}._M", _dy_cuda, _xhat2_transposed_cuda, store_part, right_along_k=True, row_sums=True
)
_dx = TiledProduct(f"{__name__}._dx", weight_transposed, frames, _dx_cuda, left_along_k=False)


def _without_none(ends):
    """Ends that a kernel accepts: other arrays stand for a missing residual. Where R = 0, no kernel touches them."""
    return ends if ends.wr is not None else ends._replace(wr=ends.ws, br=ends.bs)


def tcn_block_forward_cuda(streams, inner, ends, norm, eps, reach):
    """Returns the next streams and the cache. inner: the block's arrays up to alpha2; reach: (dilation, lookahead)."""
    x, skips = streams
    we, be, alpha1, gamma1, beta1, wd, bd, alpha2 = inner
    (B, C, T), (H, K) = x.shape, wd.shape
    R = 0 if ends.wr is None else C
    O = R + len(ends.ws)
    w2, u, v = (empty(shape, like=x) for shape in ((O, H), (O,), (O,)))
    _fold_cuda[O, THREADS](w2, u, v, _without_none(ends), R)

    kept = Kept(x, empty((B, H, T), like=x), *(empty((B, T), like=x) for _ in range(4)))
    first, second = Statistics(kept.m1, kept.r1), Statistics(kept.m2, kept.r2)
    sums = norms_cuda.parts_of_sums(tiles(H, ROWS), first)
    _expand.launch((kept.a,), (we,), (x,), (B, H, T, C), others=(be, alpha1), parts=sums)
    norms_cuda.statistics_forward_cuda(first, sums, H, norm, eps)

    groups, d = tiles(H, CHANNELS), empty((B, H, T), like=x)
    sums = norms_cuda.parts_of_sums(groups, first)
    shared = THREADS + (K - 1) * reach[0]
    _middle_forward_cuda[(tiles(T), groups, B), THREADS, shared, x.dtype](
        d, sums, kept.a, first, Middle(alpha1, gamma1, beta1, wd, bd, alpha2), *reach
    )
    norms_cuda.statistics_forward_cuda(second, sums, H, norm, eps)

    out = Streams(empty(x.shape, like=x) if R else x, empty(skips.shape, like=x))
    others = (x, skips, *second, u, v, R)
    _join.launch(out, (w2,), (d, alpha2), (B, O, T, H), others=others)
    return out, (kept, d, Weights(*inner, w2, u, v), ends, norm, reach)


def tcn_block_backward_cuda(dy, cache):
    """Returns the gradients of all arrays, in the order of the public op."""
    kept, d, weights, ends, norm, reach = cache
    x, a = kept.x, kept.a
    dx = empty(x.shape, like=x)
    inner = weights[:8]
    shapes = [array.shape for array in (*inner, *ends) if array is not None]
    gradients = empty_in_a_row(shapes, like=x)
    dwe, dbe, dalpha1, dgamma1, dbeta1, dwd, dbd, dalpha2, *dends = gradients

    g, spread = _second_norm(Ends(*dends, *(() if ends.wr is not None else (None, None))), dy, cache)

    (B, H, T), K = a.shape, weights.wd.shape[1]
    first, groups = Statistics(kept.m1, kept.r1), tiles(H, CHANNELS)
    parts = MiddleParts(
        empty((B * tiles(T), H, 3 + K), like=x), empty((groups * B * tiles(T),), like=x, dtype=np.float64)
    )
    da, sums = empty(a.shape, like=x), norms_cuda.parts_of_sums(groups, first)
    shared = THREADS + (K - 1) * reach[0] + (3 + K) * (THREADS + CHANNELS * LANES)
    _middle_backward_cuda[(tiles(T), groups, B), THREADS, shared, x.dtype](
        da, parts, sums, g, spread, MiddleKept(d, a, *first), Middle(*weights[2:8]), reach
    )
    sum_parts(dalpha2, parts.alpha2)
    _middle_sums_cuda[(3 + K, H), THREADS](dbd, dgamma1, dbeta1, dwd, parts.channels)

    norms_cuda.statistics_backward_cuda(spread, sums, first, H, norm)
    of_alpha = empty(parts.alpha2.shape, like=x, dtype=np.float64)
    _expand_backward_cuda[(tiles(T), groups, B), THREADS](da, of_alpha, a, spread, weights.alpha1)
    sum_parts(dalpha1, of_alpha)
    pointwise.weight_gradient_cuda(dwe, dbe, da, x)
    _dx.launch((dx,), (weights.we,), (da,), (B, x.shape[1], T, H), others=(dy.x,))
    return dx, dy.skips, *gradients


def _second_norm(dends, dy, cache):
    """Back through the second product and its norm: fills `dends`, and returns g and the norm's A and D."""
    kept, d, weights, ends, norm, _ = cache
    (B, H, T), O = kept.a.shape, len(weights.w2)
    R, second = O - len(ends.ws), Statistics(kept.m2, kept.r2)
    rows, read = (*dy, R), (d, *second, weights.alpha2)

    g = empty(kept.a.shape, like=d)
    spread = Spread(*(empty((B, T), like=d) for _ in range(2)))
    sums = norms_cuda.parts_of_sums(tiles(H, ROWS), second)
    _g.launch((g,), (weights.w2,), rows, (B, H, T, O), others=read, parts=sums)
    norms_cuda.statistics_backward_cuda(spread, sums, second, H, norm)

    pieces = pieces_of(T)
    M_parts, e1_parts = empty((B * pieces, O, H), like=d), empty((B * pieces, O), like=d)
    _M.launch((M_parts,), rows, read, (B, O, H, T), parts=(e1_parts,), pieces=pieces)
    M, e1 = empty((O, H), like=d), empty((O,), like=d)
    sum_parts(M, M_parts)
    sum_parts(e1, e1_parts)
    _unfold_cuda[tiles(H, LANES), THREADS](_without_none(dends), M, e1, _without_none(ends), R)
    return g, spread
