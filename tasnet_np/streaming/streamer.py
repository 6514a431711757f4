"""The same network, hop by hop, with a state that is carried on. It gives the offline output, as soon as it is final.

    streamer = Streamer(model)
    while samples arrive:
        speech, noise = streamer.process(samples)     # any number in; those that became final out
    speech, noise = streamer.flush()                  # the rest

Time is counted in frames. A frame comes with every hop. A block that looks ahead must wait for later frames, so it
works on an earlier frame than the newest one. When frame f has come in:

    frame into block i      u = f - (look-ahead of blocks 0..i-1)
    frame out of block i    v = u - (look-ahead of block i)
    frame into the decoder  f - D,  with D the look-ahead of all blocks

So the state holds:

    window    the encoder's last samples, because windows overlap by half
    history   the last input frames of each depthwise convolution, as far back as its first tap reaches
    sums      of x, of x^2 and of 1 for each norm, which give its mean and variance so far (float64)
    encoded   the encoded frames, for the last D frames
    x, skips  the two streams between the blocks, for the last D frames. A block takes frame u in and gives the
              same frame out a little later, as v. So each block changes x and skips in place
    overlap   the second half of the decoder's last window

The two ends of a recording need one rule. Offline, a depthwise convolution sees zeros before the first and after the
last frame. The same is true here: frames outside 0 <= frame < length go through the blocks like others, but a norm
makes them zero and does not count them.

Several hops that come in one call are computed together, layer by layer. So each weight is read once for all of them.
Reading the weights is what takes the time.
"""

from __future__ import annotations

import numpy as np

from tasnet_np.network.config import SOURCES
from tasnet_np.network.execution import ConvTasNet
from tasnet_np.ops.frame_statistics import EPS
from tasnet_np.sound.bad_samples import LARGEST
from tasnet_np.streaming.streamer_cpu import RELU, SIGMOID, SOFTMAX, Plan, Room, State, Weights, stream

TOGETHER = 8  # most frames that are computed together
ENDLESS = 1 << 62  # the length, in frames, of a stream whose end is not known yet
SILENT = 1e-20  # -400 dBFS: samples up to this are taken as 0
MASKS = {"sigmoid": SIGMOID, "softmax": SOFTMAX, "relu": RELU}


class Streamer:
    """Runs a model on sound as it arrives.

    All outputs together are what `model.forward` gives for all inputs together, sample for sample, whatever the sizes
    of the pieces. The weights are copied, so later training does not change a stream. Bad samples (NaN, infinite or
    above `bad_samples.LARGEST`) are taken as 0, and counted in `replaced`. Samples up to -400 dBFS are taken as 0, too,
    but not counted.

    Parameters
    ----------
    model : ConvTasNet
    channels : int
        Channels of the sound. Each is separated by itself.
    forgetting : float, above 0 and at most 1
        Factor on the running sums of the cumulative norms at every frame. 1 is the paper's norm, whose mean and
        variance are over everything so far (Eq. 12-14 of arXiv 1809.07454). Below 1, old frames count less and less,
        with a time constant of about hop / (1 - forgetting) samples.

    Raises
    ------
    ValueError
        A model that cannot be streamed, with the reason; a setting out of range.
    """

    def __init__(self, model: ConvTasNet, channels: int = 1, *, forgetting: float = 1.0) -> None:
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
        self.process(np.zeros((channels, 0), self.dtype))  # compiles the kernels before the sound begins

    @property
    def latency_samples(self) -> int:
        """The latency in samples: a full window and the look-ahead."""
        return self.config.latency_samples

    @property
    def latency_ms(self) -> float:
        """The latency in milliseconds."""
        return self.config.latency_ms

    @property
    def state_bytes(self) -> int:
        """Size of the state, in bytes. It does not change."""
        return sum(array.nbytes for array in self._state)

    @property
    def replaced(self) -> int:
        """The number of samples since the last reset that were NaN, infinite or absurdly large."""
        return int(self._state.replaced[0])

    def reset(self) -> None:
        """Forget everything: the next sample is the first of a new stream."""
        for array in self._state:
            array[...] = 0
        self._received = 0

    def process(self, samples: np.ndarray) -> np.ndarray:
        """Take in the next samples, and return the outputs that have become final.

        Parameters
        ----------
        samples : ndarray, shape (channels, n), or (n,) for one channel
            Of the model's dtype. n may be 0.

        Returns
        -------
        ndarray, shape (2, channels, m), or (2, m) for one channel
            Speech and noise. m may be 0.

        Raises
        ------
        ValueError, TypeError
            An array of another shape or dtype.
        """
        samples = np.array(samples, order="C", ndmin=2)  # a copy, contiguous and writable: one type for Numba
        if samples.dtype != self.dtype:
            raise TypeError(f"samples must be {self.dtype} like the model, not {samples.dtype}")
        if samples.ndim != 2 or len(samples) != self.channels:
            raise ValueError(f"samples must be ({self.channels}, n), not {samples.shape}")
        return self._advance(samples, ENDLESS)

    def flush(self) -> np.ndarray:
        """End the stream: return the outputs that are still missing, shaped as those of `process`, and reset."""
        c, received = self.config, self._received
        length = c.frames(received) if received else 0
        needed = (length + c.lookahead_frames) * c.hop if received else 0
        silence = np.zeros((self.channels, needed - received), self.dtype)
        sources = self._advance(silence, length)[..., : received - self._final(received)]
        self.reset()
        return sources

    def _advance(self, samples, length):
        """Take in samples of a stream of `length` frames, and return the outputs that have become final."""
        before, self._received = self._received, self._received + samples.shape[1]
        final = self._final(self._received) - self._final(before)
        sources = np.empty((len(SOURCES), self.channels, final), self.dtype)
        stream(sources, samples, before, length, self._weights, self._state, self._room, self._plan)
        return sources[:, 0] if self.channels == 1 else sources

    def _final(self, received):
        """How many outputs are final after so many inputs: those that lie in two masked frames."""
        hop = self.config.hop
        return max(0, received // hop - 1 - self.config.lookahead_frames) * hop


def _pack(model):
    """Copy a model's parameters into the layout of `Weights`."""
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
    weights = Weights(
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
    return Weights(*map(_aligned, weights))


def _aligned(array):
    """A copy that begins at a cache line, because a vector load across two lines takes twice as long."""
    line = 64
    room = np.empty(array.nbytes + line, np.uint8)
    start = -room.ctypes.data % line
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _plan(c, forgetting):
    blocks = range(c.blocks * c.repeats)
    rows = [(c.kernel - 1) * c.dilation(i) + 1 for i in blocks]
    return Plan(
        dilations=np.array([c.dilation(i) for i in blocks]),
        lookaheads=np.array([c.lookahead(i) for i in blocks]),
        starts=np.cumsum([0, *rows]),
        encoder_relu=c.encoder_activation == "relu",
        masks=MASKS[c.mask_activation],
        forgetting=float(forgetting) if c.norm == "cLN" else 0.0,  # the per-frame norm keeps no sums
        eps=EPS,
        silent=SILENT,
        largest=LARGEST,
    )


def _empty_state(c, channels, dtype):
    blocks = range(c.blocks * c.repeats)
    slots = c.lookahead_frames + TOGETHER
    rows = sum((c.kernel - 1) * c.dilation(i) + 1 for i in blocks)
    state = State(
        window=np.zeros((channels, c.filter_length), dtype),
        encoded=np.zeros((slots, channels, c.filters), dtype),
        x=np.zeros((slots, channels, c.bottleneck), dtype),
        skips=np.zeros((slots, channels, c.skip), dtype),
        history=np.zeros((rows, channels, c.hidden), dtype),
        sums=np.zeros((1 + 2 * len(blocks), channels, 3)),
        overlap=np.zeros((len(SOURCES), channels, c.hop), dtype),
        replaced=np.zeros(1, np.int64),
    )
    return State(*map(_aligned, state))


def _room(c, rows, dtype):
    widths = Room(
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
    return Room(*(_aligned(np.zeros((rows, width), dtype)) for width in widths))
