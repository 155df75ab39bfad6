"""From annotations in pixels of the file to targets in pixels of the network's input."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrcnn_zoo.data.keypoints import FlipPairs
from mrcnn_zoo.data.records import InstanceRecord
from mrcnn_zoo.data.rle import MaskWindow
from mrcnn_zoo.data.target_masks import map_masks, tight_box
from mrcnn_zoo.data.transforms import Geometry
from mrcnn_zoo.structures import Targets
from mrcnn_zoo.structures.masks import BoxedBitmaps

MIN_SIDE = 1e-5  # pixels; a shorter box is empty


@dataclass(frozen=True, kw_only=True)
class TargetMaker:
    """Which columns targets have, and how boxes come about."""

    has_masks: bool = False
    num_keypoints: int = 0  # 0 leaves key points out
    flip_pairs: FlipPairs | None = ()  # keypoints that change places in a mirror, such as the eyes; None: not known
    boxes_from_masks: bool = False  # where images are cropped: what is visible of a mask says what box is left of it

    def can_mirror(self, instances: Sequence[InstanceRecord]) -> bool:
        """Whether an image with these annotations may be mirrored: not if nobody knows which keypoints are left."""
        if self.num_keypoints == 0 or self.flip_pairs is not None:
            return True
        return not any(visibility > 0 for item in instances for visibility in (item.keypoints or ())[2::3])

    def __call__(self, instances: Sequence[InstanceRecord], geometry: Geometry) -> Targets:
        """Targets of the instances that are left after a transform; crowds and what has no mask are left out.

        Args:
            instances: all annotations of an image.
            geometry: from the image file to the network's input.
        """
        usable = [item for item in instances if not item.is_crowd]
        if self.has_masks:
            usable = [item for item in usable if item.segmentation is not None]
        corners = np.array([item.box for item in usable], dtype=np.float64).reshape(-1, 4)
        boxes = geometry.clip_boxes(geometry.map_boxes(corners))
        windows: list[MaskWindow | None] = map_masks(usable, geometry) if self.has_masks else []
        if self.has_masks and self.boxes_from_masks:
            boxes = _boxes_of(windows)
        is_left = ((boxes[:, 2:] - boxes[:, :2]) > MIN_SIDE).all(axis=1)
        if self.has_masks:
            is_left &= np.array([window is not None for window in windows], dtype=bool)
        rows = np.flatnonzero(is_left).tolist()
        left = [usable[row] for row in rows]
        return Targets(
            image_size=geometry.size,
            boxes=torch.from_numpy(boxes[rows].astype(np.float32)),
            classes=torch.tensor([item.class_index for item in left], dtype=torch.int64),
            masks=_as_bitmaps([windows[row] for row in rows], geometry) if self.has_masks else None,
            keypoints=self._map_keypoints(left, geometry) if self.num_keypoints else None,
        )

    def _map_keypoints(self, instances: Sequence[InstanceRecord], geometry: Geometry) -> Tensor:
        """(R, J, 3); a point that is unlabelled or has left the frame is 0, 0, 0."""
        unlabelled = (0.0,) * (3 * self.num_keypoints)
        table = np.array([item.keypoints or unlabelled for item in instances], dtype=np.float64)
        table = table.reshape(-1, self.num_keypoints, 3)
        points = geometry.map_points(table[..., :2].reshape(-1, 2)).reshape(*table.shape[:2], 2)
        height, width = geometry.size
        is_inside = ((points >= 0) & (points <= [width, height])).all(axis=2)
        is_labelled = is_inside & (table[..., 2] > 0)
        mapped = np.concatenate([points, table[..., 2:]], axis=2) * is_labelled[..., None]
        if geometry.is_mirroring and self.flip_pairs:
            mapped = mapped[:, _mirrored_order(self.num_keypoints, self.flip_pairs)]
        return torch.from_numpy(mapped.astype(np.float32))


def _boxes_of(windows: Sequence[MaskWindow | None]) -> NDArray[np.float64]:
    boxes = [(0, 0, 0, 0) if window is None else tight_box(window) for window in windows]
    return np.array(boxes, dtype=np.float64).reshape(-1, 4)


def _as_bitmaps(windows: Sequence[MaskWindow | None], geometry: Geometry) -> BoxedBitmaps:
    present = [window for window in windows if window is not None]
    origins = np.array([(window.x, window.y) for window in present], dtype=np.int64).reshape(-1, 2)
    return BoxedBitmaps.from_windows(origins, [window.bitmap for window in present], geometry.size)


def _mirrored_order(num_keypoints: int, flip_pairs: FlipPairs) -> list[int]:
    order = list(range(num_keypoints))
    for left, right in flip_pairs:
        order[left], order[right] = right, left
    return order
