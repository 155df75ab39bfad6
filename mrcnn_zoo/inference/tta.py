"""Test-time augmentation: detections of several views of an image merged into one set."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

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

# Fills in masks and keypoints of given boxes: one table for each sample of a forward pass, in pixels of the sample.
Completion = Callable[[list[Detections]], list[Detections]]


class AugmentedDetector(nn.Module):
    """A detector that looks at several views of each image.

    The boxes of all views go through one suppression. Masks are predicted in the boxes that are left, on every view,
    and their probabilities averaged; keypoints likewise, their places weighted by their scores. The score of a
    detection is the one it has in the view that its box is from.

    Source: the boxes and masks as in Detectron2's GeneralizedRCNNWithTTA.

    Args:
        detector: with `predict(samples)`; one that finds masks or keypoints is a `GeneralizedRCNN`, or has
            `predict_in_boxes(samples, boxes, classes)`.
        views: makes the views of a sample.
        suppression: of the boxes of all views.
        max_detections: at most so many stay in an image; below 0 all do.
        batch_size: views per forward pass.
        flip_pairs: keypoints that change places in a mirror; where that is None, mirrored views give no keypoints.
    """

    resizes_images = True  # samples are to have the size of their image files

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
        """Whether `predict` needs samples with targets."""
        return getattr(self.detector, "needs_targets", False)

    @property
    def predicts_classes(self) -> bool:
        """Whether the classes of the detections mean anything."""
        return getattr(self.detector, "predicts_classes", True)

    def predict(self, samples: list[Sample]) -> list[Detections]:
        """The instances of each image in the coordinates of its original size, best first."""
        return [self.predict_views(self.views(sample), sample.original_size) for sample in samples]

    @torch.no_grad()
    def predict_views(self, views: Sequence[View], original_size: ImageSize) -> Detections:
        """The instances of one image.

        Args:
            views: of it.
            original_size: (height, width).

        Raises:
            UserError: masks or keypoints of a kind that cannot be merged.
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
        """The masks and keypoints of given boxes, averaged over the views, as are the scores.

        Args:
            samples: images.
            boxes: (R_i, 4) of each image, pixels of its original size.
            classes: (R_i,) int64 of each image; without them those that the detector finds in the first view.

        Raises:
            UserError: a detector that cannot predict in given boxes.
        """
        _refuse_without_given_boxes(self.detector)
        ask: Any = self.detector.predict_in_boxes
        found = []
        for row, (sample, image_boxes) in enumerate(zip(samples, boxes, strict=True)):
            views = self.views(sample)
            given = [view.boxes_from_original(image_boxes) for view in views]
            # The first view also decides the classes that are not given.
            tables = ask([views[0].sample], given[:1], None if classes is None else [classes[row]])
            for view, view_boxes in zip(views[1:], given[1:], strict=True):
                tables += ask([view.sample], [view_boxes], [tables[0].classes])
            scores = torch.stack([table.scores for table in tables]).mean(dim=0)
            placed = Detections(sample.original_size, image_boxes.to(scores), scores, tables[0].classes)
            found.append(self._with_means(placed, views, tables))
        return found

    def _with_means(self, table: Detections, views: Sequence[View], tables: Sequence[Detections]) -> Detections:
        """A table in pixels of the original image with the mean of what the views have for its boxes."""
        return replace(
            table,
            masks=_mean_masks(views, tables, table),
            keypoints=_mean_keypoints(views, tables, self.flip_pairs),
            mask_scores=_mean([part.mask_scores for part in tables]),
        )

    def _merge_boxes(self, views: Sequence[View], found: Sequence[Detections], original_size: ImageSize) -> Detections:
        boxes = torch.cat([view.boxes_to_original(table.boxes) for view, table in zip(views, found, strict=True)])
        boxes = clip_boxes_to_image(boxes, original_size)
        rows = box_ops.is_nonempty(boxes).nonzero().squeeze(1)
        scores, classes = (torch.cat([getattr(table, name) for table in found])[rows] for name in ("scores", "classes"))
        boxes = boxes[rows]
        kept, kept_scores = self.suppression(boxes, scores, classes)
        kept, kept_scores = kept[: self.max_detections], kept_scores[: self.max_detections]
        return Detections(original_size, boxes[kept], scores=kept_scores, classes=classes[kept])


def _region_heads(detector: nn.Module) -> RegionHeads | None:
    """The part of the detector whose branches can be asked about given boxes while the features are at hand."""
    heads = detector.roi_heads if isinstance(detector, GeneralizedRCNN) else None
    return heads if isinstance(heads, RegionHeads) else None


def _detect(detector: nn.Module, samples: list[Sample]) -> tuple[list[Detections], Completion]:
    """The detections of samples in their own pixels, and what fills in masks and keypoints of boxes in them."""
    heads = _region_heads(detector)
    if heads is not None and isinstance(detector, GeneralizedRCNN):
        batch = detector.collate(samples)
        features = detector.backbone(batch.pixels)
        proposals = detector.proposal_generator.predict(features, batch)
        return heads.detect_boxes(features, proposals), partial(heads.run_branches, features)
    found: list[Detections] = detector.predict(samples)  # type: ignore[operator]
    if all(table.masks is None and table.keypoints is None for table in found):
        return found, lambda tables: tables
    _refuse_without_given_boxes(detector)

    def complete(tables: list[Detections]) -> list[Detections]:
        boxes, classes = [table.boxes for table in tables], [table.classes for table in tables]
        return detector.predict_in_boxes(samples, boxes, classes)  # type: ignore[operator]

    return found, complete


def _refuse_without_given_boxes(detector: nn.Module) -> None:
    if not hasattr(detector, "predict_in_boxes"):
        raise UserError(
            f"TEST.AUG.ENABLED is True, but {type(detector).__name__} cannot predict masks or keypoints in given "
            "boxes: it has no `predict_in_boxes(samples, boxes, classes)`. Set TEST.AUG.ENABLED False."
        )


def _mean_masks(views: Sequence[View], tables: Sequence[Detections], merged: Detections) -> ProbabilityMasks | None:
    """The mean of the probabilities in each box over all views, in pixels of the original image."""
    if tables[0].masks is None:
        return None
    probabilities = []
    for view, table in zip(views, tables, strict=True):
        if not isinstance(table.masks, ProbabilityMasks):
            raise UserError(
                f"TEST.AUG.ENABLED is True, but masks of {type(table.masks).__name__} cannot be averaged over several "
                "views of an image: a mask head must give ProbabilityMasks. Set TEST.AUG.ENABLED False."
            )
        probabilities.append(view.orientation.undo(table.masks.probabilities))
        threshold = table.masks.threshold
    mean = torch.stack(probabilities).mean(dim=0)
    return ProbabilityMasks(mean, merged.boxes, merged.image_size, threshold=threshold)


def _mean(columns: list[Tensor | None]) -> Tensor | None:
    """The mean of a column over all views; None where there is none."""
    present = [column for column in columns if column is not None]
    return torch.stack(present).mean(dim=0) if present else None


def _mean_keypoints(views: Sequence[View], tables: Sequence[Detections], flip_pairs: FlipPairs | None) -> Tensor | None:
    """Places in pixels of the original image, weighted by their scores, and the mean of the scores: (R, J, 3)."""
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
            # Not an index: a list of rows would be copied to the device.
            columns = weighted.unbind(dim=1)
            weighted = torch.stack([columns[row] for row in _mirrored_rows(flip_pairs, len(columns))], dim=1)
        total = total + weighted
        num_views += 1
    assert isinstance(total, Tensor)  # the upright view is not mirrored
    return torch.cat((total[..., :2] / total[..., 2:], total[..., 2:] / num_views), dim=-1)


def _mirrored_rows(flip_pairs: FlipPairs, count: int) -> list[int]:
    """For each of `count` keypoints the row of the one that it is in a mirror."""
    rows = list(range(count))
    for first, second in flip_pairs:
        rows[first], rows[second] = second, first
    return rows


def build_augmented_detector(cfg: CfgNode, detector: nn.Module, dataset: Dataset | None = None) -> nn.Module:
    """The detector with the views of TEST.AUG; itself where that is off.

    Args:
        cfg: of the detector.
        detector: with `predict(samples)`.
        dataset: that it will be evaluated on, with the keypoints that change places in a mirror.
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
    """What makes the samples of a model of image files: resized, but for a model that does so itself."""
    if getattr(model, "resizes_images", False):
        cfg = changed_config(cfg, {"INPUT.MIN_SIZE_TEST": 0})
    return build_eval_mapper(cfg)


def build_augmentation_notes(cfg: CfgNode, dataset: Dataset | None = None) -> list[str]:
    """Sentences for the log about what TEST.AUG merges otherwise than the model's keys would let one expect.

    Args:
        cfg: of the detector.
        dataset: as for `build_augmented_detector`.
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
            "TEST.AUG: keypoints are predicted on the views that are not mirrored only, as it is not known which of "
            "them change places in a mirror: set DATASETS.KEYPOINT_FLIP_PAIRS."
        )
    return notes


def _build_merging(cfg: CfgNode, detector: nn.Module) -> tuple[Suppression, int]:
    """The suppression of the model's last stage, and how many boxes that keeps."""
    if not getattr(detector, "predicts_classes", True):
        return GreedySuppression(cfg.MODEL.RPN.NMS_THRESH), cfg.MODEL.RPN.POST_NMS_TOPK_TEST
    greedy = GreedySuppression(cfg.MODEL[section_of_boxes(cfg)].NMS_THRESH_TEST)
    return _build_boxes_suppression(cfg) or greedy, cfg.TEST.DETECTIONS_PER_IMAGE


def _build_boxes_suppression(cfg: CfgNode) -> Suppression | None:
    """The configured suppression; None where it has weights, or takes more than boxes, scores and classes."""
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
