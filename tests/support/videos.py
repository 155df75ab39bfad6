"""Small videos of moving digits, whose identities are known."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.data.synthetic.digits import load_digit_stamps, render_glyph
from mrcnn_zoo.ops.masks import tight_box

SIDE = 36  # pixels of a digit
BACKGROUND, INK = 40, 220
Place = tuple[float, float]  # x, y of the upper left pixel


def digit(number: int, *, example: int = 3) -> NDArray[np.float64]:
    """(h, w) coverage of a digit in [0, 1], cropped."""
    glyph = load_digit_stamps("embedded", "val").glyphs[number][example]
    coverage = render_glyph(glyph, side=SIDE, angle=0.0, shear=0.0, stretch=1.0)
    box = tight_box(coverage >= 0.5)
    assert box is not None
    left, top, right, bottom = box
    return coverage[top:bottom, left:right]


def digit_frames(
    paths: Mapping[int, Sequence[Place | None]], *, size: tuple[int, int] = (128, 128)
) -> list[NDArray[np.uint8]]:
    """Frames with digits at given places; None where a digit is not shown.

    Args:
        paths: the places of each digit, by its number.
        size: (height, width).
    """
    frames = []
    for index in range(max(map(len, paths.values()))):
        ink = np.zeros(size)
        for number, places in paths.items():
            place = places[index]
            if place is not None:
                coverage, (x, y) = digit(number), (round(edge) for edge in place)
                part = ink[y : y + coverage.shape[0], x : x + coverage.shape[1]]
                np.maximum(part, coverage, out=part)
        grey = BACKGROUND + (INK - BACKGROUND) * ink
        noise = np.random.default_rng(index).normal(0, 3, (*size, 3))
        frames.append(np.clip(grey[..., None] + noise, 0, 255).astype(np.uint8))
    return frames


def line(start: Place, end: Place, count: int) -> list[Place | None]:
    """Evenly spaced places from one to another."""
    return [tuple(np.add(start, np.multiply(np.subtract(end, start), step / (count - 1)))) for step in range(count)]


def write_video(
    path: Path,
    frames: Sequence[NDArray[np.uint8]],
    *,
    rate: Fraction | int = 10,
    times: Sequence[float] | None = None,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    rotation: int = 0,
) -> Path:
    """Write frames as a video file, with PyAV alone.

    Args:
        path: of the file; its suffix names the container.
        frames: (H, W, 3) or, with an alpha channel, (H, W, 4).
        rate: frames per second.
        times: of each frame in seconds.
        codec: of the pictures.
        pixel_format: of the codec.
        rotation: by which players turn the pictures counterclockwise, degrees.
    """
    options: dict[str, str] = {"crf": "12"} if codec == "libx264" else {}
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=Fraction(rate), options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixel_format
        stream.codec_context.time_base = Fraction(1, 1000) if times else 1 / Fraction(rate)
        if rotation:
            stream.set_display_rotation(rotation)
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgba" if pixels.shape[2] == 4 else "rgb24")
            if times:
                frame.pts, frame.time_base = round(times[index] * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
