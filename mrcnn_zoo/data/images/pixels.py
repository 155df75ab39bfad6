"""Conversion of pixel values from a file to a model's input: bit depth, number and order of channels."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrcnn_zoo.config import CfgNode, choice_of
from mrcnn_zoo.data.images.problems import note_once
from mrcnn_zoo.errors import UserError, counted

STRETCH_PERCENTILES = (0.1, 99.9)  # so that a few hot or dead pixels do not determine the contrast
UINT16_TO_UINT8 = 257.0  # 65535 / 255
UINT8_MAX = 255
COLOUR_CHANNELS = (3, 4)  # of RGB and RGBA
MAX_NORMALIZED = 256.0  # for values of 0 to 255 and a standard deviation of 1
MIN_NORMALIZED_SPREAD = 0.02  # of an image; values of 0 to 1 with a standard deviation of 57 have less
LUMA_WEIGHTS = (19595, 38470, 7471)  # ITU-R 601 in 1/65536, as in Pillow's mode L
LUMA_BITS = 16


def stretch(
    pixels: NDArray[np.generic], *, percentiles: tuple[float, float] = STRETCH_PERCENTILES
) -> NDArray[np.generic]:
    """uint8 pixels, with 0 and 255 at the darkest and the brightest pixels of the image.

    One range for RGB keeps the colours; any other number of channels comes from different sensors, with a range each.

    Args:
        pixels: (H, W) or (H, W, C) of any real dtype.
        percentiles: of the values that become 0 and 255; INPUT.PERCENTILES.
    """
    if pixels.ndim == 3 and pixels.shape[2] != COLORS:
        channels = [stretch(channel, percentiles=percentiles) for channel in np.moveaxis(pixels, 2, 0)]
        return np.stack(channels, axis=2)
    values = pixels.astype(np.float32)
    low, high = (float(bound) for bound in np.percentile(values, percentiles))
    if high <= low:
        low, high = float(values.min()), max(float(values.max()), float(values.min()) + 1.0)
    scaled = (values - low) * (255.0 / (high - low))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class RangeScaling:
    """uint8 pixels, scaled alike in all images.

    Args:
        bounds: INPUT.VALUE_RANGE: low and high, which become 0 and 255, of all channels or of each in turn.
    """

    bounds: tuple[float, ...]

    def __post_init__(self) -> None:
        if any(low >= high for low, high in zip(self.bounds[::2], self.bounds[1::2], strict=False)) or (
            len(self.bounds) % 2
        ):
            raise UserError(
                f"INPUT.VALUE_RANGE = {list(self.bounds)} must be pairs of a low and a higher value: one pair for all "
                "channels, or one per channel."
            )

    def __call__(self, pixels: NDArray[np.generic]) -> NDArray[np.generic]:
        """(H, W, C) uint8.

        Args:
            pixels: (H, W, C) of any real dtype.

        Raises:
            UserError: no bounds, or for another number of channels.
        """
        if not self.bounds:
            raise UserError(
                "INPUT.SIXTEEN_BIT is range, but INPUT.VALUE_RANGE is empty: no training image was deeper than 8 bits. "
                "Give it the lowest and the highest value, or set INPUT.SIXTEEN_BIT to stretch."
            )
        low, high = np.array(self.bounds, dtype=np.float32).reshape(-1, 2).T
        if len(low) not in (1, pixels.shape[2]):
            raise UserError(
                f"INPUT.VALUE_RANGE has {counted(len(low), 'pair')} of values, but this image has "
                f"{counted(pixels.shape[2], 'channel')}; give it one pair, or one per channel."
            )
        scaled = (pixels.astype(np.float32) - low) * (np.float32(UINT8_MAX) / (high - low))
        return np.clip(np.rint(scaled), 0, UINT8_MAX).astype(np.uint8)


def divide(pixels: NDArray[np.generic]) -> NDArray[np.generic]:
    """uint8 pixels of full-range uint16, which keeps brightness comparable between images.

    Args:
        pixels: (H, W, C) integers.

    Raises:
        UserError: float pixels, whose range is unknown.
    """
    if pixels.dtype.kind == "f":
        raise UserError(
            f"INPUT.SIXTEEN_BIT = 'divide' is for integers of 16 bits, and this image holds {pixels.dtype}; set it to "
            "stretch, or to keep with PIXEL_MEAN and PIXEL_STD of the values' range."
        )
    return np.clip(np.rint(pixels.astype(np.float32) / UINT16_TO_UINT8), 0, 255).astype(np.uint8)


def keep(pixels: NDArray[np.generic]) -> NDArray[np.generic]:
    """float32 pixels of the same values; MODEL.PIXEL_MEAN and PIXEL_STD must be of their range."""
    return pixels.astype(np.float32)


DepthReduction = Callable[[NDArray[np.generic]], NDArray[np.generic]]
RANGE = "range"  # value of INPUT.SIXTEEN_BIT
COLORS = 3  # channels of RGB
CHANNELS_WITH_ALPHA = (2, 4)


def depth_reduction_of(cfg: CfgNode) -> DepthReduction:
    """What INPUT.SIXTEEN_BIT names, with INPUT.PERCENTILES or VALUE_RANGE."""
    low, high = cfg.INPUT.PERCENTILES
    reductions: dict[str, DepthReduction] = {
        "stretch": partial(stretch, percentiles=(low, high)),
        RANGE: RangeScaling(tuple(cfg.INPUT.VALUE_RANGE)),
        "divide": divide,
        "keep": keep,
    }
    return choice_of(cfg, "INPUT.SIXTEEN_BIT", reductions)


def num_channels_of(cfg: CfgNode) -> int:
    """The number of channels of the model's input: that of the values of MODEL.PIXEL_MEAN.

    Raises:
        UserError: no value, or MODEL.PIXEL_STD has another number of them.
    """
    mean, std = cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD
    if not mean or len(mean) != len(std):
        raise UserError(
            f"MODEL.PIXEL_MEAN has {len(mean)} values and MODEL.PIXEL_STD {len(std)}; give both one value per channel."
        )
    return len(mean)


def pixel_format_of(cfg: CfgNode) -> str:
    """INPUT.FORMAT; "L" if MODEL.PIXEL_MEAN has one value.

    Raises:
        UserError: an unknown name, or "L" for a model of several channels.
    """
    choice_of(cfg, "INPUT.FORMAT", PIXEL_FORMATS)
    count = num_channels_of(cfg)
    if cfg.INPUT.FORMAT == "L" and count > 1:
        raise UserError(
            f"INPUT.FORMAT = 'L' is one grey channel, but MODEL.PIXEL_MEAN has {count} values; give it and "
            "MODEL.PIXEL_STD one value."
        )
    return "L" if count == 1 else cfg.INPUT.FORMAT


def check_pixel_statistics(mean: Sequence[float], std: Sequence[float], *, sixteen_bit: str) -> None:
    """Refuse MODEL.PIXEL_MEAN and PIXEL_STD outside the range of the input.

    Args:
        mean: MODEL.PIXEL_MEAN.
        std: MODEL.PIXEL_STD.
        sixteen_bit: INPUT.SIXTEEN_BIT; the range is 0 to 255 unless it is "keep".

    Raises:
        UserError: a mean outside the range, or a standard deviation above it.
    """
    if sixteen_bit == "keep":
        return
    for key, values, low in (("MODEL.PIXEL_MEAN", mean, 0.0), ("MODEL.PIXEL_STD", std, -math.inf)):
        if not all(low <= value <= UINT8_MAX for value in values):
            raise UserError(
                f"{key} = {list(values)} is not of the values that the model sees, which are 0 to 255, also for images "
                f"deeper than 8 bits: INPUT.SIXTEEN_BIT is {sixteen_bit}. Give it in that range, or set "
                "INPUT.SIXTEEN_BIT to keep, which leaves the values as they are."
            )
    if 0 < max(mean) <= 1 and max(std) <= 1:
        note_once(
            f"MODEL.PIXEL_MEAN = {list(mean)} and MODEL.PIXEL_STD = {list(std)}",
            "look as if they were for values of 0 to 1; images have 0 to 255 here. Multiply both by 255.",
            kind="Statistics of 0 to 1",
        )


def note_unusual_values(image: Tensor, mean: Sequence[float], std: Sequence[float], *, name: str) -> None:
    """Log once if MODEL.PIXEL_MEAN and PIXEL_STD normalize the values of an image to a tiny or a huge range.

    Args:
        image: (C, H, W) float32, before normalization.
        mean: MODEL.PIXEL_MEAN.
        std: MODEL.PIXEL_STD.
        name: of the image.
    """
    low, high = image.min().item(), image.max().item()
    largest = max(abs(value - center) / scale for value in (low, high) for center, scale in zip(mean, std, strict=True))
    if largest > MAX_NORMALIZED or 0 < (high - low) / max(std) < MIN_NORMALIZED_SPREAD:
        note_once(
            f"MODEL.PIXEL_MEAN = {list(mean)} and MODEL.PIXEL_STD = {list(std)}",
            f"do not fit the values of {name}, {low:g} to {high:g}, which INPUT.SIXTEEN_BIT = 'keep' leaves as they "
            "are. Set both to the mean and deviation of your images' values, or INPUT.SIXTEEN_BIT to stretch.",
            kind="Statistics of kept values",
        )


def fit_channels(pixels: NDArray[np.generic], count: int, *, name: str, pages: str = "") -> NDArray[np.generic]:
    """Pixels with the channels of the model's input; RGB stays RGB for a grey model.

    Args:
        pixels: (H, W, C).
        count: channels of the model's input.
        name: of the image, for the message.
        pages: the pages of the file that are read as channels, e.g. "5 pages (axes ZYX)"; "" for none.

    Raises:
        UserError: another number of channels.
    """
    channels = pixels.shape[2]
    if channels_fit(channels, count):
        return np.repeat(pixels, COLORS, axis=2) if channels == 1 != count else pixels
    if pages:
        raise UserError(
            f"{name} has {pages}, which are read as channels, but the model has {count}. Set INPUT.PAGES to images "
            f"if each page is an image, or give MODEL.PIXEL_MEAN and MODEL.PIXEL_STD {channels} values each to train "
            "on all of them."
        )
    if pixels.shape[0] == count:
        raise UserError(
            f"{name} has the shape {pixels.shape}, which looks like {count} channels first; write it as "
            "(height, width, channels)."
        )
    raise UserError(
        f"{name} has {counted(channels, 'channel')}, but the model has {count}. Give MODEL.PIXEL_MEAN and "
        f"MODEL.PIXEL_STD one value per channel, {channels} each, or train on images with {count}."
    )


def channels_fit(channels: int, count: int) -> bool:
    """Whether the channels of an image can be converted to those of a model: equal, or one grey and the other RGB.

    Args:
        channels: of the image.
        count: of the model's input.
    """
    return channels == count or (channels, count) in ((COLORS, 1), (1, COLORS))


def as_image_tensor(pixels: NDArray[np.generic], reduce_depth: DepthReduction) -> Tensor:
    """The pixels of an image source as a (C, H, W) tensor, uint8 or float32.

    Args:
        pixels: (H, W, C) of any depth.
        reduce_depth: converts pixels of more than 8 bits.
    """
    if pixels.dtype != np.uint8:
        pixels = reduce_depth(pixels)
    if not pixels.flags.writeable or min(pixels.strides) < 0:  # e.g. of pixels[..., ::-1]
        pixels = pixels.copy()
    return torch.from_numpy(pixels).permute(2, 0, 1)


def order_channels(image: Tensor, pixel_format: str) -> Tensor:
    """An image with its channels in the order of INPUT.FORMAT.

    Args:
        image: (3, H, W) RGB; any other number of channels is returned unchanged.
        pixel_format: "BGR", "RGB" or "L", which gives one channel.
    """
    return PIXEL_FORMATS[pixel_format](image) if len(image) == COLORS else image


def luma(image: Tensor) -> Tensor:
    """(1, H, W) grey of a (3, H, W) RGB image, of the same dtype."""
    if image.dtype.is_floating_point:
        weights = torch.tensor(LUMA_WEIGHTS, dtype=image.dtype) / (1 << LUMA_BITS)
        return (image * weights[:, None, None]).sum(0, keepdim=True)
    red, green, blue = (channel.to(torch.int32) * weight for channel, weight in zip(image, LUMA_WEIGHTS, strict=True))
    return ((red + green + blue + (1 << (LUMA_BITS - 1))) >> LUMA_BITS).to(image.dtype)[None]


PIXEL_FORMATS: dict[str, Callable[[Tensor], Tensor]] = {  # of a (3, H, W) RGB image
    "BGR": lambda image: image.flip(0),
    "RGB": lambda image: image,
    "L": luma,
}


def array_of_tensor(tensor: Tensor, name: str) -> NDArray[np.generic]:
    """A (C, H, W) or (H, W) tensor as an array with channels last, floats from 0 to 1 as bytes.

    Args:
        tensor: on any device.
        name: of the image.

    Raises:
        UserError: another shape, type or layout, or values out of range.
    """
    if tensor.ndim not in (2, 3):
        advice = " Give a batch as list(tensor)." if tensor.ndim == 4 else ""
        raise UserError(
            f"{name} is a tensor of the shape {tuple(tensor.shape)}; an image is (channels, height, width) or (height, "
            f"width).{advice}"
        )
    if tensor.layout != torch.strided or tensor.is_meta:
        kind = "without values (meta)" if tensor.is_meta else f"of the layout {tensor.layout}; give tensor.to_dense()"
        raise UserError(f"{name} is a tensor {kind}; an image is a dense tensor.")
    if tensor.ndim == 3 and tensor.shape[2] in COLOUR_CHANNELS and tensor.shape[0] > max(COLOUR_CHANNELS):
        raise UserError(
            f"{name} is a tensor of the shape {tuple(tensor.shape)}, which looks like channels last; give (channels, "
            "height, width): tensor.permute(2, 0, 1)."
        )
    if tensor.is_floating_point():
        values = tensor.detach().float()
        if values.numel() and not (values.min() >= 0 and values.max() <= 1):
            raise UserError(
                f"{name} is a float tensor with values from {values.min():g} to {values.max():g}; floats are from 0 to "
                "1. Give bytes as torch.uint8, deeper pixels as torch.uint16, and others as a NumPy array."
            )
        tensor = (values * UINT8_MAX).round().to(torch.uint8)
    elif tensor.dtype not in (torch.uint8, torch.uint16):
        raise UserError(f"{name} is a tensor of {tensor.dtype}; an image is uint8, uint16, or float from 0 to 1.")
    pixels = tensor.numpy(force=True)
    return np.ascontiguousarray(np.moveaxis(pixels, 0, -1)) if pixels.ndim == 3 else pixels
