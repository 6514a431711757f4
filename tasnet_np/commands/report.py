"""tasnet-np report: write one page about a run."""

from tasnet_np.commands.shared import add_command, add_computing, compute_as
from tasnet_np.errors import UserError


def add(commands):
    added = add_command(commands, "report", _report, "Write one page about a run, to read and to listen to.")
    added.add_argument("folder", metavar="RUN", help="folder of a training run")
    added.add_argument(
        "-o", "--output", metavar="FILE", help="the page; report.html in the run's folder by default"
    )
    added.add_argument(
        "--baselines", metavar="FILE", help="scores of other methods (tests/benchmarks/baselines.py)"
    )
    added.add_argument("--mixtures", type=int, default=25, help="for each input SNR")
    added.add_argument("--seconds", type=float, default=3.0, help="length of a mixture")
    added.add_argument("--quiet", action="store_true", help="no progress bar")
    add_computing(added, devices=False)


def _report(options):
    from tasnet_np.reports.report import report

    if options.mixtures < 1 or not 0 < options.seconds < 60:
        raise UserError(
            f"--mixtures {options.mixtures}, --seconds {options.seconds}: give at least 1, and below 60"
        )
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
