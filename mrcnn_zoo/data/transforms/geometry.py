"""The geometry of a transform: an affine map of pixel coordinates and the frame that it ends in.

Every geometric augmentation here is affine, so that several in a row are one matrix, and boxes, polygons, key points and
bitmaps go from the file to the network's input in one step, without being rounded on the way.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import Self

from mrcnn_zoo.data.rle import MaskWindow
from mrcnn_zoo.structures import ImageSize

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Geometry:
    """Where each point of the image goes."""

    matrix: NDArray[np.float64]  # (3, 3), maps (x, y, 1) in pixels before to pixels after
    size: ImageSize  # (height, width) of the image after

    @classmethod
    def identity(cls, size: ImageSize) -> Self:
        """Everything stays where it is."""
        return cls(np.eye(3), size)

    @classmethod
    def scale_and_shift(cls, scale: tuple[float, float], shift: tuple[float, float], size: ImageSize) -> Self:
        """x -> scale[0] x + shift[0] and y -> scale[1] y + shift[1]."""
        return cls(np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]], [0, 0, 1.0]]), size)

    @property
    def is_mirroring(self) -> bool:
        """Whether left and right of an object change places."""
        return bool(np.linalg.det(self.matrix) < 0)

    def then(self, after: "Geometry") -> "Geometry":
        """This map followed by another."""
        return Geometry(after.matrix @ self.matrix, after.size)

    def map_points(self, points: Points) -> Points:
        """(N, 2) x, y before -> (N, 2) after; points may leave the frame."""
        return points @ self.matrix[:2, :2].T + self.matrix[:2, 2]

    def map_boxes(self, boxes: Points) -> Points:
        """The upright boxes (N, 4) around the mapped corners of boxes (N, 4), not clipped."""
        x1, y1, x2, y2 = boxes.T
        corners = np.stack([x1, y1, x2, y1, x2, y2, x1, y2], axis=1).reshape(-1, 2)
        mapped = self.map_points(corners).reshape(-1, 4, 2)
        return np.concatenate([mapped.min(axis=1), mapped.max(axis=1)], axis=1)

    def clip_boxes(self, boxes: Points) -> Points:
        """Boxes (N, 4) cut off at the frame."""
        height, width = self.size
        return np.clip(boxes, 0, [width, height, width, height])

    def map_window(self, window: MaskWindow) -> MaskWindow | None:
        """A bitmap in its window, resampled; None where nothing of the window lies in the frame."""
        box = self.clip_boxes(self.map_boxes(np.array([window.box], dtype=np.float64)))[0]
        left, top = np.floor(box[:2] + ROUNDING).astype(int)
        right, bottom = np.ceil(box[2:] - ROUNDING).astype(int)
        if right <= left or bottom <= top:
            return None
        after = _normalised_to_pixels(left, top, right, bottom)
        before = _normalised_to_pixels(*window.box)
        theta = np.linalg.inv(before) @ np.linalg.inv(self.matrix) @ after
        grid = torch.nn.functional.affine_grid(
            torch.from_numpy(theta[None, :2]).float(), [1, 1, bottom - top, right - left], align_corners=False
        )
        source = torch.from_numpy(window.bitmap)[None, None].float()
        shares = torch.nn.functional.grid_sample(source, grid, padding_mode="zeros", align_corners=False)
        return MaskWindow(int(left), int(top), (shares[0, 0] >= 0.5).numpy().view(np.uint8))


ROUNDING = 1e-6  # an edge at 99.9999999 is at pixel 100


def _normalised_to_pixels(left: float, top: float, right: float, bottom: float) -> NDArray[np.float64]:
    """The map from [-1, 1] x [-1, 1], which grid_sample works in, to a box in pixels."""
    half_width, half_height = (right - left) / 2, (bottom - top) / 2
    return np.array([[half_width, 0, left + half_width], [0, half_height, top + half_height], [0, 0, 1.0]])
