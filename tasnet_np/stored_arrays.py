"""Arrays of an .npz file, read with suspicion: what a file says is held against limits before memory is made for it.

`numpy.load` believes a file: a few bytes in it decide how much memory is taken and by which code an entry is unpacked,
and a single wrong bit gives one of a dozen kinds of exception. Here only arrays of floats and of text are read, from
entries that are stored as they are or deflated, as `numpy.savez` writes them. All else is damage, told in one line.
"""

import contextlib
import errno
import io
import math
import os
import re
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass

import numpy as np

from tasnet_np.errors import UserError
from tasnet_np.ranges import shown

BLOCK = 1 << 20  # bytes
MOST_AT_ONCE = 4 << 20  # bytes of one read: the largest is that of the list of entries
MOST_AT_THE_END = 1 << 17  # bytes after the list: a zip file may end with a comment of half of that
MOST_HEADER = 1000  # bytes of the text before the values of an array
MOST_AXES = 8
MOST_EXPANSION = 100  # times the size of the file: floats are hardly ever packed to less
ENCRYPTED = 1  # a bit of an entry's flags
MOST_EXTRA = 46  # bytes; a wrong length that takes in the next entry of the list makes it longer
PACKED_AS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
HEADER = re.compile(
    rb"\s*\{\s*'descr':\s*'([<>](?:f4|f8|U[1-9]\d{0,7}))',\s*'fortran_order':\s*(True|False),"
    rb"\s*'shape':\s*\(((?:\s*\d{1,18}\s*,)*(?:\s*\d{1,18})?)\s*\),?\s*\}\s*"
)
DAMAGE = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, KeyError, TypeError, IndexError,
    AttributeError, OverflowError, RuntimeError,
)  # fmt: skip


@dataclass(frozen=True)
class Header:
    """What an array is, before its values are read."""

    stored_dtype: np.dtype
    shape: tuple
    fortran_order: bool
    length: int  # bytes before the values

    @property
    def dtype(self):
        """The dtype in the byte order of this machine, as `ArrayFile.read` gives the array."""
        return self.stored_dtype.newbyteorder("=")

    @property
    def nbytes(self):
        return math.prod(self.shape) * self.stored_dtype.itemsize


class ArrayFile:
    """An .npz file that is open, as a context manager.

    Parameters
    ----------
    path : str or Path
    what, remedy : str
        What the file should be, and what to do if it is not, for messages.

    Attributes
    ----------
    headers : dict of str to Header
        Of every array, by its name.

    Raises
    ------
    UserError
        There is no such file, or it is damaged, or has something in it that no honest file has.
    """

    def __init__(self, path, what, remedy="use another copy of it"):
        self.path, self.what, self.remedy = path, what, remedy

    def __enter__(self):
        with contextlib.ExitStack() as opened, self.noticing_damage():
            self._file = opened.enter_context(_open(self.path, self.what))
            self._archive = zipfile.ZipFile(self._file)
            self._entries = _checked_entries(self._archive.infolist(), os.stat(self._file.fileno()).st_size)
            self.headers = {name: self._header(name) for name in self._entries}
            opened.pop_all()
        return self

    def __exit__(self, *_):
        self._file.close()

    @contextlib.contextmanager
    def noticing_damage(self):
        """Turn whatever goes wrong while the file is read into a UserError."""
        try:
            yield
        except UserError:
            raise
        except OSError as error:
            if error.errno not in (None, errno.EINVAL):  # EINVAL: a place that the file cannot have
                raise UserError(f"{self.path}: cannot be read ({error.strerror}); check the path") from None
            raise self.damaged(error) from None
        except DAMAGE as error:
            raise self.damaged(error) from None

    def damaged(self, why):
        """A UserError that says so."""
        why = " ".join(str(why).split())[:200] or "it ends too early"
        return UserError(f"{self.path}: is damaged, cut short or not a {self.what} ({why}); {self.remedy}")

    def read(self, name):
        """An array, writable, C-contiguous and in the byte order of this machine.

        Raises
        ------
        UserError
            Its values are damaged.
        """
        header = self.headers[name]
        with self.noticing_damage(), self._archive.open(self._entries[name]) as entry:
            entry.read(header.length)
            values = np.empty(math.prod(header.shape), header.stored_dtype)
            room = memoryview(values.view(np.uint8))
            for start in range(0, len(room), BLOCK):
                if entry.readinto(room[start : start + BLOCK]) != len(room[start : start + BLOCK]):
                    raise EOFError(f"{shown(name)} ends too early")
            values = values.reshape(header.shape, order="F" if header.fortran_order else "C")
            return np.asarray(values, header.dtype, order="C")

    def _header(self, name):
        """Read what stands before the values of an array."""
        entry = self._entries[name]
        with self._archive.open(entry) as opened:
            magic = opened.read(8)
            if magic[:6] != b"\x93NUMPY" or magic[6] not in (1, 2, 3):
                raise ValueError(f"{shown(name)} is no array")
            width = 2 if magic[6] == 1 else 4
            length = int.from_bytes(opened.read(width), "little")
            found = length <= MOST_HEADER and HEADER.fullmatch(opened.read(length))
        if not found:
            raise ValueError(f"{shown(name)} is no array of floats or of text")
        descr, order, axes = (part.decode() for part in found.groups())
        shape = tuple(int(axis) for axis in axes.split(",") if axis.strip())
        header = Header(np.dtype(descr), shape, order == "True", 8 + width + length)
        if len(shape) > MOST_AXES or header.length + header.nbytes != entry.file_size:
            raise ValueError(f"{shown(name)} does not have as many values as it says")
        return header


class _Bounded(io.BufferedReader):
    """A file that is never read in larger pieces than an honest file needs."""

    def read(self, size=-1):
        if size is None or size < 0:
            size = MOST_AT_THE_END
        if size > MOST_AT_ONCE:
            raise ValueError(f"{size} bytes at once")
        return super().read(size)


def _open(path, what):
    """The file, for reading; only a regular one, as a pipe would keep us waiting."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UserError(f"{path}: is no regular file; give a {what}")
        return _Bounded(io.FileIO(path))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such checkpoint; train one, or correct the path") from None


def _checked_entries(entries, file_bytes):
    """The entries of a zip file by the names of their arrays. Raises ValueError for one that no .npz file has."""
    named = {}
    for entry in entries:
        name = entry.filename.removesuffix(".npy")
        if name == entry.filename or name in named:
            raise ValueError(f"{shown(name)} does not belong there")
        if entry.flag_bits & ENCRYPTED or entry.compress_type not in PACKED_AS:
            raise ValueError(f"{shown(name)} is encrypted, or packed in an unusual way")
        if entry.comment or len(entry.extra) > MOST_EXTRA:
            raise ValueError(f"{shown(name)} hides the entries after it")
        if entry.compress_type == zipfile.ZIP_STORED and entry.compress_size != entry.file_size:
            raise ValueError(f"{shown(name)} has two sizes")
        named[name] = entry
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > MOST_EXPANSION * file_bytes:
        raise ValueError(f"{unpacked / 1e6:.0f} MB in a file of {file_bytes / 1e6:.3f} MB")
    return named
