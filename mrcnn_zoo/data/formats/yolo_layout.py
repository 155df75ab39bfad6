"""Layouts of YOLO datasets: data.yaml, darknet's obj.data, lists of images, or folders alone."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from mrcnn_zoo.data.annotations.contract import SIDES, Found
from mrcnn_zoo.data.annotations.listing import FileListing, split_of
from mrcnn_zoo.data.classes import listed
from mrcnn_zoo.data.images.reading import IMAGE_SUFFIXES
from mrcnn_zoo.data.paths import datasets_root

YAML_SUFFIXES = (".yaml", ".yml")
PREFERRED = ("data.yaml", "data.yml", "dataset.yaml")
SIDE_KEYS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
NAMES_FILES = ("classes.txt", "obj.names", "_darknet.labels")
NOT_LABELS = re.compile(r"(classes|labels|readme.*|requirements|license|names|notes)\.txt", re.IGNORECASE)
LINE = re.compile(r"\s*\d+(\s+-?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?){4,}\s*")
MAX_YAML = 1_000_000  # bytes
FILES_EXAMINED = 8
DARKNET_FIELD = re.compile(r"^\s*(\w+)\s*=\s*(.*?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Side:
    """The images of one side.

    Args:
        folders: with images, relative to the root of the listing, without their subfolders.
        lists: text files with a path of an image per line, relative to the root of the listing.
        names: of the classes; None if no file has them.
        names_file: with the names, for messages.
        problem: of the layout, which is raised when it is read.
    """

    folders: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    names: tuple[str, ...] | None = None
    names_file: str = ""
    problem: str = ""


def find_layout(listing: FileListing) -> Found | None:
    """The sides of a dataset by the file that describes it, else by the names of its folders.

    Args:
        listing: of a folder, or of a file in it.
    """
    for name in _yaml_files(listing):
        content = _read_yaml(listing, name)
        if content is not None and any(key in content for keys in SIDE_KEYS.values() for key in keys):
            return _of_yaml(listing, name, content)
    for name in listing.with_suffix(".data"):
        fields = dict(DARKNET_FIELD.findall(listing.head(name)))
        if "train" in fields and ("names" in fields or "classes" in fields):
            return _of_darknet(listing, name, fields)
    lists = {
        split_of(PurePosixPath(name).stem): name for name in listing.with_suffix(".txt") if _is_list(listing, name)
    }
    if not listing.file:
        lists.pop("", None)
    about_names = _names_beside(listing)
    if lists:
        sides = {side: Side((), (name,), *about_names) for side, name in lists.items()}
        return Found(listing, sides, listed(sorted(lists.values())))
    return None if listing.file else _of_folders(listing)


def is_label_text(text: str, *, is_whole: bool) -> bool:
    """Whether all lines are objects of YOLO; an empty text is not.

    Args:
        text: the start of a file.
        is_whole: whether its last line is complete.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    lines = lines if is_whole or len(lines) == 1 else lines[:-1]
    return bool(lines) and all(LINE.fullmatch(line) or (not is_whole and len(lines) == 1) for line in lines)


def label_name(image: str) -> str:
    """The label file of an image: in `labels` for the last `images` in its path.

    >>> label_name("images/train/a.jpg"), label_name("flat/a.jpg")
    ('labels/train/a.txt', 'flat/a.txt')

    Args:
        image: path with slashes.
    """
    stem = image[: image.rfind(".")] if "." in image[image.rfind("/") + 1 :] else image
    before, middle, after = f"/{stem}".rpartition("/images/")
    return (f"{before}/labels/{after}" if middle else f"/{stem}")[1:] + ".txt"


def _yaml_files(listing: FileListing) -> list[str]:
    names = [name for name in listing.with_suffix(*YAML_SUFFIXES) if name.count("/") < 2]
    return sorted(names, key=lambda name: (name.count("/"), *(name != best for best in PREFERRED), name))


def _read_yaml(listing: FileListing, name: str) -> Mapping[str, Any] | None:
    """The content if it describes a dataset."""
    start = listing.head(name)
    if not re.search(r"^[\"']?(names|nc)[\"']?\s*:", start, re.MULTILINE) and not listing.file:
        start = listing.head(name, MAX_YAML)  # names after a long text
    if not re.search(r"^[\"']?(train|val|test|names)[\"']?\s*:", start, re.MULTILINE):
        return None
    try:
        content = yaml.safe_load((listing.root / name).read_bytes())
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return content if isinstance(content, Mapping) and {"names", "nc"} & content.keys() else None


def _of_yaml(listing: FileListing, name: str, content: Mapping[str, Any]) -> Found:
    folder = listing.root / PurePosixPath(name).parent
    bases = [folder]
    if content.get("path"):
        path = Path(str(content["path"])).expanduser()
        bases = [*[base for base in (folder / path, datasets_root() / path) if base.is_dir()][:1], folder]
    found: dict[str, list[Path]] = {}
    values: dict[str, list[str]] = {}
    missing = []
    for side in SIDES:
        value = next((content[key] for key in SIDE_KEYS[side] if content.get(key)), None)
        texts = [str(item) for item in (value if isinstance(value, list) else [value]) if item]
        paths = [_find_source(text, bases) for text in texts]
        missing += [f"{side}: {text}" for text, path in zip(texts, paths, strict=True) if path is None]
        if present := [path for path in paths if path is not None]:
            found[side], values[side] = present, texts
    if len(found) > 1 and all(value == values["train" if "train" in values else "val"] for value in values.values()):
        found = {"": next(iter(found.values()))}  # as in files for trials: one folder for all sides
    names, problem = _names_of_yaml(content, folder / PurePosixPath(name).name)
    if not (found.keys() & {"train", ""}) and missing:
        problem = (
            f"{listing.root / name}: {listed(missing)} is neither below {listed([str(base) for base in bases])} nor an "
            "existing path. Correct it, or the field 'path'."
        )
    base, sides = _sides_of(listing, found or {"": []}, names, str(listing.root / name), problem)
    return Found(base, sides, f"{name}; missing: {listed(missing)}" if missing else name)


def _find_source(text: str, bases: Sequence[Path]) -> Path | None:
    """A folder or list of images; below a base also for a path of another machine, of which the end is kept."""
    pure = PurePosixPath(text.replace("\\", "/"))
    parts = [part for part in pure.parts if part not in ("/", "..", ".")]
    candidates = [base / text for base in bases]
    for start in range(len(parts)):
        candidates += [base.joinpath(*parts[start:]) for base in bases]
        if split_of(parts[start]) or start + 1 == len(parts):
            break
    else:
        candidates += bases  # "."
    return next((candidate for candidate in candidates if candidate.exists()), None)


def _names_of_yaml(content: Mapping[str, Any], path: Path) -> tuple[tuple[str, ...] | None, str]:
    """The names of the classes, and the problem of the file, if any."""
    if content.get("kpt_shape"):
        return None, (
            f"{path} is a dataset of keypoints (kpt_shape: {content['kpt_shape']}), which are not read from YOLO "
            "files: convert it to COCO's format, or remove kpt_shape and the keypoints of the lines."
        )
    names = content.get("names")
    if isinstance(names, Mapping):
        numbers = {str(number): str(name) for number, name in names.items()}
        if sorted(numbers) != sorted(map(str, range(len(numbers)))):
            return (
                None,
                f"{path}: names has the numbers {listed(list(numbers))}; they must be 0, 1, 2, ... without gaps.",
            )
        return tuple(numbers[str(number)] for number in range(len(numbers))), ""
    if isinstance(names, list):
        return _distinct([str(name) for name in names], path)
    if names is not None and not isinstance(names, str):
        return None, f"{path}: names = {names!r} must be a list of names, or a mapping from numbers to names."
    if isinstance(names, str):  # "names: data/obj.names"
        listed_names = _lines_of(path.parent / names)
        return _distinct(listed_names, path) if listed_names else ((names,), "")
    count = content["nc"]
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        return None, f"{path}: nc = {count!r} must be the number of classes, at least 1."
    return tuple(map(str, range(count))), ""


def _distinct(names: Sequence[str], path: Path) -> tuple[tuple[str, ...] | None, str]:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        return None, f"{path}: names has {listed(repeated)} more than once. Give every class a name of its own."
    return tuple(names), ""


def _of_darknet(listing: FileListing, name: str, fields: Mapping[str, str]) -> Found:
    folder = listing.root / PurePosixPath(name).parent
    bases = [folder, listing.root]
    found: dict[str, list[Path]] = {}
    for side in SIDES:
        text = next((fields[key] for key in SIDE_KEYS[side] if fields.get(key)), "")
        path = _find_source(text, bases) if text else None
        if path is not None and path.is_file():
            found[side] = [path]
    names_path = _find_source(fields["names"], bases) if fields.get("names") else None
    names, problem = _distinct(_lines_of(names_path), names_path) if names_path else (None, "")
    if not found:
        problem = f"{listing.root / name}: the list of images {fields['train']!r} is missing. Correct its path."
    base, sides = _sides_of(listing, found or {"": []}, names or None, str(names_path), problem)
    return Found(base, sides, name)


def _sides_of(
    listing: FileListing,
    sources: Mapping[str, Sequence[Path]],
    names: tuple[str, ...] | None,
    names_file: str,
    problem: str,
) -> tuple[FileListing, dict[str, Side]]:
    """The sides, and the listing of a folder that has their images and labels."""
    paths = [Path(os.path.normpath(path.absolute())) for chosen in sources.values() for path in chosen]
    root = Path(os.path.normpath(listing.root.absolute()))
    tops = [_dataset_folder(path) for path in paths]
    tops += [_dataset_folder(image) for path in paths if (image := _first_labelled(path)) is not None]
    if all(top.is_relative_to(root) for top in tops):
        tops = [root]
    common = Path(os.path.commonpath(tops))
    listing = listing if common == root else FileListing(common)
    parents = dict.fromkeys(os.path.dirname(name) for name in listing.images)
    sides = {}
    for side, chosen in sources.items():
        relative = [Path(os.path.normpath(path.absolute())).relative_to(common).as_posix() for path in chosen]
        folders = [path for path, source in zip(relative, chosen, strict=True) if not source.is_file()]
        below = [parent for parent in parents if any(_is_below(parent, folder) for folder in folders)]
        lists = [path for path, source in zip(relative, chosen, strict=True) if source.is_file()]
        sides[side] = Side(tuple(below), tuple(lists), names, names_file, problem)
    return listing, sides


def _dataset_folder(path: Path) -> Path:
    """The folder that has both `images` and `labels`."""
    parts = path.parts
    if "images" in parts:
        return Path(*parts[: len(parts) - 1 - parts[::-1].index("images")])
    return path.parent if path.is_file() else path


def _first_labelled(path: Path) -> Path | None:
    """The first image of a list if it is an absolute path and has a label file."""
    lines = _lines_of(path)[:1] if path.is_file() else []
    image = Path(lines[0]) if lines else None
    return image if image is not None and image.is_absolute() and Path(label_name(lines[0])).is_file() else None


def _is_below(parent: str, folder: str) -> bool:
    return folder in (".", parent) or parent.startswith(f"{folder}/")


def _is_list(listing: FileListing, name: str) -> bool:
    """Whether a text file near the root lists image files."""
    if name.count("/") > 1 or not (listing.file or split_of(PurePosixPath(name).stem)):
        return False
    return listing.head(name).split("\n", 1)[0].strip().lower().endswith(IMAGE_SUFFIXES)


def _of_folders(listing: FileListing) -> Found | None:
    """Folders of images with label files; the labels may be beside the folder: images/train for labels/train."""
    labels = _label_files(listing)
    root = listing.root.absolute()
    if not labels and "images" in root.parts and listing.images:
        top = _dataset_folder(root)
        if not (top / label_name(f"{root.relative_to(top).as_posix()}/x.jpg")).parent.is_dir():
            return None
        base, inside = FileListing(top), f"{root.relative_to(top).as_posix()}/"
        labels = _label_files(base)
    else:
        base, inside = listing, ""
    images = [name for name in base.images if name.startswith(inside)]
    labels = _with_image(labels, images) if images else labels
    if not _are_labels(base, labels):
        return None
    folders: dict[str, list[str]] = {}
    for folder in dict.fromkeys(os.path.dirname(name) for name in images or labels):
        folders.setdefault("" if inside else _side_of_folder(folder), []).append(folder)
    about_names = _names_beside(base)
    sides = {side: Side(tuple(chosen), (), *about_names) for side, chosen in folders.items()}
    return Found(base, sides, f"{len(labels)} .txt files" + (f", {about_names[1]}" if about_names[1] else ""))


def _label_files(listing: FileListing) -> list[str]:
    return [name for name in listing.with_suffix(".txt") if not NOT_LABELS.fullmatch(name.rpartition("/")[2])]


def _are_labels(listing: FileListing, names: Sequence[str]) -> bool:
    filled = [name for name in names if listing.stats[name][0]]
    examined = list(islice(filled, 0, None, max(1, len(filled) // FILES_EXAMINED)))
    is_label = []
    for name in examined:
        text = listing.head(name)
        is_label.append(is_label_text(text, is_whole=len(text) >= listing.stats[name][0]))
    return bool(is_label) and 2 * sum(is_label) > len(is_label)


def _with_image(labels: Sequence[str], images: Sequence[str]) -> list[str]:
    stems = {PurePosixPath(image).stem for image in images}
    return [label for label in labels if PurePosixPath(label).stem in stems]


def _side_of_folder(folder: str) -> str:
    return next((side for part in folder.split("/") if (side := split_of(part))), "")


def _names_beside(listing: FileListing) -> tuple[tuple[str, ...] | None, str, str]:
    """The names in data.yaml or in a file such as classes.txt, the nearest to the root; its name; its problem."""
    for name in _yaml_files(listing):
        content = _read_yaml(listing, name)
        if content is not None:
            names, problem = _names_of_yaml(content, listing.root / name)
            return names, name, problem
    found = [name for name in listing.files if name.rpartition("/")[2] in NAMES_FILES]
    for name in sorted(found, key=lambda name: (name.count("/"), name)):
        lines = _lines_of(listing.root / name)
        if lines:
            names, problem = _distinct(lines, listing.root / name)
            return names, name, problem
    return None, "", ""


def _lines_of(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError):
        return []
    return [line.strip() for line in lines if line.strip()]
