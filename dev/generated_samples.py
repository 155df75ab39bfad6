"""Generated images with boxes, masks and keypoints, for measurements and tests without files."""

import numpy as np
import torch
from torch import Tensor

from mrcnn_zoo.structures import BoxedBitmaps, ImageSize, Sample, Targets

LARGEST_OBJECT = 0.5  # side of a generated object as a share of the image's shorter side
SMALLEST_OBJECT = 0.05


def generated_samples(
    count: int, *, image_size: ImageSize, num_classes: int, num_objects: int = 10, num_keypoints: int = 0, seed: int = 0
) -> list[Sample]:
    """Images of noise with coloured ellipses; equal arguments give equal images on every machine.

    Args:
        count: number of images.
        image_size: (height, width) of all of them.
        num_classes: K; classes are random in [0, K).
        num_objects: per image.
        num_keypoints: J visible keypoints inside each object; 0 for targets without keypoints.
        seed: of the random generator.

    Returns:
        Samples with boxes, classes and masks as targets.
    """
    rng = np.random.default_rng(seed)
    samples = []
    for number in range(count):
        boxes = _random_boxes(rng, image_size, num_objects)
        bitmaps = np.stack([_ellipse(box, image_size) for box in boxes])
        image = rng.integers(0, 80, (3, *image_size), dtype=np.uint8)
        for bitmap in bitmaps:
            image[:, bitmap] += rng.integers(20, 170, (3, 1), dtype=np.uint8)
        targets = Targets(
            image_size,
            torch.from_numpy(boxes.astype(np.float32)),
            torch.from_numpy(rng.integers(0, num_classes, num_objects)),
            masks=BoxedBitmaps.from_full(bitmaps),
            keypoints=_keypoints_inside(rng, boxes, num_keypoints) if num_keypoints else None,
        )
        samples.append(Sample(torch.from_numpy(image), number, image_size, targets, file_name=f"generated {number}"))
    return samples


def _random_boxes(rng: np.random.Generator, image_size: ImageSize, count: int) -> np.ndarray:
    """(R, 4) whole pixels inside the image."""
    shorter = min(image_size)
    sides = np.exp(rng.uniform(np.log(SMALLEST_OBJECT * shorter), np.log(LARGEST_OBJECT * shorter), (count, 2)))
    sides = np.ceil(sides) + 1
    starts = np.floor(rng.uniform(0, 1, (count, 2)) * (np.array(image_size[::-1]) - sides))
    return np.concatenate((starts, starts + sides), axis=1)


def _ellipse(box: np.ndarray, image_size: ImageSize) -> np.ndarray:
    """(H, W) bool: pixels whose centres are inside the ellipse inscribed in the box."""
    rows, columns = np.ogrid[: image_size[0], : image_size[1]]
    (x, y), (radius_x, radius_y) = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    inside: np.ndarray = ((columns + 0.5 - x) / radius_x) ** 2 + ((rows + 0.5 - y) / radius_y) ** 2 <= 1
    return inside


def _keypoints_inside(rng: np.random.Generator, boxes: np.ndarray, count: int) -> Tensor:
    """(R, J, 3)."""
    shares = rng.uniform(0.1, 0.9, (len(boxes), count, 2))
    points = boxes[:, None, :2] + shares * (boxes[:, None, 2:] - boxes[:, None, :2])
    return torch.from_numpy(np.concatenate((points, np.full((len(boxes), count, 1), 2.0)), axis=2).astype(np.float32))
