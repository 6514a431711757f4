"""The ways in which people keep recordings in folders: which files there are, and what each is.

Every layout gives a list of `Found`: speech with its speaker, noise, a room response, or a clean recording with
its noisy partner. No audio file is opened here. So a hundred thousand files take only seconds.
"""

import csv
import itertools
import os
import re
from dataclasses import dataclass
from pathlib import Path

from tasnet_np.errors import UserError
from tasnet_np.safe_files import check_is_file
from tasnet_np.sound.audio_files import find_audio

ROOT_SPEAKER = "."  # speaker of the files that lie directly in the speech folder
PARTS = ("training", "validation", "test")
SUBSETS = {
    "train": "training",
    "tr": "training",
    "dev": "validation",
    "cv": "validation",
    "test": "test",
    "tt": "test",
}


@dataclass(frozen=True)
class Found:
    """One file, or one pair of files, before it was opened."""

    kind: str  # "speech", "noise", "room" or "pair" (clean, with a noisy partner)
    folder: Path
    path: str  # below the folder, with forward slashes
    speaker: str = ""  # of speech and pairs
    part: str = ""  # one of PARTS, where the corpus gives it
    noisy: str = ""  # of a pair: the noisy recording, below the folder


def folders(speech, noise=None, rooms=None):
    """List a folder of speech with a folder for each speaker, a folder of noise, and one of room responses.

    Parameters
    ----------
    speech, noise, rooms : str or Path, or None
        None may lie inside another.

    Returns
    -------
    found : list of Found
    problems : list of str
        One line for all files of a folder that are not audio.

    Raises
    ------
    UserError
        A folder is missing or has no audio, or lies inside another.
    """
    given = [
        (kind, folder) for kind, folder in (("speech", speech), ("noise", noise), ("room", rooms)) if folder
    ]
    for (kind, first), (_, second) in itertools.combinations(given, 2):
        a, b = (Path(os.path.realpath(folder)) for folder in (first, second))
        if a.is_relative_to(b) or b.is_relative_to(a):
            raise UserError(f"{second}: overlaps the {kind} folder {first}; keep them apart")
    found, problems = [], []
    for kind, folder in given:
        paths, not_audio = _audio_below(folder)
        problems += not_audio
        for path in paths:
            speaker = _first_folder(path) if kind == "speech" else ""
            found.append(Found(kind, Path(folder), path, speaker))
    return found, problems


def recognise(root):
    """Tell the layout of a corpus by its folders, and list its files.

    Parameters
    ----------
    root : str or Path
        The folder of the corpus.

    Returns
    -------
    name : str
        A key of `LAYOUTS`.
    found : list of Found
    problems : list of str
        One line for all files of a folder that are not audio, and one for each file that is missing.

    Raises
    ------
    UserError
        The folder is missing, or of no known layout.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root}: is not a folder; give the folder of a corpus")
    for name, layout in LAYOUTS.items():
        result = layout(root)
        if result is not None:
            return name, *result
    raise UserError(
        f"{root}: is of no known layout ({', '.join(LAYOUTS)}); give --speech DIR and --noise DIR"
    )


def pairs(root):
    """VoiceBank-DEMAND and similar ones: `clean_trainset_28spk_wav` beside `noisy_trainset_28spk_wav`, or `clean`
    beside `noisy`. Files of the same name belong together. The speaker of `p226_001.wav` is p226."""
    names = {path.name for path in root.iterdir() if path.is_dir()}
    sides = {name: "noisy" + name[5:] for name in sorted(names) if name.startswith("clean")}
    sides = {clean: noisy for clean, noisy in sides.items() if noisy in names}
    if not sides:
        return None
    found, problems = [], []
    for clean, noisy in sides.items():
        paths, not_audio = _audio_below(root / clean)
        partners = {Path(path).name: path for path in _audio_below(root / noisy)[0]}
        problems += not_audio
        part = "test" if "test" in clean else "training" if "train" in clean else ""
        for path in paths:
            name = Path(path).name
            if name not in partners:
                problems.append(
                    f"skipped {root / clean / path}: has no noisy partner in {root / noisy}; add it"
                )
                continue
            noisy_path = f"{noisy}/{partners[name]}"
            found.append(Found("pair", root, f"{clean}/{path}", _speaker(path), part, noisy_path))
    return found, problems


def librispeech(root):
    """LibriSpeech: `train-clean-100/SPEAKER/CHAPTER/x.flac`, with parts `dev-...` and `test-...`."""
    root = root / "LibriSpeech" if (root / "LibriSpeech").is_dir() else root
    name = r"(train|dev|test)-(clean|other)(-\d+)?"
    subsets = [folder for folder in sorted(root.iterdir()) if re.fullmatch(name, folder.name)]
    if not subsets:
        return None
    found, problems = [], []
    for subset in subsets:
        paths, not_audio = _audio_below(subset)
        problems += [problem for problem in not_audio if ".trans.txt" not in problem]
        part = SUBSETS[subset.name.split("-")[0]]
        found += [Found("speech", root, f"{subset.name}/{path}", _first_folder(path), part) for path in paths]
    return found, problems


def librimix(root):
    """LibriMix: its metadata lists, for each mixture, the files of one or two speakers and of the noise."""
    tables = [path for path in sorted(root.rglob("*.csv")) if path.name.startswith(("mixture_", "libri"))]
    found, problems = {}, []
    for table in tables:
        for kind, speaker, part, name in _sources_in(table):
            folder_and_path = _file_of_a_table(root, name)
            if folder_and_path is None:
                problems.append(f"skipped {name}: named in {table}, but not found; keep it below {root}")
            else:
                found[folder_and_path] = Found(kind, *folder_and_path, speaker, part)
    return (list(found.values()), problems) if found or problems else None


def _sources_in(table):
    """Yield kind, speaker, part and file name of each source that a table of LibriMix lists."""
    rows = _rows_of(table)
    if not rows or not {"mixture_ID", "source_1_path", "noise_path"} <= set(rows[0]):
        return  # another kind of table
    part = next((SUBSETS[word] for word in re.findall(r"train|dev|test", table.stem)), "")
    for row in rows:
        speakers = [utterance.split("-")[0] for utterance in (row["mixture_ID"] or "").split("_")]
        for column, name in row.items():
            source = re.fullmatch(r"source_(\d)_path", column or "")
            if name and source:
                number = int(source[1])
                if not 0 < number <= len(speakers):
                    raise UserError(
                        f"{table}: mixture {row['mixture_ID']!r} has no source {number}; correct it"
                    )
                yield "speech", speakers[number - 1], part, name
            elif name and column == "noise_path":
                yield "noise", "", part, name


def _rows_of(table):
    """The rows of a CSV file, each as a dict by column."""
    check_is_file(table)
    try:
        with open(
            table, newline="", encoding="utf-8-sig"
        ) as opened:  # some programs begin a file with a mark
            return list(csv.DictReader(opened))
    except UnicodeDecodeError:
        raise UserError(f"{table}: is not UTF-8 text; save it as UTF-8") from None
    except csv.Error as error:
        raise UserError(
            f"{table}: is not a table of comma-separated values ({error}); copy it again"
        ) from None


def clean_and_noise(root):
    """MS-SNSD and DNS: `clean_train`, `noise_train` and the like, or `datasets/clean`, `datasets/noise`,
    `datasets/impulse_responses`. DNS names the reader, VCTK the speaker, in the file name."""
    inner = [path for path in sorted(root.iterdir()) if path.is_dir() and path.name.startswith("datasets")]
    tops = [path for top in (root, *inner) for path in sorted(top.iterdir()) if path.is_dir()]
    kinds = {"speech": ("clean",), "noise": ("noise",), "room": ("impulse", "rir", "RIR")}
    chosen = [(kind, top) for kind, starts in kinds.items() for top in tops if top.name.startswith(starts)]
    if not {"speech", "noise"} <= {kind for kind, _ in chosen}:
        return None
    found, problems = [], []
    for kind, top in chosen:
        paths, not_audio = _audio_below(top)
        problems += not_audio
        part = next((SUBSETS[word] for word in re.findall(r"train|test", top.name)), "")
        for path in paths:
            name = f"{top.relative_to(root).as_posix()}/{path}"
            found.append(Found(kind, root, name, _speaker(path) if kind == "speech" else "", part))
    return found, problems


LAYOUTS = {"librispeech": librispeech, "librimix": librimix, "pairs": pairs, "clean-noise": clean_and_noise}


def _audio_below(folder):
    """Audio files below a folder, as relative paths; and a list with a line about other files, if there are any."""
    audio_paths, other_paths = find_audio(folder)
    problems = []
    if other_paths:
        problems.append(f"skipped {len(other_paths)} non-audio files in {folder}, like {other_paths[0].name}")
    return [path.relative_to(folder).as_posix() for path in audio_paths], problems


def _first_folder(path):
    """The first folder of a relative path: the speaker, where speakers have folders."""
    folder, slash, _ = path.partition("/")
    return folder if slash else ROOT_SPEAKER


def _speaker(path):
    """The speaker that a file's name gives, else its first folder."""
    name = re.search(r"reader_\d+|^[ps]\d{3}(?=_)", Path(path).name)
    return name[0] if name else _first_folder(path)


def _file_of_a_table(root, name):
    """Folder, and path below it, of a file that a table names; None if it is not there.

    A table keeps its absolute paths when the corpus is moved. So the path without its first folders is looked for
    below `root`, with as few of them missing as possible.
    """
    path = Path(name)
    for start in range(len(path.parts)):
        below = Path(*path.parts[start:])
        if not below.is_absolute() and (root / below).is_file():
            return root, below.as_posix()
    if path.is_absolute() and path.is_file():
        return path.parent, path.name
    return None
