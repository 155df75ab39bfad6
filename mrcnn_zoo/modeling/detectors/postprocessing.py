"""From the coordinates of the resized image that the model saw to those of the original."""

from dataclasses import replace

from mrcnn_zoo.ops import boxes as box_ops
from mrcnn_zoo.structures import Detections, ImageSize, Proposals


def to_original_size(detections: Detections, original_size: ImageSize) -> Detections:
    """The detections scaled to the original image and clipped to it; boxes without width or height are dropped.

    Masks are `resized`, which only moves boxes where masks are probabilities. Keypoints may lie outside.

    Args:
        detections: of the resized image.
        original_size: (height, width).

    Raises:
        TypeError: the masks are of a kind without `resized`.
    """
    (height, width), (original_height, original_width) = detections.image_size, original_size
    x_scale, y_scale = original_width / width, original_height / height
    boxes = box_ops.clip(box_ops.scale(detections.boxes, x=x_scale, y=y_scale), original_size)
    masks, keypoints = detections.masks, detections.keypoints
    if masks is not None:
        if not hasattr(masks, "resized"):
            raise TypeError(
                f"masks of the class {type(masks).__name__} cannot be moved from the resized to the original image: "
                "give it a method resized(image_size, boxes), see PredictedMasks in mrcnn_zoo/structures/masks.py."
            )
        masks = masks.resized(original_size, boxes)
    if keypoints is not None:
        keypoints = keypoints * keypoints.new_tensor((x_scale, y_scale, 1))
    scaled = replace(detections, image_size=original_size, boxes=boxes, masks=masks, keypoints=keypoints)
    return scaled[box_ops.is_nonempty(boxes)]


def proposals_to_original_size(proposals: Proposals, original_size: ImageSize) -> Proposals:
    """The proposals scaled to the original image and clipped to it; boxes without width or height are dropped.

    Args:
        proposals: of the resized image.
        original_size: (height, width).
    """
    (height, width), (original_height, original_width) = proposals.image_size, original_size
    boxes = box_ops.scale(proposals.boxes, x=original_width / width, y=original_height / height)
    boxes = box_ops.clip(boxes, original_size)
    return replace(proposals, image_size=original_size, boxes=boxes)[box_ops.is_nonempty(boxes)]
