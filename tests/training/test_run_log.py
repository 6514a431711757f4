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


def test_peak_memory():
    peak = peak_memory_mb()
    assert peak is None or 10 < peak < 1e6
