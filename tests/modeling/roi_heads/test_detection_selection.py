"""Which of the boxes of all regions and classes become detections."""

import torch

from mrcnn_zoo.modeling.roi_heads.detection_selection import DetectionSelection, RegionPredictions
from mrcnn_zoo.modeling.suppression import GreedySuppression
from mrcnn_zoo.ops.box_coding import BoxCoder
from mrcnn_zoo.structures import Detections, Proposals

SIZE = (100, 100)


def select(boxes: list[list[float]], *, min_size: float, max_detections: int = 10) -> Detections:
    """Of proposals that stay where they are, best first."""
    proposals = Proposals(SIZE, torch.tensor(boxes).reshape(-1, 4), torch.zeros(len(boxes)))
    scores = torch.linspace(0.9, 0.5, len(boxes))[:, None]
    selection = DetectionSelection(
        GreedySuppression(0.5), score_threshold=0.05, max_detections=max_detections, min_size=min_size
    )
    predictions = RegionPredictions(scores, torch.zeros(len(boxes), 4), [proposals])
    (found,) = selection.select(predictions, BoxCoder((1.0, 1.0, 1.0, 1.0)))
    return found


def test_small_boxes_are_removed_before_the_limit() -> None:
    boxes = [[10.0, 10.0, 10.005, 40.0], [50.0, 50.0, 80.0, 80.0]]
    assert select(boxes, min_size=0.01, max_detections=1).boxes.tolist() == [boxes[1]]
    assert len(select(boxes, min_size=0.0)) == 2


def test_min_size_applies_to_clipped_boxes() -> None:
    assert len(select([[-30.0, 10.0, 0.001, 40.0]], min_size=0.01)) == 0


def test_no_regions_give_no_detections() -> None:
    assert len(select([], min_size=0.01)) == 0


def test_negative_limit_keeps_all_detections() -> None:
    boxes = [[20.0 * number, 10.0, 20.0 * number + 15, 40.0] for number in range(4)]
    assert len(select(boxes, min_size=0.0, max_detections=-1)) == 4
    assert len(select(boxes, min_size=0.0, max_detections=3)) == 3
