"""Selective search: the bounding boxes of a hierarchical grouping of regions."""

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.config import CfgNode, choice_of
from mrcnn_zoo.modeling.proposal_generators.image_search import (
    MIN_AREA,
    Found,
    Image,
    ImageSearch,
    build_searched_images,
    import_opencv,
)
from mrcnn_zoo.modeling.proposal_generators.region_grouping import create_similarities, group, segment
from mrcnn_zoo.registries import PROPOSAL_GENERATORS
from mrcnn_zoo.structures import FeatureSpec

LARGEST_SEED = 2**31 - 1


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


def seed_of(image_id: int | str) -> int:
    """A seed of random numbers of an image, equal for equal ids in all processes; 7 and "7" are equal.

    Args:
        image_id: of a dataset.
    """
    return zlib.crc32(str(image_id).encode()) & LARGEST_SEED


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
    return ImageSearch(
        search,
        images=build_searched_images(cfg, settings.LONGEST_SIDE),
        min_area=settings.MIN_BOX_AREA or MIN_AREA,
        max_boxes=settings.MAX_BOXES,
    )
