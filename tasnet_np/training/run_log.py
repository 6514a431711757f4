"""log.jsonl: one line of JSON for every step of a run, and one for every validation.

{"step", "loss", "gradient_norm", "learning_rate", "fraction", "seconds"}, sometimes "gradient_norms"
{"step", "validation", "peak_mb"}
"""

import json
import sys

try:
    import resource
except ImportError:  # Windows has none
    resource = None

from tasnet_np.errors import UserError
from tasnet_np.ranges import COUNT, DURATION, Range, shown
from tasnet_np.safe_files import atomic_path
from tasnet_np.stored_json import parse_json
from tasnet_np.training.run_folder import writing_to

MOST_LINE = 1 << 20  # bytes
FINITE = Range(-1e300, 1e300)
RANGES = {
    "step": COUNT,
    "loss": FINITE,
    "gradient_norm": FINITE,
    "learning_rate": FINITE,
    "fraction": Range(0, 1),
    "seconds": DURATION,
    "peak_mb": Range(0, 1e12),  # or null
}


class RunLog:
    """Writes the log of a run, as a context manager.

    Parameters
    ----------
    path : Path
        The file. What it has of later steps than `step` is removed: a killed run wrote that after its last checkpoint.
    step : int
        Steps done so far.

    Raises
    ------
    UserError
        The file is damaged, or cannot be written.
    """

    def __init__(self, path, step):
        self.path = path
        kept = [line for line, record in _whole_lines(path) if record["step"] <= step]
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"".join(kept))

    def __enter__(self):
        self.file = open(self.path, "a", buffering=1)  # a line at a time
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, record):
        """Add a line. Raises UserError where the disk is full."""
        with writing_to(self.path):
            self.file.write(json.dumps(record) + "\n")


def read_log(path):
    """All records of a log, to report on.

    Parameters
    ----------
    path : Path

    Returns
    -------
    list of dict

    Raises
    ------
    UserError
        The file cannot be read, is damaged or cut short, or has no validation yet.
    """
    try:
        records = [record for _, record in _lines(path)]
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); give the folder of a training run"
        ) from None
    if None in records:
        raise UserError(f"{path}: is cut short; resume the run first")
    if not any("validation" in record for record in records):
        raise UserError(f"{path}: has no validation yet; train for longer")
    return records


def recorded_times(path, step):
    """When the steps after a given one began, as far as a log has them: {steps before: (seconds, fraction)}."""
    return {
        record["step"] - 1: (record["seconds"], record["fraction"])
        for _, record in _whole_lines(path)
        if record["step"] > step and {"loss", "seconds", "fraction"} <= record.keys()
    }


def _whole_lines(path):
    """The lines of a log and their records, without one that was cut short; none where there is no log yet."""
    return [(line, record) for line, record in _lines(path) if record is not None] if path.exists() else []


def _lines(path):
    """Yield every line, as bytes that end with a newline, and its record.

    The record is None for the last line where that was cut short, as in a run that was killed.

    Raises
    ------
    UserError
        Another line is damaged.
    """
    with open(path, "rb") as file:
        number = 0
        while line := file.readline(MOST_LINE + 1):
            number += 1
            try:
                record = _record(line)
            except (TypeError, ValueError) as error:
                if line.endswith(b"\n") or len(line) > MOST_LINE:
                    found = f"line {number} is damaged ({error})"
                    raise UserError(f"{path}: {found}; restore the file, or remove that line") from None
                record = None
            yield line.rstrip(b"\n") + b"\n", record


def _record(line):
    """What a line says. Raises TypeError or ValueError where that is not the record of a step or of a validation."""
    if len(line) > MOST_LINE:
        raise ValueError("it is too long")
    record = parse_json(line)
    if not isinstance(record, dict):
        raise TypeError(f"{shown(record)} instead of an object")
    if "step" not in record or not {"loss", "validation"} & record.keys():
        raise ValueError("it has no step, or neither a loss nor a validation")
    for name, allowed in RANGES.items():
        if record.get(name) is not None or name in record and name != "peak_mb":
            allowed.check(name, record[name])
    for name in ("gradient_norms", "validation"):
        values = record.get(name, {})
        if not isinstance(values, dict) or not all(_is_measured(*item) for item in values.items()):
            raise TypeError(f"{name} is {shown(values)}")
    return record


def _is_measured(name, value):
    """Whether a value can be in a row of scores: a number, NaN, or the word for mixtures of every SNR."""
    return value != value or not FINITE.broken(value) or (name, value) == ("snr_db", "all")


def peak_memory_mb():
    """Largest resident memory of this process so far, in MB; None where the system does not say."""
    if resource is None:
        return None
    unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kilobytes elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
