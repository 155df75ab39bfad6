"""Write a dataset in another format; its sides stay as they are, and image files are copied unchanged."""

import argparse

from mrcnn_zoo.cli.data_options import (
    add_source_and_target,
    add_source_options,
    add_target_options,
    load_data_config,
    read_source,
    target_of,
    write_target,
)
from mrcnn_zoo.cli.parser import CommandParser

EXAMPLES = (
    "data/cells data/cells_yolo --to yolo",
    "data/cells:val data/cells_val --to labelme --tolerance 0.5",
    "data/traffic data/cars --to coco --classes '{car: [car, van], ignore: [blurry]}'",
    "export.json data/cells --from via --to coco --no-images",
)


def add_arguments(parser: CommandParser) -> None:
    """Add the options of `data convert`.

    Args:
        parser: of the action.
    """
    add_source_and_target(parser)
    add_target_options(parser)
    add_source_options(parser)


def main(arguments: argparse.Namespace) -> int:
    """Write the dataset and print what was lost; returns the exit status.

    Args:
        arguments: of the action.
    """
    folder = target_of(arguments, arguments.target, sources=[arguments.source])
    cfg = load_data_config(arguments)
    write_target(arguments, read_source(arguments, cfg, arguments.source), folder)
    return 0
