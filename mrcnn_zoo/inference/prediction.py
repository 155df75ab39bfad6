"""The prediction for one image: boxes with class names, COCO results, and a picture."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mrcnn_zoo.data.keypoints import PIXEL_CENTER
from mrcnn_zoo.data.records import ImageSource
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inference.thresholds import ScoreThreshold, reaches
from mrcnn_zoo.inspection.draw import draw_instances
from mrcnn_zoo.ops.rle import area as rle_area
from mrcnn_zoo.structures import Detections
from mrcnn_zoo.structures.summary import summary

OBJECT = "object"  # class name of detections without classes


@dataclass(frozen=True, repr=False)
class Prediction:
    """The detected objects of one image in descending order of score, in pixels of the given image, on the CPU."""

    name: str  # the file, or "image 1", "image 2", ...
    image_id: int  # 1, 2, ... in the order of the images
    pixels: NDArray[np.generic]  # (H, W, C) RGB, or the input channels of the model
    detections: Detections
    class_names: tuple[str, ...]  # by class index
    category_ids: tuple[int, ...]  # of the training data, by class index
    source: ImageSource | None = None  # of the pixels

    def __len__(self) -> int:
        return len(self.detections)

    def __repr__(self) -> str:
        return summary(self)

    @property
    def names(self) -> list[str]:
        """The class name of each object."""
        return [self.class_names[index] for index in self.detections.classes.tolist()]

    @property
    def scores(self) -> Tensor:
        """(R,) float32 in [0, 1]."""
        return self.detections.scores

    @property
    def boxes(self) -> Tensor:
        """(R, 4) float32, x1 y1 x2 y2."""
        return self.detections.boxes

    @property
    def masks(self) -> Tensor | None:
        """(R, H, W) bool, computed at each access; None for models without masks."""
        return None if self.detections.masks is None else self.detections.masks.bitmaps()

    @property
    def keypoints(self) -> Tensor | None:
        """(R, J, 3) float32, x, y and score; None for models without keypoints."""
        return self.detections.keypoints

    def above(self, threshold: ScoreThreshold) -> "Prediction":
        """The objects whose score is at least a threshold.

        Args:
            threshold: in [0, 1]; of all classes, or by class index.
        """
        return replace(self, detections=self.detections[reaches(self.detections, threshold)])

    def to_coco(self, *, image_id: int | str | None = None) -> list[dict[str, Any]]:
        """The objects as COCO results, with the additional entry "file_name".

        Args:
            image_id: id of the image in the annotations; by default its number.
        """
        number = self.image_id if image_id is None else image_id
        categories = list(zip(self.category_ids, self.class_names, strict=True))
        return [{**row, "file_name": self.name} for row in coco_rows(self.detections, number, categories)]

    def draw(self, *, has_labels: bool = True, opacity: float = 0.4) -> Image.Image:
        """The image with masks, boxes, keypoints and labels; small images are enlarged to keep labels readable.

        Args:
            has_labels: whether class and score are drawn.
            opacity: of the masks, in [0, 1].

        Raises:
            UserError: the opacity is out of range.
        """
        if not 0 <= opacity <= 1:
            raise UserError(f"opacity = {opacity} must be in [0, 1].")
        picture = draw_instances(self.pixels, self.detections, self.class_names, has_labels=has_labels, opacity=opacity)
        return Image.fromarray(picture)


def coco_rows(found: Detections, image_id: int | str, categories: Sequence[tuple[int, str]]) -> list[dict[str, Any]]:
    """Detections of one image as COCO results, with category names and areas.

    Args:
        found: detections in pixels of the original image.
        image_id: id of the image.
        categories: category id and name by class index.
    """
    rles = [None] * len(found) if found.masks is None else found.masks.rles()
    points = [None] * len(found) if found.keypoints is None else coco_points(found)
    columns = zip(found.boxes.tolist(), found.scores.tolist(), found.classes.tolist(), rles, points, strict=True)
    rows = []
    for (x1, y1, x2, y2), score, index, rle, keypoints in columns:
        row: dict[str, Any] = {
            "image_id": image_id,
            "category_id": categories[index][0],
            "category_name": categories[index][1],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1) if rle is None else rle_area(rle),  # of the mask, in pixels
            "score": score,
        }
        if rle is not None:
            row["segmentation"] = rle
        if keypoints is not None:
            row["keypoints"] = keypoints
        rows.append(row)
    if found.mask_scores is not None:  # by which masks are ranked
        for row, score in zip(rows, found.mask_scores.tolist(), strict=True):
            row["mask_score"] = score
    return rows


def coco_points(found: Detections) -> list[list[float]]:
    """Keypoints of each detection as in COCO results: x1, y1, score1, x2, ...

    Args:
        found: R detections with keypoints.

    Raises:
        UserError: the detections have no keypoints.
    """
    if found.keypoints is None:
        raise UserError(
            "MODEL.KEYPOINT_ON is True, so keypoints are evaluated, but the detections of the model have none."
        )
    shift = found.keypoints.new_tensor((PIXEL_CENTER, PIXEL_CENTER, 0.0))
    return (found.keypoints - shift).detach().cpu().double().flatten(1).tolist()
