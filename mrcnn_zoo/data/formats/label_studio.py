"""Label Studio's JSON exports: a list of tasks, each an image with results in percent of its size."""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import quoteattr

from mrcnn_zoo.data.annotations.contract import AnnotationFormat, Annotations, Found, ReadOptions
from mrcnn_zoo.data.annotations.json_files import read_json
from mrcnn_zoo.data.annotations.listing import FileListing, ImageFinder, side_of_folders, split_of
from mrcnn_zoo.data.annotations.loading import annotation_format
from mrcnn_zoo.data.annotations.objects import AnnotatedImage, AnnotatedObject, class_names_of
from mrcnn_zoo.data.annotations.writing import DatasetWriter
from mrcnn_zoo.data.classes import listed
from mrcnn_zoo.data.field_rules import short_repr
from mrcnn_zoo.data.formats.label_studio_brush import encode_brush
from mrcnn_zoo.data.formats.label_studio_results import LabelStudioResult
from mrcnn_zoo.data.images.reading import IMAGE_SUFFIXES, FileImage
from mrcnn_zoo.data.paths import image_file_size
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord, RepairLog
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.ops import rle
from mrcnn_zoo.structures import ImageSize

FILES_EXAMINED = 200
TASKS, CONFIG = "tasks.json", "label_config.xml"  # that are written
TASK = re.compile(r'"(annotations|completions)"\s*:\s*\[')
TASK_FIELDS = re.compile(r'"(result|data|predictions|was_cancelled)"\s*:')
MINIMAL = re.compile(r'"(original_width|annotation_id)"\s*:|"format"\s*:\s*"rle"')
UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-")
LABEL = re.compile(r"<Label\s[^>]*?value\s*=\s*(\"[^\"]*\"|'[^']*')")
IMAGE_KEYS = ("image", "img", "url")
KINDS = {"polygon": "PolygonLabels", "brush": "BrushLabels", "rectangle": "RectangleLabels"}  # that are written


@annotation_format("label_studio")
class LabelStudioFormat(AnnotationFormat):
    """Label Studio's exports JSON and JSON-MIN."""

    title = "Label Studio JSON"
    looked_for = "a .json export of Label Studio: a list of tasks with 'annotations' and 'data'"

    def find(self, listing: FileListing) -> Found | None:
        """Files by the names of their folders and their own."""
        names = sorted(listing.with_suffix(".json"), key=lambda name: (name.count("/"), name))
        exports = [name for name in names[:FILES_EXAMINED] if _is_export(listing.head(name))]
        exports += [name for name in names[FILES_EXAMINED:] if exports and _is_export(listing.head(name))]
        sides: dict[str, list[str]] = {}
        for name in exports:
            sides.setdefault(side_of_folders(name) or split_of(PurePosixPath(name).stem), []).append(name)
        return Found(listing, sides, listed(exports)) if exports else None

    def read_images(self, found: Found, options: ReadOptions) -> Annotations:
        """The images of tasks with an annotation; others are left out and counted."""
        reader = _Reader(found, options)
        images = list(reader.images())
        reader.finder.check()
        left_out = sorted(reader.finder.paths - reader.used)
        reader.repairs.add("images that no task names left out", left_out, name="image")
        return Annotations(images, _ordered(class_names_of(images), found.listing), reader.repairs)

    def write(self, parts: Mapping[str, Dataset], folder: Path, writer: DatasetWriter) -> None:
        """tasks.json and images/, in a folder per side, and the labeling configuration of the project."""
        for side, dataset in parts.items():
            target = folder / side
            tasks = []
            for record in dataset.records:
                name = _local_path(target / "images" / writer.place_image(record, target / "images"), folder)
                crowds = [writer.place_of(record, item) for item in record.instances if item.is_crowd]
                writer.lost.add("regions of uncounted objects left out", crowds, name="")
                objects = [item for item in record.instances if not item.is_crowd]
                results = [_result(record, item, dataset.class_names, writer) for item in objects]
                image = f"/data/local-files/?d={quote(name)}"
                tasks.append({"id": record.image_id, "data": {"image": image}, "annotations": [{"result": results}]})
            target.mkdir(parents=True, exist_ok=True)
            (target / TASKS).write_text(json.dumps(tasks, ensure_ascii=False), encoding="utf-8")
            (folder / CONFIG).write_text(_config(dataset.class_names), encoding="utf-8")


def _is_export(start: str) -> bool:
    is_list = start.lstrip().startswith("[")
    return is_list and bool((TASK.search(start) and TASK_FIELDS.search(start)) or MINIMAL.search(start))


def _ordered(class_names: Sequence[str], listing: FileListing) -> Sequence[str]:
    """The classes in the order of label_config.xml, where that has all of them."""
    text = listing.head(CONFIG, 1 << 20) if CONFIG in listing.files else ""
    escaped = (value[1:-1] for value in LABEL.findall(text))
    names = list(dict.fromkeys(_unescaped(value) for value in escaped))
    return names if set(class_names) <= set(names) else class_names


def _unescaped(value: str) -> str:
    for entity, letter in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&apos;", "'"), ("&amp;", "&")):
        value = value.replace(entity, letter)
    return value


class _Reader:
    """Reads the tasks of a dataset."""

    def __init__(self, found: Found, options: ReadOptions) -> None:
        self.found = found
        self.finder = ImageFinder(options.images or found.listing)
        self.repairs = RepairLog("result")
        self.used: set[str] = set()

    def images(self) -> Iterator[AnnotatedImage]:
        for side, names in self.found.splits.items():
            for name in names:
                path = self.found.listing.root / name
                tasks = read_json(path)
                if not isinstance(tasks, list):
                    raise UserError(f"{path} is a {type(tasks).__name__}, which must be a list of tasks.")
                for number, task in enumerate(tasks):
                    image = self._image(path, name, f"tasks[{number}]", task)
                    if image is not None:
                        yield AnnotatedImage(*image, annotation_file=str(path), split=side)

    def _image(
        self, path: Path, name: str, where: str, task: Any
    ) -> tuple[FileImage, ImageSize, list[AnnotatedObject]] | None:
        """The image, its size and its objects; None without an annotation and for a missing image."""
        place = f"{path}: {where}"
        if not isinstance(task, dict):
            raise UserError(f"{place} is {short_repr(task)}, which must be an object with 'data' and 'annotations'.")
        results = self._results(place, task)
        if results is None:
            return None
        file = self._file(place, name, task)
        if not file:
            return None
        source = self.finder.root / file
        size = _size(place, results) or image_file_size(source)
        objects = []
        for key, group in _grouped(results).items():
            item = LabelStudioResult(f"{place}, result {key}", f"{where}, result {key}", group, size).read(self.repairs)
            if item is not None:
                objects.append(item)
        return FileImage(str(source)), size, objects

    def _results(self, place: str, task: Mapping[str, Any]) -> list[Any] | None:
        """The results of the first annotation that is not cancelled; None if there is none."""
        annotations = task.get("annotations", task.get("completions"))
        if annotations is None and "data" not in task:
            return [
                _full(item)
                for value in task.values()
                if isinstance(value, list)
                for item in value
                if isinstance(item, dict)
            ]
        annotations = [] if annotations is None else annotations
        if not isinstance(annotations, list) or not all(isinstance(item, dict) for item in annotations):
            raise UserError(f"{place} has 'annotations' {short_repr(annotations)}, which must be a list of objects.")
        valid = [item for item in annotations if not item.get("was_cancelled")]
        self.repairs.add("cancelled annotations left out", [place] * (len(annotations) - len(valid)), name="annotation")
        if not valid:
            self.repairs.add("tasks without an annotation left out", [place], name="task")
            return None
        self.repairs.add("further annotations of a task left out", [place] * (len(valid) - 1), name="annotation")
        results = valid[0].get("result")
        if not isinstance(results, list) or not all(isinstance(item, dict) for item in results):
            raise UserError(f"{place} has 'result' {short_repr(results)}, which must be a list of objects.")
        return results

    def _file(self, place: str, name: str, task: Mapping[str, Any]) -> str:
        """The path of the image of a task; "" if it is missing."""
        data = task.get("data", task)
        values = [value for value in data.values() if isinstance(value, str)] if isinstance(data, dict) else []
        preferred = [data[key] for key in IMAGE_KEYS if isinstance(data, dict) and isinstance(data.get(key), str)]
        paths = [_path_of(value) for value in (*preferred, *values)]
        images = [path for path in paths if path.lower().endswith(IMAGE_SUFFIXES)] or [path for path in paths if path][
            :1
        ]
        if not images:
            raise UserError(f"{place} has no image in 'data': {short_repr(data)}.")
        path = PurePosixPath(images[0])
        folder = PurePosixPath(name).parent.as_posix()
        near = path.parent.as_posix() if path.parent.name else folder
        names = [path.as_posix(), f"/{path}", path.name, UPLOAD_PREFIX.sub("", path.name)]
        found = next((file for item in names if (file := self.finder.find(item, near=near))), "")
        found = found or self.finder.require(names[-1], near=near, listed_in=Path(place).name)
        self.used.add(found)
        return found


def _path_of(address: str) -> str:
    """The path in an address: of /data/local-files/?d=..., of a web or cloud address, or a plain path."""
    parts = urlsplit(address)
    local = parse_qs(parts.query).get("d", [""])[0]
    return (local or unquote(parts.path)).replace("\\", "/").strip("/")


def _full(item: Mapping[str, Any]) -> dict[str, Any]:
    """A result of JSON-MIN, where the fields of its value are its own."""
    return {**item, "value": item}


def _grouped(results: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Results by id: a region and its labels may be two results with one id."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for number, item in enumerate(results):
        groups.setdefault(str(item.get("id") or number), []).append(item)
    return groups


def _size(place: str, results: Sequence[Mapping[str, Any]]) -> ImageSize | None:
    """(height, width) of the image, from the first result with it."""
    for item in results:
        if "original_width" in item or "original_height" in item:
            height, width = item.get("original_height"), item.get("original_width")
            if type(height) is not int or type(width) is not int or min(height, width) <= 0:
                raise UserError(
                    f"{place} has original_height {short_repr(height)} and original_width {short_repr(width)}, which "
                    "must be whole numbers of pixels above 0."
                )
            return height, width
    return None


def _result(
    record: ImageRecord, instance: InstanceRecord, class_names: Sequence[str], writer: DatasetWriter
) -> dict[str, Any]:
    """The result of an object: a rectangle, a polygon, or a brush mask if it has holes or several parts."""
    height, width = record.image_size
    if instance.keypoints is not None:
        writer.lost.add("keypoints left out", [writer.place_of(record, instance)])
    kind, value = "rectangle", dict[str, Any]()
    if instance.segmentation is None:
        x1, y1, x2, y2 = instance.box
        corner = {"x": 100 * x1 / width, "y": 100 * y1 / height, "rotation": 0}
        value = {**corner, "width": 100 * (x2 - x1) / width, "height": 100 * (y2 - y1) / height}
    else:
        outlines = writer.outlines(record, instance)
        if len(outlines) == 1 and not outlines[0].holes:
            points = outlines[0].points / (width, height) * 100
            kind, value = "polygon", {"points": points.tolist(), "closed": True}
        else:
            mask = rle.decode(writer.mask(record, instance))
            kind, value = "brush", {"format": "rle", "rle": encode_brush(mask)}
    result: dict[str, Any] = {
        "id": f"object{instance.annotation_id}",
        "type": f"{kind}labels",
        "from_name": kind,
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {**value, f"{kind}labels": [class_names[instance.class_index]]},
    }
    return result if instance.score is None else {**result, "score": instance.score}


def _local_path(path: Path, root: Path) -> str:
    """The path of an image relative to the written folder; of one outside, relative to the root of the file system."""
    absolute, root = Path(os.path.abspath(path)), root.absolute()
    return absolute.relative_to(root if absolute.is_relative_to(root) else absolute.anchor).as_posix()


def _config(class_names: Sequence[str]) -> str:
    """The labeling configuration of a project for the written results."""
    labels = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in class_names)
    tags = "".join(f'  <{tag} name="{kind}" toName="image">\n{labels}  </{tag}>\n' for kind, tag in KINDS.items())
    return f'<View>\n  <Image name="image" value="$image"/>\n{tags}</View>\n'
