"""Write report.html into the folder of a run, or of each of several: results, curves, errors, pictures, config.

It is made of the files of the run alone, also of one by an earlier version; the model is not loaded. The test set is
read for the pictures; without it the report has the other parts.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from mrcnn_zoo.cli.options import add_trust_option, logging_lines
from mrcnn_zoo.cli.parser import CommandParser
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.output_files import check_output_file
from mrcnn_zoo.progress import size_in_words


def main(argv: Sequence[str] | None = None) -> int:
    """Write the reports and print their paths; returns the exit status.

    Args:
        argv: the arguments; None takes those of the process.
    """
    arguments = build_parser().parse_args(argv)
    from mrcnn_zoo.inspection.html_page import is_own_page
    from mrcnn_zoo.inspection.run_report.page import REPORT_FILE, write_run_report

    folders = [Path(name).expanduser() for name in arguments.folders]
    if arguments.output is not None and len(folders) > 1:
        raise UserError(
            f"--output {arguments.output} is one file, but {len(folders)} folders are named. Without it each gets a "
            f"{REPORT_FILE}."
        )
    failed = 0
    with logging_lines(sys.stderr):
        for folder in folders:
            try:
                path = folder / REPORT_FILE if arguments.output is None else Path(arguments.output).expanduser()
                if folder.is_dir():
                    may_replace = arguments.overwrite or not path.is_file() or is_own_page(path)
                    path = check_output_file(path, option="--output", overwrite=may_replace)
                path = write_run_report(folder, trust=arguments.trust, output=path)
            except UserError as error:
                if len(folders) == 1:
                    raise
                print(f"error: {error}", file=sys.stderr)
                failed += 1
                continue
            print(f"{path}  ({size_in_words(path.stat().st_size)})", flush=True)
    return 1 if failed else 0


def build_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(
        prog="mrcnn-zoo report",
        description=__doc__,
        examples=("output/quickstart", "output/first output/second", "output/quickstart --output quickstart.html"),
    )
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="output folder of a training or an evaluation")
    parser.add_argument("--output", metavar="FILE.html", help="another file for the report of a single run")
    parser.add_argument("--overwrite", action="store_true", help="also replace a file that is no page of mrcnn_zoo")
    add_trust_option(parser)
    return parser
