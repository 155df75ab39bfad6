"""GossipNet: learned suppression, in which detections exchange messages with the detections that they overlap."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.config.rules import class_count
from mrcnn_zoo.modeling.contracts import Candidates
from mrcnn_zoo.modeling.suppression.base import Suppression
from mrcnn_zoo.modeling.suppression.criterion import SuppressionCriterion
from mrcnn_zoo.ops import boxes as box_ops
from mrcnn_zoo.ops.rows import rows_where
from mrcnn_zoo.registries import SUPPRESSIONS
from mrcnn_zoo.structures import Targets, TrainingOutput

GEOMETRY = 7  # IoU, distance in x, in y and in both, difference in width, height and aspect ratio
PAIR_FEATURES = GEOMETRY + 3  # and both scores, and whether the classes are equal
SCORE_MARGIN = 1e-4  # scores are this far from 0 and 1, so that their logits are finite
MIN_SIDE = 1e-3  # pixels; logarithms of the sides of empty boxes are finite


@dataclass(frozen=True)
class Pairs:
    """The pairs of neighbouring detections of a batch, sorted by the first detection."""

    centers: Tensor  # (P,) int64 rows of the detections that receive a message
    neighbors: Tensor  # (P,) int64 rows of the detections that send it; each detection is a neighbour of itself
    overlaps: Tensor  # (P,) IoU


@dataclass(frozen=True)
class Neighborhood:
    """Which detections of an image exchange messages: each with itself, and those that overlap.

    Args:
        min_iou: neighbours have a larger IoU, in [0, 1).
        joins_classes: detections of different classes are neighbours, too.
    """

    min_iou: float = 0.2
    joins_classes: bool = True

    def pairs(self, boxes: Tensor, classes: Tensor, counts: Sequence[int]) -> Pairs:
        """The ordered pairs of neighbours.

        Args:
            boxes: (R, 4) pixels, image after image.
            classes: (R,) int64.
            counts: boxes of each image, which add up to R.
        """
        overlaps = [box_ops.iou(of_image, of_image) for of_image in boxes.split(list(counts))]
        masks = [of_image > self.min_iou for of_image in overlaps]
        if not self.joins_classes:
            of_images = zip(masks, classes.split(list(counts)), strict=True)
            masks = [mask & (own == own[:, None]) for mask, own in of_images]
        # `fill_diagonal_` cannot be traced.
        selves = [torch.eye(count, dtype=torch.bool, device=boxes.device) for count in counts]
        places = rows_where([(mask | own).flatten() for mask, own in zip(masks, selves, strict=True)])
        centers, neighbors, chosen, first = [], [], [], 0
        for of_image, image_places, count in zip(overlaps, places, counts, strict=True):
            centers.append(first + image_places // max(count, 1))
            neighbors.append(first + image_places % max(count, 1))
            chosen.append(of_image.flatten()[image_places])
            first += count
        return Pairs(torch.cat(centers), torch.cat(neighbors), torch.cat(chosen))


def pair_features(boxes: Tensor, scores: Tensor, classes: Tensor, pairs: Pairs) -> Tensor:
    """Relative position, scores and classes of pairs of detections.

    Source: Hosang et al. 2017, sec. 4.2 (Pairwise computations). Unlike in the paper, the scores are given as logits,
    which separate the scores near 0 and near 1, where most are: training is several times shorter. Whether both have
    the same class is a feature, too: from one vector of scores per detection it would have to be learned.

    Args:
        boxes: (R, 4) pixels.
        scores: (R,) in [0, 1].
        classes: (R,) int64.
        pairs: P of them.

    Returns:
        (P, PAIR_FEATURES).
    """
    centers, neighbors = pairs.centers, pairs.neighbors
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=MIN_SIDE)
    logs = sides.log()
    aspects = logs[:, 0] - logs[:, 1]
    distances = (middles[neighbors] - middles[centers]) / sides.mean(dim=1)[centers, None]
    logits = torch.logit(scores, eps=SCORE_MARGIN)
    columns = (
        pairs.overlaps[:, None],
        distances,
        distances.norm(dim=1, keepdim=True),
        logs[neighbors] - logs[centers],
        (aspects[neighbors] - aspects[centers])[:, None],
        logits[centers, None],
        logits[neighbors, None],
        (classes[centers] == classes[neighbors])[:, None],
    )
    return torch.cat([column.float() for column in columns], dim=1)


class GossipBlock(nn.Module):
    """One exchange of messages: the maximum over the pairs of each detection is the input of a residual update.

    Source: Hosang et al. 2017, sec. 4.2, figure 3. The first layer on the features of a pair, its center and its
    neighbour is computed as a sum of three, two of them per detection: there are many more pairs than detections.

    Args:
        dim: features per detection.
        reduced_dim: features per detection and per pair inside the block.
    """

    def __init__(self, dim: int, reduced_dim: int) -> None:
        super().__init__()
        width = 2 * reduced_dim
        self.reduce = nn.Linear(dim, reduced_dim)
        self.of_pair = nn.Linear(reduced_dim, width)
        self.of_center = nn.Linear(reduced_dim, width, bias=False)
        self.of_neighbor = nn.Linear(reduced_dim, width, bias=False)
        self.message = nn.Linear(width, width)
        self.update = nn.Linear(width, width)
        self.expand = nn.Linear(width, dim)

    def forward(self, detections: Tensor, encoded: Tensor, pairs: Pairs, sizes: Tensor) -> Tensor:
        """The changed features of the detections.

        Args:
            detections: (R, dim).
            encoded: (P, reduced_dim) features of the pairs.
            pairs: P of them.
            sizes: (R,) int64 pairs of each detection.

        Returns:
            (R, dim).
        """
        reduced = F.relu(self.reduce(detections))
        # In the pair of a detection with itself the neighbour has no features: they are those of the center.
        is_other = (pairs.centers != pairs.neighbors)[:, None]
        from_neighbors = self.of_neighbor(reduced)[pairs.neighbors] * is_other
        hidden = F.relu(self.of_pair(encoded) + self.of_center(reduced)[pairs.centers] + from_neighbors)
        messages = F.relu(self.message(hidden))
        strongest = torch.segment_reduce(messages, "max", lengths=sizes, axis=0, unsafe=True)
        return F.relu(detections + self.expand(F.relu(self.update(strongest))))


class GossipNet(Suppression):
    """Computes new scores of all detections of an image together; duplicates get low ones.

    The features of a detection are 0 at first; each block changes them by the maximum over its pairs with its
    neighbours. Only boxes with a low new score are removed.

    Source: Hosang et al. 2017 (Learning Non-Maximum Suppression), sec. 4. Detections of several classes are in one
    graph, each with its score at the place of its class (sec. 5.3).

    Args:
        num_classes: K.
        num_blocks: exchanges of messages.
        dim: features per detection.
        reduced_dim: features per pair.
        neighborhood: which detections are pairs.
        criterion: labels detections and computes the losses.
        max_candidates: per image, those with the highest scores; the others are dropped.
        min_score: detections with a lower new score are dropped, in [0, 1].
    """

    def __init__(
        self,
        *,
        num_classes: int,
        num_blocks: int,
        dim: int,
        reduced_dim: int,
        neighborhood: Neighborhood,
        criterion: SuppressionCriterion,
        max_candidates: int,
        min_score: float,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.dim = dim
        self.neighborhood = neighborhood
        self.criterion = criterion
        self.max_candidates = max_candidates
        self.min_score = min_score
        self.pair_features = nn.Linear(PAIR_FEATURES, dim)
        self.class_of_center = nn.Embedding(num_classes, dim) if num_classes > 1 else None
        self.class_of_neighbor = nn.Embedding(num_classes, dim) if num_classes > 1 else None
        self.encode = nn.Sequential(nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, reduced_dim), nn.ReLU())
        self.blocks = nn.ModuleList(GossipBlock(dim, reduced_dim) for _ in range(num_blocks))
        last = nn.Linear(dim, 1)
        # Of all constant scores the one with the smallest loss: otherwise the first steps only reduce all scores.
        nn.init.constant_(last.bias, math.log(criterion.positive_weight / (1 - criterion.positive_weight)))
        self.score = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), last)

    def forward(self, boxes: Tensor, scores: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of one image with a new score above the minimum, best first, and their new scores.

        Args:
            boxes: (R, 4) pixels.
            scores: (R,).
            classes: (R,) int64.
        """
        images = torch.zeros_like(classes)
        return self.suppress(Candidates(boxes, scores, classes, images, [(0, 0)], [len(boxes)], self.num_classes))

    def suppress(self, candidates: Candidates) -> tuple[Tensor, Tensor]:
        """The rows with a new score above the minimum, image by image and best first in each, and their new scores."""
        rows, best = self._best(candidates)
        scores = self.logits(best).sigmoid()
        order = scores.argsort(descending=True, stable=True)
        order = order[best.images[order].argsort(stable=True)]
        (kept,) = rows_where([scores[order] >= self.min_score])
        order = order[kept]
        return rows[order], scores[order].to(candidates.scores.dtype)

    def losses(self, candidates: Candidates, targets: list[Targets]) -> TrainingOutput:
        """The losses of the new scores.

        Args:
            candidates: of all images.
            targets: ground truth of each image.
        """
        _, best = self._best(candidates)
        return self.criterion.losses(self.logits(best), best, targets)

    def logits(self, candidates: Candidates) -> Tensor:
        """(R,) the logits of the new scores, float32."""
        boxes, scores, classes = candidates.boxes.float(), candidates.scores.float(), candidates.classes
        pairs = self.neighborhood.pairs(boxes, classes, candidates.counts)
        sizes = torch.zeros_like(classes).index_add_(0, pairs.centers, torch.ones_like(pairs.centers))
        hidden = self.pair_features(pair_features(boxes, scores, classes, pairs))
        if self.class_of_center is not None and self.class_of_neighbor is not None:
            # The product of a weight and a vector with the score at the place of the class.
            hidden = hidden + (self.class_of_center(classes) * scores[:, None])[pairs.centers]
            hidden = hidden + (self.class_of_neighbor(classes) * scores[:, None])[pairs.neighbors]
        encoded = self.encode(hidden)
        detections = encoded.new_zeros((len(boxes), self.dim))
        for block in self.blocks:
            detections = block(detections, encoded, pairs, sizes)
        return self.score(detections).squeeze(1).float()

    def _best(self, candidates: Candidates) -> tuple[Tensor, Candidates]:
        """The rows of at most `max_candidates` per image, and these candidates."""
        counts = [min(count, self.max_candidates) for count in candidates.counts]
        if counts == list(candidates.counts):
            return torch.arange(len(candidates.boxes), device=candidates.boxes.device), candidates
        parts, first = [], 0
        for scores, count in zip(candidates.scores.split(list(candidates.counts)), counts, strict=True):
            parts.append(scores.topk(count).indices.sort().values + first)
            first += len(scores)
        rows = torch.cat(parts)
        best = replace(
            candidates,
            boxes=candidates.boxes[rows],
            scores=candidates.scores[rows],
            classes=candidates.classes[rows],
            images=candidates.images[rows],
            counts=counts,
            vectors=None,
            sources=None,
        )
        return rows, best


@SUPPRESSIONS.register("GossipNet")
def build_gossip_net(cfg: CfgNode, _iou_threshold: float) -> GossipNet:
    """The network of `MODEL.GOSSIP_NET`.

    Args:
        cfg: the whole config.
        _iou_threshold: of other suppressions.
    """
    settings = cfg.MODEL.GOSSIP_NET
    criterion = SuppressionCriterion(
        min_ious=tuple(settings.MATCH_IOUS),
        positive_weight=settings.POSITIVE_WEIGHT,
        loss_weight=settings.LOSS_WEIGHT,
    )
    return GossipNet(
        num_classes=class_count(cfg) or 1,
        num_blocks=settings.NUM_BLOCKS,
        dim=settings.DIM,
        reduced_dim=settings.REDUCED_DIM,
        neighborhood=Neighborhood(settings.NEIGHBOR_IOU, joins_classes=settings.JOIN_CLASSES),
        criterion=criterion,
        max_candidates=settings.MAX_CANDIDATES,
        min_score=settings.MIN_SCORE,
    )
