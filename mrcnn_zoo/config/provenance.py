"""Where a value came from: a line of a file, the command line, or the defaults."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Origin:
    """The place that set a value.

    Args:
        source: a file as the user would type it, or "command line".
        line: counted from 1; None where there are no lines.
        is_foreign: whether it lies in a checkpoint or another downloaded file, and not in what the user wrote or named.
    """

    source: str
    line: int | None = None
    is_foreign: bool = False

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


@dataclass(frozen=True)
class Assignment:
    """A value for a key, before anybody has checked that there is such a key.

    Args:
        path: the names on the way from the root; a name may itself be dotted.
        value: as read, of any plain type.
        origin: where it was read.
    """

    path: tuple[str, ...]
    value: Any
    origin: Origin

    @property
    def name(self) -> str:
        """The dotted name."""
        return ".".join(self.path)


def typed_path(path: Path) -> str:
    """A path as a user in the current folder would type it: relative where that is shorter."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except (ValueError, OSError, RuntimeError):  # elsewhere, or a path that cannot be resolved
        return str(path)
