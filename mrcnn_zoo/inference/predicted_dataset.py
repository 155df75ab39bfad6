"""Predictions on image files as a dataset, which the writers of all annotation formats can write."""

from collections import Counter
from collections.abc import Sequence

from torch import nn

from mrcnn_zoo.data.loading.mapper import EvalMapper
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord, RepairLog
from mrcnn_zoo.evaluation.limits import DetectionTally
from mrcnn_zoo.inference.image_files import PredictedImages, predicted_files
from mrcnn_zoo.inference.image_inputs import FoundImages
from mrcnn_zoo.inference.thresholds import ScoreThreshold
from mrcnn_zoo.ops import rle
from mrcnn_zoo.structures import Detections

VISIBLE = 2.0  # COCO's value of a labelled keypoint


def predict_dataset(
    model: nn.Module,
    found: FoundImages,
    *,
    mapper: EvalMapper,
    class_names: Sequence[str],
    category_ids: Sequence[int] = (),
    score_threshold: ScoreThreshold,
    tally: DetectionTally | None = None,
) -> tuple[Dataset, PredictedImages]:
    """Detect objects in image files.

    Images that cannot be read are logged and skipped; an object whose mask has no pixel is left out and counted.

    Args:
        model: with `predict(samples)`.
        found: image files, see `find_images`.
        mapper: see `predict_image`.
        class_names: by class index.
        category_ids: by class index; 1, 2, ... by default.
        score_threshold: minimum score, in [0, 1]; of all classes, or by class index.
        tally: see `predict_images`.

    Returns:
        Objects with scores, and counts and failures; no records where no image can be read.
    """
    result, log = PredictedImages(), RepairLog("object")
    records: list[ImageRecord] = []
    number, num_keypoints = 0, 0
    for source, pixels, objects, _ in predicted_files(
        model, found, result, mapper=mapper, tally=tally, threshold=score_threshold
    ):
        instances = _instances(objects, first_id=number + 1)
        number += len(instances)
        num_keypoints = num_keypoints if objects.keypoints is None else objects.keypoints.shape[1]
        left_out = [source.name] * (len(objects) - len(instances))
        log.add("objects without a pixel in their mask left out", left_out, name="image")
        size = (pixels.shape[0], pixels.shape[1])
        records.append(ImageRecord(len(records) + 1, source, size, tuple(instances)))
        result.counts[source.name] = Counter(class_names[item.class_index] for item in instances)
    dataset = Dataset(
        "predictions",
        tuple(records),
        tuple(class_names),
        tuple(category_ids or range(1, len(class_names) + 1)),
        keypoint_names=tuple(f"keypoint_{point}" for point in range(1, num_keypoints + 1)),
        keypoint_flip_pairs=None if num_keypoints else (),
        notes=log.notes(),
    )
    return dataset, result


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
