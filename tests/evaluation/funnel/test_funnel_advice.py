"""The advice that follows from the largest loss, and the tables, on objects made by hand."""

from typing import Any

import pytest

from mrcnn_zoo.config import load_config
from mrcnn_zoo.evaluation.funnel.advice import ModelSettings, TracedObject, advise, build_model_settings
from mrcnn_zoo.evaluation.funnel.lost_reasons import (
    ANCHORS,
    BOX_HEAD,
    FINAL,
    FOUND,
    NMS,
    PROPOSALS,
    SUPPRESSION,
    TOP_K,
    Reason,
)
from mrcnn_zoo.evaluation.funnel.tables import alive_counts, class_table, reason_table, stage_table
from support.small_models import BASE_FPN

STAGES = (ANCHORS, TOP_K, NMS, BOX_HEAD, SUPPRESSION, FINAL)
STRIDES = {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}


@pytest.fixture(scope="module")
def settings() -> ModelSettings:
    return build_model_settings(load_config(BASE_FPN, ["MODEL.MASK_ON", True]))


def traced(stage: str = FOUND, reason: Reason = Reason.FOUND, **values: Any) -> TracedObject:
    box = values.pop("box", (0.0, 0.0, 40.0, 40.0))
    fields = {"class_name": "cat", "size": "medium", "ious": (0.8,) * len(STAGES)} | values
    return TracedObject(
        image_id=1, annotation_id=1, box=box, network_box=box, stage=stage, reason=reason, sentence="", **fields
    )


CASES: dict[str, tuple[list[TracedObject], str]] = {
    "top-k": (
        [traced(TOP_K, Reason.CUT_BY_TOP_K, rank=rank) for rank in (1100, 1200, 1290, 1500)],
        "Set MODEL.RPN.PRE_NMS_TOPK_TEST 1500 (now 1000): the boxes of 4 of them are within it.",
    ),
    "far beyond the top-k": (
        [traced(TOP_K, Reason.CUT_BY_TOP_K, rank=rank) for rank in (1100, 9000, 9001)],
        "Set MODEL.RPN.PRE_NMS_TOPK_TEST 4000 (now 1000): the boxes of 1 of them are within it. Half of them have a "
        "rank above 9,000: such low scores need a longer training of the RPN.",
    ),
    "moved proposals": ([traced(TOP_K, Reason.TOO_LOOSE)], "moves anchors away from the objects: train it longer."),
    "NMS of the RPN": ([traced(NMS, Reason.SUPPRESSED)], "Raise MODEL.RPN.NMS_THRESH (now 0.7)."),
    "limit of proposals": (
        [traced(NMS, Reason.BEYOND_PROPOSALS, rank=rank) for rank in (1500, 1501)],
        "Set MODEL.RPN.POST_NMS_TOPK_TEST 1600 (now 1000): the boxes of 2 of them are within it.",
    ),
    "given proposals": ([traced(PROPOSALS, Reason.NO_PROPOSAL)], "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST"),
    "score": (
        [traced(BOX_HEAD, Reason.SCORED_TOO_LOW, score=score) for score in (0.005, 0.02, 0.03)],
        "Half of their scores are below 0.020. MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.01 (now 0.05) keeps 2 of them",
    ),
    "class": (
        [traced(BOX_HEAD, Reason.MISCLASSIFIED, predicted=name) for name in ("dog", "cow", "dog")],
        "Most often confused: cat as dog (2), cat as cow (1).",
    ),
    "loose box": ([traced(BOX_HEAD, Reason.TOO_LOOSE)], "MODEL.ROI_HEADS.NAME CascadeROIHeads"),
    "suppression": (
        [traced(SUPPRESSION, Reason.SUPPRESSED)],
        "Raise MODEL.ROI_HEADS.NMS_THRESH_TEST (now 0.5), or set MODEL.ROI_HEADS.SUPPRESSION soft_linear (now greedy).",
    ),
    "RetinaNet's top-k": (
        [traced(SUPPRESSION, Reason.CUT_BY_TOP_K)], "Raise MODEL.RETINANET.TOPK_CANDIDATES_TEST (now 1000)."
    ),
    "limit of detections": (
        [traced(SUPPRESSION, Reason.BEYOND_DETECTIONS, rank=101)],
        "Set TEST.DETECTIONS_PER_IMAGE 200 (now 100): the boxes of 1 of them are within it.",
    ),
    "taken": ([traced(FINAL, Reason.TAKEN)], "One detection covers two objects."),
    "mask": ([traced(FINAL, Reason.MASK_TOO_LOOSE)], "Raise MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION (now 14), or"),
    "too small": ([traced(NMS, Reason.TOO_SMALL)], "Lower MODEL.PROPOSAL_GENERATOR.MIN_SIZE"),
    "not finite": ([traced(BOX_HEAD, Reason.NOT_FINITE)], "lower SOLVER.BASE_LR"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_advice(settings: ModelSettings, name: str) -> None:
    lost, expected = CASES[name]
    other = [traced(FINAL, Reason.TAKEN)] if len(lost) > 1 else []
    text = advise([*lost, *other, traced()], settings, STRIDES)
    share = 100 * len(lost) / (len(lost) + len(other) + 1)
    assert text.startswith(
        f"Largest loss: {len(lost)} of {len(lost) + len(other) + 1} objects ({share:.1f} %) at {lost[0].stage}: "
    )
    assert expected in text


def test_ranks_within_a_level_give_no_limit_of_all_levels_together() -> None:
    settings = build_model_settings(load_config(BASE_FPN, ["MODEL.RPN.ACROSS_LEVELS", True]))
    text = advise([traced(TOP_K, Reason.CUT_BY_TOP_K, rank=1200)], settings, STRIDES)
    assert text.endswith("Raise MODEL.RPN.PRE_NMS_TOPK_TEST (now 1000), or train the RPN longer.")


def test_more_proposals_need_more_detections_where_their_limit_is_reached(settings: ModelSettings) -> None:
    lost = [traced(NMS, Reason.BEYOND_PROPOSALS, rank=1500)] * 2
    assert "DETECTIONS" not in advise(lost, settings, STRIDES)
    text = advise([*lost, traced(SUPPRESSION, Reason.BEYOND_DETECTIONS, rank=101)], settings, STRIDES)
    assert text.endswith(
        "Raise TEST.DETECTIONS_PER_IMAGE (now 100), too: images reach it, and more proposals give more detections."
    )


def test_every_loss_has_advice(settings: ModelSettings) -> None:
    for stage in (*STAGES[1:], PROPOSALS, "boxes of stage 0"):
        for reason in set(Reason) - {Reason.FOUND, Reason.NO_ANCHOR, Reason.CUT_BY_TOP_K}:
            lost = traced(stage, reason, rank=1, score=0.5, box=(0.0, 0.0, 9.0, 90.0), ious=(0.2,))
            assert (
                len(advise([lost], settings, STRIDES))
                > len(f"Largest loss: 1 of 1 object (100.0 %): {reason.value}.") + 20
            )


def test_anchors_for_narrow_objects(settings: ModelSettings) -> None:
    narrow = [
        traced(ANCHORS, Reason.NO_ANCHOR, box=(x, 20.0, x + 12, 80.0), ious=(0.3,)) for x in (10.0, 51.0, 93.0, 130.0)
    ]
    wide = [traced(box=(x, 20.0, x + 40, 60.0)) for x in (10.0, 51.0)]
    text = advise([*narrow, *wide], settings, STRIDES)
    assert "100.0 % of the objects have an anchor of IoU 0.5 (now 33.3 %), and 100.0 % of those lost here" in text
    assert "```yaml\nMODEL:\n  ANCHOR_GENERATOR:\n    SIZES: [[" in text
    assert "ASPECT_RATIOS: [[1.0, 5.0]]" in text


def test_objects_smaller_than_the_cells_need_larger_images(settings: ModelSettings) -> None:
    tiny = [traced(ANCHORS, Reason.NO_ANCHOR, box=(2.0 + x, 2.0, 3.0 + x, 3.0), ious=(0.06,)) for x in range(4)]
    text = advise(tiny, settings, STRIDES)
    assert "Enlarge the images (INPUT.MIN_SIZE_TRAIN, INPUT.MIN_SIZE_TEST)" in text
    assert "smaller than 1 pixels, and the finest map has stride 4" in text
    assert "yaml" not in text


def test_nothing_is_lost(settings: ModelSettings) -> None:
    assert advise([traced()], settings, STRIDES) == "No object is lost."


def test_tables() -> None:
    objects = [
        traced(),
        traced(size="small"),
        traced(NMS, Reason.SUPPRESSED, size="small", class_name="dog"),
        traced(FINAL, Reason.TAKEN),
    ]
    assert alive_counts(objects, STAGES) == {
        "anchors": 4, "top-k": 4, "nms": 3, "box head": 3, "suppression": 3, "final": 2
    }  # fmt: skip
    lines = stage_table(objects, STAGES).splitlines()
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == ["objects", "4", "2", "2", "0"]
    assert [cell.strip() for cell in lines[-1].split("|")[1:-1]] == [
        "after final",
        "2 (50.0 %)",
        "1 (50.0 %)",
        "1 (50.0 %)",
        "0",
    ]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in reason_table(objects, STAGES).splitlines()[2:]]
    assert rows == [
        ["nms", "suppressed by a better box", "1", "25.0 %"],
        ["final", "its detection is matched to another object", "1", "25.0 %"],
    ]
    assert class_table(objects, STAGES).splitlines()[2].split("|")[1].strip() == "dog"  # the worst class first
    assert reason_table([traced()], STAGES) == ""
