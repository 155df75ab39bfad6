"""Options that several commands have, and the checks before their work.

Modules that import torch are imported where they are used, so that `config` and `zoo` start fast.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from mrcnn_zoo.cli.parser import key_and_value
from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.output_files import check_output_folder

if TYPE_CHECKING:
    from torch import nn

    from mrcnn_zoo.checkpoint import WeightsFile
    from mrcnn_zoo.data.records import ImageSource
    from mrcnn_zoo.inference.trained import TrainedFile


def add_config_option(parser: argparse.ArgumentParser, *, text: str = "") -> None:
    """Add `--config-file`, also spelled `--config`.

    Args:
        parser: of a command.
        text: its role in the command.
    """
    text = f"YAML file, or name of a packaged config{text and '; '}{text}"
    parser.add_argument("--config-file", "--config", metavar="X.yaml", help=text)


def add_weights_option(
    parser: argparse.ArgumentParser, *, text: str = "(default: MODEL.WEIGHTS of the config)"
) -> None:
    """Add `--weights`.

    Args:
        parser: of a command.
        text: what the weights are for, and the default.
    """
    text = f"checkpoint, output folder of a training, URL or zoo://NAME {text}"
    parser.add_argument("--weights", metavar="FILE", help=text)


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    """Add `--trust`, for commands that read the config stored in the weights.

    Args:
        parser: of a command.
    """
    text = "allow the config in the weights to run code of this module, e.g. my_lab; only for authors you trust"
    parser.add_argument("--trust", action="append", default=[], metavar="MODULE", help=text)


def add_output_options(parser: argparse.ArgumentParser, *, text: str, overwrite: str, metavar: str = "DIR") -> None:
    """Add `--output`, also spelled `--output-dir`, and `--overwrite`.

    Args:
        parser: of a command.
        text: what is written, and the default.
        overwrite: what `--overwrite` replaces.
        metavar: "DIR", "FILE.json", ...
    """
    parser.add_argument("--output", "--output-dir", metavar=metavar, help=text)
    parser.add_argument("--overwrite", action="store_true", help=overwrite)


def add_overrides(
    parser: argparse.ArgumentParser, *, text: str = "config keys to change", metavar: str = "KEY VALUE | KEY=VALUE"
) -> None:
    """Add config keys as `KEY VALUE`, `KEY=VALUE` or `--set KEY=VALUE`.

    Args:
        parser: of a command.
        text: help of the positional arguments.
        metavar: of the positional arguments.
    """
    parser.add_argument("overrides", nargs="*", metavar=metavar, help=text)
    text = "same as KEY=VALUE"
    parser.add_argument("--set", action="append", default=[], type=key_and_value, metavar="KEY=VALUE", help=text)


def require_config(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Print the usage and exit where no config is given.

    Args:
        parser: of the command.
        arguments: its arguments.
    """
    if arguments.config_file is None:
        words = arguments.overrides
        name = words[0] if words and len(words) % 2 and "=" not in words[0] else ""  # no KEY VALUE or KEY=VALUE
        hint = f"; to name {name!r}, write {name}.yaml or --config-file {name}" if name else ""
        parser.error(f"--config-file is missing: give a YAML file, or the name of a packaged config{hint}")


@contextmanager
def logging_lines(stream: TextIO | None = None) -> Iterator[None]:
    """Print log messages as plain lines while the block runs, warnings marked and each once.

    Args:
        stream: standard output by default; standard error where results are printed to standard output.
    """
    from mrcnn_zoo.training.log_files import MarkWarnings, OncePerMessage

    root, ours = logging.getLogger(), logging.getLogger("mrcnn_zoo")
    stream = stream or sys.stdout
    handler = logging.StreamHandler(stream)
    handler.setFormatter(MarkWarnings("%(message)s", stream=stream))
    handler.addFilter(OncePerMessage())
    former_level = ours.level
    root.addHandler(handler)
    ours.setLevel(logging.INFO)
    try:
        yield
    finally:
        ours.setLevel(former_level)
        root.removeHandler(handler)


def load_command_config(arguments: argparse.Namespace, overrides: Sequence[Any] = ()) -> CfgNode:
    """Load the config of `--config-file`, with the overrides, and check its device.

    Args:
        arguments: of the command.
        overrides: that the command implies; the user's have priority.

    Raises:
        UserError: a mistake in the config, or an unavailable device.
    """
    from mrcnn_zoo.modeling.construction import check_device

    cfg = load_config(arguments.config_file, [*overrides, *arguments.overrides])
    check_device(cfg.MODEL.DEVICE)
    return cfg


def given_weights(arguments: argparse.Namespace) -> str:
    """The file of `--weights`, which must exist; empty without the option.

    Args:
        arguments: of the command.

    Raises:
        UserError: there is no such file, or no checkpoint in a folder.
    """
    from mrcnn_zoo.checkpoint.sources import find_weights

    weights = arguments.weights or ""
    return weights if "://" in weights or not weights else str(find_weights(weights))


def prepare_device(cfg: CfgNode) -> None:
    """Refuse an unavailable device, log once if there is no GPU, and keep freed memory on the CPU.

    Raises:
        UserError: see `resolve_device`.
    """
    from mrcnn_zoo.modeling import resolve_device
    from mrcnn_zoo.ops.memory import keep_freed_memory

    if resolve_device(cfg.MODEL.DEVICE).type == "cpu":
        keep_freed_memory()


def open_given_model(
    arguments: argparse.Namespace,
    weights: str,
    *,
    check: "Callable[[CfgNode, WeightsFile], None] | None" = None,
    takes_programs: bool = False,
    images: "Sequence[ImageSource]" = (),
) -> "tuple[nn.Module, CfgNode, TrainedFile]":
    """A trained model with the config, keys and trusted modules of a command, on an available device.

    Args:
        arguments: of a command with the options of weights, config and trust.
        weights: see `given_weights`.
        check: see `open_trained`; calls `prepare_device`, as is done without it.
        takes_programs: see `open_trained`.
        images: see `open_trained`.

    Raises:
        UserError: as `open_trained` and `prepare_device`.
    """
    from mrcnn_zoo.inference.trained import open_trained

    return open_trained(
        weights,
        config=arguments.config_file,
        overrides=arguments.overrides,
        trust=arguments.trust,
        check=check or (lambda cfg, _: prepare_device(cfg)),
        takes_programs=takes_programs,
        images=images,
    )


def output_folder(arguments: argparse.Namespace, cfg: CfgNode, *, subfolders: Sequence[str] = ()) -> Path:
    """The checked folder of `--output`, or else of OUTPUT_DIR.

    Args:
        arguments: of the command.
        cfg: the whole config.
        subfolders: that will be created in it.

    Raises:
        UserError: see `check_output_folder`.
    """
    if arguments.output is not None:
        return check_output_folder(arguments.output, option="--output", subfolders=subfolders)
    return check_output_folder(cfg.OUTPUT_DIR, option="OUTPUT_DIR", subfolders=subfolders)
