"""Counts of what was wrong in annotations and what was done about it, for one line per kind in the log."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray


class RepairLog:
    """Counts repairs by kind and remembers the first of each."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._firsts: dict[str, str] = {}

    def add(self, kind: str, where: Sequence[object] | NDArray[Any], *, name: str = "annotation") -> None:
        """Count repairs of one kind.

        Args:
            kind: what was wrong and what was done, e.g. "boxes outside their image left out".
            where: ids of what was repaired; may be empty.
            name: what the ids are of.
        """
        if len(where) == 0:
            return
        self._counts[kind] = self._counts.get(kind, 0) + len(where)
        self._firsts.setdefault(kind, f"{name} {where[0]}")

    def notes(self) -> tuple[str, ...]:
        """A line for each kind, with the count and the first case."""
        return tuple(f"{kind}: {count} (first: {self._firsts[kind]})" for kind, count in self._counts.items())
