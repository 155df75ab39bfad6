"""Writing of COCO's format: the JSON of a dataset, and its folders of images."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrcnn_zoo.data.annotations.writing import DatasetWriter
from mrcnn_zoo.data.formats.coco_lvis import federated_fields, frequency_fields
from mrcnn_zoo.data.keypoints import PIXEL_CENTER, pairs_by_name
from mrcnn_zoo.data.masks import instance_area
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord

IMAGE_FOLDER = "images"
ANNOTATION_FILE = "annotations.json"
ANNOTATION_FOLDER = "annotations"  # of several sides


def write_coco(parts: Mapping[str, Dataset], folder: Path, writer: DatasetWriter) -> None:
    """Write `images/` and `annotations.json`; of several sides `images/train/` and `annotations/instances_train.json`.

    Args:
        parts: by side; by "" where there are no sides.
        folder: empty.
        writer: of all parts.

    Raises:
        UserError: an image that cannot be read or written.
    """
    for side, dataset in parts.items():
        file = folder / ANNOTATION_FOLDER / f"instances_{side}.json" if side else folder / ANNOTATION_FILE
        images = folder / IMAGE_FOLDER / side
        for needed in (file.parent, images):
            needed.mkdir(parents=True, exist_ok=True)
        # File names of images that are not copied are relative to the JSON, where readers look first.
        place = images if writer.copies_images else file.parent
        names = [writer.place_image(record, place) for record in dataset.records]
        file.write_text(json.dumps(coco_annotations(dataset, names=names, writer=writer)))


def coco_annotations(
    dataset: Dataset, *, names: Sequence[str] = (), writer: DatasetWriter | None = None
) -> dict[str, Any]:
    """The content of a COCO annotation file.

    The ids of images and annotations are kept where they are distinct and above 0; otherwise they are counted from 1.

    Args:
        dataset: the records.
        names: of the image file of each record; by default its id, e.g. "000000000042.png".
        writer: of which a tolerance above 0 turns masks into polygons; None writes them as they are.
    """
    image_ids = _distinct_ids([record.image_id for record in dataset.records])
    content: dict[str, Any] = {
        "info": {"description": dataset.name},
        "licenses": [],
        "images": [
            {
                "id": number,
                "file_name": name,
                "height": record.image_size[0],
                "width": record.image_size[1],
                **federated_fields(record, dataset.category_ids),
            }
            for number, name, record in zip(
                image_ids, names or map(file_name, dataset.records), dataset.records, strict=True
            )
        ],
        "annotations": list(_annotations(dataset, image_ids, writer)),
        "categories": _categories(dataset),
    }
    if not dataset.is_labelled:
        del content["annotations"]
    return content


def _categories(dataset: Dataset) -> list[dict[str, Any]]:
    categories: list[dict[str, Any]] = [
        {"id": category_id, "name": name, "supercategory": "", **frequency}
        for category_id, name, frequency in zip(
            dataset.category_ids, dataset.class_names, frequency_fields(dataset), strict=True
        )
    ]
    if dataset.keypoint_names:
        skeleton = [[first + 1, second + 1] for first, second in dataset.keypoint_skeleton]
        for category in categories:
            category |= {"keypoints": list(dataset.keypoint_names), "skeleton": skeleton}
            if dataset.keypoint_flip_pairs != pairs_by_name(dataset.keypoint_names):
                category |= {"flip_pairs": _names_of_pairs(dataset)}
    return categories


def _names_of_pairs(dataset: Dataset) -> list[list[str]] | None:
    if dataset.keypoint_flip_pairs is None:
        return None
    return [[dataset.keypoint_names[row] for row in pair] for pair in dataset.keypoint_flip_pairs]


def file_name(record: ImageRecord) -> str:
    """The name of the image file of a record that has none, e.g. "000000000042.png"."""
    return f"{record.image_id:012d}.png"


def _distinct_ids(ids: Sequence[int]) -> Sequence[int]:
    return ids if len(set(ids)) == len(ids) else range(1, len(ids) + 1)


def _annotations(dataset: Dataset, image_ids: Sequence[int], writer: DatasetWriter | None) -> Iterator[dict[str, Any]]:
    ids = [instance.annotation_id for record in dataset.records for instance in record.instances]
    next_id = iter(_distinct_ids(ids) if 0 not in ids else range(1, len(ids) + 1))
    for image_id, record in zip(image_ids, dataset.records, strict=True):
        for instance in record.instances:
            yield {
                "id": next(next_id),
                "image_id": image_id,
                "category_id": dataset.category_ids[instance.class_index],
                **_coco_instance(instance, record, writer),
            }


def _coco_instance(instance: InstanceRecord, record: ImageRecord, writer: DatasetWriter | None) -> dict[str, Any]:
    left, top, right, bottom = instance.box
    entry: dict[str, Any] = {
        "bbox": [left, top, right - left, bottom - top],
        "area": instance_area(instance, record.image_size),
        "iscrowd": int(instance.is_crowd),
    }
    if instance.segmentation is not None:
        polygons = _simple_polygons(instance, record, writer)
        entry["segmentation"] = _coco_segmentation(instance.segmentation) if polygons is None else polygons
    if instance.keypoints is not None:
        entry["keypoints"] = coco_keypoints(instance.keypoints)
        entry["num_keypoints"] = sum(visibility > 0 for visibility in instance.keypoints[2::3])
    if instance.score is not None:
        entry["score"] = instance.score
    return entry


def _simple_polygons(
    instance: InstanceRecord, record: ImageRecord, writer: DatasetWriter | None
) -> list[list[float]] | None:
    """The outlines of an object within the writer's tolerance; None for what COCO's polygons cannot hold."""
    if writer is None or not writer.tolerance or instance.is_crowd:
        return None
    outlines = writer.outlines(record, instance)
    if not outlines or any(outline.holes for outline in outlines):
        return None
    return [outline.points.ravel().tolist() for outline in outlines]


def coco_keypoints(keypoints: Sequence[float]) -> list[float]:
    """COCO's keypoints are pixels, counted from 0, and zeros where they are not labelled."""
    points: list[float] = []
    for x, y, visibility in zip(keypoints[0::3], keypoints[1::3], keypoints[2::3], strict=True):
        points += [x - PIXEL_CENTER, y - PIXEL_CENTER, visibility] if visibility > 0 else [0.0, 0.0, 0.0]
    return points


def _coco_segmentation(segmentation: Any) -> Any:
    if not isinstance(segmentation, dict):
        return [np.asarray(polygon, dtype=np.float64).ravel().tolist() for polygon in segmentation]
    counts = segmentation["counts"]
    if isinstance(counts, bytes):
        counts = counts.decode("ascii")
    elif not isinstance(counts, str):
        counts = [int(run) for run in counts]
    return {"size": [int(side) for side in segmentation["size"]], "counts": counts}
