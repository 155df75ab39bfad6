"""Parameter and buffer names and shapes of whole models are those of Detectron2's."""

import json
from pathlib import Path

import pytest
import torch

from mrcnn_zoo.config import load_config
from mrcnn_zoo.registries import DETECTORS

CONFIGS = (
    "COCO-Detection/faster_rcnn_R_50_FPN_1x",
    "COCO-Detection/faster_rcnn_R_50_FPN_3x",
    "COCO-Detection/faster_rcnn_R_101_FPN_3x",
    "COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x_giou",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x",
    "COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x",
    "COCO-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_3x",
    "Cityscapes/mask_rcnn_R_50_FPN",
    "Detectron1-Comparisons/mask_rcnn_R_50_FPN_noaug_1x",
    "Misc/mask_rcnn_R_50_FPN_1x_cls_agnostic",
    "Misc/mask_rcnn_R_50_FPN_3x_gn",
    "Misc/scratch_mask_rcnn_R_50_FPN_9x_syncbn",
    "PascalVOC-Detection/faster_rcnn_R_50_FPN",
)


@pytest.mark.parametrize("name", CONFIGS)
def test_names_and_shapes_are_detectron2s(name: str, shared_dir: Path) -> None:
    reference = shared_dir / "reference" / "detectron2"
    effective = json.loads((reference / "config_effective.json").read_text())
    values = effective.get(name) or effective[f"{name}.yaml"]
    model_values = {key: value for key, value in values.items() if key.startswith("MODEL.") and key != "MODEL.WEIGHTS"}
    cfg = load_config(None, [part for item in model_values.items() for part in item])
    with torch.device("meta"):
        model = DETECTORS.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    ours = {key: "x".join(map(str, value.shape)) for key, value in model.state_dict().items()}
    lines = (reference / "state_dict_keys" / f"{name.replace('/', '__')}.txt").read_text().splitlines()
    assert ours == dict(line.split(" ") for line in lines)
