"""Inputs with faults, made from good ones by a seed, and the rule that each of them must keep.

The rule: the right output (all samples that are there), or a `UserError` of one line that names the file, within
SECONDS and MEMORY. Every kind of input has good files (`bases`), pieces (chunks, pages, blocks, lines) that mutators
remove, repeat and exchange, and a reader that says whether what came out is right.

    python tests/fuzz.py --cases 20000 --jobs 2        # a table by kind; every failure with its seed
    python tests/fuzz.py --kind wav --seed 123         # one case again, with its traceback
    python tests/fuzz.py --kind wav --seed 123 --write bad.wav

Cases run in another process, because some faults end it or never end.
"""

import argparse
import json
import os
import resource
import selectors
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # so that the package of this tree is what is tried

from fuzzing.cases import CORPUS, KINDS, make_case  # noqa: E402

SECONDS = 5.0  # for one case
MEMORY = 1 << 30  # bytes above what the process had before the first case
RIGHT, REFUSED, FAILED = "right", "refused", "failed"


@dataclass(frozen=True)
class Outcome:
    """What became of a case: RIGHT, REFUSED or FAILED, and why."""

    kind: str
    seed: int | str  # a name for a case of the corpus
    result: str
    why: str = ""
    how: str = ""  # the mutators

    def __str__(self):
        again = f"python tests/fuzz.py --kind {self.kind} --seed {self.seed}"
        return f"{self.kind} {self.seed} ({self.how}): {self.result}, {self.why}\n    {again}"


# In the other process.


def try_case(kind, seed, folder):
    """Run one case in this process."""
    from tasnet_np import UserError

    case = make_case(kind, seed)
    path = Path(folder, f"case{case.suffix}")
    path.write_bytes(case.data)
    start = time.monotonic()
    try:
        case.check(path)
        result, why = RIGHT, ""
    except UserError as error:
        problem = _problem_of_line(str(error))
        result, why = (FAILED, problem) if problem else (REFUSED, str(error))
    except Exception as error:  # whatever a command would show as a traceback, or blame on the wrong thing
        place = traceback.extract_tb(error.__traceback__)[-1]
        result, why = FAILED, f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
    took = time.monotonic() - start
    if took > SECONDS:
        result, why = FAILED, f"took {took:.1f} s"
    return Outcome(kind, seed, result, why[:500], case.how)


def _problem_of_line(line):
    """What is wrong with the line of a UserError; None if nothing is."""
    if len(line) > 1000 or not line.isprintable():
        return f"not a readable line: {line[:200]!r}"
    if "case" not in line and "standard input" not in line:
        return f"does not name the file: {line}"
    return None


def _serve():
    """Run the cases named on standard input; print an outcome for each."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    with tempfile.TemporaryDirectory() as folder:
        for kind, good in KINDS.items():  # everything is imported and made before memory is counted
            path = Path(folder, f"case{good.suffix}")
            path.write_bytes(good.bases()[0][0])
            good.check(path, good.bases()[0][1])
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        print("ready", file=answers, flush=True)
        for line in sys.stdin:
            kind, seed = json.loads(line)
            print(json.dumps(vars(try_case(kind, seed, folder))), file=answers, flush=True)


# In the process that asks.


class Worker:
    """Another process that runs cases. One that hangs or dies is replaced."""

    def __init__(self):
        self._process = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stop()

    def run(self, kind, seed):
        """The Outcome of a case."""
        if self._process is None:
            self._start()
        self._process.stdin.write(json.dumps([kind, seed]) + "\n")
        self._process.stdin.flush()
        answer = self._answer(2 * SECONDS)  # the process itself counts SECONDS
        if answer is None:
            self._stop()
            return Outcome(
                kind, seed, FAILED, f"no answer after {2 * SECONDS:g} s", make_case(kind, seed).how
            )
        if not answer:
            status = self._process.wait()
            self._stop()
            return Outcome(kind, seed, FAILED, f"ended the process ({status})", make_case(kind, seed).how)
        return Outcome(**json.loads(answer))

    def _start(self):
        command = [sys.executable, str(Path(__file__)), "--serve"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
        )
        assert self._answer(120) == "ready\n"

    def _answer(self, seconds):
        """The next line; empty when the process has ended, None when there is none in time."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            return self._process.stdout.readline() if selector.select(seconds) else None

    def _stop(self):
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def fuzz(cases, *, first_seed=0, kinds=tuple(KINDS), jobs=1, until=None):
    """Run cases of all kinds in turn.

    Parameters
    ----------
    cases : int
    first_seed : int
        The seeds of each kind are counted from here.
    kinds : sequence of str
    jobs : int
        Processes at once.
    until : float, optional
        `time.monotonic()` after which no case begins.

    Returns
    -------
    list of Outcome
    """
    todo = [(kinds[i % len(kinds)], first_seed + i // len(kinds)) for i in range(cases)]

    def run(mine):
        with Worker() as worker:
            return [worker.run(*case) for case in mine if until is None or time.monotonic() < until]

    with ThreadPoolExecutor(jobs) as pool:
        return [outcome for part in pool.map(run, (todo[j::jobs] for j in range(jobs))) for outcome in part]


def table(outcomes):
    """How many cases of each kind were tried, right, refused and failed, as text."""
    counts = Counter((outcome.kind, outcome.result) for outcome in outcomes)
    lines = [f"{'kind':<12}{'tried':>8}{RIGHT:>8}{REFUSED:>9}{FAILED:>8}"]
    for kind in sorted({outcome.kind for outcome in outcomes}):
        right, refused, failed = (counts[kind, result] for result in (RIGHT, REFUSED, FAILED))
        lines.append(f"{kind:<12}{right + refused + failed:>8}{right:>8}{refused:>9}{failed:>8}")
    results = Counter(outcome.result for outcome in outcomes)
    right, refused, failed = (results[result] for result in (RIGHT, REFUSED, FAILED))
    return "\n".join([*lines, f"{'all':<12}{len(outcomes):>8}{right:>8}{refused:>9}{failed:>8}"])


def _options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--minutes", type=float, help="begin no case after so long")
    parser.add_argument("--kind", choices=sorted(KINDS))
    parser.add_argument("--seed", help="run this one case here; a name for one of the corpus")
    parser.add_argument("--write", metavar="FILE", help="write the input of that case")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _one(options):
    """Run a case in this process, with its traceback."""
    case = make_case(options.kind, options.seed if options.seed in CORPUS else int(options.seed))
    print(f"{len(case.data)} bytes, {case.how}", file=sys.stderr)
    if options.write:
        Path(options.write).write_bytes(case.data)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"case{case.suffix}")
        path.write_bytes(case.data)
        case.check(path)
    print(RIGHT)


def main():
    options = _options()
    if options.serve:
        return _serve()
    if options.seed is not None:
        return _one(options)
    until = options.minutes and time.monotonic() + 60 * options.minutes
    kinds = (options.kind,) if options.kind else tuple(KINDS)
    outcomes = fuzz(options.cases, first_seed=options.first_seed, kinds=kinds, jobs=options.jobs, until=until)
    for outcome in outcomes:
        if outcome.result == FAILED:
            print(outcome)
    print(table(outcomes))
    return None


if __name__ == "__main__":
    main()
