"""Masks of targets and detections, and their representations."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Self

from mrcnn_zoo.ops.mask_bitmaps import paste_bitmaps
from mrcnn_zoo.ops.masks import MaskWindow, WindowsOfImage, crop_windows, paste_masks, tight_box
from mrcnn_zoo.ops.rle import encode_windows
from mrcnn_zoo.structures.summary import summary


@runtime_checkable
class TargetMasks(Protocol):
    """Ground-truth masks of one image."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Tensor | slice) -> Self: ...

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self: ...

    def crop_and_resize(self, boxes: Tensor, side: int) -> Tensor:
        """Mask r cropped to boxes[r] and resized: (R, 4) pixels of the image -> (R, side, side) bool."""
        ...

    def sample_points(self, points: Tensor) -> Tensor:
        """Mask r at points[r], interpolated: (R, P, 2) x, y pixels of the image -> (R, P) float32 in [0, 1]."""
        ...

    def areas(self, boxes: Tensor | None = None) -> Tensor:
        """Area of each mask in pixels, or of its part in boxes[r], (R, 4) pixels of the image: (R,) int64."""
        ...

    def bitmaps(self) -> Tensor:
        """(R, H, W) bool full-image bitmaps, for drawing and evaluation only."""
        ...


@runtime_checkable
class PredictedMasks(Protocol):
    """Predicted masks of one image."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Tensor | slice) -> Self: ...

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self: ...

    def bitmaps(self) -> Tensor:
        """(R, H, W) bool full-image bitmaps."""
        ...

    def rles(self) -> list[dict[str, Any]]:
        """COCO run-length encodings ({"size": [H, W], "counts": str}), made without full-image bitmaps."""
        ...

    def resized(self, image_size: tuple[int, int], boxes: Tensor) -> Self:
        """The masks in the resized image.

        Args:
            image_size: (height, width) of the resized image.
            boxes: (R, 4) boxes of the instances in pixels of the resized image.
        """
        ...


@dataclass(frozen=True, repr=False)
class BoxedBitmaps:
    """Masks as bitmaps of a window per instance; row selection shares the pixels."""

    pixels: Tensor  # (P,) uint8 of 0 and 1: window after window, each row by row
    windows: Tensor  # (R, 5) int64: x, y of the first pixel, width, height, position of the first pixel in `pixels`
    image_size: tuple[int, int]  # (height, width)
    # A copy of `windows` on the host, if known and `windows` is on a device: cropping then needs no synchronisation.
    host_windows: Tensor | None = None

    @classmethod
    def from_windows(
        cls,
        origins: NDArray[np.integer] | Tensor | Sequence[Sequence[int]],
        bitmaps: Sequence[NDArray[Any] | Tensor],
        image_size: tuple[int, int],
    ) -> Self:
        """Masks from one bitmap per instance.

        Args:
            origins: (R, 2) x, y of each bitmap's first pixel in the image.
            bitmaps: R of (h, w) uint8 or bool, nonzero on the instance; sides may be 0.
            image_size: (height, width) of the image that contains all windows.

        Raises:
            ValueError: a window extends outside the image, or the lengths differ.
        """
        origins = np.asarray(origins, dtype=np.int64).reshape(-1, 2)
        arrays = list(map(np.asarray, bitmaps))
        if len(origins) != len(arrays):
            raise ValueError(f"{len(arrays)} bitmaps with {len(origins)} origins")
        sizes = np.array([array.shape[::-1] for array in arrays], dtype=np.int64).reshape(-1, 2)
        is_outside = ((origins < 0) | (origins + sizes > np.array(image_size[::-1]))).any(axis=1)
        if is_outside.any():
            row = int(np.flatnonzero(is_outside)[0])
            raise ValueError(
                f"the window of mask {row}, {sizes[row].tolist()} pixels (width, height) from {origins[row].tolist()}, "
                f"reaches outside its image of {image_size[1]} x {image_size[0]}"
            )
        positions = np.cumsum(areas := sizes.prod(axis=1)) - areas
        flat = np.empty(int(areas.sum()), dtype=np.bool_)
        for array, start in zip(arrays, positions.tolist(), strict=True):
            np.not_equal(array, array.dtype.type(0), out=flat[start : start + array.size].reshape(array.shape))
        return cls(
            pixels=torch.from_numpy(flat.view(np.uint8)),
            windows=torch.from_numpy(np.concatenate((origins, sizes, positions[:, None]), axis=1)),
            image_size=(int(image_size[0]), int(image_size[1])),
        )

    @classmethod
    def from_full(cls, bitmaps: NDArray[Any] | Tensor) -> Self:
        """Masks from full-image bitmaps (R, H, W), each cropped to its tight box."""
        arrays = np.asarray(bitmaps) != 0
        origins, windows = [], []
        for array in arrays:
            left, top, right, bottom = tight_box(array) or (0, 0, 0, 0)
            origins.append((left, top))
            windows.append(array[top:bottom, left:right])
        return cls.from_windows(np.array(origins), windows, arrays.shape[1:])

    def __len__(self) -> int:
        return len(self.windows)

    def __repr__(self) -> str:
        return summary(self)

    def __getitem__(self, rows: Tensor | slice) -> Self:
        host_windows = self.host_windows
        if host_windows is not None:
            is_on_host = not isinstance(rows, Tensor) or rows.device.type == "cpu"
            host_windows = host_windows[rows] if is_on_host else None
        return replace(self, windows=self.windows[rows], host_windows=host_windows)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """The same masks on `device`."""
        pixels, windows = (t.to(device, non_blocking=non_blocking) for t in (self.pixels, self.windows))
        return self.with_copies(pixels, windows)

    def with_copies(self, pixels: Tensor, windows: Tensor) -> Self:
        """The same masks with copies of `pixels` and `windows` on another device."""
        host_windows = self.windows if self.windows.device.type == "cpu" else self.host_windows
        is_on_host = windows.device.type == "cpu"
        return replace(self, pixels=pixels, windows=windows, host_windows=None if is_on_host else host_windows)

    def crop_and_resize(self, boxes: Tensor, side: int) -> Tensor:
        """ROIAlign of the full-image bitmap of mask r in boxes[r], thresholded at 0.5.

        Args:
            boxes: (R, 4) pixels of the image.
            side: rows and columns of the result.

        Returns:
            (R, side, side) bool.
        """
        return crop_matched([self], [None], [boxes], side)

    def sample_points(self, points: Tensor) -> Tensor:
        """Bilinear samples of mask r at points[r], as grid sampling of its full-image bitmap.

        Without host synchronisation.

        Args:
            points: (R, P, 2) x, y in pixels of the image; the mask is 0 outside.

        Returns:
            (R, P) float32 in [0, 1].
        """
        if self.pixels.numel() == 0:
            return torch.zeros(points.shape[:2], device=points.device)
        # Points that are not finite, when training diverges, are moved outside the image.
        positions = (points.detach().float() - 0.5).nan_to_num(-2.0, -2.0, -2.0)[:, :, None]
        lower = positions.floor()
        corner = torch.arange(4, device=points.device)
        offsets = torch.stack((corner % 2, corner // 2), dim=1)  # x, y of the four nearest pixels
        weights = torch.where(offsets == 1, positions - lower, 1 - (positions - lower)).prod(dim=3)  # (R, P, 4)
        windows = self.windows[:, None, None]
        pixels = lower.long() + offsets - windows[..., :2]  # (R, P, 4, 2), relative to the window
        is_inside = ((pixels >= 0) & (pixels < windows[..., 2:4])).all(dim=3)
        rows = windows[..., 4] + pixels[..., 1] * windows[..., 2] + pixels[..., 0]
        return (self.pixels[torch.where(is_inside, rows, 0)] * is_inside * weights).sum(dim=2)

    def areas(self, boxes: Tensor | None = None) -> Tensor:
        """Area of each mask in pixels, without host synchronisation.

        Args:
            boxes: (R, 4) pixels of the image; if given, only pixels with their centre in boxes[r] are counted.

        Returns:
            (R,) int64.
        """
        x, y, widths, heights, positions = self.windows.unbind(dim=1)
        left, top, right, bottom = torch.zeros_like(x), torch.zeros_like(y), widths, heights
        if boxes is not None:
            first_x, first_y, end_x, end_y = (boxes.detach().float() - 0.5).ceil().long().unbind(dim=1)
            left, right = (torch.minimum((edge - x).clamp(min=0), widths) for edge in (first_x, end_x))
            top, bottom = (torch.minimum((edge - y).clamp(min=0), heights) for edge in (first_y, end_y))
        sums = torch.cat((self.windows.new_zeros(1), self.pixels.cumsum(dim=0, dtype=torch.int64)))
        # One row per image row for each mask: this number is known on the host.
        rows = torch.arange(self.image_size[0], device=self.windows.device)
        is_counted = (rows >= top[:, None]) & (rows < bottom[:, None])
        starts = positions[:, None] + rows * widths[:, None]
        before, until = (sums[torch.where(is_counted, starts + edge[:, None], 0)] for edge in (left, right))
        return (until - before).sum(dim=1).clamp(min=0)

    def bitmaps(self) -> Tensor:
        """(R, H, W) bool."""
        full = torch.zeros((len(self), *self.image_size), dtype=torch.bool, device=self.pixels.device)
        for bitmap, (x, y, width, height, position) in zip(full, self.windows.tolist(), strict=True):
            window = self.pixels[position : position + width * height].view(height, width)
            bitmap[y : y + height, x : x + width] = window.bool()
        return full

    def rles(self) -> list[dict[str, Any]]:
        """COCO run-length encodings."""
        return encode_windows(self.mask_windows(), self.image_size)

    def mask_windows(self) -> list[MaskWindow]:
        """The bitmap of each instance with its place in the image."""
        pixels = self.pixels.numpy(force=True).view(np.bool_)
        return [
            MaskWindow(x, y, pixels[position : position + width * height].reshape(height, width))
            for x, y, width, height, position in self.windows.tolist()
        ]

    def resized(self, image_size: tuple[int, int], boxes: Tensor) -> Self:  # noqa: ARG002
        """Nearest-neighbour resizing; the boxes are not used."""
        height, width = image_size
        y_scale, x_scale = height / self.image_size[0], width / self.image_size[1]
        origins, bitmaps = [], []
        for left, top, columns, rows, position in self.windows.tolist():
            window = self.pixels[position : position + columns * rows].view(rows, columns)
            first_y, y = _nearest(top, rows, y_scale)
            first_x, x = _nearest(left, columns, x_scale)
            origins.append((first_x, first_y))
            bitmaps.append(window.numpy(force=True)[y][:, x])
        return self.from_windows(np.array(origins), bitmaps, image_size).to(self.pixels.device)

    def _windows_on_host(self) -> list[list[int]]:
        windows: list[list[int]] = (self.windows if self.host_windows is None else self.host_windows).tolist()
        return windows


def crop_matched(
    masks: Sequence[TargetMasks], matches: Sequence[Tensor | None], boxes: Sequence[Tensor], side: int
) -> Tensor:
    """`crop_and_resize` of the masks of several images.

    There is one host synchronisation if all masks are `BoxedBitmaps`.

    Args:
        masks: of each image.
        matches: (R_i,) int64 mask of each box among the masks of its image; None for one box per mask in order.
        boxes: (R_i, 4) pixels of each image.
        side: rows and columns of the result.

    Returns:
        (sum of R_i, side, side) bool.
    """
    images = list(zip(masks, matches, boxes, strict=True))
    bitmaps = [image_masks for image_masks in masks if isinstance(image_masks, BoxedBitmaps)]
    if len(bitmaps) < len(masks):
        crops = [
            (image_masks if rows is None else image_masks[rows]).crop_and_resize(image_boxes, side)
            for image_masks, rows, image_boxes in images
        ]
        return torch.cat(crops)
    rows = [torch.arange(len(m), device=b.device) if r is None else r for m, r, b in images]
    all_boxes = torch.cat(list(boxes)).detach().float()
    extents = (all_boxes[:, 2:] - all_boxes[:, :2]).amax(dim=1)
    host_rows, host_extents = torch.stack((torch.cat(rows).double(), extents.double())).tolist()
    windows, first = [], 0
    for image_masks, image_rows in zip(bitmaps, rows, strict=True):
        of_image = image_masks._windows_on_host()
        members = [of_image[int(row)] for row in host_rows[first : first + len(image_rows)]]
        windows.append(WindowsOfImage(image_masks.pixels, members, image_masks.image_size))
        first += len(image_rows)
    return crop_windows(windows, all_boxes, host_extents, side)


@dataclass(frozen=True, repr=False)
class ProbabilityMasks:
    """Predicted masks as probabilities on a square grid over each box, thresholded on request."""

    probabilities: Tensor  # (R, M, M) float in [0, 1]
    boxes: Tensor  # (R, 4) float32, pixels of the image
    image_size: tuple[int, int]  # (height, width)
    threshold: float = 0.5

    def __len__(self) -> int:
        return len(self.probabilities)

    def __repr__(self) -> str:
        return summary(self)

    def __getitem__(self, rows: Tensor | slice) -> Self:
        return replace(self, probabilities=self.probabilities[rows], boxes=self.boxes[rows])

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """The same masks on `device`."""
        return replace(
            self,
            probabilities=self.probabilities.to(device, non_blocking=non_blocking),
            boxes=self.boxes.to(device, non_blocking=non_blocking),
        )

    def bitmaps(self) -> Tensor:
        """(R, H, W) bool: pixels with a probability of at least the threshold at their centre."""
        if self.probabilities.device.type != "cpu":
            masks = self.probabilities.detach(), self.boxes.detach()
            return paste_bitmaps(*masks, self.image_size, threshold=self.threshold)
        full = np.zeros((len(self), *self.image_size), dtype=np.bool_)
        for bitmap, (x, y, window) in zip(full, self.mask_windows(), strict=True):
            bitmap[y : y + window.shape[0], x : x + window.shape[1]] = window
        return torch.from_numpy(full)

    def rles(self) -> list[dict[str, Any]]:
        """COCO run-length encodings, made from the windows of the boxes."""
        return encode_windows(self.mask_windows(), self.image_size)

    def resized(self, image_size: tuple[int, int], boxes: Tensor) -> Self:
        """The same probabilities in the resized boxes."""
        return replace(self, boxes=boxes, image_size=image_size)

    def mask_windows(self) -> list[MaskWindow]:
        """The pixels of each instance in the part of the image around its box."""
        return paste_masks(
            self.probabilities.detach().float().numpy(force=True),
            self.boxes.detach().float().numpy(force=True),
            self.image_size,
            threshold=self.threshold,
        )


def _nearest(start: int, length: int, scale: float) -> tuple[int, NDArray[np.int64]]:
    """On one axis, the first scaled pixel with its centre in [start, start + length), and the source of each pixel."""
    first, end = (int(np.ceil(edge * scale - 0.5)) for edge in (start, start + length))
    return first, np.floor((np.arange(first, end) + 0.5) / scale).astype(np.int64) - start
