"""Check the datasets of a config, and whether they fit the model, before a training; exit status 1 on errors."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mrcnn_zoo.cli.options import (
    add_config_option,
    add_overrides,
    load_command_config,
    logging_lines,
    prepare_device,
    require_config,
)
from mrcnn_zoo.cli.parser import CommandParser, read_arguments, whole_number
from mrcnn_zoo.output_files import check_output_file, write_json, write_text
from mrcnn_zoo.progress import fitted

RECIPE = "Recipes/own_data"  # the config where DATASETS.TRAIN alone is given
NUM_IMAGES = 500
FOUND_ERRORS = 1  # exit status


def main(argv: Sequence[str] | None = None) -> int:
    """Print the findings; returns the exit status, 1 if one of them is an error.

    Args:
        argv: the arguments; None takes those of the process.
    """
    start = time.monotonic()
    parser = build_parser()
    arguments = read_arguments(parser, argv)
    if arguments.config_file is None and any(str(word).startswith("DATASETS.TRAIN") for word in arguments.overrides):
        arguments.config_file = RECIPE
    require_config(parser, arguments)
    from mrcnn_zoo.doctor.checks import run_checks
    from mrcnn_zoo.doctor.loading import build_doctor_input
    from mrcnn_zoo.doctor.page import html_report
    from mrcnn_zoo.doctor.report import json_report, text_report
    from mrcnn_zoo.inspection.html_page import is_own_page

    page, values = (
        None
        if file is None
        else check_output_file(file, option=option, overwrite=arguments.overwrite or is_own_page(Path(file)))
        for file, option in ((arguments.html, "--html"), (arguments.output, "--output"))
    )
    with logging_lines(sys.stderr):
        cfg = load_command_config(arguments)
        prepare_device(cfg)
        examined = build_doctor_input(cfg, num_images=arguments.images, measures=not arguments.no_estimate)
        diagnosis = run_checks(examined)
    name = str(arguments.config_file)
    text = text_report(diagnosis, examined, config=name, seconds=time.monotonic() - start)
    print(fitted(text, sys.stdout))
    if page is not None:
        print(f"HTML: {write_text(page, html_report(diagnosis, examined, config=name))}")
    if values is not None:
        print(f"JSON: {write_json(values, json_report(diagnosis, examined, config=name), indent=2)}")
    return FOUND_ERRORS if diagnosis.has_errors else 0


def build_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(
        prog="mrcnn-zoo doctor",
        description=__doc__,
        examples=(
            "--config-file Quickstart/mask_rcnn_R_18_FPN_digits.yaml",
            '--config-file Recipes/own_data.yaml DATASETS.TRAIN "[data/cells]" --html doctor.html',
            'DATASETS.TRAIN "[data/cells]" --images 0',
        ),
    )
    add_config_option(parser, text=f"default with DATASETS.TRAIN: {RECIPE}")
    parser.add_argument(
        "--images",
        type=whole_number(minimum=0),
        default=NUM_IMAGES,
        metavar="N",
        help=f"images that are read per dataset, 0 for all (default: {NUM_IMAGES}); annotations are checked in all",
    )
    parser.add_argument("--html", metavar="FILE.html", help="also write a page with pictures of the examples")
    parser.add_argument("--output", metavar="FILE.json", help="also write the findings as JSON")
    parser.add_argument("--overwrite", action="store_true", help="also replace files that are no page of mrcnn_zoo")
    parser.add_argument("--no-estimate", action="store_true", help="do not measure memory and time of a training step")
    add_overrides(parser)
    return parser
