"""Every tutorial has the fixed form, runs, and fails when the library is broken under it.

Building the book runs each tutorial and each solution once, as a notebook (fixture `book`). Here every tutorial
also runs as a script, until it notices that a function of the library has been broken.
"""

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TUTORIALS = ROOT / "tutorials"
SCRIPTS = sorted(TUTORIALS.glob("[0-9][0-9]_*.py"))
SOLUTIONS = sorted((TUTORIALS / "solutions").glob("[0-9][0-9]_*.py"))
NAMES = (
    "01_sound 02_checking_gradients 03_encoder 04_pointwise 05_depthwise 06_separable 07_masks 08_global_norm "
    "09_cumulative_norm 10_decoder 11_block 12_conv_tasnet 13_si_snr 14_optimizers 15_training 16_real_time "
    "17_numba 18_cuda 19_bug_museum"
).split()
BROKEN = {  # what is broken under each tutorial
    "01_sound": "corpus.mixing:mix",
    "02_checking_gradients": "ops.gradcheck:numerical_gradient",
    "03_encoder": "ops.conv1d:conv1d_backward",
    "04_pointwise": "ops.pointwise:pointwise_backward",
    "05_depthwise": "ops.depthwise:depthwise_backward",
    "06_separable": "ops.depthwise:depthwise_forward",
    "07_masks": "ops.elementwise:prelu_backward",
    "08_global_norm": "ops.norms:global_layer_norm_backward",
    "09_cumulative_norm": "ops.norms:cumulative_layer_norm_backward",
    "10_decoder": "ops.conv1d:conv_transpose1d_backward",
    "11_block": "ops:OPS.tcn_block",
    "12_conv_tasnet": "network.execution:ConvTasNet.backward",
    "13_si_snr": "ops.si_snr:si_snr_backward",
    "14_optimizers": "optimisation.optimisers:Adam.step",
    "15_training": "optimisation.optimisers:Adam.step",
    "16_real_time": "streaming.streamer:Streamer.process",
    "17_numba": "ops.depthwise:depthwise_forward",
    "18_cuda": "ops.norms:cumulative_layer_norm_forward_ref",
    "19_bug_museum": "ops.norms:cumulative_layer_norm_forward",
}
SABOTAGE = """
import importlib, runpy, sys
import numpy as np

root, target, script = sys.argv[1:]
sys.path[:0] = [root + "/tutorials", root]
module, _, name = target.partition(":")
owner = importlib.import_module("tasnet_np." + module)
*parts, name = name.split(".")
for part in parts:
    owner = getattr(owner, part)
table = isinstance(owner, dict)
original = owner[name].backward if table else getattr(owner, name)

def wrong(value):
    if isinstance(value, tuple):
        return tuple(wrong(part) for part in value)
    return 1.02 * value if isinstance(value, (np.ndarray, float)) else value

def broken(*arguments, **settings):
    if name == "step":  # does nothing
        return None
    return wrong(original(*arguments, **settings))

if table:
    owner[name] = owner[name]._replace(backward=broken)
else:
    setattr(owner, name, broken)
sys.argv = [script]
runpy.run_path(script, run_name="__main__")
"""


def load(name):
    """A module of the folder tutorials/, which is not a package."""
    spec = importlib.util.spec_from_file_location(name, TUTORIALS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


book_module = load("book")


def cells(path):
    """(is it Markdown, text) of each cell of a script."""
    parts = re.split(r"^(# %%.*)$", path.read_text(), flags=re.MULTILINE)[1:]
    for header, text in zip(parts[::2], parts[1::2]):
        markdown = "[markdown]" in header
        yield markdown, re.sub(r"^# ?", "", text, flags=re.MULTILINE) if markdown else text


def by_name(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


def test_all_are_there():
    assert [path.stem for path in SCRIPTS] == NAMES
    assert [path.stem for path in SOLUTIONS] == NAMES
    assert set(BROKEN) == set(NAMES)


@by_name(SCRIPTS)
def test_has_the_fixed_form(path):
    text = path.read_text()
    prose = "\n".join(part for markdown, part in cells(path) if markdown)
    code = [part for markdown, part in cells(path) if not markdown]
    title, teaches, minutes, before = book_module.title_cell(text)
    assert title.startswith(f"{int(path.stem[:2])}. ")
    assert len(teaches) > 60 and 10 <= minutes <= 60
    needed = [int(number) for number in re.findall(r"\((\d\d)_", before)]
    assert before == "nothing" or needed and max(needed) < int(path.stem[:2])
    assert any("companion.where(" in part for part in code[:4])
    assert prose.count("$$") >= 4 and prose.count("$$") % 2 == 0  # two formulas on lines of their own
    assert text.count("companion.show(") >= 2
    assert sum(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(text))) >= 12
    assert text.count("with companion.fails(") >= 1
    assert "## Exercises" in prose
    exercises = re.findall(r"^(\d)\. ", prose.split("## Exercises")[1], re.MULTILINE)
    assert 2 <= len(exercises) <= 4 and exercises == [str(i + 1) for i in range(len(exercises))]


@by_name(SOLUTIONS)
def test_solves_each_exercise_with_an_assert(path):
    tutorial = (TUTORIALS / path.name).read_text().split("## Exercises")[1]
    exercises = re.findall(r"^# (\d)\. ", tutorial, re.MULTILINE)
    parts = re.split(r"^# ## (\d)\.", path.read_text(), flags=re.MULTILINE)
    assert parts[1::2] == exercises
    for number, part in zip(exercises, parts[2::2]):
        assert re.search(r"^ *assert |^ *np\.testing\.assert_|companion\.fails\(", part, re.MULTILINE), number


@by_name([*SCRIPTS, *SOLUTIONS])
def test_imports_and_never_pastes(path):
    pasted = _runs_of_lines(ast.parse(path.read_text())) & LIBRARY
    assert not pasted


def _runs_of_lines(tree, length=4):
    """All runs of so many lines in the bodies of functions, without comments and docstrings."""
    found = set()
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            body = function.body[1:] if ast.get_docstring(function) else function.body
            lines = [line.strip() for node in body for line in ast.unparse(node).splitlines()]
            found |= {tuple(lines[i : i + length]) for i in range(len(lines) - length + 1)}
    return found


LIBRARY = set().union(
    *(_runs_of_lines(ast.parse(path.read_text())) for path in (ROOT / "tasnet_np").rglob("*.py"))
)


def test_pasted_lines_are_noticed():
    source = (ROOT / "tasnet_np" / "ops" / "depthwise.py").read_text()
    assert _runs_of_lines(ast.parse(source)) & LIBRARY
    function = next(node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef))
    function.name = "mine"
    assert _runs_of_lines(function) & LIBRARY


def test_the_order_in_the_readme_is_that_of_the_title_cells():
    readme = (TUTORIALS / "README.md").read_text()
    (table,) = book_module.TABLE.findall(readme)
    assert table == book_module.order_table(book_module.pages())


def test_each_ran_without_an_error_or_a_warning(book):
    runs = json.loads((book / "runs.json").read_text())
    assert set(runs) == {*NAMES, *(f"solutions/{name}" for name in NAMES)}
    for name, run in runs.items():
        assert run["asserts"] > 0, name
        notebook = json.loads((book / "notebooks" / f"{name}.ipynb").read_text())
        outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
        assert all(output["output_type"] != "error" for output in outputs), name
        warnings = [output["text"] for output in outputs if output.get("name") == "stderr"]
        assert warnings == [], name
        assert all(cell["execution_count"] for cell in notebook["cells"] if cell["cell_type"] == "code"), name


@pytest.fixture(scope="module")
def broken_runs():
    """Each tutorial as a script, with something broken in the library under it: two at a time."""

    def run(name):
        arguments = [sys.executable, "-c", SABOTAGE, str(ROOT), BROKEN[name], str(TUTORIALS / f"{name}.py")]
        environment = os.environ | {"MPLBACKEND": "Agg", "NUMBA_ENABLE_CUDASIM": "1"}  # as 18_cuda sets it
        return subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=300)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(BROKEN, pool.map(run, BROKEN)))


@pytest.mark.parametrize("name", NAMES)
def test_fails_when_the_library_is_broken(name, broken_runs):
    result = broken_runs[name]
    assert result.returncode == 1, result.stdout
    trace = result.stderr.strip().splitlines()
    assert any(line.startswith("AssertionError") for line in trace), result.stderr
    assert f"{name}.py" in result.stderr


def test_the_book_fails_with_a_tutorial_that_fails(tmp_path):
    script = tmp_path / "20_wrong.py"
    script.write_text(
        "# %% [markdown]\n# # 20. Wrong\n#\n# Minutes: 1. Before: nothing.\n#\n# It fails.\n\n# %%\nassert 1 == 2\n"
    )
    (page,) = [book_module.Page(script, *book_module.title_cell(script.read_text()))]
    monkey = pytest.MonkeyPatch()
    monkey.setattr(book_module, "HERE", tmp_path)
    try:
        pytest.importorskip("jupytext", reason="pip install '.[tutorials]'")
        with pytest.raises(book_module.BookError, match="AssertionError"):
            book_module.build(tmp_path / "book", [page], [])
    finally:
        monkey.undo()
    assert not (tmp_path / "book").exists()


def test_fails_catches_an_assertion_and_nothing_else(capsys):
    companion = load("companion")
    with companion.fails("one is not two"):
        assert 1 == 2
    assert capsys.readouterr().out.startswith("caught: one is not two")
    with pytest.raises(AssertionError, match="not caught: nothing is wrong"):
        with companion.fails("nothing is wrong"):
            assert True
    with pytest.raises(ZeroDivisionError):
        with companion.fails("a crash is no check"):
            _ = 1 / 0


def test_the_sounds_are_deterministic_and_at_their_level():
    import numpy as np

    companion = load("companion")
    for make in (companion.speech, companion.noise):
        sound = make(1.5, 8000, seed=3)
        assert sound.dtype == np.float32 and sound.shape == (12000,)
        assert abs(10 * np.log10(np.mean(sound.astype(float) ** 2)) + 25) < 0.01
        assert np.array_equal(sound, make(1.5, 8000, seed=3))
        assert not np.array_equal(sound, make(1.5, 8000, seed=4))
        assert make(0.5, 16000).shape == (8000,)
    assert companion.clip("noisy/noisy-stereo-44k.wav", 8000).ndim == 1


@pytest.mark.parametrize("bad", [[1.0, float("nan")], [], [[0.0, 0.0]]])
def test_play_refuses_what_cannot_be_heard(bad):
    with pytest.raises(ValueError, match="play takes"):
        load("companion").play(bad, 8000)


def test_the_map_lights_what_it_is_told():
    companion = load("companion")
    from tasnet_np.network.config import Config

    def lit(*parts):
        figure = companion.network_map(parts, Config(filters=77, bottleneck=33, hidden=55))
        names = [patch.get_gid() for patch in figure.axes[0].patches if patch.get_gid()]
        texts = " ".join(text.get_text() for text in figure.axes[0].texts)
        companion.plt.close(figure)
        assert "77" in texts and "33 → 55" in texts  # the sizes are the config's
        return {name.removeprefix("lit:") for name in names if name.startswith("lit:")}

    for part in companion.PARTS:
        assert lit(part) == ({"prelu1", "prelu2"} if part == "prelu" else {part})
    assert lit("encoder", "decoder") == {"encoder", "decoder"}
    with pytest.raises(ValueError, match="where"):
        companion.where("engine")


def test_figures_are_saved_as_a_script(tmp_path, monkeypatch):
    companion = load("companion")
    monkeypatch.setenv("TUTORIAL_FIGURES", str(tmp_path / "figures"))
    companion.plt.plot([0, 1])
    companion.show("line")
    assert (tmp_path / "figures" / "line.png").stat().st_size > 1000
    assert not companion.plt.get_fignums()
    companion.plt.figure()
    with pytest.raises(AssertionError, match="empty"):
        companion.show("nothing")
    companion.plt.close("all")
