"""A row of measurements per detected object: for predictions.csv and `Prediction.to_dataframe`."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.ops.masks import MaskWindow
from mrcnn_zoo.structures import Detections, mask_windows

COLORS = ("red", "green", "blue")
NUMBER_FORMATS = {  # of predictions.csv
    **dict.fromkeys(("score", "mask_score"), ".4f"),
    **dict.fromkeys(("x1", "y1", "x2", "y2", "centroid_x", "centroid_y", "perimeter"), ".2f"),
    "area": "g",
}
INTENSITY_FORMAT = ".2f"
# Length that a border pixel adds, by the numbers of border pixels among its neighbours: (beside, diagonal).
# Source: Benkrid and Crookes 2000 (Design and FPGA Implementation of a Perimeter Estimator), table 1.
STRAIGHT, DIAGONAL, CORNER = 1.0, math.sqrt(2), (1 + math.sqrt(2)) / 2
BORDER_LENGTHS = {
    **dict.fromkeys(((2, 0), (3, 0), (2, 1), (3, 1), (2, 2), (3, 2)), STRAIGHT),
    **dict.fromkeys(((0, 2), (1, 3)), DIAGONAL),
    **dict.fromkeys(((1, 1), (1, 2)), CORNER),
}


class Measurements(NamedTuple):
    """The size, place and brightness of one object, in pixels of the image."""

    area: float  # of the mask, or of the box where the model predicts no masks
    centroid: tuple[float, float]  # x, y; the centre of the first pixel is at (0.5, 0.5); NaN for an empty mask
    perimeter: float
    intensities: tuple[float, ...]  # C means over the pixels of the object; NaN where it has none


def measure(table: Detections, pixels: NDArray[np.generic]) -> list[Measurements]:
    """The measurements of each object, from the window of its mask alone.

    Args:
        table: R objects in pixels of the image.
        pixels: (H, W, C) of the image, of any depth.
    """
    if table.masks is not None:
        return [_of_mask(window, pixels) for window in mask_windows(table)]
    return [_of_box(box, pixels) for box in table.boxes.tolist()]


def _of_mask(window: MaskWindow, pixels: NDArray[np.generic]) -> Measurements:
    bitmap = np.asarray(window.bitmap) != 0
    area = int(bitmap.sum())
    if not area:
        return Measurements(0, (math.nan, math.nan), 0.0, (math.nan,) * pixels.shape[2])
    height, width = bitmap.shape
    x = window.x + float(bitmap.sum(axis=0) @ (np.arange(width) + 0.5)) / area
    y = window.y + float(bitmap.sum(axis=1) @ (np.arange(height) + 0.5)) / area
    inside = pixels[window.y : window.y + height, window.x : window.x + width][bitmap]
    return Measurements(area, (x, y), perimeter(bitmap), _means(inside))


def _of_box(box: Sequence[float], pixels: NDArray[np.generic]) -> Measurements:
    x1, y1, x2, y2 = box
    left, top, right, bottom = (max(0, math.ceil(edge - 0.5)) for edge in box)  # pixels with their centre inside
    inside = pixels[top:bottom, left:right].reshape(-1, pixels.shape[2])
    sides = (x2 - x1) + (y2 - y1)
    return Measurements((x2 - x1) * (y2 - y1), ((x1 + x2) / 2, (y1 + y2) / 2), 2 * sides, _means(inside))


def _means(values: NDArray[np.generic]) -> tuple[float, ...]:
    """Means of (P, C) values."""
    if not len(values):
        return (math.nan,) * values.shape[1]
    return tuple(values.mean(axis=0, dtype=np.float64).tolist())


def perimeter(bitmap: NDArray[np.bool_]) -> float:
    """The length of the border of a mask, holes included, through the centres of its border pixels.

    Equal to scikit-image's `perimeter` with a neighbourhood of 4.

    Args:
        bitmap: (h, w), 0 outside.
    """
    padded = np.pad(bitmap, 2)
    inner = padded[1:-1, 1:-1]
    is_surrounded = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    border = inner & ~is_surrounded  # (h + 2, w + 2)
    counts = border.astype(np.uint8)
    beside = counts[:-2, 1:-1] + counts[2:, 1:-1] + counts[1:-1, :-2] + counts[1:-1, 2:]
    diagonal = counts[:-2, :-2] + counts[:-2, 2:] + counts[2:, :-2] + counts[2:, 2:]
    is_border = border[1:-1, 1:-1]
    found = np.bincount(5 * beside[is_border] + diagonal[is_border], minlength=25)
    return float(sum(length * found[5 * straight + across] for (straight, across), length in BORDER_LENGTHS.items()))


def table_columns(num_channels: int, *, has_mask_scores: bool) -> tuple[str, ...]:
    """The names of the columns.

    Args:
        num_channels: C of the image: the mean intensities are "mean_red", "mean_green" and "mean_blue" for 3,
            "mean_intensity" for 1, else "mean_1", "mean_2", ...
        has_mask_scores: whether the model scores masks.
    """
    intensities = {1: ["mean_intensity"], len(COLORS): [f"mean_{name}" for name in COLORS]}.get(
        num_channels, [f"mean_{channel}" for channel in range(1, num_channels + 1)]
    )
    columns = ["image", "class", "score", "x1", "y1", "x2", "y2", "area", "centroid_x", "centroid_y", "perimeter"]
    return (*columns, *intensities, *(["mask_score"] if has_mask_scores else []))


def table_rows(
    table: Detections, pixels: NDArray[np.generic], *, image: str, class_names: Sequence[str]
) -> list[dict[str, object]]:
    """The values of each object by column.

    Args:
        table: R objects in pixels of the image.
        pixels: (H, W, C) of the image.
        image: its name.
        class_names: by class index.
    """
    columns = table_columns(pixels.shape[2], has_mask_scores=table.mask_scores is not None)
    rows = []
    mask_scores = [None] * len(table) if table.mask_scores is None else table.mask_scores.tolist()
    values = zip(
        table.classes.tolist(), table.scores.tolist(), table.boxes.tolist(), measure(table, pixels), strict=True
    )
    for (index, score, box, found), mask_score in zip(values, mask_scores, strict=True):
        row = [image, class_names[index], score, *box, found.area, *found.centroid, found.perimeter, *found.intensities]
        rows.append(dict(zip(columns, [*row, *([] if mask_score is None else [mask_score])], strict=True)))
    return rows


def as_texts(row: dict[str, object]) -> list[str]:
    """The cells of a row of predictions.csv; empty for NaN.

    Args:
        row: of `table_rows`.
    """
    return [_as_text(name, value) for name, value in row.items()]


def _as_text(name: str, value: object) -> str:
    if isinstance(value, str):
        return value
    is_nan = isinstance(value, float) and math.isnan(value)
    return "" if is_nan else format(value, NUMBER_FORMATS.get(name, INTENSITY_FORMAT))
