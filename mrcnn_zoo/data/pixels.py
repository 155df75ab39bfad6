"""Pixel values on their way from a file to a model: bit depth and order of the channels."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.registry import did_you_mean

STRETCH_PERCENTILES = (0.1, 99.9)  # a few hot or dead pixels must not decide the contrast of the whole image
UINT16_TO_UINT8 = 257.0  # 65535 / 255
LUMA_WEIGHTS = (19595, 38470, 7471)  # ITU-R 601 in 1/65536, as Pillow's mode L has them
LUMA_BITS = 16


def stretch(pixels: NDArray[np.generic]) -> NDArray[np.generic]:
    """uint8 in which the darkest pixels of this image are 0 and the brightest 255."""
    values = pixels.astype(np.float32)
    low, high = (float(bound) for bound in np.percentile(values, STRETCH_PERCENTILES))
    if high <= low:
        low, high = float(values.min()), max(float(values.max()), float(values.min()) + 1.0)
    scaled = (values - low) * (255.0 / (high - low))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def divide(pixels: NDArray[np.generic]) -> NDArray[np.generic]:
    """uint8 of full-range uint16, so that brightness stays comparable between images."""
    return np.clip(np.rint(pixels.astype(np.float32) / UINT16_TO_UINT8), 0, 255).astype(np.uint8)


def keep(pixels: NDArray[np.generic]) -> NDArray[np.generic]:
    """float32 of the values as they are; MODEL.PIXEL_MEAN and PIXEL_STD must be of that range."""
    return pixels.astype(np.float32)


DepthReduction = Callable[[NDArray[np.generic]], NDArray[np.generic]]
DEPTH_REDUCTIONS: dict[str, DepthReduction] = {"stretch": stretch, "divide": divide, "keep": keep}
PIXEL_FORMATS = ("BGR", "RGB", "L")


def depth_reduction_of(cfg: CfgNode) -> DepthReduction:
    """What INPUT.SIXTEEN_BIT names."""
    return DEPTH_REDUCTIONS[_known("INPUT.SIXTEEN_BIT", cfg.INPUT.SIXTEEN_BIT, tuple(DEPTH_REDUCTIONS))]


def pixel_format_of(cfg: CfgNode) -> str:
    """INPUT.FORMAT, checked."""
    return _known("INPUT.FORMAT", cfg.INPUT.FORMAT, PIXEL_FORMATS)


def as_image_tensor(pixels: NDArray[np.generic], reduce_depth: DepthReduction) -> Tensor:
    """(C, H, W) uint8 or float32 of what an image source reads: (H, W, C), any depth."""
    if pixels.dtype != np.uint8:
        pixels = reduce_depth(pixels)
    if not pixels.flags.writeable:
        pixels = pixels.copy()
    return torch.from_numpy(pixels).permute(2, 0, 1)


def order_channels(image: Tensor, pixel_format: str) -> Tensor:
    """A (C, H, W) image in the order of INPUT.FORMAT.

    Args:
        image: (3, H, W) RGB; an image of another number of channels keeps them as they are.
        pixel_format: "BGR", "RGB" or "L", which gives one channel.
    """
    if len(image) != 3 or pixel_format == "RGB":
        return image
    if pixel_format == "BGR":
        return image.flip(0)
    return luma(image)


def luma(image: Tensor) -> Tensor:
    """(1, H, W) grey of a (3, H, W) RGB image, of the same dtype."""
    if image.dtype.is_floating_point:
        weights = torch.tensor(LUMA_WEIGHTS, dtype=image.dtype) / (1 << LUMA_BITS)
        return (image * weights[:, None, None]).sum(0, keepdim=True)
    red, green, blue = (channel.to(torch.int32) * weight for channel, weight in zip(image, LUMA_WEIGHTS, strict=True))
    return ((red + green + blue + (1 << (LUMA_BITS - 1))) >> LUMA_BITS).to(image.dtype)[None]


def _known(key: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise UserError(f"{key} = {value!r} is not one of {', '.join(known)}.{did_you_mean(value, known)}")
    return value
