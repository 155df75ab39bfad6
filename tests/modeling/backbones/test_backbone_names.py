"""Parameter and buffer names and shapes of backbones, and of C4's shared stage, are those of Detectron2's."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.modeling.backbones import build_backbone
from mrcnn_zoo.modeling.backbones.resnet import build_res5_stage

CONFIGS = (
    "COCO-Detection/retinanet_R_50_FPN_1x",
    "COCO-InstanceSegmentation/mask_rcnn_R_101_DC5_3x",
    "Misc/cascade_mask_rcnn_X_152_32x8d_FPN_IN5k_gn_dconv",
    "Misc/mask_rcnn_R_50_FPN_1x_dconv_c3-c5",
    "Misc/mask_rcnn_R_50_FPN_3x_syncbn",
    "Misc/scratch_mask_rcnn_R_50_FPN_9x_syncbn",
)
PARTS = ("MODEL.BACKBONE.", "MODEL.RESNETS.", "MODEL.FPN.")


def config(shared: Path, name: str) -> CfgNode:
    effective = json.loads((shared / "reference/detectron2/config_effective.json").read_text())
    values = effective.get(name) or effective[f"{name}.yaml"]
    return load_config(None, [part for key, value in values.items() if key.startswith(PARTS) for part in (key, value)])


def recorded(shared: Path, name: str, prefix: str) -> dict[str, str]:
    path = shared / "reference/detectron2/state_dict_keys" / f"{name.replace('/', '__')}.txt"
    lines = (line.split(" ") for line in path.read_text().splitlines() if line.startswith(prefix))
    return {name.removeprefix(prefix): shape for name, shape in lines}


def names_and_shapes(module: nn.Module) -> dict[str, str]:
    return {name: "x".join(map(str, value.shape)) for name, value in module.state_dict().items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_backbone_has_detectron2s_names_and_shapes(name: str, shared_dir: Path) -> None:
    cfg = config(shared_dir, name)
    with torch.device("meta"):
        backbone = build_backbone(cfg, 3)
    assert names_and_shapes(backbone) == recorded(shared_dir, name, "backbone.")


@pytest.mark.parametrize("depth", [50, 101])
def test_c4s_shared_stage_has_detectron2s_names_and_shapes(depth: int, shared_dir: Path) -> None:
    name = f"COCO-InstanceSegmentation/mask_rcnn_R_{depth}_C4_3x"
    with torch.device("meta"):
        stage, spec = build_res5_stage(config(shared_dir, name))
    assert names_and_shapes(stage) == recorded(shared_dir, name, "roi_heads.res5.")
    assert (spec.channels, spec.stride) == (2048, 2)
