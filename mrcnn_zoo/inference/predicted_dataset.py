"""Predictions as a dataset, which the writers of all annotation formats can write."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mrcnn_zoo.data.annotations.contract import AnnotationFormat
from mrcnn_zoo.data.annotations.folders import write_dataset
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord, RepairLog
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inference.image_inputs import LoadedImage
from mrcnn_zoo.ops import rle
from mrcnn_zoo.output_files import check_output_folder
from mrcnn_zoo.registries import ANNOTATION_FORMATS
from mrcnn_zoo.structures import Detections

if TYPE_CHECKING:
    from mrcnn_zoo.inference.prediction import Prediction

VISIBLE = 2.0  # COCO's value of a labelled keypoint


def predicted_dataset(
    predictions: "Iterable[Prediction]", class_names: tuple[str, ...], category_ids: tuple[int, ...]
) -> Dataset:
    """A dataset of predictions; an object whose mask has no pixel is left out and counted in its notes.

    Args:
        predictions: of images, numbered in their order.
        class_names: by class index.
        category_ids: by class index.
    """
    log = RepairLog("object")
    records: list[ImageRecord] = []
    number, num_keypoints = 0, 0
    for prediction in predictions:
        objects = prediction.detections
        instances = _instances(objects, first_id=number + 1)
        number += len(instances)
        num_keypoints = num_keypoints if objects.keypoints is None else objects.keypoints.shape[1]
        left_out = [prediction.name] * (len(objects) - len(instances))
        log.add("objects without a pixel in their mask left out", left_out, name="image")
        source = prediction.source or LoadedImage(prediction.name, prediction.pixels)
        records.append(ImageRecord(len(records) + 1, source, objects.image_size, tuple(instances)))
    return Dataset(
        "predictions",
        tuple(records),
        class_names,
        category_ids,
        keypoint_names=tuple(f"keypoint_{point}" for point in range(1, num_keypoints + 1)),
        keypoint_flip_pairs=None if num_keypoints else (),
        notes=log.notes(),
    )


def save_predictions(
    predictions: "Iterable[Prediction]",
    folder: str | Path,
    *,
    format: str = "coco",
    copies_images: bool | None = None,
    tolerance: float = 0.0,
    may_overwrite: bool = False,
) -> tuple[str, ...]:
    """Write predictions as a dataset, e.g. to correct it in an annotation tool or to train on it.

    Args:
        predictions: of a `Predictor`, at least one; an iterator is read once, and its images are not kept.
        folder: new or empty.
        format: "coco", "labelme", "yolo", "voc", "cvat", ...: see `mrcnn-zoo predict --help`.
        copies_images: whether image files are copied into the folder; by default only where the format cannot refer to
            them. Arrays are always written.
        tolerance: in pixels, by which polygons may differ from the mask to have fewer points.
        may_overwrite: whether a dataset that was written before, and not changed since, is replaced.

    Returns:
        What the format cannot hold, and objects that are left out, with counts.

    Raises:
        UserError: no prediction, those of models with other classes, an unknown format, or a folder in use.
    """
    kind: AnnotationFormat = ANNOTATION_FORMATS.get(format, key="format")()
    output = check_output_folder(folder, option="folder")
    if not isinstance(predictions, Iterable) or isinstance(predictions, str):
        raise UserError("save_predictions takes several predictions, e.g. a list; call prediction.save for one.")
    images = iter(predictions)
    first = next(images, None)
    if first is None:
        raise UserError(f"there are no predictions to write to {output}.")
    dataset = predicted_dataset(_of_one_model(first, images), first.class_names, first.category_ids)
    copies = not kind.finds_images_elsewhere if copies_images is None else copies_images
    lost = write_dataset(
        {"": dataset}, output, kind, copies_images=copies, tolerance=tolerance, may_overwrite=may_overwrite
    )
    return (*dataset.notes, *lost)


def _of_one_model(first: "Prediction", others: "Iterable[Prediction]") -> "Iterator[Prediction]":
    yield first
    for prediction in others:
        if prediction.class_names != first.class_names:
            raise UserError(
                f"{prediction.name} is predicted with the classes {', '.join(prediction.class_names[:3])}, but "
                f"{first.name} with {', '.join(first.class_names[:3])}: save "
                "the predictions of each model in a folder of its own."
            )
        yield prediction


def _instances(objects: Detections, *, first_id: int) -> list[InstanceRecord]:
    """The objects with a mask of at least one pixel, or with a box alone where the model predicts no masks."""
    rles = [None] * len(objects) if objects.masks is None else objects.masks.rles()
    points = [None] * len(objects) if objects.keypoints is None else objects.keypoints.double().cpu().tolist()
    columns = zip(objects.boxes.tolist(), objects.scores.tolist(), objects.classes.tolist(), rles, points, strict=True)
    instances: list[InstanceRecord] = []
    for (x1, y1, x2, y2), score, index, mask, keypoints in columns:
        if mask is not None and rle.area(mask) == 0:
            continue
        labelled = None if keypoints is None else tuple(value for x, y, _ in keypoints for value in (x, y, VISIBLE))
        item = InstanceRecord(
            (x1, y1, x2, y2), index, mask, labelled, annotation_id=first_id + len(instances), score=score
        )
        instances.append(item)
    return instances
