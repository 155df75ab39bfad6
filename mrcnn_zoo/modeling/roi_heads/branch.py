"""Region branches: masks, keypoints and more per region, each one module with its pooler, layers and criterion."""

import functools
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError, kind_of
from mrcnn_zoo.modeling.contracts import Features, ProvidesMasks, SelectsRegions
from mrcnn_zoo.modeling.poolers import build_head_pooler, select_specs
from mrcnn_zoo.registries import KEYPOINT_HEADS, MASK_HEADS, REGION_BRANCHES
from mrcnn_zoo.structures import (
    BranchSpec,
    Detections,
    FeatureSpec,
    LabeledRegions,
    TrainingOutput,
    training_output,
)

Pooler = Callable[[Features, list[Tensor]], Tensor]  # maps, N x (R_i, 4) boxes -> (sum of R_i, C, S, S)


class RegionBranch(nn.Module):
    """A branch that pools or samples the feature maps itself.

    A branch listed in MODEL.ROI_HEADS.BRANCHES has an attribute `name`, its module name below `roi_heads`. A branch
    that changes scores sets `corrects_scores = True`; the detections are then sorted again.
    """

    @abstractmethod
    def losses(self, features: Features, regions: list[LabeledRegions]) -> tuple[list[LabeledRegions], TrainingOutput]:
        """The losses of this branch.

        Args:
            features: maps of the backbone, (N, C, H, W) each.
            regions: foreground regions of each image.

        Returns:
            The regions for the next branch, with the columns that this branch adds, and the losses.
        """
        raise NotImplementedError

    @abstractmethod
    def predict(self, features: Features, detections: list[Detections]) -> list[Detections]:
        """The same detections in the same order, with the columns that this branch adds or corrects.

        Args:
            features: maps of the backbone, (N, C, H, W) each.
            detections: of each image.
        """
        raise NotImplementedError


class PooledBranch(RegionBranch):
    """The branch of a head with pooled input; made by `pool_for`.

    In the method resolution order, the methods behind `RegionBranch` are those of the head.
    """

    region_pooler: Any  # a `Pooler`; the head may have a `pooler` of its own

    def losses(self, features: Features, regions: list[LabeledRegions]) -> tuple[list[LabeledRegions], TrainingOutput]:
        """The losses of the head on the regions that it selects."""
        selected = self.select_regions(regions) if isinstance(self, SelectsRegions) else regions
        pooled = self.region_pooler(features, [table.boxes for table in selected])
        return self.pooled_losses(pooled, selected, regions)

    def predict(self, features: Features, detections: list[Detections]) -> list[Detections]:
        """The detections with the output of the head in each box."""
        return self.pooled_predict(self.region_pooler(features, [table.boxes for table in detections]), detections)

    def pooled_losses(
        self, pooled: Tensor, selected: list[LabeledRegions], regions: list[LabeledRegions]
    ) -> tuple[list[LabeledRegions], TrainingOutput]:
        """As `losses`, of pooled maps.

        Args:
            pooled: (sum of R_i, C, S, S) of the selected regions.
            selected: R_i regions of each image that the head trains on.
            regions: all foreground regions of each image.
        """
        if not isinstance(self, ProvidesMasks) or _overrides_losses_only(type(self)):
            returned = cast(Any, super(RegionBranch, self)).losses(pooled, selected)
            return regions, training_output(returned, made_by=self)
        probabilities, output = self.supervise(pooled, selected)
        parts = probabilities.split([len(table) for table in selected])
        with_masks = [replace(table, mask_probabilities=part) for table, part in zip(selected, parts, strict=True)]
        return with_masks, output

    def pooled_predict(self, pooled: Tensor, detections: list[Detections]) -> list[Detections]:
        """As `predict`, of (sum of R_i, C, S, S) pooled maps."""
        return cast(Any, super(RegionBranch, self)).predict(pooled, detections)


def _overrides_losses_only(cls: type) -> bool:
    """Whether the head inherits `supervise` and overrides `losses`, which `supervise` does not call."""
    of_head = cls.__mro__[cls.__mro__.index(RegionBranch) + 1 :]
    losses, supervise = (
        next((place for place, base in enumerate(of_head) if name in vars(base)), 0) for name in ("losses", "supervise")
    )
    return losses < supervise


def pool_for(head: nn.Module, pooler: Pooler) -> PooledBranch:
    """Turn a head with pooled input into a branch with this pooler, in place.

    Module and state-dict names stay the same; the class becomes a subclass of the head's class whose `losses` and
    `predict` pool first. (`torch.nn.utils.parametrize` changes modules in the same way.)

    Args:
        head: a mask or keypoint head, `contracts.RegionHead`.
        pooler: a module or a function.
    """
    cls: Any = type(head)
    head.__class__ = _branch_class(cls)
    setattr(head, "region_pooler", pooler)  # noqa: B010 - a module or a function
    return cast(PooledBranch, head)


@functools.cache
def _branch_class(cls: Any) -> Any:  # of type[nn.Module]
    def reduce(self: nn.Module) -> tuple[Any, ...]:  # pickle finds a class made at run time under no name
        return _empty_branch, (cls,), self.__dict__

    members = {"__doc__": cls.__doc__, "__module__": cls.__module__, "__reduce__": reduce}
    return type(cls.__name__, (PooledBranch, cls), members)


def _empty_branch(cls: Any) -> PooledBranch:
    made = _branch_class(cls)
    return cast(PooledBranch, made.__new__(made))


def check_branch_losses(returned: Any, branch: RegionBranch) -> tuple[list[LabeledRegions], TrainingOutput]:
    """The value that `losses` of a branch returned.

    Args:
        returned: the value.
        branch: named in the message.

    Raises:
        UserError: the value is not a tuple of the regions of each image and a TrainingOutput.
    """
    if not isinstance(returned, tuple) or len(returned) != 2 or not isinstance(returned[0], list):
        raise UserError(
            f"`losses` of {type(branch).__name__} must return (regions, TrainingOutput), but it returned "
            f"{kind_of(returned)}: see RegionBranch in mrcnn_zoo/modeling/roi_heads/branch.py."
        )
    return returned[0], training_output(returned[1], made_by=branch)


def build_branches(
    cfg: CfgNode, specs: Mapping[str, FeatureSpec], *, pooler: Pooler | None = None, pooled: FeatureSpec | None = None
) -> dict[str, RegionBranch]:
    """The branches of MODEL.MASK_ON, MODEL.KEYPOINT_ON and MODEL.ROI_HEADS.BRANCHES by module name, in this order.

    Args:
        cfg: the whole config.
        specs: all maps of the backbone.
        pooler: shared by the branches; by default each branch has the pooler of its config section.
        pooled: shape of the output of `pooler`.
    """
    branches: dict[str, RegionBranch] = {}
    sections = []
    if cfg.MODEL.MASK_ON:
        sections.append(("mask_head", "ROI_MASK_HEAD", MASK_HEADS))
    if cfg.MODEL.KEYPOINT_ON:
        sections.append(("keypoint_head", "ROI_KEYPOINT_HEAD", KEYPOINT_HEADS))
    channels = next(iter(select_specs(specs, cfg.MODEL.ROI_HEADS.IN_FEATURES).values())).channels
    for name, section, registry in sections:
        settings = cfg.MODEL[section]
        spec = pooled or FeatureSpec(channels=channels, side=settings.POOLER_RESOLUTION)
        head = registry.get(settings.NAME)(cfg, BranchSpec(spec.channels, spec.stride, spec.side, maps=specs))
        if not isinstance(head, RegionBranch):
            head = pool_for(head, pooler or build_head_pooler(cfg, section, specs))
        branches[name] = head
    for entry in cfg.MODEL.ROI_HEADS.BRANCHES:
        branch = REGION_BRANCHES.get(entry)(cfg, BranchSpec(channels, maps=specs))
        if branch.name in branches:
            raise UserError(
                f"MODEL.ROI_HEADS.BRANCHES = {list(cfg.MODEL.ROI_HEADS.BRANCHES)}: two branches have the name "
                f"{branch.name!r}. List each branch once, and give a branch of your own another `name`."
            )
        branches[branch.name] = branch
    return branches
