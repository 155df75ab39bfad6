"""Two-stage detectors: region proposals, then a classification of each region."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.backbones import build_backbone
from mrcnn_zoo.modeling.contracts import Backbone, Candidates, PredictsInBoxes, ProposalGenerator, RoIHeads
from mrcnn_zoo.modeling.detectors.input_output import (
    Collation,
    all_to_original_size,
    as_proposals,
    check_given_boxes,
    losses_or_detections,
    propose,
    report_backbone_maps,
    to_original_size,
)
from mrcnn_zoo.modeling.detectors.suppression_training import (
    is_suppression_alone,
    suppression_losses_alone,
    train_suppression_alone,
)
from mrcnn_zoo.modeling.proposal_generators import build_proposal_generator
from mrcnn_zoo.modeling.recording import Recorder, recorded
from mrcnn_zoo.modeling.roi_heads import RegionHeads, build_roi_heads
from mrcnn_zoo.registries import DETECTORS
from mrcnn_zoo.structures import Batch, Detections, Sample, TrainingOutput, training_output


class GeneralizedRCNN(nn.Module):
    """Backbone, proposals, region heads: Fast, Faster and Mask R-CNN.

    The three are the stages to compile or measure separately: the backbone with `proposal_generator.forward` has static
    shapes; the selection of proposals is small and dynamic; the region heads work on lists of boxes from any source.

    Source: Ren et al. 2015 (Faster R-CNN), figure 2; He et al. 2017 (Mask R-CNN), figure 1.

    Args:
        backbone: pixels to feature maps.
        proposal_generator: proposes regions on these maps.
        roi_heads: turn regions into detections.
        pixel_mean: of each input channel, pixel units.
        pixel_std: of each input channel, pixel units.
    """

    forward = losses_or_detections
    propose = propose

    def __init__(
        self,
        backbone: Backbone,
        *,
        proposal_generator: ProposalGenerator,
        roi_heads: RoIHeads,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.proposal_generator = proposal_generator
        self.roi_heads = roi_heads
        self.collate = Collation(pixel_mean, pixel_std, size_divisibility=backbone.size_divisibility)

    @property
    def needs_targets(self) -> bool:
        """Whether `predict` also needs samples with targets."""
        return self.proposal_generator.needs_targets

    def losses(self, samples: list[Sample]) -> TrainingOutput:
        """The losses of all components.

        Args:
            samples: images with targets.

        Raises:
            ValueError: a sample has no targets.
        """
        batch = self.collate(samples)
        targets = batch.require_targets()
        features = self.backbone(batch.pixels)
        proposals, output = self.proposal_generator.losses(features, batch)
        output = training_output(output, made_by=self.proposal_generator)
        return output | training_output(self.roi_heads.losses(features, proposals, targets), made_by=self.roi_heads)

    @property
    def suppression(self) -> nn.Module:
        """The suppression of the detections."""
        return self._region_heads().last_predictor.selection.suppression  # type: ignore[union-attr]

    def candidates(self, batch: Batch) -> Candidates:
        """The boxes that the suppression gets at inference.

        Args:
            batch: of images, with targets where the proposal generator needs them.

        Raises:
            UserError: region heads without such boxes.
        """
        features = self.backbone(batch.pixels)
        return self._region_heads().candidates(features, self.proposal_generator.predict(features, batch))

    def _region_heads(self) -> RegionHeads:
        if not isinstance(self.roi_heads, RegionHeads):
            raise UserError(
                f"{type(self.roi_heads).__name__} (MODEL.ROI_HEADS.NAME) is no RegionHeads, so the detections before "
                "its suppression are not known: SOLVER.TRAIN [suppression] cannot train on them."
            )
        return self.roi_heads

    @torch.no_grad()
    def predict(self, samples: list[Sample], recorder: Recorder | None = None) -> list[Detections]:
        """The instances of each image in the coordinates of its original size, best first.

        Args:
            samples: images.
            recorder: gets a report of each stage on each image: which boxes are kept, and why the others are not.
        """
        batch = self.collate(samples)
        features = self.backbone(batch.pixels)
        if recorder is not None:
            report_backbone_maps(recorder, self.backbone, features, batch)
        proposals = recorded(self.proposal_generator.predict, features, batch, recorder=recorder)
        detections = recorded(self.roi_heads.predict, features, proposals, recorder=recorder)
        return all_to_original_size(detections, samples, recorder=recorder)

    @torch.no_grad()
    def predict_in_boxes(
        self, samples: list[Sample], boxes: list[Tensor], classes: list[Tensor] | None = None
    ) -> list[Detections]:
        """The masks and keypoints of given boxes.

        Args:
            samples: images.
            boxes: (R_i, 4) of each image, pixels of its original size.
            classes: (R_i,) int64 in [0, K) of each image; -1, or None for all, takes the class with the highest score.

        Returns:
            One detection per box, in the same order, with the given box and the box branch's score of its class.

        Raises:
            UserError: region heads that cannot predict in given boxes, tensors of another shape, or a class that
                the model does not have.
        """
        if not isinstance(self.roi_heads, PredictsInBoxes):
            raise UserError(
                f"{type(self.roi_heads).__name__} (MODEL.ROI_HEADS.NAME) has no method predict_in_boxes, so it cannot "
                "predict in given boxes."
            )
        check_given_boxes(samples, boxes, classes)
        batch = self.collate(samples)
        device = batch.pixels.device
        resized = [
            as_proposals(table.to(device).float(), sample.original_size, image_size)
            for table, sample, image_size in zip(boxes, samples, batch.image_sizes, strict=True)
        ]
        labels = None if classes is None else [image_classes.to(device) for image_classes in classes]
        detections = self.roi_heads.predict_in_boxes(self.backbone(batch.pixels), resized, labels)
        original = [
            to_original_size(table, sample.original_size, drops_empty=False)
            for table, sample in zip(detections, samples, strict=True)
        ]
        return [replace(table, boxes=given.to(device).float()) for table, given in zip(original, boxes, strict=True)]


class SuppressionTrainingRCNN(GeneralizedRCNN):
    """The detector with the losses of its suppression alone, whose weights alone are trained."""

    losses = suppression_losses_alone
    train = train_suppression_alone


@DETECTORS.register("GeneralizedRCNN")
def build_generalized_rcnn(cfg: CfgNode) -> GeneralizedRCNN:
    """The detector of `MODEL`, on the CPU with initial weights."""
    detector = SuppressionTrainingRCNN if is_suppression_alone(cfg.SOLVER.TRAIN) else GeneralizedRCNN
    backbone = build_backbone(cfg, len(cfg.MODEL.PIXEL_MEAN))
    return detector(
        backbone,
        proposal_generator=build_proposal_generator(cfg, backbone.output_specs),
        roi_heads=build_roi_heads(cfg, backbone.output_specs),
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
    )
