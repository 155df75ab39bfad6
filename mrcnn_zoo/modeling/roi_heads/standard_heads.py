"""Region heads: a box branch over all regions, then further branches over the foreground."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError, kind_of
from mrcnn_zoo.modeling.assignment import RegionLabeler, build_region_labeler
from mrcnn_zoo.modeling.contracts import BoxHead, Candidates, Features
from mrcnn_zoo.modeling.poolers import PyramidPooler, build_head_pooler, select_specs
from mrcnn_zoo.modeling.recording import Recorder, report_all_kept
from mrcnn_zoo.modeling.roi_heads.box_head import BoxPredictor, build_box_predictor
from mrcnn_zoo.modeling.roi_heads.branch import PooledBranch, RegionBranch, build_branches, check_branch_losses
from mrcnn_zoo.modeling.roi_heads.detection_selection import RegionPredictions
from mrcnn_zoo.registries import BOX_HEADS, ROI_HEADS
from mrcnn_zoo.structures import (
    UNKNOWN_CLASS,
    Detections,
    FeatureSpec,
    LabeledRegions,
    Proposals,
    Targets,
    TrainingOutput,
    foreground_regions,
)


def contiguous_features(features: Features, names: Iterable[str]) -> dict[str, Tensor]:
    """The maps with the named ones made contiguous for pooling, one copy for all poolers.

    On the CPU maps without gradient stay as they are: RoIAlign reads them in channels-last order.

    Args:
        features: maps of the backbone, (N, C, H, W) each.
        names: of the maps that are pooled from.
    """
    needed = [name for name in names if features[name].requires_grad or features[name].device.type != "cpu"]
    return {**features, **{name: features[name].contiguous() for name in needed}}


class RegionHeads(nn.Module):
    """A box branch, implemented by a subclass, and an ordered list of further branches.

    A subclass calls `add_branches` after it has added its own modules: state dicts and optimizers keep this order.
    """

    box_pooler: PyramidPooler
    branch_names: tuple[str, ...] = ()

    def add_branches(self, branches: Mapping[str, RegionBranch]) -> None:
        """Register the further branches.

        Args:
            branches: by module name, in the order in which they run.

        Raises:
            UserError: a name that is no identifier, or that another part of the heads has.
        """
        own = {name for name in branches if hasattr(self, name)} - {*self.branch_names}
        for name, branch in branches.items():
            if not name.isidentifier() or name in own:
                raise UserError(
                    f"{type(branch).__name__} (MODEL.ROI_HEADS.BRANCHES) has the name {name!r}; it must be one word, "
                    f"and no other part of {type(self).__name__} may have it."
                )
            self.add_module(name, branch)
        self.branch_names = tuple(branches)

    @property
    def branches(self) -> list[RegionBranch]:
        """The further branches in the order in which they run."""
        return [cast(RegionBranch, self.get_submodule(name)) for name in self.branch_names]

    @property
    def corrects_scores(self) -> bool:
        """Whether a branch changes the scores of the box branch."""
        return any(getattr(branch, "corrects_scores", False) for branch in self.branches)

    @abstractmethod
    def losses(self, features: Features, proposals: list[Proposals], targets: list[Targets]) -> TrainingOutput:
        """The losses of all branches on regions sampled from the proposals.

        Args:
            features: maps of the backbone, (N, C, H, W) each.
            proposals: of each image.
            targets: ground truth of each image.
        """
        raise NotImplementedError

    @abstractmethod
    def predict_regions(
        self, features: Features, proposals: list[Proposals], *, recorder: Recorder | None = None
    ) -> RegionPredictions:
        """The outputs of the last box predictor for the proposals.

        Args:
            features: maps of the backbone, (N, C, H, W) each, contiguous.
            proposals: of each image.
            recorder: gets a report per stage before the last.
        """
        raise NotImplementedError

    @property
    @abstractmethod
    def last_predictor(self) -> BoxPredictor:
        """The box predictor that makes the detections."""
        raise NotImplementedError

    @abstractmethod
    def box_scores(self, features: Features, boxes: list[Tensor]) -> Tensor:
        """The class scores of given boxes: N x (R_i, 4) pixels -> (sum of R_i, K) in [0, 1]."""
        raise NotImplementedError

    def detect_boxes(
        self, features: Features, proposals: list[Proposals], *, recorder: Recorder | None = None
    ) -> list[Detections]:
        """The detections of the box branch, best first, in the coordinates of the proposals.

        Args:
            features: maps of the backbone, (N, C, H, W) each.
            proposals: of each image.
            recorder: gets a report per stage.
        """
        features = contiguous_features(features, self.box_pooler.names)
        if recorder is not None:
            _report_pooling(recorder, "box pooling", self.box_pooler, proposals)
        predictions = self.predict_regions(features, proposals, recorder=recorder)
        return self.last_predictor.detect(predictions, recorder=recorder)

    def candidates(self, features: Features, proposals: list[Proposals]) -> Candidates:
        """The boxes that the suppression gets at inference; arguments as `detect_boxes`."""
        features = contiguous_features(features, self.box_pooler.names)
        return self.last_predictor.candidates(self.predict_regions(features, proposals))

    def predict(
        self, features: Features, proposals: list[Proposals], *, recorder: Recorder | None = None
    ) -> list[Detections]:
        """The detections of each image, best first, with the columns of all branches; arguments as `detect_boxes`."""
        features = contiguous_features(features, self.box_pooler.names)
        detections = self.detect_boxes(features, proposals, recorder=recorder)
        return self.branch_predictions(features, detections, recorder=recorder)

    def predict_in_boxes(
        self, features: Features, boxes: list[Proposals], classes: list[Tensor] | None = None
    ) -> list[Detections]:
        """The outputs of all branches in given boxes, which are neither moved nor sorted.

        Args:
            features: maps of the backbone, (N, C, H, W) each.
            boxes: R_i of each image.
            classes: (R_i,) int64 in [0, K) of each image, or -1 for the class with the highest score, which is also
                the class of all boxes if this is None.

        Returns:
            R_i detections of each image with the box branch's score of their class.

        Raises:
            UserError: a class that the model does not have.
        """
        features = contiguous_features(features, self.box_pooler.names)
        counts = [len(table) for table in boxes]
        scores = self.box_scores(features, [table.boxes for table in boxes])
        labels = scores.argmax(dim=1)
        if classes is not None:
            given = torch.cat(classes)
            _check_classes(given, scores.shape[1])
            labels = torch.where(given == UNKNOWN_CLASS, labels, given)
        scores = scores.gather(1, labels[:, None]).squeeze(1)
        detections = [
            Detections(table.image_size, table.boxes, image_scores, image_labels)
            for table, image_scores, image_labels in zip(boxes, scores.split(counts), labels.split(counts), strict=True)
        ]
        return self.run_branches(features, detections)

    def run_branches(self, features: Features, detections: list[Detections]) -> list[Detections]:
        """The detections in the same order, with the columns that the branches add or correct.

        Args:
            features: maps of the backbone, (N, C, H, W) each.
            detections: of each image.
        """
        for branch in self.branches:
            found = branch.predict(features, detections)
            if not isinstance(found, list) or len(found) != len(detections):
                raise UserError(
                    f"`predict` of {type(branch).__name__} must return a list of {len(detections)} Detections, one per "
                    f"image, but it returned {kind_of(found)}."
                )
            detections = found
        return detections

    def branch_losses(
        self, features: Features, foreground: list[LabeledRegions], *, pooled: Tensor | None = None
    ) -> TrainingOutput:
        """The losses of all branches; each branch sees the columns that earlier ones add.

        Args:
            features: maps of the backbone, (N, C, H, W) each.
            foreground: regions of each image.
            pooled: (sum of R_i, C, S, S) input of the pooled branches; None if they pool it themselves.
        """
        output = TrainingOutput()
        for branch in self.branches:
            if pooled is not None and isinstance(branch, PooledBranch):
                returned: Any = branch.pooled_losses(pooled, foreground, foreground)
            else:
                returned = branch.losses(features, foreground)
            foreground, of_branch = check_branch_losses(returned, branch)
            output |= of_branch
        return output

    def branch_predictions(
        self, features: Features, detections: list[Detections], *, recorder: Recorder | None = None
    ) -> list[Detections]:
        """As `run_branches`, sorted again where a branch corrects scores; a recorder gets a report of this."""
        if recorder is not None:
            for name, branch in zip(self.branch_names, self.branches, strict=True):
                pooler = getattr(branch, "region_pooler", None)
                if isinstance(pooler, PyramidPooler):
                    _report_pooling(recorder, f"{name} pooling", pooler, detections)
        detections = self.run_branches(features, detections)
        if not self.corrects_scores:
            return detections
        orders = [table.scores.argsort(descending=True, stable=True) for table in detections]
        if recorder is not None:
            report_all_kept(recorder, detections, stage="corrected scores", orders=orders)
        return [table[order] for table, order in zip(detections, orders, strict=True)]


def _report_pooling(
    recorder: Recorder, stage: str, pooler: PyramidPooler, tables: Sequence[Proposals] | Sequence[Detections]
) -> None:
    pooler.report(recorder, stage, [table.boxes for table in tables], [table.image_size for table in tables])


def _check_classes(classes: Tensor, count: int) -> None:
    wrong = classes[(classes < UNKNOWN_CLASS) | (classes >= count)]
    if len(wrong):
        raise UserError(
            f"class {int(wrong[0])} of a given box is none of the model's: classes are 0 to {count - 1}, or "
            f"{UNKNOWN_CLASS} for the class with the highest score."
        )


class StandardROIHeads(RegionHeads):
    """Heads whose branches share the feature maps only: each pools for itself. Mask R-CNN with an FPN.

    In training the further branches get the foreground proposals, at inference the detections of the box branch.

    Source: He et al. 2017 (Mask R-CNN), section 3.

    Args:
        labeler: samples and labels the training regions.
        box_pooler: makes the input of the box head.
        box_head: (R, C, S, S) -> (R, D).
        box_predictor: class scores and deltas of (R, D).
        branches: the further branches by module name, in their order.
        train_on_predicted_boxes: train `branches` on the boxes predicted from the foreground proposals, which are
            closer to the boxes at inference.
    """

    def __init__(
        self,
        labeler: RegionLabeler,
        *,
        box_pooler: PyramidPooler,
        box_head: BoxHead,
        box_predictor: BoxPredictor,
        branches: Mapping[str, RegionBranch],
        train_on_predicted_boxes: bool = False,
    ) -> None:
        super().__init__()
        self.labeler = labeler
        self.box_pooler = box_pooler
        self.box_head = box_head
        self.box_predictor = box_predictor
        self.add_branches(branches)
        self.train_on_predicted_boxes = train_on_predicted_boxes

    def losses(self, features: Features, proposals: list[Proposals], targets: list[Targets]) -> TrainingOutput:
        """The losses of all branches on regions sampled from the proposals."""
        features = contiguous_features(features, self.box_pooler.names)
        regions = self.labeler.label(proposals, targets)
        vectors = self.box_vectors(features, [table.boxes for table in regions])
        deltas, output = self.box_predictor.supervise(vectors, regions, features)
        if self.train_on_predicted_boxes:
            regions = self.box_predictor.refine(deltas, regions)
        return output | self.branch_losses(features, foreground_regions(regions, self.labeler.num_classes)[0])

    @property
    def last_predictor(self) -> BoxPredictor:
        """The only box predictor."""
        return self.box_predictor

    def predict_regions(
        self,
        features: Features,
        proposals: list[Proposals],
        *,
        recorder: Recorder | None = None,  # noqa: ARG002
    ) -> RegionPredictions:
        """The outputs of the box predictor for the proposals."""
        vectors = self.box_vectors(features, [table.boxes for table in proposals])
        return self.box_predictor.predictions(vectors, proposals, features)

    def box_scores(self, features: Features, boxes: list[Tensor]) -> Tensor:
        """The class scores of given boxes: N x (R_i, 4) pixels -> (sum of R_i, K)."""
        return self.box_predictor.scores(self.box_vectors(features, boxes))

    def box_vectors(self, features: Features, boxes: list[Tensor]) -> Tensor:
        """The input of the box predictor: N x (R_i, 4) pixels -> (sum of R_i, D)."""
        return self.box_head(self.box_pooler(features, boxes))


@ROI_HEADS.register("PointRendROIHeads")  # the name in configs of Detectron2's PointRend project
@ROI_HEADS.register("StandardROIHeads")
def build_standard_roi_heads(cfg: CfgNode, specs: Mapping[str, FeatureSpec]) -> StandardROIHeads:
    """Heads over the maps in `MODEL.ROI_HEADS.IN_FEATURES`.

    Args:
        cfg: the whole config.
        specs: all maps of the backbone by name.
    """
    maps = select_specs(specs, cfg.MODEL.ROI_HEADS.IN_FEATURES)
    channels = next(iter(maps.values())).channels
    box = cfg.MODEL.ROI_BOX_HEAD
    box_head = BOX_HEADS.get(box.NAME)(cfg, FeatureSpec(channels=channels, side=box.POOLER_RESOLUTION))
    return StandardROIHeads(
        build_region_labeler(cfg),
        box_pooler=build_head_pooler(cfg, "ROI_BOX_HEAD", specs),
        box_head=box_head,
        box_predictor=build_box_predictor(cfg, box_head.output_spec),
        branches=build_branches(cfg, specs),
        train_on_predicted_boxes=box.TRAIN_ON_PRED_BOXES,
    )
