"""Circles, squares and triangles, the classic first example of instance segmentation."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.data.synthetic.stamps import Stamp, crop_to_mask


@dataclass(frozen=True)
class ShapeStamps:
    """Stamps of filled shapes; every class is equally likely."""

    class_names: tuple[str, ...] = ("circle", "square", "triangle")

    def draw(self, rng: np.random.Generator, *, side: float, rotation: float) -> Stamp:
        """A random shape that fits into a square of `side`, rotated."""
        class_index = int(rng.integers(len(self.class_names)))
        angle = math.radians(rng.uniform(-rotation, rotation))
        stamp = crop_to_mask(class_index, render_shape(self.class_names[class_index], side=side, angle=angle))
        assert stamp is not None, "a shape of the least allowed size still covers pixels"
        return stamp


def render_shape(name: str, *, side: float, angle: float) -> NDArray[np.float64]:
    """Coverage (H, W) in [0, 1] of a shape with antialiased edges, with a margin.

    Args:
        name: "circle", "square" or "triangle" (equilateral, its base down).
        side: of the square that the shape fits into before it is rotated, in pixels.
        angle: radians.
    """
    half = math.ceil(side * math.sqrt(0.5)) + 1
    centre = np.arange(-half, half) + 0.5
    x = math.cos(angle) * centre + math.sin(angle) * centre[:, None]
    y = math.cos(angle) * centre[:, None] - math.sin(angle) * centre
    return np.clip(0.5 - signed_distance(name, x=x, y=y, side=side), 0.0, 1.0)


def signed_distance(name: str, *, x: NDArray[np.float64], y: NDArray[np.float64], side: float) -> NDArray[np.float64]:
    """Pixels from a position to the border of a shape about the origin, negative inside; y points down.

    Outside a corner it is the distance to the nearer edge's line, which is all that antialiasing needs.
    """
    if name == "circle":
        return np.hypot(x, y) - side / 2
    if name == "square":
        return np.maximum(np.abs(x), np.abs(y)) - side / 2
    # Half the height of an equilateral triangle above the middle, half below; its other two edges lean by 30 degrees.
    height = side * math.sqrt(0.75)
    leaning = np.abs(x) * math.cos(math.pi / 6) - (y + height / 2) * math.sin(math.pi / 6)
    return np.maximum(y - height / 2, leaning)
