"""The identities of detected objects over the frames of a video, by the overlap of their masks."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from mrcnn_zoo.ops.masks import MaskWindow, common_pixels, overlapping_pairs
from mrcnn_zoo.structures import Detections, object_windows

MIN_IOU = 0.2  # of the masks of an object in two frames; objects move and turn between them
MAX_MISSED = 5  # frames in which an object is not detected, before its number is given up
SAME_CLASS = 0.5  # added to the IoU, so that of overlapping objects those of one class are matched
SMOOTHING = 0.5  # share of the velocity so far in the new one


@dataclass
class Track:
    """An object as it was last detected.

    Args:
        number: of the object, from 1.
        mask: the last one.
        class_index: the last one.
        frame: number of the update in which it was detected.
        velocity: x, y of its movement in pixels per frame; None after the first one.
    """

    number: int
    mask: MaskWindow
    class_index: int
    frame: int
    velocity: tuple[float, float] | None = None

    def expected(self, frame: int) -> MaskWindow:
        """The mask, moved on by the velocity.

        Args:
            frame: number of an update.
        """
        x, y = (round(speed * (frame - self.frame)) for speed in self.velocity or (0.0, 0.0))
        return self.mask._replace(x=self.mask.x + x, y=self.mask.y + y)


class Tracker:
    """Numbers the objects of a video.

    In each frame, detections are matched with the objects of earlier frames so that the sum of mask IoUs is largest.
    Objects without masks are compared by their boxes.

    Args:
        min_iou: of a match.
        max_missed: frames without a match after which an object is forgotten; if it returns, it gets a new number.
    """

    def __init__(self, *, min_iou: float = MIN_IOU, max_missed: int = MAX_MISSED) -> None:
        self.min_iou = min_iou
        self.max_missed = max_missed
        self.count = 0  # of objects so far
        self._tracks: list[Track] = []
        self._frame = 0

    def update(self, found: Detections) -> Detections:
        """The detections of the next frame with the column `tracks`.

        Args:
            found: of the frame, in pixels of the video.
        """
        self._frame += 1
        self._tracks = [track for track in self._tracks if self._frame - track.frame <= self.max_missed + 1]
        masks, classes = object_windows(found), found.classes.tolist()
        track_of = self._match(masks, classes)
        numbers = []
        for row, mask in enumerate(masks):
            if row in track_of:
                track = track_of[row]
                track.velocity = _velocity(track, mask, self._frame)
                track.mask, track.class_index, track.frame = mask, classes[row], self._frame
            else:
                self.count += 1
                track = Track(self.count, mask, classes[row], self._frame)
                self._tracks.append(track)
            numbers.append(track.number)
        return replace(found, tracks=torch.tensor(numbers, dtype=torch.int64))

    def _match(self, masks: list[MaskWindow], classes: list[int]) -> dict[int, Track]:
        """The track of each row that has one."""
        from scipy.optimize import linear_sum_assignment

        ious = _ious([track.expected(self._frame) for track in self._tracks], masks)
        is_same = np.array([[track.class_index == index for index in classes] for track in self._tracks])
        is_possible = ious >= self.min_iou
        gains = np.where(is_possible, ious + SAME_CLASS * is_same.reshape(ious.shape), 0.0)
        pairs = zip(*linear_sum_assignment(gains, maximize=True), strict=True)
        return {int(row): self._tracks[track] for track, row in pairs if is_possible[track, row]}


def _velocity(track: Track, mask: MaskWindow, frame: int) -> tuple[float, float]:
    """Pixels per frame between the centres of the windows, averaged with the velocity so far.

    Behind another object a mask changes its shape, which looks like a movement.
    """
    x, y = ((_centre(mask) - _centre(track.mask)) / (frame - track.frame)).tolist()
    if track.velocity is None:
        return x, y
    return tuple(new + SMOOTHING * (old - new) for old, new in zip(track.velocity, (x, y), strict=True))  # type: ignore[return-value]


def _centre(mask: MaskWindow) -> NDArray[np.float64]:
    left, top, right, bottom = mask.box
    return np.array([(left + right) / 2, (top + bottom) / 2])


def _ious(masks: list[MaskWindow], others: list[MaskWindow]) -> NDArray[np.float64]:
    """(len(masks), len(others)) IoUs."""
    ious = np.zeros((len(masks), len(others)))
    if not ious.size:
        return ious
    boxes, other_boxes = (np.array([mask.box for mask in group]) for group in (masks, others))
    areas, other_areas = ([int(np.count_nonzero(mask.bitmap)) for mask in group] for group in (masks, others))
    for row, column in overlapping_pairs(boxes, other_boxes):
        common = common_pixels(masks[row], others[column])
        ious[row, column] = common / max(1, areas[row] + other_areas[column] - common)
    return ious
