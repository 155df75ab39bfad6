"""Backbones with Detectron2's random weights return the maps that it recorded."""

import pytest
import torch

from mrcnn_zoo.config import load_config
from mrcnn_zoo.config.safe_yaml import read_yaml_value
from mrcnn_zoo.modeling.backbones import build_backbone
from support.references import RecordedCase, find_case, relative_error

CASES = (
    "mask_rcnn_R_50_C4",
    "mask_rcnn_R_50_DC5",
    "mask_rcnn_X_101_FPN",
    "mask_rcnn_R_50_FPN_gn",
    "retinanet_R_50_FPN",
)


def build_recorded(case: RecordedCase) -> torch.nn.Module:
    settings = read_yaml_value(case.config.read_text())["MODEL"]
    overrides: list = []
    for section in ("BACKBONE", "RESNETS", "FPN"):
        overrides += [part for key, value in settings[section].items() for part in (f"MODEL.{section}.{key}", value)]
    backbone = build_backbone(load_config(None, overrides), 3)
    prefix = "backbone."
    backbone.load_state_dict({k.removeprefix(prefix): v for k, v in case.weights.items() if k.startswith(prefix)})
    return backbone.eval()


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_features_agree(name: str) -> None:
    case = find_case(name)
    features = build_recorded(case)(case.tensor("input_tensor"))
    recorded = [name for name in case.arrays if name.startswith("feature_")]
    assert recorded
    for name in recorded:
        assert relative_error(features[name.removeprefix("feature_")], case.tensor(name)) < 1e-4, name
