from collections.abc import Callable

import pytest
import torch

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.roi_heads import FastRCNNConvFCHead
from mrcnn_zoo.registries import BOX_HEADS
from mrcnn_zoo.structures import FeatureSpec

POOLED = FeatureSpec(channels=4, side=7)


@pytest.mark.parametrize("name", BOX_HEADS.names())
def test_box_head_output_matches_output_spec(name: str, small_cfg: Callable[..., CfgNode]) -> None:
    head = BOX_HEADS.get(name)(small_cfg(), POOLED)
    for count in (3, 0):
        output = head(torch.randn(count, 4, 7, 7))
        assert output.shape[:2] == (count, head.output_spec.channels)
        assert output.flatten(1).shape[1] == head.output_spec.channels * head.output_spec.side**2


def test_layers_have_detectron2_names() -> None:
    head = FastRCNNConvFCHead(POOLED, conv_channels=[8, 8], fc_channels=[16], norm="LN")
    assert {name: tuple(value.shape) for name, value in head.state_dict().items()} == {
        "conv1.weight": (8, 4, 3, 3),
        "conv1.norm.weight": (8,),
        "conv1.norm.bias": (8,),
        "conv2.weight": (8, 8, 3, 3),
        "conv2.norm.weight": (8,),
        "conv2.norm.bias": (8,),
        "fc1.weight": (16, 392),
        "fc1.bias": (16,),
    }


def test_head_without_fc_returns_a_map() -> None:
    head = FastRCNNConvFCHead(POOLED, conv_channels=[8])
    assert head.output_spec == FeatureSpec(channels=8, side=7)
    assert head(torch.randn(2, 4, 7, 7)).shape == (2, 8, 7, 7)


def test_initial_weights_have_detectron2_variance() -> None:
    torch.manual_seed(0)
    head = FastRCNNConvFCHead(FeatureSpec(channels=64, side=7), conv_channels=[256], fc_channels=[512])
    conv, linear = head.get_submodule("conv1"), head.get_submodule("fc1")
    assert conv.weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)  # He, fan out
    assert linear.weight.std().item() == pytest.approx((1 / (256 * 49)) ** 0.5, rel=0.02)  # fan in, gain 1
    assert linear.weight.abs().max().item() <= (3 / (256 * 49)) ** 0.5
    assert not conv.bias.any()
    assert not linear.bias.any()


def test_dropout_is_active_in_training_only_and_keeps_names() -> None:
    head = FastRCNNConvFCHead(POOLED, fc_channels=[64, 64], dropout=0.5)
    assert list(head.state_dict()) == ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
    pooled = torch.randn(2, 4, 7, 7)
    plain = FastRCNNConvFCHead(POOLED, fc_channels=[64, 64])
    plain.load_state_dict(head.state_dict())
    torch.testing.assert_close(head.eval()(pooled), plain(pooled))
    with torch.no_grad():
        head.get_submodule("fc2").bias.fill_(100)
    share = (head.train()(pooled) == 0).float().mean().item()
    assert 0.25 < share < 0.75  # 128 outputs, all positive before


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("norm", ["BN", "SyncBN"])
def test_batch_norm_accepts_no_region_and_a_single_value(count: int, norm: str) -> None:
    head = FastRCNNConvFCHead(FeatureSpec(channels=4, side=1), conv_channels=[8], norm=norm).train()
    head(torch.randn(count, 4, 1, 1)).sum().backward()
    state = head.state_dict()
    assert not state["conv1.norm.running_mean"].any()
    assert torch.equal(state["conv1.norm.running_var"], torch.ones(8))
    assert all(weight.grad is not None for weight in head.parameters())


def test_box_head_without_layers_is_refused(small_cfg: Callable[..., CfgNode]) -> None:
    with pytest.raises(UserError, match=r"MODEL\.ROI_BOX_HEAD\.NUM_FC"):
        BOX_HEADS.get("FastRCNNConvFCHead")(small_cfg("MODEL.ROI_BOX_HEAD.NUM_FC", 0), POOLED)
