"""Ceilings of the metric "oracles", by hand and by their order."""

import numpy as np
import pytest
import torch

from mrcnn_zoo.config import default_config
from mrcnn_zoo.data import load_dataset
from mrcnn_zoo.evaluation import evaluate
from mrcnn_zoo.evaluation.backends import curves_by_pycocotools
from mrcnn_zoo.evaluation.metrics.contract import Evaluated
from mrcnn_zoo.evaluation.metrics.oracles import OracleMetric, build_oracle_metric, mask_on_grid, perfect_classes
from mrcnn_zoo.evaluation.metrics.overlaps import image_overlaps
from mrcnn_zoo.evaluation.tables import coco_metrics
from mrcnn_zoo.inference.trained import load_trained
from mrcnn_zoo.ops.rle import encode
from support.evaluated import SIZE, evaluated_of, random_evaluated, rectangle

BACKEND = curves_by_pycocotools


def ceilings(evaluated: Evaluated, task: str = "bbox") -> dict[str, float]:
    return OracleMetric(BACKEND, mask_side=28)(evaluated).results[f"oracles_{task}"]


def base_ap(evaluated: Evaluated, task: str = "bbox") -> float:
    curves = BACKEND(evaluated.ground_truth_of(task), evaluated.detections_of(task), task, [100])
    return coco_metrics(curves, evaluated.class_names, evaluated.category_ids)["AP"]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_no_ceiling_is_below_the_ap_of_the_run(seed: int, task: str) -> None:
    evaluated = random_evaluated(seed, num_images=6, num_classes=3)
    base = base_ap(evaluated, task)
    result = ceilings(evaluated, task)
    assert min(result.values()) >= base - 1e-9
    assert max(result.values()) > base


def test_perfect_boxes_correct_bad_ones_and_leave_duplicates() -> None:
    # IoU 100 / 300 with the object, and a worse one that stays a false detection after it.
    objects = [rectangle(0, 0, 20, 10)]
    rows = [rectangle(10, 0, 20, 10, score=0.9), rectangle(12, 0, 20, 10, score=0.8)]
    evaluated = evaluated_of(objects, rows)
    assert base_ap(evaluated) == 0.0
    assert ceilings(evaluated)["boxes"] == pytest.approx(100.0)
    # An IoU of 20 / 380 belongs to no object.
    assert ceilings(evaluated_of(objects, [rectangle(18, 0, 20, 10, score=0.9)]))["boxes"] == 0.0


def test_perfect_classes_correct_a_class_and_remove_new_duplicates() -> None:
    objects = [rectangle(0, 0, 10, 10, category=1), rectangle(40, 0, 10, 10, category=2)]
    exact = [rectangle(0, 0, 10, 10, category=1, score=0.5), rectangle(40, 0, 10, 10, category=2, score=0.8)]
    wrong = rectangle(0, 0, 10, 10, category=2, score=0.9)
    # Class b has a false detection before its true one: AP 50.
    duplicate = evaluated_of(objects, [*exact, wrong], num_classes=2)
    assert base_ap(duplicate) == pytest.approx(75.0)
    assert ceilings(duplicate)["classes"] == pytest.approx(100.0)
    missing = evaluated_of(objects, [exact[1], wrong], num_classes=2)
    assert base_ap(missing) == pytest.approx(25.0)
    assert ceilings(missing)["classes"] == pytest.approx(100.0)


def test_class_of_a_badly_placed_detection_stays() -> None:
    evaluated = evaluated_of(
        [rectangle(0, 0, 10, 10, category=1)], [rectangle(5, 0, 10, 10, category=2, score=0.9)], num_classes=2
    )
    (overlaps,) = image_overlaps(evaluated, "bbox")
    assert perfect_classes(overlaps) == evaluated.rows  # IoU 1 / 3


def test_perfect_suppression_keeps_the_best_box_with_the_best_score() -> None:
    # Of the object: IoU 0.6 with score 0.9 and IoU 1 with score 0.5; between them one on background.
    rows = [rectangle(0, 0, 20, 6, score=0.9), rectangle(0, 0, 20, 10, score=0.5), rectangle(50, 0, 9, 9, score=0.7)]
    evaluated = evaluated_of([rectangle(0, 0, 20, 10)], rows)
    # Up to 0.6 the first one is true at rank 1, then the last one at rank 3.
    assert base_ap(evaluated) == pytest.approx((3 * 100 + 7 * 100 / 3) / 10)
    assert ceilings(evaluated)["suppression"] == pytest.approx(100.0)


def test_suppression_ranks_masks_by_their_own_score() -> None:
    rows = [
        rectangle(0, 0, 20, 6, score=0.9) | {"mask_score": 0.4},
        rectangle(0, 0, 20, 10, score=0.5) | {"mask_score": 0.3},
        rectangle(50, 0, 20, 10, score=0.1) | {"mask_score": 0.35},  # on background, between the two
    ]
    assert ceilings(evaluated_of([rectangle(0, 0, 20, 10)], rows), "segm")["suppression"] == pytest.approx(100.0)


def test_missed_objects_are_found_unless_they_have_another_class() -> None:
    objects = [rectangle(0, 0, 10, 10), rectangle(20, 0, 10, 10), rectangle(40, 0, 10, 10)]
    rows = [rectangle(0, 0, 10, 10, score=0.9), rectangle(40, 0, 10, 10, category=2, score=0.9)]
    evaluated = evaluated_of(objects, rows, num_classes=2)
    # Recall 1 / 3 and 2 / 3 at precision 1: 34 and 67 of 101 recall levels.
    assert base_ap(evaluated) == pytest.approx(100 * 34 / 101)
    assert ceilings(evaluated)["missed"] == pytest.approx(100 * 67 / 101)


def test_without_background_false_detections_on_objects_stay() -> None:
    on_background, on_object = rectangle(40, 40, 10, 10, score=0.9), rectangle(5, 0, 10, 10, score=0.8)
    rows = [on_background, on_object, rectangle(0, 0, 10, 10, score=0.7)]
    # True at rank 3, then at rank 2.
    evaluated = evaluated_of([rectangle(0, 0, 10, 10)], rows)
    assert base_ap(evaluated) == pytest.approx(100 / 3)
    assert ceilings(evaluated)["background"] == pytest.approx(50.0)


def test_perfect_masks_stay_inside_the_detected_box() -> None:
    whole, half = rectangle(0, 0, 28, 28), rectangle(0, 0, 14, 28)
    quarter = rectangle(0, 0, 14, 14)["segmentation"]
    in_whole = evaluated_of([whole], [rectangle(0, 0, 28, 28, score=0.9) | {"segmentation": quarter}])
    assert base_ap(in_whole, "segm") == 0.0
    assert ceilings(in_whole, "segm")["masks"] == pytest.approx(100.0)
    # IoU 0.5, of which one of ten thresholds is met.
    in_half = evaluated_of([whole], [half | {"score": 0.9, "segmentation": quarter}])
    assert ceilings(in_half, "segm")["masks"] == pytest.approx(10.0)


def test_mask_on_grid_averages_cells_and_interpolates_them() -> None:
    rng = np.random.default_rng(0)
    coarse = torch.tensor(rng.random((1, 1, 7, 7)), dtype=torch.float32)
    smooth = torch.nn.functional.interpolate(coarse, (56, 56), mode="bilinear")[0, 0].numpy() > 0.5
    mask = np.zeros(SIZE, dtype=bool)
    mask[2:58, 12:68] = smooth
    # Each of 28 x 28 cells has 2 x 2 pixels.
    cells = torch.tensor(smooth.reshape(28, 2, 28, 2).mean(axis=(1, 3)))[None, None]
    padded = torch.nn.functional.pad(cells, (1, 1, 1, 1))
    pasted = torch.nn.functional.interpolate(padded, (60, 60), mode="bilinear")[0, 0, 2:-2, 2:-2].numpy() >= 0.5
    expected = np.zeros(SIZE, dtype=bool)
    expected[2:58, 12:68] = pasted
    assert mask_on_grid(encode(mask), {"bbox": [12, 2, 56, 56]}, 28, SIZE) == encode(expected)


@pytest.mark.parametrize(
    ("objects", "score"), [([], np.nan), ([rectangle(0, 0, 10, 10)], 0.0)], ids=["nothing", "object"]
)
def test_without_detections(objects: list[dict], score: float) -> None:
    result = ceilings(evaluated_of(objects, []), "segm")
    expected = dict.fromkeys(("masks", "classes", "suppression", "background"), score)
    assert result == pytest.approx(expected | {"missed": 100.0 if objects else score}, nan_ok=True)


def test_resolution_of_masks_is_that_of_the_head() -> None:
    cfg = default_config()
    assert build_oracle_metric(cfg).mask_side == 28
    cfg.MODEL.ROI_MASK_HEAD.NAME = "PointRendMaskHead"
    assert build_oracle_metric(cfg).mask_side == 7
    cfg.MODEL.ROI_MASK_HEAD.POINT_HEAD_ON = True
    assert build_oracle_metric(cfg).mask_side == 7 * 2**5


def test_names_are_those_of_the_results() -> None:
    metric, evaluated = OracleMetric(BACKEND, mask_side=28), random_evaluated(0)
    results = metric(evaluated).results
    assert metric.names(evaluated.tasks) == [f"{group}/{name}" for group, row in results.items() for name in row]


@pytest.mark.slow
def test_no_ceiling_is_below_the_ap_of_a_trained_model() -> None:
    overrides = ["DATASETS.SCENES.NUM_VAL", 40, "EVAL.METRICS", ["oracles"], "MODEL.DEVICE", "cpu"]
    model, cfg, _ = load_trained("zoo://Quickstart/mask_rcnn_R_18_FPN_digits", overrides=overrides)
    results = evaluate(model, load_dataset(cfg, "digits_val"), cfg)
    for task in ("bbox", "segm"):
        assert min(results[f"oracles_{task}"].values()) >= results[task]["AP"] > 50
