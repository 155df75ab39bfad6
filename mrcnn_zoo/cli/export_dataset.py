"""Write a dataset as a COCO folder, images/ and annotations.json; the same as `data convert NAME FOLDER --to coco`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mrcnn_zoo.cli.data_options import load_data_config, read_source, target_of, write_target
from mrcnn_zoo.cli.options import add_config_option, add_output_options, add_overrides, logging_lines
from mrcnn_zoo.cli.parser import CommandParser, read_arguments
from mrcnn_zoo.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Write the dataset and print its folder; returns the exit status.

    Args:
        argv: the arguments; None takes those of the process.
    """
    arguments = read_arguments(build_parser(), argv)
    with logging_lines(sys.stderr):
        folder = _folder(arguments)
        cfg = load_data_config(arguments)
        write_target(arguments, read_source(arguments, cfg, arguments.name), folder)
    return 0


def _folder(arguments: argparse.Namespace) -> Path:
    """FOLDER or `--output`, checked."""
    if arguments.output is None and arguments.folder is None:
        raise UserError(f"the folder to write is missing: mrcnn-zoo export-dataset {arguments.name} FOLDER")
    if arguments.output is None:
        return target_of(arguments, arguments.folder, option="FOLDER")
    if arguments.folder is not None:  # the first config key, parsed as FOLDER
        arguments.overrides = [arguments.folder, *arguments.overrides]
    return target_of(arguments, arguments.output, option="--output")


def build_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(
        prog="mrcnn-zoo export-dataset",
        description=__doc__,
        examples=(
            "digits_val exported/digits",
            "digits_val exported/digits --overwrite DATASETS.SCENES.NUM_VAL 10",
            "my_cells --config-file my.yaml --output exported/cells",
        ),
    )
    parser.add_argument("name", metavar="NAME", help="name of the dataset, e.g. digits_val")
    parser.add_argument("folder", metavar="FOLDER", nargs="?", help="folder to write, new or empty")
    add_config_option(parser, text="of the dataset")
    add_output_options(parser, text="same as FOLDER", overwrite="replace an earlier export in FOLDER")
    add_overrides(parser)
    parser.set_defaults(target_format="coco", tolerance=0.0, no_images=False, source_format=None, classes=None)
    return parser
