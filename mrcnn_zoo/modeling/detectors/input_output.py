"""What detectors share: batches of samples, `forward`, `propose`, and results in pixels of the original images."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.contracts import Backbone, Detector, Features, ProposalGenerator
from mrcnn_zoo.modeling.recording import Recorder, recorded, report_all_kept, report_features
from mrcnn_zoo.ops import boxes as box_ops
from mrcnn_zoo.ops.rows import rows_where
from mrcnn_zoo.structures import Batch, Detections, ImageSize, InstanceTable, Proposals, Sample, TrainingOutput


class Collation(nn.Module):
    """Normalises images and pads them to one size that the backbone's strides divide.

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
        """The samples as a batch, on the device of the model.

        Args:
            samples: at least one.
        """
        return Batch.collate(
            samples,
            pixel_mean=self.pixel_mean,
            pixel_std=self.pixel_std,
            size_divisibility=self.size_divisibility,
        )


def losses_or_detections(detector: Detector, samples: list[Sample]) -> TrainingOutput | list[Detections]:
    """`forward` of every detector, the one method that DistributedDataParallel wraps.

    Args:
        detector: the model.
        samples: images, with targets in training mode.

    Returns:
        What `losses` returns in training mode, else what `predict` returns.
    """
    return detector.losses(samples) if detector.training else detector.predict(samples)  # type: ignore[attr-defined]


class _ProposingDetector(Protocol):
    collate: Collation
    backbone: Backbone
    proposal_generator: ProposalGenerator


@torch.no_grad()
def propose(detector: _ProposingDetector, samples: list[Sample], recorder: Recorder | None = None) -> list[Proposals]:
    """`propose` of every detector with a proposal generator.

    Args:
        detector: the model.
        samples: images.
        recorder: gets a report of the stage "proposals" on each image.

    Returns:
        The proposals of each image in pixels of its original size, best first; those without width or height are
        dropped.
    """
    batch = detector.collate(samples)
    features = features_of_proposals(detector, batch)
    if recorder is not None:
        report_backbone_maps(recorder, detector.backbone, features, batch)
    proposals = recorded(detector.proposal_generator.predict, features, batch, recorder=recorder)
    return _without_empty([_rescaled(table, s.original_size) for table, s in zip(proposals, samples, strict=True)])


def report_backbone_maps(recorder: Recorder, backbone: Backbone, features: Features, batch: Batch) -> None:
    """Report the maps of a backbone with their strides.

    Args:
        recorder: gets the values "features".
        backbone: that made the maps.
        features: its maps of the batch.
        batch: its input.
    """
    strides = {name: spec.stride for name, spec in backbone.output_specs.items() if name in features}
    report_features(recorder, features, strides, batch.image_sizes)


def features_of_proposals(detector: _ProposingDetector, batch: Batch) -> Features:
    """The maps of the backbone; none if the proposal generator does not use them.

    Args:
        detector: the model.
        batch: its input.
    """
    return detector.backbone(batch.pixels) if getattr(detector.proposal_generator, "needs_features", True) else {}


def to_original_size(detections: Detections, original_size: ImageSize, *, drops_empty: bool = True) -> Detections:
    """The detections scaled to the original image; boxes, but not keypoints, are clipped to it.

    Masks are `resized`, which only moves boxes where masks are probabilities.

    Args:
        detections: of the resized image.
        original_size: (height, width).
        drops_empty: drop boxes without width or height.

    Raises:
        TypeError: masks of a class without `resized`.
    """
    scaled = _rescaled(detections, original_size)
    if scaled.masks is not None:
        if not hasattr(scaled.masks, "resized"):
            raise TypeError(
                f"masks of the class {type(scaled.masks).__name__} cannot be moved from the resized to the original "
                "image: give it a method resized(image_size, boxes), see PredictedMasks in "
                "mrcnn_zoo/structures/masks.py."
            )
        scaled = replace(scaled, masks=scaled.masks.resized(original_size, scaled.boxes))
    if scaled.keypoints is not None:
        (height, width), (original_height, original_width) = detections.image_size, original_size
        x, y, score = scaled.keypoints.unbind(-1)
        keypoints = torch.stack((x * (original_width / width), y * (original_height / height), score), dim=-1)
        scaled = replace(scaled, keypoints=keypoints)
    return _without_empty([scaled])[0] if drops_empty else scaled


def all_to_original_size(
    detections: Sequence[Detections], samples: Sequence[Sample], *, recorder: Recorder | None = None
) -> list[Detections]:
    """`to_original_size` of several images; the host waits for the device once.

    Args:
        detections: of each resized image.
        samples: the same images.
        recorder: gets a report of the stage "original size" on each image.
    """
    scaled = [
        to_original_size(table, sample.original_size, drops_empty=False)
        for table, sample in zip(detections, samples, strict=True)
    ]
    if recorder is not None:
        report_all_kept(recorder, scaled, stage="original size", drops_empty=True)
    return _without_empty(scaled)


def as_proposals(boxes: Tensor, original_size: ImageSize, image_size: ImageSize) -> Proposals:
    """Given boxes as proposals of objectness 0 in the resized image.

    Args:
        boxes: (R, 4) pixels of the original image.
        original_size: (height, width).
        image_size: (height, width) of the resized image.
    """
    return _rescaled(Proposals(original_size, boxes, objectness=boxes.new_zeros(len(boxes))), image_size)


def check_given_boxes(samples: Sequence[Sample], boxes: Sequence[Tensor], classes: Sequence[Tensor] | None) -> None:
    """Refuse boxes or classes whose shapes do not fit the samples.

    Args:
        samples: N images.
        boxes: (R_i, 4) of each image.
        classes: (R_i,) of each image, or None.

    Raises:
        UserError: naming the image.
    """
    if len(boxes) != len(samples) or (classes is not None and len(classes) != len(samples)):
        raise UserError(f"{len(samples)} images need as many tensors of boxes and classes, one per image.")
    for number, (sample, table) in enumerate(zip(samples, boxes, strict=True)):
        name = sample.file_name or sample.image_id
        if table.dim() != 2 or table.shape[1] != 4:
            raise UserError(f"{name}: given boxes must be (R, 4), not {tuple(table.shape)}.")
        if not table.isfinite().all():
            raise UserError(f"{name}: a given box has a coordinate that is not finite.")
        if classes is not None and classes[number].shape != table.shape[:1]:
            raise UserError(f"{name}: {len(table)} given boxes with classes of shape {tuple(classes[number].shape)}.")


Table = TypeVar("Table", bound=InstanceTable)


def _rescaled(table: Table, image_size: ImageSize) -> Table:
    """The table with boxes scaled to an image of another size and clipped to it."""
    (height, width), (new_height, new_width) = table.image_size, image_size
    boxes = box_ops.clip_to_image(box_ops.scale(table.boxes, x=new_width / width, y=new_height / height), image_size)
    return replace(table, image_size=image_size, boxes=boxes)


def _without_empty(tables: Sequence[Table]) -> list[Table]:
    rows = rows_where([box_ops.is_nonempty(table.boxes) for table in tables])
    return [
        table if len(of_table) == len(table) else table[of_table] for table, of_table in zip(tables, rows, strict=True)
    ]
