"""Augmentations and transforms: an affine map of pixel coordinates and its effect on a sample.

All geometric augmentations are affine: their product is one matrix, which maps boxes, polygons, keypoints and bitmaps
from the image file to the network's input in one step, without intermediate rounding.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Self

from mrcnn_zoo.ops.masks import MaskWindow
from mrcnn_zoo.structures import ImageSize

Points = NDArray[np.float64]

ROUNDING = 1e-6  # pixels; an edge at 99.9999999 is at pixel 100
HALF_COVERED = 0.5
MAX_PADDED_PIXELS = 1 << 20  # of the bitmaps that are resampled at once


@dataclass(frozen=True)
class AffineTransform:
    """An affine map of pixel coordinates, and the size of the resulting image."""

    matrix: NDArray[np.float64]  # (3, 3) maps (x, y, 1) of the input to pixels of the output
    size: ImageSize  # (height, width) of the output

    @classmethod
    def identity(cls, size: ImageSize) -> Self:
        """The identity on an image of (height, width)."""
        return cls(np.eye(3), size)

    @classmethod
    def scale_and_shift(cls, scale: tuple[float, float], shift: tuple[float, float], size: ImageSize) -> Self:
        """x -> scale[0] x + shift[0] and y -> scale[1] y + shift[1].

        Args:
            scale: of x and y.
            shift: of x and y, in pixels of the output.
            size: (height, width) of the output.
        """
        return cls(np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]], [0, 0, 1.0]]), size)

    @property
    def is_mirroring(self) -> bool:
        """Whether the map exchanges left and right of an object."""
        return bool(np.linalg.det(self.matrix) < 0)

    def then(self, after: "AffineTransform") -> "AffineTransform":
        """The composition: this map, then `after`."""
        return AffineTransform(after.matrix @ self.matrix, after.size)

    def map_points(self, points: Points) -> Points:
        """(N, 2) x, y of the input -> (N, 2) of the output, also outside the frame."""
        return points @ self.matrix[:2, :2].T + self.matrix[:2, 2]

    def map_boxes(self, boxes: Points) -> Points:
        """(N, 4) axis-aligned boxes around the mapped corners of (N, 4) boxes, not clipped."""
        x1, y1, x2, y2 = boxes.T
        corners = np.stack([x1, y1, x2, y1, x2, y2, x1, y2], axis=1).reshape(-1, 2)
        mapped = self.map_points(corners).reshape(-1, 4, 2)
        return np.concatenate([mapped.min(axis=1), mapped.max(axis=1)], axis=1)

    def clip_boxes(self, boxes: Points) -> Points:
        """(N, 4) boxes clipped to the frame of the output."""
        height, width = self.size
        return np.clip(boxes, 0, [width, height, width, height])

    def map_windows(self, windows: Sequence[MaskWindow]) -> list[MaskWindow | None]:
        """Resample masks in their windows.

        Args:
            windows: of N masks, in pixels of the input.

        Returns:
            N windows in pixels of the output; None for masks without a pixel inside the frame.
        """
        corners = np.array([window.box for window in windows], dtype=np.float64).reshape(-1, 4)
        boxes = self.clip_boxes(self.map_boxes(corners))
        low = np.floor(boxes[:, :2] + ROUNDING).astype(np.int64)
        high = np.ceil(boxes[:, 2:] - ROUNDING).astype(np.int64)
        mapped: list[MaskWindow | None] = [None] * len(windows)
        for rows in _groups_of_similar_size(corners, low, high):
            bitmaps = self._resample([windows[row] for row in rows], low[rows], (high - low)[rows].max(axis=0))
            for row, padded in zip(rows, bitmaps, strict=True):
                width, height = (high - low)[row]
                bitmap = padded[:height, :width]
                if bitmap.any():
                    mapped[row] = MaskWindow(int(low[row, 0]), int(low[row, 1]), np.ascontiguousarray(bitmap))
        return mapped

    def _resample(
        self, windows: Sequence[MaskWindow], origins: NDArray[np.int64], side_lengths: NDArray[np.int64]
    ) -> NDArray[np.uint8]:
        """(N, h, w) resampled bitmaps of one size (w, h), with their first pixels at the origins (N, 2)."""
        heights, widths = zip(*(window.bitmap.shape for window in windows), strict=True)
        source = torch.zeros((len(windows), 1, max(heights), max(widths)))
        for target, window in zip(source, windows, strict=True):
            target[0, : window.bitmap.shape[0], : window.bitmap.shape[1]] = torch.from_numpy(window.bitmap)
        starts = np.array([(window.x, window.y) for window in windows])
        before = _normalised_to_pixels(starts, np.array([max(widths), max(heights)]))
        after = _normalised_to_pixels(origins, side_lengths)
        theta = np.linalg.inv(before) @ np.linalg.inv(self.matrix) @ after
        width, height = side_lengths.tolist()
        grid = torch.nn.functional.affine_grid(
            torch.from_numpy(theta[:, :2]).float(), [len(windows), 1, height, width], align_corners=False
        )
        shares = torch.nn.functional.grid_sample(source, grid, padding_mode="zeros", align_corners=False)
        return (shares[:, 0] >= HALF_COVERED).numpy().view(np.uint8)


def _groups_of_similar_size(
    boxes: NDArray[np.float64], low: NDArray[np.int64], high: NDArray[np.int64]
) -> Iterator[list[int]]:
    """Groups of rows that are padded to one size and resampled together; rows without pixels are left out."""
    groups: dict[int, list[int]] = {}
    longest = np.maximum((high - low).max(axis=1, initial=0), (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0))
    for row in np.flatnonzero((high > low).all(axis=1)).tolist():
        size = (int(longest[row]) - 1).bit_length()
        rows = groups.setdefault(size, [])
        rows.append(row)
        if len(rows) << (2 * size) >= MAX_PADDED_PIXELS:
            yield groups.pop(size)
    yield from groups.values()


def _normalised_to_pixels(origins: NDArray[np.int64], side_lengths: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N, 3, 3) maps from grid_sample's [-1, 1] x [-1, 1] to pixels of windows of one size (w, h)."""
    maps = np.zeros((len(origins), 3, 3))
    maps[:, [0, 1], [0, 1]] = side_lengths / 2
    maps[:, :2, 2] = origins + side_lengths / 2
    maps[:, 2, 2] = 1
    return maps


class Transform(Protocol):
    """A deterministic change of an image and of the coordinates in it."""

    @property
    def affine(self) -> AffineTransform: ...

    def apply_image(self, image: Tensor) -> Tensor:
        """(C, H, W) -> (C, H', W') of the same dtype; the argument is not modified."""
        ...


class Augmentation(Protocol):
    """A distribution of transforms."""

    def get_transform(self, image: Tensor, rng: np.random.Generator) -> Transform:
        """Draw the transform of an image.

        Args:
            image: (C, H, W).
            rng: the only source of randomness.
        """
        ...


@dataclass(frozen=True)
class NoTransform:
    """The identity."""

    size: ImageSize

    @property
    def affine(self) -> AffineTransform:
        """The identity."""
        return AffineTransform.identity(self.size)

    def apply_image(self, image: Tensor) -> Tensor:
        """The image itself."""
        return image


@dataclass(frozen=True)
class PixelTransform:
    """A change of pixel values that keeps coordinates."""

    size: ImageSize
    function: Callable[[Tensor], Tensor]  # (C, H, W) -> (C', H, W)

    @property
    def affine(self) -> AffineTransform:
        """The identity."""
        return AffineTransform.identity(self.size)

    def apply_image(self, image: Tensor) -> Tensor:
        """The result of the function."""
        return self.function(image)


def size_of(image: Tensor) -> ImageSize:
    """(height, width) of a (C, H, W) image."""
    return int(image.shape[-2]), int(image.shape[-1])


def augment(
    image: Tensor, augmentations: Sequence[Augmentation], rng: np.random.Generator, *, may_mirror: bool = True
) -> tuple[Tensor, AffineTransform]:
    """Apply augmentations in their order.

    Args:
        image: (C, H, W).
        augmentations: in their order.
        rng: of this image; mirroring transforms are drawn even if they are left out.
        may_mirror: whether transforms that exchange left and right are applied.

    Returns:
        the image (C', H', W'), and the map from the original pixels to the new ones.
    """
    affine = AffineTransform.identity(size_of(image))
    for augmentation in augmentations:
        transform = augmentation.get_transform(image, rng)
        if not may_mirror and transform.affine.is_mirroring:
            continue
        image = transform.apply_image(image)
        affine = affine.then(transform.affine)
    return image, affine
