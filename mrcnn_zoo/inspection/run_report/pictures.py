"""Pictures of a run report: images with what is found, false and missed; JPEG files within a size."""

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.evaluation.backends import KEYPOINTS
from mrcnn_zoo.evaluation.ground_truth import SEGM, bitmaps_of_rles
from mrcnn_zoo.evaluation.image_ranking import match_objects
from mrcnn_zoo.evaluation.metrics.contract import Evaluated
from mrcnn_zoo.evaluation.metrics.overlaps import ImageOverlaps, image_overlaps
from mrcnn_zoo.inspection.canvas import Color, Picture, to_picture
from mrcnn_zoo.inspection.draw import draw_instances
from mrcnn_zoo.structures import BoxedBitmaps, Detections, ImageSize, Targets

SIDE = 480  # pixels of the longer side of an image
OPACITY = 0.25  # of masks
EMPHASIS = 1.8  # of lines and letters: a picture is shown in about half of its size
MAX_LABELED = 25  # instances of an image up to which their labels are drawn
# Colours of Okabe and Ito 2008, which colour-blind people distinguish.
CORRECT: Color = (0, 158, 115)
FALSE: Color = (213, 94, 0)
MISSED: Color = (240, 178, 20)
NEUTRAL: Color = (120, 120, 120)  # crowds, and detections in them
# Scale and quality of the attempts at a JPEG file that is small enough.
UNLIKELY = 1.5  # ratio of the expected size to the limit from which an attempt is not made
ATTEMPTS = ((1.0, 82), (1.0, 70), (0.8, 70), (0.6, 65), (0.45, 60), (0.3, 50), (0.15, 40))

Items = Sequence[Mapping[str, Any]]  # annotations, or rows of a results file


@dataclass(frozen=True)
class ShownSize:
    """An image that is shown at another size; both (height, width)."""

    image_size: ImageSize
    size: ImageSize

    @property
    def scale(self) -> torch.Tensor:
        """(2,) in x and y."""
        return torch.tensor([self.size[1] / self.image_size[1], self.size[0] / self.image_size[0]])

    def boxes(self, items: Items) -> torch.Tensor:
        """(R, 4) corners in the picture."""
        boxes = torch.tensor([item["bbox"] for item in items], dtype=torch.float32).reshape(-1, 2, 2)
        return (torch.stack([boxes[:, 0], boxes.sum(dim=1)], dim=1) * self.scale).flatten(1)

    def masks(self, items: Items) -> BoxedBitmaps:
        """Masks of the picture; empty for objects without."""
        masks = bitmaps_of_rles([item.get("segmentation") for item in items], self.image_size)
        return masks if self.image_size == self.size else masks.resized(self.size, self.boxes(items))

    def keypoints(self, items: Items) -> torch.Tensor | None:
        """(R, J, 3) in the picture; None where an item has none."""
        if not items or any("keypoints" not in item for item in items):
            return None
        points = torch.tensor([item["keypoints"] for item in items], dtype=torch.float32).unflatten(1, (-1, 3))
        return torch.cat([points[..., :2] * self.scale, points[..., 2:]], dim=2)


class ReportArtist:
    """Draws images of an evaluated dataset at a size for a page.

    Args:
        dataset: with images and annotations.
        evaluated: its ground truth and the detections.
        score_threshold: minimum score of a detection that is drawn.
    """

    def __init__(self, dataset: Dataset, evaluated: Evaluated, *, score_threshold: float) -> None:
        self._records = {record.image_id: record for record in dataset.records}
        self._skeleton = dataset.keypoint_skeleton
        self._evaluated = evaluated
        self._threshold = score_threshold
        self._task = evaluated.mask_task
        self._class_of = {number: place for place, number in enumerate(evaluated.category_ids)}
        self._objects, self._rows = defaultdict(list), defaultdict(list)
        for annotation in evaluated.ground_truth["annotations"]:
            self._objects[annotation["image_id"]].append(annotation)
        for row in evaluated.rows:
            self._rows[row["image_id"]].append(row)
        self._images = {image["id"]: image for image in evaluated.ground_truth["images"]}

    def pair(self, image_id: Any) -> tuple[Picture, Picture]:
        """An image with its annotations, found ones green and missed ones yellow; and with the detections.

        Detections of at least the threshold are drawn, correct ones green and false ones red.

        Args:
            image_id: of the dataset.

        Raises:
            UserError: the image cannot be read.
        """
        overlaps = self._overlaps(image_id)
        rows, columns = match_objects(overlaps, np.ones(len(overlaps.rows), dtype=np.bool_))
        of_objects = [NEUTRAL if is_crowd else MISSED for is_crowd in overlaps.is_crowd.tolist()]
        of_rows = [NEUTRAL if is_in else FALSE for is_in in overlaps.in_crowd.tolist()]
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            of_rows[row] = of_objects[column] = CORRECT
        pixels = to_picture(np.asarray(self._records[image_id].source.read()))
        height, width = pixels.shape[:2]
        scale = min(1.0, SIDE / max(height, width))
        shown = ShownSize((height, width), (max(1, round(height * scale)), max(1, round(width * scale))))
        picture = _resized(pixels, shown.size)

        def draw(table: Targets | Detections, colors: list[Color]) -> Picture:
            return draw_instances(
                picture,
                table,
                self._evaluated.class_names,
                colors=colors,
                skeleton=self._skeleton,
                opacity=OPACITY,
                has_labels=len(table) <= MAX_LABELED,
                emphasis=EMPHASIS,
            )

        return (
            draw(self._targets(overlaps.objects, shown), of_objects),
            draw(self._detections(overlaps.rows, shown), of_rows),
        )

    def _overlaps(self, image_id: Any) -> ImageOverlaps:
        content = {
            **self._evaluated.ground_truth,
            "images": [self._images[image_id]],
            "annotations": self._objects[image_id],
        }
        limit = self._evaluated.max_detections
        part = Evaluated(content, self._rows[image_id], self._evaluated.tasks, "", max_detections=limit)
        return next(iter(image_overlaps(part, self._task, min_score=self._threshold)))

    def _targets(self, items: Items, shown: ShownSize) -> Targets:
        return Targets(
            image_size=shown.size,
            boxes=shown.boxes(items),
            classes=self._classes(items),
            masks=shown.masks(items) if self._task == SEGM else None,
            keypoints=shown.keypoints(items) if KEYPOINTS in self._evaluated.tasks else None,
        )

    def _detections(self, items: Items, shown: ShownSize) -> Detections:
        return Detections(
            image_size=shown.size,
            boxes=shown.boxes(items),
            scores=torch.tensor([item["score"] for item in items], dtype=torch.float32),
            classes=self._classes(items),
            masks=shown.masks(items) if self._task == SEGM else None,
            keypoints=shown.keypoints(items) if KEYPOINTS in self._evaluated.tasks else None,
        )

    def _classes(self, items: Items) -> torch.Tensor:
        return torch.tensor([self._class_of[item["category_id"]] for item in items], dtype=torch.int64)


def _resized(pixels: NDArray[np.uint8], size: ImageSize) -> Picture:
    height, width = size
    if pixels.shape[:2] == size:
        return pixels
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0))


def jpeg_within(picture: Picture, limit: int) -> bytes:
    """A JPEG file of at most a size, smaller and coarser where necessary; empty where even that is too large.

    Args:
        picture: (H, W, 3) RGB.
        limit: bytes.
    """
    first = _jpeg(picture, *ATTEMPTS[0])
    if len(first) <= limit:
        return first
    for scale, quality in ATTEMPTS[1:]:
        expected = len(first) * scale**2 * quality / ATTEMPTS[0][1]
        if expected <= UNLIKELY * limit:
            content = _jpeg(picture, scale, quality)
            if len(content) <= limit:
                return content
    return b""


def _jpeg(picture: Picture, scale: float, quality: int) -> bytes:
    height, width = picture.shape[:2]
    content = io.BytesIO()
    small = _resized(picture, (max(1, round(height * scale)), max(1, round(width * scale))))
    Image.fromarray(small).save(content, format="JPEG", quality=quality, optimize=True)
    return content.getvalue()
