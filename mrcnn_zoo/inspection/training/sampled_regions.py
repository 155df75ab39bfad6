"""The regions of one image that the region heads are trained on: sampled RoIs, and their mask targets."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, nn

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.detectors import GeneralizedRCNN
from mrcnn_zoo.ops.boxes import iou
from mrcnn_zoo.structures import (
    Batch,
    LabeledRegions,
    ProbabilityMasks,
    Proposals,
    Sample,
    TargetMasks,
    Targets,
    foreground_regions,
)

SEED = 0  # of the sampler, so that all pictures of an image show the same regions


@dataclass(frozen=True)
class SampledRegions:
    """The regions that one training step samples from the proposals of an image."""

    targets: Targets  # of the image
    regions: LabeledRegions  # foreground first
    num_foreground: int
    num_proposals: int  # before the ground-truth boxes are added

    def ious(self) -> Tensor:
        """(R,) the highest IoU of each region with an object; 0 without objects."""
        overlaps = iou(self.regions.boxes, self.targets.boxes)
        return overlaps.amax(dim=1) if overlaps.shape[1] else torch.zeros(len(overlaps))

    def objects(self) -> list[int]:
        """The row of the object of each foreground region."""
        return self.regions.matches[: self.num_foreground].tolist()


@dataclass(frozen=True)
class MaskTarget:
    """The mask target of one foreground region."""

    object_row: int
    box: Tensor  # (4,) of the region, pixels of the resized image
    target: Tensor  # (M, M) bool
    truth: Tensor  # (H, W) bool mask of the object
    pasted: Tensor  # (H, W) bool, the target pasted back into the region

    def iou(self) -> float:
        """Of the pasted target with the truth: the best mask IoU that a perfect head reaches in this region."""
        return _mask_iou(self.pasted, self.truth)

    def iou_inside(self) -> float:
        """The same inside the region, without the part of the object that the box cuts off."""
        inside = torch.zeros_like(self.truth)
        x1, y1, x2, y2 = self.box.tolist()
        # Pixels whose centre is in the box.
        left, top, right, bottom = (max(0, math.ceil(edge - 0.5)) for edge in (x1, y1, x2, y2))
        inside[top:bottom, left:right] = True
        return _mask_iou(self.pasted & inside, self.truth & inside)


def _mask_iou(first: Tensor, second: Tensor) -> float:
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 0.0


def sample_regions(model: nn.Module, sample: Sample) -> SampledRegions:
    """Propose, label and sample the regions of an image as a training step does.

    Args:
        model: a two-stage detector in evaluation mode, whose weights decide the proposals.
        sample: an image with targets.

    Raises:
        UserError: a detector without region heads that label regions.
    """
    heads = find_labeling_heads(model, purpose="rois")
    with _fixed_seed():
        _, proposals, targets = _proposals_of(model, sample)
        torch.manual_seed(SEED)
        (regions,) = heads.labeler.label(proposals, targets)
    (foreground,), _ = foreground_regions([regions], heads.labeler.num_classes)
    regions, (truth,) = regions.to("cpu"), targets
    return SampledRegions(truth.to("cpu"), regions, len(foreground), len(proposals[0]))


def mask_targets_of(model: nn.Module, sample: Sample) -> list[MaskTarget]:
    """The mask targets of the sampled foreground regions, as the mask head crops them in a training step.

    Args:
        model: a detector with a mask head, in evaluation mode.
        sample: an image with targets.

    Raises:
        UserError: no region heads, no mask head, or no masks.
    """
    heads = find_labeling_heads(model, purpose="mask-targets")
    if sample.targets is None or sample.targets.masks is None or not any("mask" in name for name in heads.branch_names):
        raise UserError("mask-targets: MODEL.MASK_ON is False or the data has no masks, so no masks are trained.")
    with _fixed_seed():
        features, proposals, (truth,) = _proposals_of(model, sample)
        assert truth.masks is not None
        recorder = _RecordedMasks(truth.masks)
        recorded = Targets(truth.image_size, truth.boxes, truth.classes, masks=recorder, keypoints=truth.keypoints)
        torch.manual_seed(SEED)
        heads.losses(features, proposals, [recorded])
    return _mask_targets(recorder.crops[:1], truth.masks.bitmaps().cpu(), truth.image_size)


@contextlib.contextmanager
def _fixed_seed() -> Iterator[None]:
    """Random numbers of the CPU from SEED, and no gradients; the former state is restored."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(SEED)
        yield


def _mask_targets(
    crops: Sequence[tuple[list[int], Tensor, Tensor]], truth: Tensor, image_size: tuple[int, int]
) -> list[MaskTarget]:
    found = []
    for rows, boxes, targets in crops:
        for row, box, target in zip(rows, boxes.cpu(), targets.cpu(), strict=True):
            pasted = ProbabilityMasks(target[None].float(), box[None], image_size).bitmaps()[0]
            found.append(MaskTarget(row, box, target, truth[row], pasted))
    return found


@dataclass
class _RecordedMasks:
    """Target masks that keep what is cropped from them: rows, (R, 4) boxes and (R, M, M) crops of each call."""

    masks: TargetMasks
    rows: list[int] | None = None
    crops: list[tuple[list[int], Tensor, Tensor]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, rows: Tensor | slice) -> "_RecordedMasks":
        before = self.rows if self.rows is not None else list(range(len(self.masks)))
        chosen = before[rows] if isinstance(rows, slice) else torch.tensor(before)[rows.cpu()].tolist()
        return _RecordedMasks(self.masks[rows], chosen, self.crops)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "_RecordedMasks":
        return _RecordedMasks(self.masks.to(device, non_blocking=non_blocking), self.rows, self.crops)

    def crop_and_resize(self, boxes: Tensor, side: int) -> Tensor:
        crops = self.masks.crop_and_resize(boxes, side)
        rows = self.rows if self.rows is not None else list(range(len(self.masks)))
        self.crops.append((rows, boxes, crops))
        return crops

    def sample_points(self, points: Tensor) -> Tensor:
        return self.masks.sample_points(points)

    def areas(self, boxes: Tensor | None = None) -> Tensor:
        return self.masks.areas(boxes)

    def bitmaps(self) -> Tensor:
        return self.masks.bitmaps()


def find_labeling_heads(model: nn.Module, *, purpose: str) -> Any:
    """The region heads, with a `labeler`.

    Args:
        model: a detector.
        purpose: what the regions are for, at the beginning of the message.

    Raises:
        UserError: a detector without them.
    """
    heads = getattr(model, "roi_heads", None)
    if not isinstance(model, GeneralizedRCNN) or not hasattr(heads, "labeler"):
        raise UserError(
            f"{purpose}: {type(model).__name__} (MODEL.META_ARCHITECTURE) has no region heads that sample regions. "
            "Use GeneralizedRCNN, or --show anchors,labels,sizes."
        )
    return heads


def _proposals_of(model: nn.Module, sample: Sample) -> tuple[Any, list[Proposals], list[Targets]]:
    """The features, the proposals of training and the targets of a batch of one image."""
    assert isinstance(model, GeneralizedRCNN)
    batch: Batch = model.collate([sample])
    features = model.backbone(batch.pixels)
    proposals, _ = model.proposal_generator.losses(features, batch)
    return features, proposals, batch.require_targets()


def region_table(sampled: SampledRegions, class_names: Sequence[str]) -> str:
    """Sampled regions, and the foreground regions of each object.

    Args:
        sampled: of an image.
        class_names: by class index.
    """
    ious, objects = sampled.ious(), torch.tensor(sampled.objects(), dtype=torch.int64)
    count, total = sampled.num_foreground, len(sampled.regions)
    text = f"{count} foreground and {total - count} background regions of {sampled.num_proposals} proposals"
    rows = []
    for row, index in enumerate(sampled.targets.classes.tolist()):
        own = ious[:count][objects == row]
        best = float(own.max()) if len(own) else None
        rows.append([row, class_names[index], len(own), best])
    if not rows:
        return text
    headers = ("object", "class", "foreground", "best IoU")
    return f"{text}\n{tabulate(rows, headers=headers, floatfmt='.2f', missingval='none')}"


def mask_target_table(targets: Sequence[MaskTarget]) -> str:
    """The IoU of each mask target with the truth, pasted back.

    Args:
        targets: of an image.
    """
    if not targets:
        return "no foreground region, so no mask is trained in this image"
    rows = [[item.object_row, len(item.target), item.iou(), item.iou_inside()] for item in targets]
    text = tabulate(rows, headers=("object", "side", "IoU", "IoU inside the region"), floatfmt=".3f")
    inside = sum(row[3] for row in rows) / len(rows)
    return f"{text}\nmean IoU inside the region {inside:.3f}: what targets of this side keep of the masks"
