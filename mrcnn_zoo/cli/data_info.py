"""Show what a dataset has: format, sides, images, classes, number and size of objects, and what was left out."""

import argparse

from mrcnn_zoo.cli.data_options import SOURCE, add_source_options, load_data_config, read_source
from mrcnn_zoo.cli.parser import CommandParser
from mrcnn_zoo.output_files import check_output_file
from mrcnn_zoo.registries import ANNOTATION_FORMATS

EXAMPLES = (
    "data/cells",
    "data/cells:val --output cells_val.png",
    "digits_val DATASETS.SCENES.NUM_VAL 50",
    "my_cells --config-file my.yaml",
)


def add_arguments(parser: CommandParser) -> None:
    """Add the options of `data info`.

    Args:
        parser: of the action.
    """
    parser.add_argument("source", metavar="PATH | NAME", help=SOURCE)
    parser.add_argument("--output", metavar="FILE.png", help="also draw the numbers into a PNG")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing PNG")
    add_source_options(parser)


def main(arguments: argparse.Namespace) -> int:
    """Print the statistics; returns the exit status.

    Args:
        arguments: of the action.
    """
    from mrcnn_zoo.inspection.dataset_statistics import dataset_statistics, save_statistics, statistics_text

    picture = None
    if arguments.output is not None:
        picture = check_output_file(arguments.output, option="--output", overwrite=arguments.overwrite)
    cfg = load_data_config(arguments)
    dataset = read_source(arguments, cfg, arguments.source)
    statistics = dataset_statistics(dataset)
    title = ANNOTATION_FORMATS.get(dataset.format_name)().title if dataset.format_name else ""
    print(f"{dataset.name}{f', {title}' if title else ''}: {dataset.summary()}\n\n{statistics_text(statistics)}")
    if picture is not None:
        print(f"\nDrawn in {save_statistics(statistics, picture)}")
    return 0
