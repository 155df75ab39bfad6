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
    """uint8 in which the darkest pixels of this image are 0 and the brightest 255.

    The channels of a colour image are stretched alike, which keeps its colours; more than three are of different
    sensors, each with a range of its own.
    """
    if pixels.ndim == 3 and pixels.shape[2] != COLORS:
        return np.stack([stretch(channel) for channel in np.moveaxis(pixels, 2, 0)], axis=2)
    values = pixels.astype(np.float32)
    low, high = (float(bound) for bound in np.percentile(values, STRETCH_PERCENTILES))
    if high <= low:
        low, high = float(values.min()), max(float(values.max()), float(values.min()) + 1.0)
    scaled = (values - low) * (255.0 / (high - low))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def divide(pixels: NDArray[np.generic]) -> NDArray[np.generic]:
    """uint8 of full-range uint16, so that brightness stays comparable between images.

    Raises:
        UserError: pixels that are floats, whose range nothing tells.
    """
    if pixels.dtype.kind == "f":
        raise UserError(
            f"INPUT.SIXTEEN_BIT = 'divide' is for integers of 16 bits, and this image holds {pixels.dtype}; set it to "
            "stretch, or to keep with PIXEL_MEAN and PIXEL_STD of the values' range."
        )
    return np.clip(np.rint(pixels.astype(np.float32) / UINT16_TO_UINT8), 0, 255).astype(np.uint8)


def keep(pixels: NDArray[np.generic]) -> NDArray[np.generic]:
    """float32 of the values as they are; MODEL.PIXEL_MEAN and PIXEL_STD must be of that range."""
    return pixels.astype(np.float32)


DepthReduction = Callable[[NDArray[np.generic]], NDArray[np.generic]]
DEPTH_REDUCTIONS: dict[str, DepthReduction] = {"stretch": stretch, "divide": divide, "keep": keep}
PIXEL_FORMATS = ("BGR", "RGB", "L")
COLORS = 3  # channels of an image whose channels are colours
CHANNELS_WITH_ALPHA = (2, 4)


def depth_reduction_of(cfg: CfgNode) -> DepthReduction:
    """What INPUT.SIXTEEN_BIT names."""
    return DEPTH_REDUCTIONS[_known("INPUT.SIXTEEN_BIT", cfg.INPUT.SIXTEEN_BIT, tuple(DEPTH_REDUCTIONS))]


def num_channels_of(cfg: CfgNode) -> int:
    """How many channels the model sees: as many as MODEL.PIXEL_MEAN has values.

    Raises:
        UserError: no value, or MODEL.PIXEL_STD has another number of them.
    """
    mean, std = cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD
    if not mean or len(mean) != len(std):
        raise UserError(
            f"MODEL.PIXEL_MEAN has {len(mean)} values and MODEL.PIXEL_STD {len(std)}; give both one value a channel."
        )
    return len(mean)


def pixel_format_of(cfg: CfgNode) -> str:
    """INPUT.FORMAT, checked; "L" where MODEL.PIXEL_MEAN says that there is one channel.

    Raises:
        UserError: an unknown name, or "L" for a model of several channels.
    """
    pixel_format, count = _known("INPUT.FORMAT", cfg.INPUT.FORMAT, PIXEL_FORMATS), num_channels_of(cfg)
    if pixel_format == "L" and count > 1:
        raise UserError(
            f"INPUT.FORMAT = 'L' is one grey channel, but MODEL.PIXEL_MEAN has {count} values; give it and "
            "MODEL.PIXEL_STD one value."
        )
    return "L" if count == 1 else pixel_format


def fit_channels(pixels: NDArray[np.generic], count: int, *, name: str) -> NDArray[np.generic]:
    """Pixels that have as many channels as the model sees, or colours that still have to become grey.

    Args:
        pixels: (H, W, C).
        count: of the model.
        name: of the image, for the message.

    Raises:
        UserError: the channels of the image do not fit.
    """
    channels = pixels.shape[2]
    if channels == count or (count == 1 and channels == COLORS):
        return pixels
    if channels == 1 and count == COLORS:
        return np.repeat(pixels, COLORS, axis=2)
    if pixels.shape[0] == count:
        raise UserError(
            f"{name} has the shape {pixels.shape}, which looks like {count} channels first; write it as "
            "(height, width, channels)."
        )
    raise UserError(
        f"{name} has {channels} channels where the model sees {count}. Give MODEL.PIXEL_MEAN and MODEL.PIXEL_STD one "
        f"value a channel, {channels} each, or train on images with {count}."
    )


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
