"""Conv-TasNet speech denoising from scratch: every forward and every backward pass by hand.

    config = Config.preset("small")
    model = ConvTasNet(config)
    speech, noise = model.forward(mixture)[0]

The reading order is in README.md; `tasnet_np.ops` is where the mathematics is.
"""

from tasnet_np.blas import choose_kernels

choose_kernels()  # before anything loads NumPy

from tasnet_np.checkpoint import load, save
from tasnet_np.config import Config
from tasnet_np.errors import UserError
from tasnet_np.execution import ConvTasNet
from tasnet_np.layers import NegativeSISNR
from tasnet_np.streaming import Streamer

__version__ = "0.1.0"
__all__ = ["Config", "ConvTasNet", "NegativeSISNR", "Streamer", "UserError", "load", "save"]
