"""The ways in which people keep recordings in folders: which files are there, and what each is.

Every layout gives a list of `Found`: speech with its speaker, noise, room responses, or a clean recording with
its noisy partner. Nothing is opened here, so that a hundred thousand files take seconds.
"""

import csv
import itertools
import re
from dataclasses import dataclass
from pathlib import Path

from tasnet_np.audio_files import find_audio
from tasnet_np.errors import UserError

ROOT_SPEAKER = "."  # speaker of the files that lie directly in the speech folder
PARTS = ("training", "validation", "test")
SUBSETS = {"train": "training", "tr": "training", "dev": "validation", "cv": "validation", "test": "test", "tt": "test"}


@dataclass(frozen=True)
class Found:
    """One file, or one pair of files, before it was opened."""

    kind: str  # "speech", "noise", "room" or "pair" (clean, with a noisy partner)
    folder: Path
    path: str  # below the folder, with forward slashes
    speaker: str = ""  # of speech and pairs
    part: str = ""  # one of PARTS where the corpus says so
    noisy: str = ""  # of a pair: the noisy recording, below the folder


def folders(speech, noise=None, rooms=None):
    """A folder of speech with a folder for each speaker, a folder of noise, one of room responses.

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
    given = [(kind, folder) for kind, folder in (("speech", speech), ("noise", noise), ("room", rooms)) if folder]
    for (kind, one), (_, other) in itertools.combinations(given, 2):
        places = Path(one).resolve(), Path(other).resolve()
        if places[0].is_relative_to(places[1]) or places[1].is_relative_to(places[0]):
            raise UserError(f"{other}: overlaps the {kind} folder {one}; keep them apart")
    found, problems = [], []
    for kind, folder in given:
        files, more = _below(folder)
        problems += more
        for path in files:
            speaker = _first_folder(path) if kind == "speech" else ""
            found.append(Found(kind, Path(folder), path, speaker))
    return found, problems


def recognise(root):
    """Tell the layout of a corpus by its folders, and list its files.

    Parameters
    ----------
    root : str or Path

    Returns
    -------
    name : str
        A key of ``LAYOUTS``.
    found : list of Found
    problems : list of str

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
    raise UserError(f"{root}: is of no known layout ({', '.join(LAYOUTS)}); give --speech DIR and --noise DIR")


def pairs(root):
    """VoiceBank-DEMAND and its like: `clean_trainset_28spk_wav` beside `noisy_trainset_28spk_wav`, or `clean`
    beside `noisy`. Files of the same name belong together; `p226_001.wav` is speaker p226."""
    names = {path.name for path in root.iterdir() if path.is_dir()}
    sides = {name: "noisy" + name[5:] for name in sorted(names) if name.startswith("clean")}
    sides = {clean: noisy for clean, noisy in sides.items() if noisy in names}
    if not sides:
        return None
    found, problems = [], []
    for clean, noisy in sides.items():
        paths, more = _below(root / clean)
        partners = {Path(path).name: path for path in _below(root / noisy)[0]}
        problems += more
        part = "test" if "test" in clean else "training" if "train" in clean else ""
        for path in paths:
            name = Path(path).name
            if name not in partners:
                problems.append(f"skipped {root / clean / path}: has no noisy partner in {root / noisy}; add it")
                continue
            noisy_path = f"{noisy}/{partners[name]}"
            found.append(Found("pair", root, f"{clean}/{path}", _speaker(path), part, noisy_path))
    return found, problems


def librispeech(root):
    """LibriSpeech: `train-clean-100/SPEAKER/CHAPTER/x.flac`, with parts `dev-...` and `test-...`."""
    root = root / "LibriSpeech" if (root / "LibriSpeech").is_dir() else root
    subsets = [path for path in sorted(root.iterdir()) if re.fullmatch(r"(train|dev|test)-(clean|other)(-\d+)?", path.name)]
    if not subsets:
        return None
    found, problems = [], []
    for subset in subsets:
        files, more = _below(subset)
        problems += [problem for problem in more if ".trans.txt" not in problem]
        part = SUBSETS[subset.name.split("-")[0]]
        found += [Found("speech", root, f"{subset.name}/{path}", _first_folder(path), part) for path in files]
    return found, problems


def librimix(root):
    """LibriMix: its metadata lists, for each mixture, the files of one or two speakers and of the noise."""
    tables = [path for path in sorted(root.rglob("*.csv")) if path.name.startswith(("mixture_", "libri"))]
    found, problems = {}, []
    for table in tables:
        with open(table, newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            if not {"mixture_ID", "source_1_path", "noise_path"} <= set(rows.fieldnames or ()):
                continue
            part = next((SUBSETS[word] for word in re.findall(r"train|dev|test", table.stem)), "")
            for row in rows:
                speakers = [utterance.split("-")[0] for utterance in row["mixture_ID"].split("_")]
                for column, name in row.items():
                    source = re.fullmatch(r"source_(\d)_path", column or "")
                    if not name or not (source or column == "noise_path"):
                        continue
                    place = _place(root, name)
                    if place is None:
                        problems.append(f"skipped {name}: named in {table}, but not found; keep it below {root}")
                        continue
                    kind = "speech" if source else "noise"
                    speaker = speakers[int(source[1]) - 1] if source else ""
                    found[place] = Found(kind, *place, speaker, part)
    return (list(found.values()), problems) if found or problems else None


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
        files, more = _below(top)
        problems += more
        part = next((SUBSETS[word] for word in re.findall(r"train|test", top.name)), "")
        for path in files:
            name = f"{top.relative_to(root).as_posix()}/{path}"
            found.append(Found(kind, root, name, _speaker(path) if kind == "speech" else "", part))
    return found, problems


LAYOUTS = {"librispeech": librispeech, "librimix": librimix, "pairs": pairs, "clean-noise": clean_and_noise}


def _below(folder):
    """Audio files below a folder, as relative paths, and a line about the others."""
    audio, others = find_audio(folder)
    problems = []
    if others:
        problems.append(f"skipped {len(others)} non-audio files in {folder}, like {others[0].name}")
    return [path.relative_to(folder).as_posix() for path in audio], problems


def _first_folder(path):
    folder, slash, _ = path.partition("/")
    return folder if slash else ROOT_SPEAKER


def _speaker(path):
    """The speaker by the file's name, where it says so, else by its folder."""
    name = re.search(r"reader_\d+|^[ps]\d{3}(?=_)", Path(path).name)
    return name[0] if name else _first_folder(path)


def _place(root, name):
    """(folder, path below it) of a file named in a table, also where the corpus was moved since."""
    path = Path(name)
    for start in range(len(path.parts)):
        below = Path(*path.parts[start:])
        if not below.is_absolute() and (root / below).is_file():
            return root, below.as_posix()
    if path.is_absolute() and path.is_file():
        return path.parent, path.name
    return None

