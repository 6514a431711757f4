"""The fused block's kernels on the CPU. tcn_block.py has the derivation; the letters are the same here.

Here arrays are frames first, (T, channels): the channels of a frame lie side by side in memory. So every inner loop
runs over the channels of one frame. m, r, A and D are constants in such a loop. A convolution over time reads whole
frames.

CHUNK frames at a time go through all steps up to the next statistics, products included (cpu_product.py). Meanwhile
they stay in the cache. A sum over time is first made for each chunk, then over the chunks, because one long sum would
round too much in float32.

Three kernels run a block forward and three backward, with the norms' statistics between them. Python calls them one
after another. With more and shorter kernels, the threads would wait for each other in Python.
"""

import numpy as np

from tasnet_np.compute.cpu import cpu_function, cpu_kernel, over_tiles
from tasnet_np.compute.cpu_product import add_product_over_time, product_with_weight
from tasnet_np.ops.frame_statistics import (
    Spread,
    Statistics,
    Sums,
    statistics_backward_cpu,
    statistics_forward_cpu,
)
from tasnet_np.ops.tcn_block_arrays import Room

TILE = 1024  # frames that one thread takes at a time in inference
WINDOW = 512  # frames by which the window of normalised frames moves ahead
CHUNK = 128  # frames that go through the steps of a kernel together


# Forward.


@cpu_function
def _first_prelu_forward_cpu(sums, a, b, alpha):
    """a += b in place; sums.s is the sum of p = prelu(a) over the channels, and sums.q that of p^2."""
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
        sums.s[t] = total
        sums.q[t] = squares


@cpu_kernel
def _expand_forward_cpu(a, sums, x, weights, start, stop):
    """a = We x + be, and the sums of prelu(a), for the frames from start to stop."""
    for first in range(start, stop, CHUNK):
        last = min(first + CHUNK, stop)
        product_with_weight(a[first:last], x[first:last], weights.we)
        of_chunk = Sums(sums.s[first:last], sums.q[first:last])
        _first_prelu_forward_cpu(of_chunk, a[first:last], weights.be, weights.alpha1)


@cpu_function
def _first_norm_forward_cpu(n, a, statistics, weights, start, stop, shift):
    """Row t + shift of n = norm(prelu(a)) for the frames t from start to stop. Frames outside of a give zeros."""
    (m, r), slope, gamma, beta = statistics, weights.alpha1[0], weights.gamma1, weights.beta1
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
    """d = depthwise(n), where frame t of d reads the rows t + taps[k] of n."""
    for t in range(len(d)):
        out = d[t]
        for c in range(len(out)):
            value = b[c]
            for k in range(len(taps)):
                value += w[k, c] * n[t + taps[k], c]
            out[c] = value


@cpu_function
def _second_prelu_forward_cpu(z, sums, d, alpha):
    """z = prelu(d), and the sums of z and z^2 over the channels."""
    slope, zero = alpha[0], z.dtype.type(0)
    for t in range(len(z)):
        out, row = z[t], d[t]
        total = squares = zero
        for c in range(len(out)):
            value = row[c] if row[c] > 0 else slope * row[c]
            out[c] = value
            total += value
            squares += value * value
        sums.s[t] = total
        sums.q[t] = squares


@cpu_function
def _move_on_cpu(n):
    """Go to the next window: the frames that the taps still reach become the first rows of n."""
    for t in range(len(n) - WINDOW):
        for c in range(n.shape[1]):
            n[t, c] = n[WINDOW + t, c]


@cpu_function
def _add_cpu(total, terms):
    for i in range(len(total)):
        total[i] += terms[i]


@cpu_function
def _z_forward_cpu(room, sums, a, statistics, weights, reach, span):
    """d = depthwise(norm(prelu(a))) and z = prelu(d), with the sums of z, for the frames from first to last.

    span is (start, first, last). Earlier calls have made the frames from start to first. The window begins with frame
    `window`, and row 0 of room.n is the frame reach.before frames earlier.
    """
    start, first, last = span
    window = first - (first - start) % WINDOW
    ready = first + reach.after  # n already has the frames before this one
    if first == start:
        ready = start - reach.before
    elif first == window:
        _move_on_cpu(room.n)
    _first_norm_forward_cpu(room.n, a, statistics, weights, ready, last + reach.after, reach.before - window)
    _depthwise_forward_cpu(room.d, room.n[first - window :], weights.wd, weights.bd, reach.taps)
    _second_prelu_forward_cpu(room.z, Sums(sums.s[first:last], sums.q[first:last]), room.d, weights.alpha2)


@cpu_kernel
def _middle_forward_cpu(y, sums, a, statistics, weights, reach, start, stop):
    """y = W2 z, where z = prelu(depthwise(norm(prelu(a)))), and the sums of z, for the frames from start to stop."""
    H = a.shape[1]
    n = np.empty((reach.before + WINDOW + reach.after, H), a.dtype)
    d, z = np.empty((CHUNK, H), a.dtype), np.empty((CHUNK, H), a.dtype)
    for first in range(start, stop, CHUNK):
        last = min(first + CHUNK, stop)
        room = Room(n, d[: last - first], z[: last - first])
        _z_forward_cpu(room, sums, a, statistics, weights, reach, (start, first, last))
        product_with_weight(y[first:last], room.z, weights.w2)


@cpu_kernel
def fold_forward_cpu(w2, u, v, w, b, gamma, beta):
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
def _join_forward_cpu(streams, y, statistics, weights, start, stop):
    """x += r (y - m u) + v, and the skips alike: the second norm's correction, and the residual and skip sums.

    The streams change in place. With separate arrays for the results, the compiler could not rule out that a write
    changes what is read next, and would not use vector instructions.
    """
    (x, skips), (m, r), u, v = streams, statistics, weights.u, weights.v
    R = np.uint64(len(u) - skips.shape[1])
    for t in range(start, stop):
        mean, factor = m[t], r[t]
        for o in range(R):
            x[t, o] += factor * (y[t, o] - mean * u[o]) + v[o]
        for o in range(np.uint64(skips.shape[1])):
            skips[t, o] += factor * (y[t, R + o] - mean * u[R + o]) + v[R + o]


# Backward. g is the gradient of a norm's xhat, times r. `sums` are those of g and g * xhat over a frame's channels.


@cpu_function
def _scale_cpu(dyr, e1, e2, dy, statistics, column):
    """The columns of dyr = dy * r from `column` on. Adds sums over time: of dy to e1, and of dy * r * m to e2."""
    m, r = statistics
    column = np.uint64(column)
    for t in range(len(dyr)):
        mean, factor = m[t], r[t]
        for o in range(np.uint64(dy.shape[1])):
            scaled = dy[t, o] * factor
            dyr[t, column + o] = scaled
            e1[column + o] += dy[t, o]
            e2[column + o] += scaled * mean


@cpu_function
def _sums_backward_cpu(sums, g, z, statistics):
    """The sums over the channels of g and of g * xhat, where xhat = (z - m) r."""
    zero = z.dtype.type(0)
    for t in range(len(z)):
        row, gradient, mean = z[t], g[t], statistics.m[t]
        total = total_x = zero
        for c in range(len(row)):
            total += gradient[c]
            total_x += gradient[c] * (row[c] - mean)
        sums.s[t] = total
        sums.q[t] = total_x * statistics.r[t]


@cpu_kernel
def _second_norm_backward_cpu(g, d, gradients, sums, dy, kept, weights, reach):
    """g at the second norm with its sums, where xhat = (z - m) r; M = dy xhat^T and e1. It also makes d again."""
    M, e1, a = gradients.M, gradients.e1, kept.a
    (T, H), O = a.shape, len(e1)
    R = O - dy.skips.shape[1]
    n = np.empty((reach.before + WINDOW + reach.after, H), a.dtype)
    z, dyr = np.empty((CHUNK, H), a.dtype), np.empty((CHUNK, O), a.dtype)
    e2, chunk_e1, chunk_e2 = np.zeros(O, a.dtype), np.empty(O, a.dtype), np.empty(O, a.dtype)
    e1[:] = 0
    M[:] = 0
    for first in range(0, T, CHUNK):
        last = min(first + CHUNK, T)
        room = Room(n, d[first:last], z[: last - first])
        chunk_dyr, chunk_g = dyr[: last - first], g[first:last]
        _z_forward_cpu(room, sums, a, Statistics(kept.m1, kept.r1), weights, reach, (0, first, last))
        second = Statistics(kept.m2[first:last], kept.r2[first:last])
        chunk_e1[:] = 0
        chunk_e2[:] = 0
        if R:
            _scale_cpu(chunk_dyr, chunk_e1, chunk_e2, dy.x[first:last], second, 0)
        _scale_cpu(chunk_dyr, chunk_e1, chunk_e2, dy.skips[first:last], second, R)
        _add_cpu(e1, chunk_e1)
        _add_cpu(e2, chunk_e2)
        add_product_over_time(M, chunk_dyr, room.z)
        product_with_weight(chunk_g, chunk_dyr, weights.w2)
        _sums_backward_cpu(Sums(sums.s[first:last], sums.q[first:last]), chunk_g, room.z, second)
    for o in range(O):
        for c in range(H):
            M[o, c] -= e2[o]


@cpu_kernel
def fold_backward_cpu(M, dgamma, dbeta, e1, w, gamma, beta):
    """M becomes dw, in place. Adds the gradients of gamma and beta to dgamma and dbeta."""
    for o in range(len(w)):
        row, gradient, total = w[o], M[o], e1[o]
        for c in range(len(row)):
            dgamma[c] += row[c] * gradient[c]
            dbeta[c] += row[c] * total
            gradient[c] = gradient[c] * gamma[c] + total * beta[c]


@cpu_function
def _prelu_backward_cpu(g, db, values, spread, alpha):
    """g at a norm becomes the gradient of the values before its PReLU, in place.

    db is the sum of that gradient over time. Returns the gradient of alpha.
    """
    slope, zero = alpha[0], g.dtype.type(0)
    db[:] = 0
    total_alpha = 0.0
    for t in range(len(g)):
        gradient, row, add, times = g[t], values[t], spread.A[t], spread.D[t]
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
def _depthwise_backward_cpu(g, sums, of_taps, dd, a, statistics, weights, taps):
    """From dd to g at the first norm, with its sums. of_taps[k] is the sum over time of dd * xhat at tap k.

    In the forward pass, frame t of d read row t + taps[k] of n. So the frame of d that read a row of n with tap k is
    taps[k] frames earlier.
    """
    slope, zero, latest = weights.alpha1[0], g.dtype.type(0), taps[len(taps) - 1]
    gamma, w = weights.gamma1, weights.wd
    of_taps[:] = 0
    for t in range(len(g)):
        gradient, row, mean, factor = g[t], a[t], statistics.m[t], statistics.r[t]
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
        sums.s[t] = total
        sums.q[t] = total_x


@cpu_function
def _taps_backward_cpu(gradients, of_taps, padded_g, weights, reach):
    """dwd, dgamma1 and dbeta1 from of_taps, the sums of dd * xhat, and from gradients.bd, the sum of dd."""
    gamma, beta, w = weights.gamma1, weights.beta1, weights.wd
    dw, db, dgamma, dbeta = gradients.wd, gradients.bd, gradients.gamma1, gradients.beta1
    H, T = len(db), len(padded_g) - reach.before - reach.after
    dgamma[:] = 0
    dbeta[:] = 0
    seen = np.empty(H, db.dtype)  # sum of dd over the frames whose tap k read a frame, not the padding
    for k in range(len(reach.taps)):
        offset = reach.taps[k] - reach.before
        for c in range(H):
            seen[c] = db[c]
        for t in range(T):
            if t + offset < 0 or t + offset >= T:
                for c in range(H):
                    seen[c] -= padded_g[t + reach.after, c]
        for c in range(H):
            dw[c, k] = gamma[c] * of_taps[k, c] + beta[c] * seen[c]
            dgamma[c] += w[k, c] * of_taps[k, c]
            dbeta[c] += w[k, c] * seen[c]


@cpu_kernel
def _middle_backward_cpu(d, gradients, sums, padded_g, spread, kept, weights, reach):
    """From padded_g at the second norm to g at the first one, with the sums of g.

    padded_g becomes dd, and d becomes g. Row t of d is read before row t of g is written. padded_g has reach.after more
    frames at the start and reach.before at the end. They are zeros: no frame of d lies there.
    """
    a, db, taps, before, after = kept.a, gradients.bd, reach.taps, reach.before, reach.after
    T, H = a.shape
    padded_g[:after] = 0
    padded_g[after + T :] = 0
    of_taps, of_chunk = np.zeros((len(taps), H), a.dtype), np.empty((len(taps), H), a.dtype)
    chunk_db = np.empty(H, a.dtype)
    db[:] = 0
    total_alpha = 0.0
    ready = 0
    for first in range(0, T, CHUNK):
        last = min(first + CHUNK, T)
        until = min(T, last + before)
        ahead = Spread(spread.A[ready:until], spread.D[ready:until])
        total_alpha += _prelu_backward_cpu(
            padded_g[ready + after : until + after], chunk_db, d[ready:until], ahead, weights.alpha2
        )
        _add_cpu(db, chunk_db)
        ready = until
        chunk_sums = Sums(sums.s[first:last], sums.q[first:last])
        statistics = Statistics(kept.m1[first:last], kept.r1[first:last])
        _depthwise_backward_cpu(
            d[first:last], chunk_sums, of_chunk, padded_g[first:], a[first:last], statistics, weights, taps
        )
        for k in range(len(taps)):
            _add_cpu(of_taps[k], of_chunk[k])
    gradients.alpha2[0] = total_alpha
    _taps_backward_cpu(gradients, of_taps, padded_g, weights, reach)


@cpu_kernel
def _expand_backward_cpu(dx, gradients, g, spread, dx_next, kept, weights):
    """g at the first norm becomes da, in place. Also makes dx = dx' + We^T da, dWe, dalpha1 and dbe."""
    dwe, dalpha, db, a = gradients.we, gradients.alpha1, gradients.be, kept.a
    T, H = a.shape
    chunk_db = np.empty(H, a.dtype)
    dalpha[:] = 0
    db[:] = 0
    dwe[:] = 0
    for first in range(0, T, CHUNK):
        last = min(first + CHUNK, T)
        da, of_chunk = g[first:last], Spread(spread.A[first:last], spread.D[first:last])
        dalpha[0] += _prelu_backward_cpu(da, chunk_db, a[first:last], of_chunk, weights.alpha1)
        _add_cpu(db, chunk_db)
        product_with_weight(dx[first:last], da, weights.we)
        add_product_over_time(dwe, da, kept.x[first:last])
        for t in range(first, last):
            row, residual = dx[t], dx_next[t]
            for c in range(len(row)):
                row[c] += residual[c]


# One sample, forward and backward. These stay in Python: compiling them would double the time of the first compile.


def tcn_block_forward_cpu(streams_next, kept, streams, weights, norm, eps, reach):
    """Fill `streams_next` and `kept` from `streams`."""
    a, (T, H), (x, skips) = kept.a, kept.a.shape, streams
    first, second = Statistics(kept.m1, kept.r1), Statistics(kept.m2, kept.r2)
    sums = Sums(*np.empty((2, T)))
    _expand_forward_cpu(a, sums, x, weights, 0, T)
    statistics_forward_cpu(first, sums, H, norm, eps)
    y = np.empty((T, len(weights.u)), x.dtype)  # the rows of the residual, then those of the skip
    _middle_forward_cpu(y, sums, a, first, weights, reach, 0, T)
    statistics_forward_cpu(second, sums, H, norm, eps)
    if len(weights.u) > skips.shape[1]:
        streams_next.x[:] = x
    streams_next.skips[:] = skips
    _join_forward_cpu(streams_next, y, second, weights, 0, T)


def tcn_block_backward_cpu(dx, gradients, dy, kept, weights, norm, reach):
    """Fill dx and `gradients` from dy, the gradients of the block's output streams."""
    T, H = kept.a.shape
    first, second = Statistics(kept.m1, kept.r1), Statistics(kept.m2, kept.r2)
    sums, spread = Sums(*np.empty((2, T))), Spread(*np.empty((2, T), dx.dtype))
    padded_g, d = np.empty((reach.after + T + reach.before, H), dx.dtype), np.empty((T, H), dx.dtype)
    g = padded_g[reach.after : reach.after + T]
    _second_norm_backward_cpu(g, d, gradients, sums, dy, kept, weights, reach)
    statistics_backward_cpu(spread, sums, second, H, norm)
    _middle_backward_cpu(d, gradients, sums, padded_g, spread, kept, weights, reach)
    statistics_backward_cpu(spread, sums, first, H, norm)
    g = d  # d's memory now holds g at the first norm
    _expand_backward_cpu(dx, gradients, g, spread, dy.x, kept, weights)


def tcn_blocks_inference_cpu(streams, blocks):
    """One sample through `Folded` blocks. Each thread takes a tile of frames; the streams change in place.

    A norm's statistics need the sums of all tiles. So the work is done in rounds, with the statistics between them.
    The end of one block and the beginning of the next are one round.
    """
    x, T, H = streams.x, len(streams.x), len(blocks[0].weights.be)
    a, memory = (
        np.empty((T, H), x.dtype),
        np.empty(T * max(len(block.weights.u) for block in blocks), x.dtype),
    )
    statistics, sums = Statistics(*np.empty((2, T), x.dtype)), Sums(*np.empty((2, T)))

    def y(block):  # the last block has no residual
        return memory[: T * len(block.weights.u)].reshape(T, -1)

    def expand(start, stop, block):
        _expand_forward_cpu(a, sums, x, block.weights, start, stop)

    def middle(start, stop, block):
        _middle_forward_cpu(y(block), sums, a, statistics, block.weights, block.reach, start, stop)

    def join(start, stop, block):
        _join_forward_cpu(streams, y(block), statistics, block.weights, start, stop)

    def join_and_expand(start, stop, block, following):
        join(start, stop, block)
        expand(start, stop, following)

    over_tiles(expand, T, TILE, blocks[0])
    for block, following in zip(blocks, [*blocks[1:], None]):
        statistics_forward_cpu(statistics, sums, H, block.norm, block.eps)
        over_tiles(middle, T, TILE, block)
        statistics_forward_cpu(statistics, sums, H, block.norm, block.eps)
        if following:
            over_tiles(join_and_expand, T, TILE, block, following)
        else:
            over_tiles(join, T, TILE, block)
