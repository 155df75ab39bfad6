"""Stamps of circles, squares and triangles."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.data.synthetic.layout import Stamp, crop_to_mask


@dataclass(frozen=True)
class ShapeStamps:
    """Stamps of filled shapes, with equal probabilities of the classes."""

    class_names: tuple[str, ...] = ("circle", "square", "triangle")
    keypoint_names: tuple[str, ...] = ("center", "top", "right", "bottom", "left")

    def draw(self, rng: np.random.Generator, *, side: float, rotation: float) -> Stamp:
        """A random shape, rotated; see `StampSource.draw`.

        Args:
            rng: the only source of randomness.
            side: of the square around the shape before its rotation, in pixels.
            rotation: largest angle in degrees, in either direction.
        """
        class_index = int(rng.integers(len(self.class_names)))
        name = self.class_names[class_index]
        angle = math.radians(rng.uniform(-rotation, rotation))
        keypoints = shape_keypoints(name, side=side, angle=angle)
        stamp = crop_to_mask(class_index, render_shape(name, side=side, angle=angle), keypoints)
        assert stamp is not None, "a shape of the smallest allowed size covers pixels"
        return stamp


def render_shape(name: str, *, side: float, angle: float) -> NDArray[np.float64]:
    """Coverage (H, W) in [0, 1] of a shape with antialiased edges, with a margin.

    Args:
        name: "circle", "square" or "triangle" (equilateral, its base down).
        side: of the square around the shape before its rotation, in pixels.
        angle: radians.
    """
    half = _half_width(side)
    centre = np.arange(-half, half) + 0.5
    x = math.cos(angle) * centre + math.sin(angle) * centre[:, None]
    y = math.cos(angle) * centre[:, None] - math.sin(angle) * centre
    return np.clip(0.5 - signed_distance(name, x=x, y=y, side=side), 0.0, 1.0)


def shape_keypoints(name: str, *, side: float, angle: float) -> NDArray[np.float64]:
    """(5, 2) x, y of `ShapeStamps.keypoint_names`: the centre, and points on the border, rotated with the shape.

    Right and left of a triangle are the ends of its base.

    Args:
        name: "circle", "square" or "triangle".
        side: see `render_shape`.
        angle: radians.
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
    """Distance in pixels to the border of a shape centred at the origin, negative inside; y points down.

    Outside a corner it is the distance to the line of the nearer edge, which suffices for antialiasing.

    Args:
        name: "circle", "square" or "triangle".
        x: (H, W) positions in pixels.
        y: (H, W) positions in pixels.
        side: see `render_shape`.
    """
    if name == "circle":
        return np.hypot(x, y) - side / 2
    if name == "square":
        return np.maximum(np.abs(x), np.abs(y)) - side / 2
    # The centre is at half the height of the equilateral triangle; two edges are 30 degrees from the vertical.
    height = side * math.sqrt(0.75)
    leaning = np.abs(x) * math.cos(math.pi / 6) - (y + height / 2) * math.sin(math.pi / 6)
    return np.maximum(y - height / 2, leaning)
