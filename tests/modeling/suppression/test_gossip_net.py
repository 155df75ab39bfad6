"""GossipNet: its scores, its labels and losses, and a short training."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dev.suppression_scenes import constructed_scenes
from mrcnn_zoo.config import load_config
from mrcnn_zoo.modeling.contracts import Candidates, LearnsToSuppress
from mrcnn_zoo.modeling.suppression import (
    GaussianFactor,
    GossipNet,
    GreedySuppression,
    SoftSuppression,
    SuppressionCriterion,
    build_suppression,
    match_by_score,
)
from mrcnn_zoo.modeling.suppression.gossip_net import Neighborhood, pair_features
from mrcnn_zoo.structures import Targets

SIZE = (100, 100)
SMALL = ("MODEL.GOSSIP_NET.NUM_BLOCKS", 2, "MODEL.GOSSIP_NET.DIM", 32, "MODEL.GOSSIP_NET.REDUCED_DIM", 16)


def small_net(*overrides: Any, classes: int = 3) -> GossipNet:
    torch.manual_seed(0)
    cfg = load_config(None, ["MODEL.ROI_HEADS.NUM_CLASSES", classes, *SMALL, *overrides])
    net = build_suppression(cfg, "GossipNet", 0.5, key="MODEL.ROI_HEADS.SUPPRESSION")
    assert isinstance(net, GossipNet)
    for name, weight in net.named_parameters():  # larger than the initial ones, so that scores differ
        if name.endswith("weight"):
            weight.data *= 2
    return net


def crowded(counts: list[int], *, seed: int = 0) -> Candidates:
    generator = torch.Generator().manual_seed(seed)
    total = sum(counts)
    corners = torch.rand((total, 2), generator=generator) * 40
    return Candidates(
        boxes=torch.cat((corners, corners + 20 + torch.rand((total, 2), generator=generator) * 20), dim=1),
        scores=torch.rand(total, generator=generator),
        classes=torch.randint(0, 3, (total,), generator=generator),
        images=torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)),
        image_sizes=[SIZE] * len(counts),
        counts=counts,
        num_classes=3,
    )


def of_image(candidates: Candidates, image: int) -> Candidates:
    rows = candidates.images == image
    return replace(
        candidates,
        boxes=candidates.boxes[rows],
        scores=candidates.scores[rows],
        classes=candidates.classes[rows],
        images=candidates.images[rows] * 0,
        image_sizes=candidates.image_sizes[:1],
        counts=[int(rows.sum())],
    )


def targets_of(*boxes: tuple[float, ...], classes: tuple[int, ...] = ()) -> Targets:
    return Targets(
        SIZE,
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(classes or (0,) * len(boxes), dtype=torch.int64),
    )


def test_gossip_net_is_a_suppression_that_learns() -> None:
    assert isinstance(small_net(), LearnsToSuppress)


def test_scores_of_an_image_do_not_depend_on_other_images() -> None:
    net, candidates = small_net(), crowded([30, 0, 20])
    together = net.logits(candidates)
    assert together.std() > 1e-3
    torch.testing.assert_close(together[:30], net.logits(of_image(candidates, 0)))
    torch.testing.assert_close(together[30:], net.logits(of_image(candidates, 2)))


def test_scores_do_not_depend_on_the_order_of_the_detections() -> None:
    net, candidates = small_net(), crowded([40])
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    shuffled = replace(
        candidates,
        boxes=candidates.boxes[order],
        scores=candidates.scores[order],
        classes=candidates.classes[order],
    )
    torch.testing.assert_close(net.logits(shuffled), net.logits(candidates)[order])


def test_detections_are_scored_by_those_that_they_overlap() -> None:
    net = small_net()
    alone = torch.tensor([[0.0, 0, 10, 10], [50, 50, 90, 90]])
    beside = torch.cat((alone, torch.tensor([[0.0, 0, 10, 8]])))
    logits = [
        net.logits(replace(crowded([n]), boxes=boxes, scores=torch.ones(n), classes=torch.zeros(n, dtype=torch.int64)))
        for n, boxes in ((2, alone), (3, beside))
    ]
    assert not torch.isclose(logits[0][0], logits[1][0])
    torch.testing.assert_close(logits[0][1], logits[1][1])


def test_pairs_are_of_overlapping_detections_of_one_image() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 2], [0, 0, 10, 10], [0, 0, 0, 0]])
    classes = torch.tensor([0, 1, 0, 0, 0])
    pairs = Neighborhood(0.2).pairs(boxes, classes, [3, 0, 2])
    # IoU: 0.5 of the first two, 0.4 of the next, exactly 0.2 of first and third; an empty box is its own neighbour.
    expected = [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 1), (2, 2), (3, 3), (4, 4)]
    assert list(zip(pairs.centers.tolist(), pairs.neighbors.tolist(), strict=True)) == expected
    assert pairs.overlaps.tolist() == pytest.approx([1, 0.5, 0.5, 1, 0.4, 0.4, 1, 1, 0])
    own = Neighborhood(0.2, joins_classes=False).pairs(boxes, classes, [3, 0, 2])
    assert (own.centers == own.neighbors).all()


def test_pair_features_of_two_boxes() -> None:
    boxes, classes = torch.tensor([[0.0, 0, 20, 10], [0, 5, 40, 15]]), torch.tensor([0, 1])
    pairs = Neighborhood(0.1).pairs(boxes, classes, [2])
    features = pair_features(boxes, torch.tensor([0.9, 0.5]), classes, pairs)
    log2, log9 = 0.6931472, 2.1972246  # the latter is the logit of 0.9
    # The center of pair 1 is 20 x 10 at (10, 5), of its neighbour 40 x 10 at (20, 10); distances per mean side, 15.
    distance = [10 / 15, 5 / 15, (125**0.5) / 15]
    assert features[1].tolist() == pytest.approx([0.2, *distance, log2, 0, log2, log9, 0, 0])
    assert features[0].tolist() == pytest.approx([1, 0, 0, 0, 0, 0, 0, log9, log9, 1])


def test_each_object_is_taken_by_the_best_detection_that_overlaps_it_enough() -> None:
    boxes = torch.tensor(
        [
            [0.0, 0, 10, 10],  # IoU 1 with the first object, but a lower score than the next
            [0, 0, 10, 9],  # 0.9 with the first object
            [0, 0, 10, 6],  # 0.6 with the first object, which is taken; the second one is too far
            [20, 0, 30, 10],  # IoU 1 with the second object, but of another class
            [20, 0, 30, 5],  # 0.5 with the second object
            [60, 0, 70, 10],  # no object
            [0, 0, 10, 10],  # in the second image, which has none
        ]
    )
    candidates = Candidates(
        boxes=boxes,
        scores=torch.zeros(7),
        classes=torch.tensor([0, 0, 0, 0, 1, 0, 0]),
        images=torch.tensor([0, 0, 0, 0, 0, 0, 1]),
        image_sizes=[SIZE, SIZE],
        counts=[6, 1],
        num_classes=2,
    )
    targets = [targets_of((0, 0, 10, 10), (20, 0, 30, 10), classes=(0, 1)), targets_of()]
    scores = torch.tensor([0.5, 0.8, 0.9, 0.7, 0.1, 0.6, 0.9])
    matched = match_by_score(scores, candidates, targets, min_ious=(0.5, 0.7, 0.95))
    assert [row.nonzero().flatten().tolist() for row in matched] == [[2, 4], [1], [0]]


def test_losses_weigh_positives_and_negatives_by_their_numbers() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]])
    candidates = replace(of_image(crowded([3]), 0), boxes=boxes, classes=torch.zeros(3, dtype=torch.int64))
    logits = torch.tensor([2.0, 1.0, -3.0], requires_grad=True)
    criterion = SuppressionCriterion((0.5,), positive_weight=0.2, loss_weight=10)
    output = criterion.losses(logits, candidates, [targets_of((0, 0, 10, 10))])
    # -log sigmoid(2) = 0.126928, -log(1 - sigmoid(1)) = 1.313262, -log(1 - sigmoid(-3)) = 0.048587
    assert output.losses["loss_suppression_pos"].item() == pytest.approx(10 * 0.2 * 0.126928, rel=1e-5)
    assert output.losses["loss_suppression_neg"].item() == pytest.approx(10 * 0.8 * (1.313262 + 0.048587) / 2, rel=1e-5)
    output.total().backward()
    assert logits.grad is not None
    assert logits.grad.sign().tolist() == [-1, 1, 1]


def test_candidates_above_the_limit_are_the_worst() -> None:
    candidates = crowded([10, 4])
    limited = small_net("MODEL.GOSSIP_NET.MAX_CANDIDATES", 5, "MODEL.GOSSIP_NET.MIN_SCORE", 0.0)
    rows, scores = limited.suppress(candidates)
    first, second = rows[candidates.images[rows] == 0], rows[candidates.images[rows] == 1]
    assert sorted(first.tolist()) == sorted(candidates.scores[:10].topk(5).indices.tolist())
    assert sorted(second.tolist()) == [10, 11, 12, 13]
    assert scores[:5].tolist() == sorted(scores[:5].tolist(), reverse=True)
    assert candidates.images[rows].tolist() == [0] * 5 + [1] * 4


def test_detections_with_a_low_new_score_are_removed() -> None:
    candidates = crowded([30])
    net = small_net("MODEL.GOSSIP_NET.MIN_SCORE", 0.0)
    rows, scores = net.suppress(candidates)
    assert len(rows) == 30
    threshold = scores[10].item()
    kept, kept_scores = small_net("MODEL.GOSSIP_NET.MIN_SCORE", threshold).suppress(candidates)
    assert torch.equal(kept, rows[:11])
    assert torch.equal(kept_scores, scores[:11])


@pytest.mark.parametrize("counts", [[0], [0, 0], [1, 0]])
def test_images_without_detections_or_objects_have_finite_losses(counts: list[int]) -> None:
    net = small_net()
    output = net.losses(crowded(counts), [targets_of() for _ in counts])
    output.total().backward()
    assert all(loss.isfinite() for loss in output.losses.values())
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in net.parameters())


@pytest.fixture(scope="module")
def trained() -> GossipNet:
    torch.manual_seed(0)
    net = small_net(classes=1)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.003)
    for step in range(100):
        optimizer.zero_grad()
        net.losses(*constructed_scenes(2, seed=step)).total().backward()
        optimizer.step()
    return net.eval()


def correct(rows: Tensor, scores: Tensor, candidates: Candidates, targets: list[Targets]) -> float:
    """Share of correct ones among the best detections, as many as there are objects."""
    all_scores = torch.full_like(candidates.scores, -1).index_copy(0, rows, scores)
    matched = match_by_score(all_scores, candidates, targets, min_ious=(0.5,))[0]
    best = all_scores.topk(sum(map(len, targets))).indices
    return float(matched[best].float().mean())


@torch.no_grad()
def test_training_separates_duplicates_that_no_threshold_separates(trained: GossipNet) -> None:
    candidates, targets = constructed_scenes(30, seed=10**6)
    learned = correct(*trained.suppress(candidates), candidates, targets)
    others = [GreedySuppression(threshold / 10) for threshold in range(3, 10)]
    soft = SoftSuppression(GaussianFactor(0.5), min_score=0.0)
    best = max(correct(*other.suppress(candidates), candidates, targets) for other in (*others, soft))
    assert learned > best + 0.05, (learned, best)
