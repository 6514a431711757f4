"""Conv-TasNet speech denoising from scratch: every forward and every backward pass is written by hand.

    config = Config.preset("small")
    model = ConvTasNet(config)
    speech, noise = model.forward(mixture)[0]     # mixture: (1, samples), float32

README.md says in which order to read the files. The mathematics is in `tasnet_np.ops`.
"""

from tasnet_np.blas import choose_kernels

choose_kernels()  # before anything loads NumPy

from tasnet_np.errors import UserError
from tasnet_np.network.checkpoint import load, save
from tasnet_np.network.config import Config
from tasnet_np.network.execution import ConvTasNet
from tasnet_np.network.layers import NegativeSISNR
from tasnet_np.streaming.streamer import Streamer

__version__ = "0.1.0"
__all__ = ["Config", "ConvTasNet", "NegativeSISNR", "Streamer", "UserError", "load", "save"]
