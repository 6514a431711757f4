"""The same network, hop by hop, with carried state: exactly the offline output, as soon as it is final.

    streamer = Streamer(model)
    while samples arrive:
        speech, noise = streamer.process(samples)     # any number in; those that became final out
    speech, noise = streamer.flush()                  # the rest

Time runs in frames, one every hop. When frame f has come in, block i works on a frame that lies as far
back as the blocks before it look ahead, and hands on one that lies back by its own look-ahead as well:

    frame into block i      u = f - (look-ahead of blocks 0..i-1)
    frame out of block i    v = u - (look-ahead of block i)
    frame into the decoder  f - D,  with D the look-ahead of all blocks

What has to be remembered follows from that:

    window    the encoder's last samples: frames overlap by half
    history   what each depthwise convolution heard, as far back as its first tap reaches
    sums      of x, of x^2 and of 1 for each norm: its mean and variance so far (float64)
    frames    encoded frame, x and sum of skips of the last D frames. Frame u of block i's input is
              frame v = u of its output a little later, so x is updated in place, and so are the skips
    overlap   the decoder's last half window

The two ends of a recording need one rule. Offline, a depthwise convolution sees zeros before the first
and after the last frame. So does it here: frames outside 0 <= frame < length go through the blocks like
any other, but a norm makes them zero and does not count them.

Several hops in one call are worked on together, layer by layer, so that each weight is read once for all
of them: reading the weights is what takes the time.
"""

import math
from typing import NamedTuple

import numpy as np

from tasnet_np.device import cpu_kernel
from tasnet_np.model import SOURCES
from tasnet_np.ops.norms import EPS

TOGETHER = 8  # frames worked on together, at most
ENDLESS = 1 << 62  # the length in frames of a stream whose end has not come
SILENT = 1e-20  # -400 dBFS
MASKS = {"sigmoid": 0, "softmax": 1, "relu": 2}


class _Weights(NamedTuple):
    """The model's parameters, copied, each kind in one array over all blocks in the order of reading."""

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


class _State(NamedTuple):
    """What is carried from call to call. Its size does not change."""

    window: np.ndarray  # (channels, L)
    encoded: np.ndarray  # (slots, channels, N): frame f in slot f % slots
    x: np.ndarray  # (slots, channels, B)
    skips: np.ndarray  # (slots, channels, Sc)
    history: np.ndarray  # (rows of all blocks, channels, H)
    sums: np.ndarray  # (1 + 2 blocks, channels, 3) float64: x, x^2, 1 of each norm
    overlap: np.ndarray  # (2, channels, hop)
    replaced: np.ndarray  # (1,): samples that were NaN or infinite


class _Room(NamedTuple):
    """Room for what passes between the layers. A row is one frame of one channel."""

    windows: np.ndarray  # (rows, L)
    frames: np.ndarray  # (rows, N)
    narrow: np.ndarray  # (rows, B)
    wide: np.ndarray  # (rows, H)
    filtered: np.ndarray  # (rows, H)
    joined: np.ndarray  # (rows, Sc + B)
    skips: np.ndarray  # (rows, Sc)
    masks: np.ndarray  # (rows, 2 N)
    pieces: np.ndarray  # (rows, L)


class _Plan(NamedTuple):
    """The settings that the kernels need."""

    dilations: np.ndarray  # (blocks,)
    lookaheads: np.ndarray  # (blocks,)
    starts: np.ndarray  # (blocks + 1,): rows of each block in the history
    encoder_relu: bool
    masks: int
    forgetting: float
    eps: float
    silent: float


class Streamer:
    """Runs a model on sound as it arrives.

    All outputs put together are what `model.forward` gives for all inputs put together, sample for
    sample, whatever the sizes of the pieces. The weights are copied: later training is not seen.
    Samples that are NaN or infinite are taken as 0 and counted in `replaced`. So are those below -400
    dBFS, without being counted.

    Parameters
    ----------
    model : ConvTasNet
    channels : int
        Channels of the sound. Each is separated by itself.
    forgetting : float, above 0 and at most 1
        Factor on the running sums of the cumulative norms at every frame. 1 is the paper's norm, whose
        mean and variance are over everything so far. Below 1 old frames count less and less, with a time
        constant of about hop / (1 - forgetting) samples.

    Raises
    ------
    ValueError : a model that cannot be streamed, with the reason; a setting out of range
    """

    def __init__(self, model, channels=1, *, forgetting=1.0):
        c = model.config
        if c.norm == "gLN":
            raise ValueError(
                "this model cannot be streamed: its norm is gLN, whose mean and variance are those of "
                'the whole recording; train one without --non-causal (norm="cLN" or "channel")'
            )
        if not isinstance(channels, int) or channels < 1:
            raise ValueError(f"channels must be a whole number of at least 1, not {channels!r}")
        if not 0 < forgetting <= 1:
            raise ValueError(f"forgetting must be above 0 and at most 1, not {forgetting}")
        self.config, self.channels, self.dtype = c, channels, model.dtype
        self._weights = _pack(model.on_cpu())
        self._state = _empty_state(c, channels, model.dtype)
        self._room = _room(c, channels * TOGETHER, model.dtype)
        self._plan = _plan(c, forgetting)
        self.reset()
        self.process(np.zeros((channels, 0), self.dtype))  # compiles now, not when the sound has begun

    @property
    def latency_samples(self):
        """How long after a sample came in it has left: a full window, and the look-ahead."""
        return self.config.latency_samples

    @property
    def latency_ms(self):
        return self.config.latency_ms

    @property
    def state_bytes(self):
        """Size of the carried state."""
        return sum(array.nbytes for array in self._state)

    @property
    def replaced(self):
        """Samples that were NaN or infinite, since the last reset."""
        return int(self._state.replaced[0])

    def reset(self):
        """Forget everything: the next sample is the first of a new stream."""
        for array in self._state:
            array[...] = 0
        self._received = 0

    def process(self, samples):
        """Take in the next samples and return the outputs that have become final.

        Parameters
        ----------
        samples : (channels, n) array of the model's dtype, n >= 0; for one channel (n,) will do

        Returns
        -------
        (2, channels, m) array, for one channel (2, m) : speech and noise

        Raises
        ------
        ValueError, TypeError : an array of another shape or dtype
        """
        samples = np.array(samples, order="C", ndmin=2)  # a copy: of one layout and writable, for Numba
        if samples.dtype != self.dtype:
            raise TypeError(f"samples must be {self.dtype} like the model, not {samples.dtype}")
        if samples.ndim != 2 or len(samples) != self.channels:
            raise ValueError(f"samples must be ({self.channels}, n), not {samples.shape}")
        return self._advance(samples, ENDLESS)

    def flush(self):
        """End the stream: return the outputs still missing, shaped as those of `process`, and reset."""
        c, received = self.config, self._received
        length = c.frames(received) if received else 0
        needed = (length + c.lookahead_frames) * c.hop if received else 0
        silence = np.zeros((self.channels, needed - received), self.dtype)
        sources = self._advance(silence, length)[..., : received - self._final(received)]
        self.reset()
        return sources

    def _advance(self, samples, length):
        before, self._received = self._received, self._received + samples.shape[1]
        final = self._final(self._received) - self._final(before)
        sources = np.empty((len(SOURCES), self.channels, final), self.dtype)
        _stream(sources, samples, before, length, self._weights, self._state, self._room, self._plan)
        return sources[:, 0] if self.channels == 1 else sources

    def _final(self, received):
        """Outputs that are final after so many inputs: those under two masked frames."""
        hop = self.config.hop
        return max(0, received // hop - 1 - self.config.lookahead_frames) * hop


def _pack(model):
    """Copy a model's parameters into the layout of `_Weights`."""
    c, blocks = model.config, model.blocks
    parameters = model.named_parameters()
    N, B, Sc, H = c.filters, c.bottleneck, c.skip, c.hidden

    def stack(*names):
        return np.stack([[parameters[f"blocks.{i}.{name}"] for name in names] for i in range(len(blocks))])

    def narrow(kind, *shape):
        both = np.zeros((len(blocks), Sc + B, *shape), model.dtype)  # the last block has no residual
        for i in range(len(blocks)):
            both[i, :Sc] = parameters[f"blocks.{i}.skip.{kind}"]
            if i < len(blocks) - 1:
                both[i, Sc:] = parameters[f"blocks.{i}.residual.{kind}"]
        return both

    decoders = list(model.decoders.values()) * (len(SOURCES) // len(model.decoders))
    norms = stack("norm1.gamma", "norm1.beta", "norm2.gamma", "norm2.beta")  # (blocks, 4, H)
    weights = _Weights(
        encoder=parameters["encoder.w"],
        norm=np.stack([parameters["norm.gamma"], parameters["norm.beta"]]),
        bottleneck=parameters["bottleneck.w"],
        bottleneck_b=parameters["bottleneck.b"],
        expand=stack("expand.w")[:, 0],
        expand_b=stack("expand.b")[:, 0],
        norms=norms.reshape(len(blocks), 2, 2, H),
        slopes=stack("prelu1.alpha", "prelu2.alpha")[:, :, 0],
        depthwise=stack("depthwise.w")[:, 0].swapaxes(1, 2),
        depthwise_b=stack("depthwise.b")[:, 0],
        narrow=narrow("w", H),
        narrow_b=narrow("b"),
        slope=parameters["prelu.alpha"],
        mask=parameters["mask.w"],
        mask_b=parameters["mask.b"],
        decoders=np.stack([decoder.params["w"].T for decoder in decoders]),
        no_b=np.zeros(max(N, c.filter_length), model.dtype),
    )
    return _Weights(*map(_aligned, weights))


def _aligned(array):
    """A copy that begins with a cache line: vector loads across two lines take twice as long."""
    line = 64
    room = np.empty(array.nbytes + line, np.uint8)
    start = -room.ctypes.data % line
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _plan(c, forgetting):
    blocks = range(c.blocks * c.repeats)
    rows = [(c.kernel - 1) * c.dilation(i) + 1 for i in blocks]
    return _Plan(
        dilations=np.array([c.dilation(i) for i in blocks]),
        lookaheads=np.array([c.lookahead(i) for i in blocks]),
        starts=np.cumsum([0, *rows]),
        encoder_relu=c.encoder_activation == "relu",
        masks=MASKS[c.mask_activation],
        forgetting=float(forgetting) if c.norm == "cLN" else 0.0,  # per frame: nothing is remembered
        eps=EPS,
        silent=SILENT,
    )


def _empty_state(c, channels, dtype):
    blocks = range(c.blocks * c.repeats)
    slots = c.lookahead_frames + TOGETHER
    rows = sum((c.kernel - 1) * c.dilation(i) + 1 for i in blocks)
    state = _State(
        window=np.zeros((channels, c.filter_length), dtype),
        encoded=np.zeros((slots, channels, c.filters), dtype),
        x=np.zeros((slots, channels, c.bottleneck), dtype),
        skips=np.zeros((slots, channels, c.skip), dtype),
        history=np.zeros((rows, channels, c.hidden), dtype),
        sums=np.zeros((1 + 2 * len(blocks), channels, 3)),
        overlap=np.zeros((len(SOURCES), channels, c.hop), dtype),
        replaced=np.zeros(1, np.int64),
    )
    return _State(*map(_aligned, state))


def _room(c, rows, dtype):
    widths = _Room(
        windows=c.filter_length,
        frames=c.filters,
        narrow=c.bottleneck,
        wide=c.hidden,
        filtered=c.hidden,
        joined=c.skip + c.bottleneck,
        skips=c.skip,
        masks=len(SOURCES) * c.filters,
        pieces=c.filter_length,
    )
    return _Room(*(_aligned(np.zeros((rows, width), dtype)) for width in widths))


# The kernels. Rows are frame by frame, and channel by channel within a frame: row r of a tile that begins
# with frame `first` is frame first + r // channels of channel r % channels.


@cpu_kernel
def _product(y, x, w, b):
    """y (rows, O) = x (rows, C) w^T + b: the work. Each row of w is read once, for four rows of x at a time."""
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
    """Cumulative norm in place; rows outside the recording become zero and are not counted."""
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
    """Remember row by row of x, and give what the taps then see. y is that of an earlier frame."""
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
            if kind == 0:
                small = math.exp(-abs(speech))
                masks[r, i] = (1 if speech >= 0 else small) / (1 + small)
                small = math.exp(-abs(noise))
                masks[r, N + i] = (1 if noise >= 0 else small) / (1 + small)
            elif kind == 1:  # softmax of two is the sigmoid of their difference
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
def _fill_windows(windows, samples, taken, filled, state, silent):
    """Cut as many windows from samples (channels, n) as there is room for, without what is not a number.

    Samples up to `silent` become 0, too: their products can be denormal numbers, with which some processors
    take a hundred times as long.

    Returns the samples taken, how far the next window's new half is filled, and the windows made.
    """
    channels, n = samples.shape
    hop = state.window.shape[1] // 2
    made = 0
    while taken < n and (made + 1) * channels <= len(windows):
        count = min(hop - filled, n - taken)
        for channel in range(channels):
            for i in range(count):
                value = samples[channel, taken + i]
                if not math.isfinite(value):
                    state.replaced[0] += 1
                if not silent < abs(value) < math.inf:
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
    """From windows to masked frames: room.windows -> room.masks, which are of D frames earlier."""
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
    """Overlap-add of masked frames into sources (2, channels, m); returns the samples written so far."""
    channels, hop = state.overlap.shape[1:]
    N = room.frames.shape[1]
    pieces, frames = room.pieces[:rows], room.frames[:rows]
    count = max(0, first + rows // channels - max(first, 1))  # frame 0 completes nothing
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
def _stream(sources, samples, received, length, weights, state, room, plan):
    """One call for everything that came in: samples (channels, n) -> sources (2, channels, m)."""
    channels, n = samples.shape
    hop = state.window.shape[1] // 2
    first, filled = received // hop, received % hop
    taken = written = 0
    while taken < n:
        taken, filled, made = _fill_windows(room.windows, samples, taken, filled, state, plan.silent)
        if made:
            rows = made * channels
            frame = _separate(rows, first, length, weights, state, room, plan)
            written = _decode(sources, written, rows, frame, weights, state, room)
            first += made
