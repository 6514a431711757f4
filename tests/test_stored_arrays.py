"""Arrays of an .npz file: the same values back from every honest file, one line and little memory for any other."""

import io
import os
import random
import struct
import tracemalloc
import zipfile
from contextlib import contextmanager

import numpy as np
import pytest

from tasnet_np import UserError
from tasnet_np.stored_arrays import ArrayFile

MB = 1 << 20
RNG = np.random.default_rng(0)
ARRAYS = {
    "header": np.array('{"a": "é"}'),
    "w": RNG.standard_normal((3, 4)).astype(np.float32),
    "x/y": RNG.standard_normal((2, 1, 5)),
    "names": np.array(["a", "bcd", ""]),
    "none": np.zeros((0, 3), np.float32),
    "one": np.array(2.5),
}


def read_all(path):
    with ArrayFile(path, "file of arrays") as arrays:
        return {name: arrays.read(name) for name in arrays.headers}


def saved(path, arrays=ARRAYS, save=np.savez):
    save(path, **arrays)
    return path


@contextmanager
def little_memory(most=2 * MB):
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def refused(path, words="damaged, cut short or not a file of arrays"):
    with little_memory(8 * MB), pytest.raises(UserError) as caught:
        read_all(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and words in message and "\n" not in message and len(message) < 600


def same(one, other):
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert (array.dtype, array.shape) == (other[name].dtype, other[name].shape)
        assert array.tobytes() == other[name].tobytes()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_writes_is_read(tmp_path, save):
    read = read_all(saved(tmp_path / "a.npz", save=save))
    same(read, ARRAYS)
    assert all(array.flags.writeable and array.flags.c_contiguous for array in read.values())


def test_another_byte_order_and_another_order_of_axes_are_the_same_values(tmp_path):
    swapped = {name: array.astype(array.dtype.newbyteorder(">")) for name, array in ARRAYS.items()}
    same(read_all(saved(tmp_path / "a.npz", swapped)), ARRAYS)
    fortran = {name: np.array(array, order="F") for name, array in ARRAYS.items()}
    assert fortran["w"].flags.f_contiguous and not fortran["w"].flags.c_contiguous
    same(read_all(saved(tmp_path / "b.npz", fortran)), ARRAYS)


def npy(
    head="{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }", version=1, data=None, length=None
):
    """An .npy file by hand, of 12 floats."""
    data = ARRAYS["w"].tobytes() if data is None else data
    size = struct.pack("<H" if version == 1 else "<I", len(head) if length is None else length)
    return b"\x93NUMPY" + bytes([version, 0]) + size + head.encode() + data


def zipped(path, name="w.npy", data=None, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, npy() if data is None else data, compress_type=method)
    return path


@pytest.mark.parametrize(
    "data",
    [npy(), npy(version=2), npy(version=3),
     npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4)}"),
     npy("{'descr':'<f4','fortran_order':False,'shape':(3,4,),}   \n")],
)  # fmt: skip
def test_headers_that_other_programs_write(tmp_path, data):
    same(read_all(zipped(tmp_path / "a.npz", data=data)), {"w": ARRAYS["w"]})


def with_shape(shape, descr="<f4"):
    return f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"


@pytest.mark.parametrize(
    "data",
    [
        *(npy(with_shape(shape)) for shape in (
            "(3, 5)", "(2000000000, 4)", "(99999999999999999999999, 4)", "(-3, -4)", "(3, True)", "(3.0, 4)", "3",
            "()", "(0, 4)", f"({'1, ' * 60}12)", f"({'9' * 5000},)", "(3, 4)" * 2, "(__import__('os'), 4)",
        )),
        *(npy(with_shape("(3, 4)", descr)) for descr in (
            "|O", "<c8", "|b1", "<i4", "<u4", "<f2", "<f16", "<M8[s]", "<m8[s]", "|V4", "|S4", "<U0", "f4", "<f99999",
            "<U99999999", "<f4', '<f4",
        )),
        *(npy(head) for head in (
            "", "{", "(" * 900, "-" * 900 + "1", "[" * 400 + "]" * 400, "{[]: 1}", r"{'\d': 1}", "{'descr': '<f4'}",
            "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3, 4), }",
            "{'descr': ('<f4', (3,)), 'fortran_order': False, 'shape': (4,), }",
            "{'descr': '<f4', 'fortran_order': 1, 'shape': (3, 4), }",
            with_shape("(3, 4)") + " " * 5000, "\x00" * 100,
        )),
        npy(version=2, length=0xFFFFFFFF), npy(length=0xFFFF), npy(version=9), npy(data=b""), npy(data=bytes(47)),
        npy(data=bytes(49)), b"", b"\x93NUMPY", b"hello" * 50, b"\x80\x04cposix\nsystem\n(S'exit'\ntR.",
    ],
)  # fmt: skip
def test_arrays_that_are_not_what_they_say(tmp_path, data):
    refused(zipped(tmp_path / "a.npz", data=data))


def test_pickles_are_not_opened(tmp_path):
    refused(saved(tmp_path / "a.npz", {"w": np.array([{}], object)}))
    np.save(tmp_path / "b.npy", ARRAYS["w"])
    refused(tmp_path / "b.npy")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_ways_of_packing_are_refused(tmp_path, method):
    refused(zipped(tmp_path / "a.npz", method=method), "packed in an unusual way")


def test_entries_that_do_not_belong_there(tmp_path):
    for name in ("w.txt", "folder/", "w", "w.NPY"):
        refused(zipped(tmp_path / "a.npz", name), "does not belong there")
    with (
        zipfile.ZipFile(zipped(tmp_path / "a.npz"), "a") as archive,
        pytest.warns(UserWarning, match="Duplicate"),
    ):
        archive.writestr("w.npy", npy())
    refused(tmp_path / "a.npz", "'w' does not belong there")


def test_bombs_are_not_unpacked(tmp_path):
    """A few kilobytes that would be a hundred megabytes: in one entry, and in many that are one and the same."""
    path = saved(tmp_path / "a.npz", {"w": np.zeros(25 * MB, np.float32)}, np.savez_compressed)
    assert path.stat().st_size < MB
    refused(path, "105 MB in a file of 0.102 MB")
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(100_000):
            archive.writestr(zipfile.ZipInfo(f"{i}.npy"), b"")
    refused(path)


# What the list of entries says of an entry: place of the field there and in the entry itself, and its size.
FIELDS = {"version": (6, 4, "<H"), "flags": (8, 6, "<H"), "method": (10, 8, "<H"), "crc": (16, 14, "<I"),
          "packed": (20, 18, "<I"), "size": (24, 22, "<I"), "offset": (42, None, "<I")}  # fmt: skip


@pytest.mark.parametrize(
    "field, value",
    [("flags", 1), ("flags", 0x41), ("flags", 0x20), ("method", 8), ("method", 14), ("method", 99), ("crc", 1),
     ("packed", 0xFFFFFFF0), ("size", 0xFFFFFFF0), ("size", 100), ("offset", 0xFFFFFF00), ("offset", 1),
     ("version", 255)],
)  # fmt: skip
@pytest.mark.parametrize("in_both", [False, True])
def test_a_list_of_entries_that_lies(tmp_path, field, value, in_both):
    data = bytearray(zipped(tmp_path / "a.npz").read_bytes())
    in_list, in_entry, form = FIELDS[field]
    struct.pack_into(form, data, data.rindex(b"PK\1\2") + in_list, value)
    if in_both and in_entry:
        struct.pack_into(form, data, in_entry, value)
    (tmp_path / "a.npz").write_bytes(data)
    refused(tmp_path / "a.npz")


def test_a_huge_list_of_entries_is_not_read(tmp_path):
    """Four gigabytes of nothing, with an end that says that all of it is the list."""
    path = tmp_path / "a.npz"
    with open(path, "wb") as file:
        file.truncate(1 << 32)
        file.seek(0, os.SEEK_END)
        file.write(b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, (1 << 32) - 100, 0, 0))
    refused(path, "bytes at once")


def test_what_is_no_file(tmp_path):
    refused(tmp_path / "missing.npz", "there is no such checkpoint")
    refused(tmp_path, "is no regular file")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        refused(tmp_path / "pipe", "is no regular file")  # and does not wait for a writer


def test_every_flipped_bit_is_noticed_or_does_not_matter(tmp_path):
    """Single bits, all over a file: the arrays as they were, or one line."""
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    rng, buffer = random.Random(seed), io.BytesIO()
    saved(buffer)
    whole, path, noticed = buffer.getvalue(), tmp_path / "a.npz", 0
    for bit in rng.sample(range(8 * len(whole)), 1500):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        try:
            same(read_all(path), ARRAYS)
        except UserError as error:
            assert str(error).startswith(f"{path}: is damaged") and "\n" not in str(error)
            noticed += 1
    assert noticed > 750
