"""Augmentations: what training does to an image and to everything that is marked in it."""

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.transforms import crop, flip, photometric, resize
from mrcnn_zoo.data.transforms.geometry import Geometry
from mrcnn_zoo.data.transforms.resize import build_test_resize
from mrcnn_zoo.data.transforms.transform import Augmentation, Transform, augment
from mrcnn_zoo.registries import AUGMENTATIONS

__all__ = [
    "Augmentation",
    "Geometry",
    "Transform",
    "augment",
    "build_test_resize",
    "build_train_augmentations",
    "crop",
    "flip",
    "photometric",
    "resize",
]


def build_train_augmentations(cfg: CfgNode) -> list[Augmentation]:
    """What happens to a training image: crop, the extras of INPUT.AUGMENTATIONS, resize, flip.

    The extras come before the resizing, where the image is small and they are cheap.
    """
    names = ["RandomCrop"] if cfg.INPUT.CROP.ENABLED else []
    names += [*cfg.INPUT.AUGMENTATIONS, "ResizeShortestEdge", "RandomFlip"]
    return [AUGMENTATIONS.get(name, key="INPUT.AUGMENTATIONS")(cfg) for name in names]
