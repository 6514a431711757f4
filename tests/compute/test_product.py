"""The matrix products on the CPU that the fused block calls: all sizes of what is left over beside whole tiles."""

import numpy as np
import pytest

from tasnet_np.compute.cpu_product import (
    FRAMES,
    VECTOR,
    WIDE,
    add_product_over_time,
    panels,
    product_with_weight,
)


def columns(dtype):
    return WIDE * VECTOR // np.dtype(dtype).itemsize


def sizes(tile):
    return 1, tile - 1, tile, tile + 1, 3 * tile, 3 * tile + 2


def draw(dtype, *shapes):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def tolerance(dtype):
    return {"rtol": 1e-12, "atol": 1e-12} if dtype == "float64" else {"rtol": 1e-4, "atol": 1e-5}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("T", sizes(FRAMES))
def test_product_is_x_times_w_transposed(T, dtype):
    for M in sizes(columns(dtype)):
        for K in (1, 2, 37):
            x, w = draw(dtype, (T, K), (M, K))
            expected = x.astype(np.float64) @ w.T.astype(np.float64)
            for arranged in (panels(w), panels(np.ascontiguousarray(w.T).T)):
                y = np.full((T, M), np.nan, dtype)
                product_with_weight(y, x, arranged)
                np.testing.assert_allclose(y, expected, **tolerance(dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("M", sizes(FRAMES))
def test_product_over_time_adds_x_transposed_times_w(M, dtype):
    for N in sizes(columns(dtype)):
        for T in (1, 2, 37):
            x, w, y = draw(dtype, (T, M), (T, N), (M, N))
            expected = y + x.T.astype(np.float64) @ w.astype(np.float64)
            add_product_over_time(y, x, w)
            np.testing.assert_allclose(y, expected, **tolerance(dtype))


def test_frames_have_the_same_bits_wherever_a_tile_begins():
    """What lets threads share the frames in pieces of any length."""
    M, K = 2 * columns("float32") + 5, 50
    x, w = draw("float32", (7 * FRAMES, K), (M, K))
    whole, pieces = np.empty((2, len(x), M), np.float32)
    product_with_weight(whole, x, panels(w))
    for start in range(0, len(x), FRAMES + 3):
        stop = min(start + FRAMES + 3, len(x))
        product_with_weight(pieces[start:stop], x[start:stop], panels(w))
    last = len(x) - len(x) % (FRAMES + 3)
    np.testing.assert_array_equal(whole[:last], pieces[:last])


def test_a_number_that_is_not_one_stays_in_its_frame():
    x, w = draw("float32", (4 * FRAMES, 40), (3 * columns("float32"), 40))
    x[FRAMES + 1, 7] = np.nan
    y = np.empty((len(x), len(w)), np.float32)
    product_with_weight(y, x, panels(w))
    assert np.isnan(y).all(axis=1).nonzero()[0].tolist() == [FRAMES + 1]
    assert np.isnan(y).sum() == len(w)
