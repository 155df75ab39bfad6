"""Boxes encoded as deltas to other boxes, which networks regress."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mrcnn_zoo.ops.rows import constant
from mrcnn_zoo.registries import BOX_CODERS

# A box grows by at most 1000 / 16 (largest image side over smallest stride), so that exp() is finite early in training.
SCALE_CLAMP = math.log(1000.0 / 16)


class BoxCoder:
    """Deltas dx, dy of the centre in units of the source's sides, and dw, dh, logarithms of the ratio of the sides.

    Source: Girshick et al. 2014 (R-CNN), appendix C.

    Args:
        weights: factors of dx, dy, dw, dh for about unit variance.
        scale_clamp: upper bound of dw and dh in decoding, after division by the weights.
        scale_floor: lower bound of dw and dh in decoding.
    """

    def __init__(
        self, weights: Sequence[float], *, scale_clamp: float = SCALE_CLAMP, scale_floor: float = -math.inf
    ) -> None:
        self.weights = tuple(float(weight) for weight in weights)
        self.scale_clamp = scale_clamp
        self.scale_floor = scale_floor

    def encode(self, source: Tensor, target: Tensor) -> Tensor:
        """The deltas from each source to its target.

        Args:
            source: (R, 4) pixels, not empty.
            target: (R, 4) pixels.

        Returns:
            (R, 4).
        """
        source_centers, source_sides = _centers_and_sides(source)
        target_centers, target_sides = _centers_and_sides(target)
        shift = (target_centers - source_centers) / source_sides
        growth = torch.log(target_sides / source_sides)
        return torch.cat((shift, growth), dim=-1) * self._weights(source.dtype, source.device)

    def decode(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Apply deltas to boxes.

        Args:
            deltas: (..., 4 * k), k predictions per box, e.g. one per class.
            boxes: (..., 4) pixels.

        Returns:
            (..., 4 * k) float32 pixels.
        """
        deltas = deltas.float().unflatten(-1, (-1, 4)) / self._weights(torch.float32, deltas.device)
        centers, sides = _centers_and_sides(boxes.float().unsqueeze(-2))
        new_centers = deltas[..., :2] * sides + centers
        half_sides = 0.5 * torch.exp(deltas[..., 2:].clamp(self.scale_floor, self.scale_clamp)) * sides
        return torch.cat((new_centers - half_sides, new_centers + half_sides), dim=-1).flatten(-2)

    def _weights(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        return constant(self.weights, dtype=dtype, device=device)


class LastPixelBoxCoder(BoxCoder):
    """As `BoxCoder`, with deltas between boxes that end at the last pixel's centre, one pixel before their border.

    Arguments and results are usual boxes. Source: matterport's Mask R-CNN, where the normalised coordinates 0 and 1 are
    the centres of the first and last pixel. Sides below 2 pixels are halved instead, so that deltas are finite.
    """

    def encode(self, source: Tensor, target: Tensor) -> Tensor:
        return super().encode(_to_last_pixel(source), _to_last_pixel(target))

    def decode(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        decoded = super().decode(deltas, _to_last_pixel(boxes.float())).unflatten(-1, (-1, 4))
        return torch.cat((decoded[..., :2], decoded[..., 2:] + 1), dim=-1).flatten(-2)


class CornerOffsetCoder(BoxCoder):
    """Offsets of the four coordinates from the source's, in units of its sides.

    Source: Erhan et al. 2014 (Scalable Object Detection using Deep Neural Networks), sec. 3.2, residuals to priors.
    There they are in image sides; in sides of the source they do not depend on the size of the image.
    """

    def encode(self, source: Tensor, target: Tensor) -> Tensor:
        return (target - source) / _sides_twice(source) * self._weights(source.dtype, source.device)

    def decode(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        deltas = deltas.float().unflatten(-1, (-1, 4)) / self._weights(torch.float32, deltas.device)
        boxes = boxes.float().unsqueeze(-2)
        return (boxes + deltas * _sides_twice(boxes)).flatten(-2)


def _sides_twice(boxes: Tensor) -> Tensor:
    """(..., 4) boxes -> (..., 4): width, height, width, height."""
    sides = boxes[..., 2:] - boxes[..., :2]
    return torch.cat((sides, sides), dim=-1)


def _to_last_pixel(boxes: Tensor) -> Tensor:
    lowest, highest = boxes[..., :2], boxes[..., 2:]
    return torch.cat((lowest, highest - ((highest - lowest) / 2).clamp(max=1)), dim=-1)


def _centers_and_sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    sides = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * sides, sides


@BOX_CODERS.register("Box2BoxTransform")
def build_box_coder(weights: Sequence[float]) -> BoxCoder:
    """Deltas of centre and logarithmic size."""
    return BoxCoder(weights)


@BOX_CODERS.register("DeltaXYWHBBoxCoder")
def build_bounded_box_coder(weights: Sequence[float]) -> BoxCoder:
    """As MMDetection's: boxes shrink by at most the factor by which they may grow."""
    return BoxCoder(weights, scale_floor=-SCALE_CLAMP)


@BOX_CODERS.register("LastPixelBoxCoder")
def build_last_pixel_box_coder(weights: Sequence[float]) -> LastPixelBoxCoder:
    """As matterport's: deltas between the centres of the first and last pixels."""
    return LastPixelBoxCoder(weights)


@BOX_CODERS.register("CornerOffsetCoder")
def build_corner_offset_coder(weights: Sequence[float]) -> CornerOffsetCoder:
    """MultiBox's: offsets of the coordinates."""
    return CornerOffsetCoder(weights)
