"""Branches beside the box branch: each one module with its pooler, layers and criterion."""

import functools
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError, kind_of
from mrcnn_zoo.modeling.contracts import Features, HandsOnMasks, SelectsRegions
from mrcnn_zoo.modeling.poolers import PyramidPooler, build_head_pooler
from mrcnn_zoo.modeling.recording import Recorder, report_all_kept
from mrcnn_zoo.modeling.roi_heads.region_features import boxes_of, contiguous_features, named_specs
from mrcnn_zoo.registries import KEYPOINT_HEADS, MASK_HEADS, REGION_BRANCHES
from mrcnn_zoo.structures import (
    UNKNOWN_CLASS,
    BranchSpec,
    Detections,
    FeatureSpec,
    LabeledRegions,
    Proposals,
    TrainingOutput,
    training_output,
)

Pooler = Callable[[Features, list[Tensor]], Tensor]  # maps, N x (R_i, 4) boxes -> (sum of R_i, C, S, S)


class RegionBranch(nn.Module):
    """A branch that pools or samples the feature maps itself.

    A branch that a config lists in MODEL.ROI_HEADS.BRANCHES has an attribute `name`, its place below `roi_heads`. One
    that changes scores has `corrects_scores = True`; the region heads then sort the detections again.
    """

    @abstractmethod
    def losses(self, features: Features, regions: list[LabeledRegions]) -> tuple[list[LabeledRegions], TrainingOutput]:
        """What supervises this branch.

        Args:
            features: maps of the backbone.
            regions: of each image, all with an object.

        Returns:
            The regions for the next branch, with the columns that this one adds, and the losses.
        """
        raise NotImplementedError

    @abstractmethod
    def predict(self, features: Features, detections: list[Detections]) -> list[Detections]:
        """The same detections in the same order, with what this branch adds or corrects."""
        raise NotImplementedError


class PooledBranch(RegionBranch):
    """The branch of a head that sees pooled maps only; `pool_for` makes one of such a head.

    `losses` and `predict` of the class behind `RegionBranch` in the method resolution order are those of the head.
    """

    region_pooler: Any  # a `Pooler`; the head may have a `pooler` of its own

    def losses(self, features: Features, regions: list[LabeledRegions]) -> tuple[list[LabeledRegions], TrainingOutput]:
        """Those of the head, on the regions that it trains on."""
        chosen = self.select_regions(regions) if isinstance(self, SelectsRegions) else regions
        return self.pooled_losses(self.region_pooler(features, boxes_of(chosen)), chosen, regions)

    def predict(self, features: Features, detections: list[Detections]) -> list[Detections]:
        """The detections with what the head finds in each box."""
        return self.pooled_predict(self.region_pooler(features, boxes_of(detections)), detections)

    def pooled_losses(
        self, pooled: Tensor, chosen: list[LabeledRegions], regions: list[LabeledRegions]
    ) -> tuple[list[LabeledRegions], TrainingOutput]:
        """The same for maps that are pooled already: (sum of R_i, C, S, S) of the `chosen` ones of the regions."""
        if not isinstance(self, HandsOnMasks) or _changes_losses_alone(type(self)):
            returned = cast(Any, super(RegionBranch, self)).losses(pooled, chosen)
            return regions, training_output(returned, made_by=self)
        probabilities, output = self.supervise(pooled, chosen)
        parts = probabilities.split([len(table) for table in chosen])
        masked = [replace(table, mask_probabilities=part) for table, part in zip(chosen, parts, strict=True)]
        return masked, output

    def pooled_predict(self, pooled: Tensor, detections: list[Detections]) -> list[Detections]:
        """The same for maps that are pooled already."""
        return cast(Any, super(RegionBranch, self)).predict(pooled, detections)


def _changes_losses_alone(cls: type) -> bool:
    """Whether a head is a subclass of one with `supervise`, and has `losses` of its own that `supervise` ignores."""
    of_head = cls.__mro__[cls.__mro__.index(RegionBranch) + 1 :]
    losses, supervise = (
        next((place for place, base in enumerate(of_head) if name in vars(base)), 0) for name in ("losses", "supervise")
    )
    return losses < supervise


def pool_for(head: nn.Module, pooler: Pooler) -> PooledBranch:
    """Make a head that sees pooled maps a branch with that pooler.

    The head stays the same module with the same names in the state dict; its class becomes a subclass of its own class,
    in which `losses` and `predict` pool first. (`torch.nn.utils.parametrize` changes modules in the same way.)
    """
    cls: Any = type(head)
    head.__class__ = _branch_class(cls)
    setattr(head, "region_pooler", pooler)  # noqa: B010 - a module or a function
    return cast(PooledBranch, head)


@functools.cache
def _branch_class(cls: Any) -> Any:  # of type[nn.Module]
    def reduce(self: nn.Module) -> tuple[Any, ...]:  # made here, the class is found by pickle under no name
        return _empty_branch, (cls,), self.__dict__

    members = {"__doc__": cls.__doc__, "__module__": cls.__module__, "__reduce__": reduce}
    return type(cls.__name__, (PooledBranch, cls), members)


def _empty_branch(cls: Any) -> PooledBranch:
    made = _branch_class(cls)
    return cast(PooledBranch, made.__new__(made))


class RegionHeads(nn.Module):
    """A box branch, which a subclass has, and the other branches in their order.

    Subclasses call `add_branches` after their own modules, whose order state dicts and optimizers keep.
    """

    box_pooler: PyramidPooler  # of the box branch

    def add_branches(self, branches: Mapping[str, RegionBranch]) -> None:
        """Register the branches under their names, in their order.

        Raises:
            UserError: a name that is none, or is taken by another part of the heads.
        """
        own = {name for name in branches if hasattr(self, name)} - {*getattr(self, "branch_names", ())}
        for name, branch in branches.items():
            if not name.isidentifier() or name in own:
                raise UserError(
                    f"{type(branch).__name__} (MODEL.ROI_HEADS.BRANCHES) has the name {name!r}; it must be one word, "
                    f"and no other part of {type(self).__name__} may have it."
                )
            self.add_module(name, branch)
        self.branch_names = tuple(branches)

    @property
    def corrects_scores(self) -> bool:
        """Whether a branch changes the scores of the box branch."""
        return any(getattr(branch, "corrects_scores", False) for branch in self.branches)

    def predict(
        self, features: Features, proposals: list[Proposals], *, recorder: Recorder | None = None
    ) -> list[Detections]:
        """The detections of each image, best first, in the coordinates of its proposals; only these get masks."""
        features = contiguous_features(features, self.box_pooler.names)
        detections = self.detect_boxes(features, proposals, recorder=recorder)
        return self.branch_predictions(features, detections, recorder=recorder)

    def detect_boxes(
        self, features: Features, proposals: list[Proposals], *, recorder: Recorder | None = None
    ) -> list[Detections]:
        """The detections of the box branch alone, best first, in the coordinates of the proposals of each image."""
        raise NotImplementedError

    def box_scores(self, features: Features, boxes: list[Tensor]) -> Tensor:
        """The scores of each class for given boxes: N x (R_i, 4) pixels -> (sum of R_i, K)."""
        raise NotImplementedError

    def predict_in_boxes(
        self, features: Features, boxes: list[Proposals], classes: list[Tensor] | None = None
    ) -> list[Detections]:
        """What all branches find in boxes of the caller, in the order and at the place of the boxes.

        Args:
            features: maps of the backbone.
            boxes: R_i of each image.
            classes: (R_i,) int64 in [0, K) of each image; a box without a class, of -1, has the one with the highest
                score, as all have without `classes`.

        Returns:
            R_i detections of each image, scored by the box branch for their class.

        Raises:
            UserError: a class that the model does not have.
        """
        features = contiguous_features(features, self.box_pooler.names)
        counts = [len(table) for table in boxes]
        scores = self.box_scores(features, boxes_of(boxes))
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
        """The detections with what all branches add or correct, in the same order."""
        for branch in self.branches:
            found = branch.predict(features, detections)
            if not isinstance(found, list) or len(found) != len(detections):
                raise UserError(
                    f"`predict` of {type(branch).__name__} must return a list of {len(detections)} Detections, one for "
                    f"each image, but it returned {kind_of(found)}."
                )
            detections = found
        return detections

    @property
    def branches(self) -> list[RegionBranch]:
        """In the order in which they are trained and asked."""
        return [cast(RegionBranch, self.get_submodule(name)) for name in self.branch_names]

    def branch_losses(
        self, features: Features, foreground: list[LabeledRegions], *, pooled: Tensor | None = None
    ) -> TrainingOutput:
        """The losses of all branches on regions with an object; each sees the columns that earlier ones add.

        Args:
            features: maps of the backbone.
            foreground: of each image.
            pooled: (sum of R_i, C, S, S), what pooled branches see, where it is at hand; else they pool themselves.
        """
        output = TrainingOutput()
        for branch in self.branches:
            if pooled is not None and isinstance(branch, PooledBranch):
                returned: Any = branch.pooled_losses(pooled, foreground, foreground)
            else:
                returned = branch.losses(features, foreground)
            foreground, of_branch = regions_and_losses(returned, branch)
            output |= of_branch
        return output

    def branch_predictions(
        self, features: Features, detections: list[Detections], *, recorder: Recorder | None = None
    ) -> list[Detections]:
        """The detections with what all branches add, best first; a recorder gets a report of corrected scores."""
        detections = self.run_branches(features, detections)
        if not self.corrects_scores:
            return detections
        orders = [table.scores.argsort(descending=True, stable=True) for table in detections]
        if recorder is not None:
            report_all_kept(recorder, detections, stage="corrected scores", orders=orders)
        return [table[order] for table, order in zip(detections, orders, strict=True)]


def regions_and_losses(returned: Any, branch: RegionBranch) -> tuple[list[LabeledRegions], TrainingOutput]:
    """What `losses` of a branch has returned.

    Raises:
        UserError: it is not the regions of each image and a TrainingOutput.
    """
    if not isinstance(returned, tuple) or len(returned) != 2 or not isinstance(returned[0], list):
        raise UserError(
            f"`losses` of {type(branch).__name__} must return (regions, TrainingOutput), but it returned "
            f"{kind_of(returned)}: see RegionBranch in mrcnn_zoo/modeling/roi_heads/branch.py."
        )
    return returned[0], training_output(returned[1], made_by=branch)


def _check_classes(classes: Tensor, count: int) -> None:
    wrong = classes[(classes < UNKNOWN_CLASS) | (classes >= count)]
    if len(wrong):
        raise UserError(
            f"class {int(wrong[0])} of a given box is none of the model's: classes are 0 to {count - 1}, or "
            f"{UNKNOWN_CLASS} where the model is to find the class."
        )


def build_branches(
    cfg: CfgNode, specs: Mapping[str, FeatureSpec], *, pooler: Pooler | None = None, pooled: FeatureSpec | None = None
) -> dict[str, RegionBranch]:
    """The branches that MODEL.MASK_ON, MODEL.KEYPOINT_ON and MODEL.ROI_HEADS.BRANCHES ask for, by module name.

    Args:
        cfg: the whole config.
        specs: all maps of the backbone.
        pooler: what the branches pool with; by default each has the one that its section of the config describes.
        pooled: shape of what `pooler` makes.
    """
    branches: dict[str, RegionBranch] = {}
    sections = []
    if cfg.MODEL.MASK_ON:
        sections.append(("mask_head", "ROI_MASK_HEAD", MASK_HEADS))
    if cfg.MODEL.KEYPOINT_ON:
        sections.append(("keypoint_head", "ROI_KEYPOINT_HEAD", KEYPOINT_HEADS))
    maps = named_specs(specs, cfg.MODEL.ROI_HEADS.IN_FEATURES)
    channels = next(iter(maps.values())).channels
    for name, section, registry in sections:
        settings = cfg.MODEL[section]
        spec = pooled or FeatureSpec(channels=channels, side=settings.POOLER_RESOLUTION)
        head = registry.get(settings.NAME)(cfg, BranchSpec(spec.channels, spec.stride, spec.side, maps=specs))
        if not isinstance(head, RegionBranch):
            head = pool_for(head, pooler or build_head_pooler(cfg, section, maps))
        branches[name] = head
    for entry in cfg.MODEL.ROI_HEADS.BRANCHES:
        branch = REGION_BRANCHES.get(entry)(cfg, BranchSpec(channels, maps=specs))
        if branch.name in branches:
            raise UserError(
                f"MODEL.ROI_HEADS.BRANCHES = {list(cfg.MODEL.ROI_HEADS.BRANCHES)}: two branches are called "
                f"{branch.name!r}. List each once; a branch of your own needs another `name`."
            )
        branches[branch.name] = branch
    return branches
