"""Which recordings are for training, and which are held out: parts that have no speaker and no recording in common."""

import dataclasses

import numpy as np

from tasnet_np.errors import UserError
from tasnet_np.ranges import SEED, SHARE


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
    if SHARE.broken(share) or SEED.broken(seed):
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
    """The entries of some speakers: of those in `hold_out`, or of a random share of them.

    Speakers who share a recording stay together. Where there is but one speaker, or all of them stay together, the
    recordings are parted instead.
    """
    names = sorted({entry.speaker for entry in speech})
    groups = _together(names, [(entry.speaker, entry.digest) for entry in speech])
    if hold_out:
        held = [name for name in names if name in hold_out]
        if len(held) == len(names) or len(held) < len(set(hold_out)):
            asked, known = ", ".join(hold_out), ", ".join(names)
            raise UserError(f"hold_out {asked}: name some, but not all, of the speakers {known}")
        for group in groups:
            if 0 < len(set(group) & set(held)) < len(group):
                raise UserError(f"hold_out: {', '.join(group)} share a recording; name all of them, or none")
    elif len(groups) == 1:
        clips = _together(range(len(speech)), [(i, entry.digest) for i, entry in enumerate(speech)])
        return [speech[i] for group in _held_out("speech clips", clips, share, rng) for i in group]
    else:
        held = [name for group in _held_out("speakers", groups, share, rng) for name in group]
    return [entry for entry in speech if entry.speaker in held]


def _together(items, keys):
    """Lists of the items that have to stay together, as they have a key in common.

    Parameters
    ----------
    items : sequence of hashable
    keys : list of (item, str)
        A key of an item. An empty one is in common with none.

    Returns
    -------
    list of list
        In the order of the items.
    """
    group_of, first = {item: [item] for item in items}, {}
    for item, key in keys:
        mine, other = group_of[item], group_of[first.setdefault(key, item)]
        if key and mine is not other:
            other += mine
            group_of.update(dict.fromkeys(mine, other))
    place = {item: i for i, item in enumerate(items)}
    groups = {id(group): sorted(group, key=place.get) for group in group_of.values()}
    return list(groups.values())


def _held_out(what, items, share, rng):
    """A random share of the items, in their order: at least one, and not all."""
    if len(items) < 2:
        raise UserError(f"{what}: {len(items)} found; at least 2 are needed, one for validation")
    count = min(max(1, round(share * len(items))), len(items) - 1)
    return [items[i] for i in sorted(rng.permutation(len(items))[:count].tolist())]
