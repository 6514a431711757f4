"""A training run that is killed again and again, for the tests and for benchmarks/kills.py."""

import json
import random
import signal
import subprocess
import sys
import time


def records(out):
    """The lines of a run's log, without what the clock says."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "fraction", "peak_mb")} for line in lines]


def start(arguments):
    command = [sys.executable, "-m", "tasnet_np", "train", "--quiet", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def logged(out):
    try:
        return (out / "log.jsonl").stat().st_size
    except OSError:
        return 0


def writing(out):
    """Whether a file is being written just now."""
    return out.exists() and any(path.name.startswith(".") for path in out.iterdir())


def kill_at(process, out, rng, in_a_write):
    """SIGKILL at a random moment after the next line of the log, or while a file is written. Was it in time?"""
    size, deadline = logged(out), time.monotonic() + 120
    while logged(out) <= size and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(rng.uniform(0, 0.3))
    while in_a_write and process.poll() is None and not writing(out) and time.monotonic() < deadline:
        time.sleep(0.0005)
    in_time = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return in_time


def run_with_kills(arguments, out, kills, seed=0):
    """Train into `out`, killed so many times, resumed each time; returns how many kills hit a run at work."""
    rng, hits = random.Random(seed), 0
    for number in range(kills):
        resumed = (out / "config.json").exists()
        process = start(["--out", out, "--resume"] if resumed else [*arguments, "--out", out])
        hits += kill_at(process, out, rng, in_a_write=number % 2 == 1)
        if not (out / "config.json").exists():  # killed before anything was there
            for path in out.iterdir() if out.exists() else ():
                path.unlink()
    process = start(["--out", out, "--resume"])
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors.decode()
    return hits
