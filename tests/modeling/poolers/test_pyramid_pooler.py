from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.poolers import LevelAssignment, PyramidPooler, build_head_pooler, build_pyramid_pooler
from mrcnn_zoo.registries import POOLING_OPERATIONS
from mrcnn_zoo.structures import FeatureSpec

STRIDES = {"p2": 4, "p3": 8, "p4": 16, "p5": 32}
SPECS = {name: FeatureSpec(channels=3, stride=stride) for name, stride in STRIDES.items()}


def pyramid(*, images: int = 2, side: int = 512) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn((images, 3, side // stride, side // stride), generator=generator, requires_grad=True)
        for name, stride in STRIDES.items()
    }


def boxes_of_all_sizes(count: int, *, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    sides = torch.exp2(torch.linspace(4, 9, count))[:, None] * (0.9 + 0.1 * torch.rand((count, 2), generator=generator))
    corners = torch.rand((count, 2), generator=generator) * (512 - sides)
    return torch.cat((corners, corners + sides), dim=1)[torch.randperm(count, generator=generator)]


def pool_one_by_one(pooling: str, features: dict[str, Tensor], boxes: list[Tensor], side: int) -> Tensor:
    pooled = []
    for image, image_boxes in enumerate(boxes):
        for box in image_boxes:
            size = ((box[2] - box[0]) * (box[3] - box[1])).sqrt().item()
            name = "p2" if size < 112 else "p3" if size < 224 else "p4" if size < 448 else "p5"
            operation = POOLING_OPERATIONS.get(pooling)(side, 1 / STRIDES[name], 0)
            region = torch.cat((torch.tensor([float(image)]), box))[None]
            pooled.append(operation(features[name], region))
    return torch.cat(pooled)


@pytest.mark.parametrize(
    ("side", "level"), [(1, 2), (111.9, 2), (112, 3), (223.9, 3), (224, 4), (447.9, 4), (448, 5), (896, 5), (5000, 5)]
)
def test_box_of_224_pixels_is_on_level_4_and_doubling_adds_one(side: float, level: int) -> None:
    assert LevelAssignment()(torch.tensor([[10.0, 20, 10 + side, 20 + side]]), 2, 5).tolist() == [level]


def test_level_depends_on_the_area() -> None:
    assert LevelAssignment()(torch.tensor([[0.0, 0, 448, 112]]), 2, 5).tolist() == [4]


def test_empty_box_is_on_the_finest_level() -> None:
    assert LevelAssignment()(torch.tensor([[5.0, 5, 5, 9], [9, 9, 3, 3]]), 2, 5).tolist() == [2, 2]


@pytest.mark.parametrize(
    ("canonical_level", "canonical_box_side", "side", "level"),
    [(3, 224.0, 224, 3), (4, 112.0, 112, 4), (4, 112.0, 111.9, 3), (4, 158.392, 159, 4), (4, 158.392, 158, 3)],
)
def test_canonical_box_is_on_the_canonical_level(
    canonical_level: int, canonical_box_side: float, side: float, level: int
) -> None:
    assignment = LevelAssignment(canonical_level, canonical_box_side)
    assert assignment(torch.tensor([[0.0, 0, side, side]]), 2, 5).tolist() == [level]


def test_canonical_box_comes_from_the_config(small_cfg: Callable[..., CfgNode]) -> None:
    cfg = small_cfg("MODEL.ROI_HEADS.CANONICAL_LEVEL", 3, "MODEL.ROI_HEADS.CANONICAL_BOX_SIDE", 50)
    pooler = build_head_pooler(cfg, "ROI_MASK_HEAD", SPECS)
    assert pooler.assignment == LevelAssignment(3, 50.0)
    with pytest.raises(UserError, match=r"MODEL\.ROI_HEADS\.CANONICAL_BOX_SIDE = 0"):
        build_head_pooler(small_cfg("MODEL.ROI_HEADS.CANONICAL_BOX_SIDE", 0), "ROI_BOX_HEAD", SPECS)


@pytest.mark.parametrize("pooling", POOLING_OPERATIONS.names())
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nan_boxes_do_not_affect_other_boxes(pooling: str, value: float) -> None:
    features = pyramid(images=1)
    pooler = build_pyramid_pooler(pooling, SPECS, side=3, sampling_ratio=0)
    sound = boxes_of_all_sizes(6, seed=3)
    broken = torch.stack((torch.full((4,), value), torch.tensor([1.0, 2, value, 9])))
    pooled = pooler(features, [torch.cat((sound[:2], broken, sound[2:]))])
    assert len(pooled) == 8
    torch.testing.assert_close(pooled[[0, 1, 4, 5, 6, 7]], pooler(features, [sound]))


@pytest.mark.parametrize("pooling", POOLING_OPERATIONS.names())
def test_pooling_equals_one_region_at_a_time(pooling: str) -> None:
    features = pyramid()
    boxes = [boxes_of_all_sizes(13, seed=1), boxes_of_all_sizes(9, seed=2)]
    pooled = build_pyramid_pooler(pooling, SPECS, side=4, sampling_ratio=0)(features, boxes)
    expected = pool_one_by_one(pooling, features, boxes, 4)
    assert torch.equal(pooled, expected)
    weights = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(3))
    gradients = torch.autograd.grad((pooled * weights).sum(), list(features.values()))
    expected_gradients = torch.autograd.grad((expected * weights).sum(), list(features.values()))
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        assert gradient.any()
        torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.parametrize("pooling", POOLING_OPERATIONS.names())
def test_no_regions_keep_the_graph(pooling: str) -> None:
    features = pyramid()
    pooled = build_pyramid_pooler(pooling, SPECS, side=4, sampling_ratio=0)(features, [torch.zeros(0, 4)] * 2)
    assert pooled.shape == (0, 3, 4, 4)
    gradients = torch.autograd.grad(pooled.sum(), list(features.values()))
    assert not any(gradient.any() for gradient in gradients)


def test_image_without_regions_does_not_shift_the_others() -> None:
    features = pyramid()
    boxes = boxes_of_all_sizes(5, seed=4)
    pooler = build_pyramid_pooler("ROIAlignV2", SPECS, side=4, sampling_ratio=0)
    assert torch.equal(
        pooler(features, [torch.zeros(0, 4), boxes]), pool_one_by_one("ROIAlignV2", features, [boxes[:0], boxes], 4)
    )


def test_single_level() -> None:
    features = pyramid()
    boxes = boxes_of_all_sizes(6, seed=5)
    pooler = build_pyramid_pooler("ROIAlignV2", {"p4": SPECS["p4"]}, side=4, sampling_ratio=2)
    regions = torch.cat((torch.zeros(6, 1), boxes), dim=1)
    expected = POOLING_OPERATIONS.get("ROIAlignV2")(4, 1 / 16, 2)(features["p4"], regions)
    assert torch.equal(pooler(features, [boxes]), expected)


def test_sampling_ratio_is_passed_to_the_operation() -> None:
    features = pyramid()
    boxes = [boxes_of_all_sizes(6, seed=6)]
    poolers = [build_pyramid_pooler("ROIAlignV2", SPECS, side=4, sampling_ratio=ratio) for ratio in (1, 2)]
    assert not torch.allclose(poolers[0](features, boxes), poolers[1](features, boxes))


def test_levels_whose_strides_do_not_double_are_refused() -> None:
    with pytest.raises(ValueError, match=r"p2, p4 with strides \[4, 16\]"):
        build_pyramid_pooler("ROIAlignV2", {name: SPECS[name] for name in ("p2", "p4")}, side=7, sampling_ratio=0)


def test_poolers_have_no_state() -> None:
    assert isinstance(build_pyramid_pooler("ROIPool", SPECS, side=7, sampling_ratio=0), PyramidPooler)
    assert build_pyramid_pooler("ROIPool", SPECS, side=7, sampling_ratio=0).state_dict() == {}
