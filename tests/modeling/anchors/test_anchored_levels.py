"""The feature maps of a shared head, and their anchors."""

from collections.abc import Callable

import pytest

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.anchors import build_anchored_levels
from mrcnn_zoo.structures import FeatureSpec

SPECS = {"p2": FeatureSpec(8, stride=4), "p3": FeatureSpec(8, stride=8), "res4": FeatureSpec(16, stride=16)}
ONE_SIZE_A_MAP = ("MODEL.ANCHOR_GENERATOR.SIZES", [[32], [64]])


def test_anchored_levels_have_maps_in_order_and_anchors_at_their_strides(small_cfg: Callable[..., CfgNode]) -> None:
    levels = build_anchored_levels(small_cfg("MODEL.RPN.IN_FEATURES", ["p2", "p3"], *ONE_SIZE_A_MAP), "RPN", SPECS)
    assert (levels.names, levels.channels, levels.anchors_per_cell) == (["p2", "p3"], 8, 3)
    assert levels.anchors.anchors_per_cell == [3, 3]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["p2", "p9"], r"MODEL\.RPN\.IN_FEATURES = \['p2', 'p9'\] should name maps of the backbone: p2, p3, res4\."),
        ([], r"IN_FEATURES = \[\] should name maps"),
        (["p3", "res4"], r"one head serves all levels of MODEL\.RPN\.IN_FEATURES.*\[8, 16\] channels"),
    ],
)
def test_missing_or_unequal_maps_are_refused(names: list[str], message: str, small_cfg: Callable[..., CfgNode]) -> None:
    with pytest.raises(UserError, match=message):
        build_anchored_levels(small_cfg("MODEL.RPN.IN_FEATURES", names, *ONE_SIZE_A_MAP), "RPN", SPECS)


def test_unequal_numbers_of_anchors_are_refused(small_cfg: Callable[..., CfgNode]) -> None:
    cfg = small_cfg("MODEL.RPN.IN_FEATURES", ["p2", "p3"], "MODEL.ANCHOR_GENERATOR.SIZES", [[32], [64, 90]])
    with pytest.raises(UserError, match=r"\[3, 6\] anchors per cell"):
        build_anchored_levels(cfg, "RPN", SPECS)


def test_advice_ends_the_message(small_cfg: Callable[..., CfgNode]) -> None:
    cfg = small_cfg("MODEL.RPN.IN_FEATURES", ["p7"])
    with pytest.raises(UserError, match=r"res4\. Take another backbone\.$"):
        build_anchored_levels(cfg, "RPN", SPECS, advice="Take another backbone.")
