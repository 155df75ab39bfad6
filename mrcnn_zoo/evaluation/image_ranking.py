"""Counts and a score per image, and the best, the worst and the most confidently wrong images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.evaluation.metrics.cells import match_one_to_one
from mrcnn_zoo.evaluation.metrics.contract import Evaluated
from mrcnn_zoo.evaluation.metrics.overlaps import ImageOverlaps, image_overlaps
from mrcnn_zoo.evaluation.operating_points import MATCH_IOU
from mrcnn_zoo.evaluation.result_rows import Row

FALSE, MISSED = "false", "missed"


@dataclass(frozen=True)
class ImageError:
    """A false detection or a missed object."""

    kind: str  # FALSE or MISSED
    item: Row  # the detection or the annotation
    class_name: str
    confidence: float  # in [0, 1], see `image_results`
    text: str  # one sentence


@dataclass(frozen=True)
class ImageResult:
    """What a model finds in one image, among detections from a score on."""

    image: dict[str, Any]  # of the COCO dataset: id, file_name, height, width
    found: tuple[tuple[Row, Row, float], ...]  # (annotation, detection, IoU) of each pair, by descending score
    errors: tuple[ImageError, ...]  # the most confident first

    @property
    def num_objects(self) -> int:
        """Objects without crowds."""
        return len(self.found) + self.num_missed

    @property
    def num_missed(self) -> int:
        """Objects without a detection."""
        return sum(error.kind == MISSED for error in self.errors)

    @property
    def num_false(self) -> int:
        """Detections without an object."""
        return sum(error.kind == FALSE for error in self.errors)

    @property
    def mean_iou(self) -> float:
        """Of the pairs; nan without one."""
        return sum(iou for _, _, iou in self.found) / len(self.found) if self.found else math.nan

    @property
    def score(self) -> float:
        """Sum of IoU over TP + (FP + FN) / 2, in [0, 1]; 1 in an image without objects and detections.

        That is the panoptic quality of the image without regard to classes, with pairs from IoU 0.5 on.
        """
        total = len(self.found) + len(self.errors) / 2
        return sum(iou for _, _, iou in self.found) / total if total else 1.0

    @property
    def confidence(self) -> float:
        """Of the most confident error; 0 without one."""
        return self.errors[0].confidence if self.errors else 0.0


def image_results(evaluated: Evaluated, *, score_threshold: float = 0.5, task: str | None = None) -> list[ImageResult]:
    """The results of all images, in the order of the dataset.

    Detections and objects of a class are matched one to one from IoU 0.5 on, as many as possible. A detection without
    an object that lies in a crowd is not counted. The confidence of a false detection is its score; that of a missed
    object is the share of found objects of its class, times 1 - the highest score of a detection of its class on it.

    Args:
        evaluated: ground truth and detections.
        score_threshold: minimum score of a detection.
        task: "bbox" or "segm", whose IoU it is; by default masks where they are evaluated.
    """
    task = task or evaluated.mask_task
    names = dict(zip(evaluated.category_ids, evaluated.class_names, strict=True))
    images = list(image_overlaps(evaluated, task))
    matched = [match_objects(overlaps, overlaps.scores >= score_threshold) for overlaps in images]
    shares = _found_shares(images, matched, evaluated.category_ids)
    return [
        _result(overlaps, pairs, shares, names, score_threshold)
        for overlaps, pairs in zip(images, matched, strict=True)
    ]


def best_images(results: Sequence[ImageResult], count: int) -> list[ImageResult]:
    """Images with the highest score; of equal ones those with more objects first. Images without objects are left out.

    Args:
        results: see `image_results`.
        count: maximum number of images.
    """
    with_objects = [result for result in results if result.num_objects]
    return sorted(with_objects, key=lambda result: (-result.score, -result.num_objects))[:count]


def worst_images(results: Sequence[ImageResult], count: int) -> list[ImageResult]:
    """Images with the lowest score; of equal ones those with more errors first. Images without errors are left out.

    Args:
        results: see `image_results`.
        count: maximum number of images.
    """
    with_errors = [result for result in results if result.errors]
    return sorted(with_errors, key=lambda result: (result.score, -len(result.errors)))[:count]


def confidently_wrong_images(results: Sequence[ImageResult], count: int) -> list[ImageResult]:
    """Images by their most confident error; of equal ones those with the higher sum first. Without errors: left out.

    Args:
        results: see `image_results`.
        count: maximum number of images.
    """
    with_errors = [result for result in results if result.errors]
    sums = {id(result): sum(error.confidence for error in result.errors) for result in with_errors}
    return sorted(with_errors, key=lambda result: (-result.confidence, -sums[id(result)]))[:count]


Pairs = tuple[NDArray[np.intp], NDArray[np.intp]]  # rows and columns of the IoU matrix


def match_objects(overlaps: ImageOverlaps, is_used: NDArray[np.bool_]) -> Pairs:
    """The detections that find an object and their objects, see `image_results`; by descending score.

    Args:
        overlaps: of the image.
        is_used: (D,) detections that count.
    """
    is_allowed = overlaps.same_class & is_used[:, None] & ~overlaps.is_crowd
    rows, columns = match_one_to_one(np.where(is_allowed, overlaps.ious, 0.0), MATCH_IOU)
    order = np.argsort(rows, kind="stable")  # detections are in descending order of score
    return rows[order], columns[order]


def _found_shares(
    images: Sequence[ImageOverlaps], matched: Sequence[Pairs], category_ids: Sequence[int]
) -> dict[int, float]:
    """The share of found objects by category id; of all objects where a class has none."""
    classes = np.concatenate([np.zeros(0), *(overlaps.object_classes[~overlaps.is_crowd] for overlaps in images)])
    found = np.concatenate(
        [
            np.zeros(0),
            *(overlaps.object_classes[columns] for overlaps, (_, columns) in zip(images, matched, strict=True)),
        ]
    )
    counts = {name: (int((found == name).sum()), int((classes == name).sum())) for name in category_ids}
    return {name: true / total if total else 0.0 for name, (true, total) in counts.items()}


def _result(
    overlaps: ImageOverlaps, pairs: Pairs, shares: dict[int, float], names: dict[int, str], score_threshold: float
) -> ImageResult:
    rows, columns = pairs
    errors = [
        *_false_detections(overlaps, rows, names, score_threshold),
        *_missed_objects(overlaps, columns, shares, names),
    ]
    return ImageResult(
        image=overlaps.image,
        found=tuple(
            (overlaps.objects[column], overlaps.rows[row], float(overlaps.ious[row, column]))
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
        ),
        errors=tuple(sorted(errors, key=lambda error: -error.confidence)),
    )


def _false_detections(
    overlaps: ImageOverlaps, found: NDArray[np.intp], names: dict[int, str], score_threshold: float
) -> list[ImageError]:
    is_false = (overlaps.scores >= score_threshold) & ~overlaps.in_crowd
    is_false[found] = False
    errors = []
    for row in np.flatnonzero(is_false).tolist():
        name, score = names[int(overlaps.row_classes[row])], float(overlaps.scores[row])
        ious = np.where(overlaps.is_crowd, 0.0, overlaps.ious[row])
        place = "on no object"
        if ious.max(initial=0.0) > 0:
            nearest = int(ious.argmax())
            place = f"IoU {ious[nearest]:.2f} with {names[int(overlaps.object_classes[nearest])]!r}"
        errors.append(
            ImageError(FALSE, overlaps.rows[row], name, score, f"false {name!r} with score {score:.2f}, {place}")
        )
    return errors


def _missed_objects(
    overlaps: ImageOverlaps, found: NDArray[np.intp], shares: dict[int, float], names: dict[int, str]
) -> list[ImageError]:
    is_missed = ~overlaps.is_crowd
    is_missed[found] = False
    is_on_object = overlaps.same_class & (overlaps.ious >= MATCH_IOU)
    scores = np.where(is_on_object, overlaps.scores[:, None], 0.0).max(axis=0, initial=0.0)
    errors = []
    for column in np.flatnonzero(is_missed).tolist():
        class_id, score = int(overlaps.object_classes[column]), float(scores[column])
        text = f"missed {names[class_id]!r}; the highest score of its class on it is {score:.2f}"
        errors.append(
            ImageError(MISSED, overlaps.objects[column], names[class_id], shares[class_id] * (1 - score), text)
        )
    return errors
