"""Parts of models that SOLVER.TRAIN and SOLVER.FREEZE name."""

from typing import Any

import pytest
import torch
from torch import nn

from mrcnn_zoo.config import load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.layers import FrozenBatchNorm2d
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.training.optimizer import build_optimizer, freeze_parameters
from mrcnn_zoo.training.parts import frozen_random_parts, names_in_part, parameters_in_parts, parts_table
from support.small_models import TINY_YAML

PLAIN_VGG = ("MODEL.BACKBONE.NAME=build_vgg_fpn_backbone", "MODEL.VGG.CONV1_OUT_CHANNELS=4", "MODEL.VGG.NORM=BN")
TIMM = ("MODEL.BACKBONE.NAME=build_timm_fpn_backbone", "MODEL.TIMM.NAME=test_resnet", "MODEL.TIMM.PRETRAINED=False")
LEVELS = ("MODEL.ANCHOR_GENERATOR.SIZES=[[32]]", "MODEL.RPN.IN_FEATURES=[p4]", "MODEL.ROI_HEADS.IN_FEATURES=[p4]")


def tiny_model(*overrides: Any) -> nn.Module:
    return build_model(load_config(TINY_YAML, overrides))


@pytest.fixture(scope="module")
def mask_rcnn() -> nn.Module:
    return tiny_model()


def tops(names: Any, depth: int) -> set[str]:
    return {".".join(name.split(".")[:depth]) for name in names}


@pytest.mark.parametrize(
    ("part", "depth", "expected"),
    [
        ("backbone", 1, {"backbone"}),
        ("rpn", 2, {"proposal_generator.rpn_head"}),
        ("roi_heads", 2, {"roi_heads.box_head", "roi_heads.box_predictor", "roi_heads.mask_head"}),
        ("all", 1, {"backbone", "proposal_generator", "roi_heads"}),
        ("roi_heads.mask_*", 2, {"roi_heads.mask_head"}),
    ],
)
def test_part_is_all_below_its_modules(mask_rcnn: nn.Module, part: str, depth: int, expected: set[str]) -> None:
    found = parameters_in_parts(mask_rcnn, [part], key="SOLVER.TRAIN")
    assert tops(found, depth) == expected
    below = tops(found, depth)
    assert set(found) == {name for name, _ in mask_rcnn.named_parameters() if tops([name], depth) <= below}


def test_heads_are_all_but_the_bottom_up_network(mask_rcnn: nn.Module) -> None:
    heads = parameters_in_parts(mask_rcnn, ["heads"], key="SOLVER.TRAIN")
    others = {name for name, _ in mask_rcnn.named_parameters()} - set(heads)
    assert tops(others, 2) == {"backbone.bottom_up"}
    assert "backbone.fpn_lateral2.weight" in heads


def test_heads_of_a_retinanet_are_its_head_and_pyramid() -> None:
    names = ["backbone.bottom_up.stem.conv1.weight", "backbone.fpn_output3.weight", "head.cls_score.weight"]
    assert names_in_part("heads", names) == names[1:]


def test_without_a_pyramid_the_backbone_is_the_bottom_up_network() -> None:
    names = ["backbone.res2.0.conv1.weight", "proposal_generator.rpn_head.conv.weight"]
    assert names_in_part("heads", names) == names[1:]


def test_suppression_is_found_inside_other_parts() -> None:
    names = ["roi_heads.box_predictor.selection.suppression.block.weight", "roi_heads.box_head.fc1.weight"]
    assert names_in_part("suppression", names) == names[:1]


def test_table_of_parts_has_a_row_for_the_suppression() -> None:
    predictor = nn.ModuleDict(
        {"cls_score": nn.Linear(2, 3), "selection": nn.ModuleDict({"suppression": nn.Linear(1, 1)})}
    )
    model = nn.ModuleDict({"roi_heads": nn.ModuleDict({"box_predictor": predictor})})
    predictor["cls_score"].requires_grad_(False)
    rows = [
        [cell.strip() for cell in row.split("|")[1:5]] for row in parts_table(model, {}, default="random").split("\n")
    ]
    assert rows[2:] == [
        ["roi_heads.box_predictor", "2", "9", "frozen"],
        ["roi_heads.box_predictor.selection", "2", "2", "trained"],
    ]


def test_parts_that_are_frozen_with_random_weights_are_named() -> None:
    model = tiny_model("MODEL.RESNETS.NORM=BN")
    assert frozen_random_parts(model, {}) == []
    freeze_parameters(model, ["backbone.bottom_up.res4", "roi_heads.mask_head"])
    assert frozen_random_parts(model, {}) == ["backbone.bottom_up", "roi_heads.mask_head"]
    origins = {name: "a file" for name, _ in model.named_parameters() if name.startswith("backbone")}
    assert frozen_random_parts(model, origins) == ["roi_heads.mask_head"]


@pytest.mark.parametrize(
    ("overrides", "last", "earlier"),
    [
        ((), {"res4", "res5"}, {"stem", "res2", "res3"}),
        (
            (
                *PLAIN_VGG,
                *LEVELS,
                "MODEL.VGG.DEPTH=11",
                "MODEL.VGG.OUT_FEATURES=[conv4,conv5]",
                "MODEL.FPN.IN_FEATURES=[conv4,conv5]",
            ),
            {"conv4_1", "norm4_1", "conv4_2", "norm4_2", "conv5_1", "norm5_1", "conv5_2", "norm5_2"},
            {"conv1_1", "norm1_1", "conv2_1", "norm2_1", "conv3_1", "norm3_1", "conv3_2", "norm3_2"},
        ),
        (
            (*TIMM, *LEVELS, "MODEL.TIMM.OUT_FEATURES=[c4,c5]", "MODEL.FPN.IN_FEATURES=[c4,c5]"),
            {"layer3", "layer4"},
            {"conv1", "bn1", "layer1", "layer2"},
        ),
    ],
)
def test_last_stages_are_trained_with_the_heads(overrides: tuple[str, ...], last: set[str], earlier: set[str]) -> None:
    model = tiny_model(*overrides)
    found = parameters_in_parts(model, ["4+"], key="SOLVER.TRAIN")
    prefix = "backbone.bottom_up.network." if overrides[:1] == TIMM[:1] else "backbone.bottom_up."
    own = {name.removeprefix(prefix).split(".")[0] for name in found if name.startswith(prefix)}
    others = {name for name, _ in model.named_parameters()} - set(found)
    assert own == last
    assert {name.removeprefix(prefix).split(".")[0] for name in others} == earlier
    assert set(parameters_in_parts(model, ["heads"], key="SOLVER.TRAIN")) < set(found)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (["roi_head"], r"SOLVER.TRAIN: 'roi_head' matches no parameter of the model. Did you mean 'roi_heads'?"),
        (["backbone", "hed*"], r"SOLVER.TRAIN: 'hed\*' matches no parameter .* The top level has backbone\.\*"),
        (["suppression"], r"SOLVER.TRAIN: 'suppression' matches no parameter of the model\. .* GossipNet has some"),
    ],
)
def test_part_without_parameters_is_refused(mask_rcnn: nn.Module, parts: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parameters_in_parts(mask_rcnn, parts, key="SOLVER.TRAIN")


def test_stage_that_the_network_does_not_have_is_refused() -> None:
    features = "[res2,res3,res4]"
    levels = ("MODEL.RPN.IN_FEATURES=[p2]", "MODEL.ROI_HEADS.IN_FEATURES=[p2]", "MODEL.ANCHOR_GENERATOR.SIZES=[[16]]")
    model = tiny_model(f"MODEL.RESNETS.OUT_FEATURES={features}", f"MODEL.FPN.IN_FEATURES={features}", *levels)
    with pytest.raises(UserError, match=r"'5\+' matches no stage: .* has the stages 1, 2, 3, 4. For the heads alone"):
        parameters_in_parts(model, ["5+"], key="SOLVER.TRAIN")


def test_all_but_the_trained_parts_are_frozen_and_freeze_counts_in_addition() -> None:
    model = tiny_model()
    frozen = freeze_parameters(model, ["roi_heads.mask_head"], train=["roi_heads"])
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert tops(trained, 2) == {"roi_heads.box_head", "roi_heads.box_predictor"}
    assert tops(frozen, 1) == {"backbone", "proposal_generator", "roi_heads"}
    norms = [module for module in model.backbone.modules() if "BatchNorm" in type(module).__name__]
    assert norms
    assert all(isinstance(norm, FrozenBatchNorm2d) for norm in norms)


def test_none_trains_nothing() -> None:
    model = tiny_model()
    optimizer = build_optimizer(load_config(TINY_YAML, ["SOLVER.TRAIN=[none]"]), model)
    assert [len(group["params"]) for group in optimizer.param_groups] == [0]
    assert not any(parameter.requires_grad for parameter in model.parameters())
    optimizer.step()


def test_frozen_batch_norm_of_timm_keeps_its_activation() -> None:
    model = tiny_model(*TIMM, *LEVELS, "MODEL.TIMM.OUT_FEATURES=[c4,c5]", "MODEL.FPN.IN_FEATURES=[c4,c5]").eval()
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model.backbone(pixels)["p4"]
        freeze_parameters(model, ["backbone"])
        after = model.backbone(pixels)["p4"]
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
