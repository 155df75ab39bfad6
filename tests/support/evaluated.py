"""Ground truth and detections of metrics: rectangles with masks that fill them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mrcnn_zoo.evaluation.metrics.contract import Evaluated
from mrcnn_zoo.ops.rle import encode

SIZE = (60, 80)  # (height, width) of the images
Item = dict[str, Any]


def rectangle(
    x: int,
    y: int,
    width: int,
    height: int,
    *,
    category: int = 1,
    score: float | None = None,
    image: int = 1,
    crowd: bool = False,
) -> Item:
    """An annotation, or with a score a detection: a rectangle of whole pixels."""
    mask = np.zeros(SIZE, dtype=bool)
    mask[y : y + height, x : x + width] = True
    item = {"image_id": image, "category_id": category, "bbox": [x, y, width, height], "segmentation": encode(mask)}
    return item | ({"iscrowd": int(crowd), "area": width * height} if score is None else {"score": score})


def evaluated_of(
    objects: Sequence[Item],
    rows: Sequence[Item],
    *,
    num_images: int = 1,
    num_classes: int = 1,
    tasks: tuple[str, ...] = ("bbox", "segm"),
) -> Evaluated:
    """Images with ids from 1, categories with ids from 1 named a, b, ..."""
    images = [
        {"id": number, "height": SIZE[0], "width": SIZE[1], "file_name": f"{number}.png"}
        for number in range(1, num_images + 1)
    ]
    categories = [{"id": number, "name": chr(ord("a") + number - 1)} for number in range(1, num_classes + 1)]
    annotations = [item | {"id": number} for number, item in enumerate(objects, start=1)]
    ground_truth = {"images": images, "categories": categories, "annotations": annotations}
    return Evaluated(ground_truth, [dict(row) for row in rows], tasks, "rectangles")


def random_evaluated(seed: int, *, num_images: int = 4, num_classes: int = 2, crowds: bool = False) -> Evaluated:
    """Rectangles that overlap, and detections: shifted, doubled, of a wrong class, on background, or missing."""
    rng = np.random.default_rng(seed)
    objects, rows = [], []

    def random_rectangle(image: int, near: Item | None = None, **fields: Any) -> Item:
        if near is None:
            x, y, w, h = rng.integers((0, 0, 4, 4), (60, 40, 20, 20))
        else:
            x, y, w, h = np.array(near["bbox"]) + rng.integers(-2, 3, 4)
        x, y = max(0, int(x)), max(0, int(y))
        w, h = min(max(2, int(w)), SIZE[1] - x), min(max(2, int(h)), SIZE[0] - y)
        return rectangle(x, y, w, h, image=image, **fields)

    for image in range(1, num_images + 1):
        for _ in range(int(rng.integers(0, 7))):
            category = int(rng.integers(1, num_classes + 1))
            item = random_rectangle(image, category=category, crowd=bool(crowds and rng.random() < 0.2))
            objects.append(item)
            for _ in range(int(rng.choice(3, p=(0.15, 0.6, 0.25)))):
                found = category if rng.random() < 0.8 else int(rng.integers(1, num_classes + 1))
                rows.append(random_rectangle(image, item, category=found, score=float(rng.random())))
        for _ in range(int(rng.integers(0, 3))):
            category = int(rng.integers(1, num_classes + 1))
            rows.append(random_rectangle(image, category=category, score=float(rng.random())))
    return evaluated_of(objects, rows, num_images=num_images, num_classes=num_classes)
