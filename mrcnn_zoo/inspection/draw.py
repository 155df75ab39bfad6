"""Draws instances and keypoints: one image, a training batch, predictions beside ground truth."""

from collections.abc import Iterator, Sequence
from math import ceil

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mrcnn_zoo.errors import counted
from mrcnn_zoo.inspection.canvas import (
    BACKGROUND,
    FOREGROUND,
    Canvas,
    Color,
    Picture,
    distinct_colors,
    enlarge,
    enlargement,
    font,
    font_size,
    line_width,
    paint_window,
    to_picture,
)
from mrcnn_zoo.ops.boxes import iou
from mrcnn_zoo.ops.masks import MaskWindow
from mrcnn_zoo.structures import Detections, Sample, Targets, mask_windows

Skeleton = Sequence[tuple[int, int]]  # pairs of keypoint indices, connected by lines

BATCH_PICTURE_SIDE = 640  # longer side of each image of a batch, pixels
MATCH_IOU = 0.5  # minimum IoU at which a detection gets the colour of an object
GAP = 6  # pixels between images of a grid
MIN_KEYPOINT_SCORE = 0.05  # of a predicted keypoint that is drawn
# Lin et al. 2014 (COCO): nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles, left before right.
PERSON_KEYPOINTS = 17
ARMS_AND_LEGS = ((5, 7), (7, 9), (6, 8), (8, 10), (11, 13), (13, 15), (12, 14), (14, 16))
HEAD_AND_TRUNK = ((0, 1), (0, 2), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 6), (5, 11), (6, 12), (11, 12))


def draw_instances(
    image_rgb: NDArray[np.generic],
    table: Targets | Detections,
    class_names: Sequence[str],
    *,
    score_threshold: float = 0.0,
    opacity: float = 0.4,
    colors: Sequence[Color] | None = None,
    skeleton: Skeleton = (),
    has_labels: bool = True,
    emphasis: float = 1.0,
) -> Picture:
    """Draw translucent masks, boxes, keypoints and labels on an image.

    Args:
        image_rgb: (H, W, 3) uint8 RGB; others are converted, see `to_picture`.
        table: R instances in pixels of the image.
        class_names: by class index; the name of an only class is not written.
        score_threshold: minimum score of a detection that is drawn.
        opacity: of the masks, in [0, 1].
        colors: of each drawn instance; distinct by default.
        skeleton: see `draw_keypoints`.
        has_labels: whether classes and scores are written.
        emphasis: see `Canvas`.

    Returns:
        (F H, F W, 3), with F > 1 for small images to keep labels readable.
    """
    if isinstance(table, Detections):
        table = table[table.scores >= score_threshold]
    picture = to_picture(np.asarray(image_rgb))
    factor = enlargement(*picture.shape[:2])
    picture = enlarge(picture, factor).copy()
    colors = distinct_colors(len(table)) if colors is None else colors
    boxes = [tuple(box) for box in table.boxes.tolist()]
    if table.masks is not None:
        for row, window in masks_largest_first(table):
            border = line_width(emphasis * max(picture.shape) / 700, min(window.bitmap.shape) * factor)
            paint_window(picture, window, colors[row], factor=factor, opacity=opacity, border=border)
    canvas = Canvas(picture, factor=factor, emphasis=emphasis)
    for row, box in enumerate(boxes):
        canvas.box(box, colors[row])
    if table.keypoints is not None:
        for row, points in enumerate(table.keypoints.tolist()):
            draw_keypoints(canvas, points, colors[row], skeleton=skeleton, is_scored=isinstance(table, Detections))
    for row, text in enumerate(_labels(table, class_names) if has_labels else ()):
        if text:
            canvas.label(text, boxes[row], colors[row])
    return canvas.picture()


def draw_splash(image_rgb: NDArray[np.generic], table: Targets | Detections) -> Picture:
    """Colour splash: the pixels of the masks keep their colours, all others are grey.

    Objects without masks keep the pixels of their boxes.

    Args:
        image_rgb: see `draw_instances`.
        table: R instances in pixels of the image.

    Returns:
        (H, W, 3).
    """
    picture = to_picture(np.asarray(image_rgb))
    is_colored = np.zeros(picture.shape[:2], dtype=bool)
    if table.masks is None:
        for left, top, right, bottom in table.boxes.clamp(min=0).round().int().tolist():
            is_colored[top:bottom, left:right] = True
    else:
        for _, window in masks_largest_first(table):
            left, top, right, bottom = window.box
            is_colored[top:bottom, left:right] |= window.bitmap.astype(np.bool_)
    grey = np.asarray(Image.fromarray(picture).convert("L"))
    return np.where(is_colored[..., None], picture, grey[..., None])


def draw_keypoints(
    canvas: Canvas, points: Sequence[Sequence[float]], color: Color, *, skeleton: Skeleton = (), is_scored: bool
) -> None:
    """Draw the labelled keypoints of an instance, or the predicted ones above MIN_KEYPOINT_SCORE.

    Args:
        canvas: of the image.
        points: (J, 3): x, y in pixels, and the score, or the visibility (0: not labelled).
        color: of the instance.
        skeleton: keypoints to connect; if empty, 17 keypoints get the skeleton of COCO's persons and others no lines.
        is_scored: whether the third value is a score.
    """
    least = MIN_KEYPOINT_SCORE if is_scored else 0.0
    if not skeleton and len(points) == PERSON_KEYPOINTS:
        skeleton = HEAD_AND_TRUNK + ARMS_AND_LEGS
    shown = {row: (point[0], point[1]) for row, point in enumerate(points) if point[2] > least}
    for first, second in skeleton:
        if first in shown and second in shown:
            canvas.line(shown[first], shown[second], color)
    for point in shown.values():
        canvas.dot(point, color)


def draw_predictions(
    image_rgb: NDArray[np.generic],
    detections: Detections,
    targets: Targets | None,
    class_names: Sequence[str],
    *,
    score_threshold: float = 0.5,
    skeleton: Skeleton = (),
) -> Picture:
    """Draw ground truth and predictions side by side; matched detections have the colour of their object.

    Args:
        image_rgb: see `draw_instances`.
        detections: in pixels of the image.
        targets: in pixels of the image; None draws the predictions alone.
        class_names: by class index.
        score_threshold: minimum score of a detection that is drawn.
        skeleton: see `draw_keypoints`.
    """
    shown = detections[detections.scores >= score_threshold]
    colors = None if targets is None else colors_of_objects(shown, targets)
    drawn = [draw_instances(image_rgb, shown, class_names, colors=colors, skeleton=skeleton)]
    titles = [f"predictions: {len(shown)} at {score_threshold:g} or more"]
    if targets is not None:
        drawn.insert(0, draw_instances(image_rgb, targets, class_names, skeleton=skeleton))
        titles.insert(0, f"ground truth: {len(targets)}")
    return side_by_side(drawn, titles)


def colors_of_objects(detections: Detections, targets: Targets) -> list[Color]:
    """Colour of each detection: that of the object it matches, or a colour of no object.

    Args:
        detections: D detections in pixels of the image, best first.
        targets: G objects; object i has the i-th of `distinct_colors`.

    Returns:
        D colours.
    """
    colors = distinct_colors(len(targets) + len(detections))
    unmatched = iter(colors[len(targets) :])
    overlaps = iou(detections.boxes.cpu(), targets.boxes.cpu())
    chosen = []
    for overlap in overlaps:
        if len(overlap) and overlap.max() >= MATCH_IOU:
            best = int(overlap.argmax())
            overlaps[:, best] = 0  # each object is matched once, so that duplicates get another colour
            chosen.append(colors[best])
        else:
            chosen.append(next(unmatched))
    return chosen


def draw_training_batch(
    samples: Sequence[Sample],
    class_names: Sequence[str],
    *,
    channel_order: str = "BGR",
    max_images: int = 16,
    skeleton: Skeleton = (),
) -> Picture:
    """Draw the augmented samples of a batch with their targets in a grid.

    Args:
        samples: from the training loader.
        class_names: by class index.
        channel_order: of `Sample.image`, INPUT.FORMAT.
        max_images: maximum number of samples that are drawn.
        skeleton: see `draw_keypoints`.
    """
    drawn, titles = [], []
    for sample in samples[:max_images]:
        image = sample_picture(sample, channel_order=channel_order)
        height, width = sample.image_size
        count = 0 if sample.targets is None else len(sample.targets)
        if sample.targets is not None:
            image = draw_instances(image, sample.targets, class_names, skeleton=skeleton)
        drawn.append(image)
        titles.append(f"{sample.image_id}   {width} x {height}   {counted(count, 'object')}")
    return grid([shrink(picture, BATCH_PICTURE_SIDE) for picture in drawn], titles)


def sample_picture(sample: Sample, *, channel_order: str = "BGR") -> Picture:
    """The image of a sample as a picture.

    Args:
        sample: with an image of (C, H, W).
        channel_order: "BGR" or "RGB", of 3 channels.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    pixels = sample.image.cpu().numpy().transpose(1, 2, 0)
    if channel_order == "BGR" and pixels.shape[2] == 3:
        pixels = pixels[..., ::-1]
    return to_picture(pixels)


def side_by_side(images: Sequence[Picture], titles: Sequence[str]) -> Picture:
    """Arrange pictures in one row, each below its title.

    Args:
        images: of any sizes.
        titles: one per image.
    """
    return grid(images, titles, columns=len(images))


def grid(images: Sequence[Picture], titles: Sequence[str], *, columns: int = 0) -> Picture:
    """Arrange pictures in rows and columns, each below its title.

    Args:
        images: of any sizes.
        titles: one per image.
        columns: number of columns; 0 for about as many as rows.

    Raises:
        ValueError: there are no images.
    """
    if not images:
        raise ValueError("grid: there are no images")
    columns = columns or ceil(len(images) ** 0.5)
    widths = [max(image.shape[1] for image in images[column::columns]) for column in range(min(columns, len(images)))]
    starts = range(0, len(images), columns)
    heights = [max(image.shape[0] for image in images[start : start + columns]) for start in starts]
    title_font = font(min(font_size(max(heights), max(widths)) + 2, 24))
    strip = int(title_font.getbbox("Ag")[3]) + 8
    size = (sum(widths) + GAP * (len(widths) + 1), sum(heights) + (strip + GAP) * len(heights) + GAP)
    sheet = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for index, (image, title) in enumerate(zip(images, titles, strict=True)):
        row, column = divmod(index, columns)
        left, top = GAP + sum(widths[:column]) + GAP * column, GAP + sum(heights[:row]) + (strip + GAP) * row
        draw.text((left, top + 2), title, fill=FOREGROUND, font=title_font)
        sheet.paste(Image.fromarray(image), (left, top + strip))
    return np.asarray(sheet)


def shrink(picture: Picture, longest: int) -> Picture:
    """Resize a picture whose longer side is longer than a bound.

    Args:
        picture: (H, W, 3).
        longest: bound of the longer side, pixels.
    """
    height, width = picture.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return picture
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def masks_largest_first(table: Targets | Detections) -> Iterator[tuple[int, MaskWindow]]:
    """Rows with their masks in descending order of box area, so that small objects stay visible.

    Args:
        table: R instances with masks, in pixels of the image.
    """
    sides = table.boxes[:, 2:] - table.boxes[:, :2]
    windows = mask_windows(table)
    for row in sides.prod(dim=1).argsort(descending=True, stable=True).tolist():
        yield row, windows[row]


def _labels(table: Targets | Detections, class_names: Sequence[str]) -> list[str]:
    classes = table.classes.tolist()
    names = [class_names[index] if index < len(class_names) else str(index) for index in classes]
    if len(class_names) == 1:
        names = [""] * len(names)
    if isinstance(table, Detections):
        names = [f"{name} {score:.0%}".strip() for name, score in zip(names, table.scores.tolist(), strict=True)]
        if table.mask_scores is not None:
            names = [f"{name}, mask {score:.0%}" for name, score in zip(names, table.mask_scores.tolist(), strict=True)]
    return names
