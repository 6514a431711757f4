"""A file is written whole or not at all, and every failure is one line for the user."""

import errno
import os

import pytest

from tasnet_np.errors import UserError
from tasnet_np.safe_files import atomic_path


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


def test_user_error_is_one_line():
    assert str(UserError("a\nb\r\nc")) == "a b c"


def test_the_file_appears_with_the_right_contents_and_nothing_else(tmp_path):
    path = tmp_path / "model.npz"
    with atomic_path(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".npz"
        temporary.write_bytes(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert listing(tmp_path) == ["model.npz"]


def test_an_earlier_file_is_replaced(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"old and longer")
    with atomic_path(str(path)) as temporary:
        temporary.write_bytes(b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("interruption", [RuntimeError, KeyboardInterrupt, UserError])
def test_an_exception_keeps_the_earlier_file_and_leaves_no_temporary(tmp_path, interruption):
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    with pytest.raises(interruption, match="stop"):
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"half of the n")
            raise interruption("stop")
    assert path.read_bytes() == b"old"
    assert listing(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("where", ["write", "fsync", "replace"])
@pytest.mark.parametrize(
    "code, remedy", [(errno.ENOSPC, "free some disk space"), (errno.EACCES, "choose a folder")]
)
def test_disk_full_or_no_permission_at_any_moment(tmp_path, monkeypatch, where, code, remedy):
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")

    def fail(*args):
        raise OSError(code, os.strerror(code))

    if where != "write":
        monkeypatch.setattr(os, where, fail)
    with pytest.raises(UserError) as caught:
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"new")
            if where == "write":
                fail()
    message = str(caught.value)
    assert str(path) in message and os.strerror(code) in message and remedy in message
    assert path.read_bytes() == b"old"
    assert listing(tmp_path) == ["a.txt"]


def test_a_device_that_is_really_full(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("/dev/full is missing on this system")
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    with pytest.raises(UserError, match="free some disk space"):
        with atomic_path(path), open("/dev/full", "wb", buffering=0) as file:
            file.write(b"new")
    assert path.read_bytes() == b"old"


def test_missing_folder_and_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "nowhere" / "a.txt", tmp_path / "file" / "a.txt"):
        with pytest.raises(UserError, match="create the folder first") as caught:
            with atomic_path(path):
                pytest.fail("the body must not run")
        assert str(path) in str(caught.value)
    assert listing(tmp_path) == ["file"]


@pytest.mark.parametrize("path", [".", "..", os.devnull])
def test_targets_that_are_no_files_are_refused_before_any_work(path):
    with pytest.raises(UserError, match="not a regular file"):
        with atomic_path(path):
            pytest.fail("the body must not run")
