"""Boundary AP, compared with pycocotools on IoUs of eroded bitmaps."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.ndimage import binary_erosion

from mrcnn_zoo.evaluation.metrics.boundary import BoundaryMetric
from mrcnn_zoo.evaluation.metrics.contract import Evaluated
from support.evaluated import evaluated_of, random_evaluated, rectangle

pytest.importorskip("faster_coco_eval")


def boundary(rle: dict) -> np.ndarray:
    """Pixels of a mask that d erosions by 3 x 3 remove; the outside of the image is not part of it."""
    mask = coco_mask.decode(rle).astype(bool)
    distance = max(1, round(0.02 * np.hypot(*mask.shape)))
    return mask & ~binary_erosion(np.pad(mask, 1), np.ones((3, 3)), iterations=distance)[1:-1, 1:-1]


class BoundaryEval(COCOeval):
    """pycocotools with the smaller one of mask IoU and boundary IoU; crowds keep their mask IoU."""

    def computeIoU(self, image_id, category_id):  # noqa: N802
        ious = super().computeIoU(image_id, category_id)
        true, found = self._gts[image_id, category_id], self._dts[image_id, category_id]
        found = sorted(found, key=lambda item: -item["score"])
        for row, column in np.ndindex(np.shape(ious)) if len(ious) else ():
            if not true[column]["iscrowd"]:
                first, second = (boundary(item["segmentation"]) for item in (found[row], true[column]))
                ious[row, column] = min(ious[row, column], (first & second).sum() / (first | second).sum())
        return ious


def stats_of_pycocotools(evaluated: Evaluated) -> np.ndarray:
    with contextlib.redirect_stdout(io.StringIO()):
        sets = []
        for content in (evaluated.ground_truth_of("segm"), evaluated.detections_of("segm")):
            indexed = COCO()
            indexed.dataset = content
            indexed.createIndex()
            sets.append(indexed)
        evaluation = BoundaryEval(*sets, "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def measure(evaluated: Evaluated) -> dict[str, float]:
    return BoundaryMetric()(evaluated).results["boundary"]


@pytest.mark.parametrize("seed", [0, 1])
def test_random_scenes_equal_pycocotools_with_eroded_bitmaps(seed: int) -> None:
    evaluated = random_evaluated(seed, num_images=3, crowds=True)
    result, stats = measure(evaluated), stats_of_pycocotools(evaluated)
    assert 0 < result["AP"] < 100
    assert [result[name] for name in ("AP", "AP50", "AP75", "AR100")] == pytest.approx(100 * stats[[0, 1, 2, 8]])


def test_boundary_of_a_square_by_hand() -> None:
    # The diagonal of 60 x 80 pixels is 100, so the boundary is 2 pixels wide. Squares of 20 x 20, shifted by 1: mask
    # IoU 380 / 420 = 0.905. Boundaries have 400 - 16 x 16 = 144 pixels; they share two bars of 19 x 2 and one column of
    # 16 on each side: 108, over 180: IoU 0.6, so that 3 of 10 thresholds match.
    evaluated = evaluated_of([rectangle(10, 10, 20, 20)], [rectangle(11, 10, 20, 20, score=0.9)])
    assert measure(evaluated)["AP"] == pytest.approx(30.0)


def test_object_at_the_border_of_the_image_has_a_boundary_there() -> None:
    # The detection ends 2 pixels before the border: a boundary that ended there would have IoU 0 on that side.
    whole, cut = rectangle(0, 0, 80, 60), rectangle(2, 0, 78, 60, score=0.9)
    first, second = boundary(whole["segmentation"]), boundary(cut["segmentation"])
    assert first[30, 0]
    share = (first & second).sum() / (first | second).sum()
    thresholds = np.linspace(0.5, 0.95, 10)
    assert measure(evaluated_of([whole], [cut]))["AP"] == pytest.approx(100 * np.mean(thresholds <= share))


def test_boxes_alone_are_not_measured() -> None:
    report = BoundaryMetric()(evaluated_of([], [], tasks=("bbox",)))
    assert (report.results, report.text) == ({}, "")
    assert report.details.endswith("No masks are evaluated.")


def test_without_objects_and_detections_there_is_no_ap() -> None:
    assert np.isnan(measure(evaluated_of([], []))["AP"])
