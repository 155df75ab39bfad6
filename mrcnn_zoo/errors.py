"""Errors that the command line prints without a traceback, and words for numbers and types in messages."""

from typing import Any


class UserError(ValueError):
    """A mistake in a config, a file or an argument; the message names the place, the cause and the remedy."""


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun, e.g. "1 image", "2 images", "1,204 objects", "0 classes".

    Args:
        number: the count.
        noun: singular.
        plural: where it does not end in -s, -es or -ies as usual.
    """
    if number == 1:
        return f"1 {noun}"
    if not plural and noun.endswith("y") and noun[-2:-1] not in "aeiou":
        plural = f"{noun[:-1]}ies"
    elif not plural:
        plural = f"{noun}es" if noun.endswith(("s", "x", "ch", "sh")) else f"{noun}s"
    return f"{number:,} {plural}"


def kind_of(value: Any) -> str:
    """The kind of a value for messages, e.g. "None", "a list of 3", "(Tensor, dict)".

    Args:
        value: of any type.
    """
    if isinstance(value, tuple):
        return f"({', '.join(map(kind_of, value))})"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return "None" if value is None else type(value).__name__


class NonFiniteLossError(RuntimeError):
    """A loss or a gradient became infinite or not a number; every process raises the same message."""
