"""Resizing to a length of the shortest side."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mrcnn_zoo.config import CfgNode, choice_of
from mrcnn_zoo.data.transforms.transform import AffineTransform, Augmentation, NoTransform, Transform, size_of
from mrcnn_zoo.registries import AUGMENTATIONS
from mrcnn_zoo.structures import ImageSize


@dataclass(frozen=True)
class ResizeTransform:
    """Bilinear resampling with antialiasing, as in Pillow."""

    before: ImageSize
    after: ImageSize

    @property
    def affine(self) -> AffineTransform:
        """A scaling; the factors of the axes differ, as sizes are whole pixels."""
        scale = (self.after[1] / self.before[1], self.after[0] / self.before[0])
        return AffineTransform.scale_and_shift(scale, (0.0, 0.0), self.after)

    def apply_image(self, image: Tensor) -> Tensor:
        """(C, H, W) of `before` -> (C, H', W') of `after`."""
        return torch.nn.functional.interpolate(image[None], self.after, mode="bilinear", antialias=True)[0]


class ResizeShortestEdge:
    """Resizing of the shortest side to one of several lengths, with a bound on the longest side.

    Args:
        lengths: of the shortest side, in pixels; 0 keeps the size.
        max_size: upper bound of the longest side, in pixels.
    """

    def __init__(self, lengths: Sequence[int], *, max_size: int) -> None:
        self.lengths = tuple(lengths)
        self.max_size = max_size

    def get_transform(self, image: Tensor, rng: np.random.Generator) -> Transform:
        """Resizing to one of the lengths; see `Augmentation`."""
        return resize_shortest_edge(size_of(image), int(rng.choice(self.lengths)), self.max_size)


class ResizeShortestEdgeRange:
    """Resizing of the shortest side to a random length, with a bound on the longest side.

    Args:
        bounds: lowest and highest length, in pixels, both included.
        max_size: upper bound of the longest side, in pixels.
    """

    def __init__(self, bounds: Sequence[int], *, max_size: int) -> None:
        self.bounds = tuple(bounds)
        self.max_size = max_size

    def get_transform(self, image: Tensor, rng: np.random.Generator) -> Transform:
        """Resizing to a random length; see `Augmentation`."""
        length = int(rng.integers(self.bounds[0], self.bounds[1], endpoint=True))
        return resize_shortest_edge(size_of(image), length, self.max_size)


def resize_shortest_edge(size: ImageSize, length: int, max_size: int) -> Transform:
    """The transform that resizes the shortest side to `length`.

    Args:
        size: (height, width) of the image.
        length: of the shortest side, in pixels; 0 keeps the size.
        max_size: upper bound of the longest side, in pixels.
    """
    after = shortest_edge_size(size, length, max_size)
    return NoTransform(size) if after == size else ResizeTransform(size, after)


def shortest_edge_size(size: ImageSize, length: int, max_size: int) -> ImageSize:
    """The size after resizing, with the rounding of Detectron2.

    Args:
        size: (height, width) of the image.
        length: of the shortest side, in pixels; 0 keeps the size.
        max_size: upper bound of the longest side, in pixels.

    >>> shortest_edge_size((480, 640), 800, 1333)
    (800, 1067)
    """
    if length == 0:
        return size
    shortest = min(size)
    sides = [float(length) if side == shortest else length / shortest * side for side in size]
    if max(sides) > max_size:
        factor = max_size / max(sides)
        sides = [side * factor for side in sides]
    return max(1, int(sides[0] + 0.5)), max(1, int(sides[1] + 0.5))


RESIZES: dict[str, type[ResizeShortestEdge | ResizeShortestEdgeRange]] = {
    "choice": ResizeShortestEdge,
    "range": ResizeShortestEdgeRange,
}


@AUGMENTATIONS.register("ResizeShortestEdge")
def build_resize_shortest_edge(cfg: CfgNode) -> Augmentation:
    """The resizing of training images."""
    resize = choice_of(cfg, "INPUT.MIN_SIZE_TRAIN_SAMPLING", RESIZES)
    return resize(cfg.INPUT.MIN_SIZE_TRAIN, max_size=cfg.INPUT.MAX_SIZE_TRAIN)


def build_eval_resize(cfg: CfgNode) -> Augmentation:
    """The resizing of evaluation images, without randomness."""
    return ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST], max_size=cfg.INPUT.MAX_SIZE_TEST)
