"""Ground truth and detections of squares, as metrics of EVAL.METRICS take them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.evaluation.backends import curves_by_pycocotools
from mrcnn_zoo.evaluation.ground_truth import complete_ground_truth
from mrcnn_zoo.evaluation.metrics.contract import Evaluated
from mrcnn_zoo.ops import rle

CAT, DOG = 14, 7  # category ids of classes 0 and 1 of the fixture `dataset_of`
IMAGE_SIZE = (100, 100)


def detection(category_id: int, box: Sequence[float], score: float = 0.9, *, image_id: int = 10) -> dict[str, Any]:
    """A result row whose mask fills its box (x, y, width, height)."""
    x, y, width, height = box
    mask = rle.encode_polygons([[x, y, x + width, y, x + width, y + height, x, y + height]], IMAGE_SIZE)
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": list(map(float, box)),
        "score": score,
        "segmentation": mask,
    }


def evaluated_of(
    dataset: Dataset, rows: Sequence[dict[str, Any]], *, tasks: tuple[str, ...] = ("bbox", "segm")
) -> Evaluated:
    """What a metric is called with, curves included."""
    evaluated = Evaluated(complete_ground_truth(dataset), list(rows), tasks, dataset.name)
    return replace(
        evaluated,
        curves={
            task: curves_by_pycocotools(evaluated.ground_truth_of(task), evaluated.detections_of(task), task, [1, 100])
            for task in tasks
        },
    )


def random_rows(dataset: Dataset, *, seed: int) -> list[dict[str, Any]]:
    """Detections near the objects, some of another class, some twice, and some far from all; scores may be equal."""
    random = np.random.default_rng(seed)
    rows = []
    for record in dataset.records:
        for instance in record.instances:
            x1, y1, x2, y2 = instance.box
            for _ in range(random.integers(0, 3)):
                x, y = np.clip(np.array([x1, y1]) + random.normal(0, (x2 - x1) / 8, 2), 0, 80)
                category_id = dataset.category_ids[(instance.class_index + (random.random() < 0.2)) % 2]
                box = (x, y, min(x2 - x1, 100 - x), min(y2 - y1, 100 - y))
                rows.append(detection(category_id, box, random.integers(1, 40) / 40, image_id=record.image_id))
        rows.append(detection(CAT, (*random.uniform(0, 60, 2), 12, 12), random.random() / 2, image_id=record.image_id))
    return rows
