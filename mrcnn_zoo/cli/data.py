"""Datasets: look at one, convert it to another format, divide, merge, tile, take a sample."""

import argparse
import importlib
import sys
from collections.abc import Sequence

from mrcnn_zoo.cli.options import logging_lines
from mrcnn_zoo.cli.parser import CommandParser, action_parsers, read_arguments

# Each module has EXAMPLES, `add_arguments(parser)` and `main(arguments)`.
ACTIONS = {
    "info": ("mrcnn_zoo.cli.data_info", "format, sides, images, classes, number and size of objects"),
    "convert": ("mrcnn_zoo.cli.data_convert", "write a dataset in another format"),
    "split": ("mrcnn_zoo.cli.data_split", "divide a dataset into train, val and test"),
    "merge": ("mrcnn_zoo.cli.data_merge", "several datasets as one, with classes united by name"),
    "tile": ("mrcnn_zoo.cli.data_tile", "cut large images into tiles"),
    "sample": ("mrcnn_zoo.cli.data_sample", "a stratified part of a dataset"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `data info PATH`, `data convert SRC DST --to FORMAT`, ...; returns the exit status.

    Args:
        argv: the arguments; None takes those of the process.
    """
    action, arguments = read_action(list(sys.argv[1:] if argv is None else argv))
    with logging_lines(sys.stderr):
        status: int = importlib.import_module(ACTIONS[action][0]).main(arguments)
    return status


def read_action(typed: Sequence[str]) -> tuple[str, argparse.Namespace]:
    """The action and its arguments.

    Args:
        typed: the arguments of the command.
    """
    action, *rest = typed or ["--help"]
    parser, actions = _parsers()
    if action not in actions:
        parser.parse_args([action])  # prints the help, or that there is no such action
        raise AssertionError(action)
    return action, read_arguments(actions[action], rest)


def build_parser() -> CommandParser:
    """The command line."""
    return _parsers()[0]


def _parsers() -> tuple[CommandParser, dict[str, CommandParser]]:
    """The parser of the command, and that of each action."""
    return action_parsers(
        "data",
        ACTIONS,
        description=__doc__,
        examples=(
            "info data/cells",
            "convert data/cells data/cells_yolo --to yolo",
            "split data/cells data/cells_split --val 0.2 --group '(slide\\d+)_'",
            "tile data/aerial data/aerial_tiles --size 1024 --overlap 128",
        ),
    )
