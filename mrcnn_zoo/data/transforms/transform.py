"""What an augmentation is: it looks at an image, draws at random, and hands back one fixed transform."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from mrcnn_zoo.data.transforms.geometry import Geometry
from mrcnn_zoo.structures import ImageSize


class Transform(Protocol):
    """One fixed change of an image, and where its points go."""

    @property
    def geometry(self) -> Geometry: ...

    def apply_image(self, image: Tensor) -> Tensor:
        """(C, H, W) before -> (C, H', W') after, of the same dtype; the argument is not modified."""
        ...


class Augmentation(Protocol):
    """A random family of transforms."""

    def get_transform(self, image: Tensor, rng: np.random.Generator) -> Transform:
        """The transform for this image (C, H, W); all randomness comes from `rng`."""
        ...


@dataclass(frozen=True)
class NoTransform:
    """The image as it is."""

    size: ImageSize

    @property
    def geometry(self) -> Geometry:
        """The identity."""
        return Geometry.identity(self.size)

    def apply_image(self, image: Tensor) -> Tensor:
        """The image itself."""
        return image


@dataclass(frozen=True)
class PixelTransform:
    """New pixel values in the same places."""

    size: ImageSize
    function: Callable[[Tensor], Tensor]

    @property
    def geometry(self) -> Geometry:
        """The identity."""
        return Geometry.identity(self.size)

    def apply_image(self, image: Tensor) -> Tensor:
        """What the function makes of the pixels."""
        return self.function(image)


def size_of(image: Tensor) -> ImageSize:
    """(height, width) of a (C, H, W) image."""
    return int(image.shape[-2]), int(image.shape[-1])


def augment(
    image: Tensor, augmentations: Sequence[Augmentation], rng: np.random.Generator, *, may_mirror: bool = True
) -> tuple[Tensor, Geometry]:
    """The image after all augmentations in their order, and the one map from the old pixels to the new.

    Args:
        image: (C, H, W).
        augmentations: in their order.
        rng: of this image; drawn from as often with or without mirroring.
        may_mirror: False leaves transforms out that exchange left and right.
    """
    geometry = Geometry.identity(size_of(image))
    for augmentation in augmentations:
        transform = augmentation.get_transform(image, rng)
        if not may_mirror and transform.geometry.is_mirroring:
            continue
        image = transform.apply_image(image)
        geometry = geometry.then(transform.geometry)
    return image, geometry
