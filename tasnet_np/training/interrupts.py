"""Ctrl-C and SIGTERM as a request to stop, instead of an exception in the middle of a step."""

import contextlib
import signal

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def stop_on_interrupt():
    """A list that gets an entry at the first Ctrl-C (or SIGTERM). A second one acts as it usually does."""
    received = []
    usual = {number: signal.getsignal(number) for number in SIGNALS}

    def note(number, frame):
        received.append(number)
        restore()

    def restore():
        for number, handler in usual.items():
            signal.signal(number, handler)

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield received
    finally:
        restore()
