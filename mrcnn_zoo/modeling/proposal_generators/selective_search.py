"""Selective search: the bounding boxes of a hierarchical grouping of regions."""

import ctypes
import functools
import os
import threading
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.config import CfgNode, choice_of
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.proposal_generators.image_search import (
    Found,
    Image,
    ImageSearch,
    build_searched_images,
    import_opencv,
)
from mrcnn_zoo.registries import PROPOSAL_GENERATORS
from mrcnn_zoo.structures import FeatureSpec

FAST, QUALITY = "switchToSelectiveSearchFast", "switchToSelectiveSearchQuality"  # methods of OpenCV's search
COMBINATIONS = {"fast": FAST, "quality": QUALITY}
LARGEST_SEED = 2**31 - 1
PROBE_SIDE, PROBE_K, PROBE_SIGMA = 64, 1, 0.1  # noise with 21 boxes, on which seeding is verified
_one_search = threading.Lock()  # rand() has one state per process


class SelectiveSearch:
    """The boxes of OpenCV's selective search in its order, which is partly random.

    The rank of a region is a random number times its level in the grouping, where OpenCV counts levels from the initial
    segmentation and the paper (sec. 4.2) from the whole image: here small regions tend to come first. The numbers are
    those of C's rand(), seeded with the id of the image: an image has the same boxes in the same order in every
    process and after any other image. The objectness of box r = 1, 2, ... is -log(r), so its sigmoid is 1 / (1 + r);
    it has no other meaning than the order.

    Source: Uijlings et al. 2013 (Selective Search for Object Recognition), sec. 3 and 4.2; fast and quality are
    OpenCV's counterparts of the combinations of table 5.

    Args:
        combination: FAST (two colour spaces, three initial segmentations, two similarities) or QUALITY (five, five,
            four).
        base_k: scale of the first initial segmentation, larger for larger regions.
        increment_k: of the scale from one initial segmentation to the next.
        sigma: standard deviation in pixels of the smoothing before the initial segmentation.

    Raises:
        UserError: OpenCV's ximgproc is not installed, or its rand() cannot be seeded.
    """

    def __init__(
        self, combination: str = FAST, *, base_k: int = 150, increment_k: int = 150, sigma: float = 0.8
    ) -> None:
        self.combination = combination
        self.base_k = base_k
        self.increment_k = increment_k
        self.sigma = sigma
        import_opencv()
        verify_seeding()

    def __call__(self, image: Image, *, image_id: int | str, min_area: float) -> Found:
        """All boxes of at least an area.

        Args:
            image: (H, W, 3) uint8 RGB.
            image_id: seeds the random numbers.
            min_area: square pixels.
        """
        corners = self._boxes(image, seed=seed_of(image_id))
        sides = corners[:, 2:] - corners[:, :2]
        boxes = corners[sides.prod(axis=1) >= min_area]
        return boxes, -np.log(np.arange(1, len(boxes) + 1, dtype=np.float32))

    def _boxes(self, image: Image, *, seed: int) -> NDArray[np.float32]:
        if min(image.shape[:2]) < 2:  # one row or column has no neighbours to group
            height, width = image.shape[:2]
            return np.array([[0, 0, width, height]], dtype=np.float32)
        search = import_opencv().ximgproc.segmentation.createSelectiveSearchSegmentation()
        search.setBaseImage(np.ascontiguousarray(image[:, :, ::-1]))  # OpenCV's order is BGR
        getattr(search, self.combination)(self.base_k, self.increment_k, self.sigma)
        return _ranked_boxes(search, seed=seed)


def _ranked_boxes(search: Any, *, seed: int) -> NDArray[np.float32]:
    """(R, 4) boxes of a prepared search of OpenCV."""
    with _one_search:
        _c_library().srand(seed)
        rectangles = np.asarray(search.process(), dtype=np.float32).reshape(-1, 4)
    return np.concatenate([rectangles[:, :2], rectangles[:, :2] + rectangles[:, 2:]], axis=1)


def seed_of(image_id: int | str) -> int:
    """A seed for the random numbers of an image, in the range of C's srand(); 7 and "7" have the same in all processes.

    Args:
        image_id: of a dataset.
    """
    return zlib.crc32(str(image_id).encode()) & LARGEST_SEED


@functools.cache
def _c_library() -> ctypes.CDLL:
    """The C library that this process, and so OpenCV, uses."""
    return ctypes.CDLL("ucrtbase" if os.name == "nt" else None)


@functools.cache
def verify_seeding() -> None:
    """Run a small search twice with one seed; once per process.

    Raises:
        UserError: the order of the boxes differs, so OpenCV draws from another C library.
    """
    noise = np.random.default_rng(0).integers(0, 256, (PROBE_SIDE, PROBE_SIDE, 3), dtype=np.uint8)
    orders = []
    for seed in (1, 1, 2):  # a new search each time: OpenCV's keeps the merged histograms of its last run
        search = import_opencv().ximgproc.segmentation.createSelectiveSearchSegmentation()
        search.setBaseImage(noise)
        search.switchToSingleStrategy(PROBE_K, PROBE_SIGMA)
        orders.append(_ranked_boxes(search, seed=seed))
    first, second, other = orders
    if not np.array_equal(first, second) or np.array_equal(first, other):
        raise UserError(
            "MODEL.PROPOSAL_GENERATOR.NAME SelectiveSearch: the random numbers of OpenCV cannot be seeded in this "
            "installation, so the order of the boxes would differ in every run. Compute the proposals on Linux or "
            "macOS with `mrcnn-zoo precompute-proposals`, or use EdgeBoxes."
        )


def build_combination(cfg: CfgNode) -> str:
    """The method of OpenCV's search for MODEL.SELECTIVE_SEARCH.MODE.

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
        build_combination(cfg), base_k=settings.BASE_K, increment_k=settings.INCREMENT_K, sigma=settings.SIGMA
    )
    return ImageSearch(
        search,
        images=build_searched_images(cfg, settings.LONGEST_SIDE),
        min_area=settings.MIN_BOX_AREA,
        max_boxes=settings.MAX_BOXES,
    )
