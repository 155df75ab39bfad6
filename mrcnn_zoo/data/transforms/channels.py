"""Putting the channels in the order that the model sees."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import Tensor

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.pixels import order_channels, pixel_format_of
from mrcnn_zoo.data.transforms.transform import Augmentation, PixelTransform, Transform, size_of
from mrcnn_zoo.registries import AUGMENTATIONS


@dataclass(frozen=True)
class ChannelOrder:
    """RGB to another order; draws nothing at random."""

    pixel_format: str  # as INPUT.FORMAT

    def get_transform(self, image: Tensor, rng: np.random.Generator) -> Transform:  # noqa: ARG002
        """The same for every image."""
        return PixelTransform(size_of(image), partial(order_channels, pixel_format=self.pixel_format))


@AUGMENTATIONS.register("ChannelOrder")
def build_channel_order(cfg: CfgNode) -> Augmentation:
    """RGB to INPUT.FORMAT."""
    return ChannelOrder(pixel_format_of(cfg))
