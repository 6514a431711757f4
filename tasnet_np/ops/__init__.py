"""The ops: table of contents.

    conv1d                  waveform -> frames: the encoder
    conv_transpose1d        frames -> waveform: the decoder
    pointwise               1x1 convolution: mixes channels
    depthwise               dilated convolution: looks along time, channel by channel
    global_layer_norm       gLN: one mean and variance for the whole recording
    cumulative_layer_norm   cLN: mean and variance of everything heard so far
    channel_layer_norm      mean and variance of one frame
    relu  prelu  sigmoid    element by element
    softmax                 over the sources
    add  multiply           where two paths join: residual, skip, mask
    si_snr                  the loss, in dB
    stft_magnitude          a further loss, in dB: it hears what is quiet, and the level
    tcn_block               one whole block, fused: what the model runs when speed counts

Every op is a pair of functions:

    y, cache = op_forward(x, *parameters, *, settings)
    dx, *dparameters = op_backward(dy, cache)

A backward always returns a tuple. It has one gradient for each array that stands before the `*`. An op with two
outputs (tcn_block) returns a tuple as y and takes one as dy. Only the op's own backward opens the cache.

The same pair in plain NumPy has `_ref` in its names, and no cache: `y = op_forward_ref(x, *parameters, settings)` and
`op_backward_ref(dy, x, *parameters, settings)`.

The arrays of one call have one dtype, float32 or float64, and are in one place: NumPy arrays on the CPU, or
`CudaArray`s on a GPU. The results are in the same place. Type hints name NumPy's arrays alone.
"""

from collections.abc import Callable
from typing import NamedTuple

from tasnet_np.ops import conv1d, depthwise, elementwise, norms, pointwise, si_snr, stft_magnitude, tcn_block


class Op(NamedTuple):
    """The four functions of one op."""

    name: str
    forward: Callable
    backward: Callable
    forward_ref: Callable
    backward_ref: Callable

    def pair(self, path="ops"):
        """`forward, backward` of the contract: plain NumPy for "reference", else compiled."""
        if path != "reference":
            return self.forward, self.backward

        def forward(*arrays, **settings):
            return self.forward_ref(*arrays, **settings), (arrays, settings)

        def backward(dy, cache):
            arrays, settings = cache
            return self.backward_ref(dy, *arrays, **settings)

        return forward, backward


def _op(module, name):
    directions = ("forward", "backward", "forward_ref", "backward_ref")
    return Op(name, *(getattr(module, f"{name}_{direction}") for direction in directions))


OPS = {
    name: _op(module, name)
    for module, names in {
        conv1d: "conv1d conv_transpose1d",
        pointwise: "pointwise",
        depthwise: "depthwise",
        norms: "global_layer_norm cumulative_layer_norm channel_layer_norm",
        elementwise: "relu prelu sigmoid softmax add multiply",
        si_snr: "si_snr",
        stft_magnitude: "stft_magnitude",
        tcn_block: "tcn_block",
    }.items()
    for name in names.split()
}

CPU_ONLY = ("stft_magnitude",)  # ops that raise a UserError on a GPU
