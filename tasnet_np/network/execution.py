"""How the network runs: examples on threads, recordings in tiles, or a whole batch on a GPU. The numbers stay the same.

On the fused path each example goes through a copy of the network from one end to the other. It does not wait for the
other examples. The copies share the parameters. Each copy has its own caches and gradients. A single recording is cut
into tiles of frames instead. On a GPU a batch goes through the network as a whole.
"""

from __future__ import annotations

import copy
import threading

import numpy as np

from tasnet_np.compute.arrays import move, place_of
from tasnet_np.compute.cpu import each, each_in_order, get_threads, over_tiles
from tasnet_np.network.config import SOURCES, Config
from tasnet_np.network.layers import Layer
from tasnet_np.network.model import Network
from tasnet_np.network.thread_guard import REMEDY, ThreadGuard
from tasnet_np.ops.tcn_block import tcn_blocks_inference
from tasnet_np.ops.tcn_block_cpu import TILE


def in_dtype_of(model, samples):
    """Samples in the dtype that a model computes in: float32, unless it was made with float64."""
    return samples.astype(getattr(model, "dtype", samples.dtype), copy=False)


class ConvTasNet(Network):
    """Conv-TasNet (Luo and Mesgarani, arXiv 1809.07454): separates a mixture into speech and noise.

    Any number of threads may infer with one model at once, `forward(mixture, keep=False)`. One at a time may train
    it: while a thread is in `forward`, `backward` or `gradients`, the others get a RuntimeError there, and so does
    a `backward` whose forward was that of another thread. No thread may infer between a forward and its backward.

    Parameters
    ----------
    config : Config
    seed : int
        Of the random initial weights.
    dtype : np.float32 or np.float64
    path : str
        "fused" (whole blocks compiled: the fastest), "ops" (one compiled op at a time) or "reference" (the NumPy
        formulas). All three give the same numbers.

    Attributes
    ----------
    params, grads : dict of arrays
        The learned arrays and their gradients, by name.
    device : str
        "cpu" or "cuda".

    Raises
    ------
    ValueError
        Another path or dtype.
    """

    def __init__(
        self, config: Config, seed: int = 0, dtype: np.typing.DTypeLike = np.float32, path: str = "fused"
    ) -> None:
        super().__init__(config, seed, dtype, path)
        self.device = "cpu"
        self._copies = []
        self._expected = None  # by the next backward: the shape of its argument, and its thread
        self._guard = ThreadGuard("this model")

    @property
    def _example_by_example(self):
        return self.path == "fused" and self.device == "cpu"

    def to(self, device: str) -> ConvTasNet:
        """Move the model to a device (see `compute.gpu.choose_device`).

        On a GPU `forward` and `backward` take and return arrays of the GPU. They also take NumPy arrays, and then
        return NumPy arrays.

        Parameters
        ----------
        device : str
            "cpu" or "cuda".

        Returns
        -------
        ConvTasNet
            This model. Its gradients are 0.

        Raises
        ------
        ValueError
            The path "reference" on a GPU.
        """
        if device == "cuda" and self.path == "reference":
            raise ValueError('path "reference" is NumPy: it cannot run on cuda; use "ops" or "fused"')
        if device == self.device:
            return self
        super().to(device)
        self._copies = []
        self._expected = None
        self.device = device
        return self

    def on_cpu(self) -> ConvTasNet:
        """This model if it is on the CPU, else a copy of it on the CPU."""
        if self.device == "cpu":
            return self
        copied = ConvTasNet(self.config, dtype=self.dtype, path=self.path)
        for name, array in copied.params.items():
            array[...] = move(self.params[name], "cpu")
        return copied

    def forward(self, mixture: np.ndarray, keep: bool = True) -> np.ndarray:
        """Separate mixtures.

        Parameters
        ----------
        mixture : ndarray, shape (B, samples)
            Of the model's dtype and sample rate, with at least one sample.
        keep : bool
            False for inference: nothing is kept for a backward.

        Returns
        -------
        ndarray, shape (B, 2, samples)
            Speech and noise. Their levels and signs are arbitrary, because SI-SNR does not depend on them.

        Raises
        ------
        ValueError, TypeError
            An array of another shape or dtype.
        RuntimeError
            With keep=True, while another thread trains this model.
        """
        self._check(mixture)
        if not keep:
            if self._expected and self._expected[1] == threading.get_ident():
                self._expected = None
            return self._forward(mixture, keep)
        with self._guard:
            self._expected = None
            sources = self._forward(mixture, keep)
            self._expected = (len(mixture), len(SOURCES), mixture.shape[1]), threading.get_ident()
            return sources

    def _forward(self, mixture, keep):
        if self.device == "cuda":
            return move(super().forward(move(mixture, "cuda"), keep), place_of(mixture))
        if not self._example_by_example:
            return super().forward(mixture, keep)
        examples = range(len(mixture))
        if not keep:
            return np.concatenate(each(lambda i: self._infer(mixture[i : i + 1]), examples))
        networks = self._twins(len(mixture))
        return np.concatenate(each(lambda i: Network.forward(networks[i], mixture[i : i + 1]), examples))

    def backward(self, dsources: np.ndarray) -> np.ndarray:
        """Set `grads` from the gradient of the sources.

        Parameters
        ----------
        dsources : ndarray, shape (B, 2, samples)

        Returns
        -------
        ndarray, shape (B, samples)
            Gradient of the mixture.

        Raises
        ------
        RuntimeError
            Without a forward (with keep=True) right before it, or after one of another thread.
        ValueError
            A gradient of another shape than the sources.
        """
        with self._guard:
            if self._expected is None:
                raise RuntimeError("backward needs a forward (with keep=True) right before it")
            shape, thread = self._expected
            if thread != threading.get_ident():
                raise RuntimeError(f"the last forward of this model was that of another thread; {REMEDY}")
            if dsources.shape != shape:
                raise ValueError(f"dsources must be {shape}, like the sources, not {dsources.shape}")
            self._expected = None
            return self._backward(dsources)

    def _backward(self, dsources):
        if self.device == "cuda":
            return move(super().backward(move(dsources, "cuda")), place_of(dsources))
        if not self._example_by_example:
            return super().backward(dsources)
        networks = self._twins(len(dsources))
        examples = range(len(dsources))
        dmixture = each(lambda i: Network.backward(networks[i], dsources[i : i + 1]), examples)
        self._sum_gradients(networks)
        return np.concatenate(dmixture)

    def gradients(self, loss: Layer, mixture: np.ndarray, sources: np.ndarray) -> float:
        """Set `grads` from the loss of a batch.

        This is the same as `loss.forward(model.forward(mixture), sources)` and both backwards. But on the fused path a
        thread takes one example from the mixture to its gradients before it begins the next one. So a batch of any size
        needs the memory of one example for each thread.

        Parameters
        ----------
        loss : Layer
            A loss that is a mean over the batch, such as `NegativeSISNR`.
        mixture : ndarray, shape (B, samples)
        sources : ndarray, shape (B, 2, samples)
            The true speech and noise.

        Returns
        -------
        float
            The loss of the batch. On a GPU an array (1,) that stays there.

        Raises
        ------
        ValueError, TypeError
            An array of another shape or dtype.
        """
        with self._guard:
            if self._example_by_example and len(mixture) > 1:
                return self._gradients_by_example(loss, mixture, sources)
            value = loss.forward(self.forward(mixture), sources)
            self.backward(loss.backward())
            return value

    def _gradients_by_example(self, loss, mixture, sources):
        self._check(mixture)
        self._expected = None
        B = len(mixture)
        idle = self._twins(min(B, get_threads()) + 1)[1:]
        losses, total = [], {}

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
            if not losses:
                total.update(grads)  # new arrays, as from every backward: the sum may be made in them
            else:
                _add_all(total, grads)
            losses.append(value)

        each_in_order(one, range(B), add)
        self._replace("own_grads", total)
        return sum(losses) / B

    def frames(self, mixture: np.ndarray) -> np.ndarray:
        """The encoded mixture, (B, samples) -> (B, N, T). It is here to be looked at."""
        self._check(mixture)
        return self._encode(mixture, keep=False)

    def masks(self, mixture: np.ndarray) -> np.ndarray:
        """The masks of a mixture, (B, samples) -> (B, 2, N, T): what each source keeps of `frames`."""
        return self._make_masks(self._separate(self.frames(mixture), keep=False), keep=False)

    def _twins(self, count):
        """A list of `count` networks: this one, and copies of it that share its parameter arrays."""
        while len(self._copies) < count - 1:
            # deepcopy does not copy what is in its memo: the parameter arrays stay the same, and the list of copies
            # becomes an empty list.
            shared = {id(array): array for array in self.params.values()}
            self._copies.append(copy.deepcopy(self, shared | {id(self._copies): []}))
        return [self, *self._copies[: count - 1]]

    def _sum_gradients(self, networks):
        """Add the gradients of all examples, in their order, to those of this network."""
        mine = self.grads
        for network in networks[1:]:
            _add_all(mine, network.grads)

    def _infer(self, mixture):
        """`Network.forward` of one example without caches. Each thread takes a tile of its frames at a time."""
        w = self._encode(mixture, keep=False)  # (1, N, T)
        x = self.bottleneck.forward(self.norm.forward(w, keep=False), keep=False)
        skips = np.zeros((1, self.config.skip, x.shape[2]), self.dtype)
        _, skips = tcn_blocks_inference(
            x, skips, [(block.arrays, block.op.settings) for block in self.blocks]
        )
        return self._cut(self._masked_sources(skips, w), mixture.shape[1])

    def _masked_sources(self, skips, w):
        """From the blocks' skips and the frames to padded sources, tile by tile: all masks would need much memory."""
        T, hop = w.shape[2], self.config.hop
        sources = np.zeros((1, len(SOURCES), (T + 1) * hop), self.dtype)

        def tile(start, stop):
            skips_here, w_here = (np.ascontiguousarray(array[:, :, start:stop]) for array in (skips, w))
            masks = self._make_masks(skips_here, keep=False)
            return self._decode(self.multiply.forward(masks, w_here, keep=False), keep=False)

        for i, piece in enumerate(over_tiles(tile, T, TILE)):
            first = i * TILE * hop
            sources[:, :, first : first + piece.shape[2]] += piece  # neighbouring pieces overlap by one hop
        return sources

    def _check(self, mixture):
        shape, dtype = np.shape(mixture), getattr(mixture, "dtype", type(mixture).__name__)
        if dtype != self.dtype:
            raise TypeError(f"mixture must be a {self.dtype} array like the model, not {dtype}")
        if len(shape) != 2 or 0 in shape:
            raise ValueError(f"mixture must be (batch, samples), neither of them 0, not {shape}")


def _add_all(total, gradients):
    for name, gradient in gradients.items():
        np.add(total[name], gradient, out=total[name])
