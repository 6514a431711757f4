"""Signals that end a program, as a request to stop a training, or as an exception.

They are Ctrl-C (SIGINT), SIGTERM, and SIGHUP, which comes when a terminal is closed. Python gives signals to its main
thread only: in another one nothing here has an effect.
"""

import contextlib
import signal
import threading

SIGNALS = {
    name: getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP")
}  # Windows has no SIGHUP


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP, in an attribute `number`, as the exception that Ctrl-C is."""

    def __init__(self, number):
        super().__init__()
        self.number = number


@contextlib.contextmanager
def stop_on_interrupt():
    """A list that gets an entry at each of the signals. Nothing else happens at them meanwhile.

    So a second Ctrl-C cannot prevent the checkpoint that the first one asked for. Ctrl-\\ still ends a program that
    hangs.
    """
    received = []
    with _handled(SIGNALS, lambda number, frame: received.append(number)):
        yield received


def raise_on_termination():
    """A context in which SIGTERM and SIGHUP raise `Terminated`: so nothing half-written is left behind."""

    def terminate(number, frame):
        raise Terminated(number)

    return _handled(("SIGTERM", "SIGHUP"), terminate)


@contextlib.contextmanager
def _handled(names, handler):
    """A context in which signals have a handler, and their usual ones afterwards."""
    usual = {}
    if threading.current_thread() is threading.main_thread():
        numbers = [SIGNALS[name] for name in names if SIGNALS[name] is not None]
        usual = {number: signal.getsignal(number) for number in numbers}
    taken = [number for number in usual if _may_be_taken(number, usual[number])]
    for number in taken:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, usual[number])


def _may_be_taken(number, handler):
    """Whether a signal is ours: not one that another library handles (None), nor an ignored SIGHUP (nohup)."""
    ignored_hangup = handler == signal.SIG_IGN and number == SIGNALS["SIGHUP"]
    return handler is not None and not ignored_hangup
