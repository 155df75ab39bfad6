from typing import Any

import pytest
import torch

from mrcnn_zoo.config import load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.proposal_generators.rpn_head import StandardRPNHead, build_standard_rpn_head


def build(conv_dims: list[int]) -> StandardRPNHead:
    cfg = load_config(None, ["MODEL.DEVICE", "cpu", "MODEL.RPN.CONV_DIMS", conv_dims])
    return build_standard_rpn_head(cfg, 8, 3)


def test_each_level_keeps_its_size() -> None:
    logits, deltas = build([-1])([torch.zeros(2, 8, 4, 6), torch.zeros(2, 8, 2, 3)])
    assert [tuple(level.shape) for level in logits] == [(2, 3, 4, 6), (2, 3, 2, 3)]
    assert [tuple(level.shape) for level in deltas] == [(2, 12, 4, 6), (2, 12, 2, 3)]


@pytest.mark.parametrize(
    ("conv_dims", "shapes"),
    [
        ([-1], {"conv.weight": (8, 8, 3, 3)}),
        ([16], {"conv.weight": (16, 8, 3, 3)}),
        ([16, -1], {"conv.conv0.weight": (16, 8, 3, 3), "conv.conv1.weight": (16, 16, 3, 3)}),
    ],
)
def test_convolutions_are_named_as_in_detectron2(conv_dims: list[int], shapes: dict[str, Any]) -> None:
    state = build(conv_dims).state_dict()
    named = {name: tuple(value.shape) for name, value in state.items() if name.startswith("conv") and value.dim() > 1}
    assert named == shapes


def test_weights_start_small_and_biases_at_zero() -> None:
    head = StandardRPNHead(64, num_anchors=3, hidden_channels=[64])
    assert abs(head.conv.weight.std().item() - 0.01) < 5e-4
    assert not head.objectness_logits.bias.any()


@pytest.mark.parametrize("conv_dims", [[], [0], [-2]])
def test_impossible_convolutions_are_refused(conv_dims: list[int]) -> None:
    with pytest.raises(UserError, match=r"MODEL\.RPN\.CONV_DIMS"):
        build(conv_dims)
