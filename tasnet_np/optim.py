"""Optimisers: what to do with a gradient once it is there.

All of them change arrays in place: `params` and `grads` are dicts with the same keys, as a model gives.
Letters are those of the papers: theta for the parameters, g for the gradient, t for the step.
"""

import contextlib
import math

import numpy as np

from tasnet_np.device import (
    THREADS, block_sum, cpu_kernel, cuda, cuda_kernel, empty, move, on_gpu, runs, tiles, zeros_for_each,
)  # fmt: skip

BLOCKS = 64  # at most, for a sum over one array on a GPU


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


# On a GPU. Parameters follow each other in memory, and so do most gradients (see device.runs), so that a launch takes
# many of them. What changes from step to step is in arrays: a recorded step runs with the same arguments every time.


@cuda_kernel
def _sum_of_squares_cuda(parts, g, first):
    """Each block's part, in parts[first], parts[first + 1], ..."""
    scratch = cuda.shared.array(THREADS, np.float64)
    total = 0.0
    for i in range(cuda.grid(1), g.size, cuda.gridsize(1)):
        total += np.float64(g[i]) * np.float64(g[i])
    total = block_sum(total, scratch)
    if cuda.threadIdx.x == 0:
        parts[first + cuda.blockIdx.x] = total


@cuda_kernel
def _norm_cuda(norm, parts):
    scratch = cuda.shared.array(THREADS, np.float64)
    total = 0.0
    for i in range(cuda.threadIdx.x, parts.size, THREADS):
        total += parts[i]
    total = block_sum(total, scratch)
    if cuda.threadIdx.x == 0:
        norm[0] = math.sqrt(total)


@cuda_kernel
def _clip_cuda(g, norm, max_norm):
    i = cuda.grid(1)
    if i < g.size and norm[0] > max_norm:
        g[i] *= g.dtype.type(max_norm / norm[0])


@cuda_kernel
def _sgd_cuda(theta, v, g, numbers, norm):
    i, dtype = cuda.grid(1), theta.dtype
    if i < theta.size and math.isfinite(norm[0]):
        v[i] = dtype.type(numbers[1]) * v[i] + g[i]
        theta[i] -= dtype.type(numbers[0]) * v[i]


@cuda_kernel
def _adam_cuda(theta, m, v, g, numbers, norm):
    """numbers: rate, beta1, beta2, 1 - beta1, 1 - beta2, bias1, bias2, eps, weight_decay, in the dtype of theta."""
    i = cuda.grid(1)
    if i < theta.size and math.isfinite(norm[0]):
        gradient = g[i] + numbers[8] * theta[i]
        m[i] = numbers[1] * m[i] + numbers[3] * gradient
        v[i] = numbers[2] * v[i] + numbers[4] * gradient * gradient
        theta[i] -= numbers[0] * (m[i] / numbers[5]) / (math.sqrt(v[i] / numbers[6]) + numbers[7])


@cuda_kernel
def _average_cuda(average, theta, numbers):
    i = cuda.grid(1)
    if i < theta.size:
        average[i] += numbers[0] * (theta[i] - average[i])


def _clip_gradients_cuda(grads, max_norm):
    arrays = [g for (g,) in runs(list(grads.values()))]
    blocks = [min(BLOCKS, tiles(g.size)) for g in arrays]
    parts, norm = (empty((n,), like=arrays[0], dtype=np.float64) for n in (sum(blocks), 1))
    for i, g in enumerate(arrays):
        _sum_of_squares_cuda[blocks[i], THREADS](parts, g, sum(blocks[:i]))
    _norm_cuda[1, THREADS](norm, parts)
    for g in arrays:
        _clip_cuda[tiles(g.size), THREADS](g, norm, float(max_norm))
    return norm


def _place(params):
    """An array from where the parameters are."""
    return next(iter(params.values()), None)


def clip_gradients(grads, max_norm):
    """Scale all gradients so that their common norm is at most `max_norm`; return the norm before.

    g <- g * min(1, max_norm / |g|),   |g| over all arrays together (Pascanu et al. 2013)

    On a GPU the norm stays there, an array (1,): `float(norm)` waits for it.
    """
    if on_gpu(_place(grads)):
        return _clip_gradients_cuda(grads, max_norm)
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
        self.numbers = None  # on a GPU
        self.steps = 0
        self.v = zeros_for_each(params)

    def step(self, grads):
        self.steps += 1
        if on_gpu(_place(self.params)):
            self.count_on_gpu()
            self.update_on_gpu(grads)
            return
        for name, theta in self.params.items():
            v = self.v[name]
            v *= self.momentum
            v += grads[name]
            theta -= self.learning_rate * v

    def count_on_gpu(self):
        """Send this step's numbers to the GPU."""
        self.numbers = _sent(self.numbers, [self.learning_rate, self.momentum], np.float64)

    def update_on_gpu(self, grads, norm=None):
        """Change the parameters, unless `norm`, the clipped gradient's (1,), is not finite."""
        norm = self.numbers if norm is None else norm  # the numbers are finite
        for theta, v, g in runs(*_columns(self.params, self.v, grads)):
            _sgd_cuda[tiles(theta.size), THREADS](theta, v, g, self.numbers, norm)

    def state(self):
        """What a checkpoint has to hold: numbers and arrays, by name."""
        numbers = {"steps": self.steps, "learning_rate": self.learning_rate}
        return numbers, {f"v.{name}": move(v, "cpu") for name, v in self.v.items()}

    def restore(self, numbers, arrays):
        """Continue from what `state` returned."""
        self.steps, self.learning_rate = numbers["steps"], numbers["learning_rate"]
        _write(self.v, {name: arrays[f"v.{name}"] for name in self.v})


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
        self.numbers = None  # on a GPU

    def step(self, grads):
        self.steps += 1
        if on_gpu(_place(self.params)):
            self.count_on_gpu()
            self.update_on_gpu(grads)
            return
        beta1, beta2 = self.betas
        bias1, bias2 = 1 - beta1**self.steps, 1 - beta2**self.steps
        for name, theta in self.params.items():
            arrays = (array.reshape(-1) for array in (theta, self.m[name], self.v[name], grads[name]))
            numbers = (self.learning_rate, beta1, beta2, bias1, bias2, self.eps, self.weight_decay)
            _adam_cpu(*arrays, *(theta.dtype.type(number) for number in numbers))

    def count_on_gpu(self):
        """Send this step's numbers to the GPU."""
        dtype = _place(self.params).dtype
        bias1, bias2 = (1 - beta**self.steps for beta in self.betas)
        beta1, beta2 = map(dtype.type, self.betas)  # rounded before 1 - beta, as in the loop above
        numbers = [self.learning_rate, beta1, beta2, 1 - beta1, 1 - beta2, bias1, bias2, self.eps, self.weight_decay]
        self.numbers = _sent(self.numbers, numbers, dtype)

    def update_on_gpu(self, grads, norm=None):
        """Change the parameters, unless `norm`, the clipped gradient's (1,), is not finite."""
        norm = self.numbers if norm is None else norm  # the numbers are finite
        for theta, m, v, g in runs(*_columns(self.params, self.m, self.v, grads)):
            _adam_cuda[tiles(theta.size), THREADS](theta, m, v, g, self.numbers, norm)

    def state(self):
        """What a checkpoint has to hold: numbers and arrays, by name."""
        numbers = {"steps": self.steps, "learning_rate": self.learning_rate}
        moments = {"m": self.m, "v": self.v}
        arrays = {f"{k}.{name}": move(a, "cpu") for k, moment in moments.items() for name, a in moment.items()}
        return numbers, arrays

    def restore(self, numbers, arrays):
        """Continue from what `state` returned."""
        self.steps, self.learning_rate = numbers["steps"], numbers["learning_rate"]
        for k, moment in (("m", self.m), ("v", self.v)):
            _write(moment, {name: arrays[f"{k}.{name}"] for name in self.params})


def _sent(array, numbers, dtype):
    """Numbers on the GPU, in the array that already holds the last ones if there is one."""
    numbers = np.array(numbers, dtype)
    if array is None:
        return move(numbers, "cuda")
    array.copy_from(numbers)
    return array


def _columns(params, *others):
    """Lists of the arrays of several dicts, in the order of the parameters."""
    return [[arrays[name] for name in params] for arrays in (params, *others)]


def _write(arrays, stored):
    """Overwrite each array with the stored one of its name."""
    for name, array in arrays.items():
        if array.shape != stored[name].shape:
            raise ValueError(f"{name} is {array.shape}, stored is {stored[name].shape}")
        if on_gpu(array):
            array.copy_from(stored[name].astype(array.dtype))
        else:
            array[...] = stored[name]


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
        self.numbers = None  # on a GPU
        _write(self.average, {name: move(params[name], "cpu") for name in self.average})

    def update(self):
        """Take the parameters in, after a step."""
        self.updates += 1
        d = min(self.decay, (1 + self.updates) / (10 + self.updates))
        if self.average and on_gpu(_place(self.params)):
            self.numbers = _sent(self.numbers, [1 - d], _place(self.params).dtype)
            for average, theta in runs(*_columns(self.average, self.params)):
                _average_cuda[tiles(theta.size), THREADS](average, theta, self.numbers)
            return
        for name, average in self.average.items():
            average += average.dtype.type(1 - d) * (self.params[name] - average)

    @contextlib.contextmanager
    def applied(self):
        """Meanwhile the parameters hold the average; afterwards, to the bit, what they held before."""
        averaged = {name: self.params[name] for name in self.average}
        before = {name: np.array(move(theta, "cpu")) for name, theta in averaged.items()}
        _write(averaged, {name: move(average, "cpu") for name, average in self.average.items()})
        try:
            yield
        finally:
            _write(averaged, before)

    def state(self):
        """What a checkpoint has to hold: a number and arrays, by name."""
        return self.updates, {f"average.{name}": move(array, "cpu") for name, array in self.average.items()}

    def restore(self, updates, arrays):
        """Continue from what `state` returned."""
        self.updates = updates
        _write(self.average, {name: arrays[f"average.{name}"] for name in self.average})
