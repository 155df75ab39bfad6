"""The last stage of a trace, which is COCO's matching: compared with pycocotools on random detections."""

import contextlib
import io
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mrcnn_zoo.evaluation.funnel.lost_objects import trace_objects
from mrcnn_zoo.evaluation.ground_truth import RleMasks
from mrcnn_zoo.evaluation.result_rows import mask_rows, rows_of_detections
from mrcnn_zoo.modeling.recording import StageReport
from mrcnn_zoo.ops.masks import MaskWindow
from mrcnn_zoo.ops.rle import encode_windows
from mrcnn_zoo.structures import Detections, Targets

ORIGINAL = (200, 200)
ONE = torch.zeros(1, dtype=torch.int64)
# A stage with a box that overlaps nothing: which objects are found depends on the detections alone.
NOTHING = StageReport(
    "boxes", 0, (100, 100), torch.zeros(1, 4), torch.ones(1), ONE, ONE, ONE.to(torch.int8), ONE - 1, ONE
)


def rectangle(box: Any) -> dict[str, Any]:
    x1, y1, x2, y2 = map(int, box)
    return encode_windows([MaskWindow(x1, y1, np.ones((y2 - y1, x2 - x1), dtype=bool))], ORIGINAL)[0]


def random_scene(seed: int) -> tuple[Detections, Targets, list[dict[str, Any]]]:
    """Detections around objects of three classes, and the annotations of COCO with crowds in between."""
    generator = np.random.default_rng(seed)

    def boxes(count: int) -> np.ndarray:
        corners = generator.integers(0, 120, (count, 2))
        return np.concatenate([corners, corners + generator.integers(10, 60, (count, 2))], axis=1)

    truth = boxes(25)
    classes, is_crowd = generator.integers(0, 3, 25), generator.random(25) < 0.2
    truth[12:24] = truth[:12] + generator.integers(0, 7, (12, 1))  # pairs that compete for detections
    classes[12:24] = classes[:12]
    found = np.concatenate([truth, truth]) + generator.integers(-8, 9, (50, 4))
    found = np.concatenate([found[:, :2].clip(0), np.maximum(found[:, 2:], found[:, :2].clip(0) + 2)], axis=1)
    found_classes = np.where(generator.random(50) < 0.3, generator.integers(0, 3, 50), np.tile(classes, 2))
    annotations = [
        {"id": row + 1, "image_id": 0, "category_id": int(index), "iscrowd": int(crowd), "area": 1.0,
         "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)], "segmentation": rectangle((x1, y1, x2, y2))}
        for row, ((x1, y1, x2, y2), index, crowd) in enumerate(zip(truth, classes, is_crowd, strict=True))
    ]  # fmt: skip
    scores = generator.integers(1, 20, 50) / 20  # with equal ones
    table = Detections(
        image_size=ORIGINAL,
        boxes=torch.tensor(found, dtype=torch.float32),
        scores=torch.tensor(scores),
        classes=torch.tensor(found_classes),
        masks=RleMasks([rectangle(tuple(box)) for box in found + generator.integers(0, 9, (50, 1))], ORIGINAL),
        mask_scores=torch.tensor(generator.integers(1, 20, 50) / 20) if seed % 2 else None,
    )
    own = Targets(
        ORIGINAL,
        torch.tensor(truth[~is_crowd], dtype=torch.float64),
        torch.tensor(classes[~is_crowd]),
        RleMasks([a["segmentation"] for a in annotations if not a["iscrowd"]], ORIGINAL),
    )
    return table, own, annotations


def coco_matches(
    table: Detections, annotations: list[dict[str, Any]], *, task: str, iou: float, limit: int
) -> list[bool]:
    rows = rows_of_detections(table, 0, category_ids=range(3), tasks=(task,))
    if task == "segm":  # loadRes prefers boxes where there are any
        rows = list(mask_rows([{"mask_score": row["score"]} | row for row in rows]))
    images = [{"id": 0, "height": 200, "width": 200}]
    with contextlib.redirect_stdout(io.StringIO()):
        truth, found = COCO(), COCO()
        truth.dataset = {"images": images, "categories": [{"id": i} for i in range(3)], "annotations": annotations}
        truth.createIndex()
        found = truth.loadRes(rows)
        evaluation = COCOeval(truth, found, task)
        evaluation.params.iouThrs, evaluation.params.maxDets = np.array([iou]), [limit]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
    matched = {
        number: bool(match)
        for image in evaluation.evalImgs
        if image is not None
        for number, match, ignored in zip(image["gtIds"], image["gtMatches"][0], image["gtIgnore"], strict=True)
        if not ignored
    }
    return [matched[annotation["id"]] for annotation in annotations if not annotation["iscrowd"]]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_last_stage_is_the_matching_of_pycocotools(seed: int, task: str) -> None:
    table, own, annotations = random_scene(seed)
    iou, limit = (0.5, 100) if seed < 3 else (0.6, 10)
    traces = trace_objects({"boxes": NOTHING}, {}, table, own, iou=iou, task=task, max_detections=limit)
    expected = coco_matches(table, annotations, task=task, iou=iou, limit=limit)
    assert [found.stage == "found" for found in traces] == expected
    assert 0 < sum(expected) < len(expected)
    detections_used = [found.detection for found in traces if found.stage == "found"]
    assert len(set(detections_used)) == len(detections_used)


def test_of_objects_with_equal_overlaps_the_last_is_found_as_in_pycocotools() -> None:
    box = [20.0, 20.0, 60.0, 60.0]
    annotations = [
        {"id": number, "image_id": 0, "category_id": 0, "iscrowd": 0, "area": 1.0, "bbox": box} for number in (1, 2)
    ]
    table = Detections(ORIGINAL, torch.tensor([[20.0, 20.0, 80.0, 70.0]]), torch.tensor([0.9]), torch.tensor([0]))
    own = Targets(ORIGINAL, torch.tensor([[20.0, 20.0, 80.0, 80.0]] * 2), torch.tensor([0, 0]))
    expected = coco_matches(table, annotations, task="bbox", iou=0.5, limit=100)
    traces = trace_objects({"boxes": NOTHING}, {}, table, own)
    assert [found.stage == "found" for found in traces] == expected == [False, True]
