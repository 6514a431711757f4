"""A part as a file: the bytes of its ranges, with patches over them and zeros after them, from any place."""

import io
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasnet_np.containers import parts
from tasnet_np.containers.parts import Part, PartFile, Stretch

CONTENTS = bytes(range(1, 251))
RANGES = st.lists(st.tuples(st.integers(0, 250), st.integers(0, 250)).map(sorted).map(tuple), max_size=4).map(
    tuple
)


def bytes_of(part):
    data = bytearray(b"".join(CONTENTS[start:stop] for start, stop in part.ranges))
    for place, patch in part.patches:
        data[place : place + len(patch)] = patch
    return bytes(data) + bytes(part.tail)


@given(RANGES, st.integers(0, 300), st.lists(st.tuples(st.integers(0, 900), st.integers(0, 600)), max_size=8))
def test_reading_at_any_place(ranges, tail, reads):
    size = sum(stop - start for start, stop in ranges)
    patches = ((size // 2, b"<>"[: size - size // 2]), (size // 3, b"*"[:size]))
    part = Part(ranges, patches, tail=tail)
    expected, file = bytes_of(part), PartFile(io.BytesIO(CONTENTS), part)
    assert file.seek(0, 2) == len(expected)
    for place, count in reads:
        assert file.seek(place) == file.tell() == place
        assert file.read(count) == expected[place : place + count]
        assert file.tell() == max(place, min(place + count, len(expected)))


def test_seeking_from_the_present_place_and_from_the_end():
    file = PartFile(io.BytesIO(CONTENTS), Part(((10, 20), (100, 130)), tail=5))
    assert file.seek(-128, 2) == 0
    assert file.seek(7) == 7 and file.read(6) == CONTENTS[17:20] + CONTENTS[100:103]
    assert file.seek(-3, 1) == 10 and file.read(1) == CONTENTS[100:101]
    assert file.seek(-6, 2) == 39 and file.read(100) == CONTENTS[129:130] + bytes(5)


def test_an_error_of_the_disk_is_kept_and_not_raised():
    class Broken(io.BytesIO):
        def read(self, count):
            raise OSError(5, "Input/output error")

    file = PartFile(Broken(CONTENTS), Part(((0, 100),)))
    assert file.read(10) == b"" and file.error.errno == 5


def test_only_a_part_without_changes_is_the_whole_file():
    assert Part(((0, 250),)).is_whole(250)
    for part in (
        Part(((0, 249),)),
        Part(((1, 250),)),
        Part(((0, 250),), ((3, b"x"),)),
        Part(((0, 250),), tail=1),
    ):
        assert not part.is_whole(250)


@pytest.mark.parametrize("seed", range(5))
def test_matches_are_found_across_the_seams_of_what_is_read(monkeypatch, seed):
    monkeypatch.setattr(parts, "BLOCK_BYTES", 100)
    data = np.random.default_rng(seed).choice(list(b"ab"), 1000).astype(np.uint8).tobytes()
    stretch = Stretch(io.BytesIO(data), "a.mp3", 0, 950)
    pattern = re.compile(rb"(?=abab)")
    expected = [found.start() for found in pattern.finditer(data[:950]) if found.start() >= 17]
    assert list(stretch.find(pattern, 17)) == expected and len(expected) > 30
