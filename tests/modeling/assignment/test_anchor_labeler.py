import torch
from torch import Tensor

from mrcnn_zoo.modeling.assignment import AnchorLabeler, MaxIoUMatcher, RandomSampler
from mrcnn_zoo.structures import Targets

ANCHORS = torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 10, 12], [-3.0, 0, 7, 10], [30.0, 30, 40, 40]])


def labeler(boundary_margin: float = -1) -> AnchorLabeler:
    matcher = MaxIoUMatcher((0.3, 0.7), (0, -1, 1), allow_low_quality=True)
    return AnchorLabeler(matcher, RandomSampler(10, positive_fraction=0.5), boundary_margin=boundary_margin)


def targets(boxes: Tensor) -> Targets:
    return Targets((20, 20), boxes, torch.zeros(len(boxes), dtype=torch.int64))


def test_positives_know_their_ground_truth() -> None:
    truth = targets(torch.tensor([[30.0, 30, 40, 41], [0.0, 0, 10, 10]]))
    (labels,) = labeler().label(ANCHORS, [truth], [(50, 50)])
    assert labels.positives.tolist() == [0, 1, 3]
    assert labels.matches.tolist() == [1, 1, 0]
    assert labels.negatives.tolist() == []  # anchor 2 overlaps by 0.54


def test_images_are_labelled_apart() -> None:
    here, there = targets(torch.tensor([[0.0, 0, 10, 10]])), targets(torch.tensor([[30.0, 30, 40, 40]]))
    first, second = labeler().label(ANCHORS, [here, there], [(50, 50), (50, 50)])
    assert (first.positives.tolist(), first.negatives.tolist()) == ([0, 1], [3])
    assert (second.positives.tolist(), second.negatives.tolist()) == ([3], [0, 1, 2])


def test_anchors_beyond_the_boundary_are_left_out() -> None:
    truth = targets(torch.tensor([[0.0, 0, 10, 10]]))
    (labels,) = labeler(boundary_margin=0).label(ANCHORS, [truth], [(12, 50)])
    assert labels.positives.tolist() == [0, 1]  # anchor 1 ends at 12, the border itself, and does not cross it
    assert labels.negatives.tolist() == []  # anchor 2 begins at -3, anchor 3 reaches 40 in a height of 12


def test_a_margin_lets_anchors_reach_out_that_far() -> None:
    nothing = targets(torch.zeros(0, 4))
    rows = [labeler(margin).label(ANCHORS, [nothing], [(12, 50)])[0].negatives.tolist() for margin in (2.9, 3, 28)]
    assert rows == [[0, 1], [0, 1, 2], [0, 1, 2, 3]]


def test_borders_on_both_sides_count_alike_as_with_valid_padding() -> None:
    # Windows of 32 every 16 pixels over 64: "valid" positions start at 0, 16 and 32 on either axis.
    centers = torch.arange(5.0) * 16
    x, y = (axis.flatten() for axis in torch.meshgrid(centers, centers, indexing="xy"))
    anchors = torch.stack((x - 16, y - 16, x + 16, y + 16), dim=1)
    (labels,) = labeler(0).label(anchors, [targets(torch.zeros(0, 4))], [(64, 64)])
    starts = sorted(tuple(anchors[row, :2].tolist()) for row in labels.negatives)
    assert starts == [(i, j) for i in (0, 16, 32) for j in (0, 16, 32)]


def test_an_object_has_its_best_anchor_among_those_inside() -> None:
    # Anchor 0, the best of all with an IoU of 0.64, crosses the border; 1 is the best of the rest, with 0.2.
    anchors = torch.tensor([[-5.0, -5, 20, 20], [0.0, 0, 10, 10], [40.0, 40, 50, 50]])
    truth = targets(torch.tensor([[0.0, 0, 20, 25]]))
    (labels,) = labeler(0).label(anchors, [truth], [(60, 60)])
    assert (labels.positives.tolist(), labels.matches.tolist(), labels.negatives.tolist()) == ([1], [0], [2])
    (labels,) = labeler(-1).label(anchors, [truth], [(60, 60)])
    assert labels.positives.tolist() == [0]


def test_an_image_without_anchors_inside_trains_none() -> None:
    (labels,) = labeler(0).label(ANCHORS, [targets(torch.tensor([[0.0, 0, 4, 4]]))], [(5, 5)])
    assert len(labels.positives) == len(labels.negatives) == len(labels.matches) == 0


def test_an_image_without_ground_truth_has_only_negatives() -> None:
    (labels,) = labeler().label(ANCHORS, [targets(torch.zeros(0, 4))], [(50, 50)])
    assert labels.positives.tolist() == labels.matches.tolist() == []
    assert labels.negatives.tolist() == [0, 1, 2, 3]


def test_no_anchors_give_no_labels() -> None:
    (labels,) = labeler().label(torch.zeros(0, 4), [targets(torch.tensor([[0.0, 0, 10, 10]]))], [(50, 50)])
    assert len(labels.positives) == len(labels.negatives) == 0
