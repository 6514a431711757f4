"""What a corpus consists of: every file with its rate, length and level, and which part it belongs to.

A manifest is made once, by `tasnet-np prepare` or at the start of `tasnet-np train`. A run trains on its recordings.
No speaker, no recording and no copy of a recording is in more than one part. It is a JSON file with one line for
each recording:

    {"format": ..., "version": 1, "seed": 0, "share": 0.2, "folders": [...], "problems": [...], "mixtures": [...],
     "entries": [
      {"kind": "speech", "folder": 0, "path": "ann/1.wav", "speaker": "ann", "part": "training", "rate": 8000, ...},
"""

import dataclasses
import hashlib
import json
import math
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tasnet_np.corpus.layouts import PARTS
from tasnet_np.corpus.parting import parted
from tasnet_np.errors import UserError
from tasnet_np.ranges import SEED, SHARE, Range, check_all, shown
from tasnet_np.safe_files import atomic_path
from tasnet_np.sound.audio_files import UNKNOWN_LENGTH, AudioFile
from tasnet_np.sound.bad_samples import check_finite
from tasnet_np.sound.channels import mono
from tasnet_np.sound.resampling import HIGHEST_RATE, LOWEST_RATE
from tasnet_np.stored_json import build, read_json

FORMAT, VERSION = "tasnet_np manifest", 1
SILENCE_DB = -90.0  # dBFS: a recording below this level is silent; it is less than the last of 16 bits
CLIPPED_AT = 0.999  # of full scale
CLIPPED_RUN = 3  # at least so many samples in a row at that level count as clipped
MOST_BYTES = 256 << 20  # of a manifest: a million recordings
KINDS = ("speech", "noise", "room", "pair")
RANGES = {  # of the numbers of an Entry
    "rate": Range(LOWEST_RATE, HIGHEST_RATE, whole=True),
    "channels": Range(1, 1 << 16, whole=True),
    "frames": Range(1, 1 << 48, whole=True),
    "clipped": Range(0, 1 << 62, whole=True),
}
LEVEL_RANGE = Range(-1000, 1000)  # dBFS; more than floats can have


@dataclass(frozen=True, slots=True)
class Entry:
    """One recording of a corpus, or a clean one with its noisy partner."""

    kind: str  # "speech", "noise", "room" or "pair"
    folder: int  # index into Manifest.folders
    path: str  # below that folder, with forward slashes
    rate: int  # Hz
    channels: int
    frames: int  # samples of each channel
    speaker: str = ""  # of speech and pairs
    part: str = ""  # "training", "validation" or "test"
    noisy: str = ""  # of a pair: the noisy recording, below the same folder
    level_db: float | None = None  # RMS in dBFS; None where only the header was read
    clipped: int = 0  # samples in runs of at least CLIPPED_RUN at full scale
    digest: str = ""  # of the samples; the same for two copies of a recording
    noisy_digest: str = ""  # of a pair: the same of the noisy recording

    @property
    def seconds(self):
        return self.frames / self.rate


@dataclass
class Manifest:
    """The recordings of a corpus, and how they were parted."""

    folders: list[str]  # absolute
    entries: list[Entry]
    problems: list[str] = field(default_factory=list)  # one line for each file left out: which, and why
    seed: int = 0
    share: float = 0.2
    mixtures: list[dict[str, str | float]] = field(default_factory=list)  # validation set of a run: name, SNR

    def path(self, entry, noisy=False):
        """Path of a recording, or of its noisy partner."""
        return Path(self.folders[entry.folder], entry.noisy if noisy else entry.path)

    def part(self, part, kind=None):
        """The entries of a part, all kinds or one."""
        return [e for e in self.entries if e.part == part and kind in (None, e.kind)]


def inspect(found, *, contents=True, progress=False, threads=2):
    """Open every file of a layout and say what is in it.

    Parameters
    ----------
    found : list of Found
        As from `tasnet_np.corpus.layouts`.
    contents : bool
        Read all samples, and not only the headers. This finds files that are cut short, silent or clipped, files
        with NaN, and copies of one recording.
    progress : bool
        Show a progress bar.
    threads : int
        Files read at the same time.

    Returns
    -------
    folders : list of str
        Absolute paths, sorted.
    entries : list of Entry
        Their `part` is empty where the layout gives none.
    problems : list of str
        One line for each file that was left out, as it is broken or silent.
    """
    folders = sorted({str(one.folder.resolve()) for one in found})
    numbers = {one.folder: folders.index(str(one.folder.resolve())) for one in found}

    def entry_or_problem(one):
        try:
            return _inspect_one(one, numbers[one.folder], contents)
        except UserError as error:
            return f"skipped {error}"

    with ThreadPoolExecutor(threads) as pool:
        each = pool.map(entry_or_problem, found)
        results = list(tqdm(each, desc="inspecting", total=len(found), unit="file", disable=not progress))
    entries = [result for result in results if isinstance(result, Entry)]
    return folders, entries, [result for result in results if isinstance(result, str)]


def _inspect_one(one, folder, contents):
    """The Entry of one Found; `folder` is the index of its folder."""
    files = [AudioFile(one.folder / name, header=not contents) for name in (one.path, one.noisy) if name]
    measured, *of_noisy = [_contents(file) for file in files] if contents else [{}]
    noisy_digest = of_noisy[0]["digest"] if of_noisy else ""
    headers = [_header(file) for file in files]
    if headers[-1] != headers[0]:
        raise UserError(
            f"{files[1].path}: differs from {files[0].path} in rate, channels or length; cut both alike"
        )
    rate, channels, frames = headers[0]
    about = {"speaker": one.speaker, "part": one.part, "noisy": one.noisy, "noisy_digest": noisy_digest}
    return Entry(
        one.kind, folder, one.path, rate, channels, measured.pop("frames", frames), **about, **measured
    )


def _header(file):
    """Rate, channels and frames of a `AudioFile`, by its header alone where that gives them."""
    frames = file.frames
    if frames == UNKNOWN_LENGTH:
        frames = sum(block.shape[1] for block in file)
    if frames < 1:
        raise UserError(f"{file.path}: holds 0 samples; record or export it again")
    return file.rate, file.channels, frames


def _contents(file):
    """Length, level, clipping and digest of a `AudioFile`, block by block."""
    digest, energy, frames, clipped = hashlib.blake2b(digest_size=16), 0.0, 0, 0
    for block in file:
        check_finite(file.path, block, frames)
        digest.update(np.ascontiguousarray(block).data)
        frames += block.shape[1]
        clipped += count_clipped(block)
        energy += float(np.sum(np.square(mono(block), dtype=np.float64)))
    level_db = 10 * math.log10(energy / frames) if energy else -math.inf
    if level_db < SILENCE_DB:
        raise UserError(f"{file.path}: is silent ({level_db:.0f} dBFS); remove or replace it")
    return {
        "frames": frames,
        "level_db": round(level_db, 2),
        "clipped": clipped,
        "digest": digest.hexdigest(),
    }


def count_clipped(samples):
    """Count the samples (channels, n) that an overloaded input cut off: runs of CLIPPED_RUN or more at full scale."""
    full = np.abs(samples) >= CLIPPED_AT  # (channels, n)
    if not full.any():
        return 0
    edges = np.diff(np.pad(full, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    starts, ends = np.nonzero(edges == 1)[1], np.nonzero(edges == -1)[1]
    lengths = ends - starts
    return int(lengths[lengths >= CLIPPED_RUN].sum())


def make_manifest(found, problems=(), *, seed=0, share=0.2, hold_out=(), contents=True, progress=False):
    """Inspect files and part them into training and validation, and test where the corpus has such a part.

    No two parts share a speaker, a noise recording, a room response or a copy of a recording, the clean recording
    of a pair included.

    Parameters
    ----------
    found, problems
        As from a layout.
    seed, share, hold_out
        As for `parted`.
    contents, progress
        As for `inspect`.

    Returns
    -------
    Manifest

    Raises
    ------
    UserError
        There is no usable speech or noise, or one of the reasons that `parted` names.
    """
    folders, entries, unusable = inspect(found, contents=contents, progress=progress)
    entries, copies = _without_copies(entries, folders)
    problems = [*problems, *unusable, *copies]
    for kinds in (("speech", "pair"), ("noise", "pair")):
        if not any(entry.kind in kinds for entry in entries):
            why = problems[-1] if problems else "none found"
            raise UserError(f"{', '.join(folders) or 'corpus'}: no usable {kinds[0]} recordings; {why}")
    entries = parted(entries, seed=seed, share=share, hold_out=hold_out)
    return Manifest(folders, entries, problems, seed, share)


def _without_copies(entries, folders):
    """The entries without copies, and a line for each copy left out.

    A pair is a copy of another one if both its recordings are. Pairs may share a clean recording, as the same speech
    at several SNRs does, but not with speech that the corpus itself has put into another part.
    """
    first, first_speech, kept, problems = {}, {}, [], []
    for entry in entries:
        if not entry.digest:  # only the header was read
            kept.append(entry)
            continue
        if entry.kind in ("speech", "pair"):
            speech = first_speech.setdefault(entry.digest, entry)
            if _fixed_part(speech) != _fixed_part(entry):
                problems.append(_copy_of(speech, entry, folders, ", which is in another part"))
                continue
        original = first.setdefault((entry.kind, entry.digest, entry.noisy_digest), entry)
        if original is entry:
            kept.append(entry)
        else:
            problems.append(_copy_of(original, entry, folders))
    return kept, problems


def _copy_of(original, entry, folders, more=""):
    """A line about a recording left out."""
    path, original = (Path(folders[e.folder], e.path) for e in (entry, original))
    return f"skipped {path}: is a copy of {original}{more}; remove it"


def _fixed_part(entry):
    """The part that the corpus gives, if `parted` cannot change it; else ""."""
    return "" if entry.part == "training" else entry.part


def save(manifest, path):
    """Write a manifest, whole or not at all.

    Parameters
    ----------
    manifest : Manifest
    path : str or Path

    Raises
    ------
    UserError
        The file cannot be written.
    """
    head = {"format": FORMAT, "version": VERSION}
    head |= {name: getattr(manifest, name) for name in ("seed", "share", "folders", "problems", "mixtures")}
    lines = [json.dumps(_compact(entry)) for entry in manifest.entries]
    with atomic_path(path) as temporary:
        entries = ",\n".join(lines)
        temporary.write_text(f'{json.dumps(head)[:-1]}, "entries": [\n{entries}\n]}}\n', encoding="utf-8")


_DEFAULTS = {f.name: f.default for f in dataclasses.fields(Entry) if f.default is not dataclasses.MISSING}


def _compact(entry):
    """An entry as a dict, without the values that are the default ones."""
    values = {f.name: getattr(entry, f.name) for f in dataclasses.fields(entry)}
    return {
        name: value for name, value in values.items() if name not in _DEFAULTS or value != _DEFAULTS[name]
    }


def load(path):
    """Read what `save` wrote.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    Manifest

    Raises
    ------
    UserError
        The file is missing, damaged, of another version or not a manifest.
    """
    remedy = "make one with tasnet-np prepare"
    try:
        stored = read_json(path, MOST_BYTES)
        if stored["format"] != FORMAT:
            raise KeyError("format")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: is damaged or not a {FORMAT}; {remedy}") from None
    if stored.get("version") != VERSION:
        raise UserError(
            f"{path}: has version {shown(stored.get('version'))}, this program reads {VERSION}; prepare it anew"
        )
    try:
        named = {"folders", "entries", "problems", "seed", "share", "mixtures"}
        made = build(Manifest, {name: stored[name] for name in named})
        _check(made)
        return made
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: is damaged ({error}); {remedy}") from None


def _check(manifest):
    """Raise UserError for a value that no manifest has, where all are of the right types."""
    SEED.check("seed", manifest.seed)
    SHARE.check("share", manifest.share)
    folders = Range(0, len(manifest.folders), whole=True, below=True, words="the number of a folder")
    if not all(map(_is_path, manifest.folders)):
        raise UserError("a folder without a name")
    for entry in manifest.entries:
        _check_entry(entry, folders)


def _check_entry(entry, folders):
    """The same for an entry; `folders` is the range of the numbers of folders."""
    try:
        check_all(RANGES, entry)
        folders.check("folder", entry.folder)
        if entry.level_db is not None:
            LEVEL_RANGE.check("level_db", entry.level_db)
        if entry.part not in PARTS or entry.kind not in KINDS:
            raise UserError(f"part {shown(entry.part)}, kind {shown(entry.kind)}")
        is_pair = entry.kind == "pair"
        if not _is_path(entry.path) or is_pair != bool(entry.noisy) or is_pair and not _is_path(entry.noisy):
            raise UserError(f"noisy is {shown(entry.noisy)}")
    except UserError as error:
        raise UserError(f"{shown(entry.path)}: {error}") from None


def _is_path(name):
    """Whether a string can be the name of a file."""
    return bool(name) and "\0" not in name


def summary(manifest):
    """Statistics of a manifest: files, hours, speakers, rates, lengths, levels, clipping.

    Parameters
    ----------
    manifest : Manifest

    Returns
    -------
    list of dict
        One for each part and kind. Levels are in dBFS; `speakers` is None for noises and rooms.
    """
    rows = []
    for part in PARTS:
        for kind in ("speech", "noise", "room", "pair"):
            entries = manifest.part(part, kind)
            if not entries:
                continue
            seconds = np.array([entry.seconds for entry in entries])
            levels = [entry.level_db for entry in entries if entry.level_db is not None]
            rows.append({
                "part": part, "kind": kind, "files": len(entries), "hours": float(seconds.sum() / 3600),
                "speakers": len({entry.speaker for entry in entries}) if kind in ("speech", "pair") else None,
                "rates": sorted({entry.rate for entry in entries}),
                "channels": sorted({entry.channels for entry in entries}),
                "shortest_s": float(seconds.min()), "median_s": float(np.median(seconds)),
                "longest_s": float(seconds.max()),
                "quietest_db": min(levels, default=None), "loudest_db": max(levels, default=None),
                "clipped_files": sum(entry.clipped > 0 for entry in entries),
            })  # fmt: skip
    return rows


def table(manifest):
    """The rows of `summary` as text, and a line that counts the files left out."""
    lines = [
        f"{'part':<11}{'kind':<7}{'files':>7}{'hours':>8}{'speakers':>9}  {'rates (Hz)':<14}{'ch':<5}"
        f"{'seconds (median)':<22}{'level (dBFS)':<15}{'clipped':>7}"
    ]
    for row in summary(manifest):
        rates, channels = (",".join(map(str, row[name])) for name in ("rates", "channels"))
        lengths = f"{row['shortest_s']:.2f} to {row['longest_s']:.2f} ({row['median_s']:.2f})"
        loud = row["loudest_db"]
        levels = "not read" if loud is None else f"{row['quietest_db']:.0f} to {loud:.0f}"
        lines.append(
            f"{row['part']:<11}{row['kind']:<7}{row['files']:>7}{row['hours']:>8.2f}{row['speakers'] or '-':>9}  "
            f"{rates:<14}{channels:<5}{lengths:<22}{levels:<15}{row['clipped_files']:>7}"
        )
    kinds = {"copies": "is a copy of", "silent": "is silent"}
    counts = {name: sum(words in line for line in manifest.problems) for name, words in kinds.items()}
    named = "|".join(["non-audio", *kinds.values()])
    counts["unreadable or broken"] = sum(not re.search(named, line) for line in manifest.problems)
    lines.append("left out: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    return "\n".join(lines)
