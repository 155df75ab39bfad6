"""Flips and rotations by multiples of 90 degrees."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mrcnn_zoo.config import CfgNode, choice_of
from mrcnn_zoo.data.transforms.transform import AffineTransform, Augmentation, NoTransform, Transform, size_of
from mrcnn_zoo.registries import AUGMENTATIONS
from mrcnn_zoo.structures import ImageSize

FLIP_PROBABILITY = 0.5


@dataclass(frozen=True)
class HorizontalFlip:
    """A mirror image, left for right."""

    size: ImageSize

    @property
    def affine(self) -> AffineTransform:
        """x -> width - x."""
        return AffineTransform.scale_and_shift((-1.0, 1.0), (float(self.size[1]), 0.0), self.size)

    def apply_image(self, image: Tensor) -> Tensor:
        """The mirrored image."""
        return image.flip(-1)


@dataclass(frozen=True)
class VerticalFlip:
    """A mirror image, top for bottom."""

    size: ImageSize

    @property
    def affine(self) -> AffineTransform:
        """y -> height - y."""
        return AffineTransform.scale_and_shift((1.0, -1.0), (0.0, float(self.size[0])), self.size)

    def apply_image(self, image: Tensor) -> Tensor:
        """The mirrored image."""
        return image.flip(-2)


@dataclass(frozen=True)
class QuarterTurn:
    """A rotation by 90 degrees counter-clockwise."""

    before: ImageSize

    @property
    def affine(self) -> AffineTransform:
        """(x, y) -> (y, width - x)."""
        height, width = self.before
        return AffineTransform(np.array([[0, 1, 0], [-1, 0, width], [0, 0, 1.0]]), (width, height))

    def apply_image(self, image: Tensor) -> Tensor:
        """The rotated image."""
        return torch.rot90(image, 1, (-2, -1))


@dataclass(frozen=True)
class HalfTurn:
    """A rotation by 180 degrees."""

    size: ImageSize

    @property
    def affine(self) -> AffineTransform:
        """(x, y) -> (width - x, height - y)."""
        height, width = self.size
        return AffineTransform.scale_and_shift((-1.0, -1.0), (float(width), float(height)), self.size)

    def apply_image(self, image: Tensor) -> Tensor:
        """The rotated image."""
        return image.flip((-2, -1))


@dataclass(frozen=True)
class ThreeQuarterTurn:
    """A rotation by 90 degrees clockwise."""

    before: ImageSize

    @property
    def affine(self) -> AffineTransform:
        """(x, y) -> (height - y, x)."""
        height, width = self.before
        return AffineTransform(np.array([[0, -1, height], [1, 0, 0], [0, 0, 1.0]]), (width, height))

    def apply_image(self, image: Tensor) -> Tensor:
        """The rotated image."""
        return torch.rot90(image, 3, (-2, -1))


class RandomHorizontalFlip:
    """A horizontal flip with probability 0.5."""

    def get_transform(self, image: Tensor, rng: np.random.Generator) -> Transform:
        """A flip or the identity; see `Augmentation`."""
        size = size_of(image)
        return HorizontalFlip(size) if rng.random() < FLIP_PROBABILITY else NoTransform(size)


class RandomVerticalFlip:
    """A vertical flip with probability 0.5."""

    def get_transform(self, image: Tensor, rng: np.random.Generator) -> Transform:
        """A flip or the identity; see `Augmentation`."""
        size = size_of(image)
        return VerticalFlip(size) if rng.random() < FLIP_PROBABILITY else NoTransform(size)


class NoAugmentation:
    """The identity for every image."""

    def get_transform(self, image: Tensor, rng: np.random.Generator) -> Transform:  # noqa: ARG002
        """The identity; see `Augmentation`."""
        return NoTransform(size_of(image))


class RandomRotate90:
    """A rotation by 0, 90, 180 or 270 degrees with equal probabilities; for images without an up, such as cells."""

    def get_transform(self, image: Tensor, rng: np.random.Generator) -> Transform:
        """One of the four rotations; see `Augmentation`."""
        turns = (NoTransform, QuarterTurn, HalfTurn, ThreeQuarterTurn)
        return turns[int(rng.integers(len(turns)))](size_of(image))


FLIPS: dict[str, type[Augmentation]] = {
    "horizontal": RandomHorizontalFlip,
    "vertical": RandomVerticalFlip,
    "none": NoAugmentation,
}


@AUGMENTATIONS.register("RandomFlip")
def build_random_flip(cfg: CfgNode) -> Augmentation:
    """The flip that INPUT.RANDOM_FLIP names."""
    return choice_of(cfg, "INPUT.RANDOM_FLIP", FLIPS)()


@AUGMENTATIONS.register("RandomHorizontalFlip")
def build_random_horizontal_flip(cfg: CfgNode) -> Augmentation:  # noqa: ARG001
    """A horizontal flip, in addition to that of INPUT.RANDOM_FLIP."""
    return RandomHorizontalFlip()


@AUGMENTATIONS.register("RandomVerticalFlip")
def build_random_vertical_flip(cfg: CfgNode) -> Augmentation:  # noqa: ARG001
    """A vertical flip, in addition to that of INPUT.RANDOM_FLIP."""
    return RandomVerticalFlip()


@AUGMENTATIONS.register("RandomRotate90")
def build_random_rotate_90(cfg: CfgNode) -> Augmentation:  # noqa: ARG001
    """Rotations by multiples of 90 degrees."""
    return RandomRotate90()
