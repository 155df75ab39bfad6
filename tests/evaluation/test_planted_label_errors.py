"""Label errors planted into annotations: what the planting changes, and how many are found in digits_val."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from mrcnn_zoo.evaluation import prepare_evaluation
from mrcnn_zoo.evaluation.evaluator import evaluate
from mrcnn_zoo.evaluation.ground_truth import complete_ground_truth
from mrcnn_zoo.evaluation.label_errors import find_label_errors
from mrcnn_zoo.evaluation.metrics.contract import Evaluated
from mrcnn_zoo.evaluation.result_rows import ROWS_FILE
from mrcnn_zoo.inference.trained import load_trained
from mrcnn_zoo.ops import rle
from support.evaluated import Item, evaluated_of, rectangle
from support.planted_errors import KINDS, box_iou, count_found, plant_errors

SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def truth() -> dict:
    objects: list[Item] = [
        rectangle(x, y, 10, 10, image=image, category=1 + image % 2)
        for image in range(1, 9)
        for x, y in ((2, 2), (14, 2), (60, 40))
    ]
    return evaluated_of(objects, [], num_images=8, num_classes=2).ground_truth


def test_planting_changes_as_many_annotations_as_it_lists(truth: dict) -> None:
    before = {item["id"]: item for item in truth["annotations"]}
    changed, planted = plant_errors(truth, seed=3, per_kind=2)
    after = {item["id"]: item for item in changed["annotations"]}
    assert Counter(error.kind for error in planted) == dict.fromkeys(KINDS, 2)
    assert len(before) == 24  # the given dataset stays as it is
    assert len(after) == 24 - 2 + 2 - 2  # missing, extra and merged ones
    same = [name for name in before.keys() & after.keys() if before[name] == after[name]]
    assert len(same) == 24 - 2 - 2 - 2 - 2 * 2  # missing, of a wrong class, loose, merged in pairs
    shifted = [error for error in planted if error.kind == "loose"]
    assert all(0.3 <= box_iou(before[e.annotation_id]["bbox"], e.box) <= 0.7 for e in shifted)
    for item in after.values():  # all masks fill their boxes, except those of two joined objects
        _, _, width, height = item["bbox"]
        is_joined = item["id"] in {error.annotation_id for error in planted if error.kind == "merged"}
        assert item["area"] == rle.area(item["segmentation"]) == (200 if is_joined else width * height)


def test_errors_are_found_where_they_were_planted(truth: dict) -> None:
    changed, planted = plant_errors(truth, seed=3, per_kind=2)
    rows = [item | {"score": 0.9} for item in truth["annotations"]]
    suspects = find_label_errors(Evaluated(changed, rows, ("bbox", "segm"), "rectangles"))
    assert count_found(planted, suspects, kind_matters=False).total() == 10
    assert count_found(planted, [], kind_matters=False).total() == 0


@pytest.mark.slow
def test_most_planted_errors_of_digits_are_among_the_first_suspects(tmp_path: Path) -> None:
    model, cfg, class_names = load_trained("zoo://Quickstart/mask_rcnn_R_18_FPN_digits")
    (dataset,) = prepare_evaluation(cfg, class_names)
    evaluate(model, dataset, cfg, output_dir=tmp_path)
    rows = json.loads((tmp_path / "inference" / ROWS_FILE).read_text())
    evaluated = Evaluated(complete_ground_truth(dataset), rows, ("bbox", "segm"), dataset.name)
    found: dict[int, list[int]] = {50: [], 100: []}
    for seed in SEEDS:
        changed, planted = plant_errors(evaluated.ground_truth, seed=seed)
        suspects = find_label_errors(replace(evaluated, ground_truth=changed))
        for first, counts in found.items():
            counts.append(count_found(planted, suspects[:first], kind_matters=True).total())
    assert min(found[50]) >= 40, found
    assert min(found[100]) >= 45, found
