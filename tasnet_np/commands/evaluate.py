"""tasnet-np evaluate and compare: how much a model gains, and how near recordings are to the clean speech in them."""

import sys

from tasnet_np.commands.shared import add_command, add_computing, as_json, compute_as
from tasnet_np.errors import UserError


def add(commands):
    evaluate = add_command(commands, "evaluate", _evaluate, "Measure a model on mixtures of known sources.")
    evaluate.add_argument("--model", required=True, metavar="RUN", help="a run's folder, or an .npz file")
    evaluate.add_argument("--speech", metavar="DIR", help="clean speech; by default what the run held out")
    evaluate.add_argument("--noise", metavar="DIR", help="noise recordings; likewise")
    evaluate.add_argument("--part", default="validation", help="of the run's recordings: validation or test")
    evaluate.add_argument("--snr-db", type=float, nargs="+", default=[-5, 0, 5, 10, 15], help="input SNRs")
    evaluate.add_argument("--mixtures", type=int, default=25, help="for each SNR")
    evaluate.add_argument("--seconds", type=float, default=3.0, help="length of a mixture")
    evaluate.add_argument("--seed", type=int, default=1, help="of the mixtures")
    evaluate.add_argument("--json", action="store_true", help="print the numbers as JSON")
    evaluate.add_argument("--quiet", action="store_true", help="no progress bar, no remarks")
    add_computing(evaluate)

    compare = add_command(commands, "compare", _compare, "Hold recordings against the clean speech in them.")
    compare.add_argument("files", nargs="+", metavar="FILE", help="the noisy one first, then denoised ones")
    compare.add_argument("--clean", required=True, metavar="FILE", help="the speech alone")
    compare.add_argument("--plot", metavar="PICTURE", help="draw their spectrograms (.png, .pdf, .svg)")
    compare.add_argument("--json", action="store_true", help="print the numbers as JSON")


def _evaluate(options):
    from tasnet_np.corpus.mixing import fixed_batches
    from tasnet_np.network.checkpoint import load
    from tasnet_np.training.evaluation import evaluate, table

    if options.mixtures < 1 or not 0 < options.seconds < 3600:
        raise UserError(f"--mixtures {options.mixtures}, --seconds {options.seconds}: give positive numbers")
    if bool(options.speech) != bool(options.noise):
        raise UserError("--speech, --noise: give both folders, or none to use what the run held out")
    device = compute_as(options)
    model = load(options.model, options.path).to(device)
    rate = model.config.sample_rate
    batches = fixed_batches(
        _unheard(options, rate),
        samples=round(options.seconds * rate),
        rate=rate,
        snrs_db=options.snr_db,
        per_snr=options.mixtures,
        seed=options.seed,
    )
    rows = evaluate(model, batches, rate=rate, progress=not options.quiet)
    print(as_json(rows) if options.json else table(rows))
    return 0


def _unheard(options, rate):
    """The recordings to evaluate on: what a run held out, or all of two folders that it did not train on."""
    from pathlib import Path

    from tasnet_np.training.run_folder import RunData, RunFolder

    folder = RunFolder(options.model if Path(options.model).is_dir() else Path(options.model).parent)
    is_run = folder.manifest_file.exists()
    trained_on = folder.read().data if is_run else RunData()
    if not options.speech and not is_run:
        raise UserError(f"{options.model}: is not a run that held recordings out; give --speech and --noise")
    given = RunData.at(speech=options.speech, noise=options.noise)
    if not options.speech or (given.speech, given.noise) == (trained_on.speech, trained_on.noise):
        return _held_out(folder, options, rate)
    return _all_of_the_folders(options, rate)


def _held_out(folder, options, rate):
    """A part that a run did not train on."""
    from tasnet_np.corpus.clips import Store, open_corpus

    if options.part not in ("validation", "test"):
        raise UserError(f"--part {options.part}: give validation or test")
    if not options.quiet:
        print("using only the speakers and noises held out from training", file=sys.stderr)
    return open_corpus(folder.read_manifest(), options.part, rate, Store())


def _all_of_the_folders(options, rate):
    from tasnet_np.corpus.clips import load_corpus

    corpus, problems = load_corpus(options.speech, options.noise, rate, progress=not options.quiet)
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)
    return corpus


def _compare(options):
    from tasnet_np.training.evaluation import compare

    if options.plot:
        from tasnet_np.reports.plots import check_picture

        check_picture(options.plot)
    rows, recordings = compare(options.clean, options.files)
    if options.plot:
        from tasnet_np.reports.plots import spectrograms

        first_channels = {str(recording.path): recording.samples[0] for recording in recordings}
        spectrograms(options.plot, first_channels, recordings[0].rate)
    if options.json:
        print(as_json(rows))
        return 0
    print(f"{'seconds':>8} {'level dBFS':>11} {'SI-SNR dB':>10} {'SI-SNRi dB':>11}  file")
    for row in rows:
        print(
            f"{row['seconds']:8.2f} {row['level_db']:11.1f} {row['si_snr_db']:10.2f} "
            f"{row['si_snri_db']:11.2f}  {row['file']}"
        )
    return 0
