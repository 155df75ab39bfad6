"""Export a dataset as a COCO folder: images/ and annotations.json."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mrcnn_zoo.cli.options import (
    add_config_option,
    add_output_options,
    add_overrides,
    load_command_config,
    logging_lines,
)
from mrcnn_zoo.cli.parser import CommandParser, read_arguments
from mrcnn_zoo.config.values import typed_list
from mrcnn_zoo.data.catalog import load_dataset
from mrcnn_zoo.data.export import check_export_folder, export_coco
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.output_files import check_output_folder


def main(argv: Sequence[str] | None = None) -> int:
    """Export the dataset and print its folder; returns the exit status.

    Args:
        argv: the arguments; None takes those of the process.
    """
    arguments = read_arguments(build_parser(), argv)
    with logging_lines(sys.stderr):
        folder = _folder(arguments)
        check_export_folder(folder, may_overwrite=arguments.overwrite)
        cfg = load_command_config(arguments)
        dataset = load_dataset(cfg, arguments.name)
        export_coco(dataset, folder, may_overwrite=arguments.overwrite)
    objects = counted(sum(len(record.instances) for record in dataset.records), "object")
    verb = "is" if len(dataset) == 1 else "are"
    images = f"{counted(len(dataset), 'image')} with {objects} {verb} in {folder}"
    print(f"{images}. To use {'it' if len(dataset) == 1 else 'them'}: DATASETS.TRAIN {typed_list([str(folder)])}")
    return 0


def _folder(arguments: argparse.Namespace) -> Path:
    """FOLDER or `--output`, checked."""
    if arguments.output is None and arguments.folder is None:
        raise UserError(f"the folder to write is missing: mrcnn-zoo export-dataset {arguments.name} FOLDER")
    if arguments.output is None:
        return check_output_folder(arguments.folder, option="FOLDER")
    if arguments.folder is not None:  # the first config key, parsed as FOLDER
        arguments.overrides = [arguments.folder, *arguments.overrides]
    return check_output_folder(arguments.output, option="--output")


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
    return parser
