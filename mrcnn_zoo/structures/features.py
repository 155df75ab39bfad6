"""Shapes of feature maps, as far as they are known before there is an image."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class FeatureSpec:
    """Shape of one feature map."""

    channels: int
    stride: int = 1  # image pixels from one cell to the next
    side: int = 0  # height and width of a pooled, square map; 0 where it depends on the image


@dataclass(frozen=True)
class BranchSpec(FeatureSpec):
    """What the builder of a branch of the region heads is called with: its pooled map, and the maps of the backbone."""

    maps: Mapping[str, FeatureSpec] = field(default_factory=dict)  # all of them, by name
