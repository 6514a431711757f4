"""Compiled kernels on disk: where they are kept, and what happens where they cannot be.

**What is kept is code.** A file holds machine instructions, and pickle, which runs what it reads, brings them back. So
files are read only from folders that belong to this user or to root, and that no other user may write to. These are,
in this order:

1. a folder below NUMBA_CACHE_DIR, where that is set;
2. `__pycache__` beside the kernel's source;
3. a folder below Numba's own in the user's cache (on Linux ~/.cache/numba);
4. one below `tasnet_np-<number of the user>` in the folder for temporary files, for this user alone.

A kernel is taken from the first folder that has it, and written to the first that takes it. A file that is damaged, cut
short, or of another version or processor is no kernel: it is compiled anew, and the file is replaced. Where no folder
takes it, the kernel is compiled for this process alone. A line says so once, and the work goes on.

Numba's own cache would refuse to import the package where it may not write, and end a command at a damaged file.
"""

import contextlib
import errno
import functools
import hashlib
import inspect
import os
import pickle
import secrets
import stat
import sys
import tempfile
import warnings
from pathlib import Path

import numba
import numba.core.event
from numba.core.caching import FunctionCache, _CacheLocator
from numba.misc.appdirs import AppDirs

PACKAGE = __name__.partition(".")[0]
SUFFIX = ".nbc"
NOT_KEPT = "compiled kernels are not kept, and are compiled anew each time"
CHECKSUM = hashlib.sha256  # of the rest of a file, at its beginning


def keep_on_disk(dispatcher, numbas_cache=FunctionCache):
    """Let a kernel be kept on disk. Returns it.

    Parameters
    ----------
    dispatcher : what `numba.njit` or `numba.cuda.jit` has made
        Where Numba compiles nothing (NUMBA_DISABLE_JIT), it is a plain function and stays as it is.
    numbas_cache : class
        Numba's cache for it, which turns a compiled kernel into data and back; on a GPU `CUDACache`.
    """
    if hasattr(dispatcher, "py_func"):
        dispatcher._cache = _cache_class(numbas_cache)(dispatcher.py_func)
    return dispatcher


@functools.cache
def _cache_class(numbas_cache):
    """Numba's cache, but with the folders and the files of this module."""

    class Parts(numbas_cache._impl_class):
        def __init__(self, function):
            self._locator = _Locator(function)
            self._lineno = function.__code__.co_firstlineno
            name = f"{Path(inspect.getfile(function)).stem}.{function.__qualname__}"
            self._filename_base = self.get_filename_base(name, getattr(sys, "abiflags", ""))

    class KernelCache(_Files, numbas_cache):
        _impl_class = Parts

    return KernelCache


class _Locator(_CacheLocator):
    """Tells Numba where the source of a kernel is, and which version of it. It looks at no folder."""

    def __init__(self, function):
        self.function, self.source = function, inspect.getfile(function)

    def get_cache_path(self):
        return str(_folders(self.source, numba.config.CACHE_DIR)[0])

    def get_source_stamp(self):
        return _checksum_of_source(self.source)

    def get_disambiguator(self):
        return str(self.function.__code__.co_firstlineno)


class _Files:
    """The part of a cache of Numba's that reads and writes: a file for each kernel and types of arguments."""

    def _load_overload(self, sig, target_context):
        name, about = self._name_and_make(sig, target_context.codegen())
        for folder in self._folders() if self._enabled else ():
            with contextlib.suppress(Exception):  # pickle has many for a file of another make
                if (data := _read(folder / name, about)) is not None:
                    return self._impl.rebuild(target_context, pickle.loads(data))
        return None

    def _save_overload(self, sig, data):
        if not self._enabled or not self._impl.check_cachable(data):
            return
        name, about = self._name_and_make(sig, data.codegen)
        problems = []
        try:
            contents = _framed(about, self._cache_file._dump(self._impl.reduce(data)))
        except Exception as error:  # it runs all the same
            return _warn_once(NOT_KEPT, [f"{type(error).__name__}: {error}"])
        for folder in self._folders():
            try:
                _write(folder / name, contents)
            except OSError as error:
                problems.append(f"{folder}: {error.strerror}")
                continue
            if problems and (folder.parent == _temporary_folder() or numba.config.CACHE_DIR):
                _warn_once(f"compiled kernels are kept in {folder}", problems)
            return
        _warn_once(NOT_KEPT, problems)

    def _folders(self):
        return _folders(self._impl.locator.source, numba.config.CACHE_DIR)

    def _name_and_make(self, sig, codegen):
        """The name of a kernel's file, and what that must say of itself to be of use."""
        key = self._index_key(sig, codegen)
        here = hashlib.sha256(repr(key[:2]).encode()).hexdigest()[:16]  # types of the arguments, processor
        make = numba.__version__, self._impl.locator.get_source_stamp(), key
        return f"{self._impl.filename_base}.{here}{SUFFIX}", repr(make).encode()

    def flush(self):
        """Forget what is kept of this kernel."""
        for folder in self._folders():
            for path in folder.glob(f"{self._impl.filename_base}.*{SUFFIX}"):
                path.unlink(missing_ok=True)


@functools.cache
def _folders(source, given):
    """The folders for kernels of a source file, in the order in which they are asked; `given` is NUMBA_CACHE_DIR."""
    source = Path(os.path.abspath(source))
    below = _CacheLocator.get_suitable_cache_subpath(str(source))  # a name of its own for each source folder
    folders = [Path(given, below)] if given else []
    folders += [source.parent / "__pycache__", Path(AppDirs("numba", False).user_cache_dir, below)]
    return folders + ([_temporary_folder() / below] if _temporary_folder() else [])


@functools.cache
def _temporary_folder():
    """The folder for this user in that for temporary files. None where there is none."""
    with contextlib.suppress(OSError):
        return Path(tempfile.gettempdir(), f"{PACKAGE}-{os.getuid() if hasattr(os, 'getuid') else 'user'}")


def _is_safe(folder):
    """Whether no user but this one and root can have put a file into a folder. What is in it will be run."""
    if folder.parent == _temporary_folder() and not _is_safe(folder.parent):
        return False
    is_private = folder == _temporary_folder()  # it lies where every user may put something, such as a link
    try:
        status = os.lstat(folder) if is_private else os.stat(folder)
    except OSError:
        return False
    if not hasattr(os, "geteuid"):  # on Windows all these folders are below the user's own
        return True
    others = stat.S_IWOTH if _is_own_group(status) else stat.S_IWOTH | stat.S_IWGRP
    if is_private:
        others = stat.S_IRWXO | stat.S_IRWXG
    owned = status.st_uid in (0, os.geteuid())
    return stat.S_ISDIR(status.st_mode) and owned and not status.st_mode & others


def _is_own_group(status):
    """Whether the group of a folder is its owner's alone. Many systems make one for each user."""
    if not status.st_mode & stat.S_IWGRP or status.st_gid == 0:
        return False
    import grp
    import pwd

    with contextlib.suppress(KeyError):
        group, owner = grp.getgrgid(status.st_gid), pwd.getpwuid(status.st_uid).pw_name
        return group.gr_name == owner and set(group.gr_mem) <= {owner}
    return False


def _framed(about, data):
    """The contents of a file: a checksum, the length of what it says of itself, that, and the data."""
    rest = len(about).to_bytes(4, "little") + about + data
    return CHECKSUM(rest).digest() + rest


def _read(path, about):
    """The data of a file, or None if it is not whole or of another make. Raises OSError where there is no file."""
    if not _is_safe(path.parent):
        return None
    contents = memoryview(path.read_bytes())
    size = CHECKSUM().digest_size
    if contents[:size] != CHECKSUM(contents[size:]).digest():
        return None
    data = size + 4 + int.from_bytes(contents[size : size + 4], "little")
    return contents[data:] if contents[size + 4 : data] == about else None


def _write(path, contents):
    """Write a file, whole or not at all. Raises OSError."""
    folder = path.parent
    if folder.parent == _temporary_folder():
        _make_folder(folder.parent, 0o700)
    _make_folder(folder, 0o755)
    temporary = folder / f".{secrets.token_hex(8)}{SUFFIX}"
    try:
        temporary.write_bytes(contents)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _make_folder(folder, mode):
    os.makedirs(folder, mode, exist_ok=True)
    if not _is_safe(folder):
        raise OSError(errno.EPERM, "other users may write to it")


@functools.cache
def source_bytes(path):
    """The contents of a source file of the package, also where that is in a zip file; None where there is none."""
    with contextlib.suppress(OSError):
        return Path(path).read_bytes()
    with contextlib.suppress(OSError, AttributeError):
        return sys.modules[PACKAGE].__spec__.loader.get_data(str(path))
    return None


@functools.cache
def _checksum_of_source(path):
    return hashlib.sha256(source_bytes(path) or b"").hexdigest()


_warned = []  # the line that was said, if any


def _say(line):
    warnings.warn_explicit(line, RuntimeWarning, PACKAGE, 0)  # in one line: without that of some source


def _warn_once(what, problems):
    if not _warned:
        _warned.append(what)
        _say(f"{what} ({'; '.join(problems)}); set NUMBA_CACHE_DIR to a folder of yours that has room")


class _CompileListener(numba.core.event.Listener):
    """Says which kernel Numba is about to compile. Nothing is said of kernels that come from the cache on disk."""

    def __init__(self, say):
        self.say = say

    def on_start(self, event):
        function = event.data["dispatcher"].py_func
        if function.__module__.startswith(PACKAGE):
            self.say(f"compiling {function.__name__.strip('_')} for this machine (once; kept on disk)")

    def on_end(self, event):
        pass


def announce_compiling(say):
    """From now on, call `say` with a line of text before a kernel is compiled, and where it cannot be kept."""
    global _say
    numba.core.event.register("numba:compile", _CompileListener(say))

    def _say(line):
        say(f"warning: {line}")
