"""The box head, from pooled maps to vectors, and the box predictor, from vectors to class scores and boxes."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.layers.conv import Conv2d, caffe2_xavier_init_, kaiming_init_, relu_
from mrcnn_zoo.layers.norm import build_norm
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
from mrcnn_zoo.modeling.suppression import suppression_losses
from mrcnn_zoo.ops.box_coding import BoxCoder
from mrcnn_zoo.registries import BOX_CODERS, BOX_HEADS, BOX_LOSSES
from mrcnn_zoo.structures import (
    Detections,
    FeatureSpec,
    LabeledRegions,
    LossSum,
    Proposals,
    TrainingOutput,
    foreground_regions,
    is_foreground,
)


class FastRCNNConvFCHead(nn.Sequential):
    """3 x 3 convolutions, then fully connected layers, each with a ReLU: (R, C, S, S) -> (R, D), or a map without fc.

    Source: Lin et al. 2017 (FPN), section 4.2 for two fc; Wu & He 2018 (Group Normalization) for four conv and one fc;
    Girshick 2015 (Fast R-CNN), section 2.1 for VGG's fc6 and fc7, two of 4096 with dropout.

    Args:
        input_spec: channels and side of the pooled maps.
        conv_channels: output channels of each convolution.
        fc_channels: outputs of each fully connected layer.
        norm: registered name of the norm after each convolution, "" for none.
        dropout: share of the outputs of each fully connected layer that training sets to 0, in [0, 1).
    """

    def __init__(
        self,
        input_spec: FeatureSpec,
        *,
        conv_channels: Sequence[int] = (),
        fc_channels: Sequence[int] = (),
        norm: str = "",
        dropout: float = 0.0,
    ) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = input_spec.channels
        for number, width in enumerate(conv_channels, start=1):
            conv = Conv2d(
                channels, width, 3, norm=build_norm(norm, width, key="MODEL.ROI_BOX_HEAD.NORM"), activation=relu_
            )
            kaiming_init_(conv)
            layers[f"conv{number}"] = conv
            channels = width
        side = input_spec.side
        if fc_channels:
            layers["flatten"] = nn.Flatten()
            channels, side = channels * side**2, 1
        for number, width in enumerate(fc_channels, start=1):
            linear = nn.Linear(channels, width)
            caffe2_xavier_init_(linear)
            layers[f"fc{number}"] = linear
            layers[f"fc_relu{number}"] = nn.ReLU(inplace=True)
            if dropout > 0:
                layers[f"fc_dropout{number}"] = nn.Dropout(dropout)
            channels = width
        super().__init__(layers)
        self.output_spec = FeatureSpec(channels=channels, side=side)


@BOX_HEADS.register("FastRCNNConvFCHead")
def build_fast_rcnn_conv_fc_head(cfg: CfgNode, input_spec: FeatureSpec) -> FastRCNNConvFCHead:
    """The layers of `MODEL.ROI_BOX_HEAD`.

    Args:
        cfg: the whole config.
        input_spec: channels and side of the pooled maps.

    Raises:
        UserError: the config has no layer.
    """
    head = cfg.MODEL.ROI_BOX_HEAD
    if head.NUM_CONV + head.NUM_FC == 0:
        raise UserError(
            "FastRCNNConvFCHead has no layer: set MODEL.ROI_BOX_HEAD.NUM_FC or MODEL.ROI_BOX_HEAD.NUM_CONV above 0."
        )
    return FastRCNNConvFCHead(
        input_spec,
        conv_channels=[head.CONV_DIM] * head.NUM_CONV,
        fc_channels=[head.FC_DIM] * head.NUM_FC,
        norm=head.NORM,
        dropout=head.DROPOUT,
    )


@dataclass(frozen=True)
class BoxRegression:
    """Encoding and loss of the box deltas."""

    coder: BoxCoder  # deltas to boxes and back
    loss: BoxLoss  # summed over regions
    loss_weight: float = 1.0


class BoxPredictor(nn.Module):
    """Classifies each region and regresses its box.

    Source: Girshick 2015 (Fast R-CNN), section 2.

    Args:
        input_spec: output of the box head; maps are flattened.
        num_classes: K; logit K is the background's.
        boxes_per_region: K for class-specific deltas, 1 for deltas that all classes share.
        classification: meaning and loss of the class logits.
        loss_weight: factor of the classification loss.
        regression: encoding and loss of the deltas.
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
        foreground, rows = foreground_regions(regions, self.num_classes)
        box_loss = self.regression.loss(
            deltas_of_class(deltas[rows], classes[rows]),
            torch.cat([table.boxes for table in foreground]),
            torch.cat([table.targets.boxes[table.matches] for table in foreground]),
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
            scores = self.classification.scores(logits.detach())
            return self.candidates(RegionPredictions(scores, deltas.detach(), regions, vectors.flatten(1), features))

        return suppression_losses(self.selection.suppression, candidates, [table.targets for table in regions])

    def scores(self, vectors: Tensor) -> Tensor:
        """(R, D) or (R, C, S, S) -> (R, K) class scores in [0, 1]."""
        return self.classification.scores(self(vectors)[0])

    def predict(
        self,
        vectors: Tensor,
        proposals: list[Proposals],
        features: Features | None = None,
        *,
        recorder: Recorder | None = None,
    ) -> list[Detections]:
        """The detections of each image, best first, in the coordinates of the proposals.

        Args:
            vectors: (sum of R_i, ...) outputs of the box head.
            proposals: R_i of each image.
            features: maps of the backbone, for a suppression that uses them.
            recorder: gets a report of the stage "boxes".
        """
        return self.detect(self.predictions(vectors, proposals, features), recorder=recorder)

    def predictions(
        self, vectors: Tensor, tables: Sequence[Proposals] | Sequence[LabeledRegions], features: Features | None = None
    ) -> RegionPredictions:
        """Scores and deltas of regions.

        Args:
            vectors: (sum of R_i, ...) outputs of the box head.
            tables: R_i regions of each image.
            features: maps of the backbone, for a suppression that uses them.
        """
        logits, deltas = self(vectors)
        return RegionPredictions(self.classification.scores(logits), deltas, tables, vectors.flatten(1), features)

    def candidates(self, predictions: RegionPredictions) -> Candidates:
        """The boxes before suppression; see `DetectionSelection.candidates`."""
        assert self.selection is not None
        return self.selection.candidates(predictions, self.regression.coder)

    def detect(self, predictions: RegionPredictions, *, recorder: Recorder | None = None) -> list[Detections]:
        """The detections of each image; see `DetectionSelection.select`."""
        assert self.selection is not None
        return self.selection.select(predictions, self.regression.coder, recorder=recorder)

    @torch.no_grad()
    def refine(self, deltas: Tensor, regions: list[LabeledRegions]) -> list[LabeledRegions]:
        """The regions with the boxes predicted for their classes, not clipped to the image.

        Args:
            deltas: (sum of R_i, 4 or 4 K); boxes with deltas that are not finite do not move.
            regions: R_i of each image.
        """
        refined = []
        for image_deltas, table in zip(deltas.split([len(table) for table in regions]), regions, strict=True):
            of_class = deltas_of_class(image_deltas, table.classes)
            is_finite = of_class.isfinite().all(dim=1, keepdim=True)
            boxes = torch.where(is_finite, self.regression.coder.decode(of_class, table.boxes), table.boxes)
            refined.append(replace(table, boxes=boxes))
        return refined


def classification_metrics(logits: Tensor, classes: Tensor, num_classes: int) -> dict[str, Tensor]:
    """Accuracy over all sampled regions and over the foreground, and the number of each kind; 0 for no regions.

    Args:
        logits: (R, K + 1).
        classes: (R,) int64; K is background, -1 ignored.
        num_classes: K.
    """
    is_correct = logits.argmax(dim=1) == classes
    is_object = is_foreground(classes, num_classes)
    num_sampled = (classes != IGNORED_CLASS).sum()
    num_foreground = is_object.sum()
    return {
        "roi/cls_accuracy": is_correct.sum() / num_sampled.clamp(min=1),
        "roi/fg_cls_accuracy": (is_correct & is_object).sum() / num_foreground.clamp(min=1),
        "roi/num_fg": num_foreground.float(),
        "roi/num_bg": (num_sampled - num_foreground).float(),
    }


def build_box_predictor(
    cfg: CfgNode, input_spec: FeatureSpec, *, weights: Sequence[float] | None = None, is_last: bool = True
) -> BoxPredictor:
    """The predictor of `MODEL.ROI_BOX_HEAD`.

    Args:
        cfg: the whole config.
        input_spec: output of the box head.
        weights: of dx, dy, dw, dh, instead of BBOX_REG_WEIGHTS; a stage of a cascade has its own.
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
