"""Anchors become training examples: matched to ground truth and sampled."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mrcnn_zoo.modeling.contracts import Matcher, Sampler
from mrcnn_zoo.ops.anchors import is_inside
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
        """The sampled anchors of each image; one image at a time, which keeps the overlaps of one in memory.

        Args:
            anchors: (A, 4) pixels, the same for all images.
            targets: one table an image.
            image_sizes: without padding, one an image.
        """
        return [self._label_image(anchors, *image) for image in zip(targets, image_sizes, strict=True)]

    def _label_image(self, anchors: Tensor, targets: Targets, image_size: ImageSize) -> AnchorLabels:
        if self.boundary_margin < 0:
            return self._sample(anchors, targets)
        inside = is_inside(anchors, image_size, margin=self.boundary_margin).nonzero().flatten()
        labels = self._sample(anchors[inside], targets)
        return AnchorLabels(inside[labels.positives], inside[labels.negatives], labels.matches)

    def _sample(self, anchors: Tensor, targets: Targets) -> AnchorLabels:
        matches = self.matcher.match(anchors, targets.boxes)
        positives, negatives = self.sampler.sample(matches.labels)
        return AnchorLabels(positives, negatives, matches.rows[positives])
