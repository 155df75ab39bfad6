"""Stamps of single objects, and their layout in a scene with the masks that stay visible."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.data.synthetic.settings import SceneSettings
from mrcnn_zoo.ops.masks import tight_box

INK_THRESHOLD = 0.5  # a pixel belongs to the object when at least half of it is covered with ink


@dataclass(frozen=True)
class Stamp:
    """An object that is not yet placed in a scene, cropped to its mask."""

    class_index: int
    coverage: NDArray[np.float64]  # (h, w) in [0, 1]
    keypoints: NDArray[np.float64] | None = None  # (J, 2) x, y in pixels of the coverage

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """(h, w), the pixels that count as the object."""
        return self.coverage >= INK_THRESHOLD


class StampSource(Protocol):
    """Draws random objects of some classes."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by class index."""
        ...

    @property
    def keypoint_names(self) -> tuple[str, ...]:
        """Names of the keypoints of every stamp; () where they have none."""
        ...

    def draw(self, rng: np.random.Generator, *, side: float, rotation: float) -> Stamp:
        """A random object.

        Args:
            rng: the only source of randomness.
            side: longer side of the object before it is rotated, in pixels.
            rotation: largest angle in degrees, either way.
        """
        ...


def crop_to_mask(
    class_index: int, coverage: NDArray[np.float64], keypoints: NDArray[np.float64] | None = None
) -> Stamp | None:
    """The stamp of a coverage map without its empty margins; None when no pixel is covered enough."""
    box = tight_box(coverage >= INK_THRESHOLD)
    if box is None:
        return None
    left, top, right, bottom = box
    if keypoints is not None:
        keypoints = keypoints - np.array([left, top])
    return Stamp(class_index, coverage[top:bottom, left:right], keypoints)


PLACEMENT_TRIES = 20  # then the object is left out

Box = tuple[int, int, int, int]  # x1 y1 x2 y2, whole pixels


@dataclass(frozen=True)
class PlacedStamp:
    """A stamp with its upper left corner at (left, top) of the scene."""

    stamp: Stamp
    left: int
    top: int

    @property
    def box(self) -> Box:
        """The tight box of the whole mask, hidden parts included."""
        height, width = self.stamp.coverage.shape
        return self.left, self.top, self.left + width, self.top + height

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the scene that the stamp covers."""
        left, top, right, bottom = self.box
        return slice(top, bottom), slice(left, right)


@dataclass(frozen=True)
class SceneLayout:
    """The objects of a scene, the nearest to the viewer last."""

    placed: tuple[PlacedStamp, ...]
    owner: NDArray[np.int8 | np.int16]  # (H, W) which object a pixel belongs to, -1 for none

    def visible_mask(self, index: int) -> NDArray[np.bool_]:
        """(H, W), the pixels of an object that no nearer one hides."""
        return self.owner == index


def arrange(settings: SceneSettings, source: StampSource, rng: np.random.Generator) -> SceneLayout:
    """Draw and place the objects of one scene.

    Each object lies wholly inside the image. A place is refused where the box would overlap another's by more than
    `max_overlap`, or would leave less than `min_visible` of another object to see; so every object drawn is annotated.
    A crowded scene may end with fewer objects than drawn for, but never with none where one was asked for.
    """
    count = int(rng.integers(settings.num_objects[0], settings.num_objects[1] + 1))
    owner = np.full(settings.image_size, -1, dtype=np.int16)
    placed: list[PlacedStamp] = []
    visible: list[int] = []  # pixels of each object
    for _ in range(count):
        stamp = _draw_fitting(settings, source, rng)
        for _ in range(PLACEMENT_TRIES):
            candidate = _place_anywhere(stamp, settings.image_size, rng)
            if max((_iou(candidate.box, other.box) for other in placed), default=0.0) > settings.max_overlap:
                continue
            beneath = owner[candidate.window][stamp.mask]
            left_over = np.array(visible, dtype=np.int64) - np.bincount(beneath[beneath >= 0], minlength=len(placed))
            own = np.array([other.stamp.mask.sum() for other in placed])
            if np.all(left_over >= settings.min_visible * own):
                owner[candidate.window][stamp.mask] = len(placed)
                visible = [*left_over.tolist(), int(stamp.mask.sum())]
                placed.append(candidate)
                break
    return SceneLayout(tuple(placed), owner)


def _draw_fitting(settings: SceneSettings, source: StampSource, rng: np.random.Generator) -> Stamp:
    """A stamp that fits into the image; rotated, a shape as large as the image may not."""
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
