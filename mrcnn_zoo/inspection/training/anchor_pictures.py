"""Pictures of anchors: those at a pixel by level, and the labels of all with the object of each positive."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inspection.canvas import (
    BACKGROUND,
    Canvas,
    Color,
    Picture,
    distinct_colors,
    enlarge,
    enlargement,
    paint_window,
    with_legend,
)
from mrcnn_zoo.inspection.draw import grid, masks_largest_first, shrink
from mrcnn_zoo.inspection.training.assigned_anchors import AnchorGroup, AnchorLabel, AssignedAnchors, cell_at
from mrcnn_zoo.structures import ImageSize, Targets

PANEL_SIDE = 800  # longer side of each picture of a sheet, pixels
PIXEL_ARM = 10  # half of the length of the cross at a pixel, pixels of the picture
MISSED: Color = (255, 40, 40)  # an object without a positive anchor
SHADES: dict[AnchorLabel, tuple[Color, float, str]] = {  # colour and opacity of the cells, and their meaning
    AnchorLabel.CROSSING: ((0, 0, 0), 0.8, "crossing: all anchors of the cell cross the border, left out of training"),
    AnchorLabel.NEGATIVE: ((40, 70, 140), 0.55, "negative: no anchor of the cell overlaps an object enough"),
    AnchorLabel.NEUTRAL: ((190, 190, 190), 0.6, "neutral: an anchor between the thresholds, not trained"),
    AnchorLabel.POSITIVE: ((255, 255, 255), 1.0, "positive: in the colour of its object, with a line to its centre"),
}


def default_pixel(targets: Targets | None, image_size: ImageSize) -> tuple[float, float]:
    """The centre of the largest object, or of the image where there is none.

    Args:
        targets: of the resized image.
        image_size: (height, width).
    """
    if targets is None or not len(targets):
        return image_size[1] / 2, image_size[0] / 2
    x1, y1, x2, y2 = targets.boxes[(targets.boxes[:, 2:] - targets.boxes[:, :2]).prod(dim=1).argmax()].tolist()
    return (x1 + x2) / 2, (y1 + y2) / 2


def draw_anchors(picture: Picture, anchors: AssignedAnchors, pixel: tuple[float, float]) -> Picture:
    """Draw the anchors of the cell of each level whose centre is nearest to a pixel, and the objects.

    Anchors that extend outside the image are drawn on a margin around it.

    Args:
        picture: (H, W, 3), the resized image.
        anchors: of the image.
        pixel: x, y in the resized image.

    Raises:
        UserError: a pixel outside the image.
    """
    height, width = picture.shape[:2]
    x, y = pixel
    if not (0 <= x <= width and 0 <= y <= height):
        raise UserError(f"--pixel {x:g} {y:g} is outside the resized image, which has {width} x {height} pixels.")
    colors = distinct_colors(len(anchors.groups))
    cells = [anchors.boxes[cell_at(anchors, group, pixel)] for group in anchors.groups]
    margin = _margin(torch.cat(cells), (height, width))
    factor = enlargement(height, width)
    canvas = Canvas(enlarge(_with_margin(picture, margin), factor), factor=factor)
    for box in anchors.targets.boxes + margin:
        canvas.box(_box(box), (255, 255, 255), width=1)
    for boxes, color in zip(cells, colors, strict=True):
        for box in boxes + margin:
            canvas.box(_box(box), color, width=2)
    for boxes, color in zip(reversed(cells), reversed(colors), strict=True):
        center = (boxes[0, :2] + boxes[0, 2:]) / 2 + margin
        canvas.dot((float(center[0]), float(center[1])), color)
    x, y, arm = x + margin, y + margin, PIXEL_ARM / factor
    canvas.line((x - arm, y), (x + arm, y), (255, 255, 255))
    canvas.line((x, y - arm), (x, y + arm), (255, 255, 255))
    entries = [(color, f"{group}") for group, color in zip(anchors.groups, colors, strict=True)]
    text = f"anchors at pixel {pixel[0]:.0f}, {pixel[1]:.0f} (cross) of {width} x {height}; objects white"
    return with_legend(canvas.picture(), [((255, 255, 255), text), *entries])


def _margin(boxes: torch.Tensor, image_size: ImageSize) -> int:
    """Pixels around the image that show the boxes, at most its longer side."""
    height, width = image_size
    outside = max(float(-boxes[:, :2].min()), float((boxes[:, 2:] - torch.tensor([width, height])).max()), 0.0)
    return int(np.ceil(min(outside, max(image_size)))) + (2 if outside > 0 else 0)


def _with_margin(picture: Picture, margin: int) -> Picture:
    height, width = picture.shape[:2]
    padded = np.full((height + 2 * margin, width + 2 * margin, 3), BACKGROUND, dtype=np.uint8)
    padded[margin : margin + height, margin : margin + width] = picture
    return padded


def _box(box: torch.Tensor) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box.tolist()
    return x1, y1, x2, y2


def draw_anchor_labels(picture: Picture, anchors: AssignedAnchors) -> Picture:
    """Draw the positive anchors with their objects, and for each level the labels of its cells.

    A cell has the colour of its best anchor: positive before neutral, negative and crossing.

    Args:
        picture: (H, W, 3), the resized image.
        anchors: of the image.
    """
    colors = distinct_colors(len(anchors.targets))
    counts = anchors.counts()
    missed = [row for row in range(len(anchors.targets)) if not len(anchors.positives_of(row))]
    title = f"{counts[AnchorLabel.POSITIVE]} positive anchors of {len(anchors.targets)} objects"
    title += f"; no positive anchor: {len(missed)} (red)" if missed else ""
    panels, titles = [_draw_positives(picture, anchors, colors)], [title]
    for group in anchors.groups:
        of_level = anchors.counts(group.rows.flatten())
        panels.append(_draw_cells(picture, anchors, group, colors))
        titles.append(
            f"{group.name}: " + ", ".join(f"{count} {label.name.lower()}" for label, count in of_level.items())
        )
    entries = [(color, text) for color, _, text in reversed(SHADES.values())]
    if missed:
        entries.append((MISSED, "object without a positive anchor: not learned in this image"))
    return with_legend(grid([shrink(panel, PANEL_SIDE) for panel in panels], titles), entries)


def _draw_positives(picture: Picture, anchors: AssignedAnchors, colors: Sequence[Color]) -> Picture:
    factor = enlargement(*picture.shape[:2])
    pixels = enlarge(picture, factor).copy()
    if anchors.targets.masks is not None:
        for row, window in masks_largest_first(anchors.targets):
            paint_window(pixels, window, colors[row], factor=factor, opacity=0.35, border=1)
    canvas = Canvas(pixels, factor=factor)
    for row, box in enumerate(anchors.targets.boxes):
        x1, y1, x2, y2 = _box(box)
        positives = anchors.boxes[anchors.positives_of(row)]
        for anchor in positives:
            left, top, right, bottom = _box(anchor)
            canvas.box((left, top, right, bottom), colors[row], width=1)
            canvas.line(((left + right) / 2, (top + bottom) / 2), ((x1 + x2) / 2, (y1 + y2) / 2), colors[row], width=1)
        for left, top, right, bottom in positives.tolist():
            canvas.dot(((left + right) / 2, (top + bottom) / 2), colors[row])
        canvas.box((x1, y1, x2, y2), colors[row] if len(positives) else MISSED)
        if not len(positives):
            canvas.line((x1, y1), (x2, y2), MISSED)
            canvas.line((x1, y2), (x2, y1), MISSED)
    return canvas.picture()


def _draw_cells(picture: Picture, anchors: AssignedAnchors, group: AnchorGroup, colors: Sequence[Color]) -> Picture:
    labels, objects = anchors.labels[group.rows], anchors.objects[group.rows]  # (H, W, A)
    order = torch.tensor([int(label) for label in SHADES])
    ranks = (labels[..., None] == order).int().argmax(dim=-1)  # of each anchor, best last
    best = ranks.argmax(dim=2, keepdim=True)
    cell_ranks, cell_objects = (values.gather(2, best)[..., 0].numpy() for values in (ranks, objects))
    shades = np.array([color for color, _, _ in SHADES.values()], dtype=np.float64)[cell_ranks]
    opacity = np.array([share for _, share, _ in SHADES.values()])[cell_ranks]
    is_positive = cell_objects >= 0
    shades[is_positive] = np.array([*colors, (0, 0, 0)], dtype=np.float64)[cell_objects[is_positive]]
    rows, columns = _nearest_cells(anchors, group, picture.shape[:2])
    shades, opacity = shades[rows][:, columns], opacity[rows][:, columns, None]
    shaded = (picture * (1 - opacity) + shades * opacity).astype(np.uint8)
    canvas = Canvas(enlarge(shaded, factor := enlargement(*picture.shape[:2])), factor=factor)
    for box, color in zip(anchors.targets.boxes, colors, strict=True):
        canvas.box(_box(box), color)
    return canvas.picture()


def _nearest_cells(
    anchors: AssignedAnchors, group: AnchorGroup, image_size: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(height,) row and (width,) column of the cell whose anchors have the nearest centre, for the pixels' centres."""
    boxes = anchors.boxes[group.rows]
    centers = ((boxes[..., :2] + boxes[..., 2:]) / 2).mean(dim=2).numpy()  # (H, W, 2) x, y
    places = []
    for of_cells, length in ((centers[:, 0, 1], image_size[0]), (centers[0, :, 0], image_size[1])):
        bounds = (of_cells[1:] + of_cells[:-1]) / 2
        places.append(np.searchsorted(bounds, np.arange(length) + 0.5))
    return places[0], places[1]
