"""How much a model gains on mixtures whose sources are known, by input SNR."""

import numpy as np

from tasnet_np.audio import read, rms_db
from tasnet_np.files import UserError
from tasnet_np.metrics import si_snr

SOURCES = ("speech", "noise")


def evaluate(model, batches):
    """Mean SI-SNR of both sources, before and after the model, for each input SNR and for all.

    Parameters
    ----------
    model
        Has ``forward(mixture, keep=False)`` from (B, n) to (B, 2, n).
    batches : list of Batch
        As from `tasnet_np.data.fixed_batches`.

    Returns
    -------
    list of dict
        A row for each input SNR, from low to high, and a last one for all mixtures:
        ``snr_db`` (the input SNR, "all" in the last row), ``mixtures`` (how many), and for each
        source, in dB, ``speech_unprocessed_db`` (SI-SNR of the mixture), ``speech_si_snr_db`` (of
        the model's estimate), ``speech_si_snri_db`` (the improvement); ``noise_...`` likewise.
        A source that is silent in a mixture does not count there; a mean over nothing is NaN.

    Raises
    ------
    UserError
        There is no batch.
    """
    if not batches:
        raise UserError("batches: none given; at least one is needed")
    before, after, snrs_db = [], [], []
    for batch in batches:
        estimates = model.forward(batch.mixture, keep=False)  # (B, 2, n)
        before.append(si_snr(batch.mixture[:, None], batch.sources))  # (B, 2)
        after.append(si_snr(estimates, batch.sources))  # (B, 2)
        snrs_db.append(batch.snr_db)  # (B,)
    before, after, snrs_db = map(np.concatenate, (before, after, snrs_db))
    rows = [_row(float(snr), before, after, snrs_db == snr) for snr in np.unique(snrs_db)]
    return [*rows, _row("all", before, after, np.ones(len(snrs_db), bool))]


def _row(snr_db, before, after, chosen):
    """Means over the chosen mixtures; before and after are (mixtures, 2)."""
    row = {"snr_db": snr_db, "mixtures": int(chosen.sum())}
    measures = {"unprocessed_db": before, "si_snr_db": after, "si_snri_db": after - before}
    for i, source in enumerate(SOURCES):
        counted = chosen & ~np.isnan(before[:, i])  # not by `after`: a NaN of the model must show
        for name, values in measures.items():
            mean = values[counted, i].mean() if counted.any() else np.nan
            row[f"{source}_{name}"] = float(mean)
    return row


def table(rows):
    """The rows of `evaluate` as aligned text; NaN is shown as "-"."""
    lines = [
        " " * 20 + "".join(f"{source + ' SI-SNR (dB)':>30}" for source in SOURCES),
        f"{'SNR (dB)':>10}{'mixtures':>10}" + f"{'before':>10}{'after':>10}{'SI-SNRi':>10}" * 2,
    ]
    for row in rows:
        snr_db, mixtures, *values = row.values()
        snr = snr_db if snr_db == "all" else f"{snr_db:.1f}"
        cells = ["-" if np.isnan(value) else f"{value:.2f}" for value in values]
        lines.append("".join(f"{cell:>10}" for cell in [snr, mixtures, *cells]))
    return "\n".join(lines)


def compare(clean, files):
    """Hold recordings against the clean speech that is in them.

    Parameters
    ----------
    clean : str or Path
        Audio file with the speech alone.
    files : list of str or Path
        Recordings of the same rate, length and channels, such as the noisy and the denoised one.

    Returns
    -------
    list of dict
        For each file ``file``, ``seconds``, ``level_db`` (dBFS), ``si_snr_db`` (mean over channels)
        and ``si_snri_db`` (what it gains on the first file). NaN where the clean speech is silent.
    recordings : list of Recording
        The clean one, then the files.

    Raises
    ------
    UserError
        A file that cannot be read, or that does not match the clean one.
    """
    recordings = [read(path) for path in (clean, *files)]
    reference = recordings[0]
    for recording in recordings[1:]:
        if (recording.rate, recording.samples.shape) != (reference.rate, reference.samples.shape):
            raise UserError(
                f"{recording.path}: {recording.samples.shape} samples at {recording.rate} Hz, but {clean} has "
                f"{reference.samples.shape} at {reference.rate} Hz; compare recordings of one make"
            )
    rows = []
    for recording in recordings[1:]:
        si_snr_db = float(np.mean(si_snr(recording.samples, reference.samples)))
        rows.append({
            "file": str(recording.path),
            "seconds": recording.samples.shape[1] / recording.rate,
            "level_db": float(rms_db(recording.samples)),
            "si_snr_db": si_snr_db,
            "si_snri_db": si_snr_db - (rows[0]["si_snr_db"] if rows else si_snr_db),
        })  # fmt: skip
    return rows, recordings
