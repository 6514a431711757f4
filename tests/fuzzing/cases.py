"""The kinds of inputs, and how a seed becomes a case."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from fuzzing import corpus, mutators, sound, stored


@dataclass(frozen=True)
class Kind:
    """How files of a kind are made, changed and judged."""

    suffix: str
    bases: Callable  # () -> list of (bytes, amount): good files. The sound in it: frames, or bytes of samples
    pieces: Callable  # bytes -> list of bytes
    check: Callable  # (path, least): reads the file; AssertionError where what came out is wrong
    there: Callable = lambda data, base, amount: 0  # the least sound in damaged bytes, where one can tell
    own: tuple = ()  # further mutators, which keep the sound
    lost: int = 0  # sound that a flipped bit may cost without an error, where a format has no checksums


@dataclass(frozen=True)
class Case:
    """An input with faults."""

    suffix: str
    data: bytes
    least: int  # the sound that must come out, if there is no error
    how: str  # the mutators
    reader: Callable

    def check(self, path):
        self.reader(path, self.least)


_RIFF, _OGG = mutators.chunks("little"), mutators.at_each(b"OggS")
_ZIP = mutators.at_each(b"PK")
KINDS = {
    "wav": Kind(".wav", sound.wavs, _RIFF, sound.check_pcm, sound.bytes_there),
    "stream": Kind(".wav", sound.streamed_wavs, _RIFF, sound.check_stream, sound.bytes_there),
    "aiff": Kind(".aiff", sound.aiffs, mutators.chunks("big"), sound.check_pcm, sound.bytes_there),
    "flac": Kind(".flac", sound.flacs, mutators.flac_blocks, sound.check_frames),
    "ogg": Kind(".ogg", sound.oggs, _OGG, sound.check_frames),
    "opus": Kind(".opus", sound.opuses, _OGG, sound.check_frames),
    "mp3": Kind(".mp3", sound.mp3s, sound.mp3_frames, sound.check_frames, lost=5 * 1152),
    "checkpoint": Kind(".npz", stored.checkpoints, _ZIP, stored.check_checkpoint, own=(stored.other_arrays,)),
    "validation": Kind(".npz", stored.validations, _ZIP, stored.check_validation, own=(stored.other_arrays,)),
    "manifest": Kind(
        ".json", stored.manifests, mutators.lines, stored.check_manifest, own=(stored.other_values,)
    ),
    "config": Kind(".json", stored.configs, mutators.lines, stored.check_config, own=(stored.other_values,)),
    "log": Kind(".jsonl", stored.logs, mutators.lines, stored.check_log, own=(stored.other_line,)),
}
CORPUS = corpus.CORPUS  # name: (kind, function -> (bytes, least)): what failed once
GROW = {"append_bytes", "insert_bytes", "repeat_range", "repeat_piece"}  # bytes that need not be sound


def make_case(kind, seed):
    """The case of a seed, or the one of the corpus with that name."""
    here = KINDS[kind]
    if isinstance(seed, str):
        data, least = CORPUS[seed][1]()
        return Case(here.suffix, data, least, "once failed", here.check)
    rng = np.random.default_rng([*kind.encode(), seed])
    bases = here.bases()
    data, amount = bases[int(rng.integers(len(bases)))]
    if here.lost == 0 and not here.own and rng.random() < 0.06:
        return Case(here.suffix, data + data, 2 * amount, "joined", here.check)
    changed, least, how = data, amount, []
    for _ in range(1 if rng.random() < 0.75 else 2):
        if here.own and rng.random() < 0.6:
            mutate = here.own[int(rng.integers(len(here.own)))]
            changed = mutate(rng, changed)
        else:
            group = mutators.KEEPS if rng.random() < 0.5 else mutators.TAKES
            mutate = group[int(rng.integers(len(group)))]
            if changed:
                changed = mutate(rng, changed, here.pieces)
            least = least - here.lost if group is mutators.KEEPS else 0
        how.append(mutate.__name__)
    if least <= 0 and not GROW & set(how):
        least = here.there(changed, data, amount)
    return Case(here.suffix, changed, max(0, least), " and ".join(how), here.check)
