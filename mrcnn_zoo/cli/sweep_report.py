"""Report on sweeps: means, intervals, differences to the reference, verdicts and plots; also while runs are trained."""

import argparse
import sys
from datetime import datetime
from pathlib import Path

from mrcnn_zoo.choices import REPORT_FORMATS
from mrcnn_zoo.cli.parser import CommandParser
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.output_files import check_output_folder

EXAMPLES = (
    "output/sweeps/roi_layer_digits",
    "output/sweeps/roi_layer_digits --format html --output page",
    "output/sweeps/roi_layer_digits output/sweeps/mask_loss_shapes --output both",
)
FOLDER = "report"  # in the folder of a sweep


def add_arguments(parser: CommandParser) -> None:
    """Add the options of `sweep report`.

    Args:
        parser: of the action.
    """
    parser.add_argument("folders", nargs="+", metavar="DIR", help="folder of a sweep, its OUTPUT_DIR")
    text = f"written here, replacing an earlier report (default: DIR/{FOLDER}; required for several sweeps)"
    parser.add_argument("--output", "--output-dir", metavar="FOLDER", help=text)
    text = f"any of {', '.join(REPORT_FORMATS)} (default: all)"
    parser.add_argument("--format", nargs="+", default=list(REPORT_FORMATS), metavar="NAME", help=text)


def main(arguments: argparse.Namespace) -> int:
    """Write the report, print its tables and the written files; returns the exit status.

    Args:
        arguments: of the action.
    """
    from mrcnn_zoo.experiments.records import read_sweep_folder
    from mrcnn_zoo.experiments.report.build import build_report, read_section
    from mrcnn_zoo.experiments.report.text import plain_text
    from mrcnn_zoo.experiments.report.writing import PLOTS_FOLDER, check_formats, write_report
    from mrcnn_zoo.progress import fitted

    check_formats(arguments.format)
    folder = check_output_folder(_output_of(arguments), option="--output", subfolders=[PLOTS_FOLDER])
    records = [read_sweep_folder(name) for name in arguments.folders]
    date = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %z")
    report = build_report([read_section(record) for record in records], date=date)
    written = write_report(report, folder, formats=arguments.format)
    print(fitted(plain_text(report), sys.stdout))
    print("Written:", *(f"  {path}" for path in written), sep="\n")
    return 0


def _output_of(arguments: argparse.Namespace) -> str | Path:
    if arguments.output is not None:
        output: str = arguments.output
        return output
    if len(arguments.folders) > 1:
        raise UserError("--output is missing: name the folder for the report on several sweeps.")
    return Path(arguments.folders[0]) / FOLDER
