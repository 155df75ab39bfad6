"""The prediction for one image: boxes with class names, and its forms for other programs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, floor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mrcnn_zoo.data.images.reading import IMAGE_SUFFIXES
from mrcnn_zoo.data.keypoints import PIXEL_CENTER
from mrcnn_zoo.data.records import Dataset, ImageSource
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inference.object_table import table_columns, table_rows
from mrcnn_zoo.inference.predicted_dataset import predicted_dataset, save_predictions
from mrcnn_zoo.inference.thresholds import ScoreThreshold, reaches
from mrcnn_zoo.inspection.draw import draw_instances
from mrcnn_zoo.ops.masks import MaskWindow
from mrcnn_zoo.ops.rle import area as rle_area
from mrcnn_zoo.structures import Detections, mask_windows
from mrcnn_zoo.structures.summary import summary

if TYPE_CHECKING:
    from pandas import DataFrame

INSTALL_PANDAS = 'pip install "mrcnn_zoo[tables]"'
UINT16_MAX = 65535
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

    def table_rows(self) -> list[dict[str, object]]:
        """The values of each object by column, see `table_columns`."""
        return table_rows(self.detections, self.pixels, image=self.name, class_names=self.class_names)

    def to_dataframe(self) -> "DataFrame":
        """A pandas data frame with one row per object: image, class, score, box, measurements.

        In pixels of the image: "area" of the mask, or of the box without masks; "centroid_x" and "centroid_y", where
        the centre of the first pixel is at (0.5, 0.5) as in boxes; "perimeter"; mean intensity per channel, see
        `table_columns`. Concatenate those of several images with `pandas.concat`.

        Raises:
            UserError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise UserError(f"Prediction.to_dataframe needs pandas: {INSTALL_PANDAS}.") from error
        columns = table_columns(self.pixels.shape[2], has_mask_scores=self.detections.mask_scores is not None)
        types = dict.fromkeys(columns[2:], "float64")  # also without rows; after image and class
        types["area"] = "float64" if self.detections.masks is None else "int64"  # of the box, or pixels of the mask
        return pandas.DataFrame(self.table_rows(), columns=list(columns)).astype(types)

    def to_label_image(self, *, by_class: bool = False) -> NDArray[np.uint16] | NDArray[np.uint32]:
        """(H, W) with the number of the object at each pixel, row r of the prediction as r + 1, and 0 elsewhere.

        A pixel of several objects gets the one with the highest score.

        Args:
            by_class: class index + 1 in place of the number.

        Returns:
            uint16; uint32 for more than 65,535 numbers.

        Raises:
            UserError: the model predicts no masks.
        """
        windows = self._mask_windows("to_label_image")
        values = [index + 1 for index in self.detections.classes.tolist()] if by_class else range(1, len(self) + 1)
        largest = len(self.class_names) if by_class else len(self)
        image = np.zeros(self.detections.image_size, np.uint16 if largest <= UINT16_MAX else np.uint32)
        for row in self.scores.argsort(stable=True, descending=True).flip(0).tolist():  # the best one last
            x, y, bitmap = windows[row]
            image[y : y + bitmap.shape[0], x : x + bitmap.shape[1]][bitmap != 0] = values[row]
        return image

    def crops(self, *, padding: int = 0, masked: bool = False) -> list[NDArray[np.generic]]:
        """The part of the image in each box, with all pixels that the box touches: R of (h, w, C).

        Args:
            padding: pixels added on each side, as far as the image reaches.
            masked: whether pixels outside the mask of the object are 0.

        Raises:
            UserError: a negative padding, or no masks to crop by.
        """
        if not isinstance(padding, int) or padding < 0:
            raise UserError(f"padding = {padding} must be a whole number of at least 0 pixels.")
        windows = self._mask_windows("crops(masked=True)") if masked else [None] * len(self)
        height, width = self.detections.image_size
        found = []
        for (x1, y1, x2, y2), window in zip(self.boxes.tolist(), windows, strict=True):
            left, top = max(0, floor(x1) - padding), max(0, floor(y1) - padding)
            right, bottom = min(width, ceil(x2) + padding), min(height, ceil(y2) + padding)
            part = self.pixels[top:bottom, left:right].copy()
            if window is not None:
                part[~_cut(window, left, top, part.shape[:2])] = 0
            found.append(part)
        return found

    def to_dataset(self) -> Dataset:
        """The image with its objects as a dataset; one without a pixel in its mask is left out."""
        return predicted_dataset([self], self.class_names, self.category_ids)

    def save(
        self,
        folder: str | Path,
        *,
        format: str = "coco",
        copies_images: bool | None = None,
        tolerance: float = 0.0,
        may_overwrite: bool = False,
    ) -> tuple[str, ...]:
        """Write a dataset of this image; `save_predictions` writes one of several, and describes the arguments.

        Args:
            folder: new or empty.
            format: "coco", "labelme", ...
            copies_images: whether the image file is copied into the folder.
            tolerance: in pixels, of polygons.
            may_overwrite: whether a dataset that was written before is replaced.

        Raises:
            UserError: a folder in use, or the name of a picture.
        """
        if Path(folder).suffix.lower() in IMAGE_SUFFIXES:
            raise UserError(f"{folder}: save writes a dataset; for a picture, call draw().save({str(folder)!r}).")
        return save_predictions(
            [self],
            folder,
            format=format,
            copies_images=copies_images,
            tolerance=tolerance,
            may_overwrite=may_overwrite,
        )

    def _mask_windows(self, method: str) -> list[MaskWindow]:
        if self.detections.masks is None:
            raise UserError(f"Prediction.{method} needs masks, and the model predicts none: MODEL.MASK_ON is False.")
        return mask_windows(self.detections)

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


def _cut(window: MaskWindow, left: int, top: int, size: tuple[int, ...]) -> NDArray[np.bool_]:
    """The part of a mask in a rectangle of the image, (h, w).

    Args:
        window: of the mask.
        left: of the rectangle.
        top: of the rectangle.
        size: (h, w) of the rectangle.
    """
    part = np.zeros(size, dtype=np.bool_)
    height, width = window.bitmap.shape
    x1, y1 = max(left, window.x), max(top, window.y)
    x2, y2 = min(left + size[1], window.x + width), min(top + size[0], window.y + height)
    if x1 < x2 and y1 < y2:
        inside = window.bitmap[y1 - window.y : y2 - window.y, x1 - window.x : x2 - window.x]
        part[y1 - top : y2 - top, x1 - left : x2 - left] = inside
    return part


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
