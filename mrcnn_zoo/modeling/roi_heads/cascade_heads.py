"""Region heads that classify and regress each box in several stages with increasing IoU thresholds."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.losses.classification import IGNORED_CLASS
from mrcnn_zoo.modeling.assignment import RegionLabeler, build_region_labeler, label_all
from mrcnn_zoo.modeling.contracts import BoxHead, Features, Matcher
from mrcnn_zoo.modeling.poolers import PyramidPooler, build_head_pooler, select_specs
from mrcnn_zoo.modeling.recording import Recorder, report_all_kept
from mrcnn_zoo.modeling.roi_heads.box_head import BoxPredictor, build_box_predictor
from mrcnn_zoo.modeling.roi_heads.branch import RegionBranch, build_branches
from mrcnn_zoo.modeling.roi_heads.detection_selection import RegionPredictions
from mrcnn_zoo.modeling.roi_heads.standard_heads import RegionHeads, contiguous_features
from mrcnn_zoo.ops import boxes as box_ops
from mrcnn_zoo.ops.box_coding import BoxCoder
from mrcnn_zoo.ops.rows import rows_where
from mrcnn_zoo.registries import BOX_HEADS, MATCHERS, ROI_HEADS
from mrcnn_zoo.structures import (
    Detections,
    FeatureSpec,
    LabeledRegions,
    Proposals,
    Targets,
    TrainingOutput,
    foreground_regions,
    is_foreground,
)


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor, factor: float) -> Tensor:
        context.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient * context.factor, None


def scale_gradient(values: Tensor, factor: float) -> Tensor:
    """The same values, with their gradient multiplied by a factor.

    Args:
        values: of any shape.
        factor: of the gradient.
    """
    return _ScaledGradient.apply(values, factor)


Value = TypeVar("Value")


class CascadeROIHeads(RegionHeads):
    """Box branches in sequence, each on the boxes that the previous one predicts; then the further branches.

    At inference the scores are the mean over the stages, and the boxes are those of the last stage. The further
    branches are trained on the regions of the first stage.

    Source: Cai & Vasconcelos 2018 (Cascade R-CNN), section 4.

    Args:
        labeler: samples and labels the regions of the first stage.
        matchers: of the later stages. Their regions are labelled again and all used without sampling, because the share
            of foreground boxes grows from stage to stage.
        box_pooler: makes the input of the box heads.
        box_heads: one per stage.
        box_predictors: one per stage, with class-agnostic boxes.
        branches: the further branches by module name, in their order.
    """

    def __init__(
        self,
        labeler: RegionLabeler,
        *,
        matchers: Sequence[Matcher],
        box_pooler: PyramidPooler,
        box_heads: Sequence[BoxHead],
        box_predictors: Sequence[BoxPredictor],
        branches: Mapping[str, RegionBranch],
    ) -> None:
        super().__init__()
        if not len(matchers) + 1 == len(box_heads) == len(box_predictors):
            raise ValueError(f"{len(box_heads)} heads, {len(box_predictors)} predictors, {len(matchers)} matchers")
        self.labeler = labeler
        self.matchers = tuple(matchers)
        self.box_pooler = box_pooler
        self.box_head = nn.ModuleList(box_heads)  # type: ignore[arg-type]
        self.box_predictor = nn.ModuleList(box_predictors)
        self.add_branches(branches)

    @property
    def predictors(self) -> list[BoxPredictor]:
        """The box predictor of each stage."""
        return list(self.box_predictor)  # type: ignore[arg-type]

    def losses(self, features: Features, proposals: list[Proposals], targets: list[Targets]) -> TrainingOutput:
        """The losses of all stages, `loss_cls_stage0` and so on, and those of the other branches."""
        features = contiguous_features(features, self.box_pooler.names)
        first = regions = self.labeler.label(proposals, targets)
        output, moved = self._train_stage(0, features, first)
        for stage, matcher in enumerate(self.matchers, start=1):
            # A box that has moved out of the image is empty after clipping: there is nothing to pool.
            if moved[0].device.type == "cpu":
                rows = rows_where([box_ops.is_nonempty(image_boxes) for image_boxes in moved])
                boxes = [image_boxes[image_rows] for image_boxes, image_rows in zip(moved, rows, strict=True)]
                regions, by_level = label_all(boxes, targets, matcher, self.labeler.num_classes), None
            else:
                regions, by_level = self._label_on_accelerator(moved, regions, targets, matcher)
            of_stage, moved = self._train_stage(stage, features, regions, by_level)
            output |= of_stage
        return output | self.branch_losses(features, foreground_regions(first, self.labeler.num_classes)[0])

    def _label_on_accelerator(
        self, moved: list[Tensor], regions: list[LabeledRegions], targets: list[Targets], matcher: Matcher
    ) -> tuple[list[LabeledRegions], list[Tensor] | None]:
        """The regions of the next stage and their rows by pyramid level, with one host synchronisation for all counts.

        Empty boxes stay, so that the host does not need their number: where they were, and ignored in all stages.
        """
        boxes, keeps = [], []
        for image_boxes, table in zip(moved, regions, strict=True):
            is_kept = box_ops.is_nonempty(image_boxes) & (table.classes != IGNORED_CLASS)
            boxes.append(torch.where(is_kept[:, None], image_boxes, table.boxes))
            keeps.append(is_kept)
        num_classes = self.labeler.num_classes
        tables = [
            replace(table, classes=torch.where(is_kept, table.classes, IGNORED_CLASS))
            for table, is_kept in zip(label_all(boxes, targets, matcher, num_classes), keeps, strict=True)
        ]
        masks = [is_foreground(table.classes, num_classes) for table in tables]
        rows = rows_where([*masks, *self.box_pooler.level_masks(boxes)])
        labeled = [replace(table, foreground=foreground) for table, foreground in zip(tables, rows, strict=False)]
        return labeled, rows[len(tables) :] or None

    def _train_stage(
        self, stage: int, features: Features, regions: list[LabeledRegions], by_level: Sequence[Tensor] | None = None
    ) -> tuple[TrainingOutput, list[Tensor]]:
        predictor = self.predictors[stage]
        vectors = self._stage_vectors(stage, features, [table.boxes for table in regions], by_level)
        deltas, output = predictor.supervise(vectors, regions, features)
        named = TrainingOutput(_of_stage(stage, output.sums), _of_stage(stage, output.metrics))
        return named, moved_boxes(deltas, regions, predictor.regression.coder)

    @property
    def last_predictor(self) -> BoxPredictor:
        """The box predictor of the last stage."""
        return self.predictors[-1]

    def predict_regions(
        self, features: Features, proposals: list[Proposals], *, recorder: Recorder | None = None
    ) -> RegionPredictions:
        """The outputs of the last stage, with the mean scores of all stages."""
        predictors = self.predictors
        vectors = self._stage_vectors(0, features, [table.boxes for table in proposals])
        logits, deltas = predictors[0](vectors)
        scores = [predictors[0].classification.scores(logits)]
        for stage in range(1, len(predictors)):
            moved = moved_boxes(deltas, proposals, predictors[stage - 1].regression.coder)
            proposals = [replace(table, boxes=boxes) for table, boxes in zip(proposals, moved, strict=True)]
            if recorder is not None:
                _report_moved(recorder, f"boxes of stage {stage - 1}", proposals, scores[-1])
            vectors = self._stage_vectors(stage, features, moved)
            logits, deltas = predictors[stage](vectors)
            scores.append(predictors[stage].classification.scores(logits))
        mean_scores = torch.stack(scores).mean(dim=0)
        return RegionPredictions(mean_scores, deltas, proposals, vectors.flatten(1), features)

    def box_scores(self, features: Features, boxes: list[Tensor]) -> Tensor:
        """The mean class scores of all stages in the same given boxes: N x (R_i, 4) pixels -> (sum of R_i, K)."""
        scores = [
            predictor.scores(self._stage_vectors(stage, features, boxes))
            for stage, predictor in enumerate(self.predictors)
        ]
        return torch.stack(scores).mean(dim=0)

    def _stage_vectors(
        self, stage: int, features: Features, boxes: list[Tensor], by_level: Sequence[Tensor] | None = None
    ) -> Tensor:
        """The box head's output of one stage: N x (R_i, 4) pixels -> (sum of R_i, D)."""
        pooled = self.box_pooler(features, boxes, by_level)
        # The gradients of all stages add up in the features, so each is scaled to keep their sum that of one stage.
        pooled = scale_gradient(pooled, 1 / len(self.box_head))
        return self.box_head[stage](pooled)


@torch.no_grad()
def moved_boxes(
    deltas: Tensor, tables: Sequence[Proposals] | Sequence[LabeledRegions], coder: BoxCoder
) -> list[Tensor]:
    """The boxes of each image after their deltas, clipped to the image.

    Args:
        deltas: (sum of R_i, 4); boxes with deltas that are not finite do not move.
        tables: R_i boxes of each image.
        coder: decodes the deltas.
    """
    moved = []
    for image_deltas, table in zip(deltas.split([len(table) for table in tables]), tables, strict=True):
        is_finite = image_deltas.isfinite().all(dim=1, keepdim=True)
        boxes = torch.where(is_finite, coder.decode(image_deltas, table.boxes), table.boxes)
        moved.append(box_ops.clip_to_image(boxes, table.image_size))
    return moved


def _report_moved(recorder: Recorder, stage: str, tables: Sequence[Proposals], scores: Tensor) -> None:
    """Report all boxes predicted by a stage with their best class; scores are (sum of R_i, K)."""
    detections = [
        Detections(table.image_size, table.boxes, *of_image.max(dim=1))
        for table, of_image in zip(tables, scores.split([*map(len, tables)]), strict=True)
    ]
    report_all_kept(recorder, detections, stage=stage)


def _of_stage(stage: int, values: Mapping[str, Value]) -> dict[str, Value]:
    return {f"{name}_stage{stage}": value for name, value in values.items()}


@ROI_HEADS.register("CascadeROIHeads")
def build_cascade_roi_heads(cfg: CfgNode, specs: Mapping[str, FeatureSpec]) -> CascadeROIHeads:
    """The stages of `MODEL.ROI_BOX_CASCADE_HEAD`, over the maps in `MODEL.ROI_HEADS.IN_FEATURES`.

    Args:
        cfg: the whole config.
        specs: all maps of the backbone by name.
    """
    _check_settings(cfg)
    heads, box, cascade = cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_BOX_CASCADE_HEAD
    maps = select_specs(specs, heads.IN_FEATURES)
    pooled = FeatureSpec(channels=next(iter(maps.values())).channels, side=box.POOLER_RESOLUTION)
    box_heads = [BOX_HEADS.get(box.NAME)(cfg, pooled) for _ in cascade.IOUS]
    build_matcher = MATCHERS.get(heads.MATCHER, key="MODEL.ROI_HEADS.MATCHER")
    return CascadeROIHeads(
        build_region_labeler(cfg),
        matchers=[build_matcher([iou], [0, 1], allow_low_quality=False) for iou in cascade.IOUS[1:]],
        box_pooler=build_head_pooler(cfg, "ROI_BOX_HEAD", specs),
        box_heads=box_heads,
        box_predictors=[
            build_box_predictor(cfg, head.output_spec, weights=weights, is_last=head is box_heads[-1])
            for head, weights in zip(box_heads, cascade.BBOX_REG_WEIGHTS, strict=True)
        ],
        branches=build_branches(cfg, specs),
    )


def _check_settings(cfg: CfgNode) -> None:
    heads, box, cascade = cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_BOX_CASCADE_HEAD
    section = "MODEL.ROI_BOX_CASCADE_HEAD"
    if not cascade.IOUS or len(cascade.IOUS) != len(cascade.BBOX_REG_WEIGHTS):
        raise UserError(
            f"{section}.IOUS has {len(cascade.IOUS)} stages and {section}.BBOX_REG_WEIGHTS has "
            f"{len(cascade.BBOX_REG_WEIGHTS)}: both need one entry per stage."
        )
    if not box.CLS_AGNOSTIC_BBOX_REG:
        raise UserError(
            "CascadeROIHeads passes one box per region to the next stage: set "
            "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG True."
        )
    if list(heads.IOU_THRESHOLDS) != [cascade.IOUS[0]]:
        raise UserError(
            f"MODEL.ROI_HEADS.IOU_THRESHOLDS = {heads.IOU_THRESHOLDS} should be [{cascade.IOUS[0]}], the first of "
            f"{section}.IOUS."
        )
    if box.TRAIN_ON_PRED_BOXES:
        raise UserError(
            "CascadeROIHeads trains masks and keypoints on the regions of its first stage: set "
            "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES False."
        )
