"""Likeness of short spectra: a further loss, in dB, that hears what is quiet, and the level.

SI-SNR (`si_snr.py`) compares waveforms. The loud parts decide it, and it leaves the level open. An ear hears quiet
parts, too, and it hardly hears phases. So here both signals are cut into overlapping frames, and the magnitudes of
their spectra are compared. A power of c = 0.3 first brings quiet and loud magnitudes closer together. A short window
blurs the frequencies, and a long one blurs the time. So windows of several lengths are used (as in Yamamoto et al.,
arXiv 1910.11480).

Shapes:   x (B, S, n) estimates,  target (B, S, n)  ->  y (B, S) in dB

Forward, for windows of W samples, of which a new one begins every hop = W/4 samples:

    g       = 1 / sqrt(mean_i (sum_s target[s, i])^2)                 the sum of the targets gets the RMS 1
    f[t, m] = h[m] * g * x[t*hop + m - (W - hop)]                     frames t; x is 0 outside of 0 <= i < n
    X[t, k] = sum_m  f[t, m] * exp(-2 pi i k m / W)                   k = 0 ... W/2
    P       = |X|^2 + eps
    A       = P^(c/2)                                                 A' likewise from the target
    D       = mean over the windows of  mean over t, k of  (A - A')^2
    y       = -10 log10(D + floor)

h is a Hann window with sum_m h[m]^2 = 1. So |X|^2 is the power of a bin: in noise with an RMS of 1 it is 1 on average.
eps = 1e-6 (-60 dB) keeps the derivative of the power finite at X = 0. g belongs to the sum of the targets, not to each
of them, so a silent source has a target as well: silence. Unlike SI-SNR, y depends on the level of x.

floor = 0.01 is a soft ceiling of 20 dB. The logarithm is steepest near 0: without the floor, an estimate that is nearly
right would have the largest gradient. Squares are smooth, absolute values are not. With absolute values the gradient
would not shrink as A comes near A', and would disturb what is nearly right.

Backward: y depends on x through all windows. Each of them, with its F frames and K = W/2 + 1 bins, gives

    dD       = -(10 / ln 10) * dy / (D + floor)
    dA       = dD * 2 (A - A') / (number of windows * F * K)
    dP       = dA * c/2 * P^(c/2 - 1)
    dX       = 2 dP * X                                  its real part is dL/dRe X, its imaginary part dL/dIm X
    df[t, m] = Re sum_k  dX[t, k] * exp(+2 pi i k m / W)
    dx[i]   += g * h[m] * df[t, m]                       for every t, m with i = t*hop + m - (W - hop)

The line of df follows from Re X[k] = sum_m f[m] cos(2 pi k m / W) and Im X[k] = -sum_m f[m] sin(2 pi k m / W). The last
line is an overlap-add, as in `conv1d.py`.

Silence. Where the mean square of the sum of the targets is at most 1e-24, there is no level to compare with. Then y = 0
and dx = 0.

On a CPU nothing is faster for the spectra than a compiled FFT, which SciPy has. So there are no Numba kernels here: the
functions in their place call SciPy for one example. There are no kernels for a GPU.
"""

import math
from collections.abc import Sequence

import numpy as np

from tasnet_np.compute.arrays import empty, run, sizes
from tasnet_np.errors import UserError

WINDOWS = (256, 512, 1024)  # samples: 16, 32 and 64 ms at 16 kHz
OVERLAP = 4  # windows over each sample
POWER = 0.3  # c
EPS = 1e-6  # added to |X|^2: 60 dB below the mean power of the recording
FLOOR = 1e-2  # added to D
SILENCE = 1e-24  # mean square up to which a recording counts as silent
DB = 10 / math.log(10)  # a natural logarithm of a power ratio times this is in dB


def _hann(W, dtype):
    """h (W,)."""
    h = np.hanning(W + 1)[:-1]
    return (h / np.sqrt(np.sum(h * h))).astype(dtype)


def _sizes_of(n, W):
    """hop, the zeros before the first of n samples, the number of frames, and the samples that these cover."""
    hop = W // OVERLAP
    before = W - hop
    frames = (n - 1 + before) // hop + 1  # the last one begins within the signal
    return hop, before, frames, (frames - 1) * hop + W


def _places_ref(n, W):
    """Place of every sample of every frame in the padded signal, (F, W)."""
    hop, _, frames, _ = _sizes_of(n, W)
    return hop * np.arange(frames)[:, None] + np.arange(W)


def _fourier_ref(W):
    """exp(-2 pi i k m / W), (W, K)."""
    return np.exp(-2j * np.pi * np.outer(np.arange(W), np.arange(W // 2 + 1)) / W)


def _gain_ref(target):
    """g (B, 1, 1); 0 for a silent recording."""
    mean_square = np.mean(np.square(target.sum(axis=1, dtype=np.float64)), axis=-1)
    silent = mean_square <= SILENCE
    return np.where(silent, 0, 1 / np.sqrt(np.where(silent, 1, mean_square)))[:, None, None]


def _spectra_ref(signal, W):
    """X (B, S, F, K) of signals (B, S, n)."""
    n = signal.shape[-1]
    _, before, _, covered = _sizes_of(n, W)
    padded = np.pad(signal, [(0, 0), (0, 0), (before, covered - before - n)])
    return (_hann(W, np.float64) * padded[..., _places_ref(n, W)]) @ _fourier_ref(W)


def _distance_ref(x, target, windows, power, eps):
    """D (B, S), and for each window X, P and A - A'."""
    parts = []
    for W in windows:
        X, X_target = _spectra_ref(x, W), _spectra_ref(target, W)
        P, P_target = np.abs(X) ** 2 + eps, np.abs(X_target) ** 2 + eps
        parts.append((X, P, P ** (power / 2) - P_target ** (power / 2)))
    return np.mean([np.mean(difference**2, axis=(2, 3)) for _, _, difference in parts], axis=0), parts


def stft_magnitude_forward_ref(x, *, target, windows=WINDOWS, power=POWER, eps=EPS):
    g = _gain_ref(target)
    D, _ = _distance_ref(g * x, g * target, windows, power, eps)
    return np.where(g[:, 0] > 0, -DB * np.log(D + FLOOR), 0).astype(x.dtype)


def stft_magnitude_backward_ref(dy, x, *, target, windows=WINDOWS, power=POWER, eps=EPS):
    g = _gain_ref(target)
    D, parts = _distance_ref(g * x, g * target, windows, power, eps)
    dD = -DB * dy / (D + FLOOR)
    n, dx = x.shape[-1], np.zeros(x.shape)
    for W, (X, P, difference) in zip(windows, parts):
        F, K = difference.shape[2:]
        dA = dD[..., None, None] * 2 * difference / (len(windows) * F * K)
        dP = dA * power / 2 * P ** (power / 2 - 1)  # in the forward pass this was A = P^(c/2)
        dX = 2 * dP * X
        df = (dX @ _fourier_ref(W).conj().T).real  # (B, S, F, W)
        _, before, _, covered = _sizes_of(n, W)
        padded = np.zeros((*x.shape[:2], covered))
        np.add.at(padded, (..., _places_ref(n, W)), _hann(W, np.float64) * df)
        dx += padded[..., before : before + n]
    return ((g * dx).astype(x.dtype),)


def _fft():
    """SciPy's FFT, which also works in float32. It is imported by the first call that needs it."""
    from scipy import fft

    return fft


def _spectra(signal, W):
    """X (S, F, K) of signals (S, n)."""
    n = signal.shape[-1]
    hop, before, _, covered = _sizes_of(n, W)
    padded = np.zeros((len(signal), covered), signal.dtype)
    padded[:, before : before + n] = signal
    frames = np.lib.stride_tricks.sliding_window_view(padded, W, axis=1)[:, ::hop]
    return _fft().rfft(frames * _hann(W, signal.dtype))


def _power_of(X, eps):
    return X.real**2 + X.imag**2 + X.real.dtype.type(eps)


def _overlap_add(frames, hop):
    """The sum (S, (F - 1) hop + W) of frames (S, F, W) that begin `hop` samples after each other."""
    S, F, W = frames.shape
    total = np.zeros((S, (F - 1) * hop + W), frames.dtype)
    for start in range(0, W, hop):
        total[:, start : start + F * hop] += frames[:, :, start : start + hop].reshape(S, F * hop)
    return total


def _stft_magnitude_forward_cpu(y, x, target, kept, windows, power, eps):
    """For the backward, `kept` gets g, D (S,), and X, A, P and A - A' of each window. It stays empty for silence."""
    mean_square = np.mean(np.square(target.sum(axis=0, dtype=np.float64)))
    if mean_square <= SILENCE:
        y[:] = 0
        return
    g = x.dtype.type(1 / np.sqrt(mean_square))
    x, target, exponent = g * x, g * target, x.dtype.type(power / 2)
    D, parts = np.zeros(len(x)), []
    for W in windows:
        X = _spectra(x, W)
        P = _power_of(X, eps)
        A = P**exponent
        difference = A - _power_of(_spectra(target, W), eps) ** exponent  # (S, F, K)
        D += np.mean(np.square(difference), axis=(1, 2), dtype=np.float64) / len(windows)
        parts.append((X, A, P, difference))
    y[:] = -DB * np.log(D + FLOOR)
    kept.extend((g, D, parts))


def _stft_magnitude_backward_cpu(dx, dy, kept, windows, power):
    dx[:] = 0
    if not kept:
        return
    g, D, parts = kept
    n, dD = dx.shape[-1], -DB * dy / (D + FLOOR)  # (S,)
    for W, (X, A, P, difference) in zip(windows, parts):
        hop, before, _, _ = _sizes_of(n, W)
        scale = (dD * 2 * power / (len(windows) * difference[0].size)).astype(dx.dtype)
        dX = (
            scale[:, None, None] * difference * A / P
        ) * X  # in the forward pass A = P^(c/2), P = |X|^2 + eps
        dX[..., 1:-1] /= 2  # irfft counts every bin but the first and the last twice, and divides by W
        df = _fft().irfft(dX, W)
        dx += _overlap_add(df * (W * _hann(W, dx.dtype)), hop)[:, before : before + n]
    dx *= g


def refuse_gpu(*_):
    """In the place of the kernels for a GPU: raises UserError."""
    raise UserError("stft_magnitude runs on the CPU only: train with --device cpu, or with --stft-weight 0")


def stft_magnitude_forward(
    x: np.ndarray,
    *,
    target: np.ndarray,
    windows: Sequence[int] = WINDOWS,
    power: float = POWER,
    eps: float = EPS,
) -> tuple[np.ndarray, tuple]:
    """Likeness of the spectra of every estimate to those of its target.

    Parameters
    ----------
    x : ndarray, shape (B, S, n)
        Estimates.
    target : ndarray, shape (B, S, n)
        The true sources. They get no gradient.
    windows : sequence of int
        Lengths in samples, multiples of 4.
    power : float
        To which magnitudes are raised, above 0.
    eps : float
        Added to the power of a bin; 1 is the mean power of the recording.

    Returns
    -------
    y : ndarray, shape (B, S)
        In dB, at most 20. 0 for a recording whose targets are all silent.
    cache : tuple

    Raises
    ------
    ValueError, TypeError
        Shapes or dtypes that do not fit; no window, or one of another length.
    UserError
        Arrays on a GPU.
    """
    B, S = sizes("B S", x=(x, "B S n"), target=(target, "B S n"))
    if not windows or any(W < OVERLAP or W % OVERLAP for W in windows):
        raise ValueError(f"windows must be multiples of {OVERLAP}, not {windows}")
    y, kept = empty((B, S), like=x), [[] for _ in range(B)]
    run(_stft_magnitude_forward_cpu, refuse_gpu, (y,), (x, target, kept), (windows, power, eps))
    return y, (x, kept, windows, power)


def stft_magnitude_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, ...]:
    """Gradient of the likeness with respect to the estimates.

    Parameters
    ----------
    dy : ndarray, shape (B, S)
    cache : tuple
        From `stft_magnitude_forward`.

    Returns
    -------
    dx : ndarray, shape (B, S, n)
        0 for a recording whose targets are all silent.
    """
    x, kept, windows, power = cache
    dx = empty(x.shape, like=x)
    run(_stft_magnitude_backward_cpu, refuse_gpu, (dx,), (dy, kept), (windows, power))
    return (dx,)
