"""Backbones with Detectron2's random weights return the maps that it recorded."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mrcnn_zoo.config import load_config
from mrcnn_zoo.config.safe_yaml import read_yaml_value
from mrcnn_zoo.modeling.backbones import build_backbone

CASES = (
    "mask_rcnn_R_50_C4",
    "mask_rcnn_R_50_DC5",
    "mask_rcnn_X_101_FPN",
    "mask_rcnn_R_50_FPN_gn",
    "retinanet_R_50_FPN",
)


def build_recorded(folder: Path, weights: dict[str, Tensor]) -> torch.nn.Module:
    settings = read_yaml_value((folder / "config.yaml").read_text())["MODEL"]
    overrides: list = []
    for section in ("BACKBONE", "RESNETS", "FPN"):
        overrides += [part for key, value in settings[section].items() for part in (f"MODEL.{section}.{key}", value)]
    backbone = build_backbone(load_config(None, overrides), 3)
    prefix = "backbone."
    backbone.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
    return backbone.eval()


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_features_agree(case: str, shared_dir: Path) -> None:
    folder = shared_dir / "reference/detectron2/fixtures" / case
    backbone = build_recorded(folder, torch.load(folder / "model.pth", weights_only=True)["model"])
    with np.load(folder / "io.npz") as arrays:
        recorded = {name: torch.from_numpy(arrays[name]) for name in arrays if name.startswith("feature_")}
        features = backbone(torch.from_numpy(arrays["input_tensor"]))
    assert recorded
    for name, expected in recorded.items():
        difference = (features[name.removeprefix("feature_")] - expected).abs().max() / expected.abs().max()
        assert difference < 1e-4, name
