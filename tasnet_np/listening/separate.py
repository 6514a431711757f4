"""A whole recording in memory becomes speech and background: any rate, any channels, with its level."""

import numpy as np

from tasnet_np.errors import UserError
from tasnet_np.network.execution import in_dtype_of
from tasnet_np.sound.bad_samples import bad_samples, what_is_bad
from tasnet_np.sound.channels import check_channels_first
from tasnet_np.sound.level import LEVEL_DB, at_level, fit_level
from tasnet_np.sound.metrics import without_mean
from tasnet_np.sound.resampling import check_sound_rate, resample


def separate(model, samples, rate):
    """Split a recording into speech and background at the recording's own rate, length and level.

    Each channel is one example of the batch. It loses its mean, is resampled to the model's rate and
    brought to `LEVEL_DB`. The estimates are resampled back, and `fit_level` restores their level.

    Where the recording's rate is higher than the model's, what lies above half the model's rate is
    lost. The outputs have no mean (no direct current), whatever mean the recording has: a constant
    recording gives zeros, and so does one of a single sample.

    Parameters
    ----------
    model
        Has `config.sample_rate`, and `forward(mixture, keep=False)` from (B, n) to (B, 2, n).
    samples : ndarray, shape (channels, n), floats
    rate : int
        Hz.

    Returns
    -------
    sources : ndarray, shape (2, channels, n), float32
        Speech, background.

    Raises
    ------
    UserError
        The samples have another shape or kind, more channels than samples, or some of them are bad (`bad_samples`),
        no sound has such a rate, or the model answers with NaN or infinity.
    """
    samples = np.asarray(samples)
    if samples.ndim != 2 or samples.size == 0 or samples.dtype.kind != "f":
        found = f"shape {samples.shape} and type {samples.dtype}"
        raise UserError(f"samples have {found}; give floats of shape (channels, n), none of them 0")
    if np.any(bad := bad_samples(samples)):
        raise UserError(f"samples have {what_is_bad(samples[bad])} values; remake the recording")
    check_channels_first("samples", samples)
    check_sound_rate("samples", rate)
    model_rate = model.config.sample_rate
    mixture = without_mean(samples).astype(np.float32)
    heard = resample(mixture, rate, model_rate)  # (channels, m)
    heard = np.stack([at_level(channel, LEVEL_DB) for channel in heard])
    estimates = model.forward(in_dtype_of(model, heard), keep=False)  # (channels, 2, m)
    check_answer(estimates)
    # Both resamplings round the length up, so that nothing is missing at the end.
    estimates = resample(estimates, model_rate, rate)[..., : samples.shape[-1]]  # (channels, 2, n)
    restored = [_at_own_level(*channel) for channel in zip(mixture, estimates)]
    return np.stack(restored, axis=1).astype(np.float32)


def _at_own_level(mixture, sources):
    """One channel's estimates (2, n) without mean, at their level in the mixture (n,)."""
    return fit_level(mixture, sources)[:, None] * without_mean(sources)


def check_answer(sources):
    """Refuse sources of a model that are NaN or infinite."""
    if not np.all(np.isfinite(sources)):
        raise UserError("the model answers with NaN or infinite values; use an earlier checkpoint")
