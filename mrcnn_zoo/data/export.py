"""Export of any dataset as a COCO folder: `images/*.png` and `annotations.json`."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mrcnn_zoo.data.keypoints import PIXEL_CENTER, pairs_by_name
from mrcnn_zoo.data.loading.mapper import check_size
from mrcnn_zoo.data.masks import instance_area
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.errors import UserError

IMAGE_FOLDER = "images"
ANNOTATION_FILE = "annotations.json"


def export_coco(dataset: Dataset, folder: Path, *, may_overwrite: bool = False) -> None:
    """Write images and annotations; `folder` is created atomically.

    Format "coco" reads back equal records but for the image sources and the last digit of boxes. Annotation ids that
    are missing or not unique are replaced.

    Args:
        dataset: to export; its images are read one at a time.
        folder: new or empty.
        may_overwrite: whether an earlier export is replaced; a folder with any other file is refused.

    Raises:
        UserError: a folder in use, or an image that PNG cannot store.
    """
    folder = folder.resolve()
    check_export_folder(folder, may_overwrite=may_overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        (partial / IMAGE_FOLDER).mkdir()
        for record in dataset.records:
            _write_png(record, partial / IMAGE_FOLDER / file_name(record))
        (partial / ANNOTATION_FILE).write_text(json.dumps(coco_annotations(dataset)))
        partial.chmod(0o755)  # mkdtemp permits only the owner
        _move_into_place(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def coco_annotations(dataset: Dataset) -> dict[str, Any]:
    """The content of a COCO annotation file."""
    categories = [
        {"id": category_id, "name": name, "supercategory": ""}
        for category_id, name in zip(dataset.category_ids, dataset.class_names, strict=True)
    ]
    if dataset.keypoint_names:
        skeleton = [[first + 1, second + 1] for first, second in dataset.keypoint_skeleton]
        for category in categories:
            category |= {"keypoints": list(dataset.keypoint_names), "skeleton": skeleton}
            if dataset.keypoint_flip_pairs != pairs_by_name(dataset.keypoint_names):
                category |= {"flip_pairs": _names_of_pairs(dataset)}
    return {
        "info": {"description": dataset.name},
        "licenses": [],
        "images": [
            {
                "id": record.image_id,
                "file_name": file_name(record),
                "height": record.image_size[0],
                "width": record.image_size[1],
            }
            for record in dataset.records
        ],
        "annotations": list(_annotations(dataset)),
        "categories": categories,
    }


def _names_of_pairs(dataset: Dataset) -> list[list[str]] | None:
    if dataset.keypoint_flip_pairs is None:
        return None
    return [[dataset.keypoint_names[row] for row in pair] for pair in dataset.keypoint_flip_pairs]


def file_name(record: ImageRecord) -> str:
    """The name of a record's image file, e.g. "000000000042.png"."""
    return f"{record.image_id:012d}.png"


def _annotations(dataset: Dataset) -> Iterator[dict[str, Any]]:
    ids = [instance.annotation_id for record in dataset.records for instance in record.instances]
    if len(set(ids)) < len(ids) or 0 in ids:
        ids = list(range(1, len(ids) + 1))
    next_id = iter(ids)
    for record in dataset.records:
        for instance in record.instances:
            yield {
                "id": next(next_id),
                "image_id": record.image_id,
                "category_id": dataset.category_ids[instance.class_index],
                **_coco_instance(instance, record),
            }


def _coco_instance(instance: InstanceRecord, record: ImageRecord) -> dict[str, Any]:
    left, top, right, bottom = instance.box
    entry: dict[str, Any] = {
        "bbox": [left, top, right - left, bottom - top],
        "area": instance_area(instance, record.image_size),
        "iscrowd": int(instance.is_crowd),
    }
    if instance.segmentation is not None:
        entry["segmentation"] = _coco_segmentation(instance.segmentation)
    if instance.keypoints is not None:
        entry["keypoints"] = coco_keypoints(instance.keypoints)
        entry["num_keypoints"] = sum(visibility > 0 for visibility in instance.keypoints[2::3])
    return entry


def coco_keypoints(keypoints: Sequence[float]) -> list[float]:
    """COCO's keypoints are pixels, counted from 0, and zeros where they are not labelled."""
    points: list[float] = []
    for x, y, visibility in zip(keypoints[0::3], keypoints[1::3], keypoints[2::3], strict=True):
        points += [x - PIXEL_CENTER, y - PIXEL_CENTER, visibility] if visibility > 0 else [0.0, 0.0, 0.0]
    return points


def _coco_segmentation(segmentation: Any) -> Any:
    if not isinstance(segmentation, dict):
        return [[float(number) for number in polygon] for polygon in segmentation]
    counts = segmentation["counts"]
    if isinstance(counts, bytes):
        counts = counts.decode("ascii")
    elif not isinstance(counts, str):
        counts = [int(run) for run in counts]
    return {"size": [int(side) for side in segmentation["size"]], "counts": counts}


def _write_png(record: ImageRecord, path: Path) -> None:
    pixels = record.source.read()
    check_size(record, pixels)
    picture = _as_picture(pixels)
    if picture is None:
        raise UserError(
            f"{record.source.name}: has {pixels.shape[2]} channels of {pixels.dtype}; a PNG stores 8-bit RGB or "
            f"16-bit grey, so this dataset cannot be exported as a COCO folder."
        )
    picture.save(path, compress_level=1)


def _as_picture(pixels: NDArray[np.generic]) -> Image.Image | None:
    if pixels.dtype == np.uint8 and pixels.shape[2] == 3:
        return Image.fromarray(pixels)
    is_grey = bool((pixels == pixels[:, :, :1]).all())
    if pixels.dtype == np.uint16 and is_grey:
        return Image.fromarray(np.ascontiguousarray(pixels[:, :, 0]))
    return None


def check_export_folder(folder: Path, *, may_overwrite: bool) -> None:
    """Refuse a folder that is not empty, but for an earlier export.

    Args:
        folder: of the export.
        may_overwrite: whether an earlier export may be replaced.

    Raises:
        UserError: with the content of the folder.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder to write the dataset to.")
    content = {path.name for path in folder.iterdir()}
    foreign = content - {IMAGE_FOLDER, ANNOTATION_FILE}
    if foreign:
        raise UserError(f"{folder} is not empty: it holds {min(foreign)}. Name another folder.")
    if content and not may_overwrite:
        raise UserError(f"{folder} already holds an exported dataset. Name another folder, or replace it: --overwrite.")


def _move_into_place(partial: Path, folder: Path) -> None:
    if not folder.exists():
        os.replace(partial, folder)
        return
    # A folder cannot replace a non-empty one: the old one is moved first, and restored if the second move fails.
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
    os.replace(folder, old / "export")
    try:
        os.replace(partial, folder)
    except BaseException:
        os.replace(old / "export", folder)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
