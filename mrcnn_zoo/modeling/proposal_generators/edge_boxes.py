"""EdgeBoxes: windows scored by the contours that they enclose."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.modeling.proposal_generators.edges import GradientEdges, StructuredEdges
from mrcnn_zoo.modeling.proposal_generators.image_search import (
    Found,
    Image,
    ImageSearch,
    build_image_search,
    import_opencv,
)
from mrcnn_zoo.registries import PROPOSAL_GENERATORS
from mrcnn_zoo.structures import FeatureSpec

SHORTEST_SIDE = 3  # pixels of a window; OpenCV's score of a smaller one can be 0 times infinity


class EdgeDetector(Protocol):
    """Detects thinned edges."""

    def __call__(self, image: Image) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Edge magnitudes (H, W) in [0, 1], 0 beside edges; directions across the edges (H, W) in [0, pi)."""


@dataclass(frozen=True, kw_only=True)
class EdgeBoxes:
    """Windows in descending order of their score: contours inside the window, without those that cross its border.

    The objectness is the logarithm of the score, whose sigmoid s / (1 + s) has the order of the scores s.

    Source: Zitnick and Dollar 2014 (Edge Boxes: Locating Object Proposals from Edges), with the names of the arguments.

    Args:
        detect_edges: edges of an image.
        alpha: IoU of neighbouring windows of the search, in (0, 1).
        beta: IoU above which the window with the lower score is removed, in (0, 1].
        eta: factor of `beta` after each window, while above 0.5; in (0, 1].
        min_score: smallest score.
        max_boxes: largest number of windows.
        max_aspect_ratio: of the first windows, longer over shorter side, at least 1.
    """

    detect_edges: EdgeDetector
    alpha: float = 0.65
    beta: float = 0.75
    eta: float = 1.0
    min_score: float = 0.01
    max_boxes: int = 1000
    max_aspect_ratio: float = 3.0

    def __call__(self, image: Image, *, image_id: int | str, min_area: float) -> Found:  # noqa: ARG002
        """The windows of at least an area.

        Args:
            image: (H, W, 3) uint8 RGB.
            image_id: not used.
            min_area: of the first windows in square pixels; those below 3 pixels in either direction are left out.
        """
        edges, directions = self.detect_edges(image)
        # A new object for each image: OpenCV's keeps segments of the previous one, so results would depend on it.
        scorer = import_opencv().ximgproc.createEdgeBoxes(
            alpha=self.alpha,
            beta=self.beta,
            eta=self.eta,
            minScore=self.min_score,
            maxBoxes=self.max_boxes,
            maxAspectRatio=self.max_aspect_ratio,
            minBoxArea=max(min_area, smallest_area(self.alpha, self.max_aspect_ratio)),
        )
        rectangles, scores = scorer.getBoundingBoxes(edges, directions, np.empty((0,), np.float32))
        corners = np.asarray(rectangles, dtype=np.float32).reshape(-1, 4)
        boxes = np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:]], axis=1)
        scores = np.asarray(scores, dtype=np.float32).reshape(-1)
        rows = np.flatnonzero(scores > 0)  # not NaN
        rows = rows[np.argsort(-scores[rows], kind="stable")]
        return boxes[rows], np.log(scores[rows])


def smallest_area(alpha: float, max_aspect_ratio: float) -> float:
    """Smallest area in square pixels at which windows of all aspect ratios have sides of at least SHORTEST_SIDE.

    Args:
        alpha: see `EdgeBoxes`.
        max_aspect_ratio: see `EdgeBoxes`.
    """
    step = (1 + alpha) / (2 * alpha)  # from one aspect to the next, of either side
    steps = int(math.log(max_aspect_ratio) / math.log(step**2))
    return ((SHORTEST_SIDE + 0.01) * step**steps) ** 2


@PROPOSAL_GENERATORS.register("EdgeBoxes")
def build_edge_boxes(
    cfg: CfgNode,
    feature_specs: Mapping[str, FeatureSpec],  # noqa: ARG001
) -> ImageSearch:
    """The search of `MODEL.EDGE_BOXES`, in structured edges if a model of them is given.

    Args:
        cfg: the whole config.
        feature_specs: maps of the backbone by name.
    """
    settings = cfg.MODEL.EDGE_BOXES
    import_opencv()  # raises where it is not installed
    edges = StructuredEdges(settings.MODEL) if settings.MODEL else GradientEdges(settings.SIGMA)
    search = EdgeBoxes(
        detect_edges=edges,
        alpha=settings.ALPHA,
        beta=settings.BETA,
        eta=settings.ETA,
        min_score=settings.MIN_SCORE,
        max_boxes=settings.MAX_BOXES,
        max_aspect_ratio=settings.MAX_ASPECT_RATIO,
    )
    return build_image_search(
        cfg,
        search,
        longest_side=settings.LONGEST_SIDE,
        min_area=settings.MIN_BOX_AREA,
        max_boxes=settings.MAX_BOXES,
    )
