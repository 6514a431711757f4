"""Every command and every line of Python in README.md runs."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from tasnet_np.commands.main import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SHORTER = {"--minutes 10": "--steps 2 --seconds 0.3", "report run": "report run --mixtures 1"}


def commands(program):
    """Lines that start with a program, comments removed."""
    lines = re.findall(rf"^ *({program} .*)$", README, re.MULTILINE)
    return [line.split("#")[0].strip() for line in lines]


@pytest.fixture
def here(recordings, tmp_path, monkeypatch):
    """A folder with what the README assumes to be there."""
    shutil.copytree(recordings / "speech", tmp_path / "my_speech")
    shutil.copytree(recordings / "noise", tmp_path / "my_noise")
    shutil.copy(ROOT / "data" / "noisy" / "noisy-mono-8k.wav", tmp_path / "noisy.wav")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_run_as_written_in_their_order(here):
    lines = commands("tasnet-np")
    assert len(lines) >= 6
    for line in lines:
        if line.endswith("--help"):
            with pytest.raises(SystemExit) as caught:
                main(shlex.split(line)[1:])
            assert caught.value.code == 0
            continue
        for long, short in SHORTER.items():
            line = line.replace(long, short)
        assert main(shlex.split(line)[1:]) == 0, line
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


def test_the_make_commands_are_those_of_ci_and_the_pip_lines_those_of_make():
    makefile, ci = (ROOT / "Makefile").read_text(), (ROOT / ".ci" / "run").read_text()
    assert commands("make")
    for command in commands("make"):
        assert f"\n{command.split()[1]}:" in makefile
        assert command in ci.splitlines()
    (install,) = commands(r"\.venv/bin/pip")
    assert install.removeprefix(".venv/bin/pip install ") in makefile
    (test,) = commands(r"\.venv/bin/python")
    assert test.replace(".venv/bin", "$(BIN)") in makefile


def test_the_tutorials_named_are_there():
    scripts = [line.split()[1] for line in commands("python") if "tutorials/" in line]
    assert scripts
    assert all((ROOT / script).is_file() for script in scripts)  # test_tutorials.py runs all of them


def test_every_file_named_exists():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert all((ROOT / link).exists() for link in links)
