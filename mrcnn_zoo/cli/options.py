"""The parser of all commands, options that several commands share, and checks before the work.

Modules that import torch are imported where they are used, so that `config` and `zoo` start fast.
"""

import argparse
import difflib
import logging
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn, TextIO

from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.config.defaults import KEYS_BY_NAME, KEYS_BY_OLD_NAME, SECTION_NAMES
from mrcnn_zoo.config.values import KEY_AND_VALUE
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.output_files import check_output_folder
from mrcnn_zoo.registry import did_you_mean

PROGRAM = "mrcnn-zoo"
WEIGHTS_SUFFIXES = (".pth", ".pt", ".pkl", ".safetensors", ".h5", ".hdf5")
CONFIG_SUFFIXES = (".yaml", ".yml")
NEGATIVE_VALUE = re.compile(r"-(\d|\.\d|inf|nan).*")  # "-1e-3", "-1,2,3": a value, whatever argparse takes it for
UNKNOWN = "unrecognized arguments: "  # argparse's words
TYPE_ERROR = re.compile(r"argument (\S+?)(?:/\S+)*: (takes .*)", re.DOTALL)


class CommandParser(argparse.ArgumentParser):
    """Parser with examples at the end of its help and with errors that begin with the option.

    Args:
        prog: e.g. "mrcnn-zoo train".
        description: one paragraph.
        examples: lines that can be typed as they stand after `prog`.
        more: an example that begins with another program.
    """

    def __init__(
        self, *, prog: str | None = None, description: str | None = None, examples: Sequence[str] = (), more: str = ""
    ) -> None:
        self.examples = tuple(examples)
        lines = [f"  {prog} {example}" for example in examples] + ([f"  {more}"] if more else [])
        epilog = "\n".join(["examples:", *lines]) if lines else None
        super().__init__(
            prog=prog, description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        self._negative_number_matcher = NEGATIVE_VALUE
        self._is_mixing = False
        self.mixes_options = False  # whether options may stand between positional arguments also below a subcommand

    def parse_known_args(  # type: ignore[override]  # argparse has overloads for the namespace's type
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse's, except that a value behind a config key may begin with a dash."""
        if self.mixes_options and not self._is_mixing:
            return self.parse_known_intermixed_args(args, namespace)
        return super().parse_known_args(self._with_joined_values(sys.argv[1:] if args is None else args), namespace)

    def parse_known_intermixed_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse's, which comes back to `parse_known_args`."""
        self._is_mixing = True
        try:
            return super().parse_known_intermixed_args(args, namespace)
        finally:
            self._is_mixing = False

    def _with_joined_values(self, argv: Sequence[str]) -> list[str]:
        """`KEY -1e-3` as `KEY=-1e-3`; an option behind a key ends the command, as the value is missing."""
        joined: list[str] = []
        items = iter(argv)
        for item in items:
            value = next(items, None) if is_config_key(item) else None
            if value is None:
                joined.append(item)
            elif not value.startswith("-") or value in ("-", "--", "-h", "--help"):
                joined += [item, value]
            elif value.startswith("--") or value in self._option_string_actions:
                self.error(f"the key {item} is given without a value before {value}; write {item}=VALUE")
            else:
                joined.append(f"{item}={value}")
        return joined

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message, and exit with status 2."""
        type_error = TYPE_ERROR.fullmatch(message)
        unknown = message.removeprefix(UNKNOWN).split()
        if type_error:
            message = f"{type_error[1]} {type_error[2]}"
        elif message.startswith(UNKNOWN) and unknown[0].startswith("--"):
            message += "." + did_you_mean(unknown[0], list(self._option_string_actions))
        super().error(message)


def whole_number(*, minimum: int) -> Callable[[str], int]:
    """The type of an option: a whole number that is not below the minimum."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if value < minimum:
            raise argparse.ArgumentTypeError(f"takes a whole number of at least {minimum}, not {text!r}")
        return value

    return read


def score(text: str) -> float:
    """The type of an option: a number from 0 to 1."""
    return _number(text, "takes a number from 0 to 1", lambda value: 0 <= value <= 1)


def not_negative(text: str) -> float:
    """The type of an option: a finite number that is not below 0."""
    return _number(text, "takes a number of at least 0", lambda value: 0 <= value < float("inf"))


def _number(text: str, what: str, is_right: Callable[[float], bool]) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not is_right(value):
        raise argparse.ArgumentTypeError(f"{what}, not {text!r}")
    return value


def _key_and_value(text: str) -> str:
    if not KEY_AND_VALUE.fullmatch(text):
        raise argparse.ArgumentTypeError(f"takes a KEY=VALUE in one word, not {text!r}")
    return text


# --- options that several commands have ------------------------------------------------------------------------------


def add_config_option(parser: argparse.ArgumentParser, *, text: str) -> None:
    """`--config-file`, and `--config` for short."""
    parser.add_argument("--config-file", "--config", metavar="X.yaml", help=text)


def add_weights_option(parser: argparse.ArgumentParser) -> None:
    """`--weights`."""
    text = "checkpoint, the output folder of a training, a URL or zoo://NAME; MODEL.WEIGHTS without it"
    parser.add_argument("--weights", metavar="FILE", help=text)
    add_trust_option(parser)


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    """`--trust`, of every command that takes a config out of a file with weights."""
    text = "let the config inside the weights name code of this module, as my_lab:build; only if you know its author"
    parser.add_argument("--trust", action="append", default=[], metavar="MODULE", help=text)


def add_output_options(parser: argparse.ArgumentParser, *, text: str, overwrite: str, metavar: str = "DIR") -> None:
    """`--output`, which may be typed as `--output-dir` too, and `--overwrite`."""
    parser.add_argument("--output", "--output-dir", metavar=metavar, help=text)
    parser.add_argument("--overwrite", action="store_true", help=overwrite)


def add_overrides(
    parser: argparse.ArgumentParser, *, text: str = "config keys to change", metavar: str = "KEY VALUE | KEY=VALUE"
) -> None:
    """Config keys as `KEY VALUE`, `KEY=VALUE` or `--set KEY=VALUE`."""
    parser.add_argument("overrides", nargs="*", metavar=metavar, help=text)
    text = "the same as KEY=VALUE alone"
    parser.add_argument("--set", action="append", default=[], type=_key_and_value, metavar="KEY=VALUE", help=text)


def read_arguments(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, *, is_input: Callable[[str], bool] | None = None
) -> argparse.Namespace:
    """The arguments, options and positional ones in any order.

    Weights and a config in the place of a key are accepted as such; `--set` values are appended to the overrides.

    Args:
        parser: with `add_overrides`.
        argv: as typed.
        is_input: whether an argument among the keys is an input file; these become `arguments.inputs`.

    Raises:
        UserError: weights or a config given twice, or an empty path.
    """
    arguments = parser.parse_intermixed_args(argv)
    arguments.inputs = []
    overrides: list[str] = []
    items = iter(arguments.overrides)
    for item in items:
        if is_input and is_input(item):
            arguments.inputs.append(item)
        elif names_weights(item) and "weights" in arguments:
            _take(arguments, "weights", item)
        elif names_weights(item):
            overrides += ["MODEL.WEIGHTS", item]
        elif item.endswith(CONFIG_SUFFIXES) and "config_file" in arguments and not KEY_AND_VALUE.fullmatch(item):
            _take(arguments, "config_file", item)
        else:
            overrides.append(item)
            overrides += [] if KEY_AND_VALUE.fullmatch(item) else islice(items, 1)
    arguments.overrides = overrides + arguments.set
    for name in ("weights", "output", "config_file"):
        if getattr(arguments, name, None) == "":
            raise UserError(f"--{name.replace('_', '-')} is empty; name a file or folder, or leave the option out.")
    return arguments


def names_weights(text: str) -> bool:
    """Whether an argument that stands alone is a file with weights, a training's folder, or an address of weights."""
    from mrcnn_zoo.model_zoo.download import WeightsPathHandler

    if KEY_AND_VALUE.fullmatch(text) and not Path(text).is_file():
        return False
    is_address = text.startswith(tuple(WeightsPathHandler.PREFIXES))
    is_file = text.lower().endswith(WEIGHTS_SUFFIXES)
    return is_address or is_file or (Path(text).is_dir() and any(Path(text).glob("*.pth")))


def is_config_key(text: str) -> bool:
    """Whether an argument is the name of a config key, or begins with a section that there is."""
    section, dot, rest = text.partition(".")
    is_below = bool(dot) and section in SECTION_NAMES and re.fullmatch(r"[\w.:-]+", rest) is not None
    return text in KEYS_BY_NAME or text in KEYS_BY_OLD_NAME or is_below


def names_key(text: str) -> bool:
    """Whether an argument is a config key, perhaps misspelt, or `KEY=VALUE` with such a key; does not read files."""
    key = text.partition("=")[0]
    section, dot, _ = key.partition(".")
    sections = sorted({name.partition(".")[0] for name in SECTION_NAMES})
    is_near = bool(difflib.get_close_matches(section.upper(), sections, n=1, cutoff=0.75))
    return key in KEYS_BY_NAME or (bool(dot) and is_near and "/" not in key)


def _take(arguments: argparse.Namespace, name: str, value: str) -> None:
    given, option = getattr(arguments, name), "--" + name.replace("_", "-")
    if given:
        raise UserError(f"{value} stands where a KEY or KEY=VALUE is expected: {option} {given} is given already.")
    setattr(arguments, name, value)


def require_config(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Exit with the usage where no config is given."""
    if arguments.config_file is None:
        parser.error("--config-file is missing: name a YAML file, or a config of the package")


# --- before the work --------------------------------------------------------------------------------------------------


@contextmanager
def logging_lines(stream: TextIO | None = None) -> Iterator[None]:
    """Inside, log messages are printed as plain lines, warnings marked and each once.

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
    """The config of `--config-file` and the overrides, after some overrides that the command implies.

    Raises:
        UserError: a mistake in the config, or an unavailable device.
    """
    from mrcnn_zoo.modeling.construction import check_device

    cfg = load_config(arguments.config_file, [*overrides, *arguments.overrides])
    check_device(cfg.MODEL.DEVICE)
    return cfg


def given_weights(arguments: argparse.Namespace) -> str:
    """The existing file of `--weights`, checked before the other arguments; empty without the option.

    Raises:
        UserError: there is no such file, or no checkpoint in a folder.
    """
    from mrcnn_zoo.checkpoint.sources import find_weights

    weights = arguments.weights or ""
    return weights if "://" in weights or not weights else str(find_weights(weights))


def prepare_device(cfg: CfgNode) -> None:
    """Refuse an unavailable device, log once that there is no GPU, and on the CPU keep freed memory.

    Raises:
        UserError: see `resolve_device`.
    """
    from mrcnn_zoo.modeling import resolve_device
    from mrcnn_zoo.ops.memory import keep_freed_memory

    if resolve_device(cfg.MODEL.DEVICE).type == "cpu":
        keep_freed_memory()


def output_folder(arguments: argparse.Namespace, cfg: CfgNode, *, subfolders: Sequence[str] = ()) -> Path:
    """The checked folder of `--output`, or else of OUTPUT_DIR.

    Raises:
        UserError: see `check_output_folder`.
    """
    if arguments.output is not None:
        return check_output_folder(arguments.output, option="--output", subfolders=subfolders)
    return check_output_folder(cfg.OUTPUT_DIR, option="OUTPUT_DIR", subfolders=subfolders)
