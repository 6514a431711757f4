"""One page about a training run, to read and to listen to: a single HTML file that needs no network.

    learning curves, scores by input SNR and by noise, the best, the median and the worst example with players and
    spectrograms, the learned filters, the masks, gradient norms, configuration

The examples are mixtures of the speakers and noises that the run held out.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasnet_np.corpus.clips import Store, open_corpus
from tasnet_np.corpus.mixing import fixed_batches
from tasnet_np.errors import UserError
from tasnet_np.messages import progress_bar
from tasnet_np.network import checkpoint
from tasnet_np.reports.html_page import page, section
from tasnet_np.reports.report_sections import (
    configuration,
    examples,
    filters,
    gradients,
    learning,
    masks,
    scores,
    summary,
)
from tasnet_np.safe_files import atomic_path, check_is_file, check_target, in_one_line
from tasnet_np.training.evaluation import score
from tasnet_np.training.recipe import VALIDATION_SNRS_DB
from tasnet_np.training.run_folder import RunFolder
from tasnet_np.training.run_log import read_log

SECONDS = 3.0  # length of a mixture
PER_SNR = 25  # mixtures
SEED = 1  # of the mixtures; those that the run was validated on have the run's own


@dataclass
class Result:
    """A model's scores on held-out mixtures."""

    names: list  # of the mixtures
    mixture: np.ndarray  # (M, n)
    sources: np.ndarray  # (M, 2, n)
    snr_db: np.ndarray  # (M,)
    si_snri: dict  # method -> (M,) improvement of the speech in dB


def held_out_mixtures(run, *, per_snr=PER_SNR, seconds=SECONDS):
    """The mixtures of a report: always the same ones for a run.

    Parameters
    ----------
    run : str or Path
        Folder of a training run.
    per_snr : int
        Mixtures for each of VALIDATION_SNRS_DB.
    seconds : float
        Length of a mixture.

    Returns
    -------
    list of Batch

    Raises
    ------
    UserError
        No run there, or recordings that are gone.
    """
    folder = RunFolder(run)
    rate = folder.read().config.sample_rate
    corpus = open_corpus(folder.read_manifest(), "validation", rate, Store())
    samples = round(seconds * rate)
    return fixed_batches(
        corpus, samples=samples, rate=rate, snrs_db=VALIDATION_SNRS_DB, per_snr=per_snr, seed=SEED
    )


def report(run, out=None, *, baselines=None, per_snr=PER_SNR, seconds=SECONDS, progress=False):
    """Write the page about a run.

    Parameters
    ----------
    run : str or Path
        Folder of a training run.
    out : str or Path, optional
        File to write; by default report.html in that folder.
    baselines : str or Path, optional
        JSON file {method: [SI-SNRi of the speech in dB of every mixture]}, as tests/benchmarks/baselines.py writes
        it; by default baselines.json in the run's folder, if there is one.
    per_snr, seconds
        As for `held_out_mixtures`.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    UserError
        No run there, recordings that are gone, baselines of other mixtures.
    """
    folder = RunFolder(run)
    settings = folder.read()
    out = Path(out or folder.path / "report.html")
    check_target(out)
    config = settings.config
    model = checkpoint.load(folder.path)
    log = read_log(folder.log_file)
    result = measure(model, held_out_mixtures(run, per_snr=per_snr, seconds=seconds), progress)
    result.si_snri |= _read_baselines(folder.path, baselines, len(result.names))
    sections = [
        summary(config, log, result),
        section("Learning", "Every step's loss, smoothed, and the score on the fixed validation mixtures.",
                *learning(log)),
        section("Scores", "Improvement of the speech's SI-SNR over the mixture, on speakers and noises that "
                "the run never heard; higher is better, 0 is the unprocessed mixture.", *scores(result)),
        *examples(model, result, config.sample_rate),
        section("Filters", "The encoder's and the decoder's filters, sorted by the frequency that each answers to "
                "most.", *filters(model)),
        section("Masks", "What the network lets through in the median example: each row is a filter, in the same "
                "order.", *masks(model, result)),
        section("Gradients", "Norm of the gradient by part of the network, before clipping.", *gradients(log)),
        section("Configuration", f"Seed {settings.recipe.seed}.", configuration(settings)),
    ]  # fmt: skip
    with atomic_path(out) as temporary:
        temporary.write_text(
            page(f"{Path(os.path.realpath(folder.path)).name}: report", sections), encoding="utf-8"
        )
    return out


def measure(model, batches, progress=False):
    """Scores of a model on mixtures."""
    bar = progress_bar(batches, shown=progress, desc="listening", unit="batch")
    improvements = [score(model, batch)["si_snri"][:, 0] for batch in bar]
    stacked = (
        np.concatenate([getattr(batch, name) for batch in batches])
        for name in ("mixture", "sources", "snr_db")
    )
    names = [name for batch in batches for name in batch.names]
    return Result(names, *stacked, {"this model": np.concatenate(improvements)})


def _read_baselines(run, path, count):
    """{method: scores of the mixtures} of the file given, or of the run's own one; empty without one."""
    path = path or (run / "baselines.json" if (run / "baselines.json").exists() else None)
    if path is None:
        return {}
    check_is_file(path)
    try:
        read = {name: np.array(values, float) for name, values in json.loads(Path(path).read_text()).items()}
    except OSError as error:
        raise UserError(in_one_line(error)) from None
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(
            f"{path}: cannot be used ({error}); make it with tests/benchmarks/baselines.py"
        ) from None
    if any(values.shape != (count,) for values in read.values()):
        raise UserError(f"{path}: has scores of other mixtures than these {count}; make it anew")
    return read
