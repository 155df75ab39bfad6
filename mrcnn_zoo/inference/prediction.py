"""What a detector finds in one image: boxes with names, in COCO's form, and as a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mrcnn_zoo.data.keypoints import PIXEL_CENTER
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inspection.draw import draw_instances
from mrcnn_zoo.ops.rle import area as rle_area
from mrcnn_zoo.structures import Detections
from mrcnn_zoo.structures.summary import summary

OBJECT = "object"  # the class of what has none


@dataclass(frozen=True, repr=False)
class Prediction:
    """The objects in one image, best first, in pixels of the image as it was given; its tensors are on the CPU."""

    name: str  # the file, or "image 1" and so on where there is none
    image_id: int  # 1, 2, ... in the order of the images
    pixels: NDArray[np.generic]  # (H, W, C) RGB, or as many other channels as the model sees
    detections: Detections
    class_names: tuple[str, ...]  # by class index
    category_ids: tuple[int, ...]  # of the training data, by class index

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
        """(R, H, W) bool; None of a model without masks. Made anew at each call: a full image for each object."""
        return None if self.detections.masks is None else self.detections.masks.bitmaps()

    @property
    def keypoints(self) -> Tensor | None:
        """(R, J, 3) float32, x, y and score; None of a model without keypoints."""
        return self.detections.keypoints

    def to_coco(self, *, image_id: int | str | None = None) -> list[dict[str, Any]]:
        """The objects as rows of a COCO results file, each with the file name of its image beside COCO's entries.

        Args:
            image_id: of the rows, to measure them against annotations that call the image so.
        """
        number = self.image_id if image_id is None else image_id
        categories = list(zip(self.category_ids, self.class_names, strict=True))
        return [{**row, "file_name": self.name} for row in coco_rows(self.detections, number, categories)]

    def draw(self, *, has_labels: bool = True, opacity: float = 0.4) -> Image.Image:
        """The image with masks, boxes, keypoints and names; small images are enlarged so that names can be read.

        Args:
            has_labels: whether class and score are written at the objects.
            opacity: of the masks, from 0 to 1.

        Raises:
            UserError: another opacity.
        """
        if not 0 <= opacity <= 1:
            raise UserError(f"opacity = {opacity} must be in [0, 1].")
        picture = draw_instances(self.pixels, self.detections, self.class_names, has_labels=has_labels, opacity=opacity)
        return Image.fromarray(picture)


def coco_rows(found: Detections, image_id: int | str, categories: Sequence[tuple[int, str]]) -> list[dict[str, Any]]:
    """Detections of an image as rows of a COCO results file, with names and areas.

    Args:
        found: in pixels of the original image.
        image_id: of the image.
        categories: id and name by class index.
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
    if found.mask_scores is not None:  # the scores that masks are ranked by
        for row, score in zip(rows, found.mask_scores.tolist(), strict=True):
            row["mask_score"] = score
    return rows


def coco_points(found: Detections) -> list[list[float]]:
    """The keypoints of each detection as a results file has them: x, y and score of one after the other.

    Raises:
        UserError: detections without keypoints.
    """
    if found.keypoints is None:
        raise UserError(
            "MODEL.KEYPOINT_ON is True, so keypoints are to be measured, but the model's detections carry none."
        )
    shift = found.keypoints.new_tensor((PIXEL_CENTER, PIXEL_CENTER, 0.0))
    return (found.keypoints - shift).detach().cpu().double().flatten(1).tolist()
