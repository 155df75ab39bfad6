"""COCO's JSON, read and checked for its structure: images, annotations, categories."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from mrcnn_zoo.data.annotations.json_files import read_json
from mrcnn_zoo.data.field_rules import FIELD_RULES, MAX_PIXELS, ColumnReader, parse_number, short_repr
from mrcnn_zoo.data.formats.coco_keypoints import read_flip_pairs
from mrcnn_zoo.data.formats.other_formats import describe_other_format, detect_other_coco_file
from mrcnn_zoo.data.keypoints import FlipPairs
from mrcnn_zoo.data.records import RepairLog
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.structures import ImageSize

SECTIONS = ("images", "annotations", "categories")
PLACEHOLDER_IDS = (None, "", -1)  # of annotations; 0 is one if several have it
KEYS_SHOWN = 10
MARK_AND_BLANKS, BLANKS = 64, b"\xef\xbb\xbf\xfe\xff\0 \t\r\n"  # at the start of a text file


@dataclass(frozen=True)
class CocoJson:
    """The sections of a COCO file as lists of objects with unchecked fields."""

    path: Path
    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    is_labelled: bool = True  # False: the file has no section 'annotations', as COCO's own of the test images

    def column(self, section: str, field: str) -> list[Any]:
        """One field of all elements of a section.

        Args:
            section: one of SECTIONS.
            field: that every element must have.

        Raises:
            UserError: an element without the field.
        """
        elements = getattr(self, section)
        try:
            return [element[field] for element in elements]
        except KeyError:
            row = next(row for row, element in enumerate(elements) if field not in element)
            number = elements[row].get("id")
            name = f"number {row}" if number is None else f"with id {number}"
            raise UserError(f"{self.path}: the element {name} of {section!r} has no {field!r}.") from None

    def ids(self, section: str, *, repairs: RepairLog) -> list[int]:
        """The ids of a section's elements, in their order; annotations without an id get new ones.

        Args:
            section: one of SECTIONS.
            repairs: counts repairs.

        Raises:
            UserError: an id that is not a whole number of 64 bits, or that two elements have.
        """
        if section == "annotations":
            raw = _replace_placeholder_ids([annotation.get("id") for annotation in self.annotations], repairs)
        else:
            raw = self.column(section, "id")
        ids = [value if type(value) is int else self._parse_id(value, section, repairs) for value in raw]
        rule = FIELD_RULES[f"{section}.id"]
        if not rule.accepts_all(ids):
            large = next(number for number in ids if not rule.accepts(number))
            raise UserError(f"{self.path}: id {large} in {section!r} is too large; ids have 64 bits.")
        if len(set(ids)) != len(ids):
            value, times = Counter(ids).most_common(1)[0]
            rows = [row for row, other in enumerate(ids) if other == value]
            raise UserError(
                f"{self.path}: id {value} is used {times} times in {section!r} (elements number {rows[0]} and "
                f"{rows[1]}, counted from 0). Give each its own id; merged files need new ids."
            )
        return ids

    def _parse_id(self, value: Any, section: str, repairs: RepairLog) -> int:
        number = parse_number(value)
        if isinstance(number, bool) or not isinstance(number, int | float) or number != number // 1:
            raise UserError(f"{self.path}: id {short_repr(value)} in {section!r} is not a whole number.")
        if isinstance(value, str):
            kind = f"ids in {section!r} written as text taken as numbers"
            repairs.add(kind, [f"{int(number)}: {value!r}"], name="id")
        return int(number)


def _replace_placeholder_ids(raw: list[Any], repairs: RepairLog) -> list[Any]:
    """Annotation ids with new numbers instead of placeholders: null, "", -1, and 0 if several annotations have it."""
    if set(map(type, raw)) <= {int} and (not raw or min(raw) > 0):
        return raw
    values = [parse_number(value) for value in raw]
    zeros = sum(value == 0 for value in values if isinstance(value, int | float))
    placeholders = (*PLACEHOLDER_IDS, 0) if zeros > 1 else PLACEHOLDER_IDS
    is_absent = [not isinstance(value, list | dict | bool) and value in placeholders for value in values]
    used = [int(value) for value in values if isinstance(value, int | float) and value == value and abs(value) < 2**62]
    numbers = count(max([0, *used]) + 1)
    ids = [next(numbers) if absent else value for absent, value in zip(is_absent, raw, strict=True)]
    rows = [row for row, absent in enumerate(is_absent) if absent]
    repairs.add("annotations without an id of their own numbered anew", [f"number {row}" for row in rows])
    return ids


def read_coco_json(path: Path) -> CocoJson:
    """The sections of a file.

    Raises:
        UserError: a file that cannot be read, is not JSON, or is not in COCO's format.
    """
    content = _read_json(path)
    is_object = isinstance(content, dict)
    other = "" if is_object and {"images", "annotations"} <= content.keys() else describe_other_format(path, content)
    if other:
        raise UserError(f"{path} is {other}")
    if not is_object:
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
    if detect_other_coco_file(content):
        raise UserError(f"{path} is {detect_other_coco_file(content)}")
    images, annotations, categories = (content[section] for section in SECTIONS)
    return CocoJson(path, images, annotations, categories, is_labelled=not is_unlabelled)


def _read_json(path: Path) -> Any:
    """As `read_json`; the message about a file or folder of another format has its name."""
    try:
        return read_json(path)
    except UserError as error:
        other = describe_other_format(path) if path.exists() and not _begins_as_json(path) else ""
        if other:
            raise UserError(f"{path} is {'a folder with ' if path.is_dir() else ''}{other}") from error
        raise


def _begins_as_json(path: Path) -> bool:
    """Whether it is a file of the expected kind, if a damaged or an empty one."""
    return path.is_file() and path.read_bytes()[:MARK_AND_BLANKS].strip(BLANKS)[:1] in (b"{", b"[", b"")


def _missing_section(path: Path, content: dict[str, Any], section: str) -> str:
    if detect_other_coco_file(content):
        return f"{path} is {detect_other_coco_file(content)}"
    found = ", ".join(repr(key) for key in list(content)[:KEYS_SHOWN]) or "nothing"
    advice = ""
    if content.get("images") and not content.keys() & {"annotations", "categories"}:
        advice = " Add 'categories' with the ids and names of the classes to predict on these images."
    return f"{path} is not in COCO's format: it has no {section!r}, it has {found}.{advice}"


@dataclass(frozen=True)
class Categories:
    """The classes of a file, numbered without gaps in the order of their ids."""

    names: tuple[str, ...]
    ids: tuple[int, ...]  # class index -> category id
    keypoint_names: tuple[str, ...]
    keypoint_flip_pairs: FlipPairs | None  # rows that a mirror exchanges; None: unknown
    keypoint_skeleton: tuple[tuple[int, int], ...]


def read_categories(document: CocoJson, *, repairs: RepairLog, needs_keypoints: bool = True) -> Categories:
    """The categories, without the unused root category that Roboflow adds.

    Args:
        document: the file.
        repairs: counts repairs.
        needs_keypoints: whether unreadable keypoints are errors; otherwise they are left out.

    Raises:
        UserError: no category, two with one id, a name that is not text, or keypoints that are not names.
    """
    ids, names = document.ids("categories", repairs=repairs), document.column("categories", "name")
    for number, name in zip(ids, names, strict=True):
        if isinstance(name, bool) or not isinstance(name, str | int) or not str(name).strip():
            raise UserError(
                f"{document.path}: category {number} has name {short_repr(name)}, which must be a text: classes are "
                "matched by their names."
            )
    root = _roboflow_root(document)
    categories = {
        number: {**category, "name": str(name)}
        for number, name, category in zip(ids, names, document.categories, strict=True)
        if number != root
    }
    if not categories:
        raise UserError(f"{document.path}: 'categories' is empty, so there is nothing to learn.")
    owner = _category_with_keypoints(document, categories, repairs=repairs, is_strict=needs_keypoints)
    keypoint_names = tuple(owner.get("keypoints", ()))
    source = str(document.path)
    return Categories(
        names=tuple(categories[number]["name"] for number in sorted(categories)),
        ids=tuple(sorted(categories)),
        keypoint_names=keypoint_names,
        keypoint_flip_pairs=read_flip_pairs(
            owner, keypoint_names, source=source, repairs=repairs, is_strict=needs_keypoints
        ),
        keypoint_skeleton=_skeleton(owner.get("skeleton"), len(keypoint_names)),
    )


def _category_with_keypoints(
    document: CocoJson, categories: dict[int, dict[str, Any]], *, repairs: RepairLog, is_strict: bool
) -> dict[str, Any]:
    """The first category with keypoints; an empty one if there is none."""
    for number, category in categories.items():
        points = category.get("keypoints") or []
        if isinstance(points, list) and all(isinstance(point, str) for point in points):
            continue
        if is_strict:
            raise UserError(
                f"{document.path}: category {number} has 'keypoints' {short_repr(points)}, which is not a list of "
                "names."
            )
        repairs.add(
            "categories whose keypoints are no list of names taken as without keypoints", [number], name="category"
        )
        return {}
    return next((category for category in categories.values() if category.get("keypoints")), {})


def _skeleton(lines: Any, num_keypoints: int) -> tuple[tuple[int, int], ...]:
    """The pairs of rows that a picture connects, counted from 1 in the file; malformed pairs are left out."""
    if not isinstance(lines, list):
        return ()
    known = range(1, num_keypoints + 1)
    pairs = [line for line in lines if isinstance(line, list) and len(line) == 2 and all(end in known for end in line)]
    return tuple((int(first) - 1, int(second) - 1) for first, second in pairs)


def _roboflow_root(document: CocoJson) -> int | None:
    """The id of the category that is the supercategory of all others and of no annotation; None if there is none."""
    for category in document.categories:
        others = [other for other in document.categories if other is not category]
        is_root = parse_number(category.get("id")) == 0 and category.get("supercategory") == "none" and others
        if is_root and all(other.get("supercategory") == category.get("name") for other in others):
            is_used = any(parse_number(annotation.get("category_id")) == 0 for annotation in document.annotations)
            return None if is_used else 0
    return None


@dataclass(frozen=True)
class Images:
    """The images of a file, in the order of their ids."""

    ids: list[int]
    file_names: list[str]  # relative to the image folder
    sizes: list[ImageSize]


def read_images(document: CocoJson, *, repairs: RepairLog, measure: Callable[[str], ImageSize]) -> Images:
    """The images.

    Args:
        document: the file.
        repairs: counts repairs.
        measure: file name -> (height, width) of the image file, for images without a size.

    Raises:
        UserError: no image, two with one id, or a size that is not two whole numbers above 0.
    """
    if not document.images:
        raise UserError(f"{document.path}: 'images' is empty, the dataset has no images.")
    ids, names = document.ids("images", repairs=repairs), _file_names(document)
    for number, name in zip(ids, names, strict=True):
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"{document.path}: image {number} has file_name {short_repr(name)}, which must be a text.")
    sizes = _read_sizes(document, ids, names, repairs=repairs, measure=measure)
    ordered = sorted(zip(ids, names, sizes, strict=True))
    return Images(*(list(column) for column in zip(*ordered, strict=True)))


def _file_names(document: CocoJson) -> list[Any]:
    """File names; LVIS has addresses instead, whose last two parts are folder and file, as val2017/000000397133.jpg."""
    if all("coco_url" in image and "file_name" not in image for image in document.images):
        return ["/".join(str(image["coco_url"]).split("/")[-2:]) for image in document.images]
    return document.column("images", "file_name")


def _read_sizes(
    document: CocoJson,
    ids: Sequence[int],
    names: Sequence[str],
    *,
    repairs: RepairLog,
    measure: Callable[[str], ImageSize],
) -> list[ImageSize]:
    reader = ColumnReader(str(document.path), "images", ids, repairs=repairs)
    sides = [reader.read(field, [image.get(field) for image in document.images]) for field in ("height", "width")]
    sizes: list[ImageSize] = []
    for number, name, height, width in zip(ids, names, *sides, strict=True):
        if height is None or width is None:
            height, width = measure(name)
            repairs.add("images without height or width measured in the image file", [number], name="image")
        if height * width > MAX_PIXELS:
            raise UserError(
                f"{document.path}: image {number} has height {height} and width {width}, more than {MAX_PIXELS} "
                "pixels. Correct them: they must be those of the image file."
            )
        sizes.append((height, width))
    return sizes
