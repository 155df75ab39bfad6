"""From the coordinates of the resized image that the model saw to those of the original."""

from dataclasses import replace

from mrcnn_zoo.ops import boxes as box_ops
from mrcnn_zoo.structures import Detections, ImageSize, ProbabilityMasks


def to_original_size(detections: Detections, original_size: ImageSize) -> Detections:
    """The detections scaled to the original image and clipped to it; boxes without width or height are dropped.

    Masks keep their probabilities and are drawn only when asked for, over the scaled boxes.

    Args:
        detections: of the resized image.
        original_size: (height, width).
    """
    (height, width), (original_height, original_width) = detections.image_size, original_size
    boxes = box_ops.scale(detections.boxes, x=original_width / width, y=original_height / height)
    boxes = box_ops.clip(boxes, original_size)
    masks = detections.masks
    if isinstance(masks, ProbabilityMasks):
        masks = replace(masks, boxes=boxes, image_size=original_size)
    scaled = replace(detections, image_size=original_size, boxes=boxes, masks=masks)
    return scaled[box_ops.is_nonempty(boxes)]
