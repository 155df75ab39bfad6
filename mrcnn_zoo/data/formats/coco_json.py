"""COCO's JSON, read and checked for its structure: images, annotations, categories."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrcnn_zoo.data.keypoints import flip_pairs
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.structures import ImageSize

SECTIONS = ("images", "annotations", "categories")
MAX_ID = 2**63 - 1
MAX_SIDE = 2**31 - 1  # pixels


@dataclass(frozen=True)
class CocoJson:
    """The lists of a COCO file; nothing is known yet about what is in their elements but that they are objects."""

    path: Path
    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: list[dict[str, Any]]

    def column(self, section: str, field: str) -> list[Any]:
        """One field of all elements of a section.

        Raises:
            UserError: an element without the field.
        """
        elements = getattr(self, section)
        try:
            return [element[field] for element in elements]
        except KeyError:
            row = next(row for row, element in enumerate(elements) if field not in element)
            known = elements[row].get("id")
            name = f"number {row}" if known is None else f"with id {known}"
            raise UserError(f"{self.path}: the element {name} of {section!r} has no {field!r}.") from None

    def ids(self, section: str) -> list[int]:
        """The ids of a section's elements, in their order.

        Raises:
            UserError: an id that is no whole number, or that two elements have.
        """
        ids = self.column(section, "id")
        for value in ids:
            if not isinstance(value, int):
                raise UserError(f"{self.path}: id {value!r} in {section!r} is not a whole number.")
            if abs(value) > MAX_ID:
                raise UserError(f"{self.path}: id {value} in {section!r} is too large; ids have 64 bits.")
        if len(set(ids)) != len(ids):
            value, count = Counter(ids).most_common(1)[0]
            rows = [row for row, other in enumerate(ids) if other == value]
            raise UserError(
                f"{self.path}: id {value} is used {count} times in {section!r} (elements number {rows[0]} and "
                f"{rows[1]}, counted from 0). Give each its own id; merged files need new ids."
            )
        return ids


def read_coco_json(path: Path) -> CocoJson:
    """The file's three lists.

    Raises:
        UserError: a file that cannot be read, is no JSON, or is not in COCO's format.
    """
    content = _read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} is not in COCO's format: it holds a {type(content).__name__} instead of an object.")
    for section in SECTIONS:
        if section not in content:
            found = ", ".join(repr(key) for key in list(content)[:10]) or "nothing"
            raise UserError(f"{path} is not in COCO's format: it has no {section!r}, it has {found}.")
        elements = content[section]
        if not isinstance(elements, list) or not all(isinstance(element, dict) for element in elements):
            raise UserError(f"{path} is not in COCO's format: {section!r} is not a list of objects.")
    return CocoJson(path, *(content[section] for section in SECTIONS))


def _read_json(path: Path) -> Any:
    try:
        with path.open(encoding="utf-8") as file:
            return json.load(file)
    except json.JSONDecodeError as error:
        is_cut_off = error.pos >= len(error.doc.rstrip())
        advice = "It ends too early: the file is truncated, copy or download it again." if is_cut_off else ""
        raise UserError(
            f"{path} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno} "
            f"(character {error.pos} of {len(error.doc)}). {advice}".rstrip()
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a JSON text file: {error}.") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists in lists without end
        raise UserError(f"{path} is not JSON that can be read: {error}.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error


@dataclass(frozen=True)
class Categories:
    """The classes of a file, numbered without gaps in the order of their ids."""

    names: tuple[str, ...]
    ids: tuple[int, ...]  # class index -> category id
    keypoint_names: tuple[str, ...]
    keypoint_flip_pairs: tuple[tuple[int, int], ...]
    keypoint_skeleton: tuple[tuple[int, int], ...]


def read_categories(document: CocoJson) -> Categories:
    """The categories, without the empty one that Roboflow puts above all others.

    Raises:
        UserError: no category, two with one id, or key points that are not names.
    """
    ids, names = document.ids("categories"), document.column("categories", "name")
    unused = _roboflow_root(document)
    by_id = {
        number: (str(name), category.get("keypoints") or [])
        for number, name, category in zip(ids, names, document.categories, strict=True)
        if number != unused
    }
    if not by_id:
        raise UserError(f"{document.path}: 'categories' is empty, so there is nothing to learn.")
    ordered = sorted(by_id)
    for number, (_, points) in by_id.items():
        if not isinstance(points, list) or not all(isinstance(point, str) for point in points):
            raise UserError(
                f"{document.path}: category {number} has 'keypoints' {points!r}, which is no list of names."
            )
    keypoints = next((tuple(points) for _, points in by_id.values() if points), ())
    skeletons = [category.get("skeleton") for category in document.categories if category.get("keypoints")]
    return Categories(
        names=tuple(by_id[number][0] for number in ordered),
        ids=tuple(ordered),
        keypoint_names=keypoints,
        keypoint_flip_pairs=flip_pairs(keypoints),
        keypoint_skeleton=_skeleton(skeletons[0], len(keypoints)) if skeletons else (),
    )


def _skeleton(lines: Any, num_keypoints: int) -> tuple[tuple[int, int], ...]:
    """The lines of a skeleton, which COCO counts from 1; it is only drawn, so that a line that is none is left out."""
    if not isinstance(lines, list):
        return ()
    known = range(1, num_keypoints + 1)
    pairs = [line for line in lines if isinstance(line, list) and len(line) == 2 and all(end in known for end in line)]
    return tuple((int(first) - 1, int(second) - 1) for first, second in pairs)


def _roboflow_root(document: CocoJson) -> int | None:
    """Id of the category that all others name as their supercategory and no annotation uses, if there is one."""
    for category in document.categories:
        others = [other for other in document.categories if other is not category]
        is_root = category.get("id") == 0 and category.get("supercategory") == "none" and others
        if is_root and all(other.get("supercategory") == category.get("name") for other in others):
            is_used = any(annotation.get("category_id") == 0 for annotation in document.annotations)
            return None if is_used else 0
    return None


@dataclass(frozen=True)
class Images:
    """The images of a file, in the order of their ids."""

    ids: list[int]
    file_names: list[str]  # relative to the image folder
    sizes: list[ImageSize]


def read_images(document: CocoJson) -> Images:
    """The images.

    Raises:
        UserError: no image, two with one id, or a size that is not two whole numbers above 0.
    """
    if not document.images:
        raise UserError(f"{document.path}: 'images' is empty, the dataset has no images.")
    ids, names = document.ids("images"), document.column("images", "file_name")
    sizes = list(zip(document.column("images", "height"), document.column("images", "width"), strict=True))
    for number, size in zip(ids, sizes, strict=True):
        if not all(isinstance(side, int | float) and side == side // 1 and 0 < side <= MAX_SIDE for side in size):
            raise UserError(
                f"{document.path}: image {number} has height {size[0]!r} and width {size[1]!r}; "
                "both must be whole numbers of pixels above 0."
            )
    order = sorted(range(len(ids)), key=ids.__getitem__)
    return Images(
        ids=[ids[row] for row in order],
        file_names=[str(names[row]) for row in order],
        sizes=[(int(sizes[row][0]), int(sizes[row][1])) for row in order],
    )
