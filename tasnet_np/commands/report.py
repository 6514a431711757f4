"""tasnet-np report: write one page about a run."""

from tasnet_np.commands.arguments import nonempty
from tasnet_np.commands.shared import add_command, add_computing, add_mixtures, check_mixtures, compute_as


def add(commands):
    added = add_command(commands, "report", _report, "Write one page about a run, to read and to listen to.")
    added.add_argument("folder", type=nonempty, metavar="RUN", help="folder of a training run")
    added.add_argument(
        "-o",
        "--output",
        type=nonempty,
        metavar="FILE",
        help="the page; report.html in the run's folder by default",
    )
    added.add_argument(
        "--baselines",
        type=nonempty,
        metavar="FILE",
        help="scores of other methods (tests/benchmarks/baselines.py)",
    )
    add_mixtures(added, most_seconds=60)
    added.add_argument("--quiet", action="store_true", help="no progress bar")
    add_computing(added, devices=False)


def _report(options):
    from tasnet_np.reports.report import report
    from tasnet_np.training.recipe import VALIDATION_SNRS_DB

    check_mixtures(options, len(VALIDATION_SNRS_DB))
    compute_as(options)
    page = report(
        options.folder,
        options.output,
        baselines=options.baselines,
        per_snr=options.mixtures,
        seconds=options.seconds,
        progress=not options.quiet,
    )
    print(page)
    return 0
