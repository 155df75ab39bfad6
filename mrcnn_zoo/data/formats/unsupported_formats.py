"""Detection of the annotation format of files that are no COCO files, for error messages."""

import json
import re
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

CONVERT = (
    "which is not read yet: convert it to COCO's format, one JSON file with 'images', 'annotations' and 'categories' "
    "for all images, and name that file as ANNOTATIONS."
)
LABELME = "labelme JSON (one file per image)"
YOLO = "YOLO text (one .txt file per image)"
VOC = "Pascal VOC XML (one file per image)"
CITYSCAPES = "Cityscapes JSON (one file of polygons per image)"
VIA = "VIA JSON (VGG Image Annotator)"
LABEL_STUDIO = "Label Studio JSON"
READ_BY_FORMAT = {  # those with a reader
    **{YOLO: "yolo", VOC: "voc"},
    **{LABELME: "labelme", CITYSCAPES: "cityscapes", VIA: "via", LABEL_STUDIO: "label_studio"},
}
YOLO_LINE = re.compile(r"\s*\d+(\s+-?\d*\.?\d+([eE][+-]?\d+)?){4,}\s*")
ANNOTATION_FOLDERS = ("labels", "Annotations", "annotations", "gtFine")
IMAGE_FOLDERS = ("images", "JPEGImages", "leftImg8bit")
NOT_ANNOTATIONS = ("classes.txt", "readme.txt", "labels.txt", "requirements.txt")
MAX_FILES = 2000  # examined per folder
MAX_BYTES = 20_000_000  # of a JSON file that is parsed
START_OF_FILE = 4096  # characters


def advice_for(kind: str) -> str:
    """How to read files of a kind, as the end of a sentence.

    Args:
        kind: returned by one of the functions below.
    """
    if kind not in READ_BY_FORMAT:
        return CONVERT
    return f"which FORMAT {READ_BY_FORMAT[kind]} reads: correct FORMAT, or leave it out and name the folder."


def detect_json_format(content: Any) -> str:
    """The format of a JSON file's content, e.g. "labelme JSON (one file per image)"; "" if unknown."""
    if isinstance(content, list):
        return _format_of_list(content)
    if not isinstance(content, Mapping):
        return ""
    if "_via_img_metadata" in content or "_via_settings" in content or _is_via(content):
        return VIA
    if "shapes" in content and {"imagePath", "imageData", "version", "flags"} & content.keys():
        return LABELME
    if {"imgHeight", "imgWidth", "objects"} <= content.keys():
        return CITYSCAPES
    if "objects" in content and "size" in content:
        return "Supervisely JSON (one file per image)"
    if "frames" in content or "labels" in content:
        return "a JSON of labels for each image or frame"
    return ""


def detect_other_coco_file(content: Mapping[str, Any]) -> str:
    """The kind of a COCO file that has no objects: captions or panoptic segments; "" for any other file."""
    annotations = content.get("annotations")
    first = annotations[0] if isinstance(annotations, list) and annotations else None
    if not isinstance(first, Mapping) or "category_id" in first:
        return ""
    if "caption" in first:
        return "COCO's captions: they have no objects. The objects of the same images are in instances_*.json."
    if "segments_info" in first:
        return "COCO's panoptic annotations, which are not read yet. The objects are in instances_*.json."
    return ""


def detect_text_format(text: str) -> str:
    """The format of a text file that is not JSON, from its first lines; "" if unknown."""
    start = text[:START_OF_FILE].lstrip("\ufeff \t\r\n")
    if start.startswith("<"):
        return VOC if "<annotation" in start and "<object" in text else "XML"
    lines = [line for line in start.splitlines()[:-1] or [start] if line.strip()]
    if lines and all(YOLO_LINE.fullmatch(line) for line in lines):
        return YOLO
    if re.search(r"^(nc|names|train|val)\s*:", start, re.MULTILINE):
        return "the data.yaml of a YOLO dataset"
    if lines and all(line.count(",") == lines[0].count(",") >= 3 for line in lines) and lines[0][:1] not in "[{":
        return "a CSV table"
    return ""


def detect_folder_format(folder: Path) -> str:
    """The format of the annotations in a folder, or in annotation folders in it or beside it; "" if unknown."""
    places = [folder, *(folder / name for name in ANNOTATION_FOLDERS)]
    if folder.name in IMAGE_FOLDERS:
        places += [folder.parent / name for name in ANNOTATION_FOLDERS]
    elif folder.parent.name in IMAGE_FOLDERS:  # images/train beside labels/train
        places += [folder.parent.parent / name / folder.name for name in ANNOTATION_FOLDERS]
    for place in places:
        name = _format_of_files(place) if place.is_dir() else ""
        if name:
            return name
    return ""


def _format_of_files(folder: Path) -> str:
    """The format of the first JSON, XML or text file in a folder; annotation folders are searched recursively."""
    is_searched = folder.name in ANNOTATION_FOLDERS
    files = sorted(islice(folder.rglob("*") if is_searched else folder.iterdir(), MAX_FILES))
    for suffix, detect in DETECTORS.items():
        found = [path for path in files if path.suffix.lower() == suffix and path.name.lower() not in NOT_ANNOTATIONS]
        name = detect(found[0]) if found else ""
        if name:
            return name
    return ""


def _format_of_json_file(path: Path) -> str:
    """The format of a JSON file; large files are identified by their first bytes."""
    if path.name.endswith("_polygons.json"):
        return CITYSCAPES
    try:
        if path.stat().st_size <= MAX_BYTES:
            return detect_json_format(json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError):
        return ""
    return LABELME if '"shapes"' in _start_of(path) else ""


def _format_of_xml_file(path: Path) -> str:
    return VOC if "<annotation" in _start_of(path) else ""


def _format_of_text_file(path: Path) -> str:
    return detect_text_format(_start_of(path))


def _start_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(START_OF_FILE).decode("utf-8", errors="replace")
    except OSError:
        return ""


def _is_via(content: Mapping[str, Any]) -> bool:
    values = list(content.values())[:5]
    return bool(values) and all(
        isinstance(value, Mapping) and {"filename", "regions"} <= value.keys() for value in values
    )


def _format_of_list(content: list[Any]) -> str:
    first = content[0] if content and isinstance(content[0], Mapping) else {}
    if {"image_id", "score"} <= first.keys():
        return "a COCO results file (detections without their images)"
    if "annotations" in first and "data" in first:
        return LABEL_STUDIO
    if "annotations" in first and "image" in first:
        return "CreateML JSON"
    if "labels" in first and "name" in first:
        return "a JSON of labels for each image or frame"
    if "segmentation" in first or "bbox" in first:
        return "a list of annotations without their images and categories"
    return ""


DETECTORS = {".json": _format_of_json_file, ".xml": _format_of_xml_file, ".txt": _format_of_text_file}
