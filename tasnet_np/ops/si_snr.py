"""Scale-invariant signal-to-noise ratio: what Conv-TasNet is trained to raise (Eq. 15 of the paper).

It compares two parts of the estimate: the part that points along the target, and the rest. The mean is removed from
both signals first. Let p be the projection of the estimate e on the target s:

    SI-SNR = 10 log10( |p|^2 / |e - p|^2 ),        p = (<e, s> / <s, s>) s

The levels of e and s do not matter. Only the angle between them does. Dividing both energies by |e|^2 shows that:
with rho the cosine of the angle, |p|^2 = rho^2 |e|^2, and

    y = 10 log10( (rho^2 + eps) / (1 - rho^2 + eps) )

eps = 1e-8 bounds y to +-80 dB at any level. (An eps that is added to the energies themselves would not be
scale-invariant: a quiet recording would then score worse than the same recording amplified.) A larger eps is a soft
ceiling: with 1e-3, y stays below 30.01 dB, and the gradient shrinks as an estimate comes near that.

Shapes:   x (B, S, n) estimates,  target (B, S, n)  ->  y (B, S) in dB

Backward: let u = s / |s|, a = <e, u>, E = |e|^2, R = |e - a u|^2 = E - a^2, so that
y = (10 / ln 10) * (ln(a^2 + eps E) - ln(R + eps E)), with da = u, dE = 2 e and dR = 2 (e - a u):

    de = dy * (10 / ln 10) * ( (2 a u + 2 eps e) / (a^2 + eps E)  -  (2 (e - a u) + 2 eps e) / (R + eps E) )

e and u have no mean, so the mean of de is zero, too. So dx = de: the removal of the mean of x needs no other term.

Silence. A signal whose mean square after removing the mean is at most 1e-24 (-240 dB below full scale)
counts as silent. A silent target has no direction to compare with. Then y = 0 and dx = 0, and the model learns
nothing from it. A silent estimate of a target that is not silent scores the worst value,
10 log10(eps / (1 + eps)), which is -80 dB with eps = 1e-8, also with dx = 0.
"""

import math

import numpy as np

from tasnet_np.compute.arrays import by_place, empty, run, sizes
from tasnet_np.compute.cpu import cpu_kernel
from tasnet_np.compute.gpu import THREADS, block_sum, cuda, cuda_kernel, tiles

EPS = 1e-8
SILENCE = 1e-24  # mean square up to which a signal counts as silent
DB = 10 / math.log(10)  # a natural logarithm of a power ratio times this is in dB


def _parts_ref(x, target):
    """Zero-mean estimate e, unit target u, projection a, energies E and R, and which signals are silent."""
    n = x.shape[-1]
    e = x - x.mean(axis=-1, keepdims=True, dtype=np.float64)
    s = target - target.mean(axis=-1, keepdims=True, dtype=np.float64)
    norm = np.sqrt((s * s).sum(axis=-1, keepdims=True))
    silent_target = norm**2 <= SILENCE * n
    u = s / np.where(silent_target, 1, norm)
    a = (e * u).sum(axis=-1, keepdims=True)
    E = (e * e).sum(axis=-1, keepdims=True)
    R = ((e - a * u) ** 2).sum(axis=-1, keepdims=True)
    silent_estimate = E <= SILENCE * n
    return e, u, a, E, R, silent_target, silent_estimate


def si_snr_forward_ref(x, *, target, eps=EPS):
    _, _, a, E, R, silent_target, silent_estimate = _parts_ref(x, target)
    E, R = np.where(silent_estimate, 1, E), np.where(silent_estimate, 1, R)
    a = np.where(silent_estimate, 0, a)
    y = DB * (np.log(a * a + eps * E) - np.log(R + eps * E))
    return np.where(silent_target, 0, y)[..., 0].astype(x.dtype)


def si_snr_backward_ref(dy, x, *, target, eps=EPS):
    e, u, a, E, R, silent_target, silent_estimate = _parts_ref(x, target)
    silent = silent_target | silent_estimate
    along, across = np.where(silent, 1, a * a + eps * E), np.where(silent, 1, R + eps * E)
    de = DB * ((2 * a * u + 2 * eps * e) / along - (2 * (e - a * u) + 2 * eps * e) / across)
    dx = np.where(silent, 0, dy[..., None] * de)
    return (dx.astype(x.dtype),)


@cpu_kernel
def _si_snr_forward_cpu(y, statistics, x, target, eps, silence):
    """For each source, `statistics` keeps six numbers for the backward: mean of x, mean of target, |s|, a, E, R."""
    S, n = x.shape
    for s in range(S):
        mean_x = 0.0
        mean_s = 0.0
        for i in range(n):
            mean_x += np.float64(x[s, i])
            mean_s += np.float64(target[s, i])
        mean_x /= n
        mean_s /= n
        dot = 0.0
        energy = 0.0
        E = 0.0
        for i in range(n):
            e = x[s, i] - mean_x
            t = target[s, i] - mean_s
            dot += e * t
            energy += t * t
            E += e * e
        norm = math.sqrt(energy)
        silent_target = energy <= silence * n
        silent_estimate = E <= silence * n
        a = 0.0 if silent_target else dot / norm
        R = 0.0
        if not silent_target:
            for i in range(n):
                across = x[s, i] - mean_x - a * (target[s, i] - mean_s) / norm
                R += across * across
        statistics[s, 0] = mean_x
        statistics[s, 1] = mean_s
        statistics[s, 2] = norm
        statistics[s, 3] = a
        statistics[s, 4] = 0.0 if silent_target or silent_estimate else E  # 0: no gradient
        statistics[s, 5] = R
        if silent_target:
            y[s] = 0
        elif silent_estimate:
            y[s] = DB * (math.log(eps) - math.log(1 + eps))
        else:
            y[s] = DB * (math.log(a * a + eps * E) - math.log(R + eps * E))


@cpu_kernel
def _si_snr_backward_cpu(dx, dy, x, target, statistics, eps):
    S, n = x.shape
    for s in range(S):
        mean_x, mean_s, norm, a, E, R = statistics[s]
        if E == 0:
            dx[s] = 0
            continue
        along = 2 * DB * dy[s] / (a * a + eps * E)
        across = 2 * DB * dy[s] / (R + eps * E)
        for i in range(n):  # in the forward pass this was y = DB * (log(a^2 + eps E) - log(R + eps E))
            e = x[s, i] - mean_x
            p = a * (target[s, i] - mean_s) / norm
            dx[s, i] = along * (p + eps * e) - across * (e - p + eps * e)


@cuda_kernel
def _si_snr_forward_blocks_cuda(y, statistics, x, target, eps, silence):
    """A block of threads for each source of each example. `statistics` is as on the CPU."""
    scratch = cuda.shared.array(THREADS, np.float64)
    thread, s, b = cuda.threadIdx.x, cuda.blockIdx.x, cuda.blockIdx.y
    n = x.shape[2]
    total_x, total_s = 0.0, 0.0
    for i in range(thread, n, THREADS):
        total_x += np.float64(x[b, s, i])
        total_s += np.float64(target[b, s, i])
    mean_x = block_sum(total_x, scratch) / n
    mean_s = block_sum(total_s, scratch) / n
    dot, energy, E = 0.0, 0.0, 0.0
    for i in range(thread, n, THREADS):
        e = x[b, s, i] - mean_x
        t = target[b, s, i] - mean_s
        dot += e * t
        energy += t * t
        E += e * e
    dot = block_sum(dot, scratch)
    energy = block_sum(energy, scratch)
    E = block_sum(E, scratch)
    norm = math.sqrt(energy)
    silent_target = energy <= silence * n
    silent_estimate = E <= silence * n
    a = 0.0
    if not silent_target:
        a = dot / norm
    R = 0.0
    if not silent_target:
        for i in range(thread, n, THREADS):
            across = x[b, s, i] - mean_x - a * (target[b, s, i] - mean_s) / norm
            R += across * across
    R = block_sum(R, scratch)
    if thread == 0:
        statistics[b, s, 0] = mean_x
        statistics[b, s, 1] = mean_s
        statistics[b, s, 2] = norm
        statistics[b, s, 3] = a
        statistics[b, s, 4] = E
        statistics[b, s, 5] = R
        if silent_target:
            y[b, s] = 0
        elif silent_estimate:
            y[b, s] = DB * (math.log(eps) - math.log(1 + eps))
        else:
            y[b, s] = DB * (math.log(a * a + eps * E) - math.log(R + eps * E))
        if silent_target or silent_estimate:
            statistics[b, s, 4] = 0  # no gradient


@cuda_kernel
def _si_snr_backward_samples_cuda(dx, dy, x, target, statistics, eps):
    i, s, b = cuda.grid(1), cuda.blockIdx.y, cuda.blockIdx.z
    if i < x.shape[2]:
        mean_x, mean_s, norm = statistics[b, s, 0], statistics[b, s, 1], statistics[b, s, 2]
        a, E, R = statistics[b, s, 3], statistics[b, s, 4], statistics[b, s, 5]
        dx[b, s, i] = 0
        if E > 0:  # in the forward pass this was y = DB * (log(a^2 + eps E) - log(R + eps E))
            along = 2 * DB * dy[b, s] / (a * a + eps * E)
            across = 2 * DB * dy[b, s] / (R + eps * E)
            e = x[b, s, i] - mean_x
            p = a * (target[b, s, i] - mean_s) / norm
            dx[b, s, i] = along * (p + eps * e) - across * (e - p + eps * e)


@cuda_kernel
def _negative_mean_block_cuda(loss, dvalues, values, weights):
    """The loss and its gradient dvalues, as in `negative_mean`, by a single block of threads."""
    scratch = cuda.shared.array(THREADS, np.float64)
    B, S = values.shape
    total = 0.0
    for b in range(cuda.threadIdx.x, B, THREADS):
        for s in range(S):
            total += weights[s] * values[b, s]
            dvalues[b, s] = -weights[s] / B
    total = block_sum(total, scratch)
    if cuda.threadIdx.x == 0:
        loss[0] = -total / B


def _si_snr_forward_cuda(y, statistics, x, target, eps, silence):
    B, S = y.shape
    _si_snr_forward_blocks_cuda[(S, B), THREADS](y, statistics, x, target, eps, silence)


def _si_snr_backward_cuda(dx, dy, x, target, statistics, eps):
    B, S, n = x.shape
    _si_snr_backward_samples_cuda[(tiles(n), S, B), THREADS](dx, dy, x, target, statistics, eps)


def _negative_mean_cpu(values, weights):
    dvalues = np.tile(-weights / len(values), (len(values), 1)).astype(values.dtype)
    return float(-(values @ weights).mean()), dvalues


def _negative_mean_cuda(values, weights):
    loss, dvalues = empty((1,), like=values, dtype=np.float64), empty(values.shape, like=values)
    _negative_mean_block_cuda[1, THREADS](loss, dvalues, values, weights)
    return loss, dvalues


def negative_mean(values, weights):
    """The loss from the SI-SNR of every source, and its gradient.

    loss = - 1/B sum_b sum_s  weights[s] * values[b, s]

    Parameters
    ----------
    values : ndarray, shape (B, S)
        In dB.
    weights : ndarray, shape (S,), float64
        In the same place as the values.

    Returns
    -------
    loss : float
        In dB. On a GPU an array (1,) that stays there.
    dvalues : ndarray, shape (B, S)
        Gradient of the loss.
    """
    return by_place(values, _negative_mean_cpu, _negative_mean_cuda)(values, weights)


def si_snr_forward(x: np.ndarray, *, target: np.ndarray, eps: float = EPS) -> tuple[np.ndarray, tuple]:
    """SI-SNR of every estimate against its target (Eq. 15 of arXiv 1809.07454).

    Parameters
    ----------
    x : ndarray, shape (B, S, n)
        Estimates.
    target : ndarray, shape (B, S, n)
        The true sources. They get no gradient.
    eps : float
        Above 0. It bounds y to +-10 log10((1 + eps) / eps) dB.

    Returns
    -------
    y : ndarray, shape (B, S)
        In dB, by default from -80 to 80. 0 for a silent target.
    cache : tuple

    Raises
    ------
    ValueError, TypeError
        Shapes or dtypes that do not fit.
    """
    B, S = sizes("B S", x=(x, "B S n"), target=(target, "B S n"))
    y, statistics = empty((B, S), like=x), empty((B, S, 6), like=x, dtype=np.float64)
    run(_si_snr_forward_cpu, _si_snr_forward_cuda, (y, statistics), (x, target), (eps, SILENCE))
    return y, (x, target, statistics, eps)


def si_snr_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, ...]:
    """Gradient of the SI-SNR with respect to the estimates.

    Parameters
    ----------
    dy : ndarray, shape (B, S)
    cache : tuple
        From `si_snr_forward`.

    Returns
    -------
    dx : ndarray, shape (B, S, n)
        0 where the target or the estimate is silent.
    """
    x, target, statistics, eps = cache
    dx = empty(x.shape, like=x)
    run(_si_snr_backward_cpu, _si_snr_backward_cuda, (dx,), (dy, x, target, statistics), (eps,))
    return (dx,)
