"""`mrcnn-zoo config`: explain a config key, or show a config as it resolves."""

import argparse
from collections.abc import Sequence

from mrcnn_zoo.config import resolve_config
from mrcnn_zoo.config.explain import explain
from mrcnn_zoo.config.show import shown
from mrcnn_zoo.config.unbuilt import refuse_unbuilt


def main(argv: Sequence[str] | None = None) -> int:
    """Run `config explain KEY` or `config show X.yaml [OVERRIDES]`; returns the exit status."""
    arguments = _parser().parse_args(argv)
    if arguments.action == "explain":
        print(explain(arguments.key))
    else:
        config = resolve_config(arguments.config, arguments.overrides)
        print(shown(config, only_changed=arguments.changed), end="", flush=True)
        refuse_unbuilt(config)  # only now, so that the lines can be seen in their place
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mrcnn-zoo config", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    explaining = actions.add_parser("explain", help="default, type and meaning of a key, or the keys of a section")
    explaining.add_argument("key", nargs="?", default="", help="e.g. SOLVER.BASE_LR or SOLVER; all keys without it")
    showing = actions.add_parser("show", help="the resolved config as YAML, with where each value came from")
    showing.add_argument("config", help="a YAML file, or the name of a config of the package")
    showing.add_argument("overrides", nargs="*", metavar="KEY VALUE | KEY=VALUE", help="set on top of the file")
    showing.add_argument("--changed", action="store_true", help="only the values that differ from their default")
    return parser
