"""The table of classes and scores beside label images, `classes.csv`."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.data.annotations.mask_files import MaskedImage, ObjectMask
from mrcnn_zoo.data.formats.label_files import CONNECTED
from mrcnn_zoo.data.records import RepairLog
from mrcnn_zoo.errors import UserError

CLASS_NAME = "object"  # of label images without a table of classes
CLASS_TABLE = "classes.csv"
COLUMNS = ("file", "label", "class", "score")  # the last may be missing


@dataclass
class ClassTable:
    """The classes and scores of labels: the columns file, label, class and score of `classes.csv`.

    Args:
        path: of the file, which may be missing: all objects have one class.
        rows: by the path of the label image, by label: class, score, line.
        is_other: it is empty, or a table of another kind.
    """

    path: Path
    rows: dict[str, dict[str, tuple[str, float | None, int]]] = field(default_factory=dict)
    is_other: bool = False

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The sorted names of the classes."""
        return tuple(sorted({row[0] for rows in self.rows.values() for row in rows.values()})) or (CLASS_NAME,)

    @cached_property
    def indices(self) -> dict[str, int]:
        """The index of each class."""
        return {name: index for index, name in enumerate(self.names)}

    @classmethod
    def of_values(cls, images: Mapping[str, Sequence[MaskedImage]]) -> "ClassTable":
        """The classes of regions in masks of classes: their values, or "object" where all have the same.

        Args:
            images: by the path of the mask, its pages with objects that are named by their values.
        """
        values = {item.name for pages in images.values() for image in pages for item in image.objects}
        rows: dict[str, tuple[str, float | None, int]]
        rows = {value: (value if len(values) > 1 else CLASS_NAME, None, 0) for value in values}
        return cls(Path(), dict.fromkeys(images, rows))

    @classmethod
    def read(cls, path: Path, files: Iterable[str]) -> "ClassTable":
        """Read the file, if there is one.

        Args:
            path: of the file.
            files: label images that it may name.

        Raises:
            UserError: a missing column, another file, or a value that is no label or score, with its line.
        """
        table, known = cls(path), set(files)
        if not path.is_file():
            return table
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                lines = csv.DictReader(file)
                if not set(COLUMNS[:3]) <= set(lines.fieldnames or ()):
                    table.is_other = True
                    return table
                for row in lines:
                    table._add(row, known, f"{path}, line {lines.line_num}", lines.line_num)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{path} cannot be read as a CSV table in UTF-8: {error}.") from error
        return table

    def _add(self, row: Mapping[str, str | None], known: set[str], where: str, line: int) -> None:
        name, label, class_name, text = ((row.get(column) or "").strip() for column in COLUMNS)
        file = name.replace("\\", "/")
        if file not in known:
            raise UserError(f"{where}: file = {name!r} is no label image of this dataset; correct or remove the line.")
        if not label.isdecimal() or not class_name:
            raise UserError(
                f"{where}: label = {label!r} and class = {class_name!r} must be a whole number and the name of a class."
            )
        try:
            score = float(text) if text else None
        except ValueError:
            score = -1.0
        if score is not None and not 0 <= score <= 1:
            raise UserError(f"{where}: score = {text!r} must be a number from 0 to 1, or empty.")
        self.rows.setdefault(file, {})[str(int(label))] = (class_name, score, line)

    def check(self, images: Mapping[str, Sequence[MaskedImage]], repairs: RepairLog) -> None:
        """Compare the table with the objects. Where all have one class, objects may be missing in the table.

        Args:
            images: by the path of the label image, its pages with objects.
            repairs: counts lines without an object, and a table of another kind.

        Raises:
            UserError: an object without a class.
        """
        if self.is_other:
            columns = ", ".join(COLUMNS[:3])
            kind = f"{self.path.name} without the columns {columns} left out; all objects have one class"
            repairs.add(kind, [self.path.name], name="file")
        names = self.names
        for file, pages in images.items() if self.rows else ():
            rows, present = self.rows.get(file, {}), {item.name for image in pages for item in image.objects}
            unlisted = next((name for name in present if name not in rows), None)
            if unlisted is not None and len(names) > 1:
                raise UserError(
                    f"{self.path}: object {unlisted} of {file} is not listed, so its class is unknown; add the line "
                    f'"{file},{unlisted},{names[0]}" with its class.'
                )
            absent = [rows[name][2] for name in rows if name not in present]
            repairs.add(f"lines of {self.path.name} without an object left out", absent, name="line")

    def class_and_score(self, file: str, item: ObjectMask) -> tuple[int, float | None]:
        """The class index and the score of an object.

        Args:
            file: the label image.
            item: one of its objects.
        """
        row = self.rows.get(file, {}).get(item.name)
        return (0, None) if row is None else (self.indices[row[0]], row[1])


def regions_of(classes: NDArray[Any]) -> tuple[NDArray[np.int32], list[str]]:
    """The connected regions of each value of a mask of classes, as a label image.

    Args:
        classes: (H, W) whole numbers, 0 for no class.

    Returns:
        (H, W) labels from 1 on, and the value of each in their order.
    """
    from scipy import ndimage

    labels = np.zeros(classes.shape, dtype=np.int32)
    values: list[str] = []
    for value in np.unique(classes[classes != 0]).tolist():
        found, count = ndimage.label(classes == value, structure=CONNECTED)
        labels[found > 0] = found[found > 0] + len(values)
        values += [str(value)] * count
    return labels, values
