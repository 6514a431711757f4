"""The commands with small arguments, and the conditions that they are started in."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from battery.processes import ODD_FOLDER

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 120  # after which a command hangs; it needs 2 on a quiet machine


@dataclass(frozen=True)
class Command:
    """A command with arguments, run in a folder of its own.

    The words {world} and {out} in the arguments stand for the folder of `functions.make_world` and the command's own.
    """

    arguments: str
    prints: bool = False  # whether what it prints is what it is for: then it may not be lost with status 0
    status: int = 0  # in ordinary conditions
    stdin: str | None = None  # a file of the world
    compiles: bool = True  # whether it runs compiled kernels
    same: Callable = lambda text: text  # what of its output is the same every time


def _without_times(text):
    return "\n".join(line for line in text.splitlines() if not line.startswith("computing"))


COMMANDS = {
    "prepare": Command("prepare --speech {world}/speech --noise {world}/noise --out {out}/m.json", compiles=False),
    "prepare pairs": Command("prepare {world}/pairs --out {out}/m.json --quiet --json", compiles=False),
    "train": Command(
        "train --speech {world}/speech --noise {world}/noise --out {out}/run --from {world}/model.npz --steps 2 "
        "--batch 2 --seconds 0.1 --validate-every 1 --validation-mixtures 1 --quiet"
    ),
    "report": Command("report {world}/run --mixtures 1 --seconds 0.1 -o {out}/page.html --quiet"),
    "denoise": Command("denoise {world}/noisy.wav --model {world}/model.npz -o {out}/a.wav --plot {out}/a.png"),
    "denoise folder": Command("denoise {world}/noise --model {world}/model.npz -o {out}/all --noise-out {out}/rest"),
    "stream": Command("stream --model {world}/model.npz", prints=True, stdin="noisy.wav"),
    "live": Command("live --model {world}/model.npz --seconds 0.1", status=2, compiles=False),
    "evaluate": Command("evaluate --model {world}/run --mixtures 1 --seconds 0.1 --snr-db 0 --json", prints=True),
    "compare": Command(
        "compare --clean {world}/noisy.wav {world}/noisy.wav --plot {out}/a.png", prints=True, compiles=False
    ),
    "info": Command("info --model {world}/model.npz", prints=True, same=_without_times),
    "gradcheck": Command("gradcheck", prints=True),
}  # fmt: skip
SLOW = {
    "gradcheck": ("plain", "python -W error -OO"),
    "report": ("plain", "no streams", "numpy raises", "odd names"),
}
LIKE_ANOTHER = (
    "prepare pairs",
    "denoise folder",
    "live",
)  # what the conditions below try with a command like it
FOR_ONE_OF_A_KIND = (
    "no standard error", "no standard input", "full standard error", "numpy raises", "not the main thread",
    "another encoding",
)  # fmt: skip


@dataclass(frozen=True)
class Condition:
    """How a command is started."""

    python: tuple = ("-m", "tasnet_np")  # what follows the name of the interpreter
    shell: str = ""  # redirections
    environment: tuple = ()
    folder: bytes = b"plain"
    only: Callable = lambda name, command: True
    status: Callable = lambda command: {command.status}  # those that are right


def _into_nothing(command):
    """Where standard output is closed: text is not wanted then; sound is refused, before any is taken in."""
    return {2} if command.stdin else {command.status}


def _into_what_is_full(command):
    """Where standard output takes nothing: not status 0 if it is what the command is for."""
    return {2} if command.prints and not command.status else {command.status, 2}


def _code(text):
    return "-c", f"import sys; {text}"


_IN_A_THREAD = (
    "import threading; from tasnet_np.commands.main import main; s = []; "
    "t = threading.Thread(target=lambda: s.append(main())); t.start(); t.join(); sys.exit(s[0] if s else 99)"
)
CONDITIONS = {
    "plain": Condition(),
    "no standard output": Condition(shell="1>&-", status=_into_nothing),
    "no standard error": Condition(shell="2>&-"),
    "no standard input": Condition(shell="0<&-", status=lambda c: {2} if c.stdin else {c.status}),
    "no streams": Condition(shell="0<&- 1>&- 2>&-", status=_into_nothing, only=lambda name, c: not c.stdin),
    "full standard output": Condition(shell=">/dev/full", status=_into_what_is_full),
    "full standard error": Condition(shell="2>/dev/full"),
    "a reader that has gone": Condition(shell="| true", status=lambda c: {c.status, 2, 141}),
    "python -W error -OO": Condition(("-W", "error", "-OO", "-m", "tasnet_np")),
    "numpy raises": Condition(
        _code("import numpy; numpy.seterr(all='raise'); from tasnet_np.commands.main import main; sys.exit(main())")
    ),
    "not the main thread": Condition(_code(_IN_A_THREAD)),
    "odd names": Condition(folder=ODD_FOLDER),
    "another encoding": Condition(
        folder="ein → Ort".encode(), environment=(("PYTHONIOENCODING", "cp1252"), ("PYTHONUTF8", "0"))
    ),
    "no place for kernels": Condition(
        environment=(("HOME", "/proc/none"), ("NUMBA_CACHE_DIR", "/proc/none"), ("XDG_CACHE_HOME", "/proc/none")),
        only=lambda name, command: not command.compiles,
    ),
}  # fmt: skip


def pairs():
    """The (command, condition) that make sense."""
    return [
        (name, condition)
        for condition, how in CONDITIONS.items()
        for name, command in COMMANDS.items()
        if how.only(name, command)
        and condition in SLOW.get(name, CONDITIONS)
        and not (name in LIKE_ANOTHER and condition in FOR_ONE_OF_A_KIND)
    ]


@dataclass(frozen=True)
class Done:
    """What a command did."""

    status: int
    stdout: bytes
    stderr: str
    files: tuple  # names and, where they are the same every time, contents


def run_all(world, folder):
    """{(command, condition): Done or the error}, two at a time. `world` is copied for each odd name."""
    import shutil

    places = {}
    for condition in CONDITIONS.values():
        place = Path(os.fsdecode(os.path.join(os.fsencode(folder), condition.folder)))
        if condition.folder not in places:
            shutil.copytree(world, place / "world")
            places[condition.folder] = place
    with ThreadPoolExecutor(2) as pool:
        started = {
            (name, condition): pool.submit(run, name, condition, places[CONDITIONS[condition].folder])
            for name, condition in pairs()
        }
        return {pair: _result(future) for pair, future in started.items()}


def _result(future):
    return future.exception() or future.result()


def run(name, condition, place):
    """Run a command in a condition."""
    command, how = COMMANDS[name], CONDITIONS[condition]
    world, out = place / "world", place / f"out {name} {condition}".replace(" ", "-")
    out.mkdir()
    words = [word.format(world=world, out=out) for word in command.arguments.split()]
    stdin = f"<{_quoted(str(world / command.stdin))}" if command.stdin else "</dev/null"
    line = " ".join(map(_quoted, [sys.executable, *how.python, *words]))
    if how.shell.startswith("|"):  # the status of the command, not of the reader
        script = f"{line} {stdin} {how.shell}; exit ${{PIPESTATUS[0]}}"
    else:
        script = f"{line} {stdin} {how.shell}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **dict(how.environment)}
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, env=environment, timeout=SECONDS, cwd=out
    )
    return Done(done.returncode, done.stdout, done.stderr.decode("utf-8", "backslashreplace"), _files(out))


def _quoted(word):
    return "'" + word.replace("'", "'\\''") + "'"


def _files(folder):
    """Names of the files below, and the contents of those with sound."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    keep = (".wav", ".flac")
    return tuple(
        (str(path.relative_to(folder)), path.read_bytes() if path.suffix in keep else b"") for path in paths
    )


PROBLEMS = ("Traceback", "Exception ignored", "Warning:", "Error:", "lost sys.stderr")


def problems_in(text):
    """The lines of standard error that a user should not see."""
    return [line for line in text.splitlines() if any(re.search(word, line) for word in PROBLEMS)]
