"""Proposals that a search computes from the pixels of an image, without features of the backbone; OpenCV's ximgproc."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.contracts import Features
from mrcnn_zoo.ops import boxes as box_ops
from mrcnn_zoo.structures import Batch, ImageSize, Proposals, TrainingOutput

WHEEL = "opencv-contrib-python-headless"  # the only OpenCV package with ximgproc and without a window system
BYTE_RANGE = (0.0, 255.0)
MIN_AREA = 64.0  # square pixels of the network input, where MIN_BOX_AREA is 0 and no dataset has been read

Image = NDArray[np.uint8]  # (H, W, 3) RGB
Found = tuple[NDArray[np.float32], NDArray[np.float32]]  # (R, 4) boxes in pixels, (R,) objectness in descending order


class Search(Protocol):
    """Finds boxes in one image."""

    def __call__(self, image: Image, *, image_id: int | str, min_area: float) -> Found:
        """The boxes, best first.

        Args:
            image: (H, W, 3) uint8 RGB.
            image_id: determines what is drawn at random.
            min_area: smallest area of a box in square pixels.
        """


@dataclass(frozen=True)
class SearchedImages:
    """How images are read from a batch for a search.

    Images of one channel are repeated to three. Images of other numbers of channels than 1 and 3 are reduced to their
    mean. Where a pixel is outside 0..255, as in images of more than 8 bits, the image is scaled linearly such that its
    own minimum and maximum become 0 and 255.

    Args:
        pixel_mean: of each input channel, pixel units.
        pixel_std: of each input channel, pixel units.
        is_bgr: whether three channels are in the order blue, green, red.
        longest_side: smallest and largest length in pixels of the longest side; images outside the range are resized to
            its nearer end. A largest length of 0 is no limit.
    """

    pixel_mean: Sequence[float]
    pixel_std: Sequence[float]
    is_bgr: bool = False
    longest_side: tuple[int, int] = (0, 0)

    def rgb(self, pixels: Tensor) -> Image:
        """The normalised pixels of an image as bytes.

        Args:
            pixels: (C, H, W) float32 without padding, on the CPU.

        Returns:
            (H, W, 3) uint8 RGB.
        """
        mean, std = (np.array(values)[:, None, None] for values in (self.pixel_mean, self.pixel_std))
        # Whole numbers below 2**16 are restored exactly: the rounding error of float32 is below 0.01.
        values = np.round(pixels.numpy().astype(np.float64) * std + mean)
        low, high = values.min(), values.max()
        if low < BYTE_RANGE[0] or high > BYTE_RANGE[1]:
            values = (values - low) * (BYTE_RANGE[1] / max(high - low, 1.0))
        if len(values) != 3:
            values = np.repeat(values.mean(axis=0, keepdims=True), 3, axis=0)
        elif self.is_bgr:
            values = values[::-1]
        return np.ascontiguousarray(np.round(values).astype(np.uint8).transpose(1, 2, 0))

    def scaled_size(self, size: ImageSize) -> ImageSize:
        """(height, width) of an image of a size in the search.

        Args:
            size: (height, width).
        """
        shortest, longest = self.longest_side
        side = max(size)
        wanted = max(side, shortest)
        wanted = min(wanted, longest) if longest else wanted
        height, width = (max(round(length * wanted / side), 1) for length in size)
        return height, width


class ImageSearch:
    """Proposals of a search in the image itself.

    Args:
        search: finds boxes in one image.
        images: reads the images of a batch.
        min_area: of boxes, square pixels of the network's input.
        max_boxes: largest number of proposals per image.
    """

    needs_targets = False
    needs_features = False

    def __init__(self, search: Search, *, images: SearchedImages, min_area: float, max_boxes: int) -> None:
        self.search = search
        self.images = images
        self.min_area = min_area
        self.max_boxes = max_boxes

    def losses(self, features: Features, batch: Batch) -> tuple[list[Proposals], TrainingOutput]:
        """The boxes, and no losses.

        Args:
            features: not used.
            batch: the images.
        """
        return self.predict(features, batch), TrainingOutput()

    @torch.no_grad()
    def predict(self, features: Features, batch: Batch) -> list[Proposals]:  # noqa: ARG002
        """The boxes of each image, best first.

        Args:
            features: not used.
            batch: the images with their ids.
        """
        pixels = batch.pixels.cpu()
        tables = []
        for row, ((height, width), image_id) in enumerate(zip(batch.image_sizes, batch.image_ids, strict=True)):
            image = self.images.rgb(pixels[row, :, :height, :width])
            tables.append(self._search(image, image_id).to(batch.pixels.device))
        return tables

    def _search(self, image: Image, image_id: int | str) -> Proposals:
        size = (image.shape[0], image.shape[1])
        scaled = self.images.scaled_size(size)
        y, x = scaled[0] / size[0], scaled[1] / size[1]
        boxes, objectness = self.search(resized(image, scaled), image_id=image_id, min_area=self.min_area * y * x)
        unscaled = box_ops.scale(torch.from_numpy(boxes), x=1 / x, y=1 / y)
        limits = unscaled.new_tensor([size[1], size[0], size[1], size[0]])
        clipped = unscaled.clamp(min=0).minimum(limits)
        width, height = (clipped[:, 2:] - clipped[:, :2]).unbind(dim=1)
        rows = torch.nonzero((width > 0) & (height > 0) & (width * height >= self.min_area)).flatten()
        rows = rows[: self.max_boxes]
        return Proposals(size, clipped[rows], objectness=torch.from_numpy(objectness)[rows])


def resized(image: Image, size: ImageSize) -> Image:
    """An image in another size, averaged where it becomes smaller.

    Args:
        image: (H, W, 3).
        size: (height, width).
    """
    if image.shape[:2] == size:
        return image
    cv2 = import_opencv()
    is_smaller = size[0] * size[1] < image.shape[0] * image.shape[1]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if is_smaller else cv2.INTER_CUBIC)


def import_opencv() -> ModuleType:
    """OpenCV with its module ximgproc, in one thread.

    Raises:
        UserError: it is not installed, or without ximgproc; with the package to install.
    """
    install = 'pip install "mrcnn_zoo[proposals]"'
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            f"selective search and EdgeBoxes need OpenCV's module ximgproc, which is not installed: {install} "
            f"(it installs {WHEEL})."
        ) from error
    if not hasattr(cv2, "ximgproc"):
        raise UserError(
            f"the installed OpenCV {cv2.__version__} has no module ximgproc, which selective search and EdgeBoxes "
            "need: another OpenCV package has overwritten the files of the one with ximgproc, as all of them install "
            "into the same folder. Remove every package that `pip list` shows with opencv in its name, then "
            f"{install} (it installs {WHEEL})."
        )
    cv2.setNumThreads(1)  # the parallelism of a run is that of its processes
    return cv2


def build_image_search(
    cfg: CfgNode, search: Search, *, longest_side: Sequence[int], min_area: float, max_boxes: int
) -> ImageSearch:
    """A search as proposal generator.

    Args:
        cfg: the whole config, for MODEL.PIXEL_MEAN, MODEL.PIXEL_STD and INPUT.FORMAT.
        search: finds boxes in one image.
        longest_side: see `SearchedImages`.
        min_area: see `ImageSearch`; 0 for MIN_AREA.
        max_boxes: see `ImageSearch`.
    """
    shortest, longest = longest_side
    images = SearchedImages(
        tuple(cfg.MODEL.PIXEL_MEAN),
        tuple(cfg.MODEL.PIXEL_STD),
        is_bgr=cfg.INPUT.FORMAT == "BGR",
        longest_side=(shortest, longest),
    )
    return ImageSearch(search, images=images, min_area=min_area or MIN_AREA, max_boxes=max_boxes)
