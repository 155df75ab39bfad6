"""The fields of a sweep's YAML: which there are, and their values with the place in messages."""

from collections.abc import Iterator, Sequence
from typing import Any

from mrcnn_zoo.config.defaults import SECTION_NAMES
from mrcnn_zoo.config.keys import Assignment, Origin
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.registry import did_you_mean

TEXTS = ("NAME", "TITLE", "NOTE", "BASE", "OUTPUT_DIR", "REFERENCE", "GROUP", "OBJECTIVE")
LISTS = ("EXCLUDE", "SEEDS", "COLUMNS", "DATA_FRACTIONS")
MAPPINGS = ("VARIANTS", "GRID", "PAPER", "SPACE", "SLURM")
FIELDS = (*TEXTS, *LISTS, *MAPPINGS, "FOLDS")


class Fields:
    """The assignments of a file by field, with messages that name the place.

    Args:
        assignments: of the file.
        source: name of the file.
    """

    def __init__(self, assignments: Sequence[Assignment], source: str) -> None:
        self.source = source
        self._assignments = list(assignments)
        for assignment in assignments:
            name = assignment.path[0]
            if name not in FIELDS:
                also = " A sweep names its config in BASE." if name == "_BASE_" else ""
                if name in SECTION_NAMES:
                    also = (
                        f" A config is trained with `mrcnn-zoo train --config-file {source}`; a sweep names it in BASE."
                    )
                raise UserError(
                    f"{assignment.origin}: a sweep has no field {name!r}.{did_you_mean(name, FIELDS)}{also} Config "
                    f"keys belong into VARIANTS or GRID; the fields are {', '.join(FIELDS)}."
                )
            if name in MAPPINGS and len(assignment.path) == 1 and assignment.value not in (None, {}):
                raise UserError(f"{assignment.origin}: {name} must be a mapping, not {assignment.value!r}.")

    def below(self, *path: str) -> Iterator[Assignment]:
        """The assignments of a field and of what is below it.

        Args:
            *path: names from the top of the file to the field, also below.
        """
        return (item for item in self._assignments if item.path[: len(path)] == path)

    def origin(self, *path: str) -> Origin:
        """The line of a field; the file where the field is missing."""
        return next((item.origin for item in self.below(*path)), Origin(self.source))

    def value(self, *path: str) -> Any:
        """The value of a field that is no mapping; None where it is missing."""
        found = list(self.below(*path))
        if not found:
            return None
        if found[0].path != path:
            raise UserError(f"{found[0].origin}: {'.'.join(path)} takes one value, not a mapping.")
        return found[0].value

    def text(self, *path: str) -> str:
        """The text of a field; empty where it is missing."""
        value = self.value(*path)
        if value is not None and not isinstance(value, str):
            raise UserError(f"{self.origin(*path)}: {'.'.join(path)} = {value!r} must be a text; put it in quotes.")
        return value or ""

    def items(self, *path: str) -> list[Any]:
        """The list of a field, which has values; empty where the field is missing."""
        value = self.value(*path)
        if value is not None and (not isinstance(value, list) or not value):
            raise UserError(f"{self.origin(*path)}: {'.'.join(path)} = {value!r} must be a list with values.")
        return value or []

    def mapping(self, *path: str) -> dict[str, Any]:
        """The values below a field as a nested mapping."""
        nested: dict[str, Any] = {}
        for item in self.below(*path):
            if len(item.path) > len(path):
                insert(nested, item.path[len(path) :], item.value)
        return nested


def insert(nested: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set a value of a nested mapping, with new mappings on the way to it.

    Args:
        nested: is changed.
        path: names, the last one that of the value.
        value: any.
    """
    *parents, leaf = path
    for part in parents:
        nested = nested.setdefault(part, {})
    nested[leaf] = value
