"""Write several datasets as one: classes are united by name, sides stay, and image files of equal names stay apart."""

import argparse

from mrcnn_zoo.cli.data_options import (
    add_source_options,
    add_target_options,
    load_data_config,
    read_source,
    target_of,
    write_target,
)
from mrcnn_zoo.cli.parser import CommandParser
from mrcnn_zoo.data.derived import merged
from mrcnn_zoo.errors import UserError

EXAMPLES = (
    "data/cells_2024 data/cells_2025 data/cells",
    "data/a data/b:train data/c data/all --to yolo --classes '{car: [car, auto]}'",
)


def add_arguments(parser: CommandParser) -> None:
    """Add the options of `data merge`.

    Args:
        parser: of the action.
    """
    text = "two datasets or more, as in DATASETS.TRAIN, and last the folder to write, new or empty"
    parser.add_argument("folders", nargs="+", metavar="SRC... DST", help=text)
    add_target_options(parser)
    add_source_options(parser, takes_keys=False)


def main(arguments: argparse.Namespace) -> int:
    """Write the merged dataset; returns the exit status.

    Args:
        arguments: of the action.
    """
    *sources, target = arguments.folders
    if len(sources) < 2:
        raise UserError("data merge takes two datasets or more, and then the folder to write: SRC1 SRC2 DST.")
    folder = target_of(arguments, target)
    cfg = load_data_config(arguments)
    datasets = [read_source(arguments, cfg, name) for name in sources]
    result = merged(datasets)
    facts = [f"{dataset.name}: {dataset.summary()}" for dataset in datasets]
    for dataset in datasets:
        missing = [name for name in result.class_names if name not in dataset.class_names]
        if missing:
            facts.append(f"{dataset.name} has no class {', '.join(missing)}: such objects are background in its images")
    write_target(arguments, result, folder, facts=facts)
    return 0
