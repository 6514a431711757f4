"""How much a model gains on mixtures whose sources are known, by input SNR."""

import numpy as np

from tasnet_np.errors import UserError
from tasnet_np.messages import progress_bar
from tasnet_np.network.config import SOURCES
from tasnet_np.sound.audio_files import read
from tasnet_np.sound.level import fit_level, rms_db
from tasnet_np.sound.metrics import PERCEPTUAL, perceptual_measures, sdr, si_snr, without_mean

SPEECH_COLUMNS = {  # what is measured of the speech at its level, and the head of each column of `table`
    "sdr_db": "SDR", "sdri_db": "SDRi", "stoi_before": "STOI in", "stoi": "STOI", "estoi_before": "ESTOI in",
    "estoi": "ESTOI", "pesq_before": "PESQ in", "pesq": "PESQ",
}  # fmt: skip


def score(model, batch):
    """SI-SNR of every mixture of a batch, in dB: {"before", "si_snr", "si_snri"} of shape (B, 2), and the estimates."""
    estimates = model.forward(batch.mixture, keep=False)  # (B, 2, n)
    before = si_snr(batch.mixture[:, None], batch.sources)  # (B, 2)
    after = si_snr(estimates, batch.sources)  # (B, 2)
    return {"before": before, "si_snr": after, "si_snri": after - before, "estimates": estimates}


def evaluate(model, batches, *, rate=None, progress=False):
    """Mean SI-SNR of both sources, before and after the model, for each input SNR and for all.

    Parameters
    ----------
    model
        Has ``forward(mixture, keep=False)`` from (B, n) to (B, 2, n).
    batches : list of Batch
        As from `tasnet_np.corpus.mixing.fixed_batches`.
    rate : int, optional
        Hz. With it, the speech is measured at its level in the mixture, too: SDR, and STOI, ESTOI and PESQ where
        their packages are installed (`pip install 'tasnet_np[metrics]'`).
    progress : bool
        Show a progress bar.

    Returns
    -------
    list of dict
        A row for each input SNR, from low to high, and a last one for all mixtures:
        ``snr_db`` (the input SNR, "all" in the last row), ``mixtures`` (how many), and for each
        source, in dB, ``speech_unprocessed_db`` (SI-SNR of the mixture), ``speech_si_snr_db`` (of
        the model's estimate), ``speech_si_snri_db`` (the improvement); ``noise_...`` likewise.
        With a rate also ``speech_sdr_db``, ``speech_sdri_db``, and, if there, ``speech_stoi``, ``speech_stoi_before``
        and so on. A source that is silent in a mixture does not count there; a mean over nothing is NaN.

    Raises
    ------
    UserError
        There is no batch.
    """
    if not batches:
        raise UserError("batches: none given; at least one is needed")
    scores, snrs_db = [], []
    for batch in progress_bar(batches, shown=progress, desc="evaluating", unit="batch", delay=2):
        scored = score(model, batch)
        estimates = scored.pop("estimates")
        scores.append(scored | (_at_level(estimates, batch, rate) if rate else {}))
        snrs_db.append(batch.snr_db)  # (B,)
    scores = {name: np.concatenate([scored[name] for scored in scores]) for name in scores[0]}
    snrs_db = np.concatenate(snrs_db)
    rows = [_row(float(snr), scores, snrs_db == snr) for snr in np.unique(snrs_db)]
    return [*rows, _row("all", scores, np.ones(len(snrs_db), bool))]


def _at_level(estimates, batch, rate):
    """Measures of the speech, (B,) each, that depend on its level, which `fit_level` restores."""
    gains = np.stack([fit_level(mixture, both) for mixture, both in zip(batch.mixture, estimates)])
    speech = gains[:, :1] * without_mean(estimates[:, 0])  # (B, n)
    clean = batch.sources[:, 0]
    after = sdr(speech, clean)
    measures = {"sdr_db": after, "sdri_db": after - sdr(batch.mixture, clean)}
    for name, measure in perceptual_measures().items():
        measures[f"{name}_before"] = np.array([measure(x, s, rate) for x, s in zip(batch.mixture, clean)])
        measures[name] = np.array([measure(x, s, rate) for x, s in zip(speech, clean)])
    return measures


def _row(snr_db, scores, chosen):
    """Means over the chosen mixtures."""
    row = {"snr_db": snr_db, "mixtures": int(chosen.sum())}
    measures = {"unprocessed_db": "before", "si_snr_db": "si_snr", "si_snri_db": "si_snri"}
    for i, source in enumerate(SOURCES):
        counted = chosen & ~np.isnan(scores["before"][:, i])  # not by `si_snr`: a NaN of the model must show
        for name, key in measures.items():
            mean = scores[key][counted, i].mean() if counted.any() else np.nan
            row[f"{source}_{name}"] = float(mean)
    for name in scores.keys() - measures.values():
        values = scores[name][chosen & ~np.isnan(scores["before"][:, 0])]
        values = values[np.isfinite(values)] if name.split("_")[0] in PERCEPTUAL else values
        row[f"speech_{name}"] = float(values.mean()) if len(values) else np.nan
    return row


def table(rows):
    """The rows of `evaluate` as aligned text; NaN is shown as "-"."""
    basic = [
        f"{source}_{name}" for source in SOURCES for name in ("unprocessed_db", "si_snr_db", "si_snri_db")
    ]
    more = [key for key in SPEECH_COLUMNS if f"speech_{key}" in rows[0]]
    above_more = "speech at its level" if more else ""
    lines = [
        " " * 20 + "".join(f"{source + ' SI-SNR (dB)':>30}" for source in SOURCES) + above_more.rjust(10 * len(more)),
        f"{'SNR (dB)':>10}{'mixtures':>10}" + f"{'before':>10}{'after':>10}{'SI-SNRi':>10}" * 2
        + "".join(f"{SPEECH_COLUMNS[key]:>10}" for key in more),
    ]  # fmt: skip
    for row in rows:
        snr = row["snr_db"] if row["snr_db"] == "all" else f"{row['snr_db']:.1f}"
        values = [row[key] for key in (*basic, *(f"speech_{key}" for key in more))]
        cells = ["-" if np.isnan(value) else f"{value:.2f}" for value in values]
        lines.append("".join(f"{cell:>10}" for cell in [snr, row["mixtures"], *cells]))
    return "\n".join(line.rstrip() for line in lines)


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
    rows : list of dict
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
