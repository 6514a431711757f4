"""How close an estimate is to its target: SI-SNR and SDR in dB, and measures of how it sounds to people.

SI-SNR and SDR are computed over the last axis, in float64. Leading axes may be any that broadcast: sources
(B, 2, samples) are compared with a mixture (B, 1, samples).
"""

import warnings

import numpy as np

from tasnet_np.errors import UserError
from tasnet_np.sound.resampling import resample

EPS = 1e-8  # keeps the SI-SNR within +-80 dB
PERCEPTUAL = ("stoi", "estoi", "pesq")  # from packages of the extra `metrics`
PESQ_MODES = {8000: "nb", 16000: "wb"}  # its two sample rates; others are resampled to the higher one


def si_snr(estimate, target):
    """Scale-invariant signal-to-noise ratio (Luo and Mesgarani 2019, Eq. 15).

    The means of both signals are removed. The part of the estimate along the target counts as signal,
    the rest as noise. With theta the angle between the two, the ratio is cos^2(theta) / sin^2(theta):
    neither level nor polarity matters.

    Parameters
    ----------
    estimate, target : ndarray, shape (..., samples)

    Returns
    -------
    ndarray, shape (...), float64, in dB
        80 for a perfect estimate, -80 for a silent or an orthogonal one, NaN where the target is
        silent. A constant signal counts as silent, too.

    Raises
    ------
    UserError
        If the two do not have the same number of samples, at least one.
    """
    estimate, target = _pair(estimate, target)
    estimate = _unit_norm(estimate)
    target = _unit_norm(target)
    cos = np.sum(estimate * target, axis=-1, keepdims=True)  # (..., 1)
    residual = estimate - cos * target  # (..., samples)
    cos2 = cos[..., 0] ** 2
    sin2 = np.sum(residual**2, axis=-1)  # 1 - cos2 would lose the digits of a good estimate
    sin2 = np.where(np.any(estimate, axis=-1), sin2, 1.0)
    ratio_db = 10 * np.log10((cos2 + EPS) / (sin2 + EPS))
    return np.where(np.any(target, axis=-1), ratio_db, np.nan)


def si_snr_improvement(estimate, target, mixture):
    """SI-SNR of the estimate less that of the unprocessed mixture (SI-SNRi), in dB. Shapes as for `si_snr`."""
    return si_snr(estimate, target) - si_snr(mixture, target)


def sdr(estimate, target):
    """Signal-to-distortion ratio in dB. Every difference counts as distortion, also one of level.

    Parameters
    ----------
    estimate, target : ndarray, shape (..., samples)

    Returns
    -------
    ndarray, shape (...), float64, in dB
        Infinite where the two are equal, NaN where the target is silent.

    Raises
    ------
    UserError
        If the two do not have the same number of samples, at least one.
    """
    estimate, target = _pair(estimate, target)
    signal = np.sum(target**2, axis=-1)
    distortion = np.sum((target - estimate) ** 2, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(signal > 0, 10 * np.log10(signal / distortion), np.nan)


def perceptual_measures():
    """The measures of the packages that are installed.

    STOI and ESTOI (Taal et al. 2011, Jensen and Taal 2016; package pystoi) lie between 0 and 1, PESQ (ITU-T P.862;
    package pesq; narrow-band at 8 kHz, wide-band at 16 kHz) between 1 and 4.6.

    Returns
    -------
    dict of functions
        By name. Each takes an estimate (n,), a target (n,) and a rate in Hz, and returns a float: NaN where the
        package finds too little speech to judge.
    """
    measures = {}
    try:
        from pystoi import stoi

        measures |= {"stoi": _stoi(stoi, False), "estoi": _stoi(stoi, True)}
    except ImportError:
        pass
    try:
        import pesq

        measures["pesq"] = _pesq(pesq)
    except ImportError:
        pass
    return measures


def _stoi(stoi, extended):
    """STOI, or ESTOI if `extended`, as a function of estimate, target and rate."""

    def measure(estimate, target, rate):
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # too few frames
            try:
                return float(stoi(target, estimate, rate, extended=extended))
            except RuntimeWarning:
                return np.nan

    return measure


def _pesq(package):
    """PESQ as a function of estimate, target and rate."""

    def measure(estimate, target, rate):
        mode_rate = rate if rate in PESQ_MODES else 16000
        estimate, target = (resample(np.asarray(x, np.float32), rate, mode_rate) for x in (estimate, target))
        try:
            return float(package.pesq(mode_rate, target, estimate, PESQ_MODES[mode_rate]))
        except (package.PesqError, ZeroDivisionError):
            return np.nan

    return measure


def without_mean(x):
    """Remove the mean of a signal.

    Parameters
    ----------
    x : ndarray, shape (..., samples)

    Returns
    -------
    ndarray, shape (..., samples), float64
        Zeros where nothing but the rounding of float32 would be left.
    """
    x = np.asarray(x, np.float64)
    centred = x - np.mean(x, axis=-1, keepdims=True)
    largest = np.max(np.abs(centred), axis=-1, keepdims=True)
    rounding = np.finfo(np.float32).eps * np.max(np.abs(x), axis=-1, keepdims=True)
    return np.where(largest <= rounding, 0.0, centred)


def _pair(estimate, target):
    """Both signals in float64. Refuses lengths that differ: a length of 1 would broadcast."""
    estimate = np.asarray(estimate, np.float64)
    target = np.asarray(target, np.float64)
    if estimate.shape[-1:] != target.shape[-1:] or estimate.shape[-1:] in [(), (0,)]:
        raise UserError(
            f"estimate of shape {estimate.shape} and target of shape {target.shape}: "
            "give both the same number of samples, at least one"
        )
    return estimate, target


def _unit_norm(x):
    """x without its mean, at norm 1, or zeros where it is silent."""
    x = without_mean(x)
    norm = np.sqrt(np.sum(x**2, axis=-1, keepdims=True))
    return x / np.where(norm == 0, 1.0, norm)
