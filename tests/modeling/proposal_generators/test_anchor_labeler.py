import pytest
import torch
from torch import Tensor

from mrcnn_zoo.modeling.assignment import MaxIoUMatcher, RandomSampler
from mrcnn_zoo.modeling.proposal_generators.rpn import AnchorLabeler, AnchorSample
from mrcnn_zoo.structures import Targets

ANCHORS = torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 10, 12], [-3.0, 0, 7, 10], [30.0, 30, 40, 40]])
LARGE = (50, 50)  # an image around all anchors but one


def labeler(boundary_margin: float = -1) -> AnchorLabeler:
    matcher = MaxIoUMatcher((0.3, 0.7), (0, -1, 1), allow_low_quality=True)
    return AnchorLabeler(matcher, RandomSampler(10, positive_fraction=0.5), boundary_margin=boundary_margin)


def targets(*boxes: list[float]) -> Targets:
    return Targets((20, 20), torch.tensor(boxes).reshape(-1, 4), torch.zeros(len(boxes), dtype=torch.int64))


def positives_and_negatives(sample: AnchorSample) -> tuple[list[int], list[int]]:
    return sample.rows[: sample.num_positives].tolist(), sample.rows[sample.num_positives :].tolist()


def test_each_positive_has_its_anchor_and_its_ground_truth() -> None:
    sample = labeler().sample(ANCHORS, [targets([30, 30, 40, 41], [0, 0, 10, 10])], [LARGE])
    assert positives_and_negatives(sample) == ([0, 1, 3], [])  # anchor 2 overlaps by 0.54
    assert torch.equal(sample.positive_anchors, ANCHORS[[0, 1, 3]])
    assert sample.positive_targets.tolist() == [[0, 0, 10, 10], [0, 0, 10, 10], [30, 30, 40, 41]]


def test_rows_count_through_the_images_with_all_positives_first() -> None:
    sample = labeler().sample(ANCHORS, [targets([0, 0, 10, 10]), targets([30, 30, 40, 40])], [LARGE, LARGE])
    assert positives_and_negatives(sample) == ([0, 1, 4 + 3], [3, 4 + 0, 4 + 1, 4 + 2])
    assert torch.equal(sample.positive_anchors, ANCHORS[[0, 1, 3]])


def test_anchors_beyond_the_boundary_are_left_out() -> None:
    sample = labeler(boundary_margin=0).sample(ANCHORS, [targets([0, 0, 10, 10])], [(12, 50)])
    # Anchor 1 ends at 12, the border itself, and does not cross it. Anchor 2 begins at -3, anchor 3 ends at 40.
    assert positives_and_negatives(sample) == ([0, 1], [])


def test_rows_of_anchors_inside_count_through_all_anchors() -> None:
    images = [targets([30, 30, 40, 40]), targets()]
    sample = labeler(boundary_margin=0).sample(ANCHORS, images, [LARGE, LARGE])
    assert positives_and_negatives(sample) == ([3], [0, 1, 4 + 0, 4 + 1, 4 + 3])
    assert sample.positive_targets.tolist() == sample.positive_anchors.tolist() == [[30, 30, 40, 40]]


def test_anchors_may_extend_outside_by_the_margin() -> None:
    rows = [labeler(margin).sample(ANCHORS, [targets()], [(12, 50)]).rows.tolist() for margin in (2.9, 3, 28)]
    assert rows == [[0, 1], [0, 1, 2], [0, 1, 2, 3]]


def test_anchors_inside_the_border_are_the_positions_of_valid_padding() -> None:
    # Windows of 32 every 16 pixels over 64: "valid" positions start at 0, 16 and 32 on either axis.
    centers = torch.arange(5.0) * 16
    x, y = (axis.flatten() for axis in torch.meshgrid(centers, centers, indexing="xy"))
    anchors = torch.stack((x - 16, y - 16, x + 16, y + 16), dim=1)
    sample = labeler(0).sample(anchors, [targets()], [(64, 64)])
    starts = sorted(tuple(anchors[row, :2].tolist()) for row in sample.rows)
    assert starts == [(i, j) for i in (0, 16, 32) for j in (0, 16, 32)]


def test_each_object_has_its_best_anchor_among_those_inside() -> None:
    # Anchor 0, the best of all with an IoU of 0.64, crosses the border; 1 is the best of the rest, with 0.2.
    anchors = torch.tensor([[-5.0, -5, 20, 20], [0.0, 0, 10, 10], [40.0, 40, 50, 50]])
    truth = [targets([0, 0, 20, 25])]
    assert positives_and_negatives(labeler(0).sample(anchors, truth, [(60, 60)])) == ([1], [2])
    assert positives_and_negatives(labeler(-1).sample(anchors, truth, [(60, 60)]))[0] == [0]


def test_image_without_anchors_inside_has_an_empty_sample() -> None:
    sample = labeler(0).sample(ANCHORS, [targets([0, 0, 4, 4])], [(5, 5)])
    assert sample.rows.shape == (0,)
    assert sample.positive_anchors.shape == sample.positive_targets.shape == (0, 4)


def test_image_without_ground_truth_has_only_negatives() -> None:
    sample = labeler().sample(ANCHORS, [targets()], [LARGE])
    assert positives_and_negatives(sample) == ([], [0, 1, 2, 3])


def test_no_anchors_give_an_empty_sample() -> None:
    none: Tensor = torch.zeros(0, 4)
    assert labeler().sample(none, [targets([0, 0, 10, 10]), targets()], [LARGE, LARGE]).rows.shape == (0,)


@pytest.mark.parametrize("margin", [-1.0, 0.0, 3.0])
def test_labels_of_all_anchors_are_those_of_the_sample(margin: float) -> None:
    truth, size = targets([30, 30, 40, 41], [0, 0, 10, 10]), (12, 50)
    matches, is_left_out = labeler(margin).label(ANCHORS, truth, size)
    sample = labeler(margin).sample(ANCHORS, [truth], [size])
    assert ((matches.labels == 1).nonzero().flatten().tolist(), (matches.labels == 0).nonzero().flatten().tolist()) == (
        positives_and_negatives(sample)
    )
    assert torch.equal(truth.boxes[matches.rows[matches.labels == 1]], sample.positive_targets)
    # By hand: anchor 2 begins at -3, anchor 3 ends at 40 of 12 rows.
    assert (
        is_left_out.tolist() == {-1.0: [False] * 4, 0.0: [False, False, True, True], 3.0: [False] * 3 + [True]}[margin]
    )
