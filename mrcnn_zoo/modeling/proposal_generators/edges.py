"""Edge detectors of EdgeBoxes: magnitudes of thinned edges, and the directions across them."""

import gzip
import zlib
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.proposal_generators.image_search import Image, import_opencv

SOBEL_SCALE = 0.25  # a step of 1 has the response 1
LEAST_CONTRAST = 1 / 255  # of a gradient; an image with less has no edges
TIE = 1e-4  # relative difference of magnitudes that are equal
STRUCTURED_EDGES = (
    "the random forest of OpenCV, model.yml.gz, in testdata/cv/ximgproc of https://github.com/opencv/opencv_extra"
)

Map = NDArray[np.float32]  # (H, W)


class GradientEdges:
    """Gradients of the smoothed image, thinned to lines of one pixel.

    The gradient at a pixel is that of the channel in which it is largest. Magnitudes are divided by the largest of the
    image, so that thresholds apply to images of any contrast.

    Source: Canny 1986 (A Computational Approach to Edge Detection): smoothing and non-maximum suppression, without
    thresholds, which EdgeBoxes has itself.

    Args:
        sigma: standard deviation of the smoothing in pixels; 0 does not smooth.
    """

    def __init__(self, sigma: float = 2.0) -> None:
        self.sigma = sigma

    def __call__(self, image: Image) -> tuple[Map, Map]:
        """Magnitudes in [0, 1], 0 beside edges, and directions across the edges in [0, pi), x to the right, y down.

        Args:
            image: (H, W, 3) uint8.
        """
        cv2 = import_opencv()
        values = image.astype(np.float32) / np.float32(255)
        if self.sigma > 0:
            values = cv2.GaussianBlur(values, (0, 0), self.sigma)
        dx, dy = _largest_gradient(cv2, values)
        magnitudes = np.hypot(dx, dy)
        largest = magnitudes.max(initial=0.0)
        magnitudes = magnitudes / largest if largest > LEAST_CONTRAST else np.zeros_like(magnitudes)
        directions = np.mod(np.arctan2(dy, dx), np.float32(np.pi))
        directions[directions >= np.float32(np.pi)] = 0  # a small negative angle modulo pi rounds to pi
        return thinned(magnitudes, directions), directions


class StructuredEdges:
    """Edges of OpenCV's random forest, with its directions and its thinning.

    Source: Dollar and Zitnick 2013 (Structured Forests for Fast Edge Detection).

    Args:
        model: file of the forest, .yml or .yml.gz.

    Raises:
        UserError: there is no such file, or it has no forest.
    """

    def __init__(self, model: str | Path) -> None:
        path = Path(model).expanduser()
        if not path.is_file():
            raise UserError(
                f"MODEL.EDGE_BOXES.MODEL = {str(model)!r}: there is no such file. It names {STRUCTURED_EDGES}; leave "
                "the key empty to use gradient edges."
            )
        if not _names_trees(path):  # OpenCV would divide by their number and end the process
            raise UserError(
                f"MODEL.EDGE_BOXES.MODEL = {str(model)!r} is not a forest of structured edges. It names "
                f"{STRUCTURED_EDGES}."
            )
        self._forest = import_opencv().ximgproc.createStructuredEdgeDetection(str(path))

    def __call__(self, image: Image) -> tuple[Map, Map]:
        """See `GradientEdges`.

        Args:
            image: (H, W, 3) uint8 RGB.
        """
        edges = self._forest.detectEdges(image.astype(np.float32) / 255)
        directions = self._forest.computeOrientation(edges)
        return self._forest.edgesNms(edges, directions, isParallel=False), directions


def _names_trees(path: Path) -> bool:
    """Whether a file has the fields of a forest."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read()
    except (OSError, EOFError, zlib.error):
        return False
    return all(name in content for name in (b"numberOfTrees:", b"childs:", b"edgeBins:"))


def _largest_gradient(cv2: ModuleType, values: NDArray[np.float32]) -> tuple[Map, Map]:
    """(H, W) derivatives to x and y of the channel with the largest gradient at each pixel."""
    dx, dy = (
        cv2.Sobel(values, cv2.CV_32F, *order, ksize=3, scale=SOBEL_SCALE, borderType=cv2.BORDER_REPLICATE)
        for order in ((1, 0), (0, 1))
    )
    channel = (dx**2 + dy**2).argmax(axis=2)[:, :, None]
    dx, dy = (np.take_along_axis(derivative, channel, axis=2)[:, :, 0] for derivative in (dx, dy))
    return dx, dy


def thinned(magnitudes: Map, directions: Map) -> Map:
    """Magnitudes where they are a maximum across the edge, 0 elsewhere.

    Of two equal neighbours, as at both pixels beside a sharp step, the left or upper one is kept.

    Args:
        magnitudes: (H, W), at least 0.
        directions: (H, W) across the edge, radians, x to the right, y down.
    """
    cv2 = import_opencv()
    x, y = np.cos(directions), np.sin(directions)
    # The step is to the right, or downwards for edges that are closer to horizontal: directions just above 0 and just
    # below pi are nearly the same, and must not alternate between the two pixels of a step.
    is_backward = np.where(np.abs(x) >= np.abs(y), x < 0, y < 0)
    x, y = np.where(is_backward, -x, x), np.where(is_backward, -y, y)
    rows, columns = np.indices(magnitudes.shape, dtype=np.float32)
    before, after = (
        cv2.remap(
            magnitudes,
            (columns + step * x).astype(np.float32),
            (rows + step * y).astype(np.float32),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
        )
        for step in (-1, 1)
    )
    is_maximum = (magnitudes > before * (1 + TIE)) & (magnitudes >= after * (1 - TIE))
    return np.where(is_maximum, magnitudes, 0).astype(np.float32)
