"""The ceiling that the resolution of predicted masks sets for the IoU of these objects."""

from collections.abc import Iterator, Sequence

import numpy as np
from pycocotools import mask as coco_mask

from mrcnn_zoo.data.masks import segmentation_rle
from mrcnn_zoo.data.records import ImageRecord, InstanceRecord
from mrcnn_zoo.doctor.examined import DoctorInput, Side
from mrcnn_zoo.doctor.finding import EXAMPLES_KEPT, Finding, Severity, object_example, percent
from mrcnn_zoo.evaluation.metrics.oracles import mask_on_grid
from mrcnn_zoo.ops import rle

MAX_OBJECTS = 1000  # that are measured per dataset
LOW_IOU = 0.75  # AP above it is out of reach for an object below it
NOTED_SHARE, MANY = 0.02, 0.1  # of the objects below it: from these on, a note and a warning


def check_mask_ceiling(examined: DoctorInput) -> Iterator[Finding]:
    """The IoU of perfect masks, predicted at the resolution of the mask head, with those of the objects.

    Args:
        examined: datasets and settings.
    """
    settings = examined.settings
    if not settings.needs_masks:
        yield Finding(Severity.SKIPPED, "the resolution of masks: the model has none (MODEL.MASK_ON False)")
        return
    for side in examined.sides:
        objects = masks_to_measure(side)
        if not objects:
            yield Finding(Severity.SKIPPED, f"{side.name}, the resolution of masks: no object of the sample has one")
            continue
        ious = np.array([grid_iou(record, item, settings.mask_side) for record, item in objects])
        low = np.flatnonzero(ious < LOW_IOU)
        order = low[np.argsort(ious[low], kind="stable")]
        share = len(low) / len(ious)
        cells = f"{settings.mask_side} x {settings.mask_side}"
        text = (
            f"{side.name}: perfect masks of {cells} cells have a mean IoU of {ious.mean():.3f} with those of "
            f"{len(ious):,} objects; 5th percentile {np.percentile(ious, 5):.3f}, {percent(len(low), len(ious))} below "
            f"{LOW_IOU:g}"
        )
        if share < NOTED_SHARE:
            yield Finding(Severity.FINE, text)
            continue
        yield Finding(
            Severity.WARNING if share >= MANY else Severity.NOTE,
            text,
            "Thin, branched and very large objects need finer masks: another upsampling doubles the cells, and "
            "PointRend refines outlines. Where the objects are small, a larger INPUT.MIN_SIZE_TEST does not help: the "
            "grid is that of the box.",
            count=len(low),
            total=len(ious),
            examples=tuple(
                object_example(objects[row][0], [objects[row][1]], f"IoU {ious[row]:.2f}")
                for row in order[:EXAMPLES_KEPT].tolist()
            ),
            paste="MODEL: {ROI_MASK_HEAD: {NUM_UPSAMPLE: 2}}",
        )


def masks_to_measure(side: Side) -> Sequence[tuple[ImageRecord, InstanceRecord]]:
    """Objects of the sample with masks, at equal distances in the order of their sizes.

    Args:
        side: a dataset.
    """
    objects = [
        (record, item)
        for record in side.sample
        for item in record.instances
        if item.segmentation is not None and not item.is_crowd
    ]
    objects.sort(key=lambda pair: (pair[1].box[2] - pair[1].box[0]) * (pair[1].box[3] - pair[1].box[1]))
    count = min(MAX_OBJECTS, len(objects))
    return [objects[number * len(objects) // count] for number in range(count)]


def grid_iou(record: ImageRecord, item: InstanceRecord, side: int) -> float:
    """The IoU of a mask with itself, encoded in cells of its box and decoded; 1 for a mask without pixels.

    Args:
        record: of the image.
        item: an object with a mask.
        side: M, cells per side.
    """
    assert item.segmentation is not None
    mask = segmentation_rle(item.segmentation, record.image_size)
    around = rle.bounding_box(mask)
    if around is None:
        return 1.0
    x1, y1, x2, y2 = map(float, around)
    decoded = mask_on_grid(mask, {"bbox": [x1, y1, x2 - x1, y2 - y1]}, side, record.image_size)
    return float(coco_mask.iou([mask], [decoded], [False])[0, 0])
