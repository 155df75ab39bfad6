"""Divide a dataset into train, val and test, stratified by classes; the same images give the same sides everywhere."""

import argparse
from typing import TYPE_CHECKING

from mrcnn_zoo.cli.data_options import (
    add_source_and_target,
    add_source_options,
    add_target_options,
    load_data_config,
    read_source,
    target_of,
    write_target,
)
from mrcnn_zoo.cli.parser import CommandParser, score, whole_number
from mrcnn_zoo.errors import UserError, counted

if TYPE_CHECKING:
    from mrcnn_zoo.data.records import Dataset

EXAMPLES = (
    "data/cells data/cells_split --val 0.2",
    "data/cells data/cells_split --val 0.15 --test 0.15 --group '(slide\\d+)_'",
    "data/cells data/cells_yolo --val 0.2 --to yolo --seed 1",
)


def add_arguments(parser: CommandParser) -> None:
    """Add the options of `data split`.

    Args:
        parser: of the action.
    """
    add_source_and_target(parser)
    parser.add_argument("--val", type=score, default=0.2, metavar="SHARE", help="of the images (default: 0.2)")
    parser.add_argument("--test", type=score, default=0.0, metavar="SHARE", help="of the images (default: 0)")
    add_group_option(parser, text="on one side")
    add_seed_option(parser)
    add_target_options(parser)
    add_source_options(parser)


def add_group_option(parser: CommandParser, *, text: str) -> None:
    """Add `--group`.

    Args:
        parser: of an action.
        text: where the images of a group are.
    """
    text = f"regular expression on the image's file name; images with equal first parentheses are {text}"
    parser.add_argument("--group", default="", metavar="REGEX", help=text)


def add_seed_option(parser: CommandParser) -> None:
    """Add `--seed`, which is 0 by default.

    Args:
        parser: of an action.
    """
    text = "another number chooses other images (default: 0)"
    parser.add_argument("--seed", type=whole_number(minimum=0), default=0, metavar="N", help=text)


def main(arguments: argparse.Namespace) -> int:
    """Write the divided dataset; returns the exit status.

    Args:
        arguments: of the action.
    """
    from mrcnn_zoo.data.derived import divided, sides_of

    shares = {side: share for side, share in (("val", arguments.val), ("test", arguments.test)) if share}
    if not shares:
        raise UserError("--val and --test are 0, so nothing is divided; give one of them a share of the images.")
    folder = target_of(arguments, arguments.target, sources=[arguments.source])
    cfg = load_data_config(arguments)
    dataset = read_source(arguments, cfg, arguments.source)
    former = {side: len(part) for side, part in sides_of(dataset).items() if side}
    facts = []
    if len(former) > 1:
        facts.append(f"the former sides ({', '.join(f'{side} {n:,}' for side, n in former.items())}) are replaced")
    result = divided(dataset, shares, group=arguments.group, seed=arguments.seed)
    facts += [f"{side}: {_content(part)}" for side, part in sides_of(result).items()]
    write_target(arguments, result, folder, facts=facts)
    return 0


def _content(part: "Dataset") -> str:
    """The counts of a side, with the number of classes that have objects in it."""
    instances = [item for record in part.records for item in record.instances if not item.is_crowd]
    num_empty = sum(not record.instances for record in part.records)
    classes = f"{len({item.class_index for item in instances})} of {counted(len(part.class_names), 'class')}"
    without = f", {counted(num_empty, 'image')} without objects" * bool(num_empty)
    return f"{counted(len(part), 'image')}, {counted(len(instances), 'object')}, {classes}{without}"
