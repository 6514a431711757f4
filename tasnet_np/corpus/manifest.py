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
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tasnet_np.corpus.layouts import PARTS
from tasnet_np.errors import UserError
from tasnet_np.messages import progress_bar
from tasnet_np.safe_files import atomic_path, check_is_file, in_one_line
from tasnet_np.sound.audio_files import UNKNOWN_LENGTH, AudioFile, check_finite

FORMAT, VERSION = "tasnet_np manifest", 1
SILENCE_DB = -90.0  # dBFS: a recording below this level is silent; it is less than the last of 16 bits
CLIPPED_AT = 0.999  # of full scale
CLIPPED_RUN = 3  # at least so many samples in a row at that level count as clipped


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
    mixtures: list[dict] = field(default_factory=list)  # the fixed validation set of a run: name, SNR

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
    absolute = {one.folder: os.path.realpath(one.folder) for one in found}
    folders = sorted(set(absolute.values()))
    numbers = {folder: folders.index(path) for folder, path in absolute.items()}

    def entry_or_problem(one):
        try:
            return _inspect_one(one, numbers[one.folder], contents)
        except (ValueError, OSError) as error:
            problem = in_one_line(error) if isinstance(error, OSError) else str(error)
            return f"skipped {problem if one.path in problem else f'{one.folder / one.path}: {problem}'}"

    with ThreadPoolExecutor(threads) as pool:
        each = pool.map(entry_or_problem, found)
        bar = progress_bar(each, shown=progress, desc="inspecting", total=len(found), unit="file")
        results = list(bar)
    entries = [result for result in results if isinstance(result, Entry)]
    return folders, entries, [result for result in results if isinstance(result, str)]


def _inspect_one(one, folder, contents):
    """The Entry of one Found; `folder` is the index of its folder."""
    files = [AudioFile(one.folder / name, header=not contents) for name in (one.path, one.noisy) if name]
    measured = (
        [_contents(file) for file in files][0] if contents else {}
    )  # both are read, the first is measured
    headers = [_header(file) for file in files]
    if headers[-1] != headers[0]:
        raise UserError(
            f"{files[1].path}: differs from {files[0].path} in rate, channels or length; cut both alike"
        )
    rate, channels, frames = headers[0]
    about = {"speaker": one.speaker, "part": one.part, "noisy": one.noisy}
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
        check_finite(file.path, block)
        digest.update(np.ascontiguousarray(block).data)
        frames += block.shape[1]
        clipped += count_clipped(block)
        energy += float(np.sum(np.square(block.mean(axis=0), dtype=np.float64)))
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

    No two parts share a speaker, a noise recording, a room response or a copy of a recording.

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
    """The entries without later copies of an earlier one, and a line for each copy left out."""
    first, kept, problems = {}, [], []
    for entry in entries:
        key = (entry.kind, entry.digest)
        if entry.digest and key in first:
            path, original = (Path(folders[e.folder], e.path) for e in (entry, first[key]))
            problems.append(f"skipped {path}: is a copy of {original}; remove it")
        else:
            first[key] = entry
            kept.append(entry)
    return kept, problems


def parted(entries, *, seed=0, share=0.2, hold_out=()):
    """Give each entry its part: training, or validation, or the one that it has already.

    Speech, noise and rooms are each parted by themselves. Where one of them has a validation part already, its
    parts stay as they are. Otherwise a share of it is drawn for validation: of the speakers, of the noise
    recordings, of the room responses. A single speaker's recordings are parted instead.

    Parameters
    ----------
    entries : list of Entry
    seed : int
        The same seed gives the same parts.
    share : float
        Share of the speakers, noises and rooms for validation, between 0 and 1. At least one of each is drawn, and
        at least one is left.
    hold_out : sequence of str
        The speakers for validation, instead of random ones.

    Returns
    -------
    list of Entry

    Raises
    ------
    UserError
        An unknown speaker in `hold_out`, a share or seed out of range, or too few speakers, recordings of a single
        speaker, or noises.
    """
    if not 0 < share < 1 or seed < 0:
        raise UserError(f"share {share}, seed {seed}: give between 0 and 1, and at least 0")
    rng = np.random.default_rng(seed)
    noises, speech, rooms = (
        _to_be_parted(entries, *kinds) for kinds in (("noise",), ("speech", "pair"), ("room",))
    )
    held = _held_out("noise recordings", noises, share, rng) if noises else []
    if speech:
        held += _held_out_speech(speech, share, rng, hold_out)
    elif hold_out:
        raise UserError(
            f"hold_out {', '.join(hold_out)}: this corpus has a validation part of its own; leave it out"
        )
    if len(rooms) > 1:
        held += _held_out("room responses", rooms, share, rng)
    ids = set(map(id, held))
    return [
        dataclasses.replace(e, part="validation" if id(e) in ids else e.part or "training") for e in entries
    ]


def _to_be_parted(entries, *kinds):
    """The entries of these kinds that are not for the test; none where some of them are for validation already."""
    chosen = [entry for entry in entries if entry.kind in kinds and entry.part != "test"]
    return [] if any(entry.part == "validation" for entry in chosen) else chosen


def _held_out_speech(speech, share, rng, hold_out):
    """The entries of some speakers: of those in `hold_out`, or of a random share of them."""
    names = sorted({entry.speaker for entry in speech})
    if hold_out:
        held = [name for name in names if name in hold_out]
        if len(held) == len(names) or len(held) < len(set(hold_out)):
            asked, known = ", ".join(hold_out), ", ".join(names)
            raise UserError(f"hold_out {asked}: name some, but not all, of the speakers {known}")
    elif len(names) == 1:  # a single speaker: its recordings are parted
        return _held_out("speech clips", speech, share, rng)
    else:
        held = _held_out("speakers", names, share, rng)
    return [entry for entry in speech if entry.speaker in held]


def _held_out(what, items, share, rng):
    """A random share of the items, in their order: at least one, and not all."""
    if len(items) < 2:
        raise UserError(f"{what}: {len(items)} found; at least 2 are needed, one for validation")
    count = min(max(1, round(share * len(items))), len(items) - 1)
    return [items[i] for i in sorted(rng.permutation(len(items))[:count].tolist())]


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
    check_is_file(path)
    try:
        stored = json.loads(Path(path).read_text(encoding="utf-8"))
        if stored["format"] != FORMAT:
            raise KeyError("format")
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); make one with tasnet-np prepare"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: is damaged or not a {FORMAT}; make one with tasnet-np prepare") from None
    if stored["version"] != VERSION:
        raise UserError(
            f"{path}: has version {stored['version']}, this program reads {VERSION}; prepare it anew"
        )
    try:
        entries = [Entry(**entry) for entry in stored["entries"]]
        if any(e.part not in PARTS or e.frames < 1 or e.rate < 1 for e in entries):
            raise ValueError("an entry without part, length or rate")
        head = {name: stored[name] for name in ("problems", "seed", "share", "mixtures")}
        return Manifest(stored["folders"], entries, **head)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: is damaged ({error}); make one with tasnet-np prepare") from None


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
