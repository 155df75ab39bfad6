"""Show the runs of sweeps as a table: status, progress, metrics; also while they are trained."""

import argparse
import sys

from mrcnn_zoo.cli.parser import CommandParser
from mrcnn_zoo.errors import counted

EXAMPLES = ("output/sweeps/roi_layer_digits",)


def add_arguments(parser: CommandParser) -> None:
    """Add the options of `sweep status`.

    Args:
        parser: of the action.
    """
    parser.add_argument("folders", nargs="+", metavar="DIR", help="folder of a sweep, its OUTPUT_DIR")


def main(arguments: argparse.Namespace) -> int:
    """Print the table of each sweep, and the errors of failed runs; returns the exit status.

    Args:
        arguments: of the action.

    Raises:
        UserError: a folder is not that of a sweep.
    """
    from mrcnn_zoo.experiments.progress_table import sweep_table
    from mrcnn_zoo.experiments.records import CONSOLE_LOG, FAILED, read_sweep_folder
    from mrcnn_zoo.progress import fitted

    for folder in arguments.folders:
        record = read_sweep_folder(folder)
        failed = [run for run in record.runs if run.status == FAILED]
        print(fitted(sweep_table(record), sys.stdout))
        for run in failed:
            print(f"\n{run.folder}, see {CONSOLE_LOG} in it:\n{run.error}")
        if failed:
            print(f"\nThe same `mrcnn-zoo sweep run` tries {counted(len(failed), 'failed run')} again.")
    return 0
