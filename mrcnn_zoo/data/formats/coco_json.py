"""COCO's JSON, read and checked for its structure: images, annotations, categories."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from mrcnn_zoo.data.field_rules import FIELD_RULES, MAX_PIXELS, ColumnReader, number_in, shown
from mrcnn_zoo.data.formats.coco_keypoints import pairs_of_category
from mrcnn_zoo.data.formats.other_formats import CONVERT, kind_of_coco, name_of_folder, name_of_json, name_of_text
from mrcnn_zoo.data.keypoints import FlipPairs
from mrcnn_zoo.data.records import RepairLog
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.structures import ImageSize

SECTIONS = ("images", "annotations", "categories")
PLACEHOLDER_IDS = (None, "", -1)  # of annotations; 0 is one where several have it


@dataclass(frozen=True)
class CocoJson:
    """The lists of a COCO file; nothing is known yet about what is in their elements but that they are objects."""

    path: Path
    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    is_labelled: bool = True  # False: the file has no section 'annotations', as COCO's own of the test images

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

    def ids(self, section: str, *, repairs: RepairLog) -> list[int]:
        """The ids of a section's elements, in their order; annotations without an id are given new ones.

        Raises:
            UserError: an id that is no whole number, or that two elements have.
        """
        if section == "annotations":
            ids = _number_anew([annotation.get("id") for annotation in self.annotations], repairs)
        else:
            ids = self.column(section, "id")
        rule = FIELD_RULES[f"{section}.id"]
        for row, value in enumerate(ids):
            if type(value) is int:
                number = value
            else:
                number = number_in(value)
                if isinstance(number, bool) or not isinstance(number, int | float) or number != number // 1:
                    raise UserError(f"{self.path}: id {shown(value)} in {section!r} is not a whole number.")
                number = int(number)
                if isinstance(value, str):
                    repairs.add(
                        f"ids in {section!r} written as text taken as numbers", [f"{number}: {value!r}"], name="id"
                    )
                ids[row] = number
            if not rule.least <= number <= rule.most:
                raise UserError(f"{self.path}: id {number} in {section!r} is too large; ids have 64 bits.")
        if len(set(ids)) != len(ids):
            value, times = Counter(ids).most_common(1)[0]
            rows = [row for row, other in enumerate(ids) if other == value]
            raise UserError(
                f"{self.path}: id {value} is used {times} times in {section!r} (elements number {rows[0]} and "
                f"{rows[1]}, counted from 0). Give each its own id; merged files need new ids."
            )
        return ids


def _number_anew(raw: list[Any], repairs: RepairLog) -> list[Any]:
    """Annotation ids with new ones for placeholders: an id that several have in common, 0 or -1, is none."""
    if set(map(type, raw)) <= {int} and (not raw or min(raw) > 0):
        return raw
    values = [number_in(value) for value in raw]
    zeros = sum(value == 0 for value in values if isinstance(value, int | float))
    placeholders = (*PLACEHOLDER_IDS, 0) if zeros > 1 else PLACEHOLDER_IDS
    is_absent = [not isinstance(value, list | dict | bool) and value in placeholders for value in values]
    used = [int(value) for value in values if isinstance(value, int | float) and value == value and abs(value) < 2**62]
    numbers = count(max([0, *used]) + 1)
    new = [next(numbers) if absent else value for absent, value in zip(is_absent, raw, strict=True)]
    rows = [row for row, absent in enumerate(is_absent) if absent]
    repairs.add("annotations without an id of their own numbered anew", [f"number {row}" for row in rows])
    return new


def read_coco_json(path: Path) -> CocoJson:
    """The file's three lists.

    Raises:
        UserError: a file that cannot be read, is no JSON, or is not in COCO's format.
    """
    content = read_json(path)
    other = name_of_json(content)
    if not isinstance(content, dict) or (other and not {"images", "annotations"} <= content.keys()):
        if other:
            raise UserError(f"{path} is {other}, {CONVERT}")
        raise UserError(f"{path} is not in COCO's format: it holds a {type(content).__name__} instead of an object.")
    is_unlabelled = "annotations" not in content and {"images", "categories"} <= content.keys()
    if is_unlabelled:
        content = {**content, "annotations": []}
    for section in SECTIONS:
        if section not in content:
            raise UserError(_missing_section(path, content, section))
        elements = content[section]
        if not isinstance(elements, list) or not all(isinstance(element, dict) for element in elements):
            raise UserError(f"{path} is not in COCO's format: {section!r} is not a list of objects.")
    if kind_of_coco(content):
        raise UserError(f"{path} is {kind_of_coco(content)}")
    images, annotations, categories = (content[section] for section in SECTIONS)
    return CocoJson(path, images, annotations, categories, is_labelled=not is_unlabelled)


def _missing_section(path: Path, content: dict[str, Any], section: str) -> str:
    if kind_of_coco(content):
        return f"{path} is {kind_of_coco(content)}"
    found = ", ".join(repr(key) for key in list(content)[:10]) or "nothing"
    advice = ""
    if content.get("images") and not content.keys() & {"annotations", "categories"}:
        advice = " Add 'categories' with the ids and names of the classes to predict on these images."
    return f"{path} is not in COCO's format: it has no {section!r}, it has {found}.{advice}"


def read_json(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            encoding = json.detect_encoding(file.read(4))  # UTF-8, UTF-16 or UTF-32, also with a byte order mark
        with path.open(encoding=encoding) as text:
            return json.load(text)
    except json.JSONDecodeError as error:
        other = name_of_text(error.doc)
        if other:
            raise UserError(f"{path} is {other}, {CONVERT}") from error
        is_cut_off = error.pos >= len(error.doc.rstrip())
        advice = "It ends too early: the file is truncated, copy or download it again." if is_cut_off else ""
        raise UserError(
            f"{path} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno} "
            f"(character {error.pos} of {len(error.doc)}). {advice}".rstrip()
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a JSON text file: {error}. Save it as UTF-8.") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists in lists without end
        raise UserError(f"{path} is not JSON that can be read: {error}.") from error
    except IsADirectoryError as error:
        other = name_of_folder(path)
        raise UserError(
            f"{path} is a folder with {other}, {CONVERT}"
            if other
            else f"{path} is a folder, and ANNOTATIONS must be one JSON file. Name the file, or leave ANNOTATIONS out."
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error


@dataclass(frozen=True)
class Categories:
    """The classes of a file, numbered without gaps in the order of their ids."""

    names: tuple[str, ...]
    ids: tuple[int, ...]  # class index -> category id
    keypoint_names: tuple[str, ...]
    keypoint_flip_pairs: FlipPairs | None  # None: neither the names nor the file tell which change places in a mirror
    keypoint_skeleton: tuple[tuple[int, int], ...]


def read_categories(document: CocoJson, *, repairs: RepairLog, needs_keypoints: bool = True) -> Categories:
    """The categories, without the empty one that Roboflow puts above all others.

    Args:
        document: the file.
        repairs: where repairs are counted.
        needs_keypoints: refuse keypoints that cannot be understood; otherwise they are left out.

    Raises:
        UserError: no category, two with one id, or keypoints that are not names.
    """
    ids, names = document.ids("categories", repairs=repairs), document.column("categories", "name")
    for number, name in zip(ids, names, strict=True):
        if isinstance(name, bool) or not isinstance(name, str | int | float) or not str(name).strip():
            raise UserError(
                f"{document.path}: category {number} has name {shown(name)}, which must be a text: classes are known "
                "by their names."
            )
    unused = _roboflow_root(document)
    by_id = {
        number: (str(name), category.get("keypoints") or [])
        for number, name, category in zip(ids, names, document.categories, strict=True)
        if number != unused
    }
    if not by_id:
        raise UserError(f"{document.path}: 'categories' is empty, so there is nothing to learn.")
    ordered = sorted(by_id)
    keypoints, category = _keypoints_of_categories(document, by_id, repairs=repairs, is_strict=needs_keypoints)
    return Categories(
        names=tuple(by_id[number][0] for number in ordered),
        ids=tuple(ordered),
        keypoint_names=keypoints,
        keypoint_flip_pairs=pairs_of_category(
            category, keypoints, source=str(document.path), repairs=repairs, is_strict=needs_keypoints
        ),
        keypoint_skeleton=_skeleton(category.get("skeleton"), len(keypoints)),
    )


def _keypoints_of_categories(
    document: CocoJson, by_id: dict[int, tuple[str, Any]], *, repairs: RepairLog, is_strict: bool
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The names of the keypoints, and the first category that has some."""
    for number, (_, points) in by_id.items():
        if isinstance(points, list) and all(isinstance(point, str) for point in points):
            continue
        if is_strict:
            raise UserError(
                f"{document.path}: category {number} has 'keypoints' {shown(points)}, which is no list of names."
            )
        repairs.add(
            "categories whose keypoints are no list of names taken as without keypoints", [number], name="category"
        )
        return (), {}
    keypoints = next((tuple(points) for _, points in by_id.values() if points), ())
    return keypoints, next((category for category in document.categories if category.get("keypoints")), {})


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
        is_root = number_in(category.get("id")) == 0 and category.get("supercategory") == "none" and others
        if is_root and all(other.get("supercategory") == category.get("name") for other in others):
            is_used = any(number_in(annotation.get("category_id")) == 0 for annotation in document.annotations)
            return None if is_used else 0
    return None


@dataclass(frozen=True)
class Images:
    """The images of a file, in the order of their ids."""

    ids: list[int]
    file_names: list[str]  # relative to the image folder
    sizes: list[ImageSize]


def read_images(document: CocoJson, *, repairs: RepairLog, measure: Callable[[str], ImageSize] | None = None) -> Images:
    """The images.

    Args:
        document: the file.
        repairs: where repairs are counted.
        measure: gives the size of an image file, for images whose size is not given.

    Raises:
        UserError: no image, two with one id, or a size that is not two whole numbers above 0.
    """
    if not document.images:
        raise UserError(f"{document.path}: 'images' is empty, the dataset has no images.")
    ids, names = document.ids("images", repairs=repairs), document.column("images", "file_name")
    for number, name in zip(ids, names, strict=True):
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"{document.path}: image {number} has file_name {shown(name)}, which must be a text.")
    sizes = _read_sizes(document, ids, names, repairs=repairs, measure=measure)
    order = sorted(range(len(ids)), key=ids.__getitem__)
    return Images(
        ids=[ids[row] for row in order],
        file_names=[names[row] for row in order],
        sizes=[sizes[row] for row in order],
    )


def _read_sizes(
    document: CocoJson,
    ids: Sequence[int],
    names: Sequence[str],
    *,
    repairs: RepairLog,
    measure: Callable[[str], ImageSize] | None,
) -> list[ImageSize]:
    reader = ColumnReader(str(document.path), "images", ids, repairs=repairs)
    sides = [reader.read(field, [image.get(field) for image in document.images]) for field in ("height", "width")]
    sizes: list[ImageSize] = []
    for number, name, height, width in zip(ids, names, *sides, strict=True):
        if height is None or width is None:
            if measure is None:
                raise reader.refusal(number, "height and width", [height, width], "whole numbers of pixels above 0")
            height, width = measure(name)
            repairs.add("images without height or width measured in the image file", [number], name="image")
        if height * width > MAX_PIXELS:
            raise UserError(
                f"{document.path}: image {number} has height {height} and width {width}, more than {MAX_PIXELS} "
                "pixels. Correct them: they must be those of the image file."
            )
        sizes.append((height, width))
    return sizes
