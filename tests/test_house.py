"""The house: who may import whom, how wide a kernel is, who knows of the GPU, how long files are.

Every check is a function of source texts, {path: text}. So each is also tried on a made-up text that breaks its rule.
"""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in ROOT.glob("tasnet_np/**/*.py")}

# A room imports only from itself and from those before it. A module beside the rooms is a room of its own.
ORDER = (
    "errors safe_files blas kernel_cache containers sound compute ops network streaming __init__ optimisation corpus "
    "training listening reports commands __main__"
).split()
KERNELS = {"cpu_kernel", "cpu_function", "cuda_kernel", "cuda_function"}  # decorators
ARGUMENTS = 8  # of a kernel, at most
PLACES_OF_CUDA_KERNELS = ("tasnet_np/compute/", "tasnet_np/ops/", "tasnet_np/optimisation/updates.py")
KNOWS_WHERE = {"CudaArray", "_on_gpu", "is_cuda_array", "__cuda_array_interface__"}
LINES_OF_A_FILE = 500
LINES_OF_A_ROOM = 1600  # but for ops/, which has a file for every op


@cache
def nodes(text):
    return list(ast.walk(ast.parse(text)))


def module_of(path):
    return ".".join(Path(path).with_suffix("").parts).removesuffix(".__init__")


def room_of(path):
    parts = Path(path).parts
    return parts[1] if len(parts) > 2 else Path(path).stem


def imports(path, text):
    """What a file imports, also inside functions: (a, "") for `import a`, (a, b) for `from a import b`."""
    package = list(Path(path).parent.parts)
    for node in nodes(text):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join(above + [node.module] * bool(node.module))
            yield from ((source, alias.name) for alias in node.names)


def graph(files):
    """{path: the paths that it imports}. For `from a import b`, b if that is a module, else a."""
    paths = {module_of(path): path for path in files}
    edges = {}
    for path, text in files.items():
        found = {paths.get(f"{source}.{name}", paths.get(source)) for source, name in imports(path, text)}
        edges[path] = found - {path, None}
    return edges


def graph_of_rooms(edges):
    rooms = {}
    for path, targets in edges.items():
        rooms.setdefault(room_of(path), set()).update(map(room_of, targets))
    return {room: targets - {room} for room, targets in rooms.items()}


def circle(edges):
    """The nodes of a circle in the order of its edges; empty if there is none."""
    done = set()

    def visit(node, way):
        if node in way:
            return way[way.index(node) :]
        if node in done:
            return []
        further = (visit(target, [*way, node]) for target in sorted(edges.get(node, ())))
        found = next(filter(None, further), [])
        done.add(node)
        return found

    return next(filter(None, (visit(node, []) for node in sorted(edges))), [])


def imports_against_the_order(files):
    place = {room: i for i, room in enumerate(ORDER)}
    return [
        f"{path} imports {target}"
        for path, targets in graph(files).items()
        for target in sorted(targets)
        if place[room_of(target)] > place[room_of(path)]
    ]


def functions(text):
    return [node for node in nodes(text) if isinstance(node, ast.FunctionDef)]


def decorators(function):
    """Names of the decorators, called or not, with or without a module before them."""
    nodes = [node.func if isinstance(node, ast.Call) else node for node in function.decorator_list]
    return {ast.unparse(node).rpartition(".")[2] for node in nodes}


def is_kernel(path, function):
    named = path.startswith("tasnet_np/ops/") and function.name.endswith(("_cpu", "_cuda"))
    return named or bool(decorators(function) & KERNELS)


def arguments(function):
    a = function.args
    return len(a.posonlyargs + a.args + a.kwonlyargs) + bool(a.vararg) + bool(a.kwarg)


def wide_kernels(files):
    return [
        f"{path}: {function.name} has {arguments(function)} arguments"
        for path, text in files.items()
        for function in functions(text)
        if is_kernel(path, function) and arguments(function) > ARGUMENTS
    ]


def askers(files):
    """Files outside compute/ that ask whether an array is on a GPU."""
    return [
        path
        for path, text in files.items()
        if not path.startswith("tasnet_np/compute/") and KNOWS_WHERE & words(text)
    ]


def words(text):
    """All names, attributes, imported names and strings of a source text."""
    found = set()
    for node in nodes(text):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.alias):
            found.add(node.name.rpartition(".")[2])
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
    return found


def cuda_kernels_elsewhere(files):
    return [
        f"{path}: {function.name}"
        for path, text in files.items()
        for function in functions(text)
        if decorators(function) & {"cuda_kernel", "cuda_function", "jit"}
        and not path.startswith(PLACES_OF_CUDA_KERNELS)
    ]


def too_long(files):
    lines = {path: len(text.splitlines()) for path, text in files.items()}
    rooms = {}
    for path, count in lines.items():
        rooms[room_of(path)] = rooms.get(room_of(path), 0) + count
    rooms.pop("ops", None)
    return [f"{path}: {count} lines" for path, count in lines.items() if count > LINES_OF_A_FILE] + [
        f"{room}/: {count} lines" for room, count in rooms.items() if count > LINES_OF_A_ROOM
    ]


def importers_of_torch(files):
    return [
        path
        for path, text in files.items()
        if any(source.split(".")[0] == "torch" for source, _ in imports(path, text))
    ]


def circles(files):
    edges = graph(files)
    return [circle(edges), circle(graph_of_rooms(edges))]


def none(found):
    return not any(found)


CHECKS = [
    circles, imports_against_the_order, wide_kernels, askers, cuda_kernels_elsewhere, too_long, importers_of_torch,
]  # fmt: skip


@pytest.mark.parametrize("check", CHECKS)
def test_the_package_keeps_the_rule(check):
    found = check(FILES)
    assert none(found), found


def test_every_room_has_its_place_in_the_order():
    assert sorted(ORDER) == sorted({room_of(path) for path in FILES})


def test_the_graph_is_that_of_the_package():
    """So that a circle is not missed because an import is not understood."""
    edges = {path.removeprefix("tasnet_np/"): targets for path, targets in graph(FILES).items()}
    assert "tasnet_np/compute/cpu.py" in edges["ops/depthwise.py"]
    assert "tasnet_np/ops/depthwise.py" in edges["ops/tcn_block.py"]  # of the package, by name
    assert "tasnet_np/ops/__init__.py" not in edges["ops/tcn_block.py"]
    assert "tasnet_np/ops/__init__.py" in edges["network/layers.py"]  # for OPS
    assert "tasnet_np/training/train.py" in edges["commands/train.py"]  # inside a function


WIDE = "def {name}(a, b, c, d, e, f, g, h, *, i): pass\n"
BROKEN = {
    "two modules import each other": (circles, {
        "tasnet_np/sound/level.py": "from tasnet_np.sound.metrics import sdr\n",
        "tasnet_np/sound/metrics.py": "def sdr():\n    from tasnet_np.sound import level\n",
    }),
    "three modules in a circle, by relative imports": (circles, {
        "tasnet_np/sound/a.py": "from .b import x\n",
        "tasnet_np/sound/b.py": "from . import c\n",
        "tasnet_np/sound/c.py": "import tasnet_np.sound.a\n",
    }),
    "two rooms import each other": (circles, {
        "tasnet_np/sound/level.py": "from tasnet_np.corpus.clips import Clip\n",
        "tasnet_np/sound/metrics.py": "",
        "tasnet_np/corpus/clips.py": "",
        "tasnet_np/corpus/mixing.py": "from tasnet_np.sound.metrics import sdr\n",
    }),
    "an op imports the network": (imports_against_the_order, {
        "tasnet_np/ops/norms.py": "def f():\n    from tasnet_np.network import layers\n",
        "tasnet_np/network/layers.py": "",
    }),
    "a kernel with nine arguments": (wide_kernels, {
        "tasnet_np/streaming/streamer_cpu.py": "@cpu_kernel\n" + WIDE.format(name="hop"),
    }),
    "a decorator with a module and arguments": (wide_kernels, {
        "tasnet_np/compute/arrays.py": "@gpu.cuda_kernel(cache=True)\n" + WIDE.format(name="fill"),
    }),
    "an op's launch with nine arguments": (wide_kernels, {
        "tasnet_np/ops/norms_cuda.py": WIDE.format(name="_scan_cuda"),
    }),
    "an array is asked for its kind": (askers, {
        "tasnet_np/training/step.py": "from tasnet_np.compute.gpu import CudaArray\n",
    }),
    "an array is asked for its kind through a module": (askers, {
        "tasnet_np/network/model.py": "def f(x):\n    return isinstance(x, gpu.CudaArray)\n",
    }),
    "an array is asked for its interface": (askers, {
        "tasnet_np/network/model.py": "def f(x):\n    return hasattr(x, '__cuda_array_interface__')\n",
    }),
    "a kernel in the network": (cuda_kernels_elsewhere, {
        "tasnet_np/network/model.py": "@cuda_kernel\ndef f(x): pass\n",
    }),
    "a kernel without our decorator": (cuda_kernels_elsewhere, {
        "tasnet_np/training/optimisers.py": "@cuda.jit(cache=True)\ndef f(x): pass\n",
    }),
    "a long file": (too_long, {"tasnet_np/ops/norms.py": "x = 1\n" * (LINES_OF_A_FILE + 1)}),
    "a large room": (too_long, {
        f"tasnet_np/sound/{name}.py": "x = 1\n" * (LINES_OF_A_ROOM // 4 + 1) for name in "abcd"
    }),
    "torch inside a function": (importers_of_torch, {
        "tasnet_np/ops/norms.py": "def f():\n    from torch.nn import functional\n",
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_planted_violation_is_found(name):
    check, files = BROKEN[name]
    assert not none(check(files))


ALLOWED = {
    "a public op may have many arguments": (wide_kernels, {"tasnet_np/ops/tcn_block.py": WIDE.format(name="f")}),
    "modules may be named in a string": (imports_against_the_order, {
        "tasnet_np/ops/norms.py": '"""from tasnet_np.network import layers"""\n',
    }),
    "a room may import itself": (imports_against_the_order, {
        "tasnet_np/ops/norms.py": "from tasnet_np.ops import depthwise\n",
        "tasnet_np/ops/depthwise.py": "",
        "tasnet_np/ops/__init__.py": "from tasnet_np.ops import norms\n",
    }),
    "a package may list its modules": (circles, {
        "tasnet_np/ops/norms.py": "from tasnet_np.ops import depthwise\n",
        "tasnet_np/ops/depthwise.py": "",
        "tasnet_np/ops/__init__.py": "from tasnet_np.ops import norms\n",
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", ALLOWED)
def test_what_is_allowed_is_not_found(name):
    check, files = ALLOWED[name]
    assert none(check(files)), check(files)
