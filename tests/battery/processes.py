"""All functions of the battery in one process, in a condition of that process; prints what came out as JSON.

python tests/battery/processes.py CONDITION FOLDER
"""

import hashlib
import json
import multiprocessing
import os
import sys
import threading
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
if __name__ in ("__main__", "__mp_main__"):
    sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import numpy as np  # noqa: E402
from battery.functions import ON_ARRAYS, ON_FILES, make_world  # noqa: E402

FLAGS = {"python -W error -OO": ["-W", "error", "-OO"]}
CONDITIONS = (
    "plain", "numpy raises", "fork after use", "spawn", "threads", "no streams", "python -W error -OO",
    "odd names",
)  # fmt: skip
ODD_FOLDER = b"a $HOME {x} 'q' %s\n\xff \xc3\xa9"


def digest(outputs):
    """What identifies arrays to the bit."""
    result = hashlib.blake2b(digest_size=8)
    for array in outputs if isinstance(outputs, list | tuple) else [outputs]:
        array = np.ascontiguousarray(array)
        result.update(f"{array.shape} {array.dtype}".encode() + array.tobytes())
    return result.hexdigest()


def run_all(folder):
    """{name: a digest of what came out, or the error}."""
    results = {}
    for name, (call, arrays) in ON_ARRAYS.items():
        results[name] = _outcome(call, *arrays())
    for name, call in ON_FILES.items():
        results[name] = _outcome(call, folder)
    return results


def _outcome(call, *arguments):
    try:
        return digest(call(*arguments))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _in_a_child(how, folder):
    """All functions in another process."""
    context = multiprocessing.get_context(how)
    receiving, sending = context.Pipe(False)
    child = context.Process(target=_send, args=(sending, folder))
    child.start()
    assert receiving.poll(200), "no answer"
    results = receiving.recv()
    child.join()
    return results


def _send(pipe, folder):
    pipe.send(run_all(folder))


def _in_threads(folder):
    """All functions in three threads at once; an error where they do not agree."""
    made = [{} for _ in range(3)]
    threads = [threading.Thread(target=lambda one=one: one.update(run_all(folder))) for one in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first = made[0]
    return {
        name: first[name]
        if all(one.get(name) == first[name] for one in made)
        else str([one.get(name) for one in made])
        for name in first
    }


def main():
    condition, folder = sys.argv[1], Path(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w")
    if condition == "odd names":
        folder = Path(os.fsdecode(os.path.join(os.fsencode(folder), ODD_FOLDER)))
    make_world(folder)
    if condition == "numpy raises":
        np.seterr(all="raise")
    if condition == "no streams":
        sys.stdin = sys.stdout = sys.stderr = None
    if condition == "fork after use":
        run_all(folder)
        results = _in_a_child("fork", folder)
    elif condition == "spawn":
        results = _in_a_child("spawn", folder)
    elif condition == "threads":
        results = _in_threads(folder)
    else:
        results = run_all(folder)
    print(json.dumps(results), file=answers)


if __name__ == "__main__":
    main()
