"""libsndfile on the parts of a file: which they are, and how one is opened."""

import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import soundfile as sf

from tasnet_np.containers.chunks import CONTAINERS, au_parts, chunk_parts
from tasnet_np.containers.mp3 import mp3_parts
from tasnet_np.containers.parts import PartFile, Stretch
from tasnet_np.containers.streams import after_id3, flac_parts, ogg_parts
from tasnet_np.errors import UserError

MOST_PARTS = 10_000  # of a file


class Sequential(sf.SoundFile):
    """A SoundFile that does not seek after each block: some codings cannot, and some are read wrongly after it."""

    def seekable(self):
        return False


def parts_of(path, *, joined=False):
    """The parts of an audio file that libsndfile is to read one after the other.

    Parameters
    ----------
    path : Path
    joined : bool
        Look through all of a FLAC file for another one joined to it, which takes time.

    Returns
    -------
    list of Part
        Empty where the kind of file is not known here, or where no samples are found in it.

    Raises
    ------
    UserError
        The file is shorter than its header says, or cannot be measured.
    OSError
        It cannot be read.
    """
    with open(path, "rb") as file:
        place, end, parts = 0, os.fstat(file.fileno()).st_size, []
        while place < end:
            more, following = _parts_of_one(Stretch(file, path, place, end), joined)
            if place and not more or len(parts) > MOST_PARTS:
                found = f"has {len(parts)} parts, and what follows them at byte {place} is not known"
                raise UserError(f"{path}: {found}; convert it to WAV")
            parts += more
            place = following
    return parts


def _parts_of_one(stretch, joined):
    """The parts of the file with which a stretch begins, and the place where another one follows."""
    start = after_id3(stretch)
    kind = stretch.kind(start)
    one = Stretch(stretch.file, stretch.path, start, stretch.end)
    if kind in CONTAINERS:
        return chunk_parts(one, kind)
    if kind == "AU":
        return au_parts(one)
    if kind == "FLAC":
        return flac_parts(one, joined)
    if kind == "OGG":
        return ogg_parts(one)
    head = one.at(start, 2)
    if start > stretch.start or len(head) == 2 and head[0] == 0xFF and head[1] >= 0xE0:
        return mp3_parts(one)
    return [], stretch.end


@contextlib.contextmanager
def open_part(path, part):
    """A part of a file, or the file where `part` is None, opened by libsndfile.

    Yields
    ------
    object with the methods `read` and `seek` and the attributes of a SoundFile

    Raises
    ------
    OSError, soundfile.SoundFileError, TypeError
        As from a SoundFile.
    """
    if part is None or part.is_whole(os.path.getsize(path)):
        with Sequential(path) as opened:
            yield opened
        return
    with open(path, "rb") as file:
        opened = _OpenedPart(file, part)
        try:
            yield opened
        finally:
            opened.close()


class _OpenedPart:
    """A part opened by libsndfile, which calls back into Python for its bytes.

    An exception is lost in such a call. Ctrl-C raises one, but only in the main thread: so there another thread makes
    the calls.
    """

    def __init__(self, file, part):
        self._bytes = PartFile(file, part)
        is_main = threading.current_thread() is threading.main_thread()
        self._thread = ThreadPoolExecutor(1) if is_main else None
        try:
            self._opened = self._call(Sequential, self._bytes)
        except BaseException:
            self._wait()
            raise

    def __getattr__(self, name):
        return getattr(self._opened, name)

    def read(self, *arguments, **settings):
        return self._call(self._opened.read, *arguments, **settings)

    def seek(self, frame):
        return self._call(self._opened.seek, frame)

    def close(self):
        self._wait()
        self._opened.close()

    def _call(self, function, *arguments, **settings):
        try:
            if self._thread is None:
                return function(*arguments, **settings)
            return self._thread.submit(function, *arguments, **settings).result()
        finally:
            if self._bytes.error:
                raise self._bytes.error

    def _wait(self):
        """Until no call is under way: a file must not be closed while it is read."""
        if self._thread is not None:
            self._thread.shutdown()
