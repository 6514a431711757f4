"""Runs a task in a process forked from this one, which must come back: a child that waits for ever fails the test."""

import os
import pickle
import signal

import pytest

can_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def in_child(task, seconds=60):
    """`task()` as a forked child has it. Its exception comes back as its text."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(seconds)  # ends the child, whatever it waits for
        try:
            result = task()
        except BaseException as error:
            result = f"{type(error).__name__}: {error}"
        os.write(writing, pickle.dumps(result))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        data = answer.read()
    status = os.waitpid(child, 0)[1]
    assert data, f"the child gave no answer within {seconds} s (status {status})"
    return pickle.loads(data)
