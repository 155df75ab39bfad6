"""`mrcnn-zoo config`: explain a config key, show a config as it resolves, or check that files load."""

import argparse
import textwrap
from collections.abc import Sequence

from mrcnn_zoo.config import resolve_config
from mrcnn_zoo.config.explain import explain
from mrcnn_zoo.config.folder import check_configs
from mrcnn_zoo.config.loading import check_config
from mrcnn_zoo.config.show import shown


def main(argv: Sequence[str] | None = None) -> int:
    """Run `config explain KEY`, `show X.yaml [OVERRIDES]` or `check PATH ...`; returns the exit status."""
    arguments = _parser().parse_args(argv)
    if arguments.action == "check":
        return _check(arguments.paths)
    if arguments.action == "explain":
        print(explain(arguments.key))
    else:
        config = resolve_config(arguments.config, arguments.overrides)
        print(shown(config, only_changed=arguments.changed), end="", flush=True)
        check_config(config)  # only now, so that the lines can be seen in their place
    return 0


def _check(paths: Sequence[str]) -> int:
    findings = list(check_configs(paths))
    for finding in findings:
        print(f"{'FAILS' if finding.problem else 'loads'}  {finding.path}")
        if finding.problem:
            print(textwrap.indent(finding.problem, "       "))
    failed = sum(bool(finding.problem) for finding in findings)
    print(f"{len(findings) - failed} of {len(findings)} files load")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mrcnn-zoo config", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    explaining = actions.add_parser("explain", help="default, type and meaning of a key, or the keys of a section")
    explaining.add_argument("key", nargs="?", default="", help="e.g. SOLVER.BASE_LR or SOLVER; all keys without it")
    showing = actions.add_parser("show", help="the resolved config as YAML, with where each value came from")
    showing.add_argument("config", help="a YAML file, or the name of a config of the package")
    showing.add_argument("overrides", nargs="*", metavar="KEY VALUE | KEY=VALUE", help="set on top of the file")
    showing.add_argument("--changed", action="store_true", help="only the values that differ from their default")
    checking = actions.add_parser("check", help="load every YAML file of a folder, e.g. of Detectron2's configs")
    checking.add_argument("paths", nargs="+", help="folders, files or names of configs of the package")
    return parser
