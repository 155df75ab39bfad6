"""Changes of pixel values: channel order, brightness, contrast, saturation, lighting."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.images.pixels import COLORS, luma, num_channels_of, order_channels, pixel_format_of
from mrcnn_zoo.data.transforms.transform import Augmentation, PixelTransform, Transform, size_of
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.registries import AUGMENTATIONS

MAX_UINT8 = 255


@dataclass(frozen=True)
class ChannelOrder:
    """RGB to another order of the channels, without randomness."""

    pixel_format: str  # as INPUT.FORMAT

    def get_transform(self, image: Tensor, rng: np.random.Generator) -> Transform:  # noqa: ARG002
        """The same for every image; see `Augmentation`."""
        return PixelTransform(size_of(image), partial(order_channels, pixel_format=self.pixel_format))


@AUGMENTATIONS.register("ChannelOrder")
def build_channel_order(cfg: CfgNode) -> Augmentation:
    """RGB to INPUT.FORMAT."""
    return ChannelOrder(pixel_format_of(cfg))


class Adjustment(Protocol):
    """A change of pixel values by a factor; 1 is the identity."""

    def __call__(self, image: Tensor, factor: float) -> Tensor: ...


class RandomAdjustment:
    """An adjustment by a random factor.

    Args:
        adjust: (RGB image, factor) -> image; the factor 1 is the identity.
        factors: the smallest and the largest factor.
    """

    def __init__(self, adjust: Adjustment, *, factors: tuple[float, float]) -> None:
        self.adjust = adjust
        self.factors = factors

    def get_transform(self, image: Tensor, rng: np.random.Generator) -> Transform:
        """An adjustment; see `Augmentation`."""
        factor = float(rng.uniform(*self.factors))
        return PixelTransform(size_of(image), partial(self.adjust, factor=factor))


def adjust_brightness(image: Tensor, factor: float) -> Tensor:
    """Multiply all values by the factor.

    Args:
        image: (C, H, W).
        factor: at least 0.
    """
    return blend(image, torch.zeros(()), factor)


def adjust_contrast(image: Tensor, factor: float) -> Tensor:
    """Multiply distances to the mean of the image by the factor; without colours, to the mean of each channel.

    Args:
        image: (C, H, W).
        factor: at least 0.
    """
    mean = image.float().mean() if len(image) == COLORS else image.float().mean(dim=(1, 2), keepdim=True)
    return blend(image, mean, factor)


def adjust_saturation(image: Tensor, factor: float) -> Tensor:
    """Multiply distances to the grey of each pixel by the factor.

    Args:
        image: (3, H, W) RGB.
        factor: at least 0.
    """
    return blend(image, luma(image).float(), factor)


def blend(image: Tensor, other: Tensor, factor: float) -> Tensor:
    """other + factor (image - other), rounded and clipped if the image is uint8.

    Args:
        image: (C, H, W).
        other: broadcastable to the image.
        factor: weight of the image.
    """
    mixed = torch.lerp(other.expand(image.shape), image.float(), factor)
    return mixed.round_().clamp_(0, MAX_UINT8).to(torch.uint8) if image.dtype == torch.uint8 else mixed


@AUGMENTATIONS.register("RandomBrightness")
def build_random_brightness(cfg: CfgNode) -> Augmentation:
    """Brightness by a factor from INPUT.BRIGHTNESS."""
    return RandomAdjustment(adjust_brightness, factors=_factors(cfg.INPUT.BRIGHTNESS))


@AUGMENTATIONS.register("RandomContrast")
def build_random_contrast(cfg: CfgNode) -> Augmentation:
    """Contrast by a factor from INPUT.CONTRAST."""
    return RandomAdjustment(adjust_contrast, factors=_factors(cfg.INPUT.CONTRAST))


@AUGMENTATIONS.register("RandomSaturation")
def build_random_saturation(cfg: CfgNode) -> Augmentation:
    """Saturation by a factor from INPUT.SATURATION.

    Raises:
        UserError: the model does not see colours.
    """
    count = num_channels_of(cfg)
    if count != COLORS:
        raise UserError(
            f"INPUT.AUGMENTATIONS has RandomSaturation, which changes colours, but the model sees {count} channel(s) "
            "(MODEL.PIXEL_MEAN). Leave it out; RandomBrightness and RandomContrast work on any channels."
        )
    return RandomAdjustment(adjust_saturation, factors=_factors(cfg.INPUT.SATURATION))


def _factors(values: Sequence[float]) -> tuple[float, float]:
    return float(values[0]), float(values[1])
