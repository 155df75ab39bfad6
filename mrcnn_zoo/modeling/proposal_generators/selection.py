"""From predictions on all anchors to a few good proposals."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mrcnn_zoo.modeling.recording import Selected
from mrcnn_zoo.modeling.suppression import best_overlapping
from mrcnn_zoo.ops import boxes as box_ops
from mrcnn_zoo.ops.box_coding import BoxCoder
from mrcnn_zoo.ops.nms import batched_nms, nms_of_images
from mrcnn_zoo.ops.rows import counts_of_images
from mrcnn_zoo.structures import ImageSize, Proposals

Report = Callable[[list[Selected]], None]  # of each image


@dataclass(frozen=True)
class Candidates:
    """The best anchors of every level of N images, moved to where the network says; T of them an image."""

    boxes: Tensor  # (N, T, 4) float32 pixels, not clipped
    logits: Tensor  # (N, T) float32
    levels: Tensor  # (T,) int64 in [0, num_levels)
    num_levels: int
    rows: Sequence[Tensor] = ()  # for each level (N, T_i) int64 rows of its anchors

    def is_finite(self) -> Tensor:
        """(N, T) bool; False where the network has predicted NaN or infinity."""
        return self.boxes.isfinite().all(dim=-1) & self.logits.isfinite()


class Ranking(Protocol):
    """What puts anchors in order."""

    def best(self, logits: Tensor, count: int) -> Tensor:
        """Rows of the `count` best of each image, best first: (N, A) -> (N, count) int64."""
        ...

    def scores(self, logits: Tensor) -> Tensor:
        """What suppression compares, of the same shape as the logits."""
        ...


class LogitRanking:
    """By logits."""

    def best(self, logits: Tensor, count: int) -> Tensor:
        return logits.topk(count, dim=1).indices

    def scores(self, logits: Tensor) -> Tensor:
        return logits


class ProbabilityRanking:
    """By probabilities in float32, as MMDetection does.

    They equal 1 for all logits above about 17, and torch's sort decides among those. It gives the same order as
    MMDetection only when it is called as there: on all anchors of a level, and not at all when every one is kept.
    """

    def best(self, logits: Tensor, count: int) -> Tensor:
        if count == logits.shape[1]:
            return torch.arange(count, device=logits.device).expand(len(logits), -1)
        return torch.stack([self.scores(image).sort(descending=True).indices[:count] for image in logits])

    def scores(self, logits: Tensor) -> Tensor:
        return logits.float().sigmoid()


RANKINGS: dict[str, Ranking] = {"logit": LogitRanking(), "probability": ProbabilityRanking()}


class ProposalSelection:
    """Top-k of each level, decoding, suppression within each level, top-k of all.

    Source: Ren et al. 2015 (Faster R-CNN), sec. 3.3; Lin et al. 2017 (Feature Pyramid Networks), sec. 4.1.

    Args:
        pre_nms_topk: candidates kept on each level.
        post_nms_topk: proposals kept in each image.
        iou_threshold: a candidate that overlaps a better one of its level by more is dropped.
        min_size: candidates with a side of at most so many pixels are dropped.
        ranking: what puts anchors in order.
    """

    def __init__(
        self,
        *,
        pre_nms_topk: int,
        post_nms_topk: int,
        iou_threshold: float,
        min_size: float = 0.0,
        ranking: Ranking = RANKINGS["logit"],
    ) -> None:
        self.pre_nms_topk = pre_nms_topk
        self.post_nms_topk = post_nms_topk
        self.iou_threshold = iou_threshold
        self.min_size = min_size
        self.ranking = ranking

    @torch.no_grad()
    def candidates(
        self, logits: Sequence[Tensor], deltas: Sequence[Tensor], anchors: Sequence[Tensor], coder: BoxCoder
    ) -> Candidates:
        """The best of each level; only these are decoded, a small part of all anchors.

        Args:
            logits: for each level (N, A).
            deltas: for each level (N, A, 4).
            anchors: for each level (A, 4) pixels.
            coder: turns deltas into boxes.
        """
        boxes, best_logits, levels, chosen = [], [], [], []
        for level, (level_logits, level_deltas, level_anchors) in enumerate(zip(logits, deltas, anchors, strict=True)):
            rows = self.ranking.best(level_logits, min(self.pre_nms_topk, level_logits.shape[1]))
            best_deltas = level_deltas.gather(1, rows[:, :, None].expand(-1, -1, 4))
            boxes.append(coder.decode(best_deltas, level_anchors[rows]))
            best_logits.append(level_logits.gather(1, rows).float())
            levels.append(torch.full_like(rows[0], level))
            chosen.append(rows)
        return Candidates(
            torch.cat(boxes, dim=1), torch.cat(best_logits, dim=1), torch.cat(levels), len(levels), chosen
        )

    @torch.no_grad()
    def suppress(
        self, candidates: Candidates, image_sizes: Sequence[ImageSize], report: Report | None = None
    ) -> list[Proposals]:
        """The proposals of each image, best first; candidates that are not finite are left out.

        Args:
            candidates: of all images.
            image_sizes: without padding.
            report: gets what was compared and kept in each image, for a recorder.
        """
        # Clip before NMS: boxes that differ only outside the image are the same proposal.
        boxes = torch.stack(
            [box_ops.clip(image, size) for image, size in zip(candidates.boxes, image_sizes, strict=True)]
        )
        is_usable = candidates.is_finite() & box_ops.is_nonempty(boxes, min_size=self.min_size)
        on_cpu = boxes.device.type == "cpu"
        suppress = self._rows_on_cpu if on_cpu else self._rows_on_accelerator
        kept = suppress(candidates, boxes, is_usable, image_sizes)
        if report is not None:
            report([self._selected(candidates, *image) for image in zip(boxes, is_usable, kept, strict=True)])
        best = [rows[: self.post_nms_topk] for rows in kept]
        return [
            Proposals(image_size=size, boxes=boxes[image][rows], objectness=candidates.logits[image][rows])
            for image, (rows, size) in enumerate(zip(best, image_sizes, strict=True))
        ]

    def _selected(self, candidates: Candidates, boxes: Tensor, is_usable: Tensor, kept: Tensor) -> Selected:
        """What was compared and kept in one image; rows are those of its candidates."""
        compared = is_usable.nonzero().flatten()
        places = torch.searchsorted(compared, kept)
        by = best_overlapping(boxes[compared], candidates.levels[compared], places, min_iou=self.iou_threshold)
        return Selected(compared, places, by, self.post_nms_topk)

    def _rows_on_cpu(
        self,
        candidates: Candidates,
        boxes: Tensor,
        is_usable: Tensor,
        image_sizes: Sequence[ImageSize],  # noqa: ARG002
    ) -> list[Tensor]:
        """The rows that stay in each image, best first."""
        kept = []
        for image_boxes, logits, usable in zip(boxes, candidates.logits, is_usable, strict=True):
            rows = usable.nonzero().flatten()
            scores, levels = self.ranking.scores(logits[rows]), candidates.levels[rows]
            best = batched_nms(image_boxes[rows], scores, levels, iou_threshold=self.iou_threshold)
            kept.append(rows[best])
        return kept

    def _rows_on_accelerator(
        self, candidates: Candidates, boxes: Tensor, is_usable: Tensor, image_sizes: Sequence[ImageSize]
    ) -> list[Tensor]:
        """The same for all images together, where the host waits for NMS and for one copy.

        Candidates that are not usable stay in their places, so that their number need not be known: the last and
        empty ones suppress nothing.
        """
        num_images, num_candidates = is_usable.shape
        scores = self.ranking.scores(candidates.logits).masked_fill(~is_usable, -math.inf)
        rows = nms_of_images(
            boxes.masked_fill(~is_usable[..., None], 0).flatten(0, 1),
            scores.flatten(),
            candidates.levels.repeat(num_images),
            counts=[num_candidates] * num_images,
            iou_threshold=self.iou_threshold,
            num_groups=candidates.num_levels,
            bounds=(0, max(map(max, image_sizes))),
        )
        images = rows // num_candidates
        # Numbers of a second image for those that are left out: they stand behind the others of their image.
        counts = counts_of_images(2 * images + ~is_usable.flatten()[rows], 2 * num_images)
        parts = (rows % num_candidates).split(counts)
        return list(parts[::2])


class JointSelection:
    """The same over the anchors of all levels together: levels compete for places, and suppress each other's boxes.

    Args:
        selection: chooses from one level.
    """

    def __init__(self, selection: ProposalSelection) -> None:
        self.selection = selection

    def candidates(
        self, logits: Sequence[Tensor], deltas: Sequence[Tensor], anchors: Sequence[Tensor], coder: BoxCoder
    ) -> Candidates:
        """The best of all levels; arguments as those of `ProposalSelection.candidates`."""
        joined = [torch.cat(list(logits), dim=1)], [torch.cat(list(deltas), dim=1)], [torch.cat(list(anchors))]
        return self.selection.candidates(*joined, coder)

    def suppress(
        self, candidates: Candidates, image_sizes: Sequence[ImageSize], report: Report | None = None
    ) -> list[Proposals]:
        """The proposals of each image, best first; arguments as those of `ProposalSelection.suppress`."""
        return self.selection.suppress(candidates, image_sizes, report)
