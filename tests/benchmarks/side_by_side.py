"""What the benchmarks share: one process for each side, taken in turns, medians, a table and JSON.

Timings of a shared machine mean little by themselves. Each side therefore runs in a process of its own, the
sides take turns, and what is reported are medians over the rounds and the ratios between them.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # torch_peer


def cpu_name():
    """The processor, as the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def machine():
    """Where the numbers come from."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "date": time.strftime("%F"),
    }


def median_seconds(function, runs, warm_up=2):
    """Median time of a call."""
    for _ in range(warm_up):
        function()
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def peak_mb():
    """Largest resident memory of this process so far, in MB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_turns(script, sides, case, threads, rounds):
    """Run every side `rounds` times in turns; return {side: {measure: median}}."""
    results = {side: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            command = [sys.executable, script, "--side", side, "--case", case, "--threads", str(threads)]
            environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            if done.returncode:
                raise SystemExit(f"{side} failed on {case}:\n{done.stderr[-2000:]}")
            results[side].append(json.loads(done.stdout.splitlines()[-1]))
    return {
        side: {measure: statistics.median(run[measure] for run in runs) for measure in runs[0]}
        for side, runs in results.items()
    }


def parser(summary, cases, sides):
    """Options that all benchmarks have."""
    options = argparse.ArgumentParser(description=summary)
    options.add_argument("--side", choices=sides, help="run one side, print its numbers (used internally)")
    options.add_argument("--case", choices=cases, help="only this case")
    options.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options.add_argument("--rounds", type=int, default=3, help="processes per side")
    options.add_argument("--without", nargs="*", default=[], choices=sides, help="sides to leave out")
    options.add_argument("--json", metavar="FILE", help="write the numbers here")
    return options


def write_json(path, results):
    """The results and the machine they come from."""
    if path:
        Path(path).write_text(json.dumps({"machine": machine(), "results": results}, indent=1))
