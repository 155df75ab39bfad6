"""The stage at which each object is lost, and the reason, on cases with a known answer."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from mrcnn_zoo.evaluation.funnel.lost_objects import ObjectTrace, trace_objects
from mrcnn_zoo.evaluation.funnel.lost_reasons import Reason
from mrcnn_zoo.evaluation.ground_truth import RleMasks
from mrcnn_zoo.modeling.recording import Fate, StageReport, StageValues
from mrcnn_zoo.ops.masks import MaskWindow
from mrcnn_zoo.ops.rle import encode_windows
from mrcnn_zoo.structures import Detections, Targets

SIZE, ORIGINAL = (100, 100), (200, 200)  # of the resized and the original image
K, B, T, S, G, L, N = (
    Fate.KEPT, Fate.BELOW_THRESHOLD, Fate.NOT_IN_TOP_K, Fate.TOO_SMALL, Fate.SUPPRESSED, Fate.BEYOND_LIMIT,
    Fate.NOT_FINITE,
)  # fmt: skip
Box = tuple[float, float, float, float]
OBJECT: Box = (10, 10, 40, 40)
NEAR: Box = (10, 10, 34, 40)  # IoU 0.8
LOOSE: Box = (10, 10, 22, 40)  # IoU 0.4
FAR: Box = (60, 60, 90, 90)
BROKEN: Box = (math.nan, math.nan, math.nan, math.nan)
Row = tuple[Any, ...]  # box, score, class or level, source, fate, and the row that suppresses it


def report(stage: str, rows: list[Row]) -> StageReport:
    boxes, scores, classes, sources, fates, by = zip(*((*row, -1)[:6] for row in rows), strict=True)
    kept = sorted((i for i, fate in enumerate(fates) if fate == K), key=lambda i: -scores[i])
    return StageReport(
        stage=stage,
        image=0,
        image_size=SIZE,
        boxes=torch.tensor(boxes, dtype=torch.float32),
        scores=torch.tensor(scores, dtype=torch.float32),
        classes=torch.tensor(classes),
        sources=torch.tensor(sources),
        fates=torch.tensor([int(fate) for fate in fates], dtype=torch.int8),
        suppressed_by=torch.tensor(by),
        kept=torch.tensor(kept, dtype=torch.int64),
    )


def rectangle(box: Box) -> dict[str, Any]:
    x1, y1, x2, y2 = map(round, box)
    return encode_windows([MaskWindow(x1, y1, np.ones((y2 - y1, x2 - x1), dtype=bool))], ORIGINAL)[0]


def doubled(box: Box) -> Box:
    return tuple(2 * value for value in box)  # type: ignore[return-value]


def detections(rows: list[tuple[Box, float, int]], masks: list[Box] | None = None) -> Detections:
    boxes, scores, classes = zip(*rows, strict=True) if rows else ((), (), ())
    return Detections(
        image_size=ORIGINAL,
        boxes=torch.tensor([doubled(box) for box in boxes], dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor(scores),
        classes=torch.tensor(classes, dtype=torch.int64),
        masks=None if masks is None else RleMasks([rectangle(doubled(mask)) for mask in masks], ORIGINAL),
    )


def targets(objects: list[tuple[Box, int]]) -> Targets:
    boxes = [doubled(box) for box, _ in objects]
    masks = RleMasks([rectangle(box) for box in boxes], ORIGINAL)
    return Targets(ORIGINAL, torch.tensor(boxes), torch.tensor([index for _, index in objects]), masks)


GOOD_PROPOSAL: Row = (OBJECT, 2.0, 0, 0, K)
GOOD_BOX: Row = (OBJECT, 0.9, 0, 0, K)


def trace(
    *,
    anchors: list[Box] | None = None,
    proposals: list[Row] | None = None,
    boxes: list[Row] | None = None,
    found: list[tuple[Box, float, int]] | None = None,
    masks: list[Box] | None = None,
    objects: list[tuple[Box, int]] | None = None,
    class_scores: list[list[float]] | None = None,
    **options: Any,
) -> list[ObjectTrace]:
    """The traces where all stages find the object, apart from those that are given."""
    reports = {
        "proposals": report("proposals", proposals or [GOOD_PROPOSAL]),
        "boxes": report("boxes", boxes or [GOOD_BOX]),
    }
    values = {"anchors": StageValues("anchors", 0, SIZE, {"boxes": torch.tensor(anchors or [OBJECT])})}
    if class_scores is not None:
        kept = reports["proposals"].boxes[reports["proposals"].kept]
        values["class scores"] = StageValues(
            "class scores", 0, SIZE, {"boxes": kept, "scores": torch.tensor(class_scores)}, {"score_threshold": 0.05}
        )
    rows = [(OBJECT, 0.9, 0)] if found is None else found
    options = {"class_names": ("cat", "dog")} | options
    return trace_objects(reports, values, detections(rows, masks), targets(objects or [(OBJECT, 0)]), **options)


CASES: dict[str, tuple[dict[str, Any], str, Reason, str]] = {
    "no anchor": (
        {"anchors": [LOOSE, FAR], "proposals": [(FAR, 2.0, 0, 0, K)], "boxes": [(FAR, 0.9, 0, 0, K)], "found": []},
        "anchors", Reason.NO_ANCHOR,
        "The best anchor overlaps it by 0.40; anchors of ratios 1, 2.5 and sizes 19, 30 do not cover a box of 30 x 30 "
        "pixels (in the resized image).",
    ),
    "cut by top-k": (
        {"proposals": [(FAR, 2.0, 0, 0, K), (NEAR, -1.0, 0, 0, T), (FAR, 3.0, 1, 0, K), (FAR, 4.0, 1, 0, K)],
         "boxes": [(FAR, 0.9, 0, 0, K)], "found": []},
        "top-k", Reason.CUT_BY_TOP_K,
        "Its box (IoU 0.80, objectness -1.00), number 2 of the 2 boxes of its level, is cut by the top-k.",
    ),
    "moved away from its anchor": (
        {"proposals": [(LOOSE, 2.0, 0, 0, K)], "boxes": [(FAR, 0.9, 0, 0, K)], "found": []},
        "top-k", Reason.TOO_LOOSE, "Anchors overlap it enough, but the best of their boxes overlaps it by 0.40.",
    ),
    "proposal not finite": (
        {"proposals": [(FAR, 2.0, 0, 0, K), (BROKEN, 2.0, 0, 0, N)], "boxes": [(FAR, 0.9, 0, 0, K)], "found": []},
        "top-k", Reason.NOT_FINITE, "The predictions of its box are not finite.",
    ),
    "proposal too small": (
        {"proposals": [(FAR, 2.0, 0, 0, K), (NEAR, 1.0, 0, 0, S)], "boxes": [(FAR, 0.9, 0, 0, K)], "found": []},
        "nms", Reason.TOO_SMALL,
        "Its box (IoU 0.80, objectness 1.00) has a side that is not above the least size.",
    ),
    "proposal suppressed": (
        {"proposals": [(LOOSE, 2.0, 0, 0, K), (NEAR, 1.0, 0, 0, G, 0)], "boxes": [(FAR, 0.9, 0, 0, K)], "found": []},
        "nms", Reason.SUPPRESSED,
        "Its box (IoU 0.80, objectness 1.00) is suppressed by a box (objectness 2.00) that overlaps the box by 0.50, "
        "but the object only by 0.40.",
    ),
    "beyond the limit of proposals": (
        {"proposals": [(FAR, 2.0, 0, 0, K), (NEAR, 1.0, 0, 0, L), (OBJECT, 0.5, 0, 0, G, 1)],
         "boxes": [(FAR, 0.9, 0, 0, K)], "found": []},
        "nms", Reason.BEYOND_PROPOSALS,
        "Its box (IoU 0.80, objectness 1.00) passes the suppression, but as number 2 it is not among the best "
        "1 proposal of the image.",
    ),
    "misclassified": (
        {"boxes": [(NEAR, 0.7, 1, 0, K), (LOOSE, 0.2, 0, 0, K)], "found": [(NEAR, 0.7, 1), (LOOSE, 0.2, 0)]},
        "box head", Reason.MISCLASSIFIED, "Its box (IoU 0.80) has the class dog with score 0.70, not cat.",
    ),
    "scored too low": (
        {"boxes": [(NEAR, 0.04, 1, 0, B), (FAR, 0.8, 0, 0, K)], "found": [], "class_scores": [[0.03, 0.04]]},
        "box head", Reason.SCORED_TOO_LOW, "Its box (IoU 0.80) has the score 0.030 for cat; the threshold is 0.05.",
    ),
    "scored too low, the scores of other classes not known": (
        {"boxes": [(NEAR, 0.04, 0, 0, B)], "found": []},
        "box head", Reason.SCORED_TOO_LOW, "Its box (IoU 0.80) has the score 0.040 for cat, below the threshold.",
    ),
    "box too loose": (
        {"boxes": [(LOOSE, 0.9, 0, 0, K)], "found": [(LOOSE, 0.9, 0)]},
        "box head", Reason.TOO_LOOSE,
        "Regions overlap it enough, but the best box predicted for them overlaps it by 0.40.",
    ),
    "region not finite": (
        {"boxes": [(BROKEN, math.nan, 0, 0, N)], "found": [], "class_scores": [[math.nan, 0.0]]},
        "box head", Reason.NOT_FINITE, "The predictions of its regions are not finite.",
    ),
    "suppressed": (
        {"boxes": [(LOOSE, 0.9, 0, 0, K), (NEAR, 0.6, 0, 0, G, 0), (FAR, 0.5, 0, 0, L)], "found": [(LOOSE, 0.9, 0)]},
        "suppression", Reason.SUPPRESSED,
        "Its box (IoU 0.80, score 0.60) is suppressed by a box (score 0.90) that overlaps the box by 0.50, but the "
        "object only by 0.40.",
    ),
    "suppressed without a rival": (
        {"boxes": [(NEAR, 0.6, 0, 0, G)], "found": []},
        "suppression", Reason.SUPPRESSED, "Its box (IoU 0.80, score 0.60) is suppressed; no kept box overlaps it.",
    ),
    "beyond the detection limit": (
        {"boxes": [(FAR, 0.9, 0, 0, K), (NEAR, 0.6, 0, 0, L)], "found": [(FAR, 0.9, 0)]},
        "suppression", Reason.BEYOND_DETECTIONS,
        "Its box (IoU 0.80, score 0.60) passes the suppression, but as number 2 it is not among the best 1 detection "
        "of the image.",
    ),
    "cut by RetinaNet's top-k": (
        {"boxes": [(FAR, 0.9, 0, 0, K), (NEAR, 0.6, 0, 0, T)], "found": [(FAR, 0.9, 0)]},
        "suppression", Reason.CUT_BY_TOP_K, "Its box (IoU 0.80, score 0.60) is cut by the top-k of its level.",
    ),
    "detection too small": (
        {"boxes": [(FAR, 0.9, 0, 0, K), (NEAR, 0.6, 0, 0, S)], "found": [(FAR, 0.9, 0)]},
        "suppression", Reason.TOO_SMALL, "Its box (IoU 0.80, score 0.60) has a side that is not above the least size.",
    ),
    "beyond the limit of the evaluation": (
        {"boxes": [(FAR, 0.9, 0, 0, K), GOOD_BOX], "found": [(FAR, 0.95, 0), (OBJECT, 0.9, 0)], "max_detections": 1},
        "final", Reason.BEYOND_DETECTIONS,
        "Its detection (score 0.90) is number 2 of its class; the evaluation counts 1.",
    ),
    "mask below the IoU": (
        {"task": "segm", "masks": [LOOSE]},
        "final", Reason.MASK_TOO_LOOSE,
        "The mask of its detection overlaps it by 0.40 only, while their boxes overlap by 1.00.",
    ),
    "dropped at the end": (
        {"found": []}, "final", Reason.TOO_LOOSE, "The best box of its class overlaps it by 0.0000."
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_reason(name: str) -> None:
    arguments, stage, reason, sentence = CASES[name]
    (found,) = trace(**arguments)
    assert (found.stage, found.reason, found.sentence) == (stage, reason, sentence)
    assert found.detection == -1


def test_every_reason_has_a_case() -> None:
    elsewhere = {Reason.FOUND, Reason.TAKEN, Reason.NO_PROPOSAL}
    assert {case[2] for case in CASES.values()} | elsewhere == set(Reason)


def test_found_object_and_its_best_boxes() -> None:
    (found,) = trace(
        anchors=[FAR, LOOSE, NEAR],
        proposals=[(FAR, 2.0, 0, 0, K), (NEAR, 1.0, 0, 2, K)],
        boxes=[(OBJECT, 0.5, 1, 1, K), (NEAR, 0.9, 0, 1, K)],
        found=[(FAR, 0.95, 0), (NEAR, 0.9, 0)],
    )
    assert (found.stage, found.reason, found.detection, found.loss) == ("found", Reason.FOUND, 1, None)
    rows = {name: (best.source, best.row, round(best.iou, 4)) for name, best in found.best.items()}
    assert rows == {
        "anchors": ("anchors", 2, 0.8),
        "top-k": ("proposals", 1, 0.8),
        "nms": ("proposals", 1, 0.8),
        "box head": ("boxes", 1, 0.8),  # row 0 overlaps more, but has another class
        "suppression": ("boxes", 1, 0.8),
        "final": ("detections", 1, 0.8),
    }


def test_an_object_that_a_later_stage_recovers_is_not_lost_before() -> None:
    (found,) = trace(anchors=[LOOSE], proposals=[(LOOSE, 1.0, 0, 0, K)])
    assert found.stage == "found"
    assert [best.iou >= 0.5 for best in found.best.values()] == [False, False, False, True, True, True]
    # Alive in the box head alone: lost after it, whatever happens before.
    (lost,) = trace(anchors=[LOOSE], proposals=[(LOOSE, 1.0, 0, 0, K)], boxes=[(OBJECT, 0.9, 0, 0, L)], found=[])
    assert (lost.stage, lost.reason) == ("suppression", Reason.BEYOND_DETECTIONS)


def test_mask_finds_an_object_whose_box_is_loose() -> None:
    loose = {"boxes": [(LOOSE, 0.9, 0, 0, K)], "found": [(LOOSE, 0.9, 0)], "masks": [OBJECT]}
    assert trace(**loose, task="segm")[0].stage == "found"
    assert trace(**loose)[0].stage == "box head"


def test_detection_that_is_matched_to_another_object() -> None:
    second: Box = (16, 10, 46, 40)  # IoU with OBJECT 24 / 36
    first, other = trace(
        objects=[(OBJECT, 0), (second, 0)],
        proposals=[GOOD_PROPOSAL, (second, 1.0, 0, 0, K)],
    )
    assert (first.stage, first.detection) == ("found", 0)
    assert (other.stage, other.reason, other.loss and other.loss.other_object) == ("final", Reason.TAKEN, 0)
    assert other.sentence == (
        "Its detection (score 0.90) overlaps it by 0.67, but finds another object, which it overlaps by 1.00."
    )


def test_stages_of_other_detectors() -> None:
    reports = {name: report(name, [(OBJECT, 0.9, 0, 0, K)]) for name in ("boxes of stage 0", "boxes")}
    far = StageValues("box pooling", 0, SIZE, {"boxes": torch.tensor([FAR, LOOSE])})
    found, truth = detections([(OBJECT, 0.9, 0)]), targets([(OBJECT, 0)])
    # Cascade on given proposals.
    (given,) = trace_objects(reports, {"box pooling": far}, found, truth)
    assert list(given.best) == ["proposals", "boxes of stage 0", "box head", "suppression", "final"]
    lost = {name: report(name, [(FAR, 0.9, 0, 0, K)]) for name in reports}
    (missed,) = trace_objects(lost, {"box pooling": far}, detections([]), truth)
    assert (missed.stage, missed.reason) == ("proposals", Reason.NO_PROPOSAL)
    assert missed.sentence == "The best of 2 given proposals overlaps it by 0.40."
    near = StageValues("box pooling", 0, SIZE, {"boxes": torch.tensor([NEAR])})
    (moved,) = trace_objects(lost, {"box pooling": near}, detections([]), truth)
    assert (moved.stage, moved.reason) == ("boxes of stage 0", Reason.TOO_LOOSE)
    # A proposal network has no classes and no last matching.
    proposals = {"proposals": report("proposals", [(NEAR, 1.0, 0, 0, K)])}
    (proposed,) = trace_objects(proposals, {}, detections([]), targets([(OBJECT, 7)]))
    assert (list(proposed.best), proposed.stage) == (["top-k", "nms"], "found")


def test_image_without_objects_and_without_boxes() -> None:
    nothing = Targets(ORIGINAL, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    empty = report("boxes", [GOOD_BOX])
    assert trace_objects({"boxes": empty}, {}, detections([]), nothing) == []
    with pytest.raises(ValueError, match="recorder"):
        trace_objects({}, {}, detections([]), targets([(OBJECT, 0)]))
