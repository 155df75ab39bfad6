"""Stamps of single objects, and their layout in a scene with visible masks."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.data.synthetic.settings import SceneSettings
from mrcnn_zoo.ops.masks import tight_box

INK_THRESHOLD = 0.5  # the least coverage of a pixel of the mask
MAX_PLACEMENTS = 20  # tries per object; then it is left out

Box = tuple[int, int, int, int]  # x1 y1 x2 y2, whole pixels


@dataclass(frozen=True)
class Stamp:
    """An object without a position, cropped to its mask."""

    class_index: int
    coverage: NDArray[np.float64]  # (h, w) in [0, 1]
    keypoints: NDArray[np.float64] | None = None  # (J, 2) x, y in pixels of the coverage

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """(h, w) the pixels of the object."""
        return self.coverage >= INK_THRESHOLD


class StampSource(Protocol):
    """Draws random objects of some classes."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """(K,) names by class index."""
        ...

    @property
    def keypoint_names(self) -> tuple[str, ...]:
        """(J,) names of the keypoints of every stamp; () for stamps without keypoints."""
        ...

    def draw(self, rng: np.random.Generator, *, side: float, rotation: float) -> Stamp:
        """A random object.

        Args:
            rng: the only source of randomness.
            side: longer side of the object before its rotation, in pixels.
            rotation: largest angle in degrees, in either direction.
        """
        ...


def crop_to_mask(
    class_index: int, coverage: NDArray[np.float64], keypoints: NDArray[np.float64] | None = None
) -> Stamp | None:
    """The stamp of a coverage map without its empty margins; None if the mask is empty.

    Args:
        class_index: of the object.
        coverage: (H, W) in [0, 1].
        keypoints: (J, 2) x, y in pixels of the coverage.
    """
    box = tight_box(coverage >= INK_THRESHOLD)
    if box is None:
        return None
    left, top, right, bottom = box
    if keypoints is not None:
        keypoints = keypoints - np.array([left, top])
    return Stamp(class_index, coverage[top:bottom, left:right], keypoints)


@dataclass(frozen=True)
class PlacedStamp:
    """A stamp with its upper left pixel at (left, top) of the scene."""

    stamp: Stamp
    left: int
    top: int

    @property
    def box(self) -> Box:
        """The tight box of the mask, including hidden parts."""
        height, width = self.stamp.coverage.shape
        return self.left, self.top, self.left + width, self.top + height

    @property
    def window(self) -> tuple[slice, slice]:
        """The rows and columns of the stamp in the scene."""
        left, top, right, bottom = self.box
        return slice(top, bottom), slice(left, right)


@dataclass(frozen=True)
class SceneLayout:
    """The objects of a scene, from back to front."""

    placed: tuple[PlacedStamp, ...]
    owner: NDArray[np.int8 | np.int16]  # (H, W) index of the frontmost object per pixel; -1 for none

    def visible_mask(self, index: int) -> NDArray[np.bool_]:
        """(H, W) the pixels of the object with this index that no other object hides."""
        return self.owner == index


def arrange(settings: SceneSettings, source: StampSource, rng: np.random.Generator) -> SceneLayout:
    """Draw and place the objects of one scene, each inside the image.

    A position is rejected if the IoU with another box exceeds `max_overlap`, or if less than `min_visible` of another
    object would be visible. A crowded scene may have fewer objects than drawn, but at least one.

    Args:
        settings: of the scene.
        source: of the objects.
        rng: the only source of randomness.
    """
    count = int(rng.integers(settings.num_objects[0], settings.num_objects[1] + 1))
    owner = np.full(settings.image_size, -1, dtype=np.int16)
    placed: list[PlacedStamp] = []
    visible: list[int] = []  # pixels of each object
    for _ in range(count):
        stamp = _draw_fitting(settings, source, rng)
        for _ in range(MAX_PLACEMENTS):
            candidate = _place_anywhere(stamp, settings.image_size, rng)
            if max((_iou(candidate.box, other.box) for other in placed), default=0.0) > settings.max_overlap:
                continue
            covered = owner[candidate.window][stamp.mask]
            remaining = np.array(visible, dtype=np.int64) - np.bincount(covered[covered >= 0], minlength=len(placed))
            areas = np.array([other.stamp.mask.sum() for other in placed])
            if np.all(remaining >= settings.min_visible * areas):
                owner[candidate.window][stamp.mask] = len(placed)
                visible = [*remaining.tolist(), int(stamp.mask.sum())]
                placed.append(candidate)
                break
    return SceneLayout(tuple(placed), owner)


def _draw_fitting(settings: SceneSettings, source: StampSource, rng: np.random.Generator) -> Stamp:
    """A stamp that fits into the image; a rotated shape as large as the image does not, and is drawn smaller."""
    smallest, largest = settings.object_size
    height, width = settings.image_size
    side = rng.uniform(smallest, largest)
    while True:
        stamp = source.draw(rng, side=side, rotation=settings.rotation)
        if stamp.coverage.shape[0] <= height and stamp.coverage.shape[1] <= width:
            return stamp
        side *= 0.9


def _place_anywhere(stamp: Stamp, image_size: tuple[int, int], rng: np.random.Generator) -> PlacedStamp:
    height, width = stamp.coverage.shape
    left = int(rng.integers(image_size[1] - width + 1))
    top = int(rng.integers(image_size[0] - height + 1))
    return PlacedStamp(stamp, left, top)


def _iou(a: Box, b: Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    intersection = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - intersection
    return intersection / union
