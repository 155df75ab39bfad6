from typing import Any

import pytest
import torch

from mrcnn_zoo.config import load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.losses.classification import binary_cross_entropy
from mrcnn_zoo.modeling.proposal_generators.rpn_head import (
    StandardRPNHead,
    build_softmax_rpn_head,
    build_standard_rpn_head,
)


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


def softmax_head(conv_dims: list[int]) -> StandardRPNHead:
    cfg = load_config(None, ["MODEL.DEVICE", "cpu", "MODEL.RPN.CONV_DIMS", conv_dims])
    torch.manual_seed(0)
    head = build_softmax_rpn_head(cfg, 8, 3)
    torch.nn.init.normal_(head.objectness_logits.conv.weight)
    return head


def two_scores(head: StandardRPNHead, level: torch.Tensor) -> torch.Tensor:
    """(N, A, 2, H, W): background and object of each anchor, as the convolution gives them."""
    return head.objectness_logits.conv(head.conv(level)).unflatten(1, (3, 2))


@pytest.mark.parametrize("conv_dims", [[-1], [-1, 16]])
def test_softmax_head_ranks_as_the_probability_of_the_second_of_two_classes(conv_dims: list[int]) -> None:
    head, level = softmax_head(conv_dims), torch.randn(2, 8, 4, 6)
    (logits,), (deltas,) = head([level])
    probabilities = two_scores(head, level).softmax(dim=2)[:, :, 1]
    assert (logits.shape, deltas.shape) == ((2, 3, 4, 6), (2, 12, 4, 6))
    torch.testing.assert_close(logits.sigmoid(), probabilities)
    assert torch.equal(logits.flatten().argsort(), probabilities.flatten().argsort())


def test_binary_cross_entropy_of_the_softmax_head_is_cross_entropy_of_two_classes() -> None:
    head, level = softmax_head([-1]), torch.randn(2, 8, 4, 6)
    is_object = torch.rand(2, 3, 4, 6) < 0.3
    ours = binary_cross_entropy(head([level])[0][0], is_object)
    theirs = torch.nn.functional.cross_entropy(
        two_scores(head, level).transpose(1, 2), is_object.long(), reduction="sum"
    )
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(loss, list(head.objectness_logits.parameters())) for loss in (ours, theirs)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("conv_dims", [[], [0], [-2]])
def test_impossible_convolutions_are_refused(conv_dims: list[int]) -> None:
    with pytest.raises(UserError, match=r"MODEL\.RPN\.CONV_DIMS"):
        build(conv_dims)
