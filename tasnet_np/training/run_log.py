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
from tasnet_np.safe_files import atomic_path, check_is_file
from tasnet_np.training.run_folder import writing_to


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
        The file cannot be written.
    """

    def __init__(self, path, step):
        self.path = path
        kept = [line for line, record in _readable(path) if record["step"] <= step]
        with atomic_path(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept))

    def __enter__(self):
        with writing_to(self.path):
            self.file = open(self.path, "ab", buffering=0)  # nothing is left to write when it is closed
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, record):
        """Add a line. Raises UserError where the disk is full; it may have taken a part of the line then."""
        data = memoryview(f"{json.dumps(record)}\n".encode())
        with writing_to(self.path):
            while data:
                data = data[self.file.write(data) :]


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
        The file cannot be read, is cut short, or has no validation yet.
    """
    check_is_file(path)
    try:
        records = [json.loads(line) for line in path.read_text().splitlines()]
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); give the folder of a training run"
        ) from None
    except ValueError:
        raise UserError(f"{path}: is cut short; resume the run first") from None
    if not any("validation" in record for record in records):
        raise UserError(f"{path}: has no validation yet; train for longer")
    return records


def recorded_times(path, step):
    """When the steps after a given one began, as far as a log has them: {steps before: (seconds, fraction)}."""
    return {
        record["step"] - 1: (record["seconds"], record["fraction"])
        for _, record in _readable(path)
        if record["step"] > step and {"loss", "seconds", "fraction"} <= record.keys()
    }


def _readable(path):
    """(line, record) of every whole line. The last one may be cut short, where the run was killed."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and "step" in record:
            yield line, record


def peak_memory_mb():
    """Largest resident memory of this process so far, in MB; None where the system does not say."""
    if resource is None:
        return None
    unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kilobytes elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
