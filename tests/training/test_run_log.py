"""log.jsonl of a run that goes on, that was killed, and that is read."""

import json

import pytest

from tasnet_np import UserError
from tasnet_np.training.run_log import RunLog, peak_memory_mb, read_log, recorded_times

STEPS = [{"step": k, "loss": 1.0, "seconds": 10.0 * k, "fraction": k / 10} for k in range(1, 5)]
VALIDATION = {"step": 2, "validation": {"speech_si_snri_db": 1.0}, "peak_mb": 1.0}
RECORDS = [*STEPS[:2], VALIDATION, *STEPS[2:]]


@pytest.fixture
def killed(tmp_path):
    """The log of a run that was killed in the middle of a line."""
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS) + '{"step": 5, "lo')
    return path


def test_what_is_later_than_the_step_is_removed_and_the_rest_goes_on(killed):
    before = killed.read_text().splitlines()
    with RunLog(killed, 3) as log:
        log.write({"step": 4, "loss": 2.0})
    assert killed.read_text().splitlines() == [*before[:4], '{"step": 4, "loss": 2.0}']


def test_a_log_begins_empty_and_is_written_line_by_line(tmp_path):
    with RunLog(tmp_path / "log.jsonl", 0) as log:
        assert log.path.read_text() == ""
        log.write(VALIDATION)
        assert read_log(log.path) == [VALIDATION]  # before it is closed


def test_times_of_the_steps_after_a_checkpoint(killed, tmp_path):
    assert recorded_times(killed, 2) == {2: (30.0, 0.3), 3: (40.0, 0.4)}
    assert recorded_times(tmp_path / "none.jsonl", 0) == {}


def test_logs_that_cannot_be_reported(killed, tmp_path):
    with pytest.raises(UserError, match="is cut short; resume the run first"):
        read_log(killed)
    with pytest.raises(UserError, match="cannot be read .*; give the folder of a training run"):
        read_log(tmp_path / "none.jsonl")
    killed.write_text(json.dumps(STEPS[0]))
    with pytest.raises(UserError, match="has no validation yet; train for longer"):
        read_log(killed)


WRONG = {
    "[]": "instead of an object",
    "3": "instead of an object",
    "{": "",
    "[" * 50_000: "it is nested too deeply",
    '{"loss": 1}': "it has no step",
    '{"step": 3}': "neither a loss nor a validation",
    '{"step": null, "loss": 1}': "step must be a whole number of at least 0, not None",
    '{"step": "3", "loss": 1}': "step must be",
    '{"step": 3.5, "loss": 1}': "step must be",
    '{"step": NaN, "loss": 1}': "step must be",
    '{"step": -1, "loss": 1}': "step must not be negative, not -1",
    f'{{"step": {10**400}, "loss": 1}}': "step must be at most",
    '{"step": true, "loss": 1}': "step must be",
    '{"step": 3, "loss": null}': "loss must be a number",
    '{"step": 3, "loss": "low"}': "loss must be a number",
    '{"step": 3, "loss": [1]}': "loss must be a number",
    '{"step": 3, "loss": NaN}': "loss must be",
    '{"step": 3, "loss": Infinity}': "loss must be",
    '{"step": 3, "loss": 1, "seconds": "1"}': "seconds must be",
    '{"step": 3, "loss": 1, "seconds": -1}': "seconds must not be negative",
    '{"step": 3, "loss": 1, "fraction": 2}': "fraction must be at most 1, not 2",
    '{"step": 3, "loss": 1, "learning_rate": {}}': "learning_rate must be",
    '{"step": 3, "loss": 1, "gradient_norms": [1]}': r"gradient_norms is [1]",
    '{"step": 3, "loss": 1, "gradient_norms": {"a": "x"}}': "gradient_norms is",
    '{"step": 3, "validation": 5}': "validation is 5",
    '{"step": 3, "validation": {"speech_si_snri_db": null}}': "validation is",
    '{"step": 3, "validation": {"speech_si_snri_db": "all"}}': "validation is",
    '{"step": 3, "validation": {}, "peak_mb": "many"}': "peak_mb must be",
    '{"step": 3, "loss": 1, "more": "' + "x" * (1 << 20) + '"}': "it is too long",
}


@pytest.mark.parametrize("line", WRONG, ids=lambda line: line[:50])
def test_a_line_of_other_types_is_named(tmp_path, line):
    """Wherever the log is read, and whatever comes after it: nothing is left out in silence."""
    path = tmp_path / "log.jsonl"
    lines = [json.dumps(STEPS[0]), line, json.dumps(VALIDATION)]
    path.write_text("\n".join(lines) + "\n")
    for read in (read_log, lambda path: recorded_times(path, 0), lambda path: RunLog(path, 9)):
        with pytest.raises(UserError) as caught:
            read(path)
        message = str(caught.value)
        assert message.startswith(f"{path}: line 2 is damaged (") and WRONG[line] in message
        assert message.endswith("restore the file, or remove that line") and len(message) < 400
    assert path.read_text().splitlines() == lines


def test_bytes_that_are_no_text_are_named(tmp_path):
    (tmp_path / "log.jsonl").write_bytes(b'{"step": 1, "loss": 1, "name": "\xff"}\n')
    with pytest.raises(UserError, match="line 1 is damaged"):
        read_log(tmp_path / "log.jsonl")


def test_what_evaluations_log_is_read(tmp_path):
    """NaN for what was not there, the word for all SNRs, no memory on systems that do not tell."""
    path = tmp_path / "log.jsonl"
    row = {"snr_db": "all", "mixtures": 8, "speech_si_snri_db": float("nan"), "noise_si_snri_db": 1.5}
    with RunLog(path, 0) as log:
        log.write(
            {**STEPS[0], "gradient_norm": 2.5, "learning_rate": 1e-3, "gradient_norms": {"blocks.0": 0.5}}
        )
        log.write({"step": 1, "validation": row, "peak_mb": None})
    _, record = read_log(path)
    assert str(record["validation"]) == str(row) and record["peak_mb"] is None
    assert recorded_times(path, 0) == {0: (10.0, 0.1)}


def test_peak_memory():
    peak = peak_memory_mb()
    assert peak is None or 10 < peak < 1e6
