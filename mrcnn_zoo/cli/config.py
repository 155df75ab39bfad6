"""Explain a config key, show a resolved config, or check that files load."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from mrcnn_zoo.cli.options import add_overrides
from mrcnn_zoo.cli.parser import CommandParser
from mrcnn_zoo.config import load_config, resolve_config
from mrcnn_zoo.config.explain import explain, shown
from mrcnn_zoo.config.files import is_sweep_file
from mrcnn_zoo.config.loading import check_config, check_configs
from mrcnn_zoo.errors import counted


def main(argv: Sequence[str] | None = None) -> int:
    """Run `config explain KEY`, `show X.yaml [OVERRIDES]` or `check PATH ...`; returns the exit status.

    Args:
        argv: the arguments; None takes those of the process.
    """
    arguments = build_parser().parse_args(argv)
    if arguments.action == "check":
        return _check(arguments.paths)
    if arguments.action == "explain":
        print(explain(" ".join(arguments.key)))
    else:
        config = resolve_config(arguments.config, [*arguments.overrides, *arguments.set])
        print(shown(config, only_changed=arguments.changed), end="", flush=True)
        check_config(config)  # after printing, so that the invalid values are shown too
    return 0


def _check(paths: Sequence[str]) -> int:
    findings = list(check_configs(paths, load=_load))
    for finding in findings:
        print(f"{'FAILS' if finding.problem else 'loads'}  {finding.path}")
        if finding.problem:
            print(textwrap.indent(finding.problem, "       "))
    failed = sum(bool(finding.problem) for finding in findings)
    print(f"{len(findings) - failed} of {counted(len(findings), 'file')} load")
    return 1 if failed else 0


def _load(path: Path) -> object:
    """Load a config, or the configs of all runs of a sweep."""
    if not is_sweep_file(path):
        return load_config(path)
    from mrcnn_zoo.experiments.runs import expand
    from mrcnn_zoo.experiments.sweep_file import read_sweep

    return expand(read_sweep(path))


def build_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(
        prog="mrcnn-zoo config",
        description=__doc__,
        examples=(
            "explain SOLVER.BASE_LR",
            "show Quickstart/mask_rcnn_R_18_FPN_digits.yaml --changed",
            "check configs",
        ),
    )
    actions = parser.add_subparsers(dest="action", required=True)

    def add_action(name: str, text: str, *examples: str) -> CommandParser:
        return actions.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            prog=f"mrcnn-zoo config {name}",
            examples=examples,
        )

    explaining = add_action(
        "explain",
        "default, type and meaning of a key; the keys of a section; or a search by words",
        "SOLVER.BASE_LR",
        "MODEL.RPN",
        "lr",
        "",
    )
    explaining.add_argument(
        "key", nargs="*", help="a key, a section, or words of its name or meaning (default: all keys)"
    )
    name = "Quickstart/mask_rcnn_R_18_FPN_digits.yaml"
    showing = add_action(
        "show",
        "the resolved config as YAML, with the origin of each value",
        name,
        f"{name} --changed SOLVER.BASE_LR 0.1",
    )
    showing.add_argument("config", metavar="X.yaml", help="YAML file, or name of a packaged config")
    showing.add_argument("--changed", action="store_true", help="only values that differ from their default")
    add_overrides(showing, text="config keys to change")
    showing.mixes_options = True
    checking = add_action(
        "check",
        "load all configs and sweeps in folders",
        "my_configs/",
        "my.yaml other.yaml",
    )
    checking.add_argument("paths", nargs="+", help="folders, files or names of packaged configs")
    return parser
