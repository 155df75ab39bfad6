"""Predictions as a dataset, which the writers of all annotation formats can write."""

from collections import Counter
from collections.abc import Iterable, Iterator

from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord, RepairLog
from mrcnn_zoo.evaluation.limits import DetectionTally
from mrcnn_zoo.inference.image_detector import ImageDetector
from mrcnn_zoo.inference.image_files import PredictedImages, predict_files
from mrcnn_zoo.inference.image_inputs import FoundImages, LoadedImage
from mrcnn_zoo.inference.prediction import Prediction
from mrcnn_zoo.inference.thresholds import ScoreThreshold
from mrcnn_zoo.ops import rle
from mrcnn_zoo.structures import Detections

VISIBLE = 2.0  # COCO's value of a labelled keypoint


def predict_dataset(
    detector: ImageDetector,
    found: FoundImages,
    *,
    score_threshold: ScoreThreshold,
    batch_size: int = 1,
    tally: DetectionTally | None = None,
) -> tuple[Dataset, PredictedImages]:
    """Detect objects in image files.

    Images that cannot be read are logged and skipped; an object whose mask has no pixel is left out and counted.

    Args:
        detector: of the objects.
        found: image files, see `find_images`.
        score_threshold: minimum score, in [0, 1]; of all classes, or by class index.
        batch_size: images per forward pass.
        tally: see `predict_images`.

    Returns:
        Objects with scores, and counts and failures; no records where no image can be read.
    """
    result = PredictedImages()

    def predictions() -> Iterator[Prediction]:
        for prediction, _ in predict_files(
            detector, found, result, threshold=score_threshold, batch_size=batch_size, tally=tally
        ):
            yield prediction

    dataset = predicted_dataset(predictions(), detector.class_names, detector.category_ids)
    for record in dataset.records:
        result.counts[record.source.name] = Counter(dataset.class_names[item.class_index] for item in record.instances)
    return dataset, result


def predicted_dataset(
    predictions: Iterable[Prediction], class_names: tuple[str, ...], category_ids: tuple[int, ...]
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
