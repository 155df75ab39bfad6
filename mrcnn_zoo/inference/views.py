"""Augmented views of a test image: resized, mirrored and rotated, with the inverse maps of their coordinates."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.transforms.flip import HalfTurn, HorizontalFlip, QuarterTurn, ThreeQuarterTurn
from mrcnn_zoo.data.transforms.resize import resize_shortest_edge
from mrcnn_zoo.data.transforms.transform import AffineTransform, NoTransform, Transform
from mrcnn_zoo.structures import ImageSize, Proposals, Sample, Targets
from mrcnn_zoo.structures.summary import summary

ROTATIONS = (NoTransform, QuarterTurn, HalfTurn, ThreeQuarterTurn)


@dataclass(frozen=True)
class Orientation:
    """One of the eight orientations of an image: optionally mirrored, then rotated by quarter turns."""

    is_mirrored: bool = False  # horizontally, before the rotation
    quarter_turns: int = 0  # counter-clockwise, 0 to 3

    def transforms(self, size: ImageSize) -> list[Transform]:
        """Transforms of an image to this orientation.

        Args:
            size: (height, width) of the image.
        """
        mirror: list[Transform] = [HorizontalFlip(size)] if self.is_mirrored else []
        return [*mirror, ROTATIONS[self.quarter_turns](size)]

    def undo(self, grid: Tensor) -> Tensor:
        """Map a grid over the view to one over the image.

        Args:
            grid: (..., H, W).

        Returns:
            (..., H, W), or (..., W, H) for odd quarter turns.
        """
        grid = torch.rot90(grid, -self.quarter_turns, (-2, -1))
        return grid.flip(-1) if self.is_mirrored else grid


@dataclass(frozen=True, repr=False)
class View:
    """One augmented copy of a sample."""

    sample: Sample  # original_size is its own size, so predictions are in pixels of the view
    affine: AffineTransform  # from pixels of the original image to pixels of the view
    orientation: Orientation

    def __repr__(self) -> str:
        return summary(self)

    @property
    def size(self) -> ImageSize:
        """(height, width) of the view."""
        return self.sample.image_size

    def boxes_from_original(self, boxes: Tensor) -> Tensor:
        """Map boxes from the original image to the view.

        Args:
            boxes: (R, 4) in pixels of the original image.
        """
        return mapped_boxes(boxes, self.affine.matrix)

    def boxes_to_original(self, boxes: Tensor) -> Tensor:
        """Map boxes from the view to the original image.

        Args:
            boxes: (R, 4) in pixels of the view.
        """
        return mapped_boxes(boxes, np.linalg.inv(self.affine.matrix))

    def points_to_original(self, points: Tensor) -> Tensor:
        """Map points from the view to the original image.

        Args:
            points: (..., 2) x, y in pixels of the view.
        """
        return mapped_points(points, np.linalg.inv(self.affine.matrix))


class AugmentedViews:
    """Makes the views of a sample: each length of the shorter side in each orientation.

    Args:
        lengths: of the shorter side in pixels; 0 keeps the size of the image. Duplicate sizes are used once.
        max_size: maximum of the longer side in pixels where the length is not 0.
        orientations: of each size.
    """

    def __init__(self, lengths: Sequence[int], *, max_size: int, orientations: Sequence[Orientation]) -> None:
        self.lengths = tuple(lengths)
        self.max_size = max_size
        self.orientations = tuple(orientations)

    def __call__(self, sample: Sample) -> list[View]:
        """Views of a sample: all orientations of the first size, then those of the next."""
        resizes = [resize_shortest_edge(sample.image_size, length, self.max_size) for length in self.lengths]
        by_size = {resize.affine.size: resize for resize in resizes}
        return [
            _view(sample, resize, orientation) for resize, orientation in product(by_size.values(), self.orientations)
        ]


def _view(sample: Sample, resize: Transform, orientation: Orientation) -> View:
    image, affine = sample.image, AffineTransform.identity(sample.image_size)
    for transform in (resize, *orientation.transforms(resize.affine.size)):
        image, affine = transform.apply_image(image), affine.then(transform.affine)
    (height, width), (original_height, original_width) = sample.image_size, sample.original_size
    scale = (width / original_width, height / original_height)
    return View(
        sample=replace(
            sample,
            image=image.contiguous(),
            original_size=affine.size,
            targets=_targets_in_view(sample.targets, affine),
            proposals=_proposals_in_view(sample.proposals, affine),
        ),
        affine=AffineTransform.scale_and_shift(scale, (0.0, 0.0), sample.image_size).then(affine),
        orientation=orientation,
    )


def _targets_in_view(targets: Targets | None, affine: AffineTransform) -> Targets | None:
    """Boxes and classes, the columns that ground-truth proposals use."""
    if targets is None:
        return None
    return Targets(affine.size, mapped_boxes(targets.boxes, affine.matrix), targets.classes)


def _proposals_in_view(proposals: Proposals | None, affine: AffineTransform) -> Proposals | None:
    if proposals is None:
        return None
    return Proposals(affine.size, mapped_boxes(proposals.boxes, affine.matrix), proposals.objectness)


def mapped_points(points: Tensor, matrix: NDArray[np.floating]) -> Tensor:
    """Map points with an affine matrix.

    Args:
        points: (..., 2) x, y.
        matrix: (3, 3).

    Returns:
        (..., 2).
    """
    # Not a matrix product, which may use TF32 on a GPU.
    (a, b, c), (d, e, f) = matrix[:2].tolist()
    x, y = points.unbind(-1)
    return torch.stack((a * x + b * y + c, d * x + e * y + f), dim=-1)


def mapped_boxes(boxes: Tensor, matrix: NDArray[np.floating]) -> Tensor:
    """Map boxes with an affine matrix that rotates by quarter turns only.

    Args:
        boxes: (R, 4).
        matrix: (3, 3).

    Returns:
        (R, 4) axis-aligned boxes.
    """
    corners = mapped_points(boxes.unflatten(1, (2, 2)), matrix)
    return torch.cat((corners.amin(dim=1), corners.amax(dim=1)), dim=1)


def build_augmented_views(cfg: CfgNode) -> AugmentedViews:
    """All combinations of the sizes, flips and rotations of TEST.AUG."""
    settings = cfg.TEST.AUG
    orientations = all_orientations(
        mirrors=settings.FLIP, mirrors_vertically=settings.FLIP_VERTICAL, turns=settings.ROTATE
    )
    return AugmentedViews(settings.MIN_SIZES, max_size=settings.MAX_SIZE, orientations=orientations)


def all_orientations(*, mirrors: bool, mirrors_vertically: bool, turns: bool) -> list[Orientation]:
    """Distinct orientations from all combinations of the given changes; the original orientation comes first.

    Args:
        mirrors: include horizontal flips.
        mirrors_vertically: include vertical flips, each a horizontal flip and a half turn.
        turns: include rotations by quarter turns.
    """
    combinations = product(
        (False, True) if mirrors_vertically else (False,),
        range(4 if turns else 1),
        (False, True) if mirrors else (False,),
    )
    return list(
        dict.fromkeys(
            Orientation(is_mirrored != is_upside_down, (2 * is_upside_down + quarter_turns) % 4)
            for is_upside_down, quarter_turns, is_mirrored in combinations
        )
    )
