"""Sweeps: train the variants of a config with several seeds, watch them, compare them."""

import importlib
import sys
from collections.abc import Sequence

from mrcnn_zoo.cli.options import logging_lines, require_config
from mrcnn_zoo.cli.parser import CONFIG_SUFFIXES, CommandParser, action_parsers, read_arguments

# Each module has EXAMPLES, `add_arguments(parser)` and `main(arguments)`.
ACTIONS = {
    "run": ("mrcnn_zoo.cli.sweep_run", "train all runs of a sweep that are not finished"),
    "search": ("mrcnn_zoo.cli.sweep_search", "search values of config keys with the best metric"),
    "status": ("mrcnn_zoo.cli.sweep_status", "the table of all runs of a sweep, also while it is run"),
    "report": ("mrcnn_zoo.cli.sweep_report", "tables and plots: means, intervals, differences, verdicts"),
    "measure": ("mrcnn_zoo.cli.sweep_measure", "time and memory of each variant, alone on the machine"),
}
DEFAULT_ACTION = "run"
WITH_CONFIG = ("run", "search")  # actions with --config-file and config keys; their log is their output


def main(argv: Sequence[str] | None = None) -> int:
    """Run `sweep run FILE.yaml`, `sweep status DIR`, ...; without an action, a file is run.

    Args:
        argv: the arguments; None takes those of the process.
    """
    typed = list(sys.argv[1:] if argv is None else argv)
    is_file = bool(typed) and (typed[0].endswith(CONFIG_SUFFIXES) or typed[0].startswith("--config"))
    action, *rest = [DEFAULT_ACTION, *typed] if is_file else typed or ["--help"]
    parser, actions = _parsers()
    if action not in actions:
        parser.parse_args([action])  # prints the help, or that there is no such action
        raise AssertionError(action)
    if action in WITH_CONFIG:
        arguments = read_arguments(actions[action], rest)
        require_config(actions[action], arguments)
    else:
        arguments = actions[action].parse_args(rest)
    with logging_lines(sys.stdout if action in WITH_CONFIG else sys.stderr):
        status: int = importlib.import_module(ACTIONS[action][0]).main(arguments)
    return status


def build_parser() -> CommandParser:
    """The command line."""
    return _parsers()[0]


def _parsers() -> tuple[CommandParser, dict[str, CommandParser]]:
    """The parser of the command, and that of each action."""
    return action_parsers(
        "sweep",
        ACTIONS,
        description=__doc__,
        examples=(
            "run Sweeps/roi_layer_digits.yaml --jobs 2",
            "status output/sweeps/roi_layer_digits",
            "report output/sweeps/roi_layer_digits",
        ),
    )
