"""A file is written whole or not at all, and every failure is one line for the user."""

import errno
import os
import stat
from pathlib import Path

import pytest
from small_disk import room_for, small_disk

from tasnet_np.errors import UserError
from tasnet_np.safe_files import atomic_path, check_folder, check_is_file, check_target, in_one_line, lock


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


# Mode, owner and links of an earlier file are kept.


def write(path, data=b"new"):
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.skipif(os.name != "posix", reason="modes are of POSIX systems")
@pytest.mark.parametrize("earlier", [0o600, 0o640, 0o444, 0o664, 0o755])
def test_the_mode_of_an_earlier_file_is_kept(tmp_path, earlier, umask):
    path = tmp_path / "a.txt"
    path.touch()
    path.chmod(earlier)
    write(path)
    assert path.read_bytes() == b"new" and mode(path) == earlier


@pytest.mark.skipif(os.name != "posix", reason="modes are of POSIX systems")
def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path, umask):
    write(tmp_path / "a.txt")
    assert mode(tmp_path / "a.txt") == 0o640


@pytest.mark.skipif(os.name != "posix", reason="modes are of POSIX systems")
def test_what_replaces_a_private_file_is_private_while_it_is_written(tmp_path):
    path = tmp_path / "a.txt"
    path.touch(mode=0o600)
    with atomic_path(path) as temporary:
        assert mode(temporary) == 0o600


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
def test_root_keeps_the_owner(tmp_path):
    path = tmp_path / "a.txt"
    path.touch(mode=0o640)
    os.chown(path, 1234, 4321)
    write(path)
    status = path.stat()
    assert (status.st_uid, status.st_gid, mode(path)) == (1234, 4321, 0o640)


def test_a_link_stays_a_link_and_its_target_is_written(tmp_path):
    for folder in ("links", "files"):
        (tmp_path / folder).mkdir()
    (tmp_path / "files" / "old.txt").write_bytes(b"old")
    (tmp_path / "links" / "first.txt").symlink_to(Path("..", "files", "old.txt"))
    (tmp_path / "links" / "second.txt").symlink_to("first.txt")
    (tmp_path / "links" / "to-nothing.txt").symlink_to(tmp_path / "files" / "new.txt")
    for name, target in {"first": "old", "second": "old", "to-nothing": "new"}.items():
        link = tmp_path / "links" / f"{name}.txt"
        with atomic_path(link) as temporary:
            assert temporary.parent == tmp_path / "files"  # a rename from another disk would fail
            temporary.write_text(name)
        assert link.is_symlink()
        assert (tmp_path / "files" / f"{target}.txt").read_text() == name
    assert listing(tmp_path / "files") == ["new.txt", "old.txt"]
    assert len(listing(tmp_path / "links")) == 3


def test_a_link_is_kept_when_the_write_fails(tmp_path):
    (tmp_path / "old.txt").write_bytes(b"old")
    (tmp_path / "link.txt").symlink_to("old.txt")
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "link.txt") as temporary:
        temporary.write_bytes(b"half of the n")
        raise RuntimeError
    assert (tmp_path / "link.txt").read_bytes() == b"old" and listing(tmp_path) == ["link.txt", "old.txt"]


@pytest.mark.parametrize("check", [write, check_target])
def test_paths_that_cannot_be_written_are_named_with_a_remedy(tmp_path, check):
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    (tmp_path / "astray.txt").symlink_to(tmp_path / "nowhere" / "a.txt")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    before = listing(tmp_path)
    for name, words in {
        "loop.txt": "mend the symbolic link",
        "astray.txt": "create the folder first",
        "folder": "is not a regular file",
        "pipe": "is not a regular file",
        "n" * 300: "give a shorter name",
        "nowhere/a.txt": "create the folder first",
    }.items():
        with pytest.raises(UserError, match=words) as caught:
            check(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert listing(tmp_path) == before


def test_the_longest_name_that_a_folder_takes(tmp_path):
    path = tmp_path / ("a." + "n" * 253)
    write(path)
    assert path.read_bytes() == b"new"


def test_a_check_leaves_nothing_and_changes_nothing(tmp_path):
    path = tmp_path / "a.txt"
    check_target(path)
    assert listing(tmp_path) == []
    path.write_bytes(b"old")
    check_target(path)
    check_folder(tmp_path)
    check_folder(tmp_path / "new" / "one")
    assert listing(tmp_path) == ["a.txt"] and path.read_bytes() == b"old"


@pytest.mark.parametrize("below", ["", "new/one"])
def test_folders_that_cannot_be_used(tmp_path, below):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for name, words in {
        "file": "is a file, not a folder",
        "loop": "not a folder|mend the symbolic link",
        "n" * 300: "shorter name",
    }.items():
        with pytest.raises(UserError, match=words):
            check_folder(tmp_path / name / below)
    if os.path.isdir("/proc/self"):
        with pytest.raises(UserError, match="/proc"):
            check_folder(Path("/proc/nothing-of-this-name") / below)


def test_only_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero"), Path(os.devnull)):
        with pytest.raises(UserError, match="is not a regular file; give the path of a file to read"):
            check_is_file(path)
    check_is_file(tmp_path / "missing")  # whose reader tells
    (tmp_path / "link").symlink_to(__file__)
    check_is_file(tmp_path / "link")


def test_an_error_of_the_system_in_one_line():
    error = FileNotFoundError(errno.ENOENT, "No such file or directory", "a\nb.wav")
    assert in_one_line(error) == "a b.wav: No such file or directory; check the name"
    error = OSError(errno.EXDEV, "Invalid cross-device link", b"\xff.wav", None, "b.wav")
    assert in_one_line(error) == "\udcff.wav: b.wav: Invalid cross-device link; check that you may use it"
    assert in_one_line(OSError("no number")) == "no number; check that you may use it"


def test_an_error_in_the_work_is_not_taken_for_a_lock_that_another_has(tmp_path):
    with pytest.raises(BlockingIOError), lock(tmp_path):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")


def test_a_disk_that_is_really_full(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        (disk / "a.txt").write_bytes(b"old")
        for free in (0, 4096, 8192):
            with room_for(free, disk), pytest.raises(UserError, match="a.txt: .*free some disk space"):
                write(disk / "a.txt", bytes(16384))
            assert (disk / "a.txt").read_bytes() == b"old" and listing(disk) == ["a.txt"]
        write(disk / "a.txt", bytes(16384))
        assert (disk / "a.txt").stat().st_size == 16384
