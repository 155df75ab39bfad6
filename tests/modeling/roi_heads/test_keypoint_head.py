import math
from typing import Any

import pytest
import torch
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.roi_heads import KRCNNConvDeconvUpsampleHead
from mrcnn_zoo.modeling.roi_heads.keypoint_head import with_visible_keypoints
from mrcnn_zoo.structures import Detections, FeatureSpec, LabeledRegions, Targets

POOLED = FeatureSpec(channels=4, side=7)
SIZE = (40, 50)
BOXES = torch.tensor([[0.0, 0, 25, 40], [25, 0, 50, 40]])


def head(*, loss_weight: float = 1.0, keypoints_per_image: float | None = None) -> KRCNNConvDeconvUpsampleHead:
    torch.manual_seed(0)
    return KRCNNConvDeconvUpsampleHead(
        POOLED,
        num_keypoints=2,
        conv_channels=[6, 8],
        loss_weight=loss_weight,
        keypoints_per_image=keypoints_per_image,
    )


def regions(visibilities: list[list[int]], *, shift: float = 0.0) -> LabeledRegions:
    """The first regions, each of an object with one keypoint near the corner and one in the middle of its box."""
    count = len(visibilities)
    boxes = BOXES[:count]
    points = torch.stack((boxes[:, :2] + 1, (boxes[:, :2] + boxes[:, 2:]) / 2), dim=1)
    visible = torch.tensor(visibilities, dtype=torch.float32).reshape(count, 2, 1)
    targets = Targets(SIZE, boxes, torch.zeros(count, dtype=torch.int64), keypoints=torch.cat((points, visible), dim=2))
    return LabeledRegions(SIZE, boxes + shift, targets.classes, torch.arange(count), targets)


def pooled(count: int) -> torch.Tensor:
    return torch.randn((count, 4, 7, 7), generator=torch.Generator().manual_seed(1))


def test_keypoint_layers_agree_with_torchvision() -> None:
    """torchvision has the same layers under other names: the two make the same heatmaps of the same weights."""
    made = head()
    theirs = torch.nn.Sequential(KeypointRCNNHeads(4, (6, 8)), KeypointRCNNPredictor(8, 2)).eval()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), made.state_dict().values(), strict=True)))
    torch.testing.assert_close(made(pooled(3)), theirs(pooled(3)))


def test_loss_is_the_mean_over_labelled_keypoints() -> None:
    made = head()
    for parameter in made.parameters():
        torch.nn.init.zeros_(parameter)
    output = made.losses(pooled(3), [regions([[2, 1], [0, 2]]), regions([[0, 0]])])
    assert output.losses["loss_keypoint"].item() == pytest.approx(math.log(28 * 28))
    assert output.metrics["keypoint/num_labelled"] == 3


def test_fixed_normalizer_gives_images_with_few_keypoints_less_weight() -> None:
    made = head(keypoints_per_image=10)
    for parameter in made.parameters():
        torch.nn.init.zeros_(parameter)
    loss = made.losses(pooled(3), [regions([[2, 1], [0, 2]]), regions([[0, 0]])]).losses["loss_keypoint"]
    assert loss.item() == pytest.approx(3 * math.log(28 * 28) / 20)


def test_loss_weight_is_a_factor() -> None:
    tables = [regions([[2, 1]])]
    plain, weighted = (head(loss_weight=w).losses(pooled(1), tables).losses["loss_keypoint"] for w in (1.0, 2.5))
    assert weighted.item() == pytest.approx(2.5 * plain.item())


@pytest.mark.parametrize("visibilities", [[], [[0, 0]]])
def test_without_keypoints_the_loss_is_zero_and_keeps_the_graph(visibilities: list[list[int]]) -> None:
    made = head()
    loss = made.losses(pooled(len(visibilities)), [regions(visibilities)]).losses["loss_keypoint"]
    loss.backward()
    assert loss.item() == 0
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in made.parameters())


def test_sums_and_counts_of_two_parts_add_up_to_those_of_the_whole() -> None:
    made, tables = head(), [regions([[2, 1]]), regions([[0, 2]])]
    together = made.losses(pooled(2), tables).sums["loss_keypoint"]
    parts = [made.losses(pooled(2)[[i]], [tables[i]]).sums["loss_keypoint"] for i in (0, 1)]
    assert sum(part.value.item() for part in parts) == pytest.approx(together.value.item(), rel=1e-5)
    assert sum(part.count for part in parts) == together.count == 3


def test_regions_without_a_labelled_keypoint_are_left_out() -> None:
    tables = with_visible_keypoints([regions([[2, 0], [0, 0]]), regions([[2, 0]], shift=5.0), regions([])])
    assert [len(table) for table in tables] == [1, 0, 0]  # of the second image, the keypoint at (1, 1) is outside


def test_an_image_without_objects_needs_no_keypoints() -> None:
    nothing = regions([])
    nothing.targets.keypoints = None
    assert len(with_visible_keypoints([nothing])[0]) == 0
    assert head().keypoint_targets(nothing).shape == (0, 2)


def test_objects_without_keypoints_raise_a_user_error() -> None:
    table = regions([[2, 2]])
    table.targets.keypoints = None
    with pytest.raises(UserError, match=r"MODEL\.KEYPOINT_ON False"):
        head().losses(pooled(1), [table])


def test_wrong_number_of_keypoints_raises_a_user_error() -> None:
    table = regions([[2, 2]])
    table.targets.keypoints = torch.zeros(1, 5, 3)
    with pytest.raises(UserError, match=r"NUM_KEYPOINTS is 2, .* set it to 5"):
        head().losses(pooled(1), [table])


def test_predicted_keypoints_belong_to_their_detections() -> None:
    tables = [
        Detections(SIZE, BOXES[:1], torch.tensor([0.9]), torch.tensor([0])),
        Detections(SIZE, BOXES[:0], torch.zeros(0), torch.zeros(0, dtype=torch.int64)),
        Detections(SIZE, BOXES[1:], torch.tensor([0.8]), torch.tensor([0])),
    ]
    found: list[Any] = head().predict(pooled(2), tables)
    assert [tuple(table.keypoints.shape) for table in found] == [(1, 2, 3), (0, 2, 3), (1, 2, 3)]
    for table in found:
        inside = (table.keypoints[..., 0] >= table.boxes[:, :1]) & (table.keypoints[..., 0] <= table.boxes[:, 2:3])
        assert inside.all()
    assert tables[0].keypoints is None
