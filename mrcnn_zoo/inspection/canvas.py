"""Drawing on RGB pictures: conversion of images, distinct colours, masks, boxes, lines and labels."""

import colorsys
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mrcnn_zoo.ops.masks import MaskWindow, tight_box

Picture = NDArray[np.uint8]  # (H, W, 3) RGB
Color = tuple[int, int, int]
Point = tuple[float, float]  # x, y in pixels

SMALL_SIDE = 400  # pixels; pictures with a shorter longest side are enlarged before drawing
GOLDEN_RATIO = 0.618034  # multiples of it, modulo 1, are spread evenly over the hues
THINNEST = 16  # least ratio of an object's shorter side to the width of its outline, from 2 pixels on
LABEL_SHARE = 0.15  # maximum share of the picture that labels cover
LABEL_SIZE = 0.25  # font size relative to the square root of the area of the box
SMALLEST_LABEL = 8  # minimum font size, points
PERCENTILES = (0.5, 99.5)  # of the values of an image that is not 8 bit, shown as black and white
BRIGHTNESS_RANGE = (100.0, 180.0)  # of instance colours; black is 0, white 255
LEGEND_GAP, LEGEND_FONT = 6, 18  # pixels above the legend; its largest font size, points
BACKGROUND: Color = (32, 34, 38)
FOREGROUND: Color = (240, 240, 240)


def to_picture(image: NDArray[np.generic]) -> Picture:
    """Convert an image to 8-bit RGB; grey is repeated, and of more than 3 channels the first 3 are used.

    Args:
        image: (H, W) or (H, W, C), any real dtype. Values that are not 8 bit are scaled by their percentiles.

    Returns:
        (H, W, 3) uint8.
    """
    pixels = image[..., None] if image.ndim == 2 else image
    channels = pixels.shape[2]
    if channels == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    elif channels == 2:
        pixels = np.concatenate([pixels, np.zeros_like(pixels[..., :1])], axis=2)
    else:
        pixels = pixels[..., :3]
    return np.ascontiguousarray(pixels if pixels.dtype == np.uint8 else _stretch_to_bytes(pixels))


def _stretch_to_bytes(pixels: NDArray[np.generic]) -> Picture:
    values = np.nan_to_num(pixels.astype(np.float32))
    if np.issubdtype(pixels.dtype, np.floating) and values.size and 1.5 < values.max() <= 255 and values.min() >= 0:
        return values.astype(np.uint8)  # 8-bit values stored as floats
    low, high = np.percentile(values, PERCENTILES) if values.size else (0.0, 1.0)
    return (np.clip((values - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)


def distinct_colors(count: int) -> list[Color]:
    """Colours of medium brightness; consecutive colours differ in hue, and a longer list begins with the shorter one.

    Args:
        count: number of colours.
    """
    return [distinct_color(index) for index in range(count)]


@lru_cache(maxsize=1024)
def distinct_color(index: int) -> Color:
    """The colour of a place in `distinct_colors`.

    Args:
        index: from 0.
    """
    saturation, value = ((0.8, 1.0), (1.0, 0.85), (0.55, 1.0))[index // 12 % 3]
    color = np.array(colorsys.hsv_to_rgb((0.58 + index * GOLDEN_RATIO) % 1.0, saturation, value)) * 255
    brightness = _brightness(color)
    darkest, brightest = BRIGHTNESS_RANGE
    if brightness > brightest:
        color *= brightest / brightness
    elif brightness < darkest:
        color += (255 - color) * (darkest - brightness) / (255 - brightness)
    red, green, blue = color.round().astype(int).tolist()
    return red, green, blue


def _brightness(color: Sequence[float] | NDArray[np.floating]) -> float:
    red, green, blue = color
    return float(0.299 * red + 0.587 * green + 0.114 * blue)


def enlargement(height: int, width: int) -> int:
    """Integer factor by which a picture is enlarged before drawing; 1 if its longer side has SMALL_SIDE or more.

    Args:
        height: of the picture in pixels.
        width: of the picture in pixels.
    """
    return max(1, -(-SMALL_SIDE // max(height, width, 1)))


def enlarge(pixels: NDArray, factor: int) -> NDArray:
    """Repeat each pixel in both directions.

    Args:
        pixels: (H, W, ...).
        factor: F, at least 1.

    Returns:
        (F H, F W, ...).
    """
    return pixels if factor == 1 else pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def paint_mask(picture: Picture, mask: NDArray[np.bool_], color: Color, *, opacity: float, border: int) -> None:
    """Tint the pixels of a mask and draw its border, in place.

    Args:
        picture: (F H, F W, 3) for an integer F; modified.
        mask: (H, W).
        color: of tint and border.
        opacity: of the tint, in [0, 1].
        border: width of the border in pixels of the picture.
    """
    box = tight_box(mask)
    if box is None:
        return
    left, top, right, bottom = box
    window = MaskWindow(left, top, mask[top:bottom, left:right])
    paint_window(picture, window, color, factor=picture.shape[0] // mask.shape[0], opacity=opacity, border=border)


def paint_window(
    picture: Picture, window: MaskWindow, color: Color, *, factor: int = 1, opacity: float, border: int
) -> None:
    """As `paint_mask`, of a mask that is 0 outside a window of the image.

    Args:
        picture: (F H, F W, 3); modified.
        window: inside the image; may be empty.
        color: of tint and border.
        factor: F.
        opacity: of the tint, in [0, 1].
        border: width of the border in pixels of the picture.
    """
    left, top, right, bottom = window.box
    inside = enlarge(window.bitmap.astype(np.bool_), factor)
    region = picture[top * factor : bottom * factor, left * factor : right * factor]
    region[inside] = (region[inside] * (1 - opacity) + np.asarray(color) * opacity).astype(np.uint8)
    region[inside & ~_eroded(inside, border)] = color


def _eroded(mask: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    for _ in range(steps):
        padded = np.pad(mask, 1)
        mask = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask


def font_size(height: int, width: int) -> int:
    """Font size of labels, in points: readable even if the picture is shown smaller.

    Args:
        height: of the picture in pixels.
        width: of the picture in pixels.
    """
    return int(np.clip(round((height * width) ** 0.5 / 42), 11, 36))


@lru_cache(maxsize=32)
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's default font.

    Args:
        size: in points.
    """
    return ImageFont.load_default(size)


def text_color(background: Color) -> Color:
    """Black or white, by contrast with the background.

    Args:
        background: colour behind the text.
    """
    return (0, 0, 0) if _brightness(background) > 128 else (255, 255, 255)


def line_width(wanted: float, side: int) -> int:
    """The width of the outline of an object: small objects in large pictures are not covered by it.

    Args:
        wanted: in pixels of the picture.
        side: the shorter side of the object in pixels of the picture.
    """
    return max(1, min(round(wanted), max(2, side // THINNEST)))


def with_legend(picture: Picture, entries: Sequence[tuple[Color, str]]) -> Picture:
    """The picture above a strip with a coloured square and a text per entry; long texts widen the picture.

    Args:
        picture: (H, W, 3).
        entries: colours and their meanings.
    """
    text_font = font(min(font_size(*picture.shape[:2]) + 2, LEGEND_FONT))
    line = int(text_font.getbbox("Ag")[3]) + 8
    width = max([picture.shape[1], *(int(text_font.getlength(text)) + 2 * line for _, text in entries)])
    sheet = Image.new("RGB", (width, picture.shape[0] + line * len(entries) + LEGEND_GAP), BACKGROUND)
    sheet.paste(Image.fromarray(picture), (0, 0))
    draw = ImageDraw.Draw(sheet)
    for number, (color, text) in enumerate(entries):
        top = picture.shape[0] + LEGEND_GAP + line * number
        draw.rectangle((6, top, line - 2, top + line - 8), fill=color)
        draw.text((line + 6, top - 2), text, fill=FOREGROUND, font=text_font)
    return np.asarray(sheet)


class Canvas:
    """Draws boxes, lines, dots and non-overlapping labels on a copy of a picture.

    Args:
        picture: (F H, F W, 3); not modified.
        factor: F, pixels of the picture per unit of the coordinates.
        emphasis: factor of the width of lines and the size of letters, for pictures that are shown smaller.
    """

    def __init__(self, picture: Picture, *, factor: int = 1, emphasis: float = 1.0) -> None:
        self._image = Image.fromarray(picture)
        self._draw = ImageDraw.Draw(self._image)
        self._factor = factor
        self._emphasis = emphasis
        self._max_font_size = round(emphasis * font_size(self._image.height, self._image.width))
        self._label_boxes, self._num_labels = np.zeros((64, 4)), 0  # the first rows; the array grows
        self._label_area = 0.0

    def box(self, box: tuple[float, float, float, float], color: Color, *, width: int = 0) -> None:
        """Draw the pixels just inside the edges of a box.

        Args:
            box: x1, y1, x2, y2, continuous.
            color: of the edges.
            width: of the edges in pixels of the picture; 0 for one that fits the picture.
        """
        left, top, right, bottom = self._pixels(box)
        side = min(right - left, bottom - top) + 1
        thickness = width or line_width(self._emphasis * max(self._image.size) / 500, side)
        self._draw.rectangle((left, top, right, bottom), outline=color, width=thickness)

    def line(self, start: Point, end: Point, color: Color, *, width: int = 0) -> None:
        """Connect two points.

        Args:
            start: x, y, continuous.
            end: x, y, continuous.
            color: of the line.
            width: in pixels of the picture; 0 for one that fits the picture.
        """
        ends = [tuple(value * self._factor for value in point) for point in (start, end)]
        self._draw.line(ends, fill=color, width=width or max(2, round(max(self._image.size) / 350)))

    def dot(self, center: Point, color: Color) -> None:
        """Mark a point with a disc; its dark rim separates it from a line of the same colour.

        Args:
            center: x, y, continuous.
            color: of the disc.
        """
        x, y = (value * self._factor for value in center)
        radius = max(3, round(max(self._image.size) / 220))
        self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color, outline=BACKGROUND)

    def label(self, text: str, box: tuple[float, float, float, float], color: Color) -> None:
        """Write a text at a free corner of a box, in a font size that grows with the box.

        Nothing is written if all corners overlap other labels, or if labels would cover more than LABEL_SHARE.

        Args:
            text: one line.
            box: x1, y1, x2, y2, continuous.
            color: of the background.
        """
        left, top, right, bottom = self._pixels(box)
        side, largest = ((right - left + 1) * (bottom - top + 1)) ** 0.5, self._max_font_size
        text_font = font(int(np.clip(round(LABEL_SIZE * side), min(self._emphasis * SMALLEST_LABEL, largest), largest)))
        x0, _, x1, _ = self._draw.textbbox((0, 0), text, font=text_font)
        _, y0, _, y1 = self._draw.textbbox((0, 0), "Ag", font=text_font)  # the same height for all texts
        width, height = x1 - x0 + 6, y1 - y0 + 6
        corners = ((left, top - height), (left, top), (left, bottom + 1), (right - width + 1, top - height))
        if self._label_area + width * height > LABEL_SHARE * self._image.width * self._image.height:
            return
        for x, y in (*corners, (right - width + 1, bottom - height + 1), (right + 1, top), (left - width, top)):
            x = min(max(x, 0), self._image.width - width)
            y = min(max(y, 0), self._image.height - height)
            if self._is_free(x, y, x + width, y + height):
                self._add_label_box((x, y, x + width, y + height))
                self._label_area += width * height
                self._draw.rectangle((x, y, x + width - 1, y + height - 1), fill=color)
                self._draw.text((x + 3 - x0, y + 3 - y0), text, fill=text_color(color), font=text_font)
                return

    def picture(self) -> Picture:
        """(F H, F W, 3) uint8 copy of the current picture."""
        return np.asarray(self._image).copy()

    def _pixels(self, box: tuple[float, float, float, float]) -> tuple[int, int, int, int]:
        left, top = (int(np.floor(edge * self._factor)) for edge in box[:2])
        right, bottom = (int(np.ceil(edge * self._factor)) - 1 for edge in box[2:])
        return left, top, max(left, right), max(top, bottom)

    def _is_free(self, x0: float, y0: float, x1: float, y1: float) -> bool:
        left, top, right, bottom = self._label_boxes[: self._num_labels].T
        return bool(((x1 <= left) | (right <= x0) | (y1 <= top) | (bottom <= y0)).all())

    def _add_label_box(self, box: tuple[float, float, float, float]) -> None:
        if self._num_labels == len(self._label_boxes):
            self._label_boxes = np.concatenate([self._label_boxes, np.zeros_like(self._label_boxes)])
        self._label_boxes[self._num_labels] = box
        self._num_labels += 1
