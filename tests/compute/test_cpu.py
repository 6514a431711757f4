"""The thread pool over samples, and the check of shapes."""

import multiprocessing
import os
import threading
import time

import numpy as np
import pytest
import threadpoolctl
from forking import can_fork, in_child

from tasnet_np.compute.arrays import sizes
from tasnet_np.compute.cpu import cpu_kernel, each, each_in_order, get_threads, over_samples, set_threads


@pytest.fixture(params=[1, 3])
def threads(request):
    default = get_threads()
    set_threads(request.param)
    yield request.param
    set_threads(default)


def test_every_sample_is_visited_once_with_what_is_shared(threads):
    y, x = np.zeros((5, 4)), np.arange(20.0).reshape(5, 4)

    def kernel(y, x, factor):
        y += factor * x

    over_samples(kernel, (y, x), (3,))
    np.testing.assert_array_equal(y, 3 * x)


def test_results_are_added_in_the_order_of_their_items(threads):
    added = []
    each_in_order(lambda i: (time.sleep(0.01 * (5 - i)), i)[1], range(5), added.append)
    assert added == [0, 1, 2, 3, 4]


def test_an_error_in_a_kernel_reaches_the_caller(threads):
    def kernel(x):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        over_samples(kernel, (np.zeros((4, 1)),))


def blas_threads():
    """Of NumPy's BLAS; SciPy brings one of its own that no kernel calls."""
    pools = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
    return [pool["num_threads"] for pool in pools if "scipy.libs" not in pool["filepath"]]


def test_blas_runs_on_one_thread_inside_and_as_before_afterwards(threads):
    with threadpoolctl.threadpool_limits(2, "blas"):  # also where there is only one core
        before = blas_threads()
        seen = []
        over_samples(lambda x: seen.append(blas_threads()), (np.zeros((3, 1)),))
        assert set(before) == {2}
        assert seen == [[1] * len(before)] * 3
        assert blas_threads() == before


class Caller(threading.Thread):
    """A thread that is inside `each` from `start` until `leave`, and what its task found or raised."""

    def __init__(self, error=None):
        super().__init__()
        self.inside, self.may_leave, self.error, self.raised = (
            threading.Event(),
            threading.Event(),
            error,
            None,
        )

    def start(self):
        super().start()
        assert self.inside.wait(10)

    def run(self):
        try:
            each(self.task, range(1))
        except ZeroDivisionError as error:
            self.raised = error

    def task(self, i):
        self.inside.set()
        assert self.may_leave.wait(30)
        each(lambda j: None, range(3))  # nested
        if self.error:
            raise self.error

    def leave(self):
        self.may_leave.set()
        self.join()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["the first leaves first", "the last leaves first"])
@pytest.mark.parametrize("error", [None, ZeroDivisionError()], ids=["well", "with an error"])
def test_two_threads_at_once_leave_blas_as_it_was(order, error):
    with threadpoolctl.threadpool_limits(2, "blas"):
        assert set(blas_threads()) == {2}
        callers = [Caller(error), Caller()]
        for caller in callers:
            caller.start()
            assert set(blas_threads()) == {1}
        callers[order[0]].leave()
        assert set(blas_threads()) == {1}  # the other one is still inside
        callers[order[1]].leave()
        assert set(blas_threads()) == {2}
        assert callers[0].raised is error and callers[1].raised is None


def test_many_threads_at_once_leave_blas_as_it_was():
    with threadpoolctl.threadpool_limits(2, "blas"):
        workers = [
            threading.Thread(target=lambda: [each(abs, range(3)) for _ in range(50)]) for _ in range(4)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert set(blas_threads()) == {2}


def test_a_thread_does_not_wait_for_the_work_of_another(threads):
    caller = Caller()
    caller.run = lambda: each(lambda i: (caller.inside.set(), caller.may_leave.wait(30)), range(4))
    caller.start()  # all the pool is at its work
    assert each(lambda i: i, range(5)) == [0, 1, 2, 3, 4]
    assert caller.is_alive()
    caller.leave()


def squares(count=4):
    """What `each` gives, how many threads worked on it, and the threads of BLAS afterwards."""
    workers = set()

    def task(i):
        workers.add(threading.get_ident())
        time.sleep(0.02)
        return i * i

    return each(task, range(count)), len(workers), set(blas_threads())


@can_fork
class TestFork:
    """A forked process has the locks and the numbers of its parent, and none of the parent's threads."""

    @pytest.fixture(autouse=True)
    def blas_on_two_threads(self, threads):
        with threadpoolctl.threadpool_limits(2, "blas"):
            self.expected = ([0, 1, 4, 9], threads, {2})
            yield

    def test_after_use(self):
        assert squares() == self.expected
        assert in_child(squares) == self.expected
        assert squares() == self.expected

    def test_of_a_fork(self):
        squares()
        assert in_child(lambda: (squares(), in_child(squares))) == (self.expected, self.expected)

    def test_while_another_thread_is_inside(self):
        caller = Caller()
        caller.start()
        assert in_child(squares) == self.expected
        assert set(blas_threads()) == {1}
        caller.leave()
        assert squares() == self.expected

    def test_within_a_task(self):
        """All in the task runs on its thread, in the child as well."""
        result, _, _ = each(lambda i: in_child(squares), range(1))[0]
        assert result == self.expected[0]
        assert squares() == self.expected

    def test_in_the_midst_of_the_work_of_others(self):
        stop = threading.Event()

        def work():
            while not stop.is_set():
                each(lambda i: time.sleep(1e-4), range(4))

        workers = [threading.Thread(target=work) for _ in range(3)]
        for worker in workers:
            worker.start()
        try:
            results = [in_child(squares) for _ in range(10)]
        finally:
            stop.set()
            for worker in workers:
                worker.join()
        assert results == [self.expected] * 10
        assert squares() == self.expected

    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_in_a_pool_of_processes(self, method):
        squares()
        with multiprocessing.get_context(method).Pool(2) as pool:
            results = pool.map_async(squares, [4, 4, 4]).get(120)
        assert [result for result, _, _ in results] == [self.expected[0]] * 3


@can_fork
@pytest.mark.skipif(os.environ.get("NUMBA_DISABLE_JIT") == "1", reason="nothing is compiled")
def test_a_fork_waits_for_what_another_thread_compiles():
    """Else the lock of the compiler would be taken for ever in the child."""
    from numba.core.compiler_lock import global_compiler_lock

    taken, seconds = threading.Event(), 1.0

    def compile_for_a_while():
        with global_compiler_lock:
            taken.set()
            time.sleep(seconds)

    compiling = threading.Thread(target=compile_for_a_while)
    compiling.start()
    assert taken.wait(10)
    assert in_child(lambda: cpu_kernel(_plus_one)(1.0)) == 2.0
    compiling.join()


def _plus_one(x):
    return x + 1


def test_set_threads_refuses_none():
    with pytest.raises(ValueError, match="at least 1, not 0"):
        set_threads(0)


def test_sizes_by_letter():
    x, w = np.zeros((2, 3, 5)), np.zeros((4, 3))
    assert sizes("O T", x=(x, "B C T"), w=(w, "O C")) == [4, 5]
    with pytest.raises(ValueError, match="w .4, 3. must be .O T. with T = 5"):
        sizes("O", x=(x, "B C T"), w=(w, "O T"))
    with pytest.raises(TypeError, match="x must be a float32 or float64 array, not list"):
        sizes("B", x=([1.0], "B"))
