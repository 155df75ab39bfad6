"""Sliding windows: a dense grid of boxes as proposals, without a network."""

import functools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.modeling.contracts import Features
from mrcnn_zoo.ops.anchors import cell_anchors
from mrcnn_zoo.registries import PROPOSAL_GENERATORS
from mrcnn_zoo.structures import Batch, FeatureSpec, ImageSize, Proposals, TrainingOutput

CACHED_SIZES = 64  # image sizes with cached windows


class SlidingWindow:
    """A dense grid of windows, the same for every image of a size, all inside it and with objectness 0.

    Source: Dalal and Triggs 2005 (Histograms of Oriented Gradients), which classifies a dense grid of windows.

    Args:
        sizes: square roots of the windows' areas in pixels.
        aspect_ratios: height over width, combined with every size.
        stride: largest step to the next window, as a fraction of the window's sides, in (0, 1].
    """

    needs_targets = False
    needs_features = False

    def __init__(self, sizes: Sequence[float], *, aspect_ratios: Sequence[float], stride: float) -> None:
        self.sizes = tuple(sizes)
        self.aspect_ratios = tuple(aspect_ratios)
        self.stride = stride

    def losses(self, features: Features, batch: Batch) -> tuple[list[Proposals], TrainingOutput]:
        """The windows, and no losses.

        Args:
            features: not used.
            batch: the images.
        """
        return self.predict(features, batch), TrainingOutput()

    def predict(self, features: Features, batch: Batch) -> list[Proposals]:  # noqa: ARG002
        """The windows of each image.

        Args:
            features: not used.
            batch: the images.
        """
        device = batch.pixels.device
        tables = []
        for size in batch.image_sizes:
            boxes = lay_windows(size, self.sizes, self.aspect_ratios, self.stride).to(device)
            tables.append(Proposals(size, boxes, objectness=boxes.new_zeros(len(boxes))))
        return tables


@functools.lru_cache(CACHED_SIZES)
def lay_windows(
    image_size: ImageSize, sizes: tuple[float, ...], aspect_ratios: tuple[float, ...], stride: float
) -> Tensor:
    """The windows of an image, by size and aspect ratio, equally spaced from border to border.

    Sides longer than the image's are cut to it. The tensor is shared between calls and must not be changed.

    Args:
        image_size: (height, width).
        sizes: see `SlidingWindow`, as the others.

    Returns:
        (R, 4) pixels.
    """
    windows = []
    for window in cell_anchors(sizes, aspect_ratios):
        width, height = (window[2:] - window[:2]).tolist()
        x1, x2 = _positions(image_size[1], width, stride)
        y1, y2 = _positions(image_size[0], height, stride)
        tops, lefts = torch.meshgrid(y1, x1, indexing="ij")
        bottoms, rights = torch.meshgrid(y2, x2, indexing="ij")
        windows.append(torch.stack((lefts, tops, rights, bottoms), dim=-1).reshape(-1, 4))
    return torch.cat(windows)


def _positions(length: int, side: float, stride: float) -> tuple[Tensor, Tensor]:
    """Starts and ends on one axis."""
    free = max(length - side, 0.0)
    starts = torch.linspace(0, free, math.ceil(free / (stride * side)) + 1)
    return starts, (starts + side).clamp(max=length)


@PROPOSAL_GENERATORS.register("SlidingWindow")
def build_sliding_window(
    cfg: CfgNode,
    feature_specs: Mapping[str, FeatureSpec],  # noqa: ARG001
) -> SlidingWindow:
    """The windows of `MODEL.SLIDING_WINDOW`.

    Args:
        cfg: the whole config.
        feature_specs: maps of the backbone by name.
    """
    settings = cfg.MODEL.SLIDING_WINDOW
    return SlidingWindow(settings.SIZES, aspect_ratios=settings.ASPECT_RATIOS, stride=settings.STRIDE)
