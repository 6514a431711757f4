"""JSON that is read: how large and how deep, and of which types."""

import dataclasses
import json
import math
from dataclasses import dataclass

import pytest

from tasnet_np.stored_json import build, parse_json, read_json


@dataclass(frozen=True)
class Inner:
    number: float
    count: int = 0


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    pair: tuple[float, float] = (0.0, 0.0)
    names: tuple[str, ...] = ()
    rows: list[Inner] = dataclasses.field(default_factory=list)
    scores: dict[str, str | float] = dataclasses.field(default_factory=dict)
    rate: int | None = None
    on: bool = False

    def __post_init__(self):
        if self.name == "refused":
            raise ValueError("name is refused")


WHOLE = {
    "name": "a", "inner": {"number": 1, "count": 2}, "pair": [1, 2.5], "names": ["x", "y"], "rows": [{"number": 0.5}],
    "scores": {"s": 1, "t": "all"}, "rate": None, "on": True,
}  # fmt: skip


def test_an_object_has_what_the_json_says():
    made = build(Outer, json.loads(json.dumps(WHOLE)))
    assert made.inner == Inner(1, 2) and made.rows == [Inner(0.5)]
    assert (made.pair, made.names, made.scores, made.rate, made.on) == (
        [1, 2.5], ["x", "y"], {"s": 1, "t": "all"}, None, True,
    )  # fmt: skip
    assert build(Inner, {"number": math.inf, "count": math.inf}).count == math.inf


@pytest.mark.parametrize(
    "change, words",
    [
        ({"name": 1}, "name is 1"),
        ({"name": None}, "name is None"),
        ({"inner": [1]}, r"inner is \[1\]"),
        ({"inner": {"number": "1"}}, "number is '1'"),
        ({"inner": {"number": True}}, "number is True"),
        ({"inner": {"number": 1, "count": 1.5}}, "count is 1.5"),
        ({"inner": {"number": 1, "count": 2.0}}, "count is 2.0"),
        ({"inner": {"number": 1, "count": math.nan}}, "count is nan"),
        ({"inner": {}}, "missing 1 required positional argument: 'number'"),
        ({"inner": {"number": 1, "other": 2}}, "unexpected keyword argument 'other'"),
        ({"pair": [1]}, r"pair is \[1\]"),
        ({"pair": {"0": 1}}, "pair is {'0': 1}"),
        ({"names": "xy"}, "names is 'xy'"),
        ({"names": [1]}, r"names is \[1\]"),
        ({"rows": {}}, "rows is {}"),
        ({"rows": [{"number": 1}, {"number": None}]}, "number 2 of 2: number is None"),
        ({"rows": [7]}, r"rows is \[7\]"),
        ({"scores": {"s": []}}, r"scores is {'s': \[\]}"),
        ({"rate": "8000"}, "rate is '8000'"),
        ({"on": 1}, "on is 1"),
    ],
)
def test_other_types_are_named(change, words):
    with pytest.raises(TypeError, match=words):
        build(Outer, WHOLE | change)


@pytest.mark.parametrize("values", [None, 1, "name", [], [["name", "a"]]])
def test_what_is_no_object(values):
    with pytest.raises(TypeError, match="instead of an object"):
        build(Outer, values)


def test_what_the_class_itself_refuses():
    with pytest.raises(ValueError, match="name is refused"):
        build(Outer, WHOLE | {"name": "refused"})


@pytest.mark.parametrize(
    "data", [b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000, b"\xff\xfe[\x00]\x00", b"[1", b"", b"\x00" * 10]
)
def test_what_is_no_json_of_ours(tmp_path, data):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(ValueError):
        read_json(tmp_path / "a.json")
    with pytest.raises(ValueError):
        parse_json(data)


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps("x" * 998))
    assert len(read_json(tmp_path / "a.json", 1000)) == 998
    (tmp_path / "a.json").write_text(json.dumps("x" * 999))
    with pytest.raises(ValueError, match="larger than"):
        read_json(tmp_path / "a.json", 1000)
