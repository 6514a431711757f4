"""One thread at a time where each step needs what the one before has left behind."""

import os
import threading

REMEDY = "give each thread one of its own, or let them take turns, each from its forward to its backward"


class ThreadGuard:
    """Lets one thread in, `with guard:`, and refuses all others meanwhile; the same thread may enter again.

    Training keeps its intermediate results in the layers. Two threads in one model would take each other's, and
    get wrong gradients without noticing. To let one wait for the other would not help: what a forward has left must
    last until the backward that follows.

    A copy, also by pickle, is a new guard. So is the one that a forked process finds.

    Parameters
    ----------
    what : str
        What it guards, for the error.
    """

    def __init__(self, what):
        self.what = what
        self._inside = {}  # by process, as a fork copies it: the thread inside, and how often it has entered

    def __reduce__(self):
        return ThreadGuard, (self.what,)

    def __enter__(self):
        me = threading.get_ident()
        entry = self._inside.setdefault(os.getpid(), [me, 0])  # one operation: no thread comes in between
        if entry[0] != me:
            raise RuntimeError(f"{self.what} is in use by another thread; {REMEDY}")
        entry[1] += 1

    def __exit__(self, *error):
        entry = self._inside.get(
            os.getpid(), [0, 0]
        )  # none where this thread has forked inside, in the child
        entry[1] -= 1
        if entry[1] <= 0:
            self._inside.pop(os.getpid(), None)
