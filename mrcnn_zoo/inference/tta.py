"""Test-time augmentation: merges the detections of several views of an image."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode, changed_config
from mrcnn_zoo.config.rules import section_of_boxes
from mrcnn_zoo.data.keypoints import FlipPairs
from mrcnn_zoo.data.loading.mapper import EvalMapper, build_eval_mapper, build_flip_pairs
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inference.views import AugmentedViews, View, build_augmented_views
from mrcnn_zoo.modeling.detectors.generalized_rcnn import GeneralizedRCNN
from mrcnn_zoo.modeling.roi_heads.standard_heads import RegionHeads
from mrcnn_zoo.modeling.suppression import GreedySuppression, Suppression, build_suppression
from mrcnn_zoo.ops import boxes as box_ops
from mrcnn_zoo.structures import Detections, ImageSize, ProbabilityMasks, Sample

# Predicts masks and keypoints in given boxes: one table per sample of a forward pass, in pixels of the sample.
Completion = Callable[[list[Detections]], list[Detections]]


class AugmentedDetector(nn.Module):
    """Merges the predictions of a detector on several views of each image.

    The boxes of all views are suppressed together. In each remaining box, masks and keypoints are predicted on all
    views; mask probabilities are averaged, keypoint positions averaged with their scores as weights. The score of a
    detection is that of its box in the view where it was detected.

    Source: boxes and masks as in Detectron2's GeneralizedRCNNWithTTA.

    Args:
        detector: with `predict(samples)`. If it predicts masks or keypoints, it is a `GeneralizedRCNN` or has
            `predict_in_boxes(samples, boxes, classes)`.
        views: makes the views of a sample.
        suppression: of the boxes of all views.
        max_detections: maximum number per image; negative for no limit.
        batch_size: views per forward pass.
        flip_pairs: keypoints that a mirror exchanges; None excludes mirrored views from keypoint prediction.
    """

    resizes_images = True  # samples have the size of their image files

    def __init__(
        self,
        detector: nn.Module,
        *,
        views: AugmentedViews,
        suppression: Suppression,
        max_detections: int,
        batch_size: int = 1,
        flip_pairs: FlipPairs | None = None,
    ) -> None:
        super().__init__()
        self.detector = detector
        self.views = views
        self.suppression = suppression
        self.max_detections = max_detections if max_detections >= 0 else None
        self.batch_size = batch_size
        self.flip_pairs = flip_pairs

    @property
    def needs_targets(self) -> bool:
        """Whether `predict` requires samples with targets."""
        return getattr(self.detector, "needs_targets", False)

    @property
    def predicts_classes(self) -> bool:
        """Whether the detections have classes, unlike proposals."""
        return getattr(self.detector, "predicts_classes", True)

    def predict(self, samples: list[Sample]) -> list[Detections]:
        """Detections of each image in pixels of the original image, in descending order of score.

        Args:
            samples: images of the size of their files.
        """
        return [self.predict_views(self.views(sample), sample.original_size) for sample in samples]

    @torch.no_grad()
    def predict_views(self, views: Sequence[View], original_size: ImageSize) -> Detections:
        """Detections of one image, merged from its views.

        Args:
            views: of the image.
            original_size: (height, width) of the image.

        Raises:
            UserError: masks or keypoints cannot be merged.
        """
        parts = [views[start : start + self.batch_size] for start in range(0, len(views), self.batch_size)]
        found, completions = zip(
            *(_detect(self.detector, [view.sample for view in part]) for part in parts), strict=True
        )
        merged = self._merge_boxes(views, [table for tables in found for table in tables], original_size)
        tables: list[Detections] = []
        for part, complete in zip(parts, completions, strict=True):
            tables += complete(
                [replace(merged, image_size=view.size, boxes=view.boxes_from_original(merged.boxes)) for view in part]
            )
        table = self._with_means(merged, views, tables)
        heads = _region_heads(self.detector)
        if heads is None or not heads.corrects_scores:
            return table
        scores = torch.stack([table.scores for table in tables]).mean(dim=0)
        return replace(table, scores=scores)[scores.argsort(descending=True, stable=True)]

    @torch.no_grad()
    def predict_in_boxes(
        self, samples: list[Sample], boxes: list[Tensor], classes: list[Tensor] | None = None
    ) -> list[Detections]:
        """Masks, keypoints and scores in given boxes, averaged over the views.

        Args:
            samples: N images of the size of their files.
            boxes: (R_i, 4) per image, in pixels of the original image.
            classes: (R_i,) int64 per image; by default those predicted on the first view.

        Raises:
            UserError: the detector cannot predict in given boxes.
        """
        _check_predicts_in_boxes(self.detector)
        predict_in_boxes: Any = self.detector.predict_in_boxes
        found = []
        for row, (sample, image_boxes) in enumerate(zip(samples, boxes, strict=True)):
            views = self.views(sample)
            given = [view.boxes_from_original(image_boxes) for view in views]
            # Classes that are not given are those predicted on the first view.
            tables = predict_in_boxes([views[0].sample], given[:1], None if classes is None else [classes[row]])
            for view, view_boxes in zip(views[1:], given[1:], strict=True):
                tables += predict_in_boxes([view.sample], [view_boxes], [tables[0].classes])
            scores = torch.stack([table.scores for table in tables]).mean(dim=0)
            placed = Detections(sample.original_size, image_boxes.to(scores), scores, tables[0].classes)
            found.append(self._with_means(placed, views, tables))
        return found

    def _with_means(self, table: Detections, views: Sequence[View], tables: Sequence[Detections]) -> Detections:
        """Add masks, keypoints and mask scores, averaged over the views, to a table in pixels of the original image."""
        return replace(
            table,
            masks=_mean_masks(views, tables, table),
            keypoints=_mean_keypoints(views, tables, self.flip_pairs),
            mask_scores=_mean([part.mask_scores for part in tables]),
        )

    def _merge_boxes(self, views: Sequence[View], found: Sequence[Detections], original_size: ImageSize) -> Detections:
        boxes = torch.cat([view.boxes_to_original(table.boxes) for view, table in zip(views, found, strict=True)])
        boxes = box_ops.clip_to_image(boxes, original_size)
        rows = box_ops.is_nonempty(boxes).nonzero().squeeze(1)
        scores, classes = (torch.cat([getattr(table, name) for table in found])[rows] for name in ("scores", "classes"))
        boxes = boxes[rows]
        kept, kept_scores = self.suppression(boxes, scores, classes)
        kept, kept_scores = kept[: self.max_detections], kept_scores[: self.max_detections]
        return Detections(original_size, boxes[kept], scores=kept_scores, classes=classes[kept])


def _region_heads(detector: nn.Module) -> RegionHeads | None:
    """Region heads of the detector, which predict in given boxes from computed features; None if it has none."""
    heads = detector.roi_heads if isinstance(detector, GeneralizedRCNN) else None
    return heads if isinstance(heads, RegionHeads) else None


def _detect(detector: nn.Module, samples: list[Sample]) -> tuple[list[Detections], Completion]:
    """Detections in pixels of the samples, and the function that predicts masks and keypoints in given boxes."""
    heads = _region_heads(detector)
    if heads is not None and isinstance(detector, GeneralizedRCNN):
        batch = detector.collate(samples)
        features = detector.backbone(batch.pixels)
        proposals = detector.proposal_generator.predict(features, batch)
        return heads.detect_boxes(features, proposals), partial(heads.run_branches, features)
    found: list[Detections] = detector.predict(samples)  # type: ignore[operator]
    if all(table.masks is None and table.keypoints is None for table in found):
        return found, lambda tables: tables
    _check_predicts_in_boxes(detector)

    def complete(tables: list[Detections]) -> list[Detections]:
        boxes, classes = [table.boxes for table in tables], [table.classes for table in tables]
        return detector.predict_in_boxes(samples, boxes, classes)  # type: ignore[operator]

    return found, complete


def _check_predicts_in_boxes(detector: nn.Module) -> None:
    if not hasattr(detector, "predict_in_boxes"):
        raise UserError(
            f"TEST.AUG.ENABLED is True, but {type(detector).__name__} cannot predict masks or keypoints in given "
            "boxes: it has no `predict_in_boxes(samples, boxes, classes)`. Set TEST.AUG.ENABLED False."
        )


def _mean_masks(views: Sequence[View], tables: Sequence[Detections], merged: Detections) -> ProbabilityMasks | None:
    """Mask probabilities averaged over all views."""
    if tables[0].masks is None:
        return None
    probabilities = []
    for view, table in zip(views, tables, strict=True):
        if not isinstance(table.masks, ProbabilityMasks):
            raise UserError(
                f"TEST.AUG.ENABLED is True, but masks of {type(table.masks).__name__} cannot be averaged over several "
                "views of an image: the mask head must predict ProbabilityMasks. Set TEST.AUG.ENABLED False."
            )
        probabilities.append(view.orientation.undo(table.masks.probabilities))
        threshold = table.masks.threshold
    mean = torch.stack(probabilities).mean(dim=0)
    return ProbabilityMasks(mean, merged.boxes, merged.image_size, threshold=threshold)


def _mean(columns: list[Tensor | None]) -> Tensor | None:
    """Mean of a column over all views; None if no view has it."""
    present = [column for column in columns if column is not None]
    return torch.stack(present).mean(dim=0) if present else None


def _mean_keypoints(views: Sequence[View], tables: Sequence[Detections], flip_pairs: FlipPairs | None) -> Tensor | None:
    """(R, J, 3): score-weighted mean of the positions in pixels of the original image, and mean score."""
    if tables[0].keypoints is None:
        return None
    total: Tensor | float = 0.0
    num_views = 0
    for view, table in zip(views, tables, strict=True):
        assert table.keypoints is not None
        points, scores = view.points_to_original(table.keypoints[..., :2]), table.keypoints[..., 2:]
        weighted = torch.cat((points * scores, scores), dim=-1)
        if view.orientation.is_mirrored:
            if flip_pairs is None:
                continue
            # Not by indexing, which would copy the list of rows to the device.
            columns = weighted.unbind(dim=1)
            weighted = torch.stack([columns[row] for row in _mirrored_rows(flip_pairs, len(columns))], dim=1)
        total = total + weighted
        num_views += 1
    assert isinstance(total, Tensor)  # the first view is not mirrored
    return torch.cat((total[..., :2] / total[..., 2:], total[..., 2:] / num_views), dim=-1)


def _mirrored_rows(flip_pairs: FlipPairs, count: int) -> list[int]:
    """Index of the mirror image of each of `count` keypoints."""
    rows = list(range(count))
    for first, second in flip_pairs:
        rows[first], rows[second] = second, first
    return rows


def build_augmented_detector(cfg: CfgNode, detector: nn.Module, dataset: Dataset | None = None) -> nn.Module:
    """Add test-time augmentation to a detector; the detector itself if TEST.AUG.ENABLED is False.

    Args:
        cfg: of the detector.
        detector: with `predict(samples)`.
        dataset: the evaluated dataset, which has the flip pairs of keypoints.
    """
    if not cfg.TEST.AUG.ENABLED or isinstance(detector, AugmentedDetector):
        return detector
    suppression, max_detections = _build_merging(cfg, detector)
    return AugmentedDetector(
        detector,
        views=build_augmented_views(cfg),
        suppression=suppression,
        max_detections=max_detections,
        batch_size=cfg.TEST.BATCH_SIZE,
        flip_pairs=_build_flip_pairs(cfg, dataset),
    )


def build_prediction_mapper(cfg: CfgNode, model: nn.Module) -> EvalMapper:
    """The mapper from image files to samples of a model; without resizing for models that resize images themselves.

    Args:
        cfg: of the model.
        model: with or without `resizes_images`.
    """
    if getattr(model, "resizes_images", False):
        cfg = changed_config(cfg, {"INPUT.MIN_SIZE_TEST": 0})
    return build_eval_mapper(cfg)


def build_augmentation_notes(cfg: CfgNode, dataset: Dataset | None = None) -> list[str]:
    """Notes on settings of the model that TEST.AUG does not follow, for the log.

    Args:
        cfg: of the detector.
        dataset: see `build_augmented_detector`.
    """
    if not cfg.TEST.AUG.ENABLED:
        return []
    notes = []
    section = section_of_boxes(cfg)
    settings = cfg.MODEL[section]
    if _build_boxes_suppression(cfg) is None:
        notes.append(
            f"TEST.AUG: {settings.SUPPRESSION} (MODEL.{section}.SUPPRESSION) needs the features of one image; boxes "
            f"of all views are merged by greedy suppression at MODEL.{section}.NMS_THRESH_TEST."
        )
    is_mirrored = cfg.TEST.AUG.FLIP or cfg.TEST.AUG.FLIP_VERTICAL
    if is_mirrored and _build_flip_pairs(cfg, dataset) is None:
        notes.append(
            "TEST.AUG: mirrored views are not used for keypoints, because it is not known which keypoints a mirror "
            "exchanges: set DATASETS.KEYPOINT_FLIP_PAIRS."
        )
    return notes


def _build_merging(cfg: CfgNode, detector: nn.Module) -> tuple[Suppression, int]:
    """The suppression of the model's last stage, and the maximum number of detections."""
    if not getattr(detector, "predicts_classes", True):
        return GreedySuppression(cfg.MODEL.RPN.NMS_THRESH), cfg.MODEL.RPN.POST_NMS_TOPK_TEST
    greedy = GreedySuppression(cfg.MODEL[section_of_boxes(cfg)].NMS_THRESH_TEST)
    return _build_boxes_suppression(cfg) or greedy, cfg.TEST.DETECTIONS_PER_IMAGE


def _build_boxes_suppression(cfg: CfgNode) -> Suppression | None:
    """The configured suppression; None if it has weights or needs more than boxes, scores and classes."""
    section = section_of_boxes(cfg)
    settings = cfg.MODEL[section]
    key = f"MODEL.{section}.SUPPRESSION"
    suppression = build_suppression(cfg, settings.SUPPRESSION, settings.NMS_THRESH_TEST, key=key)
    takes_boxes = type(suppression).forward not in (Suppression.forward, nn.Module.forward)
    return suppression if takes_boxes and not any(True for _ in suppression.parameters()) else None


def _build_flip_pairs(cfg: CfgNode, dataset: Dataset | None) -> FlipPairs | None:
    if not cfg.MODEL.KEYPOINT_ON:
        return ()
    return None if dataset is None else build_flip_pairs(cfg, dataset)
