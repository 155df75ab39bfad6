"""Random crops."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from mrcnn_zoo.config import CfgNode, choice_of
from mrcnn_zoo.data.transforms.transform import AffineTransform, Augmentation, Transform, size_of
from mrcnn_zoo.registries import AUGMENTATIONS
from mrcnn_zoo.structures import ImageSize


@dataclass(frozen=True)
class CropTransform:
    """A rectangle of the image."""

    top: int
    left: int
    size: ImageSize  # (height, width) of the rectangle

    @property
    def affine(self) -> AffineTransform:
        """A shift of the origin to the upper left corner of the rectangle."""
        return AffineTransform.scale_and_shift((1.0, 1.0), (-float(self.left), -float(self.top)), self.size)

    def apply_image(self, image: Tensor) -> Tensor:
        """The rectangle, as a view."""
        return image[:, self.top : self.top + self.size[0], self.left : self.left + self.size[1]]


CropSize = Callable[[ImageSize, np.random.Generator], ImageSize]


class RandomCrop:
    """A crop at a random position.

    Args:
        crop_size: (image size, generator) -> size of the crop, at most that of the image.
    """

    def __init__(self, crop_size: CropSize) -> None:
        self.crop_size = crop_size

    def get_transform(self, image: Tensor, rng: np.random.Generator) -> Transform:
        """A crop; see `Augmentation`."""
        height, width = size_of(image)
        crop_height, crop_width = self.crop_size((height, width), rng)
        top = int(rng.integers(height - crop_height, endpoint=True))
        left = int(rng.integers(width - crop_width, endpoint=True))
        return CropTransform(top, left, (crop_height, crop_width))


@dataclass(frozen=True)
class RelativeSize:
    """A fixed share of height and width."""

    share: tuple[float, float]

    def __call__(self, size: ImageSize, rng: np.random.Generator) -> ImageSize:  # noqa: ARG002
        return _share_of(size, self.share)


@dataclass(frozen=True)
class RelativeRangeSize:
    """A random share of height and width, from the given ones to 1."""

    smallest: tuple[float, float]

    def __call__(self, size: ImageSize, rng: np.random.Generator) -> ImageSize:
        height_share, width_share = (float(share + rng.random() * (1 - share)) for share in self.smallest)
        return _share_of(size, (height_share, width_share))


@dataclass(frozen=True)
class AbsoluteSize:
    """A fixed size in pixels, or the whole side of an image that is smaller."""

    size: ImageSize

    def __call__(self, size: ImageSize, rng: np.random.Generator) -> ImageSize:  # noqa: ARG002
        return min(size[0], self.size[0]), min(size[1], self.size[1])


@dataclass(frozen=True)
class AbsoluteRangeSize:
    """Random height and width between the same two bounds in pixels."""

    bounds: tuple[int, int]

    def __call__(self, size: ImageSize, rng: np.random.Generator) -> ImageSize:
        height, width = (
            int(rng.integers(min(side, self.bounds[0]), min(side, self.bounds[1]), endpoint=True)) for side in size
        )
        return height, width


def _share_of(size: ImageSize, share: tuple[float, float]) -> ImageSize:
    return max(1, int(size[0] * share[0] + 0.5)), max(1, int(size[1] * share[1] + 0.5))


def _pixels(size: tuple[float, float]) -> tuple[int, int]:
    return int(size[0]), int(size[1])


CROP_SIZES: dict[str, Callable[[tuple[float, float]], CropSize]] = {
    "relative": RelativeSize,
    "relative_range": RelativeRangeSize,
    "absolute": lambda size: AbsoluteSize(_pixels(size)),
    "absolute_range": lambda bounds: AbsoluteRangeSize(_pixels(bounds)),
}


@AUGMENTATIONS.register("RandomCrop")
def build_random_crop(cfg: CfgNode) -> Augmentation:
    """The crop that INPUT.CROP describes."""
    first, second = cfg.INPUT.CROP.SIZE
    return RandomCrop(choice_of(cfg, "INPUT.CROP.TYPE", CROP_SIZES)((float(first), float(second))))
