"""A layer is an op plus the arrays it owns.

Every layer, block, model and loss has `forward(x)` and `backward(dy)`. The backward takes one gradient for each output,
and returns one for each input. `params` and `grads` are dicts with the same keys and shapes. A layer that has parts
lists their arrays with dots in the names, as in `blocks.3.depthwise.w`. Each backward sets the gradients. They are
never accumulated.
"""

from __future__ import annotations

import copy
import functools
import operator
import threading
from collections.abc import Sequence

import numpy as np

from tasnet_np.compute.arrays import move, move_all, place_of, stack, unstack, zeros_for_each
from tasnet_np.network.thread_guard import REMEDY, ThreadGuard
from tasnet_np.ops import OPS
from tasnet_np.ops.si_snr import EPS, negative_mean
from tasnet_np.ops.stft_magnitude import refuse_gpu

PATHS = ("reference", "ops", "fused")  # NumPy's formulas; one compiled op at a time; whole blocks at a time
WINDOW_SECONDS = (0.016, 0.032, 0.064)  # of the spectra that `SpeechLoss` compares


class Layer:
    """Named arrays and named parts. `params` and `grads` collect the arrays of both."""

    def __init__(self):
        self.own_params = {}
        self.own_grads = {}
        self.parts = {}

    @property
    def params(self):
        return self._collect("own_params")

    @property
    def grads(self):
        return self._collect("own_grads")

    def to(self, device):
        """Move all parameters to "cpu" or "cuda", and set all gradients to 0. Returns the layer."""
        params = move_all(self.params, device)
        grads = zeros_for_each(params)  # where there is no room, the layer stays as it was
        self._replace("own_params", params)
        self._replace("own_grads", grads)
        return self

    def _replace(self, kind, arrays):
        """Replace the arrays that `_collect` gives by those of the same names."""
        mine = getattr(self, kind)
        mine.update({name: arrays[name] for name in self.own_params})
        for part_name, part in self.parts.items():
            prefix = f"{part_name}."
            part._replace(
                kind, {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
            )

    def _collect(self, kind):
        arrays = dict(getattr(self, kind))
        for name, part in self.parts.items():
            arrays.update({f"{name}.{key}": value for key, value in part._collect(kind).items()})
        return arrays


class OpLayer(Layer):
    """One op with its parameters and settings.

    Parameters
    ----------
    op : str
        A name in `tasnet_np.ops.OPS`.
    params : dict of arrays
        In the order in which the op takes them.
    path : str
        "reference" for the NumPy formulas, any other of PATHS for the compiled kernels.
    **settings
        What the op takes after its `*`.
    """

    def __init__(self, op, params=None, path="ops", **settings):
        super().__init__()
        self.own_params = params or {}
        self.own_grads = {name: np.zeros_like(array) for name, array in self.own_params.items()}
        self.settings = settings
        self._forward, self._backward = OPS[op].pair(path)
        self._cache = None

    def forward(self, *inputs, keep=True, **settings):
        """Run the op. `keep=False` is for inference: nothing is kept for a backward."""
        y, cache = self._forward(*inputs, *self.own_params.values(), **self.settings, **settings)
        self._cache = cache if keep else None
        return y

    def backward(self, dy):
        """Set `grads`. Returns the gradient of the input, or a tuple if there are several inputs."""
        if self._cache is None:
            raise RuntimeError("backward needs a forward (with keep=True) right before it")
        gradients = self._backward(dy, self._cache)
        self._cache = None
        inputs = len(gradients) - len(self.own_params)
        self.own_grads = dict(zip(self.own_params, gradients[inputs:]))
        return gradients[0] if inputs == 1 else gradients[:inputs]


class NegativeSISNR(OpLayer):
    """The loss: minus the mean SI-SNR over batch and sources (Eq. 15 of arXiv 1809.07454), in dB. Lower is better.

    The order of the sources is fixed (speech, noise). So no permutation has to be searched.

    SI-SNR does not depend on the level of an estimate. `mixture_weight` adds the SI-SNR of the estimates' sum against
    the targets' sum. This term is highest for levels at which the estimates add up to the mixture. It is a soft form of
    mixture consistency, which Wisdom et al. 2019 reach by a projection.

    Parameters
    ----------
    weights : sequence of float
        One for each source, at least 0.
    path : str
        As in `OpLayer`.
    mixture_weight : float
        Of the sum. All weights are scaled so that they sum to 1.
    eps : float
        The bound of the SI-SNR, as in `ops.si_snr`.

    Raises
    ------
    ValueError
        A negative weight, or only zeros.
    """

    def __init__(
        self,
        weights: Sequence[float] = (1.0, 1.0),
        path: str = "ops",
        mixture_weight: float = 0.0,
        eps: float = EPS,
    ) -> None:
        super().__init__("si_snr", path=path, eps=eps)
        weights = np.asarray([*weights, mixture_weight], np.float64)
        if weights.ndim != 1 or not (weights >= 0).all() or not weights.sum() > 0:
            raise ValueError(f"weights must be non-negative and not all zero, not {weights}")
        weights /= weights.sum()
        self.sources = len(weights) - 1
        self.with_sum = bool(weights[-1])
        self.weights = weights if self.with_sum else weights[:-1]
        self._weights_by_place = {}
        self._kept = None  # for backward: the values' gradient, the op's cache, and the forward's thread

    def forward(self, estimate: np.ndarray, target: np.ndarray, keep: bool = True) -> float:
        """The loss of a batch.

        Parameters
        ----------
        estimate, target : ndarray, shape (B, 2, samples)
            Speech and noise.
        keep : bool
            False if there will be no backward.

        Returns
        -------
        float
            In dB. On a GPU an array (1,) that stays there.

        Raises
        ------
        ValueError, TypeError
            Shapes or dtypes that do not fit; another number of sources than of weights.
        """
        if estimate.shape[1] != self.sources:
            raise ValueError(f"{estimate.shape[1]} sources but {self.sources} weights")
        if self.with_sum:
            estimate, target = _with_sum(estimate), _with_sum(target)
        values, cache = self._forward(estimate, target=target, **self.settings)  # (B, 2 or 3) dB
        loss, dvalues = negative_mean(values, self._weights_beside(values))
        self._kept = (dvalues, cache, threading.get_ident()) if keep else None
        return loss

    def _weights_beside(self, values):
        """The weights in the place of the values. They are copied there once."""
        place = place_of(values)
        if place not in self._weights_by_place:
            self._weights_by_place[place] = move(self.weights, place)
        return self._weights_by_place[place]

    def backward(self) -> np.ndarray:
        """The gradient of the estimate, shape (B, 2, samples).

        Raises
        ------
        RuntimeError
            Without a forward (with keep=True) right before it, or after one of another thread.
        """
        if self._kept is None:
            raise RuntimeError("backward needs a forward (with keep=True) right before it")
        dvalues, cache, thread = self._kept
        if thread != threading.get_ident():
            raise RuntimeError(f"the last forward of this loss was that of another thread; {REMEDY}")
        self._kept = None
        (gradient,) = self._backward(dvalues, cache)
        if not self.with_sum:
            return gradient
        *parts, of_sum = unstack(gradient)
        return stack([part + of_sum for part in parts])


def _with_sum(x):
    """x (B, S, n) with the sum of its sources as one more source: (B, S + 1, n)."""
    parts = unstack(x)
    return stack([*parts, functools.reduce(operator.add, parts)])


class SpeechLoss(Layer):
    """The loss: minus SI-SNR, minus a weighted likeness of spectra, in dB. Lower is better. On the CPU only.

    Both are means over batch and sources. SI-SNR alone leaves the level open, and the loud parts decide it.
    `ops.stft_magnitude` compares levels, and quiet parts count nearly as much as loud ones. So the model learns the
    level of its outputs. Neither of the two depends on the polarity.

    Parameters
    ----------
    si_snr : NegativeSISNR
        Its own weights and bound hold for the first part.
    rate : int
        Hz. It decides the lengths of the windows.
    weights : sequence of float
        One for each source, for the likeness. They are scaled so that they sum to 1.
    stft_weight : float
        Of a dB of likeness. That of a dB of SI-SNR is 1.
    path : str
        As in `OpLayer`.
    """

    def __init__(
        self,
        si_snr: NegativeSISNR,
        rate: int,
        weights: Sequence[float] = (1.0, 1.0),
        stft_weight: float = 1.0,
        path: str = "ops",
    ) -> None:
        super().__init__()
        windows = tuple(4 * max(1, round(seconds * rate / 4)) for seconds in WINDOW_SECONDS)
        self.si_snr = si_snr
        self.likeness = OpLayer("stft_magnitude", path=path, windows=windows)
        weights = np.asarray(weights, np.float64)
        self.weights = stft_weight * weights / weights.sum()
        self._guard = ThreadGuard("this loss")

    def __copy__(self):
        """A loss with caches of its own, for another thread (see `ConvTasNet.gradients`)."""
        other = object.__new__(type(self))
        parts = {"si_snr": copy.copy(self.si_snr), "likeness": copy.copy(self.likeness)}
        other.__dict__.update(self.__dict__ | parts | {"_guard": copy.copy(self._guard)})
        return other

    def to(self, device: str) -> SpeechLoss:
        """The loss itself on "cpu". Raises UserError on "cuda", before any step is made."""
        if device == "cuda":
            refuse_gpu()
        return self

    def forward(self, estimate: np.ndarray, target: np.ndarray, keep: bool = True) -> float:
        """The loss of a batch in dB, from estimates and targets (B, 2, samples)."""
        with self._guard:
            likeness = self.likeness.forward(estimate, keep=keep, target=target)  # (B, 2) dB
            value, self._dlikeness = negative_mean(likeness, self.weights)
            return self.si_snr.forward(estimate, target, keep=keep) + value

    def backward(self) -> np.ndarray:
        """The gradient of the estimate, shape (B, 2, samples). Raises RuntimeError without a forward before it."""
        with self._guard:
            return self.si_snr.backward() + self.likeness.backward(self._dlikeness)
