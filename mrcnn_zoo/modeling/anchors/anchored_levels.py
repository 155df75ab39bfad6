"""The feature maps of a head that is shared by all levels, and their anchors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.contracts import AnchorGenerator
from mrcnn_zoo.registries import ANCHOR_GENERATORS
from mrcnn_zoo.structures import FeatureSpec


@dataclass(frozen=True)
class AnchoredLevels:
    """Maps with equal channels and equal numbers of anchors per cell, as a shared head needs."""

    names: list[str]  # of the maps, from fine to coarse
    channels: int  # C of each
    anchors: AnchorGenerator

    @property
    def anchors_per_cell(self) -> int:
        """A, on every level."""
        return self.anchors.anchors_per_cell[0]


def build_anchored_levels(
    cfg: CfgNode, section: str, feature_specs: Mapping[str, FeatureSpec], *, advice: str = ""
) -> AnchoredLevels:
    """The maps of `IN_FEATURES` and their anchors of `MODEL.ANCHOR_GENERATOR`.

    Args:
        cfg: the whole config.
        section: of `MODEL` with the settings of the head: RPN or RETINANET.
        feature_specs: maps of the backbone by name.
        advice: a sentence for the message about missing maps.

    Raises:
        UserError: maps that the backbone does not have, or that differ in channels or anchors per cell.
    """
    maps = input_maps(cfg.MODEL[section].IN_FEATURES, feature_specs, section=section, advice=advice)
    names, specs = list(maps), list(maps.values())
    anchors = ANCHOR_GENERATORS.get(cfg.MODEL.ANCHOR_GENERATOR.NAME)(cfg, [spec.stride for spec in specs])
    if len(set(anchors.anchors_per_cell)) > 1 or len({spec.channels for spec in specs}) > 1:
        raise UserError(
            f"one head serves all levels of MODEL.{section}.IN_FEATURES, so they need equal channels and numbers of "
            f"anchors; {names} have {[spec.channels for spec in specs]} channels and {anchors.anchors_per_cell} "
            "anchors per cell (MODEL.ANCHOR_GENERATOR.SIZES times ASPECT_RATIOS)."
        )
    return AnchoredLevels(names, specs[0].channels, anchors)


def input_maps(
    names: Sequence[str], feature_specs: Mapping[str, FeatureSpec], *, section: str, advice: str = ""
) -> dict[str, FeatureSpec]:
    """The maps that a head is applied to, by name.

    Args:
        names: of the maps, from fine to coarse: the value of IN_FEATURES.
        feature_specs: maps of the backbone by name.
        section: of `MODEL` with this key, for the message.
        advice: a sentence for the message.

    Raises:
        UserError: no maps, or maps that the backbone does not have.
    """
    if not names or not set(names) <= set(feature_specs):
        available = ", ".join(feature_specs)
        message = f"MODEL.{section}.IN_FEATURES = {list(names)} should name maps of the backbone: {available}. {advice}"
        raise UserError(message.rstrip())
    return {name: feature_specs[name] for name in names}
