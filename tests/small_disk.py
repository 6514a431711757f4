"""A real file system of a few megabytes, to be filled up in tests."""

import contextlib
import os
import shutil
import subprocess

import pytest


@contextlib.contextmanager
def small_disk(folder, size="4M"):
    """Mount one on a new folder. The test is skipped where this is not allowed: it takes root."""
    if not shutil.which("mount"):
        pytest.skip("there is no program `mount` here")
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextlib.contextmanager
def room_for(free, folder):
    """Leave so many bytes on the disk of an empty folder. Afterwards there is room again."""
    status = os.statvfs(folder)
    filling = folder / "filling"
    filling.write_bytes(bytes(status.f_bavail * status.f_frsize - free))
    try:
        yield
    finally:
        filling.unlink()


def empty(folder):
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
