"""Optimisers: what to do with a gradient once it is there.

All of them change arrays in place: `params` and `grads` are dicts with the same keys, as a model gives.
Letters are those of the papers: theta for the parameters, g for the gradient, t for the step.
"""

import contextlib
import math

import numpy as np

from tasnet_np.device import cpu_kernel


@cpu_kernel
def _sum_of_squares_cpu(g):
    total = 0.0
    for i in range(g.size):
        total += np.float64(g[i]) * g[i]
    return total


@cpu_kernel
def _adam_cpu(theta, m, v, g, rate, beta1, beta2, bias1, bias2, eps, weight_decay):
    """Adam's formulas below, for every element: one pass where NumPy would need ten."""
    for i in range(theta.size):
        gradient = g[i] + weight_decay * theta[i]
        m[i] = beta1 * m[i] + (1 - beta1) * gradient
        v[i] = beta2 * v[i] + (1 - beta2) * gradient * gradient
        theta[i] -= rate * (m[i] / bias1) / (math.sqrt(v[i] / bias2) + eps)


def clip_gradients(grads, max_norm):
    """Scale all gradients so that their common norm is at most `max_norm`; return the norm before.

    g <- g * min(1, max_norm / |g|),   |g| over all arrays together (Pascanu et al. 2013)
    """
    norm = math.sqrt(sum(_sum_of_squares_cpu(g.reshape(-1)) for g in grads.values()))
    if norm > max_norm:
        for g in grads.values():
            g *= g.dtype.type(max_norm / norm)
    return norm


class SGD:
    """Gradient descent with momentum.

    v <- momentum * v + g,    theta <- theta - learning_rate * v       (v starts at 0)
    """

    def __init__(self, params, learning_rate=0.01, momentum=0.0):
        self.params = params
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.steps = 0
        self.v = {name: np.zeros_like(theta) for name, theta in params.items()}

    def step(self, grads):
        self.steps += 1
        for name, theta in self.params.items():
            v = self.v[name]
            v *= self.momentum
            v += grads[name]
            theta -= self.learning_rate * v

    def state(self):
        """What a checkpoint has to hold: numbers and arrays, by name."""
        numbers = {"steps": self.steps, "learning_rate": self.learning_rate}
        return numbers, {f"v.{name}": v for name, v in self.v.items()}

    def restore(self, numbers, arrays):
        """Continue from what `state` returned."""
        self.steps, self.learning_rate = numbers["steps"], numbers["learning_rate"]
        for name, v in self.v.items():
            v[...] = arrays[f"v.{name}"]


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
        self.m = {name: np.zeros_like(theta) for name, theta in params.items()}
        self.v = {name: np.zeros_like(theta) for name, theta in params.items()}

    def step(self, grads):
        self.steps += 1
        beta1, beta2 = self.betas
        bias1, bias2 = 1 - beta1**self.steps, 1 - beta2**self.steps
        for name, theta in self.params.items():
            arrays = (array.reshape(-1) for array in (theta, self.m[name], self.v[name], grads[name]))
            numbers = (self.learning_rate, beta1, beta2, bias1, bias2, self.eps, self.weight_decay)
            _adam_cpu(*arrays, *(theta.dtype.type(number) for number in numbers))

    def state(self):
        """What a checkpoint has to hold: numbers and arrays, by name."""
        numbers = {"steps": self.steps, "learning_rate": self.learning_rate}
        moments = {"m": self.m, "v": self.v}
        arrays = {f"{k}.{name}": a for k, moment in moments.items() for name, a in moment.items()}
        return numbers, arrays

    def restore(self, numbers, arrays):
        """Continue from what `state` returned."""
        self.steps, self.learning_rate = numbers["steps"], numbers["learning_rate"]
        for name in self.params:
            self.m[name][...] = arrays[f"m.{name}"]
            self.v[name][...] = arrays[f"v.{name}"]


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
        self.average = {name: theta.copy() for name, theta in params.items()} if decay else {}

    def update(self):
        """Take the parameters in, after a step."""
        self.updates += 1
        d = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, average in self.average.items():
            average += average.dtype.type(1 - d) * (self.params[name] - average)

    @contextlib.contextmanager
    def applied(self):
        """Meanwhile the parameters hold the average; afterwards, to the bit, what they held before."""
        before = {name: self.params[name].copy() for name in self.average}
        for name, average in self.average.items():
            self.params[name][...] = average
        try:
            yield
        finally:
            for name, theta in before.items():
                self.params[name][...] = theta

    def state(self):
        """What a checkpoint has to hold: a number and arrays, by name."""
        return self.updates, {f"average.{name}": array for name, array in self.average.items()}

    def restore(self, updates, arrays):
        """Continue from what `state` returned."""
        self.updates = updates
        for name, average in self.average.items():
            average[...] = arrays[f"average.{name}"]
