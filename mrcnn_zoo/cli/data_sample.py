"""Write a stratified part of a dataset, e.g. for a first look or a fast test; images keep their sides."""

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
from mrcnn_zoo.cli.data_split import add_group_option, add_seed_option
from mrcnn_zoo.cli.parser import CommandParser, whole_number

EXAMPLES = (
    "data/cells data/few_cells --num 100",
    "coco_2017_val data/coco_50 --num 50 --seed 1",
)


def add_arguments(parser: CommandParser) -> None:
    """Add the options of `data sample`.

    Args:
        parser: of the action.
    """
    add_source_and_target(parser)
    text = "images to take; each class and images without objects have about the share of the whole dataset"
    parser.add_argument("--num", type=whole_number(minimum=1), required=True, metavar="N", help=text)
    add_group_option(parser, text="taken together")
    add_seed_option(parser)
    add_target_options(parser)
    add_source_options(parser)


def main(arguments: argparse.Namespace) -> int:
    """Write the sample; returns the exit status.

    Args:
        arguments: of the action.
    """
    from mrcnn_zoo.data.derived import sampled

    folder = target_of(arguments, arguments.target, sources=[arguments.source])
    cfg = load_data_config(arguments)
    dataset = read_source(arguments, cfg, arguments.source)
    part = sampled(dataset, arguments.num, group=arguments.group, seed=arguments.seed)
    write_target(arguments, part, folder, facts=[f"taken from {dataset.summary()}"])
    return 0
