"""The recordings of a run: found, checked, opened and described."""

from dataclasses import dataclass

from tasnet_np.corpus import layouts, manifest
from tasnet_np.corpus.clips import Corpus, Store, open_corpus
from tasnet_np.corpus.manifest import Manifest
from tasnet_np.errors import UserError
from tasnet_np.messages import warn


@dataclass(frozen=True)
class TrainingData:
    """All recordings of a run, and those of its two parts to draw from."""

    manifest: Manifest
    training: Corpus
    validation: Corpus


def find_recordings(data, recipe, quiet=False):
    """The manifest of a new run: one that is there already, or one made of folders.

    Parameters
    ----------
    data : RunData
    recipe : Recipe
        Decides which recordings are held out, where the manifest is made here.
    quiet : bool
        No progress bar. Files that are left out are named all the same, on standard error.

    Returns
    -------
    Manifest

    Raises
    ------
    UserError
        The manifest or a folder cannot be used.
    """
    if data.manifest:
        return manifest.load(data.manifest)
    found, problems = layouts.folders(data.speech, data.noise, data.rooms)
    made = manifest.make_manifest(
        found, problems, seed=recipe.seed, share=recipe.share, hold_out=recipe.hold_out, progress=not quiet
    )
    for problem in made.problems:
        warn(problem)
    return made


def check_all_there(recordings, folder):
    """Raise UserError where a recording of a manifest is gone: a run goes on with the same ones only."""
    entries = recordings.part("training") + recordings.part("validation")
    gone = next((path for path in map(recordings.path, entries) if not path.exists()), None)
    if gone:
        raise UserError(f"{gone}: is gone, but {folder} was trained on it; restore it, or train a new run")


def open_recordings(recordings, rate, cache_bytes):
    """The TrainingData of a manifest. Both parts keep what they read in one store.

    Parameters
    ----------
    recordings : Manifest
    rate : int
        Hz, of the model.
    cache_bytes : int
        The most memory for recordings.
    """
    store = Store(cache_bytes, warn)
    training, validation = (open_corpus(recordings, part, rate, store) for part in ("training", "validation"))
    return TrainingData(recordings, training, validation)


def describe(recordings):
    """A line for each part: how many clips, speakers, noises and minutes."""
    lines = []
    for part in ("training", "validation"):
        noises = recordings.part(part, "noise")
        clips = [entry for entry in recordings.part(part) if entry.kind in ("speech", "pair")]
        speakers = len({entry.speaker for entry in clips})
        clip_minutes, noise_minutes = (
            sum(entry.seconds for entry in group) / 60 for group in (clips, noises)
        )
        lines.append(
            f"{part}: {len(clips)} clips of {speakers} speakers ({clip_minutes:.1f} min), "
            f"{len(noises)} noises ({noise_minutes:.1f} min)"
        )
    return "\n".join(lines)
