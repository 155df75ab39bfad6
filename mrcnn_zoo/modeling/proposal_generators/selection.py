"""Selection of proposals from the predictions on all anchors."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mrcnn_zoo.modeling.recording import Fate, Recorder, Selected, report_anchors, report_selection
from mrcnn_zoo.modeling.suppression import best_overlapping
from mrcnn_zoo.ops import boxes as box_ops
from mrcnn_zoo.ops.box_coding import BoxCoder
from mrcnn_zoo.ops.nms import batched_nms, nms_of_images
from mrcnn_zoo.ops.rows import counts_of_images, image_numbers
from mrcnn_zoo.structures import ImageSize, Proposals

# (N, A) logits, count -> (N, count) int64 rows of the best anchors of each image, and the scores that NMS compares
Ranking = Callable[[Tensor, int], tuple[Tensor, Tensor]]


def rank_by_logit(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The anchors with the highest logits, best first.

    Args:
        logits: (N, A).
        count: anchors to keep per image, at most A.

    Returns:
        (N, count) int64 rows and (N, count) scores, which are the logits.
    """
    scores, rows = logits.topk(count, dim=1)
    return rows, scores


def rank_by_probability(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The anchors with the highest probabilities in float32; converted MMDetection models need it.

    Probabilities of all logits above about 17 equal 1, and torch's sort decides among those. For MMDetection's order
    the sort is called as there: on all anchors of a level, and only if not every anchor is kept.

    Args:
        logits: (N, A).
        count: anchors to keep per image, at most A.

    Returns:
        (N, count) int64 rows and (N, count) scores in [0, 1].
    """
    probabilities = logits.float().sigmoid()
    if count == logits.shape[1]:
        rows = torch.arange(count, device=logits.device).expand(len(logits), -1)
    else:
        rows = torch.stack([image.sort(descending=True).indices[:count] for image in probabilities])
    return rows, probabilities.gather(1, rows)


RANKINGS: dict[str, Ranking] = {"logit": rank_by_logit, "probability": rank_by_probability}


@dataclass(frozen=True)
class AnchorCandidates:
    """The best anchors of every level of N images, decoded; T per image."""

    boxes: Tensor  # (N, T, 4) float32 pixels, clipped to the image
    logits: Tensor  # (N, T) float32
    scores: Tensor  # (N, T) float32, compared by NMS
    levels: Tensor  # (T,) int64 in [0, num_levels)
    is_usable: Tensor  # (N, T) bool; False for boxes that are empty, too small or not finite
    rows: list[Tensor]  # of each level: (N, T_i) int64 rows of its anchors

    @property
    def num_levels(self) -> int:
        return len(self.rows)


class ProposalSelection:
    """Top-k of each level, decoding, NMS within each level, top-k of all levels together.

    Source: Ren et al. 2015 (Faster R-CNN), sec. 3.3; Lin et al. 2017 (Feature Pyramid Networks), sec. 4.1.

    Args:
        coder: decodes deltas.
        pre_nms_topk: candidates kept per level.
        post_nms_topk: proposals kept per image.
        iou_threshold: a candidate with a higher IoU with a better one of its level is dropped.
        min_size: candidates with a side of at most this many pixels are dropped.
        joins_levels: all levels count as one: their anchors compete for the top-k and suppress each other.
        rank: top-k of the anchors of a level.
    """

    def __init__(
        self,
        coder: BoxCoder,
        *,
        pre_nms_topk: int,
        post_nms_topk: int,
        iou_threshold: float,
        min_size: float = 0.0,
        joins_levels: bool = False,
        rank: Ranking = rank_by_logit,
    ) -> None:
        self.coder = coder
        self.pre_nms_topk = pre_nms_topk
        self.post_nms_topk = post_nms_topk
        self.iou_threshold = iou_threshold
        self.min_size = min_size
        self.joins_levels = joins_levels
        self.rank = rank

    @torch.no_grad()
    def select(
        self,
        logits: Sequence[Tensor],
        deltas: Sequence[Tensor],
        anchors: Sequence[Tensor],
        image_sizes: Sequence[ImageSize],
        *,
        recorder: Recorder | None = None,
    ) -> list[Proposals]:
        """The proposals of each image, best first; predictions that are not finite give none.

        Args:
            logits: of each level (N, A).
            deltas: of each level (N, A, 4).
            anchors: of each level (A, 4) pixels.
            image_sizes: (height, width) of each image, without padding.
            recorder: gets a report of the stage "proposals".
        """
        level_sizes = [len(level) for level in anchors]
        if recorder is not None:
            report_anchors(recorder, anchors, image_sizes)
        candidates = self.candidates(logits, deltas, anchors, image_sizes)
        on_cpu = candidates.boxes.device.type == "cpu"
        kept = self._nms_on_cpu(candidates) if on_cpu else self._nms_on_accelerator(candidates, image_sizes)
        if recorder is not None:
            all_anchors = torch.cat([*logits], 1), torch.cat([*deltas], 1), torch.cat([*anchors])
            self._report(recorder, all_anchors, level_sizes, candidates, kept, image_sizes)
        proposals = []
        for image, (image_size, kept_rows) in enumerate(zip(image_sizes, kept, strict=True)):
            best = kept_rows[: self.post_nms_topk]
            boxes, objectness = candidates.boxes[image][best], candidates.logits[image][best]
            proposals.append(Proposals(image_size=image_size, boxes=boxes, objectness=objectness))
        return proposals

    def candidates(
        self,
        logits: Sequence[Tensor],
        deltas: Sequence[Tensor],
        anchors: Sequence[Tensor],
        image_sizes: Sequence[ImageSize],
    ) -> AnchorCandidates:
        """The best anchors of each level; only these, a small part of all, are decoded. Arguments as `select`."""
        if self.joins_levels:
            logits, deltas, anchors = [torch.cat([*logits], 1)], [torch.cat([*deltas], 1)], [torch.cat([*anchors])]
        decoded_levels, best_logits, best_scores, best_rows = [], [], [], []
        for level_logits, level_deltas, level_anchors in zip(logits, deltas, anchors, strict=True):
            rows, scores = self.rank(level_logits, min(self.pre_nms_topk, level_logits.shape[1]))
            best_deltas = level_deltas.gather(1, rows[:, :, None].expand(-1, -1, 4))
            decoded_levels.append(self.coder.decode(best_deltas, level_anchors[rows]))
            best_logits.append(level_logits.gather(1, rows).float())
            best_scores.append(scores.float())
            best_rows.append(rows)
        decoded, all_logits = torch.cat(decoded_levels, dim=1), torch.cat(best_logits, dim=1)
        # Clip before NMS: boxes that differ only outside the image are the same proposal.
        boxes = torch.stack(
            [box_ops.clip_to_image(image, size) for image, size in zip(decoded, image_sizes, strict=True)]
        )
        is_finite = decoded.isfinite().all(dim=-1) & all_logits.isfinite()
        return AnchorCandidates(
            boxes=boxes,
            logits=all_logits,
            scores=torch.cat(best_scores, dim=1),
            levels=torch.cat([torch.full_like(rows[0], level) for level, rows in enumerate(best_rows)]),
            is_usable=is_finite & box_ops.is_nonempty(boxes, min_size=self.min_size),
            rows=best_rows,
        )

    def _nms_on_cpu(self, candidates: AnchorCandidates) -> list[Tensor]:
        """Rows of the candidates that stay in each image, best first."""
        kept = []
        images = zip(candidates.boxes, candidates.scores, candidates.is_usable, strict=True)
        for boxes, scores, is_usable in images:
            rows = is_usable.nonzero().flatten()
            best = batched_nms(boxes[rows], scores[rows], candidates.levels[rows], iou_threshold=self.iou_threshold)
            kept.append(rows[best])
        return kept

    def _nms_on_accelerator(self, candidates: AnchorCandidates, image_sizes: Sequence[ImageSize]) -> list[Tensor]:
        """The same for all images in one call; the host waits for NMS and for one copy only.

        Candidates that are not usable keep their places, so that the host does not need their number: as empty boxes
        with the lowest score they suppress nothing.
        """
        is_usable = candidates.is_usable
        num_images, num_candidates = is_usable.shape
        rows = nms_of_images(
            candidates.boxes.masked_fill(~is_usable[..., None], 0).flatten(0, 1),
            candidates.scores.masked_fill(~is_usable, -math.inf).flatten(),
            candidates.levels.repeat(num_images),
            counts=[num_candidates] * num_images,
            iou_threshold=self.iou_threshold,
            num_groups=candidates.num_levels,
            bounds=(0, max(map(max, image_sizes))),
        )
        # Even groups are the usable candidates of an image, odd groups the others, which follow them.
        groups = 2 * (rows // num_candidates) + ~is_usable.flatten()[rows]
        parts = (rows % num_candidates).split(counts_of_images(groups, 2 * num_images))
        return list(parts[::2])

    def _report(
        self,
        recorder: Recorder,
        predictions: tuple[Tensor, Tensor, Tensor],
        level_sizes: list[int],
        candidates: AnchorCandidates,
        kept: list[Tensor],
        image_sizes: Sequence[ImageSize],
    ) -> None:
        """Report every anchor of every image; `predictions` are (N, A) logits, (N, A, 4) deltas, (A, 4) anchors."""
        logits, deltas, anchors = predictions
        sizes = [len(anchors)] if self.joins_levels else level_sizes
        firsts = itertools.accumulate([0, *sizes[:-1]])
        rows = torch.cat([level + first for level, first in zip(candidates.rows, firsts, strict=True)], dim=1)
        for image, image_size in enumerate(image_sizes):
            boxes = self.coder.decode(deltas[image], anchors)
            is_finite = boxes.isfinite().all(dim=1) & logits[image].isfinite()
            boxes = box_ops.clip_to_image(boxes, image_size)
            reasons = torch.full(boxes.shape[:1], int(Fate.NOT_IN_TOP_K), dtype=torch.int8, device=boxes.device)
            reasons[rows[image]] = int(Fate.TOO_SMALL)
            reasons[~is_finite] = int(Fate.NOT_FINITE)
            compared = candidates.is_usable[image].nonzero().flatten()
            places = torch.searchsorted(compared, kept[image])
            compared_boxes, levels = candidates.boxes[image][compared], candidates.levels[compared]
            suppressors = best_overlapping(compared_boxes, levels, places, min_iou=self.iou_threshold)
            report_selection(
                recorder,
                stage="proposals",
                image=image,
                image_size=image_size,
                boxes=boxes,
                scores=logits[image].float(),
                classes=image_numbers(level_sizes, boxes.device),
                sources=torch.arange(len(boxes), device=boxes.device),
                reasons=reasons,
                selected=Selected(rows[image][compared], places, suppressors, self.post_nms_topk),
            )
