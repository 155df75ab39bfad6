"""Pictures of a run report: images with what is found, wrong and missed; crops; JPEG files within a size."""

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.evaluation.backends import KEYPOINTS
from mrcnn_zoo.evaluation.ground_truth import BBOX, SEGM
from mrcnn_zoo.evaluation.metrics.cells import match_one_to_one
from mrcnn_zoo.evaluation.metrics.contract import Evaluated
from mrcnn_zoo.evaluation.metrics.overlaps import ImageOverlaps, image_overlaps
from mrcnn_zoo.evaluation.operating_points import MATCH_IOU
from mrcnn_zoo.inspection.canvas import Color, Picture, to_picture
from mrcnn_zoo.inspection.draw import draw_instances
from mrcnn_zoo.ops.rle import decode_window
from mrcnn_zoo.structures import BoxedBitmaps, Detections, ImageSize, Targets

SIDE = 480  # pixels of the longer side of an image
CROP_SIDE = 400
CROP_MARGIN = 0.6  # around a box, relative to its longer side
MIN_CROP = 32  # pixels of the image
OPACITY = 0.25  # of masks
EMPHASIS = 1.8  # of lines and letters: a picture is shown in about half of its size
CROP_EMPHASIS = 2.5
MAX_LABELED = 25  # instances of an image up to which their labels are drawn
DARK = 110  # brightest value of a crop that is brightened
# Colours of Okabe and Ito 2008, which colour-blind people distinguish.
CORRECT: Color = (0, 158, 115)
WRONG: Color = (213, 94, 0)
MISSED: Color = (240, 178, 20)
NEUTRAL: Color = (120, 120, 120)  # crowds, and detections in them
# Scale and quality of the attempts at a JPEG file that is small enough.
UNLIKELY = 1.5  # ratio of the expected size to the limit from which an attempt is not made
ATTEMPTS = ((1.0, 82), (1.0, 70), (0.8, 70), (0.6, 65), (0.45, 60), (0.3, 50), (0.15, 40))

Items = Sequence[Mapping[str, Any]]  # annotations, or rows of a results file


@dataclass(frozen=True)
class Frame:
    """A part of an image that is shown at another size."""

    left: int
    top: int
    right: int
    bottom: int
    size: ImageSize  # (height, width) of the picture

    @property
    def scale(self) -> tuple[float, float]:
        """In x and y."""
        return self.size[1] / (self.right - self.left), self.size[0] / (self.bottom - self.top)

    def points(self, values: torch.Tensor) -> torch.Tensor:
        """Pixels of the image -> pixels of the picture.

        Args:
            values: (..., 2) x, y.
        """
        return (values - torch.tensor([self.left, self.top])) * torch.tensor(self.scale)

    def boxes(self, items: Items) -> torch.Tensor:
        """(R, 4) corners in the picture."""
        boxes = torch.tensor([item["bbox"] for item in items], dtype=torch.float32).reshape(-1, 2, 2)
        corners = torch.stack([boxes[:, 0], boxes.sum(dim=1)], dim=1)
        return self.points(corners).flatten(1)

    def masks(self, items: Items) -> BoxedBitmaps:
        """Masks of the picture; empty for objects without."""
        origins, bitmaps = [], []
        for item in items:
            window = decode_window(item["segmentation"]) if item.get("segmentation") else None
            origin, bitmap = (0, 0), np.zeros((0, 0), dtype=np.uint8)
            if window is not None:
                x1, y1, x2, y2 = window.box
                left, top = max(x1, self.left), max(y1, self.top)
                right, bottom = max(left, min(x2, self.right)), max(top, min(y2, self.bottom))
                bitmap = np.ascontiguousarray(window.bitmap[top - y1 : bottom - y1, left - x1 : right - x1])
                origin = (left - self.left, top - self.top) if bitmap.size else origin
            origins.append(origin)
            bitmaps.append(bitmap if bitmap.size else np.zeros((0, 0), dtype=np.uint8))
        part = (self.bottom - self.top, self.right - self.left)
        masks = BoxedBitmaps.from_windows(origins, bitmaps, part)
        return masks if part == self.size else masks.resized(self.size, self.boxes(items))

    def keypoints(self, items: Items) -> torch.Tensor | None:
        """(R, J, 3) in the picture; None where an item has none."""
        if not items or any("keypoints" not in item for item in items):
            return None
        points = torch.tensor([item["keypoints"] for item in items], dtype=torch.float32).unflatten(1, (-1, 3))
        return torch.cat([self.points(points[..., :2]), points[..., 2:]], dim=2)


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
        self._task = SEGM if SEGM in evaluated.tasks else BBOX
        self._class_of = {number: place for place, number in enumerate(evaluated.category_ids)}
        self._objects, self._rows = defaultdict(list), defaultdict(list)
        for annotation in evaluated.ground_truth["annotations"]:
            self._objects[annotation["image_id"]].append(annotation)
        for row in evaluated.rows:
            self._rows[row["image_id"]].append(row)
        self._images = {image["id"]: image for image in evaluated.ground_truth["images"]}
        self._read = lru_cache(maxsize=1)(self._read_image)

    def pair(self, image_id: Any, *, side: int = SIDE) -> tuple[Picture, Picture]:
        """An image with its annotations, found ones green and missed ones yellow; and with the detections.

        Detections of at least the threshold are drawn, correct ones green and wrong ones red.

        Args:
            image_id: of the dataset.
            side: maximum length of its longer side.

        Raises:
            UserError: the image cannot be read.
        """
        overlaps = self._overlaps(image_id)
        ious = np.where(overlaps.same_class & ~overlaps.is_crowd, overlaps.ious, 0.0)
        rows, columns = (places.tolist() for places in match_one_to_one(ious, MATCH_IOU))
        in_crowd = np.any(overlaps.ious[:, overlaps.is_crowd] >= MATCH_IOU, axis=1)
        of_objects = [NEUTRAL if is_crowd else MISSED for is_crowd in overlaps.is_crowd.tolist()]
        of_rows = [NEUTRAL if is_in else WRONG for is_in in in_crowd.tolist()]
        for row, column in zip(rows, columns, strict=True):
            of_rows[row] = of_objects[column] = CORRECT
        pixels = self._read(image_id)
        height, width = pixels.shape[:2]
        scale = min(1.0, side / max(height, width))
        frame = Frame(0, 0, width, height, (max(1, round(height * scale)), max(1, round(width * scale))))
        picture = _shown(pixels, frame)

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
            draw(self._targets(overlaps.objects, frame), of_objects),
            draw(self._detections(overlaps.rows, frame), of_rows),
        )

    def crop(
        self, image_id: Any, box: Sequence[float], *, objects: Items = (), rows: Items = (), side: int = CROP_SIDE
    ) -> Picture:
        """The surroundings of a box, brightened where they are dark, with annotations (yellow) and detections (red).

        Args:
            image_id: of the dataset.
            box: x, y, width, height in pixels of the image.
            objects: annotations to draw.
            rows: detections to draw.
            side: length of its longer side.

        Raises:
            UserError: the image cannot be read.
        """
        pixels = self._read(image_id)
        left, top, right, bottom = _window(box, height=pixels.shape[0], width=pixels.shape[1])
        scale = side / max(right - left, bottom - top)
        size = (max(1, round((bottom - top) * scale)), max(1, round((right - left) * scale)))
        frame = Frame(left, top, right, bottom, size)
        picture = _brightened(_shown(pixels, frame))
        names = self._evaluated.class_names
        yellow, red = [MISSED] * len(objects), [WRONG] * len(rows)
        targets, detections = self._targets(objects, frame), self._detections(rows, frame)
        picture = draw_instances(picture, targets, names, colors=yellow, opacity=0, emphasis=CROP_EMPHASIS)
        return draw_instances(picture, detections, names, colors=red, opacity=0, emphasis=CROP_EMPHASIS)

    def _read_image(self, image_id: Any) -> Picture:
        return to_picture(np.asarray(self._records[image_id].source.read()))

    def _overlaps(self, image_id: Any) -> ImageOverlaps:
        content = {
            **self._evaluated.ground_truth,
            "images": [self._images[image_id]],
            "annotations": self._objects[image_id],
        }
        limit = self._evaluated.max_detections
        part = Evaluated(content, self._rows[image_id], self._evaluated.tasks, "", max_detections=limit)
        return next(iter(image_overlaps(part, self._task, min_score=self._threshold)))

    def _targets(self, items: Items, frame: Frame) -> Targets:
        return Targets(
            image_size=frame.size,
            boxes=frame.boxes(items),
            classes=self._classes(items),
            masks=frame.masks(items) if self._task == SEGM else None,
            keypoints=frame.keypoints(items) if KEYPOINTS in self._evaluated.tasks else None,
        )

    def _detections(self, items: Items, frame: Frame) -> Detections:
        return Detections(
            image_size=frame.size,
            boxes=frame.boxes(items),
            scores=torch.tensor([item["score"] for item in items], dtype=torch.float32),
            classes=self._classes(items),
            masks=frame.masks(items) if self._task == SEGM else None,
            keypoints=frame.keypoints(items) if KEYPOINTS in self._evaluated.tasks else None,
        )

    def _classes(self, items: Items) -> torch.Tensor:
        return torch.tensor([self._class_of[item["category_id"]] for item in items], dtype=torch.int64)


def _window(box: Sequence[float], *, height: int, width: int) -> tuple[int, int, int, int]:
    """A square around a box, moved into the image, and as narrow as the image where that is smaller."""
    x, y, w, h = box
    side = max(MIN_CROP, (1 + 2 * CROP_MARGIN) * max(w, h))
    across, down = (int(min(np.ceil(side), length)) for length in (width, height))
    left = int(np.clip(round(x + w / 2 - across / 2), 0, width - across))
    top = int(np.clip(round(y + h / 2 - down / 2), 0, height - down))
    return left, top, left + across, top + down


def _shown(pixels: Picture, frame: Frame) -> Picture:
    part = pixels[frame.top : frame.bottom, frame.left : frame.right]
    return _resized(part, frame.size)


def _resized(pixels: NDArray[np.uint8], size: ImageSize) -> Picture:
    height, width = size
    if pixels.shape[:2] == size:
        return pixels
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0))


def _brightened(picture: Picture) -> Picture:
    brightest = float(np.percentile(picture, 99.5))
    if not 0 < brightest < DARK:
        return picture
    return np.clip(picture.astype(np.float32) * (255 / brightest), 0, 255).astype(np.uint8)


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
