"""Ground truth of a dataset in COCO's format, and as detections."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from mrcnn_zoo.data.formats.coco_lvis import federated_fields, frequency_fields
from mrcnn_zoo.data.formats.coco_writing import coco_keypoints
from mrcnn_zoo.data.masks import instance_area, segmentation_rle
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.evaluation.backends import KEYPOINTS
from mrcnn_zoo.ops.masks import MaskWindow
from mrcnn_zoo.ops.rle import Rle, decode_window
from mrcnn_zoo.structures import BoxedBitmaps, Detections, ImageSize, Sample
from mrcnn_zoo.structures.summary import summary

BBOX = "bbox"
SEGM = "segm"
SEGM_FIELD, POINT_FIELDS = "segmentation", {"keypoints", "num_keypoints"}  # of annotations
UNLABELED = 0  # visibility of a keypoint that is not annotated


def has_masks(dataset: Dataset) -> bool:
    """Whether any object of the dataset has a segmentation."""
    return any(instance.segmentation is not None for record in dataset.records for instance in record.instances)


def coco_ground_truth(dataset: Dataset, task: str) -> dict[str, Any]:
    """Convert the records of a dataset to COCO's format, for the evaluation of a task; see `ground_truth_of_task`.

    Args:
        dataset: the ground truth.
        task: "bbox", "segm" or "keypoints".
    """
    return ground_truth_of_task(complete_ground_truth(dataset), task)


def complete_ground_truth(dataset: Dataset) -> dict[str, Any]:
    """Convert the records of a dataset to COCO's format: `images`, `categories` and `annotations`.

    Args:
        dataset: the ground truth; objects without a mask have no `segmentation`.
    """
    annotations: list[dict[str, Any]] = []
    for record in dataset.records:
        for instance in record.instances:
            # New ids: those of a file may repeat, and pycocotools treats a match with id 0 as no match.
            annotation = _annotation(instance, record) | {"id": len(annotations) + 1}
            annotation["annotation_id"] = instance.annotation_id  # of the file
            if dataset.keypoint_names:
                annotation |= _labeled_points(instance, len(dataset.keypoint_names))
            annotations.append(annotation | {"category_id": dataset.category_ids[instance.class_index]})
    return {
        "images": [
            {"id": r.image_id, "height": r.image_size[0], "width": r.image_size[1], "file_name": r.source.name}
            | federated_fields(r, dataset.category_ids)
            for r in dataset.records
        ],
        "categories": [
            {"id": category_id, "name": name, **frequency}
            for category_id, name, frequency in zip(
                dataset.category_ids, dataset.class_names, frequency_fields(dataset), strict=True
            )
        ],
        "annotations": annotations,
    }


def ground_truth_of_task(ground_truth: dict[str, Any], task: str) -> dict[str, Any]:
    """The annotations of a COCO dataset as the evaluation of a task takes them.

    For "segm", the box of an object without a mask becomes a crowd, so that detections of it do not count. For
    "keypoints", the libraries ignore objects without labelled keypoints.

    Args:
        ground_truth: see `complete_ground_truth`.
        task: "bbox", "segm" or "keypoints".
    """
    sizes = {image["id"]: (image["height"], image["width"]) for image in ground_truth["images"]}
    unused = {BBOX: {SEGM_FIELD, *POINT_FIELDS}, SEGM: POINT_FIELDS, KEYPOINTS: {SEGM_FIELD}}[task]
    annotations = []
    for annotation in ground_truth["annotations"]:
        if task == SEGM and SEGM_FIELD not in annotation:
            annotation = _as_crowd(annotation, sizes[annotation["image_id"]])
        annotations.append({name: value for name, value in annotation.items() if name not in unused})
    return ground_truth | {"annotations": annotations}


def _annotation(instance: InstanceRecord, record: ImageRecord) -> dict[str, Any]:
    x1, y1, x2, y2 = instance.box
    annotation = {
        "image_id": record.image_id,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": instance_area(instance, record.image_size),
        "iscrowd": int(instance.is_crowd),
    }
    if instance.segmentation is not None:
        annotation["segmentation"] = segmentation_rle(instance.segmentation, record.image_size)
    return annotation


def _as_crowd(annotation: dict[str, Any], image_size: ImageSize) -> dict[str, Any]:
    x, y, width, height = annotation["bbox"]
    rectangle = [[x, y, x, y + height, x + width, y + height, x + width, y]]
    return annotation | {"segmentation": segmentation_rle(rectangle, image_size), "iscrowd": 1}


def _labeled_points(instance: InstanceRecord, count: int) -> dict[str, Any]:
    points = coco_keypoints(instance.keypoints or (0.0,) * (3 * count))
    return {"keypoints": points, "num_keypoints": sum(visibility > UNLABELED for visibility in points[2::3])}


def bitmaps_of_rles(rles: Iterable[Rle | None], image_size: ImageSize) -> BoxedBitmaps:
    """Masks as bitmaps; those of objects without one are empty.

    Args:
        rles: R encodings, None for an object without mask.
        image_size: (height, width) of the image.
    """
    empty = MaskWindow(0, 0, np.zeros((0, 0), dtype=np.uint8))
    windows = [(decode_window(encoding) if encoding else None) or empty for encoding in rles]
    origins = [(window.x, window.y) for window in windows]
    return BoxedBitmaps.from_windows(origins, [window.bitmap for window in windows], image_size)


@dataclass(repr=False)
class RleMasks:
    """Masks stored in COCO's run-length encoding (RLE)."""

    encodings: list[Rle]  # compressed, counts as str
    image_size: ImageSize

    def __len__(self) -> int:
        return len(self.encodings)

    def __repr__(self) -> str:
        return summary(self)

    def __getitem__(self, rows: Tensor | slice) -> Self:
        kept = self.encodings[rows] if isinstance(rows, slice) else [self.encodings[row] for row in _indices(rows)]
        return type(self)(kept, self.image_size)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:  # noqa: ARG002
        """The same masks; run lengths stay on the host.

        Args:
            device: ignored.
            non_blocking: ignored.
        """
        return self

    def bitmaps(self) -> Tensor:
        """(R, H, W) bool bitmaps of the full image."""
        full = torch.zeros((len(self), *self.image_size), dtype=torch.bool)
        for bitmap, window in zip(full, self.mask_windows(), strict=True):
            x1, y1, x2, y2 = window.box
            bitmap[y1:y2, x1:x2] = torch.from_numpy(window.bitmap)
        return full

    def mask_windows(self) -> list[MaskWindow]:
        """The smallest window around each mask; an empty one around an empty mask."""
        empty = MaskWindow(0, 0, np.zeros((0, 0), dtype=np.uint8))
        return [decode_window(encoding) or empty for encoding in self.encodings]

    def rles(self) -> list[Rle]:
        """(R,) the encodings."""
        return self.encodings

    def resized(self, image_size: ImageSize, boxes: Tensor) -> Self:
        """Masks of the resized bitmaps.

        Args:
            image_size: new (height, width).
            boxes: (R, 4) in pixels of the new size.
        """
        return type(self)(BoxedBitmaps.from_full(self.bitmaps()).resized(image_size, boxes).rles(), image_size)


def _indices(rows: Tensor) -> Sequence[int]:
    return (rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows).tolist()


def ground_truth_detections(dataset: Dataset) -> list[Detections]:
    """Ground truth as detections: all objects except crowds, with score 1. Their AP is 100.

    Args:
        dataset: the ground truth.

    Returns:
        Detections per image, in pixels of the original image.
    """
    with_masks, num_keypoints = has_masks(dataset), len(dataset.keypoint_names)
    return [
        _perfect_detections(record, with_masks=with_masks, num_keypoints=num_keypoints) for record in dataset.records
    ]


def _perfect_detections(record: ImageRecord, *, with_masks: bool, num_keypoints: int) -> Detections:
    objects = [instance for instance in record.instances if not instance.is_crowd]
    masks = None
    if with_masks:
        empty: Rle = {"size": list(record.image_size), "counts": [record.image_size[0] * record.image_size[1]]}
        encodings = [segmentation_rle(instance.segmentation or empty, record.image_size) for instance in objects]
        masks = RleMasks(encodings, record.image_size)
    return Detections(
        image_size=record.image_size,
        boxes=torch.tensor([instance.box for instance in objects], dtype=torch.float32).reshape(-1, 4),
        scores=torch.ones(len(objects)),
        classes=torch.tensor([instance.class_index for instance in objects], dtype=torch.int64),
        masks=masks,
        keypoints=_perfect_keypoints(objects, num_keypoints) if num_keypoints else None,
    )


def _perfect_keypoints(objects: Sequence[InstanceRecord], count: int) -> Tensor:
    """(R, J, 3); keypoints that are not labelled, which are not evaluated, are at the centre of the box."""
    rows = []
    for instance in objects:
        x1, y1, x2, y2 = instance.box
        middle = ((x1 + x2) / 2, (y1 + y2) / 2, 1.0)
        values = instance.keypoints or (0.0,) * (3 * count)
        points = zip(values[0::3], values[1::3], values[2::3], strict=True)
        rows.append([(x, y, 1.0) if visibility > UNLABELED else middle for x, y, visibility in points])
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, count, 3)


def new_images(
    samples: Sequence[Sample],
    detections: Sequence[Detections],
    dataset: Dataset,
    *,
    known: Collection[int | str],
    added: Collection[int | str],
) -> Iterator[tuple[Sample, Detections]]:
    """The images that an evaluator has not added yet, with their detections.

    Args:
        samples: N images.
        detections: of each image.
        dataset: to be evaluated on.
        known: ids of its images.
        added: ids of the images that are left out.

    Raises:
        ValueError: an image is not in the dataset.
    """
    for sample, found in zip(samples, detections, strict=True):
        if sample.image_id not in known:
            raise ValueError(f"image {sample.image_id} is not one of the {len(dataset)} of {dataset.name}")
        if sample.image_id not in added:
            yield sample, found
