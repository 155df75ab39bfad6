"""What a file is that was named as COCO and is none, for error messages."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mrcnn_zoo.data.annotations.listing import FileListing
from mrcnn_zoo.registries import ANNOTATION_FORMATS

COCO = "coco"
CONVERT = (
    "which is not read yet: convert it to COCO's format, one JSON file with 'images', 'annotations' and 'categories' "
    "for all images, and name that file as ANNOTATIONS."
)


def describe_other_format(path: Path, content: Any = None) -> str:
    """The format of a file or folder, and how to read it, e.g. "labelme JSON, which FORMAT labelme reads: ...".

    Args:
        path: that exists.
        content: of a JSON file.

    Returns:
        A predicate for "X is ...", with a full stop; "" for COCO's own and for unknown formats.
    """
    listing = FileListing(path)
    for name in ANNOTATION_FORMATS.names():
        kind = ANNOTATION_FORMATS.get(name)()
        if name != COCO and kind.find(listing) is not None:
            return f"{kind.title}, which FORMAT {name} reads: correct FORMAT, or leave it out and name the folder."
    other = _format_without_reader(content)
    return f"{other}, {CONVERT}" if other else ""


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


def _format_without_reader(content: Any) -> str:
    if isinstance(content, Mapping):
        if "objects" in content and "size" in content:
            return "Supervisely JSON (one file per image)"
        return "a JSON of labels for each image or frame" if "frames" in content or "labels" in content else ""
    first = content[0] if isinstance(content, list) and content and isinstance(content[0], Mapping) else {}
    if {"image_id", "score"} <= first.keys():
        return "a COCO results file (detections without their images)"
    if "annotations" in first and "image" in first:
        return "CreateML JSON"
    if "labels" in first and "name" in first:
        return "a JSON of labels for each image or frame"
    if "segmentation" in first or "bbox" in first:
        return "a list of annotations without their images and categories"
    return ""
