import math

import torch

from mrcnn_zoo.config import load_config
from mrcnn_zoo.modeling.assignment import (
    MaxIoUMatcher,
    RandomSampler,
    RegionLabeler,
    build_region_labeler,
    label_all,
    with_ground_truth,
)
from mrcnn_zoo.structures import Proposals, Targets

TARGETS = Targets((50, 50), torch.tensor([[0.0, 0, 10, 10], [30.0, 30, 40, 40]]), torch.tensor([4, 2]))
PROPOSALS = Proposals(
    (50, 50),
    torch.tensor([[20.0, 0, 30, 10], [30.0, 30, 40, 41], [0.0, 0, 10, 9], [0.0, 0, 10, 3]]),
    torch.tensor([4.0, 3.0, 2.0, 1.0]),
)


def labeler(*, append_ground_truth: bool = False, count: int = 100) -> RegionLabeler:
    matcher = MaxIoUMatcher((0.5,), (0, 1), allow_low_quality=False)
    return RegionLabeler(matcher, RandomSampler(count, positive_fraction=0.5), 7, append_ground_truth)


def test_foreground_comes_first_and_background_gets_class_k() -> None:
    (regions,) = labeler().label([PROPOSALS], [TARGETS])
    assert torch.equal(regions.boxes, PROPOSALS.boxes[[1, 2, 0, 3]])
    assert regions.classes.tolist() == [2, 4, 7, 7]
    assert regions.matches[:2].tolist() == [1, 0]
    assert regions.targets is TARGETS


def test_append_ground_truth_adds_boxes_to_the_regions() -> None:
    (regions,) = labeler(append_ground_truth=True).label([PROPOSALS], [TARGETS])
    assert regions.classes.tolist() == [2, 4, 4, 2, 7, 7]
    assert torch.equal(regions.boxes[2:4], TARGETS.boxes)


def test_number_of_regions_is_bounded() -> None:
    torch.manual_seed(0)
    (regions,) = labeler(count=2).label([PROPOSALS], [TARGETS])
    assert sorted(regions.classes.tolist())[1] == 7
    assert len(regions) == 2


def test_an_image_without_ground_truth_has_only_background() -> None:
    nothing = Targets((50, 50), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    (regions,) = labeler(append_ground_truth=True).label([PROPOSALS], [nothing])
    assert regions.classes.tolist() == [7, 7, 7, 7]


def test_image_without_proposals_has_its_ground_truth_or_no_regions() -> None:
    nothing = PROPOSALS[:0]
    (regions,) = labeler(append_ground_truth=True).label([nothing], [TARGETS])
    assert regions.classes.tolist() == [4, 2]
    (regions,) = labeler().label([nothing], [TARGETS])
    assert len(regions) == 0


def test_ground_truth_gets_the_logit_of_near_certainty() -> None:
    logit = with_ground_truth(PROPOSALS, TARGETS).objectness[-1].item()
    assert math.isclose(logit, math.log(1e10), rel_tol=1e-6)


def test_proposals_are_not_changed() -> None:
    labeler(append_ground_truth=True).label([PROPOSALS], [TARGETS])
    assert len(PROPOSALS) == 4


def test_region_labeler_has_thresholds_counts_and_classes_of_the_config() -> None:
    cfg = load_config(None, ["MODEL.DEVICE", "cpu", "MODEL.ROI_HEADS.NUM_CLASSES", 7])
    (regions,) = build_region_labeler(cfg).label([PROPOSALS], [TARGETS])
    assert regions.classes.tolist() == [2, 4, 4, 2, 7, 7]


def test_label_all_keeps_all_boxes_in_order() -> None:
    matcher = MaxIoUMatcher((0.4, 0.95), (0, -1, 1), allow_low_quality=False)
    nothing = Targets((50, 50), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    boxes = torch.cat((PROPOSALS.boxes, TARGETS.boxes))
    regions, background, empty = label_all([boxes, boxes[:2], boxes[:0]], [TARGETS, nothing, TARGETS], matcher, 7)
    assert torch.equal(regions.boxes, boxes)
    # IoU 0, 10 / 11, 0.9, 0.3, and the objects themselves
    assert regions.classes.tolist() == [7, -1, -1, 7, 4, 2]
    assert regions.matches[4:].tolist() == [0, 1]
    assert background.classes.tolist() == [7, 7]
    assert len(empty) == 0
