"""Paths that a file system allows and nobody expects: odd names, links, pipes, folders in the place of files."""

import json
import os
import re
import shutil
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import soundfile

from tasnet_np.commands.main import main
from tasnet_np.corpus import manifest
from tasnet_np.network.config import Config
from tasnet_np.training.recipe import Recipe
from tasnet_np.training.train import train

CONFIG = Config(filters=16, filter_length=8, bottleneck=8, hidden=12, skip=8, blocks=2, repeats=1)
RECIPE = Recipe(batch=1, seconds=0.2, validate_every=2, validation_mixtures=1)
SMALL = [
    "--seconds",
    "0.2",
    "--batch",
    "1",
    "--validation-mixtures",
    "1",
    "--validate-every",
    "1",
    "--steps",
    "1",
]
FEW = ["--mixtures", "1", "--seconds", "0.2", "--quiet"]
NAMES = [
    b"\xff\xfe.wav", b"$a$.wav", b"$\\frac{$.wav", b"{body}.wav", b"{title}.wav", b"line\nfeed.wav", b"<b>&amp;.wav",
    "日本語.wav".encode(), b"_under.wav", b"%s.wav", b"\x1b[31m.wav", b" space.wav", b"-dash.wav", b"a.b.wav",
    b"n" * 240 + b".wav",
]  # fmt: skip

pytestmark = pytest.mark.skipif(
    os.name != "posix", reason="names that are not text, pipes and links of POSIX"
)


@pytest.fixture(scope="module")
def trained(recordings, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "run"
    train(recordings / "speech", recordings / "noise", out, CONFIG, RECIPE, steps=4, quiet=True)
    return out


@pytest.fixture
def noisy(tmp_path):
    path = tmp_path / "noisy.wav"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(2000), 8000)
    return path


def call(*arguments):
    return main([os.fsdecode(argument) for argument in map(os.fspath, arguments)])


def refused(capsys, *arguments):
    """The one line that a call is refused with."""
    capsys.readouterr()
    assert call(*arguments) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    return errors[0]


def below(folder):
    return sorted(os.fsencode(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


# Names.


def test_a_folder_of_odd_names_is_denoised_and_drawn(trained, noisy, tmp_path, recwarn):
    sounds, outs, pictures = (tmp_path / name for name in ("in", "outs", "pictures"))
    sounds.mkdir()
    for name in NAMES:
        shutil.copy(noisy, sounds / os.fsdecode(name))
    assert call("denoise", sounds, "--model", trained, "-o", outs, "--plot", pictures, "--quiet") == 0
    assert below(outs) == sorted(NAMES)
    assert below(pictures) == sorted(name[:-4] + b".png" for name in NAMES)
    assert not recwarn.list


def test_every_odd_name_is_compared_and_drawn(noisy, tmp_path, capsys, recwarn):
    """The names are the titles of the picture."""
    for name in NAMES:
        path = tmp_path / os.fsdecode(name)
        shutil.copy(noisy, path)
        assert call("compare", "--clean", noisy, path, "--plot", b"\xff.png") == 0, name
        assert matplotlib.image.imread(os.fsdecode(b"\xff.png")).std() > 0.1
    os.remove(b"\xff.png")
    assert not recwarn.list


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_run_on_odd_names(recordings, tmp_path, capsys):
    """Folders, speakers, recordings, the manifest and the run: prepared, trained, resumed, evaluated, reported."""
    rng = np.random.default_rng(0)
    for name in NAMES[:8]:
        for path in (
            tmp_path / "speech" / os.fsdecode(name[:20] + b"/1" + name),
            tmp_path / "noise" / os.fsdecode(name),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "wb") as file:
                soundfile.write(file, 0.1 * rng.standard_normal(2000), 8000, format="WAV")
    made, run = b"m\xff$.json", b"run$x$ {body} {title} \xff"
    folders = ["--speech", tmp_path / "speech", "--noise", tmp_path / "noise"]
    assert call("prepare", *folders, "--out", made, "--plot", b"m\xff$.png", "--quiet") == 0
    entries = manifest.load(os.fsdecode(made)).entries
    assert sorted({os.fsencode(entry.path) for entry in entries if entry.kind == "noise"}) == sorted(
        NAMES[:8]
    )
    assert call("train", "--manifest", made, "--out", run, *SMALL, "--quiet") == 0
    assert call("train", "--out", run, "--resume", "--steps", "3", "--quiet") == 0
    assert call("evaluate", "--model", run, *FEW) == 0
    baselines = {"$x$": [1.0] * 8, "{body}": [2.0] * 8, "\udcff": [3.0] * 8, "$\\frac{$": [4.0] * 8}
    Path("baselines.json").write_text(json.dumps(baselines))
    few = ["--mixtures", "2", "--seconds", "0.2", "--quiet"]
    assert call("report", run, "--baselines", "baselines.json", *few) == 0
    page = Path(os.fsdecode(run), "report.html").read_text(encoding="utf-8")
    shown = "run$x$ {body} {title} \\udcff: report"
    assert f"<title>{shown}</title>" in page and f"<h1>{shown}</h1>" in page
    assert page.count("<h2>Learning</h2>") == 1
    assert "<th>{body}</th>" in page and "<th>\\udcff</th>" in page


def test_recordings_that_differ_in_suffix_or_folder_have_pictures_of_their_own(trained, tmp_path):
    names = ["a.wav", "a.flac", "a.wav.ogg", "b.wav", "sub/a.wav", "sub/b.flac", "sub/deep/a.wav"]
    rng = np.random.default_rng(0)
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "in" / name, 0.1 * rng.standard_normal(2000), 8000)
    arguments = ["--model", trained, "-o", "outs", "--noise-out", "noises", "--plot", "pictures", "--quiet"]
    assert call("denoise", "in", *arguments) == 0
    expected = [
        "a.flac.png",
        "a.wav.ogg.png",
        "a.wav.png",
        "b.png",
        "sub/a.png",
        "sub/b.png",
        "sub/deep/a.png",
    ]
    assert below("pictures") == [os.fsencode(name) for name in expected]
    pictures = {Path("pictures", name).read_bytes() for name in expected}
    assert len(pictures) == len(names)  # each of its own sound


# What is no file, or no folder.


@pytest.fixture
def odd(tmp_path, noisy):
    """Paths by name, none of which is a file to read."""
    (tmp_path / "folder.wav").mkdir()
    for name in ("pipe", "pipe.wav"):
        os.mkfifo(tmp_path / name)
    for name in ("loop", "loop.wav"):
        (tmp_path / name).symlink_to(name)
    (tmp_path / "astray.wav").symlink_to("gone.wav")
    return ["pipe", "pipe.wav", "loop", "loop.wav", "astray.wav", "noisy.wav/below", "n" * 300, "n" * 300 + ".wav",
            "/dev/zero", "/dev/null", "missing"]  # fmt: skip


def readers(recordings, trained, noisy):
    """Calls, each with a path to read, and nothing else that is wrong."""
    speech, noise = recordings / "speech", recordings / "noise"
    return {
        "denoise": lambda path: ["denoise", path, "--model", trained, "-o", "out.wav"],
        "compare": lambda path: ["compare", "--clean", noisy, path],
        "compare --clean": lambda path: ["compare", "--clean", path, noisy],
        "--model": lambda path: ["denoise", noisy, "--model", path, "-o", "out.wav"],
        "info": lambda path: ["info", "--model", path],
        "evaluate": lambda path: ["evaluate", "--model", path, *FEW],
        "evaluate --speech": lambda path: [
            "evaluate",
            "--model",
            trained,
            "--speech",
            path,
            "--noise",
            noise,
            *FEW,
        ],
        "train --speech": lambda path: ["train", "--speech", path, "--noise", noise, "--out", "run", *SMALL],
        "train --noise": lambda path: ["train", "--speech", speech, "--noise", path, "--out", "run", *SMALL],
        "train --manifest": lambda path: ["train", "--manifest", path, "--out", "run", *SMALL],
        "train --from": lambda path: [
            "train",
            "--speech",
            speech,
            "--noise",
            noise,
            "--from",
            path,
            "--out",
            "run",
        ],
        "train --resume": lambda path: ["train", "--out", path, "--resume"],
        "prepare": lambda path: ["prepare", path, "--out", "made.json"],
        "prepare --rooms": lambda path: ["prepare", "--speech", speech, "--noise", noise, "--rooms", path],
        "report": lambda path: ["report", path, "-o", "page.html"],
        "report --baselines": lambda path: ["report", trained, "-o", "page.html", "--baselines", path, *FEW],
    }


def test_what_cannot_be_read_is_named_in_one_line(recordings, trained, noisy, odd, tmp_path, capsys):
    before = sorted(tmp_path.iterdir())
    for name, arguments in readers(recordings, trained, noisy).items():
        for path in odd:
            line = refused(capsys, *arguments(path))
            named = "gone.wav" if path == "astray.wav" else path  # where the link leads may be what is named
            assert path in line or named in line, (name, path, line)
            assert "Errno" not in line
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_where_a_file_should_be(trained, noisy, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    for arguments in (
        ["compare", "--clean", noisy, "folder"],
        ["compare", "--clean", "folder", noisy],
        ["info", "--model", "folder"],
        ["train", "--manifest", "folder", "--out", "run"],
        ["report", trained, "-o", "page.html", "--baselines", "folder", *FEW],
    ):
        assert "folder: " in refused(capsys, *arguments)


def test_what_cannot_be_written_is_refused_before_any_work(recordings, trained, noisy, tmp_path, capsys):
    """Nothing is written, not even the output that could be."""
    for kind in ("wav", "png", "json", "html"):
        (tmp_path / f"folder.{kind}").mkdir()
        os.mkfifo(tmp_path / f"pipe.{kind}")
        (tmp_path / f"loop.{kind}").symlink_to(f"loop.{kind}")
    folders = ["--speech", recordings / "speech", "--noise", recordings / "noise"]
    denoise = ["denoise", noisy, "--model", trained, "-o"]
    calls = {
        "wav": [lambda path: [*denoise, "fine.wav", "--noise-out", path], lambda path: [*denoise, path]],
        "png": [
            lambda path: [*denoise, "fine.wav", "--plot", path],
            lambda path: ["prepare", *folders, "--out", "fine.json", "--plot", path],
            lambda path: ["compare", "--clean", noisy, noisy, "--plot", path],
        ],
        "json": [lambda path: ["prepare", *folders, "--plot", "fine.png", "--out", path]],
        "html": [lambda path: ["report", trained, "-o", path, *FEW]],
    }
    before = sorted(tmp_path.rglob("*"))
    for kind, listed in calls.items():
        bad = [f"pipe.{kind}", f"loop.{kind}", f"noisy.wav/x.{kind}", "n" * 300 + f".{kind}"]
        bad += ["folder." + kind] if kind != "wav" else []  # which is a folder to denoise into
        for arguments in listed:
            for path in bad:
                line = refused(capsys, *arguments(path))
                assert path in line or (path.startswith("noisy.wav/") and "noisy.wav: is a file" in line)
    assert sorted(tmp_path.rglob("*")) == before


def test_pictures_below_what_is_no_folder_are_refused_before_any_work(trained, noisy, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    shutil.copy(noisy, tmp_path / "in")
    (tmp_path / "taken" / "noisy.png").mkdir(parents=True)
    (tmp_path / "loop").symlink_to("loop")
    for folder in ("noisy.wav", "noisy.wav/below", "loop", "loop/below", "n" * 300, "taken"):
        line = refused(capsys, "denoise", "in", "--model", trained, "-o", "outs", "--plot", folder)
        assert folder.removesuffix("/below") in line
    assert not (tmp_path / "outs").exists()


def test_a_link_to_nowhere_or_a_vanished_file_in_a_folder_is_named_and_the_others_are_done(
    trained, noisy, tmp_path, capsys, monkeypatch
):
    from tasnet_np.listening import denoise

    sounds = tmp_path / "in"
    sounds.mkdir()
    for name in ("a.wav", "b.wav", "c.wav"):
        shutil.copy(noisy, sounds / name)
    (sounds / "astray.wav").symlink_to("gone.wav")
    right = denoise.AudioFile

    def vanishing(path, **how):
        if path.name == "b.wav":
            path.unlink()
        return right(path, **how)

    monkeypatch.setattr(denoise, "AudioFile", vanishing)
    assert call("denoise", "in", "--model", trained, "-o", "outs", "--quiet") == 2
    errors = capsys.readouterr().err
    for name in ("astray.wav", "b.wav"):
        assert f"warning: in/{name}: cannot be read (No such file or directory)" in errors
    assert errors.splitlines()[-1] == "error: 2 of 4 files could not be denoised; see the lines above"
    assert below("outs") == [b"a.wav", b"c.wav"]


def test_prepare_skips_what_cannot_be_read(recordings, tmp_path, capsys):
    for kind in ("speech", "noise"):
        shutil.copytree(recordings / kind, tmp_path / kind)
    (tmp_path / "speech" / "alto" / "astray.wav").symlink_to("gone.wav")
    (tmp_path / "noise" / "loop.wav").symlink_to("loop.wav")
    os.mkfifo(tmp_path / "noise" / "pipe.wav")
    assert call("prepare", "--speech", "speech", "--noise", "noise", "--out", "made.json") == 0
    skipped = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: skipped")]
    assert sorted(re.findall(r"(\w+\.wav): ", " ".join(skipped))) == ["astray.wav", "loop.wav", "pipe.wav"]
    assert len(manifest.load("made.json").entries) == 14


TABLE = "mixture_ID,mixture_path,source_1_path,noise_path\n"


@pytest.mark.parametrize(
    "contents, words",
    [
        (TABLE.encode() + b"1-1,x,s/\xe9.wav,n/1.wav\n", "is not UTF-8 text; save it as UTF-8"),
        ((TABLE + "1-1,x,s/1.wav,n/1.wav\n").encode("utf-16"), "is not UTF-8 text; save it as UTF-8"),
        (TABLE.encode() + b'"' + b"x" * 200_000 + b'",x,s/1.wav,n/1.wav\n', "is not a table"),
        (TABLE.replace("source_1", "source_2").encode() + b"1-1,x,s/1.wav,n/1.wav\n", "source_1_path"),
        ((TABLE[:-1] + ",source_2_path\n").encode() + b"1-1,x,s/1.wav,n/1.wav,s/2.wav\n", "has no source 2"),
    ],
)
def test_tables_that_cannot_be_read_are_named(tmp_path, capsys, contents, words):
    for name in ("s/1.wav", "s/2.wav", "n/1.wav", "n/2.wav"):
        (tmp_path / "mix" / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(
            tmp_path / "mix" / name, 0.1 * np.random.default_rng(len(name)).standard_normal(2000), 8000
        )
    table = tmp_path / "mix" / "mixture_train.csv"
    table.write_bytes(contents)
    line = refused(capsys, "prepare", "mix", "--out", "made.json")
    if words == "source_1_path":  # another kind of table, as it lacks this column
        assert "of no known layout" in line
    else:
        assert "mix/mixture_train.csv: " in line and words in line
    assert not Path("made.json").exists()


def test_a_table_with_a_byte_order_mark_is_a_table(tmp_path):
    rng = np.random.default_rng(0)
    rows = [(f"{i}-1_x", f"s/{i}.wav", f"n/{i}.wav") for i in (1, 2)]
    for name in [name for row in rows for name in row[1:]]:
        (tmp_path / "mix" / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "mix" / name, 0.1 * rng.standard_normal(2000), 8000)
    lines = "".join(f"{mixture},x,{speech},{noise}\n" for mixture, speech, noise in rows)
    (tmp_path / "mix" / "mixture_train.csv").write_text("\ufeff" + TABLE + lines, encoding="utf-8")
    assert call("prepare", "mix", "--out", "made.json", "--quiet") == 0
    found = {(entry.path, entry.speaker) for entry in manifest.load("made.json").entries}
    assert found == {("s/1.wav", "1"), ("s/2.wav", "2"), ("n/1.wav", ""), ("n/2.wav", "")}
