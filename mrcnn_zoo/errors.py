"""The errors that the command line prints without a traceback, and how messages count and name values."""

from typing import Any


class UserError(ValueError):
    """A mistake in a config, a file or an argument; the message names the place and what to do.

    The command line prints the message alone, without a traceback.
    """


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun, e.g. "1 image", "2 images", "1,204 objects", "0 classes".

    Args:
        number: how many.
        noun: of one.
        plural: of several, where it is not made with -s, or with -es and -ies after the usual endings.
    """
    if number == 1:
        return f"1 {noun}"
    if not plural and noun.endswith("y") and noun[-2:-1] not in "aeiou":
        plural = f"{noun[:-1]}ies"
    elif not plural:
        plural = f"{noun}es" if noun.endswith(("s", "x", "ch", "sh")) else f"{noun}s"
    return f"{number:,} {plural}"


def kind_of(value: Any) -> str:
    """What a value is, e.g. "None", "a list of 3", "(Tensor, dict)"; for a message about a wrong one."""
    if isinstance(value, tuple):
        return f"({', '.join(map(kind_of, value))})"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return "None" if value is None else type(value).__name__


class NonFiniteLossError(RuntimeError):
    """A loss or a gradient became infinite or not a number; every process raises the same message."""
