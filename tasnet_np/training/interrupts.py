"""Signals that end a program, as a request to stop, instead of an exception in the middle of a step."""

import contextlib
import signal
import threading

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # Ctrl-C, kill, a terminal that is closed; Windows has no SIGHUP
SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]


@contextlib.contextmanager
def stop_on_interrupt():
    """A list that gets an entry at each Ctrl-C, SIGTERM or SIGHUP. Nothing else happens at them meanwhile.

    So a second Ctrl-C cannot keep the checkpoint from being written that the first one asked for. (Ctrl-\\ ends a
    program that hangs.) SIGHUP stays ignored where it was, as under nohup. Python gives signals to its main thread
    only: in another one the list stays empty.
    """
    received = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    usual = {number: signal.getsignal(number) for number in SIGNALS}
    heeded = [number for number in SIGNALS if _may_be_taken(number, usual[number])]
    for number in heeded:
        signal.signal(number, lambda number, frame: received.append(number))
    try:
        yield received
    finally:
        for number in heeded:
            signal.signal(number, usual[number])


def _may_be_taken(number, handler):
    """Whether a signal is ours: not one that another library has handled (None), nor an ignored SIGHUP."""
    is_hangup = signal.Signals(number).name == "SIGHUP"
    return handler is not None and not (is_hangup and handler == signal.SIG_IGN)
