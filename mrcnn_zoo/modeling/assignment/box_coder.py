"""Box coders by the names that a config gives them."""

from collections.abc import Sequence

from mrcnn_zoo.ops.box_coding import BoxCoder
from mrcnn_zoo.registries import BOX_CODERS


@BOX_CODERS.register("Box2BoxTransform")
def build_box_coder(weights: Sequence[float]) -> BoxCoder:
    """Deltas of centre and logarithmic size."""
    return BoxCoder(weights)
