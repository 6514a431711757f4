"""The check itself: it must find what is wrong, and nothing else."""

import numpy as np
import pytest

from tasnet_np.ops.gradcheck import directional_error, numerical_gradient, relative_error


def test_numerical_gradient_of_a_cubic():
    x = np.array([[1.0, -2.0], [0.5, 3.0]])
    original = x.copy()
    np.testing.assert_allclose(numerical_gradient(lambda: (x**3).sum(), x), 3 * x**2, rtol=1e-8)
    np.testing.assert_array_equal(x, original)


def test_relative_error():
    assert relative_error([1.0, 2.0], [1.0, 4.0]) == 0.5
    assert relative_error([0.0, 3.0], [0.0, 0.0]) == 3
    assert relative_error([np.nan, 1.0], [1.0, 1.0]) == np.inf
    with pytest.raises(ValueError, match="differ"):
        relative_error([1.0], [1.0, 2.0])


def test_directional_error_sees_one_wrong_array_among_many():
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(n) for n in (3, 4, 5)]

    def loss():
        return sum((array**2).sum() for array in arrays)

    right = [2 * array for array in arrays]
    assert directional_error(loss, arrays, right) < 1e-8
    wrong = [right[0], right[1][::-1], right[2]]
    assert directional_error(loss, arrays, wrong) > 0.01
