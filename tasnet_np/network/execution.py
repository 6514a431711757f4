"""How the network runs: examples on threads, recordings in tiles, all of it on a GPU. The numbers stay the same.

On the fused path an example goes through its own copy of the network from one end to the other, without
waiting for the others. The copies share their parameters; each has its own caches and gradients. A single
recording is cut into tiles of frames instead. On a GPU a batch goes through the network as a whole.
"""

import copy

import numpy as np

from tasnet_np.compute.arrays import move, place_of
from tasnet_np.compute.cpu import each, each_in_order, get_threads, over_tiles
from tasnet_np.network.config import SOURCES
from tasnet_np.network.model import Network
from tasnet_np.ops.tcn_block import tcn_blocks_inference
from tasnet_np.ops.tcn_block_cpu import TILE


def in_dtype_of(model, samples):
    """Samples in the dtype that a model computes in: float32, unless it was made with float64."""
    return samples.astype(getattr(model, "dtype", samples.dtype), copy=False)


class ConvTasNet(Network):
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
        super().__init__(config, seed, dtype, path)
        self.device = "cpu"
        self._copies = []
        self._expected = None  # the shape of the next backward's argument

    @property
    def _example_by_example(self):
        return self.path == "fused" and self.device == "cpu"

    def to(self, device):
        """Move the model to "cpu" or "cuda" (see `compute.gpu.choose_device`); return it.

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
            return move(super().forward(move(mixture, "cuda"), keep), place_of(mixture))
        if not self._example_by_example:
            return super().forward(mixture, keep)
        examples = range(len(mixture))
        if not keep:
            return np.concatenate(each(lambda i: self._infer(mixture[i : i + 1]), examples))
        networks = self._twins(len(mixture))
        return np.concatenate(each(lambda i: Network.forward(networks[i], mixture[i : i + 1]), examples))

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
            return move(super().backward(move(dsources, "cuda")), place_of(dsources))
        if not self._example_by_example:
            return super().backward(dsources)
        networks = self._twins(len(dsources))
        examples = range(len(dsources))
        dmixture = each(lambda i: Network.backward(networks[i], dsources[i : i + 1]), examples)
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
        if not self._example_by_example or B == 1:
            value = loss.forward(self.forward(mixture), sources)
            self.backward(loss.backward())
            return value
        self._check(mixture)
        self._expected = None
        idle = self._twins(min(B, get_threads()) + 1)[1:]
        losses, mine = [], self.grads

        def one(i):
            network, own_loss = idle.pop(), copy.copy(loss)
            estimate = Network.forward(network, mixture[i : i + 1])
            value = own_loss.forward(estimate, sources[i : i + 1])
            Network.backward(network, own_loss.backward() / self.dtype.type(B))
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
        return self._make_masks(self._separate(self.frames(mixture), keep=False), keep=False)

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

    def _infer(self, mixture):
        """`Network.forward` of one example without caches: all threads share its frames, a tile each."""
        w = self._encode(mixture, keep=False)  # (1, N, T)
        x = self.bottleneck.forward(self.norm.forward(w, keep=False), keep=False)
        skips = np.zeros((1, self.config.skip, x.shape[2]), self.dtype)
        _, skips = tcn_blocks_inference(
            x, skips, [(block.arrays, block.op.settings) for block in self.blocks]
        )
        return self._cut(self._masked_sources(skips, w), mixture.shape[1])

    def _masked_sources(self, skips, w):
        """From the blocks' skips and the frames to padded sources, in tiles: the masks are never all in memory."""
        T, hop = w.shape[2], self.config.hop
        sources = np.zeros((1, len(SOURCES), (T + 1) * hop), self.dtype)

        def tile(start, stop):
            skips_here, w_here = (np.ascontiguousarray(array[:, :, start:stop]) for array in (skips, w))
            masks = self._make_masks(skips_here, keep=False)
            return self._decode(self.multiply.forward(masks, w_here, keep=False), keep=False)

        for i, piece in enumerate(over_tiles(tile, T, TILE)):
            first = i * TILE * hop
            sources[:, :, first : first + piece.shape[2]] += piece  # neighbours share one hop
        return sources

    def _check(self, mixture):
        shape, dtype = np.shape(mixture), getattr(mixture, "dtype", type(mixture).__name__)
        if dtype != self.dtype:
            raise TypeError(f"mixture must be a {self.dtype} array like the model, not {dtype}")
        if len(shape) != 2 or 0 in shape:
            raise ValueError(f"mixture must be (batch, samples), neither of them 0, not {shape}")
