"""Checks of annotations: repairs by the readers, thin boxes, duplicates, masks beside boxes, images without objects."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from mrcnn_zoo.data.masks import segmentation_rle
from mrcnn_zoo.data.records import ImageRecord, InstanceRecord
from mrcnn_zoo.doctor.examined import TRAIN, DoctorInput, ObjectTable, Side, images_read
from mrcnn_zoo.doctor.finding import EXAMPLES_KEPT, Box, Example, Finding, Severity, object_example, percent
from mrcnn_zoo.errors import counted
from mrcnn_zoo.ops import rle

REPAIR = re.compile(r"(?P<kind>.+): (?P<count>[\d,]+) \(first: (?P<first>.+)\)", re.DOTALL)  # see `RepairLog.notes`
CHANGES = ("left out", "contradict", "clipped", "taken from the mask")  # in repairs that change objects
REPAIR_ADVICE = "Every run reads them like this. If something else was meant, correct the annotations."
RARE = 0.001  # share of the objects, below which a repair is a note
THIN = 1.0  # pixels of the image file
DUPLICATE_IOU = 0.9
MIN_MASK_IOU, MAX_EDGE_DISTANCE = 0.75, 2.0  # of a box and the one around its mask; small boxes may be rounded
MANY_EMPTY = 0.5  # share of the images that are trained on, from which it is a warning
FILTER = "DATALOADER.FILTER_EMPTY_ANNOTATIONS"


def check_loading(examined: DoctorInput) -> Iterator[Finding]:
    """Refusals and warnings while the data were loaded, and the repairs of the readers.

    Args:
        examined: datasets and settings.
    """
    yield from examined.loading
    for side in examined.sides:
        for note in side.dataset.notes:
            yield _repair(side, note)


def _repair(side: Side, note: str) -> Finding:
    found = repair_finding(side.name, note, total=sum(len(record.instances) for record in side.dataset.records))
    return replace(found, examples=tuple(_first_example(side, example.text) for example in found.examples))


def repair_finding(name: str, note: str, *, total: int) -> Finding:
    """A finding about a repair of a reader; a warning if it changes more than a few objects.

    Args:
        name: of the dataset.
        note: see `RepairLog.notes`.
        total: number of all objects; 0 if unknown.
    """
    found = REPAIR.fullmatch(note)
    if found is None:
        return Finding(Severity.NOTE, f"{name}: {note}")
    count, is_change = int(found["count"].replace(",", "")), any(word in found["kind"] for word in CHANGES)
    severity = Severity.WARNING if is_change and count > RARE * total else Severity.NOTE
    return Finding(
        severity,
        f"{name}: {found['kind']}: {count:,}",
        REPAIR_ADVICE if is_change else "",
        count=count,
        total=total,
        examples=(Example(found["first"]),),
    )


def _first_example(side: Side, first: str) -> Example:
    """The example that a repair names; with its image where an object of that id is left."""
    number = re.fullmatch(r"annotation (\d+)", first)
    if number is not None:
        for record in side.dataset.records:
            for item in record.instances:
                if item.annotation_id == int(number[1]):
                    return object_example(record, [item])
    return Example(f"first: {first}")


def check_boxes(examined: DoctorInput) -> Iterator[Finding]:
    """Boxes with a side below a pixel.

    Args:
        examined: datasets and settings.
    """
    for side in examined.sides:
        sides = side.objects.boxes[:, 2:] - side.objects.boxes[:, :2]
        rows = np.flatnonzero((sides < THIN).any(axis=1))
        if len(rows):
            yield Finding(
                Severity.WARNING,
                f"{side.name}: {counted(len(rows), 'box', 'boxes')} with a side below {THIN:g} pixel",
                "A click beside an object usually leaves such boxes. Delete the annotations, or draw them again.",
                count=len(rows),
                total=len(side.objects),
                examples=tuple(
                    object_example(*_one(side, row), f"{sides[row, 0]:.2g} x {sides[row, 1]:.2g} pixels")
                    for row in rows[:EXAMPLES_KEPT].tolist()
                ),
            )


def _one(side: Side, row: int) -> tuple[ImageRecord, list[InstanceRecord]]:
    record, item = side.item(row)
    return record, [item]


def check_duplicates(examined: DoctorInput) -> Iterator[Finding]:
    """Objects that are annotated twice, with one class or with two.

    Args:
        examined: datasets and settings.
    """
    for side in examined.sides:
        pairs = list(duplicate_pairs(side))
        for is_same, text, advice in (
            (True, "annotated twice", "The second copy counts as a missed object. Delete one of each pair."),
            (
                False,
                "annotated with two classes",
                "Only one of two classes can be right where classes exclude each other: correct the label or delete "
                "one of each pair.",
            ),
        ):
            chosen = [pair for pair in pairs if (pair[1].class_index == pair[2].class_index) == is_same]
            if chosen:
                yield Finding(
                    Severity.WARNING,
                    f"{side.name}: {counted(len(chosen), 'object')} {text} (IoU above {DUPLICATE_IOU:g})",
                    advice,
                    count=len(chosen),
                    total=len(side.objects),
                    examples=tuple(
                        object_example(record, pair, _names(side, pair)) for record, *pair in chosen[:EXAMPLES_KEPT]
                    ),
                )


def _names(side: Side, items: Sequence[InstanceRecord]) -> str:
    names = dict.fromkeys(side.dataset.class_names[item.class_index] for item in items)
    return f"{'classes' if len(names) > 1 else 'class'} {' and '.join(names)}"


def duplicate_pairs(side: Side) -> Iterator[tuple[ImageRecord, InstanceRecord, InstanceRecord]]:
    """Pairs of objects of an image whose boxes, and masks where both have one, have an IoU above DUPLICATE_IOU.

    Args:
        side: all of its images.
    """
    for first, second in overlapping_rows(side.objects):
        (record, one), (_, other) = side.item(first), side.item(second)
        if _masks_agree(record, one, other):
            yield record, one, other


def overlapping_rows(objects: ObjectTable) -> list[tuple[int, int]]:
    """Pairs of objects of one image whose boxes have an IoU above DUPLICATE_IOU, the first row below the second.

    Args:
        objects: of a dataset.
    """
    order = np.lexsort((objects.boxes[:, 0], objects.images))
    boxes, images = objects.boxes[order], objects.images[order]
    # Left edges of such pairs differ by less than a tenth of the width: each box is compared with those right of it.
    limits = boxes[:, 0] + (1 - DUPLICATE_IOU) * (boxes[:, 2] - boxes[:, 0])
    places, distance = np.arange(len(order)), 1
    found = []
    while len(places):
        places = places[places + distance < len(order)]
        others = places + distance
        is_near = (images[others] == images[places]) & (boxes[others, 0] <= limits[places])
        places, others = places[is_near], others[is_near]
        is_pair = box_ious(boxes[places], boxes[others]) > DUPLICATE_IOU
        found.append(np.sort(np.stack([order[places[is_pair]], order[others[is_pair]]], axis=1), axis=1))
        distance += 1
    rows = np.concatenate([np.zeros((0, 2), dtype=np.int64), *found])
    return [(first, second) for first, second in sorted(rows.tolist())]


def box_ious(boxes: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU of each box with the other one of its row.

    Args:
        boxes: (N, 4) x1 y1 x2 y2.
        others: (N, 4).

    Returns:
        (N,).
    """
    low, high = np.maximum(boxes[:, :2], others[:, :2]), np.minimum(boxes[:, 2:], others[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1) + (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return shared / np.maximum(areas - shared, 1e-12)


def _masks_agree(record: ImageRecord, one: InstanceRecord, other: InstanceRecord) -> bool:
    if one.segmentation is None or other.segmentation is None:
        return True
    masks = [segmentation_rle(item, record.image_size) for item in (one.segmentation, other.segmentation)]
    return bool(coco_mask.iou(masks[:1], masks[1:], [False])[0, 0] > DUPLICATE_IOU)


def check_mask_boxes(examined: DoctorInput) -> Iterator[Finding]:
    """Masks that do not fill their boxes or reach beyond them, and masks without a pixel.

    Args:
        examined: datasets and settings.
    """
    for side in examined.sides:
        bad, num_masks = _disagreeing(side)
        if bad:
            yield Finding(
                Severity.WARNING,
                f"{side.name}: {counted(len(bad), 'mask')} that {'disagrees' if len(bad) == 1 else 'disagree'} with "
                f"the box of the object, of {num_masks:,} in {images_read([side])}",
                "Box and mask of an object should be drawn from one outline. Take the boxes from the masks, or "
                "correct the mask where it is the wrong one.",
                count=len(bad),
                total=num_masks,
                examples=tuple(object_example(record, [item], text) for record, item, text in bad[:EXAMPLES_KEPT]),
            )


def _disagreeing(side: Side) -> tuple[list[tuple[ImageRecord, InstanceRecord, str]], int]:
    """Objects of the sample with the reason, and the number of all with masks."""
    bad, num_masks = [], 0
    for record in side.sample:
        for item in record.instances:
            if item.segmentation is None or item.is_crowd:
                continue
            num_masks += 1
            text = _disagreement(item.box, rle.bounding_box(segmentation_rle(item.segmentation, record.image_size)))
            if text:
                bad.append((record, item, text))
    return bad, num_masks


def _disagreement(box: Box, around: tuple[int, int, int, int] | None) -> str:
    """The reason why a box does not belong to the box around a mask; "" where it does."""
    if around is None:
        # Polygons thinner than a pixel cover no pixel centre; the training draws one pixel for them.
        return "" if min(box[2] - box[0], box[3] - box[1]) <= MAX_EDGE_DISTANCE else "its mask has no pixel"
    edges = np.array(box), np.array(around, dtype=np.float64)
    overlap = float(box_ious(edges[0][None], edges[1][None])[0])
    if np.abs(edges[0] - edges[1]).max() <= MAX_EDGE_DISTANCE or overlap >= MIN_MASK_IOU:
        return ""
    return f"IoU {overlap:.2f} of its box with the one around its mask"


def check_empty(examined: DoctorInput) -> Iterator[Finding]:
    """Images without objects.

    Args:
        examined: datasets and settings.
    """
    for side in examined.sides:
        empty = [record for record in side.dataset.records if all(item.is_crowd for item in record.instances)]
        if not empty or not side.dataset.is_labelled:
            continue
        fate, is_trained = "", side.role == TRAIN and not examined.settings.leaves_out_empty
        if side.role == TRAIN and not examined.settings.classifies:
            fate = f"They are {'' if is_trained else 'not '}trained on ({FILTER} {not is_trained}). "
        is_many = is_trained and len(empty) > MANY_EMPTY * len(side.dataset)
        yield Finding(
            Severity.WARNING if is_many else Severity.NOTE,
            f"{side.name}: {counted(len(empty), 'image')} of {len(side.dataset):,} without objects "
            f"({percent(len(empty), len(side.dataset))})",
            f"{fate}Check that they are empty, and not just not annotated yet.",
            count=len(empty),
            total=len(side.dataset),
            examples=tuple(Example("", record) for record in empty[:EXAMPLES_KEPT]),
        )
