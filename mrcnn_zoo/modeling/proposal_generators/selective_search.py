"""Selective search: the bounding boxes of a hierarchical grouping of regions."""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.config import CfgNode, choice_of
from mrcnn_zoo.modeling.proposal_generators.image_search import (
    Found,
    Image,
    ImageSearch,
    build_image_search,
    import_opencv,
)
from mrcnn_zoo.registries import PROPOSAL_GENERATORS
from mrcnn_zoo.structures import FeatureSpec
from mrcnn_zoo.structures.samples import seed_of

SIMILARITIES = {"C": "Color", "T": "Texture", "S": "Size", "F": "Fill"}  # letters of the paper -> names in OpenCV
IMAGE_ID = 0  # lets the similarities of one segmentation reuse their histograms


@dataclass(frozen=True)
class Combination:
    """The groupings of an image: every colour space with every initial segmentation and every similarity."""

    colors: tuple[str, ...]  # names in `in_color`
    num_scales: int  # of the initial segmentations
    similarities: tuple[str, ...]  # of the paper's letters C colour, T texture, S size, F fill


FAST = Combination(("HSV", "Lab"), 3, ("CTSF", "TSF"))
QUALITY = Combination(("HSV", "Lab", "I", "H", "rgI"), 5, ("CTSF", "TSF", "F", "S"))
COMBINATIONS = {"fast": FAST, "quality": QUALITY}


class SelectiveSearch:
    """The boxes of all regions of all groupings, in the paper's order, which is partly random.

    A region is ranked by its place in its grouping, counted from the whole image (1), times a random number in [0, 1),
    so that large regions are not always first. Boxes that occur twice keep their better rank. The random numbers are
    seeded with the id of the image: an image has the same boxes in the same order in every process and after any other
    image. The objectness of box r = 1, 2, ... is -log(r), so its sigmoid is 1 / (1 + r); it has no other meaning than
    the order.

    Segmentation and similarities are OpenCV's. Its own search finds the same boxes in fast mode, but counts places from
    the initial regions, the reverse of the paper, and draws from C's rand(); in quality mode its hue is overwritten
    with blue.

    Source: Uijlings et al. 2013 (Selective Search for Object Recognition), sec. 3 and 4.2.

    Args:
        combination: of groupings; FAST and QUALITY are OpenCV's, after table 5 of the paper.
        base_k: scale of the first initial segmentation, larger for larger regions.
        increment_k: of the scale from one initial segmentation to the next.
        sigma: standard deviation in pixels of the smoothing before the initial segmentation.
        min_region_area: pixels of the smallest initial region.

    Raises:
        UserError: OpenCV's ximgproc is not installed.
    """

    def __init__(
        self,
        combination: Combination = FAST,
        *,
        base_k: int = 150,
        increment_k: int = 150,
        sigma: float = 0.8,
        min_region_area: int = 100,
    ) -> None:
        import_opencv()
        self.combination = combination
        self.scales = tuple(base_k + increment_k * step for step in range(combination.num_scales))
        self.sigma = sigma
        self.min_region_area = min_region_area

    def __call__(self, image: Image, *, image_id: int | str, min_area: float) -> Found:
        """All boxes of at least an area.

        Args:
            image: (H, W, 3) uint8 RGB.
            image_id: seeds the random numbers.
            min_area: square pixels.
        """
        random = np.random.default_rng(seed_of(image_id))
        groupings = list(self._groupings(image))
        places = np.concatenate([np.arange(len(boxes), 0, -1) for boxes in groupings])
        boxes = np.concatenate(groupings)[np.argsort(places * random.random(len(places)), kind="stable")]
        _, first = np.unique(boxes, axis=0, return_index=True)
        boxes = boxes[np.sort(first)]
        boxes = boxes[(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) >= min_area].astype(np.float32)
        return boxes, -np.log(np.arange(1, len(boxes) + 1, dtype=np.float32))

    def _groupings(self, image: Image) -> Iterator[NDArray[np.int64]]:
        """(R, 4) boxes of each grouping, the whole image last."""
        for name in self.combination.colors:
            converted = in_color(image, name)
            for k in self.scales:
                regions = segment(converted, k=k, sigma=self.sigma, min_area=self.min_region_area)
                for similarity in create_similarities(self.combination.similarities):
                    yield group(converted, regions, similarity)


def in_color(image: Image, name: str) -> NDArray[np.uint8]:
    """An image in a colour space of OpenCV's selective search.

    Args:
        image: (H, W, 3) uint8 RGB.
        name: HSV, Lab, I (grey), H (of HSV), or rgI (red, green and grey).
    """
    cv2 = import_opencv()
    if name in ("HSV", "Lab"):
        return cv2.cvtColor(image, getattr(cv2, f"COLOR_RGB2{name}"))
    if name == "H":
        return np.ascontiguousarray(in_color(image, "HSV")[:, :, 0])
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return grey if name == "I" else np.dstack([image[:, :, 0], image[:, :, 1], grey])


# --- regions and their grouping ---------------------------------------------------------------------------------------
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


def build_combination(cfg: CfgNode) -> Combination:
    """The groupings of MODEL.SELECTIVE_SEARCH.MODE.

    Args:
        cfg: the whole config.
    """
    return choice_of(cfg, "MODEL.SELECTIVE_SEARCH.MODE", COMBINATIONS)


@PROPOSAL_GENERATORS.register("SelectiveSearch")
def build_selective_search(
    cfg: CfgNode,
    feature_specs: Mapping[str, FeatureSpec],  # noqa: ARG001
) -> ImageSearch:
    """The search of `MODEL.SELECTIVE_SEARCH`.

    Args:
        cfg: the whole config.
        feature_specs: maps of the backbone by name.
    """
    settings = cfg.MODEL.SELECTIVE_SEARCH
    search = SelectiveSearch(
        build_combination(cfg),
        base_k=settings.BASE_K,
        increment_k=settings.INCREMENT_K,
        sigma=settings.SIGMA,
        min_region_area=settings.MIN_REGION_AREA,
    )
    return build_image_search(
        cfg,
        search,
        longest_side=settings.LONGEST_SIDE,
        min_area=settings.MIN_BOX_AREA,
        max_boxes=settings.MAX_BOXES,
    )
