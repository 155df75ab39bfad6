"""How a mask head is trained, and how its maps become masks; the same for every kind of layers."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.losses.mask import MaskLoss
from mrcnn_zoo.registries import MASK_LOSSES
from mrcnn_zoo.structures import (
    Detections,
    LabeledRegions,
    LossSum,
    ProbabilityMasks,
    TargetMasks,
    TrainingOutput,
    crop_matched,
)


class MaskLayers(Protocol):
    """The layers of a mask head."""

    def __call__(self, pooled: Tensor) -> Tensor:
        """(R, C, S, S) -> (R, maps, M, M) logits."""
        ...

    def class_logits(self, pooled: Tensor, classes: Tensor) -> Tensor:
        """(R, C, S, S), (R,) int64 in [0, K) -> (R, M, M) logits, float32: each region's map of one class."""
        ...


class MaskCriterion:
    """Trains the maps of a mask head and turns them into masks.

    Args:
        loss: what the maps mean, and how far they are from the masks.
        weight: factor of the loss.
    """

    def __init__(self, loss: MaskLoss, *, weight: float = 1.0) -> None:
        self.loss = loss
        self.weight = weight

    def count_maps(self, num_class_maps: int) -> int:
        """The maps that a head must have: those of the classes, and the background's where they compete."""
        return num_class_maps + 1 if self.loss.maps_compete else num_class_maps

    def supervise(
        self, layers: MaskLayers, pooled: Tensor, foreground: list[LabeledRegions]
    ) -> tuple[Tensor, TrainingOutput]:
        """Masks, `loss_mask`, the mean over the pixels of all foreground regions, and the share of right pixels.

        Args:
            layers: of the head.
            pooled: (sum of R_i, C, S, S).
            foreground: R_i regions of each image, all with an object.

        Returns:
            (sum of R_i, M, M) probabilities of each region's class, and the losses.

        Raises:
            UserError: an image with objects has no masks.
        """
        classes = torch.cat([table.classes for table in foreground])
        logits = self._logits(layers, pooled, classes)
        targets = mask_targets_of_all(foreground, logits.shape[-1])
        probabilities = self.loss.probabilities(logits, classes)
        is_right = (probabilities.detach() > 0.5) == targets
        return probabilities, TrainingOutput(
            {"loss_mask": LossSum(self.weight * self.loss(logits, targets, classes), targets.numel())},
            {"mask/accuracy": is_right.sum() / max(targets.numel(), 1)},
        )

    def predict(self, layers: MaskLayers, pooled: Tensor, detections: list[Detections]) -> list[Detections]:
        """The detections with masks: (sum of R_i, C, S, S) and R_i detections of each image."""
        classes = torch.cat([table.classes for table in detections])
        probabilities = self.loss.probabilities(self._logits(layers, pooled, classes), classes)
        return [
            replace(table, masks=ProbabilityMasks(image_probabilities, table.boxes, table.image_size))
            for table, image_probabilities in zip(
                detections, probabilities.split([len(table) for table in detections]), strict=True
            )
        ]

    def _logits(self, layers: MaskLayers, pooled: Tensor, classes: Tensor) -> Tensor:
        """What the loss needs: (R, K + 1, M, M) of all maps, or (R, M, M), a K-th of the work and memory."""
        return layers(pooled).float() if self.loss.maps_compete else layers.class_logits(pooled, classes)


@torch.no_grad()
def mask_targets(foreground: LabeledRegions, side: int) -> Tensor:
    """The matched ground truth inside each region: (R, side, side) bool.

    Raises:
        UserError: there are regions but no masks.
    """
    return mask_targets_of_all([foreground], side)


@torch.no_grad()
def mask_targets_of_all(foreground: Sequence[LabeledRegions], side: int) -> Tensor:
    """The same for the regions of all images: (sum of R_i, side, side) bool. The host waits once for all of them."""
    tables = [table for table in foreground if len(table)]
    if not tables:
        return torch.zeros((0, side, side), dtype=torch.bool, device=foreground[0].boxes.device)
    masks = [target_masks(table) for table in tables]
    return crop_matched(masks, [table.matches for table in tables], [table.boxes for table in tables], side)


def target_masks(foreground: LabeledRegions) -> TargetMasks:
    """The masks of the objects of one image.

    Raises:
        UserError: there are none.
    """
    masks = foreground.targets.masks
    if masks is None:
        raise UserError("The training data has no masks. Use data with masks, or set MODEL.MASK_ON False.")
    return masks


def build_mask_criterion(cfg: CfgNode) -> MaskCriterion:
    """The loss that `MODEL.ROI_MASK_HEAD` names, with its weight."""
    head = cfg.MODEL.ROI_MASK_HEAD
    return MaskCriterion(MASK_LOSSES.get(head.LOSS)(), weight=head.LOSS_WEIGHT)
