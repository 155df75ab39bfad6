"""Label errors planted into a ground truth, and how many of them are among the first suspects."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mrcnn_zoo.evaluation.label_errors import Suspect
from mrcnn_zoo.ops import rle

Annotation = dict[str, Any]
KINDS = ("missing", "extra", "wrong class", "loose", "merged")
SHIFTED_IOU = (0.3, 0.7)  # of the shifted box with the original one
EMPTY_SHARE = 0.1  # of an extra object that may lie on others
FOUND_IOU = 0.5  # of the removed object with the detection of a suspect
TRIALS = 200


@dataclass(frozen=True)
class Planted:
    """One planted error."""

    kind: str
    image_id: int
    annotation_id: int  # of the wrong annotation; 0 for a missing one
    box: tuple[float, ...]  # x, y, width, height of the removed or wrong annotation


def plant_errors(
    ground_truth: dict[str, Any], *, seed: int, per_kind: int = 10, kinds: Sequence[str] = KINDS
) -> tuple[dict[str, Any], list[Planted]]:
    """A copy of a COCO dataset with label errors, each in other annotations; crowds are not changed.

    Args:
        ground_truth: with masks as compressed RLE, or boxes alone.
        seed: of the choice.
        per_kind: errors of each kind.
        kinds: of `KINDS`.
    """
    planter = _Planter(ground_truth, np.random.default_rng(seed))
    planted = [planter.plant(kind) for kind in kinds for _ in range(per_kind)]
    annotations = [annotation for of_image in planter.by_image.values() for annotation in of_image]
    return ground_truth | {"annotations": annotations}, planted


class _Planter:
    def __init__(self, ground_truth: dict[str, Any], random: np.random.Generator) -> None:
        self.images = {image["id"]: image for image in ground_truth["images"]}
        self.by_image: dict[int, list[Annotation]] = {image_id: [] for image_id in self.images}
        for annotation in ground_truth["annotations"]:
            self.by_image[annotation["image_id"]].append(annotation)
        self._all = [item for item in ground_truth["annotations"] if not item.get("iscrowd")]
        self._class_ids = [category["id"] for category in ground_truth["categories"]]
        self._random = random
        self._changed: set[int] = set()
        self._next_id = max(item["id"] for item in self._all) + 1

    def plant(self, kind: str) -> Planted:
        """One error of a kind."""
        method = {
            "missing": self._remove,
            "extra": self._add,
            "wrong class": self._change_class,
            "loose": self._shift,
            "merged": self._merge,
        }[kind]
        return method()

    def _remove(self) -> Planted:
        chosen = self._choose()
        self._replace([chosen], [])
        return Planted("missing", chosen["image_id"], 0, tuple(chosen["bbox"]))

    def _add(self) -> Planted:
        """The shape of an object of the dataset at a place without objects."""
        image_ids = list(self.images)
        for _ in range(TRIALS):
            image = self.images[image_ids[self._random.integers(len(image_ids))]]
            shape = self._all[self._random.integers(len(self._all))]
            _, _, width, height = shape["bbox"]
            if width >= image["width"] or height >= image["height"]:
                continue
            x, y = self._random.uniform(0, (image["width"] - width, image["height"] - height)).round()
            moved = _moved(shape, (x, y), image)
            others = self.by_image[image["id"]]
            if all(_shared(moved["bbox"], other["bbox"]) < EMPTY_SHARE * width * height for other in others):
                added = moved | {"id": self._next_id, "image_id": image["id"]}
                self._next_id += 1
                self._replace([], [added])
                return Planted("extra", image["id"], added["id"], tuple(added["bbox"]))
        raise ValueError("no image has an empty place for another object")

    def _change_class(self) -> Planted:
        chosen = self._choose()
        others = [class_id for class_id in self._class_ids if class_id != chosen["category_id"]]
        changed = chosen | {"category_id": others[self._random.integers(len(others))]}
        self._replace([chosen], [changed])
        return Planted("wrong class", chosen["image_id"], chosen["id"], tuple(chosen["bbox"]))

    def _shift(self) -> Planted:
        for _ in range(TRIALS):
            chosen = self._choose()
            x, y, width, height = chosen["bbox"]
            angle, length = self._random.uniform(0, 2 * np.pi), self._random.uniform(0.1, 0.6)
            image = self.images[chosen["image_id"]]
            place = np.round((x + np.cos(angle) * length * width, y + np.sin(angle) * length * height))
            place = np.clip(place, 0, (image["width"] - width, image["height"] - height))
            moved = _moved(chosen, tuple(place), image)
            if SHIFTED_IOU[0] <= box_iou(moved["bbox"], chosen["bbox"]) <= SHIFTED_IOU[1]:
                self._replace([chosen], [moved])
                return Planted("loose", chosen["image_id"], chosen["id"], tuple(moved["bbox"]))
            self._changed.discard(chosen["id"])
        raise ValueError("no object can be shifted")

    def _merge(self) -> Planted:
        """An object joined with its nearest neighbour, if the gap is below half of their mean side."""
        for _ in range(TRIALS):
            chosen = self._choose()
            others = [
                item
                for item in self.by_image[chosen["image_id"]]
                if item["id"] not in self._changed and not item.get("iscrowd")
            ]
            nearest = min(others, key=lambda item: _gap(chosen["bbox"], item["bbox"]), default=None)
            sides = [] if nearest is None else [*chosen["bbox"][2:], *nearest["bbox"][2:]]
            if nearest is not None and _gap(chosen["bbox"], nearest["bbox"]) < np.mean(sides) / 2:
                self._changed.add(nearest["id"])
                joined = _joined(chosen, nearest)
                self._replace([chosen, nearest], [joined])
                return Planted("merged", chosen["image_id"], joined["id"], tuple(joined["bbox"]))
            self._changed.discard(chosen["id"])
        raise ValueError("no two objects are near each other")

    def _choose(self) -> Annotation:
        free = [item for item in self._all if item["id"] not in self._changed]
        chosen = free[self._random.integers(len(free))]
        self._changed.add(chosen["id"])
        return chosen

    def _replace(self, old: Sequence[Annotation], new: Sequence[Annotation]) -> None:
        image_id = (*old, *new)[0]["image_id"]
        gone = {item["id"] for item in old}
        self.by_image[image_id] = [*(item for item in self.by_image[image_id] if item["id"] not in gone), *new]


def _moved(annotation: Annotation, place: Sequence[float], image: dict[str, Any]) -> Annotation:
    """The annotation with its box at another place (x, y), in whole pixels from its own."""
    x, y, width, height = annotation["bbox"]
    moved = annotation | {"bbox": [float(place[0]), float(place[1]), width, height]}
    if "segmentation" not in annotation:
        return moved
    window = rle.decode_window(annotation["segmentation"])
    assert window is not None
    x1, y1, x2, y2 = window.box
    left, top = round(x1 + place[0] - x), round(y1 + place[1] - y)
    canvas = np.zeros((image["height"] + 2 * (y2 - y1) + 2, image["width"] + 2 * (x2 - x1) + 2), dtype=bool)
    margin_y, margin_x = y2 - y1 + 1, x2 - x1 + 1
    canvas[top + margin_y : top + margin_y + y2 - y1, left + margin_x : left + margin_x + x2 - x1] = window.bitmap
    inside = canvas[margin_y : margin_y + image["height"], margin_x : margin_x + image["width"]]
    return moved | {"segmentation": rle.encode(inside), "area": float(inside.sum())}


def _joined(first: Annotation, second: Annotation) -> Annotation:
    """The union of two annotations, with the id and class of the larger one."""
    x, y = (min(first["bbox"][axis], second["bbox"][axis]) for axis in (0, 1))
    right, bottom = (max(item["bbox"][axis] + item["bbox"][2 + axis] for item in (first, second)) for axis in (0, 1))
    larger = max((first, second), key=lambda item: item["area"])
    joined = larger | {"bbox": [x, y, right - x, bottom - y]}
    if "segmentation" in larger:
        joined["segmentation"] = rle.merge([first["segmentation"], second["segmentation"]])
        joined["area"] = float(rle.area(joined["segmentation"]))
    return joined


def _shared(first: Sequence[float], second: Sequence[float]) -> float:
    """Square pixels that two boxes (x, y, width, height) share."""
    sides = [
        min(first[axis] + first[2 + axis], second[axis] + second[2 + axis]) - max(first[axis], second[axis])
        for axis in (0, 1)
    ]
    return max(0.0, sides[0]) * max(0.0, sides[1])


def _gap(first: Sequence[float], second: Sequence[float]) -> float:
    """Pixels between two boxes along the axis in which they are further apart; negative if they overlap."""
    return max(
        max(first[axis], second[axis]) - min(first[axis] + first[2 + axis], second[axis] + second[2 + axis])
        for axis in (0, 1)
    )


def box_iou(first: Sequence[float], second: Sequence[float]) -> float:
    """IoU of two boxes (x, y, width, height)."""
    shared = _shared(first, second)
    return shared / (first[2] * first[3] + second[2] * second[3] - shared)


def count_found(planted: Sequence[Planted], suspects: Sequence[Suspect], *, kind_matters: bool) -> Counter[str]:
    """Planted errors that are among the suspects, by their kind.

    A missing object is found by a suspect whose detection has a box IoU of at least 0.5 with it, another error by a
    suspect that names its annotation.

    Args:
        planted: see `plant_errors`.
        suspects: the first ones.
        kind_matters: whether the suspect must have the planted kind.
    """
    return Counter(
        error.kind
        for error in planted
        if any(_names(suspect, error) and (suspect.kind == error.kind or not kind_matters) for suspect in suspects)
    )


def _names(suspect: Suspect, error: Planted) -> bool:
    if suspect.image["id"] != error.image_id:
        return False
    if error.kind == "missing":
        return any(box_iou(row["bbox"], error.box) >= FOUND_IOU for row in suspect.detections)
    return any(item["id"] == error.annotation_id for item in suspect.annotations)
