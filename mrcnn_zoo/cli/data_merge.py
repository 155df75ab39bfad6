"""Write several datasets as one: classes are united by name, sides stay, and image files of equal names stay apart."""

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from mrcnn_zoo.cli.data_options import (
    add_source_options,
    add_target_options,
    in_classes,
    load_data_config,
    target_of,
    write_target,
)
from mrcnn_zoo.cli.parser import CommandParser
from mrcnn_zoo.errors import UserError

if TYPE_CHECKING:
    from mrcnn_zoo.data.records import Dataset

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
    from mrcnn_zoo.data.catalog import load_dataset
    from mrcnn_zoo.data.derived import merged

    *sources, target = arguments.folders
    if len(sources) < 2:
        raise UserError("data merge takes two datasets or more, and then the folder to write: SRC1 SRC2 DST.")
    folder = target_of(arguments, target, sources=sources)
    cfg = load_data_config(arguments)
    datasets = [load_dataset(cfg, name) for name in sources]
    whole = merged(datasets)
    result = in_classes(arguments, whole)  # of the union, as the classes of --classes may be in different datasets
    facts = [f"{dataset.name}: {dataset.summary()}" for dataset in datasets]
    for dataset in datasets if whole.records else ():
        own = _classes_of(arguments, dataset, whole)
        missing = [name for name in result.class_names if name not in own]
        if missing:
            facts.append(f"{dataset.name} has no class {', '.join(missing)}: such objects are background in its images")
    write_target(arguments, result, folder, facts=facts)
    return 0


def _classes_of(arguments: argparse.Namespace, dataset: "Dataset", whole: "Dataset") -> set[str]:
    """The names that the classes of a dataset have after `--classes`."""
    from mrcnn_zoo.data.records import InstanceRecord

    indices = [whole.class_names.index(name) for name in dataset.class_names]
    objects = tuple(InstanceRecord((0, 0, 1, 1), index) for index in indices)
    probe = replace(whole, records=(replace(whole.records[0], instances=objects),))
    mapped = in_classes(arguments, probe)
    return {mapped.class_names[item.class_index] for item in mapped.records[0].instances}
