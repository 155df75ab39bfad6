"""The last layers of the box branch: class scores and box deltas of each region."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.losses.box_regression import BoxLoss
from mrcnn_zoo.losses.classification import IGNORED_CLASS
from mrcnn_zoo.modeling.contracts import Candidates, Features, RegionClassification
from mrcnn_zoo.modeling.recording import Recorder
from mrcnn_zoo.modeling.roi_heads.detection_selection import (
    DetectionSelection,
    RegionPredictions,
    build_detection_selection,
    deltas_of_class,
)
from mrcnn_zoo.modeling.roi_heads.region_classification import build_region_classification
from mrcnn_zoo.modeling.roi_heads.region_features import foreground_and_rows, is_foreground, matched_boxes
from mrcnn_zoo.modeling.suppression import suppression_losses
from mrcnn_zoo.ops.box_coding import BoxCoder
from mrcnn_zoo.registries import BOX_CODERS, BOX_LOSSES
from mrcnn_zoo.structures import (
    Detections,
    FeatureSpec,
    LabeledRegions,
    LossSum,
    Proposals,
    TrainingOutput,
)


class BoxRegression:
    """What the deltas of a region mean, and how they are trained.

    Args:
        coder: turns deltas into boxes and back.
        loss: compares predicted with wanted deltas or boxes, summed over regions.
        loss_weight: factor of the loss.
    """

    def __init__(self, coder: BoxCoder, loss: BoxLoss, *, loss_weight: float = 1.0) -> None:
        self.coder = coder
        self.loss = loss
        self.loss_weight = loss_weight


class BoxPredictor(nn.Module):
    """Classifies each region and regresses its box.

    Source: Girshick 2015 (Fast R-CNN), section 2.

    Args:
        input_spec: of the box head's output; a map is flattened.
        num_classes: K; logit K is the background's.
        boxes_per_region: K for deltas of each class, 1 for deltas that all classes share.
        classification: meaning and loss of the logits.
        loss_weight: factor of the loss of the logits.
        regression: meaning and loss of the deltas.
        selection: makes detections; None for a stage of a cascade that makes none.
    """

    def __init__(
        self,
        input_spec: FeatureSpec,
        *,
        num_classes: int,
        boxes_per_region: int,
        classification: RegionClassification,
        regression: BoxRegression,
        selection: DetectionSelection | None,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        size = input_spec.channels * input_spec.side**2
        self.cls_score = nn.Linear(size, num_classes + 1)
        self.bbox_pred = nn.Linear(size, 4 * boxes_per_region)
        for layer, deviation in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=deviation)
            nn.init.zeros_(layer.bias)
        self.num_classes = num_classes
        self.classification = classification
        self.loss_weight = loss_weight
        self.regression = regression
        self.selection = selection

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """(R, D) or (R, C, S, S) -> (R, K + 1) class logits and (R, 4 or 4 K) deltas, both float32."""
        vectors = vectors.flatten(1)
        return self.cls_score(vectors).float(), self.bbox_pred(vectors).float()

    def losses(
        self, vectors: Tensor, regions: list[LabeledRegions], features: Features | None = None
    ) -> TrainingOutput:
        """The losses of `supervise` alone."""
        return self.supervise(vectors, regions, features)[1]

    def supervise(
        self, vectors: Tensor, regions: list[LabeledRegions], features: Features | None = None
    ) -> tuple[Tensor, TrainingOutput]:
        """Deltas and losses of the sampled regions.

        `loss_cls` and `loss_box_reg` are divided by the number of sampled regions, not by the number of foreground
        regions: a region has the same weight in both, and an image with few objects has no larger weight. A suppression
        that learns adds its own losses. Source: Girshick 2015, section 2.3.

        Args:
            vectors: (sum of R_i, ...) outputs of the box head.
            regions: R_i sampled regions of each image.
            features: maps of the backbone, for a suppression that uses them.

        Returns:
            (sum of R_i, 4 or 4 K) deltas, and the losses with the accuracy of the classification.
        """
        logits, deltas = self(vectors)
        classes = torch.cat([table.classes for table in regions])
        count = (classes != IGNORED_CLASS).sum()
        foreground, rows = foreground_and_rows(regions, self.num_classes)
        box_loss = self.regression.loss(
            deltas_of_class(deltas[rows], classes[rows]),
            torch.cat([table.boxes for table in foreground]),
            matched_boxes(foreground),
            self.regression.coder,
        )
        losses = {
            "loss_cls": LossSum(self.loss_weight * self.classification.loss(logits, classes), count),
            "loss_box_reg": LossSum(self.regression.loss_weight * box_loss, count),
        }
        output = TrainingOutput(losses, classification_metrics(logits.detach(), classes, self.num_classes))
        return deltas, output | self._suppression_losses(logits, deltas, regions, vectors, features)

    def _suppression_losses(
        self,
        logits: Tensor,
        deltas: Tensor,
        regions: list[LabeledRegions],
        vectors: Tensor,
        features: Features | None,
    ) -> TrainingOutput:
        """The losses of the suppression on the detections of the sampled regions; logits and deltas are detached."""
        if self.selection is None:
            return TrainingOutput()

        def candidates() -> Candidates:
            assert self.selection is not None
            scores = self.classification.scores(logits.detach())
            predictions = RegionPredictions(scores, deltas.detach(), regions, vectors.flatten(1), features)
            return self.selection.candidates(predictions, self.regression.coder)

        return suppression_losses(self.selection.suppression, candidates, [table.targets for table in regions])

    def predict(
        self,
        vectors: Tensor,
        proposals: list[Proposals],
        features: Features | None = None,
        *,
        recorder: Recorder | None = None,
    ) -> list[Detections]:
        """The detections of each image, best first, in the coordinates of its proposals."""
        logits, deltas = self(vectors)
        scores = self.classification.scores(logits)
        predictions = RegionPredictions(scores, deltas, proposals, vectors.flatten(1), features)
        return self.detect(predictions, recorder=recorder)

    def detect(self, predictions: RegionPredictions, *, recorder: Recorder | None = None) -> list[Detections]:
        """The detections of each image."""
        assert self.selection is not None
        return self.selection.select(predictions, self.regression.coder, recorder=recorder)

    @torch.no_grad()
    def refine(self, deltas: Tensor, regions: list[LabeledRegions]) -> list[LabeledRegions]:
        """The regions of each image with the boxes that were predicted for their classes, not clipped to the image.

        Boxes whose deltas are not finite stay as they are.
        """
        refined = []
        for image_deltas, table in zip(deltas.split([len(table) for table in regions]), regions, strict=True):
            of_class = deltas_of_class(image_deltas, table.classes)
            is_finite = of_class.isfinite().all(dim=1, keepdim=True)
            boxes = torch.where(is_finite, self.regression.coder.decode(of_class, table.boxes), table.boxes)
            refined.append(replace(table, boxes=boxes))
        return refined


def classification_metrics(logits: Tensor, classes: Tensor, num_classes: int) -> dict[str, Tensor]:
    """Shares of rightly classified regions, and how many there are of each kind; shares of nothing are 0."""
    is_right = logits.argmax(dim=1) == classes
    is_object = is_foreground(classes, num_classes)
    num_sampled = (classes != IGNORED_CLASS).sum()
    num_foreground = is_object.sum()
    return {
        "roi/cls_accuracy": is_right.sum() / num_sampled.clamp(min=1),
        "roi/fg_cls_accuracy": (is_right & is_object).sum() / num_foreground.clamp(min=1),
        "roi/num_fg": num_foreground.float(),
        "roi/num_bg": (num_sampled - num_foreground).float(),
    }


def build_box_predictor(
    cfg: CfgNode, input_spec: FeatureSpec, *, weights: Sequence[float] | None = None, is_last: bool = True
) -> BoxPredictor:
    """The predictor that `MODEL.ROI_BOX_HEAD` describes.

    Args:
        cfg: the whole config.
        input_spec: of the box head's output.
        weights: of the deltas; a stage of a cascade has its own.
        is_last: whether this predictor makes the detections.
    """
    head, num_classes = cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_HEADS.NUM_CLASSES
    build_coder = BOX_CODERS.get(head.BOX_CODER, key="MODEL.ROI_BOX_HEAD.BOX_CODER")
    build_loss = BOX_LOSSES.get(head.BBOX_REG_LOSS_TYPE, key="MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE")
    return BoxPredictor(
        input_spec,
        num_classes=num_classes,
        boxes_per_region=1 if head.CLS_AGNOSTIC_BBOX_REG else num_classes,
        classification=build_region_classification(cfg),
        regression=BoxRegression(
            build_coder(head.BBOX_REG_WEIGHTS if weights is None else weights),
            build_loss(head.SMOOTH_L1_BETA),
            loss_weight=head.BBOX_REG_LOSS_WEIGHT,
        ),
        selection=build_detection_selection(cfg) if is_last else None,
        loss_weight=head.CLS_LOSS_WEIGHT,
    )
