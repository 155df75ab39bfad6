import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.modeling.contracts import HasTrainingState
from mrcnn_zoo.modeling.detectors.retinanet_outputs import DenseSelection, RunningCount
from mrcnn_zoo.modeling.suppression import GreedySuppression
from mrcnn_zoo.ops.box_coding import BoxCoder
from mrcnn_zoo.structures import Detections, Sample, Targets

RETINANET = (
    *("MODEL.META_ARCHITECTURE", "RetinaNet"),
    *("MODEL.MASK_ON", False),
    *("MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone"),
    *("MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"]),
    *("MODEL.ANCHOR_GENERATOR.SIZES", [[8, 12], [16, 24], [32, 48], [64, 96], [128, 192]]),
    *("MODEL.RETINANET.NUM_CLASSES", 5),
    *("MODEL.RETINANET.NUM_CONVS", 2),
    *("MODEL.RETINANET.SCORE_THRESH_TEST", 0.0),
)
BOX = torch.tensor([[8.0, 8.0, 40.0, 40.0]])


@pytest.fixture
def retinanet(small_cfg: Callable[..., CfgNode]) -> Callable[..., nn.Module]:
    def build(*overrides: object) -> nn.Module:
        torch.manual_seed(0)
        return build_model(small_cfg(*RETINANET, *overrides))

    return build


def sample(boxes: torch.Tensor, *, channels: int = 3) -> Sample:
    targets = Targets((64, 96), boxes, torch.zeros(len(boxes), dtype=torch.int64))
    return Sample(torch.zeros(channels, 64, 96, dtype=torch.uint8), 0, original_size=(64, 96), targets=targets)


def test_untrained_head_predicts_the_prior_everywhere(retinanet: Callable[..., nn.Module]) -> None:
    model = retinanet("MODEL.RETINANET.PRIOR_PROB", 0.2)
    features = {f"p{level}": torch.randn(1, 8, 4, 4) for level in range(3, 8)}
    for _, logits in zip(features, model.predict_all(features)[0], strict=True):
        torch.testing.assert_close(logits.sigmoid(), torch.full_like(logits, 0.2), atol=0.05, rtol=0)


def test_predictions_have_the_order_of_the_anchors(retinanet: Callable[..., nn.Module]) -> None:
    model = retinanet()
    features = {f"p{level}": torch.randn(2, 8, 2, 3) for level in range(3, 8)}
    logits, deltas = model.predict_all(features)
    levels = [features[f"p{level}"] for level in range(3, 8)]
    maps, anchors = model.head(levels)[0], model.anchor_generator(levels)
    row, column, anchor, classes = 1, 0, 4, 5
    number = (row * 3 + column) * 6 + anchor
    assert torch.equal(logits[0][1, number], maps[0][1, anchor * classes : (anchor + 1) * classes, row, column])
    assert len(anchors[0]) == logits[0].shape[1] == deltas[0].shape[1] == 36


def test_labels_of_anchors_by_overlap(retinanet: Callable[..., nn.Module]) -> None:
    supervision = retinanet().supervision
    # IoU with the object: 1, 0.45 (ignored), 0.2 (background).
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 4.5], [0, 0, 10, 2]])
    targets = Targets((64, 64), anchors[:1], torch.tensor([3]))
    labeled = supervision.label(anchors, [targets, targets[:0]])
    assert labeled.classes.tolist() == [3, -1, 5, 5, 5, 5]
    assert labeled.positives.tolist() == [0]
    assert torch.equal(labeled.targets, anchors[:1])


def test_every_object_has_an_anchor(retinanet: Callable[..., nn.Module]) -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    targets = Targets((64, 64), torch.tensor([[0.0, 0, 3, 3]]), torch.tensor([2]))
    assert retinanet().supervision.label(anchors, [targets]).classes.tolist() == [2, 5]


def test_divisor_is_a_running_mean_in_training_and_the_count_otherwise() -> None:
    divisor = RunningCount()
    assert divisor(torch.tensor(50)).item() == pytest.approx(0.9 * 100 + 0.1 * 50)
    assert divisor(torch.tensor(0)).item() == pytest.approx(0.9 * 95 + 0.1)
    divisor.eval()
    assert divisor(torch.tensor(7)).item() == 7
    assert divisor(torch.tensor(0)).item() == 1
    assert divisor.value.item() == pytest.approx(85.6)


def test_divisor_is_in_the_training_state_but_not_in_the_state_dict(retinanet: Callable[..., nn.Module]) -> None:
    model, other = retinanet(), retinanet()
    model.losses([sample(BOX)]).total()
    (name,) = (name for name, part in model.named_modules() if isinstance(part, HasTrainingState))
    assert not any(key.startswith(name) for key in model.state_dict())
    other.get_submodule(name).load_training_state(model.get_submodule(name).training_state())
    assert other.get_submodule(name).value == model.get_submodule(name).value != 100


def test_images_without_objects_train(retinanet: Callable[..., nn.Module]) -> None:
    model = retinanet()
    output = model.losses([sample(BOX[:0])])
    output.total().backward()
    assert output.losses["loss_box_reg"] == 0
    assert output.losses["loss_cls"] > 0
    assert output.metrics["num_pos_anchors"] == 0
    assert all(weight.grad.isfinite().all() for weight in model.parameters() if weight.requires_grad)


@pytest.mark.parametrize("norm", ["", "GN", "BN", "SyncBN", "FrozenBN", "LN"])
def test_norms_of_the_head(norm: str, retinanet: Callable[..., nn.Module]) -> None:
    model = retinanet("MODEL.RETINANET.NORM", norm, "MODEL.FPN.OUT_CHANNELS", 32)
    assert model.losses([sample(BOX), sample(BOX)]).total().isfinite()
    names = {name for name in model.state_dict() if name.startswith("head.cls_subnet")}
    step = 3 if norm else 2
    assert {f"head.cls_subnet.{step * index}.weight" for index in range(2)} <= names
    if norm == "BN":  # statistics of each level, as in Detectron2's weights
        assert {"head.cls_subnet.1.4.running_mean", "head.cls_subnet.1.weight"} <= names
        assert "head.cls_subnet.1.4.weight" not in names


def test_levels_have_separate_batch_statistics(retinanet: Callable[..., nn.Module]) -> None:
    model = retinanet("MODEL.RETINANET.NORM", "BN")
    model.head([torch.full((2, 8, 4, 4), float(level)) for level in range(5)])
    means = [norm.running_mean for norm in model.head.cls_subnet[1]]
    assert not any(torch.equal(means[0], mean) for mean in means[1:])


def select(
    logits: list[Tensor], deltas: list[Tensor], anchors: list[Tensor], size: tuple[int, int], **settings: object
) -> Detections:
    """The detections of one image: (A, K), (A, 4) and (A, 4) of each level."""
    values = {"score_threshold": 0.5, "candidates_per_level": 10, "max_detections": 10, **settings}
    selection = DenseSelection(GreedySuppression(0.5), coder=BoxCoder((1.0, 1.0, 1.0, 1.0)), **values)
    (found,) = selection.select([level[None] for level in logits], [level[None] for level in deltas], anchors, [size])
    return found


ANCHORS = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]])


def test_selection_by_hand() -> None:
    logits = torch.tensor([[2.0, -1.0], [0.1, 3.0], [-0.1, -5.0]])
    found = select([logits], [torch.zeros(3, 4)], [ANCHORS], (10, 60))
    assert found.classes.tolist() == [1, 0, 0]
    assert torch.equal(found.boxes, ANCHORS[[1, 0, 1]])
    torch.testing.assert_close(found.scores, torch.tensor([3.0, 2.0, 0.1]).sigmoid())


def test_selection_keeps_the_best_of_each_level() -> None:
    logits = torch.tensor([[4.0], [3.0], [2.0]])
    far = ANCHORS + 100
    found = select([logits, logits - 1], [torch.zeros(3, 4)] * 2, [ANCHORS, far], (200, 200), candidates_per_level=1)
    assert torch.equal(found.boxes, torch.stack((ANCHORS[0], far[0])))
    assert len(select([logits], [torch.zeros(3, 4)], [ANCHORS], (9, 9), max_detections=2)) == 2


def test_selection_suppresses_within_a_class() -> None:
    logits = torch.tensor([[4.0, 3.0], [3.5, -9.0]])
    same = ANCHORS[:1].expand(2, 4)
    found = select([logits], [torch.zeros(2, 4)], [same], (10, 10))
    assert found.classes.tolist() == [0, 1]


def test_selection_compares_boxes_whole_or_clipped() -> None:
    wide = torch.tensor([[0.0, 0, 10, 10], [0, 0, 30, 10]])  # alike only inside an image of 10 pixels
    logits = torch.tensor([[4.0], [3.0]])
    assert len(select([logits], [torch.zeros(2, 4)], [wide], (10, 10))) == 2
    assert len(select([logits], [torch.zeros(2, 4)], [wide], (10, 10), clips_first=True)) == 1


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_non_finite_predictions_give_no_detections(broken: float) -> None:
    logits, deltas = torch.tensor([[broken], [3.0], [2.0]]), torch.zeros(3, 4)
    deltas[2, 0] = broken
    found = select([logits], [deltas], [ANCHORS], (10, 60))
    assert torch.equal(found.boxes, ANCHORS[1:2])


def test_selection_without_candidates_is_empty() -> None:
    found = select([torch.full((3, 2), -9.0)], [torch.zeros(3, 4)], [ANCHORS], (10, 60))
    assert len(found) == 0


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.RETINANET.IN_FEATURES", ["p3", "p9"], "p9.*maps of the backbone: p3, p4"),
        ("MODEL.RETINANET.PRIOR_PROB", 1.0, "PRIOR_PROB"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[8], [16], [32], [64], [128, 160]], "anchors per cell"),
    ],
)
def test_invalid_settings_are_refused(
    key: str, value: object, message: str, retinanet: Callable[..., nn.Module]
) -> None:
    with pytest.raises(UserError, match=message):
        retinanet(key, value)


def test_dense_stage_has_no_data_dependent_branch(retinanet: Callable[..., nn.Module]) -> None:
    model = retinanet().eval()
    pixels = torch.zeros(1, 3, 128, 128)

    class DenseStage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
            logits, deltas = self.model.predict_all(self.model.backbone(pixels))
            return [*logits, *deltas]

    exported = torch.export.export(DenseStage(), (pixels,)).module()
    for ours, theirs in zip(DenseStage()(pixels), exported(pixels), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("key", ["MODEL.MASK_ON", "MODEL.KEYPOINT_ON"])
def test_masks_and_keypoints_are_refused(retinanet: Callable[..., nn.Module], key: str) -> None:
    with pytest.raises(UserError, match=f"RetinaNet predicts boxes only: set {key} to False"):
        retinanet(key, True)


def test_branches_of_region_heads_are_refused(retinanet: Callable[..., nn.Module]) -> None:
    with pytest.raises(UserError, match=r"MODEL\.ROI_HEADS\.BRANCHES = \['MaskIoUHead'\] has no effect"):
        retinanet("MODEL.ROI_HEADS.BRANCHES", ["MaskIoUHead"])


def test_losses_are_weighted_by_key(retinanet: Callable[..., nn.Module]) -> None:
    samples = [sample(BOX)]
    plain = retinanet().losses(samples).losses
    weighted = retinanet("MODEL.RETINANET.CLS_LOSS_WEIGHT", 2.0, "MODEL.RETINANET.BBOX_REG_LOSS_WEIGHT", 0.5).losses(
        samples
    )
    torch.testing.assert_close(weighted.losses["loss_cls"], 2 * plain["loss_cls"])
    torch.testing.assert_close(weighted.losses["loss_box_reg"], 0.5 * plain["loss_box_reg"])
