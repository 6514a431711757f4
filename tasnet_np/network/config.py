"""The settings of the architecture: sizes, norm, causality.

Letters in comments are those of the paper: Luo and Mesgarani, "Conv-TasNet: Surpassing Ideal Time-Frequency Magnitude
Masking for Speech Separation" (arXiv 1809.07454).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from tasnet_np.ops.tcn_block_cpu import TILE
from tasnet_np.ranges import Range, shown

NORMS = {
    "gLN": "global_layer_norm",
    "cLN": "cumulative_layer_norm",
    "channel": "channel_layer_norm",
}
SOURCES = ("speech", "noise")  # C in the paper: two sources, always in this order
SIZES = {  # far beyond the presets; what asks for more is no architecture, but a damaged file or a slip
    "sample_rate": Range(1, 1_000_000, whole=True),
    "filters": Range(1, 1 << 14, whole=True),
    "filter_length": Range(1, 1 << 14, whole=True),
    "bottleneck": Range(1, 1 << 14, whole=True),
    "hidden": Range(1, 1 << 14, whole=True),
    "skip": Range(1, 1 << 14, whole=True),
    "kernel": Range(1, 1 << 10, whole=True),
    "blocks": Range(1, 20, whole=True),
    "repeats": Range(1, 100, whole=True),
}
MOST_VALUES = 32_000_000  # of all parameters, and of all that a stream remembers; `paper` has 5 million


@dataclass(frozen=True)
class Config:
    """All settings of the architecture. The defaults are those of the preset "small".

    Parameters
    ----------
    sample_rate : int
        In Hz.
    filters : int
        Filters of the encoder (N in the paper).
    filter_length : int
        Samples of a filter (L), an even number. A frame comes every L/2 samples.
    bottleneck : int
        Channels between the blocks (B).
    hidden : int
        Channels inside a block (H).
    skip : int
        Channels of the skip paths (Sc).
    kernel : int
        Taps of the depthwise convolutions (P).
    blocks, repeats : int
        Blocks in a row, with dilations 1, 2, 4, ... (X), and how often the row is repeated (R).
    norm : str
        "gLN" (global), "cLN" (cumulative) or "channel" (per frame).
    causal : bool
        Whether blocks see no later frames. This needs another norm than gLN.
    lookahead_blocks : int
        How many of a causal model's first blocks see later frames all the same.
    mask_activation : str
        "sigmoid", "softmax" (over the sources) or "relu".
    encoder_activation : str
        "linear" or "relu".
    decoders : str
        "shared", or "separate": one for each source.

    Raises
    ------
    ValueError
        A setting out of range, or settings that cannot work together. The message gives the reason.
    """

    sample_rate: int = 8000  # Hz
    filters: int = 128  # N: filters of the encoder
    filter_length: int = 16  # L: samples per filter; a frame comes every L/2 samples
    bottleneck: int = 64  # B: channels between the blocks (the residual path)
    hidden: int = 128  # H: channels inside a block
    skip: int = 64  # Sc: channels of the skip paths
    kernel: int = 3  # P: taps of the depthwise convolution
    blocks: int = 6  # X: blocks per repeat, with dilations 1, 2, 4, ...
    repeats: int = 2  # R: how often the row of blocks is repeated
    norm: str = "cLN"  # "gLN" (global), "cLN" (cumulative) or "channel" (per frame)
    causal: bool = True  # blocks see no later frame, except the first `lookahead_blocks`
    lookahead_blocks: int = 0  # how many of a causal model's first blocks are centred
    mask_activation: str = "sigmoid"  # or "softmax" (over the sources) or "relu"
    encoder_activation: str = "linear"  # or "relu"
    decoders: str = "shared"  # or "separate": one per source

    @classmethod
    def preset(cls, name: str) -> Config:
        """The settings for a name.

        Parameters
        ----------
        name : str
            "small" (the default, for a laptop), "wide" (causal at 16 kHz, with a latency of 20 ms), "paper" (the
            paper's best model, for files only) or "origin" (causal at 16 kHz, with a look-ahead of 32 ms).

        Raises
        ------
        ValueError
            Another name.
        """
        if name not in PRESETS:
            raise ValueError(f"no preset {shown(name)}: choose one of {', '.join(PRESETS)}")
        return PRESETS[name]

    def non_causal(self) -> Config:
        """The same sizes for files only: blocks see later frames, and the norms see the whole recording."""
        return dataclasses.replace(self, norm="gLN", causal=False, lookahead_blocks=0)

    def __post_init__(self):
        for name, allowed in SIZES.items():
            allowed.check(name, getattr(self, name), "a whole number of")
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices or type(value) is not type(choices[0]):
                raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, not {shown(value)}")
        if self.filter_length % 2:
            raise ValueError(
                f"filter_length must be even, not {self.filter_length}: frames overlap by half a filter"
            )
        if self.causal and self.norm == "gLN":
            raise ValueError(
                "a causal model cannot use gLN, whose mean and variance see the whole recording: "
                'choose norm="cLN" or "channel", or causal=False'
            )
        count = self.blocks * self.repeats
        Range(0, count, whole=True, words=f"between 0 and the {count} blocks there are").check(
            "lookahead_blocks", self.lookahead_blocks
        )
        if self.lookahead_blocks and not self.causal:
            raise ValueError(
                "lookahead_blocks is for causal models: with causal=False every block looks ahead"
            )
        self._check_memory()

    def _check_memory(self):
        """Refuse what is within the limits of each size, but not together."""
        remembered = self.receptive_field_frames * (self.filters + self.bottleneck + self.hidden + self.skip)
        for what, values in {"parameters": self.parameter_count, "values in a stream": remembered}.items():
            if values > MOST_VALUES:
                raise ValueError(f"{values:,} {what}: more than {MOST_VALUES:,}; choose smaller sizes")

    @property
    def hop(self) -> int:
        """Samples from one frame to the next (half a filter)."""
        return self.filter_length // 2

    def frames(self, samples: int) -> int:
        """The number of frames T of a recording, from its number of samples."""
        return -(-samples // self.hop) + 1

    def dilation(self, block: int) -> int:
        """Frames between the taps of a block. Blocks are counted from 0, over all repeats."""
        return 2 ** (block % self.blocks)

    def lookahead(self, block: int) -> int:
        """Frames that a block sees ahead: half its reach if it is centred, else none."""
        if self.causal and block >= self.lookahead_blocks:
            return 0
        return (self.kernel - 1) * self.dilation(block) // 2

    @property
    def receptive_field_frames(self) -> int:
        """Frames on which one frame of the masks depends, through the convolutions."""
        reach = (self.kernel - 1) * (2**self.blocks - 1)
        return 1 + self.repeats * reach

    @property
    def receptive_field_seconds(self) -> float:
        """Duration of these frames, in seconds."""
        samples = (self.receptive_field_frames - 1) * self.hop + self.filter_length
        return samples / self.sample_rate

    @property
    def lookahead_frames(self) -> int:
        """Later frames on which one frame of the masks depends, through the convolutions."""
        return sum(self.lookahead(block) for block in range(self.blocks * self.repeats))

    @property
    def latency_samples(self) -> float:
        """The latency of a stream, in samples: a full window and the look-ahead. math.inf with gLN.

        Output sample t depends only on input samples before t + latency_samples.
        """
        if self.norm == "gLN":
            return math.inf
        return self.filter_length + self.lookahead_frames * self.hop

    @property
    def latency_ms(self) -> float:
        """The latency of a stream, in milliseconds."""
        return 1000 * self.latency_samples / self.sample_rate

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every learned array by its name, in the order of `ConvTasNet.named_parameters`."""
        N, L, B, Sc, C = self.filters, self.filter_length, self.bottleneck, self.skip, len(SOURCES)
        count = self.blocks * self.repeats
        shapes = {"encoder.w": (N, L), "norm.gamma": (N,), "norm.beta": (N,)}
        shapes |= {"bottleneck.w": (B, N), "bottleneck.b": (B,)}
        for i in range(count):
            block = self._block_shapes(last=i == count - 1)
            shapes |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
        shapes |= {"prelu.alpha": (1,), "mask.w": (C * N, Sc), "mask.b": (C * N,)}
        decoders = [f"decoder_{name}" for name in SOURCES] if self.decoders == "separate" else ["decoder"]
        return shapes | {f"{name}.w": (N, L) for name in decoders}

    def _block_shapes(self, last):
        """The same of one block; the last one has no residual convolution."""
        B, H, Sc, P = self.bottleneck, self.hidden, self.skip, self.kernel
        shapes = {"expand.w": (H, B), "expand.b": (H,)}
        shapes |= {"prelu1.alpha": (1,), "norm1.gamma": (H,), "norm1.beta": (H,)}
        shapes |= {"depthwise.w": (H, P), "depthwise.b": (H,)}
        shapes |= {"prelu2.alpha": (1,), "norm2.gamma": (H,), "norm2.beta": (H,)}
        shapes |= {"skip.w": (Sc, H), "skip.b": (Sc,)}
        return shapes if last else shapes | {"residual.w": (B, H), "residual.b": (B,)}

    @property
    def parameter_count(self) -> int:
        """The number of learned values."""
        return sum(map(math.prod, self.parameter_shapes.values()))

    def inference_bytes(self, samples: int, itemsize: int = 4) -> int:
        """Peak memory of a forward pass of one recording with keep=False on the fused path, in bytes.

        Parameters
        ----------
        samples : int
            Of the recording.
        itemsize : int
            Bytes of a number: 4 for float32.

        Returns
        -------
        int
            Without the weights.
        """
        N, B, H, Sc = self.filters, self.bottleneck, self.hidden, self.skip
        T = self.frames(samples)
        in_tiles = min(T, 2 * TILE)  # frames that two threads work on
        # The encoded frames; x and skips before and after a block, and what it adds to them; a and n.
        in_a_block = T * (N + 3 * (B + Sc) + H) + in_tiles * H
        # The encoded frames and the skips; in tiles, both again, and the masks of both sources, before and after.
        at_the_ends = T * (N + Sc) + in_tiles * (5 * N + Sc)
        return itemsize * max(in_a_block, at_the_ends)

    def training_bytes(self, samples: int, itemsize: int = 4) -> int:
        """Peak memory of a training step on the fused path, in bytes for each example.

        Parameters
        ----------
        samples : int
            Of an example.
        itemsize : int
            Bytes of a number: 4 for float32.

        Returns
        -------
        int
            Without the weights.
        """
        N, B, H, Sc = self.filters, self.bottleneck, self.hidden, self.skip
        kept_in_blocks = self.blocks * self.repeats * (B + H + 4)  # x, a, and two norms' m and r
        kept_at_the_ends = 6 * N + 2 * Sc  # the inputs of encoder, masks and decoder
        gradients = 5 * N  # of the masked frames, the masks and the frames
        return itemsize * self.frames(samples) * (kept_in_blocks + kept_at_the_ends + gradients)


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
    "wide": Config(
        sample_rate=16000,
        filters=256,
        filter_length=128,
        bottleneck=112,
        hidden=208,
        skip=96,
        lookahead_blocks=2,
        encoder_activation="relu",
    ),
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
