"""Given boxes, in which masks are predicted: read from a COCO dataset or a list of COCO results."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.data.annotations.json_files import read_json
from mrcnn_zoo.data.classes import listed
from mrcnn_zoo.data.field_rules import parse_number, short_repr
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.structures import UNKNOWN_CLASS, ImageSize

FORMS = (
    "it should be a COCO dataset, an object with 'images' and 'annotations', or a list of COCO results, objects with "
    "'image_id' and 'bbox'"
)


@dataclass(frozen=True)
class BoxesOfImage:
    """The boxes of one image, in the order of the file."""

    image_id: int | str
    file_name: str  # "" in a list of results
    image_size: ImageSize | None  # (height, width) of the image in the file; None if it is not given
    boxes: NDArray[np.float64]  # (R, 4) x1 y1 x2 y2, pixels
    category_ids: tuple[int | None, ...]  # R; None if the model predicts the class
    ids: tuple[Any, ...]  # R, of the annotations; None if not given

    def classes(self, class_of_id: Mapping[int, int]) -> NDArray[np.int64]:
        """(R,) class indices, `UNKNOWN_CLASS` for boxes without a category.

        Args:
            class_of_id: category id -> class index, see `GivenBoxes.class_of_id`.
        """
        classes = [UNKNOWN_CLASS if number is None else class_of_id[number] for number in self.category_ids]
        return np.array(classes, dtype=np.int64)

    def check_size(self, size: ImageSize, *, image: str, source: Path) -> None:
        """Refuse boxes for another image size.

        Args:
            size: (height, width) of the image.
            image: its name, for the message.
            source: the file of the boxes, for the message.

        Raises:
            UserError: with both sizes.
        """
        if self.image_size is not None and self.image_size != size:
            (height, width), (own_height, own_width) = self.image_size, size
            raise UserError(
                f"{source}: the boxes of {self.file_name or self.image_id} are for an image of {width} x {height} "
                f"pixels, and {image} has {own_width} x {own_height}. Give boxes of this image, in its pixels."
            )


@dataclass(frozen=True)
class GivenBoxes:
    """All boxes of a file."""

    path: Path
    images: tuple[BoxesOfImage, ...]
    category_names: Mapping[int, str]  # by category id; empty if the file has no categories
    is_list: bool  # of COCO results, without 'images'; images without boxes are not in it
    notes: tuple[str, ...] = ()
    by_id: dict[str, BoxesOfImage] = field(default_factory=dict)
    by_name: dict[str, list[BoxesOfImage]] = field(default_factory=dict)  # by the last part of the file name

    def find(self, file_name: str, image_id: int | str | None = None) -> BoxesOfImage | None:
        """The boxes of an image, by its file name or else by its id.

        In a list of results, images have no names: "000000000139.jpg" is the image with id 139.

        Args:
            file_name: of the image.
            image_id: of the image, if it has one.

        Raises:
            UserError: several images of the file have that name.
        """
        parts = path_parts(file_name)
        same_name = self.by_name.get(parts[-1], []) if parts else []
        if same_name:
            tails = [common_tail(path_parts(image.file_name), parts) for image in same_name]
            best = [image for image, tail in zip(same_name, tails, strict=True) if tail == max(tails)]
            if len(best) > 1:
                raise UserError(
                    f"{self.path}: {listed([image.file_name for image in best])} may each be {file_name}. Give the "
                    "images with their folders, as the file names them."
                )
            return best[0]
        if image_id is not None:
            return self.by_id.get(str(image_id))
        found = [self.by_id.get(name) for name in _ids_of_name(parts[-1])] if parts else []
        return next((image for image in found if image is not None and not image.file_name), None)

    def class_of_id(
        self, class_names: Sequence[str], category_ids: Sequence[int], *, images: Iterable[BoxesOfImage] | None = None
    ) -> dict[int, int]:
        """Category id -> class index, by name if the file has names, else by id.

        Args:
            class_names: (K,) of the model; empty if unknown.
            category_ids: (K,) of the model.
            images: whose categories are mapped; all images by default.

        Raises:
            UserError: a category that is not a class of the model.
        """
        chosen = self.images if images is None else images
        used = dict.fromkeys(number for image in chosen for number in image.category_ids if number is not None)
        indices: dict[int, int] = {}
        for number in used:
            known: Sequence[Any] = category_ids
            target: Any = number
            if self.category_names and class_names:
                known, target = class_names, self.category_names.get(number)
            if target not in known:
                name = f" ({self.category_names[number]!r})" if number in self.category_names else ""
                classes = listed([str(value) for value in known])
                raise UserError(
                    f"{self.path}: category_id {number}{name} is none of the model's {counted(len(known), 'class')}: "
                    f"{classes}. Rename it to one of them, or omit category_id: then the model predicts the class."
                )
            indices[number] = list(known).index(target)
        return indices


def read_given_boxes(path: str | Path) -> GivenBoxes:
    """The boxes of a COCO file without its crowds.

    Args:
        path: of a COCO dataset or a list of COCO results.

    Raises:
        UserError: a file that cannot be read or has another structure, or a malformed box.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        what = "it is a folder" if path.is_dir() else "there is no such file"
        raise UserError(f"boxes cannot be read from {path}: {what}.")
    content = read_json(path)
    if isinstance(content, list):
        images: list[Any] = []
        rows, names = content, {}
    elif isinstance(content, dict) and {"images", "annotations"} <= content.keys():
        images, rows = content["images"], content["annotations"]
        names = _category_names(path, content.get("categories") or [])
    else:
        found = "a number or a text"
        if isinstance(content, dict):
            found = f"an object with {listed(list(content))}" if content else "an empty object"
        raise UserError(f"{path} has no boxes that can be read: {FORMS}; it is {found}.")
    for what, elements in (("images", images), ("annotations", rows)):
        if not isinstance(elements, list) or not all(isinstance(element, dict) for element in elements):
            raise UserError(f"{path}: {what!r} is not a list of objects; {FORMS}.")
    crowds = sum(bool(row.get("iscrowd")) for row in rows)
    notes = (f"{path}: {counted(crowds, 'crowd')} left out",) if crowds else ()
    tables = _tables(path, images, [row for row in rows if not row.get("iscrowd")], is_list=isinstance(content, list))
    by_name: dict[str, list[BoxesOfImage]] = defaultdict(list)
    for table in tables:
        if table.file_name:
            by_name[path_parts(table.file_name)[-1]].append(table)
    return GivenBoxes(
        path,
        tuple(tables),
        names,
        is_list=isinstance(content, list),
        notes=notes,
        by_id={str(table.image_id): table for table in tables},
        by_name=dict(by_name),
    )


def _tables(
    path: Path, images: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]], *, is_list: bool
) -> list[BoxesOfImage]:
    """The boxes per image, in the order of 'images' or of the first appearance in a list of results."""
    of_image: dict[Any, list[dict[str, Any]]] = {}
    described: dict[Any, dict[str, Any]] = {}
    for number, image in enumerate(images):
        image_id = _image_id(path, image, "id", f"image number {number}")
        if image_id in described:
            raise UserError(f"{path}: two images have the id {image_id}. Give each a distinct id.")
        described[image_id], of_image[image_id] = image, []
    for number, row in enumerate(rows):
        image_id = _image_id(path, row, "image_id", _label(row, number))
        if is_list:
            of_image.setdefault(image_id, [])
        elif image_id not in of_image:
            raise UserError(
                f"{path}: {_label(row, number)} is of the image {image_id}, which is not among the 'images'."
            )
        of_image[image_id].append(row | {"_number": number})
    return [_table(path, number, described.get(number, {}), members) for number, members in of_image.items()]


def _table(
    path: Path, image_id: int | str, image: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> BoxesOfImage:
    corners = [_box(path, row, _label(row, row["_number"])) for row in rows]
    height, width = parse_number(image.get("height")), parse_number(image.get("width"))
    return BoxesOfImage(
        image_id=image_id,
        file_name=str(image.get("file_name") or ""),
        image_size=(int(height), int(width)) if _is_number(height) and _is_number(width) else None,
        boxes=np.array(corners, dtype=np.float64).reshape(-1, 4),
        category_ids=tuple(_category(path, row, _label(row, row["_number"])) for row in rows),
        ids=tuple(row.get("id") for row in rows),
    )


def _box(path: Path, row: Mapping[str, Any], name: str) -> tuple[float, float, float, float]:
    """x1 y1 x2 y2 of x, y, width and height."""
    box = row.get("bbox")
    values = [parse_number(value) for value in box] if isinstance(box, list | tuple) else []
    if len(values) != 4 or not all(_is_number(value) for value in values) or values[2] < 0 or values[3] < 0:
        what = "has no 'bbox'" if box is None else f"has the bbox {short_repr(box)}"
        raise UserError(f"{path}: {name} {what}; it should be four numbers, x, y, width and height, in pixels.")
    x, y, width, height = map(float, values)
    return x, y, x + width, y + height


def _category(path: Path, row: Mapping[str, Any], name: str) -> int | None:
    number = parse_number(row.get("category_id"))
    if number is None:
        return None
    if not _is_number(number) or number != int(number):
        raise UserError(f"{path}: {name} has the category_id {short_repr(number)}, which is not a whole number.")
    return int(number)


def _category_names(path: Path, categories: Any) -> dict[int, str]:
    try:
        return {int(category["id"]): str(category["name"]).strip() for category in categories}
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(f"{path}: each element of 'categories' needs an 'id', a whole number, and a 'name'.") from error


def _image_id(path: Path, element: Mapping[str, Any], key: str, name: str) -> int | str:
    value = element.get(key)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise UserError(f"{path}: {name} has no {key!r} that is a number or a text; {FORMS}.")
    return value


def _label(row: Mapping[str, Any], number: int) -> str:
    return f"box number {number}" if row.get("id") is None else f"annotation {row['id']}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def path_parts(file_name: str) -> tuple[str, ...]:
    """The parts of a path with slashes or backslashes.

    Args:
        file_name: of any system.
    """
    return PureWindowsPath(file_name).parts


def common_tail(first: Sequence[str], second: Sequence[str]) -> int:
    """The number of equal trailing parts of two paths.

    Args:
        first: parts of a path.
        second: parts of a path.
    """
    pairs = zip(reversed(first), reversed(second), strict=False)
    return next((count for count, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def _ids_of_name(name: str) -> list[str]:
    """Possible ids of an image with this file name, as text."""
    stem = Path(name).stem
    number = re.search(r"(\d+)$", stem)
    return [name, stem, *([str(int(stem))] if stem.isdecimal() else [str(int(number[1]))] if number else [])]
