"""Scenes of circles, squares and triangles."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.data.synthetic.layout import Stamp, crop_to_mask


@dataclass(frozen=True)
class ShapeStamps:
    """Stamps of filled shapes; every class is equally likely."""

    class_names: tuple[str, ...] = ("circle", "square", "triangle")
    keypoint_names: tuple[str, ...] = ("center", "top", "right", "bottom", "left")

    def draw(self, rng: np.random.Generator, *, side: float, rotation: float) -> Stamp:
        """A random shape that fits into a square of `side`, rotated."""
        class_index = int(rng.integers(len(self.class_names)))
        name = self.class_names[class_index]
        angle = math.radians(rng.uniform(-rotation, rotation))
        keypoints = shape_keypoints(name, side=side, angle=angle)
        stamp = crop_to_mask(class_index, render_shape(name, side=side, angle=angle), keypoints)
        assert stamp is not None, "a shape of the least allowed size still covers pixels"
        return stamp


def render_shape(name: str, *, side: float, angle: float) -> NDArray[np.float64]:
    """Coverage (H, W) in [0, 1] of a shape with antialiased edges, with a margin.

    Args:
        name: "circle", "square" or "triangle" (equilateral, its base down).
        side: of the square that the shape fits into before it is rotated, in pixels.
        angle: radians.
    """
    half = _half_width(side)
    centre = np.arange(-half, half) + 0.5
    x = math.cos(angle) * centre + math.sin(angle) * centre[:, None]
    y = math.cos(angle) * centre[:, None] - math.sin(angle) * centre
    return np.clip(0.5 - signed_distance(name, x=x, y=y, side=side), 0.0, 1.0)


def shape_keypoints(name: str, *, side: float, angle: float) -> NDArray[np.float64]:
    """(5, 2) x, y of `ShapeStamps.keypoint_names` in what `render_shape` draws: the middle, and the border around it.

    They turn with the shape. Right and left of a triangle are the ends of its base.
    """
    half = side / 2
    if name == "triangle":
        height = side * math.sqrt(0.75)
        points = [(0, 0), (0, -height / 2), (half, height / 2), (0, height / 2), (-half, height / 2)]
    else:
        points = [(0, 0), (0, -half), (half, 0), (0, half), (-half, 0)]
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return np.array(points, dtype=np.float64) @ turn.T + _half_width(side)


def _half_width(side: float) -> int:
    return math.ceil(side * math.sqrt(0.5)) + 1


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
