"""Augmentations: what training does to an image and to everything that is marked in it."""

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.images.pixels import pixel_format_of
from mrcnn_zoo.data.transforms import crop, flip, photometric, resize
from mrcnn_zoo.data.transforms.photometric import ChannelOrder
from mrcnn_zoo.data.transforms.resize import build_eval_resize
from mrcnn_zoo.data.transforms.transform import AffineTransform, Augmentation, Transform, augment
from mrcnn_zoo.registries import AUGMENTATIONS

__all__ = [
    "AffineTransform",
    "Augmentation",
    "Transform",
    "augment",
    "build_eval_augmentations",
    "build_train_augmentations",
    "crop",
    "flip",
    "photometric",
    "resize",
]


def build_train_augmentations(cfg: CfgNode) -> list[Augmentation]:
    """What happens to a training image: crop, the extras of INPUT.AUGMENTATIONS, resize, flip, order of channels.

    The extras work on floats and come while most images are still small. Resizing lays the pixels out plane by plane,
    after which flipping and reordering them are twice as fast.
    """
    names = ["RandomCrop"] if cfg.INPUT.CROP.ENABLED else []
    names += [*cfg.INPUT.AUGMENTATIONS, "ResizeShortestEdge", "RandomFlip", "ChannelOrder"]
    return [AUGMENTATIONS.get(name, key="INPUT.AUGMENTATIONS")(cfg) for name in names]


def build_eval_augmentations(cfg: CfgNode) -> list[Augmentation]:
    """What happens to a test image; nothing of it is random."""
    return [build_eval_resize(cfg), ChannelOrder(pixel_format_of(cfg))]
