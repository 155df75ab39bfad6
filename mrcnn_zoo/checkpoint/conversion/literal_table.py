"""A rename table of literal pieces of names, which can be read in both directions."""

from collections.abc import Sequence

Line = tuple[str, str]  # their piece of a name, ours


def to_ours(name: str, table: Sequence[Line]) -> str:
    """Our name of one of theirs; the same name if no line of the table applies.

    Lines are applied in their order. A piece that begins with a dot may stand anywhere in a name, others only at its
    beginning.
    """
    for theirs, ours in table:
        name = _replaced(name, theirs, ours)
    return name


def to_theirs(name: str, table: Sequence[Line]) -> str:
    """Their name of one of ours; see `to_ours`."""
    for theirs, ours in table:
        name = _replaced(name, ours, theirs)
    return name


def _replaced(name: str, old: str, new: str) -> str:
    if old.startswith("."):
        return name.replace(old, new, 1)
    return new + name.removeprefix(old) if name.startswith(old) else name
