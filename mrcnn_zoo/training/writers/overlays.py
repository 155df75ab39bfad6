"""Predictions as W&B's layers: boxes and masks that its pages show and hide, with class names and scores."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.inspection.canvas import to_picture
from mrcnn_zoo.inspection.draw import masks_largest_first
from mrcnn_zoo.inspection.pictures import PredictionPicture, record_targets
from mrcnn_zoo.structures import Detections, Targets

PREDICTIONS, GROUND_TRUTH = "predictions", "ground_truth"  # names of the layers
NO_OBJECT = 0  # id in a mask
LARGEST_ID = 255  # of a mask, which W&B keeps in 8 bits
Layer = dict[str, Any]


def overlay_layers(picture: PredictionPicture) -> tuple[NDArray[np.uint8], dict[str, Layer], dict[str, Layer]]:
    """The image of a picture, and its layers in the form that `wandb.Image` takes.

    Args:
        picture: with predictions, and annotations where the dataset has them.

    Returns:
        (H, W, 3) uint8 RGB of the image file, box layers and mask layers by name. The id of a class is
        its index plus 1.
    """
    tables: dict[str, tuple[Detections | Targets, Sequence[str]]] = {
        PREDICTIONS: (picture.detections, picture.predicted_names)
    }
    if picture.record.instances:
        tables[GROUND_TRUTH] = (record_targets(picture.record), picture.class_names)
    boxes = {name: box_layer(table, class_names) for name, (table, class_names) in tables.items()}
    masks = {
        name: mask_layer(table, class_names) for name, (table, class_names) in tables.items() if table.masks is not None
    }
    return to_picture(np.asarray(picture.record.source.read())), boxes, masks


def box_layer(table: Detections | Targets, class_names: Sequence[str]) -> Layer:
    """Boxes with class, score and caption.

    Args:
        table: R instances in pixels of the image.
        class_names: by class index.
    """
    scores = table.scores.tolist() if isinstance(table, Detections) else None
    boxes = []
    for row, (box, index) in enumerate(zip(table.boxes.tolist(), table.classes.tolist(), strict=True)):
        name = _name_of(index, class_names)
        entry: Layer = {
            "position": dict(zip(("minX", "minY", "maxX", "maxY"), box, strict=True)),
            "domain": "pixel",
            "class_id": index + 1,
            "box_caption": name if scores is None else f"{name} {scores[row]:.0%}",
        }
        boxes.append(entry if scores is None else entry | {"scores": {"score": scores[row]}})
    return {"box_data": boxes, "class_labels": _labels(table, class_names)}


def mask_layer(table: Detections | Targets, class_names: Sequence[str]) -> Layer:
    """One map of class ids; where masks overlap the smaller object is in front.

    Args:
        table: R instances with masks, in pixels of the image.
        class_names: by class index.
    """
    labels = {NO_OBJECT: "no object", **_labels(table, class_names)}
    ids = {index: index + 1 for index in set(table.classes.tolist())}
    if max(ids.values(), default=0) > LARGEST_ID:  # the ids of this image alone
        ids = {index: number for number, index in enumerate(sorted(ids)[:LARGEST_ID], start=1)}
        labels = {NO_OBJECT: "no object", **{number: _name_of(index, class_names) for index, number in ids.items()}}
    painted = np.zeros(table.image_size, dtype=np.uint8)
    classes = table.classes.tolist()
    for row, window in masks_largest_first(table):
        if classes[row] in ids:
            left, top, right, bottom = window.box
            painted[top:bottom, left:right][window.bitmap.astype(np.bool_)] = ids[classes[row]]
    return {"mask_data": painted, "class_labels": labels}


def _labels(table: Detections | Targets, class_names: Sequence[str]) -> Mapping[int, str]:
    indices = {*range(len(class_names)), *table.classes.tolist()}
    return {index + 1: _name_of(index, class_names) for index in sorted(indices)}


def _name_of(index: int, class_names: Sequence[str]) -> str:
    return class_names[index] if 0 <= index < len(class_names) else str(index)
