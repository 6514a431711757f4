"""The stream's kernels, and the arrays that they pass on together. streaming.py explains how the stream works.

The rows of a tile are ordered by frame, and within a frame by channel. In a tile that begins with frame `first`, row r
is frame first + r // channels of channel r % channels.
"""

import math
from typing import NamedTuple

import numpy as np

from tasnet_np.compute.cpu import cpu_kernel

SIGMOID, SOFTMAX, RELU = 0, 1, 2  # the activations that make the masks, for kernels


class Weights(NamedTuple):
    """Copies of the model's parameters. Each kind is one array for all blocks, in the order in which it is read."""

    encoder: np.ndarray  # (N, L)
    norm: np.ndarray  # (2, N): gamma and beta
    bottleneck: np.ndarray  # (B, N)
    bottleneck_b: np.ndarray  # (B,)
    expand: np.ndarray  # (blocks, H, B)
    expand_b: np.ndarray  # (blocks, H)
    norms: np.ndarray  # (blocks, 2, 2, H): first and second norm, gamma and beta
    slopes: np.ndarray  # (blocks, 2): of the two PReLUs
    depthwise: np.ndarray  # (blocks, K, H)
    depthwise_b: np.ndarray  # (blocks, H)
    narrow: np.ndarray  # (blocks, Sc + B, H): skip and residual
    narrow_b: np.ndarray  # (blocks, Sc + B)
    slope: np.ndarray  # (1,): of the PReLU before the masks
    mask: np.ndarray  # (2 N, Sc)
    mask_b: np.ndarray  # (2 N,)
    decoders: np.ndarray  # (2, L, N): one per source, transposed
    no_b: np.ndarray  # (max(L, N),) zeros: encoder and decoder have no bias


class State(NamedTuple):
    """The state, carried from call to call. Its size does not change."""

    window: np.ndarray  # (channels, L)
    encoded: np.ndarray  # (slots, channels, N): frame f in slot f % slots
    x: np.ndarray  # (slots, channels, B)
    skips: np.ndarray  # (slots, channels, Sc)
    history: np.ndarray  # (rows of all blocks, channels, H)
    sums: np.ndarray  # (1 + 2 blocks, channels, 3) float64: x, x^2, 1 of each norm
    overlap: np.ndarray  # (2, channels, hop)
    replaced: np.ndarray  # (1,): samples that were NaN, infinite or too large


class Room(NamedTuple):
    """Arrays for what goes from layer to layer. A row is one frame of one channel."""

    windows: np.ndarray  # (rows, L)
    frames: np.ndarray  # (rows, N)
    narrow: np.ndarray  # (rows, B)
    wide: np.ndarray  # (rows, H)
    filtered: np.ndarray  # (rows, H)
    joined: np.ndarray  # (rows, Sc + B)
    skips: np.ndarray  # (rows, Sc)
    masks: np.ndarray  # (rows, 2 N)
    pieces: np.ndarray  # (rows, L)


class Plan(NamedTuple):
    """The settings that the kernels need."""

    dilations: np.ndarray  # (blocks,)
    lookaheads: np.ndarray  # (blocks,)
    starts: np.ndarray  # (blocks + 1,): block i has the rows of the history from starts[i] to starts[i + 1]
    encoder_relu: bool
    masks: int
    forgetting: float
    eps: float
    silent: float
    largest: float


@cpu_kernel
def _product(y, x, w, b):
    """y (rows, O) = x (rows, C) w^T + b: most of a stream's work. Each row of w serves four rows of x at a time."""
    rows, C = x.shape
    tiled = rows - rows % 4
    zero = y.dtype.type(0)
    for o in range(len(w)):
        for r in range(0, tiled, 4):
            y0 = y1 = y2 = y3 = zero
            for c in range(C):
                y0 += w[o, c] * x[r, c]
                y1 += w[o, c] * x[r + 1, c]
                y2 += w[o, c] * x[r + 2, c]
                y3 += w[o, c] * x[r + 3, c]
            y[r, o], y[r + 1, o], y[r + 2, o], y[r + 3, o] = b[o] + y0, b[o] + y1, b[o] + y2, b[o] + y3
        for r in range(tiled, rows):
            total = zero
            for c in range(C):
                total += w[o, c] * x[r, c]
            y[r, o] = b[o] + total


@cpu_kernel
def _prelu(x, slope):
    for r in range(len(x)):
        for c in range(x.shape[1]):
            x[r, c] = x[r, c] if x[r, c] > 0 else slope * x[r, c]


@cpu_kernel
def _normalise(x, sums, first, length, affine, forgetting, eps):
    """Cumulative norm, in place. Rows outside the recording become zero and are not counted."""
    rows, C = x.shape
    channels = len(sums)
    for r in range(rows):
        if not 0 <= first + r // channels < length:
            x[r] = 0
            continue
        total, squares = 0.0, 0.0
        for c in range(C):
            value = np.float64(x[r, c])
            total += value
            squares += value * value
        so_far = sums[r % channels]  # (3,)
        so_far[0] = forgetting * so_far[0] + total
        so_far[1] = forgetting * so_far[1] + squares
        so_far[2] = forgetting * so_far[2] + C
        mean = so_far[0] / so_far[2]
        scale = 1 / math.sqrt(max(so_far[1] / so_far[2] - mean * mean, 0.0) + eps)
        for c in range(C):
            x[r, c] = affine[0, c] * ((x[r, c] - mean) * scale) + affine[1, c]


@cpu_kernel
def _depthwise(y, x, history, first, w, b, dilation):
    """Put each row of x into the history, and convolve what the taps then see. y belongs to an earlier frame."""
    rows, H = x.shape
    slots, channels = history.shape[:2]
    K = len(w)
    for r in range(rows):
        frame, channel = first + r // channels, r % channels
        history[frame % slots, channel] = x[r]
        y[r] = b
        for k in range(K):
            heard = history[(frame - (K - 1 - k) * dilation) % slots, channel]  # (H,)
            for h in range(H):
                y[r, h] += w[k, h] * heard[h]


@cpu_kernel
def _make_masks(masks, kind):
    """Sigmoid, softmax over the sources or ReLU, in place."""
    rows, N = masks.shape[0], masks.shape[1] // 2
    for r in range(rows):
        for i in range(N):
            speech, noise = masks[r, i], masks[r, N + i]
            if kind == SIGMOID:
                small = math.exp(-abs(speech))
                masks[r, i] = (1 if speech >= 0 else small) / (1 + small)
                small = math.exp(-abs(noise))
                masks[r, N + i] = (1 if noise >= 0 else small) / (1 + small)
            elif kind == SOFTMAX:  # the softmax of two numbers is the sigmoid of their difference
                small = math.exp(-abs(speech - noise))
                masks[r, i] = (1 if speech >= noise else small) / (1 + small)
                masks[r, N + i] = (small if speech >= noise else 1) / (1 + small)
            else:
                masks[r, i], masks[r, N + i] = max(speech, 0), max(noise, 0)


@cpu_kernel
def _load(rows, ring, first):
    """Rows of a tile from a ring of frames (slots, channels, width)."""
    slots, channels = ring.shape[:2]
    for r in range(len(rows)):
        rows[r] = ring[(first + r // channels) % slots, r % channels]


@cpu_kernel
def _store(ring, rows, first):
    slots, channels = ring.shape[:2]
    for r in range(len(rows)):
        ring[(first + r // channels) % slots, r % channels] = rows[r]


@cpu_kernel
def _add(ring, rows, first):
    slots, channels, width = ring.shape
    for r in range(len(rows)):
        place = ring[(first + r // channels) % slots, r % channels]
        for i in range(width):
            place[i] += rows[r, i]


@cpu_kernel
def _fill_windows(windows, samples, taken, filled, state, silent, largest):
    """Cut as many windows from samples (channels, n) as there is room for.

    Samples that are NaN or beyond `largest` become 0. So do samples up to `silent`: their products can be
    denormal numbers, for which some processors take a hundred times as long.

    Returns how many samples were taken, how far the new half of the next window is filled, and how many windows were
    made.
    """
    channels, n = samples.shape
    hop = state.window.shape[1] // 2
    made = 0
    while taken < n and (made + 1) * channels <= len(windows):
        count = min(hop - filled, n - taken)
        for channel in range(channels):
            for i in range(count):
                value = samples[channel, taken + i]
                if not abs(value) <= largest:
                    state.replaced[0] += 1
                if not silent < abs(value) <= largest:
                    value = samples.dtype.type(0)
                state.window[channel, hop + filled + i] = value
        taken, filled = taken + count, filled + count
        if filled == hop:
            for channel in range(channels):
                window = state.window[channel]
                windows[made * channels + channel] = window
                for i in range(hop):  # the new half is the next window's old half
                    window[i] = window[hop + i]
            made, filled = made + 1, 0
    return taken, filled, made


@cpu_kernel
def _separate(rows, first, length, weights, state, room, plan):
    """From windows to masked frames: room.windows -> room.masks, which belong to D frames earlier.

    Returns the first of these frames.
    """
    sums, forgetting, eps = state.sums, plan.forgetting, plan.eps
    B, Sc = state.x.shape[2], state.skips.shape[2]
    frames, narrow, wide = room.frames[:rows], room.narrow[:rows], room.wide[:rows]
    filtered, joined, skips = room.filtered[:rows], room.joined[:rows], room.skips[:rows]

    _product(frames, room.windows[:rows], weights.encoder, weights.no_b)
    if plan.encoder_relu:
        _prelu(frames, frames.dtype.type(0))
    _store(state.encoded, frames, first)
    _normalise(frames, sums[0], first, length, weights.norm, forgetting, eps)
    _product(narrow, frames, weights.bottleneck, weights.bottleneck_b)
    _store(state.x, narrow, first)
    skips[:] = 0
    _store(state.skips, skips, first)

    frame = first
    last = len(weights.expand) - 1
    for i in range(last + 1):
        norms, slopes = weights.norms[i], weights.slopes[i]
        history = state.history[plan.starts[i] : plan.starts[i + 1]]
        _load(narrow, state.x, frame)
        _product(wide, narrow, weights.expand[i], weights.expand_b[i])
        _prelu(wide, slopes[0])
        _normalise(wide, sums[1 + 2 * i], frame, length, norms[0], forgetting, eps)
        _depthwise(
            filtered, wide, history, frame, weights.depthwise[i], weights.depthwise_b[i], plan.dilations[i]
        )
        frame -= plan.lookaheads[i]
        _prelu(filtered, slopes[1])
        _normalise(filtered, sums[2 + 2 * i], frame, length, norms[1], forgetting, eps)
        outputs = Sc + B if i < last else Sc  # skip and residual
        _product(joined, filtered, weights.narrow[i, :outputs], weights.narrow_b[i])
        _add(state.skips, joined[:, :Sc], frame)
        if i < last:
            _add(state.x, joined[:, Sc:], frame)

    masks = room.masks[:rows]
    _load(skips, state.skips, frame)
    _prelu(skips, weights.slope[0])
    _product(masks, skips, weights.mask, weights.mask_b)
    _make_masks(masks, plan.masks)
    _load(frames, state.encoded, frame)
    N = frames.shape[1]
    for r in range(rows):
        for i in range(N):
            masks[r, i] *= frames[r, i]
            masks[r, N + i] *= frames[r, i]
    return frame


@cpu_kernel
def _decode(sources, written, rows, first, weights, state, room):
    """Overlap-add of masked frames into sources (2, channels, m). Returns how many samples are written so far."""
    channels, hop = state.overlap.shape[1:]
    N = room.frames.shape[1]
    pieces, frames = room.pieces[:rows], room.frames[:rows]
    count = max(0, first + rows // channels - max(first, 1))  # frame 0 completes no samples
    for s in range(len(state.overlap)):
        frames[:] = room.masks[:rows, s * N : (s + 1) * N]
        _product(pieces, frames, weights.decoders[s], weights.no_b)
        for r in range(rows):
            frame, channel = first + r // channels, r % channels
            overlap = state.overlap[s, channel]  # (hop,)
            if frame >= 1:
                start = written + (frame - max(first, 1)) * hop
                for i in range(hop):
                    sources[s, channel, start + i] = overlap[i] + pieces[r, i]
            overlap[:] = pieces[r, hop:]
    return written + count * hop


@cpu_kernel
def stream(sources, samples, received, length, weights, state, room, plan):
    """All that is done for the samples of one call: samples (channels, n) -> sources (2, channels, m)."""
    channels, n = samples.shape
    hop = state.window.shape[1] // 2
    first, filled = received // hop, received % hop
    taken = written = 0
    while taken < n:
        taken, filled, made = _fill_windows(
            room.windows, samples, taken, filled, state, plan.silent, plan.largest
        )
        if made:
            rows = made * channels
            frame = _separate(rows, first, length, weights, state, room, plan)
            written = _decode(sources, written, rows, frame, weights, state, room)
            first += made
