"""Precision and recall of a part of the classes at a time, so that memory does not grow with the detections.

The libraries need a dictionary of about 1 KB per detection, and compute each class for itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from mrcnn_zoo.evaluation.backends import Backend, Curves, Matches, detection_set
from mrcnn_zoo.evaluation.metrics.contract import Evaluated
from mrcnn_zoo.evaluation.result_rows import category_counts, rows_of_categories

MOST_DETECTIONS = 200_000  # of the classes of a part, unless a single class has more


def curves_by_parts(
    backend: Backend, evaluated: Evaluated, task: str, limits: Sequence[int], *, sigmas: Sequence[float] = ()
) -> Curves:
    """The numbers of `backend` for all classes.

    Args:
        backend: computes the parts.
        evaluated: ground truth and detections.
        task: "bbox", "segm" or "keypoints".
        limits: (L,) maximum numbers of detections per image, ascending.
        sigmas: of each keypoint, see `Backend`.
    """
    truth = evaluated.ground_truth_of(task)
    options: dict[str, Any] = {"sigmas": sigmas} if sigmas else {}
    curves, matches = [], []
    for ids in _parts(evaluated):
        part = truth | {
            "categories": [category for category in truth["categories"] if category["id"] in ids],
            "annotations": [annotation for annotation in truth["annotations"] if annotation["category_id"] in ids],
        }
        detections = detection_set(rows_of_categories(evaluated.rows, ids), part, task)
        found = backend(part, detections, task, limits, **options)
        # Now, and only where they are used: until then the library keeps all objects of the part.
        matches.append(found.matches if task == evaluated.mask_task else None)
        curves.append(replace(found, find_matches=None))
    return replace(
        curves[0],
        precision=np.concatenate([part.precision for part in curves], axis=2),
        recall=np.concatenate([part.recall for part in curves], axis=1),
        find_matches=None if None in matches else partial(_merged, matches),
    )


def _merged(matches: Sequence[Mapping[int, Matches] | None]) -> dict[int, Matches]:
    return {category: found for part in matches if part for category, found in part.items()}


def _parts(evaluated: Evaluated) -> Iterator[set[int]]:
    """Category ids in ascending order, in parts of at most MOST_DETECTIONS detections."""
    ids = sorted(evaluated.category_ids)
    counts = category_counts(evaluated.rows)
    part: set[int] = set()
    size = 0
    for category in ids:
        if part and size + counts[category] > MOST_DETECTIONS:
            yield part
            part, size = set(), 0
        part.add(category)
        size += counts[category]
    yield part
