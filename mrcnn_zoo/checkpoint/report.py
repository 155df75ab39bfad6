"""Report of how a model was filled from a file, as data and as a table."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tabulate import tabulate

Shape = tuple[int, ...]
Row = tuple[str, str, list[str]]  # pattern of names, status, names
MIN_SHARED_LETTERS = 3
MAX_NAMED_SIBLINGS = 4
MAX_NAMED_SHAPES = 5
MAX_NAMED_SETTINGS = 12


@dataclass(frozen=True)
class LoadReport:
    """The status of every weight of a model and of a file, by name.

    Args:
        source: the path or URL.
        sizes: number of values of each weight named below.
        loaded: filled from a weight of the same name.
        converted: filled through a converter, or adapted to another number of input channels.
        by_class: last layers for other classes, of which the rows of shared classes are copied by name.
        reinitialized: last layers for another number of classes; they keep the model's values.
        mismatched: of the same name and another shape; they keep the model's values.
        missing: of the model only; they keep the model's values.
        skipped: of the file only, by their names in it.
        converter: the project that the file was recognised as; empty for our names.
        expected_settings: config keys and values that the weights were trained with, where known.
        notes: sentences about assumptions.
    """

    source: str
    sizes: Mapping[str, int] = field(default_factory=dict)
    loaded: Sequence[str] = ()
    converted: Sequence[str] = ()
    by_class: Mapping[str, int] = field(default_factory=dict)  # name -> number of values copied
    reinitialized: Mapping[str, tuple[Shape, Shape]] = field(default_factory=dict)  # name -> shape in file, in model
    mismatched: Mapping[str, tuple[Shape, Shape]] = field(default_factory=dict)
    missing: Sequence[str] = ()
    skipped: Sequence[str] = ()
    converter: str = ""
    expected_settings: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def is_complete(self) -> bool:
        """Whether every weight of the model was filled."""
        is_partial = any(count < self.sizes[name] for name, count in self.by_class.items())
        return not (self.reinitialized or self.mismatched or self.missing or is_partial)

    def table(self) -> str:
        """One line per part of the model with one status."""
        rows = [
            [pattern, len(names), f"{sum(self.sizes[name] for name in names):,}", status]
            for pattern, status, names in group_by_status(self._statuses())
        ]
        return tabulate(
            rows,
            headers=["weights", "tensors", "values", ""],
            tablefmt="pipe",
            disable_numparse=True,
            colalign=("left", "right", "right", "left"),
        )

    def __str__(self) -> str:
        filled = sum(self.sizes[name] for name in (*self.loaded, *self.converted)) + sum(self.by_class.values())
        kept = sum(self.sizes[name] for name in (*self.reinitialized, *self.mismatched, *self.missing))
        kept += sum(self.sizes[name] - count for name, count in self.by_class.items())
        recognised = f", recognised as {self.converter}," if self.converter else ""
        lines = [
            f"Weights of {self.source}{recognised} fill {100 * filled / max(filled + kept, 1):.1f} % of the model's "
            f"{filled + kept:,} values:",
            self.table(),
        ]
        for name, (theirs, ours) in list(self.mismatched.items())[:MAX_NAMED_SHAPES]:
            lines.append(f"{name} is {shape_text(theirs)} in the file and {shape_text(ours)} in the model.")
        if len(self.expected_settings) > MAX_NAMED_SETTINGS:  # of a whole detector; its loader names those that differ
            lines.append(f"These weights have {len(self.expected_settings)} settings of their model.")
        elif self.expected_settings:
            settings = ", ".join(f"{key} {value}" for key, value in self.expected_settings.items())
            lines.append(f"These weights were trained with: {settings}.")
        lines += self.notes
        return "\n".join(lines)

    def _statuses(self) -> dict[str, str]:
        return {
            **dict.fromkeys(self.loaded, "loaded"),
            **dict.fromkeys(self.converted, "converted"),
            **{
                name: "rows copied by class name" if count else "re-initialised: other classes"
                for name, count in self.by_class.items()
            },
            **dict.fromkeys(self.reinitialized, "re-initialised: other classes or another shape"),
            **dict.fromkeys(self.mismatched, "not loaded: another shape"),
            **dict.fromkeys(self.missing, "missing in the file"),
            **dict.fromkeys(self.skipped, "skipped: not in the model"),
        }


def shape_text(shape: Shape) -> str:
    """A shape for messages, such as "64x3x7x7".

    Args:
        shape: sizes of the dimensions.
    """
    return "x".join(map(str, shape)) if shape else "scalar"


def group_by_status(statuses: Mapping[str, str]) -> list[Row]:
    """Groups dotted names into few patterns, each of names with one status.

    Args:
        statuses: by name.

    Returns:
        Such as ("backbone.fpn_*.norm.*", "missing", [...]), in the order of the names.
    """
    rows: list[Row] = []
    for top, names in _children(list(statuses), depth=0).items():
        rows += [(_joined(top, pattern), status, own) for pattern, status, own in _rows(names, statuses, depth=1)]
    return rows


def _rows(names: list[str], statuses: Mapping[str, str], depth: int) -> list[Row]:
    """Rows for names that share their first `depth` parts; patterns are relative to those."""
    if len({statuses[name] for name in names}) == 1:
        is_leaf = len(names) == 1 and names[0].count(".") == depth - 1
        return [("" if is_leaf else "*", statuses[names[0]], names)]
    rows_of = {child: _rows(own, statuses, depth + 1) for child, own in _children(names, depth).items()}
    alike: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for child, rows in rows_of.items():
        alike.setdefault(tuple((pattern, status) for pattern, status, _ in rows), []).append(child)
    together: list[Row] = []
    for signature, children in alike.items():
        start = _pattern(children, list(rows_of))
        for position, (pattern, status) in enumerate(signature):
            covered = [name for child in children for name in rows_of[child][position][2]]
            together.append((_joined(start, pattern), status, covered))
    return together


def _children(names: list[str], depth: int) -> dict[str, list[str]]:
    children: dict[str, list[str]] = {}
    for name in names:
        children.setdefault(name.split(".")[depth], []).append(name)
    return children


def _joined(start: str, pattern: str) -> str:
    return f"{start}.{pattern}" if pattern else start


def _pattern(chosen: list[str], siblings: list[str]) -> str:
    if len(chosen) == 1:
        return chosen[0]
    if len(chosen) == len(siblings):
        return "*"
    shared = os.path.commonprefix(chosen)  # noqa: RUF071
    if len(shared) >= MIN_SHARED_LETTERS and not any(name.startswith(shared) for name in set(siblings) - set(chosen)):
        return f"{shared}*"
    named = ", ".join(chosen[:MAX_NAMED_SIBLINGS])
    return f"{{{named}{', ...' if len(chosen) > MAX_NAMED_SIBLINGS else ''}}}"
