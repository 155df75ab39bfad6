"""Hierarchical grouping of the regions of an image, for selective search."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.modeling.proposal_generators.image_search import import_opencv

SIMILARITIES = {"C": "Color", "T": "Texture", "S": "Size", "F": "Fill"}  # letters of the paper -> names in OpenCV
IMAGE_ID = 0  # lets the similarities of one segmentation reuse their histograms


@dataclass(frozen=True)
class Regions:
    """The regions of a segmentation; B is their number."""

    labels: NDArray[np.int32]  # (H, W) region of each pixel, in [0, B)
    areas: NDArray[np.int32]  # (B, 1) pixels
    boxes: NDArray[np.int64]  # (B, 4) x1 y1 x2 y2
    neighbours: NDArray[np.int64]  # (P, 2) pairs, ascending


def segment(image: NDArray[np.uint8], *, k: float, sigma: float, min_area: int) -> Regions:
    """The regions of Felzenszwalb and Huttenlocher 2004 (Efficient Graph-Based Image Segmentation).

    Args:
        image: (H, W) or (H, W, C).
        k: scale; larger for larger regions.
        sigma: standard deviation of the smoothing in pixels.
        min_area: smaller regions are merged into a neighbour.
    """
    segmentation = import_opencv().ximgproc.segmentation.createGraphSegmentation(sigma, k, min_area)
    labels = segmentation.processImage(image)
    height, width = labels.shape
    flat = labels.ravel()
    count = int(flat.max()) + 1
    y, x = np.divmod(np.arange(height * width), width)
    boxes = np.repeat(np.array([[width, height, 0, 0]]), count, axis=0)
    for column, (operation, values) in enumerate(
        ((np.minimum, x), (np.minimum, y), (np.maximum, x + 1), (np.maximum, y + 1))
    ):
        operation.at(boxes[:, column], flat, values)
    areas = np.bincount(flat, minlength=count).astype(np.int32)[:, None]
    return Regions(labels, np.ascontiguousarray(areas), boxes, _neighbours(labels))


def _neighbours(labels: NDArray[np.int32]) -> NDArray[np.int64]:
    """(P, 2) different labels of pixels that touch to the left, above, or to the upper left."""
    here = labels[1:, 1:].ravel()
    others = (labels[1:, :-1], labels[:-1, 1:], labels[:-1, :-1])
    pairs = np.concatenate([np.stack([here, other.ravel()], axis=1) for other in others]).astype(np.int64)
    return np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1), axis=0)


def create_similarities(names: Sequence[str]) -> list[Any]:
    """OpenCV's similarities, each a mean of several, which share their histograms.

    Args:
        names: each of letters of SIMILARITIES, such as "CTSF".
    """
    module = import_opencv().ximgproc.segmentation
    letters = dict.fromkeys("".join(names))
    single = {
        name: getattr(module, f"createSelectiveSearchSegmentationStrategy{SIMILARITIES[name]}")() for name in letters
    }
    combine = module.createSelectiveSearchSegmentationStrategyMultiple
    return [combine(*(single[letter] for letter in name)) if len(name) > 1 else single[name] for name in names]


def group(image: NDArray[np.uint8], regions: Regions, similarity: Any) -> NDArray[np.int64]:
    """Merge the most similar neighbours until one region is left.

    Source: Uijlings et al. 2013 (Selective Search for Object Recognition), algorithm 1.

    Args:
        image: (H, W) or (H, W, C).
        regions: of the image.
        similarity: see `create_similarities`.

    Returns:
        (B + M, 4) boxes of the regions, then of the M merged ones in the order of the merges.
    """
    areas = regions.areas.copy()  # shared with the similarity, which sees its changes
    similarity.setImage(image, regions.labels, areas, IMAGE_ID)
    boxes: list[list[int]] = regions.boxes.tolist()
    rows = list(range(len(boxes)))  # of each region in the arrays of the similarity
    neighbours: list[set[int]] = [set() for _ in boxes]
    queue = []
    for first, second in regions.neighbours.tolist():
        neighbours[first].add(second)
        neighbours[second].add(first)
        queue.append((-similarity.get(first, second), first, second))
    heapq.heapify(queue)
    is_merged = [False] * len(boxes)
    while queue:
        _, first, second = heapq.heappop(queue)
        if is_merged[first] or is_merged[second]:
            continue
        is_merged[first] = is_merged[second] = True
        similarity.merge(rows[first], rows[second])
        areas[rows[first]] += areas[rows[second]]
        areas[rows[second]] = areas[rows[first]]
        merged = len(boxes)
        boxes.append(_union(boxes[first], boxes[second]))
        rows.append(rows[first])
        is_merged.append(False)
        neighbours.append((neighbours[first] | neighbours[second]) - {first, second})
        for other in sorted(neighbours[merged]):
            neighbours[other] -= {first, second}
            neighbours[other].add(merged)
            heapq.heappush(queue, (-similarity.get(rows[merged], rows[other]), merged, other))
    return np.array(boxes)


def _union(box: Sequence[int], other: Sequence[int]) -> list[int]:
    return [min(box[0], other[0]), min(box[1], other[1]), max(box[2], other[2]), max(box[3], other[3])]
