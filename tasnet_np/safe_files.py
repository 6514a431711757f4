"""Files that are written whole or not at all, and folders that one program has to itself."""

import contextlib
import errno
import os
import re
import secrets
from pathlib import Path

from tasnet_np.errors import UserError

try:
    import fcntl
except ImportError:  # Windows has no flock: there, two programs in one folder are not noticed
    fcntl = None


@contextlib.contextmanager
def atomic_path(path):
    """Give a temporary path to write to, and rename it to `path` once everything is on disk.

    If anything goes wrong before that, the temporary file is removed, and an earlier file at `path`
    stays as it was.

    Parameters
    ----------
    path : str or Path
        The file to write. Its folder must exist.

    Yields
    ------
    Path
        An empty file with the same suffix, in the same folder: only there is a rename atomic.

    Raises
    ------
    UserError
        The folder is missing or not writable, the disk is full, or `path` is not a regular file.
    """
    path = Path(path)
    temporary = path.parent / f".{secrets.token_hex(8)}{path.suffix}"
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: is not a regular file; give the path of a file to write")
        temporary.touch(exist_ok=False)
        yield temporary
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        found = f"cannot be written ({error.strerror})"
        raise UserError(f"{path}: {found}; {_remedy(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _remedy(error):
    """What the user can do about an error of the operating system while writing."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some disk space or write elsewhere"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return "create the folder first"
    return "choose a folder that you may write to"


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
        if fcntl:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise UserError(
            f"{folder}: another run is writing there; wait for it, or choose another --out"
        ) from None
    finally:
        if handle is not None:
            os.close(handle)


def remove_temporaries(folder):
    """Remove the temporary files of `atomic_path` that a killed program left in a folder. Hold its `lock` first."""
    for path in Path(folder).iterdir():
        if re.fullmatch(r"\.[0-9a-f]{16}(\.\w+)?", path.name):
            path.unlink(missing_ok=True)
