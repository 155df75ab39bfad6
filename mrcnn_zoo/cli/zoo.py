"""The published models: list, describe, download, verify and reproduce them."""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from tabulate import tabulate

from mrcnn_zoo.cli.options import add_output_options, logging_lines
from mrcnn_zoo.cli.parser import CommandParser
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.model_zoo import models as zoo
from mrcnn_zoo.model_zoo.checksum import checksum_of_entry
from mrcnn_zoo.model_zoo.index import PREFIX, ZooEntry, find_entry, weights_address
from mrcnn_zoo.output_files import check_output_file, check_output_folder, refuse_to_replace
from mrcnn_zoo.progress import terminal_width

RESULT_COLUMNS = {
    "box AP": "bbox/AP",
    "mask AP": "segm/AP",
    "keypoint AP": "keypoints/AP",
    "proposal AR": "box_proposals/AR@1000",
}
OPTIONAL_COLUMNS = (
    "s/image",
    "config",
    "proposal AR",
    "keypoint AP",
    "weights",
)  # dropped in this order
WRONG_FILES = 1  # exit status of `verify`
PROGRAM = "mrcnn-zoo"


def main(argv: Sequence[str] | None = None) -> int:
    """Run an action; returns the exit status.

    Args:
        argv: the arguments; None takes those of the process.
    """
    parser = build_parser()
    arguments, rest = parser.parse_known_args(argv)
    if arguments.action == "reproduce":
        arguments.additions += rest  # options of `train` among them
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return ACTIONS[arguments.action](arguments)


def _list(arguments: argparse.Namespace) -> int:
    entries = [find_entry(name) for name in zoo.names(arguments.pattern)]
    entries = [entry for entry in entries if arguments.source.lower() in ("", entry.source.lower())]
    if not entries:
        raise UserError(f"no model of the zoo has {arguments.pattern!r} in its name; `{PROGRAM} zoo list` lists all.")
    print(_table([_row(entry) for entry in entries]))
    print(f"\n{counted(len(entries), 'model')}. `{PROGRAM} zoo info NAME` shows more; weights are named {PREFIX}NAME.")
    return 0


def _row(entry: ZooEntry) -> dict[str, object]:
    weights = "with the package" if entry.is_shipped else "to download" if entry.weights else "none yet"
    return {
        "name": entry.name,
        **{column: _number(entry.results.get(key), 1) for column, key in RESULT_COLUMNS.items()},
        "s/image": _number(entry.seconds_per_image, 3),
        "weights": weights,
        "config": "yes" if entry.config else "from weights" if entry.config_from_weights else "no",
    }


def _table(rows: Sequence[dict[str, object]]) -> str:
    """The rows as text, without the optional columns that do not fit the terminal."""
    width = terminal_width(sys.stdout)
    for left_out in range(len(OPTIONAL_COLUMNS) + 1):
        shown = [{name: cell for name, cell in row.items() if name not in OPTIONAL_COLUMNS[:left_out]} for row in rows]
        table = tabulate(shown, headers="keys", disable_numparse=True)
        if not width or max(map(len, table.splitlines())) <= width:
            break
    return table


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _info(arguments: argparse.Namespace) -> int:
    entry = find_entry(arguments.name)
    if arguments.json:
        print(json.dumps(asdict(entry), indent=2, ensure_ascii=False))
        return 0
    weights = f"--weights {PREFIX}{entry.name}" if entry.is_buildable and entry.weights else ""
    lines = {
        "name": entry.name,
        "published by": entry.source,
        "config": entry.config or _config_text(entry),
        "overrides": " ".join(map(str, entry.overrides)),
        "weights": entry.weights or "none yet",
        "checksum": (entry.sha256 and f"sha256 {entry.sha256}") or (entry.md5 and f"md5 {entry.md5}") or "",
        "licence": entry.licence,
        "results": ", ".join(f"{key} {value:g}" for key, value in entry.results.items()),
        "training": _with_unit(entry.seconds_per_iteration, "s/iteration"),
        "memory": _with_unit(entry.memory_gb, "GB"),
        "inference": _with_unit(entry.seconds_per_image, "s/image"),
        "reproduce": entry.reproduce or "",
        "predict": weights and f"{PROGRAM} predict {weights} IMAGE",
        "evaluate": weights and f"{PROGRAM} evaluate {weights}",
        "notes": entry.notes,
    }
    width = max(map(len, lines))
    print("\n".join(f"{key:{width}}  {value}" for key, value in lines.items() if value))
    return 0


def _config_text(entry: ZooEntry) -> str:
    return "derived from the weights" if entry.config_from_weights else f"none: {entry.reason}"


def _with_unit(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:g} {unit}"


def _download(arguments: argparse.Namespace) -> int:
    from mrcnn_zoo.model_zoo.weights import copy_weights

    entries = [find_entry(name) for name in arguments.names]  # checked before anything is downloaded
    outputs = [_output(entry, arguments) for entry in entries]
    with logging_lines():
        for entry, output in zip(entries, outputs, strict=True):
            print(copy_weights(entry, output))
    return 0


def _output(entry: ZooEntry, arguments: argparse.Namespace) -> str:
    """The checked path to copy the weights of a model to; empty for the cache alone."""
    from mrcnn_zoo.model_zoo.weights import check_file

    if arguments.output is None:
        return ""
    file_name = PurePosixPath(urlsplit(weights_address(entry)).path).name
    is_folder = arguments.output.endswith("/") or Path(arguments.output).expanduser().is_dir()
    if is_folder:
        file = check_output_folder(arguments.output, option="--output") / file_name
    elif len(arguments.names) > 1:
        raise UserError(f"--output {arguments.output} is one file for several models; end it with / for a folder.")
    else:
        file = check_output_file(arguments.output, option="--output")
    is_same = file.is_file() and bool(checksum_of_entry(entry)) and check_file(str(file), entry).is_correct
    if not is_same and not arguments.overwrite:
        refuse_to_replace([file], option="--output")
    return str(file)


def _verify(arguments: argparse.Namespace) -> int:
    from mrcnn_zoo.model_zoo.weights import check_cache, check_entry, check_file

    if arguments.file:
        checks = [check_file(arguments.file, find_entry(arguments.name) if arguments.name else None)]
    elif arguments.name:
        checks = [check_entry(find_entry(arguments.name))]
    else:
        checks = check_cache()
    for check in checks:
        print(f"{'ok' if check.is_correct else 'WRONG':5}  {check.path}: {check.text}")
    wrong = sum(not check.is_correct for check in checks)
    print(f"{counted(len(checks), 'file')}, {wrong} wrong." if checks else "no downloads of the zoo in the cache.")
    return WRONG_FILES if wrong else 0


def _reproduce(arguments: argparse.Namespace) -> int:
    from mrcnn_zoo.cli.main import main as run_program

    entry = find_entry(arguments.name)
    if not entry.reproduce:
        reason = entry.reason or f"the training recipe belongs to {entry.source}"
        raise UserError(f"{entry.name} cannot be trained here: {reason}. {entry.notes}")
    command = [*shlex.split(entry.reproduce), *arguments.additions]
    print(shlex.join(command), flush=True)
    return run_program(command[1:]) if arguments.run else 0


ACTIONS = {"list": _list, "info": _info, "download": _download, "verify": _verify, "reproduce": _reproduce}


def build_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(
        prog=f"{PROGRAM} zoo",
        description=__doc__,
        examples=("list", "info Quickstart/mask_rcnn_R_18_FPN_digits", "verify"),
    )
    actions = parser.add_subparsers(dest="action", required=True)

    def add_action(name: str, text: str, *examples: str) -> CommandParser:
        return actions.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            prog=f"{PROGRAM} zoo {name}",
            examples=examples,
        )

    listing = add_action("list", "list the models with their results", "", "Quickstart", "--source torchvision")
    listing.add_argument("pattern", nargs="?", default="", help="part of a name, or `*FPN_3x` (default: all)")
    listing.add_argument("--source", default="", metavar="PROJECT", help="mrcnn_zoo, Detectron2 or torchvision")
    name = "Quickstart/mask_rcnn_R_18_FPN_digits"
    describing = add_action("info", "describe one model", name, f"{name} --json")
    describing.add_argument("name", metavar="NAME", help="name printed by `zoo list`")
    describing.add_argument("--json", action="store_true", help="print JSON")
    downloading = add_action(
        "download", "download and verify weights, and print their paths", name, f"{name} --output weights/"
    )
    downloading.add_argument("names", nargs="+", metavar="NAME", help="names printed by `zoo list`")
    add_output_options(
        downloading,
        text="copy the weights there (default: cache only)",
        overwrite="replace other files of these names",
        metavar="FILE|DIR",
    )
    verifying = add_action(
        "verify", "compare files with their published checksums", "", name, f"--file weights/digits.pth {name}"
    )
    verifying.add_argument("name", nargs="?", default="", metavar="NAME", help="default: all downloads in the cache")
    verifying.add_argument(
        "--file", default="", metavar="FILE", help="verify this file, as NAME or as the model in its file name"
    )
    reproducing = add_action(
        "reproduce", "print the command that trains a model", name, f"{name} --run OUTPUT_DIR output/again"
    )
    reproducing.add_argument("name", metavar="NAME", help="model with a training recipe, see `zoo info`")
    reproducing.add_argument("--run", action="store_true", help="also run it")
    reproducing.add_argument("additions", nargs="*", metavar="ADDITION", help="options and config keys to add")
    return parser
