"""From samples to one batch, and from detections back to pixels of the original image."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.recording import Recorder, report_all_kept
from mrcnn_zoo.ops import boxes as box_ops
from mrcnn_zoo.ops.rows import rows_where
from mrcnn_zoo.structures import Batch, Detections, ImageSize, InstanceTable, Proposals, Sample


class Collation(nn.Module):
    """Normalises images and pads them to one size that the backbone can halve often enough.

    Args:
        pixel_mean: of each input channel, pixel units.
        pixel_std: of each input channel, pixel units.
        size_divisibility: height and width become multiples of this.
    """

    pixel_mean: Tensor  # (C, 1, 1)
    pixel_std: Tensor  # (C, 1, 1)

    def __init__(self, pixel_mean: Sequence[float], pixel_std: Sequence[float], *, size_divisibility: int) -> None:
        super().__init__()
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32)[:, None, None], persistent=False)
        self.size_divisibility = size_divisibility

    def forward(self, samples: Sequence[Sample]) -> Batch:
        """The samples as a batch, on the device of the model."""
        return Batch.collate(
            samples,
            pixel_mean=self.pixel_mean,
            pixel_std=self.pixel_std,
            size_divisibility=self.size_divisibility,
        )


def to_original_size(detections: Detections, original_size: ImageSize, *, drops_empty: bool = True) -> Detections:
    """The detections scaled to the original image and clipped to it; boxes without width or height are dropped.

    Masks are `resized`, which only moves boxes where masks are probabilities. Keypoints may lie outside.

    Args:
        detections: of the resized image.
        original_size: (height, width).
        drops_empty: False keeps the boxes without width or height.

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
        x, y, score = keypoints.unbind(-1)
        keypoints = torch.stack((x * x_scale, y * y_scale, score), dim=-1)
    scaled = replace(detections, image_size=original_size, boxes=boxes, masks=masks, keypoints=keypoints)
    return _without_empty([scaled])[0] if drops_empty else scaled


def all_to_original_size(
    detections: Sequence[Detections], samples: Sequence[Sample], *, recorder: Recorder | None = None
) -> list[Detections]:
    """`to_original_size` for the sample of each table; the host waits for the device once.

    A recorder gets a report of the stage "original size".
    """
    scaled = [
        to_original_size(table, sample.original_size, drops_empty=False)
        for table, sample in zip(detections, samples, strict=True)
    ]
    if recorder is not None:
        report_all_kept(recorder, scaled, stage="original size", drops_empty=True)
    return _without_empty(scaled)


def to_resized(boxes: Tensor, original_size: ImageSize, image_size: ImageSize) -> Proposals:
    """Given boxes of the original image, (R, 4) pixels, as proposals of the resized one, clipped to it."""
    (height, width), (original_height, original_width) = image_size, original_size
    resized = box_ops.clip(box_ops.scale(boxes, x=width / original_width, y=height / original_height), image_size)
    return Proposals(image_size, resized, objectness=boxes.new_zeros(len(boxes)))


def check_given_boxes(samples: Sequence[Sample], boxes: Sequence[Tensor], classes: Sequence[Tensor] | None) -> None:
    """Refuse boxes or classes of another shape than the samples need.

    Raises:
        UserError: naming the image.
    """
    if len(boxes) != len(samples) or (classes is not None and len(classes) != len(samples)):
        raise UserError(f"{len(samples)} images need as many tensors of boxes and classes, one for each image.")
    for number, (sample, table) in enumerate(zip(samples, boxes, strict=True)):
        name = sample.file_name or sample.image_id
        if table.dim() != 2 or table.shape[1] != 4:
            raise UserError(f"{name}: given boxes must be (R, 4), not {tuple(table.shape)}.")
        if not table.isfinite().all():
            raise UserError(f"{name}: a given box has a coordinate that is not finite.")
        if classes is not None and classes[number].shape != table.shape[:1]:
            raise UserError(f"{name}: {len(table)} given boxes with classes of shape {tuple(classes[number].shape)}.")


def proposals_to_original_size(proposals: Sequence[Proposals], samples: Sequence[Sample]) -> list[Proposals]:
    """Proposals scaled to the original image of each sample and clipped to it; without width or height are dropped."""
    scaled = []
    for table, sample in zip(proposals, samples, strict=True):
        (height, width), (original_height, original_width) = table.image_size, sample.original_size
        boxes = box_ops.scale(table.boxes, x=original_width / width, y=original_height / height)
        boxes = box_ops.clip(boxes, sample.original_size)
        scaled.append(replace(table, image_size=sample.original_size, boxes=boxes))
    return _without_empty(scaled)


Table = TypeVar("Table", bound=InstanceTable)


def _without_empty(tables: Sequence[Table]) -> list[Table]:
    rows = rows_where([box_ops.is_nonempty(table.boxes) for table in tables])
    return [
        table if len(of_table) == len(table) else table[of_table] for table, of_table in zip(tables, rows, strict=True)
    ]
