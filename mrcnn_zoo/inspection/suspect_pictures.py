"""Pictures of suspected label errors: the part of the image, beside it the labels and the detections."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.evaluation.ground_truth import complete_ground_truth
from mrcnn_zoo.evaluation.label_errors import Suspect
from mrcnn_zoo.evaluation.metrics.label_errors import NAME, SHOWN, read_suspects
from mrcnn_zoo.evaluation.result_rows import ROWS_FILE
from mrcnn_zoo.inspection.canvas import Canvas, Color, Picture, paint_window, to_picture
from mrcnn_zoo.inspection.draw import grid, side_by_side
from mrcnn_zoo.ops.masks import part_of
from mrcnn_zoo.ops.rle import decode_window

LABEL_COLOR: Color = (60, 220, 60)  # of the objects of the suspect
DETECTION_COLOR: Color = (255, 60, 220)
OTHER_COLOR: Color = (70, 150, 190)  # of the other objects
MARGIN = 0.75  # of the longer side of the suspect, around it
MIN_SIDE = 40  # pixels of the image in the picture
SHOWN_PERCENTILES = (0.5, 99.5)  # of the values of the part that are black and white
SIDE = 240  # pixels of each half of the picture


def draw_suspect(
    image_rgb: NDArray[np.generic], suspect: Suspect, *, others: Sequence[Mapping[str, Any]] = ()
) -> Picture:
    """The pictures of `suspect_halves` side by side with the score, the kind and the class.

    Args:
        image_rgb: (H, W, 3) RGB, the original image.
        suspect: of the image.
        others: other annotations of the image, drawn in blue.

    Returns:
        (240, 486, 3) and a strip for the titles.
    """
    halves = suspect_halves(image_rgb, suspect, others=others)
    return side_by_side(halves, [f"{suspect.score:.2f} {suspect.kind}", suspect.class_name])


def suspect_halves(
    image_rgb: NDArray[np.generic], suspect: Suspect, *, others: Sequence[Mapping[str, Any]] = ()
) -> tuple[Picture, Picture]:
    """The part of an image around a suspect, and the same with labels in green and detections in magenta.

    Its brightness is stretched, so that faint objects are visible.

    Args:
        image_rgb: (H, W, 3) RGB, the original image.
        suspect: of the image.
        others: other annotations of the image, drawn in blue.

    Returns:
        Two pictures of (240, 240, 3), narrower where the image is.
    """
    picture = to_picture(np.asarray(image_rgb))
    left, top, right, bottom = _part(suspect.box, picture.shape[0], picture.shape[1])
    factor = max(1, -(-SIDE // max(right - left, bottom - top)))
    part = _stretched(np.asarray(picture[top:bottom, left:right]))
    plain = part.repeat(factor, axis=0).repeat(factor, axis=1)
    drawn = plain.copy()
    groups = ((others, OTHER_COLOR), (suspect.annotations, LABEL_COLOR), (suspect.detections, DETECTION_COLOR))
    for items, color in groups:
        for item in items:
            drawn = _outline(drawn, item, color, corner=(left, top), factor=factor)
    first, second = (
        np.asarray(Image.fromarray(half).resize(_size(half), Image.Resampling.BILINEAR)) for half in (plain, drawn)
    )
    return first, second


def suspect_sheet(dataset: Dataset, output_dir: str | Path) -> Picture | None:
    """The first suspects of an evaluation with the metric `label_errors`.

    Args:
        dataset: the evaluated dataset; its images are read.
        output_dir: of `evaluate`.

    Returns:
        None if the last evaluation in the folder has no suspects or does not have the metric.
    """
    folder = Path(output_dir) / "inference"
    path, rows_file = folder / f"{NAME}.json", folder / ROWS_FILE
    # Metrics are written after the detections of their evaluation: an older file is of an earlier one.
    if not path.is_file() or path.stat().st_mtime_ns < rows_file.stat().st_mtime_ns:
        return None
    ground_truth = complete_ground_truth(dataset)
    suspects = read_suspects(path, ground_truth, count=SHOWN)
    return draw_suspects(suspects, dataset, ground_truth["annotations"]) if suspects else None


def draw_suspects(
    suspects: Sequence[Suspect], dataset: Dataset, annotations: Sequence[Mapping[str, Any]], *, columns: int = 3
) -> Picture:
    """A sheet of suspects in their order, numbered from 1.

    Args:
        suspects: one or more.
        dataset: with their images.
        annotations: of the ground truth in COCO's format.
        columns: of the sheet.
    """
    sources = {record.image_id: record.source for record in dataset.records}
    by_image = annotations_by_image(annotations)
    pictures = []
    for suspect in suspects:
        image_id = suspect.image["id"]
        others = other_annotations(suspect, by_image)
        pictures.append(draw_suspect(sources[image_id].read(), suspect, others=others))
    return grid(pictures, [str(number) for number in range(1, len(pictures) + 1)], columns=columns)


def annotations_by_image(annotations: Sequence[Mapping[str, Any]]) -> Mapping[Any, list[Mapping[str, Any]]]:
    """Annotations by the id of their image.

    Args:
        annotations: of the ground truth in COCO's format.
    """
    by_image = defaultdict(list)
    for item in annotations:
        by_image[item["image_id"]].append(item)
    return by_image


def other_annotations(suspect: Suspect, by_image: Mapping[Any, Sequence[Mapping[str, Any]]]) -> list[Mapping[str, Any]]:
    """The annotations of the image of a suspect that are not its own.

    Args:
        suspect: of any kind.
        by_image: of `annotations_by_image`.
    """
    own = {item["id"] for item in suspect.annotations}
    return [item for item in by_image.get(suspect.image["id"], ()) if item["id"] not in own]


def _part(box: Sequence[float], height: int, width: int) -> tuple[int, int, int, int]:
    """The square around a box in whole pixels, moved or cut to lie inside the image: x1, y1, x2, y2."""
    x, y, box_width, box_height = box
    side = int(max(MIN_SIDE, (1 + 2 * MARGIN) * max(box_width, box_height)))
    left, top = int(x + (box_width - side) / 2), int(y + (box_height - side) / 2)
    left, top = (max(0, min(start, length - side)) for start, length in ((left, width), (top, height)))
    return left, top, min(width, left + side), min(height, top + side)


def _stretched(part: Picture) -> Picture:
    low, high = np.percentile(part, SHOWN_PERCENTILES)
    stretched = (part.astype(np.float64) - low) * (255 / max(high - low, 1.0))
    return np.clip(stretched, 0, 255).astype(np.uint8)


def _size(picture: Picture) -> tuple[int, int]:
    scale = SIDE / max(picture.shape[:2])
    return max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))


def _outline(
    picture: Picture, item: Mapping[str, Any], color: Color, *, corner: tuple[int, int], factor: int
) -> Picture:
    """The picture with the border of a mask, or with a box where there is none."""
    left, top = corner
    height, width = picture.shape[0] // factor, picture.shape[1] // factor
    if "segmentation" not in item:
        x, y, box_width, box_height = item["bbox"]
        canvas = Canvas(picture, factor=factor)
        canvas.box((x - left, y - top, x + box_width - left, y + box_height - top), color)
        return canvas.picture()
    window = decode_window(item["segmentation"])
    if window is not None:
        part = part_of(window, (left, top, left + width, top + height))
        if part.bitmap.size:
            moved = part._replace(x=part.x - left, y=part.y - top)
            paint_window(picture, moved, color, factor=factor, opacity=0.0, border=max(2, factor // 3))
    return picture
