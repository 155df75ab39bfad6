from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from mrcnn_zoo.modeling.proposal_generators.rpn_head import (
    ObjectnessLayer,
    SoftmaxObjectness,
    StandardRPNHead,
    sigmoid_objectness,
)
from mrcnn_zoo.modeling.proposal_generators.rpn_patches import predict_on_patches
from mrcnn_zoo.ops.anchors import flatten_per_anchor

ANCHORS_PER_CELL = 3
SIZES = ((5, 7), (3, 4), (1, 1))
NUM_ROWS = 2 * ANCHORS_PER_CELL * sum(height * width for height, width in SIZES)


def build_head(objectness: ObjectnessLayer = sigmoid_objectness) -> StandardRPNHead:
    torch.manual_seed(0)
    head = StandardRPNHead(8, num_anchors=ANCHORS_PER_CELL, hidden_channels=[6], objectness=objectness)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    return head


def build_levels(memory_format: torch.memory_format = torch.contiguous_format) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    maps = [torch.randn(2, 8, *size, generator=generator) for size in SIZES]
    return [level.to(memory_format=memory_format).requires_grad_() for level in maps]


def predict_on_maps(head: StandardRPNHead, levels: list[Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
    """(M,) logits and (M, 4) deltas of some anchors, from whole maps."""
    logits, deltas = head(levels)
    all_logits = torch.cat([flatten_per_anchor(level, 1) for level in logits], dim=1)
    all_deltas = torch.cat([flatten_per_anchor(level, 4) for level in deltas], dim=1)
    return all_logits.flatten()[rows], all_deltas.flatten(0, 1)[rows]


def gradients(head: StandardRPNHead, levels: list[Tensor], predictions: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    logits, deltas = predictions
    weights = torch.randn(len(logits), 5, generator=torch.Generator().manual_seed(2))
    score = (logits * weights[:, 0]).sum() + (deltas * weights[:, 1:]).sum()
    return torch.autograd.grad(score, (*levels, *head.parameters()), allow_unused=True)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("objectness", [sigmoid_objectness, SoftmaxObjectness])
def test_patches_give_the_predictions_and_gradients_of_whole_maps(
    objectness: ObjectnessLayer, memory_format: torch.memory_format
) -> None:
    head, levels = build_head(objectness), build_levels(memory_format)
    rows = torch.randperm(NUM_ROWS)  # every anchor of every level, borders and corners too
    whole = predict_on_maps(head, levels, rows)
    patches = predict_on_patches(head, levels, ANCHORS_PER_CELL, rows)
    torch.testing.assert_close(patches, whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients(head, levels, patches), gradients(head, levels, whole), rtol=1e-4, atol=1e-4)


def test_patches_of_one_level_equal_whole_maps() -> None:
    head, levels = build_head(), build_levels()
    rows = torch.tensor([0, 40])  # both on the first level of the first image
    patches = predict_on_patches(head, levels, ANCHORS_PER_CELL, rows)
    torch.testing.assert_close(patches, predict_on_maps(head, levels, rows))


@pytest.fixture
def four_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("four_threads")
def test_gradients_of_overlapping_patches_are_deterministic_with_several_threads() -> None:
    # 4,000 patches on 16 cells. Where they are cut by indexing, threads add to one position in varying order, and the
    # gradient differs in 20 of 20 repetitions with four threads.
    head = build_head()
    level = torch.randn(1, 8, 4, 4, requires_grad=True)
    rows = torch.arange(48).repeat(90)
    first, *others = (
        gradients(head, [level], predict_on_patches(head, [level], ANCHORS_PER_CELL, rows)) for _ in range(5)
    )
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


def test_no_sampled_anchors_give_no_predictions() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    logits, deltas = predict_on_patches(build_head(), build_levels(), ANCHORS_PER_CELL, nothing)
    assert logits.shape == (0,)
    assert deltas.shape == (0, 4)
