"""Parameter and buffer names and shapes of backbone and RPN are those of Detectron2's models."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from mrcnn_zoo.config import load_config
from mrcnn_zoo.modeling.backbones import build_backbone
from mrcnn_zoo.modeling.proposal_generators import build_proposal_generator

CONFIGS = (
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x",
    "COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x",
    "COCO-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_3x",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_1x",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x",
    "Misc/mask_rcnn_R_50_FPN_3x_gn",
    "Misc/scratch_mask_rcnn_R_50_FPN_9x_syncbn",
)
OUR_PARTS = ("MODEL.BACKBONE.", "MODEL.RESNETS.", "MODEL.FPN.", "MODEL.RPN.", "MODEL.ANCHOR_GENERATOR.")


def overrides_of(reference: Path, name: str) -> list:
    effective = json.loads((reference / "config_effective.json").read_text())
    values = effective.get(name) or effective[f"{name}.yaml"]
    return [part for key, value in values.items() if key.startswith(OUR_PARTS) for part in (key, value)]


def names_and_shapes(reference: Path, name: str) -> dict[str, str]:
    lines = (reference / "state_dict_keys" / f"{name.replace('/', '__')}.txt").read_text().splitlines()
    return dict(line.split(" ") for line in lines if line.startswith(("backbone.", "proposal_generator.")))


@pytest.mark.parametrize("name", CONFIGS)
def test_state_dict_names_and_shapes_are_detectron2s(name: str, shared_dir: Path) -> None:
    reference = shared_dir / "reference/detectron2"
    cfg = load_config(None, ["MODEL.DEVICE", "cpu", *overrides_of(reference, name)])
    with torch.device("meta"):
        backbone = build_backbone(cfg, 3)
        model = nn.Module()
        model.backbone, model.proposal_generator = backbone, build_proposal_generator(cfg, backbone.output_specs)
    state = {name: "x".join(map(str, value.shape)) for name, value in model.state_dict().items()}
    assert state == names_and_shapes(reference, name)
