"""Anchors become training examples: matched to ground truth and sampled."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mrcnn_zoo.modeling.assignment.sampler import sample_all
from mrcnn_zoo.modeling.contracts import Matcher, Sampler
from mrcnn_zoo.ops.anchors import is_inside
from mrcnn_zoo.ops.rows import rows_where
from mrcnn_zoo.structures import ImageSize, Targets


@dataclass(frozen=True)
class AnchorLabels:
    """The anchors of one image that take part in a training step, as rows of all anchors."""

    positives: Tensor  # (P,) int64
    negatives: Tensor  # (M,) int64
    matches: Tensor  # (P,) int64 rows of the targets that the positives belong to


class AnchorLabeler:
    """Chooses the anchors that a proposal generator is trained on.

    Anchors that cross the border can be left out, as the sliding window with "valid" padding has none: then each object
    has its best anchor among the others. Detectron2 matches first and ignores afterwards, and so leaves a large object,
    whose best anchors all cross, without any. At inference they stay, and their proposals are clipped.

    Source: Ren et al. 2015 (Faster R-CNN), sec. 3.1.3.

    Args:
        matcher: decides which ground truth an anchor belongs to.
        sampler: decides how many of each kind are used.
        boundary_margin: anchors that reach further outside the image than this many pixels are left out; a negative
            margin keeps all.
    """

    def __init__(self, matcher: Matcher, sampler: Sampler, *, boundary_margin: float = -1) -> None:
        self.matcher = matcher
        self.sampler = sampler
        self.boundary_margin = boundary_margin

    @torch.no_grad()
    def label(self, anchors: Tensor, targets: list[Targets], image_sizes: list[ImageSize]) -> list[AnchorLabels]:
        """The sampled anchors of each image; matched one image at a time, which keeps the overlaps of one in memory.

        Args:
            anchors: (A, 4) pixels, the same for all images.
            targets: one table an image.
            image_sizes: without padding, one an image.
        """
        if self.boundary_margin < 0:
            return self._sample([anchors] * len(targets), targets)
        inside = rows_where([is_inside(anchors, size, margin=self.boundary_margin) for size in image_sizes])
        labels = self._sample([anchors[rows] for rows in inside], targets)
        return [
            AnchorLabels(rows[image.positives], rows[image.negatives], image.matches)
            for rows, image in zip(inside, labels, strict=True)
        ]

    def _sample(self, anchors: list[Tensor], targets: list[Targets]) -> list[AnchorLabels]:
        matches = [
            self.matcher.match(*image) for image in zip(anchors, [truth.boxes for truth in targets], strict=True)
        ]
        samples = sample_all(self.sampler, [image.labels for image in matches])
        return [
            AnchorLabels(positives, negatives, image.rows[positives])
            for image, (positives, negatives) in zip(matches, samples, strict=True)
        ]
