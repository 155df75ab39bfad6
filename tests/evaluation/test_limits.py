"""Messages on objects and detections beyond limits, with the key and a sufficient value."""

import logging
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.evaluation import evaluate, evaluate_datasets
from mrcnn_zoo.evaluation.class_mapping import with_classes_of
from mrcnn_zoo.evaluation.limits import (
    DetectionTally,
    Limit,
    build_data_notes,
    build_detection_tally,
    build_evaluation_tally,
    build_limits,
    cut_objects_message,
    log_notes,
)
from mrcnn_zoo.evaluation.preflight import check_evaluation
from mrcnn_zoo.structures import Detections, Sample

RETINANET = ("MODEL.META_ARCHITECTURE", "RetinaNet")


def config(*overrides: object) -> CfgNode:
    return load_config(None, ["MODEL.ROI_HEADS.NUM_CLASSES", 2, "DATALOADER.NUM_WORKERS", 0, *overrides])


def found(scores: Sequence[float]) -> Detections:
    count = len(scores)
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).expand(count, 4)
    return Detections((100, 100), boxes, torch.tensor(scores), torch.zeros(count, dtype=torch.int64))


@pytest.fixture
def five_and_two(square, dataset_of) -> Dataset:
    """Images of five objects and a crowd, of two objects, and of none."""
    five = tuple(square(18 * place, 10, 12) for place in range(5))
    return dataset_of((*five, square(0, 50, 40, is_crowd=True)), five[:2], ())


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            (),
            {
                "MODEL.RPN.PRE_NMS_TOPK_TEST": 6000,
                "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
                "TEST.DETECTIONS_PER_IMAGE": 100,
            },
        ),
        (
            ("MODEL.RPN.IN_FEATURES", ["p2", "p3"], "TEST.DETECTIONS_PER_IMAGE", -1),
            {"MODEL.RPN.PRE_NMS_TOPK_TEST": 12000, "MODEL.RPN.POST_NMS_TOPK_TEST": 1000},
        ),
        (
            ("MODEL.RPN.IN_FEATURES", ["p2", "p3"], "MODEL.RPN.ACROSS_LEVELS", True, "TEST.DETECTIONS_PER_IMAGE", -1),
            {"MODEL.RPN.PRE_NMS_TOPK_TEST": 6000, "MODEL.RPN.POST_NMS_TOPK_TEST": 1000},
        ),
        (RETINANET, {"MODEL.RETINANET.TOPK_CANDIDATES_TEST": 5000, "TEST.DETECTIONS_PER_IMAGE": 100}),
        (
            ("MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"),
            {"DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST": 1000, "TEST.DETECTIONS_PER_IMAGE": 100},
        ),
        (
            ("MODEL.META_ARCHITECTURE", "ProposalNetwork"),
            {"MODEL.RPN.PRE_NMS_TOPK_TEST": 6000, "MODEL.RPN.POST_NMS_TOPK_TEST": 1000},
        ),
    ],
)
def test_limits_depend_on_the_model(overrides: tuple[object, ...], expected: dict[str, int]) -> None:
    assert {limit.key: limit.capacity for limit in build_limits(config(*overrides))} == expected


def test_limits_of_training_are_those_of_the_proposals() -> None:
    keys = [limit.key for limit in build_limits(config(), is_training=True)]
    assert keys == ["MODEL.RPN.PRE_NMS_TOPK_TRAIN", "MODEL.RPN.POST_NMS_TOPK_TRAIN"]
    assert build_limits(config(*RETINANET), is_training=True) == ()


def test_objects_beyond_a_limit_are_counted_without_crowds(five_and_two: Dataset) -> None:
    cfg = config("TEST.DETECTIONS_PER_IMAGE", 3, "MODEL.RPN.POST_NMS_TOPK_TEST", 1)
    message = cut_objects_message(five_and_two, build_limits(cfg))
    assert "has 5 objects" in message
    assert "TEST.DETECTIONS_PER_IMAGE = 3 excludes 2 in 1 image" in message
    assert "MODEL.RPN.POST_NMS_TOPK_TEST = 1 excludes 5 in 2 images" in message  # 4 and 1


def test_suggested_values_exclude_no_objects(five_and_two: Dataset) -> None:
    keys = ["TEST.DETECTIONS_PER_IMAGE", 3, "MODEL.RPN.POST_NMS_TOPK_TEST", 1, "MODEL.RPN.PRE_NMS_TOPK_TEST", 2]
    advice = cut_objects_message(five_and_two, build_limits(config(*keys))).split("Set ")[1].split()
    assert len(advice) == 6
    assert cut_objects_message(five_and_two, build_limits(config(*keys, *advice))) == ""


def test_no_message_if_no_object_is_excluded(five_and_two: Dataset, dataset_of) -> None:
    assert cut_objects_message(five_and_two, build_limits(config("TEST.DETECTIONS_PER_IMAGE", 5))) == ""
    assert cut_objects_message(dataset_of(()), build_limits(config())) == ""
    assert build_data_notes(config(), five_and_two) == []


def test_objects_below_a_minimum_size_are_counted(five_and_two: Dataset) -> None:
    size = ("INPUT.MIN_SIZE_TEST", 50, "INPUT.MAX_SIZE_TEST", 50)  # 100 pixels become 50, a side of 12 becomes 6
    for key in ("MODEL.PROPOSAL_GENERATOR.MIN_SIZE", "MODEL.ROI_HEADS.MIN_SIZE_TEST"):
        (note,) = build_data_notes(config(*size, key, 6), five_and_two)
        assert f"{key} = 6 pixels of the network input excludes 7 of 7 objects" in note
        assert build_data_notes(config(*size, key, 5), five_and_two) == []


def test_note_on_detections_that_the_evaluation_does_not_count(square, dataset_of) -> None:
    crowded = dataset_of(tuple(square(place % 90, 5, 3) for place in range(101)))
    (note,) = build_data_notes(config("TEST.DETECTIONS_PER_IMAGE", -1), crowded)
    assert "counts the best 100 per image and class, and one image has 101 objects of a class" in note
    assert note.endswith("Set TEST.DETECTIONS_PER_IMAGE 200")
    two_classes = dataset_of(tuple(square(place % 90, 5, 3, place % 2) for place in range(101)))
    assert build_data_notes(config("TEST.DETECTIONS_PER_IMAGE", -1), two_classes) == []


def test_check_evaluation_logs_excluded_objects(five_and_two: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        check_evaluation(config("TEST.DETECTIONS_PER_IMAGE", 3, "TEST.NUM_IMAGES", 2), [five_and_two])
    assert "squares: TEST.NUM_IMAGES = 2 of 3 images are evaluated" in caplog.messages
    assert sum("TEST.DETECTIONS_PER_IMAGE = 3" in message for message in caplog.messages) == 1


def test_tally_names_the_image_with_the_highest_lowest_score() -> None:
    tally = build_detection_tally(config("TEST.DETECTIONS_PER_IMAGE", 3))
    tally.add("few.png", found([0.9, 0.9]))
    tally.add("full.png", found([0.9, 0.7, 0.6]))
    tally.add("fuller.png", found([0.99, 0.98, 0.95]))
    (note,) = tally.notes()
    assert note.level == logging.WARNING
    assert "TEST.DETECTIONS_PER_IMAGE = 3 cut the detections of 2 of 3 images" in note.text
    assert "the lowest score kept is 0.950 (fuller.png)" in note.text
    assert note.text.endswith("Set TEST.DETECTIONS_PER_IMAGE 100")


def test_low_scores_at_the_limit_are_not_a_warning() -> None:
    tally = build_detection_tally(config("TEST.DETECTIONS_PER_IMAGE", 3))
    tally.add("full.png", found([0.9, 0.3, 0.1]))
    assert tally.notes() == []
    tally.add("fuller.png", found([0.9, 0.3, 0.25]))
    assert [note.level for note in tally.notes()] == [logging.INFO]


def test_detections_below_the_minimum_score_are_not_reported() -> None:
    tally = build_detection_tally(config("TEST.DETECTIONS_PER_IMAGE", 3), min_score=0.5)
    tally.add("full.png", found([0.9, 0.6, 0.4]))
    assert tally.notes() == []


def test_tally_without_detections_has_no_notes() -> None:
    tally = build_detection_tally(config())
    assert tally.notes() == []
    tally.add("empty.png", found([]))
    assert tally.notes() == []


def test_too_few_candidates_are_reported() -> None:
    limits = (Limit("MODEL.RPN.POST_NMS_TOPK_TEST", 10), Limit("TEST.DETECTIONS_PER_IMAGE", 50, is_of_candidates=False))
    tally = DetectionTally(limits)
    tally.add("low_scores.png", found([0.4] * 9))
    assert tally.notes() == []
    tally.add("high_scores.png", found([0.8] * 6))
    (note,) = tally.notes()
    assert "MODEL.RPN.POST_NMS_TOPK_TEST = 10; 6 detections in high_scores.png" in note.text
    assert note.text.endswith("Set MODEL.RPN.POST_NMS_TOPK_TEST 200 TEST.DETECTIONS_PER_IMAGE 100")


def test_uncounted_detections_are_reported() -> None:
    cfg = config("TEST.DETECTIONS_PER_IMAGE", -1)
    tally = build_evaluation_tally(cfg)
    tally.add("100.png", found([0.1] * 100))
    assert tally.notes() == []
    tally.add("101.png", found([0.1] * 101))
    (note,) = tally.notes()
    assert "counts the best 100 detections per image and class" in note.text
    assert "1 image had more (101 of a class in 101.png). To count all, set TEST.DETECTIONS_PER_IMAGE 200" in note.text
    proposals = build_evaluation_tally(config("MODEL.META_ARCHITECTURE", "ProposalNetwork"))
    proposals.add("101.png", found([0.1] * 101))
    assert proposals.notes() == []


def test_tallies_of_several_processes_are_merged() -> None:
    cfg = config("TEST.DETECTIONS_PER_IMAGE", 2)
    first, second = build_detection_tally(cfg), build_detection_tally(cfg)
    first.add("a.png", found([0.6, 0.5]))
    second.add("b.png", found([0.8, 0.7]))
    first.merge(second)
    assert "2 of 2 images; the lowest score kept is 0.700 (b.png)" in first.notes()[0].text


def test_note_is_logged_once_per_run_and_level(caplog: pytest.LogCaptureFixture) -> None:
    cfg, logged = config("TEST.DETECTIONS_PER_IMAGE", 2), set()
    for scores in ([0.4, 0.3], [0.3, 0.2], [0.9, 0.8], [0.9, 0.7]):
        tally = build_detection_tally(cfg)
        tally.add("a.png", found(scores))
        with caplog.at_level(logging.INFO):
            log_notes(tally.notes(), logged=logged, dataset="val")
    assert [record.levelno for record in caplog.records] == [logging.INFO, logging.WARNING]
    assert caplog.messages[1].startswith("val: TEST.DETECTIONS_PER_IMAGE = 2 cut")


class Crowded(nn.Module):
    """Detects two objects with high scores in each image."""

    def predict(self, samples: list[Sample]) -> list[Detections]:
        return [found([0.9, 0.8]) for _ in samples]


def test_evaluation_warns_of_a_reached_limit(five_and_two: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    cfg = config("TEST.DETECTIONS_PER_IMAGE", 2, "MODEL.MASK_ON", False, "INPUT.MIN_SIZE_TEST", 32)
    with caplog.at_level(logging.INFO):
        evaluate(Crowded(), five_and_two, cfg)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].startswith("squares: TEST.DETECTIONS_PER_IMAGE = 2 cut the detections of 3 of 3 images")


def test_limits_apply_before_detections_of_other_classes_are_removed(
    five_and_two: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = config("TEST.DETECTIONS_PER_IMAGE", 2, "MODEL.MASK_ON", False, "INPUT.MIN_SIZE_TEST", 32)
    # Both detections are of a class that the dataset does not have.
    detector = with_classes_of(five_and_two, Crowded(), ("kite", *five_and_two.class_names))
    with caplog.at_level(logging.INFO):
        results = evaluate(detector, five_and_two, cfg)
    assert results["bbox"]["AP"] == 0
    assert sum("cut the detections of 3 of 3 images" in message for message in caplog.messages) == 1


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        (("TEST.DETECTIONS_PER_IMAGE", 2), "TEST.DETECTIONS_PER_IMAGE = 2 excludes 3"),
        (("MODEL.RPN.POST_NMS_TOPK_TEST", 2), "MODEL.RPN.POST_NMS_TOPK_TEST = 2 excludes 3"),
    ],
)
def test_limit_reported_before_the_evaluation_is_not_reported_again(
    keys: tuple[str, int], named: str, five_and_two: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = config(*keys, "MODEL.MASK_ON", False, "INPUT.MIN_SIZE_TEST", 32, "DATASETS.TEST", ["squares"])
    with caplog.at_level(logging.INFO):
        check_evaluation(cfg, [five_and_two])
        evaluate_datasets(Crowded(), cfg, class_names=five_and_two.class_names, datasets=[five_and_two])
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert named in warning
