"""Pictures of the training regions of an image: sampled RoIs with their objects, and mask targets beside the truth."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mrcnn_zoo.inspection.canvas import (
    Canvas,
    Color,
    Picture,
    distinct_colors,
    enlarge,
    enlargement,
    paint_mask,
    paint_window,
    with_legend,
)
from mrcnn_zoo.inspection.draw import grid, masks_largest_first, shrink
from mrcnn_zoo.inspection.training.sampled_regions import MaskTarget, SampledRegions

PANEL_SIDE = 800  # longer side of the pictures of sampled regions, pixels
MASKS_SHOWN = 8  # mask targets per picture
MASK_SIDE = 280  # side of the pictures of a mask target, pixels
CONTEXT = 0.15  # of the sides of a region, shown around it
LOW, HIGH = (90, 100, 115), (255, 150, 40)  # background regions of IoU 0 and of the highest IoU
TRUTH: Color = (60, 220, 90)
REGION: Color = (255, 255, 255)
TARGET: Color = (255, 90, 200)


def draw_regions(picture: Picture, sampled: SampledRegions) -> Picture:
    """Draw the sampled foreground and background regions side by side.

    Args:
        picture: (H, W, 3), the resized image.
        sampled: of the image.
    """
    ious, count = sampled.ious(), sampled.num_foreground
    colors = distinct_colors(len(sampled.targets))
    of_objects = [colors[row] for row in sampled.objects()]
    foreground = _draw_boxes(picture, sampled, sampled.regions.boxes[:count], of_objects, ious[:count])
    highest = max(float(ious[count:].max()) if len(ious) > count else 0.0, 1e-6)
    shades = [_between(LOW, HIGH, float(value) / highest) for value in ious[count:]]
    background = _draw_boxes(picture, sampled, sampled.regions.boxes[count:], shades, None)
    titles = [
        f"{count} foreground of {sampled.num_proposals} proposals{_range_of(ious[:count])}",
        f"{len(ious) - count} background{_range_of(ious[count:])}",
    ]
    sheet = grid([shrink(panel, PANEL_SIDE) for panel in (foreground, background)], titles, columns=2)
    return with_legend(
        sheet,
        [
            (REGION, "foreground: in the colour of its object, with its IoU and a line to the object's centre"),
            (LOW, "background that overlaps no object"),
            (HIGH, f"background of the highest IoU, {highest:.2f}"),
        ],
    )


def _range_of(ious: Tensor) -> str:
    return f", IoU {float(ious.min()):.2f} to {float(ious.max()):.2f}" if len(ious) else ""


def _between(low: Color, high: Color, share: float) -> Color:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(low, high, strict=True))
    return red, green, blue


def _draw_boxes(
    picture: Picture, sampled: SampledRegions, boxes: Tensor, colors: Sequence[Color], ious: Tensor | None
) -> Picture:
    """The regions; with IoUs and lines to their objects if `ious` is given."""
    factor = enlargement(*picture.shape[:2])
    pixels = enlarge(picture, factor).copy()
    if ious is not None and sampled.targets.masks is not None:
        own = distinct_colors(len(sampled.targets))
        for row, window in masks_largest_first(sampled.targets):
            paint_window(pixels, window, own[row], factor=factor, opacity=0.3, border=1)
    canvas = Canvas(pixels, factor=factor)
    for box, color in zip(boxes.tolist(), colors, strict=True):
        canvas.box((box[0], box[1], box[2], box[3]), color, width=1)
    if ious is None:
        return canvas.picture()
    centers = ((sampled.targets.boxes[:, :2] + sampled.targets.boxes[:, 2:]) / 2).tolist()
    for (x1, y1, x2, y2), color, row in zip(boxes.tolist(), colors, sampled.objects(), strict=True):
        canvas.line(((x1 + x2) / 2, (y1 + y2) / 2), (centers[row][0], centers[row][1]), color, width=1)
    for (x1, y1, x2, y2), color, value in zip(boxes.tolist(), colors, ious.tolist(), strict=True):
        canvas.label(f"{value:.2f}", (x1, y1, x2, y2), color)
    return canvas.picture()


def draw_mask_targets(picture: Picture, targets: Sequence[MaskTarget], names: Sequence[str]) -> Picture | None:
    """Draw mask targets in rows: truth and region on the image, the target, and the target pasted back.

    The targets are of different objects first, and of these at equal distances from the worst to the best IoU.

    Args:
        picture: (H, W, 3), the resized image.
        targets: of the image.
        names: of each object, by its row.

    Returns:
        The picture, or None without targets.
    """
    if not targets:
        return None
    panels, titles = [], []
    for item in choose_targets(targets):
        side = item.target.shape[-1]
        window = _window(item.box, picture.shape[:2])
        panels += [
            _draw_window(picture, window, item, item.truth, TRUTH),
            _draw_target(item.target),
            _draw_window(picture, window, item, item.pasted, TARGET),
        ]
        titles += [
            f"object {item.object_row} ({names[item.object_row]})",
            f"target {side} x {side}",
            f"IoU {item.iou():.2f}, {item.iou_inside():.2f} inside",
        ]
    return with_legend(
        grid(panels, titles, columns=6 if len(panels) > 3 else 3),
        [
            (TRUTH, "truth, and its outline beside the pasted target"),
            (REGION, "region that the mask is cropped to; mask target in white"),
            (TARGET, "target pasted back: its IoU with the truth, and without what the region cuts off"),
        ],
    )


def choose_targets(targets: Sequence[MaskTarget]) -> list[MaskTarget]:
    """At most MASKS_SHOWN targets: of different objects first, each the worst of its object, from worst to best IoU.

    Args:
        targets: of an image.
    """
    ordered = sorted(targets, key=lambda item: item.iou())
    firsts: dict[int, MaskTarget] = {}
    for item in ordered:
        firsts.setdefault(item.object_row, item)
    different = list(firsts.values())
    if len(different) >= MASKS_SHOWN:
        places = np.linspace(0, len(different) - 1, MASKS_SHOWN).round().astype(int)
        return [different[place] for place in places]
    chosen = {id(item) for item in different}
    others = [item for item in ordered if id(item) not in chosen]
    return sorted([*different, *others[: MASKS_SHOWN - len(different)]], key=lambda item: item.iou())


def _window(box: Tensor, image_size: tuple[int, ...]) -> tuple[int, int, int, int]:
    """The region with its surroundings: whole pixels inside the image, at least one where it is outside."""
    (x1, y1, x2, y2), (height, width) = box.tolist(), image_size
    x, y = CONTEXT * (x2 - x1) + 1, CONTEXT * (y2 - y1) + 1
    left, top = (int(np.clip(edge, 0, side - 1)) for edge, side in ((x1 - x, width), (y1 - y, height)))
    right, bottom = min(width, int(x2 + x) + 1), min(height, int(y2 + y) + 1)
    return left, top, max(left + 1, right), max(top + 1, bottom)


def _draw_window(
    picture: Picture, window: tuple[int, int, int, int], item: MaskTarget, mask: Tensor, color: Color
) -> Picture:
    left, top, right, bottom = window
    factor = max(1, round(MASK_SIDE / max(right - left, bottom - top)))
    pixels = enlarge(picture[top:bottom, left:right], factor).copy()
    paint_mask(pixels, mask[top:bottom, left:right].numpy(), color, opacity=0.5, border=1)
    paint_mask(pixels, item.truth[top:bottom, left:right].numpy(), TRUTH, opacity=0, border=1)
    canvas = Canvas(pixels, factor=factor)
    x1, y1, x2, y2 = (item.box - torch.tensor([left, top, left, top])).tolist()
    canvas.box((x1, y1, x2, y2), REGION, width=1)
    return shrink(canvas.picture(), MASK_SIDE)


def _draw_target(target: Tensor) -> Picture:
    cells = (target.numpy() * 255).astype(np.uint8)
    side = max(1, MASK_SIDE // len(cells)) * len(cells)
    resized = Image.fromarray(cells).resize((side, side), Image.Resampling.NEAREST)
    return np.asarray(resized.convert("RGB"))
