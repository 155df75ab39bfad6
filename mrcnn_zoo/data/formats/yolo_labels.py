"""Label files of YOLO: a line per object, with fractions of the image's width and height."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.data.annotations.objects import AnnotatedObject
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.structures import ImageSize

BOX, SCORED_BOX = 5, 6  # numbers of a line: class, x and y of the centre, width, height, and a score
MIN_POSE, KEYPOINT = 8, 3  # a box and keypoints of x, y, visibility
VISIBILITIES = (0.0, 1.0, 2.0)
# Fractions beyond these are no overhang of an annotator but pixels, per cent, or another format.
LEAST_FRACTION, MOST_FRACTION = -1.0, 2.0
FILES_PER_CHUNK = 1000
FORMS = "A line is a class number and a box (x y width height) or a polygon (x1 y1 x2 y2 ... of 3 points or more)."


@dataclass(frozen=True, slots=True)
class LabelFile:
    """The label file of an image.

    Args:
        path: of the file.
        image_size: (height, width) of its image, upright.
    """

    path: str
    image_size: ImageSize


@dataclass(frozen=True)
class _Rows:
    """The lines with numbers of one file."""

    numbers: NDArray[np.float64]
    counts: list[int]  # of numbers per line
    lines: Sequence[int]  # from 1
    has_scores: bool


def read_label_files(
    files: Sequence[LabelFile], class_names: Sequence[str] | None, *, names_file: str = ""
) -> Iterator[list[AnnotatedObject]]:
    """The objects of each file, in the order of the files.

    Args:
        files: that exist.
        class_names: by class number; None takes the numbers as names.
        names_file: the file with the names, for messages.

    Raises:
        UserError: with the file, the line and its form.
    """
    for start in range(0, len(files), FILES_PER_CHUNK):
        chunk = files[start : start + FILES_PER_CHUNK]
        yield from _read_chunk(chunk, class_names, names_file)


def _read_chunk(
    files: Sequence[LabelFile], class_names: Sequence[str] | None, names_file: str
) -> list[list[AnnotatedObject]]:
    """Many files at once, because the cost of NumPy's calls is that of a hundred numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # of NumPy, for text that is no number
        tables = [_read_rows(file.path) for file in files]
    counts = np.array([count for table in tables for count in table.counts], dtype=np.int64)
    if not len(counts):
        return [[] for _ in files]
    numbers = np.concatenate([table.numbers for table in tables])
    rows_per_file = [len(table.counts) for table in tables]
    starts = np.cumsum(counts) - counts
    classes = numbers[starts]
    sizes = np.repeat(np.array([file.image_size for file in files], dtype=np.float64), rows_per_file, axis=0)
    is_class = np.zeros(len(numbers), dtype=bool)
    is_class[starts] = True
    num_classes = len(class_names) if class_names is not None else np.iinfo(np.int32).max
    is_right_class = (classes >= 0) & (classes < num_classes) & (classes == np.floor(classes))
    is_right = is_class | ((numbers >= LEAST_FRACTION) & (numbers <= MOST_FRACTION))  # False for NaN
    if not (is_right.all() and is_right_class.all()):
        row = int(np.flatnonzero(~np.logical_and.reduceat(is_right, starts) | ~is_right_class)[0])
        _refuse(files, tables, row, class_names, names_file)
    is_x = (np.arange(len(numbers)) - np.repeat(starts, counts)) % 2 == 1
    scale = np.where(is_x, np.repeat(sizes[:, 1], counts), np.repeat(sizes[:, 0], counts))
    pixels = numbers * scale
    names = [str(number) if class_names is None else class_names[number] for number in classes.astype(int).tolist()]
    found: list[list[AnnotatedObject]] = []
    row, start = 0, 0
    for table in tables:
        objects = []
        for line, count in zip(table.lines, table.counts, strict=True):
            end = start + count
            score = float(numbers[end - 1]) if table.has_scores else None
            values = pixels[start + 1 : end - table.has_scores]
            objects.append(_object_of(values, names[row], f"line {line}", score))
            row, start = row + 1, end
        found.append(objects)
    return found


def _object_of(values: NDArray[np.float64], class_name: str, where: str, score: float | None) -> AnnotatedObject:
    if len(values) == BOX - 1:
        x, y, width, height = values.tolist()
        box = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
        return AnnotatedObject(class_name, where, None, box, score=score)
    return AnnotatedObject(class_name, where, [values], score=score)  # type: ignore[list-item]  # an array is a sequence


def _read_rows(path: str) -> _Rows:
    """The numbers of a file, with the right number in each line."""
    try:
        with open(path, "rb", buffering=0) as file:
            content = file.read().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    counts = [len(line.split()) for line in content.splitlines()]
    if not any(counts):
        return _Rows(np.zeros(0), [], (), has_scores=False)
    lines: Sequence[int] = range(1, len(counts) + 1)
    if not all(counts):
        lines = [line for line, count in zip(lines, counts, strict=True) if count]
        counts = [count for count in counts if count]
    try:
        numbers = np.fromstring(content, dtype=np.float64, sep=" ")
    except (DeprecationWarning, ValueError):
        numbers = np.zeros(0)
    if len(numbers) != sum(counts):
        raise _not_numbers(path, content)
    # Predictions have a score at the end of each line, which makes every count even.
    has_scores = all(count % 2 == 0 for count in counts)
    for line, count in zip(lines, counts, strict=True):
        if count < BOX or count % 2 == has_scores:
            raise UserError(f"{path}, line {line} has {count} numbers. {FORMS} Correct or remove the line.")
    if _is_pose(numbers, counts):
        raise UserError(
            f"{path} has keypoints after the boxes (x, y and visibility), which are not read from YOLO files: convert "
            "them to COCO's format, or remove them, so that each line has 5 numbers."
        )
    return _Rows(numbers, counts, lines, has_scores=has_scores)


def _is_pose(numbers: NDArray[np.float64], counts: Sequence[int]) -> bool:
    """Whether every line is a box with keypoints inside it; polygons have no visibilities at every third place."""
    count = counts[0]
    if count < MIN_POSE or (count - BOX) % KEYPOINT or float(numbers[BOX + 2]) not in VISIBILITIES:
        return False
    if any(other != count for other in counts):
        return False
    table = numbers.reshape(-1, count)
    center, half = table[:, None, 1:3], table[:, None, 3:5] / 2
    points = table[:, BOX:].reshape(len(table), -1, KEYPOINT)
    is_inside = (np.abs(points[..., :2] - center) <= half + 0.01).all(axis=2)
    return bool(np.isin(points[..., 2], VISIBILITIES).all() and (is_inside | (points[..., 2] == 0)).all())


def _not_numbers(path: str, content: bytes) -> UserError:
    for number, line in enumerate(content.decode("utf-8", errors="replace").splitlines(), start=1):
        for word in line.split():
            try:
                float(word)
            except ValueError:
                return UserError(f"{path}, line {number}: {word!r} is not a number. {FORMS}")
    return UserError(f"{path} is not text of numbers. {FORMS}")


def _refuse(
    files: Sequence[LabelFile],
    tables: Sequence[_Rows],
    row: int,
    class_names: Sequence[str] | None,
    names_file: str,
) -> None:
    """The error for a line with another class or with coordinates that are no fractions.

    Raises:
        UserError: always.
    """
    number = 0
    while row >= len(tables[number].counts):
        row -= len(tables[number].counts)
        number += 1
    table = tables[number]
    start = sum(table.counts[:row])
    class_number, *values = table.numbers[start : start + table.counts[row]].tolist()
    place = f"{files[number].path}, line {table.lines[row]}"
    if class_number < 0 or class_number != class_number // 1:
        raise UserError(f"{place}: the class {class_number:g} must be a whole number from 0. {FORMS}")
    if class_names is not None and class_number >= len(class_names):
        raise UserError(
            f"{place}: the class {class_number:g} has no name: {names_file} has {len(class_names)} classes, numbered "
            f"from 0 to {len(class_names) - 1}. Add its name there, or correct the line."
        )
    value = next(value for value in values if not LEAST_FRACTION <= value <= MOST_FRACTION)
    raise UserError(
        f"{place} has the coordinate {value:g}; YOLO's coordinates are fractions of the width and height of the image, "
        "from 0 to 1. Divide pixels by the width and height; keypoints are not read."
    )
