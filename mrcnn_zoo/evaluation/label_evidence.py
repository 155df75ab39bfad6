"""Objects and detections paired for the search of label errors, and how often the model is right at such scores."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.evaluation.ground_truth import SEGM
from mrcnn_zoo.evaluation.metrics.contract import Evaluated
from mrcnn_zoo.evaluation.metrics.overlaps import ImageOverlaps, image_overlaps, overlap_matrix, pairs_of_largest_sum
from mrcnn_zoo.evaluation.operating_points import MATCH_IOU
from mrcnn_zoo.evaluation.result_rows import Row
from mrcnn_zoo.ops import rle

Floats = NDArray[np.float64]

MIN_PAIR_IOU = 0.1  # of an object and a detection that may be meant for it
OTHER_CLASS = 0.9  # weight of a pair of different classes
CONFIDENT = 0.5  # share of right detections at its score from which one counts for the reliability of its image
NEIGHBOURS = 100  # detections of similar score, or objects of similar size, whose share is measured
LARGEST_PART = 5  # of a small dataset: a fifth of its detections or objects, and no fewer than FEWEST_NEIGHBOURS
FEWEST_NEIGHBOURS = 10
GROUP_PRIOR = 20.0  # objects or detections: strength of the overall share in that of a class or another group
BORDER = 2.0  # pixels from the border of the image at which a box touches it
IMAGE_PRIOR = 10.0  # objects: strength of the overall agreement in that of an image


@dataclass(frozen=True)
class ImagePairs:
    """Objects and detections of an image, each in at most one pair. D detections, G objects without crowds.

    Of detections that overlap by half, whatever their classes, only the one with the highest score is leading: the
    others are its duplicates, and are used for the scores of other classes alone.
    """

    image: dict[str, Any]  # of the COCO dataset
    rows: list[Row]  # D, in descending order of score
    objects: list[Row]  # G annotations
    scores: Floats  # (D,)
    row_classes: NDArray[np.int64]  # (D,) category ids
    object_classes: NDArray[np.int64]  # (G,) category ids
    ious: Floats  # (D, G)
    row_ious: Floats  # (D, D)
    object_ious: Floats  # (G, G)
    row_areas: Floats  # (D,) square pixels
    object_areas: Floats  # (G,) square pixels
    is_leading: NDArray[np.bool_]  # (D,)
    object_of: NDArray[np.int64]  # (D,) paired object, or -1
    row_of: NDArray[np.int64]  # (G,) paired detection, or -1

    @cached_property
    def pair_ious(self) -> Floats:
        """(G,) IoU of each object with its detection; 0 without one."""
        ious = np.zeros(len(self.objects))
        places = np.flatnonzero(self.row_of >= 0)
        ious[places] = self.ious[self.row_of[places], places]
        return ious

    @cached_property
    def shared(self) -> Floats:
        """(D, G) square pixels that a detection and an object share."""
        return self.ious * (self.row_areas[:, None] + self.object_areas) / (1 + self.ious)

    @cached_property
    def is_right(self) -> NDArray[np.bool_]:
        """(D,) whether a detection is paired with an object, of any class, at IoU 0.5."""
        right = np.zeros(len(self.rows), dtype=bool)
        right[self.row_of[self.pair_ious >= MATCH_IOU]] = True
        return right


def image_pairs(evaluated: Evaluated, task: str) -> Iterator[ImagePairs]:
    """Pairs per image, in the order of the dataset.

    Args:
        evaluated: ground truth and detections.
        task: "bbox" or "segm", whose IoU it is.
    """
    for overlaps in image_overlaps(evaluated, task):
        yield _pair(overlaps, task)


def _pair(overlaps: ImageOverlaps, task: str) -> ImagePairs:
    is_object = ~overlaps.is_crowd
    in_crowd = overlaps.in_crowd
    rows = [row for row, is_in in zip(overlaps.rows, in_crowd, strict=True) if not is_in]
    objects = [item for item, is_crowd in zip(overlaps.objects, overlaps.is_crowd, strict=True) if not is_crowd]
    ious, scores = overlaps.ious[~in_crowd][:, is_object], overlaps.scores[~in_crowd]
    row_ious, object_ious = (
        overlap_matrix(items, items, task, np.zeros(len(items), dtype=bool)) for items in (rows, objects)
    )
    is_leading = np.ones(len(rows), dtype=bool)
    for row in range(len(rows)):
        if is_leading[row]:
            is_leading[row + 1 :] &= row_ious[row, row + 1 :] < MATCH_IOU
    is_same = overlaps.same_class[~in_crowd][:, is_object]
    # Not by IoU alone: a detection with a low score would take the object of a confident one.
    weights = np.where(ious >= MIN_PAIR_IOU, ious * scores[:, None] * np.where(is_same, 1.0, OTHER_CLASS), 0.0)
    weights[~is_leading] = 0.0
    found, places = pairs_of_largest_sum(weights)
    is_pair = weights[found, places] > 0
    object_of, row_of = np.full(len(rows), -1), np.full(len(objects), -1)
    object_of[found[is_pair]], row_of[places[is_pair]] = places[is_pair], found[is_pair]
    return ImagePairs(
        image=overlaps.image,
        rows=rows,
        objects=objects,
        scores=scores,
        row_classes=overlaps.row_classes[~in_crowd],
        object_classes=overlaps.object_classes[is_object],
        ious=ious,
        row_ious=row_ious,
        object_ious=object_ious,
        row_areas=_areas(rows, task),
        object_areas=_areas(objects, task),
        is_leading=is_leading,
        object_of=object_of,
        row_of=row_of,
    )


def _areas(items: Sequence[Row], task: str) -> Floats:
    areas = [rle.area(item["segmentation"]) if task == SEGM else item["bbox"][2] * item["bbox"][3] for item in items]
    return np.maximum(np.array(areas, dtype=np.float64), 1e-9)


@dataclass(frozen=True)
class Evidence:
    """An image with shares that are measured on the whole dataset, each in [0, 1]."""

    pairs: ImagePairs
    right_share: Floats  # (D,) of detections of similar score and the same class: those on an object
    found_share: Floats  # (G,) of objects of similar size and the same class: those with a detection at IoU 0.5
    usual_iou: Floats  # (G,) median IoU of the found objects of similar size
    overall: float  # agreement of all images, see `agreement`

    def agreement(self, without: int = 0) -> float:
        """2 TP / (2 TP + FP + FN) of the confident detections of the image, smoothed with that of all images.

        Args:
            without: errors that are not counted, those that the suspect itself consists of.
        """
        true, errors = agreement_counts(self.pairs, self.right_share)
        errors = max(errors - without, 0)
        return float((2 * true + IMAGE_PRIOR * self.overall) / (2 * true + errors + IMAGE_PRIOR))


def agreement_counts(pairs: ImagePairs, right_share: Floats) -> tuple[int, int]:
    """Right confident detections, and the false ones and unfound objects together.

    Args:
        pairs: of the image.
        right_share: see `Evidence`.
    """
    is_confident = pairs.is_leading & (right_share >= CONFIDENT)
    true = int((pairs.is_right & is_confident).sum())
    return true, int(is_confident.sum()) + len(pairs.objects) - 2 * true


def collect_evidence(evaluated: Evaluated, task: str) -> list[Evidence]:
    """The evidence of all images, in the order of the dataset.

    Args:
        evaluated: ground truth and detections.
        task: "bbox" or "segm".
    """
    images = list(image_pairs(evaluated, task))
    right = _right_shares(images)
    found, usual = _found_shares(images)
    counts = [agreement_counts(pairs, shares) for pairs, shares in zip(images, right, strict=True)]
    true, errors = (sum(values) for values in zip(*counts, strict=True)) if counts else (0, 0)
    overall = 2 * true / max(2 * true + errors, 1)
    return [Evidence(*values, overall=overall) for values in zip(images, right, found, usual, strict=True)]


def _right_shares(images: Sequence[ImagePairs]) -> list[Floats]:
    scores = _joined([pairs.scores for pairs in images])
    classes = _joined([pairs.row_classes for pairs in images])
    at_border = _joined([_touches_border(pairs.rows, pairs.image) for pairs in images])
    is_used = _joined([pairs.is_leading for pairs in images]).astype(bool)
    is_right = _joined([pairs.is_right for pairs in images])
    shares = local_share(scores, is_right, [classes, at_border], is_used=is_used)
    return _parts(shares, [len(pairs.rows) for pairs in images])


def _found_shares(images: Sequence[ImagePairs]) -> tuple[list[Floats], list[Floats]]:
    sizes = np.log(_joined([pairs.object_areas for pairs in images]))
    classes = _joined([pairs.object_classes for pairs in images])
    at_border = _joined([_touches_border(pairs.objects, pairs.image) for pairs in images])
    ious = _joined([pairs.pair_ious for pairs in images])
    is_found = ious >= MATCH_IOU
    shares = local_share(sizes, is_found, [classes, at_border], is_used=np.ones(len(sizes), dtype=bool))
    counts = [len(pairs.objects) for pairs in images]
    return _parts(shares, counts), _parts(local_median(sizes[is_found], ious[is_found], at=sizes), counts)


def _touches_border(items: Sequence[Row], image: dict[str, Any]) -> NDArray[np.bool_]:
    """Whether boxes end at the border of the image: objects that it cuts are found less often."""
    boxes = np.array([item["bbox"] for item in items], dtype=np.float64).reshape(-1, 4)
    ends, size = boxes[:, :2] + boxes[:, 2:], np.array([image["width"], image["height"]])
    return np.any((boxes[:, :2] <= BORDER) | (ends >= size - BORDER), axis=1)


def local_share(
    values: Floats, is_true: NDArray[Any], groupings: Sequence[NDArray[Any]], *, is_used: NDArray[np.bool_]
) -> Floats:
    """The share of true cases among the cases of most similar value, corrected by the shares of groups.

    The correction by a group is the number of its true cases over the expected one, both with 20 cases more.

    Args:
        values: (N,) of the cases.
        is_true: (N,) bool.
        groupings: each (N,): the group of each case, e.g. its class.
        is_used: (N,) cases that are counted.

    Returns:
        (N,) in [0, 1], also of those not counted; 0 without counted cases.
    """
    order = np.flatnonzero(is_used)[np.argsort(values[is_used], kind="stable")]
    sums, count = np.concatenate([[0.0], np.cumsum(is_true[order])]), _neighbours(len(order))
    first = np.clip(np.searchsorted(values[order], values) - count // 2, 0, len(order) - count)
    shares: Floats = (sums[first + count] - sums[first]) / max(count, 1)
    for groups in groupings:
        for group in np.unique(groups):
            own = groups == group
            expected = shares[own & is_used].sum() + GROUP_PRIOR
            shares[own] *= (is_true[own & is_used].sum() + GROUP_PRIOR) / expected
    return np.minimum(shares, 1.0)


def local_median(positions: Floats, values: Floats, *, at: Floats) -> Floats:
    """The median of the values at the most similar positions.

    Args:
        positions: (N,).
        values: (N,).
        at: (Q,) positions whose median is returned.

    Returns:
        (Q,); 0 without values.
    """
    if not len(values):
        return np.zeros(len(at))
    order = np.argsort(positions, kind="stable")
    count = _neighbours(len(values))
    windows = np.lib.stride_tricks.sliding_window_view(values[order], count)
    first = np.clip(np.searchsorted(positions[order], at) - count // 2, 0, len(values) - count)
    places, inverse = np.unique(first, return_inverse=True)
    medians: Floats = np.median(windows[places], axis=1)[inverse]
    return medians


def _neighbours(total: int) -> int:
    return min(NEIGHBOURS, max(FEWEST_NEIGHBOURS, total // LARGEST_PART), total)


def _joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(0)


def _parts(values: Floats, counts: Sequence[int]) -> list[Floats]:
    return np.split(values, np.cumsum(counts)[:-1]) if counts else []
