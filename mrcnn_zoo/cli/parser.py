"""The argument parser of all commands: config keys among the options, types of options, and what an argument names."""

import argparse
import importlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from mrcnn_zoo.config.defaults import KEYS_BY_NAME, KEYS_BY_OLD_NAME, SECTION_NAMES
from mrcnn_zoo.config.values import KEY_AND_VALUE
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.registry import closest_name, did_you_mean

WEIGHTS_SUFFIXES = (".pth", ".pt", ".pkl", ".safetensors", ".h5", ".hdf5", ".onnx", ".pt2")
CONFIG_SUFFIXES = (".yaml", ".yml")
SECTION_SIMILARITY = 0.75  # of a misspelt section; a lower one takes names of images for keys
NEGATIVE_VALUE = re.compile(r"-(\d|\.\d|inf|nan).*")  # "-1e-3", "-1,2,3": values, which argparse takes for options
UNKNOWN = "unrecognized arguments: "  # the beginning of argparse's message
TYPE_ERROR = re.compile(r"argument (\S+?)(?:/\S+)*: (takes .*)", re.DOTALL)


class CommandParser(argparse.ArgumentParser):
    """Parser with examples at the end of its help, and with error messages that start with the option.

    Args:
        prog: e.g. "mrcnn-zoo train".
        description: one paragraph.
        examples: arguments to type after `prog`.
        more: an example that starts another program.
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
        self.mixes_options = False  # allow options between the positional arguments of a sub-command

    def parse_known_args(  # type: ignore[override]  # argparse has overloads for the namespace's type
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse as argparse does, except that the value of a config key may start with a dash.

        Args:
            args: the arguments; None takes those of the process.
            namespace: to fill; a new one by default.
        """
        if self.mixes_options and not self._is_mixing:
            return self.parse_known_intermixed_args(args, namespace)
        return super().parse_known_args(self._with_joined_values(sys.argv[1:] if args is None else args), namespace)

    def parse_known_intermixed_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse as argparse does, which calls `parse_known_args` again.

        Args:
            args: the arguments; None takes those of the process.
            namespace: to fill; a new one by default.
        """
        self._is_mixing = True
        try:
            return super().parse_known_intermixed_args(args, namespace)
        finally:
            self._is_mixing = False

    def _with_joined_values(self, argv: Sequence[str]) -> list[str]:
        """`KEY -1e-3` as `KEY=-1e-3`; an option after a key is an error, as the value of the key is missing."""
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
        """Print the usage and the message, and exit with status 2.

        Args:
            message: argparse's.
        """
        type_error = TYPE_ERROR.fullmatch(message)
        unknown = message.removeprefix(UNKNOWN).split()
        if type_error:
            message = f"{type_error[1]} {type_error[2]}"
        elif message.startswith(UNKNOWN) and unknown[0].startswith("--"):
            message += "." + did_you_mean(unknown[0], list(self._option_string_actions))
        super().error(message)


def whole_number(*, minimum: int) -> Callable[[str], int]:
    """The type of an option: a whole number.

    Args:
        minimum: smallest allowed number.
    """

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
    """The type of an option: a number from 0 to 1.

    Args:
        text: as typed.
    """
    return _number(text, "takes a number from 0 to 1", lambda value: 0 <= value <= 1)


def not_negative(text: str) -> float:
    """The type of an option: a finite number of at least 0.

    Args:
        text: as typed.
    """
    return _number(text, "takes a number of at least 0", lambda value: 0 <= value < float("inf"))


def _number(text: str, what: str, is_valid: Callable[[float], bool]) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not is_valid(value):
        raise argparse.ArgumentTypeError(f"{what}, not {text!r}")
    return value


def key_and_value(text: str) -> str:
    """The type of `--set`: KEY=VALUE in one word.

    Args:
        text: as typed.
    """
    if not KEY_AND_VALUE.fullmatch(text):
        raise argparse.ArgumentTypeError(f"takes a KEY=VALUE in one word, not {text!r}")
    return text


def read_arguments(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, *, is_input: Callable[[str], bool] | None = None
) -> argparse.Namespace:
    """Parse options and positional arguments in any order.

    Weights and a config in the place of a key are read as `--weights` and `--config-file`; `--set` values are appended
    to the overrides.

    Args:
        parser: with `add_overrides`; the words of its `--input` and `--opts`, if any, are read in the same way.
        argv: the arguments; None takes those of the process.
        is_input: whether an argument among the keys is an input file; these become `arguments.inputs`.

    Raises:
        UserError: weights or a config given twice, or an empty path.
    """
    arguments = parser.parse_intermixed_args(argv)
    arguments.inputs = []
    overrides: list[str] = []
    for words in (getattr(arguments, "input", []), arguments.overrides, getattr(arguments, "opts", [])):
        overrides += _read_words(arguments, words, is_input)
    arguments.overrides = overrides + arguments.set
    for name in ("weights", "output", "config_file"):
        if getattr(arguments, name, None) == "":
            raise UserError(f"--{name.replace('_', '-')} is empty; name a file or folder, or leave the option out.")
    return arguments


def _read_words(
    arguments: argparse.Namespace, words: Sequence[str], is_input: Callable[[str], bool] | None
) -> list[str]:
    """The overrides among some words; inputs, weights and a config are added to the arguments."""
    overrides: list[str] = []
    items = iter(words)
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
    return overrides


def names_weights(text: str) -> bool:
    """Whether a positional argument is a file with weights, the output folder of a training, or an address of weights.

    Args:
        text: as typed.
    """
    from mrcnn_zoo.model_zoo.download import WeightsPathHandler

    if KEY_AND_VALUE.fullmatch(text) and not Path(text).is_file():
        return False
    is_address = text.startswith(tuple(WeightsPathHandler.PREFIXES))
    is_file = text.lower().endswith(WEIGHTS_SUFFIXES)
    return is_address or is_file or (Path(text).is_dir() and any(Path(text).glob("*.pth")))


def is_config_key(text: str) -> bool:
    """Whether an argument is a config key, or starts with an existing section.

    Args:
        text: as typed.
    """
    section, dot, rest = text.partition(".")
    is_below = bool(dot) and section in SECTION_NAMES and re.fullmatch(r"[\w.:-]+", rest) is not None
    return text in KEYS_BY_NAME or text in KEYS_BY_OLD_NAME or is_below


def is_image_input(text: str) -> bool:
    """Whether an argument is an image, its address, a folder or a pattern; not weights, a config or a config key.

    Args:
        text: as typed.
    """
    from mrcnn_zoo.data.images.reading import IMAGE_SUFFIXES
    from mrcnn_zoo.inference.image_inputs import is_address

    path = Path(text).expanduser()
    if path.is_dir():
        return True
    if is_address(text):
        return not urlsplit(text).path.lower().endswith((*WEIGHTS_SUFFIXES, *CONFIG_SUFFIXES))
    is_other = names_weights(text) or text.endswith(CONFIG_SUFFIXES)
    if path.is_file() or text.lower().endswith(IMAGE_SUFFIXES):
        return not is_other
    return not is_other and not names_key(text)


def names_key(text: str) -> bool:
    """Whether an argument is a config key, perhaps misspelt, or `KEY=VALUE` with such a key; reads no files.

    Args:
        text: as typed.
    """
    key = text.partition("=")[0]
    section, dot, _ = key.partition(".")
    sections = sorted({name.partition(".")[0] for name in SECTION_NAMES})
    is_near = bool(dot) and bool(closest_name(section, sections, similarity=SECTION_SIMILARITY))
    return key in KEYS_BY_NAME or (is_near and "/" not in key)


def _take(arguments: argparse.Namespace, name: str, value: str) -> None:
    given, option = getattr(arguments, name), "--" + name.replace("_", "-")
    if given:
        raise UserError(f"{value} is given where a KEY or KEY=VALUE is expected: {option} is already {given}.")
    setattr(arguments, name, value)


def action_parsers(
    command: str, actions: Mapping[str, tuple[str, str]], *, description: str | None, examples: Sequence[str]
) -> tuple[CommandParser, dict[str, CommandParser]]:
    """The parser of a command with actions, such as `sweep run`, and that of each action.

    Args:
        command: its name.
        actions: module and help by name; each module has EXAMPLES, `add_arguments(parser)` and `main(arguments)`.
        description: of the command.
        examples: shown under its help.
    """
    parser = CommandParser(prog=f"mrcnn-zoo {command}", description=description, examples=tuple(examples))
    subparsers = parser.add_subparsers(dest="action", required=True)
    found = {}
    for name, (module_name, text) in actions.items():
        module = importlib.import_module(module_name)
        found[name] = subparsers.add_parser(
            name, help=text, description=module.__doc__, prog=f"mrcnn-zoo {command} {name}", examples=module.EXAMPLES
        )
        module.add_arguments(found[name])
        found[name].mixes_options = True
    return parser, found
