"""Results of Label Studio as objects: polygons, rectangles, ellipses, brush masks and bitmasks."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mrcnn_zoo.data.annotations.objects import AnnotatedObject, read_score
from mrcnn_zoo.data.annotations.shapes import box_polygon, ellipse_polygon, rotated
from mrcnn_zoo.data.field_rules import short_repr
from mrcnn_zoo.data.formats.label_studio_brush import decode_brush
from mrcnn_zoo.data.images.embedded import open_base64
from mrcnn_zoo.data.records import RepairLog
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.ops import rle
from mrcnn_zoo.structures import ImageSize

MAX_PERCENT = 200.0  # regions may reach a little outside the image; pixels are larger
DECIMALS = 6  # of pixels, so that points which were pixels before are the same again


@dataclass(frozen=True)
class LabelStudioResult:
    """The results with one id: a region and its labels.

    Args:
        place: file and task, for messages.
        where: the task, for messages.
        items: as in the file.
        size: (height, width) of the image.
    """

    place: str
    where: str
    items: Sequence[Mapping[str, Any]]
    size: ImageSize

    def read(self, repairs: RepairLog) -> AnnotatedObject | None:
        """The object; None for results that are no regions or have no label.

        Args:
            repairs: counts what is left out.

        Raises:
            UserError: naming the file, the task, the result and the field.
        """
        values = [item["value"] for item in self.items if isinstance(item.get("value"), dict)]
        region = next((value for value in values if _kind(value)), None)
        if region is None:
            repairs.add("results without an area left out", [self.place])
            return None
        if any(item.get("image_rotation") for item in self.items):
            repairs.add("regions on images that were rotated in Label Studio left out", [self.place])
            return None
        labels = [label for value in values for label in _labels(value)]
        if not labels:
            repairs.add("regions without a label left out", [self.place])
            return None
        if len(labels) > 1:
            repairs.add("regions with several labels given the first", [self.place])
        score = next((item["score"] for item in self.items if item.get("score") is not None), None)
        shape = self._shape(region)
        return AnnotatedObject(
            labels[0],
            self.where,
            segmentation=shape.get("segmentation"),
            box=shape.get("box"),
            score=read_score(score, place=self.place, repairs=repairs),
        )

    def _shape(self, value: Mapping[str, Any]) -> dict[str, Any]:
        """The segmentation or box of a region in pixels."""
        kind, (height, width) = _kind(value), self.size
        if kind == "brush":
            return {"segmentation": rle.encode(self._brush(value))}
        if kind == "bitmask":
            return {"segmentation": rle.encode(self._bitmask(value))}
        if kind == "polygon":
            points = value["points"]
            is_list = isinstance(points, list) and all(isinstance(point, list) and len(point) == 2 for point in points)
            if not is_list:
                raise self._error("points", points, "a list of points [x, y] in percent")
            numbers = [self._percent("points", number) for point in points for number in point]
            pixels = [number * (width, height)[place % 2] for place, number in enumerate(numbers)]
            return {"segmentation": [[round(number, DECIMALS) for number in pixels]]}
        x, y = self._percent("x", value.get("x")) * width, self._percent("y", value.get("y")) * height
        angle = math.radians(100 * self._percent("rotation", value.get("rotation") or 0, limit=360))
        if kind == "ellipse":
            radii = [
                self._percent("radiusX", value["radiusX"]) * width,
                self._percent("radiusY", value.get("radiusY")) * height,
            ]
            return {"segmentation": [ellipse_polygon((x, y), radii=radii, angle=angle)]}
        right = x + self._percent("width", value["width"]) * width
        bottom = y + self._percent("height", value.get("height")) * height
        if angle == 0:
            return {"box": [round(number, DECIMALS) for number in (x, y, right, bottom)]}
        return {"segmentation": [rotated(box_polygon([x, y, right, bottom]), angle=angle, about=(x, y))]}

    def _brush(self, value: Mapping[str, Any]) -> Any:
        try:
            return decode_brush(value["rle"], self.size)
        except (ValueError, TypeError) as error:
            raise self._error("rle", value["rle"], f"run lengths of Label Studio ({error})") from error

    def _bitmask(self, value: Mapping[str, Any]) -> Any:
        text = str(value["imageDataURL"]).rpartition(",")[2]
        pixels = np.asarray(open_base64(text, what=f"{self.place}: 'imageDataURL'").convert("RGBA"))
        if pixels.shape[:2] != self.size:
            raise self._error("imageDataURL", pixels.shape[:2], f"an image of (height, width) {self.size}")
        return (pixels[..., 3] > 0) & pixels[..., :3].any(axis=2)

    def _percent(self, field: str, value: Any, *, limit: float = MAX_PERCENT) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._error(field, value, "a number")
        if not abs(value) <= limit:
            raise self._error(field, value, "in percent of the image's width or height, from 0 to 100, not in pixels")
        return float(value) / 100

    def _error(self, field: str, value: Any, words: str) -> UserError:
        return UserError(
            f"{self.place} has {field} {short_repr(value)}, which must be {words}. Correct it, or remove the result."
        )


def _kind(value: Mapping[str, Any]) -> str:
    """The kind of a region, from the fields of its value; "" for others, such as keypoints and choices."""
    if value.get("points"):
        return "polygon"
    fields = (("brush", "rle"), ("bitmask", "imageDataURL"), ("ellipse", "radiusX"))
    kind = next((kind for kind, field in fields if field in value), "")
    return kind or ("rectangle" if {"x", "y", "width", "height"} <= value.keys() else "")


def _labels(value: Mapping[str, Any]) -> list[str]:
    return [
        str(label)
        for key, labels in value.items()
        if key.endswith("labels") and isinstance(labels, list)
        for label in labels
        if isinstance(label, str | int) and not isinstance(label, bool)
    ]
