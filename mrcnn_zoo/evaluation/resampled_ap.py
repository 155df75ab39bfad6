"""AP of resampled images by weighted cumulative sums, for many resamples at once.

A resample is a dataset in which an image is contained as often as it was drawn, with its detections. The result is that
of pycocotools on this dataset, where copies follow their original.
"""

import math
from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.evaluation.backends import IOU_THRESHOLDS, RECALL_THRESHOLDS
from mrcnn_zoo.evaluation.bootstrap import ImageMatches
from mrcnn_zoo.evaluation.tables import IOU_50, IOU_75, PER_CLASS

MAX_CELLS = 4_000_000  # detections of a class times resamples that are computed at a time; 8 bytes each, a few arrays
ALL_AREAS = "all"
CONFIDENCE = 0.95
RECALL_LEVELS = np.array(RECALL_THRESHOLDS)

Weights = NDArray[np.uint16]  # (B, N)
Values = NDArray[np.float64]


def draw_weights(
    num_images: int, resamples: int, *, seed: int = 0, groups: Sequence[Hashable] | None = None
) -> NDArray[np.uint16]:
    """Draw bootstrap resamples: how often each image is drawn.

    Args:
        num_images: N.
        resamples: B.
        seed: equal seeds and numbers give equal resamples.
        groups: (N,) group of each image, e.g. its slide; whole groups are drawn. None draws images.

    Returns:
        (B, N); the sum of a row is N without groups, and near N with groups of different sizes.
    """
    generator = np.random.default_rng(seed)
    group_of_image = np.arange(num_images)
    if groups is not None:
        numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
        group_of_image = np.array([numbers[group] for group in groups], dtype=np.int64)
    count = int(group_of_image.max(initial=-1)) + 1
    weights = np.empty((resamples, num_images), dtype=np.uint16)
    for row in weights:
        drawn = np.bincount(generator.integers(0, max(count, 1), count), minlength=count)
        row[:] = drawn[group_of_image]
    return weights


def draw_images(matches: ImageMatches, resamples: int, *, seed: int = 0) -> NDArray[np.uint16]:
    """(B, N) bootstrap resamples of the images of a test set, of whole groups where it has some; see `draw_weights`.

    Args:
        matches: of the test set.
        resamples: B.
        seed: equal seeds, images and groups give equal resamples.
    """
    groups = matches.groups.tolist() if matches.num_groups < len(matches) else None
    return draw_weights(len(matches), resamples, seed=seed, groups=groups)


def resampled_ap(
    matches: ImageMatches, weights: NDArray[np.integer], *, areas: Sequence[str] | None = None
) -> dict[str, Values]:
    """AP, AP50, AP75, AP by size and AP per class of every resample, in percent.

    Args:
        matches: of N images.
        weights: (B, N) how often each image is contained, see `draw_weights`; all 1 is the dataset itself.
        areas: size classes to compute; None for all of the matches.

    Returns:
        By metric name as in the COCO table, (B,); nan where a resample has no objects.
    """
    chosen = [area for area in matches.areas if areas is None or area in areas or area == ALL_AREAS]
    names = ["AP", "AP50", "AP75", *(f"AP{area[0]}" for area in chosen[1:])]
    names += [PER_CLASS + name for name in matches.class_names]
    found = {name: np.empty(len(weights)) for name in names}
    for start, of_images in _parts(matches, weights):
        part = slice(start, start + of_images.shape[1])
        # (A, K, T, B'), in percent
        ap = np.stack(
            [_ap_of_class(matches, row, chosen, of_images) for row in range(len(matches.class_names))], axis=1
        )
        mean = {"AP": ap[0], "AP50": ap[0][:, IOU_50, None], "AP75": ap[0][:, IOU_75, None]}
        mean |= {f"AP{area[0]}": ap[row] for row, area in enumerate(chosen) if row > 0}
        for name, values in mean.items():
            found[name][part] = _mean_of_defined(values.mean(axis=1))
        for row, name in enumerate(matches.class_names):
            found[PER_CLASS + name][part] = ap[0, row].mean(axis=0)
    return found


def _parts(matches: ImageMatches, weights: NDArray[np.integer]) -> Iterator[tuple[int, NDArray[np.int32]]]:
    """First resample and (N, B') weights of parts of bounded memory."""
    largest = max(np.bincount(matches.classes, minlength=1).max(), len(matches), 1)
    size = max(1, int(MAX_CELLS // largest))
    for start in range(0, len(weights), size):
        yield start, np.ascontiguousarray(weights[start : start + size].T, dtype=np.int32)


def _mean_of_defined(values: Values) -> Values:
    """(K, B) -> (B,) mean over the classes with objects; nan without any."""
    is_defined = ~np.isnan(values)
    count = is_defined.sum(axis=0)
    total = np.where(is_defined, values, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _ap_of_class(
    matches: ImageMatches, class_row: int, areas: Sequence[str], weights: NDArray[np.int32]
) -> NDArray[np.float64]:
    """(A, T, B) AP of a class in percent; nan without objects. `weights` is (N, B)."""
    first, last = np.searchsorted(matches.classes, [class_row, class_row + 1])
    objects = slice(*np.searchsorted(matches.object_classes, [class_row, class_row + 1]))
    object_weights = weights[matches.object_images[objects]]
    rows, copies = _rows_with_copies(matches, first, last, largest=int(weights.max(initial=0)))
    row_weights = weights[matches.images[rows]]
    is_copy = copies > 0
    row_weights[is_copy] = row_weights[is_copy] >= copies[is_copy, None]
    found = np.empty((len(areas), len(IOU_THRESHOLDS), weights.shape[1]))
    for place, name in enumerate(areas):
        area = matches.areas.index(name)
        num_objects = object_weights[matches.is_counted[area, objects]].sum(axis=0)
        flags = matches.matched[area, rows], matches.ignored[area, rows]
        found[place] = np.where(num_objects > 0, 100 * _average_precision(*flags, row_weights, num_objects), np.nan)
    return found


def _rows_with_copies(
    matches: ImageMatches, first: int, last: int, *, largest: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of detections in the order of the resampled datasets, and the copy of the image that each belongs to.

    Copy 0 means all copies together, which is exact for a single detection. Detections of one image with equal
    scores alternate in a dataset with copies, a b a b; where they differ, each copy has its own rows.

    Args:
        matches: of all classes.
        first: row of the first detection of the class.
        last: row behind the last.
        largest: highest weight of an image.
    """
    rows = np.arange(first, last)
    is_tied = (np.diff(matches.scores[rows]) == 0) & (np.diff(matches.images[rows]) == 0)
    if not is_tied.any() or largest < 2:
        return rows, np.zeros(len(rows), dtype=np.int64)
    flags = np.concatenate([matches.matched[:, rows], matches.ignored[:, rows]])
    group = np.concatenate([[0], np.cumsum(~is_tied)])
    starts = np.flatnonzero(np.concatenate([[True], ~is_tied]))
    differs = np.logical_or.reduceat((flags != flags[:, starts[group]]).any(axis=0), starts)
    is_expanded = differs[group]
    copies = np.arange(1, largest + 1)
    all_rows = np.concatenate([rows[~is_expanded], np.repeat(rows[is_expanded], largest)])
    all_copies = np.concatenate([np.zeros((~is_expanded).sum(), np.int64), np.tile(copies, is_expanded.sum())])
    order = np.lexsort((all_rows, all_copies, group[all_rows - first]))
    return all_rows[order], all_copies[order]


def _average_precision(
    matched: NDArray[np.uint16], ignored: NDArray[np.uint16], weights: NDArray[np.int32], num_objects: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(T, B) AP at each IoU threshold.

    Precision is computed at true detections alone: at false ones it is lower than at the true one before.

    Args:
        matched: (D,) flags in descending order of score.
        ignored: (D,) flags.
        weights: (D, B) of each detection.
        num_objects: (B,).
    """
    always = np.flatnonzero(ignored == 0)  # count at every threshold
    sometimes = np.flatnonzero((ignored != 0) & (ignored != (1 << len(IOU_THRESHOLDS)) - 1))
    counted = np.cumsum(weights[always], axis=0, dtype=np.int32)
    found = np.zeros((len(IOU_THRESHOLDS), weights.shape[1]))
    for threshold in range(len(IOU_THRESHOLDS)):
        is_true = (matched >> threshold & 1).astype(bool) & ~(ignored >> threshold & 1).astype(bool)
        rows = np.flatnonzero(is_true)
        if not len(rows):
            continue
        seen = _at(counted, always, rows)
        others = sometimes[(ignored[sometimes] >> threshold & 1) == 0]
        if len(others):
            seen = seen + _at(np.cumsum(weights[others], axis=0, dtype=np.int32), others, rows)
        found[threshold] = _area_under_curve(np.cumsum(weights[rows], axis=0, dtype=np.int32), seen, num_objects)
    return found


def _at(sums: NDArray[np.int32], places: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int32]:
    """Cumulative sums over `places` as they are at `rows`; both ascending."""
    before = np.searchsorted(places, rows, side="right")
    if len(before) and before[0] > 0:
        return sums[before - 1]
    padded = np.concatenate([np.zeros((1, sums.shape[1]), dtype=sums.dtype), sums])
    return padded[before]


def _area_under_curve(
    true: NDArray[np.int32], seen: NDArray[np.int32], num_objects: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(B,) mean of the precision envelope at the 101 recall thresholds; (R, B) counts at true detections."""
    precision = true / (seen + np.spacing(1))  # pycocotools' guard against 0 / 0
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    recall = true / np.maximum(num_objects, 1)
    nearest = np.rint(recall * (len(RECALL_LEVELS) - 1)).astype(np.intp)
    reached = nearest + (recall >= RECALL_LEVELS[nearest])  # number of thresholds up to the recall
    reached[1:] -= reached[:-1].copy()
    return np.einsum("rb,rb->b", envelope, reached) / len(RECALL_LEVELS)


def bootstrap_interval(value: float, resampled: Values, *, num_units: int) -> tuple[float, float]:
    """The 95 % interval of an AP: the value plus and minus t times the bootstrap's standard error, inside 0 to 100.

    The percentiles of the resamples are no interval of an AP: copies of images make AP higher, at low AP and with few
    objects per class so much that the AP itself may lie below them (docs/statistics.md has the coverage of both).

    Args:
        value: AP of the dataset, in percent.
        resampled: (B,) APs; nan, of resamples without objects, is left out.
        num_units: number of images, or of groups of images, that were drawn.

    Returns:
        Lower and upper end; nan where there are fewer than two units or values.
    """
    defined = resampled[~np.isnan(resampled)]
    if len(defined) < 2 or num_units < 2:
        return np.nan, np.nan
    # A bootstrap's variance is that of a sample with the divisor N.
    error = defined.std(ddof=1) * math.sqrt(num_units / (num_units - 1))
    half = t_quantile(0.5 + CONFIDENCE / 2, num_units - 1) * error
    return max(0.0, value - half), min(100.0, value + half)


def t_quantile(probability: float, degrees: float) -> float:
    """Quantile of Student's t distribution.

    Args:
        probability: below it.
        degrees: of freedom, need not be whole.
    """
    from scipy import special

    return float(special.stdtrit(degrees, probability))
