"""Two classical denoisers to hold a trained one against: a Wiener filter and spectral gating.

    python tests/benchmarks/baselines.py RUN

scores them on the mixtures of that run's report and writes RUN/baselines.json, which `tasnet-np report RUN` shows.
Spectral gating is the package noisereduce (extra `peers`).
"""

import argparse
import json
from pathlib import Path

import numpy as np
from scipy.special import exp1

from tasnet_np.sound.metrics import si_snr

WINDOW_SECONDS = 0.032
SMOOTHING = 0.98  # of the decision-directed estimate
FLOOR = 10 ** (-25 / 20)  # smallest gain
SMALLEST_PRIOR = 10 ** (-25 / 10)
PRIOR_SNR = 10 ** (15 / 10)  # of speech where it is present, for the tracking of the noise


def stft(signal, window, hop):
    """Frames of the short-time Fourier transform, (T, F)."""
    padded = np.pad(np.asarray(signal, np.float64), window)
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    return np.fft.rfft(frames * np.sqrt(np.hanning(window + 1)[:-1]))


def istft(frames, length, window, hop):
    """Overlap-add, the inverse of `stft`."""
    pieces = np.fft.irfft(frames, window) * np.sqrt(np.hanning(window + 1)[:-1])
    out = np.zeros(len(pieces) * hop + window)
    for t, piece in enumerate(pieces):
        out[t * hop : t * hop + window] += piece
    return out[window : window + length] * hop / (window / 2)  # the Hann windows add up to window / (2 hop)


def track_noise(powers):
    """Noise power in every frame, (T, F), by the probability that speech is present.

    Gerkmann and Hendriks (2012), "Unbiased MMSE-based noise power estimation with low complexity and low tracking
    delay", Eqs. 18, 22 and 23. The first frames are taken to be noise as far as they are quiet.
    """
    noise = np.quantile(powers, 0.1, axis=0) + 1e-12
    presence = np.zeros(powers.shape[1])
    tracked = np.empty_like(powers)
    for t, power in enumerate(powers):
        exponent = np.minimum(power / noise * PRIOR_SNR / (1 + PRIOR_SNR), 200)
        speech = 1 / (1 + (1 + PRIOR_SNR) * np.exp(-exponent))
        presence = 0.9 * presence + 0.1 * speech
        speech = np.where(presence > 0.99, np.minimum(speech, 0.99), speech)
        noise = 0.8 * noise + 0.2 * (speech * noise + (1 - speech) * power)
        tracked[t] = noise
    return tracked


def suppress(mixture, rate, gain):
    """A gain for every bin of every frame, from its SNR before (prior) and after (posterior) it was heard. Shape (n,).

    The prior SNR is the decision-directed one (Ephraim and Malah 1984, Eq. 51).
    """
    window = 2 * round(WINDOW_SECONDS * rate / 2)
    hop = window // 4
    frames = stft(mixture, window, hop)
    powers = np.abs(frames) ** 2
    noise = track_noise(powers)
    before, out = np.zeros(powers.shape[1]), np.empty_like(frames)
    for t, frame in enumerate(frames):
        posterior = powers[t] / noise[t]
        prior = SMOOTHING * before / noise[t] + (1 - SMOOTHING) * np.maximum(posterior - 1, 0)
        out[t] = np.maximum(gain(prior, posterior), FLOOR) * frame
        before = np.abs(out[t]) ** 2
    return istft(out, len(mixture), window, hop)


def wiener(mixture, rate):
    """Wiener filter. Shape (n,)."""
    return suppress(mixture, rate, lambda prior, _: prior / (1 + prior))


def log_spectral(mixture, rate):
    """The gain of the least error of log-spectral amplitudes (Ephraim and Malah 1985, Eq. 20). Shape (n,)."""

    def gain(prior, posterior):
        prior = np.maximum(prior, SMALLEST_PRIOR)
        v = prior / (1 + prior) * np.clip(posterior, 1e-3, 1e3)
        return np.minimum(prior / (1 + prior) * np.exp(0.5 * exp1(v)), 1)

    return suppress(mixture, rate, gain)


def spectral_gating(mixture, rate):
    """noisereduce, stationary, taking away 80 %: the best of its settings that were tried. Shape (n,)."""
    import noisereduce

    how = {"stationary": True, "prop_decrease": 0.8, "use_tqdm": False}
    return noisereduce.reduce_noise(y=np.asarray(mixture, np.float64), sr=rate, **how)


METHODS = {
    "Wiener filter": wiener,
    "log-spectral amplitude": log_spectral,
    "spectral gating": spectral_gating,
}


def improvements(batches, rate, methods=METHODS):
    """SI-SNRi of the speech in dB, {method: (mixtures,)}; that of the unprocessed mixture is 0."""
    mixtures = np.concatenate([batch.mixture for batch in batches])
    clean = np.concatenate([batch.sources[:, 0] for batch in batches])
    before = si_snr(mixtures, clean)
    return {
        name: si_snr(np.stack([method(mixture, rate) for mixture in mixtures]), clean) - before
        for name, method in methods.items()
    }


def main():
    from tasnet_np.reports.report import PER_SNR, SECONDS, held_out_mixtures
    from tasnet_np.training.run_folder import RunFolder

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--mixtures", type=int, default=PER_SNR, help="for each SNR, as for the report")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    options = parser.parse_args()
    batches = held_out_mixtures(options.run, per_snr=options.mixtures, seconds=options.seconds)
    scores = improvements(batches, RunFolder(options.run).read().config.sample_rate)
    for name, values in scores.items():
        print(f"{name:<24}{values.mean():+6.2f} dB")
    path = options.run / "baselines.json"
    path.write_text(json.dumps({name: values.tolist() for name, values in scores.items()}))
    print(path)


if __name__ == "__main__":
    main()
