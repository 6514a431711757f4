"""Runs a task in a process forked from this one, which must come back: a child that waits for ever fails the test."""

import os
import pickle
import signal
import traceback

import pytest

can_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def in_child(task, seconds=60):
    """`task()` as a forked child has it. Where it fails there, the test fails with the child's traceback."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(seconds)  # ends the child, whatever it waits for
        try:
            answer = pickle.dumps((task(), None))
        except BaseException:
            answer = pickle.dumps((None, traceback.format_exc()))
        os.write(writing, answer)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        answer = file.read()
    status = os.waitpid(child, 0)[1]
    assert answer, f"the child gave no answer within {seconds} s (status {status})"
    result, failure = pickle.loads(answer)
    assert failure is None, failure
    return result
