"""tasnet-np gradcheck: check every gradient against finite differences."""

from tasnet_np.commands.arguments import number
from tasnet_np.commands.shared import add_command
from tasnet_np.ranges import SEED


def add(commands):
    added = add_command(
        commands, "gradcheck", _gradcheck, "Check every hand-written gradient against finite differences."
    )
    added.add_argument("--seed", type=number("seed", int, SEED), default=0, help="of the random inputs")


def _gradcheck(options):
    from tasnet_np.network.gradcheck import check_everything
    from tasnet_np.ops.gradcheck import TOLERANCE

    print(f"{'op':<44} {'NumPy':>9} {'compiled':>9}   largest error relative to the largest gradient")
    failed = 0
    for name, reference, compiled in check_everything(options.seed):
        passed = max(reference, compiled) <= TOLERANCE
        failed += not passed
        print(f"{name:<44} {reference:9.1e} {compiled:9.1e}   {'pass' if passed else 'FAIL'}", flush=True)
    print(f"{failed} failed" if failed else f"all pass (tolerance {TOLERANCE:.0e}, float64)")
    return 1 if failed else 0
