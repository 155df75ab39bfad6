"""Targets in pixels of the network's input, from annotations in pixels of the image file."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrcnn_zoo.data.keypoints import FlipPairs
from mrcnn_zoo.data.records import InstanceRecord, Polygons
from mrcnn_zoo.data.transforms import AffineTransform
from mrcnn_zoo.ops.masks import MaskWindow, tight_box
from mrcnn_zoo.ops.rle import decode_windows, encode_polygons
from mrcnn_zoo.structures import ImageSize, Targets
from mrcnn_zoo.structures.masks import BoxedBitmaps

MIN_SIDE = 1e-5  # pixels; a shorter box is empty


def map_masks(instances: Sequence[InstanceRecord], affine: AffineTransform) -> list[MaskWindow | None]:
    """The mask of every instance after a transform, in its own window.

    Args:
        instances: R with segmentations.
        affine: from the image file to the network's input.

    Returns:
        R windows; None if no pixel of the mask is inside the frame.
    """
    is_encoded = [isinstance(item.segmentation, dict) for item in instances]
    outlines = _map_polygons(
        [_polygons_of(item) for item in instances if not isinstance(item.segmentation, dict)], affine
    )
    drawn = iter(rasterise_all(outlines, affine.size))
    decoded = iter(decode_windows([item.segmentation for item in instances if isinstance(item.segmentation, dict)]))
    windows = [next(decoded) if encoded else next(drawn) for encoded in is_encoded]
    present = {row: window for row, window in enumerate(windows) if is_encoded[row] and window is not None}
    windows_after = affine.map_windows(list(present.values()))
    for row, window in zip(present, windows_after, strict=True):
        windows[row] = window
    return windows


def rasterise(polygons: Sequence[NDArray[np.float64]], size: ImageSize) -> MaskWindow | None:
    """The union of polygons as pycocotools draws it, in the window around it; None if no pixel of the frame is covered.

    Polygons that are too thin to cover a pixel centre get the pixel at their centre, so that small objects have masks.

    Args:
        polygons: of one instance, each (N, 2) x, y in pixels of the frame.
        size: (height, width) of the frame.
    """
    return rasterise_all([polygons], size)[0]


def rasterise_all(instances: Sequence[Sequence[NDArray[np.float64]]], size: ImageSize) -> list[MaskWindow | None]:
    """What `rasterise` gives for the polygons of each of R instances.

    Args:
        instances: the polygons of each, (N, 2) x, y in pixels of the frame.
        size: (height, width) of the frame.
    """
    # Drawn as run lengths of the whole frame: pycocotools rounds relative to the origin, so shifting a polygon into its
    # window would change pixels at its border.
    encoded = [encode_polygons([polygon.reshape(-1) for polygon in polygons], size) for polygons in instances]
    windows = decode_windows(encoded)
    return [
        _centre_pixel(polygons, size) if window is None else window
        for polygons, window in zip(instances, windows, strict=True)
    ]


def _centre_pixel(polygons: Sequence[NDArray[np.float64]], size: ImageSize) -> MaskWindow | None:
    points = np.concatenate(polygons)
    x, y = np.floor((points.min(axis=0) + points.max(axis=0)) / 2).astype(int).tolist()
    if 0 <= y < size[0] and 0 <= x < size[1]:
        return MaskWindow(x, y, np.ones((1, 1), dtype=np.uint8))
    return None


def _polygons_of(instance: InstanceRecord) -> Polygons:
    assert instance.segmentation is not None
    assert not isinstance(instance.segmentation, dict)
    return instance.segmentation


def _map_polygons(shapes: Sequence[Polygons], affine: AffineTransform) -> list[list[NDArray[np.float64]]]:
    """The polygons of each instance, (N, 2) each, mapped in one array operation."""
    polygons = [np.asarray(polygon, dtype=np.float64).reshape(-1, 2) for polygon in chain.from_iterable(shapes)]
    if not polygons:
        return []
    mapped = affine.map_points(np.concatenate(polygons))
    pieces = iter(np.split(mapped, np.cumsum([len(polygon) for polygon in polygons])[:-1]))
    return [[next(pieces) for _ in shape] for shape in shapes]


@dataclass(frozen=True, kw_only=True)
class TargetBuilder:
    """Builds the targets of an image.

    Args:
        has_masks: whether targets have masks; instances without one are left out.
        num_keypoints: J; 0 for targets without keypoints.
        flip_pairs: rows of keypoints that a mirror exchanges; None if unknown.
        boxes_from_masks: whether boxes are those of the masks inside the frame, for cropped images.
    """

    has_masks: bool = False
    num_keypoints: int = 0
    flip_pairs: FlipPairs | None = ()
    boxes_from_masks: bool = False

    def can_mirror(self, instances: Sequence[InstanceRecord]) -> bool:
        """Whether an image with these annotations may be mirrored: not with keypoints of unknown flip pairs."""
        if self.num_keypoints == 0 or self.flip_pairs is not None:
            return True
        return not any(visibility > 0 for item in instances for visibility in (item.keypoints or ())[2::3])

    def __call__(self, instances: Sequence[InstanceRecord], affine: AffineTransform) -> Targets:
        """The targets inside the frame after a transform, without crowds.

        Args:
            instances: all annotations of an image.
            affine: from the image file to the network's input.
        """
        usable = [item for item in instances if not item.is_crowd]
        if self.has_masks:
            usable = [item for item in usable if item.segmentation is not None]
        corners = np.array([item.box for item in usable], dtype=np.float64).reshape(-1, 4)
        boxes = affine.clip_boxes(affine.map_boxes(corners))
        windows: list[MaskWindow | None] = map_masks(usable, affine) if self.has_masks else []
        if self.has_masks and self.boxes_from_masks:
            boxes = _boxes_of(windows)
        is_left = ((boxes[:, 2:] - boxes[:, :2]) > MIN_SIDE).all(axis=1)
        if self.has_masks:
            is_left &= np.array([window is not None for window in windows], dtype=bool)
        rows = np.flatnonzero(is_left).tolist()
        left = [usable[row] for row in rows]
        return Targets(
            image_size=affine.size,
            boxes=torch.from_numpy(boxes[rows].astype(np.float32)),
            classes=torch.tensor([item.class_index for item in left], dtype=torch.int64),
            masks=_as_bitmaps([windows[row] for row in rows], affine) if self.has_masks else None,
            keypoints=self._map_keypoints(left, affine) if self.num_keypoints else None,
        )

    def _map_keypoints(self, instances: Sequence[InstanceRecord], affine: AffineTransform) -> Tensor:
        """(R, J, 3) x, y, visibility; 0, 0, 0 for points that are unlabelled or outside the frame."""
        unlabelled = (0.0,) * (3 * self.num_keypoints)
        table = np.array([item.keypoints or unlabelled for item in instances], dtype=np.float64)
        table = table.reshape(-1, self.num_keypoints, 3)
        points = affine.map_points(table[..., :2].reshape(-1, 2)).reshape(*table.shape[:2], 2)
        height, width = affine.size
        is_inside = ((points >= 0) & (points <= [width, height])).all(axis=2)
        is_labelled = is_inside & (table[..., 2] > 0)
        mapped = np.concatenate([points, table[..., 2:]], axis=2) * is_labelled[..., None]
        if affine.is_mirroring and self.flip_pairs:
            mapped = mapped[:, _mirrored_order(self.num_keypoints, self.flip_pairs)]
        return torch.from_numpy(mapped.astype(np.float32))


def _boxes_of(windows: Sequence[MaskWindow | None]) -> NDArray[np.float64]:
    boxes = np.zeros((len(windows), 4))
    for box, window in zip(boxes, windows, strict=True):
        inner = tight_box(window.bitmap) if window is not None else None
        if window is not None and inner is not None:
            box[:] = np.add(inner, (window.x, window.y, window.x, window.y))
    return boxes


def _as_bitmaps(windows: Sequence[MaskWindow | None], affine: AffineTransform) -> BoxedBitmaps:
    present = [window for window in windows if window is not None]
    origins = np.array([(window.x, window.y) for window in present], dtype=np.int64).reshape(-1, 2)
    return BoxedBitmaps.from_windows(origins, [window.bitmap for window in present], affine.size)


def _mirrored_order(num_keypoints: int, flip_pairs: FlipPairs) -> list[int]:
    order = list(range(num_keypoints))
    for left, right in flip_pairs:
        order[left], order[right] = right, left
    return order
