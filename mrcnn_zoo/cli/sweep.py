"""Sweeps: train the variants of a config with several seeds, watch them, compare them."""

import importlib
import sys
from collections.abc import Sequence
from types import ModuleType

from mrcnn_zoo.cli.parser import CONFIG_SUFFIXES, CommandParser, read_arguments

# Each module has EXAMPLES, `add_arguments(parser)` and `main(arguments)`.
ACTIONS = {
    "run": ("mrcnn_zoo.cli.sweep_run", "train all runs of a sweep that are not finished"),
    "search": ("mrcnn_zoo.cli.sweep_search", "search values of config keys with the best metric"),
    "status": ("mrcnn_zoo.cli.sweep_status", "the table of all runs of a sweep, also while it is run"),
    "report": ("mrcnn_zoo.cli.sweep_report", "tables and plots: means, intervals, differences, verdicts"),
    "measure": ("mrcnn_zoo.cli.sweep_measure", "time and memory of each variant, alone on the machine"),
}
DEFAULT_ACTION = "run"


def main(argv: Sequence[str] | None = None) -> int:
    """Run `sweep run FILE.yaml`, `sweep status DIR`, ...; a file without a word before it is run.

    Args:
        argv: the arguments; None takes those of the process.
    """
    typed = list(sys.argv[1:] if argv is None else argv)
    is_file = bool(typed) and (typed[0].endswith(CONFIG_SUFFIXES) or typed[0].startswith("--config"))
    action, *rest = [DEFAULT_ACTION, *typed] if is_file else typed or ["--help"]
    if action not in ACTIONS:
        build_parser().parse_args([action])  # prints the help, or that there is no such action
        raise AssertionError(action)
    module = importlib.import_module(ACTIONS[action][0])
    parser = _action_parser(action, module)
    takes_keys = "overrides" in {argument.dest for argument in parser._actions}
    arguments = read_arguments(parser, rest) if takes_keys else parser.parse_args(rest)
    status: int = module.main(parser, arguments)
    return status


def build_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(
        prog="mrcnn-zoo sweep",
        description=__doc__,
        examples=(
            "run Sweeps/roi_layer_digits.yaml --jobs 2",
            "status output/sweeps/roi_layer_digits",
            "report output/sweeps/roi_layer_digits",
        ),
    )
    actions = parser.add_subparsers(dest="action", required=True)
    for name, (module_name, text) in ACTIONS.items():
        module = importlib.import_module(module_name)
        action = actions.add_parser(
            name, help=text, description=module.__doc__, prog=f"mrcnn-zoo sweep {name}", examples=module.EXAMPLES
        )
        module.add_arguments(action)
        action.mixes_options = True
    return parser


def _action_parser(name: str, module: ModuleType) -> CommandParser:
    parser = CommandParser(prog=f"mrcnn-zoo sweep {name}", description=module.__doc__, examples=module.EXAMPLES)
    module.add_arguments(parser)
    return parser
