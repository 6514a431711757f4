"""The fused block: all that one block of Conv-TasNet does, in few passes over memory.

A block is expand -> PReLU -> norm -> depthwise -> PReLU -> norm -> residual and skip, each of them an op
of its own in the files beside this one. Run one by one, they read and write the H x T numbers inside the
block a dozen times, and on a CPU that costs more than the arithmetic. Here the same formulas are grouped:

    a  = We x + be                     a product; p = prelu(a) and the sums of p and p^2 over the channels of each frame
    m1, r1 from the sums               T numbers
    n  = gamma1 (p - m1) r1 + beta1
    d  = depthwise(n)
    z  = prelu(d)                      with the sums of z and z^2
    m2, r2 from the sums
    y  = W2 z                          a product, with the rows of residual and skip
    x' = x + residual, skips' = skips + skip

Any of the three norms is, for a frame t, a mean m[t] and a factor r[t]: only how they follow from the sums
differs. The second norm is never carried out. With W2 = W diag(gamma2),

    W (gamma2 (z - m2) r2 + beta2) + b  =  r2 (W2 z - m2 u) + v,      u[o] = sum_c W2[o, c],  v = W beta2 + b

since m2 and r2 depend on the frame alone: a product with z itself and a correction of rank one.

Backward. dy are the rows of dx' and dskips' in the order of W; below, every line is the derivative of one
above, in reverse order. The weights of the second product see  xhat2 = (z - m2) r2:

    M = dy xhat2^T = (dy r2) z^T - e2,          e1[o] = sum_t dy,  e2[o] = sum_t dy r2 m2
    dW = M diag(gamma2) + e1 beta2^T            db = e1
    dgamma2[c] = sum_o W[o, c] M[o, c]          dbeta2[c] = sum_o W[o, c] e1[o]
    g  = W2^T (dy r2)                           the gradient of xhat2, times r2

A norm passes g, the gradient of xhat times r, on to what it normalised as  g + A + z D. From norms.py, with sums
over the channels of each frame,

    dv = -1/2 r sum g xhat,     dm = -sum g - 2 m dv

and A and D collect dm / n and 2 dv / n of the frames that a frame is part of. So the first step makes g and the two
sums; one more goes back through PReLU, the depthwise convolution, gamma1 and r1, and makes the same sums for the first
norm; the last one ends at da:

    dWe = da x^T      dbe = sum_t da      dx = dx' + We^T da

With xhat1 = (p - m1) r1, a tap k of the depthwise convolution that saw frame t + o of n in frame t of d has

    X[k] = sum_t dd[t] xhat1[t + o],    S[k] = sum_t dd[t]      over the frames t for which there is a frame t + o
    dwd[k] = gamma1 X[k] + beta1 S[k]   dgamma1 = sum_k wd[k] X[k]   dbeta1 = sum_k wd[k] S[k]

What is kept for the backward is x and a, and for each frame m and r. n, d and z are computed again from a: H + B numbers
per frame instead of 6 H + B, and what is never written need not be read.

On a CPU, arrays are frames first, (T, channels). SOME frames at a time go through all steps up to the next sums,
products included (product.py), while they are in the cache. Three kernels take a block forward and three backward, with
the norms' statistics between them; that much is left to Python, where threads that meet more often would wait for each
other. (The first design had channels first, and BLAS's products between passes over all frames. It was slower: BLAS read
from memory what the passes had written, and threads met some twenty times a block. Each direction as a single kernel was
1 or 2 % faster on two threads, and took twice as long to compile.)

On a GPU, arrays are channels first like everywhere else, and d is kept, too. The same steps are grouped around the
products, whose tiles find their entries and use their results as they come: the bias, the sums for the first norm and
the residual are the ends of products; prelu(d) and xhat2 are made where a product reads them; dy r2 is never made, as r2
scales a frame of the result as well. Sums over the channels of a frame are in parts, one for each row of tiles, which
the scan of norms.py adds up in their order.
"""

import math
from typing import NamedTuple

import numpy as np

from tasnet_np.device import (
    THREADS, block_sum, cpu_function, cpu_kernel, cuda, cuda_function, cuda_kernel, empty, empty_in_a_row, on_gpu,
    over_samples, over_tiles, sizes, sum_parts, tiles,
)  # fmt: skip
from tasnet_np.ops import depthwise, elementwise, norms, pointwise
from tasnet_np.product import (
    ROWS, Product, add_product_over_time, frames, panels, pieces_of, product, weight, weight_transposed,
)  # fmt: skip

EPS = norms.EPS
TILE = 1024  # frames that one thread takes at a time in inference
PIECE = 512  # frames after which the memory of the normalised ones begins anew
SOME = 128  # frames that go from one step of a kernel to the next
NORMS = {"global_layer_norm": 0, "cumulative_layer_norm": 1, "channel_layer_norm": 2}
CHANNELS = 16  # that a block of threads on a GPU goes through
LANES = min(32, THREADS // 4)  # threads that share a sum


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


# The kernels, forward. Here arrays are frames first, (T, channels): the channels of a frame lie side by side. So every
# wide loop runs over the channels of one frame, what belongs to a frame (m, r, A, D) is one number in it, and a
# convolution over time reads whole frames. The frames go from one step to the next SOME at a time, in the cache. Sums
# over time are sums of those of SOME frames: adding very many numbers to one would round too much in float32.


@cpu_function
def _first_prelu_forward_cpu(s, q, a, b, alpha):
    """a += b in place, and the sums s of p = prelu(a) and q of p^2."""
    slope, zero = alpha[0], a.dtype.type(0)
    for t in range(len(a)):
        row = a[t]
        total = squares = zero
        for c in range(len(row)):
            value = row[c] + b[c]
            row[c] = value
            value = value if value > 0 else slope * value
            total += value
            squares += value * value
        s[t] = total
        q[t] = squares


@cpu_kernel
def _expand_forward_cpu(a, s, q, x, we, b, alpha, start, stop):
    """a = We x + b, and the sums of prelu(a), for the frames from start to stop."""
    for first in range(start, stop, SOME):
        last = min(first + SOME, stop)
        product(a[first:last], x[first:last], we)
        _first_prelu_forward_cpu(s[first:last], q[first:last], a[first:last], b, alpha)


@cpu_kernel
def _statistics_forward_cpu(m, r, s, q, H, norm, eps):
    """Mean m and factor r = 1 / sqrt(v + eps) for every frame, over the frames its norm looks at."""
    T = len(m)
    total = 0.0
    total_squares = 0.0
    if norm == 0:  # global: all frames
        for t in range(T):
            total += s[t]
            total_squares += q[t]
    for t in range(T):
        n = H * T
        if norm == 1:  # cumulative: frames 0..t
            total += s[t]
            total_squares += q[t]
            n = H * (t + 1)
        elif norm == 2:  # this frame alone
            total = s[t]
            total_squares = q[t]
            n = H
        mean = total / n
        m[t] = mean
        r[t] = 1 / math.sqrt(max(total_squares / n - mean * mean, 0.0) + eps)


@cpu_function
def _first_norm_forward_cpu(n, a, m, r, alpha, gamma, beta, start, stop, shift):
    """Row t + shift of n = norm(prelu(a)) for the frames t from start to stop; zeros for frames outside of a."""
    slope = alpha[0]
    for t in range(start, stop):
        out = n[t + shift]
        if t < 0 or t >= len(a):
            out[:] = 0
            continue
        row, mean, factor = a[t], m[t], r[t]
        for c in range(len(row)):
            p = row[c] if row[c] > 0 else slope * row[c]
            out[c] = gamma[c] * ((p - mean) * factor) + beta[c]


@cpu_function
def _depthwise_forward_cpu(d, n, w, b, taps):
    """d = depthwise(n): frame t sees rows t + taps[k] of n."""
    for t in range(len(d)):
        out = d[t]
        for c in range(len(out)):
            value = b[c]
            for k in range(len(taps)):
                value += w[k, c] * n[t + taps[k], c]
            out[c] = value


@cpu_function
def _second_prelu_forward_cpu(z, s, q, d, alpha):
    """z = prelu(d) and its sums."""
    slope, zero = alpha[0], z.dtype.type(0)
    for t in range(len(z)):
        out, row = z[t], d[t]
        total = squares = zero
        for c in range(len(out)):
            value = row[c] if row[c] > 0 else slope * row[c]
            out[c] = value
            total += value
            squares += value * value
        s[t] = total
        q[t] = squares


@cpu_function
def _move_on_cpu(n):
    """From one piece of the frames to the next: what the taps still reach becomes the first rows of n."""
    for t in range(len(n) - PIECE):
        for c in range(n.shape[1]):
            n[t, c] = n[PIECE + t, c]


@cpu_function
def _add_cpu(total, terms):
    for i in range(len(total)):
        total[i] += terms[i]


@cpu_function
def _z_forward_cpu(
    z, d, s, q, n, a, m, r, alpha1, gamma, beta, w, b, alpha2, taps, before, after, start, first, last,
):  # fmt: skip
    """z = prelu(d), with its sums, and d = depthwise(norm(prelu(a))), for the frames from first to last.

    Those from `start` to `first` were made before. n holds the normalised frames of a piece; row 0 is frame piece - before.
    """
    piece = first - (first - start) % PIECE
    ready = first + after  # the first frame that is not in n yet
    if first == start:
        ready = start - before
    elif first == piece:
        _move_on_cpu(n)
    _first_norm_forward_cpu(n, a, m, r, alpha1, gamma, beta, ready, last + after, before - piece)
    _depthwise_forward_cpu(d, n[first - piece :], w, b, taps)
    _second_prelu_forward_cpu(z, s[first:last], q[first:last], d, alpha2)


@cpu_kernel
def _middle_forward_cpu(
    y, s, q, a, m, r, alpha1, gamma, beta, w, b, alpha2, taps, before, after, w2, start, stop,
):  # fmt: skip
    """y = W2 z, where z = prelu(depthwise(norm(prelu(a)))), and the sums of z, for the frames from start to stop."""
    H = a.shape[1]
    n = np.empty((before + PIECE + after, H), a.dtype)
    d, z = np.empty((SOME, H), a.dtype), np.empty((SOME, H), a.dtype)
    for first in range(start, stop, SOME):
        last = min(first + SOME, stop)
        some_d, some_z = d[: last - first], z[: last - first]
        _z_forward_cpu(
            some_z, some_d, s, q, n, a, m, r, alpha1, gamma, beta, w, b, alpha2, taps, before, after, start, first, last
        )
        product(y[first:last], some_z, w2)


@cpu_kernel
def _fold_forward_cpu(w2, u, v, w, b, gamma, beta):
    """w2 = w diag(gamma) with the sums u of its rows, and v = w beta + b."""
    for o in range(len(w)):
        row, scaled = w[o], w2[o]
        total = shift = w.dtype.type(0)
        for c in range(len(row)):
            scaled[c] = row[c] * gamma[c]
            total += scaled[c]
            shift += row[c] * beta[c]
        u[o] = total
        v[o] = shift + b[o]


@cpu_kernel
def _join_forward_cpu(x, skips, y, m, r, u, v, start, stop):
    """x += r (y - m u) + v, and so for the skips: the second norm's correction, and the residual and skip sums.

    In place: a loop that might write what it reads next from another array would not use vector instructions.
    """
    R = np.uint64(len(u) - skips.shape[1])
    for t in range(start, stop):
        mean, factor = m[t], r[t]
        for o in range(R):
            x[t, o] += factor * (y[t, o] - mean * u[o]) + v[o]
        for o in range(np.uint64(skips.shape[1])):
            skips[t, o] += factor * (y[t, R + o] - mean * u[R + o]) + v[R + o]


# The kernels, backward. g is the gradient of a norm's xhat, times r; sg and sgx sum a frame's g and g * xhat.


@cpu_function
def _scale_cpu(dyr, e1, e2, dy, m, r, column):
    """The columns of dyr = dy * r from `column` on; adds their sums over time, of dy to e1 and of dy * r * m to e2."""
    column = np.uint64(column)
    for t in range(len(dyr)):
        mean, factor = m[t], r[t]
        for o in range(np.uint64(dy.shape[1])):
            scaled = dy[t, o] * factor
            dyr[t, column + o] = scaled
            e1[column + o] += dy[t, o]
            e2[column + o] += scaled * mean


@cpu_kernel
def _second_norm_backward_cpu(
    g, d, M, e1, sg, sgx, dx_next, dskips, a, m1, r1, m2, r2, alpha1, gamma, beta, w, b, alpha2,
    taps, before, after, w2,
):  # fmt: skip
    """g at the second norm and its sums sg and sgx, with xhat = (z - m) r; M = dy xhat^T, and e1.

    On the way, d once more.
    """
    (T, H), O = a.shape, len(e1)
    R = O - dskips.shape[1]
    n = np.empty((before + PIECE + after, H), a.dtype)
    z, dyr = np.empty((SOME, H), a.dtype), np.empty((SOME, O), a.dtype)
    e2, some_e1, some_e2 = np.zeros(O, a.dtype), np.empty(O, a.dtype), np.empty(O, a.dtype)
    e1[:] = 0
    M[:] = 0
    for first in range(0, T, SOME):
        last = min(first + SOME, T)
        some_z, some_dyr, some_g = z[: last - first], dyr[: last - first], g[first:last]
        _z_forward_cpu(
            some_z, d[first:last], sg, sgx, n, a, m1, r1, alpha1, gamma, beta, w, b, alpha2, taps, before, after,
            0, first, last,
        )  # fmt: skip
        some_e1[:] = 0
        some_e2[:] = 0
        if R:
            _scale_cpu(some_dyr, some_e1, some_e2, dx_next[first:last], m2[first:last], r2[first:last], 0)
        _scale_cpu(some_dyr, some_e1, some_e2, dskips[first:last], m2[first:last], r2[first:last], R)
        _add_cpu(e1, some_e1)
        _add_cpu(e2, some_e2)
        add_product_over_time(M, some_dyr, some_z)
        product(some_g, some_dyr, w2)
        _sums_backward_cpu(sg[first:last], sgx[first:last], some_g, some_z, m2[first:last], r2[first:last])
    for o in range(O):
        for c in range(H):
            M[o, c] -= e2[o]


@cpu_function
def _sums_backward_cpu(sg, sgx, g, z, m, r):
    """The sums over the channels of g and of g * xhat, where xhat = (z - m) r."""
    zero = z.dtype.type(0)
    for t in range(len(z)):
        row, gradient, mean = z[t], g[t], m[t]
        total = total_x = zero
        for c in range(len(row)):
            total += gradient[c]
            total_x += gradient[c] * (row[c] - mean)
        sg[t] = total
        sgx[t] = total_x * r[t]


@cpu_kernel
def _fold_backward_cpu(M, dgamma, dbeta, e1, w, gamma, beta):
    """M becomes dw, in place; dgamma and dbeta are added to what is there."""
    for o in range(len(w)):
        row, gradient, total = w[o], M[o], e1[o]
        for c in range(len(row)):
            dgamma[c] += row[c] * gradient[c]
            dbeta[c] += row[c] * total
            gradient[c] = gradient[c] * gamma[c] + total * beta[c]


@cpu_kernel
def _statistics_backward_cpu(A, D, sg, sgx, m, r, H, norm):
    """What the norm's statistics add to the gradient of what it normalised: A + z D for every frame.

    A set of n values gives each of them dm / n + 2 z dv / n.
    """
    T = len(A)
    total = 0.0
    total_z = 0.0
    for t in range(T - 1, -1, -1):  # the cumulative norm: frame t reaches frames t..T-1
        n = H * (t + 1 if norm == 1 else T if norm == 0 else 1)
        dv = -0.5 * r[t] * sgx[t]
        dm = -sg[t] - 2 * m[t] * dv
        if norm == 2:
            total = 0.0
            total_z = 0.0
        total += dm / n
        total_z += 2 * dv / n
        A[t] = total
        D[t] = total_z
    if norm == 0:  # the global norm: every frame reaches every other
        A[:] = total
        D[:] = total_z


@cpu_function
def _prelu_backward_cpu(g, db, values, A, D, alpha):
    """From g at a norm to the gradient of the values before its PReLU, in place, with its sum db; returns that of alpha."""
    slope, zero = alpha[0], g.dtype.type(0)
    db[:] = 0
    total_alpha = 0.0
    for t in range(len(g)):
        gradient, row, add, times = g[t], values[t], A[t], D[t]
        dslope = zero
        for c in range(len(row)):  # in the forward pass this was p = prelu(value), and its norm
            value = row[c]
            dp = gradient[c] + add + (value if value > 0 else slope * value) * times
            dslope += zero if value > 0 else dp * value
            dp = dp if value > 0 else slope * dp
            gradient[c] = dp
            db[c] += dp
        total_alpha += dslope
    return total_alpha


@cpu_function
def _depthwise_backward_cpu(g, sg, sgx, of_taps, dd, a, m, r, alpha, gamma, w, taps):
    """From dd to g at the first norm, with its sums; of_taps[k] sums dd * xhat over time, dd where tap k saw xhat.

    In the forward pass, frame t of d saw row t + taps[k] of n; so a frame of n is seen by frames of d taps[k] earlier.
    """
    slope, zero, latest = alpha[0], g.dtype.type(0), taps[len(taps) - 1]
    of_taps[:] = 0
    for t in range(len(g)):
        gradient, row, mean, factor = g[t], a[t], m[t], r[t]
        total = total_x = zero
        for c in range(len(gradient)):
            p = row[c] if row[c] > 0 else slope * row[c]
            xhat = (p - mean) * factor
            dn = zero
            for k in range(len(taps)):
                upstream = dd[t + (latest - taps[k]), c]
                dn += w[k, c] * upstream
                of_taps[k, c] += upstream * xhat
            value = gamma[c] * dn * factor  # in the forward pass this was n = gamma * xhat + beta
            gradient[c] = value
            total += value
            total_x += value * xhat
        sg[t] = total
        sgx[t] = total_x


@cpu_kernel
def _middle_backward_cpu(
    d, dalpha2, dw, db, dgamma, dbeta, sg, sgx, padded_g, a, A, D, m, r, alpha1, gamma, beta, w, alpha2,
    taps, before, after,
):  # fmt: skip
    """From padded_g at the second norm to g at the first one, with the sums that it needs next.

    padded_g becomes dd, and d becomes g: row t of d is read before row t of g is written. padded_g has `after` frames
    more at the start and `before` at the end, where taps of others would have seen a: zeros.
    """
    T, H = a.shape
    padded_g[:after] = 0
    padded_g[after + T :] = 0
    of_taps, some_of_taps = np.zeros((len(taps), H), a.dtype), np.empty((len(taps), H), a.dtype)
    some_db = np.empty(H, a.dtype)
    db[:] = 0
    total_alpha = 0.0
    ready = 0
    for first in range(0, T, SOME):
        last = min(first + SOME, T)
        until = min(T, last + before)
        total_alpha += _prelu_backward_cpu(
            padded_g[ready + after : until + after], some_db, d[ready:until], A[ready:until], D[ready:until], alpha2
        )
        _add_cpu(db, some_db)
        ready = until
        _depthwise_backward_cpu(
            d[first:last], sg[first:last], sgx[first:last], some_of_taps, padded_g[first:], a[first:last],
            m[first:last], r[first:last], alpha1, gamma, w, taps,
        )  # fmt: skip
        for k in range(len(taps)):
            _add_cpu(of_taps[k], some_of_taps[k])
    dalpha2[0] = total_alpha
    dgamma[:] = 0
    dbeta[:] = 0
    seen = np.empty(H, a.dtype)  # the sum of dd over the frames in which tap k saw a frame, not a zero
    for k in range(len(taps)):
        offset = taps[k] - before
        for c in range(H):
            seen[c] = db[c]
        for t in range(T):
            if t + offset < 0 or t + offset >= T:
                for c in range(H):
                    seen[c] -= padded_g[t + after, c]
        for c in range(H):
            dw[c, k] = gamma[c] * of_taps[k, c] + beta[c] * seen[c]
            dgamma[c] += w[k, c] * of_taps[k, c]
            dbeta[c] += w[k, c] * seen[c]


@cpu_kernel
def _expand_backward_cpu(dx, dwe, dalpha, db, g, a, A, D, alpha, x, dx_next, we):
    """From g at the first norm to da, in place; with it dx = dx' + We^T da, dWe, and the gradients of alpha and b."""
    T, H = a.shape
    some_db = np.empty(H, a.dtype)
    dalpha[:] = 0
    db[:] = 0
    dwe[:] = 0
    for first in range(0, T, SOME):
        last = min(first + SOME, T)
        da = g[first:last]
        dalpha[0] += _prelu_backward_cpu(da, some_db, a[first:last], A[first:last], D[first:last], alpha)
        _add_cpu(db, some_db)
        product(dx[first:last], da, we)
        add_product_over_time(dwe, da, x[first:last])
        for t in range(first, last):
            row, residual = dx[t], dx_next[t]
            for c in range(len(row)):
                row[c] += residual[c]


# One sample, forward and backward: in Python, since compiling these, too, would take about as long again.


def _tcn_block_forward_cpu(
    x_next, skips_next, a, statistics, x, skips, we, be, alpha1, gamma1, beta1, wd, bd, alpha2, w2, u, v,
    norm, taps, before, after, eps,
):  # fmt: skip
    (T, H), (m1, r1, m2, r2) = a.shape, statistics
    s, q = np.empty((2, T))
    _expand_forward_cpu(a, s, q, x, we, be, alpha1, 0, T)
    _statistics_forward_cpu(m1, r1, s, q, H, norm, eps)
    y = np.empty((T, len(u)), x.dtype)  # the rows of the residual, then those of the skip
    _middle_forward_cpu(
        y, s, q, a, m1, r1, alpha1, gamma1, beta1, wd, bd, alpha2, taps, before, after, w2, 0, T
    )
    _statistics_forward_cpu(m2, r2, s, q, H, norm, eps)
    if len(u) > skips.shape[1]:
        x_next[:] = x
    skips_next[:] = skips
    _join_forward_cpu(x_next, skips_next, y, m2, r2, u, v, 0, T)


def _tcn_block_backward_cpu(
    dx, dwe, dbe, dalpha1, dgamma1, dbeta1, dwd, dbd, dalpha2, M, e1, dx_next, dskips, x, a, statistics,
    we, alpha1, gamma1, beta1, wd, bd, alpha2, w2, norm, taps, before, after,
):  # fmt: skip
    (T, H), (m1, r1, m2, r2) = a.shape, statistics
    sg, sgx = np.empty((2, T))
    A, D = np.empty((2, T), x.dtype)
    padded_g, d = np.empty((after + T + before, H), x.dtype), np.empty((T, H), x.dtype)
    _second_norm_backward_cpu(
        padded_g[after : after + T], d, M, e1, sg, sgx, dx_next, dskips, a, m1, r1, m2, r2,
        alpha1, gamma1, beta1, wd, bd, alpha2, taps, before, after, w2,
    )  # fmt: skip
    _statistics_backward_cpu(A, D, sg, sgx, m2, r2, H, norm)
    _middle_backward_cpu(
        d, dalpha2, dwd, dbd, dgamma1, dbeta1, sg, sgx, padded_g, a, A, D, m1, r1, alpha1, gamma1, beta1, wd, alpha2,
        taps, before, after,
    )  # fmt: skip
    _statistics_backward_cpu(A, D, sg, sgx, m1, r1, H, norm)
    g = d  # that at the first norm, in the place of d
    _expand_backward_cpu(dx, dwe, dalpha1, dbe, g, a, A, D, alpha1, x, dx_next, we)


class _Folded(NamedTuple):
    """A block as inference needs it."""

    inner: tuple  # we as panels, be, alpha1, gamma1, beta1, wd (K, H), bd, alpha2
    w2: np.ndarray  # as panels; with u and v: see `_folded`
    u: np.ndarray
    v: np.ndarray
    norm: int
    reach: tuple  # see `_reach`
    eps: float


def _tiled_forward(x, skips, blocks):
    """One sample through `_Folded` blocks with all threads, a tile of frames each; x and skips change in place.

    Between rounds the norms need the sums of all tiles. The end of one block and the beginning of the next are one round.
    """
    T, H = len(x), len(blocks[0].inner[1])
    a, memory = np.empty((T, H), x.dtype), np.empty(T * max(len(block.u) for block in blocks), x.dtype)
    m, r = np.empty((2, T), x.dtype)
    s, q = np.empty((2, T))

    def y(block):  # the last block has no residual
        return memory[: T * len(block.u)].reshape(T, -1)

    def expand(start, stop, block):
        we, be, alpha1, *_ = block.inner
        _expand_forward_cpu(a, s, q, x, we, be, alpha1, start, stop)

    def middle(start, stop, block):
        _, _, *inner = block.inner
        _middle_forward_cpu(y(block), s, q, a, m, r, *inner, *block.reach, block.w2, start, stop)

    def join(start, stop, block):
        _join_forward_cpu(x, skips, y(block), m, r, block.u, block.v, start, stop)

    def join_and_expand(start, stop, block, following):
        join(start, stop, block)
        expand(start, stop, following)

    over_tiles(expand, T, TILE, blocks[0])
    for block, following in zip(blocks, [*blocks[1:], None]):
        _statistics_forward_cpu(m, r, s, q, H, block.norm, block.eps)
        over_tiles(middle, T, TILE, block)
        _statistics_forward_cpu(m, r, s, q, H, block.norm, block.eps)
        if following:
            over_tiles(join_and_expand, T, TILE, block, following)
        else:
            over_tiles(join, T, TILE, block)


# The kernels on a GPU. R is the number of rows of the residual, the first rows of the second product.


@cuda_kernel
def _fold_cuda(w2, u, v, ws, bs, wr, br, gamma2, beta2, R):
    """The second norm inside the second product's weights; a block of threads for each row."""
    scratch = cuda.shared.array(THREADS, np.float64)
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
    """a = We x + be, and p and p^2 of p = prelu(a) for the sums."""
    be, alpha = others
    a = value + be[c]
    outputs[0][b, c, t] = a
    p = np.float64(a if a > 0 else alpha[0] * a)
    return p, p * p


@cuda_kernel
def _middle_forward_cuda(d, s, q, a, m, r, alpha1, gamma, beta, w, b, alpha2, dilation, lookahead):
    """d = depthwise(norm(prelu(a))), and the sums of z = prelu(d) over groups of channels, (groups, B, T)."""
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
        s[group, sample, t] = total
        q[group, sample, t] = total_squares


@cuda_function
def _z_cuda(arrays, b, c, t):
    d, alpha = arrays
    value = d[b, c, t]
    return value if value > 0 else alpha[0] * value


@cuda_function
def _join_forward_cuda(outputs, others, z, b, o, t, value):
    """The second norm's correction, and the residual or the skip sum."""
    x, skips, m, r, u, v, R = others
    y = r[b, t] * (value - m[b, t] * u[o]) + v[o]
    if o < R:
        outputs[0][b, o, t] = x[b, o, t] + y
    else:
        outputs[1][b, o - R, t] = skips[b, o - R, t] + y
    return value, value


@cuda_function
def _dy_cuda(arrays, b, o, t):
    """The rows of dx' and, below them, those of dskips'."""
    dx, dskips, R = arrays
    return dx[b, o, t] if o < R else dskips[b, o - R, t]


@cuda_function
def _second_norm_backward_cuda(outputs, others, z, b, c, t, value):
    """g = W2^T (dy r2), and g and g xhat2 for the sums."""
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


@cuda_function
def _M_cuda(outputs, others, z, b, o, c, value):
    outputs[0][z, o, c] = value
    return value, value


@cuda_kernel
def _middle_backward_cuda(
    g1, sums, dalpha2, sg, sgx, g, d, a, A, D, m, r, alpha1, gamma, beta, w, alpha2, dilation, lookahead
):
    """From g at the second norm to g1 at the first one, with parts of all sums that are needed next.

    sums (B * tiles, H, 3 + K): of dd (for db), dn xhat, dn and, for each tap, dd times what it read.
    dalpha2 (groups * B * tiles,). sg, sgx (groups, B, T): of g1 and g1 xhat over a group's channels.
    """
    H, T, K = a.shape[1], a.shape[2], w.shape[1]
    i, group, sample = cuda.threadIdx.x, cuda.blockIdx.y, cuda.blockIdx.z
    part = sample * cuda.gridDim.x + cuda.blockIdx.x
    start, halo = cuda.blockIdx.x * THREADS, (K - 1) * dilation
    s, first, values = start + i, group * CHANNELS, 3 + K
    scratch = cuda.shared.array(THREADS, np.float64)
    shared = cuda.shared.array(0, a.dtype)
    dd = shared[: THREADS + halo]  # of the frames from start - lookahead on
    each = shared[THREADS + halo :]  # what each thread adds to the sums of a channel: values x THREADS
    lanes = shared[THREADS + halo + values * THREADS :]  # the same summed, channels x values x LANES
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
        for k in range(K):  # in the forward pass this was d[t] += w[k] * (gamma * xhat[s] + beta), s = t + offset(k)
            upstream = dd[i + (K - 1 - k) * dilation]
            each[(3 + k) * THREADS + i] = zero
            if s < T:
                dn += w[c, k] * upstream
                each[(3 + k) * THREADS + i] = upstream * (gamma[c] * xhat + beta[c])
        each[i] = db_c
        each[THREADS + i] = dn * xhat
        each[2 * THREADS + i] = dn
        if s < T:
            gradient = gamma[c] * dn * r[sample, s]
            g1[sample, c, s] = gradient
            total += np.float64(gradient)
            total_x += np.float64(gradient) * np.float64(xhat)
        cuda.syncthreads()
        for j in range(i, values * LANES, THREADS):
            lane_total = zero
            for thread in range(j % LANES, THREADS, LANES):
                lane_total += each[j // LANES * THREADS + thread]
            lanes[(c - first) * values * LANES + j] = lane_total
    cuda.syncthreads()
    for j in range(i, (min(H, first + CHANNELS) - first) * values, THREADS):
        value = 0.0
        for lane in range(LANES):
            value += lanes[j * LANES + lane]
        sums[part, first + j // values, j % values] = value
    total_alpha = block_sum(total_alpha, scratch)
    if i == 0:
        dalpha2[group * cuda.gridDim.x * cuda.gridDim.z + part] = total_alpha
    if s < T:
        sg[group, sample, s] = total
        sgx[group, sample, s] = total_x


@cuda_kernel
def _middle_sums_cuda(db, dgamma, dbeta, dw, sums):
    """Add up the parts of `sums`; a block of threads for each channel and each of its values."""
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
def _expand_backward_cuda(g, dalpha, a, A, D, alpha):
    """From g at the first norm to da, in place; dalpha (blocks,) in parts."""
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
def _unfold_cuda(dgamma2, dbeta2, dws, dbs, dwr, dbr, M, e1, ws, wr, gamma2, beta2, R):
    """From the gradient M of W2 and e1 of v to those of W, b, gamma2 and beta2. A block takes LANES channels."""
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


_expand = Product(weight, frames, _expand_forward_cuda, frame_sums=True)
_join = Product(weight, _z_cuda, _join_forward_cuda)
_g = Product(weight_transposed, _dy_cuda, _second_norm_backward_cuda, left_along_k=False, frame_sums=True)
_M = Product(_dy_cuda, _xhat2_transposed_cuda, _M_cuda, right_along_k=True, row_sums=True)
_dx = Product(weight_transposed, frames, _dx_cuda, left_along_k=False)


def _tcn_block_forward_cuda(
    x_next, skips_next, a, d, statistics, w2, x, skips, we, be, alpha1, gamma1, beta1, wd, bd, alpha2,
    gamma2, beta2, ws, bs, wr, br, norm, dilation, lookahead, eps,
):  # fmt: skip
    (B, H, T), (O, K) = a.shape, (len(w2), wd.shape[1])
    m1, r1, m2, r2 = statistics
    R = O - len(ws)
    wr, br = (ws, bs) if wr is None else (wr, br)  # never read if R = 0
    u, v = empty((O,), like=x), empty((O,), like=x)
    _fold_cuda[O, THREADS](w2, u, v, ws, bs, wr, br, gamma2, beta2, R)
    sums = [empty((tiles(H, ROWS), B, T), like=x, dtype=np.float64) for _ in range(2)]
    _expand.launch((a,), tuple(sums), (we,), (x,), (be, alpha1), B, H, T, we.shape[1])
    norms.statistics_forward_cuda(m1, r1, *sums, H, norm, eps)
    groups = tiles(H, CHANNELS)
    sums = [empty((groups, B, T), like=x, dtype=np.float64) for _ in range(2)]
    shared = THREADS + (K - 1) * dilation
    _middle_forward_cuda[(tiles(T), groups, B), THREADS, shared, x.dtype](
        d, *sums, a, m1, r1, alpha1, gamma1, beta1, wd, bd, alpha2, dilation, lookahead
    )
    norms.statistics_forward_cuda(m2, r2, *sums, H, norm, eps)
    others = (x, skips, m2, r2, u, v, R)
    _join.launch((x_next, skips_next), (), (w2,), (d, alpha2), others, B, O, T, H)


def _tcn_block_backward_cuda(
    dx, dwe, dbe, dalpha1, dgamma1, dbeta1, dwd, dbd, dalpha2, dgamma2, dbeta2, dws, dbs, dwr, dbr,
    dx_next, dskips, x, a, d, statistics, w2, we, alpha1, gamma1, beta1, wd, alpha2, gamma2, beta2, ws, wr,
    norm, dilation, lookahead,
):  # fmt: skip
    (B, H, T), (O, K) = a.shape, (len(w2), wd.shape[1])
    m1, r1, m2, r2 = statistics
    R = O - len(ws)
    dy = (dx_next, dskips, R)

    g, A, D = empty(a.shape, like=x), empty((B, T), like=x), empty((B, T), like=x)
    sums = [empty((tiles(H, ROWS), B, T), like=x, dtype=np.float64) for _ in range(2)]
    _g.launch((g,), tuple(sums), (w2,), dy, (d, m2, r2, alpha2), B, H, T, O)
    norms.statistics_backward_cuda(A, D, *sums, m2, r2, H, norm)
    pieces = pieces_of(T)
    M_parts, e1_parts = empty((B * pieces, O, H), like=x), empty((B * pieces, O), like=x)
    _M.launch((M_parts,), (e1_parts,), dy, (d, m2, r2, alpha2), (), B, O, H, T, pieces)
    M, e1 = empty((O, H), like=x), empty((O,), like=x)
    sum_parts(M, M_parts)
    sum_parts(e1, e1_parts)
    wr, dwr, dbr = (ws, dws, dbs) if wr is None else (wr, dwr, dbr)  # neither read nor written if R = 0
    _unfold_cuda[tiles(H, LANES), THREADS](
        dgamma2, dbeta2, dws, dbs, dwr, dbr, M, e1, ws, wr, gamma2, beta2, R
    )

    groups, parts = tiles(H, CHANNELS), B * tiles(T)
    da = empty(a.shape, like=x)
    sums = [empty((groups, B, T), like=x, dtype=np.float64) for _ in range(2)]
    of_channels, of_alpha = empty((parts, H, 3 + K), like=x), empty((groups * parts,), like=x, dtype=np.float64)
    shared = THREADS + (K - 1) * dilation + (3 + K) * (THREADS + CHANNELS * LANES)
    _middle_backward_cuda[(tiles(T), groups, B), THREADS, shared, x.dtype](
        da, of_channels, of_alpha, *sums, g, d, a, A, D, m1, r1, alpha1, gamma1, beta1, wd, alpha2,
        dilation, lookahead,
    )  # fmt: skip
    sum_parts(dalpha2, of_alpha)
    _middle_sums_cuda[(3 + K, H), THREADS](dbd, dgamma1, dbeta1, dwd, of_channels)

    norms.statistics_backward_cuda(A, D, *sums, m1, r1, H, norm)
    of_alpha = empty((groups * parts,), like=x, dtype=np.float64)
    _expand_backward_cuda[(tiles(T), groups, B), THREADS](da, of_alpha, a, A, D, alpha1)
    sum_parts(dalpha1, of_alpha)
    pointwise.weight_gradient_cuda(dwe, dbe, da, x)
    _dx.launch((dx,), (), (we,), (da,), (dx_next,), B, we.shape[1], T, H)


def _folded(gamma2, beta2, ws, bs, wr, br):
    """The second norm in the product that follows it: w2, u and v, the residual's rows above the skip's."""
    R = 0 if wr is None else len(wr)
    w2 = np.empty((R + len(ws), ws.shape[1]), ws.dtype)
    u, v = np.empty((2, len(w2)), ws.dtype)
    if R:
        _fold_forward_cpu(w2[:R], u[:R], v[:R], wr, br, gamma2, beta2)
    _fold_forward_cpu(w2[R:], u[R:], v[R:], ws, bs, gamma2, beta2)
    return w2, u, v


def _frames_first(x):
    """(B, channels, T) -> (B, T, channels) with the channels of a frame side by side in memory.

    What a block returns is laid out like that already, whatever its shape says: then nothing is copied.
    """
    return np.ascontiguousarray(x.transpose(0, 2, 1))


def _channels_first(x):
    """(B, T, channels) -> (B, channels, T), another view of the same numbers."""
    return x.transpose(0, 2, 1)


def _reach(K, dilation, lookahead):
    """How far apart the taps of a frame are from the first one, a tuple, whose length a compiled loop knows and
    unrolls; and how many frames before it and after it they see."""
    depthwise.check_reach(K, dilation, lookahead)
    return tuple(k * dilation for k in range(K)), (K - 1) * dilation - lookahead, lookahead


def _checked(
    x, skips, we, be, alpha1, gamma1, beta1, wd, bd, alpha2, gamma2, beta2, ws, bs, wr, br, dilation, lookahead
):
    """Sizes of arrays that fit, and the reach of the taps."""
    B, H, T, K = sizes(
        "B H T K", x=(x, "B C T"), skips=(skips, "B Sc T"), we=(we, "H C"), be=(be, "H"), alpha1=(alpha1, "1"),
        gamma1=(gamma1, "H"), beta1=(beta1, "H"), wd=(wd, "H K"), bd=(bd, "H"), alpha2=(alpha2, "1"),
        gamma2=(gamma2, "H"), beta2=(beta2, "H"), ws=(ws, "Sc H"), bs=(bs, "Sc"),
    )  # fmt: skip
    if wr is not None:
        sizes("", x=(x, "B C T"), wr=(wr, "C H"), br=(br, "C"), be=(be, "H"))
    reach = _reach(K, dilation, lookahead)
    return (B, H, T), reach


def tcn_block_forward(
    x, skips, we, be, alpha1, gamma1, beta1, wd, bd, alpha2, gamma2, beta2, ws, bs, wr=None, br=None,
    *, norm, dilation=1, lookahead=0, eps=EPS,
):  # fmt: skip
    """One block: x (B, C, T) and skips (B, Sc, T) -> the same for the next block.

    Parameters
    ----------
    we, be : expand, (H, C) and (H,);  wd, bd : depthwise, (H, K) and (H,)
    alpha1, gamma1, beta1 : PReLU (1,) and norm (H,) before the depthwise convolution
    alpha2, gamma2, beta2 : the same after it
    ws, bs : skip, (Sc, H) and (Sc,);  wr, br : residual, (C, H) and (C,), absent in the last block
    norm : "global_layer_norm", "cumulative_layer_norm" or "channel_layer_norm"
    dilation, lookahead : of the depthwise convolution
    """
    inner, ends = (we, be, alpha1, gamma1, beta1, wd, bd, alpha2), (gamma2, beta2, ws, bs, wr, br)
    (B, H, T), reach = _checked(x, skips, *inner, *ends, dilation, lookahead)
    if on_gpu(x):
        x_next, skips_next = x if wr is None else empty(x.shape, like=x), empty(skips.shape, like=x)
        a, d, *statistics = (empty(shape, like=x) for shape in 2 * ((B, H, T),) + 4 * ((B, T),))
        w2 = empty((len(ws) + (0 if wr is None else len(wr)), H), like=x)
        kept = (x, a, d, statistics, w2)
        _tcn_block_forward_cuda(
            x_next, skips_next, *kept[1:], x, skips, *inner, *ends, NORMS[norm], dilation, lookahead, eps
        )
        return (x_next, skips_next), (*kept, (inner, ends), (NORMS[norm], dilation, lookahead))
    w2, u, v = _folded(*ends)
    x, skips, wd = _frames_first(x), _frames_first(skips), np.ascontiguousarray(wd.T)
    a = np.empty((B, T, H), x.dtype)
    x_next, skips_next = x if wr is None else np.empty_like(x), np.empty_like(skips)
    statistics = np.empty((B, 4, T), x.dtype)  # m and r of both norms
    over_samples(
        _tcn_block_forward_cpu,
        (x_next, skips_next, a, statistics, x, skips),
        (panels(we), be, alpha1, gamma1, beta1, wd, bd, alpha2, panels(w2), u, v, NORMS[norm], *reach, eps),
    )
    kept = (we, alpha1, gamma1, beta1, wd, bd, alpha2, gamma2, beta2, ws, wr, w2)
    y = _channels_first(x_next), _channels_first(skips_next)
    return y, (x, a, statistics, kept, (NORMS[norm], *reach))


def tcn_blocks_inference(x, skips, blocks):
    """Blocks one after another, without caches: less memory, and parallel in a batch of one.

    Parameters
    ----------
    x, skips : as in `tcn_block_forward`
    blocks : for each block, its arrays in the order of `tcn_block_forward`, and its settings: (tuple, dict)
    """
    if on_gpu(x):
        for arrays, settings in blocks:
            (x, skips), _ = tcn_block_forward(x, skips, *arrays, **settings)
        return x, skips
    folded = [_folded_block(x, skips, *arrays, **settings) for arrays, settings in blocks]
    x, skips = (np.array(array.transpose(0, 2, 1), order="C") for array in (x, skips))
    for i in range(len(x)):
        _tiled_forward(x[i], skips[i], folded)
    return _channels_first(x), _channels_first(skips)


def _folded_block(
    x, skips, we, be, alpha1, gamma1, beta1, wd, bd, alpha2, gamma2, beta2, ws, bs, wr=None, br=None,
    *, norm, dilation=1, lookahead=0, eps=EPS,
):  # fmt: skip
    inner, ends = (we, be, alpha1, gamma1, beta1, wd, bd, alpha2), (gamma2, beta2, ws, bs, wr, br)
    _, reach = _checked(x, skips, *inner, *ends, dilation, lookahead)
    w2, u, v = _folded(*ends)
    inner = (panels(we), be, alpha1, gamma1, beta1, np.ascontiguousarray(wd.T), bd, alpha2)
    return _Folded(inner, panels(w2), u, v, NORMS[norm], reach, eps)


def tcn_block_backward(dy, cache):
    """Return the gradients of all arrays, in the order of the forward's arguments."""
    dx_next, dskips = dy
    if on_gpu(dskips):
        return _on_gpu_backward(dx_next, dskips, cache)
    x, a, statistics, kept, settings = cache
    we, alpha1, gamma1, beta1, wd, bd, alpha2, gamma2, beta2, ws, wr, w2 = kept
    B, _, H = a.shape
    dx_next, dskips = _frames_first(dx_next), _frames_first(dskips)
    dx = np.empty(x.shape, x.dtype)
    shapes = (we.shape, (H,), (1,), (H,), (H,), wd.shape[::-1], (H,), (1,), w2.shape, (len(w2),))
    parts = [np.empty((B, *shape), x.dtype) for shape in shapes]  # one part per sample
    over_samples(
        _tcn_block_backward_cpu,
        (dx, *parts, dx_next, dskips, x, a, statistics),
        (panels(we.T), alpha1, gamma1, beta1, wd, bd, alpha2, panels(w2.T), *settings),
    )
    *inner, dw, db = (part[0] if B == 1 else part.sum(axis=0) for part in parts)
    dgamma2, dbeta2 = np.zeros((2, H), x.dtype)
    R = len(w2) - len(ws)
    if R:
        _fold_backward_cpu(dw[:R], dgamma2, dbeta2, db[:R], wr, gamma2, beta2)
    _fold_backward_cpu(dw[R:], dgamma2, dbeta2, db[R:], ws, gamma2, beta2)
    residual = (dw[:R], db[:R]) if R else ()
    return _channels_first(dx), _channels_first(dskips), *inner, dgamma2, dbeta2, dw[R:], db[R:], *residual


def _on_gpu_backward(dx_next, dskips, cache):
    x, a, d, statistics, w2, (inner, ends), settings = cache
    (we, be, alpha1, gamma1, beta1, wd, bd, alpha2), (gamma2, beta2, ws, bs, wr, br) = inner, ends
    dx = empty(x.shape, like=x)
    given = [array.shape for array in (*inner, *ends) if array is not None]
    gradients = empty_in_a_row(given, like=x)
    _tcn_block_backward_cuda(
        dx, *gradients, *(() if wr is not None else (None, None)), dx_next, dskips, x, a, d, statistics, w2,
        we, alpha1, gamma1, beta1, wd, alpha2, gamma2, beta2, ws, wr, *settings,
    )  # fmt: skip
    return dx, dskips, *gradients
