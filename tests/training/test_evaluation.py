"""The evaluation, with stand-in models whose SI-SNR is known."""

import json

import numpy as np
import pytest

from tasnet_np.corpus.mixing import Batch
from tasnet_np.errors import UserError
from tasnet_np.training.evaluation import evaluate, table

# Three signals without mean, at right angles to each other, all at the same level.
SPEECH = np.array([1.0, 1.0, -1.0, -1.0])
NOISE = np.array([1.0, -1.0, 1.0, -1.0])
ERROR = np.array([1.0, -1.0, -1.0, 1.0])


def batch(snr_db, size=2, speech=SPEECH):
    sources = np.stack([speech, NOISE * 10 ** (-snr_db / 20)])  # (2, n)
    sources = np.tile(sources, (size, 1, 1))
    return Batch(sources.sum(1), sources, np.full(size, float(snr_db)), ["made up"] * size)


class Stub:
    """Stands in for a model: speech at 20 dB, inverted and loud; noise at 10 dB, quiet."""

    def __init__(self, speech=SPEECH):
        self.speech = speech

    def forward(self, mixture, keep=True):
        assert keep is False
        estimates = [-500 * (self.speech + 0.1 * ERROR), 1e-3 * (NOISE + np.sqrt(0.1) * ERROR)]
        return np.broadcast_to(estimates, (len(mixture), 2, 4))


def test_rows_by_snr_and_overall():
    rows = evaluate(Stub(), [batch(10, 3), batch(-5, 1), batch(10, 2)])
    assert [row["snr_db"] for row in rows] == [-5.0, 10.0, "all"]
    assert [row["mixtures"] for row in rows] == [1, 5, 6]
    overall = (-5 + 5 * 10) / 6
    for row, snr_db in zip(rows, [-5, 10, overall]):
        values = [row[f"speech_{name}"] for name in ("unprocessed_db", "si_snr_db", "si_snri_db")]
        assert values == pytest.approx([snr_db, 20, 20 - snr_db], abs=1e-5)
        values = [row[f"noise_{name}"] for name in ("unprocessed_db", "si_snr_db", "si_snri_db")]
        assert values == pytest.approx([-snr_db, 10, 10 + snr_db], abs=1e-5)


def test_rows_are_plain_numbers():
    rows = evaluate(Stub(), [batch(0)])
    assert json.loads(json.dumps(rows)) == rows
    assert {type(value) for row in rows for value in row.values()} == {float, int, str}


def test_silent_sources_do_not_count():
    silent = 0 * SPEECH
    rows = evaluate(Stub(), [batch(0, 1), batch(0, 1, speech=silent), batch(5, 1, speech=silent)])
    assert rows[0]["mixtures"] == 2
    assert rows[0]["speech_si_snri_db"] == pytest.approx(20, abs=1e-5)
    assert np.isnan(rows[1]["speech_si_snr_db"])
    assert rows[2]["speech_unprocessed_db"] == pytest.approx(0, abs=1e-5)
    assert rows[2]["noise_si_snr_db"] == pytest.approx(10, abs=1e-5)


def test_nan_of_the_model_is_not_left_out():
    (row, _) = evaluate(Stub(speech=np.nan * SPEECH), [batch(0)])
    assert np.isnan(row["speech_si_snr_db"]) and np.isnan(row["speech_si_snri_db"])
    assert row["speech_unprocessed_db"] == pytest.approx(0, abs=1e-5)


def test_no_batch():
    with pytest.raises(UserError, match="batches: none given"):
        evaluate(Stub(), [])


def test_table():
    rows = evaluate(Stub(), [batch(-5), batch(10, speech=0 * SPEECH)])
    assert table(rows).splitlines() == [
        "                                speech SI-SNR (dB)             noise SI-SNR (dB)",
        "  SNR (dB)  mixtures    before     after   SI-SNRi    before     after   SI-SNRi",
        "      -5.0         2     -5.00     20.00     25.00      5.00     10.00      5.00",
        "      10.0         2         -         -         -     80.00     10.00    -70.00",
        "       all         4     -5.00     20.00     25.00     42.50     10.00    -32.50",
    ]


def test_with_a_rate_the_speech_is_measured_at_its_level():
    """The stub is 500 times too loud and inverted; SDR sees it as `fit_level` restores it."""
    rng = np.random.default_rng(0)
    speech, noise, error = rng.standard_normal((3, 8000))
    sources = np.stack([speech, noise])[None].astype(np.float32)
    given = Batch(sources.sum(1), sources, np.zeros(1), ["made up"])

    class Loud:
        def forward(self, mixture, keep=True):
            return np.stack([-500 * (speech + 0.1 * error), 1e-3 * noise])[None]

    row, _ = evaluate(Loud(), [given], rate=8000)
    assert row["speech_sdr_db"] == pytest.approx(20, abs=0.3)
    assert row["speech_sdri_db"] == pytest.approx(20, abs=0.5)
    assert [name for name in row if name.endswith(("_sdr_db", "_sdri_db"))] == [
        "speech_sdr_db",
        "speech_sdri_db",
    ]
    assert list(row).index("speech_sdri_db") > list(row).index(
        "noise_si_snri_db"
    )  # the same order every time
    head = table([row, row]).splitlines()[1]
    assert head.split()[9:11] == ["SDR", "SDRi"]
    assert "sdr_db" not in "".join(evaluate(Loud(), [given])[0])
