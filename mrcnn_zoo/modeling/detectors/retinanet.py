"""RetinaNet: the one-stage detector and its head."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.layers import build_norm
from mrcnn_zoo.modeling.anchors import build_anchored_levels
from mrcnn_zoo.modeling.backbones import build_backbone
from mrcnn_zoo.modeling.contracts import AnchorGenerator, Backbone, Candidates, Features
from mrcnn_zoo.modeling.detectors.input_output import (
    Collation,
    all_to_original_size,
    losses_or_detections,
    report_backbone_maps,
)
from mrcnn_zoo.modeling.detectors.retinanet_outputs import DenseSelection, FocalSupervision
from mrcnn_zoo.modeling.detectors.suppression_training import (
    is_suppression_alone,
    suppression_losses_alone,
    train_suppression_alone,
)
from mrcnn_zoo.modeling.recording import Recorder
from mrcnn_zoo.modeling.suppression import build_suppression, suppression_losses
from mrcnn_zoo.ops.anchors import flatten_per_anchor
from mrcnn_zoo.ops.box_coding import BoxCoder
from mrcnn_zoo.registries import BOX_CODERS, BOX_LOSSES, DETECTORS, MATCHERS
from mrcnn_zoo.structures import Batch, Detections, Sample, TrainingOutput

WEIGHT_STD = 0.01  # Lin et al. 2017 (Focal Loss), sec. 4.1
KEY = "MODEL.RETINANET.NORM"
NORMS_WITH_STATISTICS = ("BN", "SyncBN")  # levels differ too much to share statistics


class NormOfEachLevel(nn.ModuleList):
    """Batch norms with separate statistics per level of the pyramid and a shared scale and shift.

    Args:
        norms: a batch norm per level; their own scales and shifts become constants.
        num_channels: C.
    """

    def __init__(self, norms: Sequence[nn.Module], *, num_channels: int) -> None:
        super().__init__(norms)
        for norm in self:
            del norm.weight, norm.bias
            norm.register_buffer("weight", torch.ones(num_channels), persistent=False)
            norm.register_buffer("bias", torch.zeros(num_channels), persistent=False)
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))

    def forward(self, features: Tensor, level: int) -> Tensor:
        """(N, C, H, W) of that level -> the same shape."""
        return self[level](features) * self.weight[:, None, None] + self.bias[:, None, None]


class Branch(nn.ModuleList):
    """3 x 3 convolutions, each with an optional norm and a ReLU; layers are numbered as in Detectron2's weights.

    Args:
        channels: C, kept throughout.
        num_convs: how many convolutions.
        build_norm: channels -> norm after each convolution, or None.
    """

    def __init__(self, channels: int, *, num_convs: int, build_norm: Callable[[int], nn.Module | None]) -> None:
        super().__init__()
        for _ in range(num_convs):
            self.append(_conv(channels, channels))
            norm = build_norm(channels)
            if norm is not None:
                self.append(norm)
            self.append(nn.ReLU(inplace=True))

    def forward(self, features: Tensor, level: int) -> Tensor:
        """(N, C, H, W) of that level -> the same shape."""
        for layer in self:
            features = layer(features, level) if isinstance(layer, NormOfEachLevel) else layer(features)
        return features


class RetinaNetHead(nn.Module):
    """Class logits and box deltas of every anchor, from two separate branches.

    Source: Lin et al. 2017 (Focal Loss), sec. 4, figure 3.

    Args:
        channels: C of every level.
        num_anchors: A, anchors per cell.
        num_classes: K, independent binary decisions.
        num_convs: 3 x 3 convolutions of each branch before the last one.
        build_norm: channels -> norm after each of these convolutions, or None.
        prior: probability of an object that the untrained head predicts everywhere.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_anchors: int,
        num_classes: int,
        num_convs: int,
        build_norm: Callable[[int], nn.Module | None],
        prior: float,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.cls_subnet = Branch(channels, num_convs=num_convs, build_norm=build_norm)
        self.bbox_subnet = Branch(channels, num_convs=num_convs, build_norm=build_norm)
        self.cls_score = _conv(channels, num_anchors * num_classes)
        self.bbox_pred = _conv(channels, num_anchors * 4)
        # Otherwise the loss of the background would dominate at the start: there are thousands of anchors per object.
        nn.init.constant_(self.cls_score.bias, -math.log((1 - prior) / prior))  # type: ignore[arg-type]

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """For each level (N, C, H, W): logits (N, A K, H, W) and deltas (N, 4 A, H, W), those of an anchor adjacent."""
        logits = [self.cls_score(self.cls_subnet(maps, level)) for level, maps in enumerate(features)]
        deltas = [self.bbox_pred(self.bbox_subnet(maps, level)) for level, maps in enumerate(features)]
        return logits, deltas


def _conv(in_channels: int, out_channels: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
    nn.init.normal_(conv.weight, std=WEIGHT_STD)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


def build_retinanet_head(cfg: CfgNode, channels: int, *, num_anchors: int, num_levels: int) -> RetinaNetHead:
    """The head of `MODEL.RETINANET`.

    Args:
        cfg: the whole config.
        channels: C of every level.
        num_anchors: A, anchors per cell.
        num_levels: number of levels, for norms with statistics per level.
    """
    settings = cfg.MODEL.RETINANET
    return RetinaNetHead(
        channels,
        num_anchors=num_anchors,
        num_classes=settings.NUM_CLASSES,
        num_convs=settings.NUM_CONVS,
        build_norm=partial(_build_norm, settings.NORM, num_levels),
        prior=settings.PRIOR_PROB,
    )


def _build_norm(name: str, num_levels: int, channels: int) -> nn.Module | None:
    if name not in NORMS_WITH_STATISTICS:
        return build_norm(name, channels, key=KEY)
    norms = [build_norm(name, channels, key=KEY) for _ in range(num_levels)]
    return NormOfEachLevel([norm for norm in norms if norm is not None], num_channels=channels)


class RetinaNet(nn.Module):
    """Backbone and a head that classifies and moves every anchor.

    Source: Lin et al. 2017 (Focal Loss), figure 3.

    Args:
        backbone: pixels to feature maps.
        head: predicts class logits and deltas on these maps.
        in_features: names of the maps, from fine to coarse.
        anchors: makes the anchors of these maps.
        supervision: labels anchors and computes the losses.
        selection: selects detections from the predictions.
        pixel_mean: of each input channel, pixel units.
        pixel_std: of each input channel, pixel units.
    """

    forward = losses_or_detections

    def __init__(
        self,
        backbone: Backbone,
        *,
        head: RetinaNetHead,
        in_features: list[str],
        anchors: AnchorGenerator,
        supervision: FocalSupervision,
        selection: DenseSelection,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.in_features = in_features
        self.anchor_generator = anchors
        self.supervision = supervision
        self.selection = selection
        self.collate = Collation(pixel_mean, pixel_std, size_divisibility=backbone.size_divisibility)

    def predict_all(self, features: Features) -> tuple[list[Tensor], list[Tensor]]:
        """Predictions on every anchor, in the order of the anchors: the dense stage, which has static shapes.

        Args:
            features: maps of the backbone by name.

        Returns:
            For each level (N, A, K) logits and (N, A, 4) deltas.
        """
        logits, deltas = self.head(self._levels(features))
        return (
            [flatten_per_anchor(level, self.head.num_classes) for level in logits],
            [flatten_per_anchor(level, 4) for level in deltas],
        )

    def _levels(self, features: Features) -> list[Tensor]:
        return [features[name] for name in self.in_features]

    def losses(self, samples: list[Sample]) -> TrainingOutput:
        """The losses of classes and boxes, and of a suppression that learns.

        Args:
            samples: images with targets.

        Raises:
            ValueError: a sample has no targets.
        """
        batch = self.collate(samples)
        targets = batch.require_targets()
        features = self.backbone(batch.pixels)
        logits, deltas = self.predict_all(features)
        anchors = self.anchor_generator(self._levels(features))
        labeled = self.supervision.label(torch.cat(anchors), targets)
        output = self.supervision.losses(torch.cat(logits, dim=1), torch.cat(deltas, dim=1), labeled)
        candidates = partial(
            self.selection.candidates,
            [level.detach() for level in logits],
            [level.detach() for level in deltas],
            anchors,
            batch.image_sizes,
            features=features,
        )
        return output | suppression_losses(self.selection.suppression, candidates, targets)

    @property
    def suppression(self) -> nn.Module:
        """The suppression of the detections."""
        return self.selection.suppression

    def candidates(self, batch: Batch) -> Candidates:
        """The boxes that the suppression gets at inference.

        Args:
            batch: of images.
        """
        features = self.backbone(batch.pixels)
        logits, deltas = self.predict_all(features)
        anchors = self.anchor_generator(self._levels(features))
        return self.selection.candidates(logits, deltas, anchors, batch.image_sizes, features=features)

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
        logits, deltas = self.predict_all(features)
        anchors = self.anchor_generator(self._levels(features))
        detections = self.selection.select(
            logits, deltas, anchors, batch.image_sizes, features=features, recorder=recorder
        )
        return all_to_original_size(detections, samples, recorder=recorder)


class SuppressionTrainingRetinaNet(RetinaNet):
    """The detector with the losses of its suppression alone, whose weights alone are trained."""

    losses = suppression_losses_alone
    train = train_suppression_alone


@DETECTORS.register("RetinaNet")
def build_retinanet(cfg: CfgNode) -> RetinaNet:
    """The detector of `MODEL.RETINANET`, on the CPU with initial weights."""
    settings = cfg.MODEL.RETINANET
    for key in ("MODEL.MASK_ON", "MODEL.KEYPOINT_ON"):
        if cfg.value_of(key):
            raise UserError(f"RetinaNet predicts boxes only: set {key} to False, or use GeneralizedRCNN.")
    if cfg.MODEL.ROI_HEADS.BRANCHES:
        raise UserError(
            f"RetinaNet has no region heads, so MODEL.ROI_HEADS.BRANCHES = {cfg.MODEL.ROI_HEADS.BRANCHES} has no "
            "effect: set it to [], or use GeneralizedRCNN."
        )
    backbone = build_backbone(cfg, len(cfg.MODEL.PIXEL_MEAN))
    levels = build_anchored_levels(
        cfg,
        "RETINANET",
        backbone.output_specs,
        advice="The backbone build_retinanet_resnet_fpn_backbone makes p3 to p7.",
    )
    coder = BOX_CODERS.get(settings.BOX_CODER, key="MODEL.RETINANET.BOX_CODER")(settings.BBOX_REG_WEIGHTS)
    detector = SuppressionTrainingRetinaNet if is_suppression_alone(cfg.SOLVER.TRAIN) else RetinaNet
    return detector(
        backbone,
        head=build_retinanet_head(
            cfg, levels.channels, num_anchors=levels.anchors_per_cell, num_levels=len(levels.names)
        ),
        in_features=levels.names,
        anchors=levels.anchors,
        supervision=_build_supervision(cfg, coder),
        selection=DenseSelection(
            build_suppression(cfg, settings.SUPPRESSION, settings.NMS_THRESH_TEST, key="MODEL.RETINANET.SUPPRESSION"),
            coder=coder,
            score_threshold=settings.SCORE_THRESH_TEST,
            candidates_per_level=settings.TOPK_CANDIDATES_TEST,
            max_detections=cfg.TEST.DETECTIONS_PER_IMAGE,
            clips_first=settings.CLIP_BEFORE_NMS,
        ),
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
    )


def _build_supervision(cfg: CfgNode, coder: BoxCoder) -> FocalSupervision:
    settings = cfg.MODEL.RETINANET
    build_matcher = MATCHERS.get(settings.MATCHER, key="MODEL.RETINANET.MATCHER")
    build_box_loss = BOX_LOSSES.get(settings.BBOX_REG_LOSS_TYPE, key="MODEL.RETINANET.BBOX_REG_LOSS_TYPE")
    return FocalSupervision(
        build_matcher(settings.IOU_THRESHOLDS, settings.IOU_LABELS, allow_low_quality=True),
        num_classes=settings.NUM_CLASSES,
        coder=coder,
        box_loss=build_box_loss(settings.SMOOTH_L1_LOSS_BETA),
        alpha=settings.FOCAL_LOSS_ALPHA,
        gamma=settings.FOCAL_LOSS_GAMMA,
        class_weight=settings.CLS_LOSS_WEIGHT,
        box_weight=settings.BBOX_REG_LOSS_WEIGHT,
    )
