"""Box coders by the names that a config gives them."""

from collections.abc import Sequence

from mrcnn_zoo.ops.box_coding import SCALE_CLAMP, BoxCoder, LastPixelBoxCoder
from mrcnn_zoo.registries import BOX_CODERS


@BOX_CODERS.register("Box2BoxTransform")
def build_box_coder(weights: Sequence[float]) -> BoxCoder:
    """Deltas of centre and logarithmic size."""
    return BoxCoder(weights)


@BOX_CODERS.register("DeltaXYWHBBoxCoder")
def build_bounded_box_coder(weights: Sequence[float]) -> BoxCoder:
    """As MMDetection's: no box shrinks by more than it may grow."""
    return BoxCoder(weights, scale_floor=-SCALE_CLAMP)


@BOX_CODERS.register("LastPixelBoxCoder")
def build_last_pixel_box_coder(weights: Sequence[float]) -> LastPixelBoxCoder:
    """As matterport's: deltas between the centres of the first and last pixels."""
    return LastPixelBoxCoder(weights)
