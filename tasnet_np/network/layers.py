"""A layer is an op plus the arrays it owns.

Every layer, block, model and loss has `forward(x)` and `backward(dy)`: one gradient in per output, one
gradient out per input. `params` and `grads` are dicts with the same keys and shapes; a composite
layer lists those of its parts with dots in between, as in `blocks.3.depthwise.w`. Gradients are set by
each backward, never accumulated.
"""

import functools
import operator
import threading

import numpy as np

from tasnet_np.compute.arrays import move, move_all, place_of, stack, unstack, zeros_for_each
from tasnet_np.network.thread_guard import REMEDY
from tasnet_np.ops import OPS
from tasnet_np.ops.si_snr import negative_mean

PATHS = ("reference", "ops", "fused")  # the NumPy formulas; one op at a time; whole blocks at a time


class Layer:
    """Named arrays and named parts. `params` and `grads` collect both."""

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
        """Move all parameters to "cpu" or "cuda", with gradients of 0; return the layer."""
        params = move_all(self.params, device)
        grads = zeros_for_each(params)  # where there is no room, the layer stays as it was
        self._replace("own_params", params)
        self._replace("own_grads", grads)
        return self

    def _replace(self, kind, arrays):
        """Set the arrays that `_collect` gives under the same names."""
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
    op : name in `tasnet_np.ops.OPS`
    params : dict of arrays, in the order in which the op takes them
    path : "reference" for the NumPy formulas, any other of PATHS for the compiled kernels
    settings : what the op takes after its `*`
    """

    def __init__(self, op, params=None, path="ops", **settings):
        super().__init__()
        self.own_params = params or {}
        self.own_grads = {name: np.zeros_like(array) for name, array in self.own_params.items()}
        self.settings = settings
        self._forward, self._backward = OPS[op].pair(path)
        self._cache = None

    def forward(self, *inputs, keep=True, **settings):
        """Run the op. `keep=False` (inference) forgets at once what a backward would need."""
        y, cache = self._forward(*inputs, *self.own_params.values(), **self.settings, **settings)
        self._cache = cache if keep else None
        return y

    def backward(self, dy):
        """Set `grads`; return the gradient of the input, or a tuple if there are several."""
        if self._cache is None:
            raise RuntimeError("backward needs a forward (with keep=True) right before it")
        gradients = self._backward(dy, self._cache)
        self._cache = None
        inputs = len(gradients) - len(self.own_params)
        self.own_grads = dict(zip(self.own_params, gradients[inputs:]))
        return gradients[0] if inputs == 1 else gradients[:inputs]


class NegativeSISNR(OpLayer):
    """The loss: minus the mean SI-SNR over batch and sources, in dB. Lower is better.

    The order of the sources is fixed (speech, noise), so there is no permutation to search.

    `mixture_weight` adds the SI-SNR of the estimates' sum against the targets' sum. SI-SNR leaves the level of
    each estimate open; this term asks for levels at which they add up to the mixture (mixture consistency, as
    a soft constraint: Wisdom et al. 2019 project onto it).

    Parameters
    ----------
    weights : one weight per source
    mixture_weight : of the sum; all weights are scaled here so that they sum to 1
    """

    def __init__(self, weights=(1.0, 1.0), path="ops", mixture_weight=0.0):
        super().__init__("si_snr", path=path)
        weights = np.asarray([*weights, mixture_weight], np.float64)
        if weights.ndim != 1 or not (weights >= 0).all() or not weights.sum() > 0:
            raise ValueError(f"weights must be non-negative and not all zero, not {weights}")
        weights /= weights.sum()
        self.sources = len(weights) - 1
        self.with_sum = bool(weights[-1])
        self.weights = weights if self.with_sum else weights[:-1]
        self._weights_by_place = {}
        self._kept = (
            None  # for backward: the gradient of the values, the op's cache, and the thread of the forward
        )

    def forward(self, estimate, target, keep=True):
        """estimate, target (B, 2, samples) -> the loss, a float; on a GPU an array (1,) that stays there."""
        if estimate.shape[1] != self.sources:
            raise ValueError(f"{estimate.shape[1]} sources but {self.sources} weights")
        if self.with_sum:
            estimate, target = _with_sum(estimate), _with_sum(target)
        values, cache = self._forward(estimate, target=target)  # (B, 2 or 3) dB
        loss, dvalues = negative_mean(values, self._weights_beside(values))
        self._kept = (dvalues, cache, threading.get_ident()) if keep else None
        return loss

    def _weights_beside(self, values):
        """The weights where the values are, copied there once."""
        place = place_of(values)
        if place not in self._weights_by_place:
            self._weights_by_place[place] = move(self.weights, place)
        return self._weights_by_place[place]

    def backward(self):
        """The gradient of the estimate, (B, 2, samples)."""
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
    """x (B, S, n) and the sum of its sources: (B, S + 1, n)."""
    parts = unstack(x)
    return stack([*parts, functools.reduce(operator.add, parts)])
