"""Painting on a picture: pixels of any kind as RGB, distinct colours, masks, boxes and labels that stay readable."""

import colorsys
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mrcnn_zoo.ops.masks import tight_box

Picture = NDArray[np.uint8]  # (H, W, 3) RGB
Color = tuple[int, int, int]
Point = tuple[float, float]  # x, y in pixels

SMALL_SIDE = 400  # pictures whose longer side is below this are enlarged before anything is drawn
GOLDEN_RATIO = 0.618034  # hues at multiples of it never come close to each other
LABEL_SHARE = 0.15  # of the picture; further labels would hide what they name
LABEL_SIZE = 0.25  # of the side of a square as large as the box
SMALLEST_LABEL = 8  # points
PERCENTILES = (0.5, 99.5)  # darkest and brightest shown value of an image that is not 8 bit
BRIGHTNESS_RANGE = (100.0, 180.0)  # of colours, between black 0 and white 255
BACKGROUND: Color = (32, 34, 38)
FOREGROUND: Color = (240, 240, 240)


def to_picture(image: NDArray[np.generic]) -> Picture:
    """An RGB picture of (H, W) or (H, W, C) of any depth: grey is repeated, of many channels the first 3 are shown."""
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
        return values.astype(np.uint8)  # bytes that were made float on the way
    low, high = np.percentile(values, PERCENTILES) if values.size else (0.0, 1.0)
    return (np.clip((values - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)


def distinct_colors(count: int) -> list[Color]:
    """Colours that show on dark and on bright images, neighbours in the list far apart in hue; always the same list."""
    colors = []
    for index in range(count):
        saturation, value = ((0.8, 1.0), (1.0, 0.85), (0.55, 1.0))[index // 12 % 3]
        color = np.array(colorsys.hsv_to_rgb((0.58 + index * GOLDEN_RATIO) % 1.0, saturation, value)) * 255
        brightness = _brightness(color)
        darkest, brightest = BRIGHTNESS_RANGE
        if brightness > brightest:
            color *= brightest / brightness
        elif brightness < darkest:
            color += (255 - color) * (darkest - brightness) / (255 - brightness)
        red, green, blue = color.round().astype(int).tolist()
        colors.append((red, green, blue))
    return colors


def _brightness(color: Sequence[float] | NDArray[np.floating]) -> float:
    red, green, blue = color
    return float(0.299 * red + 0.587 * green + 0.114 * blue)


def enlargement(height: int, width: int) -> int:
    """The whole number that a small picture is enlarged by before drawing; 1 for others."""
    return max(1, -(-SMALL_SIDE // max(height, width, 1)))


def enlarge(pixels: NDArray, factor: int) -> NDArray:
    """(H, W, ...) with every pixel repeated `factor` times in both directions."""
    return pixels if factor == 1 else pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def paint_mask(picture: Picture, mask: NDArray[np.bool_], color: Color, *, opacity: float, outline: int) -> None:
    """Tint the pixels of a mask and draw its border `outline` pixels wide, in place.

    Args:
        picture: (F H, F W, 3), F a whole number.
        mask: (H, W).
        color: of tint and border.
        opacity: of the tint, from 0 to 1.
        outline: in pixels of the picture.
    """
    box = tight_box(mask)
    if box is None:
        return
    left, top, right, bottom = box
    factor = picture.shape[0] // mask.shape[0]
    inside = enlarge(mask[top:bottom, left:right], factor)
    window = picture[top * factor : bottom * factor, left * factor : right * factor]
    window[inside] = (window[inside] * (1 - opacity) + np.asarray(color) * opacity).astype(np.uint8)
    window[inside & ~_eroded(inside, outline)] = color


def _eroded(mask: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    for _ in range(steps):
        padded = np.pad(mask, 1)
        mask = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask


def font_size(height: int, width: int) -> int:
    """Points of a label's text that can be read in a picture of this size, also when the picture is shown smaller."""
    return int(np.clip(round((height * width) ** 0.5 / 42), 11, 36))


@lru_cache(maxsize=32)
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font."""
    return ImageFont.load_default(size)


def text_color(background: Color) -> Color:
    """Black or white, whichever is easier to read on the background."""
    return (0, 0, 0) if _brightness(background) > 128 else (255, 255, 255)


class Canvas:
    """Draws boxes, lines and dots, and labels that avoid each other, onto a picture.

    Args:
        picture: (F H, F W, 3); not changed.
        factor: F, how many pixels of the picture a pixel of the coordinates covers.
    """

    def __init__(self, picture: Picture, *, factor: int = 1) -> None:
        self._image = Image.fromarray(picture)
        self._draw = ImageDraw.Draw(self._image)
        self._factor = factor
        self._largest = font_size(self._image.height, self._image.width)
        self._taken: list[tuple[float, float, float, float]] = []
        self._covered = 0.0

    def box(self, box: tuple[float, float, float, float], color: Color) -> None:
        """Outline a continuous x1 y1 x2 y2 box by the pixels just inside its edges."""
        left, top, right, bottom = self._pixels(box)
        thickness = max(1, round(max(self._image.size) / 500))
        self._draw.rectangle((left, top, right, bottom), outline=color, width=thickness)

    def line(self, start: Point, end: Point, color: Color) -> None:
        """Connect two continuous positions x, y."""
        ends = [tuple(value * self._factor for value in point) for point in (start, end)]
        self._draw.line(ends, fill=color, width=max(2, round(max(self._image.size) / 350)))

    def dot(self, center: Point, color: Color) -> None:
        """Mark a continuous position x, y; the rim is dark, so that it shows on its own line."""
        x, y = (value * self._factor for value in center)
        radius = max(3, round(max(self._image.size) / 220))
        self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color, outline=BACKGROUND)

    def label(self, text: str, box: tuple[float, float, float, float], color: Color) -> None:
        """Write at a corner of the box where nothing is written yet, the smaller the box the smaller.

        A label without a free place is left out, and so is every one after labels cover LABEL_SHARE of the picture.
        """
        left, top, right, bottom = self._pixels(box)
        side = ((right - left + 1) * (bottom - top + 1)) ** 0.5
        text_font = font(int(np.clip(round(LABEL_SIZE * side), min(SMALLEST_LABEL, self._largest), self._largest)))
        x0, _, x1, _ = self._draw.textbbox((0, 0), text, font=text_font)
        _, y0, _, y1 = self._draw.textbbox((0, 0), "Ag", font=text_font)  # whatever letters the text has
        width, height = x1 - x0 + 6, y1 - y0 + 6
        corners = ((left, top - height), (left, top), (left, bottom + 1), (right - width + 1, top - height))
        if self._covered + width * height > LABEL_SHARE * self._image.width * self._image.height:
            return
        for x, y in (*corners, (right - width + 1, bottom - height + 1), (right + 1, top), (left - width, top)):
            x = min(max(x, 0), self._image.width - width)
            y = min(max(y, 0), self._image.height - height)
            if self._is_free(x, y, x + width, y + height):
                self._taken.append((x, y, x + width, y + height))
                self._covered += width * height
                self._draw.rectangle((x, y, x + width - 1, y + height - 1), fill=color)
                self._draw.text((x + 3 - x0, y + 3 - y0), text, fill=text_color(color), font=text_font)
                return

    def picture(self) -> Picture:
        """What has been drawn."""
        return np.asarray(self._image).copy()

    def _pixels(self, box: tuple[float, float, float, float]) -> tuple[int, int, int, int]:
        left, top = (int(np.floor(edge * self._factor)) for edge in box[:2])
        right, bottom = (int(np.ceil(edge * self._factor)) - 1 for edge in box[2:])
        return left, top, max(left, right), max(top, bottom)

    def _is_free(self, x0: float, y0: float, x1: float, y1: float) -> bool:
        return all(x1 <= left or right <= x0 or y1 <= top or bottom <= y0 for left, top, right, bottom in self._taken)
