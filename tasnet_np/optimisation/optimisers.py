"""Optimisers: what to do with a gradient once it is there.

All of them change arrays in place: `params` and `grads` are dicts with the same keys, as a model gives.
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
    """

    def __init__(self, params, learning_rate=0.01, momentum=0.0):
        self.params = params
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.numbers = None  # of this step
        self.steps = 0
        self.v = zeros_for_each(params)

    def step(self, grads):
        """Change the parameters."""
        self.count()
        self.update(grads)

    def count(self):
        """Begin a step: have this step's numbers where the parameters are."""
        self.steps += 1
        numbers = np.array([self.learning_rate, self.momentum])
        self.numbers = _beside(self.params, self.numbers, numbers)

    def update(self, grads, norm=None):
        """Change the parameters, unless `norm`, that of the gradient, is not finite."""
        updates.sgd(self.params, self.v, grads, self.numbers, norm)

    def state(self):
        """What a checkpoint has to hold: numbers and arrays, by name."""
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
    mhat = m / (1 - beta1^t),  vhat = v / (1 - beta2^t)         both start at 0: correct their bias
    theta <- theta - learning_rate * mhat / (sqrt(vhat) + eps)
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
        self.numbers = None  # of this step

    def step(self, grads):
        """Change the parameters."""
        self.count()
        self.update(grads)

    def count(self):
        """Begin a step: have this step's numbers where the parameters are."""
        self.steps += 1
        dtype = _dtype(self.params)
        bias1, bias2 = (1 - beta**self.steps for beta in self.betas)
        beta1, beta2 = map(dtype.type, self.betas)  # rounded before 1 - beta
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
        """Change the parameters, unless `norm`, that of the gradient, is not finite."""
        updates.adam(self.params, self.m, self.v, grads, self.numbers, norm)

    def state(self):
        """What a checkpoint has to hold: numbers and arrays, by name."""
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
    """Numbers where the parameters are; on a GPU in the array that held the last ones, if there is one."""
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

    An improvement is a loss below the best one so far by more than `threshold`. After more than
    `patience` calls in a row without one, the rate is lowered (never below `minimum`).
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
        """What a checkpoint has to hold."""
        return {"best": float(self.best), "waited": self.waited}

    def restore(self, numbers):
        """Continue from what `state` returned."""
        self.best, self.waited = numbers["best"], numbers["waited"]


def warm_up_and_cosine(rate, step, fraction, *, warmup=0, floor=0.01):
    """Learning rate of a run that ends: a straight rise, then half a cosine down to its end.

    rate * min(1, (step + 1) / warmup) * (floor + (1 - floor) * (1 + cos(pi * fraction)) / 2)

    Parameters
    ----------
    rate : float
        The highest rate.
    step : int
        Steps done so far.
    fraction : float
        How much of the run is over, from 0 to 1; of its steps or of its time.
    warmup : int
        Steps of the rise.
    floor : float
        The last rate as a share of the highest (Loshchilov and Hutter 2017, Eq. 5, with one cycle).
    """
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    fall = (1 + math.cos(math.pi * min(max(fraction, 0.0), 1.0))) / 2
    return rate * rise * (floor + (1 - floor) * fall)


class WeightAverage:
    """Exponential moving average of the parameters: a smoother model than the last step's.

    average <- d * average + (1 - d) * theta,      d = min(decay, (1 + t) / (10 + t)) at update t

    The smaller d of the first updates forgets the random start (Tarvainen and Valpola 2017).
    With `decay` 0 the average is the parameters themselves.
    """

    def __init__(self, params, decay):
        self.params, self.decay, self.updates = params, decay, 0
        self.average = zeros_for_each(params) if decay else {}
        self.numbers = None  # of this step
        _write_all(self.average, {name: move(params[name], "cpu") for name in self.average})

    def update(self):
        """Take the parameters in, after a step."""
        self.updates += 1
        d = min(self.decay, (1 + self.updates) / (10 + self.updates))
        if self.average:
            self.numbers = _beside(self.params, self.numbers, np.array([1 - d], _dtype(self.params)))
            updates.move_average(self.average, self.params, self.numbers)

    @contextlib.contextmanager
    def applied(self):
        """Meanwhile the parameters hold the average; afterwards, to the bit, what they held before."""
        averaged = {name: self.params[name] for name in self.average}
        before = {name: np.array(move(theta, "cpu")) for name, theta in averaged.items()}
        _write_all(averaged, {name: move(average, "cpu") for name, average in self.average.items()})
        try:
            yield
        finally:
            _write_all(averaged, before)

    def state(self):
        """What a checkpoint has to hold: a number and arrays, by name."""
        return self.updates, {f"average.{name}": move(array, "cpu") for name, array in self.average.items()}

    def restore(self, updates, arrays):
        """Continue from what `state` returned."""
        self.updates = updates
        _write_all(self.average, {name: arrays[f"average.{name}"] for name in self.average})
