"""The thread pool over samples, and the check of shapes."""

import time

import numpy as np
import pytest
import threadpoolctl

from tasnet_np.compute.arrays import sizes
from tasnet_np.compute.cpu import each_in_order, get_threads, over_samples, set_threads


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


def test_blas_runs_on_one_thread_inside_and_as_before_afterwards(threads):
    def blas_threads():  # NumPy's; SciPy brings a BLAS of its own that no kernel calls
        pools = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
        return [pool["num_threads"] for pool in pools if "scipy.libs" not in pool["filepath"]]

    with threadpoolctl.threadpool_limits(2, "blas"):  # also where there is only one core
        before = blas_threads()
        seen = []
        over_samples(lambda x: seen.append(blas_threads()), (np.zeros((3, 1)),))
        assert set(before) == {2}
        assert seen == [[1] * len(before)] * 3
        assert blas_threads() == before


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
