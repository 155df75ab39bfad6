"""A stamp: one object as a small picture of how much ink covers each pixel."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

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
        """Names of the key points of every stamp; () where they have none."""
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
    mask = coverage >= INK_THRESHOLD
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return None
    if keypoints is not None:
        keypoints = keypoints - np.array([columns[0], rows[0]])
    return Stamp(class_index, coverage[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], keypoints)
