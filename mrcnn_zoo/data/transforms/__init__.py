"""Augmentations of images and their annotations."""

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
    """The augmentations of training: crop, INPUT.AUGMENTATIONS, resize, flip, order of the channels.

    INPUT.AUGMENTATIONS work on floats and come before the resizing, as most image files are smaller than the network's
    input. Resized images have planes in memory, which makes flips and the order of channels twice as fast.
    """
    names = ["RandomCrop"] if cfg.INPUT.CROP.ENABLED else []
    names += [*cfg.INPUT.AUGMENTATIONS, "ResizeShortestEdge", "RandomFlip", "ChannelOrder"]
    return [AUGMENTATIONS.get(name, key="INPUT.AUGMENTATIONS")(cfg) for name in names]


def build_eval_augmentations(cfg: CfgNode) -> list[Augmentation]:
    """The augmentations of evaluation, resizing and the order of the channels; none is random."""
    return [build_eval_resize(cfg), ChannelOrder(pixel_format_of(cfg))]
