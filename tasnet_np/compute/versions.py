"""Which version of the package's sources a compiled kernel belongs to.

Numba keeps compiled kernels on disk. It compiles a kernel again when the file of that kernel changes. It does not
notice a change in another file, although the kernel contains the functions and constants that it takes from there. So
a kernel's name ends with a checksum of all files of this package that its own file imports, directly or through others.
"""

import re
import zlib
from functools import cache
from pathlib import Path

from tasnet_np.kernel_cache import source_bytes

PACKAGE = __name__.partition(".")[0]
ROOT = Path(__file__).parents[1]
# The imports at the top of a file; those within functions are indented.
IMPORT = re.compile(rf"^from ({PACKAGE}[\w.]*) import (\([^)]*\)|[^\n]*)", re.MULTILINE)


@cache
def version_of(module):
    """A checksum (eight hexadecimal digits) of all files of the package that a module depends on, but not its own."""
    checksum = 0
    for file in sorted(_with_imports(module, set()) - {_file(module)}):
        checksum = zlib.crc32(source_bytes(file), checksum)
    return f"{checksum:08x}"


def _with_imports(module, files):
    """Add the module's file, and the files of all that it imports, to the set `files`. Returns the set."""
    file = _file(module)
    if file is None or file in files:
        return files
    files.add(file)
    for package, names in IMPORT.findall(source_bytes(file).decode()):
        _with_imports(package, files)
        for name in re.findall(r"\w+", names):
            _with_imports(f"{package}.{name}", files)
    return files


def _file(module):
    """The file of a module of this package, or None if it is no module of this package."""
    if module.partition(".")[0] != PACKAGE:
        return None
    place = ROOT.joinpath(*module.split(".")[1:])
    candidates = place.with_suffix(".py"), place / "__init__.py"
    return next((file for file in candidates if source_bytes(file) is not None), None)
