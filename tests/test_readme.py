"""Every command and every line of Python in the READMEs runs, and every file and figure that they name is there."""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tasnet_np import __version__
from tasnet_np.commands.main import main
from tasnet_np.compute.gpu_product import SIDE
from tasnet_np.listening.denoise import WHOLE_BYTES
from tasnet_np.ops.tcn_block_cpu import CHUNK
from tasnet_np.sound.metrics import si_snr

ROOT = Path(__file__).parents[1]
DOCUMENTS = {
    name: (ROOT / name).read_text()
    for name in (
        "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/README.md", "tasnet_np/compute/README.md",
        "tasnet_np/pretrained/README.md", "tests/benchmarks/README.md", "tutorials/README.md",
    )
}  # fmt: skip
README = DOCUMENTS["README.md"]
MAKEFILE, CI = (ROOT / "Makefile").read_text(), (ROOT / ".ci" / "run").read_text()
NOISY = ROOT / "data" / "noisy"
SHORTER = {
    "--minutes 10": "--steps 2 --seconds 0.3",
    "evaluate --model run": "evaluate --model run --mixtures 2",
    "report run": "report run --mixtures 1",
    "--noise my_noise --out RUN": "--noise my_noise --out RUN --steps 2 --seconds 0.3",
}
# The only commands in the documents that neither a test nor CI runs.
NOT_RUN = {
    "make bench": "speed needs a machine that does nothing else",
    "make gpu": "needs an NVIDIA GPU",
    "pip install '.[gpu]'": "is of use with an NVIDIA GPU only; make gpu runs it there",
    "pip install '.[live]'": "needs a microphone; test_live.py makes one up",
    "ruff format .": "changes files; make check runs it with --check",
    "ruff check --fix .": "changes files; make check runs it without --fix",
    "python tests/benchmarks/": "minutes to a day; test_the_options_of_the_benchmarks_are_there checks the options",
}
RUN_ELSEWHERE = {  # by which test file
    "python data/make_data.py --out DIR": "tests/test_data_set.py",
    "tasnet-np --version": "tests/commands/test_commands.py",
    "tasnet-np train --from pretrained": "tests/network/test_pretrained.py",
}
PROGRAM = re.compile(r"(?:[A-Z_]+=\S+ +)*(?:\S*/bin/)?(tasnet-np|make|python3?|pip|ruff|cat) ")
BLOCK = re.compile(r"^```.*?^```$|(?:^    [^\n]*\n)+", re.MULTILINE | re.DOTALL)  # fenced, or indented


def commands(program, text=README):
    """Lines that start with a program, comments removed."""
    lines = re.findall(rf"^ *({program} .*)$", text, re.MULTILINE)
    return [line.split("#")[0].strip() for line in lines]


def inline(text):
    """What stands in backticks, outside blocks of code."""
    return re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))


def all_commands(text):
    """Commands with arguments, in blocks of code and in sentences."""
    lines = [line.strip() for block in BLOCK.findall(text) for line in block.splitlines()]
    return [
        re.split(r" +# ", command)[0].strip() for command in lines + inline(text) if PROGRAM.match(command)
    ]


def plain(command):
    """A command of the Makefile, of CI or of a document, without what differs in how they write it."""
    command = command.replace("$(BIN)/", "").replace("$(VENV)", ".venv").replace("$(PYTHON)", "python3")
    return re.sub(r" --(quiet|clear)\b", "", re.sub(r"\S*/bin/", "", command)).split(" # ")[0].strip()


MACHINES = {plain(line) for line in (MAKEFILE + CI).splitlines()}
# All of the command line; a test below holds it.
SUBCOMMANDS = "prepare train report denoise stream live evaluate compare info gradcheck".split()
RUN_HERE = {  # by the tests below
    "README.md": ["tasnet-np", "cat"],
    "data/README.md": ["tasnet-np"],
    "CONTRIBUTING.md": [r"(?:[A-Z_]+=\S+ )?python -m pytest"],
}


def is_run(command, document):
    """Whether a test or CI runs a command, or NOT_RUN says why not."""
    if command in NOT_RUN or command.startswith("python tests/benchmarks/"):
        return True
    if command in RUN_ELSEWHERE:
        return (ROOT / RUN_ELSEWHERE[command]).is_file()
    if plain(command) in MACHINES:
        return True
    if any(command in commands(program, DOCUMENTS[document]) for program in RUN_HERE.get(document, ())):
        return True
    words = command.split()
    if words[0] == "make":
        return command in CI.splitlines()
    if words[0] == "tasnet-np":  # a mere name
        return len(words) == 2 and words[1] in SUBCOMMANDS
    tutorial = re.fullmatch(r"python (tutorials/\d\d_\w+\.py)", command)
    return bool(tutorial) and (ROOT / tutorial[1]).is_file()  # test_tutorials.py runs all of them


@pytest.fixture
def here(recordings, tmp_path, monkeypatch):
    """A folder with what the README assumes to be there."""
    shutil.copytree(recordings / "speech", tmp_path / "my_speech")
    shutil.copytree(recordings / "noise", tmp_path / "my_noise")
    shutil.copytree(NOISY, tmp_path / "data" / "noisy")
    shutil.copy(NOISY / "noisy-mono-8k.wav", tmp_path / "noisy.wav")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line):
    for long, short in SHORTER.items():
        line = line.replace(long, short)
    assert main(shlex.split(line)[1:]) == 0, line


def test_the_commands_run_as_written_in_their_order(here):
    lines = commands("tasnet-np")
    assert len(lines) >= 6
    for line in lines:
        if line.endswith("--help"):
            with pytest.raises(SystemExit) as caught:
                main(shlex.split(line)[1:])
            assert caught.value.code == 0
            continue
        run(line)
    assert {"clean.wav", "background.wav", "run", "manifest.json", "corpus.png", "spectrograms.png"} <= {
        path.name for path in here.iterdir()
    }
    (piped,) = commands("cat")
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    subprocess.run(["bash", "-o", "pipefail", "-c", piped], check=True, env=os.environ | {"PATH": path})
    assert soundfile.info("streamed.wav").frames == soundfile.info("noisy.wav").frames


def test_the_python_runs_as_written(here, capsys):
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(compile(block, "README.md", "exec"), {})
    assert (here / "model.npz").exists()
    assert -80 < float(capsys.readouterr().out) < 80


def test_the_check_of_the_op_can_fail():
    block = next(
        block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "assert" in block
    )
    broken = block.replace("(2 * y, cache)", "(y, cache)")
    assert broken != block
    with pytest.raises(AssertionError):
        exec(compile(broken, "README.md", "exec"), {})


def test_the_commands_of_the_data_set_run_as_written(here):
    lines = commands("tasnet-np", DOCUMENTS["data/README.md"])
    assert len(lines) == 2
    for line in lines:
        run(line)


def test_the_make_commands_are_those_of_ci_and_the_pip_lines_those_of_make():
    assert commands("make")
    for command in commands("make"):
        assert f"\n{command.split()[1]}:" in MAKEFILE
        assert command in CI.splitlines()
    by_hand = DOCUMENTS["CONTRIBUTING.md"]
    (install,) = commands(r"\.venv/bin/pip", by_hand)
    assert install.removeprefix(".venv/bin/pip install ") in MAKEFILE
    (test,) = commands(r"\.venv/bin/python", by_hand)
    assert test.replace(".venv/bin", "$(BIN)") in MAKEFILE


def test_the_tests_of_contributing_run_as_written():
    lines = commands(r"(?:[A-Z_]+=\S+ )?python -m pytest", DOCUMENTS["CONTRIBUTING.md"])
    assert len(lines) >= 3
    for line in lines:
        words = shlex.split(line)
        given = dict(word.split("=", 1) for word in words if word.isupper() or "=" in word)
        arguments = words[len(given) + 1 :]
        done = subprocess.run(
            [sys.executable, *arguments, "-q", "-p", "no:cacheprovider"],
            cwd=ROOT, env=os.environ | given, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0 and " passed" in done.stdout, line + done.stdout[-2000:]


def test_the_tutorials_named_are_there():
    scripts = [
        line.split()[1]
        for text in DOCUMENTS.values()
        for line in commands("python", text)
        if "tutorials/" in line
    ]
    assert scripts
    assert all((ROOT / script).is_file() for script in scripts)  # test_tutorials.py runs all of them
    count = {19: "Nineteen", 20: "Twenty"}[len(list(ROOT.glob("tutorials/[0-9]*.py")))]
    assert f"{count} [tutorials]" in README


@pytest.mark.parametrize("document", DOCUMENTS)
def test_no_command_in_prose_that_nothing_runs(document):
    not_run = [command for command in all_commands(DOCUMENTS[document]) if not is_run(command, document)]
    assert not not_run


def test_every_reason_is_needed():
    found = [command for text in DOCUMENTS.values() for command in all_commands(text)]
    for command in [*NOT_RUN, *RUN_ELSEWHERE]:
        assert any(other == command or command.endswith("/") and other.startswith(command) for other in found)


@pytest.mark.parametrize(
    "text",
    [
        "Run `tasnet-np denoise in.wav -o out.wav` first.",
        "    make everything    # and wait\n",
        "```sh\npython setup.py install\n```\n",
        "    NUMBA_DISABLE_JIT=1 python -m pytest tests/ops\n",
        "Try `python tutorials/99_none.py`.",
        "`tasnet-np transcribe` writes it down.",
    ],
)
def test_a_command_that_nothing_runs_is_noticed(text):
    (command,) = all_commands(text)
    assert not is_run(command, "tutorials/README.md")


def test_the_subcommands_are_those_of_the_command_line(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert sorted(re.findall(r"^    (\w+)\b", capsys.readouterr().out, re.MULTILINE)) == sorted(SUBCOMMANDS)


def test_every_option_named_is_there(capsys):
    """Options that a sentence names, such as `train --non-causal`, of a command or of a benchmark."""
    helps = {"benchmarks": "".join(path.read_text() for path in ROOT.glob("tests/benchmarks/*.py"))}
    for name in SUBCOMMANDS:
        with pytest.raises(SystemExit):
            main([name, "--help"])
        helps[name] = capsys.readouterr().out
    named = [
        words.split()
        for document in ("README.md", "tasnet_np/compute/README.md", "tests/benchmarks/README.md")
        for words in inline(DOCUMENTS[document])
        if re.match(r"(\w+ )?--", words)
    ]
    assert len(named) > 3
    for words in named:
        command, option = (words[0], words[1]) if words[0] in SUBCOMMANDS else ("", words[0])
        where = helps[command] if command else "".join(helps.values())
        assert re.search(rf"{option}\b", where), words


def test_the_options_of_the_benchmarks_are_there():
    folder = ROOT / "tests" / "benchmarks"
    shared = (folder / "side_by_side.py").read_text()
    seen = set()
    for text in DOCUMENTS.values():
        for command in all_commands(text):
            if not command.startswith("python tests/benchmarks/"):
                continue
            _, script, *arguments = shlex.split(command)
            source = (ROOT / script).read_text()
            source += shared if "side_by_side" in source else ""
            seen.add(Path(script).name)
            for i, argument in enumerate(arguments):
                assert not argument.startswith("--") or f'"{argument}"' in source, command
                if i and arguments[i - 1] in ("--base", "--only", "--case"):
                    assert f'"{argument}"' in source, command
    assert {"recipe.py", "cpu_training.py", "cpu_inference.py", "streaming.py"} <= seen


def test_every_file_named_exists():
    links = {(name, link) for name in DOCUMENTS for link in re.findall(r"\]\(([^)#:]+)\)", DOCUMENTS[name])}
    assert len(links) > 30
    missing = [(name, link) for name, link in links if not (ROOT / name).parent.joinpath(link).exists()]
    assert not missing


MADE = (
    ".venv/",
    "build/",
    "demo/",
    "DIR/",
    "REAL/",
    "RUN/",
    "solutions/NN",
    "NN_",
)  # by commands; or placeholders


def named_paths(text):
    """Paths and names of Python files in backticks."""
    for words in inline(text):
        if re.fullmatch(r"[\w.-]+(/[\w.*-]+)+/?|\w+\.py", words) and not words.startswith(MADE):
            yield words


def is_there(path, document):
    folders = [ROOT, ROOT / "tasnet_np", (ROOT / document).parent]
    if "/" not in path:
        return any(ROOT.rglob(path))
    return any(any(folder.glob(path)) or (folder / path).exists() for folder in folders)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_in_prose_exists(document):
    assert not [path for path in named_paths(DOCUMENTS[document]) if not is_there(path, document)]


def test_a_path_that_is_not_there_is_noticed():
    text = "See `ops/pointwise.py`, `ops/nowhere.py`, `tests/ops/` and `nowhere_at_all.py`."
    missing = [path for path in named_paths(text) if not is_there(path, "README.md")]
    assert missing == ["ops/nowhere.py", "nowhere_at_all.py"]


def test_the_readme_is_short():
    assert len(README.encode()) < 7000


def test_the_tree_is_that_of_the_package():
    """A line for every folder, and every file that it names is in that folder."""
    rooms = dict(re.findall(r"^ {6}(\w+)/ +(.+(?:\n {19}.+)*)$", README, re.MULTILINE))
    assert "tcn_block_cuda.py" in rooms["ops"]  # of a line that goes on
    package = ROOT / "tasnet_np"
    folders = {path.name for path in package.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert set(rooms) == folders
    for room, words in rooms.items():
        assert all((package / room / name).is_file() for name in re.findall(r"\w+\.py", words)), room


def tables_without_a_command(text):
    """First lines of tables of figures with no command between them and the table or the heading before."""
    alone, command, inside = [], False, False
    for line in text.splitlines():
        if line.startswith("#"):
            command = False
        elif PROGRAM.match(line.strip()) and line.startswith("    "):
            command = True
        elif line.startswith("|") and not inside:
            if not command:
                alone.append(line)
            command = False
        inside = line.startswith("|")
    return alone


def test_every_table_of_figures_stands_beside_a_command():
    text = DOCUMENTS["tests/benchmarks/README.md"]
    assert len(re.findall(r"^\|-", text, re.MULTILINE)) >= 7
    assert not tables_without_a_command(text)


def test_a_table_without_a_command_is_noticed():
    first, second = "| a | b |\n|---|---|\n| 1 | 2 |\n", "| c | d |\n|---|---|\n| 3 | 4 |\n"
    command = "    python tests/benchmarks/kills.py\n\n"
    assert not tables_without_a_command(f"# Speed\n\n{command}{first}")
    assert tables_without_a_command(f"# Speed\n\n{command}{first}\n{second}") == ["| c | d |"]
    assert tables_without_a_command(f"{command}# Speed\n\n{first}") == ["| a | b |"]


def test_the_figures_about_kernels_are_those_of_the_code():
    text = DOCUMENTS["tasnet_np/compute/README.md"]
    assert f"{CHUNK} frames at a time" in text
    assert f"{SIDE} x {SIDE} results per thread" in text
    assert WHOLE_BYTES == 1 << 30 and "more than 1 GiB" in text


def test_the_changes_name_the_version_and_modules_that_are_there():
    text = DOCUMENTS["CHANGELOG.md"]
    assert re.search(r"^## (\S+)", text, re.MULTILINE)[1] == __version__
    moved = re.findall(r"^\| (`.+) \| (.+) \|$", text, re.MULTILINE)
    assert len(moved) > 10
    rooms = [path.name for path in (ROOT / "tasnet_np").iterdir() if path.is_dir()]
    for _, now in moved:
        for name in re.findall(r"`([\w.]+)`", now):
            room, _, module = name.partition(".")
            if room in rooms:
                owner, _, attribute = module.partition(".")
                found = importlib.import_module(f"tasnet_np.{room}.{owner}")
                assert not attribute or hasattr(found, attribute), name


# The picture, the sound and the score at the top.


def picture(path):
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB"), float)


def test_the_picture_and_the_sound_are_what_the_command_makes(here):
    committed = [NOISY / f"denoised-mono-8k.{suffix}" for suffix in ("wav", "webp")]
    made = [here / path.relative_to(ROOT) for path in committed]
    for path, again in zip(committed, made):
        assert path.stat().st_size < 200_000 and path.relative_to(ROOT).as_posix() in README
        again.unlink()
    (line,) = (line for line in commands("tasnet-np", DOCUMENTS["data/README.md"]) if "denoised" in line)
    run(line)
    sound, same = (soundfile.read(path[0], dtype="int16")[0].astype(int) for path in (committed, made))
    assert np.abs(sound - same).max() <= 2, (
        f"the model has changed: {line}"
    )  # another processor rounds otherwise
    shown, again = picture(committed[1]), picture(made[1])
    assert shown.shape == again.shape
    assert np.abs(shown - again).mean() < 4, f"the model or the picture has changed: {line}"  # of 255
    half = len(shown) // 2
    assert np.abs(shown[:half] - shown[-half:]).mean() > 20  # as far apart as before and after


def test_the_scores_at_the_top_are_measured(here, capsys, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tests" / "benchmarks")
    wiener = importlib.import_module("baselines").wiener
    denoise, compare = (line for line in commands("tasnet-np") if "data/noisy" in line)
    run(denoise)
    capsys.readouterr()
    run(compare)
    printed = [line.split()[2] for line in capsys.readouterr().out.splitlines()[1:]]
    (noisy, rate), (clean, _) = (soundfile.read(NOISY / f"{kind}-mono-8k.wav") for kind in ("noisy", "clean"))
    scores = {"noisy": printed[0], "Wiener filter": si_snr(wiener(noisy, rate), clean)}
    scores["`tasnet-np denoise`"] = printed[1]
    for name, score in scores.items():
        assert f"| {name} | {float(score):.1f} |" in README
    assert len(re.findall(r"^\| .+ \| -?[\d.]+ \|$", README, re.MULTILINE)) == len(scores)
