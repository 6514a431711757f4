"""The validation mixtures of a run: made once, kept in its folder, the same at every validation."""

import numpy as np

from tasnet_np.corpus import manifest
from tasnet_np.corpus.mixing import Batch, fixed_batches, samples_in
from tasnet_np.errors import UserError
from tasnet_np.network.config import SOURCES
from tasnet_np.safe_files import atomic_path
from tasnet_np.stored_arrays import ArrayFile
from tasnet_np.training.recipe import VALIDATION_SNRS_DB

SNR_TOLERANCE_DB = 1e-3  # of a mixture's SNR against what it was asked to be
FIELDS = ("mixture", "sources", "snr_db", "names")  # of a Batch
REMEDY = "remove it, and it is made again"


def validation_set(folder, data, recipe, rate):
    """The validation mixtures of a run, read from its folder, or made where there are none yet.

    Their SNRs are measured on the very samples, and written to the run's manifest.

    Parameters
    ----------
    folder : RunFolder
    data : TrainingData
    recipe : Recipe
    rate : int
        Hz, of the model.

    Returns
    -------
    list of Batch
        One for each of VALIDATION_SNRS_DB.

    Raises
    ------
    UserError
        A mixture does not have the SNR asked for, or the file is damaged.
    """
    samples = samples_in(recipe.seconds, rate)
    if not folder.validation_file.exists():
        batches = fixed_batches(
            data.validation,
            samples=samples,
            rate=rate,
            snrs_db=VALIDATION_SNRS_DB,
            per_snr=recipe.validation_mixtures,
            seed=recipe.seed,
        )
        data.manifest.mixtures = [mixture for batch in batches for mixture in _measured(batch)]
        manifest.save(data.manifest, folder.manifest_file)
        _write(batches, folder.validation_file)
    stored = read_validation_set(folder.validation_file)
    asked = [(recipe.validation_mixtures, samples)] * len(VALIDATION_SNRS_DB)
    if [batch.mixture.shape for batch in stored] != asked:
        raise UserError(f"{folder.validation_file}: has not the mixtures of the run's recipe; {REMEDY}")
    return stored


def _write(batches, path):
    arrays = {
        f"{name}_{i}": np.array(getattr(batch, name)) for i, batch in enumerate(batches) for name in FIELDS
    }
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def read_validation_set(path):
    """The list of Batch in a file that `validation_set` wrote. Raises UserError where it is damaged."""
    with ArrayFile(path, "set of mixtures", REMEDY) as arrays, arrays.noticing_damage():
        count, samples = arrays.headers["mixture_0"].shape
        numbers = range(len(arrays.headers) // len(FIELDS))
        wanted = {f"{name}_{i}": fields for i in numbers for name, fields in _fields(count, samples).items()}
        found = {name: (header.dtype.char, header.shape) for name, header in arrays.headers.items()}
        if found != wanted:
            raise arrays.damaged("its arrays do not belong together")
        read = [[arrays.read(f"{name}_{i}") for name in FIELDS] for i in numbers]
        if not all(np.isfinite(array).all() for fields in read for array in fields[:-1]):
            raise arrays.damaged("it has NaN or infinity")
        return [Batch(*fields, names.tolist()) for *fields, names in read]


def _fields(count, samples):
    """Kind and shape of the arrays of a Batch: so many mixtures of so many samples."""
    mixture, sources = ("f", (count, samples)), ("f", (count, len(SOURCES), samples))
    return dict(zip(FIELDS, (mixture, sources, ("d", (count,)), ("U", (count,)))))


def _measured(batch):
    """What the manifest says about the mixtures of a batch, after a check of their SNRs."""
    powers = np.mean(np.square(batch.sources, dtype=np.float64), axis=-1)  # (B, 2)
    measured = 10 * np.log10(powers[:, 0] / powers[:, 1])
    for name, asked, is_db in zip(batch.names, batch.snr_db, measured):
        if not abs(asked - is_db) <= SNR_TOLERANCE_DB:
            raise UserError(f"{name}: the mixture is at {is_db:.3f} dB; leave this recording out")
        yield {"name": name, "snr_db": float(asked), "measured_snr_db": float(is_db)}
