import pytest
import torch
import torchvision
from torch import Tensor

from mrcnn_zoo.ops.nms import batched_nms, nms_of_images

# Box 1 overlaps box 0 by 8 / 12, box 2 overlaps neither.
BOXES = torch.tensor([[0.0, 0.0, 10.0, 1.0], [2.0, 0.0, 12.0, 1.0], [50.0, 0.0, 60.0, 1.0]])


def test_box_with_the_lower_score_is_suppressed() -> None:
    rows = batched_nms(BOXES, torch.tensor([0.5, 0.9, 0.7]), torch.zeros(3, dtype=torch.int64), iou_threshold=0.5)
    assert rows.tolist() == [1, 2]


def test_boxes_of_different_groups_do_not_suppress_each_other() -> None:
    rows = batched_nms(BOXES, torch.tensor([0.5, 0.9, 0.7]), torch.tensor([0, 1, 0]), iou_threshold=0.5)
    assert rows.tolist() == [1, 2, 0]


def test_box_with_iou_equal_to_threshold_is_kept() -> None:
    boxes = torch.tensor([[0.0, 0.0, 4.0, 1.0], [0.0, 0.0, 2.0, 1.0]])
    rows = batched_nms(boxes, torch.tensor([0.9, 0.5]), torch.zeros(2, dtype=torch.int64), iou_threshold=0.5)
    assert rows.tolist() == [0, 1]


@pytest.mark.parametrize("count", [300, 1500])
def test_many_boxes_are_compared_group_by_group(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    corners = torch.rand(count, 2, generator=generator) * 1000
    boxes = torch.cat((corners, corners + 20 + torch.rand(count, 2, generator=generator) * 200), dim=1)
    scores, groups = torch.rand(count, generator=generator), torch.randint(4, (count,), generator=generator)
    rows = batched_nms(boxes, scores, groups, iou_threshold=0.4)
    for group in range(4):
        members = (groups == group).nonzero().flatten()
        expected = members[torchvision.ops.nms(boxes[members], scores[members], 0.4)]
        assert rows[groups[rows] == group].tolist() == expected.tolist()
    assert (scores[rows].diff() <= 0).all()


def by_group(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> list[int]:
    """torchvision's NMS per group in float32; sorted by score, then by row."""
    rows = []
    for group in groups.unique().tolist():
        members = (groups == group).nonzero().flatten()
        rows.append(members[torchvision.ops.nms(boxes[members].float(), scores[members].float(), threshold)])
    kept = torch.cat(rows).sort().values
    return kept[scores[kept].float().argsort(descending=True, stable=True)].tolist()


def crowded_scene(count: int, num_groups: int, size: float, *, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """About 12 jittered copies per box, so that many boxes of a group overlap."""
    generator = torch.Generator().manual_seed(seed)
    places = max(1, count // 12)
    middles, sides = torch.rand((2, places, 2), generator=generator).mul(torch.tensor([size, 150.0])[:, None, None])
    boxes = torch.cat((middles - sides / 2 - 10, middles + sides / 2 + 10), dim=1)
    rows = torch.randint(places, (count,), generator=generator)
    groups = torch.randint(num_groups, (places,), generator=generator)
    moved = boxes[rows] + 5 * torch.randn((count, 4), generator=generator)
    return moved, torch.rand(count, generator=generator), groups[rows]


@pytest.mark.parametrize("shift", [0.0, -4000.0, -1e5])
@pytest.mark.parametrize(("count", "num_groups"), [(1, 1), (300, 3), (1000, 1203), (1001, 1203), (3000, 80), (3000, 1)])
def test_batched_nms_equals_nms_of_each_group(count: int, num_groups: int, shift: float) -> None:
    boxes, scores, groups = crowded_scene(count, num_groups, 8000.0 if num_groups > 80 else 600.0, seed=count)
    boxes = boxes + shift
    for threshold in (0.0, 0.3, 0.5, 0.7, 1.0):
        rows = batched_nms(boxes, scores, groups, iou_threshold=threshold)
        assert rows.tolist() == by_group(boxes, scores, groups, threshold)


@pytest.mark.parametrize("threshold", [0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
@pytest.mark.parametrize("count", [400, 2400])
def test_batched_nms_equals_nms_of_each_group_at_ties(count: int, threshold: float) -> None:
    generator = torch.Generator().manual_seed(count)
    corners = 10 * torch.randint(0, 12, (count, 2), generator=generator)
    boxes = torch.cat((corners, corners + 10 * torch.randint(1, 5, (count, 2), generator=generator)), dim=1).float()
    scores = torch.randint(0, 50, (count,), generator=generator) / 50  # with many ties
    groups = torch.randint(0, 6, (count,), generator=generator)
    for scale in (1.0, 0.5):
        rows = batched_nms(boxes * scale - 30, scores, groups, iou_threshold=threshold)
        assert (scores[rows].diff() <= 0).all()
        assert sorted(rows.tolist()) == sorted(by_group(boxes * scale - 30, scores, groups, threshold))


def test_distant_box_does_not_reduce_the_precision_of_others() -> None:
    boxes, scores, groups = crowded_scene(400, 9, 300.0, seed=1)
    boxes[7] = torch.tensor([1e12, 1e12, 2e12, 2e12])
    rows = batched_nms(boxes, scores, groups * 100_000, iou_threshold=0.5)
    assert rows.tolist() == by_group(boxes, scores, groups, 0.5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_huge_boxes_do_not_affect_other_groups(value: float) -> None:
    boxes, scores, groups = crowded_scene(200, 5, 300.0, seed=2)
    boxes[::50, 2:] = value
    groups[::50] = 7
    rows = batched_nms(boxes, scores, groups, iou_threshold=0.5).tolist()
    expected = by_group(boxes, scores, groups, 0.5)
    assert [row for row in rows if row % 50] == [row for row in expected if row % 50]


def test_groups_with_negative_coordinates_are_separated() -> None:
    scores = torch.tensor([0.5, 0.9, 0.7, 0.8])
    same = BOXES[:1].repeat(4, 1)
    for groups in ([-1, 0, 1, -1], [-(2**40), 0, 2**40, -(2**40)]):
        assert batched_nms(same, scores, torch.tensor(groups), iou_threshold=0.5).tolist() == [1, 3, 2]


def test_batched_nms_of_100_000_boxes_equals_nms_of_each_group() -> None:
    boxes, scores, groups = crowded_scene(100_000, 1203, 8000.0, seed=3)
    rows = batched_nms(boxes, scores, groups, iou_threshold=0.5)
    assert (scores[rows].diff() <= 0).all()
    assert sorted(rows.tolist()) == sorted(by_group(boxes, scores, groups, 0.5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_boxes_are_compared_in_float32(dtype: torch.dtype) -> None:
    boxes, scores, groups = crowded_scene(500, 40, 900.0, seed=4)
    boxes, scores = boxes.to(dtype) - 300, scores.to(dtype)
    rows = batched_nms(boxes, scores, groups, iou_threshold=0.5)
    assert rows.tolist() == by_group(boxes, scores, groups, 0.5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("count", "num_groups"), [(1, 1), (1000, 1203), (5000, 80), (30_000, 80)])
def test_nms_on_gpu_equals_nms_on_cpu(count: int, num_groups: int) -> None:
    scene = crowded_scene(count, num_groups, 4000.0, seed=count)
    rows = batched_nms(*(part.cuda() for part in scene), iou_threshold=0.5)
    assert rows.tolist() == by_group(*scene, 0.5)


def test_half_precision_scores_are_accepted() -> None:
    scores = torch.tensor([0.5, 0.9, 0.7], dtype=torch.bfloat16)
    rows = batched_nms(BOXES.bfloat16(), scores, torch.zeros(3, dtype=torch.int64), iou_threshold=0.5)
    assert rows.tolist() == [1, 2]


def test_nms_of_no_boxes_is_empty() -> None:
    rows = batched_nms(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), iou_threshold=0.5)
    assert rows.shape == (0,)
    assert rows.dtype == torch.int64


def test_nms_of_images_equals_torchvision_per_image() -> None:
    generator, counts = torch.Generator().manual_seed(0), [40, 0, 25]
    corners = torch.rand((65, 2), generator=generator) * 30
    boxes = torch.cat((corners, corners + 10), dim=1)
    scores, groups = torch.rand(65, generator=generator), torch.randint(0, 3, (65,), generator=generator)
    expected, first = [], 0
    for count in counts:
        part = slice(first, first + count)
        expected += (torchvision.ops.batched_nms(boxes[part], scores[part], groups[part], 0.5) + first).tolist()
        first += count
    found = nms_of_images(boxes, scores, groups, counts=counts, iou_threshold=0.5, num_groups=3, bounds=(0, 40))
    assert found.tolist() == expected
    assert 0 < len(found) < 65
