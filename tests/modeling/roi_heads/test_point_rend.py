"""PointRend's parts against numbers worked out by hand; the whole against Detectron2 in test_detectron2_parity.py."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.roi_heads.point_head import PointFeatures, StandardPointHead, UncertainPointSampler
from mrcnn_zoo.modeling.roi_heads.point_rend import CoarseMaskHead, PointRendMaskHead, point_targets
from mrcnn_zoo.ops.points import Subdivision
from mrcnn_zoo.registries import MASK_HEADS
from mrcnn_zoo.structures import BranchSpec, Detections, FeatureSpec, LabeledRegions

POINT_REND = (
    *("MODEL.ROI_MASK_HEAD.NAME", "PointRendMaskHead"),
    *("MODEL.ROI_MASK_HEAD.POINT_HEAD_ON", True),
    *("MODEL.ROI_MASK_HEAD.POOLER_TYPE", ""),
    *("MODEL.ROI_MASK_HEAD.FC_DIM", 16),
    *("MODEL.POINT_HEAD.FC_DIM", 16),
)


@pytest.fixture
def build(small_cfg: Callable[..., CfgNode], scene: Any) -> Callable[..., PointRendMaskHead]:
    """(key, value, ...) overrides -> a small head over the scene's maps."""

    def head(*overrides: Any) -> PointRendMaskHead:
        cfg = small_cfg(*POINT_REND, *overrides)
        return MASK_HEADS.get("PointRendMaskHead")(cfg, BranchSpec(8, maps=scene.specs))

    return head


def regions_of(scene: Any, count: int) -> LabeledRegions:
    truth = scene.targets()
    return LabeledRegions(scene.size, truth.boxes[:count] + 1, truth.classes[:count], torch.arange(count), truth)


# --- subdivision ------------------------------------------------------------------------------------------------------
def in_left_part(points: Tensor) -> Tensor:
    """Logits of an object left of x = 0.3, sharp: +-8."""
    return torch.where(points[..., 0] < 0.3, 8.0, -8.0)


def test_subdivision_predicts_only_cells_near_the_border_again() -> None:
    asked: list[Tensor] = []

    def logits_at(points: Tensor) -> Tensor:
        asked.append(points)
        return in_left_part(points)

    logits = Subdivision(side=2, steps=1, num_points=3)(logits_at, 1, torch.device("cpu"))
    # The grid of 2 x 2, columns 8 and -8, has the columns 8, 4, -4, -8 at twice the side: of the eight that are least
    # certain, 4 and -4, three are predicted again, all in the two middle columns.
    assert asked[0].tolist() == [[[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]]
    assert asked[1].shape == (1, 3, 2)
    assert set(asked[1][0, :, 0].tolist()) <= {0.375, 0.625}
    expected = torch.tensor([8.0, 4, -4, -8]).expand(4, 4).clone()
    rows, columns = (asked[1][0, :, 1] * 4).long(), (asked[1][0, :, 0] * 4).long()
    expected[rows, columns] = -8.0
    assert torch.equal(logits[0], expected)


def test_subdivision_of_enough_points_finds_the_border() -> None:
    logits = Subdivision(side=4, steps=3, num_points=64)(in_left_part, 2, torch.device("cpu"))
    assert logits.shape == (2, 32, 32)
    is_object = torch.arange(32) < 0.3 * 32 - 0.5
    assert torch.equal(logits > 0, is_object.expand(2, 32, 32))


@pytest.mark.parametrize(
    ("side", "steps", "num_points", "skipped"),
    [(7, 5, 784, 2), (7, 4, 196, 1), (7, 3, 195, 0), (7, 0, 784, 0), (2, 2, 10_000, 2)],
)
def test_steps_that_predict_all_cells_are_skipped(side: int, steps: int, num_points: int, skipped: int) -> None:
    # 7 * 2 * 7 * 2 = 196 and 28 * 28 = 784: so many points are all of the grid.
    subdivision = Subdivision(side, steps, num_points)
    assert subdivision.num_skipped == skipped
    calls: list[int] = []

    def logits_at(points: Tensor) -> Tensor:
        calls.append(points.shape[1])
        return points.sum(dim=2)

    assert subdivision(logits_at, 1, torch.device("cpu")).shape == (1, side * 2**steps, side * 2**steps)
    assert calls == [(side * 2**skipped) ** 2] + [num_points] * (steps - skipped)


def test_subdivision_of_no_regions() -> None:
    logits = Subdivision(side=4, steps=2, num_points=9)(lambda points: points.sum(dim=2), 0, torch.device("cpu"))
    assert logits.shape == (0, 16, 16)


# --- points of training -----------------------------------------------------------------------------------------------
def test_most_sampled_points_are_at_sign_changes_of_the_coarse_mask() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([-3.0, -3, -3, 3, 3, 3]).expand(5, 6, 6)
    points = UncertainPointSampler(40, oversampling=10, uncertain_share=0.75).sample(logits)
    assert points.shape == (5, 40, 2)
    assert points.min() >= 0
    assert points.max() < 1
    inner = points[:, :30]  # the logit is 0 at x = 0.5, and at the border of the region, where what is outside is 0
    distance = torch.minimum((inner[..., 0] - 0.5).abs(), torch.minimum(inner, 1 - inner).amin(dim=2))
    assert distance.max() < 0.12
    assert (points[:, 30:, 0] - 0.5).abs().max() > 0.4


def test_sampled_points_are_uniform_for_uncertain_share_zero() -> None:
    torch.manual_seed(0)
    points = UncertainPointSampler(2000, oversampling=1, uncertain_share=0).sample(torch.randn(1, 7, 7))
    counts = torch.histc(points[0, :, 0], bins=4, min=0, max=1)
    assert (counts - 500).abs().max() < 80
    assert UncertainPointSampler(9, oversampling=3, uncertain_share=1).sample(torch.zeros(0, 7, 7)).shape == (0, 9, 2)


def test_point_targets_sample_the_matched_masks(scene: Any) -> None:
    truth = scene.targets()  # objects that fill [10, 40] x [10, 50] and [50, 90] x [5, 60]
    regions = LabeledRegions(
        scene.size,
        torch.tensor([[0.0, 0, 20, 20], [80, 50, 100, 70]]),
        torch.tensor([3, 4]),
        torch.tensor([0, 1]),
        truth,
    )
    points = torch.tensor([[0.25, 0.75], [0.75, 0.75], [0.5, 0.75], [0.5, 0.5]]).expand(2, 4, 2)
    # Pixels 15, 15 and 10, 15 and 10, 10 of the first: inside, on the left border, on the corner.
    assert point_targets([regions[:1], regions[1:]], points).tolist() == [[0, 1, 0.5, 0.25], [0, 0, 0, 0.25]]


# --- layers -----------------------------------------------------------------------------------------------------------
def test_point_features_of_several_maps_are_concatenated() -> None:
    features = {"a": torch.arange(6.0).view(1, 1, 2, 3).repeat(2, 1, 1, 1), "b": torch.full((2, 2, 1, 1), 7.0)}
    features["a"][1] += 10
    rois = torch.tensor([[1.0, 0, 0, 12, 8], [0, 4, 0, 12, 4]])
    points = torch.tensor([[0.5, 0.25], [0.5, 0.5]]).expand(2, 2, 2)
    values = PointFeatures(("a", "b"), (4, 8))(features, rois, points)
    # Of stride 4: the points are at (1.5, 0.5) and (1.5, 1), then at (2, 0.25) and (2, 0.5); of stride 8 all but the
    # first have a share of what is outside.
    assert values[:, 0].tolist() == [[11, 12.5], [0.75 * 1.5, 1.5]]
    assert values[0, 1].tolist() == pytest.approx([7 * 0.75 * 0.75, 7 * 0.75])
    assert torch.equal(values[:, 1], values[:, 2])


def test_point_head_equals_convolutions_with_its_weights() -> None:
    torch.manual_seed(0)
    head = StandardPointHead(5, num_coarse_maps=3, num_maps=3, fc_channels=[6, 4])
    fine, coarse = torch.randn(2, 5, 9), torch.randn(2, 3, 9)
    values = torch.cat((fine, coarse), dim=1)
    for name in ("fc1", "fc2"):
        values = torch.cat((head.get_submodule(name)(values).relu(), coarse), dim=1)
    torch.testing.assert_close(head(fine, coarse), head.predictor(values))
    only_first = StandardPointHead(
        5, num_coarse_maps=3, num_maps=1, fc_channels=[6, 4], sees_coarse_in_each_layer=False
    )
    assert [layer.in_channels for layer in only_first.children()] == [8, 6, 4]
    assert only_first(fine, coarse).shape == (2, 1, 9)


@pytest.mark.parametrize("side", [14, 7])
def test_coarse_head_output_has_the_configured_side(side: int) -> None:
    head = CoarseMaskHead(FeatureSpec(6, side=side), num_maps=3, conv_channels=4, fc_channels=[10, 12], mask_side=5)
    assert head(torch.randn(2, 6, side, side)).shape == (2, 3, 5, 5)
    assert "reduce_channel_dim_conv.weight" in head.state_dict()
    same = CoarseMaskHead(FeatureSpec(4, side=side), num_maps=3, conv_channels=4, fc_channels=[], mask_side=5)
    assert not any("reduce_channel_dim_conv" in name for name in same.state_dict())


# --- the branch -------------------------------------------------------------------------------------------------------
def test_masks_have_the_side_of_coarse_and_refined_predictions(
    build: Callable[..., PointRendMaskHead], scene: Any
) -> None:
    regions, features = regions_of(scene, 2), scene.features(2)
    detections = Detections(scene.size, regions.boxes, torch.ones(2), regions.classes)
    for overrides, side in (
        ((), 224),
        (("MODEL.POINT_HEAD.SUBDIVISION_STEPS", 3), 56),
        (("MODEL.ROI_MASK_HEAD.POINT_HEAD_ON", False), 7),
        (("MODEL.POINT_HEAD.CLS_AGNOSTIC_MASK", True, "MODEL.POINT_HEAD.SUBDIVISION_STEPS", 3), 56),
    ):
        head = build(*overrides)
        with torch.no_grad():
            found = head.predict(features, [detections[:0], detections])
        assert [table.masks.probabilities.shape for table in found] == [(0, side, side), (2, side, side)]
        assert detections.masks is None
        assert len(found[1].masks.rles()) == 2


def test_masks_do_not_depend_on_the_chunk_size(
    build: Callable[..., PointRendMaskHead], scene: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    regions, features, head = regions_of(scene, 2), scene.features(2), build()
    detections = Detections(scene.size, regions.boxes, torch.ones(2), regions.classes)
    with torch.no_grad():
        expected = head.predict(features, [detections, detections])
        monkeypatch.setattr("mrcnn_zoo.modeling.roi_heads.point_rend.MAX_POINTS", 1000)
        found = head.predict(features, [detections, detections])
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.masks.probabilities, theirs.masks.probabilities)


def test_point_loss_has_a_gradient_for_the_coarse_head(build: Callable[..., PointRendMaskHead], scene: Any) -> None:
    head, features = build(), scene.features(1)
    _, output = head.losses(features, [regions_of(scene, 2)])
    assert set(output.losses) == {"loss_mask", "loss_mask_point"}
    assert output.sums["loss_mask"].count == 2 * 7 * 7
    assert output.sums["loss_mask_point"].count == 2 * 196
    output.losses["loss_mask_point"].backward()
    assert head.coarse_head.prediction.weight.grad.any()
    assert features["p2"].grad.any()
    assert features["p3"].grad is None


def test_half_precision_features_have_finite_losses(build: Callable[..., PointRendMaskHead], scene: Any) -> None:
    head, features = build(), scene.features(1)
    half = {name: values.detach().bfloat16() for name, values in features.items()}
    torch.manual_seed(0)
    _, expected = head.losses(features, [regions_of(scene, 2)])
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, output = head.losses(half, [regions_of(scene, 2)])
    assert output.losses.keys() == {"loss_mask", "loss_mask_point"}
    for name, loss in output.losses.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(expected.losses[name].item(), rel=0.02)


def test_detections_that_are_not_finite_do_not_fail(build: Callable[..., PointRendMaskHead], scene: Any) -> None:
    boxes = torch.tensor([[torch.nan, 0, 9, 9], [0, 0, torch.inf, 9]])
    detections = Detections(scene.size, boxes, torch.ones(2), torch.tensor([0, 1]))
    (found,) = build().predict(scene.features(1), [detections])
    assert found.masks.probabilities.isfinite().all()


# --- settings ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("override", "message"),
    [
        (("MODEL.ROI_MASK_HEAD.LOSS", "softmax"), "MODEL.ROI_MASK_HEAD.LOSS = 'softmax'"),
        (("MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", 1), "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION = 1 must be at least 2"),
        (("MODEL.ROI_MASK_HEAD.IN_FEATURES", ["p9"]), r"MODEL.ROI_MASK_HEAD.IN_FEATURES = \['p9'\] should name maps"),
        (("MODEL.POINT_HEAD.IN_FEATURES", ["p2", "x"]), r"MODEL.POINT_HEAD.IN_FEATURES = \['p2', 'x'\] should name"),
        (("MODEL.POINT_HEAD.NAME", "StandardPointHed"), "Did you mean 'StandardPointHead'"),
    ],
)
def test_invalid_settings_are_refused(
    override: tuple[Any, ...], message: str, build: Callable[..., PointRendMaskHead]
) -> None:
    with pytest.raises(UserError, match=message):
        build(*override)


def test_point_head_has_the_classes_of_the_region_heads_where_these_were_set_closer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cfg = load_config(None, [*POINT_REND, "MODEL.MASK_ON", True, "MODEL.ROI_HEADS.NUM_CLASSES", 5])
    assert cfg.MODEL.POINT_HEAD.NUM_CLASSES == 5
    assert caplog.messages == []
    assert load_config(None, ["MODEL.ROI_HEADS.NUM_CLASSES", 5]).MODEL.POINT_HEAD.NUM_CLASSES == 80


def test_classes_of_points_that_contradict_those_of_the_regions_are_refused() -> None:
    overrides = [*POINT_REND, "MODEL.MASK_ON", True, "MODEL.POINT_HEAD.NUM_CLASSES", 7]
    with pytest.raises(UserError, match=r"POINT_HEAD.NUM_CLASSES = 7 must be MODEL.ROI_HEADS.NUM_CLASSES = 80"):
        load_config(None, overrides)
    assert load_config(None, [*overrides, "MODEL.MASK_ON", False]).MODEL.POINT_HEAD.NUM_CLASSES == 7
