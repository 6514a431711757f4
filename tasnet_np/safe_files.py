"""Files that are written whole or not at all, and folders that one program has to itself."""

import contextlib
import errno
import os
import re
import secrets
import stat
from pathlib import Path

from tasnet_np.errors import UserError

try:
    import fcntl
except ImportError:  # Windows has no flock: there, two programs in one folder are not noticed
    fcntl = None


REMEDIES = {  # what a user can do about an error of the operating system
    errno.ENOSPC: "free some disk space or write elsewhere",
    errno.EDQUOT: "free some disk space or write elsewhere",
    errno.ENOENT: "check the name",
    errno.ENOTDIR: "check the name: a part of it is no folder",
    errno.EISDIR: "give a file, not a folder",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ELOOP: "mend the symbolic link",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.EBADF: "open it for this purpose",
}


def in_one_line(error):
    """An error of the operating system in words: the file, what happened, what to do.

    Parameters
    ----------
    error : OSError

    Returns
    -------
    str
    """
    names = [
        os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes))
    ]
    found = error.strerror or " ".join(map(str, error.args)) or type(error).__name__
    remedy = REMEDIES.get(error.errno, "check that you may use it")
    return " ".join(f"{': '.join([*names, found])}; {remedy}".splitlines())


@contextlib.contextmanager
def atomic_path(path):
    """Give a temporary path to write to, and rename it to `path` once everything is on disk.

    If anything goes wrong before that, the temporary file is removed, and an earlier file at `path`
    stays as it was. A new file replaces an earlier one with the same mode and, where the system allows it, the same
    owner. If `path` is a symbolic link, the file that it points to is written, and the link stays.

    Parameters
    ----------
    path : str or Path
        The file to write. Its folder must exist.

    Yields
    ------
    Path
        An empty file with the same suffix, in the folder of the file to write: only there is a rename atomic.

    Raises
    ------
    UserError
        The folder is missing or not writable, the disk is full, or `path` is not a regular file.
    """
    path = Path(path)
    with _writing_to(path):
        earlier, target, temporary = _places(path)
        try:
            _create(temporary, private=earlier is not None)
            yield temporary
            with open(temporary, "r+b") as file:
                os.fsync(file.fileno())
            if earlier:
                _make_like(temporary, earlier)
            os.replace(temporary, target)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def check_target(path):
    """Refuse a file that `atomic_path` could not write, before any work; with the same errors."""
    with _writing_to(path):
        _, _, temporary = _places(Path(path))
        _create(temporary, private=True)
        temporary.unlink()


def check_folder(folder):
    """Refuse a folder that cannot be written to, or that is not there and cannot be made, before any work."""
    with _writing_to(folder):
        existing = next(path for path in (folder, *folder.parents) if _is_there(path))
        if not os.path.isdir(existing):
            raise UserError(f"{existing}: is a file, not a folder; give another output")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise UserError(f"{existing}: is not writable; choose a folder that you may write to")
        probe = existing / f".{secrets.token_hex(8)}"
        _create(probe, private=True)
        probe.unlink()


def _is_there(path):
    """Whether there is anything at a path, be it a link to nowhere."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _places(path):
    """The status of an earlier file at a path, or None; the file to write, which no link is; a temporary one."""
    try:
        earlier = os.stat(path)
    except FileNotFoundError:
        earlier = None
    if earlier and not stat.S_ISREG(earlier.st_mode):
        raise UserError(f"{path}: is not a regular file; give the path of a file to write")
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    suffix = path.suffix if len(path.suffix) < 16 else ""  # a long name may not become longer
    return earlier, target, target.parent / f".{secrets.token_hex(8)}{suffix}"


def _create(path, private):
    """Make an empty file: for the user alone, or with the usual mode."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666))


def _make_like(path, earlier):
    """Give a file the owner and the mode of an earlier one, as far as user and file system may."""
    with contextlib.suppress(OSError, AttributeError):  # only root gives files away; Windows has no owners
        os.chown(path, earlier.st_uid, earlier.st_gid)
    with contextlib.suppress(OSError):
        os.chmod(path, stat.S_IMODE(earlier.st_mode))


@contextlib.contextmanager
def _writing_to(path):
    """Turn an error of the operating system into a UserError that names the path."""
    try:
        yield
    except OSError as error:
        found = f"cannot be written ({error.strerror})"
        raise UserError(f"{path}: {found}; {_remedy(error)}") from error


def _remedy(error):
    """What the user can do about an error of the operating system while writing."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return "create the folder first"
    return REMEDIES.get(error.errno, "choose a folder that you may write to")


@contextlib.contextmanager
def lock(folder):
    """Have a folder to oneself. The lock ends with the program, also if it is killed, and leaves no file.

    Parameters
    ----------
    folder : str or Path

    Raises
    ------
    UserError
        Another program holds it, or there is no such folder.
    """
    try:
        handle = os.open(folder, os.O_RDONLY) if fcntl else None
    except OSError as error:
        raise UserError(f"{folder}: cannot be used ({error.strerror}); create the folder first") from error
    try:
        _take_lock(folder, handle)
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _take_lock(folder, handle):
    try:
        if fcntl:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"{folder}: another run is writing there; wait for it, or choose another --out"
        ) from None
    except OSError as error:  # some network file systems have no locks
        raise UserError(f"{folder}: cannot be locked ({error.strerror}); choose another --out") from error


def remove_temporaries(folder):
    """Remove the temporary files of `atomic_path` that a killed program left in a folder. Hold its `lock` first."""
    for path in Path(folder).iterdir():
        if re.fullmatch(r"\.[0-9a-f]{16}(\.\w+)?", path.name):
            path.unlink(missing_ok=True)


def check_is_file(path):
    """Refuse a path to read that is a folder, a device or a pipe, which might never end. What is missing passes."""
    try:
        mode = os.stat(path).st_mode
    except OSError:  # the reader tells
        return
    if not stat.S_ISREG(mode):
        raise UserError(f"{path}: is not a regular file; give the path of a file to read")
