"""What a component says about the feature map it hands on."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FeatureSpec:
    """Shape of a feature map, as far as it is known before there is an image."""

    channels: int
    stride: int = 1  # image pixels from one cell to the next
    side: int = 0  # height and width of a pooled, square map; 0 where it depends on the image
