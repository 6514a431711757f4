"""Optimisers change a model's parameters by its gradients. Here are also the learning rate and the average of a run.

`params` and `grads` are dicts with the same keys, as a model gives them. Their arrays are changed in place.
Letters are those of the papers: theta for the parameters, g for the gradient, t for the step.
"""

import contextlib
import math

import numpy as np

from tasnet_np.compute.arrays import move, place_of, write, zeros_for_each
from tasnet_np.optimisation import updates
from tasnet_np.optimisation.updates import clip_gradients

__all__ = ["SGD", "Adam", "HalveOnPlateau", "WeightAverage", "clip_gradients", "warm_up_and_cosine"]


class SGD:
    """Gradient descent with momentum.

    v <- momentum * v + g,    theta <- theta - learning_rate * v       (v starts at 0)

    Parameters
    ----------
    params : dict of arrays
    learning_rate, momentum : float
    """

    def __init__(self, params, learning_rate=0.01, momentum=0.0):
        self.params = params
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.numbers = None  # of this step, as an array
        self.steps = 0
        self.v = zeros_for_each(params)

    def step(self, grads):
        """Change the parameters by one step."""
        self.count()
        self.update(grads)

    def count(self):
        """Begin a step: count it, and write its numbers into an array in the place of the parameters."""
        self.steps += 1
        numbers = np.array([self.learning_rate, self.momentum])
        self.numbers = _beside(self.params, self.numbers, numbers)

    def update(self, grads, norm=None):
        """Change the parameters, unless the gradient's `norm` is not finite."""
        updates.sgd(self.params, self.v, grads, self.numbers, norm)

    def state(self):
        """The numbers and the arrays that a checkpoint must hold, each by name."""
        numbers = {"steps": self.steps, "learning_rate": self.learning_rate}
        return numbers, {f"v.{name}": move(v, "cpu") for name, v in self.v.items()}

    def restore(self, numbers, arrays):
        """Continue from what `state` returned."""
        self.steps, self.learning_rate = numbers["steps"], numbers["learning_rate"]
        _write_all(self.v, {name: arrays[f"v.{name}"] for name in self.v})


class Adam:
    """Adam (Kingma and Ba 2015, Algorithm 1), with L2 weight decay added to the gradient.

    g <- g + weight_decay * theta
    m <- beta1 * m + (1 - beta1) * g            first moment
    v <- beta2 * v + (1 - beta2) * g^2          second moment
    mhat = m / (1 - beta1^t),  vhat = v / (1 - beta2^t)         m and v start at 0: this corrects the bias
    theta <- theta - learning_rate * mhat / (sqrt(vhat) + eps)

    Parameters
    ----------
    params : dict of arrays
    learning_rate, eps, weight_decay : float
    betas : tuple of float
        beta1 and beta2.
    """

    def __init__(self, params, learning_rate=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        self.params = params
        self.learning_rate = learning_rate
        self.betas = betas
        self.eps = eps
        self.weight_decay = weight_decay
        self.steps = 0  # t in the paper
        self.m = zeros_for_each(params)
        self.v = zeros_for_each(params)
        self.numbers = None  # of this step, as an array

    def step(self, grads):
        """Change the parameters by one step."""
        self.count()
        self.update(grads)

    def count(self):
        """Begin a step: count it, and write its numbers into an array in the place of the parameters."""
        self.steps += 1
        dtype = _dtype(self.params)
        bias1, bias2 = (1 - beta**self.steps for beta in self.betas)
        beta1, beta2 = map(dtype.type, self.betas)  # rounded first, then subtracted from 1
        numbers = [
            self.learning_rate,
            beta1,
            beta2,
            1 - beta1,
            1 - beta2,
            bias1,
            bias2,
            self.eps,
            self.weight_decay,
        ]
        self.numbers = _beside(self.params, self.numbers, np.array(numbers, dtype))

    def update(self, grads, norm=None):
        """Change the parameters, unless the gradient's `norm` is not finite."""
        updates.adam(self.params, self.m, self.v, grads, self.numbers, norm)

    def state(self):
        """The numbers and the arrays that a checkpoint must hold, each by name."""
        numbers = {"steps": self.steps, "learning_rate": self.learning_rate}
        moments = {"m": self.m, "v": self.v}
        arrays = {
            f"{k}.{name}": move(a, "cpu") for k, moment in moments.items() for name, a in moment.items()
        }
        return numbers, arrays

    def restore(self, numbers, arrays):
        """Continue from what `state` returned."""
        self.steps, self.learning_rate = numbers["steps"], numbers["learning_rate"]
        for k, moment in (("m", self.m), ("v", self.v)):
            _write_all(moment, {name: arrays[f"{k}.{name}"] for name in self.params})


def _dtype(params):
    return next(iter(params.values())).dtype if params else np.dtype(np.float32)


def _beside(params, array, numbers):
    """The numbers in an array in the place of the parameters. On a GPU, `array` is used again if there is one."""
    place = place_of(next(iter(params.values()), None))
    if array is None or place == "cpu":
        return move(numbers, place)
    write(array, numbers)
    return array


def _write_all(arrays, stored):
    """Overwrite each array with the stored one of its name."""
    for name, array in arrays.items():
        if array.shape != stored[name].shape:
            raise ValueError(f"{name} is {array.shape}, stored is {stored[name].shape}")
        write(array, stored[name])


class HalveOnPlateau:
    """Multiply the learning rate by `factor` when the loss has not improved for a while.

    An improvement is a loss that is lower than the best one so far by more than `threshold`. After more than `patience`
    calls in a row without an improvement, the rate is lowered, but never below `minimum`.

    Parameters
    ----------
    optimizer : SGD or Adam
        Its `learning_rate` is changed.
    factor, threshold, minimum : float
    patience : int
    """

    def __init__(self, optimizer, factor=0.5, patience=3, threshold=1e-4, minimum=1e-8):
        self.optimizer = optimizer
        self.factor = factor
        self.patience = patience
        self.threshold = threshold
        self.minimum = minimum
        self.best = np.inf
        self.waited = 0

    def step(self, loss):
        """Report a loss (lower is better)."""
        if loss < self.best - self.threshold:
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited > self.patience:
            rate = self.optimizer.learning_rate
            self.optimizer.learning_rate = min(rate, max(rate * self.factor, self.minimum))
            self.waited = 0

    def state(self):
        """The numbers that a checkpoint must hold, by name."""
        return {"best": float(self.best), "waited": self.waited}

    def restore(self, numbers):
        """Continue from what `state` returned."""
        self.best, self.waited = numbers["best"], numbers["waited"]


def warm_up_and_cosine(rate, step, fraction, *, warmup=0, floor=0.01):
    """Learning rate of a run with a known end: it rises in a straight line, then falls like half a cosine.

    rate * min(1, (step + 1) / warmup) * (floor + (1 - floor) * (1 + cos(pi * fraction)) / 2)

    Parameters
    ----------
    rate : float
        The highest rate.
    step : int
        Steps done so far.
    fraction : float
        How much of the run is over, from 0 to 1, by steps or by time.
    warmup : int
        Steps of the rise.
    floor : float
        The last rate as a share of the highest (Loshchilov and Hutter 2017, Eq. 5, with one cycle).

    Returns
    -------
    float
    """
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    fall = (1 + math.cos(math.pi * min(max(fraction, 0.0), 1.0))) / 2
    return rate * rise * (floor + (1 - floor) * fall)


class WeightAverage:
    """Exponential moving average of the parameters: a smoother model than that of the last step.

    average <- d * average + (1 - d) * theta,      d = min(decay, (1 + t) / (10 + t)) at update t

    d is smaller in the first updates, so that the average forgets the random start (Tarvainen and Valpola 2017).
    With `decay` 0 there is no average: the parameters themselves take its place.

    Parameters
    ----------
    params : dict of arrays
    decay : float
        From 0 to 1.
    """

    def __init__(self, params, decay):
        self.params, self.decay, self.updates = params, decay, 0
        self.average = zeros_for_each(params) if decay else {}
        self.numbers = None  # of this step, as an array
        _write_all(self.average, {name: move(params[name], "cpu") for name in self.average})

    def update(self):
        """Move the average towards the parameters, after a step."""
        self.updates += 1
        d = min(self.decay, (1 + self.updates) / (10 + self.updates))
        if self.average:
            self.numbers = _beside(self.params, self.numbers, np.array([1 - d], _dtype(self.params)))
            updates.move_average(self.average, self.params, self.numbers)

    @contextlib.contextmanager
    def applied(self):
        """Within this context the parameters hold the average. Afterwards they have the same bits as before."""
        averaged = {name: self.params[name] for name in self.average}
        before = {name: np.array(move(theta, "cpu")) for name, theta in averaged.items()}
        _write_all(averaged, {name: move(average, "cpu") for name, average in self.average.items()})
        try:
            yield
        finally:
            _write_all(averaged, before)

    def state(self):
        """What a checkpoint must hold: the number of updates, and arrays by name."""
        return self.updates, {f"average.{name}": move(array, "cpu") for name, array in self.average.items()}

    def restore(self, updates, arrays):
        """Continue from what `state` returned."""
        self.updates = updates
        _write_all(self.average, {name: arrays[f"average.{name}"] for name in self.average})
