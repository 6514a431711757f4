"""Kernels on disk: kept where they can be, compiled anew where they cannot be read, not read where others may write."""

import os
import pickle
import random
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numba
import numpy as np
import pytest

import tasnet_np
from tasnet_np import kernel_cache
from tasnet_np.kernel_cache import keep_on_disk

PACKAGE = Path(tasnet_np.__file__).parent
SOURCE = "def kernel(x, factor):\n    return factor * x + len(x)\n"
needs_compiler = pytest.mark.skipif(numba.config.DISABLE_JIT == 1, reason="nothing is compiled")
DOUBLES, SINGLES = np.arange(3.0), np.arange(3, dtype=np.float32)
is_root = hasattr(os, "geteuid") and os.geteuid() == 0


@pytest.fixture
def places(tmp_path, monkeypatch):
    """The four folders, each below one of its own; and what was said."""
    found = SimpleNamespace(
        given=tmp_path / "given",
        source=tmp_path / "source",
        user=tmp_path / "user",
        temporary=tmp_path / "tmp",
    )
    found.source.mkdir()
    found.temporary.mkdir()
    (found.source / "made_up.py").write_text(SOURCE)
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(found.given))
    monkeypatch.setenv("XDG_CACHE_HOME", str(found.user))
    monkeypatch.setattr(tempfile, "tempdir", str(found.temporary))
    forget()
    found.said = []
    monkeypatch.setattr(kernel_cache, "_say", found.said.append)
    monkeypatch.setattr(kernel_cache, "_warned", [])
    yield found
    forget()


def forget():
    """What a process remembers of folders and sources."""
    for remembered in ("_temporary_folder", "_folders", "_checksum_of_source", "source_bytes"):
        getattr(kernel_cache, remembered).cache_clear()


def in_a_new_process(places, x=DOUBLES):
    """The kernel as a new process has it: nothing is compiled. Returns whether a call took it from the disk."""
    path, names = places.source / "made_up.py", {}
    exec(compile(path.read_text(), str(path), "exec"), names)
    kernel = keep_on_disk(numba.njit(names["kernel"]))
    np.testing.assert_array_equal(kernel(x, 2.0), 2 * x + len(x))
    (hits, misses) = (
        sum(counter.values()) for counter in (kernel.stats.cache_hits, kernel.stats.cache_misses)
    )
    assert hits + misses == 1
    return hits == 1


def kept(folder):
    return sorted(path for path in folder.rglob("*") if path.name.endswith(".nbc"))


def block(*folders):
    """Make folders impossible, for root as well."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
        folder.write_text("")


@needs_compiler
class TestFiles:
    def test_a_kernel_is_kept_and_found_for_each_type_of_arguments(self, places):
        assert not in_a_new_process(places)
        assert in_a_new_process(places)
        assert not in_a_new_process(places, SINGLES)
        assert in_a_new_process(places) and in_a_new_process(places, SINGLES)
        assert len(kept(places.given)) == 2 == len(list(places.given.rglob("*.*")))
        assert not places.said and not kept(places.user) and not kept(places.temporary)

    @pytest.mark.parametrize(
        "damage",
        [lambda data: b"", lambda data: data[:-1], lambda data: data[: len(data) // 2], lambda data: data[:20],
         lambda data: data + b"\0", lambda data: bytes(len(data)), lambda data: b"text", lambda data: data[40:],
         lambda data: random.Random(0).randbytes(len(data)), lambda data: pickle.dumps("0.68.1") + data],
    )  # fmt: skip
    def test_a_damaged_file_is_compiled_anew_and_replaced(self, places, damage):
        in_a_new_process(places)
        (path,) = kept(places.given)
        whole = path.read_bytes()
        path.write_bytes(damage(whole))
        assert not in_a_new_process(places)
        assert kept(places.given) == [path] and len(path.read_bytes()) > len(whole) / 2
        assert in_a_new_process(places) and not places.said

    def test_no_flipped_bit_is_run(self, places):
        in_a_new_process(places)
        (path,) = kept(places.given)
        whole, rng = path.read_bytes(), random.Random(0)
        places_of_bits = [*range(0, 8 * 60, 7), *(rng.randrange(8 * len(whole)) for _ in range(300))]
        _, about = _name_and_make(places)
        assert kernel_cache._read(path, about)
        for bit in places_of_bits:
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            assert kernel_cache._read(path, about) is None

    def test_a_file_of_other_arguments_is_not_taken(self, places):
        arguments = DOUBLES, SINGLES
        for x in arguments:
            in_a_new_process(places, x)
        first, second = kept(places.given)
        contents = first.read_bytes(), second.read_bytes()
        first.write_bytes(contents[1])
        second.write_bytes(contents[0])
        assert not any(in_a_new_process(places, x) for x in arguments)
        assert all(in_a_new_process(places, x) for x in arguments)

    def test_a_file_of_another_version_is_not_taken(self, places, monkeypatch):
        in_a_new_process(places)
        monkeypatch.setattr(numba, "__version__", "0.1")
        assert not in_a_new_process(places) and in_a_new_process(places)
        monkeypatch.undo()

    def test_an_edit_of_the_source_makes_it_anew_in_the_same_file(self, places):
        in_a_new_process(places)
        (places.source / "made_up.py").write_text(SOURCE.replace("factor * x +", "x * factor +"))
        forget()
        assert not in_a_new_process(places) and in_a_new_process(places)
        assert len(kept(places.given)) == 1

    @pytest.mark.parametrize("what", ["a folder", "unreadable", "of a module that has gone"])
    def test_what_cannot_be_read_does_no_harm(self, places, what):
        in_a_new_process(places)
        (path,) = kept(places.given)
        if what == "a folder":
            path.unlink()
            path.mkdir()
        elif what == "unreadable":
            path.chmod(0)
        else:
            _, about = _name_and_make(places)
            path.write_bytes(kernel_cache._framed(about, b"ctasnet_np.gone\nThing\n."))
        assert in_a_new_process(places) == (what == "unreadable" and is_root)
        assert in_a_new_process(places)

    def test_folders_that_vanish(self, places):
        in_a_new_process(places)
        shutil.rmtree(places.given)
        assert not in_a_new_process(places) and in_a_new_process(places)

    def test_what_is_kept_is_forgotten_on_demand(self, places):
        in_a_new_process(places)
        names = {}
        exec(compile(SOURCE, str(places.source / "made_up.py"), "exec"), names)
        kernel = keep_on_disk(numba.njit(names["kernel"]))
        kernel._cache.flush()
        assert not kept(places.given)


def _name_and_make(places):
    """The name of the one kernel's file, and what it says of itself."""
    (path,) = kept(places.given)
    contents = path.read_bytes()
    size = int.from_bytes(contents[32:36], "little")
    return path.name, contents[36 : 36 + size]


@needs_compiler
class TestFolders:
    def test_the_next_folder_that_takes_it(self, places, monkeypatch):
        beside, user = places.source / "__pycache__", places.user / "numba"
        assert not in_a_new_process(places) and kept(places.given)
        block(places.given)
        assert not in_a_new_process(places) and in_a_new_process(places) and len(kept(beside)) == 1
        block(beside)
        assert not in_a_new_process(places) and in_a_new_process(places) and len(kept(user)) == 1
        block(places.user)
        assert not in_a_new_process(places) and in_a_new_process(places) and len(kept(places.temporary)) == 1
        (private,) = places.temporary.iterdir()
        assert private.name == f"tasnet_np-{os.getuid()}" and stat.S_IMODE(private.stat().st_mode) == 0o700

    def test_numbas_own_places_need_no_warning(self, places, monkeypatch):
        monkeypatch.setattr(numba.config, "CACHE_DIR", "")
        block(places.source / "__pycache__")
        assert not in_a_new_process(places) and in_a_new_process(places) and not places.said

    def test_one_line_says_that_kernels_are_kept_elsewhere(self, places):
        block(places.given, places.source / "__pycache__", places.user)
        for x in (DOUBLES, SINGLES):
            assert not in_a_new_process(places, x)
        (line,) = places.said
        assert line.startswith(f"compiled kernels are kept in {places.temporary}") and "\n" not in line
        assert f"{places.given}" in line and "set NUMBA_CACHE_DIR to a folder" in line

    def test_one_line_says_that_kernels_are_not_kept(self, places):
        block(places.given, places.source / "__pycache__", places.user, places.temporary)
        for _ in range(2):
            assert not in_a_new_process(places)
        (line,) = places.said
        assert line.startswith("compiled kernels are not kept, and are compiled anew each time (")

    def test_no_folder_for_temporary_files_at_all(self, places, monkeypatch):
        def nowhere():
            raise FileNotFoundError("No usable temporary directory found")

        monkeypatch.setattr(tempfile, "gettempdir", nowhere)
        forget()
        block(places.given, places.source / "__pycache__", places.user)
        assert not in_a_new_process(places) and len(places.said) == 1

    def test_a_disk_that_is_full(self, places, monkeypatch):
        written = Path.write_bytes

        def full(path, data):
            if places.given in path.parents:
                written(path, data[:10])
                raise OSError(28, "No space left on device")
            return written(path, data)

        monkeypatch.setattr(Path, "write_bytes", full)
        assert not in_a_new_process(places) and in_a_new_process(places)
        assert len(kept(places.source)) == 1 and not list(places.given.rglob("*.*"))
        assert len(places.said) == 1 and "No space left on device" in places.said[0]

    def test_a_library_warns_in_pythons_way(self, places, monkeypatch):
        monkeypatch.undo()
        monkeypatch.setattr(kernel_cache, "_warned", [])
        with pytest.warns(RuntimeWarning, match="not kept .a; b.; set NUMBA_CACHE_DIR"):
            kernel_cache._warn_once("not kept", ["a", "b"])


def _harmful(about, marker):
    """A whole file of this make, but its data are a program."""

    class Harm:
        def __reduce__(self):
            return Path.touch, (marker,)

    return kernel_cache._framed(about, pickle.dumps(Harm()))


@needs_compiler
@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no users of this kind")
class TestWhoseFolders:
    """A file is run, so it is read only where no other user can have put it."""

    @pytest.fixture
    def harm(self, places, tmp_path):
        """A harmful file in the place of the kernel's, and the mark that it leaves when it is run."""
        in_a_new_process(places)
        (path,) = kept(places.given)
        path.write_bytes(_harmful(_name_and_make(places)[1], tmp_path / "was-run"))
        return path, tmp_path / "was-run"

    def test_this_file_would_do_harm(self, places, harm):
        assert not in_a_new_process(places) and harm[1].exists()

    @pytest.mark.parametrize("mode", [0o777, 0o757, 0o775, 0o1777, 0o722])
    def test_not_where_others_may_write(self, places, harm, mode, monkeypatch):
        monkeypatch.setattr(kernel_cache, "_is_own_group", lambda status: False)
        harm[0].parent.chmod(mode)
        assert not in_a_new_process(places) and not harm[1].exists()
        assert harm[0].read_bytes() and kept(places.source)  # kept in the next folder

    @pytest.mark.skipif(not is_root, reason="only root can give files away")
    def test_not_where_another_user_may_write(self, places, harm):
        os.chown(harm[0].parent, 65534, 65534)
        assert not in_a_new_process(places) and not harm[1].exists()

    @pytest.mark.parametrize("squatter", ["open to all", "a link", "a file", "of another user"])
    def test_a_folder_for_temporary_files_that_someone_else_has_made(self, places, tmp_path, squatter):
        block(places.given, places.source / "__pycache__", places.user)
        folder, elsewhere = places.temporary / f"tasnet_np-{os.getuid()}", tmp_path / "elsewhere"
        elsewhere.mkdir(mode=0o700)
        if squatter == "a link":
            folder.symlink_to(elsewhere)
        elif squatter == "a file":
            folder.write_text("")
        else:
            folder.mkdir()
            folder.chmod(0o750 if squatter == "open to all" else 0o700)
        if squatter == "of another user":
            if not is_root:
                pytest.skip("only root can give files away")
            os.chown(folder, 65534, 65534)
        assert not in_a_new_process(places) and not in_a_new_process(places)
        assert not kept(places.temporary) and not list(elsewhere.iterdir())
        assert places.said[0].startswith("compiled kernels are not kept")

    def test_a_group_of_the_owners_own_counts_as_the_owner(self, monkeypatch):
        import grp
        import pwd

        groups = {5: ("ann", []), 6: ("ann", ["ann"]), 7: ("staff", []), 8: ("ann", ["ann", "bob"])}
        monkeypatch.setattr(pwd, "getpwuid", lambda number: SimpleNamespace(pw_name="ann"))
        monkeypatch.setattr(
            grp,
            "getgrgid",
            lambda number: SimpleNamespace(gr_name=groups[number][0], gr_mem=groups[number][1]),
        )
        found = {
            number: kernel_cache._is_own_group(SimpleNamespace(st_mode=0o40775, st_uid=1, st_gid=number))
            for number in (*groups, 0)
        }
        assert found == {5: True, 6: True, 7: False, 8: False, 0: False}


SCRIPT = """
import sys
import numpy as np
from tasnet_np.compute.cpu import announce_compiling
announce_compiling(print)
from tasnet_np.ops import OPS
x = np.arange(-4, 4, dtype="f").reshape(1, 2, 4)
y, cache = OPS["prelu"].forward(x, np.full(1, 0.25, "f"))
assert np.array_equal(y, np.where(x > 0, x, 0.25 * x))
"""


@pytest.fixture
def package(tmp_path):
    """A copy of the package, and a function that runs SCRIPT or arguments with it where no folder can be made."""
    copied = shutil.copytree(
        PACKAGE, tmp_path / "lib" / "tasnet_np", ignore=shutil.ignore_patterns("__pycache__")
    )

    def run(*arguments, path=copied.parent, **changes):
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA", "PYTHON"))}
        nowhere = {"HOME": os.devnull, "XDG_CACHE_HOME": os.devnull, "TMPDIR": str(tmp_path)}
        environment = kept | nowhere | {"PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1"} | changes
        return subprocess.run(
            [sys.executable, *(arguments or ["-c", SCRIPT])],
            capture_output=True,
            text=True,
            env=environment,
            cwd=tmp_path,
            timeout=300,
        )

    for folder in [copied, *(path for path in copied.rglob("*") if path.is_dir())]:
        (folder / "__pycache__").write_text("")
    run.copied = copied
    return run


STRICT = "-W", "error", "-OO"


def test_help_needs_no_folder_and_says_nothing(package):
    block(package.copied.parents[1] / f"tasnet_np-{os.getuid()}")
    done = package(*STRICT, "-m", "tasnet_np", "--help")
    assert (done.returncode, done.stderr) == (0, "") and "denoise" in done.stdout


def test_a_process_works_where_nothing_can_be_kept(package):
    block(package.copied.parents[1] / f"tasnet_np-{os.getuid()}")
    done = package(*STRICT, "-c", SCRIPT)
    assert (done.returncode, done.stderr) == (0, "")
    compiled, warning = done.stdout.splitlines()
    assert compiled.startswith("compiling prelu_forward_cpu")
    assert warning.startswith("warning: compiled kernels are not kept, and are compiled anew each time (")


def test_the_folder_for_temporary_files_serves_the_next_process(package):
    first, second = package(), package()
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert [line.split()[0] for line in first.stdout.splitlines()] == ["compiling", "warning:"]
    assert second.stdout == second.stderr == ""


def test_a_package_in_a_zip_file(package, tmp_path):
    """Its kernels are kept, and made anew when a file that they depend on is another."""
    archive = tmp_path / "lib.zip"

    def pack():
        with zipfile.ZipFile(archive, "w") as file:
            for path in package.copied.rglob("*.py"):
                file.write(path, path.relative_to(package.copied.parent))

    def compiled():
        done = package(path=archive)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return "compiling prelu_forward_cpu" in done.stdout

    pack()
    assert compiled() and not compiled()
    versions = package.copied / "compute" / "versions.py"
    versions.write_text(versions.read_text() + "\n# another\n")
    pack()
    assert compiled() and not compiled()


def test_the_kernels_of_a_gpu_are_kept_in_the_same_way(places, monkeypatch):
    """Numba's cache for them turns a kernel into data and back; without a GPU, stand-ins take the place of both."""
    cuda = pytest.importorskip("numba.cuda")
    if os.environ.get("NUMBA_ENABLE_CUDASIM", "0") != "0":
        pytest.skip("the simulator compiles nothing")
    from numba.cuda import dispatcher

    names = {}
    exec(compile(SOURCE, str(places.source / "made_up.py"), "exec"), names)
    codegen = SimpleNamespace(magic_tuple=lambda: ((13, 0), (9, 0)))
    target = SimpleNamespace(refresh=lambda: None, codegen=lambda: codegen)
    monkeypatch.setattr(dispatcher._Kernel, "_rebuild", lambda **states: states)
    kernel = SimpleNamespace(codegen=codegen, _reduce_states=lambda: {"cubin": b"123"})

    def cache():
        made = keep_on_disk(cuda.jit(names["kernel"]), dispatcher.CUDACache)
        assert isinstance(made._cache, dispatcher.CUDACache)
        return made._cache

    assert cache().load_overload("types", target) is None
    cache().save_overload("types", kernel)
    (path,) = kept(places.given)
    assert cache().load_overload("types", target) == {"cubin": b"123"}
    assert cache().load_overload("other types", target) is None
    path.write_bytes(path.read_bytes()[:-1])
    assert cache().load_overload("types", target) is None
