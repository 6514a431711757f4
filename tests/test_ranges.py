"""Ranges of numbers: what is in them, and how they tell the bound that a value breaks."""

import math

import numpy as np
import pytest

from tasnet_np import UserError
from tasnet_np.ranges import Range, check_stored, shown

COUNT = Range(1, 100, whole=True)
SHARE = Range(0, 1, above=True, below=True)


@pytest.mark.parametrize(
    "allowed, value",
    [(COUNT, 1), (COUNT, 100), (SHARE, 0.5), (SHARE, np.float64(1e-300)), (Range(0), math.inf), (Range(0), 10**400),
     (Range(-math.inf), -math.inf), (Range(0, whole=True), math.inf)],
)  # fmt: skip
def test_what_is_in_a_range(allowed, value):
    assert allowed.broken(value) == ""
    allowed.check("size", value)


@pytest.mark.parametrize(
    "allowed, value, words",
    [
        (COUNT, 0, "size must be at least 1, not 0"),
        (COUNT, 101, "size must be at most 100, not 101"),
        (COUNT, 2.0, "size must be a whole number of at least 1, not 2.0"),
        (COUNT, True, "size must be a whole number of at least 1, not True"),
        (COUNT, "5", "size must be a whole number of at least 1, not '5'"),
        (COUNT, math.inf, "size must be a whole number of at least 1, not inf"),
        (COUNT, 10**400, "size must be at most 100, not 10000"),
        (Range(0, 5), -1, "size must not be negative, not -1"),
        (Range(0, 5), math.nan, "size must not be negative, not nan"),
        (Range(0, 5), None, "size must be a number at least 0, not None"),
        (SHARE, 0, "size must be above 0, not 0"),
        (SHARE, 1, "size must be below 1, not 1"),
        (Range(0, 1, words="between 0 and 1"), 2, "size must be between 0 and 1, not 2"),
        (Range(0, 1, words="between 0 and 1"), [0], "size must be a number between 0 and 1, not [0]"),
    ],
)
def test_what_is_not_says_which_bound_it_breaks(allowed, value, words):
    with pytest.raises(UserError) as caught:
        allowed.check("size", value)
    assert str(caught.value).startswith(words) and len(str(caught.value)) < 200


def test_stored_numbers_are_checked_all_the_way_down():
    ranges = {"a": COUNT, "b": {"c": SHARE}}
    check_stored(ranges, {"a": 1, "b": {"c": 0.5}, "more": "of anything"})
    with pytest.raises(UserError, match="c must be below 1, not 2"):
        check_stored(ranges, {"a": 1, "b": {"c": 2}})
    with pytest.raises(UserError, match=r"b is \[1\]"):
        check_stored(ranges, {"a": 1, "b": [1]})
    for missing in ({"b": {"c": 0.5}}, {"a": 1}, {"a": 1, "b": {}}):
        with pytest.raises(KeyError):
            check_stored(ranges, missing)


def test_what_is_shown_is_short_and_one_line():
    deep = []
    for _ in range(5000):
        deep = [deep]
    for value in ("x" * 10**6, "a\nb", deep, list(range(10**5)), {"a" * 1000: deep}, 10**4000):
        assert len(shown(value)) < 300 and "\n" not in shown(value)
    assert shown(-1.5) == "-1.5" and shown("a") == "'a'"
