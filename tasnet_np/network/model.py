"""Conv-TasNet: a mixture goes in, the speaker and the background come out. Smallest part first.

    mixture (B, n) -> encoder -> frames (B, N, T) -------------------------- x --> decoder -> (B, 2, n)
                                    |                                       |
                                    +-> norm -> bottleneck -> blocks -> masks (B, 2, N, T)

Every `backward` below has the steps of its `forward` in reverse order. Letters in comments are those of the paper (see
config.py). execution.py spreads a batch over threads, tiles and devices. That changes none of the numbers.
"""

from __future__ import annotations

import math

import numpy as np

from tasnet_np.compute.arrays import contiguous, stack, unstack, window, zeros
from tasnet_np.network.config import NORMS, SOURCES, Config
from tasnet_np.network.layers import PATHS, Layer, OpLayer
from tasnet_np.ops.tcn_block import tcn_blocks_inference


class _Factory:
    """Makes layers with random parameters, uniform within +-1/sqrt(fan-in), as PyTorch does by default."""

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
    """One block of the temporal convolutional network: more channels, a convolution over time, fewer channels again.

    x (B, B, T) goes from block to block, and each block adds a residual to it. skips (B, Sc, T) is the sum of the
    blocks' skip outputs, from which the masks are made. Nothing uses the x of the last block. So the last block has no
    residual convolution.
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
        """The parameters, in the order of the op's arguments."""
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


class Network(Layer):
    """The whole network, as a chain of layers. `execution.ConvTasNet` runs it on threads, in tiles or on a GPU.

    The parameters are those of `ConvTasNet`.
    """

    def __init__(
        self, config: Config, seed: int = 0, dtype: np.typing.DTypeLike = np.float32, path: str = "fused"
    ) -> None:
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

        self.parts = {
            "encoder": self.encoder,
            "norm": self.norm,
            "bottleneck": self.bottleneck,
            **{f"blocks.{i}": block for i, block in enumerate(self.blocks)},
            "prelu": self.prelu,
            "mask": self.mask,
            **self.decoders,
        }

    def named_parameters(self) -> dict[str, np.ndarray]:
        """The learned arrays by name. To change the model, write into the arrays."""
        return self.params

    def forward(self, mixture, keep=True):
        """mixture (B, samples) -> sources (B, 2, samples): speech and noise."""
        w = self._encode(mixture, keep)  # (B, N, T)
        skips = self._separate(w, keep)  # (B, Sc, T)
        masks = self._make_masks(skips, keep)  # (B, 2, N, T)
        masked = self.multiply.forward(masks, w, keep=keep)  # (B, 2, N, T)
        return self._cut(self._decode(masked, keep), mixture.shape[1])

    def backward(self, dsources):
        """dsources (B, 2, samples) -> dmixture (B, samples); sets `grads`."""
        dmasked = self._decode_backward(self._pad(dsources))
        dmasks, dw = self.multiply.backward(dmasked)
        dskips = self._make_masks_backward(dmasks)
        dw = dw + self._separate_backward(dskips)  # w makes the masks, and is masked
        return self._encode_backward(dw, dsources.shape[2])

    # The encoder: samples -> frames.

    def _encode(self, mixture, keep):
        w = self.encoder.forward(self._pad(mixture), keep=keep)
        return self.encoder_activation.forward(w, keep=keep) if self.encoder_activation else w

    def _encode_backward(self, dw, samples):
        if self.encoder_activation:
            dw = self.encoder_activation.backward(dw)
        return self._cut(self.encoder.backward(dw), samples)

    # The separator: frames -> skips.

    def _separate(self, w, keep):
        x = self.bottleneck.forward(self.norm.forward(w, keep=keep), keep=keep)  # (B, B, T)
        skips = zeros((len(x), self.config.skip, x.shape[2]), like=x)  # (B, Sc, T)
        for block in self.blocks:
            x, skips = block.forward(x, skips, keep=keep)
        return contiguous(skips)

    def _separate_backward(self, dskips):
        dx = zeros((len(dskips), self.config.bottleneck, dskips.shape[2]), like=dskips)
        for block in reversed(self.blocks):
            dx, dskips = block.backward(dx, dskips)
        return self.norm.backward(self.bottleneck.backward(contiguous(dx)))

    # The masks: skips -> masks, source by source.

    def _make_masks(self, skips, keep):
        logits = self.mask.forward(self.prelu.forward(skips, keep=keep), keep=keep)  # (B, C*N, T)
        logits = logits.reshape(len(logits), len(SOURCES), -1, logits.shape[2])
        return self.mask_activation.forward(logits, keep=keep)  # (B, C, N, T)

    def _make_masks_backward(self, dmasks):
        dlogits = self.mask_activation.backward(dmasks)
        dlogits = dlogits.reshape(len(dmasks), -1, dmasks.shape[-1])
        return self.prelu.backward(self.mask.backward(dlogits))

    # The decoder, one for all sources or one for each: frames -> samples.

    def _decode(self, masked, keep):
        B, C, N, T = masked.shape
        if len(self.decoders) == 1:  # the sources go through the decoder as if they were examples
            (decoder,) = self.decoders.values()
            return decoder.forward(masked.reshape(B * C, N, T), keep=keep).reshape(B, C, -1)
        pairs = zip(self.decoders.values(), unstack(masked))
        return stack([decoder.forward(x, keep=keep) for decoder, x in pairs])

    def _decode_backward(self, dsources):
        B, C, n = dsources.shape
        if len(self.decoders) == 1:
            (decoder,) = self.decoders.values()
            dmasked = decoder.backward(dsources.reshape(B * C, n))
            return dmasked.reshape(B, C, *dmasked.shape[1:])
        pairs = zip(self.decoders.values(), unstack(dsources))
        return stack([decoder.backward(dy) for decoder, dy in pairs])

    # Padding: one hop of zeros on each side, so that every sample lies in two windows, and more zeros at the
    # end to fill the last window. `_pad` and `_cut` are each other's backward.

    def _pad(self, samples):
        padded = (self.config.frames(samples.shape[-1]) + 1) * self.config.hop
        return window(samples, -self.config.hop, padded)

    def _cut(self, padded, samples):
        return window(padded, self.config.hop, samples)
