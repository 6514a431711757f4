"""Conv-TasNet: a mixture goes in, the speaker and the background come out. Smallest part first.

    mixture (B, n) -> encoder -> frames (B, N, T) -------------------------- x --> decoder -> (B, 2, n)
                                    |                                       |
                                    +-> norm -> bottleneck -> blocks -> masks (B, 2, N, T)

Every `backward` below is its `forward` read upwards. Letters in comments are those of the paper (Luo and
Mesgarani, "Conv-TasNet: Surpassing Ideal Time-Frequency Magnitude Masking for Speech Separation").
"""

import copy
import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from tasnet_np.device import (
    contiguous, each, each_in_order, get_threads, move, on_gpu, over_tiles, stack, unstack, window, zeros,
)  # fmt: skip
from tasnet_np.layers import PATHS, Layer, OpLayer
from tasnet_np.ops.tcn_block import TILE, tcn_blocks_inference

NORMS = {
    "gLN": "global_layer_norm",
    "cLN": "cumulative_layer_norm",
    "channel": "channel_layer_norm",
}
SOURCES = ("speech", "noise")  # C in the paper: two sources, always in this order


@dataclass(frozen=True)
class Config:
    """Everything that decides the architecture.

    Raises
    ------
    ValueError : a combination that cannot work, with the reason
    """

    sample_rate: int = 8000  # Hz
    filters: int = 128  # N: filters of the encoder
    filter_length: int = 16  # L: samples per filter; frames follow each other every L/2 samples
    bottleneck: int = 64  # B: channels between the blocks (the residual path)
    hidden: int = 128  # H: channels inside a block
    skip: int = 64  # Sc: channels of the skip paths
    kernel: int = 3  # P: taps of the depthwise convolution
    blocks: int = 6  # X: blocks per repeat, with dilations 1, 2, 4, ...
    repeats: int = 2  # R: times that the row of blocks is repeated
    norm: str = "cLN"  # "gLN" (global), "cLN" (cumulative) or "channel" (per frame)
    causal: bool = True  # no block but the first `lookahead_blocks` sees a later frame
    lookahead_blocks: int = 0  # first blocks of a causal model that are centred all the same
    mask_activation: str = "sigmoid"  # or "softmax" (over the sources) or "relu"
    encoder_activation: str = "linear"  # or "relu"
    decoders: str = "shared"  # or "separate": one per source

    @classmethod
    def preset(cls, name):
        """`small` (laptop default), `paper` (its best model) or `origin` (16 kHz, 32 ms look-ahead)."""
        if name not in PRESETS:
            raise ValueError(f"no preset {name!r}: choose one of {', '.join(PRESETS)}")
        return PRESETS[name]

    def non_causal(self):
        """The same sizes where every block sees the future and the norms the whole recording, for files only."""
        return dataclasses.replace(self, norm="gLN", causal=False, lookahead_blocks=0)

    def __post_init__(self):
        for name in _SIZES:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be one of {', '.join(map(str, choices))}, "
                    f"not {getattr(self, name)!r}"
                )
        if self.filter_length % 2:
            raise ValueError(
                f"filter_length must be even, not {self.filter_length}: "
                "frames overlap by half a filter"
            )
        if self.causal and self.norm == "gLN":
            raise ValueError(
                "a causal model cannot use gLN, whose mean and variance see the whole recording: "
                'choose norm="cLN" or "channel", or causal=False'
            )
        if not isinstance(self.lookahead_blocks, int) or not (
            0 <= self.lookahead_blocks <= self.blocks * self.repeats
        ):
            raise ValueError(
                f"lookahead_blocks must be between 0 and the {self.blocks * self.repeats} blocks "
                f"there are, not {self.lookahead_blocks!r}"
            )
        if self.lookahead_blocks and not self.causal:
            raise ValueError(
                "lookahead_blocks is for causal models: with causal=False every block looks ahead"
            )

    @property
    def hop(self):
        """Samples from one frame to the next (half a filter)."""
        return self.filter_length // 2

    def frames(self, samples):
        """Frames T of a recording of that many samples."""
        return -(-samples // self.hop) + 1

    def dilation(self, block):
        """Dilation of a block, counted from 0 over all repeats."""
        return 2 ** (block % self.blocks)

    def lookahead(self, block):
        """Frames that one block sees ahead: half its reach where it is centred, else none."""
        if self.causal and block >= self.lookahead_blocks:
            return 0
        return (self.kernel - 1) * self.dilation(block) // 2

    @property
    def receptive_field_frames(self):
        """Frames that one frame of the masks depends on (through the convolutions)."""
        reach = (self.kernel - 1) * (2**self.blocks - 1)
        return 1 + self.repeats * reach

    @property
    def receptive_field_seconds(self):
        samples = (self.receptive_field_frames - 1) * self.hop + self.filter_length
        return samples / self.sample_rate

    @property
    def lookahead_frames(self):
        """Future frames, of those, that one frame of the masks depends on."""
        return sum(self.lookahead(block) for block in range(self.blocks * self.repeats))

    @property
    def latency_samples(self):
        """How long after a sample came in it can leave: a full window, and the look-ahead.

        Output sample t depends on no input sample from t + latency_samples on. math.inf with gLN.
        """
        if self.norm == "gLN":
            return math.inf
        return self.filter_length + self.lookahead_frames * self.hop

    @property
    def latency_ms(self):
        return 1000 * self.latency_samples / self.sample_rate

    @property
    def parameter_count(self):
        """Number of learned values."""
        N, L, B, H, Sc, P = (
            self.filters, self.filter_length, self.bottleneck, self.hidden, self.skip, self.kernel,
        )  # fmt: skip
        C = len(SOURCES)
        residual, skip = B * H + B, Sc * H + Sc
        block = (H * B + H) + 1 + 2 * H + (H * P + H) + 1 + 2 * H + residual + skip
        separator = 2 * N + (B * N + B) + self.blocks * self.repeats * block - residual
        masks = 1 + (C * N * Sc + C * N)
        decoders = C if self.decoders == "separate" else 1
        return N * L + separator + masks + decoders * N * L

    def inference_bytes(self, samples, itemsize=4):
        """Memory at the peak of a forward pass with keep=False on the fused path, beyond the weights."""
        N, B, H, Sc = self.filters, self.bottleneck, self.hidden, self.skip
        T = self.frames(samples)
        in_tiles = min(T, 2 * TILE)  # what two threads work on
        # Frames; x and skips before, after, and what is added; a and n.
        in_a_block = T * (N + 3 * (B + Sc) + H) + in_tiles * H
        at_the_ends = T * (N + Sc) + in_tiles * (5 * N + Sc)  # frames and skips; of both, masks before and after
        return itemsize * max(in_a_block, at_the_ends)

    def training_bytes(self, samples, itemsize=4):
        """Memory at the peak of a training step on the fused path, per example, beyond the weights."""
        N, B, H, Sc = self.filters, self.bottleneck, self.hidden, self.skip
        kept_in_blocks = self.blocks * self.repeats * (B + H + 4)  # x, a, and two norms' m and r
        kept_at_the_ends = 6 * N + 2 * Sc  # the inputs of encoder, masks and decoder
        gradients = 5 * N  # of the masked frames, the masks and the frames
        return itemsize * self.frames(samples) * (kept_in_blocks + kept_at_the_ends + gradients)


_SIZES = (
    "sample_rate", "filters", "filter_length", "bottleneck", "hidden", "skip", "kernel", "blocks",
    "repeats",
)  # fmt: skip
_CHOICES = {
    "norm": tuple(NORMS),
    "causal": (False, True),
    "mask_activation": ("sigmoid", "softmax", "relu"),
    "encoder_activation": ("linear", "relu"),
    "decoders": ("shared", "separate"),
}

_PAPER = Config(
    filters=512, bottleneck=128, hidden=512, skip=128, blocks=8, repeats=3, norm="gLN", causal=False
)
PRESETS = {
    "small": Config(),
    "paper": _PAPER,
    "origin": dataclasses.replace(
        _PAPER,
        sample_rate=16000,
        filter_length=32,
        norm="cLN",
        causal=True,
        lookahead_blocks=5,
        decoders="separate",
    ),
}


class _Factory:
    """Makes layers with fresh parameters: uniform within 1/sqrt(fan-in), as PyTorch does by default."""

    def __init__(self, config, seed, dtype, path):
        self.config = config
        self.rng = np.random.default_rng(seed)
        self.dtype = dtype
        self.path = path

    def uniform(self, fan_in, *shape):
        bound = 1 / math.sqrt(fan_in)
        return self.rng.uniform(-bound, bound, shape).astype(self.dtype)

    def op(self, name, params=None, **settings):
        return OpLayer(name, params, self.path, **settings)

    def encoder(self):
        N, L = self.config.filters, self.config.filter_length
        return self.op("conv1d", {"w": self.uniform(L, N, L)}, stride=self.config.hop)

    def decoder(self):
        N, L = self.config.filters, self.config.filter_length
        return self.op("conv_transpose1d", {"w": self.uniform(L, N, L)}, stride=self.config.hop)

    def pointwise(self, inputs, outputs):
        w, b = self.uniform(inputs, outputs, inputs), self.uniform(inputs, outputs)
        return self.op("pointwise", {"w": w, "b": b})

    def depthwise(self, channels, dilation, lookahead):
        K = self.config.kernel
        w, b = self.uniform(K, channels, K), self.uniform(K, channels)
        return self.op("depthwise", {"w": w, "b": b}, dilation=dilation, lookahead=lookahead)

    def prelu(self):
        return self.op("prelu", {"alpha": np.full(1, 0.25, self.dtype)})

    def norm(self, channels):
        params = {"gamma": np.ones(channels, self.dtype), "beta": np.zeros(channels, self.dtype)}
        return self.op(NORMS[self.config.norm], params)


class TCNBlock(Layer):
    """One block of the temporal convolutional network: widen, look along time, narrow again.

    x (B, B, T) goes from block to block and each adds a residual; skips (B, Sc, T) collects what each
    block has to say about the masks. The last block's x goes nowhere: it has no residual convolution.
    """

    def __init__(self, make, block, last):
        super().__init__()
        c = make.config
        self.chain = {
            "expand": make.pointwise(c.bottleneck, c.hidden),  # B -> H
            "prelu1": make.prelu(),
            "norm1": make.norm(c.hidden),
            "depthwise": make.depthwise(c.hidden, c.dilation(block), c.lookahead(block)),
            "prelu2": make.prelu(),
            "norm2": make.norm(c.hidden),
        }
        self.skip = make.pointwise(c.hidden, c.skip)  # H -> Sc
        self.residual = None if last else make.pointwise(c.hidden, c.bottleneck)  # H -> B
        self.add_skip, self.add_residual = make.op("add"), make.op("add")
        ends = {"skip": self.skip} if last else {"skip": self.skip, "residual": self.residual}
        self.parts = {**self.chain, **ends}

    def forward(self, x, skips, keep=True):
        h = x
        for layer in self.chain.values():
            h = layer.forward(h, keep=keep)  # (B, H, T)
        skips = self.add_skip.forward(skips, self.skip.forward(h, keep=keep), keep=keep)
        if self.residual is not None:
            x = self.add_residual.forward(x, self.residual.forward(h, keep=keep), keep=keep)
        return x, skips

    def backward(self, dx, dskips):
        dskips, dskip = self.add_skip.backward(dskips)
        dh = self.skip.backward(dskip)  # (B, H, T)
        if self.residual is not None:
            dx, dresidual = self.add_residual.backward(dx)
            dh = dh + self.residual.backward(dresidual)
        for layer in reversed(self.chain.values()):
            dh = layer.backward(dh)
        return dx + dh, dskips


class FusedTCNBlock(TCNBlock):
    """The same block, with the same parts, run as one op."""

    def __init__(self, make, block, last):
        super().__init__(make, block, last)
        c = make.config
        reach = {"dilation": c.dilation(block), "lookahead": c.lookahead(block)}
        self.op = make.op("tcn_block", norm=NORMS[c.norm], **reach)
        self.order = [(part, key) for part in self.parts.values() for key in part.own_params]

    @property
    def arrays(self):
        """The parameters in the order of the op's arguments."""
        return tuple(part.own_params[key] for part, key in self.order)

    def forward(self, x, skips, keep=True):
        if keep:
            return self.op.forward(x, skips, *self.arrays)
        return tcn_blocks_inference(x, skips, [(self.arrays, self.op.settings)])

    def backward(self, dx, dskips):
        dx, dskips, *gradients = self.op.backward((dx, dskips))
        for (part, key), gradient in zip(self.order, gradients, strict=True):
            part.own_grads[key] = gradient
        return dx, dskips


class ConvTasNet(Layer):
    """The whole network.

    Parameters
    ----------
    config : Config
    seed : of the random initial weights
    dtype : np.float32 or np.float64
    path : "fused" (whole blocks compiled: the fastest), "ops" (one compiled op at a time) or
        "reference" (the NumPy formulas). All three give the same numbers.
    """

    def __init__(self, config, seed=0, dtype=np.float32, path="fused"):
        super().__init__()
        if path not in PATHS:
            raise ValueError(f"path must be one of {', '.join(PATHS)}, not {path!r}")
        if np.dtype(dtype) not in (np.float32, np.float64):
            raise ValueError(f"dtype must be float32 or float64, not {np.dtype(dtype)}")
        self.config = c = config
        self.path = path
        self.dtype = np.dtype(dtype)
        make = _Factory(c, seed, self.dtype, path)

        self.encoder = make.encoder()
        self.encoder_activation = make.op("relu") if c.encoder_activation == "relu" else None
        self.norm = make.norm(c.filters)
        self.bottleneck = make.pointwise(c.filters, c.bottleneck)  # N -> B
        count = c.blocks * c.repeats
        Block = FusedTCNBlock if path == "fused" else TCNBlock
        self.blocks = [Block(make, i, last=i == count - 1) for i in range(count)]
        self.prelu = make.prelu()
        self.mask = make.pointwise(c.skip, len(SOURCES) * c.filters)  # Sc -> C*N
        self.mask_activation = make.op(c.mask_activation)
        self.multiply = make.op("multiply")
        names = [f"decoder_{name}" for name in SOURCES] if c.decoders == "separate" else ["decoder"]
        self.decoders = {name: make.decoder() for name in names}

        self.device = "cpu"
        self._one_by_one = path == "fused"
        self._copies = []
        self._expected = None  # the shape of the next backward's argument

        self.parts = {
            "encoder": self.encoder,
            "norm": self.norm,
            "bottleneck": self.bottleneck,
            **{f"blocks.{i}": block for i, block in enumerate(self.blocks)},
            "prelu": self.prelu,
            "mask": self.mask,
            **self.decoders,
        }

    def to(self, device):
        """Move the model to "cpu" or "cuda" (see device.choose_device); return it.

        On a GPU `forward` and `backward` take and return arrays there; a NumPy array is brought there, and
        what it gave is brought back.
        """
        if device == "cuda" and self.path == "reference":
            raise ValueError('path "reference" is NumPy: it cannot run on cuda; use "ops" or "fused"')
        if device == self.device:
            return self
        self._copies = []
        self._expected = None
        self.device = device
        return super().to(device)

    def on_cpu(self):
        """This model if it is on the CPU, else a copy there."""
        if self.device == "cpu":
            return self
        copied = ConvTasNet(self.config, dtype=self.dtype, path=self.path)
        for name, array in copied.params.items():
            array[...] = move(self.params[name], "cpu")
        return copied

    def named_parameters(self):
        """The learned arrays by name: a dict. Write into them in place to change the model."""
        return self.params

    def forward(self, mixture, keep=True):
        """Separate a mixture.

        Parameters
        ----------
        mixture : (B, samples) array of the model's dtype, at least one sample
        keep : False for inference: nothing is remembered for a backward pass

        Returns
        -------
        (B, 2, samples) : speech and noise. Their level and sign are arbitrary, as SI-SNR sees neither.

        Raises
        ------
        ValueError, TypeError : an array of another shape or dtype
        """
        self._check(mixture)
        self._expected = (len(mixture), len(SOURCES), mixture.shape[1]) if keep else None
        if self.device == "cuda":
            sources = self._forward(move(mixture, "cuda"), keep)
            return sources if on_gpu(mixture) else sources.numpy()
        if not self._one_by_one or len(mixture) == 1:
            return self._forward(mixture, keep)
        networks = self._twins(len(mixture)) if keep else [self] * len(mixture)
        sources = each(lambda i: networks[i]._forward(mixture[i : i + 1], keep), range(len(mixture)))
        return np.concatenate(sources)

    def backward(self, dsources):
        """Set `grads` from the gradient of the sources (B, 2, samples); return the mixture's (B, samples).

        Raises
        ------
        RuntimeError : without a forward (with keep=True) right before it
        ValueError : a gradient of another shape than the sources
        """
        if self._expected is None:
            raise RuntimeError("backward needs a forward (with keep=True) right before it")
        if dsources.shape != self._expected:
            raise ValueError(f"dsources must be {self._expected}, like the sources, not {dsources.shape}")
        self._expected = None
        if self.device == "cuda":
            dmixture = self._backward(move(dsources, "cuda"))
            return dmixture if on_gpu(dsources) else dmixture.numpy()
        if not self._one_by_one or len(dsources) == 1:
            return self._backward(dsources)
        networks = self._twins(len(dsources))
        dmixture = each(lambda i: networks[i]._backward(dsources[i : i + 1]), range(len(dsources)))
        self._sum_gradients(networks)
        return np.concatenate(dmixture)

    def gradients(self, loss, mixture, sources):
        """Set `grads` from the loss of a batch, and return the loss.

        The same as `loss.forward(model.forward(mixture), sources)` and both backwards, but on the fused path
        each thread takes one example from the mixture to its gradients before it begins the next: the memory
        is that of one example for each thread, however large the batch.

        Parameters
        ----------
        loss : a loss that is a mean over the batch, as NegativeSISNR
        mixture : (B, samples);  sources : (B, 2, samples)
        """
        B = len(mixture)
        if not self._one_by_one or B == 1 or self.device == "cuda":
            value = loss.forward(self.forward(mixture), sources)
            self.backward(loss.backward())
            return value
        self._check(mixture)
        self._expected = None
        idle = self._twins(min(B, get_threads()) + 1)[1:]
        losses, mine = [], self.grads

        def one(i):
            network, own_loss = idle.pop(), copy.copy(loss)
            estimate = network._forward(mixture[i : i + 1], keep=True)
            value = own_loss.forward(estimate, sources[i : i + 1])
            network._backward(own_loss.backward() / self.dtype.type(B))
            grads = network.grads
            idle.append(network)
            return value, grads

        def add(result):
            value, grads = result
            for name, gradient in grads.items():
                np.add(mine[name] if losses else 0, gradient, out=mine[name])
            losses.append(value)

        each_in_order(one, range(B), add)
        return sum(losses) / B

    def frames(self, mixture):
        """The encoded mixture (B, samples) -> (B, N, T), to look at."""
        self._check(mixture)
        return self._encode(mixture, keep=False)

    def masks(self, mixture):
        """The masks of a mixture (B, samples) -> (B, 2, N, T), to look at: what each source leaves of the frames."""
        return self._forward_masks(self._forward_blocks(self.frames(mixture), keep=False), keep=False)

    # A batch on the fused path: each example goes through a network of its own, from one end to the other on
    # one thread. The networks share their parameters; each has its own caches and gradients.

    def _twins(self, count):
        """This network and copies of it that share the parameter arrays."""
        while len(self._copies) < count - 1:
            # What deepcopy finds in its memo it takes from there: the same arrays, and no copies of copies.
            shared = {id(array): array for array in self.params.values()}
            self._copies.append(copy.deepcopy(self, shared | {id(self._copies): []}))
        return [self, *self._copies[: count - 1]]

    def _sum_gradients(self, networks):
        """Add the gradients of all examples, in their order, into this network's."""
        mine = self.grads
        for network in networks[1:]:
            for name, gradient in network.grads.items():
                np.add(mine[name], gradient, out=mine[name])

    def _forward(self, mixture, keep):
        samples = mixture.shape[1]
        w = self._encode(mixture, keep)  # (B, N, T)
        skips = self._forward_blocks(w, keep)  # (B, Sc, T)
        in_tiles = self._one_by_one and not keep and not on_gpu(w)
        ends = self._forward_ends_in_tiles if in_tiles else self._forward_ends
        return window(ends(skips, w, keep), self.config.hop, samples)

    def _encode(self, mixture, keep):
        w = self.encoder.forward(window(mixture, -self.config.hop, self._padded(mixture.shape[1])), keep=keep)
        return self.encoder_activation.forward(w, keep=keep) if self.encoder_activation else w

    def _backward(self, dsources):
        samples = dsources.shape[2]
        padded = window(dsources, -self.config.hop, self._padded(samples))
        dmasks, dw = self.multiply.backward(self._backward_decoders(padded))
        dw = dw + self._backward_masks(dmasks)
        if self.encoder_activation:
            dw = self.encoder_activation.backward(dw)
        dmixture = self.encoder.backward(dw)
        return window(dmixture, self.config.hop, samples)

    # The separator: frames -> skips -> masks -> samples.

    def _forward_blocks(self, w, keep):
        x = self.bottleneck.forward(self.norm.forward(w, keep=keep), keep=keep)  # (B, B, T)
        skips = zeros((len(x), self.config.skip, x.shape[2]), like=x)  # (B, Sc, T)
        if self._one_by_one and not keep:
            return tcn_blocks_inference(x, skips, [(block.arrays, block.op.settings) for block in self.blocks])[1]
        for block in self.blocks:
            x, skips = block.forward(x, skips, keep=keep)
        return contiguous(skips)

    def _forward_masks(self, skips, keep):
        logits = self.mask.forward(self.prelu.forward(skips, keep=keep), keep=keep)  # (B, C*N, T)
        logits = logits.reshape(len(logits), len(SOURCES), -1, logits.shape[2])  # source by source
        return self.mask_activation.forward(logits, keep=keep)  # (B, C, N, T)

    def _forward_ends(self, skips, w, keep):
        masked = self.multiply.forward(self._forward_masks(skips, keep), w, keep=keep)
        return self._forward_decoders(masked, keep)

    def _forward_ends_in_tiles(self, skips, w, keep):
        """The same for inference: threads share the frames, and the masks are never all in memory."""
        T, hop = w.shape[2], self.config.hop
        sources = np.zeros((len(w), len(SOURCES), (T + 1) * hop), self.dtype)

        def tile(start, stop):
            parts = (np.ascontiguousarray(array[:, :, start:stop]) for array in (skips, w))
            return self._forward_ends(*parts, keep)

        for i, piece in enumerate(over_tiles(tile, T, TILE)):
            first = i * TILE * hop
            sources[:, :, first : first + piece.shape[2]] += piece  # neighbours share one hop
        return sources

    def _backward_masks(self, dmasks):
        dlogits = self.mask_activation.backward(dmasks)
        dlogits = dlogits.reshape(len(dmasks), -1, dmasks.shape[-1])
        dskips = self.prelu.backward(self.mask.backward(dlogits))
        dx = zeros((len(dskips), self.config.bottleneck, dskips.shape[2]), like=dskips)
        for block in reversed(self.blocks):
            dx, dskips = block.backward(dx, dskips)
        return self.norm.backward(self.bottleneck.backward(contiguous(dx)))

    # The decoder, one for all sources or one for each: frames -> samples.

    def _forward_decoders(self, masked, keep):
        B, C, N, T = masked.shape
        if len(self.decoders) == 1:  # the sources go through as if they were a batch
            (decoder,) = self.decoders.values()
            return decoder.forward(masked.reshape(B * C, N, T), keep=keep).reshape(B, C, -1)
        pairs = zip(self.decoders.values(), unstack(masked))
        return stack([decoder.forward(x, keep=keep) for decoder, x in pairs])

    def _backward_decoders(self, dsources):
        B, C, n = dsources.shape
        if len(self.decoders) == 1:
            (decoder,) = self.decoders.values()
            dmasked = decoder.backward(dsources.reshape(B * C, n))
            return dmasked.reshape(B, C, *dmasked.shape[1:])
        pairs = zip(self.decoders.values(), unstack(dsources))
        return stack([decoder.backward(dy) for decoder, dy in pairs])

    # Padding: one hop of zeros on each side, so that every sample lies under two windows, and as many more
    # at the end as fill the last window.

    def _padded(self, samples):
        return (self.config.frames(samples) + 1) * self.config.hop

    def _check(self, mixture):
        shape, dtype = np.shape(mixture), getattr(mixture, "dtype", type(mixture).__name__)
        if dtype != self.dtype:
            raise TypeError(f"mixture must be a {self.dtype} array like the model, not {dtype}")
        if len(shape) != 2 or 0 in shape:
            raise ValueError(f"mixture must be (batch, samples), neither of them 0, not {shape}")
